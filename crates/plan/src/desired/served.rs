//! What guests are told when they ask for their configuration. Everything comes from the file, so that an answer needs
//! no memory of what was answered before.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};
use viaduct_model::{Mode, Spoofing};
use viaduct_types::{IfName, IpNet, Ipv4Net, Ipv6Net, MacAddr, NetworkName, NicId};

use super::{
    context::{Context, Port, bridge_of, prefixes},
    links::{GATEWAY_V6, ROUTED_GATEWAY_V4, default_nic, gateway},
    named::{self, Answers, Zone},
};
use crate::state::Address;

/// A NIC that is given its configuration when it asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// Which.
    pub nic: NicId,
    /// What it is known by.
    pub mac: MacAddr,
    /// Its address with the prefix length that it is told.
    pub address: Ipv4Net,
    /// Whether the address was chosen for it, so that nobody knows that it is free.
    pub lent: bool,
    /// Whether others share its link, so that one of them could have the address.
    pub shared: bool,
    /// What the server calls itself: an address that the guest can ask again.
    pub server: Ipv4Addr,
    /// Its gateway, when it has one by this NIC.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Its domain.
    pub domain: Option<String>,
    /// In bytes.
    pub mtu: u16,
}

/// A NIC that is given its IPv6 configuration when it asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client6 {
    /// Which.
    pub nic: NicId,
    /// What it is known by.
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<Ipv6Addr>,
    /// The prefix of what is behind it.
    pub delegated: Option<Ipv6Net>,
    /// Whether they were chosen for it, until the file gives it some.
    pub lent: bool,
}

/// What a router says to all of a link (RFC 4861).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Router {
    /// Its link-local address.
    pub address: Ipv6Addr,
    /// Whether it leads everywhere.
    pub default: bool,
    /// In bytes.
    pub mtu: u32,
    /// The link's prefixes.
    pub prefixes: Vec<LinkPrefix>,
    /// What it leads to, where that is not everything.
    pub routes: Vec<Ipv6Net>,
    /// Name servers.
    pub dns: Vec<Ipv6Addr>,
    /// Domains to search names in.
    pub search: Vec<String>,
}

/// A prefix of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkPrefix {
    /// Which.
    pub prefix: Ipv6Net,
    /// Whether its addresses are neighbours.
    pub on_link: bool,
    /// Whether guests may make their addresses of it and their MACs: when that is what each of them has.
    pub autonomous: bool,
}

/// What the host answers neighbour solicitations for on a link, beside single addresses, for which the kernel does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbours {
    /// The host's link-local address there.
    pub address: Ipv6Addr,
    /// Those of guests; none overlaps another.
    pub prefixes: BTreeSet<Ipv6Net>,
}

/// What is served on one device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServedLink {
    /// Who is answered by DHCP.
    pub clients: Vec<Client>,
    /// Who is answered by DHCPv6.
    pub clients6: Vec<Client6>,
    /// What is advertised.
    pub router: Option<Router>,
    /// Name servers that are told by DHCPv6.
    pub dns6: Vec<Ipv6Addr>,
    /// Domains to search names in, told by DHCPv6.
    pub search: Vec<String>,
    /// Who is answered names, and where.
    pub names: Option<Answers>,
    /// What is answered for.
    pub neighbours: Option<Neighbours>,
}

/// What guests are told when they ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// By the device that they ask on.
    pub links: BTreeMap<IfName, ServedLink>,
    /// The names of guests, by network.
    pub zones: BTreeMap<NetworkName, Zone>,
}

pub(super) fn served(context: &Context<'_>) -> Served {
    Served { links: links(context), zones: named::zones(context) }
}

fn links(context: &Context<'_>) -> BTreeMap<IfName, ServedLink> {
    let mut served: BTreeMap<IfName, ServedLink> = BTreeMap::new();
    for port in context.ports.iter().filter(|port| port.network.dhcp) {
        let device = bridge_of(port.network).unwrap_or_else(|| port.device());
        let (client, client6) = (client(context, port), client6(port));
        if client.is_none() && client6.is_none() {
            continue;
        }
        let link = served.entry(device.clone()).or_default();
        link.clients.extend(client);
        link.clients6.extend(client6);
    }
    for port in context.ports.iter().filter(|port| port.network.dhcp) {
        let device = bridge_of(port.network).unwrap_or_else(|| port.device());
        if let Some(link) = served.get_mut(device)
            && link.router.is_none()
        {
            link.dns6 = name_servers(port, true).filter_map(ipv6).collect();
            link.search = named::domain(&port.nic.network, port.network).into_iter().collect();
            link.router = router(context, port, link);
        }
    }
    for port in context.ports.iter().filter(|port| port.network.dns) {
        let addresses = named::places(port.network);
        if !addresses.is_empty() {
            let device = bridge_of(port.network).unwrap_or_else(|| port.device());
            let link = served.entry(device.clone()).or_default();
            link.names.get_or_insert(Answers { network: port.nic.network.clone(), addresses });
        }
    }
    add_neighbours(context, &mut served);
    served
}

/// Whom a guest is told to ask for names: the host, where it answers, which asks the others itself.
fn name_servers(port: &Port<'_>, v6: bool) -> impl Iterator<Item = IpAddr> {
    let own = named::told(port.network, v6);
    let written = port.network.dns_servers.iter().copied();
    let written = written.filter(|_| named::places(port.network).is_empty());
    own.into_iter().chain(written).collect::<Vec<_>>().into_iter()
}

/// A prefix that is on the uplink's own segment is looked for there, address by address.
fn add_neighbours(context: &Context<'_>, served: &mut BTreeMap<IfName, ServedLink>) {
    for port in &context.ports {
        let Some(prefix) = port.nic.delegated else { continue };
        let is_proxied = matches!(port.network.mode, Mode::Routed { proxy: true, .. });
        let Some((uplink, l3)) = context.uplink(port.network).filter(|_| is_proxied) else { continue };
        let of_link = |address: &Address| match address.address.addr() {
            IpAddr::V6(own) if address.link == *l3 && own.is_unicast_link_local() => Some(own),
            IpAddr::V6(_) | IpAddr::V4(_) => None,
        };
        let mac = context.observed.links.get(&uplink.interface).and_then(|link| link.mac);
        let own = context.observed.addresses.keys().find_map(of_link);
        let Some(address) = own.or_else(|| mac.map(MacAddr::link_local)) else { continue };
        let link = served.entry(l3.clone()).or_default();
        let none = || Neighbours { address, prefixes: BTreeSet::new() };
        link.neighbours.get_or_insert_with(none).prefixes.insert(prefix);
    }
}

fn client6(port: &Port<'_>) -> Option<Client6> {
    let nic = port.nic;
    if !is_known_by_mac(port) {
        return None;
    }
    let addresses: Vec<Ipv6Addr> = nic.addresses.iter().map(IpNet::addr).filter_map(ipv6).collect();
    let delegated = nic.delegated;
    let client = Client6 { nic: port.id.clone(), mac: nic.mac, addresses, delegated, lent: nic.lent };
    (!client.addresses.is_empty() || delegated.is_some()).then_some(client)
}

/// What is advertised on the link of a port; for a bridge, on any of its ports.
fn router(context: &Context<'_>, port: &Port<'_>, link: &ServedLink) -> Option<Router> {
    let (nic, network) = (port.nic, port.network);
    let own = || prefixes(network).into_iter().filter_map(ipv6_net);
    let with_prefixes = |on_link| {
        let prefix = |prefix| LinkPrefix { prefix, on_link, autonomous: is_made_of_macs(prefix, link) };
        own().map(prefix).collect::<Vec<_>>()
    };
    let (default, prefixes, routes) = match &network.mode {
        Mode::Routed { .. } => {
            if link.clients6.is_empty() {
                return None;
            }
            let default =
                default_nic(context.config, port.guest, true).is_some_and(|out| std::ptr::eq(out, nic));
            // Nobody else is on the link: a prefix is only told for what can be made of it.
            let prefixes = with_prefixes(false).into_iter().filter(|prefix| prefix.autonomous).collect();
            (default, prefixes, own().collect())
        }
        Mode::Nat { .. } => (true, with_prefixes(true), Vec::new()),
        Mode::Isolated { .. } => (false, with_prefixes(true), Vec::new()),
        // The segment has routers of its own.
        Mode::Bridged { .. } | Mode::Vnet { .. } => return None,
    };
    if prefixes.is_empty() && !port.is_routed() {
        return None;
    }
    Some(Router {
        address: GATEWAY_V6,
        default,
        mtu: if port.is_routed() { nic.mtu } else { None }.unwrap_or_else(|| context.mtu(network)),
        prefixes,
        routes: if default { Vec::new() } else { routes },
        dns: link.dns6.clone(),
        search: link.search.clone(),
    })
}

/// Whether each address of a prefix that somebody on the link has is the one that SLAAC makes of its MAC (RFC 4291,
/// appendix A). Any other one that a guest made for itself would be taken for a forged one.
fn is_made_of_macs(prefix: Ipv6Net, link: &ServedLink) -> bool {
    let mut all = link.clients6.iter().flat_map(|client| client.addresses.iter().map(|a| (client.mac, *a)));
    prefix.prefix_len() == 64
        && all.clone().any(|(_, address)| prefix.contains(&address))
        && all.all(|(mac, address)| !prefix.contains(&address) || mac.slaac(prefix) == Some(address))
}

/// Whether a NIC is held to its MAC, so that it is known by it: who may speak with any MAC is not, on a bridge that
/// others share.
fn is_known_by_mac(port: &Port<'_>) -> bool {
    port.nic.spoofing != Spoofing::Mac || port.is_routed()
}

fn client(context: &Context<'_>, port: &Port<'_>) -> Option<Client> {
    let (nic, network) = (port.nic, port.network);
    if !is_known_by_mac(port) {
        return None;
    }
    let v4 = |net: &IpNet| match net {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    };
    let address = nic.addresses.iter().find_map(v4)?;
    let way_out =
        default_nic(context.config, port.guest, false).is_some_and(|nic| std::ptr::eq(nic, port.nic));
    let router = if way_out { gateway(nic, network, false).and_then(ipv4) } else { None };
    let server = match &network.mode {
        Mode::Nat { subnets, .. } | Mode::Isolated { subnets, .. } => {
            let own = subnets.iter().find(|subnet| subnet.prefix.contains(&IpAddr::V4(address.addr())));
            own.and_then(|subnet| ipv4(subnet.gateway))
        }
        Mode::Routed { .. } => Some(ROUTED_GATEWAY_V4),
        Mode::Bridged { .. } => context.main_address(network).and_then(ipv4),
        Mode::Vnet { .. } => None,
    };
    Some(Client {
        nic: port.id.clone(),
        mac: nic.mac,
        address,
        lent: nic.lent,
        shared: !port.is_routed(),
        server: server.unwrap_or(ROUTED_GATEWAY_V4),
        router,
        dns: name_servers(port, false).filter_map(ipv4).collect(),
        domain: named::domain(&nic.network, network),
        mtu: u16::try_from(nic.mtu.unwrap_or_else(|| context.mtu(network))).unwrap_or(u16::MAX),
    })
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn ipv6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}

fn ipv6_net(prefix: IpNet) -> Option<Ipv6Net> {
    match prefix {
        IpNet::V6(prefix) => Some(prefix),
        IpNet::V4(_) => None,
    }
}
