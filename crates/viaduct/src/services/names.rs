//! The sockets by which guests ask for names, and those by which other servers are asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::event::{Timespec, epoll};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::{debug, warn};
use viaduct_services::dns::{Asker, Output, PORT, Server};
use viaduct_types::IfName;

use super::framed::Framed;

/// How long until a socket that could not be opened is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// The host's name servers are not asked for more often than this.
const PAUSE: Duration = Duration::from_secs(2);
/// So many datagrams of one socket before the others have their turn.
const BATCH: usize = 32;
/// So many connections at most, of all guests and of one device's.
const CONNECTIONS: (usize, usize) = (512, 32);
/// For so long a guest may say nothing on a connection (RFC 7766, section 6.2.3).
const IDLE: Duration = Duration::from_secs(10);
/// No question is longer.
const QUESTION: usize = 4096;
/// No message is longer.
const MESSAGE: usize = 65_535;

pub(super) struct Names {
    pub(super) server: Server,
    /// When it was asked for the host's name servers.
    asked: Option<Duration>,
    epoll: OwnedFd,
    open: BTreeMap<u64, Door>,
    /// Which of them are guests' connections.
    connections: BTreeSet<u64>,
    next: u64,
    /// Where guests of a device ask.
    wanted: BTreeMap<IfName, Wanted>,
    /// The socket of each exchange.
    exchanges: BTreeMap<u64, u64>,
    /// When what is not open is tried again.
    again: Option<Duration>,
}

#[derive(Default)]
struct Wanted {
    addresses: Vec<IpAddr>,
    /// Whether the device is there.
    is_there: bool,
    open: BTreeMap<(IpAddr, Kind), u64>,
    /// What was said to be impossible already.
    impossible: BTreeSet<(IpAddr, Kind)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Datagrams,
    Connections,
}

enum Door {
    Datagrams { device: IfName, socket: UdpSocket },
    Listener { device: IfName, listener: TcpListener },
    Connection { asker: Asker, framed: Framed, until: Duration },
    Exchange { exchange: u64, id: [u8; 2], socket: UdpSocket },
    ExchangeStream { exchange: u64, id: [u8; 2], framed: Framed },
}

impl Door {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Datagrams { socket, .. } | Self::Exchange { socket, .. } => socket.as_fd(),
            Self::Listener { listener, .. } => listener.as_fd(),
            Self::Connection { framed, .. } | Self::ExchangeStream { framed, .. } => framed.stream.as_fd(),
        }
    }
}

impl AsFd for Names {
    /// Something waits there.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Names {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            server: Server::default(),
            asked: None,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            open: BTreeMap::new(),
            connections: BTreeSet::new(),
            next: 0,
            wanted: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            again: None,
        })
    }

    /// Where the guests of a device ask from now on.
    pub(super) fn serve(&mut self, now: Duration, device: &IfName, addresses: Vec<IpAddr>) {
        let wanted = self.wanted.entry(device.clone()).or_default();
        if wanted.addresses == addresses {
            return;
        }
        let gone: Vec<u64> = wanted
            .open
            .extract_if(.., |(address, _), _| !addresses.contains(address))
            .map(|(_, door)| door)
            .collect();
        wanted.impossible.clear();
        if addresses.is_empty() && !wanted.is_there {
            self.wanted.remove(device);
        } else {
            wanted.addresses = addresses;
        }
        for door in gone {
            self.open.remove(&door);
        }
        self.open_missing(now, device);
    }

    /// A device is there.
    pub(super) fn opened(&mut self, now: Duration, device: &IfName) {
        self.wanted.entry(device.clone()).or_default().is_there = true;
        self.open_missing(now, device);
    }

    /// A device is gone, or another one now: what was open on it leads nowhere.
    pub(super) fn closed(&mut self, device: &IfName) {
        let Some(wanted) = self.wanted.get_mut(device) else { return };
        wanted.is_there = false;
        for (_, door) in std::mem::take(&mut wanted.open) {
            self.open.remove(&door);
        }
        if wanted.addresses.is_empty() {
            self.wanted.remove(device);
        }
    }

    /// Whether the host's name servers are to be asked for, as they may be others than they were.
    pub(super) fn is_time_to_ask_for_servers(&mut self, now: Duration) -> bool {
        let is_time = self.asked.is_none_or(|asked| asked + PAUSE <= now);
        if is_time {
            self.asked = Some(now);
        }
        is_time
    }

    /// When something is to be done without anything waiting.
    pub(super) fn due(&self) -> Option<Duration> {
        let idle = self.connections.iter().filter_map(|number| {
            if let Some(Door::Connection { until, .. }) = self.open.get(number) { Some(*until) } else { None }
        });
        idle.chain(self.again).chain(self.server.due()).min()
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Duration) {
        if self.again.is_some_and(|again| again <= now) {
            self.again = None;
            let all: Vec<IfName> = self.wanted.keys().cloned().collect();
            all.iter().for_each(|device| self.open_missing(now, device));
        }
        let over = |number: &&u64| matches!(self.open.get(number), Some(Door::Connection { until, .. }) if *until <= now);
        let over: Vec<u64> = self.connections.iter().filter(over).copied().collect();
        over.into_iter().for_each(|number| self.close(number));
        self.server.tick(now);
        self.act(now);
    }

    /// Reads whatever waits, and answers.
    pub(super) fn read(&mut self, now: Duration) -> io::Result<()> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(64);
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&at_once)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        for event in events {
            self.look(now, event.data.u64());
            self.act(now);
        }
        Ok(())
    }

    /// What waits at one socket.
    fn look(&mut self, now: Duration, number: u64) {
        let Some(door) = self.open.get_mut(&number) else { return };
        match door {
            Door::Datagrams { device, socket } => {
                let mut buffer = [0; QUESTION];
                for _ in 0..BATCH {
                    // An error is one of an earlier answer, of which nothing is lost but that.
                    let Ok((length, peer)) = socket.recv_from(&mut buffer) else { break };
                    let asker = Asker { device: device.clone(), peer, socket: number, stream: false };
                    self.server.receive(now, asker, &buffer[..length]);
                }
            }
            Door::Listener { device, listener } => {
                let Ok((stream, peer)) = listener.accept() else { return };
                let asker = Asker { device: device.clone(), peer, socket: self.next, stream: true };
                if !self.is_full(&asker.device) && stream.set_nonblocking(true).is_ok() {
                    let framed = Framed::new(stream, QUESTION);
                    let added = self.add(Door::Connection { asker, framed, until: now + IDLE });
                    self.connections.extend(added.ok());
                }
            }
            Door::Connection { asker, framed, until } => {
                *until = now + IDLE;
                let filled = framed.flush().and_then(|()| framed.fill());
                let asker = asker.clone();
                let messages: io::Result<Vec<Vec<u8>>> =
                    std::iter::from_fn(|| framed.next().transpose()).collect();
                let ended = filled.is_err() || messages.is_err();
                for message in messages.unwrap_or_default() {
                    self.server.receive(now, asker.clone(), &message);
                }
                self.act(now);
                if ended {
                    self.close(number);
                } else {
                    self.watch(number);
                }
            }
            Door::Exchange { exchange, id, socket } => {
                let mut buffer = [0; QUESTION];
                let (exchange, id) = (*exchange, *id);
                match socket.recv(&mut buffer) {
                    // Another id: a guess of somebody else's.
                    Ok(length) if length > 2 && buffer[..2] == id => {
                        self.server.heard(now, exchange, &buffer[..length]);
                    }
                    Ok(_) => {}
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                    Err(_) => self.server.failed(now, exchange),
                }
            }
            Door::ExchangeStream { exchange, id, framed } => {
                let (exchange, id) = (*exchange, *id);
                let message = framed.flush().and_then(|()| framed.fill()).and_then(|()| framed.next());
                match message {
                    Ok(Some(message)) if message.get(..2) == Some(&id) => {
                        self.server.heard(now, exchange, &message);
                    }
                    Ok(None) => self.watch(number),
                    Ok(Some(_)) | Err(_) => self.server.failed(now, exchange),
                }
            }
        }
    }

    /// Does what the server wants done.
    fn act(&mut self, now: Duration) {
        while let Some(output) = self.server.output() {
            match output {
                Output::Answer { asker, bytes } => self.answer(&asker, &bytes),
                Output::Ask { exchange, server, stream, bytes } => {
                    self.over(exchange);
                    if let Err(error) = self.ask(exchange, server, stream, bytes) {
                        debug!("the name server {server} cannot be asked: {error}");
                        self.server.failed(now, exchange);
                    }
                }
                Output::Over { exchange } => self.over(exchange),
            }
        }
    }

    fn answer(&mut self, asker: &Asker, bytes: &[u8]) {
        let sent = match self.open.get_mut(&asker.socket) {
            Some(Door::Datagrams { socket, .. }) => socket.send_to(bytes, asker.peer).map(drop),
            Some(Door::Connection { framed, .. }) => framed.send(bytes),
            Some(Door::Listener { .. } | Door::Exchange { .. } | Door::ExchangeStream { .. }) | None => {
                return;
            }
        };
        match sent {
            Ok(()) => self.watch(asker.socket),
            Err(error) => {
                debug!("{}: an answer was not sent: {error}", asker.device);
                if asker.stream {
                    self.close(asker.socket);
                }
            }
        }
    }

    fn ask(&mut self, exchange: u64, server: SocketAddr, stream: bool, mut bytes: Vec<u8>) -> io::Result<()> {
        let mut id = [0; 2];
        rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
        if let Some(place) = bytes.get_mut(..2) {
            place.copy_from_slice(&id);
        }
        let door = if stream {
            let socket =
                Socket::new(Domain::for_address(server), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
            match socket.connect(&server.into()) {
                Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                    return Err(error);
                }
                Ok(()) | Err(_) => {}
            }
            let mut framed = Framed::new(socket.into(), MESSAGE);
            framed.send(&bytes)?;
            Door::ExchangeStream { exchange, id, framed }
        } else {
            // The port is the kernel's choice, as random as the id (RFC 5452).
            let any: IpAddr =
                if server.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_nonblocking(true)?;
            socket.connect(server)?;
            socket.send(&bytes)?;
            Door::Exchange { exchange, id, socket }
        };
        let number = self.add(door)?;
        self.exchanges.insert(exchange, number);
        Ok(())
    }

    fn over(&mut self, exchange: u64) {
        if let Some(number) = self.exchanges.remove(&exchange) {
            self.open.remove(&number);
        }
    }

    /// Waits for what comes in by a socket, and for room in one with something to send.
    fn add(&mut self, door: Door) -> io::Result<u64> {
        let number = self.next;
        self.next += 1;
        epoll::add(&self.epoll, door.fd(), epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
        self.open.insert(number, door);
        self.watch(number);
        Ok(number)
    }

    fn watch(&self, number: u64) {
        if let Some(door @ (Door::Connection { framed, .. } | Door::ExchangeStream { framed, .. })) =
            self.open.get(&number)
        {
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, framed.has_unsent());
            let _ = epoll::modify(&self.epoll, door.fd(), epoll::EventData::new_u64(number), flags);
        }
    }

    fn close(&mut self, number: u64) {
        self.open.remove(&number);
        self.connections.remove(&number);
    }

    fn is_full(&self, device: &IfName) -> bool {
        let of_device = |number: &&u64| matches!(self.open.get(number), Some(Door::Connection { asker, .. }) if asker.device == *device);
        let (all, one) = CONNECTIONS;
        self.connections.len() >= all || self.connections.iter().filter(of_device).count() >= one
    }

    fn open_missing(&mut self, now: Duration, device: &IfName) {
        let Some(wanted) = self.wanted.get(device).filter(|wanted| wanted.is_there) else { return };
        let all = wanted.addresses.iter().flat_map(|a| [(*a, Kind::Datagrams), (*a, Kind::Connections)]);
        let missing: Vec<_> = all.filter(|place| !wanted.open.contains_key(place)).collect();
        for (address, kind) in missing {
            match door(device, address, kind).and_then(|door| self.add(door)) {
                Ok(number) => {
                    if let Some(wanted) = self.wanted.get_mut(device) {
                        wanted.open.insert((address, kind), number);
                    }
                }
                Err(error) => {
                    self.again = Some(now + AGAIN);
                    let Some(wanted) = self.wanted.get_mut(device) else { continue };
                    if wanted.impossible.insert((address, kind)) {
                        warn!("{}", said(device, address, kind, &error));
                    }
                }
            }
        }
    }
}

fn said(device: &IfName, address: IpAddr, kind: Kind, error: &io::Error) -> String {
    let by = match kind {
        Kind::Datagrams => "UDP",
        Kind::Connections => "TCP",
    };
    let what = format!("guests' names are not answered on {device} at {address} by {by}: {error}");
    if error.kind() == ErrorKind::AddrInUse {
        format!(
            "{what}. Another name server of this host has port {PORT} on all addresses: let it listen on its own ones \
             only (`ss -lnp sport = {PORT}` shows which it is)"
        )
    } else {
        what
    }
}

/// A socket that hears one device alone: so it is known who asks, and nobody outside can.
fn door(device: &IfName, address: IpAddr, kind: Kind) -> io::Result<Door> {
    let (of, protocol) = match kind {
        Kind::Datagrams => (Type::DGRAM, Protocol::UDP),
        Kind::Connections => (Type::STREAM, Protocol::TCP),
    };
    let domain = if address.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, of.nonblocking(), Some(protocol))?;
    socket.bind_device(Some(device.as_str().as_bytes()))?;
    let place = match address {
        IpAddr::V4(address) => {
            // The address may be on its way.
            socket.set_freebind_v4(true)?;
            SocketAddr::from((address, PORT))
        }
        IpAddr::V6(address) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
            let index = rustix::net::netdevice::name_to_index(&socket, device.as_str())?;
            SocketAddrV6::new(address, PORT, 0, index).into()
        }
    };
    if kind == Kind::Connections {
        // Those of a process before this one may still be about to end.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&place.into())?;
    let device = device.clone();
    Ok(match kind {
        Kind::Datagrams => Door::Datagrams { device, socket: socket.into() },
        Kind::Connections => {
            socket.listen(64)?;
            Door::Listener { device, listener: socket.into() }
        }
    })
}
