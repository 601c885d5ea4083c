//! Uplinks: their addresses and gateways where the file gives them, the bridge that takes them over, forwarding, and
//! the addresses that are answered for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use viaduct_model::{Config, Mode, Origin};
use viaduct_types::{IfName, IpNet, VlanSet};

use super::{
    Desired, DesiredLink, DesiredSysctl, Notice, OwnAddress, Severity, UPLINK, When,
    context::{Context, any_v4, any_v6, delegated, layer3, prefixes, uplink_bridge, uplink_vlans},
};
use crate::{
    op::NewLink,
    state::{Address, PROTOCOL, PortVlans, Proxy, Route, RouteKind, Sysctl},
};

/// Behind every guest's own route, which has metric 0 (1024 for IPv6).
const UNREACHABLE_METRIC: u32 = 0x5649_0000;

/// The settings that uplinks need to be known.
pub(super) fn asked(config: &Config) -> BTreeSet<Sysctl> {
    let mut keys = BTreeSet::from([Sysctl::all("ipv6", "forwarding"), ip_forward()]);
    for (name, uplink) in &config.uplinks {
        for link in [&uplink.interface, layer3(config, name, uplink)] {
            keys.extend(settings(link, true).into_keys());
            keys.insert(accept_ra(link));
        }
    }
    keys
}

/// The settings that must be known of every link.
pub(super) fn asked_of_links() -> BTreeSet<String> {
    ["accept_ra", "forwarding"].map(|key| format!("net/ipv6/conf/*/{key}")).into()
}

/// Forwarding of every device at once, which we never set.
pub(super) fn ip_forward() -> Sysctl {
    Sysctl::all("ipv4", "forwarding")
}

fn accept_ra(link: &IfName) -> Sysctl {
    Sysctl::ipv6(link, "accept_ra")
}

fn settings(link: &IfName, proxy: bool) -> BTreeMap<Sysctl, DesiredSysctl> {
    let journaled = |value: &str, when| DesiredSysctl { value: value.to_owned(), journal: true, when };
    let mut settings = BTreeMap::from([(Sysctl::ipv4(link, "forwarding"), journaled("1", When::Last))]);
    if proxy {
        settings.insert(Sysctl::neigh("ipv4", link, "proxy_delay"), journaled("0", When::WithLink));
        settings.insert(Sysctl::neigh("ipv6", link, "proxy_delay"), journaled("0", When::WithLink));
        settings.insert(Sysctl::ipv6(link, "proxy_ndp"), journaled("1", When::WithLink));
    }
    settings
}

/// Adds what uplinks need, and gives the addresses that the host has for its guests only.
pub(super) fn add(
    context: &Context<'_>,
    wanted: &mut Desired,
    notices: &mut Vec<Notice>,
) -> BTreeSet<IpAddr> {
    let claims = claims(context, notices);
    let publishes_vnets = context.publishes_vnets(false);
    for ((name, uplink, l3), rank) in context.uplinks().zip(0u32..) {
        let routed = publishes_vnets
            || context.config.networks.values().any(|n| {
                n.uplink.as_ref() == Some(name) && matches!(n.mode, Mode::Nat { .. } | Mode::Routed { .. })
            });
        let proxying = claims.iter().any(|(link, _)| *link == l3)
            || context.config.networks.values().any(|n| {
                n.uplink.as_ref() == Some(name) && matches!(n.mode, Mode::Routed { proxy: true, .. })
            });
        if routed {
            // A bridge of ours has nothing to be restored.
            let journal = *l3 == uplink.interface;
            let settings = settings(l3, proxying).into_iter();
            wanted.sysctls.extend(settings.map(|(key, s)| (key, DesiredSysctl { journal, ..s })));
        }
        let bridge = uplink_bridge(context.config, name);
        let set_up = !uplink.addresses.is_empty() || !uplink.gateways.is_empty() || bridge.is_some();
        let vlans = uplink_vlans(context.config, name);
        let on = |tagged: VlanSet| {
            vlans.map(|(_, own)| PortVlans { untagged: Some(own), tagged, other: VlanSet::default() })
        };
        let link = DesiredLink {
            mtu: uplink.mtu,
            master: bridge.cloned(),
            vlans: on(vlans.map(|(vlans, _)| vlans.clone()).unwrap_or_default()),
            up: set_up,
            ..DesiredLink::default()
        };
        wanted.links.insert(uplink.interface.clone(), link);
        if let Some(bridge) = bridge {
            wanted.moves.insert(uplink.interface.clone(), bridge.clone());
            let hardware = context.observed.links.get(&uplink.interface);
            let link = DesiredLink {
                make: Some(NewLink::Bridge),
                alias: Some(format!("{UPLINK}{name}")),
                // The segment knows this host by the uplink's MAC.
                mac: hardware.and_then(|l| l.mac),
                mtu: uplink.mtu.or(hardware.map(|l| l.mtu)),
                filters_vlans: vlans.is_some(),
                // The host itself speaks without tags only.
                vlans: on(VlanSet::default()),
                addrgen_none: Some(false),
                up: true,
                ..DesiredLink::default()
            };
            wanted.links.insert(bridge.clone(), link);
        }
        for (place, address) in uplink.addresses.iter().enumerate() {
            let address = Address { link: l3.clone(), address: *address };
            wanted.addresses.insert(address, OwnAddress { scope: 0, place });
        }
        for gateway in &uplink.gateways {
            wanted.routes.insert(default_route(l3, *gateway, rank));
        }
    }
    for (l3, address) in &claims {
        add_claim(l3, *address, wanted);
    }
    leads_elsewhere(context, wanted, notices);
    add_unreachable(context, wanted);
    add_ipv6_forwarding(context, wanted);
    claims.into_iter().map(|(_, address)| address).collect()
}

/// The first uplink, by name, is the one that the host itself leaves by.
fn default_route(l3: &IfName, via: IpAddr, rank: u32) -> Route {
    Route {
        destination: if via.is_ipv4() { any_v4() } else { any_v6() },
        kind: RouteKind::Unicast,
        link: Some(l3.clone()),
        via: Some(via),
        onlink: true,
        source: None,
        metric: if via.is_ipv4() { rank } else { 1024 + rank },
        protocol: PROTOCOL,
    }
}

/// Guests leave by their network's uplink only; a default route that leads out of another one leads them nowhere.
fn leads_elsewhere(context: &Context<'_>, wanted: &Desired, notices: &mut Vec<Notice>) {
    let config = context.config;
    let theirs = context.observed.routes.iter().filter(|route| route.protocol != PROTOCOL);
    let routes: Vec<&Route> = theirs.chain(&wanted.routes).collect();
    for (any, family) in [(any_v4(), "IPv4"), (any_v6(), "IPv6")] {
        let defaults = routes.iter().filter(|r| r.destination == any && r.kind == RouteKind::Unicast);
        let Some(least) = defaults.clone().map(|route| route.metric).min() else { continue };
        let devices: Vec<&IfName> =
            defaults.filter(|r| r.metric == least).filter_map(|r| r.link.as_ref()).collect();
        let Some(device) = devices.first() else { continue };
        for (name, network) in &config.networks {
            let Some((uplink, its)) = network.uplink.as_ref().and_then(|u| Some((u, config.uplinks.get(u)?)))
            else {
                continue;
            };
            let l3 = layer3(config, uplink, its);
            let is_routed = matches!(network.mode, Mode::Nat { .. } | Mode::Routed { .. })
                && prefixes(network).iter().any(|prefix| prefix.addr().is_ipv4() == any.addr().is_ipv4());
            if !is_routed || devices.contains(&l3) || devices.contains(&&its.interface) {
                continue;
            }
            let text = format!(
                "network {name}: its guests leave by {l3} only, and the host's default route in {family} leads out of \
                 {device}: they reach nobody beyond what other routes lead to. Give the network the uplink of {device}, or \
                 have the default route lead out of {l3}"
            );
            let origin = Some(network.origin.clone());
            notices.push(Notice { severity: Severity::Warning, text, origin, vnet: None });
        }
    }
}

/// Published and source addresses that the host lacks though they are on an uplink's own segment: somebody has to
/// answer for them there, and the file says that it is us. Those of guests are theirs, but for the ports published there.
fn claims<'a>(context: &Context<'a>, notices: &mut Vec<Notice>) -> BTreeSet<(&'a IfName, IpAddr)> {
    let mut claims = BTreeSet::new();
    let given: BTreeSet<IpAddr> =
        context.config.uplinks.values().flat_map(|u| &u.addresses).map(|net| net.addr()).collect();
    let of_guests: BTreeSet<IpAddr> =
        context.config.nics().flat_map(|(_, nic)| &nic.addresses).map(IpNet::addr).collect();
    for ((address, l3), (interface, origin, what)) in spoken_for(context) {
        let has = [&given, &of_guests, &context.host_addresses].iter().any(|has| has.contains(&address));
        if has || address.is_loopback() {
            continue;
        }
        let has = context.observed.addresses.keys().filter(|a| a.link == *l3 || a.link == *interface);
        let uplinks = context.config.uplinks.values().filter(|uplink| uplink.interface == *interface);
        let mut on_uplink = has.map(|a| a.address).chain(uplinks.flat_map(|uplink| uplink.addresses.clone()));
        let on_segment = on_uplink
            .any(|net| net.contains(&address) && net.prefix_len() < net.max_prefix_len())
            || is_proxied(context, l3, address);
        let text = if on_segment {
            claims.insert((l3, address));
            format!(
                "{what} {address} is not on this host; it is on {l3}'s segment, so it is answered for there"
            )
        } else {
            format!(
                "{what} {address} is not on this host: it works only if it is routed here. \
                 Give it to an uplink with `addresses`, or have it routed to this host"
            )
        };
        notices.push(Notice { severity: Severity::Warning, text, origin: Some(origin), vnet: None });
    }
    claims
}

/// Whether the file says that an address is on the uplink's own segment: by the pool of a network with `proxy`.
fn is_proxied(context: &Context<'_>, l3: &IfName, address: IpAddr) -> bool {
    context.config.networks.values().any(|network| match &network.mode {
        Mode::Routed { proxy: true, pool, .. } => {
            context.uplink(network).is_some_and(|(_, its)| its == l3)
                && pool.iter().any(|prefix| prefix.contains(&address))
        }
        Mode::Routed { .. }
        | Mode::Nat { .. }
        | Mode::Bridged { .. }
        | Mode::Isolated { .. }
        | Mode::Vnet { .. } => false,
    })
}

/// Every address that the file speaks for and the uplink's device it belongs on, with the uplink's interface, the
/// first place in the file, and what it is there.
type SpokenFor<'a> = BTreeMap<(IpAddr, &'a IfName), (&'a IfName, Origin, &'static str)>;

fn spoken_for<'a>(context: &Context<'a>) -> SpokenFor<'a> {
    let mut list = SpokenFor::new();
    for network in context.config.networks.values() {
        if let (Mode::Nat { source_address, .. }, Some((uplink, l3))) =
            (&network.mode, context.uplink(network))
        {
            for address in source_address {
                let why = (&uplink.interface, network.origin.clone(), "the source address");
                list.entry((*address, l3)).or_insert(why);
            }
        }
    }
    for guest in context.config.guests.values() {
        let uplink = context
            .config
            .nics_of(guest)
            .iter()
            .find_map(|nic| context.uplink(context.config.networks.get(&nic.network)?))
            .or_else(|| context.uplinks().next().map(|(_, uplink, l3)| (uplink, l3)));
        let Some((uplink, l3)) = uplink else { continue };
        for published in &guest.publish {
            if let Some(address) = published.publish.address {
                let why = || (&uplink.interface, published.origin.clone(), "the published address");
                list.entry((address, l3)).or_insert_with(why);
            }
        }
    }
    list
}

fn add_claim(l3: &IfName, address: IpAddr, wanted: &mut Desired) {
    // A local route makes the kernel answer ARP for it and take it as its own; ND asks the proxy table only.
    wanted.routes.insert(Route {
        destination: IpNet::from(address),
        kind: RouteKind::Local,
        link: "lo".parse().ok(),
        via: None,
        onlink: false,
        source: None,
        metric: if address.is_ipv6() { 1024 } else { 0 },
        protocol: PROTOCOL,
    });
    let entry = Proxy { link: l3.clone(), address };
    if address.is_ipv6() {
        wanted.proxies.insert(entry.clone());
    }
    wanted.announced.insert(entry, None);
}

/// What is routed to us and belongs to no attached guest must not go back to where it came from.
fn add_unreachable(context: &Context<'_>, wanted: &mut Desired) {
    for network in context.config.networks.values() {
        let unreachable = match network.mode {
            Mode::Routed { proxy: false, .. } => prefixes(network),
            // The pool is of the uplink's own segment.
            Mode::Routed { proxy: true, .. } => delegated(network).collect(),
            Mode::Nat { .. } | Mode::Isolated { .. } | Mode::Bridged { .. } | Mode::Vnet { .. } => continue,
        };
        for destination in unreachable {
            wanted.routes.insert(Route {
                destination,
                kind: RouteKind::Unreachable,
                link: None,
                via: None,
                onlink: false,
                source: None,
                metric: UNREACHABLE_METRIC,
                protocol: PROTOCOL,
            });
        }
    }
}

/// IPv6 has one switch for all devices, and throwing it makes every device that takes router advertisements forget its
/// default route unless `accept_ra` is 2 before (net/ipv6/addrconf.c, `addrconf_fixup_forwarding`).
fn add_ipv6_forwarding(context: &Context<'_>, wanted: &mut Desired) {
    let v6 = context.publishes_vnets(true)
        || context.config.networks.values().any(|n| {
            matches!(n.mode, Mode::Nat { .. } | Mode::Routed { .. } | Mode::Isolated { .. })
                && prefixes(n).iter().any(|p| p.addr().is_ipv6())
        });
    if !v6 {
        return;
    }
    let setting = |value: &str, when| DesiredSysctl { value: value.to_owned(), journal: true, when };
    wanted.sysctls.insert(Sysctl::all("ipv6", "forwarding"), setting("1", When::Last));
    for (name, _) in context.observed.links.iter().filter(|(n, l)| !l.is_ours() && n.as_str() != "lo") {
        // Who takes them by itself though it forwards needs nothing of us.
        let by_itself = context.observed.sysctls.get(&accept_ra(name)).is_some_and(|now| now == "2")
            && !context.observed.journal.contains_key(&accept_ra(name));
        if takes_advertisements(context, name) && !by_itself {
            wanted.sysctls.insert(accept_ra(name), setting("2", When::First));
        }
    }
    // A bridge takes advertisements as its uplink did.
    for (interface, bridge) in &wanted.moves {
        let value = if takes_advertisements(context, interface) { "2" } else { "0" };
        let setting = DesiredSysctl { journal: false, ..setting(value, When::WithLink) };
        wanted.sysctls.insert(accept_ra(bridge), setting);
    }
}

/// Whether a device takes router advertisements, or did before we had it forward: 1 means only while it does not. A
/// device that came later, like a guest's that somebody else made, takes none, and must not begin to because of us.
fn takes_advertisements(context: &Context<'_>, name: &IfName) -> bool {
    let sysctl = |key: &Sysctl| context.observed.sysctls.get(key).map_or("0", String::as_str);
    let ours = context.observed.journal.contains_key(&accept_ra(name));
    match sysctl(&accept_ra(name)) {
        "2" => true,
        "1" => ours || sysctl(&Sysctl::ipv6(name, "forwarding")) == "0",
        _ => false,
    }
}
