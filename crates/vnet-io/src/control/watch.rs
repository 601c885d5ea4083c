//! What happens to the workers, and on the paths to the peers.

use std::{net::SocketAddr, time::Duration};

use tracing::{debug, info, warn};
use viaduct_types::{HostKey, MacAddr, VnetId};
use viaduct_vnet_proto::{
    control::{Further, answer, too_big},
    data::{Interest, PeerId, questions, source},
};

use super::{
    engine::Engine,
    link::Link,
    peers::{DETOUR, LEAST, headers, largest_of_link},
    ports::at_port,
    socket::unmapped,
};
use crate::datapath::{Event, Path};

/// A peer that sends frames of others' MACs, or a machine that does behind a bridge, is named no more often in the log; what they
/// send is counted.
pub(super) const ACCUSED: Duration = Duration::from_secs(60);
/// And not before it is known that it is not so: frames may be ahead of the word whose a MAC is now, and behind it.
const AHEAD: Duration = Duration::from_secs(2);
/// How often a path with traffic is asked what it carries.
const PROBE: Duration = Duration::from_millis(200);
/// And one of which somebody says that it carries less, which anybody may. QUIC believes it when it has lost a few.
const DOUBTS: Duration = Duration::from_millis(20);

impl Engine {
    pub(super) fn happened(&mut self, event: Event) {
        match event {
            Event::Frame { vnet, reason: Interest::Question, frame } => {
                let now = self.now();
                let Some(of_vnet) = self.vnets.get_mut(&vnet) else { return };
                if let Some(answer) = answer(&frame, |address| of_vnet.tables.remote_mac(address)) {
                    let _ = self.handle.deliver(vnet, answer);
                    of_vnet.unheard.keep_answered(now, frame, &of_vnet.tables);
                }
            }
            Event::Frame { vnet: id, reason: reason @ (Interest::Arrival | Interest::Muted), frame } => {
                if let Some(mac) = source(&frame) {
                    self.arrived(id, mac);
                }
                let now = self.now();
                if let (Some(vnet), Interest::Muted) = (self.vnets.get_mut(&id), reason) {
                    vnet.unheard.keep(now, frame);
                }
            }
            Event::Frame { vnet, reason: Interest::Membership | Interest::Query, frame } => {
                let now = self.now();
                if let Some(vnet) = self.vnets.get_mut(&vnet) {
                    vnet.listeners.hear(now, &frame);
                }
            }
            Event::Frame { vnet, reason: Interest::Segment, frame } => self.heard_segment(vnet, &frame),
            Event::Frame { reason: Interest::Announcement, .. } => {}
            Event::UnknownSource { vnet, mac } => {
                self.learn(vnet, mac);
                self.arrived(vnet, mac);
            }
            Event::ForeignSource { vnet, peer, mac } => {
                let now = self.now();
                let Some(peer) = self.peers.values_mut().find(|known| known.id == peer) else { return };
                // Each worker tells of each MAC, and it is the peer who says how many these are.
                if peer.accused.is_none_or(|last| now.saturating_sub(last) >= ACCUSED) {
                    peer.suspected.get_or_insert((now, vnet, mac));
                }
            }
            Event::TooBig { vnet, peer: _, largest_frame, head } => {
                let mtu = u16::try_from(largest_frame.saturating_sub(14)).unwrap_or(u16::MAX);
                if let Some(answer) = too_big(&head, mtu) {
                    let _ = self.handle.deliver(vnet, answer);
                }
            }
            Event::PathTooBig { remote, largest_packet } => {
                let remote = unmapped(remote);
                let there: Vec<(HostKey, bool)> = self
                    .links
                    .values()
                    .filter_map(|link| Some((link, self.goes_to(link)?)))
                    .filter(|(link, (to, _))| *to == remote || self.goes_by_own(link, remote))
                    .map(|(link, (_, by_way))| (link.key, by_way))
                    .collect();
                // Also those who are reached by way of who is there.
                for (key, by_way) in there {
                    // Anyone may have said so: the path itself is asked, and only how much shorter it is is believed.
                    let said = largest_packet.and_then(|length| u16::try_from(length).ok());
                    let now = self.now();
                    let Some(peer) = self.peers.get_mut(&key) else { continue };
                    if let Some(said) = said {
                        let before = if by_way { DETOUR } else { 0 };
                        let datagram = said.saturating_sub(headers(remote.is_ipv6()) + before);
                        let carries = peer.path.as_ref().is_some_and(|path| datagram < path.hoped);
                        if datagram > LEAST && carries {
                            peer.hint = Some((datagram, now));
                        }
                    }
                    if peer.doubted.is_none_or(|then| now.saturating_sub(then) >= DOUBTS) {
                        peer.doubted = Some(now);
                        self.probe(key);
                    }
                }
            }
            Event::RekeyNeeded { vnet, peer, .. } | Event::Exhausted { vnet, peer, .. } => {
                if let Some(key) = self.key_of(peer) {
                    self.node.handle_worn_keys(key, vnet);
                }
            }
            Event::Roamed { peer, from } => {
                debug!("a peer's datagrams come from {from}");
                if let Some(key) = self.key_of(peer) {
                    self.measure(key);
                }
            }
            Event::Probed { peer, worker, number } => {
                if let Some(key) = self.key_of(peer) {
                    self.node.handle_probe(key, worker, number);
                }
            }
            Event::TapGone { vnet } => self.lost_tap(vnet),
        }
    }

    /// Does what guests wanted who have been known to be here only since.
    pub(super) fn hear_unheard(&mut self) {
        let now = self.now();
        for (id, vnet) in self.vnets.iter_mut().filter(|(_, vnet)| vnet.hears()) {
            let heard = vnet.unheard.take(now, &vnet.tables);
            for answer in heard.answers {
                let _ = self.handle.deliver(*id, answer);
            }
            for frame in heard.for_all {
                let _ = self.handle.send(*id, None, frame);
            }
        }
    }

    pub(super) fn key_of(&self, peer: PeerId) -> Option<HostKey> {
        self.peers.iter().find(|(_, known)| known.id == peer).map(|(key, _)| *key)
    }

    /// The guest of a prepared NIC speaks: from now on the NIC is here.
    pub(super) fn arrived(&mut self, id: VnetId, mac: MacAddr) {
        let now = self.now();
        let Some(vnet) = self.vnets.get_mut(&id).filter(|vnet| vnet.tables.is_prepared(mac)) else { return };
        info!("vnet {}: {mac} has arrived here", vnet.name);
        if let Some(nic) = self.orders.vnets.get_mut(&id).and_then(|orders| orders.nics.get_mut(&mac)) {
            nic.prepared = false;
        }
        vnet.own.insert(mac);
        vnet.listeners.arrived(now);
        let prepared = self.orders.vnets.get(&id).into_iter().flat_map(|orders| &orders.nics);
        vnet.tables.set_prepared(prepared.filter(|(_, nic)| nic.prepared).map(|(mac, _)| *mac).collect());
        self.findings.arrived.entry(id).or_default().insert(mac);
        self.configure();
    }

    pub(super) fn tick(&mut self) {
        let now = self.now();
        if self.carry() {
            self.configure();
        }
        self.discover();
        self.look_for_ways();
        self.reach();
        self.hear_bridges();
        self.age_machines();
        self.tick_segments();
        self.accuse();
        for vnet in self.vnets.values_mut() {
            vnet.tables.tick(now);
            if vnet.flips.tick(now) {
                // Who is heard is told of anew.
                vnet.tables.tell_again();
            }
        }
        let keys: Vec<HostKey> = self.links.values().map(|link| link.key).collect();
        let counters = if keys.is_empty() { None } else { Some(self.handle.counters()) };
        self.listen(now, counters.as_ref().map_or(0, |all| all.host.events_dropped));
        let plain = self.plain_frames();
        self.close_ports();
        for key in keys {
            let Some(peer) = self.peers.get(&key) else { continue };
            let sent =
                counters.as_ref().and_then(|all| all.peers.get(&peer.id)).map_or(0, |of| of.datagrams_out);
            self.probe_ports(key, sent);
            let is_in_doubt = self.search(key);
            self.measure(key);
            let Some(peer) = self.peers.get_mut(&key) else { continue };
            let sent = sent + plain.get(&key).copied().unwrap_or(0);
            let has_traffic = sent != peer.probed.0 && now.saturating_sub(peer.probed.1) >= PROBE;
            if has_traffic || is_in_doubt {
                peer.probed = (sent, now);
                self.probe(key);
            }
        }
        self.narrow();
        self.listeners.retain(|listener| !listener.answers.is_closed());
    }

    /// Says who sends frames of MACs that are not its own, where nobody has said anything else about that time.
    fn accuse(&mut self) {
        let now = self.now();
        let Self { peers, vnets, .. } = self;
        for peer in peers.values_mut() {
            let is_long_ago = |(then, ..): &mut (Duration, _, _)| now.saturating_sub(*then) >= AHEAD;
            let Some((then, vnet, mac)) = peer.suspected.take_if(is_long_ago) else { continue };
            let Some(vnet) = vnets.get_mut(&vnet) else { continue };
            if vnet.tables.is_at(mac, peer.id) {
                continue;
            }
            if vnet.tables.since(mac).is_some_and(|came| came + AHEAD >= then) {
                // It may have been its own until then. Who goes on is told of anew.
                vnet.tables.tell_again();
                continue;
            }
            peer.accused = Some(now);
            warn!("vnet {}: peer {} sends frames of {mac}, which is not its own", vnet.name, peer.name);
        }
    }

    /// To which address what is sent by a connection really goes, and whether somebody passes it on.
    fn goes_to(&self, link: &Link) -> Option<(SocketAddr, bool)> {
        let remote = link.remote();
        match link.via() {
            None => Some((remote, false)),
            Some(_) => Some((self.ways.via(remote)?.relay, true)),
        }
    }

    /// Asks this host's machines what they listen to, and tells the other hosts. Who hears reports of machines that nobody
    /// manages may not hear all of them: then everything is wanted, and nobody is asked.
    fn listen(&mut self, now: Duration, missed: u64) {
        let has_missed = std::mem::replace(&mut self.missed, missed) != missed;
        for (id, vnet) in self.vnets.iter_mut().filter(|(_, vnet)| vnet.hears()) {
            if self.orders.vnets.get(id).is_none_or(|orders| orders.learning) {
                self.node.handle_listening(*id, None);
                continue;
            }
            if has_missed {
                vnet.listeners.arrived(now);
            }
            if vnet.listeners.handle_timeout(now) {
                for question in questions() {
                    let _ = self.handle.deliver(*id, question);
                }
            }
            self.node.handle_listening(*id, vnet.listeners.wanted(now));
        }
    }

    /// Looks whether a path is to be asked what it carries in any case, and whether it may carry more than is looked for.
    fn search(&mut self, key: HostKey) -> bool {
        let now = self.now();
        let session = self.peers.get(&key).and_then(|peer| peer.session);
        let Some(link) = session.and_then(|session| self.links.get_mut(&session)) else { return false };
        link.search.look(now, &link.connection.stats().path);
        let goes_on = link.search.goes_on();
        if link.is_outgrown(now) {
            self.outgrown(key);
        }
        goes_on
    }

    /// Looks where a peer is and what its path carries.
    pub(super) fn measure(&mut self, key: HostKey) {
        let now = self.now();
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(link) = peer.session.and_then(|session| self.links.get_mut(&session)) else { return };
        link.search.hear(now, &link.connection.stats().path);
        let remote = link.remote();
        let via = self.ways.via(remote);
        if via.is_none() && link.via().is_some() {
            return;
        }
        let found = link.largest_datagram();
        let same = peer.path.as_ref().filter(|path| path.remote == remote);
        let known = same.map(|path| path.hoped);
        // Until it is known what gets there, longer frames than what is known go in two, and guests are told what the link lets
        // hope for: what they were told less would be slow to rise. What a connection before this one has found holds meanwhile.
        let (largest, hoped) = if link.is_new(now) {
            let of_link = via.map_or_else(
                || largest_of_link(remote),
                |via| largest_of_link(via.relay)?.checked_sub(DETOUR),
            );
            let hoped = known.unwrap_or_else(|| of_link.unwrap_or(found).max(found));
            (found.min(hoped), hoped)
        } else {
            if !link.search.is_over() && found <= LEAST {
                peer.find_anew((now, link.search.begun), known, self.node.path_back(key));
            }
            let carried = peer.carries(now, known, found);
            (carried, carried)
        };
        let own = match (self.node.further_ports(key, remote), via) {
            // More than one for each worker here are not sent to.
            (Further::Used(ports), None) => {
                ports.iter().take(self.handle.workers()).map(|port| at_port(remote, *port)).collect()
            }
            _ => Vec::new(),
        };
        let path = Path { remote, own, local: None, largest_datagram: largest, hoped, via };
        if peer.path.as_ref() != Some(&path) {
            self.handle.set_path(peer.id, path.clone());
            let own = path.own.len();
            debug!("peer {}: at {remote}, {own} ports of workers, datagrams of {largest} bytes", peer.name);
            peer.path = Some(path);
        }
        let v6 = remote.is_ipv6();
        self.node.handle_path_mtu(now, key, hoped.saturating_add(headers(v6)), v6);
    }

    /// Sends what is as long as may be, and something short after it, by which the loss of the first shows.
    pub(super) fn probe(&mut self, key: HostKey) {
        let session = self.peers.get(&key).and_then(|peer| peer.session);
        let Some(link) = session.and_then(|session| self.links.get(&session)) else { return };
        if let Some(length) = link.connection.max_datagram_size() {
            let _ = link.connection.send_datagram(vec![0; length].into());
            let _ = link.connection.send_datagram(vec![0].into());
        }
    }
}
