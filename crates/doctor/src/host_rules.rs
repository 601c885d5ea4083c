//! Rules that let through other programs' filters what this host needs for its guests, and nothing else.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use viaduct_model::Network;
use viaduct_plan::host_addresses;
use viaduct_types::{IpNet, MOST_WORKERS, VNET_PORT, VXLAN_PORT, WORKER_PORT};

use crate::{
    Patient,
    filter::{Family, Point, Table},
    host::{ADVERTISEMENT, DNS, ECHO, ECHO6, Need, SOLICITATION, dialled, has_plain},
    patient::{bridge, prefixes},
    remedy::{self, Part},
};

/// As many threads as there may be, so that the rules stay when there are more processors.
const WORKERS: [u16; 2] = [WORKER_PORT, WORKER_PORT + MOST_WORKERS - 1];

/// What a rule lets through, whichever filter it is written for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Opening {
    need: Need,
    ipv4: bool,
    from: From,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum From {
    Anywhere,
    /// By this device.
    Device(String),
    Prefix(IpNet),
    /// From link-local addresses to the gateway that has one.
    Link(Ipv6Addr),
    /// To this group, by this device.
    Group(String, IpAddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Udp(u16, u16),
    Tcp(u16),
    Echo,
    Discovery(u8),
}

fn openings(patient: &Patient<'_>, point: Point, ipv4: bool) -> BTreeSet<Opening> {
    let mut all = BTreeSet::new();
    let mut has_guests6 = false;
    for network in patient.config.networks.values() {
        let own = host_addresses(network);
        has_guests6 |= own.iter().any(IpAddr::is_ipv6);
        if point != Point::Input || !own.iter().any(|own| own.is_ipv4() == ipv4) {
            continue;
        }
        for from in froms(network, ipv4) {
            let mut add = |what| {
                all.insert(Opening { need: Need::Guests, ipv4, from: from.clone(), what });
            };
            if network.dns {
                add(What::Udp(DNS, DNS));
                add(What::Tcp(DNS));
            }
            add(What::Echo);
        }
    }
    if has_guests6 && !ipv4 {
        for what in [What::Discovery(SOLICITATION), What::Discovery(ADVERTISEMENT)] {
            all.insert(Opening { need: Need::Guests, ipv4, from: From::Anywhere, what });
        }
    }
    if patient.namespace.is_none() && !patient.config.vnets.is_empty() {
        let mut add = |from, first, last| {
            all.insert(Opening { need: Need::Vnets, ipv4, from, what: What::Udp(first, last) });
        };
        let ports = if point == Point::Output { dialled(patient.config) } else { [VNET_PORT].into() };
        for port in ports {
            add(From::Anywhere, port, port);
        }
        if !patient.config.single_port {
            add(From::Anywhere, WORKERS[0], WORKERS[1]);
        }
        if has_plain(patient.config) {
            add(From::Anywhere, VXLAN_PORT, VXLAN_PORT);
        }
        if let Some(discovery) = patient.config.discovery.as_ref().filter(|d| d.port != VNET_PORT) {
            for device in &discovery.interfaces {
                for group in discovery.groups.iter().filter(|group| group.is_ipv4() == ipv4) {
                    add(From::Group(device.to_string(), *group), discovery.port, discovery.port);
                }
            }
        }
    }
    all
}

/// Of whom guests of a network are known on their way to the host: by the bridge, or by their addresses.
fn froms(network: &Network, ipv4: bool) -> Vec<From> {
    match bridge(network) {
        Some(bridge) => vec![From::Device(bridge.to_string())],
        None => {
            let gateway = host_addresses(network).into_iter().find_map(|own| match own {
                IpAddr::V6(own) if !ipv4 && own.is_unicast_link_local() => Some(From::Link(own)),
                IpAddr::V6(_) | IpAddr::V4(_) => None,
            });
            prefixes(network, ipv4).into_iter().map(From::Prefix).chain(gateway).collect()
        }
    }
}

/// Our chains for a hook, in tables of iptables, and the chain of ufw's by which they are called there.
pub(crate) fn part(patient: &Patient<'_>, point: Point, ipv4: bool) -> Part {
    let (chain, ours) = match (point, ipv4) {
        (Point::Input, true) => ("ufw-before-input", "VIADUCT-IN"),
        (Point::Input, false) => ("ufw6-before-input", "VIADUCT-IN"),
        (Point::Forward, true) => ("ufw-before-forward", remedy::CHAIN),
        (Point::Forward, false) => ("ufw6-before-forward", remedy::CHAIN),
        (Point::Output, true) => ("ufw-before-output", "VIADUCT-OUT"),
        (Point::Output, false) => ("ufw6-before-output", "VIADUCT-OUT"),
    };
    let rules = match point {
        Point::Forward => remedy::rules(patient, ipv4),
        Point::Input | Point::Output => rules(patient, ours, point, ipv4),
    };
    Part { chain, ours, rules }
}

/// The declaration and the rules of a chain of ours, as iptables-restore reads them.
fn rules(patient: &Patient<'_>, chain: &str, point: Point, ipv4: bool) -> Vec<String> {
    let device = if point == Point::Output { "-o" } else { "-i" };
    let rule = |opening: Opening| {
        let from = match opening.from {
            From::Anywhere => String::new(),
            From::Device(name) => format!(" {device} {name}"),
            From::Prefix(net) => format!(" -s {net}"),
            From::Link(gateway) => format!(" -s fe80::/10 -d {gateway}"),
            From::Group(name, group) => format!(" {device} {name} -d {group}"),
        };
        let what = match opening.what {
            What::Udp(first, last) if first == last => format!("-p udp -m udp --dport {first}"),
            What::Udp(first, last) => format!("-p udp -m udp --dport {first}:{last}"),
            What::Tcp(port) => format!("-p tcp -m tcp --dport {port}"),
            What::Echo if ipv4 => format!("-p icmp -m icmp --icmp-type {ECHO}"),
            What::Echo => format!("-p ipv6-icmp -m icmp6 --icmpv6-type {ECHO6}"),
            What::Discovery(kind) => format!("-p ipv6-icmp -m icmp6 --icmpv6-type {kind}"),
        };
        format!("-A {chain}{from} {what} -j ACCEPT")
    };
    let declaration = format!(":{chain} - [0:0]");
    [declaration].into_iter().chain(openings(patient, point, ipv4).into_iter().map(rule)).collect()
}

/// The same for a base chain of a program that uses nft itself, as far as it is needed.
pub(crate) fn nft_commands(
    patient: &Patient<'_>,
    table: &Table,
    (base, point): (&str, Point),
    needs: &BTreeSet<Need>,
) -> Vec<String> {
    let device = if point == Point::Output { "oifname" } else { "iifname" };
    let ip = |v4: bool| if v4 { "ip" } else { "ip6" };
    let mut lines: Vec<String> = Vec::new();
    for ipv4 in [true, false] {
        if table.family != Family::Inet && (table.family == Family::Ip) != ipv4 {
            continue;
        }
        for opening in openings(patient, point, ipv4).into_iter().filter(|o| needs.contains(&o.need)) {
            let from = match opening.from {
                From::Anywhere => String::new(),
                From::Device(name) => format!("{device} {name} "),
                From::Prefix(net) => format!("{} saddr {net} ", ip(ipv4)),
                From::Link(gateway) => format!("ip6 saddr fe80::/10 ip6 daddr {gateway} "),
                From::Group(name, group) => format!("{device} {name} {} daddr {group} ", ip(ipv4)),
            };
            let what = match opening.what {
                What::Udp(first, last) if first == last => format!("udp dport {first}"),
                What::Udp(first, last) => format!("udp dport {first}-{last}"),
                What::Tcp(port) => format!("tcp dport {port}"),
                What::Echo if ipv4 => "icmp type echo-request".to_owned(),
                What::Echo => "icmpv6 type echo-request".to_owned(),
                What::Discovery(kind) => format!("icmpv6 type {kind}"),
            };
            let line =
                format!("nft insert rule {} {} {base} {from}{what} accept", table.family.word(), table.name);
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines
}

/// What firewalld has to be told beside the zone of guests: those without a bridge speak to the gateway with link-local addresses,
/// which are in no zone.
pub(crate) fn firewalld_links(patient: &Patient<'_>) -> Vec<String> {
    let links = openings(patient, Point::Input, false).into_iter().filter_map(|opening| match opening {
        Opening { from: From::Link(gateway), what: What::Udp(..), .. } => Some(gateway),
        Opening { .. } => None,
    });
    let rule = |gateway| {
        format!(
            "firewall-cmd --permanent --add-rich-rule='rule family=\"ipv6\" source address=\"fe80::/10\" \
             destination address=\"{gateway}\" service name=\"dns\" accept'"
        )
    };
    links.collect::<BTreeSet<_>>().into_iter().map(rule).collect()
}

/// The ports of vnets as firewalld writes them.
pub(crate) fn firewalld_ports(patient: &Patient<'_>) -> Vec<String> {
    let all = [true, false].map(|ipv4| openings(patient, Point::Input, ipv4));
    let ports = all.into_iter().flatten().filter(|opening| opening.need == Need::Vnets);
    let ports = ports.filter_map(|opening| match opening.what {
        What::Udp(first, last) if first == last => Some(format!("{first}/udp")),
        What::Udp(first, last) => Some(format!("{first}-{last}/udp")),
        What::Tcp(_) | What::Echo | What::Discovery(_) => None,
    });
    ports.collect::<BTreeSet<_>>().into_iter().collect()
}
