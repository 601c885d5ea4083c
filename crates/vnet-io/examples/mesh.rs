//! A fleet of hosts as state machines, with time and network simulated: what a host hears, says and remembers.
//!
//! `mesh HOSTS VNETS SIZE NICS MOVES SECONDS`: so many hosts, each in so many vnets of so many hosts, each with so many NICs;
//! so many NICs move in a second, all hosts together. The network delays, and loses one packet in a hundred, which the
//! connection sends again. Prints a line for each figure: its name, and the number.
#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    error::Error,
    net::IpAddr,
    time::{Duration, Instant},
};

use viaduct_types::{HostKey, MacAddr, VnetId, stable_hash};
use viaduct_vnet_proto::control::{
    Exporter, Message, Node, Owner, Security, SessionId, Settings, VnetSettings,
};

/// What both ends of a connection derive secrets from.
struct Secret(u64);

impl Exporter for Secret {
    fn export(&self, label: &[u8], context: &[u8]) -> Option<[u8; 16]> {
        let bytes = [&self.0.to_be_bytes(), label, context].concat();
        let (high, low) = (stable_hash(&bytes), stable_hash(&[&bytes[..], b"low"].concat()));
        Some((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same run each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap_or_default()
    }
}

/// One way on the network, and half of what a lost packet costs.
const DELAY: Duration = Duration::from_millis(2);
const LOST: Duration = Duration::from_millis(200);
/// A guest is on both hosts for so long.
const BOTH: Duration = Duration::from_millis(50);

struct Host {
    node: Node,
    settings: Settings,
}

/// What a direction of a connection has on its way: in order, whatever is lost.
struct Way {
    to: usize,
    session: SessionId,
    free: Duration,
    left: Vec<u8>,
}

struct Fleet {
    now: Duration,
    hosts: Vec<Host>,
    /// By the session of the sender.
    ways: HashMap<SessionId, Way>,
    queue: BTreeMap<(Duration, u64), (SessionId, Vec<u8>)>,
    next: u64,
    random: Random,
    messages: u64,
    bytes: u64,
    heard_by: Vec<u64>,
    handling: Duration,
    configures: u64,
    configuring: Duration,
}

fn key(host: usize) -> HostKey {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&(host as u64 + 1).to_be_bytes());
    HostKey(key)
}

fn vnet_id(vnet: usize) -> Result<VnetId, Box<dyn Error>> {
    Ok(format!("0:0:0:0:0:0:{:x}:{:x}", vnet >> 16, (vnet & 0xffff) + 2).parse()?)
}

fn mac(nic: usize) -> MacAddr {
    let [.., a, b, c, d] = nic.to_be_bytes();
    MacAddr([2, 0, a, b, c, d])
}

fn addresses(nic: usize) -> Vec<IpAddr> {
    let [.., b, c, d] = nic.to_be_bytes();
    let low = u128::from(u32::from_be_bytes([0, b, c, d]));
    vec![IpAddr::from([10, b, c, d]), IpAddr::from((0xfd97_u128 << 112 | low).to_be_bytes())]
}

impl Fleet {
    /// Sends what a host has to say.
    fn send(&mut self, host: usize) {
        while self.hosts[host].node.poll_action().is_some() {}
        while let Some((session, bytes)) = self.hosts[host].node.poll_transmit() {
            let lost = self.random.below(100) == 0;
            let Some(way) = self.ways.get_mut(&session) else { continue };
            let jitter = Duration::from_micros(self.random.next() % 1000);
            // What comes after something that was lost waits for it.
            way.free = way.free.max(self.now + DELAY + jitter + if lost { LOST } else { Duration::ZERO });
            self.bytes += bytes.len() as u64;
            self.next += 1;
            self.queue.insert((way.free, self.next), (session, bytes));
        }
    }

    fn configure(&mut self, host: usize) {
        let (now, state) = (self.now, &mut self.hosts[host]);
        let arrival = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let settings = state.settings.clone();
        let begin = Instant::now();
        state.node.configure(now, arrival, settings);
        self.configuring += begin.elapsed();
        self.configures += 1;
        self.send(host);
    }

    fn connect(&mut self, one: usize, other: usize) -> Result<(), Box<dyn Error>> {
        self.next += 1;
        let (dialled, taken) = (SessionId(self.next * 2), SessionId(self.next * 2 + 1));
        let secret = self.next;
        let way = |to, session| Way { to, session, free: Duration::ZERO, left: Vec::new() };
        self.ways.insert(dialled, way(other, taken));
        self.ways.insert(taken, way(one, dialled));
        for (host, peer, id, dialled) in [(one, other, dialled, true), (other, one, taken, false)] {
            let (now, exporter) = (self.now, Box::new(Secret(secret)));
            let connected = self.hosts[host].node.handle_connected(now, key(peer), id, dialled, exporter);
            connected.map_err(|_| "a connection is refused")?;
            self.hosts[host].node.handle_path_mtu(self.now, key(peer), 1500, false);
            self.send(host);
        }
        Ok(())
    }

    /// Until then, everything arrives that arrives, and what is due is done.
    fn pass(&mut self, until: Duration) -> Result<(), Box<dyn Error>> {
        while let Some(((due, _), (session, bytes))) = self
            .queue
            .first_key_value()
            .filter(|((due, _), _)| *due <= until)
            .map(|(at, what)| (*at, what.clone()))
        {
            self.queue.pop_first();
            self.now = due;
            let Some(way) = self.ways.get_mut(&session) else { continue };
            way.left.extend(bytes);
            let (host, to) = (way.to, way.session);
            let mut taken = 0;
            let mut messages = Vec::new();
            while let Some((message, length)) = Message::read(&way.left[taken..])? {
                messages.extend(message);
                taken += length;
            }
            way.left.drain(..taken);
            self.messages += messages.len() as u64;
            self.heard_by[host] += messages.len() as u64;
            let begin = Instant::now();
            for message in messages {
                self.hosts[host].node.handle_message(due, to, message)?;
            }
            self.handling += begin.elapsed();
            self.send(host);
        }
        self.now = until;
        for host in 0..self.hosts.len() {
            if self.hosts[host].node.poll_timeout().is_some_and(|due| due <= until) {
                self.hosts[host].node.handle_timeout(until);
                self.send(host);
            }
        }
        Ok(())
    }
}

/// Kibibytes of memory that the process has.
fn memory() -> Result<f64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<usize> =
        std::env::args().skip(1).map(|word| word.parse()).collect::<Result<_, _>>()?;
    let [hosts, vnets, size, nics, moves, seconds] = arguments[..] else {
        return Err("mesh HOSTS VNETS SIZE NICS MOVES SECONDS".into());
    };
    let figures = simulate(&Shape { hosts, vnets, size, nics, moves, seconds })?;
    figures.iter().for_each(|(name, figure)| println!("{name} {figure}"));
    Ok(())
}

/// A fleet, and what happens to it.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) hosts: usize,
    /// In how many each host is.
    pub(crate) vnets: usize,
    /// Of how many hosts each vnet has.
    pub(crate) size: usize,
    /// Of each host.
    pub(crate) nics: usize,
    /// In a second, all hosts together.
    pub(crate) moves: usize,
    pub(crate) seconds: usize,
}

/// The figures, most of them of one host, by their names.
pub(crate) fn simulate(shape: &Shape) -> Result<Vec<(&'static str, f64)>, Box<dyn Error>> {
    let Shape { hosts: count, vnets, size, nics, moves, seconds } = *shape;
    let mut random = Random(1);
    // Which hosts each vnet has: for each of a host's places, the hosts in another order.
    let mut members: Vec<Vec<usize>> = Vec::new();
    for _ in 0..vnets {
        let mut order: Vec<usize> = (0..count).collect();
        (1..count).rev().for_each(|last| order.swap(last, random.below(last + 1)));
        members.extend(order.chunks(size).map(<[usize]>::to_vec));
    }
    let empty = Settings {
        workers: 2,
        ports: vec![1800, 1801],
        fast_aes: true,
        rekey: Duration::from_secs(3600),
        vnets: BTreeMap::new(),
        relay: BTreeSet::new(),
    };
    let mut wanted: Vec<Settings> = vec![empty; count];
    let mut of_host: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (vnet, hosts) in members.iter().enumerate() {
        for host in hosts {
            of_host[*host].push(vnet);
            let settings = VnetSettings {
                security: Security::Conf,
                cipher: None,
                vni: None,
                learning: false,
                mtu: None,
                peers: hosts.iter().filter(|other| *other != host).map(|other| key(*other)).collect(),
                nics: BTreeMap::new(),
            };
            wanted[*host].vnets.insert(vnet_id(vnet)?, settings);
        }
    }
    // Where each NIC is: in a vnet of its first host.
    let mut places: Vec<(usize, usize)> = Vec::new();
    for host in 0..count {
        for nic in 0..nics {
            let vnet = of_host[host][nic % of_host[host].len()];
            let number = places.len();
            if let Some(settings) = wanted[host].vnets.get_mut(&vnet_id(vnet)?) {
                settings.nics.insert(mac(number), addresses(number));
            }
            places.push((vnet, host));
        }
    }
    let before = memory()?;
    let node = |host: usize| Node::new(key(host), BTreeMap::new(), u32::try_from(host).unwrap_or(0) << 18);
    let hosts = wanted.into_iter().enumerate().map(|(host, settings)| Host { node: node(host), settings });
    let mut fleet = Fleet {
        now: Duration::ZERO,
        hosts: hosts.collect(),
        ways: HashMap::new(),
        queue: BTreeMap::new(),
        next: 0,
        random,
        messages: 0,
        bytes: 0,
        heard_by: vec![0; count],
        handling: Duration::ZERO,
        configures: 0,
        configuring: Duration::ZERO,
    };
    for host in 0..count {
        fleet.configure(host);
    }
    let mut connected = HashSet::new();
    for hosts in &members {
        for (place, one) in hosts.iter().enumerate() {
            for other in &hosts[place + 1..] {
                if connected.insert((*one.min(other), *one.max(other))) {
                    fleet.connect(*one, *other)?;
                }
            }
        }
        fleet.pass(fleet.now + Duration::from_millis(10))?;
    }
    fleet.pass(fleet.now + Duration::from_secs(30))?;
    let per_host = |number: f64| number / count as f64;
    let (start_bytes, start_messages) = (fleet.bytes, fleet.messages);
    let memory_after = memory()?;
    let mut figures = vec![
        ("connections", per_host(2.0 * connected.len() as f64)),
        ("start-messages", per_host(start_messages as f64)),
        ("start-bytes", per_host(start_bytes as f64)),
        ("memory-kib", per_host(memory_after - before)),
    ];

    // Moves, evenly over the time.
    fleet.heard_by.iter_mut().for_each(|heard| *heard = 0);
    (fleet.handling, fleet.configuring, fleet.configures) = (Duration::ZERO, Duration::ZERO, 0);
    let begin = fleet.now;
    let mut leaving: Vec<(Duration, usize, usize, usize)> = Vec::new();
    let mut moved = 0_usize;
    for step in 0..moves * seconds {
        let at = begin + Duration::from_secs_f64(step as f64 / moves as f64);
        while let Some((due, host, vnet, nic)) = leaving.first().copied().filter(|(due, ..)| *due <= at) {
            leaving.remove(0);
            fleet.pass(due.max(fleet.now))?;
            if let Some(settings) = fleet.hosts[host].settings.vnets.get_mut(&vnet_id(vnet)?) {
                settings.nics.remove(&mac(nic));
            }
            fleet.configure(host);
        }
        fleet.pass(at.max(fleet.now))?;
        // One that does not move already, and could.
        let can_move = |nic: usize| {
            members[places[nic].0].len() > 1 && leaving.iter().all(|(.., moving)| *moving != nic)
        };
        let drawn = fleet.random.below(places.len());
        let Some(nic) = (drawn..places.len()).chain(0..drawn).find(|nic| can_move(*nic)) else { continue };
        let (vnet, from) = places[nic];
        let others: Vec<usize> = members[vnet].iter().copied().filter(|host| *host != from).collect();
        let to = others[fleet.random.below(others.len())];
        moved += 1;
        places[nic].1 = to;
        if let Some(settings) = fleet.hosts[to].settings.vnets.get_mut(&vnet_id(vnet)?) {
            settings.nics.insert(mac(nic), addresses(nic));
        }
        fleet.configure(to);
        leaving.push((at + BOTH, from, vnet, nic));
    }
    for (due, host, vnet, nic) in leaving {
        fleet.pass(due.max(fleet.now))?;
        if let Some(settings) = fleet.hosts[host].settings.vnets.get_mut(&vnet_id(vnet)?) {
            settings.nics.remove(&mac(nic));
        }
        fleet.configure(host);
    }
    let spent = begin + Duration::from_secs(seconds as u64);
    fleet.pass(spent.max(fleet.now))?;
    let rate = |number: f64| per_host(number) / seconds as f64;
    let messages = fleet.messages - start_messages;
    let most = fleet.heard_by.iter().max().copied().unwrap_or(0);
    let microseconds = |spent: Duration, count: u64| spent.as_secs_f64() * 1e6 / count.max(1) as f64;
    figures.extend([
        ("moves", moved as f64 / seconds as f64),
        ("move-messages", rate(messages as f64)),
        ("move-bytes", rate((fleet.bytes - start_bytes) as f64)),
        ("most-messages", most as f64 / seconds as f64),
        ("microseconds", microseconds(fleet.handling, messages)),
        // A host is configured anew when a NIC comes, and when one goes.
        ("configure-microseconds", microseconds(fleet.configuring, fleet.configures)),
        ("memory-after-kib", per_host(memory()? - before)),
    ]);

    // Everybody knows where every NIC is that it has to do with; a list that knows nothing of messages says where.
    fleet.pass(fleet.now + Duration::from_secs(5))?;
    let mut known = 0;
    let mut expected: Vec<BTreeMap<MacAddr, usize>> = vec![BTreeMap::new(); members.len()];
    for (nic, (vnet, host)) in places.iter().enumerate() {
        expected[*vnet].insert(mac(nic), *host);
    }
    for (vnet, hosts) in members.iter().enumerate() {
        for host in hosts {
            let report =
                fleet.hosts[*host].node.report(vnet_id(vnet)?, usize::MAX).ok_or("a vnet is missing")?;
            let owner = |owner: Owner| match owner {
                Owner::Here => Some(*host),
                Owner::Peer(other) => hosts.iter().find(|known| key(**known) == other).copied(),
            };
            let found: BTreeMap<MacAddr, usize> = report
                .macs
                .iter()
                .filter_map(|(mac, claims)| Some((*mac, owner(claims.first()?.0)?)))
                .collect();
            if found != expected[vnet] {
                return Err(format!("host {host} does not know where the NICs of vnet {vnet} are").into());
            }
            known += found.len();
        }
    }
    figures.push(("known-nics", per_host(known as f64)));
    Ok(figures)
}
