//! Sockets that send and hear whole Ethernet frames (packet(7)).

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

/// Every protocol, in network byte order as sockaddr_ll has it.
#[expect(clippy::cast_possible_truncation, reason = "it is 3")]
const ALL: u16 = (libc::ETH_P_ALL as u16).to_be();

/// A busy lab must not push out the one frame that counts.
const RECEIVE_BUFFER: libc::c_int = 16 << 20;

/// A packet socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct PacketSocket(OwnedFd);

/// A frame that was heard.
#[derive(Debug)]
pub(crate) struct Heard<'b> {
    pub(crate) frame: &'b [u8],
    /// It left by this interface instead of arriving.
    pub(crate) outgoing: bool,
}

impl PacketSocket {
    /// Hears every interface of the namespace.
    pub(crate) fn everywhere() -> io::Result<Self> {
        Self::open(0)
    }

    /// Hears what one interface takes for its own.
    pub(crate) fn of(interface: u32) -> io::Result<Self> {
        Self::open(i32::try_from(interface).map_err(|_| io::ErrorKind::InvalidInput)?)
    }

    /// Hears and sends on one interface, and hears what is for others, too.
    pub(crate) fn on(interface: u32) -> io::Result<Self> {
        let index = i32::try_from(interface).map_err(|_| io::ErrorKind::InvalidInput)?;
        let socket = Self::open(index)?;
        // SAFETY: all zeroes is a valid packet_mreq.
        let mut request: libc::packet_mreq = unsafe { mem::zeroed() };
        request.mr_ifindex = index;
        request.mr_type = u16::try_from(libc::PACKET_MR_PROMISC).unwrap_or_default();
        socket.set(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)?;
        Ok(socket)
    }

    fn open(index: i32) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // Protocol 0 hears nothing until it is bound, so that nothing of other interfaces comes in between.
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just made it, and nobody else has it.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &RECEIVE_BUFFER)?;
        let to = link_address(index);
        // SAFETY: a sockaddr_ll of its own size.
        let bound = unsafe { libc::bind(fd, ptr::from_ref(&to).cast(), length_of(&to)) };
        if bound == -1 { Err(io::Error::last_os_error()) } else { Ok(socket) }
    }

    /// Sends a frame by the interface that the socket is on.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length are the frame's.
        match unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// The next frame that has been heard, if there is one.
    pub(crate) fn hear<'b>(&self, buffer: &'b mut [u8]) -> Option<Heard<'b>> {
        let mut from = link_address(0);
        let mut size = length_of(&from);
        // SAFETY: buffer and address are given with their own lengths.
        let length = unsafe {
            libc::recvfrom(
                self.0.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
                ptr::from_mut(&mut from).cast(),
                &raw mut size,
            )
        };
        let length = usize::try_from(length).ok()?;
        Some(Heard { frame: buffer.get(..length)?, outgoing: from.sll_pkttype == libc::PACKET_OUTGOING })
    }

    /// Whether frames were lost because nobody read them in time.
    pub(crate) fn overrun(&self) -> bool {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut size = length_of(&statistics);
        // SAFETY: the option's value is a tpacket_stats, given with its size.
        unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                ptr::from_mut(&mut statistics).cast(),
                &raw mut size,
            );
        }
        statistics.tp_drops > 0
    }

    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        // SAFETY: pointer and length are the value's; each caller gives the type that the option takes.
        match unsafe { libc::setsockopt(fd, level, option, ptr::from_ref(value).cast(), length_of(value)) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn link_address(index: i32) -> libc::sockaddr_ll {
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
    address.sll_protocol = ALL;
    address.sll_ifindex = index;
    address
}

fn length_of<T>(value: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(size_of_val(value)).unwrap_or_default()
}
