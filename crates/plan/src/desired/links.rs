//! The links of networks and NICs, what stands on them, and the inside of guests' namespaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use viaduct_model::{Config, Guest, Mode, Network, Nic, Policy, Subnet, UplinkVlan};
use viaduct_types::{IfName, IpNet, MAIN_TABLE, NetworkName};

use super::{
    ADOPTED, BRIDGE, Desired, DesiredGuest, DesiredLink, DesiredSysctl, NIC, OwnAddress, VLAN, When,
    context::{Context, Port, any_v4, any_v6, bridge_mac, bridge_of, bridges, host_mac},
    namespaces,
    vnets::{self, host_mac_in},
};
use crate::{
    op::NewLink,
    state::{Address, GuestRoute, PROTOCOL, PortVlans, Proxy, Route, RouteKind, Sysctl, Target},
};

/// The gateway that guests on routed links are told (RFC 3927 space, unused on the link).
pub(super) const ROUTED_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The gateway that guests are told for IPv6.
pub(super) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Who asks a guest that has another way out than its routed link, as far as it can tell, in IPv6: the same as in IPv4, of the prefix
/// that is for translation within a network (RFC 8215). Answers to a link-local address would come from such a one.
const ASKS_V6: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0xa9fe, 0x0101);

const SCOPE_GLOBAL: u8 = 0;
const SCOPE_LINK: u8 = 253;

pub(super) fn add(context: &Context<'_>, wanted: &mut Desired) {
    for (bridge, name, network) in bridges(context.config) {
        // The bridge of an uplink is made with the uplink.
        if !matches!(network.mode, Mode::Bridged { vlan: None, .. }) {
            add_bridge(context, bridge, name, network, wanted);
        }
        if let Mode::Bridged { vlan: Some(vlan), .. } = &network.mode {
            add_vlan(context, bridge, vlan, network, wanted);
        }
    }
    add_gateway(context, wanted);
    for port in &context.ports {
        add_port(context, port, wanted);
        if let Some(netns) = port.netns() {
            wanted.guests.insert(port.id.clone(), inside(context, port, netns));
        }
    }
}

fn add_bridge(
    context: &Context<'_>,
    bridge: &IfName,
    name: &NetworkName,
    network: &Network,
    wanted: &mut Desired,
) {
    let filters_vlans = matches!(network.mode, Mode::Bridged { vlans: Some(_), .. });
    let link = DesiredLink {
        make: Some(NewLink::Bridge),
        alias: Some(format!("{BRIDGE}{name}")),
        filters_vlans,
        // The host is on none of them.
        vlans: filters_vlans.then(PortVlans::default),
        mac: Some(match &network.mode {
            Mode::Vnet { .. } => host_mac_in(&context.config.host, bridge),
            Mode::Nat { .. } | Mode::Routed { .. } | Mode::Bridged { .. } | Mode::Isolated { .. } => {
                bridge_mac(bridge)
            }
        }),
        mtu: Some(context.mtu(network)),
        addrgen_none: Some(true),
        up: true,
        ..DesiredLink::default()
    };
    wanted.links.insert(bridge.clone(), link);
    for (place, address) in own_addresses(&network.mode).into_iter().enumerate() {
        let own = OwnAddress { scope: SCOPE_GLOBAL, place };
        wanted.addresses.insert(Address { link: bridge.clone(), address }, own);
        if address.addr().is_ipv6() {
            let own = match &network.mode {
                Mode::Vnet { gateways, .. } => vnets::link_local(&context.config.host, bridge, gateways),
                Mode::Nat { .. } | Mode::Routed { .. } | Mode::Isolated { .. } | Mode::Bridged { .. } => None,
            };
            let address = link_local(own.unwrap_or(GATEWAY_V6));
            wanted.addresses.insert(Address { link: bridge.clone(), address }, OwnAddress::alone(SCOPE_LINK));
        }
    }
    wanted.sysctls.extend(bridge_sysctls(bridge, network, context.wildcard_published.contains(name)));
}

/// The device that takes a network's VLAN out of its uplink, as a port of the network's bridge.
fn add_vlan(
    context: &Context<'_>,
    bridge: &IfName,
    vlan: &UplinkVlan,
    network: &Network,
    wanted: &mut Desired,
) {
    let Some((uplink, _)) = context.uplink(network) else { return };
    let link = DesiredLink {
        mtu: Some(context.mtu(network)),
        master: Some(bridge.clone()),
        vlans: match &network.mode {
            Mode::Bridged { vlans: Some(vlans), .. } => {
                Some(PortVlans { tagged: vlans.clone(), ..PortVlans::default() })
            }
            Mode::Nat { .. }
            | Mode::Routed { .. }
            | Mode::Bridged { .. }
            | Mode::Isolated { .. }
            | Mode::Vnet { .. } => None,
        },
        ..DesiredLink::default()
    };
    add_vlan_device(&uplink.interface, vlan, link, wanted);
}

/// The device that takes a VLAN out of `parent`; `link` says what else it is.
pub(super) fn add_vlan_device(parent: &IfName, vlan: &UplinkVlan, link: DesiredLink, wanted: &mut Desired) {
    let link = DesiredLink {
        make: Some(NewLink::Vlan { parent: parent.clone(), id: vlan.id, protocol: vlan.protocol }),
        alias: Some(format!("{VLAN}{} ({}) of {parent}", vlan.id, vlan.protocol)),
        addrgen_none: Some(true),
        up: true,
        ..link
    };
    wanted.links.insert(vlan.device.clone(), link);
    wanted.sysctls.insert(Sysctl::ipv6(&vlan.device, "accept_ra"), own("0"));
    // What carries it has to be up.
    wanted.links.entry(parent.clone()).or_default().up = true;
}

/// The host's own addresses on a bridge.
fn own_addresses(mode: &Mode) -> Vec<IpNet> {
    match mode {
        Mode::Nat { subnets, .. } | Mode::Isolated { subnets, .. } => {
            let own = |s: &Subnet| IpNet::new(s.gateway, s.prefix.prefix_len()).ok();
            subnets.iter().filter_map(own).collect()
        }
        Mode::Vnet { subnets, gateways, .. } => gateways
            .iter()
            .filter_map(|gateway| {
                let subnet = subnets.iter().find(|subnet| subnet.contains(gateway))?;
                IpNet::new(*gateway, subnet.prefix_len()).ok()
            })
            .collect(),
        Mode::Routed { .. } | Mode::Bridged { .. } => Vec::new(),
    }
}

fn link_local(address: Ipv6Addr) -> IpNet {
    IpNet::V6(viaduct_types::Ipv6Net::new_assert(address, 64))
}

/// Settings of a bridge that has a gateway's addresses.
pub(super) fn bridge_sysctls(
    bridge: &IfName,
    network: &Network,
    localnet: bool,
) -> BTreeMap<Sysctl, DesiredSysctl> {
    match network.mode {
        // There the host itself lives.
        Mode::Bridged { vlan: None, .. } => return BTreeMap::new(),
        // A segment that is the guests' alone: the host answers for none of its addresses there, and takes none.
        Mode::Bridged { vlan: Some(_), .. } => {
            return BTreeMap::from([
                (Sysctl::ipv4(bridge, "arp_ignore"), own("8")),
                (Sysctl::ipv6(bridge, "disable_ipv6"), own("1")),
            ]);
        }
        Mode::Nat { .. } | Mode::Routed { .. } | Mode::Isolated { .. } | Mode::Vnet { .. } => {}
    }
    let mut settings = inside_sysctls(bridge);
    if localnet {
        settings.insert(Sysctl::ipv4(bridge, "route_localnet"), own("1"));
    }
    settings
}

/// Settings of the host's end of an attached NIC.
pub(super) fn port_sysctls(port: &Port<'_>, localnet: bool) -> BTreeMap<Sysctl, DesiredSysctl> {
    let device = port.device();
    // A device that somebody else made gets its settings back.
    let journal = matches!(port.target, Target::Device { .. });
    let mut settings = BTreeMap::new();
    if port.is_routed() {
        settings = inside_sysctls(device);
        // Whatever gateway the guest was told, we answer for it.
        settings.insert(Sysctl::ipv4(device, "proxy_arp"), own("1"));
        settings.insert(Sysctl::neigh("ipv4", device, "proxy_delay"), own("0"));
        settings.insert(Sysctl::ipv6(device, "proxy_ndp"), own("1"));
        settings.insert(Sysctl::neigh("ipv6", device, "proxy_delay"), own("0"));
        if localnet {
            settings.insert(Sysctl::ipv4(device, "route_localnet"), own("1"));
        }
    } else {
        // A bridge port speaks no IP of its own.
        settings.insert(Sysctl::ipv6(device, "accept_ra"), own("0"));
    }
    for setting in settings.values_mut() {
        setting.journal = journal;
    }
    settings
}

fn inside_sysctls(device: &IfName) -> BTreeMap<Sysctl, DesiredSysctl> {
    BTreeMap::from([
        (Sysctl::ipv4(device, "forwarding"), own("1")),
        (Sysctl::ipv4(device, "send_redirects"), own("0")),
        (Sysctl::ipv4(device, "accept_redirects"), own("0")),
        // The filter knows better than the routing table who may send from which address.
        (Sysctl::ipv4(device, "rp_filter"), own("0")),
        (Sysctl::ipv6(device, "disable_ipv6"), own("0")),
        (Sysctl::ipv6(device, "accept_ra"), own("0")),
        (Sysctl::ipv6(device, "accept_redirects"), own("0")),
    ])
}

fn own(value: &str) -> DesiredSysctl {
    DesiredSysctl { value: value.to_owned(), journal: false, when: When::WithLink }
}

/// Makes 169.254.1.1 an address of this host, so that every routed port answers for it, also on a host without a
/// default route. Of scope link it is never chosen as the source of the host's own packets.
fn add_gateway(context: &Context<'_>, wanted: &mut Desired) {
    if let (true, Ok(lo)) = (context.ports.iter().any(Port::is_routed), "lo".parse()) {
        let address = IpNet::from(IpAddr::V4(ROUTED_GATEWAY_V4));
        wanted.addresses.insert(Address { link: lo, address }, OwnAddress::alone(SCOPE_LINK));
    }
}

fn add_port(context: &Context<'_>, port: &Port<'_>, wanted: &mut Desired) {
    let (device, nic) = (port.device(), port.nic);
    let mtu = nic.mtu.unwrap_or_else(|| context.mtu(port.network));
    let make = match port.target {
        Target::Netns { path, .. } => {
            Some(NewLink::Veth { netns: path.clone(), peer: nic.name.clone(), peer_mac: nic.mac })
        }
        Target::Tap { owner, .. } => Some(NewLink::Tap { owner: *owner }),
        Target::Device { .. } => None,
    };
    let link = DesiredLink {
        mac: make.is_some().then(|| host_mac(nic.mac)),
        make,
        alias: Some(alias(port)),
        mtu: Some(mtu),
        master: bridge_of(port.network).cloned(),
        hairpin: sends_back(port.guest, port.network),
        isolated: matches!(port.network.mode, Mode::Bridged { .. })
            && port.network.between_guests == Policy::Deny,
        filters_vlans: false,
        vlans: matches!(port.network.mode, Mode::Bridged { vlans: Some(_), .. }).then(|| PortVlans {
            untagged: nic.vlan,
            tagged: nic.trunk.clone(),
            ..PortVlans::default()
        }),
        addrgen_none: Some(true),
        keeps_addresses: false,
        up: true,
    };
    wanted.links.insert(device.clone(), link);
    wanted.sysctls.extend(port_sysctls(port, context.wildcard_published.contains(&port.nic.network)));
    if let Mode::Routed { proxy, .. } = port.network.mode {
        add_routed_port(context, port, proxy, wanted);
    }
}

/// Whether frames of a network's ports may have to be turned to the host, to be judged there or to come back to the same port.
pub(super) fn turns(network: &Network) -> bool {
    matches!(network.mode, Mode::Nat { .. } | Mode::Isolated { .. })
}

/// Whether what comes from a guest's port may go back there: with br_netfilter, what it sends to its own published port is turned
/// round on the bridge.
pub(super) fn sends_back(guest: &Guest, network: &Network) -> bool {
    turns(network) && !guest.publish.is_empty()
}

/// The alias of a NIC's link.
pub(super) fn alias(port: &Port<'_>) -> String {
    match port.target {
        Target::Netns { .. } | Target::Tap { .. } => format!("{NIC}{}", port.id),
        Target::Device { .. } => format!("{ADOPTED}{}", port.id),
    }
}

fn add_routed_port(context: &Context<'_>, port: &Port<'_>, proxy: bool, wanted: &mut Desired) {
    let device = port.device();
    wanted.addresses.insert(
        Address { link: device.clone(), address: link_local(GATEWAY_V6) },
        OwnAddress::alone(SCOPE_LINK),
    );
    let uplink = context.uplink(port.network);
    if let (true, Some((uplink, l3))) = (port.nic.uplink_mac, uplink) {
        wanted.unicast.insert((uplink.interface.clone(), port.nic.mac));
        // A bridge must know the MAC as its own, or it would look for it behind its ports.
        wanted.unicast.insert((l3.clone(), port.nic.mac));
    }
    for address in port.nic.addresses.iter().map(|net| net.addr()) {
        wanted.routes.insert(Route {
            destination: IpNet::from(address),
            kind: RouteKind::Unicast,
            link: Some(device.clone()),
            via: None,
            onlink: false,
            // The host speaks to its guests with the address that the world knows, not with that of some bridge.
            source: context.main_address(port.network).filter(|_| address.is_ipv4()),
            metric: if address.is_ipv6() { 1024 } else { 0 },
            protocol: PROTOCOL,
        });
        if let (true, Some((_, l3))) = (proxy, uplink) {
            let entry = Proxy { link: l3.clone(), address };
            wanted.announced.insert(entry.clone(), port.nic.uplink_mac.then_some(port.nic.mac));
            wanted.proxies.insert(entry);
        }
    }
    if let Some(prefix) = port.nic.delegated {
        // By an address that the guest has, so that nobody on the link is asked for those behind it.
        let own = port.nic.addresses.iter().map(IpNet::addr).find(IpAddr::is_ipv6);
        wanted.routes.insert(Route {
            destination: prefix.into(),
            kind: RouteKind::Unicast,
            link: Some(device.clone()),
            via: Some(own.unwrap_or(IpAddr::V6(port.nic.mac.link_local()))),
            onlink: true,
            source: None,
            metric: 1024,
            protocol: PROTOCOL,
        });
    }
    // For IPv4 proxy_arp answers for any gateway.
    if port.nic.addresses.iter().any(|net| net.addr().is_ipv6()) {
        let gateways = answered_by_kernel(context, port);
        wanted.proxies.extend(gateways.map(|address| Proxy { link: device.clone(), address }));
    }
}

/// The gateways of IPv6 that the kernel answers for on a routed link, as it does for those it is told: what the file
/// says to the guest, and the host's own addresses. They are found without the process that answers for all others.
pub(super) fn answered_by_kernel<'a>(
    context: &'a Context<'_>,
    port: &'a Port<'_>,
) -> impl Iterator<Item = IpAddr> + 'a {
    let gateways = port.nic.gateways.iter().chain(context.uplink_addresses(port.network));
    gateways.copied().filter(|gateway| gateway.is_ipv6() && *gateway != IpAddr::V6(GATEWAY_V6))
}

/// What a guest's namespace gets.
fn inside(context: &Context<'_>, port: &Port<'_>, netns: &str) -> DesiredGuest {
    let nic = port.nic;
    let by_itself = nic.is_by_itself();
    let mut routes = BTreeSet::new();
    for (v6, destination) in [(false, any_v4()), (true, any_v6())] {
        let default = default_nic(context.config, port.guest, v6).filter(|nic| std::ptr::eq(*nic, port.nic));
        if by_itself {
            continue;
        }
        if let Some(via) = default.and_then(|nic| gateway(nic, port.network, v6)) {
            routes.insert(GuestRoute { table: MAIN_TABLE, destination, via: Some(via) });
        }
    }
    if port.guest.is_namespace {
        routes.extend(namespaces::further_routes(context.config, port));
        for v6 in [false, true] {
            let asked = context.asked_by_host(port.guest, v6).filter(|_| !by_itself);
            if asked.is_some_and(|(_, asked)| std::ptr::eq(asked, nic)) {
                let to_host = way_to_host(v6);
                let is_written = |route: &GuestRoute| {
                    (route.table, route.destination) == (to_host.table, to_host.destination)
                };
                if !routes.iter().any(is_written) {
                    routes.insert(to_host);
                }
            }
        }
    }
    DesiredGuest {
        netns: netns.to_owned(),
        device: nic.name.clone(),
        host_device: nic.device.clone(),
        mac: nic.mac,
        mtu: nic.mtu.unwrap_or_else(|| context.mtu(port.network)),
        addresses: nic.addresses.iter().copied().filter(|_| !by_itself).collect(),
        by_itself,
        // In a vnet each address is its guest's because its host says so, and who has moved is there at once; but nobody says
        // so outside.
        dad: match &port.network.mode {
            Mode::Bridged { .. } => true,
            Mode::Vnet { vnet, .. } => context.config.vnets.get(vnet).is_some_and(|vnet| vnet.port.is_some()),
            Mode::Nat { .. } | Mode::Isolated { .. } | Mode::Routed { .. } => false,
        },
        routes,
    }
}

/// By which address a guest is asked that has another way out than its routed link. It is none of the host's in IPv6: answers are
/// translated before anybody looks whose it is.
pub(super) fn asks_as(v6: bool) -> IpAddr {
    if v6 { IpAddr::V6(ASKS_V6) } else { IpAddr::V4(ROUTED_GATEWAY_V4) }
}

/// The guest's route there. The host answers for its address of IPv4 on each link.
fn way_to_host(v6: bool) -> GuestRoute {
    let destination = IpNet::from(asks_as(v6));
    GuestRoute { table: MAIN_TABLE, destination, via: v6.then_some(IpAddr::V6(GATEWAY_V6)) }
}

/// The gateway of a family that a NIC is told; none when it has no address of that family.
pub(super) fn gateway(nic: &Nic, network: &Network, v6: bool) -> Option<IpAddr> {
    if !nic.addresses.iter().any(|net| net.addr().is_ipv6() == v6) {
        return None;
    }
    let written = nic.gateways.iter().copied().find(|g| g.is_ipv6() == v6);
    written.or_else(|| match &network.mode {
        Mode::Routed { .. } if v6 => Some(IpAddr::V6(GATEWAY_V6)),
        Mode::Routed { .. } => Some(IpAddr::V4(ROUTED_GATEWAY_V4)),
        Mode::Nat { subnets, .. } => {
            let own =
                |s: &&viaduct_model::Subnet| nic.addresses.iter().any(|net| s.prefix.contains(&net.addr()));
            subnets.iter().filter(|s| s.gateway.is_ipv6() == v6).find(own).map(|s| s.gateway)
        }
        Mode::Vnet { gateways, .. } => gateways.iter().copied().find(|g| g.is_ipv6() == v6),
        Mode::Bridged { .. } | Mode::Isolated { .. } => None,
    })
}

/// A guest has one default route per family: by the first NIC with a gateway written for it, else by the first NIC
/// whose network has one.
pub(super) fn default_nic<'a>(config: &'a Config, guest: &'a Guest, v6: bool) -> Option<&'a Nic> {
    let nics = config.nics_of(guest);
    let written = nics.iter().find(|nic| nic.gateways.iter().any(|g| g.is_ipv6() == v6));
    if written.is_none() && namespaces::has_another_way_out(config, guest, v6) {
        return None;
    }
    let has_one =
        |nic: &&Nic| config.networks.get(&nic.network).is_some_and(|n| gateway(nic, n, v6).is_some());
    written.or_else(|| nics.iter().find(has_one))
}
