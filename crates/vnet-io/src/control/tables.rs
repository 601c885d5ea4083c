//! What a vnet's workers know, kept in step with what the hosts agreed on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tracing::warn;
use viaduct_types::MacAddr;
use viaduct_vnet_proto::data::{Forwarding, LocalSource, PeerId, Port, UnknownDestination};

/// So many MACs a vnet may have on all its hosts.
const MOST_MACS: usize = 1 << 20;
/// For so long what comes for a NIC that has moved is sent on.
const STRAGGLERS: Duration = Duration::from_secs(10);

/// Where a MAC is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Here,
    At(PeerId),
}

/// What is known of a MAC.
#[derive(Debug)]
struct Known {
    place: Place,
    addresses: Vec<IpAddr>,
    /// When it came there, as far as this host knows.
    since: Duration,
}

/// One vnet's tables.
#[derive(Debug)]
pub(super) struct Tables {
    forwarding: Forwarding,
    /// Who can be sent to.
    speaking: BTreeSet<PeerId>,
    /// Which MAC an address belongs to, with where that is.
    addresses: BTreeMap<IpAddr, BTreeSet<MacAddr>>,
    of_mac: BTreeMap<MacAddr, Known>,
    /// NICs that wait for their guest.
    prepared: BTreeSet<MacAddr>,
    /// When what comes late for a NIC is sent on no longer.
    moved: BTreeMap<MacAddr, Duration>,
    /// Where NICs were that are here now, and when what comes late from there is taken no longer.
    arrived: BTreeMap<MacAddr, (PeerId, Duration)>,
    learning_peers: BTreeSet<PeerId>,
    /// Who wants no other groups than these.
    listening: BTreeMap<PeerId, BTreeSet<MacAddr>>,
    changed: bool,
    /// Whether who gets which group's frames is another than before.
    regroup: bool,
}

impl Tables {
    pub(super) fn new() -> Self {
        Self {
            forwarding: Forwarding::new(MOST_MACS),
            speaking: BTreeSet::new(),
            addresses: BTreeMap::new(),
            of_mac: BTreeMap::new(),
            prepared: BTreeSet::new(),
            moved: BTreeMap::new(),
            arrived: BTreeMap::new(),
            learning_peers: BTreeSet::new(),
            listening: BTreeMap::new(),
            changed: true,
            regroup: true,
        }
    }

    /// The whole, if it is another one than the last time.
    pub(super) fn take_changed(&mut self) -> Option<Forwarding> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.forwarding.learning_peers = self.learning_peers.iter().copied().collect();
        self.forwarding.unknown_destination = match self.learning_peers.is_empty() {
            true => UnknownDestination::Dropped,
            false => UnknownDestination::Flooded,
        };
        let arrived = self.arrived.iter().map(|(mac, (peer, _))| (*mac, *peer));
        self.forwarding.arrived = Arc::new(arrived.collect());
        self.forwarding.flood = self.speaking.iter().copied().collect();
        if std::mem::take(&mut self.regroup) {
            self.group();
        }
        Some(self.forwarding.clone())
    }

    /// Puts together who gets which group's frames: who has asked for it, and who wants all of them.
    fn group(&mut self) {
        let all: Vec<PeerId> =
            self.speaking.iter().filter(|peer| !self.listening.contains_key(peer)).copied().collect();
        let mut groups = BTreeMap::<MacAddr, BTreeSet<PeerId>>::new();
        for (peer, wanted) in self.listening.iter().filter(|(peer, _)| self.speaking.contains(peer)) {
            for group in wanted {
                groups.entry(*group).or_default().insert(*peer);
            }
        }
        let with_all = |(group, mut peers): (MacAddr, BTreeSet<PeerId>)| {
            peers.extend(&all);
            (group, peers.into_iter().collect())
        };
        self.forwarding.groups = Arc::new(groups.into_iter().map(with_all).collect());
        self.forwarding.ungrouped = all.into();
    }

    /// Who does not want all groups' frames, with those that it wants.
    pub(super) fn set_listening(&mut self, listening: BTreeMap<PeerId, BTreeSet<MacAddr>>) {
        if listening != self.listening {
            self.listening = listening;
            (self.changed, self.regroup) = (true, true);
        }
    }

    /// Whether it is another one than the last time, where somebody else carries frames.
    pub(super) fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The MACs at peers.
    pub(super) fn remote_macs(&self) -> impl Iterator<Item = (MacAddr, PeerId)> {
        self.of_mac.iter().filter_map(|(mac, known)| match known.place {
            Place::At(peer) => Some((*mac, peer)),
            Place::Here => None,
        })
    }

    /// At which peer a MAC is.
    pub(super) fn peer_of(&self, mac: MacAddr) -> Option<PeerId> {
        match self.of_mac.get(&mac)?.place {
            Place::At(peer) => Some(peer),
            Place::Here => None,
        }
    }

    fn is_remote(&self, mac: MacAddr) -> bool {
        self.peer_of(mac).is_some()
    }

    /// When a MAC came to where it is.
    pub(super) fn since(&self, mac: MacAddr) -> Option<Duration> {
        self.of_mac.get(&mac).map(|known| known.since)
    }

    /// Whether a MAC is at this peer.
    pub(super) fn is_at(&self, mac: MacAddr, peer: PeerId) -> bool {
        self.peer_of(mac) == Some(peer)
    }

    /// The workers have forgotten everything, or are to.
    pub(super) fn tell_again(&mut self) {
        self.changed = true;
    }

    pub(super) fn set_speaking(&mut self, peer: PeerId, speaks: bool) {
        let changed = if speaks { self.speaking.insert(peer) } else { self.speaking.remove(&peer) };
        self.changed |= changed;
        self.regroup |= changed;
    }

    /// What the ports of all hosts take, in bytes of IP packets.
    pub(super) fn set_longest(&mut self, mtu: Option<u16>) {
        let longest = mtu.unwrap_or(u16::MAX);
        self.changed |= std::mem::replace(&mut self.forwarding.longest, longest) != longest;
    }

    /// Whether machines are behind this host's bridge that nobody has told of.
    pub(super) fn set_learning(&mut self, learning: bool) {
        let source = if learning { LocalSource::Learned } else { LocalSource::Claimed };
        self.changed |= std::mem::replace(&mut self.forwarding.local_source, source) != source;
    }

    /// Whether they may be.
    pub(super) fn is_learning(&self) -> bool {
        self.forwarding.local_source == LocalSource::Learned
    }

    /// Whether the MAC is of a NIC that is attached at a peer, and none that the peer has learned of: that has no addresses.
    pub(super) fn is_attached_elsewhere(&self, mac: MacAddr) -> bool {
        self.of_mac.get(&mac).is_some_and(|known| match known.place {
            Place::At(peer) => !known.addresses.is_empty() || !self.learning_peers.contains(&peer),
            Place::Here => false,
        })
    }

    /// Whether they are behind a peer's.
    pub(super) fn set_learning_peer(&mut self, peer: PeerId, learning: bool) {
        self.changed |=
            if learning { self.learning_peers.insert(peer) } else { self.learning_peers.remove(&peer) };
    }

    pub(super) fn set_prepared(&mut self, prepared: BTreeSet<MacAddr>) {
        let before = std::mem::replace(&mut self.prepared, prepared);
        let different: Vec<MacAddr> = before.symmetric_difference(&self.prepared).copied().collect();
        different.into_iter().for_each(|mac| self.place(mac, false));
    }

    pub(super) fn is_prepared(&self, mac: MacAddr) -> bool {
        self.prepared.contains(&mac)
    }

    pub(super) fn route(
        &mut self,
        now: Duration,
        mac: MacAddr,
        place: Option<Place>,
        addresses: Vec<IpAddr>,
        moved: bool,
    ) {
        let mut since = now;
        let mut touched = addresses.clone();
        if let Some(Known { place: was, addresses: before, since: came }) = self.of_mac.remove(&mac) {
            if Some(was) == place {
                since = came;
            }
            if let (Place::At(peer), Some(Place::Here)) = (was, place) {
                self.arrived.insert(mac, (peer, now + STRAGGLERS));
            }
            for address in &before {
                if let Some(macs) = self.addresses.get_mut(address) {
                    macs.remove(&mac);
                    if macs.is_empty() {
                        self.addresses.remove(address);
                    }
                }
            }
            touched.extend(before);
        }
        if let Some(place) = place {
            for address in &addresses {
                self.addresses.entry(*address).or_default().insert(mac);
            }
            self.of_mac.insert(mac, Known { place, addresses, since });
        }
        // Who is here answers for itself.
        for address in touched {
            self.forwarding.answered.set(address, self.remote_mac(address).is_some());
        }
        if moved {
            self.moved.insert(mac, now + STRAGGLERS);
        } else if place == Some(Place::Here) {
            self.moved.remove(&mac);
        }
        self.place(mac, moved);
    }

    /// Whether it is of this host: no other one has claimed it with more right.
    pub(super) fn is_here(&self, mac: MacAddr) -> bool {
        self.of_mac.get(&mac).is_some_and(|known| known.place == Place::Here)
    }

    /// Puts a MAC into the workers' table, or takes it out.
    fn place(&mut self, mac: MacAddr, moved: bool) {
        self.changed = true;
        let port = match self.of_mac.get(&mac).map(|known| known.place) {
            Some(Place::Here) => Port::Local,
            Some(Place::At(peer)) if moved || self.moved.contains_key(&mac) => Port::Moved(peer),
            Some(Place::At(peer)) => Port::Peer(peer),
            // A NIC that is prepared here goes on where it was; nowhere yet, it is silent.
            None if self.prepared.contains(&mac) => Port::Muted,
            None => {
                self.forwarding.macs.remove(mac);
                return;
            }
        };
        if let Err(error) = self.forwarding.macs.claim(mac, port) {
            warn!("{mac} is not reached: {error}");
        }
    }

    /// Ends what was for a while.
    pub(super) fn tick(&mut self, now: Duration) {
        let over: Vec<MacAddr> =
            self.moved.iter().filter(|(_, until)| **until <= now).map(|(mac, _)| *mac).collect();
        let before = self.arrived.len();
        self.arrived.retain(|_, (_, until)| *until > now);
        self.changed |= self.arrived.len() != before;
        for mac in over {
            self.moved.remove(&mac);
            self.place(mac, false);
        }
    }

    /// The MAC at a peer that has an address, and for which this host answers: for a link-local one it does not, as routers have
    /// these, and whoever hears that the holder is none takes its routes out (RFC 4861, section 7.2.5).
    pub(super) fn remote_mac(&self, address: IpAddr) -> Option<MacAddr> {
        if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            return None;
        }
        self.addresses.get(&address)?.iter().find(|mac| self.is_remote(**mac)).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const REMOTE: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const FURTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
    const PEER: PeerId = PeerId(1);
    const NOW: Duration = Duration::ZERO;

    fn addresses(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn route(tables: &mut Tables, mac: MacAddr, place: Option<Place>, list: &[&str]) {
        tables.route(NOW, mac, place, addresses(list), false);
    }

    /// What is asked for and answered: the workers show no other questions.
    fn answered(tables: &mut Tables) -> Vec<(IpAddr, MacAddr)> {
        tables.tell_again();
        let shown = tables.take_changed().unwrap().answered;
        let shown: BTreeSet<IpAddr> = shown.iter().collect();
        shown.into_iter().map(|address| (address, tables.remote_mac(address).unwrap())).collect()
    }

    #[test]
    fn what_is_at_peers_is_answered_for_and_who_is_here_answers_for_itself() {
        let mut tables = Tables::new();
        route(&mut tables, OWN, Some(Place::Here), &["10.0.0.1", "fd00::1"]);
        route(&mut tables, REMOTE, Some(Place::At(PEER)), &["10.0.0.2", "fd00::2"]);
        let [v4, v6] = addresses(&["10.0.0.2", "fd00::2"])[..] else { unreachable!() };
        assert_eq!(answered(&mut tables), [(v4, REMOTE), (v6, REMOTE)]);
        for address in addresses(&["10.0.0.1", "fd00::1", "10.0.0.3"]) {
            assert_eq!(tables.remote_mac(address), None, "{address}");
        }
        // In another vnet, nobody has them.
        assert_eq!(answered(&mut Tables::new()), []);
        assert_eq!(Tables::new().remote_mac(v4), None);
    }

    #[test]
    fn answers_follow_who_moves_changes_and_goes() {
        let mut tables = Tables::new();
        let [old, new] = addresses(&["10.0.0.2", "10.0.0.9"])[..] else { unreachable!() };
        route(&mut tables, REMOTE, Some(Place::At(PEER)), &["10.0.0.2"]);
        route(&mut tables, REMOTE, Some(Place::At(PEER)), &["10.0.0.9"]);
        assert_eq!(answered(&mut tables), [(new, REMOTE)]);
        assert_eq!(tables.remote_mac(old), None);
        route(&mut tables, REMOTE, Some(Place::Here), &["10.0.0.9"]);
        assert_eq!(answered(&mut tables), []);
        route(&mut tables, REMOTE, Some(Place::At(PEER)), &["10.0.0.9"]);
        assert_eq!(answered(&mut tables), [(new, REMOTE)]);
        // Another machine takes the address over.
        route(&mut tables, REMOTE, None, &[]);
        route(&mut tables, FURTHER, Some(Place::At(PEER)), &["10.0.0.9"]);
        assert_eq!(answered(&mut tables), [(new, FURTHER)]);
        route(&mut tables, FURTHER, None, &[]);
        assert_eq!(answered(&mut tables), []);
    }

    #[test]
    fn an_address_of_two_is_answered_for_by_who_is_elsewhere() {
        let mut tables = Tables::new();
        route(&mut tables, OWN, Some(Place::Here), &["10.0.0.2"]);
        route(&mut tables, REMOTE, Some(Place::At(PEER)), &["10.0.0.2"]);
        let address = addresses(&["10.0.0.2"])[0];
        assert_eq!(answered(&mut tables), [(address, REMOTE)]);
        route(&mut tables, REMOTE, None, &[]);
        assert_eq!(answered(&mut tables), []);
    }

    proptest! {
        #[test]
        fn whatever_comes_and_goes_those_at_peers_are_answered_for(
            steps in prop::collection::vec((0..6_u8, 0..4_u8, prop::collection::vec(0..8_u8, 0..4)), 1..60),
        ) {
            let mut tables = Tables::new();
            let mut known = BTreeMap::new();
            for (mac, place, addresses) in steps {
                let mac = MacAddr([2, 0, 0, 0, 0, mac]);
                let addresses: Vec<_> = addresses.into_iter().map(|last| IpAddr::from([10, 0, 0, last])).collect();
                let place = match place {
                    0 => None,
                    1 => Some(Place::Here),
                    number => Some(Place::At(PeerId(number.into()))),
                };
                known.insert(mac, (place, addresses.clone()));
                tables.route(NOW, mac, place, addresses, false);
                let at_peers = known.values().filter(|(place, _)| matches!(place, Some(Place::At(_))));
                let expected: BTreeSet<IpAddr> = at_peers.flat_map(|(_, addresses)| addresses.clone()).collect();
                let shown = tables.take_changed().unwrap().answered;
                prop_assert_eq!(shown.iter().collect::<BTreeSet<_>>(), expected);
            }
        }
    }

    #[test]
    fn whether_who_has_a_link_local_address_is_a_router_only_it_can_say() {
        let mut tables = Tables::new();
        route(&mut tables, REMOTE, Some(Place::At(PEER)), &["fd00::2", "fe80::2"]);
        let [global, link_local] = addresses(&["fd00::2", "fe80::2"])[..] else { unreachable!() };
        assert_eq!(answered(&mut tables), [(global, REMOTE)]);
        assert_eq!(tables.remote_mac(link_local), None);
    }
}
