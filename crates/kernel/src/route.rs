//! Routes: tables main and, of ours, local.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteScope, RouteType, RouteVia},
};
use viaduct_plan::{GuestRoute, PROTOCOL, Route, RouteKind};
use viaduct_types::{IfName, IpNet};

use crate::{
    address::family,
    attr::{self, find},
    error::Refusal,
    socket::{Request, Socket},
};

// include/uapi/linux/rtnetlink.h; only what is read.
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTNEXTHOP: usize = 8;
const RTNH_F_ONLINK: u8 = 4;
const TABLE_ANY: u8 = 0;
pub(crate) const TABLE_MAIN: u8 = 254;
pub(crate) const TABLE_LOCAL: u8 = 255;

/// Makes a route; fails with EEXIST when one to the same destination with the same metric stands. `index` is the
/// device's, 0 for none.
pub(crate) fn add(route: &Route, index: u32) -> Request {
    let mut message = about(route, index);
    message.header.scope = match (route.kind, route.destination, route.via) {
        (RouteKind::Local, ..) => RouteScope::Host,
        // The kernel takes an IPv4 gateway for reachable only over a route of narrower scope than its own.
        (RouteKind::Unicast, IpNet::V4(_), None) => RouteScope::Link,
        (RouteKind::Unicast | RouteKind::Unreachable, ..) => RouteScope::Universe,
    };
    message.header.flags.set(RouteFlags::Onlink, route.onlink);
    Request::change(&RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Takes exactly this route away; another one to the same destination stays.
pub(crate) fn delete(route: &Route, index: u32) -> Request {
    let mut message = about(route, index);
    // Any scope (`fib_table_delete`).
    message.header.scope = RouteScope::NoWhere;
    Request::change(&RouteNetlinkMessage::DelRoute(message), 0)
}

fn about(route: &Route, index: u32) -> RouteMessage {
    let mut message = to(route.destination);
    message.header.protocol = route.protocol.into();
    (message.header.table, message.header.kind) = match route.kind {
        RouteKind::Unicast => (TABLE_MAIN, RouteType::Unicast),
        RouteKind::Local => (TABLE_LOCAL, RouteType::Local),
        RouteKind::Unreachable => (TABLE_MAIN, RouteType::Unreachable),
    };
    through(&mut message, index, route.via);
    let attributes = &mut message.attributes;
    attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    attributes.extend((route.metric != 0).then_some(RouteAttribute::Priority(route.metric)));
    message
}

/// Makes or replaces a guest's route through its device. A gateway is taken as on-link: the guest may have a /32.
pub(crate) fn add_guest(route: &GuestRoute, index: u32) -> Request {
    let mut message = guest(route, index);
    match (route.via, route.destination) {
        (Some(_), _) => message.header.flags = RouteFlags::Onlink,
        (None, IpNet::V4(_)) => message.header.scope = RouteScope::Link,
        (None, IpNet::V6(_)) => {}
    }
    message.header.protocol = PROTOCOL.into();
    Request::change(&RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Takes a guest's route through its device away, whoever made it.
pub(crate) fn delete_guest(route: &GuestRoute, index: u32) -> Request {
    let mut message = guest(route, index);
    message.header.scope = RouteScope::NoWhere;
    Request::change(&RouteNetlinkMessage::DelRoute(message), 0)
}

fn guest(route: &GuestRoute, index: u32) -> RouteMessage {
    let mut message = to(route.destination);
    match u8::try_from(route.table) {
        Ok(table) => message.header.table = table,
        // Larger numbers have no room there.
        Err(_) => message.attributes.push(RouteAttribute::Table(route.table)),
    }
    message.header.kind = RouteType::Unicast;
    through(&mut message, index, route.via);
    message
}

fn to(destination: IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination.addr());
    message.header.destination_prefix_length = destination.prefix_len();
    if destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(destination.network().into()));
    }
    message
}

fn through(message: &mut RouteMessage, index: u32, via: Option<IpAddr>) {
    message.attributes.extend((index != 0).then_some(RouteAttribute::Oif(index)));
    message.attributes.extend(via.map(|via| match (message.header.address_family, via) {
        (AddressFamily::Inet, IpAddr::V6(via)) => RouteAttribute::Via(RouteVia::Inet6(via)),
        _ => RouteAttribute::Gateway(via.into()),
    }));
}

/// Everybody's routes in table main, and ours in table local. `name` knows the devices.
pub(crate) fn list(socket: &mut Socket, name: impl Fn(u32) -> Option<IfName>) -> Result<Vec<Route>, Refusal> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for (table, protocol) in [(TABLE_MAIN, None), (TABLE_LOCAL, Some(PROTOCOL))] {
            let found = dump(socket, family, table, protocol, 0)?;
            routes.extend(found.into_iter().filter_map(|f| f.into_route(&name)));
        }
    }
    Ok(routes)
}

/// Our routes through one device, in whatever table; those that the guest made are its own business.
pub(crate) fn list_guest(socket: &mut Socket, index: u32) -> Result<Vec<GuestRoute>, Refusal> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let found = dump(socket, family, TABLE_ANY, Some(PROTOCOL), index)?.into_iter();
        let found = found.filter(|f| f.kind == RouteKind::Unicast);
        routes.extend(found.map(|f| GuestRoute { table: f.table, destination: f.destination, via: f.via }));
    }
    Ok(routes)
}

/// Whether a route that stands is the one that is wanted.
pub(crate) fn is_same(found: &Route, wanted: &Route) -> bool {
    is_rival(found, wanted)
        && found.kind == wanted.kind
        && (found.link == wanted.link || wanted.link.is_none())
        && (found.via, found.source, found.protocol) == (wanted.via, wanted.source, wanted.protocol)
        // What needs no such flag, the kernel may have dropped it from.
        && (found.onlink || !wanted.onlink || wanted.via.is_none())
}

/// Whether only one of the two can stand: same destination, same metric.
pub(crate) fn is_rival(found: &Route, wanted: &Route) -> bool {
    // What the kernel makes of no metric (`ip6_route_info_create`).
    const IPV6_DEFAULT: u32 = 1024;
    let metric = |route: &Route| match (route.metric, route.destination) {
        (0, IpNet::V6(_)) => IPV6_DEFAULT,
        (metric, _) => metric,
    };
    found.destination == wanted.destination
        && metric(found) == metric(wanted)
        && (found.kind == RouteKind::Local) == (wanted.kind == RouteKind::Local)
}

/// Routes of a family and table: of all protocols or one, through all devices (index 0) or one.
pub(crate) fn dump(
    socket: &mut Socket,
    family: AddressFamily,
    table: u8,
    protocol: Option<u8>,
    index: u32,
) -> Result<Vec<Found>, Refusal> {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = table;
    message.header.protocol = protocol.unwrap_or(0).into();
    message.attributes.extend((index != 0).then_some(RouteAttribute::Oif(index)));
    let request = Request::dump(&RouteNetlinkMessage::GetRoute(message));
    let wanted = |f: &Found| {
        (table == TABLE_ANY || f.table == u32::from(table))
            && protocol.is_none_or(|p| f.protocol == p)
            && (index == 0 || f.index == index)
    };
    match socket.ask(&request, |_, body| read(family, body).filter(wanted)) {
        // A table that no route was ever put into does not exist; nor does a device that went meanwhile.
        Err(refusal) if matches!(refusal.errno, libc::ENOENT | libc::ENODEV) => Ok(Vec::new()),
        found => found,
    }
}

/// A route as the kernel tells it.
pub(crate) struct Found {
    pub(crate) destination: IpNet,
    kind: RouteKind,
    /// Of its device, 0 for none.
    pub(crate) index: u32,
    via: Option<IpAddr>,
    onlink: bool,
    source: Option<IpAddr>,
    metric: u32,
    pub(crate) protocol: u8,
    pub(crate) table: u32,
}

impl Found {
    /// None when it leads through a device without a known name.
    pub(crate) fn into_route(self, name: impl FnOnce(u32) -> Option<IfName>) -> Option<Route> {
        let link = match self.kind {
            // IPv6 says lo.
            RouteKind::Unreachable => None,
            RouteKind::Unicast | RouteKind::Local => match self.index {
                0 => None,
                // A device made after the devices were listed is left for the next look.
                index => Some(name(index)?),
            },
        };
        Some(Route {
            destination: self.destination,
            kind: self.kind,
            link,
            via: self.via,
            onlink: self.onlink,
            source: self.source,
            metric: self.metric,
            protocol: self.protocol,
        })
    }
}

/// None for kinds of routes that are nobody's business here, and for what is only cached.
pub(crate) fn read(family: AddressFamily, body: &[u8]) -> Option<Found> {
    let header = RouteHeader::parse(body).ok()?;
    // Without IPv6 the kernel answers for all families instead.
    if header.address_family != family || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "a dozen kinds that are nobody's business here")]
    let kind = match header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::Unreachable => RouteKind::Unreachable,
        _ => return None,
    };
    let attributes = body.get(12..)?;
    let get = |kind| find(attributes, kind);
    let destination = match (get(RTA_DST).and_then(attr::ip), family) {
        (Some(destination), _) => destination,
        (None, AddressFamily::Inet6) => Ipv6Addr::UNSPECIFIED.into(),
        (None, _) => Ipv4Addr::UNSPECIFIED.into(),
    };
    // Of several next hops the first stands for all: such routes are not ours.
    let hop = get(RTA_MULTIPATH).and_then(next_hop);
    let (index, hop_flags, hop_attributes) = hop.unwrap_or((0, 0, attributes));
    let gateway = find(hop_attributes, RTA_GATEWAY).and_then(attr::ip);
    let via = gateway.or_else(|| find(hop_attributes, RTA_VIA).and_then(|via| attr::ip(via.get(2..)?)));
    Some(Found {
        destination: IpNet::new(destination, header.destination_prefix_length).ok()?,
        kind,
        index: get(RTA_OIF).and_then(attr::u32).unwrap_or(index),
        via,
        onlink: header.flags.contains(RouteFlags::Onlink) || hop_flags & RTNH_F_ONLINK != 0,
        source: get(RTA_PREFSRC).and_then(attr::ip),
        metric: get(RTA_PRIORITY).and_then(attr::u32).unwrap_or(0),
        protocol: header.protocol.into(),
        table: get(RTA_TABLE).and_then(attr::u32).unwrap_or_else(|| header.table.into()),
    })
}

/// struct rtnexthop: its length (2 bytes), flags, hops, ifindex, then attributes.
fn next_hop(hops: &[u8]) -> Option<(u32, u8, &[u8])> {
    let &[a, b, flags, _, i, j, k, l] = hops.first_chunk::<RTNEXTHOP>()?;
    let attributes = hops.get(RTNEXTHOP..usize::from(u16::from_ne_bytes([a, b])))?;
    Some((u32::from_ne_bytes([i, j, k, l]), flags, attributes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_bytes_are_no_panic() {
        for fill in [0_u8, 1, 2, 8, 10, 0xff] {
            for len in 0..120 {
                let _ = read(AddressFamily::Inet, &vec![fill; len]);
                let _ = next_hop(&vec![fill; len]);
            }
        }
    }
}
