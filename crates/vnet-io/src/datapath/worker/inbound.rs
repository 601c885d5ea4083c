//! From the peers to the taps.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use viaduct_types::MacAddr;
use viaduct_vnet_proto::data::{FromPeer, Lane, PeerId, ReplayWindow, Spi, esp::Probe};

use super::{Worker, outbound, pace::Load, receive::Arrived};
use crate::datapath::{
    Datagram, Event,
    cipher::{Keys, NotOpened},
    mailbox::Slot,
};

/// How many calls that receive are made before others get their turn.
const CALLS: usize = 2;
/// QUIC has this bit in the first byte (RFC 9000, section 17), an SPI of ours never.
const QUIC: u8 = 0x40;
/// Nobody asks more often whether what he sends arrives.
const PROBES: Duration = Duration::from_millis(20);

/// Keys for what a peer sends.
pub(super) struct Inbound {
    keys: Keys,
    window: ReplayWindow,
    peer: PeerId,
    lane: Lane,
    pub(super) slot: Slot,
    queue: usize,
    /// When it was last told of a probe.
    probed: Option<Duration>,
    /// An address other than the peer's that it was told to have.
    told: Option<SocketAddr>,
}

impl Inbound {
    pub(super) fn new(keys: Keys, (peer, lane): (PeerId, Lane), (slot, queue): (Slot, usize)) -> Self {
        Self { keys, window: ReplayWindow::default(), peer, lane, slot, queue, probed: None, told: None }
    }

    /// Whether an address is one that the peer is known to send from. What it sends from ports of its own comes from any.
    fn knows(&self, from: SocketAddr, remotes: &[SocketAddr]) -> bool {
        let same = |remote: &SocketAddr| match self.lane {
            Lane::First => *remote == from,
            Lane::Own => remote.ip() == from.ip(),
        };
        remotes.iter().any(same)
    }
}

/// What was decided for a frame; the next is usually alike.
#[derive(Clone, Copy)]
pub(super) struct Decided {
    slot: Slot,
    peer: PeerId,
    addresses: [u8; 12],
    decision: FromPeer,
}

impl Worker {
    /// Carries what the socket has; says how much that was.
    pub(super) fn carry_in(&mut self) -> Load {
        let mut load = Load::default();
        for _ in 0..CALLS {
            self.host.receive_calls.one();
            let Some(socket) = super::receives(self.index, &self.outbox) else { break };
            let count = self.receive.fill(socket.raw());
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
            if count < 2 {
                break;
            }
        }
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

    pub(super) fn datagram(
        &mut self,
        arrived: &Arrived,
        begin: usize,
        end: usize,
        last: &mut Option<Decided>,
    ) {
        let Self { receive, inbound, host, outlets, outbox, routes, scratch, vnets, deliver, start, .. } =
            self;
        let datagram = &mut receive.bytes()[begin..end];
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
        let opened = association.keys.open(number, datagram, scratch);
        if opened == Err(NotOpened::Forged) {
            return host.forged.one();
        }
        if association.window.accept(number).is_err() {
            return host.replayed.one();
        }
        let Inbound { peer, slot, queue, .. } = *association;
        if let Some(route) = routes.get(&peer) {
            route.counters.datagrams_in.one();
            route.counters.bytes_in.add(datagram.len() as u64);
            if !association.knows(arrived.from, &route.path.remotes) && association.told != Some(arrived.from)
            {
                association.told = Some(arrived.from);
                outlets.tell(Event::Roamed { peer, from: arrived.from }, host);
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
                return;
            }
            Err(NotOpened::NotAFrame | NotOpened::Forged) => return host.not_a_frame.one(),
        };
        let Some(Some(vnet)) = vnets.get_mut(slot) else { return };
        let frame = &mut datagram[first..after];
        let decision = match (&*last, frame.first_chunk::<12>()) {
            (Some(known), Some(addresses))
                if known.slot == slot && known.peer == peer && known.addresses == *addresses =>
            {
                known.decision
            }
            (_, addresses) => {
                let forwarding = Arc::clone(&vnet.forwarding);
                let decision = forwarding.from_peer(peer, frame);
                *last = addresses.map(|addresses| Decided { slot, peer, addresses: *addresses, decision });
                decision
            }
        };
        match decision {
            FromPeer::Deliver => {
                let length = after - first;
                deliver.add(vnets, (slot, queue), receive.bytes(), (begin + first, length));
            }
            FromPeer::Forward(next) => {
                Self::forward(vnet, next, frame, (outbox, routes, scratch), (outlets, host));
            }
            FromPeer::NotHere => vnet.counters.not_here.one(),
            FromPeer::Malformed => host.not_a_frame.one(),
            FromPeer::ForeignSource => {
                vnet.counters.foreign_source.one();
                let mac = outbound::source(frame).unwrap_or(MacAddr([0; 6]));
                if vnet.told.is_news(mac, Some(peer)) {
                    outlets.tell(Event::ForeignSource { vnet: vnet.id, peer, mac }, host);
                }
            }
        }
    }
}
