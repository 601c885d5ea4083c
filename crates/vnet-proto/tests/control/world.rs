//! Some hosts, and connections between them that carry bytes when the test says so.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use viaduct_types::{HostKey, MacAddr, VnetId, Vni, stable_hash};
use viaduct_vnet_proto::control::{
    Action, Association, Exporter, Message, Node, Owner, Security, SessionId, Settings, VnetSettings,
};
use viaduct_vnet_proto::data::{Lane, Spi, esp::Cipher};

/// What both ends of one connection can derive secrets from.
struct Secret(u64);

impl Exporter for Secret {
    fn export(&self, label: &[u8], context: &[u8]) -> Option<[u8; 16]> {
        let bytes = [&self.0.to_be_bytes(), label, &[0], context].concat();
        let (high, low) = (stable_hash(&bytes), stable_hash(&[&bytes[..], b"low"].concat()));
        Some((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
    }
}

pub(crate) fn key(host: usize) -> HostKey {
    HostKey([u8::try_from(host + 1).unwrap(); 32])
}

pub(crate) fn mac(nic: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, nic])
}

pub(crate) fn vnet(id: &str) -> VnetId {
    id.parse().unwrap()
}

/// A host with what its actions made of it.
pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) settings: Settings,
    pub(crate) members: BTreeSet<(VnetId, HostKey)>,
    pub(crate) routes: BTreeMap<(VnetId, MacAddr), Owner>,
    pub(crate) inbound: BTreeMap<Spi, Association>,
    pub(crate) outbound: BTreeMap<(VnetId, HostKey), Association>,
    /// Those of workers with ports of their own.
    pub(crate) own: BTreeMap<(VnetId, HostKey), Association>,
    pub(crate) plain: BTreeMap<(VnetId, HostKey), Vni>,
    /// Members that have said that machines are behind them of which nobody has told.
    pub(crate) learning: BTreeSet<(VnetId, HostKey)>,
    /// Whom it wants to reach by way of others.
    pub(crate) wants: BTreeSet<usize>,
    /// What was measured of the ways to others: the longest packet, and whether it is one of IPv6.
    pub(crate) paths: BTreeMap<usize, (u16, bool)>,
    pub(crate) mtus: BTreeMap<VnetId, Option<u16>>,
    /// Who has said to have done what came before which number.
    pub(crate) heeded: BTreeSet<(SessionId, u32)>,
    pub(crate) moved: Vec<MacAddr>,
    /// What its own machines listen to, where that is known.
    pub(crate) wanted: BTreeMap<VnetId, BTreeSet<MacAddr>>,
    /// Who wants no other groups than these.
    pub(crate) listening: BTreeMap<(VnetId, HostKey), BTreeSet<MacAddr>>,
    /// Every context that a key came from: none twice.
    contexts: BTreeSet<(SessionId, [u8; 22])>,
}

struct Wire {
    /// The ends: who dialled first.
    ends: [(usize, SessionId); 2],
    /// On their way to each end.
    queues: [VecDeque<u8>; 2],
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) hosts: Vec<Host>,
    wires: Vec<Wire>,
    next: u64,
    /// Hosts of a version that does not know of [`Message::Learns`], nor of [`Message::Heed`].
    pub(crate) older: BTreeSet<usize>,
    /// All messages that arrived: from whom, at whom.
    pub(crate) heard: Vec<(usize, usize, Message)>,
}

impl World {
    pub(crate) fn new(hosts: usize) -> Self {
        let host = |index: usize| Host {
            node: Node::new(key(index), BTreeMap::new(), u32::try_from(index).unwrap() << 20),
            settings: Settings {
                workers: u8::try_from(index % 3 + 1).unwrap(),
                ports: (0..=index % 3).map(|port| u16::try_from(1800 + port).unwrap()).collect(),
                fast_aes: index.is_multiple_of(2),
                rekey: Duration::from_secs(60),
                vnets: BTreeMap::new(),
                relay: BTreeSet::new(),
            },
            members: BTreeSet::new(),
            routes: BTreeMap::new(),
            inbound: BTreeMap::new(),
            outbound: BTreeMap::new(),
            own: BTreeMap::new(),
            plain: BTreeMap::new(),
            learning: BTreeSet::new(),
            wants: BTreeSet::new(),
            paths: BTreeMap::new(),
            mtus: BTreeMap::new(),
            heeded: BTreeSet::new(),
            moved: Vec::new(),
            wanted: BTreeMap::new(),
            listening: BTreeMap::new(),
            contexts: BTreeSet::new(),
        };
        let hosts = (0..hosts).map(host).collect();
        Self {
            now: Duration::ZERO,
            hosts,
            wires: Vec::new(),
            next: 0,
            older: BTreeSet::new(),
            heard: Vec::new(),
        }
    }

    /// Changes what is configured of a host.
    pub(crate) fn configure(&mut self, host: usize, change: impl FnOnce(&mut Settings)) {
        change(&mut self.hosts[host].settings);
        let (now, host_state) = (self.now, &mut self.hosts[host]);
        let arrival = u64::try_from(now.as_millis()).unwrap();
        host_state.node.configure(now, arrival, host_state.settings.clone());
        self.act(host);
    }

    /// Gives a host a vnet with these others.
    pub(crate) fn have(&mut self, host: usize, id: &str, peers: &[usize]) {
        let peers = peers.iter().filter(|peer| **peer != host).map(|peer| key(*peer)).collect();
        self.configure(host, |settings| {
            let vnet = settings.vnets.entry(vnet(id)).or_insert_with(|| VnetSettings {
                security: Security::Conf,
                cipher: None,
                vni: None,
                learning: false,
                mtu: None,
                peers: BTreeSet::new(),
                nics: BTreeMap::new(),
            });
            vnet.peers = peers;
        });
    }

    pub(crate) fn attach(&mut self, host: usize, id: &str, nic: u8) {
        self.configure(host, |settings| {
            if let Some(vnet) = settings.vnets.get_mut(&vnet(id)) {
                vnet.nics.insert(mac(nic), vec![IpAddr::from([10, 0, 0, nic])]);
            }
        });
    }

    /// The machines of a host listen to these groups; none: nobody knows to which.
    pub(crate) fn listen(&mut self, host: usize, id: &str, groups: Option<BTreeSet<MacAddr>>) {
        let state = &mut self.hosts[host];
        match &groups {
            Some(groups) => state.wanted.insert(vnet(id), groups.clone()),
            None => state.wanted.remove(&vnet(id)),
        };
        state.node.handle_listening(vnet(id), groups);
        self.act(host);
    }

    pub(crate) fn detach(&mut self, host: usize, id: &str, nic: u8) {
        self.configure(host, |settings| {
            if let Some(vnet) = settings.vnets.get_mut(&vnet(id)) {
                vnet.nics.remove(&mac(nic));
            }
        });
    }

    /// What protects a vnet on a host: nothing, with a number of the host's own, or a cipher.
    pub(crate) fn secure(&mut self, host: usize, id: &str, security: Security, cipher: Option<Cipher>) {
        let number = u32::try_from(host).unwrap() + 100;
        self.configure(host, |settings| {
            if let Some(vnet) = settings.vnets.get_mut(&vnet(id)) {
                vnet.vni = if security == Security::None { Vni::new(number) } else { None };
                (vnet.security, vnet.cipher) = (security, cipher);
            }
        });
    }

    /// Whether machines are behind a host of which nobody has told; when there are none any more, they are forgotten.
    pub(crate) fn learn(&mut self, host: usize, id: &str, learning: bool) {
        self.configure(host, |settings| {
            if let Some(vnet) = settings.vnets.get_mut(&vnet(id)) {
                vnet.learning = learning;
                vnet.nics.retain(|_, addresses| learning || !addresses.is_empty());
            }
        });
    }

    /// A machine is heard behind a host.
    pub(crate) fn overhear(&mut self, host: usize, id: &str, nic: u8) {
        self.configure(host, |settings| {
            if let Some(vnet) = settings.vnets.get_mut(&vnet(id)).filter(|vnet| vnet.learning) {
                vnet.nics.entry(mac(nic)).or_default();
            }
        });
    }

    /// A host wants to reach another by way of others, or does not any more.
    pub(crate) fn want(&mut self, host: usize, other: usize, wanted: bool) {
        let state = &mut self.hosts[host];
        if wanted {
            state.wants.insert(other);
        } else {
            state.wants.remove(&other);
        }
        state.node.want_detour(key(other), wanted);
        self.act(host);
    }

    /// The host begins anew: its process was killed.
    pub(crate) fn restart(&mut self, host: usize) {
        let ends = |wire: &Wire| wire.ends.iter().any(|(end, _)| *end == host);
        // Nobody says goodbye: the other end still thinks that there is a connection.
        for wire in self.wires.iter_mut().filter(|wire| ends(wire)) {
            wire.queues.iter_mut().for_each(VecDeque::clear);
            wire.ends.iter_mut().filter(|(end, _)| *end == host).for_each(|end| end.1 = SessionId(u64::MAX));
        }
        let sequences = self.hosts[host].node.sequences();
        self.next += 1;
        let spi = u32::try_from(self.next).unwrap() << 16 | 0x2000_0000;
        let state = &mut self.hosts[host];
        state.node = Node::new(key(host), sequences, spi);
        state.members.clear();
        state.routes.clear();
        state.inbound.clear();
        state.outbound.clear();
        state.own.clear();
        state.plain.clear();
        state.learning.clear();
        state.wants.clear();
        state.listening.clear();
        state.wanted.clear();
        state.paths.clear();
        self.configure(host, |_| ());
    }

    /// A host has measured the way to another that it is connected to.
    pub(crate) fn measure(&mut self, host: usize, other: usize, mtu: u16, outer_v6: bool) {
        let now = self.now;
        let state = &mut self.hosts[host];
        state.paths.insert(other, (mtu, outer_v6));
        state.node.handle_path_mtu(now, key(other), mtu, outer_v6);
        self.act(host);
    }

    /// A host asks all others to say when they have done what they were told; by which connections.
    pub(crate) fn ask_to_heed(&mut self, host: usize, number: u32) -> BTreeSet<SessionId> {
        let asked = self.hosts[host].node.ask_to_heed(number);
        self.act(host);
        asked
    }

    /// `from` dials, and reaches, `to`.
    pub(crate) fn dial(&mut self, from: usize, to: usize) {
        let (dialled, taken) = (SessionId(self.next * 2), SessionId(self.next * 2 + 1));
        self.next += 1;
        let secret = self.next;
        self.wires.push(Wire { ends: [(from, dialled), (to, taken)], queues: Default::default() });
        for (host, other, id, dialled) in [(from, to, dialled, true), (to, from, taken, false)] {
            let node = &mut self.hosts[host].node;
            if node.handle_connected(self.now, key(other), id, dialled, Box::new(Secret(secret))).is_err() {
                self.cut_session(id);
                return;
            }
            self.act(host);
        }
    }

    pub(crate) fn is_connected(&self, one: usize, other: usize) -> bool {
        let joins = |wire: &Wire| {
            let [a, b] = wire.ends.map(|(host, _)| host);
            (a == one && b == other) || (a == other && b == one)
        };
        self.wires.iter().any(|wire| joins(wire) && wire.ends.iter().all(|(_, id)| id.0 != u64::MAX))
    }

    /// The last connection of a host to another, as it calls it.
    pub(crate) fn session(&self, of: usize, to: usize) -> SessionId {
        let own = |wire: &Wire| {
            let (one, other) = (wire.ends[0], wire.ends[1]);
            [(one, other), (other, one)].into_iter().find(|(a, b)| a.0 == of && b.0 == to).map(|(a, _)| a.1)
        };
        self.wires.iter().rev().find_map(own).unwrap()
    }

    /// All connections between two hosts end, and both see it.
    pub(crate) fn cut(&mut self, one: usize, other: usize) {
        let between = |wire: &&Wire| {
            let [a, b] = wire.ends.map(|(host, _)| host);
            (a == one && b == other) || (a == other && b == one)
        };
        let ids: Vec<SessionId> =
            self.wires.iter().filter(between).flat_map(|w| w.ends.map(|(_, id)| id)).collect();
        ids.into_iter().filter(|id| id.0 != u64::MAX).for_each(|id| self.cut_session(id));
    }

    fn cut_session(&mut self, id: SessionId) {
        let Some(place) = self.wires.iter().position(|wire| wire.ends.iter().any(|(_, end)| *end == id))
        else {
            return;
        };
        let wire = self.wires.swap_remove(place);
        for (host, id) in wire.ends.into_iter().filter(|(_, id)| id.0 != u64::MAX) {
            self.hosts[host].node.handle_disconnected(self.now, id);
            self.act(host);
        }
    }

    /// On which wires, and for which of their ends, something is on its way.
    fn waiting(&self) -> Vec<(usize, usize)> {
        self.wires
            .iter()
            .enumerate()
            .flat_map(|(place, wire)| [0, 1].map(|end| (place, end, !wire.queues[end].is_empty())))
            .filter_map(|(place, end, waits)| waits.then_some((place, end)))
            .collect()
    }

    /// Some bytes arrive; says whether there were any.
    pub(crate) fn deliver(&mut self, which: usize, most: usize) -> bool {
        let waiting = self.waiting();
        if waiting.is_empty() {
            return false;
        }
        let (place, end) = waiting[which % waiting.len()];
        let wire = &mut self.wires[place];
        let (host, id) = wire.ends[end];
        let from = wire.ends[1 - end].0;
        let mut messages = Vec::new();
        while messages.len() < most.max(1) {
            let queue = wire.queues[end].make_contiguous();
            let Some((message, length)) = Message::read(queue).unwrap() else { break };
            wire.queues[end].drain(..length);
            messages.extend(message);
        }
        let is_older = self.older.contains(&host) || self.older.contains(&from);
        let is_new = |message: &Message| {
            matches!(message, Message::Learns { .. } | Message::Heed { .. } | Message::Heeded { .. })
        };
        messages.retain(|message| !is_older || !is_new(message));
        for message in messages {
            self.heard.push((from, host, message.clone()));
            self.hosts[host].node.handle_message(self.now, id, message).unwrap();
            self.act(host);
        }
        true
    }

    /// Until everything has arrived that is for one host; what it says goes nowhere.
    pub(crate) fn settle_at(&mut self, host: usize) {
        let is_for = |world: &Self, (place, end): (usize, usize)| world.wires[place].ends[end].0 == host;
        while let Some(which) = self.waiting().into_iter().position(|place| is_for(self, place)) {
            self.deliver(which, usize::MAX);
        }
    }

    /// Until everything has arrived.
    pub(crate) fn settle(&mut self) {
        while self.deliver(0, usize::MAX) {}
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let due = self.hosts.iter().filter_map(|host| host.node.poll_timeout()).min();
            self.now = due.map_or(until, |due| due.clamp(self.now, until));
            for host in 0..self.hosts.len() {
                self.hosts[host].node.handle_timeout(self.now);
                self.act(host);
            }
            if self.now == until {
                break;
            }
        }
        self.say_who_listens();
    }

    /// As whoever owns a node does again and again: a vnet that was made anew knows nothing of it.
    fn say_who_listens(&mut self) {
        for host in 0..self.hosts.len() {
            for id in self.hosts[host].settings.vnets.keys().copied().collect::<Vec<_>>() {
                let wanted = self.hosts[host].wanted.get(&id).cloned();
                self.hosts[host].node.handle_listening(id, wanted);
            }
            self.act(host);
        }
    }

    /// Does what a host wants done.
    fn act(&mut self, index: usize) {
        let mut closed = Vec::new();
        let host = &mut self.hosts[index];
        let own = key(index);
        while let Some(action) = host.node.poll_action() {
            match action {
                Action::Close { session } => closed.push(session),
                Action::Join { peer, vnet, learning } => {
                    let changed = match learning {
                        true => host.learning.insert((vnet, peer)),
                        false => host.learning.remove(&(vnet, peer)),
                    };
                    assert!(host.members.insert((vnet, peer)) || changed, "twice");
                }
                Action::Leave { peer, vnet } => {
                    assert!(host.members.remove(&(vnet, peer)), "was not in it");
                    host.learning.remove(&(vnet, peer));
                    let left = host.inbound.values().any(|a| a.peer == peer && a.vnet == vnet);
                    assert!(!left, "keys of a peer that left");
                    assert!(!host.outbound.contains_key(&(vnet, peer)));
                    assert!(!host.plain.contains_key(&(vnet, peer)));
                    let route = |((v, _), owner): (&(VnetId, MacAddr), &Owner)| {
                        *v == vnet && *owner == Owner::Peer(peer)
                    };
                    assert!(!host.routes.iter().any(route), "{own} still sends to a peer that left");
                }
                Action::Receive(association) => {
                    for (worker, spi) in association.workers() {
                        assert!(host.inbound.insert(spi, association.clone()).is_none(), "SPI in use");
                        let context = (association.session, association.context(worker));
                        assert!(host.contexts.insert(context), "the same key twice");
                    }
                }
                Action::Transmit(association) => {
                    for (worker, _) in association.workers() {
                        let context = (association.session, association.context(worker));
                        assert!(host.contexts.insert(context), "the same key twice");
                    }
                    let place = (association.vnet, association.peer);
                    match association.lane {
                        Lane::First => host.outbound.insert(place, association),
                        Lane::Own => host.own.insert(place, association),
                    };
                }
                Action::Plain { peer, vnet, vni } => {
                    host.plain.insert((vnet, peer), vni);
                }
                Action::Forget { spis } => {
                    spis.iter().for_each(|spi| assert!(host.inbound.remove(spi).is_some(), "unknown"));
                }
                Action::Mute { peer, vnet } => {
                    host.outbound.remove(&(vnet, peer));
                    host.own.remove(&(vnet, peer));
                    host.plain.remove(&(vnet, peer));
                }
                Action::Route { vnet, mac, owner, moved, .. } => {
                    if moved {
                        host.moved.push(mac);
                    }
                    match owner {
                        Some(owner) => host.routes.insert((vnet, mac), owner),
                        None => host.routes.remove(&(vnet, mac)),
                    };
                }
                Action::Mtu { vnet, mtu } => {
                    host.mtus.insert(vnet, mtu);
                }
                Action::Heeded { session, number } => {
                    host.heeded.insert((session, number));
                }
                Action::Reach | Action::Ports { .. } | Action::Settle => {}
                Action::Listening { vnet } => {
                    host.listening.retain(|(of, _), _| *of != vnet);
                    let told = host.node.listening(vnet).map(|(key, groups)| ((vnet, key), groups.clone()));
                    host.listening.extend(told.collect::<Vec<_>>());
                }
            }
        }
        while let Some((session, bytes)) = host.node.poll_transmit() {
            for wire in &mut self.wires {
                if let Some(end) = wire.ends.iter().position(|(_, id)| *id == session)
                    && wire.ends[1 - end].1.0 != u64::MAX
                {
                    wire.queues[1 - end].extend(&bytes);
                }
            }
        }
        closed.into_iter().for_each(|session| self.cut_session(session));
    }
}
