use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use viaduct_types::{GuestName, NamespaceName, NetworkName, Proto, Publish};

use super::Context;
use crate::{
    CableEnd, Family, Guest, InterfaceKind, Mode, Namespace, NamespaceInterface, Network, Nic, Published,
    raw,
    report::{At, Report, Span},
};

/// A guest's published ports, which need an address of the guest's to go to, and this host a way there.
pub(crate) fn published(
    name: &GuestName,
    raw: &raw::Guest,
    nics: &[Nic],
    namespaces: &BTreeMap<NamespaceName, Namespace>,
    cx: &mut Context<'_, '_>,
) -> Vec<Published> {
    let shared = raw.namespace.get().and_then(|name| namespaces.get(name));
    // What comes to other interfaces does not pass the host.
    let network_of = |i: &NamespaceInterface| match &i.kind {
        InterfaceKind::Veth { end: CableEnd::Network(network), .. } => Some(network.clone()),
        InterfaceKind::Veth { end: CableEnd::Bridge(_), .. }
        | InterfaceKind::Vlan { .. }
        | InterfaceKind::Macvlan { .. }
        | InterfaceKind::Ipvlan { .. }
        | InterfaceKind::Device { .. } => None,
    };
    let interfaces = shared.into_iter().flat_map(|namespace| &namespace.interfaces);
    let interfaces = interfaces.filter_map(|i| Some((network_of(i)?, &i.addresses)));
    let mut known = Known::default();
    for (network, addresses) in nics.iter().map(|nic| (nic.network.clone(), &nic.addresses)).chain(interfaces)
    {
        addresses.iter().for_each(|net| known.add(&network, net.addr(), cx));
    }
    // A NIC that could not be read may have had the address.
    let complete = raw.nics.is_whole()
        && raw.nics.items().count() == nics.len()
        && raw.nics.items().zip(nics).all(|(raw, nic)| {
            raw.value.addresses.is_whole() && raw.value.addresses.items().count() == nic.addresses.len()
        })
        && raw.namespace.key.is_some() == shared.is_some();
    let mut published = Vec::new();
    for at in raw.publish.items() {
        let families: &[Family] = match at.value.address {
            None => &[Family::V4, Family::V6],
            Some(IpAddr::V4(_)) => &[Family::V4],
            Some(IpAddr::V6(_)) => &[Family::V6],
        };
        let family = at.value.address.map(|ip| format!("{} ", Family::of(ip))).unwrap_or_default();
        let leads = families.iter().any(|family| known.reached.contains(family));
        match families.iter().find_map(|family| known.beyond.get(family)) {
            _ if leads || !complete => {}
            Some(network) => unreached(name, at.span, (family, network), cx),
            None => {
                cx.report
                    .error(
                        at.span,
                        format!("guest `{name}` has no {family}address that the port could lead to"),
                    )
                    .help(match raw.namespace.key {
                        Some(_) => format!(
                            "give its namespace an interface of type `veth` on a network, with an {family}address"
                        ),
                        None => format!("add an {family}address to one of its NICs"),
                    });
            }
        }
        cx.published.push((name.clone(), *at));
        published.push(Published { publish: at.value, origin: cx.report.origin(at.span) });
    }
    published
}

/// The guest has addresses, and this host sends nothing there.
fn unreached(
    name: &GuestName,
    span: Span,
    (family, network): (String, &NetworkName),
    cx: &mut Context<'_, '_>,
) {
    let mode = cx.networks.get(network).and_then(|ground| Some(&ground.network.as_ref()?.mode));
    let (text, help) = match mode {
        Some(Mode::Bridged { .. }) => (
            format!("guest `{name}` is on bridged network `{network}`, where no port of this host leads"),
            "it is reached there by its own address: leave this out, or give it a NIC on another network"
                .to_owned(),
        ),
        Some(Mode::Isolated { .. }) => (
            format!(
                "this host has no {family}address in network `{network}`, by which the port could lead to guest `{name}`"
            ),
            format!("write `subnets` of [networks.{network}]: the host has an address in each"),
        ),
        Some(Mode::Vnet { .. } | Mode::Nat { .. } | Mode::Routed { .. }) | None => (
            format!(
                "this host has no {family}address in network `{network}`, by which the port could lead to guest `{name}`"
            ),
            format!(
                "write `gateways` of [networks.{network}], which no other host has, or publish the port in the files of \
                 hosts that have one: each of these leads to the guest wherever it is"
            ),
        ),
    };
    cx.report.error(span, text).help(help);
}

/// In which families a guest has addresses to which ports could lead.
#[derive(Default)]
struct Known {
    /// Those by which this host reaches it.
    reached: BTreeSet<Family>,
    /// Those in which it has addresses only where this host has none, with the network.
    beyond: BTreeMap<Family, NetworkName>,
}

impl Known {
    fn add(&mut self, network: &NetworkName, address: IpAddr, cx: &Context<'_, '_>) {
        let family = Family::of(address);
        // What is wrong with a network is told already.
        let network_itself = cx.networks.get(network).and_then(|ground| ground.network.as_ref());
        if network_itself.is_none_or(|network| network.mode.is_reached(family)) {
            self.reached.insert(family);
        } else {
            self.beyond.entry(family).or_insert_with(|| network.clone());
        }
    }
}

/// Reports ports that are published at an address which a guest has on the uplink's own segment: what is sent there goes to
/// that guest, and not by this host.
pub(crate) fn at_neighbours(
    guests: &BTreeMap<GuestName, Guest>,
    stacks: &BTreeMap<GuestName, Option<NamespaceName>>,
    cx: &mut Context<'_, '_>,
) {
    let mut neighbours: BTreeMap<(Option<&NamespaceName>, IpAddr), &GuestName> = BTreeMap::new();
    for (name, guest) in guests {
        for nic in &guest.nics {
            let network = cx.networks.get(&nic.network).and_then(|ground| ground.network.as_ref());
            let untagged =
                |network: &&Network| matches!(network.mode, Mode::Bridged { vlan: None, vlans: None, .. });
            let Some(network) = network.filter(untagged) else { continue };
            let stack = network.namespace.as_ref();
            neighbours.extend(nic.addresses.iter().map(|net| ((stack, net.addr()), name)));
        }
    }
    for (publisher, at) in &cx.published {
        let stack = stacks.get(publisher).and_then(Option::as_ref);
        let Some(address) = at.value.address else { continue };
        if let Some(name) = neighbours.get(&(stack, address)) {
            cx.report
                .error(
                    at.span,
                    format!("{address} is guest `{name}`'s on the uplink's own segment: what is sent there does not come by this host"),
                )
                .help("publish the port on another address: one of this host's, or one that nobody has");
        }
    }
}

/// Warns of ports that lead to guests by a link of their own, while these answer by another NIC. In a namespace they are asked by the
/// host's address there; what a guest's system does with that, nobody here knows.
pub(crate) fn answered_elsewhere(guests: &BTreeMap<GuestName, Guest>, cx: &mut Context<'_, '_>) {
    for (name, at) in &cx.published {
        let Some(guest) = guests.get(name).filter(|guest| guest.namespace.is_none()) else { continue };
        for family in [Family::V4, Family::V6] {
            if at.value.address.is_some_and(|address| Family::of(address) != family) {
                continue;
            }
            let mode = |nic: &Nic| Some(&cx.networks.get(&nic.network)?.network.as_ref()?.mode);
            let is_reached = |nic: &&Nic| {
                nic.addresses.iter().any(|net| Family::of(net.addr()) == family)
                    && mode(nic).is_some_and(|mode| mode.is_reached(family))
            };
            let is_way_out = |nic: &&Nic| nic.gateways.iter().any(|gateway| Family::of(*gateway) == family);
            let Some(way_out) = guest.nics.iter().find(is_way_out).filter(|nic| !is_reached(nic)) else {
                continue;
            };
            let Some(target) = guest.nics.iter().find(is_reached) else { continue };
            if matches!(mode(target), Some(Mode::Routed { .. })) {
                cx.report
                    .warning(
                        at.span,
                        format!(
                            "guest `{name}` is asked by {}, a link of its own, and answers by {}, where its {family} gateway is: nobody \
                             hears it",
                            target.name, way_out.name
                        ),
                    )
                    .help(
                        "write no `gateway` for that one, or give the guest a NIC on a network of mode nat for the port; a guest \
                         that routes by its source addresses needs neither",
                    );
                break;
            }
        }
    }
}

/// Reports ports that are published twice in one stack: for the same address, or once for all of them.
pub(crate) fn overlapping(stacks: &BTreeMap<GuestName, Option<NamespaceName>>, cx: &mut Context<'_, '_>) {
    let mut of_stack: BTreeMap<Option<&NamespaceName>, Vec<At<Publish>>> = BTreeMap::new();
    for (guest, at) in &cx.published {
        of_stack.entry(stacks.get(guest).and_then(Option::as_ref)).or_default().push(*at);
    }
    of_stack.into_values().for_each(|published| overlapping_in_one(&published, cx.report));
}

fn overlapping_in_one(published: &[At<Publish>], report: &mut Report<'_>) {
    let mut groups: BTreeMap<(Proto, Option<IpAddr>), Vec<At<Publish>>> = BTreeMap::new();
    for at in published {
        groups.entry((at.value.proto, at.value.address)).or_default().push(*at);
    }
    for group in groups.values_mut() {
        group.sort_by_key(|at| (at.value.host.first(), at.span));
        let mut widest: Option<At<Publish>> = None;
        for at in group.iter() {
            if let Some(before) = widest.filter(|before| before.value.overlaps(&at.value)) {
                twice(&before, at, report);
            }
            if widest.is_none_or(|before| before.value.host.last() < at.value.host.last()) {
                widest = Some(*at);
            }
        }
    }
    for proto in Proto::ALL {
        let Some(wildcards) = groups.get(&(proto, None)) else { continue };
        // For each one in order of its first port: the one up to there that reaches furthest.
        let mut furthest: Vec<At<Publish>> = Vec::with_capacity(wildcards.len());
        for at in wildcards {
            let before = furthest.last().filter(|before| before.value.host.last() >= at.value.host.last());
            furthest.push(*before.unwrap_or(at));
        }
        for ((_, address), group) in groups.range((proto, None)..).take_while(|((p, _), _)| *p == proto) {
            if address.is_none() {
                continue;
            }
            for at in group {
                let until = wildcards.partition_point(|w| w.value.host.first() <= at.value.host.last());
                let reaching = until.checked_sub(1).map(|index| furthest[index]);
                if let Some(wildcard) = reaching.filter(|w| w.value.overlaps(&at.value)) {
                    twice(&wildcard, at, report);
                }
            }
        }
    }
}

fn twice(one: &At<Publish>, other: &At<Publish>, report: &mut Report<'_>) {
    let (first, second) = if one.span < other.span { (one, other) } else { (other, one) };
    let (a, b) = (first.value, second.value);
    let from = a.host.first().max(b.host.first());
    let to = a.host.last().min(b.host.last());
    let ports = if from == to { format!("port {from}") } else { format!("ports {from}-{to}") };
    let on = match a.address.or(b.address) {
        Some(ip) => format!("of {ip}"),
        None => "of all addresses".into(),
    };
    let problem = report.error(second.span, format!("{ports} ({}) {on} is published twice", a.proto));
    problem.label("here again").related(first.span, "first published here");
    problem.help(if a.address == b.address {
        "publish one of them on another port or address"
    } else {
        "without an address a port is published on all of them: write the address there, too"
    });
}
