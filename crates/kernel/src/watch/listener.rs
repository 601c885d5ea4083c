//! A netlink socket that only hears.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use rustix::net::sockopt;

use crate::socket::{Message, Messages};

/// What may wait until it is heard (the kernel doubles it); a notification takes it 768 bytes to 5 KiB.
const BUFFER: usize = 16 << 20;
/// What is heard in one go: more datagrams than fit into [`BUFFER`], so that the queue is empty afterwards unless
/// it fills as fast as it is read. It has to be: after an overrun the kernel drops everything, without another word,
/// until then (`netlink_overrun` in net/netlink/af_netlink.c).
const MOST: usize = 1 << 16;
/// Notifications are smaller by far.
const DATAGRAM: usize = 64 << 10;

// Instructions of a socket filter (include/uapi/linux/bpf_common.h).
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const IF_EQUAL: u16 = 0x15;
const IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
// Offsets in struct nlmsghdr, and in the struct ndmsg that follows it.
const NLMSG_TYPE: u32 = 4;
const NLMSG_PID: u32 = 12;
const NDM_STATE: u32 = 16 + 8;
const NDM_FLAGS: u32 = 16 + 10;

/// Whether all was heard.
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Heard {
    All,
    /// The kernel had to drop some.
    Lost,
}

/// A socket in the network namespace that its thread was in when it was opened.
pub(super) struct Listener(netlink_sys::Socket);

impl Listener {
    pub(super) fn open(protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        // Without CAP_NET_ADMIN the default size stays, and more is lost.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER);
        if protocol == netlink_sys::protocols::NETLINK_ROUTE {
            ignore_reachability(&socket)?;
        }
        groups.iter().try_for_each(|group| socket.add_membership(*group))?;
        Ok(Self(socket))
    }

    /// Hands over what waits.
    pub(super) fn hear(&self, buffer: &mut Vec<u8>, mut each: impl FnMut(&Message<'_>)) -> io::Result<Heard> {
        let mut heard = Heard::All;
        for _ in 0..MOST {
            buffer.clear();
            buffer.reserve(DATAGRAM);
            match self.0.recv_from(buffer, libc::MSG_TRUNC) {
                // A process that may administer the network can send to this socket, too.
                Ok((_, from)) if from.port_number() != 0 => {}
                Ok((length, _)) if length > buffer.len() => heard = Heard::Lost,
                Ok(_) => Messages(buffer).for_each(|message| each(&message)),
                Err(e) => match e.raw_os_error() {
                    Some(libc::EAGAIN) => break,
                    Some(libc::ENOBUFS) => heard = Heard::Lost,
                    Some(libc::EINTR) => {}
                    _ => return Err(e),
                },
            }
        }
        Ok(heard)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Has the kernel drop what it tells of neighbours that come and go by themselves, so that packets from outside, such
/// as a scan of a subnet, neither wake nor drown us. Of neighbours are kept what is permanent, what is answered for,
/// and what a process asked for.
fn ignore_reachability(socket: &impl AsRawFd) -> io::Result<()> {
    let step = |code, number, yes, no| libc::sock_filter { code, jt: yes, jf: no, k: number };
    // It loads in network byte order.
    let native = |number: u16| u32::from(u16::from_be_bytes(number.to_ne_bytes()));
    let mut steps = [
        step(LOAD_HALF, NLMSG_TYPE, 0, 0),
        step(IF_EQUAL, native(libc::RTM_NEWNEIGH), 1, 0),
        step(IF_EQUAL, native(libc::RTM_DELNEIGH), 0, 6),
        step(LOAD_HALF, NDM_STATE, 0, 0),
        step(IF_ANY_BIT, native(libc::NUD_PERMANENT), 4, 0),
        step(LOAD_BYTE, NDM_FLAGS, 0, 0),
        step(IF_ANY_BIT, libc::NTF_PROXY.into(), 2, 0),
        step(LOAD_WORD, NLMSG_PID, 0, 0),
        step(IF_EQUAL, 0, 1, 0),
        step(RETURN, u32::MAX, 0, 0),
        step(RETURN, 0, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: steps.len().try_into().map_err(io::Error::other)?,
        filter: steps.as_mut_ptr(),
    };
    let size = libc::socklen_t::try_from(size_of_val(&program)).map_err(io::Error::other)?;
    // SAFETY: the option takes a sock_fprog of this size; the steps that it points to live until the call returns.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size,
        )
    };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
