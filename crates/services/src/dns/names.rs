//! The names of a network's guests, and those that nobody outside is ever asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use hickory_proto::{
    op::ResponseCode,
    rr::{DNSClass, Name, RData, Record, RecordType, rdata},
};
use viaduct_plan::{HostName, ZoneHead};
use viaduct_types::{GuestName, IpNet};

use super::{
    PORT,
    answer::{Asked, Content},
};

/// Seconds that a guest's name is good for elsewhere: its addresses may be changed at any time.
const TTL: u32 = 30;
/// Names that have nothing to do with name servers (RFC 6761, 6762, 7686).
const NOWHERE: [&str; 3] = ["invalid", "local", "onion"];

/// What is known of a name here.
pub(super) enum Known {
    Answer(Content),
    /// Not to be answered.
    Refused,
    /// Somebody else knows.
    Nothing,
}

/// A network's.
#[derive(Default)]
pub(super) struct Names {
    domain: Name,
    alone: bool,
    prefixes: Vec<IpNet>,
    servers: Vec<SocketAddr>,
    /// By what stands before the domain, in small letters: guests may differ in nothing else.
    names: BTreeMap<String, BTreeMap<GuestName, BTreeSet<IpAddr>>>,
    /// The names of addresses.
    reverse: BTreeMap<IpAddr, String>,
    host: Option<HostName>,
}

impl Names {
    pub(super) fn set_head(&mut self, head: ZoneHead) {
        let mut domain = Name::from_ascii(&head.domain).unwrap_or_else(|_| Name::root()).to_lowercase();
        domain.set_fqdn(true);
        self.domain = domain;
        self.alone = head.alone;
        self.prefixes = head.prefixes;
        self.servers = head.servers.into_iter().map(|address| SocketAddr::new(address, PORT)).collect();
        self.host = head.host.map(|host| HostName { name: host.name.to_ascii_lowercase(), ..host });
    }

    pub(super) fn set(&mut self, guest: GuestName, addresses: BTreeSet<IpAddr>) {
        let name = guest.as_str().to_ascii_lowercase();
        let guests = self.names.entry(name.clone()).or_default();
        for before in guests.remove(&guest).unwrap_or_default() {
            if self.reverse.get(&before) == Some(&name) {
                self.reverse.remove(&before);
            }
        }
        if !addresses.is_empty() {
            self.reverse.extend(addresses.iter().map(|address| (*address, name.clone())));
            guests.insert(guest, addresses);
        }
        if guests.is_empty() {
            self.names.remove(&name);
        }
    }

    /// The addresses of a name.
    fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let of_guests = self.names.get(name);
        let of_guests = of_guests.map(|guests| guests.values().flatten().copied().collect::<BTreeSet<_>>());
        let of_host = || Some(self.host.as_ref().filter(|host| host.name == name)?.addresses.clone());
        Some(of_guests.or_else(of_host)?.into_iter().collect())
    }

    /// The name of an address.
    fn name_of(&self, address: &IpAddr) -> Option<&str> {
        let of_host = || {
            let host = self.host.as_ref().filter(|host| !self.names.contains_key(&host.name))?;
            host.addresses.contains(address).then_some(host.name.as_str())
        };
        self.reverse.get(address).map(String::as_str).or_else(of_host)
    }

    /// The servers that are asked for everything else; the host's when there are none.
    pub(super) fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// What the network's own guests are answered.
    pub(super) fn find(&self, asked: &Asked) -> Known {
        if let Some(address) = address_of(asked.name()) {
            return self.reverse(asked, address);
        }
        let Some(name) = self.below(asked.name()) else { return Known::Nothing };
        if name.is_empty() {
            return if self.alone { self.of_domain(asked) } else { Known::Nothing };
        }
        if let Some(addresses) = self.addresses(&name) {
            let answers = Content::addresses(asked.name(), asked.kind(), &addresses, TTL);
            return self.is(answers);
        }
        let Some(ending) = self.alone.then(|| format!(".{name}")) else { return Known::Nothing };
        // A name that only others end with is there, with nothing (RFC 8020).
        let host = self.host.iter().map(|host| &host.name);
        if self.names.keys().chain(host).any(|other| other.ends_with(&ending)) {
            return self.is(Vec::new());
        }
        Known::Answer(Content { code: ResponseCode::NXDomain, ..self.nothing(&self.domain) })
    }

    /// What the guests of other networks are answered.
    pub(super) fn hide(&self, asked: &Asked) -> Known {
        let is_own = match address_of(asked.name()) {
            Some(net) => self.prefixes.iter().any(|prefix| prefix.contains(&net)),
            None => self.alone && self.domain.zone_of(asked.name()),
        };
        if !is_own {
            return Known::Nothing;
        }
        Known::Answer(Content { code: ResponseCode::NXDomain, ..self.nothing(asked.name()) })
    }

    /// The part of a name that stands before the domain; none when it is not of the domain.
    fn below(&self, name: &Name) -> Option<String> {
        if self.domain.is_root() || !self.domain.zone_of(name) {
            return None;
        }
        let labels = usize::from(name.num_labels() - self.domain.num_labels());
        let own: Vec<&str> =
            name.iter().take(labels).map(|label| str::from_utf8(label).ok()).collect::<Option<_>>()?;
        Some(own.join(".").to_ascii_lowercase())
    }

    fn of_domain(&self, asked: &Asked) -> Known {
        if matches!(asked.kind(), RecordType::SOA | RecordType::ANY) {
            return Known::Answer(Content {
                authoritative: true,
                answers: vec![start(&self.domain)],
                ..Content::default()
            });
        }
        self.is(Vec::new())
    }

    fn reverse(&self, asked: &Asked, net: IpNet) -> Known {
        let is_whole = net.prefix_len() == net.max_prefix_len();
        let zone = asked.name().trim_to(3);
        if let Some(name) = self.name_of(&net.addr()).filter(|_| is_whole) {
            let name = Name::from_ascii(name).and_then(|name| name.append_domain(&self.domain));
            let Ok(name) = name else { return Known::Nothing };
            let pointer = Record::from_rdata(asked.name().clone(), TTL, RData::PTR(rdata::PTR(name)));
            let is_wanted = matches!(asked.kind(), RecordType::PTR | RecordType::ANY);
            let answers = is_wanted.then_some(pointer).into_iter().collect();
            return is(answers, &zone);
        }
        if !self.prefixes.iter().any(|prefix| prefix.contains(&net)) {
            return Known::Nothing;
        }
        let code = if is_whole { ResponseCode::NXDomain } else { ResponseCode::NoError };
        Known::Answer(Content { code, ..self.nothing(&zone) })
    }

    fn is(&self, answers: Vec<Record>) -> Known {
        is(answers, &self.domain)
    }

    fn nothing(&self, zone: &Name) -> Content {
        Content { authoritative: true, authorities: vec![start(zone)], ..Content::default() }
    }
}

/// Whether nobody is answered.
pub(super) fn is_refused(asked: &Asked) -> bool {
    asked.class() != DNSClass::IN || matches!(asked.kind(), RecordType::AXFR | RecordType::IXFR)
}

/// What every network's guests are answered.
pub(super) fn everywhere(asked: &Asked) -> Known {
    let kind = asked.kind();
    let labels: Vec<&[u8]> = asked.name().iter().collect();
    let Some(last) = labels.last().map(|label| label.to_ascii_lowercase()) else { return Known::Nothing };
    let zone = asked.name().trim_to(1);
    if last == b"localhost" {
        let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        return is(Content::addresses(asked.name(), kind, &addresses, TTL), &zone);
    }
    if NOWHERE.iter().any(|name| name.as_bytes() == last) {
        let code = ResponseCode::NXDomain;
        return Known::Answer(Content { code, authorities: vec![start(&zone)], ..Content::default() });
    }
    Known::Nothing
}

/// A name that is there, with these answers or none.
fn is(answers: Vec<Record>, zone: &Name) -> Known {
    let authorities = if answers.is_empty() { vec![start(zone)] } else { Vec::new() };
    Known::Answer(Content { authoritative: true, answers, authorities, ..Content::default() })
}

/// The start of authority that says how long nothing is nothing (RFC 2308, section 3).
fn start(zone: &Name) -> Record {
    let seconds = i32::try_from(TTL).unwrap_or(i32::MAX);
    let data = rdata::SOA::new(zone.clone(), zone.clone(), 1, seconds, seconds, seconds, TTL);
    Record::from_rdata(zone.clone(), TTL, RData::SOA(data))
}

/// The address, or the addresses, that a name in `in-addr.arpa` or `ip6.arpa` is about.
fn address_of(name: &Name) -> Option<IpNet> {
    name.parse_arpa_name().ok().filter(|net| net.prefix_len() > 0)
}
