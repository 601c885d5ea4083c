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
            let further = interface.routes.iter().map(|(to, via)| GuestRoute { destination: *to, via: *via });
            let device = DesiredDevice {
                alias: format!("{INNER}{kind}"),
                kind,
                mac: interface.mac,
                mtu: interface.mtu,
                addresses: interface.addresses.iter().copied().collect(),
                routes: interface.gateways.iter().map(gateway).chain(further).collect::<BTreeSet<_>>(),
            };
            devices.insert(interface.name.clone(), device);
        }
    }
}

/// What to make. An uplink that is in a bridge gives its frames to the bridge: a second network card stands on that one,
/// while a VLAN is taken out before.
pub(super) fn kind(config: &Config, interface: &NamespaceInterface) -> InnerKind {
    let shared = |parent: &IfName| {
        let uplink = config.uplinks.iter().find(|(_, uplink)| uplink.interface == *parent);
        uplink.map_or_else(|| parent.clone(), |(name, uplink)| layer3(config, name, uplink).clone())
    };
    match &interface.kind {
        InterfaceKind::Vlan { parent, vlan, protocol, priorities } => InnerKind::Vlan {
            parent: parent.clone(),
            id: *vlan,
            protocol: *protocol,
            priorities: priorities.clone(),
        },
        InterfaceKind::Macvlan { parent, mode } => InnerKind::Macvlan { parent: shared(parent), mode: *mode },
        InterfaceKind::Ipvlan { parent, mode } => InnerKind::Ipvlan { parent: shared(parent), mode: *mode },
    }
}

/// The MACs of the devices that the file puts on an uplink's segment, or on VLANs of it.
pub(super) fn macs<'a>(config: &'a Config, uplink: &'a UplinkName) -> impl Iterator<Item = MacAddr> + 'a {
    let interface: Option<&IfName> = config.uplinks.get(uplink).map(|uplink| &uplink.interface);
    let stands_on = move |device: &&NamespaceInterface| Some(device.kind.parent()) == interface;
    config.namespaces.values().flat_map(|n| &n.interfaces).filter(stands_on).filter_map(|device| device.mac)
}
