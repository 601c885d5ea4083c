//! What real engines send is opened with keys that are derived here by hand: the exporter of their connection over vnet,
//! direction, epoch, and worker, as bytes that stand in this file, and ESP as others read it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    net::UdpSocket,
    num::NonZeroUsize,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth, recv, socket_with};
use tokio::{
    sync::{Notify, mpsc},
    time,
};
use viaduct_types::{HostKey, VnetId};
use viaduct_vnet_proto::{control::Security, data::esp::Cipher};

use super::{alone, wireshark::wireshark};
use crate::{
    control::{
        Identity, NicOrders, Options, Orders, PeerOrders, VnetOrders,
        engine::{Engine, Input},
        names::Names,
        reach::Ways,
        socket, start,
    },
    datapath::{self, Datapath, Event, Inbox},
};

const PATIENCE: Duration = Duration::from_secs(60);
const WORKERS: u8 = 2;
/// Of the first host, which dials, and of the second.
pub(super) const PORTS: [u16; 2] = [1_798, 2_798];
/// Those that may be seen: a few times keys are given anew.
const EPOCHS: std::ops::RangeInclusive<u8> = 1..=6;
/// Where a host's first port is among its [`ports`].
const FIRST: usize = WORKERS as usize;

/// As others read datagrams.
const ESP: &str = include_str!("../../../tests/datapath/esp.py");

/// A vnet: its id, the same as bytes, and how frames are sealed there.
struct Carried {
    name: &'static str,
    id: &'static str,
    bytes: [u8; 16],
    cipher: Cipher,
    algorithm: &'static Algorithm,
}

static VNETS: [Carried; 5] = [
    Carried {
        name: "red",
        id: "4:8:15:16:23:42:108:1",
        bytes: [0, 0x04, 0, 0x08, 0, 0x15, 0, 0x16, 0, 0x23, 0, 0x42, 0x01, 0x08, 0, 0x01],
        cipher: Cipher::Aes128Gcm,
        algorithm: &AES_128_GCM,
    },
    Carried {
        name: "blue",
        id: "b10e",
        bytes: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xb1, 0x0e],
        cipher: Cipher::ChaCha20Poly1305,
        algorithm: &CHACHA20_POLY1305,
    },
    Carried {
        name: "green",
        id: "62ee:0:0:0:0:0:0:1",
        bytes: [0x62, 0xee, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        cipher: Cipher::Aes256Gcm,
        algorithm: &AES_256_GCM,
    },
    Carried {
        name: "white",
        id: "7",
        bytes: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
        cipher: Cipher::Aes128Gmac,
        algorithm: &AES_128_GCM,
    },
    Carried {
        name: "grey",
        id: "8",
        bytes: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8],
        cipher: Cipher::Aes256Gmac,
        algorithm: &AES_256_GCM,
    },
];

/// A host's: each worker's own one, which are the second and third that follow the first, and the first.
fn ports(host: usize) -> impl Iterator<Item = u16> {
    [PORTS[host] + 2, PORTS[host] + 3, PORTS[host]].into_iter()
}

/// Of each vnet at each host.
fn everywhere() -> impl Iterator<Item = (usize, usize)> {
    (0..VNETS.len()).flat_map(|vnet| (0..2).map(move |host| (vnet, host)))
}

pub(super) fn run(words: &str) {
    let words: Vec<&str> = words.split(' ').collect();
    assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success(), "{words:?}");
}

/// What a guest of one host sends to one of the other: the kernel at the host's tap is the guest, and knows the other's MAC.
pub(super) fn device(vnet: usize, host: usize) {
    let (name, mac) = (format!("{}{host}", VNETS[vnet].name), |host| format!("02:00:00:00:0{vnet}:0{host}"));
    let other = 1 - host;
    let network = format!("10.{}", 10 * vnet + host);
    run(&format!("ip tuntap add dev {name} mode tap multi_queue vnet_hdr"));
    run(&format!("ip link set {name} address {} addrgenmode none", mac(host)));
    run(&format!("ip link set {name} mtu 1400 up"));
    run(&format!("ip address add {network}.0.{}/24 dev {name}", host + 1));
    run(&format!("ip neigh add {network}.0.{} lladdr {} dev {name} nud permanent", other + 1, mac(other)));
}

pub(super) struct Host {
    pub(super) engine: Engine,
    pub(super) queue: mpsc::Receiver<Input>,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) ended: Arc<Notify>,
    pub(super) _run_dir: RunDir,
    pub(super) _line: std::os::unix::net::UnixStream,
}

pub(super) struct RunDir(PathBuf);

impl Drop for RunDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Host {
    /// Where the files of one are.
    pub(super) fn directory(number: usize) -> PathBuf {
        std::env::temp_dir().join(format!("viaduct-keys-{}-{number}", std::process::id()))
    }

    /// As an engine begins ([`start::run`]).
    pub(super) fn start(number: usize) -> Self {
        let run_dir = Self::directory(number);
        std::fs::create_dir_all(&run_dir).unwrap();
        let workers = NonZeroUsize::new(WORKERS.into()).unwrap();
        let options = Options {
            state_dir: run_dir.clone(),
            run_dir: run_dir.clone(),
            port: PORTS[number],
            workers,
            rekey: Duration::from_secs(3_600),
        };
        let identity = Arc::new(Identity::open(&options.state_dir).unwrap());
        let socket = socket::open(options.port).unwrap();
        let (datapath, Inbox { events, datagrams, socket, ended }) =
            Datapath::start(datapath::Options { workers, socket }).unwrap();
        let ways = Ways::default();
        let beside = socket.try_clone().unwrap();
        let (inputs, queue) = mpsc::channel(start::INPUTS);
        let (endpoint, gate) =
            start::endpoint(&identity, (socket, ways.clone()), datagrams, inputs.clone()).unwrap();
        let (line, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let names = Names::new(line, inputs.clone()).unwrap();
        let engine = Engine::new(&options, identity, datapath, (endpoint, gate, ways, beside), names, inputs);
        Self { engine, queue, events, ended, _run_dir: RunDir(run_dir), _line: other }
    }

    /// What it is to be. Only the first host knows where the other is.
    pub(super) fn orders(&self, number: usize, other: &Self, single_port: bool) -> Orders {
        Self::orders_beside(number, other.engine.identity.public(), single_port)
    }

    /// The same, by the other's key.
    pub(super) fn orders_beside(number: usize, key: HostKey, single_port: bool) -> Orders {
        let peer = PeerOrders {
            key,
            endpoints: if number == 0 { vec![format!("127.0.0.1:{}", PORTS[1])] } else { Vec::new() },
            spare: false,
        };
        let vnet = |(index, carried): (usize, &Carried)| {
            let nic = NicOrders { addresses: Vec::new(), prepared: false, device: None };
            let orders = VnetOrders {
                name: carried.name.parse().unwrap(),
                tap: format!("{}{number}", carried.name).parse().unwrap(),
                security: if carried.cipher.encrypts() { Security::Conf } else { Security::Auth },
                cipher: Some(carried.cipher),
                plain: None,
                learning: false,
                port: None,
                opens: None,
                mtu: None,
                peers: BTreeSet::from(["other".parse().unwrap()]),
                nics: BTreeMap::from([(format!("02:00:00:00:0{index}:0{number}").parse().unwrap(), nic)]),
            };
            (carried.id.parse::<VnetId>().unwrap(), orders)
        };
        Orders {
            peers: BTreeMap::from([("other".parse().unwrap(), peer)]),
            vnets: VNETS.iter().enumerate().map(vnet).collect(),
            single_port,
            ..Orders::default()
        }
    }

    /// Does what there is to do, as [`Engine::run`] does.
    pub(super) fn turn(&mut self) {
        while let Some(input) = self.queue.try_recv().ok().or_else(|| self.engine.unfinished.pop_front()) {
            assert!(!self.engine.hear(input));
        }
        while let Ok(event) = self.events.try_recv() {
            self.engine.happened(event);
        }
        let now = self.engine.now();
        self.engine.node.handle_timeout(now);
        self.engine.tick();
        self.engine.flush();
    }

    pub(super) fn connection(&self) -> Option<&quinn::Connection> {
        self.engine.links.values().next().map(|link| &link.connection)
    }
}

/// What a key is for, by the design: which vnet, whether the sender dialled, which epoch, which of the sender's workers, and
/// whether by workers' own ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct For {
    vnet: usize,
    sender_dialled: bool,
    epoch: u8,
    worker: u8,
    own: bool,
}

impl For {
    fn context(self) -> Vec<u8> {
        let direction = u8::from(self.sender_dialled);
        let worker = self.worker + if self.own { 128 } else { 0 };
        [&VNETS[self.vnet].bytes[..], &[direction], &[0, 0, 0, self.epoch], &[worker]].concat()
    }

    /// Key and salt, as both ends' connections have them.
    fn material(self, hosts: &[Host; 2]) -> Vec<u8> {
        let [one, other] = [0, 1].map(|host: usize| {
            let mut bytes = vec![0; VNETS[self.vnet].algorithm.key_len() + 4];
            let connection = hosts[host].connection().unwrap();
            let label = b"EXPORTER-viaduct-data";
            connection.export_keying_material(&mut bytes, label, &self.context()).unwrap();
            bytes
        });
        assert_eq!(one, other);
        one
    }

    /// Whether it is what this datagram was sealed with (RFC 4303, 4106, 4543, 8750, with 64-bit numbers).
    fn opens(self, material: &[u8], datagram: &[u8]) -> bool {
        let (key, salt) = material.split_at(material.len() - 4);
        let key = LessSafeKey::new(UnboundKey::new(VNETS[self.vnet].algorithm, key).unwrap());
        let number = [&[0; 4], &datagram[4..8]].concat();
        let nonce = Nonce::try_assume_unique_for_key(&[salt, &number].concat()).unwrap();
        let additional = [&datagram[..4], &number].concat();
        if VNETS[self.vnet].cipher.encrypts() {
            return key.open_in_place(nonce, Aad::from(additional), &mut datagram[8..].to_vec()).is_ok();
        }
        let (plain, check) = datagram[8..].split_at(datagram.len() - 8 - 16);
        let additional = Aad::from([&additional, plain].concat());
        plain.starts_with(&number) && key.open_in_place(nonce, additional, &mut check.to_vec()).is_ok()
    }
}

/// A datagram on the wire: from port to port, and what UDP carried.
struct Seen {
    from: u16,
    to: u16,
    bytes: Vec<u8>,
}

/// What is on the wire between the hosts.
struct Wire(rustix::fd::OwnedFd);

impl Wire {
    fn new() -> Self {
        // What the kernel would cut later is seen as it is afterwards.
        run("ethtool -K lo tx-udp-segmentation off gso off gro off");
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, Some(eth::IP)).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20).unwrap();
        Self(socket)
    }

    /// The datagrams of ESP.
    fn seen(&self) -> Vec<Seen> {
        let (mut seen, mut packet) = (Vec::new(), [0; 65_536]);
        while let Ok((length, _)) = recv(&self.0, &mut packet[..], RecvFlags::empty()) {
            let packet = &packet[..length];
            let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
            if packet[0] != 0x45 || packet[9] != 17 || packet[28] & 0x40 != 0 {
                continue;
            }
            let end = 20 + usize::from(port(24));
            seen.push(Seen { from: port(20), to: port(22), bytes: packet[28..end].to_vec() });
        }
        seen
    }
}

/// One of the datagrams of a guest's that were seen.
struct Sample {
    key: For,
    material: Vec<u8>,
    datagram: Vec<u8>,
    said: String,
}

impl Sample {
    fn cipher(&self) -> Cipher {
        VNETS[self.key.vnet].cipher
    }

    /// For the reference.
    fn line(&self, verb: &str, datagram: &[u8]) -> String {
        format!("{verb} {} {} 0 {}", self.cipher(), hex(&self.material), hex(datagram))
    }
}

/// What the reference says to each of these lines.
fn read(lines: &[String]) -> Vec<String> {
    let mut child = Command::new("python3")
        .args(["-c", ESP])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What guests say, and by which keys it is heard on the wire.
struct Ear {
    wire: Wire,
    /// What each says, from where to where.
    guests: Vec<(String, String, String)>,
    /// By SPI.
    known: BTreeMap<[u8; 4], For>,
    /// By SPI, too, one for others to read, with what has to be in the frame.
    samples: BTreeMap<[u8; 4], Sample>,
}

impl Ear {
    fn new() -> Self {
        let guest = |vnet: usize, host: usize| {
            let network = format!("10.{}", 10 * vnet + host);
            let said = format!("said in {} by {host}", VNETS[vnet].name);
            (said, format!("{network}.0.{}:0", host + 1), format!("{network}.0.{}:5000", 2 - host))
        };
        let guests = everywhere().map(|(vnet, host)| guest(vnet, host)).collect();
        Self { wire: Wire::new(), guests, known: BTreeMap::new(), samples: BTreeMap::new() }
    }

    /// Everybody says something; every datagram that the hosts have sent is opened by one key.
    fn listen(&mut self, hosts: &[Host; 2]) {
        for (said, from, to) in &self.guests {
            // Flows go to workers by what they are: of other ones each time, every worker has some.
            for _ in 0..8 {
                UdpSocket::bind(from).unwrap().send_to(said.as_bytes(), to).unwrap();
            }
        }
        for Seen { from, to, bytes } in self.wire.seen() {
            let sender = usize::from(!ports(0).any(|port| port == from));
            let worker = ports(sender).position(|port| port == from).expect("a port of a host's");
            assert!(ports(1 - sender).any(|port| port == to), "from {from} to {to}");
            // By the first port, all workers' come; by own ones, each its own.
            let own = worker != FIRST;
            assert_eq!(own, to != PORTS[1 - sender], "from {from} to {to}");
            let workers = if own { worker..worker + 1 } else { 0..usize::from(WORKERS) };
            let all = (0..VNETS.len()).flat_map(|vnet| EPOCHS.map(move |epoch| (vnet, epoch)));
            let all = all.flat_map(|(vnet, epoch)| workers.clone().map(move |worker| (vnet, epoch, worker)));
            let key = |(vnet, epoch, worker)| {
                let worker = u8::try_from(worker).unwrap();
                For { vnet, sender_dialled: sender == 0, epoch, worker, own }
            };
            let spi = *bytes.first_chunk().unwrap();
            let opening: Vec<For> = all
                .map(key)
                .filter(|key| self.known.get(&spi).is_none_or(|known| known == key))
                .filter(|key| key.opens(&key.material(hosts), &bytes))
                .collect();
            let [key] = opening[..] else { panic!("{opening:?} open {} from {from} to {to}", hex(&bytes)) };
            if self.known.insert(spi, key).is_none() {
                let spis = self.known.values().filter(|known| **known == key).count();
                assert_eq!(spis, 1, "{key:?} has several SPIs");
            }
            // What a guest said is known by its length: nothing else is as long.
            let said = format!("said in {} by {sender}", VNETS[key.vnet].name);
            let frame = 14 + 28 + said.len();
            let iv = if VNETS[key.vnet].cipher.encrypts() { 0 } else { 8 };
            if bytes.len() == 8 + iv + (frame + 2).next_multiple_of(4) + 16 {
                let sample = Sample { key, material: key.material(hosts), datagram: bytes, said };
                self.samples.insert(spi, sample);
            }
        }
    }

    /// Until each worker of each host has sent with keys of so many epochs in each vnet.
    async fn until(&mut self, hosts: &mut [Host; 2], own: bool, epochs: usize) {
        let deadline = Instant::now() + PATIENCE;
        let of_vnet = |vnet: usize| (0..4_u8).map(move |n| (vnet, n & 1 == 0, n >> 1));
        let combinations: Vec<(usize, bool, u8)> = (0..VNETS.len()).flat_map(of_vnet).collect();
        let of = |known: &BTreeMap<_, For>, combination| {
            let is_one =
                |key: &&For| key.own == own && (key.vnet, key.sender_dialled, key.worker) == combination;
            known.values().filter(is_one).count()
        };
        while combinations.iter().any(|one| of(&self.known, *one) < epochs) {
            assert!(Instant::now() < deadline, "own ports: {own}, {epochs} epochs: {:?}", self.known);
            for host in &mut *hosts {
                host.turn();
            }
            if hosts.iter().all(|host| host.connection().is_some()) {
                self.listen(hosts);
            }
            time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[test]
fn what_engines_send_is_sealed_with_keys_for_vnet_direction_epoch_and_worker() {
    alone(async || {
        everywhere().for_each(|(vnet, host)| device(vnet, host));
        let mut hosts = [Host::start(0), Host::start(1)];
        let mut ear = Ear::new();
        for single_port in [true, false] {
            for number in 0..2 {
                let orders = hosts[number].orders(number, &hosts[1 - number], single_port);
                assert_eq!(hosts[number].engine.be(orders), Vec::<String>::new());
            }
            ear.until(&mut hosts, !single_port, 1).await;
            // Whoever sends asks for others.
            for number in 0..2 {
                let other = hosts[1 - number].engine.identity.public();
                for carried in &VNETS {
                    hosts[number].engine.node.handle_worn_keys(other, carried.id.parse().unwrap());
                }
            }
            ear.until(&mut hosts, !single_port, 2).await;
        }
        let samples: Vec<Sample> = ear.samples.into_values().collect();
        // Both lanes, two epochs, two workers, for both directions.
        assert!(samples.len() >= 16 * VNETS.len(), "{}", samples.len());
        others_read(&samples);
        others_see_what_was_changed(&samples);
        wireshark_reads(&samples);
    });
}

fn others_read(samples: &[Sample]) {
    let frames =
        read(&samples.iter().map(|sample| sample.line("open", &sample.datagram)).collect::<Vec<_>>());
    assert_eq!(frames.len(), samples.len());
    for (frame, sample) in frames.iter().zip(samples) {
        assert!(frame.ends_with(&hex(sample.said.as_bytes())), "{:?}: {frame}", sample.key);
        let is_readable =
            sample.datagram.windows(sample.said.len()).any(|part| part == sample.said.as_bytes());
        assert_eq!(is_readable, !sample.cipher().encrypts(), "{:?}", sample.key);
    }
}

/// Every bit of one datagram of each cipher in each direction.
fn others_see_what_was_changed(samples: &[Sample]) {
    let mut lines = Vec::new();
    for (vnet, host) in everywhere() {
        let is_one = |sample: &&Sample| sample.key.vnet == vnet && sample.key.sender_dialled == (host == 0);
        let sample = samples.iter().find(is_one).unwrap();
        lines.extend((0..8 * sample.datagram.len()).map(|bit| {
            let mut datagram = sample.datagram.clone();
            datagram[bit / 8] ^= 1 << (bit % 8);
            sample.line("try", &datagram)
        }));
    }
    let said = read(&lines);
    assert_eq!(said.len(), lines.len());
    let taken = said.iter().zip(&lines).find(|(said, _)| *said != "forged");
    assert_eq!(taken, None);
}

/// It knows AES-GCM, and is shown which keys there are.
fn wireshark_reads(samples: &[Sample]) {
    for cipher in [Cipher::Aes128Gcm, Cipher::Aes256Gcm] {
        let samples: Vec<&Sample> = samples.iter().filter(|sample| sample.cipher() == cipher).collect();
        let datagrams: Vec<Vec<u8>> = samples.iter().map(|sample| sample.datagram.clone()).collect();
        let spi = |sample: &Sample| u32::from_be_bytes(*sample.datagram.first_chunk().unwrap());
        let keys: Vec<(u32, Vec<u8>)> =
            samples.iter().map(|sample| (spi(sample), sample.material.clone())).collect();
        let lines =
            wireshark(&datagrams, &keys, &["esp.spi", "eth.src", "ip.dst", "udp.dstport", "data.data"]);
        assert_eq!(lines.len(), samples.len(), "{cipher}");
        for (line, sample) in lines.iter().zip(samples) {
            let For { vnet, sender_dialled, .. } = sample.key;
            let host = usize::from(!sender_dialled);
            // The outer packet's, and the inner one's.
            let expected = [
                format!("0x{:08x}", spi(sample)),
                format!("00:00:00:00:00:00,02:00:00:00:0{vnet}:0{host}"),
                format!("127.0.0.1,10.{}.0.{}", 10 * vnet + host, 2 - host),
                "4500,5000".to_owned(),
                hex(sample.said.as_bytes()),
            ];
            assert_eq!(*line, expected, "{:?}", sample.key);
        }
    }
}
