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

use crate::datapath::Datagram;

/// What quinn takes for a socket.
pub(super) struct Shared {
    socket: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    received: Mutex<mpsc::Receiver<Datagram>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("local", &self.local).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(socket: UdpSocket, received: mpsc::Receiver<Datagram>) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state, local, received: Mutex::new(received) })
    }

    /// Addresses are as the socket has them.
    fn of_socket(&self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(v4) if self.local.is_ipv6() => IpAddr::V6(v4.to_ipv6_mapped()),
            IpAddr::V4(_) | IpAddr::V6(_) => address,
        }
    }
}

impl AsyncUdpSocket for Shared {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Always)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.state.try_send((&self.socket).into(), transmit) {
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
            let from = SocketAddr::new(self.of_socket(datagram.from.ip()), datagram.from.port());
            *meta = RecvMeta {
                addr: from,
                len: datagram.bytes.len(),
                stride: datagram.bytes.len(),
                ecn: None,
                dst_ip: datagram.to.map(|to| self.of_socket(to)),
            };
            count += 1;
        }
        if count == 0 { Poll::Pending } else { Poll::Ready(Ok(count)) }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn may_fragment(&self) -> bool {
        false
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
