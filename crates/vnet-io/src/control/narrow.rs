//! What the kernel is told of ways to hosts that carry less than it knows, for its VXLAN.
//!
//! The kernel answers what is too long for VXLAN as a router does, super-frames of TCP among it, by what the route to the other
//! host carries (net/ipv4/ip_tunnel_core.c, `skb_tunnel_check_pmtu`). What is on the way and drops without a word, it does not hear of,
//! but the connection between the hosts finds what gets there. Then VXLAN has a route of its own to that host: the one that the host
//! has, with what the way carries. It stands in a table that only VXLAN of vnets is led to.

use std::{collections::BTreeMap, io, net::IpAddr, time::Duration};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, IpProtocol, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
        RouteType, RouteVia,
    },
    rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange},
};
use tracing::{debug, info, warn};
use viaduct_types::{HostKey, PROTOCOL, VXLAN_OVERHEAD, VXLAN_PORT};

use super::{
    engine::Engine,
    fdb::{self, Remote},
    peers::headers,
    rtnetlink::{Told, ask, change},
};

/// The rule's place, and the table's number: the port that it is about.
const TABLE: u16 = VXLAN_PORT;
/// What IPv6 counts on (RFC 8200, section 5).
const LEAST_V6: u16 = 1280;
/// So long after its start it takes to know again what was known before, of hosts that are there.
const UNTIL_KNOWN: Duration = Duration::from_secs(10);
/// How often it is looked where the host's own routes lead, when nothing else has changed.
const LOOK: Duration = Duration::from_secs(1);

/// What it was told, as far as it is needed to know what to tell.
#[derive(Debug, Default)]
pub(super) struct Narrow {
    /// What the kernel had when that was last looked at, and what it was told then.
    told: BTreeMap<Remote, Way>,
    /// Whether VXLAN is led to the table, by family: IPv6 or not; nothing before that is known.
    led: BTreeMap<bool, bool>,
    /// When it did not work, which is said once.
    fails: bool,
    /// What was to be told the last time, and when.
    last: (BTreeMap<Remote, Wanted>, Duration),
}

/// A route to one host.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way {
    device: u32,
    via: Option<RouteAttribute>,
    source: Option<RouteAddress>,
    /// The longest IP packet.
    carries: u32,
}

/// What is to be told of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// What was told, as long as it is not known.
    AsBefore,
    /// The longest IP packet that may be sent to it.
    Carries(u16),
}

impl Narrow {
    /// Tells what is not told; a way that leads elsewhere by now is another one. What others have taken away, or a device that went
    /// down has taken along, is told again.
    fn tell(&mut self, wanted: &BTreeMap<Remote, Wanted>, keeps_others: bool) -> io::Result<()> {
        self.told = told()?;
        let gone: Vec<Remote> =
            self.told.keys().filter(|to| !keeps_others && !wanted.contains_key(to)).copied().collect();
        // One that is not told keeps no other from it.
        let mut done = Ok(());
        for to in gone {
            done = done.and(self.forget(to));
        }
        for (to, wanted) in wanted {
            done = done.and(self.tell_of(*to, *wanted));
        }
        for v6 in [false, true] {
            done = done.and(self.lead(v6));
        }
        done
    }

    fn tell_of(&mut self, to: Remote, wanted: Wanted) -> io::Result<()> {
        let told = self.told.get(&to);
        let carries = match (wanted, told) {
            (Wanted::Carries(carries), _) => u32::from(carries),
            (Wanted::AsBefore, Some(way)) => way.carries,
            (Wanted::AsBefore, None) => return Ok(()),
        };
        let way = way_to(to)?.map(|way| Way { carries, ..way });
        // What routers say is not looked at: the kernel knows it for ten minutes, and more may get there by now.
        let most = way.as_ref().and_then(|way| fdb::mtu(way.device)).unwrap_or(0);
        let Some(way) = way.filter(|_| carries < most) else { return self.forget(to) };
        if told == Some(&way) {
            return Ok(());
        }
        change(RouteNetlinkMessage::NewRoute(way.message(to)), NLM_F_CREATE | NLM_F_REPLACE)?;
        debug!("VXLAN to {} takes IP packets of {carries} bytes", to.ip);
        self.told.insert(to, way);
        Ok(())
    }

    /// Leads VXLAN to the table where there is something in it, and nowhere else where not.
    fn lead(&mut self, v6: bool) -> io::Result<()> {
        let wanted = self.told.keys().any(|to| to.ip.is_ipv6() == v6);
        match self.led.insert(v6, wanted) {
            // Others may have taken it away.
            _ if wanted => match change(RouteNetlinkMessage::NewRule(rule(v6)), NLM_F_CREATE | NLM_F_EXCL) {
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
                other => other,
            },
            Some(false) => Ok(()),
            Some(true) | None => fine(change(RouteNetlinkMessage::DelRule(rule(v6)), 0)),
        }
    }

    fn forget(&mut self, to: Remote) -> io::Result<()> {
        let Some(way) = self.told.remove(&to) else { return Ok(()) };
        let mut message = way.message(to);
        // Any scope (net/ipv4/fib_trie.c, `fib_table_delete`).
        message.header.scope = RouteScope::NoWhere;
        message.attributes.retain(|attribute| {
            let is_named = matches!(attribute, RouteAttribute::Table(_) | RouteAttribute::Destination(_));
            // A link-local address may have a route by each link.
            is_named || to.link.is_some() && matches!(attribute, RouteAttribute::Oif(_))
        });
        debug!("VXLAN to {} goes as everything else does", to.ip);
        fine(change(RouteNetlinkMessage::DelRoute(message), 0))
    }
}

impl Way {
    fn of(route: &RouteMessage) -> Option<Self> {
        let mut way = Self { device: 0, via: None, source: None, carries: 0 };
        for attribute in &route.attributes {
            if let RouteAttribute::Oif(device) = attribute {
                way.device = *device;
            } else if let RouteAttribute::Gateway(_) | RouteAttribute::Via(RouteVia::Inet6(_)) = attribute {
                way.via = Some(attribute.clone());
            } else if let RouteAttribute::PrefSource(source) = attribute {
                way.source = Some(source.clone());
            } else if let RouteAttribute::Metrics(metrics) = attribute {
                let mtu = metrics.iter().find_map(|metric| {
                    let RouteMetric::Mtu(mtu) = metric else { return None };
                    Some(*mtu)
                });
                way.carries = mtu.unwrap_or(0);
            }
        }
        (route.header.kind == RouteType::Unicast && way.device != 0).then_some(way)
    }

    fn message(&self, to: Remote) -> RouteMessage {
        let mut message = towards(to.ip);
        message.header.protocol = RouteProtocol::from(PROTOCOL);
        message.header.kind = RouteType::Unicast;
        message.header.scope =
            if self.via.is_some() || to.ip.is_ipv6() { RouteScope::Universe } else { RouteScope::Link };
        // Its link is known: the host's own route says so.
        message.header.flags.set(RouteFlags::Onlink, self.via.is_some());
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Table(TABLE.into()));
        attributes.push(RouteAttribute::Oif(self.device));
        attributes.extend(self.via.clone());
        attributes.extend(self.source.clone().map(RouteAttribute::PrefSource));
        attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(self.carries)]));
        message
    }
}

/// Takes back what the kernel was told: by an engine that ends, or was killed.
///
/// # Errors
/// When the kernel will not forget it.
pub fn widen() -> io::Result<()> {
    Narrow::default().tell(&BTreeMap::new(), false)
}

/// What stands in the table.
fn told() -> io::Result<BTreeMap<Remote, Way>> {
    let mut found = BTreeMap::new();
    for v6 in [false, true] {
        let mut dump = RouteMessage::default();
        dump.header.address_family = family(v6);
        dump.attributes.push(RouteAttribute::Table(TABLE.into()));
        let asked = ask(RouteNetlinkMessage::GetRoute(dump), NLM_F_DUMP, |told| {
            let Told::Route(route) = told else { return };
            let (mut table, mut to) = (0, None);
            for attribute in &route.attributes {
                if let RouteAttribute::Table(number) = attribute {
                    table = *number;
                } else if let RouteAttribute::Destination(address) = attribute {
                    to = ip(address);
                }
            }
            if let (Some(to), Some(way), true) = (to, Way::of(&route), table == u32::from(TABLE)) {
                let is_local = matches!(to, IpAddr::V6(v6) if v6.is_unicast_link_local());
                found.insert(Remote { ip: to, link: is_local.then_some(way.device) }, way);
            }
        });
        // A table that nothing was ever put into does not exist.
        fine(asked)?;
    }
    Ok(found)
}

/// How what is not VXLAN goes to a host; none where it does not.
fn way_to(to: Remote) -> io::Result<Option<Way>> {
    let mut way = None;
    let mut message = towards(to.ip);
    message.attributes.extend(to.link.map(RouteAttribute::Oif));
    let asked = ask(RouteNetlinkMessage::GetRoute(message), 0, |told| {
        if let Told::Route(route) = told {
            way = Way::of(&route);
        }
    });
    match asked {
        Ok(()) => Ok(way),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES)
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn towards(to: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to.is_ipv6());
    message.header.destination_prefix_length = if to.is_ipv6() { 128 } else { 32 };
    message.attributes.push(RouteAttribute::Destination(to.into()));
    message
}

fn rule(v6: bool) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(v6);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Table(TABLE.into()),
        RuleAttribute::Priority(TABLE.into()),
        RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
        RuleAttribute::IpProtocol(IpProtocol::Udp),
        RuleAttribute::DestinationPortRange(RulePortRange { start: VXLAN_PORT, end: VXLAN_PORT }),
    ];
    message
}

fn family(v6: bool) -> AddressFamily {
    if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(v4) = address {
        return Some((*v4).into());
    }
    let RouteAddress::Inet6(v6) = address else { return None };
    Some((*v6).into())
}

/// Fine, too, if there is none, or none of the family.
fn fine(result: io::Result<()>) -> io::Result<()> {
    const NONE: [i32; 4] = [libc::ENOENT, libc::ESRCH, libc::EAFNOSUPPORT, libc::EOPNOTSUPP];
    result.or_else(|error| match error.raw_os_error() {
        Some(number) if NONE.contains(&number) => Ok(()),
        _ => Err(error),
    })
}

impl Engine {
    /// Tells the kernel what may be sent to members of vnets that nothing protects, where that is less than it knows: what the way
    /// there carries, and no more than what ports on the segment take, which are as those of all hosts.
    pub(super) fn narrow(&mut self) {
        let now = self.now();
        let is_plain = self.vnets.values().any(|vnet| vnet.plain.is_some());
        if !is_plain && !self.narrow.led.is_empty() && self.narrow.told.is_empty() {
            return;
        }
        let mut wanted = BTreeMap::<Remote, Wanted>::new();
        for (id, vnet) in &self.vnets {
            let Some(plain) = vnet.plain.as_ref().filter(|_| vnet.carried) else { continue };
            let written = self.orders.vnets.get(id).and_then(|orders| orders.mtu);
            let ports = written.or_else(|| self.findings.mtus.get(id).copied()).map(|mtu| mtu.max(LEAST_V6));
            for (key, to) in plain.places() {
                let Some(carries) = self.carries(now, key, *to) else {
                    wanted.entry(*to).or_insert(Wanted::AsBefore);
                    continue;
                };
                let around = VXLAN_OVERHEAD[usize::from(to.ip.is_ipv6())];
                let carries = ports.map_or(carries, |mtu| carries.min(mtu.saturating_add(around)));
                // There is one way for all vnets.
                match wanted.get_mut(to) {
                    Some(Wanted::Carries(most)) => *most = carries.max(*most),
                    Some(Wanted::AsBefore) | None => {
                        wanted.insert(*to, Wanted::Carries(carries));
                    }
                }
            }
        }
        let keeps_others = now < UNTIL_KNOWN;
        let narrow = &mut self.narrow;
        if !narrow.led.is_empty() && narrow.last.0 == wanted && now.saturating_sub(narrow.last.1) < LOOK {
            return;
        }
        let told = narrow.tell(&wanted, keeps_others);
        narrow.last = (wanted, now);
        match (told, narrow.fails) {
            (Err(error), false) => {
                warn!(
                    "the kernel is not told what gets to other hosts in VXLAN, longer frames are lost where a path does not \
                     say so: {error}"
                );
                narrow.fails = true;
            }
            (Ok(()), true) => {
                info!("the kernel is told again what gets to other hosts in VXLAN");
                narrow.fails = false;
            }
            (Err(_), true) | (Ok(()), false) => {}
        }
    }

    /// What may be sent to a peer, by what was found, in bytes of IP packets; none as long as nothing is known.
    fn carries(&self, now: Duration, key: &HostKey, to: Remote) -> Option<u16> {
        let peer = self.peers.get(key)?;
        let link = self.links.get(&peer.session?)?;
        let remote = link.remote();
        let path = peer.path.as_ref().filter(|path| path.remote == remote && Remote::from(remote) == to)?;
        let (is_new, is_over) = (link.is_new(now), link.search.is_over());
        if is_new && !is_over && self.narrow.told.contains_key(&to) {
            return None;
        }
        let v6 = to.ip.is_ipv6();
        let arrives = link.largest_datagram();
        // What is too long is lost until it is answered: nothing is hoped for any longer than it is searched.
        let hoped = if is_new && is_over { arrives } else { path.hoped };
        let found = hoped.max(arrives).saturating_add(headers(v6));
        // As long as it is searched, what IPv6 counts on may still get there, and who is told less believes it for ten minutes.
        let is_settled = is_over && arrives <= path.hoped;
        let in_any_case = if is_settled { 0 } else { VXLAN_OVERHEAD[usize::from(v6)] + LEAST_V6 };
        Some(found.max(in_any_case))
    }
}
