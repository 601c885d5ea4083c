use viaduct_types::{IfName, MacAddr, NamespaceName, UplinkName};

use super::{Context, mtu, one_per_family};
use crate::{
    Family, GuestId, InterfaceKind, Namespace, NamespaceInterface,
    claims::{DeviceUse, Holder, MacOrigin, Segment},
    names,
    raw::{self, InterfaceKeys, InterfaceWord},
    report::{At, Span},
    shape::{Parent, Text},
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
    Some(Namespace { id, interfaces, origin: cx.report.origin(span) })
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
    let kind = kind(span, raw, cx)?;
    let (parent, vlan) = match &kind {
        InterfaceKind::Vlan { parent, vlan } => (parent.clone(), Some(*vlan)),
        InterfaceKind::Macvlan { parent } => (parent.clone(), None),
    };
    let segment = Segment::Device(parent, vlan);
    let (mac, at, origin) = match &raw.mac.value {
        Some(mac) => (mac.value, mac.span, MacOrigin::Written),
        None => (MacAddr::derived(vlan.unwrap_or(0), id.mac_bits(), index), span, MacOrigin::Derived),
    };
    cx.claims.mac(Some(&segment), mac, at, origin, cx.report);
    for at in raw.addresses.items() {
        cx.claims.address([&segment], at.value.0.addr(), at.span, Holder::Machine, cx.report);
    }
    let addresses: Vec<_> = raw.addresses.items().map(|at| at.value.0).collect();
    for at in raw.gateways.items() {
        cx.claims.address([&segment], at.value, at.span, Holder::Router, cx.report);
        super::nic::gateway_on_segment(at, &addresses, cx.report);
    }
    let with_ipv6 = addresses.iter().any(|net| Family::of(net.addr()) == Family::V6);
    Some(NamespaceInterface {
        name: raw.name.get()?.clone(),
        kind,
        mac,
        gateways: one_per_family(raw.gateways.items().copied(), "gateway", cx.report),
        mtu: mtu(&raw.mtu, with_ipv6, cx.report),
        addresses,
        origin: cx.report.origin(span),
    })
}

fn kind(span: Span, raw: &InterfaceKeys, cx: &mut Context<'_, '_>) -> Option<InterfaceKind> {
    let word = *raw.kind.get()?;
    match (word, raw.vlan.key) {
        (InterfaceWord::Vlan, None) => {
            cx.report
                .absent(span, "an interface of type `vlan` needs the key `vlan`")
                .help("write its number, like vlan = 2");
        }
        (InterfaceWord::Macvlan, Some(key)) => {
            cx.report
                .error(key, "`vlan` does not belong to an interface of type `macvlan`")
                .help("remove it, or write type = \"vlan\"");
        }
        (InterfaceWord::Vlan, Some(_)) | (InterfaceWord::Macvlan, None) => {}
    }
    let parent = parent(raw.parent.value.as_ref()?, cx)?;
    match word {
        InterfaceWord::Vlan => {
            let vlan = raw.vlan.value.as_ref()?;
            let number = u16::try_from(vlan.value.0).ok()?;
            cx.claims.vlan(&parent, Some(number), vlan.span, "namespace interface", cx.report);
            Some(InterfaceKind::Vlan { parent, vlan: number })
        }
        InterfaceWord::Macvlan => Some(InterfaceKind::Macvlan { parent }),
    }
}

/// The device meant: an uplink's, where one has that name.
fn parent(parent: &At<Parent>, cx: &mut Context<'_, '_>) -> Option<IfName> {
    let name = parent.value.0.as_str();
    let known = cx.root.uplinks.get();
    if known.is_some_and(|uplinks| uplinks.contains_key(name)) {
        return Some(cx.uplinks.get(name)?.interface.clone());
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
