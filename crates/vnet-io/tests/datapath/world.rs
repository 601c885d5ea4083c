//! What the tests stand on: namespaces, and hosts of a vnet in them.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    num::NonZeroUsize,
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use viaduct_types::{IfName, MacAddr, VnetId};
use viaduct_vnet_io::datapath::{
    Association, Datapath, Direction, Event, Handle, Inbox, KeyMaterial, Lane, Options, Path, Tap,
    VnetCounters,
};
use viaduct_vnet_proto::data::{Forwarding, PeerId, Port, Spi, esp::Cipher};

pub(crate) const PORT: u16 = 1_798;
/// What a path of 1500 takes over IPv4.
pub(crate) const LARGEST: u16 = 1_472;
/// The longest that anything is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

type Work = Box<dyn FnOnce() + Send>;

/// A network namespace, and the thread that lives in it.
pub(crate) struct Room {
    thread: Option<thread::JoinHandle<()>>,
    work: Option<mpsc::Sender<Work>>,
    /// The thread's number, by which the namespace is named to others.
    pub(crate) id: i32,
}

impl Room {
    pub(crate) fn new() -> Self {
        let (work, received) = mpsc::channel::<Work>();
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            // SAFETY: only this thread's network namespace changes.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
                .expect("these tests make network namespaces and need root");
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            while let Ok(work) = received.recv() {
                work();
            }
        });
        let id = told.recv().expect("these tests make network namespaces and need root");
        let room = Self { thread: Some(thread), work: Some(work), id };
        room.ip("link set lo up");
        room
    }

    /// Does something in there, and waits for it.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let done = self.start(work);
        done.recv().expect("what was done in a namespace panicked")
    }

    /// Begins something in there; the next waits for it.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> mpsc::Receiver<T> {
        let (tell, told) = mpsc::channel();
        let work: Work = Box::new(move || {
            let _ = tell.send(work());
        });
        self.work.as_ref().unwrap().send(work).unwrap();
        told
    }

    /// A command in there, its words by spaces; it succeeds.
    pub(crate) fn command(&self, words: &str) -> String {
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        self.run(move || {
            let output = Command::new(&words[0]).args(&words[1..]).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{words:?}: {text}{error}");
            text
        })
    }

    pub(crate) fn ip(&self, words: &str) {
        self.command(&format!("ip {words}"));
    }

    /// A link between two namespaces, up at both ends.
    pub(crate) fn link(&self, name: &str, other: &Self, other_name: &str) {
        self.ip(&format!("link add {name} type veth peer name {other_name} netns {}", other.id));
        self.ip(&format!("link set {name} up"));
        other.ip(&format!("link set {other_name} up"));
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(crate) fn vnet() -> VnetId {
    "97".parse().unwrap()
}

pub(crate) fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

/// The keys of a direction: as good as any, and different ones for each SPI.
pub(crate) fn key(cipher: Cipher, spi: u32) -> Vec<u8> {
    (0..KeyMaterial::length(cipher))
        .map(|at| spi.to_le_bytes()[at % 4].wrapping_add(u8::try_from(at).unwrap()))
        .collect()
}

pub(crate) fn association(
    cipher: Cipher,
    spi: u32,
    peer: PeerId,
    direction: Direction,
    worker: usize,
) -> Association {
    Association {
        spi: Spi::new(spi).unwrap(),
        peer,
        vnet: vnet(),
        direction,
        lane: Lane::First,
        worker,
        queue: worker,
        cipher,
        key: KeyMaterial::new(cipher, &key(cipher, spi)).unwrap(),
        rekey_after: u64::MAX,
    }
}

/// To a peer's first socket, for datagrams up to this length.
pub(crate) fn path(remote: SocketAddr, largest_datagram: u16) -> Path {
    Path { remote, own: Vec::new(), local: None, largest_datagram, hoped: largest_datagram, via: None }
}

/// A host of the vnet, with its tap `vn0`.
pub(crate) struct Host {
    pub(crate) handle: Handle,
    pub(crate) inbox: Inbox,
    /// The first socket's address.
    pub(crate) address: SocketAddr,
    /// Those of the workers' own sockets, if they have any.
    pub(crate) own: Vec<SocketAddr>,
    // The last, for what is above goes with it.
    _datapath: Datapath,
}

impl Host {
    /// In a room, at an address that it has, with a socket for each worker or without.
    pub(crate) fn start(room: &Room, address: IpAddr, workers: usize, has_own: bool) -> Self {
        room.run(move || {
            let socket = UdpSocket::bind((address, PORT)).unwrap();
            let first = socket.local_addr().unwrap();
            let sockets: Vec<UdpSocket> = (0..if has_own { workers } else { 0 })
                .map(|index| UdpSocket::bind((address, PORT + 2 + u16::try_from(index).unwrap())).unwrap())
                .collect();
            let own = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
            let workers = NonZeroUsize::new(workers).unwrap();
            let (datapath, inbox) = Datapath::start(Options { workers, socket }).unwrap();
            datapath.handle().set_own_sockets(sockets).unwrap();
            let name: IfName = "vn0".parse().unwrap();
            let tap = Tap::make(&name, workers.get()).unwrap();
            datapath.handle().add_vnet(vnet(), tap).unwrap();
            Self { handle: datapath.handle(), inbox, address: first, own, _datapath: datapath }
        })
    }

    /// From now on a peer is there, and its workers' own sockets are.
    pub(crate) fn reach(&self, peer: PeerId, remote: SocketAddr, own: &[SocketAddr]) {
        let largest = if remote.is_ipv4() { LARGEST } else { LARGEST - 20 };
        self.handle.set_path(peer, Path { own: own.to_vec(), ..path(remote, largest) });
    }

    pub(crate) fn forward(&self, ports: &[(MacAddr, Port)], flood: &[PeerId]) {
        let mut forwarding = Forwarding::new(100);
        for (mac, port) in ports {
            forwarding.macs.claim(*mac, *port).unwrap();
        }
        forwarding.flood = flood.into();
        self.handle.set_forwarding(vnet(), forwarding).unwrap();
    }

    pub(crate) fn counters(&self) -> VnetCounters {
        self.handle.counters().vnets[&vnet()]
    }

    /// The next event that is of interest.
    #[track_caller]
    pub(crate) fn event<T>(&mut self, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.inbox.events.try_recv() {
                Ok(event) => {
                    if let Some(found) = wanted(&event) {
                        return found;
                    }
                }
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
        panic!("the event did not come");
    }
}

/// Waits until it is so.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A host whose peer is the test itself, with sockets at 127.0.0.1, in one room. The tap is the guest: it has 10.9.0.1 and
/// fd09::1, and the MAC address 1; behind the peer are 10.9.0.2 and fd09::2 at the MAC address 2.
pub(crate) struct Alone {
    pub(crate) room: Room,
    pub(crate) host: Host,
    /// Where the peer receives.
    pub(crate) peer: UdpSocket,
}

/// The peer of [`Alone`].
pub(crate) const PEER: PeerId = PeerId(1);
/// What is sent to it has this SPI.
pub(crate) const OUT: u32 = 0x1001;
/// What it sends has this.
pub(crate) const IN: u32 = 0x1002;

impl Alone {
    pub(crate) fn new(cipher: Cipher) -> Self {
        let room = Room::new();
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let host = Host::start(&room, loopback, 1, false);
        let peer = room.run(move || UdpSocket::bind((loopback, 0)).unwrap());
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        host.reach(PEER, peer.local_addr().unwrap(), &[]);
        // Nobody gets broadcasts: what the kernel says by itself would be in the way.
        host.forward(&[(mac(1), Port::Local), (mac(2), Port::Peer(PEER))], &[]);
        host.handle.install(association(cipher, OUT, PEER, Direction::Outbound, 0)).unwrap();
        host.handle.install(association(cipher, IN, PEER, Direction::Inbound, 0)).unwrap();
        host.handle.settle().unwrap();
        room.ip("link set vn0 address 02:00:00:00:00:01 mtu 1432 addrgenmode none up");
        room.ip("addr add 10.9.0.1/24 dev vn0");
        room.ip("addr add fd09::1/64 dev vn0 nodad");
        room.ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev vn0");
        room.ip("neigh add fd09::2 lladdr 02:00:00:00:00:02 dev vn0");
        Self { room, host, peer }
    }

    /// The next datagram that the host sends.
    pub(crate) fn receive(&self) -> Vec<u8> {
        let mut bytes = vec![0; 65_536];
        let (length, _) = self.peer.recv_from(&mut bytes).expect("a datagram of the host");
        bytes.truncate(length);
        bytes
    }

    /// Gives the host a datagram, as from the peer.
    pub(crate) fn give(&self, datagram: &[u8]) {
        self.peer.send_to(datagram, self.host.address).unwrap();
    }
}

/// Runs a Python program with these bytes on its standard input; what it printed.
pub(crate) fn python(program: &str, input: &[u8]) -> Vec<u8> {
    use std::{io::Write, process::Stdio};
    let mut child = Command::new("python3")
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the Python program failed");
    output.stdout
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
