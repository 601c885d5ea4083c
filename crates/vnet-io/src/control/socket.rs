//! QUIC on the socket that it shares with the workers: they receive and sort, it sends by itself.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use tokio::sync::mpsc;

use super::reach::{Ways, relay_of};
use crate::datapath::Datagram;

/// What quinn takes for a socket.
pub(super) struct Shared {
    socket: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    /// Where what goes by way of others goes.
    ways: Ways,
    received: Mutex<mpsc::Receiver<Datagram>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("local", &self.local).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(socket: UdpSocket, ways: Ways, received: mpsc::Receiver<Datagram>) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state, local, ways, received: Mutex::new(received) })
    }

    /// An address as the socket takes it.
    fn of_socket(&self, address: SocketAddr) -> SocketAddr {
        if self.local.is_ipv6() { mapped(address) } else { unmapped(address) }
    }
}

impl AsyncUdpSocket for Shared {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Always)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut transmit = Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn,
            contents: transmit.contents,
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip.filter(|ip| ip.is_ipv6() == self.local.is_ipv6()),
        };
        let mut whole = Vec::new();
        if relay_of(transmit.destination).is_some() {
            let Some(via) = self.ways.via(transmit.destination) else { return Ok(()) };
            whole.extend(via.spi.value().to_be_bytes());
            whole.extend(transmit.contents);
            (transmit.contents, transmit.destination, transmit.src_ip) = (&whole, via.relay, None);
        }
        transmit.destination = self.of_socket(transmit.destination);
        match self.state.try_send((&self.socket).into(), &transmit) {
            // A full queue, a route that is away, a path that got shorter: for QUIC, a lost packet.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            let datagram = match received.poll_recv(cx) {
                Poll::Ready(Some(datagram)) => datagram,
                Poll::Ready(None) if count == 0 => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the workers ended")));
                }
                Poll::Ready(None) | Poll::Pending => break,
            };
            let Some(into) = buffer.get_mut(..datagram.bytes.len()) else { continue };
            into.copy_from_slice(&datagram.bytes);
            *meta = RecvMeta {
                addr: mapped(datagram.from),
                len: datagram.bytes.len(),
                stride: datagram.bytes.len(),
                ecn: None,
                dst_ip: datagram.to.map(|to| mapped(SocketAddr::new(to, 0)).ip()),
            };
            count += 1;
        }
        if count == 0 { Poll::Pending } else { Poll::Ready(Ok(count)) }
    }

    /// To QUIC all addresses are those of IPv6, also where the host has none: ways by others are.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(mapped(self.local))
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => address,
    }
}

fn unmapped(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// What cannot be sent is lost, and QUIC sends it again: nobody waits.
#[derive(Debug)]
struct Always;

impl UdpPoller for Always {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Opens the port, for both families where the host has both.
pub(super) fn open(port: u16) -> io::Result<UdpSocket> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let both = || -> io::Result<UdpSocket> {
        let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None)?;
        sockopt::set_ipv6_v6only(&socket, false)?;
        bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
        Ok(socket.into())
    };
    match both() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        // A host without IPv6.
        Err(_) => {
            let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, port))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        }
        socket => socket,
    }
}
