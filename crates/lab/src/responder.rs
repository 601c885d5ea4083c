//! Answers on a machine's ports with the machine's name and the client's address, so that a check sees who answered
//! and which source address got through.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    thread,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use viaduct_types::Proto;

use crate::{
    datagram,
    file::{Machine, Name},
    world::inside,
};

/// Starts answering; ends with the process.
pub(crate) fn start(name: &Name, machine: &Machine, net: BorrowedFd<'_>) -> io::Result<()> {
    if machine.listen.is_empty() {
        return Ok(());
    }
    let listeners = inside(net, || {
        machine
            .listen
            .iter()
            .map(|&(port, proto)| {
                Listener::open(port, proto).map_err(|e| {
                    io::Error::new(e.kind(), format!("{name} cannot listen on {port}/{proto}: {e}"))
                })
            })
            .collect::<io::Result<Vec<_>>>()
    })?;
    let name = name.to_string();
    thread::Builder::new().name(format!("answers {name}")).spawn(move || answer(&name, &listeners))?;
    Ok(())
}

/// What a responder says.
pub(crate) fn answer_text(name: &str, client: SocketAddr) -> String {
    format!("{name} {}\n", canonical(client).ip())
}

/// The name and the client's address in a responder's answer.
pub(crate) fn read_answer(text: &[u8]) -> Option<(String, IpAddr)> {
    let (name, address) = std::str::from_utf8(text).ok()?.trim_end().split_once(' ')?;
    Some((name.to_owned(), address.parse().ok()?))
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Listener {
    /// One socket for both families.
    fn open(port: u16, proto: Proto) -> io::Result<Self> {
        let any = SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0));
        let (kind, protocol) = match proto {
            Proto::Tcp => (Type::STREAM, Protocol::TCP),
            Proto::Udp => (Type::DGRAM, Protocol::UDP),
            Proto::Sctp => return Err(io::ErrorKind::Unsupported.into()),
        };
        let socket = Socket::new(Domain::IPV6, kind, Some(protocol))?;
        socket.set_only_v6(false)?;
        socket.set_reuse_address(proto == Proto::Tcp)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::from(any))?;
        if proto == Proto::Udp {
            datagram::keep_destinations(socket.as_raw_fd())?;
            return Ok(Self::Udp(socket.into()));
        }
        socket.listen(64)?;
        Ok(Self::Tcp(socket.into()))
    }

    fn serve(&self, name: &str) {
        // Whatever goes wrong with one client is that client's to notice.
        let _ = match self {
            Self::Tcp(listener) => listener.accept().and_then(|(mut stream, client)| {
                stream.set_write_timeout(Some(Duration::from_secs(1)))?;
                stream.write_all(answer_text(name, client).as_bytes())
            }),
            Self::Udp(socket) => datagram::receive(socket.as_raw_fd(), &mut [0; 2048]).and_then(|received| {
                datagram::reply(socket.as_raw_fd(), &received, answer_text(name, received.from).as_bytes())
            }),
        };
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

fn answer(name: &str, listeners: &[Listener]) {
    let mut ready: Vec<PollFd<'_>> = listeners.iter().map(|l| PollFd::new(l, PollFlags::IN)).collect();
    while poll(&mut ready, None).is_ok() {
        for (listener, _) in listeners.iter().zip(&ready).filter(|(_, ready)| !ready.revents().is_empty()) {
            listener.serve(name);
        }
    }
}

/// IPv4 addresses as such, which a socket for both families sees mapped into IPv6.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
