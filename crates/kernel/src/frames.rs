//! Frames to and from guests, past the packet filter: packet sockets (packet(7)) on the devices that guests ask on.

mod ring;

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use viaduct_types::{IfName, MacAddr};

/// What a socket takes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listen {
    /// What is sent to a DHCP server: UDP over IPv4 to port 67.
    Dhcp4,
    /// ARP.
    Arp,
    /// Neighbour solicitations and advertisements.
    Neighbours,
    /// What is sent to routers and DHCP servers over IPv6: router solicitations, and UDP to port 547.
    Ip6,
}

impl Listen {
    /// Bytes of the longest frame that is taken in whole, with what the kernel writes before it; a power of two.
    fn place(self) -> usize {
        match self {
            Self::Dhcp4 | Self::Ip6 => 2048,
            Self::Arp | Self::Neighbours => 256,
        }
    }
}

/// So many frames wait in a socket's own queue in any case.
const QUEUE: usize = 64;
/// No more wait than these.
const MOST: usize = 16_384;

/// So many frames are sent at a time.
const AT_ONCE: usize = 32;

/// Whether poll(2) has told of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It has not.
    None,
    /// It has, or it is not known.
    Possible,
}

/// A packet socket on one device. What it does not take in costs a packet a few instructions.
pub struct Frames {
    /// Goes before its socket does.
    ring: Option<ring::Ring>,
    socket: OwnedFd,
}

impl Frames {
    /// Opens one; needs CAP_NET_RAW. It does not block. So many frames at least can wait in it, up to some thousands.
    ///
    /// # Errors
    /// When there is no such device (ENODEV), or the kernel refuses.
    pub fn open(device: &IfName, listen: Listen, waiting: usize) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Protocol 0: nothing comes in before the filter is there.
        // SAFETY: socket() takes numbers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made, and nobody else has it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let protocol = match listen {
            Listen::Dhcp4 => {
                attach(&socket, &dhcp4())?;
                libc::ETH_P_IP
            }
            Listen::Arp => libc::ETH_P_ARP,
            Listen::Neighbours => {
                attach(&socket, &neighbours())?;
                libc::ETH_P_IPV6
            }
            Listen::Ip6 => {
                attach(&socket, &ip6())?;
                libc::ETH_P_IPV6
            }
        };
        let ring = if waiting > QUEUE {
            let frames = waiting.min(MOST).next_power_of_two();
            Some(ring::Ring::new(&socket, frames, listen.place())?)
        } else {
            None
        };
        let index = rustix::net::netdevice::name_to_index(&socket, device.as_str())?;
        let mut address = empty_address();
        address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
        address.sll_protocol = u16::try_from(protocol).map_err(io::Error::other)?.to_be();
        address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
        // SAFETY: the address is valid for the length given with it.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), ADDRESS) })?;
        Ok(Self { ring, socket })
    }

    /// How many frames can wait in it.
    pub fn room(&self) -> usize {
        self.ring.as_ref().map_or(QUEUE, ring::Ring::places)
    }

    /// Whether one for so many frames would hold more.
    pub fn is_too_small_for(&self, waiting: usize) -> bool {
        waiting.min(MOST) > self.room()
    }

    /// What it is bound to.
    fn bound(&self) -> io::Result<libc::sockaddr_ll> {
        let (mut address, mut size) = (empty_address(), ADDRESS);
        // SAFETY: address and size are valid for writing, and the kernel writes no more than the size.
        check(unsafe {
            libc::getsockname(self.socket.as_raw_fd(), (&raw mut address).cast(), &raw mut size)
        })?;
        Ok(address)
    }

    /// Takes in what goes to any group of the link's, as long as it is open.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn hear_all_groups(&self) -> io::Result<()> {
        let address = self.bound()?;
        let request = libc::packet_mreq {
            mr_ifindex: address.sll_ifindex,
            mr_type: u16::try_from(libc::PACKET_MR_ALLMULTI).map_err(io::Error::other)?,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        let size = libc::socklen_t::try_from(size_of_val(&request)).map_err(io::Error::other)?;
        // SAFETY: the request is valid for the length given with it.
        check(unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const request).cast(),
                size,
            )
        })
    }

    /// The device's MAC.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn mac(&self) -> io::Result<MacAddr> {
        let address = self.bound()?;
        let [a, b, c, d, e, f, ..] = address.sll_addr;
        match address.sll_halen {
            6 => Ok(MacAddr([a, b, c, d, e, f])),
            _ => Err(io::Error::from_raw_os_error(libc::ENODEV)),
        }
    }

    /// The next frame that came in for this host or for all; none when none waits. A frame that is longer than the
    /// buffer is cut.
    ///
    /// # Errors
    /// When the device went down (ENETDOWN), or is gone. What poll(2) tells of an error is to be passed on, for of a ring
    /// it is asked only then.
    pub fn receive<'b>(&mut self, buffer: &'b mut [u8], trouble: Trouble) -> io::Result<Option<&'b [u8]>> {
        let is_for_us = |kind| {
            // What goes to other machines, tagged frames among it, is not.
            [libc::PACKET_HOST, libc::PACKET_BROADCAST, libc::PACKET_MULTICAST].contains(&kind)
        };
        if let Some(ring) = &mut self.ring {
            while let Some((length, kind)) = ring.take(buffer) {
                if is_for_us(kind) {
                    return Ok(buffer.get(..length));
                }
            }
            if trouble == Trouble::None {
                return Ok(None);
            }
        }
        loop {
            let (mut from, mut size) = (empty_address(), ADDRESS);
            // SAFETY: buffer, address and size are valid for writing, with the lengths given.
            let length = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut size,
                )
            };
            let Ok(length) = usize::try_from(length) else {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::WouldBlock {
                    return Ok(None);
                }
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            };
            if is_for_us(from.sll_pkttype) {
                return Ok(buffer.get(..length));
            }
        }
    }

    /// Sends frames, in their order; those after one that the kernel does not take are sent all the same.
    ///
    /// # Errors
    /// The last reason why one was not taken.
    pub fn send<'f>(&self, frames: impl IntoIterator<Item = &'f [u8]>) -> io::Result<()> {
        let mut frames = frames.into_iter();
        let mut result = Ok(());
        loop {
            let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; AT_ONCE];
            let mut count = 0;
            for (part, frame) in parts.iter_mut().zip(frames.by_ref()) {
                *part = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
                count += 1;
            }
            if count == 0 {
                return result;
            }
            let mut messages = parts.each_mut().map(|part| {
                // SAFETY: mmsghdr is plain data, for which all zeroes are valid.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (part, 1);
                message
            });
            let mut rest = &mut messages[..count];
            while !rest.is_empty() {
                let length = libc::c_uint::try_from(rest.len()).map_err(io::Error::other)?;
                // SAFETY: so many messages are there, each of one frame, which lives as long as the iterator's item; the
                // kernel does not write to it.
                let sent = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), rest.as_mut_ptr(), length, 0) };
                let done = usize::try_from(sent).unwrap_or_else(|_| {
                    // Only of the first one: it is left out.
                    result = Err(io::Error::last_os_error());
                    1
                });
                rest = &mut rest[done.clamp(1, length as usize)..];
            }
        }
    }
}

impl AsFd for Frames {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "twenty bytes")]
const ADDRESS: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;

fn empty_address() -> libc::sockaddr_ll {
    // SAFETY: sockaddr_ll is plain data, for which all zeroes are valid.
    unsafe { std::mem::zeroed() }
}

// linux/bpf_common.h: class, size, mode.
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF_AT_X: u16 = 0x48;
const HEADER_TO_X: u16 = 0xb1;
const IF_EQUAL: u16 = 0x15;
const IF_SET: u16 = 0x45;
const RETURN: u16 = 0x06;

fn step(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// Lets through the whole datagrams over IPv4 that go to UDP port 67.
fn dhcp4() -> [libc::sock_filter; 9] {
    [
        step(LOAD_BYTE, 0, 0, 14 + 9),
        step(IF_EQUAL, 0, 6, 17),
        step(LOAD_HALF, 0, 0, 14 + 6),
        // More fragments, or not the first one.
        step(IF_SET, 4, 0, 0x3fff),
        step(HEADER_TO_X, 0, 0, 14),
        step(LOAD_HALF_AT_X, 0, 0, 14 + 2),
        step(IF_EQUAL, 0, 1, 67),
        step(RETURN, 0, 0, 0xffff),
        step(RETURN, 0, 0, 0),
    ]
}

/// Lets through what ICMPv6 has of neighbours, where it comes first in a packet.
fn neighbours() -> [libc::sock_filter; 7] {
    [
        step(LOAD_BYTE, 0, 0, 14 + 6),
        step(IF_EQUAL, 0, 4, 58),
        step(LOAD_BYTE, 0, 0, 14 + 40),
        step(IF_EQUAL, 1, 0, 135),
        step(IF_EQUAL, 0, 1, 136),
        step(RETURN, 0, 0, 0xffff),
        step(RETURN, 0, 0, 0),
    ]
}

/// Lets through router solicitations, and datagrams that go to UDP port 547, where they come first in a packet.
fn ip6() -> [libc::sock_filter; 9] {
    [
        step(LOAD_BYTE, 0, 0, 14 + 6),
        step(IF_EQUAL, 3, 0, 58),
        step(IF_EQUAL, 0, 5, 17),
        step(LOAD_HALF, 0, 0, 14 + 40 + 2),
        step(IF_EQUAL, 2, 3, 547),
        step(LOAD_BYTE, 0, 0, 14 + 40),
        step(IF_EQUAL, 0, 1, 133),
        step(RETURN, 0, 0, 0xffff),
        step(RETURN, 0, 0, 0),
    ]
}

fn attach(socket: &OwnedFd, program: &[libc::sock_filter]) -> io::Result<()> {
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut(),
    };
    let size = libc::socklen_t::try_from(size_of_val(&filter)).map_err(io::Error::other)?;
    // SAFETY: the kernel copies the program, which is valid for its length, and does not write to it.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size,
        )
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
