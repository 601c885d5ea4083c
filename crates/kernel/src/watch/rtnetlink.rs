//! What a notification of rtnetlink is about, in the words of a plan.

use std::{collections::BTreeMap, os::fd::BorrowedFd};

use netlink_packet_route::{AddressFamily, link::LinkHeader, neighbour::NeighbourHeader};
use rustix::net::netdevice;
use viaduct_plan::{GROUP, PROTOCOL, Sysctl};
use viaduct_types::IfName;

use super::What;
use crate::{
    address,
    attr::{self, Attributes, find},
    link, route,
    socket::Message,
};

// include/uapi/linux/fib_rules.h; struct fib_rule_hdr has its family first and is 12 bytes long.
const RULE_HEADER: usize = 12;
const FRA_PRIORITY: u16 = 6;
const FRA_PROTOCOL: u16 = 21;
// include/uapi/linux/netconf.h; struct netconfmsg is its family, padded to 4 bytes.
const NETCONF_HEADER: usize = 4;
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
const NETCONFA_RP_FILTER: u16 = 3;
const NETCONFA_MC_FORWARDING: u16 = 4;
const NETCONFA_PROXY_NEIGH: u16 = 5;
const NETCONFA_IGNORE_ROUTES_WITH_LINKDOWN: u16 = 6;
const NETCONFA_BC_FORWARDING: u16 = 8;
const ALL: i32 = -1;
const DEFAULT: i32 = -2;
// include/uapi/linux/neighbour.h
const NEIGHBOUR_HEADER: usize = 12;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_PROTOCOL: u16 = 12;

/// What was changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    Object { what: What, object: String, removed: bool, ours: bool },
    Setting(Sysctl),
}

/// The names of devices, which messages only have the ifindex of.
pub(super) struct Names<'a> {
    /// Those known already; the names of devices that have just gone are nowhere else.
    pub(super) known: &'a mut BTreeMap<u32, IfName>,
    /// A socket in their namespace.
    pub(super) socket: BorrowedFd<'a>,
}

impl Names<'_> {
    fn of(&mut self, index: u32) -> Option<IfName> {
        if let Some(name) = self.known.get(&index) {
            return Some(name.clone());
        }
        let name: IfName = netdevice::index_to_name(self.socket, index).ok()?.parse().ok()?;
        self.known.insert(index, name.clone());
        Some(name)
    }

    /// For people.
    fn text(&mut self, index: u32) -> String {
        self.of(index).map_or_else(|| format!("device {index}"), |name| name.to_string())
    }
}

/// None for what nobody cares about: what a change that is told itself brings with it, and neighbours that come and
/// go.
pub(super) fn read(message: &Message<'_>, names: &mut Names<'_>) -> Option<Told> {
    let Message { kind, body, .. } = *message;
    match kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => link(body, kind == libc::RTM_DELLINK, names),
        libc::RTM_NEWADDR | libc::RTM_DELADDR => {
            let ((index, address), info) = address::read(kind, body)?;
            Some(Told::Object {
                what: What::Address,
                object: format!("address {address} on {}", names.text(index)),
                removed: kind == libc::RTM_DELADDR,
                ours: info.protocol == PROTOCOL,
            })
        }
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => route(message, names),
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => neighbour(message, names),
        libc::RTM_NEWRULE | libc::RTM_DELRULE => rule(body, kind == libc::RTM_DELRULE),
        libc::RTM_NEWNETCONF => setting(body, names).map(Told::Setting),
        _ => None,
    }
}

fn link(body: &[u8], removed: bool, names: &mut Names<'_>) -> Option<Told> {
    let family = LinkHeader::parse(body).ok()?.interface_family;
    let link::Found { name, link, .. } = link::read(0, body)?;
    let ours = link.is_ours() || link.group == GROUP;
    if family == AddressFamily::Bridge {
        let object = format!("bridge port {name}");
        return Some(Told::Object { what: What::Link, object, removed, ours });
    }
    let object = format!("link {name}");
    if removed {
        names.known.remove(&link.index);
    } else {
        names.known.insert(link.index, name);
    }
    Some(Told::Object { what: What::Link, object, removed, ours })
}

fn route(message: &Message<'_>, names: &mut Names<'_>) -> Option<Told> {
    let family = AddressFamily::from(*message.body.first()?);
    let found = route::read(family, message.body)?;
    // Made or taken away together with an address or a link.
    if found.protocol == libc::RTPROT_KERNEL && message.port == 0 {
        return None;
    }
    let (destination, index, table) = (found.destination, found.index, found.table);
    let ours = found.protocol == PROTOCOL;
    let mut object = match found.into_route(|index| names.of(index)) {
        Some(route) => route.to_string(),
        None => format!("route {destination} → device {index}"),
    };
    if ![route::TABLE_MAIN, route::TABLE_LOCAL].map(u32::from).contains(&table) {
        object.push_str(&format!(" in table {table}"));
    }
    let removed = message.kind == libc::RTM_DELROUTE;
    Some(Told::Object { what: What::Route, object, removed, ours })
}

fn neighbour(message: &Message<'_>, names: &mut Names<'_>) -> Option<Told> {
    let header = NeighbourHeader::parse(message.body).ok()?;
    let attributes = message.body.get(NEIGHBOUR_HEADER..)?;
    let (state, flags) = (u16::from(header.state), header.flags.bits());
    let (proxy, permanent) = (flags & libc::NTF_PROXY != 0, state & libc::NUD_PERMANENT != 0);
    if !proxy && !permanent && message.port == 0 {
        return None;
    }
    let device = names.text(header.ifindex);
    let address = find(attributes, NDA_DST).and_then(attr::ip);
    let object = if header.family == AddressFamily::Bridge {
        format!("forwarding entry {} on {device}", find(attributes, NDA_LLADDR).and_then(attr::mac)?)
    } else if proxy {
        format!("answer for {} on {device}", address?)
    } else {
        format!("neighbour {} on {device}", address?)
    };
    Some(Told::Object {
        what: What::Neighbour,
        object,
        // A neighbour that is deleted fails first.
        removed: message.kind == libc::RTM_DELNEIGH || state == libc::NUD_FAILED,
        ours: find(attributes, NDA_PROTOCOL).and_then(attr::u8) == Some(PROTOCOL),
    })
}

fn rule(body: &[u8], removed: bool) -> Option<Told> {
    let family = family(*body.first()?)?;
    let attributes = body.get(RULE_HEADER..)?;
    let priority = find(attributes, FRA_PRIORITY).and_then(attr::u32).unwrap_or(0);
    let ours = find(attributes, FRA_PROTOCOL).and_then(attr::u8) == Some(PROTOCOL);
    let object = format!("routing rule {priority} of {family}");
    Some(Told::Object { what: What::Rule, object, removed, ours })
}

fn setting(body: &[u8], names: &mut Names<'_>) -> Option<Sysctl> {
    let family = family(*body.first()?)?;
    let attributes = body.get(NETCONF_HEADER..)?;
    let index = find(attributes, NETCONFA_IFINDEX).and_then(attr::u32)?;
    let mut settings = Attributes(attributes).map(|(kind, _)| kind).filter(|kind| *kind != NETCONFA_IFINDEX);
    // All of them are told of a device that is new or has a new name, which its link tells itself.
    let (Some(setting), None) = (settings.next(), settings.next()) else { return None };
    let key = match setting {
        NETCONFA_FORWARDING => "forwarding",
        NETCONFA_RP_FILTER => "rp_filter",
        NETCONFA_MC_FORWARDING => "mc_forwarding",
        NETCONFA_PROXY_NEIGH if family == "ipv6" => "proxy_ndp",
        NETCONFA_PROXY_NEIGH => "proxy_arp",
        NETCONFA_IGNORE_ROUTES_WITH_LINKDOWN => "ignore_routes_with_linkdown",
        NETCONFA_BC_FORWARDING => "bc_forwarding",
        _ => return None,
    };
    let whose = match index.cast_signed() {
        ALL => "all".to_owned(),
        DEFAULT => "default".to_owned(),
        _ => names.of(index)?.to_string(),
    };
    Some(Sysctl::from_path(format!("net/{family}/conf/{whose}/{key}")))
}

fn family(number: u8) -> Option<&'static str> {
    match number.into() {
        libc::AF_INET => Some("ipv4"),
        libc::AF_INET6 => Some("ipv6"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::socket::Messages;

    fn told(kind: u16, body: &[u8]) -> Option<Told> {
        let mut bytes = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        let mut known = BTreeMap::from([(7, "eth0".parse().unwrap())]);
        // No socket: nobody else has a name.
        let file = std::fs::File::open("/dev/null").unwrap();
        let mut names = Names { known: &mut known, socket: file.as_fd() };
        let message = Messages(&bytes).next()?;
        read(&message, &mut names)
    }

    #[test]
    fn one_setting_is_a_change_and_many_are_a_device() {
        let mut body = vec![10, 0, 0, 0];
        attr::put(&mut body, NETCONFA_IFINDEX, &7_u32.to_ne_bytes());
        assert_eq!(told(libc::RTM_NEWNETCONF, &body), None);
        attr::put(&mut body, NETCONFA_PROXY_NEIGH, &[1, 0, 0, 0]);
        let key = Sysctl::from_path("net/ipv6/conf/eth0/proxy_ndp".to_owned());
        assert_eq!(told(libc::RTM_NEWNETCONF, &body), Some(Told::Setting(key)));
        attr::put(&mut body, NETCONFA_FORWARDING, &[1, 0, 0, 0]);
        assert_eq!(told(libc::RTM_NEWNETCONF, &body), None);
    }

    #[test]
    fn odd_bytes_are_no_panic() {
        for kind in 0..100 {
            for fill in [0_u8, 1, 2, 4, 7, 8, 10, 0x80, 0xff] {
                for len in 0..100 {
                    let _ = told(kind, &vec![fill; len]);
                }
            }
        }
    }
}
