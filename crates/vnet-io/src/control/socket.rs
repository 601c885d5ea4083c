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
        let send = || self.state.try_send((&self.socket).into(), &transmit);
        // What an earlier datagram met on its way, whoever sent it, is told by the next call, which sends nothing. Of what is sent
        // again: a full queue, a route that is away, a path that got shorter are a lost packet for QUIC.
        let _ = send().or_else(|_| send());
        Ok(())
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
            // What is longer than QUIC takes is nobody's. The others stand one beside the other, and nothing is left unread: else
            // nobody is woken for what comes next.
            let next = loop {
                match received.poll_recv(cx) {
                    Poll::Ready(Some(datagram)) if datagram.bytes.len() > buffer.len() => {}
                    next @ (Poll::Ready(_) | Poll::Pending) => break next,
                }
            };
            let datagram = match next {
                Poll::Ready(Some(datagram)) => datagram,
                Poll::Ready(None) if count == 0 => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the workers ended")));
                }
                Poll::Ready(None) | Poll::Pending => break,
            };
            buffer[..datagram.bytes.len()].copy_from_slice(&datagram.bytes);
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

/// An address of IPv4 as such; one of IPv6 keeps its link, where it has one.
pub(super) fn unmapped(address: SocketAddr) -> SocketAddr {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{datapath::in_a_namespace, socket_options};

    #[test]
    fn what_one_datagram_met_on_its_way_costs_no_other() {
        in_a_namespace(|| {
            let socket = open(0).unwrap();
            // As the workers have it.
            for (level, name) in
                [(libc::IPPROTO_IP, libc::IP_RECVERR), (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)]
            {
                socket_options::set(&socket, level, name, &1_i32.to_ne_bytes()).unwrap();
            }
            let (_, received) = mpsc::channel(1);
            let shared = Shared::new(socket, Ways::default(), received).unwrap();
            let send = |to: SocketAddr, contents: &[u8]| {
                let transmit =
                    Transmit { destination: to, ecn: None, contents, segment_size: None, src_ip: None };
                shared.try_send(&transmit).unwrap();
            };
            for address in [IpAddr::from([127, 0, 0, 1]), Ipv6Addr::LOCALHOST.into()] {
                let there = UdpSocket::bind((address, 0)).unwrap();
                there.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
                for number in 0..10 {
                    // Nobody is there, which is answered before the call ends.
                    send((address, 9).into(), b"to nobody");
                    send(there.local_addr().unwrap(), &[number]);
                    let mut heard = [0; 10];
                    assert_eq!(there.recv(&mut heard).unwrap(), 1, "{address}");
                    assert_eq!(heard[0], number, "{address}");
                }
            }
        });
    }
}
