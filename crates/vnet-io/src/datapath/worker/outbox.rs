//! Datagrams on their way out: sealed side by side into one buffer, and given to the kernel with as few calls as it takes.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use viaduct_vnet_proto::data::{Lane, PeerId, Spi, receiver};

use super::{Outlets, connected::Connected, wait::By};
use crate::datapath::{
    Event,
    api::Path,
    cipher::ROOM,
    counters::{LiveHost, LivePeer, LiveRelay},
    mailbox::{Relayed, Relays},
    socket::{Address, Control, Socket, UDP_SEGMENT},
};

/// How many bytes are gathered before they are sent: some super-frames, little enough to stay in the cache. With half of it, one
/// stream of TCP is 4 % slower: whoever receives them is woken more often.
const ARENA: usize = 512 << 10;
/// Where the first datagram begins: something stands [before](ROOM) each.
const BEGIN: usize = 64;
/// How many messages (runs of datagrams of one length to one peer) are sent with one call.
const MESSAGES: usize = 64;
/// How many datagrams the kernel cuts of one message (UDP_MAX_SEGMENTS of older kernels).
const MOST_SEGMENTS: usize = 64;
/// The kernel takes no more in one message, whatever is cut of it: an IPv6 packet without its header.
const LONGEST_MESSAGE: usize = 65_535 - 40 - 8;
/// A path whose messages the kernel would not cut is tried again after so many datagrams: routes change.
const RETRY: u64 = 1 << 20;
/// How long a full socket is waited for before frames are dropped: longer than any queue here lasts.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What is known of a way to a peer.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) path: Arc<Path>,
    pub(super) counters: Arc<LivePeer>,
    first: SocketAddr,
    /// Where the worker's own socket sends to, if it does.
    own: Option<SocketAddr>,
    /// Datagrams that are sent one by one before the kernel is asked to cut again.
    singly: u64,
}

impl Route {
    pub(super) fn new(path: Arc<Path>, counters: Arc<LivePeer>, worker: usize) -> Self {
        let first = path.via.map_or(path.remote, |via| via.relay);
        let own = path.own.get(receiver(worker, path.own.len())).copied().filter(|_| path.via.is_none());
        counters.unsegmented.set(0);
        Self { path, counters, first, own, singly: 0 }
    }

    /// Whether frames go by own ports, if there are keys for it.
    pub(super) fn has_own(&self) -> bool {
        self.own.is_some()
    }

    fn remote(&self, lane: Lane) -> SocketAddr {
        match lane {
            Lane::First => self.first,
            Lane::Own => self.own.unwrap_or(self.first),
        }
    }
}

pub(super) type Routes = HashMap<PeerId, Route, super::PeerHash>;

/// Datagrams of the same length, but for the last, which may be shorter.
#[derive(Clone, Copy, Debug)]
struct Message {
    to: Target,
    begin: usize,
    end: usize,
    segment: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Peer(PeerId, Lane),
    /// Something of others, by what it began with when it came.
    Relayed(Spi),
    /// Something by the worker's own socket, of which nothing is known yet.
    Probe(SocketAddr),
}

impl Message {
    fn datagrams(&self) -> usize {
        (self.end - self.begin).div_ceil(self.segment)
    }
}

/// See the module.
pub(super) struct Outbox {
    first: Socket,
    own: Option<Socket>,
    pub(super) connected: Connected,
    host: Arc<LiveHost>,
    outlets: Outlets,
    relays: Arc<Relays>,
    arena: Vec<u8>,
    used: usize,
    messages: Vec<Message>,
    /// What the kernel is given, as long as `messages` may be.
    frames: Vec<Envelope>,
    headers: Vec<libc::mmsghdr>,
}

/// What a header points to.
#[derive(Clone, Copy)]
struct Envelope {
    name: Address,
    name_length: libc::socklen_t,
    control: Control,
    control_length: usize,
    bytes: libc::iovec,
}

// SAFETY: the pointers in envelopes and headers lead into the same outbox's own buffers, and are only followed by the
// kernel during a call that `flush` makes.
unsafe impl Send for Outbox {}

impl Outbox {
    pub(super) fn new(first: Socket, host: Arc<LiveHost>, outlets: Outlets) -> Self {
        let bytes = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let envelope = Envelope {
            name: Address::default(),
            name_length: 0,
            control: Control::default(),
            control_length: 0,
            bytes,
        };
        // SAFETY: mmsghdr is plain data, for which all zeroes are valid.
        let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Self {
            first,
            own: None,
            connected: Connected::new(),
            host,
            outlets,
            relays: Arc::default(),
            arena: vec![0; ARENA],
            used: BEGIN,
            messages: Vec::with_capacity(MESSAGES),
            frames: vec![envelope; MESSAGES],
            headers: vec![header; MESSAGES],
        }
    }

    /// The socket that is sent from; a worker without one of its own takes the first.
    pub(super) fn socket(&self, by: By) -> &Socket {
        let own = || self.own.as_ref().unwrap_or(&self.first);
        match by {
            By::First => &self.first,
            By::Own => own(),
            By::Connected(index) => self.connected.socket(index).unwrap_or_else(own),
        }
    }

    /// From which socket something is sent.
    #[unsafe(link_section = "frame_path")]
    fn by(&self, to: Target, routes: &Routes) -> By {
        match to {
            Target::Peer(_, Lane::First) | Target::Relayed(_) => By::First,
            Target::Probe(_) => By::Own,
            Target::Peer(peer, Lane::Own) => routes
                .get(&peer)
                .and_then(|route| self.connected.toward(route.remote(Lane::Own), route.path.local))
                .map_or(By::Own, By::Connected),
        }
    }

    pub(super) fn own(&self) -> Option<&Socket> {
        self.own.as_ref()
    }

    /// Where what is of others goes. Nothing waits to be sent. What was found out about where something went before is
    /// forgotten when it goes elsewhere.
    pub(super) fn set_relays(&mut self, relays: Arc<Relays>) {
        for (spi, relayed) in &*relays {
            if let (Some((to, _)), Relayed::Onward(relay, counters)) = (self.onward(*spi), relayed)
                && to != relay.to
            {
                counters.unsegmented.set(0);
            }
        }
        self.relays = relays;
    }

    fn onward(&self, spi: Spi) -> Option<(SocketAddr, &LiveRelay)> {
        match self.relays.get(&spi)? {
            Relayed::Onward(relay, counters) => Some((relay.to, counters)),
            Relayed::Brought(_) => None,
        }
    }

    /// Nothing waits to be sent.
    pub(super) fn set_own(&mut self, own: Option<Socket>) {
        self.connected.close_all();
        self.own = own;
    }

    /// Opens what is wanted beside it. Nothing waits to be sent.
    pub(super) fn open_connected(&mut self) {
        self.connected.open(self.own.as_ref());
    }

    /// Room for a datagram, which the caller fills before anything else happens here, and what stands [before](ROOM) it. Sends what
    /// waits if there is none.
    #[unsafe(link_section = "frame_path")]
    pub(super) fn datagram(&mut self, to: Target, length: usize, routes: &mut Routes) -> &mut [u8] {
        if self.used + length > self.arena.len()
            || !self.extends(to, length) && self.messages.len() == MESSAGES
        {
            self.flush(routes);
        }
        let begin = self.used;
        self.used += length;
        if self.extends(to, length) {
            if let Some(last) = self.messages.last_mut() {
                last.end = self.used;
            }
        } else {
            self.messages.push(Message { to, begin, end: self.used, segment: length });
        }
        &mut self.arena[begin - ROOM..self.used]
    }

    /// Takes the last datagram back.
    pub(super) fn take_back(&mut self, length: usize) {
        self.used -= length;
        if let Some(last) = self.messages.last_mut() {
            last.end -= length;
            if last.end == last.begin {
                self.messages.pop();
            }
        }
    }

    #[unsafe(link_section = "frame_path")]
    fn extends(&self, to: Target, length: usize) -> bool {
        self.messages.last().is_some_and(|last| {
            let filled = last.end - last.begin;
            last.to == to
                && length <= last.segment
                && filled.is_multiple_of(last.segment)
                && filled + length <= LONGEST_MESSAGE
                && filled / last.segment < MOST_SEGMENTS
        })
    }

    /// Sends everything.
    #[unsafe(link_section = "frame_path")]
    pub(super) fn flush(&mut self, routes: &mut Routes) {
        let mut messages = std::mem::take(&mut self.messages);
        let mut rest = &messages[..];
        while let [message, ..] = rest {
            // Runs that the kernel will not cut go one by one.
            if message.datagrams() > 1 && self.must_go_singly(message.to, routes) {
                self.send_singly(*message, routes);
                rest = &rest[1..];
                continue;
            }
            // One call sends from one socket.
            let by = self.by(message.to, routes);
            let goes_elsewhere = |to| to != message.to && self.by(to, routes) != by;
            let together = rest
                .iter()
                .position(|m| goes_elsewhere(m.to) || m.datagrams() > 1 && self.must_go_singly(m.to, routes))
                .unwrap_or(rest.len());
            let sent = self.send(&rest[..together], by, routes);
            rest = &rest[sent..];
        }
        messages.clear();
        self.messages = messages;
        self.used = BEGIN;
    }

    /// Sends some of these messages; says how many are done with, at least one.
    #[unsafe(link_section = "frame_path")]
    fn send(&mut self, messages: &[Message], by: By, routes: &mut Routes) -> usize {
        let mut count = 0;
        for (index, message) in messages.iter().take(MESSAGES).enumerate() {
            if !self.address(index, message, by, routes) {
                break;
            }
            count += 1;
        }
        if count == 0 {
            // Its peer has no path any more, or one of a family that this socket does not have.
            self.count_failure(&messages[0], routes);
            return 1;
        }
        match self.call(count, by) {
            Ok(sent) => {
                for message in &messages[..sent] {
                    self.count_sent(message, routes);
                }
                sent
            }
            // The address that it sends from may be this host's no longer, or no way may lead there from it: another may do.
            Err(error)
                if let By::Connected(index) = by
                    && !is_of_any_socket(&error) =>
            {
                self.connected.refused(index);
                self.send(messages, By::Own, routes)
            }
            Err(error) => {
                self.failed(messages[0], &error, routes);
                1
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn failed(&mut self, message: Message, error: &io::Error, routes: &mut Routes) {
        let many = message.datagrams() > 1;
        match error.raw_os_error() {
            // EIO: the device cannot do checksums. EINVAL, ENOPROTOOPT, EOPNOTSUPP: a kernel that does not cut, or not
            // this. EMSGSIZE: one of them may still fit.
            Some(libc::EIO | libc::EINVAL | libc::ENOPROTOOPT | libc::EOPNOTSUPP) if many => {
                match message.to {
                    Target::Peer(peer, _) => {
                        if let Some(route) = routes.get_mut(&peer) {
                            route.singly = RETRY;
                            route.counters.segmentation_refused.one();
                            route.counters.unsegmented.set(1);
                        }
                    }
                    Target::Relayed(spi) => {
                        if let Some((_, counters)) = self.onward(spi) {
                            counters.unsegmented.set(RETRY);
                            counters.segmentation_refused.one();
                        }
                    }
                    Target::Probe(_) => {}
                }
                self.send_singly(message, routes);
            }
            Some(libc::EMSGSIZE) if many => self.send_singly(message, routes),
            Some(libc::EMSGSIZE) if let Target::Peer(peer, lane) = message.to => {
                if let Some(route) = routes.get(&peer) {
                    route.counters.too_big.one();
                    let told = Event::PathTooBig { remote: route.remote(lane), largest_packet: None };
                    self.outlets.tell(told, &self.host);
                }
            }
            _ => self.count_failure(&message, routes),
        }
    }

    #[inline(never)]
    fn send_singly(&mut self, message: Message, routes: &mut Routes) {
        let mut singles = [message; MOST_SEGMENTS];
        let count = message.datagrams().min(MOST_SEGMENTS);
        for (index, single) in singles[..count].iter_mut().enumerate() {
            single.begin = message.begin + index * message.segment;
            single.end = (single.begin + message.segment).min(message.end);
            single.segment = single.end - single.begin;
        }
        match message.to {
            Target::Peer(peer, _) => {
                if let Some(route) = routes.get_mut(&peer) {
                    route.counters.sent_singly.add(count as u64);
                    route.singly = route.singly.saturating_sub(count as u64);
                    route.counters.unsegmented.set(u64::from(route.singly > 0));
                }
            }
            Target::Relayed(spi) => {
                if let Some((_, counters)) = self.onward(spi) {
                    counters.sent_singly.add(count as u64);
                    counters.unsegmented.set(counters.unsegmented.value().saturating_sub(count as u64));
                }
            }
            Target::Probe(_) => {}
        }
        let mut done = 0;
        while done < count {
            let by = self.by(message.to, routes);
            done += self.send(&singles[done..count], by, routes);
        }
    }

    /// Gives the first headers to the kernel; says how many it took. Waits for the socket, and does not for ever.
    fn call(&mut self, count: usize, by: By) -> io::Result<usize> {
        let mut has_waited = false;
        let mut pending_error_seen = false;
        loop {
            self.host.send_calls.one();
            let length = libc::c_uint::try_from(count).unwrap_or_default();
            // SAFETY: the first `count` headers point to envelopes and bytes that nobody else uses until the call returns.
            let sent = unsafe {
                libc::sendmmsg(self.socket(by).raw(), self.headers.as_mut_ptr(), length, libc::MSG_DONTWAIT)
            };
            if let Ok(sent @ 1..) = usize::try_from(sent) {
                return Ok(sent);
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN | libc::ENOBUFS) if !has_waited => {
                    has_waited = true;
                    let mut waiting = [PollFd::from_borrowed_fd(self.socket(by).as_fd(), PollFlags::OUT)];
                    // When it fails, the next attempt tells.
                    let _ = poll(&mut waiting, Some(&PATIENCE));
                }
                // What an earlier datagram met on its way, which may be anything that ICMP says, is told by the next call,
                // which sends nothing.
                _ if !pending_error_seen => pending_error_seen = true,
                _ => return Err(error),
            }
        }
    }

    /// Fills in the header of this index; says whether the message has somewhere to go.
    fn address(&mut self, index: usize, message: &Message, by: By, routes: &Routes) -> bool {
        let (remote, local) = match message.to {
            Target::Probe(to) => (to, None),
            Target::Relayed(spi) => match self.onward(spi) {
                Some((to, _)) => (to, None),
                None => return false,
            },
            Target::Peer(peer, lane) => match routes.get(&peer) {
                Some(route) => (route.remote(lane), route.path.local),
                None => return false,
            },
        };
        let is_ipv6 = self.socket(by).is_ipv6();
        let Some((name, name_length)) = Address::of(remote, is_ipv6) else { return false };
        let envelope = &mut self.frames[index];
        (envelope.name, envelope.name_length) = (name, name_length);
        let length = message.end - message.begin;
        let mut control_length = 0;
        if length > message.segment {
            let segment = u16::try_from(message.segment).unwrap_or(u16::MAX);
            control_length +=
                put_control(&mut envelope.control, 0, libc::SOL_UDP, UDP_SEGMENT, &segment.to_ne_bytes());
        }
        if let Some(local) = local {
            let (level, kind, data, size) = source(local, is_ipv6);
            control_length += put_control(&mut envelope.control, control_length, level, kind, &data[..size]);
        }
        envelope.control_length = control_length;
        envelope.bytes =
            libc::iovec { iov_base: self.arena[message.begin..].as_mut_ptr().cast(), iov_len: length };
        let header = &mut self.headers[index].msg_hdr;
        (header.msg_name, header.msg_namelen) = match by {
            // It knows the way.
            By::Connected(_) => (std::ptr::null_mut(), 0),
            By::First | By::Own => ((&raw mut envelope.name.0).cast(), envelope.name_length),
        };
        header.msg_iov = &raw mut envelope.bytes;
        header.msg_iovlen = 1;
        header.msg_control = match control_length {
            0 => std::ptr::null_mut(),
            _ => envelope.control.0.as_mut_ptr().cast(),
        };
        header.msg_controllen = control_length;
        true
    }

    fn must_go_singly(&self, to: Target, routes: &Routes) -> bool {
        match to {
            Target::Peer(peer, _) => routes.get(&peer).is_some_and(|route| route.singly > 0),
            Target::Relayed(spi) => self.onward(spi).is_some_and(|(_, known)| known.unsegmented.value() > 0),
            Target::Probe(_) => false,
        }
    }

    #[cold]
    #[inline(never)]
    fn count_failure(&self, message: &Message, routes: &Routes) {
        let datagrams = message.datagrams() as u64;
        match message.to {
            Target::Peer(peer, _) => {
                if let Some(route) = routes.get(&peer) {
                    route.counters.send_failed.add(datagrams);
                }
            }
            Target::Relayed(spi) => {
                if let Some((_, counters)) = self.onward(spi) {
                    counters.send_failed.add(datagrams);
                }
            }
            Target::Probe(_) => {}
        }
    }

    fn count_sent(&self, message: &Message, routes: &Routes) {
        let datagrams = message.datagrams() as u64;
        match message.to {
            Target::Relayed(_) => self.host.relayed.add(datagrams),
            // Counted when they are made.
            Target::Probe(_) => {}
            Target::Peer(peer, _) => {
                if let Some(route) = routes.get(&peer) {
                    route.counters.datagrams_out.add(datagrams);
                    route.counters.bytes_out.add((message.end - message.begin) as u64);
                }
            }
        }
    }
}

/// Whether it would be the same by another socket: there is no room, or the path takes less.
fn is_of_any_socket(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::EMSGSIZE))
}

/// The control message that says from which address to send (ip(7), ipv6(7)).
fn source(local: IpAddr, is_ipv6: bool) -> (libc::c_int, libc::c_int, [u8; 20], usize) {
    let mut data = [0; 20];
    match local {
        // struct in_pktinfo: interface, source, destination.
        IpAddr::V4(v4) if !is_ipv6 => {
            data[4..8].copy_from_slice(&v4.octets());
            (libc::IPPROTO_IP, libc::IP_PKTINFO, data, 12)
        }
        // struct in6_pktinfo: source, interface.
        IpAddr::V4(_) | IpAddr::V6(_) => {
            let v6 = match local {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            data[..16].copy_from_slice(&v6.octets());
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, data, 20)
        }
    }
}

/// Writes a control message (cmsg(3)) behind those that are there; says how much room it takes.
pub(super) fn put_control(
    control: &mut Control,
    at: usize,
    level: libc::c_int,
    kind: libc::c_int,
    data: &[u8],
) -> usize {
    let size = libc::c_uint::try_from(data.len()).unwrap_or_default();
    // SAFETY: these only compute.
    let (space, length, offset) = unsafe {
        (libc::CMSG_SPACE(size) as usize, libc::CMSG_LEN(size) as usize, libc::CMSG_LEN(0) as usize)
    };
    let place = &mut control.0[at..at + space];
    place.fill(0);
    place[..size_of::<usize>()].copy_from_slice(&length.to_ne_bytes());
    place[8..12].copy_from_slice(&level.to_ne_bytes());
    place[12..16].copy_from_slice(&kind.to_ne_bytes());
    place[offset..offset + data.len()].copy_from_slice(data);
    space
}

#[cfg(test)]
mod tests;
