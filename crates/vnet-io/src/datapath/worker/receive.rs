//! Room for what the socket has, and the call that fills it.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::RawFd,
};

#[cfg(any(test, fuzzing))]
use super::outbox::put_control;
use super::wait::By;
use crate::datapath::socket::{Address, Control, UDP_GRO, control_messages};

/// How many messages are received with one call: as many as a super-frame has, with which the kernel has then one packet's work.
const MESSAGES: usize = 64;
/// Where the kernel joins datagrams, each message is a run of up to 64 KiB, and what comes after them waits until all are
/// delivered: then it is so many.
const RUNS: usize = 16;
/// Messages that are this long on average are runs.
const RUN: usize = 4_096;
/// The longest message there can be.
const LONGEST: usize = 65_536;
/// From one place to the next; not a power of two, so that the beginnings of all do not share a part of the cache.
const STRIDE: usize = LONGEST + 2_048 + 64;
/// Where the first begins: something stands [before](crate::datapath::cipher::ROOM) each.
const BEGIN: usize = 64;

/// See the module.
pub(super) struct Receive {
    bytes: Vec<u8>,
    places: Vec<Place>,
    headers: Vec<libc::mmsghdr>,
    /// How many of the headers the kernel has written to since they were filled in. The others are not touched: what lies in
    /// no cache costs more than the rest of a lone datagram.
    used: usize,
    /// By which socket the last call received.
    by: By,
    /// How many messages the next call may bring, by each kind: what comes by the ones says nothing of the others.
    most: [usize; 3],
}

#[derive(Clone, Copy)]
struct Place {
    name: Address,
    control: Control,
    bytes: libc::iovec,
}

/// A run of datagrams of one length, but for the last, which may be shorter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrived {
    pub(super) from: SocketAddr,
    /// Our address.
    pub(super) to: Option<IpAddr>,
    /// Where it stands in the bytes.
    pub(super) begin: usize,
    pub(super) end: usize,
    /// The length of each; at least 1.
    pub(super) segment: usize,
    /// By which socket it came.
    pub(super) by: By,
    /// Whether somebody passed it on.
    pub(super) is_brought: bool,
}

/// A message that no kernel has received.
#[cfg(any(test, fuzzing))]
#[derive(Debug)]
pub(super) struct Given {
    pub(super) from: SocketAddr,
    /// The length of each datagram, where the kernel says one.
    pub(super) segment: Option<libc::c_int>,
    pub(super) bytes: Vec<u8>,
}

/// Nobody is there (RFC 6666): such addresses stand for ways by other hosts, and only what comes by these is from them.
fn is_discarded(from: SocketAddr) -> bool {
    matches!(from, SocketAddr::V6(v6) if v6.ip().segments()[..4] == [0x100, 0, 0, 0])
}

// SAFETY: the pointers in places and headers lead into the same value's own buffers, and are only followed by the kernel
// during the call that `fill` makes.
unsafe impl Send for Receive {}

impl Receive {
    pub(super) fn new() -> Self {
        let place = Place {
            name: Address::default(),
            control: Control::default(),
            bytes: libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 },
        };
        // SAFETY: mmsghdr is plain data, for which all zeroes are valid.
        let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Self {
            bytes: vec![0; BEGIN + STRIDE * MESSAGES],
            places: vec![place; MESSAGES],
            headers: vec![header; MESSAGES],
            used: MESSAGES,
            by: By::First,
            most: [RUNS; 3],
        }
    }

    /// Receives what there is at this socket, or one message of it; says how many. Errors of earlier sending are no concern here.
    #[unsafe(link_section = "frame_path")]
    pub(super) fn fill(&mut self, socket: RawFd, by: By, only_one: bool) -> usize {
        self.by = by;
        self.prepare();
        let kind = match by {
            By::First => 0,
            By::Own => 1,
            By::Connected(_) => 2,
        };
        let most = if only_one { 1 } else { self.most[kind] };
        let most = libc::c_uint::try_from(most).unwrap_or_default();
        for _ in 0..3 {
            // SAFETY: all headers point to places and bytes of our own, with their lengths.
            let count = unsafe {
                libc::recvmmsg(
                    socket,
                    self.headers.as_mut_ptr(),
                    most,
                    libc::MSG_DONTWAIT,
                    std::ptr::null_mut(),
                )
            };
            if let Ok(count) = usize::try_from(count) {
                let bytes: usize = self.headers[..count].iter().map(|header| header.msg_len as usize).sum();
                self.used = count;
                self.most[kind] = if bytes > count * RUN { RUNS } else { MESSAGES };
                return count;
            }
            if std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock {
                break;
            }
            // What an earlier datagram met on its way (ECONNREFUSED and others) is told once, then receiving goes on.
        }
        0
    }

    /// Takes these as if the kernel had received them, at 127.0.0.1: for tests, which are whoever they like.
    #[cfg(any(test, fuzzing))]
    pub(super) fn give(&mut self, by: By, messages: &[Given]) -> usize {
        self.by = by;
        self.prepare();
        let all = self.places.iter_mut().zip(&mut self.headers).enumerate();
        for ((index, (place, header)), given) in all.zip(messages) {
            self.bytes[BEGIN + index * STRIDE..][..given.bytes.len()].copy_from_slice(&given.bytes);
            header.msg_len = libc::c_uint::try_from(given.bytes.len()).unwrap_or_default();
            place.name = Address::of(given.from, true).map(|(name, _)| name).unwrap_or_default();
            let (control, mut at) = (&mut place.control, 0);
            let to = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
            let information = [&to[..], &[0; 4]].concat();
            at += put_control(control, at, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &information);
            if let Some(segment) = given.segment {
                at += put_control(control, at, libc::SOL_UDP, UDP_GRO, &segment.to_ne_bytes());
            }
            header.msg_hdr.msg_controllen = at;
        }
        self.used = messages.len().min(MESSAGES);
        self.used
    }

    /// Fills in the headers that were used.
    fn prepare(&mut self) {
        let used = std::mem::take(&mut self.used);
        let all = self.places.iter_mut().zip(&mut self.headers).enumerate();
        for (index, (place, header)) in all.take(used) {
            place.bytes.iov_base = self.bytes[BEGIN + index * STRIDE..].as_mut_ptr().cast();
            place.bytes.iov_len = LONGEST;
            let header = &mut header.msg_hdr;
            header.msg_name = (&raw mut place.name.0).cast();
            header.msg_namelen = Address::ROOM;
            header.msg_iov = &raw mut place.bytes;
            header.msg_iovlen = 1;
            header.msg_control = place.control.0.as_mut_ptr().cast();
            header.msg_controllen = place.control.0.len();
            header.msg_flags = 0;
        }
    }

    /// One of the messages that came; none when it is cut off or empty.
    #[unsafe(link_section = "frame_path")]
    pub(super) fn arrived(&self, index: usize) -> Option<Arrived> {
        let header = &self.headers[index];
        let length = usize::try_from(header.msg_len).unwrap_or(0).min(LONGEST);
        if length == 0 || header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let from = self.places[index].name.socket_address().filter(|from| !is_discarded(*from))?;
        let begin = BEGIN + index * STRIDE;
        let (end, segment) = (begin + length, length);
        let mut arrived = Arrived { from, to: None, begin, end, segment, by: self.by, is_brought: false };
        for (level, kind, data) in control_messages(&header.msg_hdr) {
            match (level, kind) {
                (libc::SOL_UDP, UDP_GRO) => {
                    if let Some(size) = data.first_chunk::<4>() {
                        let size = usize::try_from(i32::from_ne_bytes(*size)).unwrap_or(0);
                        arrived.segment = if size == 0 { length } else { size };
                    }
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let address = data.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes));
                    arrived.to = address.map(|ip| ip.to_canonical());
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let address = data.get(8..).and_then(|data| data.first_chunk::<4>());
                    arrived.to = address.map(|bytes| IpAddr::from(*bytes));
                }
                _ => {}
            }
        }
        Some(arrived)
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::fd::AsRawFd};

    use super::*;
    use crate::datapath::worker::in_a_namespace;

    #[test]
    fn of_single_datagrams_more_come_at_once_than_of_runs() {
        in_a_namespace(|| {
            let [near, far] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
            near.connect(far.local_addr().unwrap()).unwrap();
            let mut receive = Receive::new();
            let mut brought = |by, length: usize, count: usize| -> Vec<usize> {
                (0..count).for_each(|_| assert_eq!(near.send(&vec![7; length]).unwrap(), length));
                let mut counts = Vec::new();
                loop {
                    let count = receive.fill(far.as_raw_fd(), by, false);
                    if count == 0 {
                        return counts;
                    }
                    for index in 0..count {
                        let arrived = receive.arrived(index).unwrap();
                        assert_eq!(arrived.from, near.local_addr().unwrap());
                        assert_eq!((arrived.end - arrived.begin, arrived.by), (length, by));
                    }
                    counts.push(count);
                }
            };
            // What it is that comes is known afterwards.
            assert_eq!(brought(By::Own, 100, 100), [RUNS, MESSAGES, 20]);
            assert_eq!(brought(By::Own, RUN + 100, 18), [18]);
            assert_eq!(brought(By::Own, RUN + 100, 18), [RUNS, 2]);
            assert_eq!(brought(By::Own, 100, 18), [RUNS, 2]);
            assert_eq!(brought(By::Own, 100, 18), [18]);
            // Of what comes by other ports it says nothing.
            assert_eq!(brought(By::First, RUN + 100, 18), [RUNS, 2]);
            assert_eq!(brought(By::Own, 100, 18), [18]);
        });
    }
}
