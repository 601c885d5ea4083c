//! A worker's UDP socket: how it is set up, and what the kernel says about paths.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use super::StartError;
use crate::socket_options;

// include/uapi/linux/udp.h
pub(super) const UDP_SEGMENT: libc::c_int = 103;
pub(super) const UDP_GRO: libc::c_int = 104;
/// Don't fragment, and do not believe what routers say about the path: they are asked by probes of the control side.
const PMTU_PROBE: libc::c_int = 3;
/// What may wait to be received, of which the kernel makes twice as much. It counts more than the bytes, and a run of datagrams takes
/// about 100 KiB. It has to hold what comes while the worker is busy with a batch or waits for a processor. More would be a queue
/// that connections by TCP fill, and in which all others wait: with twice as much, a round trip under four streams takes half as
/// long again, for two hundredths more of one stream; with half as much, one stream loses too much.
const RECEIVE_BUFFER: libc::c_int = 1 << 20;
/// What may wait to be sent: some super-frames.
const SEND_BUFFER: libc::c_int = 512 << 10;

/// What of `SO_MEMINFO` says how many datagrams did not get into the socket (include/uapi/linux/sock_diag.h).
const SK_MEMINFO_DROPS: usize = 8;

#[derive(Debug)]
pub(super) struct Socket {
    socket: UdpSocket,
    is_ipv6: bool,
    joins: bool,
}

impl Socket {
    pub(super) fn prepare(socket: UdpSocket, index: usize) -> Result<Self, StartError> {
        let failed = |what| move |source| StartError::Socket { what, index, source };
        let is_ipv6 = socket.local_addr().map_err(failed("the address"))?.is_ipv6();
        socket.set_nonblocking(true).map_err(failed("O_NONBLOCK"))?;
        let set =
            |level, name, value: libc::c_int| socket_options::set(&socket, level, name, &value.to_ne_bytes());
        // Without it, each datagram comes by itself: slower, nothing else (before Linux 5.0).
        let joins = set(libc::SOL_UDP, UDP_GRO, 1).is_ok();
        set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, PMTU_PROBE).map_err(failed("IP_MTU_DISCOVER"))?;
        set(libc::IPPROTO_IP, libc::IP_RECVERR, 1).map_err(failed("IP_RECVERR"))?;
        // Groups that others on this host have joined are not for us.
        set(libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, 0).map_err(failed("IP_MULTICAST_ALL"))?;
        if is_ipv6 {
            let level = libc::IPPROTO_IPV6;
            set(level, libc::IPV6_MTU_DISCOVER, PMTU_PROBE).map_err(failed("IPV6_MTU_DISCOVER"))?;
            set(level, libc::IPV6_RECVERR, 1).map_err(failed("IPV6_RECVERR"))?;
            // Before Linux 4.20 they are heard, and dropped.
            let _ = set(level, libc::IPV6_MULTICAST_ALL, 0);
            set(level, libc::IPV6_RECVPKTINFO, 1).map_err(failed("IPV6_RECVPKTINFO"))?;
        } else {
            set(libc::IPPROTO_IP, libc::IP_PKTINFO, 1).map_err(failed("IP_PKTINFO"))?;
        }
        // The forced kind goes beyond the system's limit and needs CAP_NET_ADMIN.
        for (forced, plain, size) in [
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER),
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER),
        ] {
            set(libc::SOL_SOCKET, forced, size)
                .or_else(|_| set(libc::SOL_SOCKET, plain, size))
                .map_err(failed("the buffer size"))?;
        }
        Ok(Self { socket, is_ipv6, joins })
    }

    /// The same for somebody else: another worker sends from it, or what it has lost is counted.
    pub(super) fn share(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, is_ipv6: self.is_ipv6, joins: self.joins })
    }

    /// Whether the kernel joins what it receives.
    pub(super) fn joins(&self) -> bool {
        self.joins
    }

    /// How many datagrams have come and were not received, as its buffer was full or their checksums wrong; from 2³² on
    /// it counts anew. The kernel counts them in any case. Zero before Linux 4.12, which does not tell.
    pub(super) fn lost(&self) -> u32 {
        let mut memory = [0_u32; SK_MEMINFO_DROPS + 1];
        let Ok(mut length) = libc::socklen_t::try_from(size_of_val(&memory)) else { return 0 };
        let (level, name) = (libc::SOL_SOCKET, libc::SO_MEMINFO);
        // SAFETY: the kernel writes at most `length` bytes to `memory`, and the number of bytes to `length`; both live until
        // the call returns.
        let result =
            unsafe { libc::getsockopt(self.raw(), level, name, memory.as_mut_ptr().cast(), &raw mut length) };
        if result < 0 { 0 } else { memory[SK_MEMINFO_DROPS] }
    }

    /// Ours.
    pub(super) fn port(&self) -> io::Result<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    pub(super) fn raw(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn is_ipv6(&self) -> bool {
        self.is_ipv6
    }

    /// The next thing that the network said about what was sent: that a datagram to some address was too large, with the
    /// largest packet that it takes. Other things it says are passed over. None when there is nothing more.
    pub(super) fn next_too_big(&self) -> Option<(SocketAddr, Option<u32>)> {
        // Nothing is owed to whoever fills the queue.
        for _ in 0..64 {
            let mut name = Address::default();
            let mut control = Control::default();
            // SAFETY: msghdr is plain data, for which all zeroes are valid.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_name = (&raw mut name.0).cast();
            message.msg_namelen = Address::ROOM;
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = control.0.len();
            // SAFETY: what the message points to lives until the call returns, and the lengths are theirs.
            let received = unsafe {
                libc::recvmsg(self.raw(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
            };
            if received < 0 {
                return None;
            }
            let Some(error) = extended_error(&message) else { continue };
            if error.ee_errno == libc::EMSGSIZE.cast_unsigned()
                && let Some(remote) = name.socket_address()
            {
                return Some((remote, Some(error.ee_info).filter(|mtu| *mtu > 0)));
            }
        }
        None
    }
}

fn extended_error(message: &libc::msghdr) -> Option<libc::sock_extended_err> {
    for (level, kind, data) in control_messages(message) {
        let is_error = (level == libc::IPPROTO_IP && kind == libc::IP_RECVERR)
            || (level == libc::IPPROTO_IPV6 && kind == libc::IPV6_RECVERR);
        if is_error && data.len() >= size_of::<libc::sock_extended_err>() {
            // SAFETY: the kernel put one there; it is plain data and is read wherever it is aligned.
            return Some(unsafe { data.as_ptr().cast::<libc::sock_extended_err>().read_unaligned() });
        }
    }
    None
}

/// Room for the control messages that are used here, aligned as their headers are.
#[derive(Clone, Copy, Debug)]
#[repr(align(8))]
pub(super) struct Control(pub(super) [u8; 128]);

impl Default for Control {
    fn default() -> Self {
        Self([0; 128])
    }
}

/// The control messages of a received message: level, type, data.
pub(super) fn control_messages(
    message: &libc::msghdr,
) -> impl Iterator<Item = (libc::c_int, libc::c_int, &[u8])> {
    // SAFETY: the kernel filled in the message, or it is as it was given to it: control points to msg_controllen bytes.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    std::iter::from_fn(move || {
        // SAFETY: it is null or points to a header inside of the message's control bytes.
        let header = unsafe { next.as_ref() }?;
        // SAFETY: as above.
        let (data, length) = unsafe {
            let empty = libc::CMSG_LEN(0) as usize;
            (libc::CMSG_DATA(header), (header.cmsg_len as usize).saturating_sub(empty))
        };
        // SAFETY: the header says that so many bytes follow it, and the kernel wrote it.
        let data = unsafe { std::slice::from_raw_parts(data, length) };
        // SAFETY: as above.
        next = unsafe { libc::CMSG_NXTHDR(message, header) };
        Some((header.cmsg_level, header.cmsg_type, data))
    })
}

fn family(number: libc::c_int) -> libc::sa_family_t {
    libc::sa_family_t::try_from(number).unwrap_or_default()
}

/// A socket address as the kernel has it.
#[derive(Clone, Copy)]
pub(super) struct Address(pub(super) libc::sockaddr_in6);

impl Default for Address {
    fn default() -> Self {
        // SAFETY: it is plain data, for which all zeroes are valid.
        Self(unsafe { std::mem::zeroed() })
    }
}

impl Address {
    #[expect(clippy::cast_possible_truncation, reason = "28 bytes")]
    pub(super) const ROOM: libc::socklen_t = size_of::<libc::sockaddr_in6>() as libc::socklen_t;

    /// As a socket of this family takes it, and how long it is; none when an IPv4 socket cannot reach it.
    #[unsafe(link_section = "frame_path")]
    pub(super) fn of(address: SocketAddr, is_ipv6: bool) -> Option<(Self, libc::socklen_t)> {
        let mut this = Self::default();
        match address {
            SocketAddr::V4(v4) if !is_ipv6 => {
                // SAFETY: sockaddr_in is shorter than sockaddr_in6 and not more strictly aligned.
                let name = unsafe { &mut *(&raw mut this.0).cast::<libc::sockaddr_in>() };
                name.sin_family = family(libc::AF_INET);
                name.sin_port = v4.port().to_be();
                name.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_in>()).unwrap_or_default();
                Some((this, length))
            }
            SocketAddr::V6(_) if !is_ipv6 => None,
            SocketAddr::V4(v4) => {
                let mapped = SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0);
                Some((this.filled(mapped), Self::ROOM))
            }
            SocketAddr::V6(v6) => Some((this.filled(v6), Self::ROOM)),
        }
    }

    fn filled(mut self, address: SocketAddrV6) -> Self {
        self.0.sin6_family = family(libc::AF_INET6);
        self.0.sin6_port = address.port().to_be();
        self.0.sin6_addr.s6_addr = address.ip().octets();
        self.0.sin6_scope_id = address.scope_id();
        self
    }

    /// What the kernel filled in; an IPv4 address as that, whatever the socket.
    pub(super) fn socket_address(&self) -> Option<SocketAddr> {
        match libc::c_int::from(self.0.sin6_family) {
            libc::AF_INET => {
                // SAFETY: sockaddr_in is shorter than sockaddr_in6 and not more strictly aligned.
                let name = unsafe { &*(&raw const self.0).cast::<libc::sockaddr_in>() };
                let ip = IpAddr::from(name.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::new(ip, u16::from_be(name.sin_port)))
            }
            libc::AF_INET6 => {
                let ip = Ipv6Addr::from(self.0.sin6_addr.s6_addr);
                let port = u16::from_be(self.0.sin6_port);
                Some(match ip.to_ipv4_mapped() {
                    Some(v4) => SocketAddr::new(v4.into(), port),
                    None => SocketAddrV6::new(ip, port, 0, self.0.sin6_scope_id).into(),
                })
            }
            _ => None,
        }
    }
}
