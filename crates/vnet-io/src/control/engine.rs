//! The engine: one task that has everything, and to which all others report.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn::Endpoint;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task, time,
};
use tracing::{debug, error, info, warn};
use viaduct_types::{HostKey, IfName, MacAddr, VnetId, VnetName};
use viaduct_vnet_proto::{
    control::{Message, Node, Security, SessionId},
    data::{Count, Listeners, Numbers},
};

use super::{
    Answer, Findings, Identity, Options, Orders, Request,
    accept::Gate,
    dial::{Targets, dial},
    discovery::{Discovery, time_of_day},
    flips::Flips,
    heeded::Heeded,
    learned::{Learned, Looks},
    link::{Farewell, Link, Secrets},
    memory,
    names::Names,
    narrow::{Narrow, widen},
    peers::{Peer, Strangers},
    plain::{Pace, Plain},
    ports::Ports,
    reach::{Reach, Ways, relay_of},
    segment::Bridging,
    socket::unmapped,
    tables::Tables,
    unheard::Unheard,
};
use crate::datapath::{Datapath, Event, Handle};

/// How often what nobody tells is looked at.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// So many reports of the workers are heard before something follows from them.
const BATCH: usize = 64;
/// After so long what one connection has said waits for its next turn, however little that is: some of it takes long.
const TURN: Duration = Duration::from_millis(2);
/// A connection that lasted for so long did not end because of what the hosts are.
const SETTLED: Duration = Duration::from_secs(3);

/// What others report.
pub(super) enum Input {
    /// A connection stands, and its other end has shown this key. No longer datagrams are looked for on its way.
    Connected { key: HostKey, dialled: bool, connection: quinn::Connection, longest: u16 },
    /// A peer was not reached.
    NotReached { key: HostKey, why: String, seen: Option<HostKey> },
    /// Something came in by a connection, and nothing more comes by it until this is done with.
    Messages { session: SessionId, messages: VecDeque<Message>, done: oneshot::Sender<()> },
    /// A connection ended.
    Closed { session: SessionId, why: String },
    /// A device is a port of a bridge, with something at its other end, or is none any more.
    Port { device: IfName, there: bool },
    /// Somebody said on a multicast group where a key is, on the interface of this index.
    Beacon { interface: u32, bytes: Vec<u8> },
    /// Somebody else looks up names of hosts, or nobody any more.
    Names { are_found: bool },
    /// A client asks.
    Asked { request: Request, answers: mpsc::Sender<Answer> },
}

impl Input {
    pub(super) fn not_reached(key: HostKey, target: &str, why: &str, seen: Option<HostKey>) -> Self {
        Self::NotReached { key, why: format!("{target}: {why}"), seen }
    }
}

/// Who is told what is found.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) answers: mpsc::Sender<Answer>,
    /// Whether the last of it is still to be told: there was no room.
    pub(super) is_behind: bool,
}

/// A vnet as it is carried.
#[derive(Debug)]
pub(super) struct Vnet {
    pub(super) name: VnetName,
    pub(super) tap: IfName,
    pub(super) security: Security,
    pub(super) tables: Tables,
    /// Whether the workers have it.
    pub(super) carried: bool,
    pub(super) trouble: Option<String>,
    /// What the kernel is told of it, where it carries the frames.
    pub(super) plain: Option<Plain>,
    /// Who else bridges the same segment.
    pub(super) bridging: Bridging,
    /// When it was last said that a machine behind the bridge has the MAC of a NIC elsewhere.
    pub(super) accused: Option<Duration>,
    /// Machines behind the bridge that nobody has told of.
    pub(super) learned: Learned,
    /// Those of them that other hosts hear, too.
    pub(super) flips: Flips,
    /// The host's own NICs that are claimed.
    pub(super) own: BTreeSet<MacAddr>,
    /// Of those, who are at another host by now: the bridge has been told that they are behind the tap.
    pub(super) pinned: BTreeSet<MacAddr>,
    /// What the machines here listen to.
    pub(super) listeners: Listeners,
    /// What those have said who were not known to be here.
    pub(super) unheard: Unheard,
}

impl Vnet {
    /// Whether frames of its guests are seen.
    pub(super) fn hears(&self) -> bool {
        self.carried && self.plain.is_none()
    }
}

pub(super) struct Engine {
    pub(super) identity: Arc<Identity>,
    /// It ends with this.
    pub(super) _datapath: Datapath,
    pub(super) handle: Handle,
    pub(super) endpoint: Endpoint,
    pub(super) port: u16,
    pub(super) ports: Ports,
    pub(super) rekey: Duration,
    pub(super) run_dir: PathBuf,
    pub(super) inputs: mpsc::Sender<Input>,
    /// What is left of messages, no more than one piece of each connection.
    pub(super) unfinished: VecDeque<Input>,
    /// When it was last looked which machines have been learned.
    pub(super) looks: Looks,
    /// How often the node was told what there is, and whether it was since the sequences were written down.
    pub(super) configured: (u64, bool),
    /// NICs of this host that are elsewhere by now, which their bridges are told when the workers know.
    pub(super) gone: Vec<(VnetId, MacAddr)>,
    /// Where connections come in.
    pub(super) gate: Arc<Gate>,
    start: Instant,
    pub(super) node: Node,
    pub(super) orders: Orders,
    pub(super) peers: BTreeMap<HostKey, Peer>,
    pub(super) links: BTreeMap<SessionId, Link>,
    pub(super) vnets: BTreeMap<VnetId, Vnet>,
    pub(super) strangers: Strangers,
    pub(super) findings: Findings,
    pub(super) told: Findings,
    /// When that was said.
    pub(super) told_at: Option<Duration>,
    pub(super) listeners: Vec<Listener>,
    pub(super) heeded: Heeded,
    pub(super) written: BTreeMap<(VnetId, MacAddr), u64>,
    pub(super) reach: Reach,
    /// When somebody was last not reached without others' help.
    pub(super) sought: Option<Duration>,
    pub(super) ways: Ways,
    /// The first of the sockets, beside which others are to have its port.
    pub(super) socket: std::net::UdpSocket,
    pub(super) discovery: Discovery,
    names: Names,
    /// When the kernel may be told of vnets that nothing protects.
    pub(super) telling: Pace,
    /// What the kernel is told of paths.
    pub(super) narrow: Narrow,
    /// What this host says on segments, and what others have said there.
    pub(super) count: Count,
    pub(super) numbers: Numbers,
    /// Which devices are ports of bridges.
    pub(super) bridged: BTreeSet<IfName>,
    /// Vnets that the engine before this one has just bridged to a segment outside.
    pub(super) bridged_before: BTreeSet<VnetId>,
    /// Events that the workers had and could not tell, when that was last looked at.
    pub(super) missed: u64,
    next_session: u64,
    pub(super) next_peer: u32,
}

impl Engine {
    pub(super) fn new(
        options: &Options,
        identity: Arc<Identity>,
        datapath: Datapath,
        (endpoint, gate, ways, socket): (Endpoint, Arc<Gate>, Ways, std::net::UdpSocket),
        names: Names,
        inputs: mpsc::Sender<Input>,
    ) -> Self {
        let mut random = [0; 4];
        // Without it, numbers that another start may have had: frames of before are not taken for it.
        let _ = aws_lc_rs::rand::fill(&mut random);
        let sequences = memory::read(&options.run_dir);
        Self {
            node: Node::new(identity.public(), sequences.clone(), u32::from_ne_bytes(random)),
            identity,
            handle: datapath.handle(),
            _datapath: datapath,
            endpoint,
            gate,
            port: options.port,
            ports: Ports::default(),
            rekey: options.rekey,
            run_dir: options.run_dir.clone(),
            inputs,
            unfinished: VecDeque::new(),
            looks: Looks::default(),
            configured: (0, true),
            gone: Vec::new(),
            start: Instant::now(),
            orders: Orders::default(),
            peers: BTreeMap::new(),
            links: BTreeMap::new(),
            vnets: BTreeMap::new(),
            strangers: Strangers::default(),
            findings: Findings::default(),
            told: Findings::default(),
            told_at: None,
            listeners: Vec::new(),
            heeded: Heeded::default(),
            written: sequences,
            reach: Reach::default(),
            sought: None,
            ways,
            socket,
            discovery: Discovery::default(),
            names,
            telling: Pace::default(),
            narrow: Narrow::default(),
            count: Count::new(time_of_day()),
            numbers: Numbers::default(),
            bridged: BTreeSet::new(),
            bridged_before: memory::bridged(&options.run_dir),
            missed: 0,
            next_session: 0,
            next_peer: 0,
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Until somebody says so, or a worker ends by itself: then it is for the next process to begin anew.
    pub(super) async fn run(
        mut self,
        mut queue: mpsc::Receiver<Input>,
        mut events: mpsc::Receiver<Event>,
        ended: &Notify,
    ) {
        let mut ticks = time::interval(TICK);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            self.flush();
            self.tell_known();
            let learned = self.looks.due(self.vnets.values().map(|vnet| &vnet.learned));
            let due = self
                .node
                .poll_timeout()
                .into_iter()
                .chain(learned)
                .chain(self.heeded.due())
                .chain(self.telling_due())
                .chain(self.vnets.values().filter(|vnet| vnet.hears()).filter_map(|vnet| vnet.unheard.due()))
                .min()
                .map(|due| self.start + due);
            let timeout = async {
                match due {
                    Some(due) => time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(input) = queue.recv() => {
                    if self.hear(input) {
                        break;
                    }
                }
                // By turns with what has come since, and with the tasks that bring it.
                () = task::yield_now(), if !self.unfinished.is_empty() => {
                    if let Some(input) = self.unfinished.pop_front() {
                        self.hear(input);
                    }
                }
                1.. = events.recv_many(&mut batch, BATCH) => {
                    batch.drain(..).for_each(|event| self.happened(event));
                }
                () = timeout => {
                    let now = self.now();
                    self.node.handle_timeout(now);
                }
                _ = ticks.tick() => self.tick(),
                () = ended.notified() => {
                    error!("vnets: a thread that carries frames has ended, and so does this process");
                    break;
                }
            }
        }
        let _ = widen();
        for link in self.links.values() {
            Farewell::Ending.end(&link.connection, "ends");
        }
        let _ = time::timeout(Duration::from_millis(200), self.endpoint.wait_idle()).await;
    }

    /// Says whether this is the end.
    pub(super) fn hear(&mut self, input: Input) -> bool {
        match input {
            Input::Connected { key, dialled, connection, longest } => {
                self.connected(key, dialled, (connection, longest));
            }
            Input::NotReached { key, why, seen } => {
                if let Some(peer) = self.peers.get_mut(&key)
                    && peer.not_reached(why.clone(), seen)
                {
                    info!("peer {} is not reached: {why}", peer.name);
                }
            }
            Input::Messages { session, messages, done } => self.heard(session, messages, done),
            Input::Closed { session, why } => self.closed(session, why),
            Input::Port { device, there } => self.port_changed(device, there),
            Input::Names { are_found } => self.findings.nameless = !are_found,
            Input::Beacon { interface, bytes } => self.heard_beacon(interface, &bytes),
            Input::Asked { request, answers } => match request {
                Request::Be(orders) => {
                    let troubles = self.be(*orders);
                    let _ = answers.try_send(Answer::Done { troubles });
                    let _ = answers.try_send(Answer::Changed(self.findings.clone()));
                    if !self.listeners.iter().any(|listener| listener.answers.same_channel(&answers)) {
                        self.listeners.push(Listener { answers, is_behind: false });
                    }
                }
                Request::Known { number } => self.tell_when_known(number, answers),
                Request::Machine { vnet, mac, here } => {
                    let troubles = self.told_of(vnet, mac, here).err().into_iter().collect();
                    let _ = answers.try_send(Answer::Done { troubles });
                }
                Request::Report { most_macs } => {
                    let _ = answers.try_send(Answer::Report(Box::new(self.report(most_macs))));
                }
                // Who says so is heard by nobody else (`server`).
                Request::Names => {}
                Request::End => return true,
            },
        }
        false
    }

    /// That it is done is told when `done` is dropped.
    fn heard(&mut self, session: SessionId, mut messages: VecDeque<Message>, done: oneshot::Sender<()>) {
        let begun = self.now();
        while let Some(message) = messages.pop_front() {
            let now = self.now();
            if now.saturating_sub(begun) >= TURN {
                messages.push_front(message);
                return self.unfinished.push_back(Input::Messages { session, messages, done });
            }
            if let Message::Number { number } = message {
                if let Some(key) = self.links.get(&session).map(|link| link.key) {
                    self.heard_number(key, number);
                }
                continue;
            }
            if let Err(error) = self.node.handle_message(now, session, message) {
                let Some(link) = self.links.get(&session) else { return };
                if let Some(peer) = self.peers.get_mut(&link.key)
                    && peer.lines.has_room(now)
                {
                    warn!("peer {} does not keep to the protocol: {error}", peer.name);
                }
                return Farewell::Protocol.end(&link.connection, &error.to_string());
            }
        }
    }

    fn connected(&mut self, key: HostKey, dialled: bool, (connection, longest): (quinn::Connection, u16)) {
        let now = self.now();
        let Some(peer) = self.peers.get_mut(&key) else {
            let remote = unmapped(connection.remote_address());
            if self.strangers.add(now, key, remote) {
                info!("{remote} was refused: nobody here knows its key {key}");
            }
            Farewell::Stranger.end(&connection, "your key is not known here");
            return;
        };
        let is_direct = |session| self.links.get(&session).is_some_and(|link| link.via().is_none());
        let by_way = relay_of(connection.remote_address()).is_some();
        if by_way && peer.session.is_some_and(is_direct) {
            debug!("peer {} is reached without anybody's help", peer.name);
            Farewell::Duplicate.end(&connection, "there is a better connection");
            return;
        }
        let id = SessionId(self.next_session);
        self.next_session += 1;
        let secrets = Box::new(Secrets(connection.clone()));
        if self.node.handle_connected(now, key, id, dialled, secrets).is_err() {
            debug!("peer {}: two connections at once, one is enough", peer.name);
            Farewell::Duplicate.end(&connection, "there is another connection");
            return;
        }
        peer.reached(id);
        let link = Link::start(id, key, (connection, longest), now, &self.inputs);
        let (name, is_told) = (peer.name.clone(), peer.lines.has_room(now));
        match link.via().and_then(|relay| self.peers.values().find(|peer| peer.id == relay)) {
            _ if !is_told => {}
            Some(relay) => info!("peer {name} is connected, by way of peer {}", relay.name),
            None => info!("peer {name} is connected, at {}", link.remote()),
        }
        self.links.insert(id, link);
        self.measure(key);
        self.reach();
        self.dial(key);
    }

    /// Longer datagrams may get to a peer than its connection looks for: another one takes its place, which looks for them. Frames go on
    /// meanwhile.
    pub(super) fn outgrown(&mut self, key: HostKey) {
        let Some(peer) = self.peers.get(&key) else { return };
        let Some(link) = peer.session.and_then(|session| self.links.get(&session)) else { return };
        if peer.dialling.is_some() || peer.spare.is_some() {
            return;
        }
        info!("the link towards peer {} carries longer packets by now: it is connected anew", peer.name);
        let names = peer.names();
        if names.is_empty() {
            // Who has dialled does again.
            return Farewell::Outgrown.end(&link.connection, "longer packets may get through by now");
        }
        let targets = Targets { names, ways: Vec::new(), is_idle: true, is_spare: false };
        self.dial_at(key, targets);
    }

    pub(super) fn closed(&mut self, session: SessionId, why: String) {
        self.heeded.ended(session);
        let Some(link) = self.links.remove(&session) else { return };
        let now = self.now();
        self.node.handle_disconnected(now, session);
        let Some(peer) = self.peers.get_mut(&link.key).filter(|peer| peer.session == Some(session)) else {
            return;
        };
        if peer.lines.has_room(now) {
            info!("peer {} is not connected any more: {why}", peer.name);
        }
        peer.session = None;
        peer.go_by_first(&self.handle);
        peer.error = Some(why);
        let at_once = now.saturating_sub(link.since) < SETTLED;
        peer.ended_at_once = if at_once { peer.ended_at_once.saturating_add(1) } else { 0 };
        peer.stop_dialling();
        self.dial(link.key);
        self.reach();
    }

    /// Sees to it that a peer is dialled, if it can be.
    pub(super) fn dial(&mut self, key: HostKey) {
        let (now, seeks) = (self.now(), self.seeks());
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.dialling.is_some() {
            return;
        }
        let link = peer.session.and_then(|session| self.links.get(&session));
        let is_by_way = link.is_some_and(|link| link.via().is_some());
        if peer.session.is_some() && !is_by_way {
            return;
        }
        // One of the two dials by way of others; while that holds, it is still tried without.
        let ways = match self.reach.addresses.get(&key) {
            Some(ways) if !is_by_way && self.identity.public() < key => ways.clone(),
            Some(_) | None => Vec::new(),
        };
        let targets =
            Targets { names: peer.names(), ways, is_idle: is_by_way, is_spare: peer.spare.is_some() };
        if targets.names.is_empty() && targets.ways.is_empty() {
            return;
        }
        if peer.spare.as_mut().is_some_and(|spare| !seeks || !spare.may_try(now)) {
            return;
        }
        self.dial_at(key, targets);
    }

    /// Dials those anew for whom it is due, which ends the attempts that there are.
    pub(super) fn dial_anew(&mut self, is_due: impl Fn(&mut Peer) -> bool) {
        let mut due = Vec::new();
        for (key, peer) in &mut self.peers {
            if is_due(peer) {
                peer.stop_dialling();
                due.push(*key);
            }
        }
        due.into_iter().for_each(|key| self.dial(key));
    }

    fn dial_at(&mut self, key: HostKey, targets: Targets) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.dialling = Some(tokio::spawn(dial(
            Arc::clone(&self.identity),
            (self.endpoint.clone(), self.names.clone()),
            key,
            targets,
            peer.ended_at_once,
            self.inputs.clone(),
        )));
    }
}
