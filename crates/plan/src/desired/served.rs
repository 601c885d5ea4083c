//! What guests are told when they ask for their configuration. Everything comes from the file, so that an answer needs
//! no memory of what was answered before.

mod change;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use viaduct_model::{Mode, Network, Spoofing};
use viaduct_types::{IfName, IpNet, Ipv6Net, MacAddr, NetworkName};

use super::{
    context::{Context, Port, bridge_of, bridges, prefixes},
    links::{GATEWAY_V6, ROUTED_GATEWAY_V4, answered_by_kernel, default_nic, gateway},
    named::{self, Answers},
    vnets,
};
use crate::state::Address;
pub use change::{ServedChange, ServedLinkChange, Told, ZoneChange};
pub use values::{
    Boot, Boot6, Client, Client6, LinkHead, LinkPrefix, LinkRouter, Neighbours, Router, Served, ServedLink,
    ServedNic, Zone,
};

pub(super) fn served(context: &Context<'_>) -> Served {
    Served { links: links(context), zones: named::zones(context), stacks: BTreeMap::new() }
}

fn links(context: &Context<'_>) -> BTreeMap<IfName, ServedLink> {
    let mut served: BTreeMap<IfName, ServedLink> = BTreeMap::new();
    // Who is elsewhere, still or by now, is told by the host there.
    let is_here =
        |port: &&Port<'_>| !vnets::is_prepared(context, port) && !vnets::has_moved_away(context, port);
    for port in context.ports.iter().filter(is_here) {
        let network = port.network;
        let dhcp = network.dhcp && is_known_by_mac(port);
        let nic = ServedNic {
            client: if dhcp { client(context, port) } else { None },
            client6: if dhcp { client6(port) } else { None },
            neighbours: any_gateway(context, port),
        };
        let asks_for_names = !named::places(network).is_empty();
        if nic == ServedNic::default() && !asks_for_names {
            continue;
        }
        let device = bridge_of(network).unwrap_or_else(|| port.device());
        let new = || ServedLink { head: head(context, Of::Port(port)), nics: BTreeMap::new() };
        served.entry(device.clone()).or_insert_with(new).nics.insert(port.id.clone(), nic);
    }
    add_neighbours(context, &mut served);
    // Guests of other hosts were told to ask here before they moved there.
    let is_stretched = |network: &Network| matches!(network.mode, Mode::Vnet { .. });
    for (bridge, name, network) in bridges(context.config).filter(|(.., network)| is_stretched(network)) {
        let head = head(context, Of::Bridge(name, network));
        if head.names.is_some() {
            served.entry(bridge.clone()).or_insert_with(|| ServedLink { head, nics: BTreeMap::new() });
        }
    }
    served
}

/// Whose link it is.
#[derive(Clone, Copy)]
enum Of<'a, 'b> {
    Port(&'b Port<'a>),
    Bridge(&'a NetworkName, &'a Network),
}

/// What is so for all of a link: the same for a bridge, whichever of its ports it is asked for.
fn head(context: &Context<'_>, of: Of<'_, '_>) -> LinkHead {
    let (name, network) = match of {
        Of::Port(port) => (&port.nic.network, port.network),
        Of::Bridge(name, network) => (name, network),
    };
    let addresses = named::places(network);
    let stretched = matches!(network.mode, Mode::Vnet { .. });
    let names = (!addresses.is_empty()).then(|| Answers { network: name.clone(), addresses, stretched });
    if !network.dhcp {
        return LinkHead { names, ..LinkHead::default() };
    }
    LinkHead {
        router: router(context, network, of),
        dns6: name_servers(network, true).filter_map(ipv6).collect(),
        search: named::domain(name, network).into_iter().collect(),
        names,
    }
}

/// Whom a guest is told to ask for names: the host, where it answers, which asks the others itself.
fn name_servers(network: &Network, v6: bool) -> impl Iterator<Item = IpAddr> {
    let own = named::told(network, v6);
    let written = network.dns_servers.iter().copied();
    let written = written.filter(|_| named::places(network).is_empty());
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
        let head = || bridges(context.config).find(|(bridge, ..)| *bridge == l3);
        let head = || head().map(|(_, name, network)| self::head(context, Of::Bridge(name, network)));
        let new = || ServedLink { head: head().unwrap_or_default(), nics: BTreeMap::new() };
        let link = served.entry(l3.clone()).or_insert_with(new);
        let neighbours = Neighbours { address, prefix, except: BTreeSet::new(), defended: true };
        link.nics.entry(port.id.clone()).or_default().neighbours = Some(neighbours);
    }
}

/// On a link of its own, a guest finds the host whatever it was told that its gateway is; the kernel answers only for
/// single addresses.
fn any_gateway(context: &Context<'_>, port: &Port<'_>) -> Option<Neighbours> {
    let own = port.nic.addresses.iter().map(IpNet::addr).filter_map(ipv6);
    if !port.is_routed() || own.clone().next().is_none() {
        return None;
    }
    let by_kernel = answered_by_kernel(context, port).filter_map(ipv6).chain([GATEWAY_V6]);
    let single = own.chain(by_kernel).map(|address| Ipv6Net::new_assert(address, 128));
    Some(Neighbours {
        address: GATEWAY_V6,
        prefix: Ipv6Net::default(),
        except: single.chain(port.nic.delegated).collect(),
        // Whatever it takes for its own is none of the host's.
        defended: false,
    })
}

fn client6(port: &Port<'_>) -> Option<Client6> {
    let nic = port.nic;
    let addresses: Vec<Ipv6Addr> = nic.addresses.iter().map(IpNet::addr).filter_map(ipv6).collect();
    let delegated = nic.delegated;
    let boot = boot(port).map(|boot| Boot6 { files: boot.files6(), parameters: boot.parameters.clone() });
    let boot = boot.filter(|boot| !boot.files.is_empty());
    let client = Client6 { nic: port.id.clone(), mac: nic.mac, addresses, delegated, lent: nic.lent, boot };
    (!client.addresses.is_empty() || delegated.is_some()).then_some(client)
}

/// What a NIC loads that boots by the network.
fn boot<'a>(port: &Port<'a>) -> Option<&'a viaduct_model::Boot> {
    port.nic.boot.as_ref().or(port.network.boot.as_ref())
}

/// What a router has to say on a link.
fn router(context: &Context<'_>, network: &Network, of: Of<'_, '_>) -> Option<LinkRouter> {
    let prefixes: Vec<Ipv6Net> = prefixes(network).into_iter().filter_map(ipv6_net).collect();
    let (address, default, shared, routes) = match (&network.mode, of) {
        (Mode::Routed { .. }, Of::Port(port)) => {
            let way_out = default_nic(context.config, port.guest, true);
            (GATEWAY_V6, way_out.is_some_and(|out| std::ptr::eq(out, port.nic)), false, prefixes.clone())
        }
        (Mode::Nat { .. }, _) => (GATEWAY_V6, true, true, Vec::new()),
        (Mode::Isolated { .. }, _) => (GATEWAY_V6, false, true, Vec::new()),
        (Mode::Vnet { bridge, gateways, .. }, _) => {
            let leads_out = gateways.iter().any(IpAddr::is_ipv6);
            (vnets::speaks_as(&context.config.host, bridge), leads_out, true, Vec::new())
        }
        // The segment has routers of its own.
        (Mode::Bridged { .. }, _) | (Mode::Routed { .. }, Of::Bridge(..)) => return None,
    };
    if shared && prefixes.is_empty() {
        return None;
    }
    let own_mtu = match of {
        Of::Port(port) if !shared => port.nic.mtu,
        Of::Port(_) | Of::Bridge(..) => None,
    };
    Some(LinkRouter {
        address,
        default,
        mtu: own_mtu.unwrap_or_else(|| context.mtu(network)),
        prefixes,
        shared,
        stretched: matches!(network.mode, Mode::Vnet { .. }),
        routes: if default { Vec::new() } else { routes },
    })
}

/// Whether a NIC is held to its MAC, so that it is known by it: who may speak with any MAC is not, on a bridge that
/// others share.
fn is_known_by_mac(port: &Port<'_>) -> bool {
    port.nic.spoofing != Spoofing::Mac || port.is_routed()
}

fn client(context: &Context<'_>, port: &Port<'_>) -> Option<Client> {
    let (nic, network) = (port.nic, port.network);
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
        Mode::Vnet { gateways, .. } => {
            gateways.iter().copied().filter_map(ipv4).find(|own| address.contains(own))
        }
    };
    Some(Client {
        nic: port.id.clone(),
        mac: nic.mac,
        address,
        lent: nic.lent,
        shared: !port.is_routed(),
        server: server.unwrap_or(ROUTED_GATEWAY_V4),
        router,
        dns: name_servers(network, false).filter_map(ipv4).collect(),
        domain: named::domain(&nic.network, network),
        mtu: u16::try_from(nic.mtu.unwrap_or_else(|| context.mtu(network))).unwrap_or(u16::MAX),
        boot: boot(port)
            .map(|boot| Boot { server: boot.server(), files: boot.files4() })
            .filter(|boot| !boot.files.is_empty()),
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
