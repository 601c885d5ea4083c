//! Random configurations of one host, and who may open flows to whom by them, as the documentation says it: told
//! without the program that is tested.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::random::Random;

/// How many guests come and go.
pub(crate) const GUESTS: usize = 5;
pub(crate) const HOST: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x28, 0, 0, 0, 0, 2)),
];
pub(crate) const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x28, 0, 0, 0, 0, 1)),
];
/// The guest whose connection nothing touches, and its port.
pub(crate) const STEADY: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 5));
pub(crate) const STEADY_PORT: u16 = 7777;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Network {
    Routed,
    Nat,
    Isolated,
}

impl Network {
    fn name(self) -> &'static str {
        match self {
            Self::Routed => "pub",
            Self::Nat => "lan",
            Self::Isolated => "iso",
        }
    }

    fn prefixes(self) -> [&'static str; 2] {
        match self {
            Self::Routed => ["198.51.100.0/26", "2001:db8:51::/64"],
            Self::Nat => ["10.1.0.0/24", "fd01::/64"],
            Self::Isolated => ["10.2.0.0/24", "fd02::/64"],
        }
    }
}

/// Where a guest can be: its addresses in a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) network: Network,
    last: u8,
}

impl Home {
    pub(crate) fn addresses(self) -> [IpAddr; 2] {
        let n = self.last;
        let (v4, v6) = match self.network {
            Network::Routed => ([198, 51, 100, n], [0x2001, 0xdb8, 0x51]),
            Network::Nat => ([10, 1, 0, n], [0xfd01, 0, 0]),
            Network::Isolated => ([10, 2, 0, n], [0xfd02, 0, 0]),
        };
        [IpAddr::from(v4), IpAddr::from([v6[0], v6[1], v6[2], 0, 0, 0, 0, u16::from(n)])]
    }
}

/// The two homes of every guest.
pub(crate) type Homes = [[Home; 2]; GUESTS];

pub(crate) fn homes(random: &mut Random) -> Homes {
    let networks = [Network::Routed, Network::Routed, Network::Nat, Network::Isolated];
    std::array::from_fn(|guest| {
        let first = *random.pick(&networks);
        let second = if random.percent(50) { first } else { *random.pick(&networks) };
        let home =
            |index: usize, network| Home { network, last: u8::try_from(10 + 2 * guest + index).unwrap() };
        [home(0, first), home(1, second)]
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Udp(u16),
    Tcp(u16),
    Icmp,
}

/// The services that are tried.
pub(crate) const SERVICES: [Service; 4] =
    [Service::Udp(1001), Service::Udp(1003), Service::Tcp(1001), Service::Icmp];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Any,
    Outside,
    Guest(usize),
    Network(Network),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Everything,
    One,
    Range,
    Tcp,
    Icmp,
}

impl What {
    const ALL: [Self; 5] = [Self::Everything, Self::One, Self::Range, Self::Tcp, Self::Icmp];

    fn has(self, service: Service) -> bool {
        match self {
            Self::Everything => true,
            Self::One => service == Service::Udp(1001),
            Self::Range => matches!(service, Service::Udp(1002..=1004)),
            Self::Tcp => service == Service::Tcp(1001),
            Self::Icmp => service == Service::Icmp,
        }
    }

    fn toml(self) -> &'static str {
        match self {
            Self::Everything => "",
            Self::One => ", ports = [\"1001/udp\"]",
            Self::Range => ", ports = [\"1002-1004/udp\"]",
            Self::Tcp => ", ports = [\"1001/tcp\"]",
            Self::Icmp => ", icmp = true",
        }
    }
}

type List = Option<Vec<(Peer, What)>>;

/// A way of publishing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Published {
    Udp4,
    Range4,
    Tcp6,
}

impl Published {
    pub(crate) const ALL: [Self; 3] = [Self::Udp4, Self::Range4, Self::Tcp6];

    pub(crate) fn toml(self, guest: usize) -> String {
        match self {
            Self::Udp4 => format!("203.0.113.2:{}:1001/udp", 8000 + guest),
            Self::Range4 => {
                let (first, last) = (9000 + 10 * guest, 9003 + 10 * guest);
                format!("203.0.113.2:{first}-{last}:{first}-{last}/udp")
            }
            Self::Tcp6 => format!("[2001:db8:28::2]:{}:1001/tcp", 8100 + guest),
        }
    }

    /// Which of the host's addresses, and what there.
    pub(crate) fn at(self, guest: usize) -> (usize, Service) {
        let port = |base: usize| u16::try_from(base).unwrap();
        match self {
            Self::Udp4 => (0, Service::Udp(port(8000 + guest))),
            Self::Range4 => (0, Service::Udp(port(9001 + 10 * guest))),
            Self::Tcp6 => (1, Service::Tcp(port(8100 + guest))),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Guest {
    home: usize,
    allow_in: List,
    allow_out: List,
    publish: BTreeSet<Published>,
}

/// What the host is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) homes: Homes,
    guests: [Option<Guest>; GUESTS],
    inbound: bool,
    between: [bool; 3],
    /// Whether a bridge has the uplink for a port, with a guest on it.
    bridged: bool,
    pub(crate) attached: BTreeSet<usize>,
}

/// One of the host, the outside and the guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Outside,
    Guest(usize),
}

/// A packet that is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) from: Place,
    pub(crate) source: IpAddr,
    pub(crate) to: Place,
    pub(crate) destination: IpAddr,
    pub(crate) service: Service,
    pub(crate) published: Option<Published>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Open,
    Closed,
    /// Nobody has said.
    Either,
}

fn open_if(open: bool) -> Answer {
    if open { Answer::Open } else { Answer::Closed }
}

impl Policy {
    /// The first one: every guest in its first home, attached.
    pub(crate) fn new(homes: Homes) -> Self {
        let guest = |_| Some(Guest { home: 0, allow_in: None, allow_out: None, publish: BTreeSet::new() });
        Self {
            homes,
            guests: std::array::from_fn(guest),
            inbound: true,
            between: [true; 3],
            bridged: false,
            attached: (0..GUESTS).collect(),
        }
    }

    /// Changes a few things, or everything.
    pub(crate) fn vary(&mut self, random: &mut Random) {
        let much = random.percent(25);
        let chance = if much { 60 } else { 25 };
        if random.percent(chance) {
            self.inbound = !self.inbound;
        }
        for between in &mut self.between {
            if random.percent(chance) {
                *between = !*between;
            }
        }
        if random.percent(15) {
            self.bridged = !self.bridged;
        }
        let here: Vec<usize> = (0..GUESTS).collect();
        for guest in here {
            if random.percent(if much { 50 } else { 10 }) {
                self.guests[guest] = match self.guests[guest] {
                    Some(_) => None,
                    None => Some(Guest {
                        home: random.below(2),
                        allow_in: None,
                        allow_out: None,
                        publish: BTreeSet::new(),
                    }),
                };
            }
        }
        for guest in 0..GUESTS {
            let lists = [random.percent(chance), random.percent(chance / 2)]
                .map(|changes| changes.then(|| self.list(random)));
            let home = random.percent(chance / 2).then(|| random.below(2));
            let publish = random.percent(chance).then(|| *random.pick(&Published::ALL));
            let Some(it) = &mut self.guests[guest] else { continue };
            let [allow_in, allow_out] = lists;
            it.allow_in = allow_in.unwrap_or(it.allow_in.take());
            it.allow_out = allow_out.unwrap_or(it.allow_out.take());
            it.home = home.unwrap_or(it.home);
            if let Some(publish) = publish {
                toggle(&mut it.publish, publish);
            }
        }
        self.mend();
    }

    /// Takes out what the configuration would be refused for.
    fn mend(&mut self) {
        let there: Vec<bool> = self.guests.iter().map(Option::is_some).collect();
        let homes = self.homes;
        for (guest, it) in self.guests.iter_mut().enumerate() {
            let Some(it) = it else { continue };
            for list in [&mut it.allow_in, &mut it.allow_out].into_iter().flatten() {
                list.retain(|(peer, _)| !matches!(peer, Peer::Guest(other) if !there[*other]));
            }
            if homes[guest][it.home].network == Network::Isolated {
                it.publish.clear();
            }
        }
    }

    fn list(&self, random: &mut Random) -> List {
        if random.percent(35) {
            return None;
        }
        let peers = [Peer::Any, Peer::Outside, Peer::Network(Network::Routed), Peer::Network(Network::Nat)];
        let item = |random: &mut Random| {
            let peer =
                if random.percent(30) { Peer::Guest(random.below(GUESTS)) } else { *random.pick(&peers) };
            (peer, *random.pick(&What::ALL))
        };
        let mut list: Vec<_> = (0..random.below(4)).map(|_| item(random)).collect();
        list.retain(|(peer, _)| !matches!(peer, Peer::Guest(guest) if self.guests[*guest].is_none()));
        list.dedup();
        Some(list)
    }

    /// Publishes a port of a guest that can, or takes it back: which, and the guest.
    pub(crate) fn publish_or_not(&mut self, random: &mut Random) -> Option<(usize, Published, bool)> {
        let guest = random.below(GUESTS);
        let network = self.network(guest)?;
        let published = *random.pick(&Published::ALL);
        let it = self.guests[guest].as_mut().filter(|_| network != Network::Isolated)?;
        Some((guest, published, toggle(&mut it.publish, published)))
    }

    pub(crate) fn knows(&self, guest: usize) -> bool {
        self.guests[guest].is_some()
    }

    fn network(&self, guest: usize) -> Option<Network> {
        Some(self.homes[guest][self.guests[guest].as_ref()?.home].network)
    }

    pub(crate) fn toml(&self) -> String {
        let mut text = "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n".to_owned();
        let word = |open: bool| if open { "allow" } else { "deny" };
        for (network, between) in
            [Network::Routed, Network::Nat, Network::Isolated].into_iter().zip(self.between)
        {
            let (mode, more) = match network {
                Network::Routed => {
                    ("routed", format!("uplink = \"wan\"\ninbound = \"{}\"\npool = ", word(self.inbound)))
                }
                Network::Nat => ("nat", "uplink = \"wan\"\nsubnets = ".to_owned()),
                Network::Isolated => ("isolated", "subnets = ".to_owned()),
            };
            let _ = writeln!(
                text,
                "[networks.{}]\nmode = \"{mode}\"\nbetween-guests = \"{}\"\n{more}{:?}",
                network.name(),
                word(between),
                network.prefixes()
            );
        }
        if self.bridged {
            text.push_str("[networks.seg]\nmode = \"bridged\"\nuplink = \"wan\"\n[guests.seg]\nid = 90\n");
            text.push_str("[[guests.seg.nics]]\nnetwork = \"seg\"\naddresses = [\"203.0.113.30/24\"]\n");
        }
        let _ = writeln!(
            text,
            "[guests.steady]\nid = 99\nallow-in = [{{ from = \"any\", ports = [\"{STEADY_PORT}/tcp\"] }}]\n\
             [[guests.steady.nics]]\nnetwork = \"pub\"\naddresses = [\"{STEADY}\"]"
        );
        for (guest, it) in self.guests.iter().enumerate() {
            let Some(it) = it else { continue };
            let _ = writeln!(text, "[guests.g{guest}]\nid = {}", guest + 1);
            for (name, word, list) in [("allow-in", "from", &it.allow_in), ("allow-out", "to", &it.allow_out)]
            {
                let Some(list) = list else { continue };
                let item = |(peer, what): &(Peer, What)| {
                    let peer = match peer {
                        Peer::Any => "\"any\"".to_owned(),
                        Peer::Outside => "[\"203.0.113.0/24\", \"2001:db8:28::/64\"]".to_owned(),
                        Peer::Guest(guest) => format!("\"guest:g{guest}\""),
                        Peer::Network(network) => format!("\"network:{}\"", network.name()),
                    };
                    format!("{{ {word} = {peer}{} }}", what.toml())
                };
                let _ = writeln!(text, "{name} = [{}]", list.iter().map(item).collect::<Vec<_>>().join(", "));
            }
            if !it.publish.is_empty() {
                let _ = writeln!(
                    text,
                    "publish = {:?}",
                    it.publish.iter().map(|p| p.toml(guest)).collect::<Vec<_>>()
                );
            }
            let home = self.homes[guest][it.home];
            let _ = writeln!(
                text,
                "[[guests.g{guest}.nics]]\nnetwork = \"{}\"\naddresses = {:?}",
                home.network.name(),
                home.addresses().map(|a| a.to_string())
            );
        }
        text
    }

    /// The guest that has an address now, with where it is, when it is here.
    fn owner(&self, guest: usize, address: IpAddr) -> Option<(&Guest, Home)> {
        let it = self.guests[guest].as_ref().filter(|_| self.attached.contains(&guest))?;
        let home = self.homes[guest][it.home];
        home.addresses().contains(&address).then_some((it, home))
    }

    pub(crate) fn answer(&self, probe: &Probe) -> Answer {
        if let (Some(published), Place::Guest(guest)) = (probe.published, probe.to) {
            let it = self.guests[guest].as_ref().filter(|_| self.attached.contains(&guest));
            return open_if(it.is_some_and(|it| it.publish.contains(&published)));
        }
        let v6 = usize::from(probe.destination.is_ipv6());
        let sender = match probe.from {
            Place::Outside => None,
            Place::Guest(guest) => match self.owner(guest, probe.source) {
                // It is not there, or it pretends.
                None => return Answer::Closed,
                sender => sender,
            },
        };
        let out = |(it, _): &(&Guest, Home)| self.lists(&it.allow_out, probe.destination, probe.service);
        if sender.as_ref().and_then(out) == Some(false) {
            return Answer::Closed;
        }
        let Place::Guest(guest) = probe.to else {
            debug_assert_eq!(probe.destination, OUTSIDE[v6]);
            return open_if(sender.is_none_or(|(_, home)| home.network != Network::Isolated));
        };
        let Some((it, home)) = self.owner(guest, probe.destination) else {
            // What its former neighbours remember of it is not the filter's.
            let home =
                self.homes[guest].into_iter().find(|home| home.addresses().contains(&probe.destination));
            let routed = home.is_some_and(|home| home.network == Network::Routed);
            return if routed { Answer::Closed } else { Answer::Either };
        };
        let inward = self.lists(&it.allow_in, probe.source, probe.service);
        match (sender, home.network) {
            (None, network) => match inward {
                Some(true) if network != Network::Routed => Answer::Either,
                Some(listed) => open_if(listed),
                None => open_if(network == Network::Routed && self.inbound),
            },
            (Some((_, from)), to) if from.network == to => {
                open_if(inward.unwrap_or(self.between[to as usize]))
            }
            (Some((_, from)), _) if from.network == Network::Isolated => Answer::Closed,
            (Some(_), Network::Isolated) => match inward {
                Some(true) => Answer::Either,
                Some(false) | None => Answer::Closed,
            },
            (Some(_), to) => open_if(inward.unwrap_or(to == Network::Routed && self.inbound)),
        }
    }

    /// What a list says of the other end; none without one.
    fn lists(&self, list: &List, other: IpAddr, service: Service) -> Option<bool> {
        let within = |network: Network| {
            let [v4, v6] = network.prefixes();
            match other {
                IpAddr::V4(a) if network == Network::Routed => {
                    a.octets()[..3] == [198, 51, 100] && a.octets()[3] < 64
                }
                IpAddr::V4(a) => v4.starts_with(&format!("{}.{}.", a.octets()[0], a.octets()[1])),
                IpAddr::V6(a) => {
                    let s = a.segments();
                    let start = if s[0] == 0x2001 {
                        format!("2001:db8:{:x}::", s[2])
                    } else {
                        format!("{:x}::", s[0])
                    };
                    v6.starts_with(&start)
                }
            }
        };
        let is_peer = |peer: Peer| match peer {
            Peer::Any => true,
            Peer::Outside => OUTSIDE.contains(&other),
            Peer::Guest(guest) => self.guests[guest]
                .as_ref()
                .is_some_and(|it| self.homes[guest][it.home].addresses().contains(&other)),
            Peer::Network(network) => within(network),
        };
        Some(list.as_ref()?.iter().any(|(peer, what)| is_peer(*peer) && what.has(service)))
    }

    /// Whether the answer to a packet could, on its own, begin a flow.
    pub(crate) fn may_answer_begin(&self, probe: &Probe) -> bool {
        let target = match (probe.published, probe.to) {
            (Some(_), Place::Guest(guest)) => {
                let Some(it) = &self.guests[guest] else { return true };
                self.homes[guest][it.home].addresses()[usize::from(probe.destination.is_ipv6())]
            }
            _ => probe.destination,
        };
        let back = Probe {
            from: probe.to,
            source: target,
            to: probe.from,
            destination: probe.source,
            service: Service::Udp(5000),
            published: None,
        };
        self.answer(&back) != Answer::Closed
    }
}

/// Whether it is in it now.
fn toggle(set: &mut BTreeSet<Published>, published: Published) -> bool {
    let is_new = set.insert(published);
    if !is_new {
        set.remove(&published);
    }
    is_new
}

/// Everything that is tried on a host with these homes.
pub(crate) fn probes(homes: &Homes) -> Vec<Probe> {
    let mut ends: Vec<(Place, [IpAddr; 2], bool)> = vec![(Place::Outside, OUTSIDE, false)];
    for (guest, homes) in homes.iter().enumerate() {
        for (index, home) in homes.iter().enumerate() {
            ends.push((Place::Guest(guest), home.addresses(), index > 0));
        }
    }
    let mut probes = Vec::new();
    for (from, sources, _) in &ends {
        for (to, destinations, _) in ends.iter().filter(|(to, ..)| to != from) {
            for (source, destination) in sources.iter().zip(destinations) {
                probes.extend(SERVICES.map(|service| Probe {
                    from: *from,
                    source: *source,
                    to: *to,
                    destination: *destination,
                    service,
                    published: None,
                }));
            }
        }
    }
    for guest in 0..GUESTS {
        for published in Published::ALL {
            let (family, service) = published.at(guest);
            probes.push(Probe {
                from: Place::Outside,
                source: OUTSIDE[family],
                to: Place::Guest(guest),
                destination: HOST[family],
                service,
                published: Some(published),
            });
        }
    }
    probes
}
