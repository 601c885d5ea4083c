//! The devices of vnets: a bridge each, and what leads from it to the other hosts.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use viaduct_model::{Config, Endpoint, Mode, Security, Uplink, Vnet, VnetPort};
use viaduct_types::{
    IfName, MOST_WORKERS, MacAddr, VXLAN_OVERHEAD, VXLAN_PORT, VnetId, VnetName, Vni, WORKER_PORT,
};

use super::{
    BRIDGE, Desired, DesiredLink, Notice, Severity, VNET,
    context::{Context, Port, bridge_of, ports},
    elements::words::udp,
    links::add_vlan_device,
};
use crate::{
    lent::port_alias,
    nft::{Const, Selector, Statement},
    op::{NewLink, Underlay},
    state::Attachments,
};

/// What an Ethernet frame in ESP in UDP costs over IPv4 (RFC 4303, RFC 3948, RFC 8750), and over IPv6.
const OVERHEAD: [u32; 2] = [68, 88];
/// With GMAC's explicit IV (RFC 4543).
const AUTH: u32 = 8;

/// The most that a tap takes (drivers/net/tun.c); VXLAN takes more. What gets through is judged by who carries it, for each frame and
/// peer, and what does not is answered: by the process that carries the vnet, or by the kernel (net/ipv4/ip_tunnel_core.c,
/// `skb_tunnel_check_pmtu`), as far as it knows what the way there carries.
const LONGEST: u32 = 65_535 - 14;

/// Ports by which nobody's frames would leave: somebody else's VLAN of an uplink's interface, where no MAC goes out that is not the
/// host's.
pub(super) fn shut(context: &Context<'_>) -> Vec<Notice> {
    let links = &context.observed.links;
    let shut = |(name, vnet): (&VnetName, &Vnet)| {
        let interface = &vnet.port.as_ref()?.interface;
        let link = links.get(interface).filter(|link| !link.is_ours())?;
        let (parent, id) = link.vlan?;
        let on_it = |uplink: &Uplink| {
            let index = links.get(&uplink.interface).map(|link| link.index);
            uplink.namespace.is_none() && index == Some(parent)
        };
        let (uplink, written, _) = context.uplinks().find(|(_, uplink, _)| on_it(uplink))?;
        let of = &written.interface;
        let text = format!(
            "vnet {name}: {interface} is VLAN {id} of {of}, the interface of the uplink {uplink}, and no other MAC than the \
             host's leaves by that: remove {interface}, and write port = \"{uplink}\" and vlan = {id}; a VLAN within it is \
             possible on interfaces that are no uplinks"
        );
        Some(Notice { severity: Severity::Error, text, origin: vnet.origin.clone(), vnet: None })
    };
    context.config.vnets.iter().filter_map(shut).collect()
}

/// Of what hosts send each other, what goes by ports of workers at both ends: from one of 1800 to 1807 to one of these
/// (viaduct-vnet-io opens them). The lowest bits tell them apart.
pub(super) fn between_workers() -> [Statement; 2] {
    const { assert!(MOST_WORKERS.is_power_of_two() && WORKER_PORT.is_multiple_of(MOST_WORKERS)) };
    let both = |port: u16| {
        let ports = u32::from(port) << 16 | u32::from(port);
        Const::be32(ports, &format!("{ports:#x}"))
    };
    [udp(), Statement::Masked(Selector::ThPorts, both(!(MOST_WORKERS - 1)), both(WORKER_PORT))]
}

pub(super) fn add(context: &Context<'_>, wanted: &mut Desired) {
    let vnis = vnis(context.config);
    for (name, vnet) in &context.config.vnets {
        let mtu = Some(mtu_of(context, vnet));
        if let Some(port) = &vnet.port {
            add_port(context, name, vnet, port, wanted);
        }
        // Otherwise it is the network's.
        if context.bare_vnets().any(|(bare, _)| bare == name) {
            let bridge = DesiredLink {
                make: Some(NewLink::Bridge),
                alias: Some(format!("{BRIDGE}{name}")),
                mac: Some(host_mac_in(&context.config.host, &vnet.bridge)),
                mtu,
                addrgen_none: Some(true),
                // Whoever is in it is others' business, this host among them.
                keeps_addresses: true,
                up: true,
                ..DesiredLink::default()
            };
            wanted.links.insert(vnet.bridge.clone(), bridge);
        }
        let link = DesiredLink {
            make: Some(NewLink::VnetTap),
            alias: Some(format!("{VNET}{name}")),
            // Longer frames come to it than get through: a bridge would drop them, and nobody hear why.
            mtu: Some(LONGEST),
            master: Some(vnet.bridge.clone()),
            addrgen_none: Some(true),
            up: true,
            ..DesiredLink::default()
        };
        let Some(vni) = vnis.get(&vnet.id) else {
            wanted.links.insert(vnet.interface.clone(), link);
            continue;
        };
        // The kernel has a device for each family; what comes by one must not leave by the other.
        for (device, underlay) in plain_devices(vnet) {
            let link = DesiredLink {
                make: Some(NewLink::Vxlan { vni: *vni, port: VXLAN_PORT, underlay }),
                alias: Some(format!("{VNET}{name}:{vni}:{}", underlay.number())),
                isolated: true,
                ..link.clone()
            };
            wanted.links.insert(device, link);
        }
    }
}

/// What is outside comes to the bridge: an interface as it is, or a VLAN that is taken out of it.
fn add_port(context: &Context<'_>, name: &VnetName, vnet: &Vnet, port: &VnetPort, wanted: &mut Desired) {
    let master = Some(vnet.bridge.clone());
    let Some(vlan) = &port.vlan else {
        let alias = Some(port_alias(name, context.observed.links.get(&port.interface)));
        let link = DesiredLink { alias, master, up: true, ..DesiredLink::default() };
        wanted.links.insert(port.interface.clone(), link);
        return;
    };
    let link = DesiredLink { mtu: outside(context, port), master, ..DesiredLink::default() };
    add_vlan_device(&port.interface, vlan, link, wanted);
}

/// What a port of a vnet carries outside.
fn outside(context: &Context<'_>, port: &VnetPort) -> Option<u32> {
    let uplinks = context.config.uplinks.values();
    let of_uplink = uplinks.filter(|uplink| uplink.interface == port.interface).find_map(|uplink| uplink.mtu);
    of_uplink.or_else(|| Some(context.observed.links.get(&port.interface)?.mtu))
}

/// The numbers by which this host takes frames of vnets that nothing protects.
pub fn vnis(config: &Config) -> BTreeMap<VnetId, Vni> {
    Vni::of_all(config.vnets.values().filter(|vnet| vnet.security == Security::None).map(|vnet| vnet.id))
}

/// The devices of a vnet that nothing protects: that of IPv4, and that of IPv6.
pub(super) fn plain_devices(vnet: &Vnet) -> impl Iterator<Item = (IfName, Underlay)> {
    let second = vnet.second_interface().map(|device| (device, Underlay::V6));
    std::iter::once((vnet.interface.clone(), Underlay::V4)).chain(second)
}

/// What machines each vnet has on this host: the attached NICs, and the host itself where it has an address. By MAC.
pub fn vnet_claims(config: &Config, attachments: &Attachments) -> BTreeMap<VnetName, Claims> {
    let mut claims = BTreeMap::<VnetName, Claims>::new();
    for network in config.networks.values() {
        if let Mode::Vnet { vnet, bridge, gateways, .. } = &network.mode
            && !gateways.is_empty()
        {
            let own = link_local(&config.host, bridge, gateways).map(IpAddr::V6);
            let addresses = gateways.iter().copied().chain(own).collect();
            claims.entry(vnet.clone()).or_default().insert(host_mac_in(&config.host, bridge), addresses);
        }
    }
    for port in ports(config, attachments) {
        if let Mode::Vnet { vnet, .. } = &port.network.mode {
            let addresses = port.nic.addresses.iter().map(|net| net.addr()).collect();
            claims.entry(vnet.clone()).or_default().insert(port.nic.mac, addresses);
        }
    }
    claims
}

/// The devices on this host that lead to each vnet's attached NICs, by MAC.
pub fn vnet_ports(
    config: &Config,
    attachments: &Attachments,
) -> BTreeMap<VnetName, BTreeMap<MacAddr, IfName>> {
    let mut devices = BTreeMap::<VnetName, BTreeMap<MacAddr, IfName>>::new();
    for port in ports(config, attachments) {
        if let Mode::Vnet { vnet, .. } = &port.network.mode {
            devices.entry(vnet.clone()).or_default().insert(port.nic.mac, port.device().clone());
        }
    }
    devices
}

/// The addresses of each MAC.
pub type Claims = BTreeMap<MacAddr, Vec<IpAddr>>;

/// The bridge's MAC: another one on each host, as they are all on one segment.
pub(super) fn host_mac_in(host: &str, bridge: &IfName) -> MacAddr {
    let hash = viaduct_types::stable_hash(format!("{host} {bridge}").as_bytes()).to_be_bytes();
    MacAddr([0x0a, hash[0], hash[1], hash[2], hash[3], hash[4]])
}

/// By which link-local address a host speaks to its own guests in a vnet: each of the hosts has another one.
pub(super) fn speaks_as(host: &str, bridge: &IfName) -> Ipv6Addr {
    host_mac_in(host, bridge).link_local()
}

/// The link-local address that a host has on the bridge of a vnet, where it has one of IPv6 at all: without any, nobody is
/// looked for on behalf of others (net/ipv6/ndisc.c, `ndisc_send_ns`).
pub(super) fn link_local(host: &str, bridge: &IfName, gateways: &[IpAddr]) -> Option<Ipv6Addr> {
    gateways.iter().any(IpAddr::is_ipv6).then(|| speaks_as(host, bridge))
}

/// Whether another host says that the NIC has arrived there since.
pub(super) fn has_moved_away(context: &Context<'_>, port: &Port<'_>) -> bool {
    // A NIC that is prepared here is rightly elsewhere.
    let gone = |vnet: &Vnet| vnet.lost.contains(&port.nic.mac) && !vnet.prepared.contains(&port.nic.mac);
    vnet_of(context, port).is_some_and(gone)
}

/// Whether the NIC waits for its guest.
pub(super) fn is_prepared(context: &Context<'_>, port: &Port<'_>) -> bool {
    vnet_of(context, port).is_some_and(|vnet| vnet.prepared.contains(&port.nic.mac))
}

fn vnet_of<'c>(context: &Context<'c>, port: &Port<'_>) -> Option<&'c Vnet> {
    match &port.network.mode {
        Mode::Vnet { vnet, .. } => context.config.vnets.get(vnet),
        Mode::Nat { .. } | Mode::Routed { .. } | Mode::Bridged { .. } | Mode::Isolated { .. } => None,
    }
}

/// The devices by which what a host says in its vnets would leave it.
pub(super) fn ways_out<'c>(context: &Context<'c>) -> impl Iterator<Item = IfName> + use<'c> {
    context
        .config
        .vnets
        .values()
        .flat_map(|vnet| vnet.interfaces().chain(vnet.port.as_ref().map(|port| port.device().clone())))
}

/// What the devices of a vnet carry: as its network says, else what gets through.
fn mtu_of(context: &Context<'_>, vnet: &Vnet) -> u32 {
    let network = context.config.networks.values().find(|network| bridge_of(network) == Some(&vnet.bridge));
    network.map_or_else(|| mtu(context, vnet), |network| context.mtu(network))
}

/// What gets through a vnet, as far as its devices can follow.
pub(super) fn mtu(context: &Context<'_>, vnet: &Vnet) -> u32 {
    // With less, a device has no IPv6 (RFC 8200, section 5); what is too long for the path is answered by what carries it.
    const LEAST: u32 = 1280;
    carried(context, vnet).max(LEAST)
}

/// What gets through a vnet: as it was found, else what this host's uplinks let expect.
pub(super) fn carried(context: &Context<'_>, vnet: &Vnet) -> u32 {
    vnet.mtu.unwrap_or_else(|| {
        let of_uplink = |uplink: &viaduct_model::Uplink| {
            uplink.mtu.or_else(|| Some(context.observed.links.get(&uplink.interface)?.mtu))
        };
        let outside = context.config.uplinks.values().filter_map(of_uplink).min().unwrap_or(1500);
        let peers = vnet.peers.iter().filter_map(|name| context.config.peers.get(name));
        let is_v4 = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Address(address) if address.is_ipv4());
        let v6 = !peers.flat_map(|peer| &peer.endpoints).all(is_v4);
        let v6 = usize::from(v6);
        outside.saturating_sub(match vnet.security {
            Security::Conf => OVERHEAD[v6],
            Security::Auth => OVERHEAD[v6] + AUTH,
            Security::None => VXLAN_OVERHEAD[v6].into(),
        })
    })
}
