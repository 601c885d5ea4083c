//! Networks in namespaces: stacks of their own beside the host's. What belongs together has to be in one.

use std::collections::{BTreeMap, BTreeSet};

use viaduct_types::{GuestName, IfName, MacvlanMode, NamespaceName};

use super::Context;
use crate::{
    AllowPeer, Guest, Uplink,
    claims::Segment,
    raw::{self, InterfaceKeys, InterfaceMode, InterfaceWord, ModeWord, NetworkKeys},
    report::{At, Span},
    shape::is_known,
};

/// An uplink that is an interface of a namespace. What it has, is written there.
pub(super) fn uplink(span: Span, raw: &raw::Uplink, cx: &mut Context<'_, '_>) -> Option<Uplink> {
    let namespace = raw.namespace.value.as_ref()?;
    let interface = raw.interface.value.as_ref()?;
    let known = cx.root.namespaces.get();
    if !is_known(namespace, "namespace", known.unwrap_or(&Default::default()), cx.report) {
        return None;
    }
    if self::interface(cx.root, &namespace.value, &interface.value).is_none() {
        cx.report
            .absent(
                interface.span,
                format!("the namespace `{}` has no interface `{}`", namespace.value, interface.value),
            )
            .help("write the name of one of its interfaces");
    }
    let keys = [("addresses", raw.addresses.key), ("gateways", raw.gateways.key), ("mtu", raw.mtu.key)];
    for (key, at) in keys.into_iter().filter_map(|(key, at)| Some((key, at?))) {
        cx.report
            .error(at, format!("`{key}` of an interface of a namespace is written at the interface"))
            .help(format!(
                "write it into the table of `{}` in [[namespaces.{}.interfaces]]",
                interface.value, namespace.value
            ));
    }
    Some(Uplink {
        interface: interface.value.clone(),
        namespace: Some(namespace.value.clone()),
        mtu: None,
        addresses: Vec::new(),
        gateways: Vec::new(),
        origin: cx.report.origin(span),
    })
}

/// Whether a network and its uplink are in the same stack, and can be there.
pub(super) fn network(word: ModeWord, raw: &NetworkKeys, cx: &mut Context<'_, '_>) {
    if let (Some(at), ModeWord::Vnet) = (raw.namespace.key, word) {
        cx.report
            .error(at, "a vnet leads to other hosts by the host's own stack, so that its network cannot be in a namespace")
            .help("remove the key, and have the namespace a cable to it: an interface with type = \"veth\" and network = \"…\"");
    }
    let Some((uplink, at)) = raw.uplink.value.as_ref().and_then(|at| Some((cx.uplinks.get(&at.value)?, at)))
    else {
        return;
    };
    let (here, there) = (raw.namespace.get(), uplink.namespace.as_ref());
    if here != there && (raw.namespace.key.is_none() || here.is_some()) {
        let place = |stack: Option<&NamespaceName>| {
            stack.map_or_else(|| "on the host".to_owned(), |name| format!("in the namespace `{name}`"))
        };
        let (is, has_to_be) = (place(there), place(here));
        cx.report
            .error(at.span, format!("the uplink `{}` is {is}, and its network {has_to_be}", at.value))
            .help(match (here, there) {
                (Some(here), _) => format!(
                    "write an uplink with namespace = \"{here}\", whose interface is one of that namespace's"
                ),
                (None, Some(there)) => format!("put the network there, too: namespace = \"{there}\""),
                (None, None) => "name another uplink".to_owned(),
            });
        return;
    }
    let Some(namespace) = there.filter(|_| word == ModeWord::Bridged) else { return };
    let Some(interface) = interface(cx.root, namespace, &uplink.interface) else { return };
    let own_mac_only = match interface.kind.get() {
        Some(InterfaceWord::Macvlan) => {
            interface.mode.get() != Some(&InterfaceMode::Macvlan(MacvlanMode::Passthru))
        }
        Some(InterfaceWord::Ipvlan) => true,
        Some(InterfaceWord::Veth) => interface.network.key.is_some(),
        Some(InterfaceWord::Vlan | InterfaceWord::Device) | None => false,
    };
    if own_mac_only {
        cx.report
            .error(
                at.span,
                format!("{} lets no frames out but its own, and guests of a bridged network have MACs of their own", uplink.interface),
            )
            .help("make it of type `vlan` or `device`, a macvlan in mode `passthru`, or a cable to a bridge; or choose mode `nat` or `routed`");
    }
    if let Some(routes) = interface.routes.key.filter(|_| raw.vlan.key.is_none()) {
        cx.report
            .error(
                routes,
                format!(
                    "{} is a port of the bridge of a network, and nothing can be routed through it",
                    uplink.interface
                ),
            )
            .help("remove the routes, or let the network have another uplink");
    }
}

/// Where the frames are of an interface that is in a namespace.
pub(super) fn segment(
    namespace: &NamespaceName,
    device: &IfName,
    vlan: Option<u16>,
    cx: &Context<'_, '_>,
) -> Segment {
    let inner = Segment::Inner(namespace.clone(), device.clone(), vlan);
    let Some(raw) = interface(cx.root, namespace, device).filter(|_| vlan.is_none()) else { return inner };
    let parent = || {
        let name = raw.parent.get()?.0.as_str();
        cx.uplinks.get(name).map(|uplink| uplink.interface.clone()).or_else(|| name.parse().ok())
    };
    let outer = match raw.kind.get() {
        Some(InterfaceWord::Vlan) => {
            let number = raw.vlan.get().and_then(|vlan| u16::try_from(vlan.0).ok());
            number.and_then(|number| Some(Segment::Device(parent()?, Some(number))))
        }
        Some(InterfaceWord::Macvlan | InterfaceWord::Ipvlan) => {
            parent().map(|parent| Segment::Device(parent, None))
        }
        Some(InterfaceWord::Device) => raw.device.get().map(|device| Segment::Device(device.clone(), None)),
        Some(InterfaceWord::Veth) => match (raw.bridge.get(), raw.network.get()) {
            (Some(bridge), _) => Some(Segment::Device(bridge.clone(), None)),
            (None, Some(network)) => Some(Segment::Network(network.clone())),
            (None, None) => None,
        },
        None => None,
    };
    outer.unwrap_or(inner)
}

fn interface<'a>(
    root: &'a raw::Root,
    namespace: &NamespaceName,
    device: &IfName,
) -> Option<&'a InterfaceKeys> {
    let (_, raw) = root.namespaces.get()?.get(namespace)?;
    let mut interfaces = raw.as_ref()?.interfaces.items().map(|at| &at.value.0);
    interfaces.find(|interface| interface.name.get() == Some(device))
}

/// Reports what is in several stacks, and gives the stack of each guest.
pub(super) fn check(
    guests: &BTreeMap<GuestName, Guest>,
    cx: &mut Context<'_, '_>,
) -> BTreeMap<GuestName, Option<NamespaceName>> {
    one_uplink_each(cx);
    let stack_of = |nic: &crate::Nic, cx: &Context<'_, '_>| -> Option<NamespaceName> {
        cx.networks.get(&nic.network)?.network.as_ref()?.namespace.clone()
    };
    let mut stacks = BTreeMap::new();
    for (name, guest) in guests {
        let shared = guest.namespace.as_ref().and_then(|shared| guests.get(shared.as_str()));
        let nics = &shared.filter(|shared| shared.is_namespace).unwrap_or(guest).nics;
        let all: BTreeSet<_> = nics.iter().map(|nic| stack_of(nic, cx)).collect();
        if all.len() > 1 && !guest.nics.is_empty() {
            let words: Vec<String> = all
                .iter()
                .map(|stack| stack.as_ref().map_or("the host".to_owned(), |name| format!("namespace {name}")))
                .collect();
            let what = if guest.is_namespace { "namespace" } else { "guest" };
            let span = place(name, guest, cx);
            cx.report
                .error(
                    span,
                    format!("{what} `{name}` is on networks of several stacks: {}", words.join(", ")),
                )
                .help("all networks of one guest have to be on the host, or in one namespace");
        }
        stacks.insert(name.clone(), all.into_iter().next().flatten());
    }
    circles(guests, &stacks, cx);
    permissions(guests, &stacks, cx);
    stacks
}

fn place(name: &GuestName, guest: &Guest, cx: &Context<'_, '_>) -> Span {
    let of_guest = || cx.root.guests.get()?.get(name).map(|(span, _)| *span);
    let of_namespace = || {
        let namespaces = cx.root.namespaces.get()?;
        namespaces.get(guest.namespace.as_ref()?).map(|(span, _)| *span)
    };
    let found = if guest.is_namespace { of_namespace() } else { of_guest() };
    found.unwrap_or_else(|| Span::new(0, 0..0))
}

/// One interface is one uplink.
fn one_uplink_each(cx: &mut Context<'_, '_>) {
    let mut known: BTreeMap<(&NamespaceName, &IfName), Span> = BTreeMap::new();
    let all = cx.root.uplinks.get().into_iter().flatten().filter_map(|(_, (_, raw))| raw.as_ref());
    for raw in all {
        let (Some(namespace), Some(At { value: interface, span })) =
            (raw.namespace.get(), &raw.interface.value)
        else {
            continue;
        };
        if let Some(first) = known.insert((namespace, interface), *span) {
            cx.report
                .error(
                    first.max(*span),
                    format!("two uplinks have the interface `{interface}` of the namespace `{namespace}`"),
                )
                .related(first.min(*span), "the other one")
                .help("make them one uplink, or give one of them another `interface`");
        }
    }
}

/// A namespace cannot be on networks that are in it, nor in one that is on networks in it.
fn circles(
    guests: &BTreeMap<GuestName, Guest>,
    stacks: &BTreeMap<GuestName, Option<NamespaceName>>,
    cx: &mut Context<'_, '_>,
) {
    for (name, guest) in guests.iter().filter(|(_, guest)| guest.is_namespace) {
        let mut way: Vec<&str> = vec![name.as_str()];
        while let Some(Some(next)) = way.last().and_then(|last| stacks.get(*last)) {
            if next.as_str() == name.as_str() {
                let by = way.get(1..).unwrap_or_default().join(", ");
                let by = if by.is_empty() { String::new() } else { format!(", by way of {by}") };
                let span = place(name, guest, cx);
                cx.report
                    .error(span, format!("the namespace `{name}` has a cable to a network that is in itself{by}"))
                    .help("a namespace has the gateway's addresses of its networks as it is: remove the interface");
                break;
            }
            if way.contains(&next.as_str()) {
                break;
            }
            way.push(next.as_str());
        }
    }
}

/// Flows from one stack to another come from outside, by whatever is between them.
fn permissions(
    guests: &BTreeMap<GuestName, Guest>,
    stacks: &BTreeMap<GuestName, Option<NamespaceName>>,
    cx: &mut Context<'_, '_>,
) {
    for (name, guest) in guests {
        let own = stacks.get(name).cloned().flatten();
        for allow in guest.allow_in.iter().chain(&guest.allow_out).flatten() {
            let (what, theirs) = match &allow.peer {
                AllowPeer::Any | AllowPeer::Prefix(_) => continue,
                AllowPeer::Guest(other) => {
                    (format!("guest `{other}`"), stacks.get(other).cloned().unwrap_or_else(|| own.clone()))
                }
                AllowPeer::Network(other) => {
                    let network = cx.networks.get(other).and_then(|ground| ground.network.as_ref());
                    let theirs = network.map_or_else(|| own.clone(), |network| network.namespace.clone());
                    (format!("network `{other}`"), theirs)
                }
            };
            if theirs == own {
                continue;
            }
            let theirs = theirs.map_or("on the host".to_owned(), |name| format!("in the namespace `{name}`"));
            let span = place(name, guest, cx);
            cx.report
                .error(
                    span,
                    format!("guest `{name}` is to talk to {what}, which is {theirs}, in another stack"),
                )
                .help("stacks know nothing of each other: write the prefix that its packets have when they arrive");
        }
    }
}
