//! Hosts that cannot reach each other, and a third one that both can: it passes on what they send each other, sealed as it
//! is.
//!
//! Who wants to reach a peer *asks* each host that offers to pass on, and says by which number it takes what comes from that
//! peer. The host lets the peer know, which asks as well; with both numbers it gives each of them one of its own. Nothing is
//! passed on twice: the way to either end is a connection of the relay's own.

use std::collections::{BTreeMap, BTreeSet};

use viaduct_types::HostKey;

use super::{
    Action, Message, SessionId,
    node::{Node, say},
};
use crate::data::Spi;

/// So many hosts are asked to pass on to the same peer.
const MOST_RELAYS: usize = 4;
/// So many peers a host may ask this one to pass on to.
const MOST_ASKS: usize = 1024;

/// What one host sends with a number goes on to another one with another number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pass {
    /// Who sends.
    pub from: HostKey,
    /// Who is to have it.
    pub to: HostKey,
    /// What it begins with when it comes.
    pub spi: Spi,
    /// What it begins with when it goes on.
    pub onward: Spi,
}

/// A way to a peer by another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Detour {
    /// Where it leads.
    pub peer: HostKey,
    /// Who passes on.
    pub relay: HostKey,
    /// What comes that way begins with it.
    pub inbound: Spi,
    /// What goes that way begins with it; none as long as the relay has not said so.
    pub outbound: Option<Spi>,
}

/// Both sides of it: as who passes on, and as who is passed on for.
#[derive(Debug, Default)]
pub(super) struct Relaying {
    /// Who asked for a way to whom, and takes what comes that way by which number.
    asks: BTreeMap<(HostKey, HostKey), Spi>,
    /// By which number who asked sends.
    given: BTreeMap<(HostKey, HostKey), Spi>,
    /// Those who would pass on for this host.
    offers: BTreeSet<HostKey>,
    /// Those who cannot be reached.
    wanted: BTreeSet<HostKey>,
    /// By peer and relay.
    detours: BTreeMap<(HostKey, HostKey), (Spi, Option<Spi>)>,
}

impl Node {
    /// Says whether a peer is to be reached by way of others.
    pub fn want_detour(&mut self, peer: HostKey, wanted: bool) {
        if wanted == self.relaying.wanted.contains(&peer) {
            return;
        }
        if wanted {
            self.relaying.wanted.insert(peer);
            self.ask_for(peer);
            return;
        }
        self.relaying.wanted.remove(&peer);
        let relays: Vec<HostKey> = self.relays_to(peer).collect();
        for relay in relays {
            self.relaying.detours.remove(&(peer, relay));
            self.tell_peer(relay, &Message::Ask { key: peer, spi: None });
            self.actions.push_back(Action::Reach);
        }
    }

    /// Whether a host would pass on for this one.
    pub fn is_offered_by(&self, relay: HostKey) -> bool {
        self.relaying.offers.contains(&relay)
    }

    /// What this host passes on.
    pub fn passes(&self) -> impl Iterator<Item = Pass> {
        let Relaying { asks, given, .. } = &self.relaying;
        given.iter().filter_map(|((from, to), spi)| {
            Some(Pass { from: *from, to: *to, spi: *spi, onward: *asks.get(&(*to, *from))? })
        })
    }

    /// The ways to peers by others.
    pub fn detours(&self) -> impl Iterator<Item = Detour> {
        let detour = |((peer, relay), (inbound, outbound)): (&(HostKey, HostKey), &(Spi, Option<Spi>))| {
            Detour { peer: *peer, relay: *relay, inbound: *inbound, outbound: *outbound }
        };
        self.relaying.detours.iter().map(detour)
    }

    fn relays_to(&self, peer: HostKey) -> impl Iterator<Item = HostKey> {
        self.relaying.detours.keys().filter(move |(to, _)| *to == peer).map(|(_, relay)| *relay)
    }

    fn ask_for(&mut self, peer: HostKey) {
        let known: BTreeSet<HostKey> = self.relays_to(peer).collect();
        let more = MOST_RELAYS.saturating_sub(known.len());
        let asked = |relay: &&HostKey| **relay != peer && !known.contains(*relay);
        let relays: Vec<HostKey> = self.relaying.offers.iter().filter(asked).take(more).copied().collect();
        relays.into_iter().for_each(|relay| self.ask(peer, relay));
    }

    fn ask(&mut self, peer: HostKey, relay: HostKey) {
        let known = self.relaying.detours.get(&(peer, relay)).map(|(own, _)| *own);
        let own = known.unwrap_or_else(|| self.new_spi());
        self.relaying.detours.entry((peer, relay)).or_insert((own, None));
        self.tell_peer(relay, &Message::Ask { key: peer, spi: Some(own) });
        self.actions.push_back(Action::Reach);
    }

    pub(super) fn tell_peer(&mut self, key: HostKey, message: &Message) {
        if let Some(session) = self.session_of(key) {
            say(&mut self.transmits, session, message);
        }
    }

    fn session_of(&self, key: HostKey) -> Option<SessionId> {
        Some(self.peers.get(&key)?.session.as_ref()?.id)
    }

    /// A connection stands.
    pub(super) fn relays_connected(&mut self, key: HostKey) {
        if self.settings.relay.contains(&key) {
            self.tell_peer(key, &Message::Relays { on: true });
        }
        let waiting: Vec<HostKey> =
            self.relaying.asks.keys().filter(|(_, to)| *to == key).map(|(from, _)| *from).collect();
        waiting.into_iter().for_each(|from| self.tell_peer(key, &Message::Wanted { key: from }));
    }

    /// A connection ended: no way leads by it any more, and none that this host offers leads there.
    pub(super) fn relays_disconnected(&mut self, key: HostKey) {
        self.relaying.offers.remove(&key);
        self.lose_relay(key);
        let asked: Vec<HostKey> =
            self.relaying.asks.keys().filter(|(from, _)| *from == key).map(|(_, to)| *to).collect();
        for to in asked {
            self.end_pass(key, to);
        }
    }

    fn lose_relay(&mut self, relay: HostKey) {
        let before = self.relaying.detours.len();
        self.relaying.detours.retain(|(_, by), _| *by != relay);
        if self.relaying.detours.len() != before {
            self.actions.push_back(Action::Reach);
        }
    }

    /// Takes back what one host asked for, and tells the other one; says whether it had asked.
    fn end_pass(&mut self, from: HostKey, to: HostKey) -> bool {
        if self.relaying.asks.remove(&(from, to)).is_none() {
            return false;
        }
        let stood = self.relaying.given.remove(&(from, to)).is_some();
        self.relaying.given.remove(&(to, from));
        if stood {
            self.actions.push_back(Action::Reach);
        }
        self.tell_peer(to, &Message::Granted { key: from, spi: None });
        true
    }

    /// What is configured may be another than before.
    pub(super) fn relays_configured(&mut self, before: &BTreeSet<HostKey>) {
        let after = self.settings.relay.clone();
        // Also those of before are told: what was refused them may not be any more.
        for key in before.union(&after) {
            self.tell_peer(*key, &Message::Relays { on: after.contains(key) });
        }
        let ended = |(from, to): &&(HostKey, HostKey)| !(after.contains(from) && after.contains(to));
        let ended: Vec<(HostKey, HostKey)> = self.relaying.asks.keys().filter(ended).copied().collect();
        for (from, to) in ended {
            self.end_pass(from, to);
            self.tell_peer(from, &Message::Granted { key: to, spi: None });
        }
    }

    /// What a peer says about passing on.
    pub(super) fn hear_of_relays(&mut self, from: HostKey, message: &Message) {
        match message {
            Message::Relays { on: true } => {
                self.relaying.offers.insert(from);
                let wanted: Vec<HostKey> = self.relaying.wanted.iter().copied().collect();
                for peer in wanted {
                    match self.relaying.detours.get(&(peer, from)) {
                        Some((_, None)) => self.ask(peer, from),
                        Some((_, Some(_))) => {}
                        None => self.ask_for(peer),
                    }
                }
            }
            Message::Relays { on: false } => {
                self.relaying.offers.remove(&from);
                self.lose_relay(from);
            }
            Message::Ask { key, spi: Some(spi) } => self.asked(from, *key, *spi),
            Message::Ask { key, spi: None } => {
                // Whoever still wants it says so again.
                if self.end_pass(from, *key) {
                    self.relaying.asks.remove(&(*key, from));
                }
            }
            Message::Wanted { key } => {
                let is_known = self.vnets.values().any(|vnet| vnet.settings.peers.contains(key));
                if is_known && *key != from && self.relaying.offers.contains(&from) {
                    self.ask(*key, from);
                }
            }
            Message::Granted { key, spi } => self.granted(*key, from, *spi),
            Message::Hello { .. }
            | Message::Offer { .. }
            | Message::Retract { .. }
            | Message::Keys { .. }
            | Message::Using { .. }
            | Message::Rekey { .. }
            | Message::Claim { .. }
            | Message::Withdraw { .. }
            | Message::Complete { .. }
            | Message::VnetMtu { .. }
            | Message::Listens { .. }
            | Message::Prunes { .. }
            | Message::Plain { .. }
            | Message::Ports { .. }
            | Message::OwnKeys { .. }
            | Message::Arrived { .. }
            | Message::Number { .. }
            | Message::Heed { .. }
            | Message::Heeded { .. }
            | Message::Learns { .. }
            | Message::PathMtu { .. } => {}
        }
    }

    fn asked(&mut self, from: HostKey, to: HostKey, spi: Spi) {
        let allowed = self.settings.relay.contains(&from) && self.settings.relay.contains(&to) && from != to;
        let count = self.relaying.asks.range((from, HostKey([0; 32]))..=(from, HostKey([0xff; 32]))).count();
        if !allowed || count >= MOST_ASKS && !self.relaying.asks.contains_key(&(from, to)) {
            self.tell_peer(from, &Message::Granted { key: to, spi: None });
            return;
        }
        let is_new = self.relaying.asks.insert((from, to), spi).is_none();
        if self.session_of(to).is_none() {
            return;
        }
        if !self.relaying.asks.contains_key(&(to, from)) {
            // Once: who asks again has it told nothing new.
            if is_new {
                self.tell_peer(to, &Message::Wanted { key: from });
            }
            return;
        }
        for (one, other) in [(from, to), (to, from)] {
            let given = self.relaying.given.get(&(one, other)).copied();
            let number = given.unwrap_or_else(|| self.new_spi());
            self.relaying.given.insert((one, other), number);
            if one == from || given.is_none() {
                self.tell_peer(one, &Message::Granted { key: other, spi: Some(number) });
            }
        }
        self.actions.push_back(Action::Reach);
    }

    fn granted(&mut self, peer: HostKey, relay: HostKey, spi: Option<Spi>) {
        let is_wanted = self.relaying.wanted.contains(&peer);
        let Some(detour) = self.relaying.detours.get_mut(&(peer, relay)) else {
            // What was asked for has been taken back since, here or by the relay: nothing that comes that way would be known.
            if spi.is_some() {
                self.tell_peer(relay, &Message::Ask { key: peer, spi: None });
            }
            return;
        };
        let changed = detour.1 != spi;
        detour.1 = spi;
        match (spi, is_wanted) {
            (Some(_), _) => {}
            (None, false) => {
                self.relaying.detours.remove(&(peer, relay));
            }
            // The other end may have ended it for itself only; the relay lets it know, when it can.
            (None, true) if changed => self.ask(peer, relay),
            (None, true) => {}
        }
        if changed {
            self.actions.push_back(Action::Reach);
        }
    }
}
