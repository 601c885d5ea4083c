//! Namespaces that guests share, and what is in them.

mod cable;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use cable::on_networks;
use viaduct_types::{
    IfName, IpNet, IpvlanMode, MacAddr, MacvlanMode, NamespaceName, Priorities, RoutingRule, UplinkName,
    VlanProtocol,
};

use super::{Context, mtu, one_per_family};
use crate::{
    CableEnd, Family, GuestId, InterfaceKind, InterfaceRoute, Namespace, NamespaceInterface,
    claims::{DeviceUse, Holder, MacOrigin, PASSTHRU, Segment},
    names,
    raw::{self, INTERFACE_KEYS, InterfaceKeys, InterfaceMode, InterfaceWord},
    report::{At, Report, Span},
    shape::{Address, List, Parent, PriorityPair, RuleSpec, SettingValue, Slot, StaticRoute, Text},
    suggest::nearest,
};

pub(crate) fn namespace(
    name: &NamespaceName,
    span: Span,
    raw: &raw::Namespace,
    cx: &mut Context<'_, '_>,
) -> Option<Namespace> {
    let id = match &raw.id.value {
        Some(id) if cx.claims.namespace_id(id.value.0, id.span, cx.report) => GuestId::Given(id.value.0),
        _ => names::id(name.as_str()),
    };
    let mut interfaces = Vec::new();
    for (index, at) in raw.interfaces.items().enumerate() {
        let Ok(index) = u8::try_from(index) else {
            cx.report
                .error(at.span, "a namespace can have at most 256 interfaces")
                .help("derived MAC addresses have room for no more: use another namespace");
            break;
        };
        interfaces.extend(interface(name, id, index, at.span, &at.value.0, cx));
    }
    Some(Namespace {
        id,
        interfaces,
        rules: rules(raw, cx.report),
        sysctls: sysctls(raw, cx.report),
        hooks: raw.hooks.get().map(super::guest::hooks).unwrap_or_default(),
        origin: cx.report.origin(span),
    })
}

/// Those without a priority have one by their place. One that names no prefix is for both families.
fn rules(raw: &raw::Namespace, report: &mut Report<'_>) -> BTreeSet<RoutingRule> {
    const FIRST: u32 = 1000;
    let mut rules = BTreeMap::new();
    for (at, place) in raw.rules.items().zip(FIRST..) {
        let RuleSpec { from, to, table, priority } = at.value;
        let family = from.or(to).map(|net| net.addr().is_ipv6());
        for v6 in [false, true].into_iter().filter(|v6| family.is_none_or(|family| family == *v6)) {
            let rule = RoutingRule { priority: priority.unwrap_or(place), v6, from, to, table };
            // The kernel tells rules apart by these, not by the table.
            let key = (rule.priority, v6, from, to);
            if let Some((_, first)) = rules.insert(key, (rule, at.span)) {
                report
                    .error(at.span, "two rules are for the same packets, at the same priority")
                    .related(first, "the first one")
                    .help("give one of them another priority, or remove it");
            }
        }
    }
    rules.into_values().map(|(rule, _)| rule).collect()
}

fn sysctls(raw: &raw::Namespace, report: &mut Report<'_>) -> BTreeMap<String, String> {
    let mut settings: BTreeMap<String, (Span, String)> = BTreeMap::new();
    for (name, (span, value)) in raw.sysctls.get().into_iter().flatten() {
        let Some(SettingValue(value)) = value else { continue };
        if let Some((first, _)) = settings.insert(name.path.clone(), (*span, value.clone())) {
            report
                .error((*span).max(first), "the same setting twice")
                .related((*span).min(first), "the other one")
                .help("remove one of them");
        }
    }
    settings.into_iter().map(|(path, (_, value))| (path, value)).collect()
}

fn interface(
    namespace: &NamespaceName,
    id: GuestId,
    index: u8,
    span: Span,
    raw: &InterfaceKeys,
    cx: &mut Context<'_, '_>,
) -> Option<NamespaceInterface> {
    if let Some(name) = &raw.name.value {
        cx.claims.device(Some(namespace), &name.value, name.span, DeviceUse::Made, cx.report);
    }
    let word = *raw.kind.get()?;
    keys_of_type(word, span, raw, cx.report);
    if word == InterfaceWord::Veth && raw.network.key.is_some() {
        return cable::to_network(namespace, id, index, span, raw, cx);
    }
    let addresses = with_lengths(raw, cx.report);
    let kind = match word {
        InterfaceWord::Veth => cable::to_bridge(namespace, id, index, span, raw, cx)?,
        InterfaceWord::Device => moved(raw, cx)?,
        InterfaceWord::Vlan | InterfaceWord::Macvlan | InterfaceWord::Ipvlan => stacked(word, span, raw, cx)?,
    };
    let (vlan, own_mac) = match &kind {
        InterfaceKind::Vlan { vlan, .. } => (Some(*vlan), true),
        InterfaceKind::Macvlan { mode, .. } => (None, *mode != MacvlanMode::Passthru),
        InterfaceKind::Veth { .. } => (None, true),
        InterfaceKind::Ipvlan { .. } | InterfaceKind::Device { .. } => (None, false),
    };
    let segment = match &kind {
        InterfaceKind::Vlan { parent, .. }
        | InterfaceKind::Macvlan { parent, .. }
        | InterfaceKind::Ipvlan { parent, .. } => parent,
        InterfaceKind::Veth { end: CableEnd::Bridge(bridge), .. } => bridge,
        InterfaceKind::Veth { device, .. } | InterfaceKind::Device { device } => device,
    };
    let segment = Segment::Device(segment.clone(), vlan);
    let derived = || (MacAddr::derived(vlan.unwrap_or(0), id.mac_bits(), index), span, MacOrigin::Derived);
    let written = raw.mac.value.as_ref().map(|mac| (mac.value, mac.span, MacOrigin::Written));
    let mac = written.or_else(|| own_mac.then(derived));
    if let Some((mac, at, origin)) = mac {
        cx.claims.mac(Some(&segment), mac, at, origin, cx.report);
    }
    for at in &addresses {
        cx.claims.address([&segment], at.value.addr(), at.span, Holder::Machine, cx.report);
    }
    let addresses: Vec<_> = addresses.into_iter().map(|at| at.value).collect();
    for at in raw.gateways.items() {
        cx.claims.address([&segment], at.value, at.span, Holder::Router, cx.report);
        super::nic::gateway_on_segment(at, &addresses, cx.report);
    }
    let with_ipv6 = addresses.iter().any(|net| Family::of(net.addr()) == Family::V6);
    Some(NamespaceInterface {
        name: raw.name.get()?.clone(),
        kind,
        mac: mac.map(|(mac, ..)| mac),
        routes: routes(raw),
        gateways: one_per_family(raw.gateways.items().copied(), "gateway", cx.report),
        mtu: mtu(&raw.mtu, with_ipv6, cx.report),
        addresses,
        origin: cx.report.origin(span),
    })
}

fn routes(raw: &InterfaceKeys) -> Vec<InterfaceRoute> {
    let route = |at: &At<StaticRoute>| {
        let StaticRoute { to, via, table } = at.value;
        InterfaceRoute { to, via, table }
    };
    raw.routes.items().map(route).collect()
}

/// Whether every key is there that the type needs, and none that it does not have.
fn keys_of_type(word: InterfaceWord, span: Span, raw: &InterfaceKeys, report: &mut Report<'_>) {
    for (key, at) in raw.written() {
        let Some((_, kinds)) = INTERFACE_KEYS.iter().find(|(known, _)| *known == key) else { continue };
        if !kinds.contains(&word) {
            report
                .error(at, format!("`{key}` does not belong to an interface of type `{}`", word.word()))
                .help(format!(
                    "remove it, or write type = \"{}\"",
                    kinds.first().map_or("", |kind| kind.word())
                ));
        }
    }
    let is_written = |key: &str| raw.written().any(|(written, _)| written == key);
    for key in word.needed().iter().filter(|key| !is_written(key)) {
        report.absent(span, format!("an interface of type `{}` needs the key `{key}`", word.word())).help(
            match *key {
                "vlan" => "write its number, like vlan = 2",
                "device" => "write the device's name on the host, like device = \"eth1\"",
                _ => "write what it stands on, an uplink's name or a device's: parent = \"…\"",
            },
        );
    }
}

/// Where no network knows the prefixes, they have to be written.
fn with_lengths(raw: &InterfaceKeys, report: &mut Report<'_>) -> Vec<At<IpNet>> {
    let mut nets = Vec::new();
    for at in raw.addresses.items() {
        let Address { ip, length } = at.value;
        let Some(length) = length else {
            let like = if ip.is_ipv4() { 24 } else { 64 };
            report
                .error(at.span, format!("{ip} needs a prefix length"))
                .help(format!("write it after the address, like {ip}/{like}"));
            continue;
        };
        nets.extend(IpNet::new(ip, length).ok().map(|value| At { value, span: at.span }));
    }
    nets
}

/// A device of the host's that moves in, which nothing else can have.
fn moved(raw: &InterfaceKeys, cx: &mut Context<'_, '_>) -> Option<InterfaceKind> {
    let at = raw.device.value.as_ref()?;
    if at.value.as_str() == "lo" {
        cx.report
            .error(at.span, "the loopback device cannot be moved")
            .help("every namespace has a loopback device of its own");
        return None;
    }
    cx.claims.device(None, &at.value, at.span, DeviceUse::Moved, cx.report);
    cx.moved.push((at.value.clone(), at.span));
    Some(InterfaceKind::Device { device: at.value.clone() })
}

/// Reports interfaces that stand on a device which moves away.
pub(crate) fn standing_on_moved(cx: &mut Context<'_, '_>) {
    for (parent, at) in &cx.parents {
        if let Some((_, moved)) = cx.moved.iter().find(|(device, _)| device == parent) {
            cx.report
                .error(*at, format!("nothing can stand on {parent}, which moves into a namespace"))
                .related(*moved, "it moves here")
                .help("stand on another device, or leave that one on the host");
        }
    }
}

fn stacked(
    word: InterfaceWord,
    span: Span,
    raw: &InterfaceKeys,
    cx: &mut Context<'_, '_>,
) -> Option<InterfaceKind> {
    let written = raw.parent.value.as_ref()?;
    let parent = parent(written, cx)?;
    cx.parents.push((parent.clone(), written.span));
    let mode = raw.mode.value.as_ref();
    match word {
        InterfaceWord::Vlan => {
            let vlan = raw.vlan.value.as_ref()?;
            let number = u16::try_from(vlan.value.0).ok()?;
            cx.claims.vlan(None, &parent, Some(number), vlan.span, "namespace interface", cx.report);
            let protocol = raw.protocol.get().copied().unwrap_or(VlanProtocol::Customer);
            Some(InterfaceKind::Vlan { parent, vlan: number, protocol, priorities: priorities(raw, cx) })
        }
        InterfaceWord::Macvlan => {
            let mode = match mode.map(|at| (at.value, at.span)) {
                None => MacvlanMode::Bridge,
                Some((InterfaceMode::Macvlan(mode), _)) => mode,
                Some((InterfaceMode::Ipvlan(_), at)) => {
                    cx.report
                        .error(at, "a macvlan has no such mode")
                        .help("write bridge, private, vepa or passthru");
                    return None;
                }
            };
            let how = if mode == MacvlanMode::Passthru { PASSTHRU } else { "macvlan" };
            cx.claims.stacked(&parent, how, span, cx.report);
            Some(InterfaceKind::Macvlan { parent, mode })
        }
        InterfaceWord::Ipvlan => {
            let mode = match mode.map(|at| (at.value, at.span)) {
                None => IpvlanMode::L2,
                Some((InterfaceMode::Ipvlan(mode), _)) => mode,
                Some((InterfaceMode::Macvlan(_), at)) => {
                    cx.report.error(at, "an ipvlan has no such mode").help("write l2, l3 or l3s");
                    return None;
                }
            };
            let how = match mode {
                IpvlanMode::L2 => "ipvlan (l2)",
                IpvlanMode::L3 => "ipvlan (l3)",
                IpvlanMode::L3s => "ipvlan (l3s)",
            };
            cx.claims.stacked(&parent, how, span, cx.report);
            Some(InterfaceKind::Ipvlan { parent, mode })
        }
        InterfaceWord::Veth | InterfaceWord::Device => None,
    }
}

/// A frame has three bits for its priority.
fn priorities(raw: &InterfaceKeys, cx: &mut Context<'_, '_>) -> Priorities {
    const MOST: u32 = 7;
    let mut pairs = |list: &Slot<List<PriorityPair>>, of_frame: fn(PriorityPair) -> u32| {
        let mut pairs = BTreeMap::new();
        for at in list.items() {
            if of_frame(at.value) > MOST {
                cx.report
                    .error(at.span, "a frame's priority is at most 7")
                    .help("write a number from 0 to 7");
            } else if pairs.insert(at.value.0, at.value.1).is_some() {
                cx.report.error(at.span, format!("the priority {} twice", at.value.0)).help("write it once");
            }
        }
        pairs.into_iter().collect()
    };
    Priorities { ingress: pairs(&raw.ingress, |pair| pair.0), egress: pairs(&raw.egress, |pair| pair.1) }
}

/// The device meant: an uplink's, where one has that name.
pub(super) fn parent(parent: &At<Parent>, cx: &mut Context<'_, '_>) -> Option<IfName> {
    let name = parent.value.0.as_str();
    let known = cx.root.uplinks.get();
    if known.is_some_and(|uplinks| uplinks.contains_key(name)) {
        let uplink = cx.uplinks.get(name)?;
        if let Some(namespace) = &uplink.namespace {
            cx.report
                .error(parent.span, format!("the uplink `{name}` is in the namespace `{namespace}`"))
                .help("what stands on a device is made on the host: write an uplink or a device of the host");
            return None;
        }
        return Some(uplink.interface.clone());
    }
    let meant = known.and_then(|uplinks| nearest(name, uplinks.keys().map(UplinkName::as_str)));
    match (IfName::parse(name), meant) {
        (Ok(device), None) => Some(device),
        (Ok(device), Some(meant)) => {
            cx.report
                .warning(
                    parent.span,
                    format!("there is no uplink `{name}`, so a device of that name is meant"),
                )
                .help(format!("write `{meant}` to mean the uplink"));
            Some(device)
        }
        (Err(_), _) => {
            cx.report
                .absent(parent.span, format!("there is no uplink `{name}`, and no device can have that name"))
                .help(match meant {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => "write an uplink's name, or a device's".into(),
                });
            None
        }
    }
}
