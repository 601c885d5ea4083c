//! Namespaces that guests share, with the devices in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use viaduct_model::{CableEnd, Config, Guest, InterfaceKind, InterfaceRoute, Namespace, NamespaceInterface};
use viaduct_types::{GuestName, IfName, MAIN_TABLE, MacAddr, NamespaceName, NicId, UplinkName};

use super::{
    CABLE, Desired, DesiredDevice, DesiredGuest, DesiredLink, DesiredNamespace, INNER, MOVED,
    context::{Context, Port, any_v4, any_v6, host_mac, layer3},
};
use crate::{
    op::{InnerKind, NewLink},
    state::{Attachments, GuestRoute, Inside, Sysctl, Target},
};

/// Those that are made along with a stack: the host's, all of them.
pub(super) fn made(config: &Config) -> impl Iterator<Item = (&NamespaceName, &Namespace)> {
    config.namespaces.iter().filter(|_| config.stack.is_none())
}

/// Adds them, and has the devices that they stand on come up.
pub(super) fn add(context: &Context<'_>, wanted: &mut Desired) {
    for (name, namespace) in made(context.config) {
        let mut devices = BTreeMap::new();
        for interface in &namespace.interfaces {
            let Some(kind) = kind(context.config, interface) else { continue };
            if let Some(parent) = kind.parent() {
                wanted.links.entry(parent.clone()).or_default().up = true;
            }
            let alias = match &kind {
                InnerKind::Device { device } => format!("{MOVED}{device}"),
                InnerKind::Vlan { .. } | InnerKind::Macvlan { .. } | InnerKind::Ipvlan { .. } => {
                    format!("{INNER}{kind}")
                }
            };
            let device = DesiredDevice {
                alias,
                kind,
                mac: interface.mac,
                mtu: interface.mtu,
                addresses: interface.addresses.clone(),
                routes: gateways(interface).chain(written_routes(interface)).collect(),
            };
            devices.insert(interface.name.clone(), device);
        }
        let sysctls = namespace.sysctls.iter();
        let sysctls = sysctls.map(|(path, value)| (Sysctl::from_path(path.clone()), value.clone()));
        let rules = namespace.rules.clone();
        wanted
            .namespaces
            .insert(name.clone(), DesiredNamespace { devices, rules, sysctls: sysctls.collect() });
    }
    for (id, name, interface, device, bridge) in cables(context.config) {
        add_cable(context, id, (name, interface), (device, bridge), wanted);
    }
}

/// A cable to a bridge that is not ours. One to a network is a port of it.
fn add_cable(
    context: &Context<'_>,
    id: NicId,
    (name, interface): (&NamespaceName, &NamespaceInterface),
    (device, bridge): (&IfName, &IfName),
    wanted: &mut Desired,
) {
    let Some(mac) = interface.mac else { return };
    let there = context.observed.links.get(bridge).map(|link| link.mtu);
    let mtu = interface.mtu.or(there).unwrap_or(1500);
    let netns = path(name);
    let link = DesiredLink {
        make: Some(NewLink::Veth { netns: netns.clone(), peer: interface.name.clone(), peer_mac: mac }),
        alias: Some(format!("{CABLE}{name}:{}", interface.name)),
        mac: Some(host_mac(mac)),
        mtu: Some(mtu),
        master: Some(bridge.clone()),
        addrgen_none: Some(true),
        up: true,
        ..DesiredLink::default()
    };
    wanted.links.insert(device.clone(), link);
    let inside = DesiredGuest {
        netns,
        device: interface.name.clone(),
        host_device: device.clone(),
        mac,
        mtu,
        addresses: interface.addresses.clone(),
        dad: true,
        routes: gateways(interface).chain(written_routes(interface)).collect(),
        by_itself: false,
    };
    wanted.guests.insert(id, inside);
}

fn path(name: &NamespaceName) -> String {
    format!("/run/netns/{name}")
}

/// Every cable to a bridge that is not ours: the namespace's end as the NIC that it would be, its name on the host, and
/// the bridge.
fn cables(
    config: &Config,
) -> impl Iterator<Item = (NicId, &NamespaceName, &NamespaceInterface, &IfName, &IfName)> {
    made(config).flat_map(move |(name, namespace)| {
        // Behind the NICs on networks, whose numbers count from 0.
        let on_networks = config.guests.get(name.as_str()).filter(|guest| guest.is_namespace);
        let first = on_networks.map_or(0, |guest| guest.nics.len());
        let to_bridges = namespace.interfaces.iter().filter_map(|interface| match &interface.kind {
            InterfaceKind::Veth { device, end: CableEnd::Bridge(bridge) } => {
                Some((interface, device, bridge))
            }
            InterfaceKind::Vlan { .. }
            | InterfaceKind::Macvlan { .. }
            | InterfaceKind::Ipvlan { .. }
            | InterfaceKind::Veth { .. }
            | InterfaceKind::Device { .. } => None,
        });
        to_bridges.enumerate().filter_map(move |(number, (interface, device, bridge))| {
            let guest: GuestName = name.as_str().parse().ok()?;
            let index = u8::try_from(first + number).ok()?;
            Some((NicId { guest, index }, name, interface, device, bridge))
        })
    })
}

/// Where to look for the namespaces' ends of cables to bridges that are not ours.
pub(super) fn ends(config: &Config) -> impl Iterator<Item = (NicId, Inside)> {
    cables(config).map(|(id, name, interface, ..)| {
        (id, Inside { path: path(name), inode: None, device: interface.name.clone() })
    })
}

/// What the NICs of namespaces are attached as, which no command does.
pub fn attached_namespaces(config: &Config) -> Attachments {
    let mut attachments = Attachments::new();
    for (guest, namespace) in config.namespaces_on_networks() {
        for index in (0..=u8::MAX).take(namespace.nics.len()) {
            let target = Target::Netns { path: format!("/run/netns/{guest}"), inode: 0 };
            attachments.insert(NicId { guest: guest.clone(), index }, target);
        }
    }
    attachments
}

fn gateways(interface: &NamespaceInterface) -> impl Iterator<Item = GuestRoute> {
    let default = |via: &IpAddr| GuestRoute {
        table: MAIN_TABLE,
        destination: if via.is_ipv4() { any_v4() } else { any_v6() },
        via: Some(*via),
    };
    interface.gateways.iter().map(default)
}

fn written_routes(interface: &NamespaceInterface) -> impl Iterator<Item = GuestRoute> {
    let route =
        |route: &InterfaceRoute| GuestRoute { table: route.table, destination: route.to, via: route.via };
    interface.routes.iter().map(route)
}

/// The interface of a namespace that a port on a network is.
fn interface_of<'a>(config: &'a Config, port: &Port<'_>) -> Option<&'a NamespaceInterface> {
    let namespace = config.namespaces.get(port.guest.namespace.as_ref()?)?;
    namespace.interfaces.iter().find(|interface| interface.name == port.nic.name)
}

/// The routes that are written at a namespace's interface on a network.
pub(super) fn further_routes(config: &Config, port: &Port<'_>) -> BTreeSet<GuestRoute> {
    interface_of(config, port).into_iter().flat_map(written_routes).collect()
}

/// Whether a namespace has its default route by an interface that is on no network.
pub(super) fn has_another_way_out(config: &Config, guest: &Guest, v6: bool) -> bool {
    let namespace = guest.namespace.as_ref().and_then(|name| config.namespaces.get(name));
    let interfaces = namespace.into_iter().flat_map(|namespace| &namespace.interfaces);
    interfaces.flat_map(|interface| &interface.gateways).any(|gateway| gateway.is_ipv6() == v6)
}

/// What to make; none for cables, which are made from the host's side. An uplink that is in a bridge gives its frames to
/// the bridge: a second network card stands on that one, while a VLAN is taken out before.
pub(super) fn kind(config: &Config, interface: &NamespaceInterface) -> Option<InnerKind> {
    let shared = |parent: &IfName| {
        let uplink = config.uplinks.iter().find(|(_, uplink)| uplink.interface == *parent);
        uplink.map_or_else(|| parent.clone(), |(name, uplink)| layer3(config, name, uplink).clone())
    };
    Some(match &interface.kind {
        InterfaceKind::Vlan { parent, vlan, protocol, priorities } => InnerKind::Vlan {
            parent: parent.clone(),
            id: *vlan,
            protocol: *protocol,
            priorities: priorities.clone(),
        },
        InterfaceKind::Macvlan { parent, mode } => InnerKind::Macvlan { parent: shared(parent), mode: *mode },
        InterfaceKind::Ipvlan { parent, mode } => InnerKind::Ipvlan { parent: shared(parent), mode: *mode },
        InterfaceKind::Device { device } => InnerKind::Device { device: device.clone() },
        InterfaceKind::Veth { .. } => return None,
    })
}

/// The MACs of the devices that the file puts on an uplink's segment, or on VLANs of it, and of what is behind them.
pub(super) fn macs<'a>(context: &Context<'a>, uplink: &'a UplinkName) -> impl Iterator<Item = MacAddr> + 'a {
    let (config, whole) = (context.config, context.whole);
    let interface: Option<&IfName> = config.uplinks.get(uplink).map(|uplink| &uplink.interface);
    let stands_on = move |(_, device): &(&NamespaceName, &NamespaceInterface)| {
        device.kind.parent().is_some_and(|parent| Some(parent) == interface)
    };
    let interfaces = made(config)
        .flat_map(|(name, namespace)| namespace.interfaces.iter().map(move |interface| (name, interface)));
    interfaces.filter(stands_on).flat_map(move |(name, device)| {
        device.mac.into_iter().chain(whole.nics_behind(name, device).map(|nic| nic.mac))
    })
}
