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
    /// The VLAN of its outermost tag, which the kernel has taken out of the frame.
    pub(crate) vlan: Option<u16>,
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
        let yes: libc::c_int = 1;
        socket.set(libc::SOL_PACKET, libc::PACKET_AUXDATA, &yes)?;
        let to = link_address(index);
        // SAFETY: a sockaddr_ll of its own size.
        let bound = unsafe { libc::bind(fd, ptr::from_ref(&to).cast(), length_of(&to)) };
        if bound == -1 { Err(io::Error::last_os_error()) } else { Ok(socket) }
    }

    /// Sends a frame by the interface that the socket is on.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length are the frame's.
        match unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) } {
            -1 => match io::Error::last_os_error() {
                // The kernel's word for one that a filter on its way out dropped.
                error if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
                error => Err(error),
            },
            _ => Ok(()),
        }
    }

    /// The next frame that has been heard, if there is one.
    pub(crate) fn hear<'b>(&self, buffer: &'b mut [u8]) -> Option<Heard<'b>> {
        let mut from = link_address(0);
        let mut control = Control([0; 64]);
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: all zeroes is a valid msghdr.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = ptr::from_mut(&mut from).cast();
        message.msg_namelen = length_of(&from);
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        // SAFETY: frame, address and control data are given with their own lengths, and outlive the call.
        let length = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0) };
        let length = usize::try_from(length).ok()?;
        let outgoing = from.sll_pkttype == libc::PACKET_OUTGOING;
        Some(Heard { frame: buffer.get(..length)?, outgoing, vlan: tag(&message) })
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

/// Room for what the kernel says beside a frame, aligned as cmsghdr wants it.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// The VLAN told beside a frame.
fn tag(message: &libc::msghdr) -> Option<u16> {
    // SAFETY: the kernel has filled the control data, and set its length.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    if (header.cmsg_level, header.cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
        return None;
    }
    // SAFETY: this kind of control data is a tpacket_auxdata.
    let told: libc::tpacket_auxdata = unsafe { ptr::read_unaligned(libc::CMSG_DATA(header).cast()) };
    (told.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then_some(told.tp_vlan_tci & 0xfff)
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
