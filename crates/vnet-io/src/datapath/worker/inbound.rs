//! From the peers to the taps.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use viaduct_types::MacAddr;
use viaduct_vnet_proto::data::{
    FromPeer, Lane, PeerId, ReplayWindow, Spi,
    esp::{Half, Probe},
    source,
};

use super::{
    Outlets, Worker,
    connected::{Amount, Wish},
    pace::Load,
    receive::Arrived,
    vnet::Vnet,
    wait::By,
};
use crate::datapath::{
    Datagram, Event,
    cipher::{Keys, NotOpened, ROOM},
    counters::LiveHost,
    mailbox::Slot,
};

/// How many calls that receive are made before others get their turn.
const CALLS: usize = 2;
/// QUIC has this bit in the first byte (RFC 9000, section 17), an SPI of ours never.
const QUIC: u8 = 0x40;
/// Nobody asks more often whether what he sends arrives.
const PROBES: Duration = Duration::from_millis(20);
/// Nor is it told more often that a peer sends from somewhere else: it may do so in turns.
const ROAMS: Duration = Duration::from_millis(20);

/// Keys for what a peer sends.
pub(super) struct Inbound {
    keys: Keys,
    window: ReplayWindow,
    peer: PeerId,
    lane: Lane,
    pub(super) slot: Slot,
    queue: usize,
    /// The part of a frame that came last and whose other one has not come, with its number.
    half: Option<(u64, Half)>,
    /// Its bytes.
    half_bytes: Vec<u8>,
    /// When it was last told of a probe.
    probed: Option<Duration>,
    /// An address other than the peer's that it was told to have, and when.
    told: Option<(SocketAddr, Duration)>,
    /// What came to the worker's own socket.
    amount: Amount,
}

impl Inbound {
    pub(super) fn new(keys: Keys, (peer, lane): (PeerId, Lane), (slot, queue): (Slot, usize)) -> Self {
        let window = ReplayWindow::default();
        let (half, half_bytes) = (None, Vec::new());
        let (probed, told, amount) = (None, None, Amount::default());
        Self { keys, window, peer, lane, slot, queue, half, half_bytes, probed, told, amount }
    }

    /// Takes a part of a frame; gives the frame when the other one is here, too. One part waits at most: they are sent one
    /// after the other.
    #[inline(never)]
    fn join(&mut self, number: u64, half: Half, bytes: &[u8]) -> Option<Vec<u8>> {
        let other = self.half.take();
        if bytes.len() > Half::LONGEST {
            return None;
        }
        if other.is_some_and(|(waiting, other)| other != half && waiting == half.number_of_other(number)) {
            let mut frame = std::mem::take(&mut self.half_bytes);
            match half {
                Half::Second => frame.extend_from_slice(bytes),
                Half::First => drop(frame.splice(..0, bytes.iter().copied())),
            }
            return Some(frame);
        }
        self.half = Some((number, half));
        self.half_bytes.clear();
        self.half_bytes.extend_from_slice(bytes);
        None
    }

    /// Whether an address is one that the peer is known to send from. What it sends from ports of its own comes from any.
    fn knows(&self, from: SocketAddr, remote: SocketAddr) -> bool {
        match self.lane {
            Lane::First => remote == from,
            Lane::Own => remote.ip() == from.ip(),
        }
    }
}

/// What was decided for a frame; the next is usually alike. All that is decided by is in its header.
#[derive(Clone, Copy)]
pub(super) struct Decided {
    slot: Slot,
    peer: PeerId,
    header: [u8; 14],
    decision: FromPeer,
}

impl Worker {
    /// Carries what a socket has; says how much that was.
    pub(super) fn carry_in(&mut self, by: By) -> Load {
        let mut load = Load::default();
        for _ in 0..CALLS {
            let Some(socket) = self.socket(by) else { break };
            let socket = socket.raw();
            self.host.receive_calls.one();
            let count = self.receive.fill(socket, by, self.is_alone);
            load += self.carry_received(count);
            if count < 2 {
                break;
            }
        }
        self.has_carried_in(by, load);
        load
    }

    /// This much came by that socket.
    pub(super) fn has_carried_in(&mut self, by: By, load: Load) {
        if let By::Connected(index) = by
            && load.pieces > 0
        {
            self.outbox.connected.heard(index);
        }
        self.outbox.open_connected();
    }

    /// Carries so many messages that were received; says how much that was.
    pub(super) fn carry_received(&mut self, count: usize) -> Load {
        let mut load = Load::default();
        let mut last = None;
        for index in 0..count {
            match self.receive.arrived(index) {
                Some(arrived) => {
                    load += Load { pieces: 1, bytes: arrived.end - arrived.begin };
                    self.arrive(arrived, &mut last);
                }
                None => self.host.malformed.one(),
            }
        }
        self.deliver.flush(&self.vnets, self.receive.bytes());
        self.outbox.flush(&mut self.routes);
        load
    }

    fn arrive(&mut self, arrived: Arrived, last: &mut Option<Decided>) {
        let mut begin = arrived.begin;
        while begin < arrived.end {
            let end = (begin + arrived.segment).min(arrived.end);
            self.datagram(&arrived, begin, end, last);
            begin = end;
        }
    }

    #[unsafe(link_section = "frame_path")]
    pub(super) fn datagram(
        &mut self,
        arrived: &Arrived,
        begin: usize,
        end: usize,
        last: &mut Option<Decided>,
    ) {
        let Self { receive, inbound, host, outlets, outbox, routes, vnets, .. } = self;
        let (deliver, start) = (&mut self.deliver, &self.start);
        let place = &mut receive.bytes()[begin - ROOM..end];
        let datagram = &place[ROOM..];
        if datagram[0] & QUIC != 0 {
            host.quic.one();
            let (from, to) = (arrived.from, arrived.to);
            if outlets.datagrams.try_send(Datagram { from, to, bytes: datagram.to_vec() }).is_err() {
                host.quic_dropped.one();
            }
            return;
        }
        let Some(header) = datagram.first_chunk::<8>() else { return host.malformed.one() };
        let [spi @ .., _, _, _, _] = header;
        let Some(spi) = Spi::new(u32::from_be_bytes(*spi)) else { return host.unknown_spi.one() };
        let low = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let Some(association) = inbound.get_mut(&spi) else {
            return self.relayed(arrived, spi, (begin, end), last);
        };
        if datagram.len() < association.keys.least() {
            return host.malformed.one();
        }
        let number = association.window.infer(low);
        if association.window.check(number).is_err() {
            return host.replayed.one();
        }
        let number_of_this = number;
        let opened = association.keys.open(number, place);
        let datagram = &mut place[ROOM..];
        if opened == Err(NotOpened::Forged) {
            return host.forged.one();
        }
        if association.window.accept(number).is_err() {
            return host.replayed.one();
        }
        if arrived.by == By::Own {
            if association.amount.is_much(|| start.elapsed()) {
                outbox.connected.want(Wish::Much, arrived.from, arrived.to);
            } else if outbox.connected.has_room() {
                outbox.connected.want(Wish::Little, arrived.from, arrived.to);
            }
        }
        let Inbound { peer, slot, queue, .. } = *association;
        if let Some(route) = routes.get(&peer) {
            route.counters.datagrams_in.one();
            route.counters.bytes_in.add(datagram.len() as u64);
            if arrived.by.lane() == Lane::First {
                route.counters.datagrams_in_first.one();
            }
            if !association.knows(arrived.from, route.path.remote)
                && association.told.is_none_or(|(told, _)| told != arrived.from)
            {
                let now = start.elapsed();
                if association.told.is_none_or(|(_, then)| now.saturating_sub(then) >= ROAMS) {
                    association.told = Some((arrived.from, now));
                    outlets.tell(Event::Roamed { peer, from: arrived.from }, host);
                }
            }
        }
        let (first, after) = match opened {
            Ok(frame) => frame,
            Err(NotOpened::Dummy(first, after)) => {
                let now = start.elapsed();
                let is_due = association.probed.is_none_or(|then| now.saturating_sub(then) >= PROBES);
                if let Some(Probe { worker, number }) = Probe::read(&datagram[first..after])
                    && is_due
                    && association.lane == Lane::Own
                {
                    association.probed = Some(now);
                    outlets.tell(Event::Probed { peer, worker, number }, host);
                }
                if let Some((half, bytes)) = Half::read(&datagram[first..after])
                    && let Some(frame) = association.join(number_of_this, half, bytes)
                {
                    self.joined(spi, (slot, queue, peer), frame);
                }
                return;
            }
            Err(NotOpened::NotAFrame | NotOpened::Forged) => return host.not_a_frame.one(),
        };
        let Some(Some(vnet)) = vnets.get_mut(slot) else { return };
        let frame = &mut datagram[first..after];
        let decision = match (&*last, frame.first_chunk::<14>()) {
            (Some(known), Some(header))
                if known.slot == slot && known.peer == peer && known.header == *header =>
            {
                known.decision
            }
            (_, header) => {
                let forwarding = Arc::clone(&vnet.forwarding);
                let decision = forwarding.from_peer(peer, frame);
                *last = header.map(|header| Decided { slot, peer, header: *header, decision });
                decision
            }
        };
        match decision {
            FromPeer::Deliver => {
                let length = after - first;
                deliver.add(vnets, (slot, queue), receive.bytes(), (begin + first, length));
            }
            FromPeer::Forward(next) => {
                Self::forward(vnet, next, frame, (outbox, routes), (outlets, host));
            }
            refused @ (FromPeer::NotHere | FromPeer::Malformed | FromPeer::ForeignSource) => {
                refuse(refused, vnet, (peer, frame), (outlets, host))
            }
        }
    }

    /// A frame that came in two, which stands nowhere else.
    fn joined(&mut self, spi: Spi, (slot, queue, peer): (Slot, usize, PeerId), mut frame: Vec<u8>) {
        let Self { receive, inbound, host, outlets, outbox, routes, vnets, deliver, .. } = self;
        // What came before goes first.
        deliver.flush(vnets, receive.bytes());
        let Some(Some(vnet)) = vnets.get_mut(slot) else { return };
        let forwarding = Arc::clone(&vnet.forwarding);
        match forwarding.from_peer(peer, &frame) {
            FromPeer::Deliver => deliver.one(vnet, queue, &mut frame),
            FromPeer::Forward(next) => {
                Self::forward(vnet, next, &mut frame, (outbox, routes), (outlets, host));
            }
            refused @ (FromPeer::NotHere | FromPeer::Malformed | FromPeer::ForeignSource) => {
                refuse(refused, vnet, (peer, &frame), (outlets, host))
            }
        }
        // The next one needs no new room.
        if let Some(association) = inbound.get_mut(&spi) {
            association.half_bytes = frame;
        }
    }
}

/// Counts a frame that goes no further.
fn refuse(
    decision: FromPeer,
    vnet: &mut Vnet,
    (peer, frame): (PeerId, &[u8]),
    (outlets, host): (&Outlets, &LiveHost),
) {
    match decision {
        FromPeer::Deliver | FromPeer::Forward(_) => {}
        FromPeer::NotHere => vnet.counters.not_here.one(),
        FromPeer::Malformed => host.not_a_frame.one(),
        FromPeer::ForeignSource => {
            vnet.counters.foreign_source.one();
            let mac = source(frame).unwrap_or(MacAddr([0; 6]));
            if vnet.told.is_news(mac, Some(peer)) {
                if vnet.foreign.lets_through(vnet.since.elapsed()) {
                    outlets.tell(Event::ForeignSource { vnet: vnet.id, peer, mac }, host);
                } else {
                    vnet.told.take_back(mac);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use viaduct_vnet_proto::data::esp::Cipher;

    use super::*;
    use crate::datapath::api::KeyMaterial;

    #[test]
    fn halves_find_each_other_and_no_others() {
        let cipher = Cipher::Aes128Gcm;
        let material = KeyMaterial::new(cipher, &[7; 20]).unwrap();
        let keys = Keys::new(Spi::new(0x1000).unwrap(), cipher, &material).unwrap();
        let mut inbound = Inbound::new(keys, (PeerId(1), Lane::First), (0, 0));
        let mut join = |number, half, bytes: &[u8]| inbound.join(number, half, bytes);
        assert_eq!(join(1, Half::First, b"ab"), None);
        assert_eq!(join(2, Half::Second, b"cd").as_deref(), Some(&b"abcd"[..]));
        // In the other order.
        assert_eq!(join(6, Half::Second, b"cd"), None);
        assert_eq!(join(5, Half::First, b"ab").as_deref(), Some(&b"abcd"[..]));
        // One is lost, of either kind: nothing is made of what is left.
        assert_eq!(join(7, Half::First, b"ab"), None);
        assert_eq!(join(10, Half::Second, b"cd"), None);
        assert_eq!(join(11, Half::First, b"ab"), None);
        assert_eq!(join(14, Half::Second, b"cd"), None);
        assert_eq!(join(15, Half::First, b"ef"), None);
        assert_eq!(join(16, Half::First, b"ab"), None, "two beginnings");
        assert_eq!(join(17, Half::Second, b"").as_deref(), Some(&b"ab"[..]));
        assert_eq!(join(18, Half::First, b"ab"), None);
        assert_eq!(join(17, Half::Second, b"cd"), None, "the end of the one before");
    }
}
