//! Cables between a namespace and the host: to a network of ours, where a guest's NIC could be as well, or to a bridge of
//! somebody else's.

use std::collections::BTreeMap;

use viaduct_types::{GuestName, IfName, NamespaceName};

use super::{
    super::{Context, nic},
    routes,
};
use crate::{
    CableEnd, Guest, GuestId, Hooks, InterfaceKind, Mode, Namespace, NamespaceInterface, Nic,
    claims::DeviceUse,
    names,
    raw::{self, InterfaceKeys},
    report::{At, Span},
    shape::{OneOrMany, Slot},
};

/// A namespace has this NIC as a guest has its own.
pub(super) fn to_network(
    namespace: &NamespaceName,
    id: GuestId,
    index: u8,
    span: Span,
    raw: &InterfaceKeys,
    cx: &mut Context<'_, '_>,
) -> Option<NamespaceInterface> {
    if let (Some(network), Some(bridge)) = (raw.network.key, raw.bridge.key) {
        cx.report
            .error(bridge, "a cable has one other end: `network` or `bridge`")
            .related(network, "the network")
            .help("remove one of the two");
    }
    let as_nic = raw::Nic {
        network: raw.network.clone(),
        name: raw.name.clone(),
        device: raw.device.clone(),
        mac: raw.mac.clone(),
        addresses: raw.addresses.clone(),
        gateway: Slot {
            key: raw.gateways.key,
            value: raw
                .gateways
                .value
                .clone()
                .map(|At { value, span }| At { value: OneOrMany(value.items), span }),
        },
        spoofing: raw.spoofing.clone(),
        uplink_mac: Slot { key: None, value: None },
        boot: Slot { key: None, value: None },
        mtu: raw.mtu.clone(),
        vlan: raw.vlan.clone(),
        trunk: Slot { key: None, value: None },
    };
    let name = guest_name(namespace)?;
    let nic = nic::nic(&name, no_number(id), index, span, &as_nic, cx)?;
    let interface = NamespaceInterface {
        name: nic.name.clone(),
        kind: InterfaceKind::Veth { device: nic.device.clone(), end: CableEnd::Network(nic.network.clone()) },
        mac: Some(nic.mac),
        addresses: nic.addresses.clone(),
        gateways: nic.gateways.clone(),
        routes: routes(raw),
        mtu: nic.mtu,
        origin: nic.origin.clone(),
    };
    cx.cables.entry(namespace.clone()).or_insert_with(|| (span, Vec::new())).1.push(nic);
    Some(interface)
}

/// A number in the name of a device is a guest's; the MAC is made of it all the same.
fn no_number(id: GuestId) -> GuestId {
    GuestId::Derived(id.mac_bits())
}

fn guest_name(namespace: &NamespaceName) -> Option<GuestName> {
    namespace.as_str().parse().ok()
}

/// A bridge that is none of ours has no guards of ours either.
pub(super) fn to_bridge(
    namespace: &NamespaceName,
    id: GuestId,
    index: u8,
    span: Span,
    raw: &InterfaceKeys,
    cx: &mut Context<'_, '_>,
) -> Option<InterfaceKind> {
    let Some(bridge) = &raw.bridge.value else {
        if raw.bridge.key.is_none() {
            cx.report
                .absent(span, "an interface of type `veth` needs the key `network` or `bridge`")
                .help("name what its other end joins, like network = \"lan\"");
        }
        return None;
    };
    if let Some(key) = raw.spoofing.key {
        cx.report
            .error(key, "`spoofing` belongs to a cable to a network")
            .help("remove it: what comes to another's bridge is not looked at");
    }
    if let Some(key) = raw.vlan.key {
        cx.report
            .error(key, "`vlan` belongs to a cable to a network with `vlans`")
            .help("remove it: the bridge is another's, and so are its VLANs");
    }
    let is_its = |ground: &super::super::network::Ground| {
        ground.network.as_ref().is_some_and(|network| match &network.mode {
            Mode::Nat { bridge: own, .. }
            | Mode::Bridged { bridge: own, .. }
            | Mode::Isolated { bridge: own, .. }
            | Mode::Vnet { bridge: own, .. } => *own == bridge.value,
            Mode::Routed { .. } => false,
        })
    };
    if let Some((network, _)) = cx.networks.iter().find(|(_, ground)| is_its(ground)) {
        cx.report
            .error(bridge.span, format!("{} is the bridge of the network `{network}`", bridge.value))
            .help(format!("write network = \"{network}\" in its place"));
    }
    let (device, at) = match &raw.device.value {
        Some(at) => (at.value.clone(), at.span),
        None => (derived_device(namespace, id, index)?, span),
    };
    cx.claims.device(None, &device, at, DeviceUse::Made, cx.report);
    Some(InterfaceKind::Veth { device, end: CableEnd::Bridge(bridge.value.clone()) })
}

fn derived_device(namespace: &NamespaceName, id: GuestId, index: u8) -> Option<IfName> {
    names::device(namespace.as_str(), no_number(id), index)
}

/// What the networks see of namespaces: guests of their names.
pub(crate) fn on_networks(
    namespaces: &BTreeMap<NamespaceName, Namespace>,
    guests: &mut BTreeMap<GuestName, Guest>,
    cx: &mut Context<'_, '_>,
) {
    let cables: Vec<(NamespaceName, (Span, Vec<Nic>))> = std::mem::take(&mut cx.cables).into_iter().collect();
    for (name, (span, nics)) in cables {
        let (Some(namespace), Some(as_guest)) = (namespaces.get(&name), guest_name(&name)) else { continue };
        let taken = cx.root.guests.get().and_then(|guests| guests.get(name.as_str()));
        if let Some((guest, _)) = taken {
            cx.report
                .error(span, format!("the namespace `{name}` is on a network, and a guest has its name"))
                .related(*guest, "the guest")
                .help("give one of them another name: networks know both by it");
            continue;
        }
        let guest = Guest {
            id: namespace.id,
            nics,
            publish: Vec::new(),
            allow_in: None,
            allow_out: None,
            namespace: Some(name),
            is_namespace: true,
            hooks: Hooks::default(),
            origin: namespace.origin.clone(),
        };
        guests.insert(as_guest, guest);
    }
}
