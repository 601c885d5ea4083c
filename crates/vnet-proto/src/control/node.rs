//! One host among those of its vnets.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use viaduct_types::{HostKey, MacAddr, VnetId};

use super::{
    Action, Association, Channel, Exporter, Message, Protection, ProtocolError, Security, SessionId,
    Settings, VERSION, VnetSettings,
    claims::{Claim, Claims, Owner},
    member::Member,
    mtu::CHANGES,
    relay::Relaying,
    session::{Greeting, Offer, Session},
    suite::level,
};
use crate::data::{Lane, Storm};

/// For so long nothing is forgotten of a peer whose connection ended.
const GRACE: Duration = Duration::from_secs(30);
/// Frames that were sealed with keys of before may be so late.
const OVERLAP: Duration = Duration::from_secs(10);
/// Two connections that begin in so short a time are one that both ends dialled.
const AT_ONCE: Duration = Duration::from_secs(2);
/// A connection that is not needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// What is done later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Rekey(HostKey, VnetId, SessionId),
    /// What was taken before this one of a connection's epochs.
    Outdated(HostKey, VnetId, (SessionId, u32)),
    Gone(HostKey, VnetId),
    Mtu(VnetId),
}

/// What is known of a peer.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) session: Option<Session>,
    /// The longest IP packet that gets there, and whether it is one of IPv6.
    pub(super) path: Option<(u16, bool)>,
    /// The longest that gets from there.
    pub(super) path_back: Option<u16>,
}

#[derive(Debug)]
pub(super) struct Vnet {
    pub(super) settings: VnetSettings,
    pub(super) claims: Claims,
    pub(super) members: BTreeMap<HostKey, Member>,
    pub(super) mismatched: BTreeMap<HostKey, Protection>,
    /// What this host's own paths let through.
    pub(super) limit: Option<u16>,
    pub(super) mtu: Option<u16>,
    /// How often both have become others, and whether they are to at a later time.
    pub(super) changes: Storm<CHANGES>,
    pub(super) is_late: bool,
    /// The groups whose frames are wanted here; none: all.
    pub(super) listening: Option<BTreeSet<MacAddr>>,
}

/// One host.
#[derive(Debug)]
pub struct Node {
    pub(super) own: HostKey,
    /// Without the vnets, which are below.
    pub(super) settings: Settings,
    pub(super) peers: BTreeMap<HostKey, Peer>,
    /// Whose the connections are that there are: messages come by these.
    sessions: BTreeMap<SessionId, HostKey>,
    pub(super) vnets: BTreeMap<VnetId, Vnet>,
    /// Sequences of NICs that were here when the process before this one ended.
    pub(super) remembered: BTreeMap<(VnetId, MacAddr), u64>,
    pub(super) next_spi: u32,
    pub(super) relaying: Relaying,
    pub(super) timers: BTreeSet<(Duration, Timer)>,
    /// When it was configured the last time, and which time of day it was, in milliseconds.
    pub(super) configured: (Duration, u64),
    pub(super) actions: VecDeque<Action>,
    pub(super) transmits: Transmits,
}

impl Node {
    /// A host without vnets. `sequences` are those of the NICs that were here before, by [`Node::sequences`]; `spi` is any
    /// number, another one at each start.
    pub fn new(own: HostKey, sequences: BTreeMap<(VnetId, MacAddr), u64>, spi: u32) -> Self {
        let settings = Settings {
            workers: 1,
            ports: Vec::new(),
            fast_aes: false,
            rekey: Duration::MAX,
            vnets: BTreeMap::new(),
            relay: BTreeSet::new(),
        };
        Self {
            own,
            settings,
            peers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            vnets: BTreeMap::new(),
            remembered: sequences,
            next_spi: spi,
            relaying: Relaying::default(),
            timers: BTreeSet::new(),
            configured: (Duration::ZERO, 0),
            actions: VecDeque::new(),
            transmits: Transmits::new(),
        }
    }

    /// A connection to a peer, whose key was seen to be this one. Of two that both ends dialled at once, one is kept, the
    /// same at both.
    ///
    /// # Errors
    /// When it is not needed, beside the one that there is.
    pub fn handle_connected(
        &mut self,
        now: Duration,
        key: HostKey,
        id: SessionId,
        dialled: bool,
        exporter: Box<dyn Exporter + Send>,
    ) -> Result<(), Refused> {
        let peer = self.peers.entry(key).or_default();
        if let Some(session) = &peer.session {
            // The one that the lesser key dialled.
            let preferred = |dialled: bool| dialled == (self.own < key);
            let young = now.saturating_sub(session.since) < AT_ONCE;
            if young && preferred(session.dialled) && !preferred(dialled) {
                return Err(Refused);
            }
            let old = session.id;
            self.actions.push_back(Action::Close { session: old });
            self.handle_disconnected(now, old);
        }
        let greeting = Message::Hello {
            version: VERSION,
            workers: self.settings.workers,
            fast_aes: self.settings.fast_aes,
        };
        let peer = self.peers.entry(key).or_default();
        peer.session = Some(Session::new(id, dialled, now, exporter));
        self.sessions.insert(id, key);
        peer.path_back = None;
        say(&mut self.transmits, id, &greeting);
        // Nothing was asked yet; who says so can be.
        say(&mut self.transmits, id, &Message::Heeded { number: 0 });
        if !self.settings.ports.is_empty() {
            let ports = self.settings.ports.clone();
            say(&mut self.transmits, id, &Message::Ports { ports });
        }
        if let Some((mtu, _)) = peer.path {
            say(&mut self.transmits, id, &Message::PathMtu { mtu });
        }
        let shared = |(_, vnet): &(&VnetId, &Vnet)| vnet.settings.peers.contains(&key);
        let vnets: Vec<VnetId> = self.vnets.iter().filter(shared).map(|(id, _)| *id).collect();
        vnets.into_iter().for_each(|vnet| self.offer(now, key, vnet));
        self.relays_connected(key);
        Ok(())
    }

    /// A connection ended. What the peer claimed is kept for a while.
    pub fn handle_disconnected(&mut self, now: Duration, id: SessionId) {
        let Some((key, peer)) = self.peer_of(id) else { return };
        peer.session = None;
        self.sessions.remove(&id);
        for (vnet, state) in &mut self.vnets {
            // Who has not come back into it since an earlier end was in it until then.
            let Some(member) = state.members.get_mut(&key).filter(|member| member.session == Some(id)) else {
                continue;
            };
            let due = (now + GRACE, Timer::Gone(key, *vnet));
            if let Some(before) = member.gone.replace(due) {
                self.timers.remove(&before);
            }
            self.timers.insert(due);
        }
        self.vnets.values_mut().for_each(|vnet| {
            vnet.mismatched.remove(&key);
        });
        self.relays_disconnected(key);
    }

    fn peer_of(&mut self, id: SessionId) -> Option<(HostKey, &mut Peer)> {
        let key = *self.sessions.get(&id)?;
        Some((key, self.peers.get_mut(&key)?))
    }

    /// What came in by a connection.
    ///
    /// # Errors
    /// When the peer does not keep to the protocol; the connection is to be ended.
    pub fn handle_message(
        &mut self,
        now: Duration,
        id: SessionId,
        message: Message,
    ) -> Result<(), ProtocolError> {
        let Some((key, peer)) = self.peer_of(id) else { return Ok(()) };
        let Some(session) = &mut peer.session else { return Ok(()) };
        match (&message, session.greeting) {
            (Message::Hello { version, .. }, None) if *version != VERSION => {
                return Err(ProtocolError::Version(*version));
            }
            (Message::Hello { workers, fast_aes, .. }, None) => {
                session.greeting = Some(Greeting { workers: *workers, fast_aes: *fast_aes });
                return Ok(());
            }
            (Message::Hello { .. }, Some(_)) | (_, None) => return Err(ProtocolError::Greeting),
            (_, Some(_)) => {}
        }
        match message {
            Message::Hello { .. } | Message::Number { .. } => {}
            Message::Offer { channel, proof, protection, learning } => {
                session.offered(channel, Offer { proof, protection, learning })?;
                if let Some(vnet) = session.vnet(channel) {
                    self.join(now, key, vnet)?;
                }
            }
            Message::Retract { channel } => {
                if let Some(vnet) = session.retracted(channel) {
                    self.leave(now, key, vnet);
                }
            }
            Message::PathMtu { mtu } => {
                if peer.path_back.replace(mtu) != Some(mtu) {
                    self.measure(now, key);
                }
            }
            Message::Ports { ports } => self.hear_ports(now, key, ports),
            Message::Heed { number } => self.heed(key, id, number),
            Message::Heeded { number } => {
                session.heeds = true;
                self.actions.push_back(Action::Heeded { session: id, number });
            }
            Message::Arrived { worker, number } => self.hear_arrived(now, key, worker, number),
            Message::Learns { channel, on } => self.hear_learns(key, channel, on),
            Message::Relays { .. }
            | Message::Ask { .. }
            | Message::Wanted { .. }
            | Message::Granted { .. } => self.hear_of_relays(key, &message),
            Message::Keys { channel, .. }
            | Message::OwnKeys { channel, .. }
            | Message::Using { channel, .. }
            | Message::Rekey { channel }
            | Message::Claim { channel, .. }
            | Message::Withdraw { channel, .. }
            | Message::VnetMtu { channel, .. }
            | Message::Listens { channel, .. }
            | Message::Prunes { channel, .. }
            | Message::Plain { channel, .. }
            | Message::Complete { channel } => {
                let vnet = session.vnet(channel);
                let vnet = vnet.filter(|vnet| self.is_member(key, *vnet, id));
                let Some(session) = self.peers.get_mut(&key).and_then(|peer| peer.session.as_mut()) else {
                    return Ok(());
                };
                match (vnet, &message) {
                    // What belongs to keys that were passed over is, too.
                    (_, Message::OwnKeys { epoch, .. }) if session.passed_over == Some((channel, *epoch)) => {
                    }
                    (Some(vnet), _) => self.hear(now, key, vnet, message)?,
                    // The peer may not have heard yet that it is in it no longer.
                    (None, Message::Keys { epoch, .. }) => session.passed_over = Some((channel, *epoch)),
                    (None, _) => {}
                }
            }
        }
        Ok(())
    }

    pub(super) fn is_member(&self, key: HostKey, vnet: VnetId, session: SessionId) -> bool {
        let member = self.vnets.get(&vnet).and_then(|vnet| vnet.members.get(&key));
        member.is_some_and(|member| member.session == Some(session))
    }

    /// No NIC arrives so late. Clocks differ; one that was never set says 1970.
    fn latest_arrival(&self, now: Duration) -> u64 {
        /// Some 139 years in milliseconds.
        const AHEAD: u64 = 1 << 42;
        let (then, arrival) = self.configured;
        let since = u64::try_from(now.saturating_sub(then).as_millis()).unwrap_or(u64::MAX);
        arrival.saturating_add(since).saturating_add(AHEAD)
    }

    /// What a member says about a vnet.
    fn hear(
        &mut self,
        now: Duration,
        key: HostKey,
        id: VnetId,
        message: Message,
    ) -> Result<(), ProtocolError> {
        let workers = usize::from(self.settings.workers);
        let latest = self.latest_arrival(now);
        let Some(session) = self.peers.get_mut(&key).and_then(|peer| peer.session.as_mut()) else {
            return Ok(());
        };
        let Some(vnet) = self.vnets.get_mut(&id) else { return Ok(()) };
        let Some(member) = vnet.members.get_mut(&key) else { return Ok(()) };
        let (number, dialled) = (session.id, session.dialled);
        let theirs = session.offer_of(id).and_then(|offer| offer.protection.cipher);
        let wanted = vnet.settings.cipher.or(theirs);
        let security = vnet.settings.security;
        // Others are never used; who gives them may not have heard yet what is wanted here, and gives what suits then.
        let suits = |cipher| level(cipher) == security && wanted.is_none_or(|wanted| wanted == cipher);
        let transmit = |lane, epoch, cipher, spis| {
            Action::Transmit(Association {
                session: number,
                peer: key,
                vnet: id,
                sender_dialled: dialled,
                epoch,
                cipher,
                lane,
                spis,
            })
        };
        match message {
            Message::Keys { epoch, cipher, spis, .. } => {
                if spis.len() != workers || !session.is_next(id, epoch) {
                    return Err(ProtocolError::Keys);
                }
                session.taken.insert(id, (epoch, cipher));
                if !suits(cipher) {
                    return Ok(());
                }
                member.speaks = true;
                member.cipher = Some(cipher);
                self.actions.push_back(transmit(Lane::First, epoch, cipher, spis));
                if let Some(channel) = session.channels.get(&id) {
                    say(&mut self.transmits, session.id, &Message::Using { channel: *channel, epoch });
                }
                self.tell_mtu(now, id);
            }
            Message::OwnKeys { epoch, spis, .. } => {
                // Once for each epoch: the same would be the same key once more.
                let cipher = match session.taken.remove(&id) {
                    Some((taken, cipher)) if taken == epoch && spis.len() == workers => cipher,
                    Some(_) | None => return Err(ProtocolError::Keys),
                };
                if !suits(cipher) {
                    return Ok(());
                }
                session.spread.set_keyed(true);
                self.actions.push_back(transmit(Lane::Own, epoch, cipher, spis));
            }
            Message::Using { epoch, .. } => {
                let used = (session.id, epoch);
                if member.inbound.contains_key(&used) && member.used.is_none_or(|before| before < used) {
                    member.used = Some(used);
                    self.timers.insert((now + OVERLAP, Timer::Outdated(key, id, used)));
                }
            }
            Message::Rekey { .. } => self.issue_keys(now, key, id),
            Message::Claim { mac, sequence, addresses, .. } => {
                // As if it had come at the latest time there is: whoever lies must not have the MAC for ever.
                let sequence = sequence.min(latest);
                self.change(id, mac, |claims| {
                    claims.set(Owner::Peer(key), mac, Claim { sequence, addresses });
                });
            }
            Message::Withdraw { mac, .. } => {
                self.change(id, mac, |claims| claims.remove(Owner::Peer(key), mac))
            }
            Message::Plain { vni, .. } => {
                if security != Security::None {
                    return Ok(());
                }
                member.speaks = true;
                self.actions.push_back(Action::Plain { peer: key, vnet: id, vni });
                self.tell_mtu(now, id);
            }
            Message::VnetMtu { mtu, .. } => {
                member.limit = Some(mtu);
                self.tell_mtu(now, id);
            }
            Message::Listens { group, on, .. } => self.hear_listens(key, id, group, on),
            Message::Prunes { on, .. } => self.hear_prunes(key, id, on),
            Message::Complete { .. } => {
                for mac in vnet.claims.doubted(Owner::Peer(key)) {
                    self.change(id, mac, |claims| claims.remove(Owner::Peer(key), mac));
                }
            }
            Message::Hello { .. }
            | Message::Offer { .. }
            | Message::Retract { .. }
            | Message::PathMtu { .. }
            | Message::Ports { .. }
            | Message::Arrived { .. }
            | Message::Learns { .. }
            | Message::Number { .. }
            | Message::Heed { .. }
            | Message::Heeded { .. }
            | Message::Relays { .. }
            | Message::Ask { .. }
            | Message::Wanted { .. }
            | Message::Granted { .. } => {}
        }
        Ok(())
    }

    /// Lets a peer know of a vnet, if there is a connection.
    pub(super) fn offer(&mut self, now: Duration, key: HostKey, id: VnetId) {
        let offered = self.vnets.get(&id).map(|vnet| (vnet.settings.protection(), vnet.settings.learning));
        let Some((protection, learning)) = offered else { return };
        let Some(session) = self.peers.get_mut(&key).and_then(|peer| peer.session.as_mut()) else { return };
        let Some((channel, proof)) = session.offer(id) else { return };
        say(&mut self.transmits, session.id, &Message::Offer { channel, proof, protection, learning });
        // It cannot fail: what would is what the peer said.
        let _ = self.join(now, key, id);
    }

    pub(super) fn retract(&mut self, key: HostKey, id: VnetId) {
        let Some(session) = self.peers.get_mut(&key).and_then(|peer| peer.session.as_mut()) else { return };
        if let Some(channel) = session.retract(id) {
            say(&mut self.transmits, session.id, &Message::Retract { channel });
        }
    }

    /// If both have offered the vnet, they are in it.
    fn join(&mut self, now: Duration, key: HostKey, id: VnetId) -> Result<(), ProtocolError> {
        let Some(session) = self.peers.get(&key).and_then(|peer| peer.session.as_ref()) else {
            return Ok(());
        };
        let Some(vnet) = self.vnets.get_mut(&id) else { return Ok(()) };
        let (Some(channel), Some(offer)) = (session.channels.get(&id), session.offer_of(id)) else {
            return Ok(());
        };
        if !vnet.settings.protection().agrees_with(offer.protection) {
            self.leave(now, key, id);
            if let Some(vnet) = self.vnets.get_mut(&id) {
                vnet.mismatched.insert(key, offer.protection);
            }
            return Ok(());
        }
        let (channel, session) = (*channel, session.id);
        // It may say something else of itself than on its last connection.
        let known = vnet.members.get(&key).is_some_and(|member| member.learning == offer.learning);
        let member = vnet.members.entry(key).or_default();
        if member.session == Some(session) {
            return Ok(());
        }
        member.session = Some(session);
        member.learning = offer.learning;
        vnet.mismatched.remove(&key);
        vnet.claims.doubt(Owner::Peer(key));
        if !known {
            self.actions.push_back(Action::Join { peer: key, vnet: id, learning: offer.learning });
        }
        // What it has said on another connection it says again.
        self.hear_prunes(key, id, false);
        self.issue_keys(now, key, id);
        if let Some(vnet) = self.vnets.get(&id) {
            if let (Security::None, Some(vni)) = (vnet.settings.security, vnet.settings.vni) {
                say(&mut self.transmits, session, &Message::Plain { channel, vni });
            }
            for mac in vnet.claims.macs_of(Owner::Here) {
                if let Some(claim) = vnet.claims.of(Owner::Here, mac) {
                    say(&mut self.transmits, session, &said(channel, mac, claim));
                }
            }
            say(&mut self.transmits, session, &Message::Complete { channel });
            if let Some(mtu) = vnet.limit {
                say(&mut self.transmits, session, &Message::VnetMtu { channel, mtu });
            }
        }
        self.tell_learning(key, id);
        self.tell_listening(key, id);
        self.tell_mtu(now, id);
        Ok(())
    }

    /// A peer is not in the vnet any more.
    pub(super) fn leave(&mut self, now: Duration, key: HostKey, id: VnetId) {
        let Some(vnet) = self.vnets.get_mut(&id) else { return };
        vnet.mismatched.remove(&key);
        let Some(mut member) = vnet.members.remove(&key) else { return };
        let macs: Vec<MacAddr> = vnet.claims.macs_of(Owner::Peer(key)).collect();
        for mac in macs {
            self.change(id, mac, |claims| claims.remove(Owner::Peer(key), mac));
        }
        for due in [member.gone, member.rekey].into_iter().flatten() {
            self.timers.remove(&due);
        }
        let spis = member.all();
        if !spis.is_empty() {
            self.actions.push_back(Action::Forget { spis });
        }
        if member.speaks {
            self.actions.push_back(Action::Mute { peer: key, vnet: id });
        }
        if member.prunes {
            self.actions.push_back(Action::Listening { vnet: id });
        }
        self.actions.push_back(Action::Leave { peer: key, vnet: id });
        self.tell_mtu(now, id);
    }

    /// Changes claims of a MAC, and says where it is then if that is elsewhere.
    pub(super) fn change(&mut self, id: VnetId, mac: MacAddr, change: impl FnOnce(&mut Claims)) {
        let Some(vnet) = self.vnets.get_mut(&id) else { return };
        let own =
            |claim: Option<(Owner, &Claim)>| claim.map(|(owner, claim)| (owner, claim.addresses.clone()));
        let before = own(vnet.claims.winner(mac));
        change(&mut vnet.claims);
        let after = own(vnet.claims.winner(mac));
        if before == after {
            return;
        }
        let (owner, addresses) = after.map_or((None, Vec::new()), |(owner, list)| (Some(owner), list));
        let was_here = before.is_some_and(|(owner, _)| owner == Owner::Here);
        let moved = was_here && matches!(owner, Some(Owner::Peer(_)));
        self.actions.push_back(Action::Route { vnet: id, mac, owner, addresses, moved });
    }

    pub(super) fn tell(&mut self, key: HostKey, id: VnetId, message: impl FnOnce(Channel) -> Message) {
        let Some(session) = self.peers.get(&key).and_then(|peer| peer.session.as_ref()) else { return };
        let member = self.vnets.get(&id).and_then(|vnet| vnet.members.get(&key));
        if let (Some(channel), true) =
            (session.channels.get(&id), member.is_some_and(|member| member.session == Some(session.id)))
        {
            say(&mut self.transmits, session.id, &message(*channel));
        }
    }

    pub(super) fn tell_members(&mut self, id: VnetId, message: impl Fn(Channel) -> Message) {
        let Some(vnet) = self.vnets.get(&id) else { return };
        let members: Vec<HostKey> = vnet.members.keys().copied().collect();
        members.into_iter().for_each(|key| self.tell(key, id, &message));
    }

    pub(super) fn is_connected(&self, key: HostKey, session: Option<SessionId>) -> bool {
        let current = self.peers.get(&key).and_then(|peer| peer.session.as_ref());
        current.is_some_and(|current| Some(current.id) == session)
    }

    /// The next bytes for a connection: all that it is to be told.
    pub fn poll_transmit(&mut self) -> Option<(SessionId, Vec<u8>)> {
        self.transmits.pop_first()
    }

    /// The next thing to be done.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
}

pub(super) fn said(channel: Channel, mac: MacAddr, claim: &Claim) -> Message {
    Message::Claim { channel, mac, sequence: claim.sequence, addresses: claim.addresses.clone() }
}

/// What waits to be said, by each connection: many messages are one piece, also where several connections get them in turns.
pub(super) type Transmits = BTreeMap<SessionId, Vec<u8>>;

/// Appends to what waits for the same connection: one message more is not one packet more.
pub(super) fn say(transmits: &mut Transmits, session: SessionId, message: &Message) {
    message.write(transmits.entry(session).or_default());
}
