//! From a tap to the peers.

use std::{net::SocketAddr, os::fd::AsFd};

use viaduct_vnet_proto::data::{
    Cut, CutError, DropReason, Interest, Lane, LocalSource, OFFLOAD_HEADER, Offload, PeerId, To, clamp_mss,
    esp::{Half, Probe, datagram_length, largest_frame},
    fragments, source,
};

use super::{
    Outlets, Worker,
    outbox::{Outbox, Routes, Target},
    pace::Load,
    vnet::{Lanes, Outbound, Vnet},
};
use crate::datapath::{Event, cipher::ROOM, counters::LiveHost, mailbox::Slot};

/// How many frames of a tap are taken before others get their turn.
const FRAMES: usize = 64;
/// How many bytes: some super-frames, so that a small frame does not wait for long behind them.
const BYTES: usize = 512 << 10;
/// No path has to take less than what IPv6 counts on (RFC 8200, section 5), in a frame with a tag.
const LEAST: usize = 14 + 4 + 1280;
/// How much of a frame that is too big an answer by ICMP needs (RFC 4443, section 2.4 (c), with the headers before).
const HEAD: usize = 1_280;

/// What sending a frame needs besides the vnet.
struct Way<'a> {
    outbox: &'a mut Outbox,
    routes: &'a mut Routes,
    outlets: &'a Outlets,
    host: &'a LiveHost,
}

impl Worker {
    /// Carries what a tap has; says how much that was.
    pub(super) fn carry_out(&mut self, slot: Slot, has_errors: bool) -> Load {
        let mut load = Load::default();
        let Self { vnets, outbox, routes, outlets, host, frame: buffer, epoll, is_alone, .. } = self;
        let Some(Some(vnet)) = vnets.get_mut(slot) else { return load };
        let mut way = Way { outbox, routes, outlets, host };
        let most = if *is_alone { 1 } else { FRAMES };
        for _ in 0..most {
            let length = match rustix::io::read(&vnet.queue, &mut buffer[..]) {
                Ok(length) => length,
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(_) => {
                    // EBADFD: the device was deleted. It would be ready for ever.
                    if has_errors && !vnet.is_gone {
                        vnet.is_gone = true;
                        Self::pass_over(epoll, slot, vnet.queue.as_fd());
                        outlets.tell(Event::TapGone { vnet: vnet.id }, host);
                    }
                    break;
                }
            };
            way.host.tap_reads.one();
            let Some((header, frame)) = buffer[..length].split_first_chunk_mut::<OFFLOAD_HEADER>() else {
                vnet.counters.malformed.one();
                continue;
            };
            carry(vnet, &Offload::read(header), frame, &mut way);
            load += Load { pieces: 1, bytes: length };
            if load.bytes >= BYTES {
                break;
            }
        }
        way.outbox.flush(way.routes);
        load
    }

    /// Sends a frame of the control side's.
    pub(super) fn send(&mut self, slot: Slot, peer: Option<PeerId>, mut frame: Vec<u8>) {
        let Self { vnets, outbox, routes, outlets, host, .. } = self;
        let Some(Some(vnet)) = vnets.get_mut(slot) else { return };
        let mut way = Way { outbox, routes, outlets, host };
        let forwarding = std::sync::Arc::clone(&vnet.forwarding);
        let one = peer.as_slice();
        let peers = if peer.is_some() { one } else { &forwarding.flood };
        for peer in peers {
            send_to(*peer, vnet, &Offload::NONE, &mut frame, &mut way);
        }
        way.outbox.flush(way.routes);
    }

    /// Sends a number to where frames would go by the worker's own socket, sealed with the keys of any vnet.
    pub(super) fn probe(&mut self, peer: PeerId, number: u32, to: SocketAddr) {
        let Self { vnets, outbox, routes, outlets, host, index, .. } = self;
        let mut all = vnets.iter_mut().flatten();
        let own = all.find_map(|vnet| Some((vnet.id, vnet.outbound.get_mut(&peer)?.own.as_mut()?)));
        let (Some((vnet, own)), Ok(worker)) = (own, u8::try_from(*index)) else {
            return;
        };
        if outbox.own().is_none() {
            return;
        }
        let way = Way { outbox, routes, outlets, host };
        let Some(of_this) = next_number(own, &way, (vnet, peer)) else { return };
        let content = Probe { worker, number }.write();
        let size = datagram_length(own.keys.cipher(), content.len());
        let place = way.outbox.datagram(Target::Probe(to), size, way.routes);
        if own.keys.seal_dummy(of_this, &content, place).is_err() {
            way.outbox.take_back(size);
            return;
        }
        way.host.probes.one();
        way.outbox.flush(way.routes);
    }

    /// Sends a frame that came from a peer for a guest that went on to another. The outbox is flushed with the batch.
    pub(super) fn forward(
        vnet: &mut Vnet,
        to: PeerId,
        frame: &mut [u8],
        (outbox, routes): (&mut Outbox, &mut Routes),
        (outlets, host): (&Outlets, &LiveHost),
    ) {
        vnet.counters.forwarded.one();
        let mut way = Way { outbox, routes, outlets, host };
        send_to(to, vnet, &Offload::NONE, frame, &mut way);
    }
}

fn carry(vnet: &mut Vnet, offload: &Offload, frame: &mut [u8], way: &mut Way<'_>) {
    // So that its lists can be gone through while the vnet's associations count on; no more than a number goes up and down.
    let forwarding = std::sync::Arc::clone(&vnet.forwarding);
    let decision = forwarding.from_bridge(frame);
    if decision.is_source_unknown
        && let Some(mac) = source(frame)
        && vnet.told.is_news(mac, None)
    {
        if vnet.news.lets_through(vnet.since.elapsed()) {
            way.outlets.tell(Event::UnknownSource { vnet: vnet.id, mac }, way.host);
        } else {
            vnet.told.take_back(mac);
        }
    }
    let mut to = decision.to;
    if let (Some(reason), Some(mac)) = (decision.shown, source(frame)) {
        if vnet.shown.lets_through(vnet.since.elapsed(), mac) {
            let shown = Event::Frame { vnet: vnet.id, reason, frame: frame.to_vec() };
            way.outlets.tell(shown, way.host);
        } else {
            match reason {
                // It is asked of everybody, as on any switch.
                Interest::Question => to = To::Peers(&forwarding.flood),
                // It is known that something was not heard: everything is wanted until it is known again what is.
                Interest::Membership | Interest::Query => way.host.events_dropped.one(),
                Interest::Arrival | Interest::Muted | Interest::Segment | Interest::Announcement => {}
            }
        }
    }
    match to {
        To::Peer(peer) => send_to(peer, vnet, offload, frame, way),
        To::Peers(peers) => {
            // Behind it may be anything: what goes round in circles there, too.
            if forwarding.local_source == LocalSource::Learned
                && !vnet.storm.lets_through(vnet.since.elapsed())
            {
                return vnet.counters.storm.one();
            }
            for peer in peers {
                send_to(*peer, vnet, offload, frame, way);
            }
        }
        To::Nobody => {}
        To::Dropped(reason) => match reason {
            DropReason::Malformed => vnet.counters.malformed.one(),
            DropReason::Muted => vnet.counters.muted.one(),
            DropReason::UnknownSource => vnet.counters.unknown_source.one(),
            DropReason::UnknownDestination => vnet.counters.unknown_destination.one(),
        },
    }
}

/// Cuts, seals and puts into the outbox.
#[unsafe(link_section = "frame_path")]
fn send_to(peer: PeerId, vnet: &mut Vnet, offload: &Offload, frame: &mut [u8], way: &mut Way<'_>) {
    let (Some(lanes), Some(route)) = (vnet.outbound.get_mut(&peer), way.routes.get(&peer)) else {
        vnet.counters.no_association.one();
        return;
    };
    let (lane, outbound) = match lanes {
        Lanes { own: Some(own), .. } if route.has_own() => (Lane::Own, own),
        Lanes { first: Some(first), .. } => (Lane::First, first),
        Lanes { first: None, .. } => {
            vnet.counters.no_association.one();
            return;
        }
    };
    let cipher = outbound.keys.cipher();
    let via = route.path.via.map(|via| via.spi.value().to_be_bytes());
    let before = via.as_ref().map_or(&[][..], |spi| &spi[..]);
    let of = |datagram: u16| largest_frame(cipher, usize::from(datagram)).unwrap_or(0);
    let whole = of(route.path.largest_datagram);
    let in_two = Half::most(whole).max(whole);
    let largest = of(route.path.hoped).max(whole).max(LEAST.min(in_two));
    let ports = vnet.forwarding.longest_frame(frame);
    let (whole, largest) = (whole.min(ports), largest.min(ports));
    // Connections last longer than it takes to know what the path carries; each segment goes in one then.
    clamp_mss(frame, if route.path.hoped > route.path.largest_datagram { largest } else { whole });
    let room = if offload.is_tcp() { whole } else { largest };
    let cut = match Cut::plan(offload, frame, room) {
        Ok(cut) => cut,
        Err(CutError::Malformed) => {
            vnet.counters.malformed.one();
            return;
        }
        Err(CutError::TooBig) => {
            // It happens to packets of machines that do not hear what the vnet's MTU is: not often.
            if let Some(pieces) = fragments(offload, frame, whole) {
                vnet.counters.cut_ipv4.one();
                for mut piece in pieces {
                    send_to(peer, vnet, &Offload::NONE, &mut piece, way);
                }
                return;
            }
            vnet.counters.too_big.one();
            // Of errors there is an end (RFC 4443, section 2.4 (f)).
            if source(frame).is_some_and(|mac| vnet.shown.lets_through(vnet.since.elapsed(), mac)) {
                let head = frame[..frame.len().min(HEAD)].to_vec();
                let event = Event::TooBig { vnet: vnet.id, peer, largest_frame: largest, head };
                way.outlets.tell(event, way.host);
            }
            return;
        }
    };
    let mut bytes = 0;
    for index in 0..cut.count() {
        let length = cut.frame_length(index);
        bytes += length;
        if length > whole && length <= in_two {
            let target = Target::Peer(peer, lane);
            if let Some(route) = way.routes.get(&peer) {
                route.counters.in_two.one();
            }
            let halves = cut.with_frame(index, frame, |frame| {
                let (first, second) = frame.split_at(Half::split(length));
                for (half, bytes) in [(Half::First, first), (Half::Second, second)] {
                    let number = next_number(outbound, way, (vnet.id, peer))?;
                    send_half(outbound, (half, bytes), number, (before, target), way)?;
                }
                Some(())
            });
            if halves.is_none() {
                vnet.counters.no_association.one();
                return;
            }
            continue;
        }
        let Some(number) = next_number(outbound, way, (vnet.id, peer)) else {
            vnet.counters.no_association.one();
            return;
        };
        let size = before.len() + datagram_length(cipher, length);
        let place = way.outbox.datagram(Target::Peer(peer, lane), size, way.routes);
        place[ROOM..ROOM + before.len()].copy_from_slice(before);
        let place = &mut place[before.len()..];
        let sealed = cut.with_frame(index, frame, |frame| outbound.keys.seal(number, frame, place));
        if sealed.is_err() {
            // It fails for texts of gigabytes only.
            way.outbox.take_back(size);
            vnet.counters.malformed.one();
            return;
        }
    }
    vnet.counters.frames_out.add(cut.count() as u64);
    vnet.counters.bytes_out.add(bytes as u64);
}

/// Seals a part of a frame.
#[inline(never)]
fn send_half(
    outbound: &Outbound,
    (half, bytes): (Half, &[u8]),
    number: u64,
    (before, target): (&[u8], Target),
    way: &mut Way<'_>,
) -> Option<()> {
    let mut content = [0; Half::HEADER + Half::LONGEST];
    let length = Half::HEADER + bytes.len();
    let content = content.get_mut(..length)?;
    content[..Half::HEADER].copy_from_slice(&half.header());
    content[Half::HEADER..].copy_from_slice(bytes);
    let size = before.len() + datagram_length(outbound.keys.cipher(), length);
    let place = way.outbox.datagram(target, size, way.routes);
    place[ROOM..ROOM + before.len()].copy_from_slice(before);
    if outbound.keys.seal_dummy(number, content, &mut place[before.len()..]).is_err() {
        way.outbox.take_back(size);
        return None;
    }
    Some(())
}

#[unsafe(link_section = "frame_path")]
fn next_number(
    outbound: &mut Outbound,
    way: &Way<'_>,
    (vnet, peer): (viaduct_types::VnetId, PeerId),
) -> Option<u64> {
    let number = outbound.next;
    let spi = outbound.spi;
    if number == outbound.rekey_after {
        way.outlets.tell(Event::RekeyNeeded { vnet, peer, spi }, way.host);
    }
    if number > Outbound::LAST {
        if number == Outbound::LAST + 1 {
            way.outlets.tell(Event::Exhausted { vnet, peer, spi }, way.host);
            outbound.next += 1;
        }
        return None;
    }
    outbound.next += 1;
    Some(number)
}
