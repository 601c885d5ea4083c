//! What std and socket2 do not offer on datagrams: the address a packet was sent to, and queued ICMP errors.

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::RawFd,
    ptr,
};

use socket2::{SockAddr, SockAddrStorage};

/// A datagram's ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    pub(crate) from: SocketAddr,
    /// Where it was sent to, as in `struct in6_pktinfo`; the reply has to come from there.
    to: Option<libc::in6_pktinfo>,
}

/// An ICMP error that the kernel kept for a socket (`struct sock_extended_err`, ip(7)).
#[derive(Clone, Copy, Debug)]
pub(crate) struct IcmpError {
    pub(crate) v6: bool,
    pub(crate) kind: u8,
    pub(crate) code: u8,
    pub(crate) sender: IpAddr,
}

/// Asks the kernel to tell where datagrams were sent to, for [`receive`].
pub(crate) fn keep_destinations(socket: RawFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
}

/// Asks the kernel to keep ICMP errors for [`icmp_error`].
pub(crate) fn keep_icmp_errors(socket: RawFd, v6: bool) -> io::Result<()> {
    if v6 {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    } else {
        set(socket, libc::IPPROTO_IP, libc::IP_RECVERR)
    }
}

/// Receives from a socket of the IPv6 family.
pub(crate) fn receive(socket: RawFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = Control::new();
    let from = receive_message(socket, buffer, &mut control, 0)?.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Received { from, to: control.find(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) })
}

/// Answers from the address that the datagram was sent to, as a client behind a filter or translation expects.
pub(crate) fn reply(socket: RawFd, received: &Received, payload: &[u8]) -> io::Result<()> {
    let to = SockAddr::from(received.from);
    let mut iov = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    let mut control = Control::new();
    // SAFETY: all zeroes is a valid msghdr.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = to.as_ptr().cast_mut().cast();
    header.msg_namelen = to.len();
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    if let Some(mut info) = received.to {
        // The interface would bind the reply to the way that the request took.
        info.ipi6_ifindex = 0;
        let size = u32::try_from(size_of::<libc::in6_pktinfo>()).unwrap_or(0);
        header.msg_control = control.bytes.as_mut_ptr().cast();
        // SAFETY: the control buffer is larger than one aligned in6_pktinfo message, and aligned for it.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(size) as _;
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (*message).cmsg_level = libc::IPPROTO_IPV6;
            (*message).cmsg_type = libc::IPV6_PKTINFO;
            (*message).cmsg_len = libc::CMSG_LEN(size) as _;
            ptr::write_unaligned(libc::CMSG_DATA(message).cast(), info);
        }
    }
    // SAFETY: every pointer in the header is to a local that lives until the call returns.
    match unsafe { libc::sendmsg(socket, &raw const header, libc::MSG_NOSIGNAL) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The next ICMP error kept for the socket, if there is one.
pub(crate) fn icmp_error(socket: RawFd) -> Option<IcmpError> {
    // The offender's address follows the error (SO_EE_OFFENDER).
    type WithOffender<A> = (libc::sock_extended_err, A);
    let mut control = Control::new();
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    receive_message(socket, &mut [0; 64], &mut control, flags).ok()?;
    if let Some((e, from)) =
        control.find::<WithOffender<libc::sockaddr_in>>(libc::IPPROTO_IP, libc::IP_RECVERR)
    {
        let from = Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr));
        return (e.ee_origin == libc::SO_EE_ORIGIN_ICMP).then_some(IcmpError {
            v6: false,
            kind: e.ee_type,
            code: e.ee_code,
            sender: from.into(),
        });
    }
    let (e, from) =
        control.find::<WithOffender<libc::sockaddr_in6>>(libc::IPPROTO_IPV6, libc::IPV6_RECVERR)?;
    let from = Ipv6Addr::from(from.sin6_addr.s6_addr);
    (e.ee_origin == libc::SO_EE_ORIGIN_ICMP6).then_some(IcmpError {
        v6: true,
        kind: e.ee_type,
        code: e.ee_code,
        sender: from.into(),
    })
}

fn set(socket: RawFd, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or(0);
    // SAFETY: the value is an int, as these options take, and lives until the call returns.
    match unsafe { libc::setsockopt(socket, level, option, (&raw const on).cast(), size) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The sender is missing where the socket is connected.
fn receive_message(
    socket: RawFd,
    buffer: &mut [u8],
    control: &mut Control,
    flags: libc::c_int,
) -> io::Result<Option<SocketAddr>> {
    let mut storage = SockAddrStorage::zeroed();
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeroes is a valid msghdr.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = (&raw mut storage).cast();
    header.msg_namelen = storage.size_of();
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.bytes.as_mut_ptr().cast();
    header.msg_controllen = control.bytes.len() as _;
    // SAFETY: name, iov and control point at buffers of the lengths given, which outlive the call.
    if unsafe { libc::recvmsg(socket, &raw mut header, flags) } == -1 {
        return Err(io::Error::last_os_error());
    }
    control.filled = header.msg_controllen as usize;
    // SAFETY: the kernel wrote an address of that length into it.
    Ok(unsafe { SockAddr::new(storage, header.msg_namelen) }.as_socket())
}

/// Room for the control messages that are asked for here, aligned as they have to be.
#[repr(C, align(8))]
struct Control {
    bytes: [u8; 256],
    filled: usize,
}

impl Control {
    fn new() -> Self {
        Self { bytes: [0; 256], filled: 0 }
    }

    /// The data of the first control message of that level and type, if it is long enough to be a `T`, which has to be
    /// one of the kernel's plain C structures.
    fn find<T: Copy>(&self, level: libc::c_int, kind: libc::c_int) -> Option<T> {
        // SAFETY: all zeroes is a valid msghdr.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_control = self.bytes.as_ptr().cast_mut().cast();
        header.msg_controllen = self.filled.min(self.bytes.len()) as _;
        // SAFETY: the CMSG macros stay inside of the control buffer that the header points at; data is read only
        // where the message holds all of it, and the kernel's structures are valid for any bytes.
        unsafe {
            let mut message = libc::CMSG_FIRSTHDR(&raw const header);
            while let Some(m) = message.as_ref() {
                let needed = libc::CMSG_LEN(u32::try_from(size_of::<T>()).ok()?);
                if m.cmsg_level == level && m.cmsg_type == kind && m.cmsg_len as u64 >= u64::from(needed) {
                    return Some(ptr::read_unaligned(libc::CMSG_DATA(message).cast()));
                }
                message = libc::CMSG_NXTHDR(&raw const header, message);
            }
        }
        None
    }
}
