//! What every part of the rendering asks: which NICs are attached, which device stands for what, which addresses
//! belong to whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use viaduct_model::{AllowPeer, Config, Family, Guest, Mode, Network, Nic, Policy, Uplink, Vnet};
use viaduct_types::{GuestName, IfName, IpNet, MacAddr, NetworkName, NicId, UplinkName, VlanSet, VnetName};

use super::{
    links::{default_nic, gateway},
    vnets,
};
use crate::state::{Attachments, Observed, Target};

pub(super) struct Context<'a> {
    pub(super) config: &'a Config,
    /// With what is in other stacks.
    pub(super) whole: &'a Config,
    pub(super) observed: &'a Observed,
    /// The attached NICs.
    pub(super) ports: Vec<Port<'a>>,
    /// Those whose namespace or device is gone.
    pub(super) stale: Vec<Port<'a>>,
    /// Every address that the host has, on any device.
    pub(super) host_addresses: BTreeSet<IpAddr>,
    /// Networks with a guest that publishes a port on all addresses.
    pub(super) wildcard_published: BTreeSet<&'a NetworkName>,
    /// Networks with a guest that has a list of its own of whom it may talk to.
    listed: BTreeSet<&'a NetworkName>,
    /// The global addresses of each uplink, the file's before the system's.
    uplink_addresses: BTreeMap<&'a UplinkName, Vec<IpAddr>>,
}

/// An attached NIC.
pub(super) struct Port<'a> {
    pub(super) id: NicId,
    pub(super) nic: &'a Nic,
    pub(super) guest: &'a Guest,
    pub(super) network: &'a Network,
    pub(super) target: &'a Target,
}

impl<'a> Port<'a> {
    /// The device on the host.
    pub(super) fn device(&self) -> &'a IfName {
        match self.target {
            Target::Netns { .. } => &self.nic.device,
            Target::Tap { name, .. } | Target::Device { name } => name,
        }
    }

    /// The namespace's path, for a guest in one.
    pub(super) fn netns(&self) -> Option<&'a str> {
        match self.target {
            Target::Netns { path, .. } => Some(path),
            Target::Tap { .. } | Target::Device { .. } => None,
        }
    }

    /// The namespace's inode number when it was attached.
    pub(super) fn inode(&self) -> Option<u64> {
        match self.target {
            Target::Netns { inode, .. } => Some(*inode),
            Target::Tap { .. } | Target::Device { .. } => None,
        }
    }

    pub(super) fn is_routed(&self) -> bool {
        matches!(self.network.mode, Mode::Routed { .. })
    }
}

/// The attached NICs that the configuration knows.
pub(super) fn ports<'a>(config: &'a Config, attachments: &'a Attachments) -> Vec<Port<'a>> {
    attachments
        .iter()
        .filter_map(|(id, target)| {
            let guest = config.guests.get(&id.guest)?;
            let nic = guest.nics.get(usize::from(id.index))?;
            let network = config.networks.get(&nic.network)?;
            Some(Port { id: id.clone(), nic, guest, network, target })
        })
        .collect()
}

/// Whether a path is that of a namespace which is made when it is not there.
fn is_kept_namespace(config: &Config, path: &str) -> bool {
    namespace_of(path).is_some_and(|name| config.namespaces.contains_key(name))
}

/// The name of the namespace that a path under /run/netns is.
pub(crate) fn namespace_of(path: &str) -> Option<&str> {
    path.strip_prefix("/run/netns/")
}

/// The bridges that we make, with their networks.
pub(super) fn bridges(config: &Config) -> impl Iterator<Item = (&IfName, &NetworkName, &Network)> {
    config.networks.iter().filter_map(|(name, network)| Some((bridge_of(network)?, name, network)))
}

/// The bridge of a network that has one.
pub(super) fn bridge_of(network: &Network) -> Option<&IfName> {
    match &network.mode {
        Mode::Nat { bridge, .. }
        | Mode::Bridged { bridge, .. }
        | Mode::Isolated { bridge, .. }
        | Mode::Vnet { bridge, .. } => Some(bridge),
        Mode::Routed { .. } => None,
    }
}

/// The device with an uplink's addresses: its bridge when there is a bridged network on it.
pub(super) fn layer3<'a>(config: &'a Config, name: &UplinkName, uplink: &'a Uplink) -> &'a IfName {
    uplink_bridge(config, name).unwrap_or(&uplink.interface)
}

/// The bridge that has an uplink for a port.
pub(super) fn uplink_bridge<'a>(config: &'a Config, name: &UplinkName) -> Option<&'a IfName> {
    config.networks.values().find_map(|network| match &network.mode {
        Mode::Bridged { bridge, vlan: None, .. } if network.uplink.as_ref() == Some(name) => Some(bridge),
        Mode::Nat { .. }
        | Mode::Routed { .. }
        | Mode::Bridged { .. }
        | Mode::Isolated { .. }
        | Mode::Vnet { .. } => None,
    })
}

/// The VLANs that the bridge with an uplink for a port lets through, if it looks at them, and the number that it has for what
/// comes without a tag: the lowest that is none of these. It is never seen outside.
pub(super) fn uplink_vlans<'a>(config: &'a Config, name: &UplinkName) -> Option<(&'a VlanSet, u16)> {
    config.networks.values().find_map(|network| match &network.mode {
        Mode::Bridged { vlan: None, vlans: Some(vlans), .. } if network.uplink.as_ref() == Some(name) => {
            Some((vlans, vlans.lowest_free()?))
        }
        Mode::Nat { .. }
        | Mode::Routed { .. }
        | Mode::Bridged { .. }
        | Mode::Isolated { .. }
        | Mode::Vnet { .. } => None,
    })
}

/// For each uplink the global addresses that the file gives it, then those that it has.
fn uplink_addresses<'a>(config: &'a Config, observed: &Observed) -> BTreeMap<&'a UplinkName, Vec<IpAddr>> {
    let addresses = |name: &UplinkName, uplink: &Uplink| {
        let l3 = layer3(config, name, uplink);
        let has = observed
            .addresses
            .iter()
            .filter(|(a, info)| info.scope == 0 && (a.link == *l3 || a.link == uplink.interface))
            .map(|(a, _)| a.address.addr());
        let mut addresses: Vec<IpAddr> = uplink.addresses.iter().map(|net| net.addr()).collect();
        addresses.extend(has.filter(|a| !uplink.addresses.iter().any(|net| net.addr() == *a)));
        addresses
    };
    config.uplinks.iter().map(|(name, uplink)| (name, addresses(name, uplink))).collect()
}

/// A MAC for the host's end of a NIC's link: the NIC's own with another first byte, so that the two differ.
pub(super) fn host_mac(nic: MacAddr) -> MacAddr {
    let [first, rest @ ..] = nic.0;
    let [a, b, c, d, e] = rest;
    MacAddr([if first == 0xfe { 0xfa } else { 0xfe }, a, b, c, d, e])
}

/// A bridge's MAC: made of its name, so that guests' neighbour tables survive when it is made anew.
pub(super) fn bridge_mac(bridge: &IfName) -> MacAddr {
    let hash = viaduct_types::stable_hash(bridge.as_str().as_bytes()).to_be_bytes();
    MacAddr([0x0a, hash[0], hash[1], hash[2], hash[3], hash[4]])
}

/// The prefixes whose addresses a network gives out.
pub(super) fn prefixes(network: &Network) -> Vec<IpNet> {
    match &network.mode {
        Mode::Nat { subnets, .. } | Mode::Isolated { subnets, .. } => {
            subnets.iter().map(|s| s.prefix).collect()
        }
        Mode::Routed { pool, install_pool, .. } => {
            pool.iter().chain(install_pool).copied().chain(delegated(network)).collect()
        }
        Mode::Vnet { subnets, .. } => subnets.clone(),
        Mode::Bridged { .. } => Vec::new(),
    }
}

/// The prefixes that a network gives parts of to guests that are routers.
pub(super) fn delegated(network: &Network) -> impl Iterator<Item = IpNet> {
    network.delegate.iter().flat_map(|delegate| delegate.pool.iter().map(|prefix| IpNet::V6(*prefix)))
}

impl<'a> Context<'a> {
    pub(super) fn new(
        config: &'a Config,
        whole: &'a Config,
        attachments: &'a Attachments,
        observed: &'a Observed,
    ) -> Self {
        let networks_of = |wanted: &dyn Fn(&Guest) -> bool| -> BTreeSet<&'a NetworkName> {
            let guests = config.guests.values().filter(|g| wanted(g));
            guests.flat_map(|g| config.nics_of(g)).map(|nic| &nic.network).collect()
        };
        let (ports, stale) = ports(config, attachments).into_iter().partition(|port| match port.target {
            Target::Netns { path, .. } => {
                observed.guests.contains_key(&port.id) || is_kept_namespace(config, path)
            }
            Target::Tap { .. } => true,
            Target::Device { name } => observed.links.contains_key(name),
        });
        Self {
            config,
            whole,
            observed,
            ports,
            stale,
            host_addresses: observed.addresses.keys().map(|a| a.address.addr()).collect(),
            wildcard_published: networks_of(&publishes_everywhere),
            listed: networks_of(&has_list),
            uplink_addresses: uplink_addresses(config, observed),
        }
    }

    /// The IPv4 address that the world knows the host by on a network's uplink.
    pub(super) fn main_address(&self, network: &Network) -> Option<IpAddr> {
        self.uplink_addresses(network).iter().copied().find(IpAddr::is_ipv4)
    }

    /// The global addresses of a network's uplink.
    pub(super) fn uplink_addresses(&self, network: &Network) -> &[IpAddr] {
        let of_uplink = network.uplink.as_ref().and_then(|name| self.uplink_addresses.get(name));
        of_uplink.map_or(&[], Vec::as_slice)
    }

    /// The uplink of a network, with the device that has its addresses.
    pub(super) fn uplink(&self, network: &'a Network) -> Option<(&'a Uplink, &'a IfName)> {
        let name = network.uplink.as_ref()?;
        let uplink = self.config.uplinks.get(name)?;
        Some((uplink, layer3(self.config, name, uplink)))
    }

    /// Every uplink with the device that has its addresses.
    pub(super) fn uplinks(&self) -> impl Iterator<Item = (&'a UplinkName, &'a Uplink, &'a IfName)> {
        let config = self.config;
        config.uplinks.iter().map(|(name, uplink)| (name, uplink, layer3(config, name, uplink)))
    }

    /// In bytes: as written, or the uplink's, or 1500.
    pub(super) fn mtu(&self, network: &Network) -> u32 {
        let of_uplink = || {
            let uplink = self.config.uplinks.get(network.uplink.as_ref()?)?;
            uplink.mtu.or_else(|| Some(self.observed.links.get(&uplink.interface)?.mtu))
        };
        let of_vnet = || match &network.mode {
            Mode::Vnet { vnet, .. } => Some(vnets::mtu(self, self.config.vnets.get(vnet)?)),
            Mode::Nat { .. } | Mode::Routed { .. } | Mode::Bridged { .. } | Mode::Isolated { .. } => None,
        };
        network.mtu.or_else(of_vnet).or_else(of_uplink).unwrap_or(1500)
    }

    /// Whether there may be somebody behind guests.
    pub(super) fn delegates(&self) -> bool {
        self.config.networks.values().any(|network| network.delegate.is_some())
    }

    /// The devices that guests' packets come in by at layer 3, with their network.
    pub(super) fn inside(&self) -> impl Iterator<Item = (&'a IfName, &'a Network)> {
        let bridges = bridges(self.config).filter(|(_, _, n)| !matches!(n.mode, Mode::Bridged { .. }));
        bridges
            .map(|(bridge, _, network)| (bridge, network))
            .chain(self.ports.iter().filter(|p| p.is_routed()).map(|p| (p.device(), p.network)))
    }

    /// The bridges of vnets that no network lies on: their guests are others' business.
    pub(super) fn bare_vnets(&self) -> impl Iterator<Item = (&'a VnetName, &'a Vnet)> {
        let networks = &self.config.networks;
        let has_network = |vnet: &Vnet| networks.values().any(|n| bridge_of(n) == Some(&vnet.bridge));
        self.config.vnets.iter().filter(move |(_, vnet)| !has_network(vnet))
    }

    /// Whether frames between guests of a bridge pass the host's IP filter: when not everybody may talk to everybody.
    pub(super) fn is_redirected(&self, name: &NetworkName, network: &Network) -> bool {
        redirects(network) && (network.between_guests == Policy::Deny || self.listed.contains(name))
    }

    /// The addresses of a guest that we filter for, with their NIC: those not on the uplink's own segment.
    pub(super) fn addresses_of(&self, guest: &'a Guest) -> impl Iterator<Item = (IpAddr, &'a Nic)> {
        let config = self.config;
        config
            .nics_of(guest)
            .iter()
            .filter(move |nic| {
                config.networks.get(&nic.network).is_some_and(|n| !matches!(n.mode, Mode::Bridged { .. }))
            })
            .flat_map(|nic| nic.addresses.iter().map(move |net| (net.addr(), nic)))
    }

    /// The prefixes that a permission's other end stands for.
    pub(super) fn peer_prefixes(&self, peer: &AllowPeer) -> Vec<IpNet> {
        let addresses = |guest: &Guest, network: Option<&NetworkName>| -> Vec<IpNet> {
            let nics = self.config.nics_of(guest).iter();
            let nics = nics.filter(|nic| network.is_none_or(|name| nic.network == *name));
            nics.flat_map(|nic| &nic.addresses).map(|net| IpNet::from(net.addr())).collect()
        };
        match peer {
            AllowPeer::Any => vec![any_v4(), any_v6()],
            AllowPeer::Prefix(prefix) => vec![prefix.trunc()],
            AllowPeer::Guest(name) => {
                self.config.guests.get(name).map(|g| addresses(g, None)).unwrap_or_default()
            }
            AllowPeer::Network(name) => match self.config.networks.get(name) {
                Some(network) if matches!(network.mode, Mode::Bridged { .. }) => {
                    self.config.guests.values().flat_map(|g| addresses(g, Some(name))).collect()
                }
                Some(network) => prefixes(network),
                None => Vec::new(),
            },
        }
    }

    /// Where a guest's published port leads: its first address of a family on the NIC that answers leave by, else its
    /// first one at all, of those that this host reaches.
    pub(super) fn publish_target(&self, guest: &'a Guest, v6: bool) -> Option<(IpAddr, &'a Nic)> {
        let way_out = default_nic(self.config, guest, v6);
        let reached = |nic: &Nic, address| {
            let network = self.config.networks.get(&nic.network);
            network.is_some_and(|network| network.mode.is_reached(Family::of(address)))
        };
        let of_family = || {
            let of_guest = self.addresses_of(guest);
            of_guest.filter(|(address, nic)| address.is_ipv6() == v6 && reached(nic, *address))
        };
        let answering = of_family().find(|(_, nic)| way_out.is_some_and(|out| std::ptr::eq(*nic, out)));
        answering.or_else(|| of_family().next())
    }

    /// Whether what a guest answers to others than its neighbours by this NIC comes to this host: the NIC's network is where its way
    /// out is, and the host is that. On links of their own guests have no other address of the host to answer to.
    pub(super) fn answers_come_back(&self, guest: &'a Guest, nic: &'a Nic, v6: bool) -> bool {
        let Some(network) = self.config.networks.get(&nic.network) else { return true };
        let own: Vec<IpAddr> = match &network.mode {
            Mode::Nat { subnets, .. } | Mode::Isolated { subnets, .. } => {
                subnets.iter().map(|subnet| subnet.gateway).collect()
            }
            Mode::Vnet { gateways, .. } => gateways.clone(),
            Mode::Routed { .. } | Mode::Bridged { .. } => return true,
        };
        let way_out = default_nic(self.config, guest, v6).filter(|way_out| std::ptr::eq(*way_out, nic));
        way_out.and_then(|nic| gateway(nic, network, v6)).is_some_and(|gateway| own.contains(&gateway))
    }

    /// Where a guest's published port leads when that is a link of its own into a namespace whose way out is another one: the guest
    /// answers by the link only to the host's own address there (`links::asks_as`).
    pub(super) fn asked_by_host(&self, guest: &'a Guest, v6: bool) -> Option<(IpAddr, &'a Nic)> {
        guest.namespace.as_ref()?;
        let (address, nic) = self.publish_target(guest, v6)?;
        let network = self.config.networks.get(&nic.network)?;
        let is_way_out = default_nic(self.config, guest, v6).is_some_and(|out| std::ptr::eq(out, nic));
        (matches!(network.mode, Mode::Routed { .. }) && !is_way_out).then_some((address, nic))
    }

    /// Whether ports of guests are published whom this host reaches by its own address in a vnet.
    pub(super) fn publishes_vnets(&self, v6: bool) -> bool {
        let leads = |guest: &Guest| {
            let networks =
                self.config.nics_of(guest).iter().map(|nic| self.config.networks.get(&nic.network));
            networks.flatten().any(|network| match &network.mode {
                Mode::Vnet { gateways, .. } => gateways.iter().any(|gateway| gateway.is_ipv6() == v6),
                Mode::Nat { .. } | Mode::Routed { .. } | Mode::Isolated { .. } | Mode::Bridged { .. } => {
                    false
                }
            })
        };
        self.config.guests.values().any(|guest| !guest.publish.is_empty() && leads(guest))
    }

    /// Every guest.
    pub(super) fn guests(&self) -> impl Iterator<Item = (&'a GuestName, &'a Guest)> {
        self.config.guests.iter()
    }
}

/// 0.0.0.0/0
pub(super) fn any_v4() -> IpNet {
    IpNet::V4(viaduct_types::Ipv4Net::default())
}

/// ::/0
pub(super) fn any_v6() -> IpNet {
    IpNet::V6(viaduct_types::Ipv6Net::default())
}

/// What one guest decides for others.
#[derive(PartialEq, Eq)]
pub(crate) struct DecidedByOne<'a> {
    /// The networks whose frames pass the host's IP filter because somebody has a list.
    listed: BTreeSet<&'a NetworkName>,
    /// Those whose links know 127.0.0.1 because somebody publishes on all addresses.
    everywhere: BTreeSet<&'a NetworkName>,
    /// Whether the host translates addresses.
    translates: bool,
}

pub(crate) fn decided_by_one(config: &Config) -> DecidedByOne<'_> {
    let networks_of = |wanted: fn(&Guest) -> bool, matters: fn(&Network) -> bool| {
        let networks = config.guests.values().filter(|g| wanted(g)).flat_map(|g| config.nics_of(g));
        let matters = |name: &&NetworkName| config.networks.get(*name).is_some_and(matters);
        networks.map(|nic| &nic.network).filter(matters).collect()
    };
    DecidedByOne {
        listed: networks_of(has_list, |n| redirects(n) && n.between_guests == Policy::Allow),
        everywhere: networks_of(publishes_everywhere, |n| matches!(n.mode, Mode::Routed { .. })),
        translates: translates(config),
    }
}

/// Whether there is anything to translate. Where there is NAT, the kernel has work for it with each new flow, also of
/// those that nobody translates.
pub(super) fn translates(config: &Config) -> bool {
    let hides = |network: &Network| match &network.mode {
        Mode::Nat { .. } => true,
        Mode::Routed { install_pool, .. } => !install_pool.is_empty(),
        Mode::Bridged { .. } | Mode::Isolated { .. } | Mode::Vnet { .. } => false,
    };
    config.networks.values().any(hides) || config.guests.values().any(|guest| !guest.publish.is_empty())
}

fn publishes_everywhere(guest: &Guest) -> bool {
    guest.publish.iter().any(|p| p.publish.address.is_none())
}

fn has_list(guest: &Guest) -> bool {
    guest.allow_in.is_some() || guest.allow_out.is_some()
}

/// Whether the host is there to judge what guests of one bridge say to each other.
fn redirects(network: &Network) -> bool {
    match &network.mode {
        Mode::Nat { .. } => true,
        Mode::Isolated { subnets, .. } => !subnets.is_empty(),
        Mode::Routed { .. } | Mode::Bridged { .. } | Mode::Vnet { .. } => false,
    }
}
