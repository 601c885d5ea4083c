//! Namespaces that guests share, with the devices in them.

use std::collections::BTreeSet;

use viaduct_model::{Config, InterfaceKind, NamespaceInterface};
use viaduct_types::{IfName, MacAddr, UplinkName};

use super::{
    Desired, DesiredDevice, INNER,
    context::{Context, any_v4, any_v6, layer3},
};
use crate::{op::InnerKind, state::GuestRoute};

/// Adds them, and has the devices that they stand on come up.
pub(super) fn add(context: &Context<'_>, wanted: &mut Desired) {
    for (name, namespace) in &context.config.namespaces {
        let devices = wanted.namespaces.entry(name.clone()).or_default();
        for interface in &namespace.interfaces {
            let kind = kind(context.config, interface);
            wanted.links.entry(kind.parent().clone()).or_default().up = true;
            let gateway = |via: &std::net::IpAddr| GuestRoute {
                destination: if via.is_ipv4() { any_v4() } else { any_v6() },
                via: Some(*via),
            };
            let device = DesiredDevice {
                alias: format!("{INNER}{kind}"),
                kind,
                mac: interface.mac,
                mtu: interface.mtu,
                addresses: interface.addresses.iter().copied().collect(),
                routes: interface.gateways.iter().map(gateway).collect::<BTreeSet<_>>(),
            };
            devices.insert(interface.name.clone(), device);
        }
    }
}

/// What to make. An uplink that is in a bridge gives its frames to the bridge: a second network card stands on that one,
/// while a VLAN is taken out before.
pub(super) fn kind(config: &Config, interface: &NamespaceInterface) -> InnerKind {
    match &interface.kind {
        InterfaceKind::Vlan { parent, vlan } => InnerKind::Vlan { parent: parent.clone(), id: *vlan },
        InterfaceKind::Macvlan { parent } => {
            let uplink = config.uplinks.iter().find(|(_, uplink)| uplink.interface == *parent);
            let parent = uplink.map_or(parent, |(name, uplink)| layer3(config, name, uplink));
            InnerKind::Macvlan { parent: parent.clone() }
        }
    }
}

/// The MACs of the devices that the file puts on an uplink's segment, or on VLANs of it.
pub(super) fn macs<'a>(config: &'a Config, uplink: &'a UplinkName) -> impl Iterator<Item = MacAddr> + 'a {
    let interface: Option<&IfName> = config.uplinks.get(uplink).map(|uplink| &uplink.interface);
    let stands_on = move |device: &&NamespaceInterface| match &device.kind {
        InterfaceKind::Vlan { parent, .. } | InterfaceKind::Macvlan { parent } => Some(parent) == interface,
    };
    config.namespaces.values().flat_map(|n| &n.interfaces).filter(stands_on).map(|device| device.mac)
}
