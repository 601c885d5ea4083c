//! The names of guests, whom they are answered to, and where.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};
use viaduct_model::{Mode, Network};
use viaduct_types::{IpNet, NetworkName};

use super::{
    context::Context,
    links::{GATEWAY_V6, ROUTED_GATEWAY_V4},
    served::Zone,
};

/// Domains of more than one label that are nobody's in particular (RFC 8375, RFC 6761, and what ICANN set aside).
const PRIVATE: [&str; 3] = ["internal", "home.arpa", "test"];

/// What the names of a network have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneHead {
    /// What they end with.
    pub domain: String,
    /// Whether nobody else knows names in it.
    pub alone: bool,
    /// Prefixes of whose addresses nobody else knows names.
    pub prefixes: Vec<IpNet>,
    /// Who is asked for everything else; the host's own name servers when nobody is.
    pub servers: Vec<IpAddr>,
    /// The host's own name there, unless that is a guest's.
    pub host: Option<HostName>,
}

/// The name of the host in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostName {
    /// What stands before the domain.
    pub name: String,
    /// Its addresses there.
    pub addresses: BTreeSet<IpAddr>,
}

/// Where the guests on a device ask for names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    /// Whose names they are answered.
    pub network: NetworkName,
    /// At which addresses of the host.
    pub addresses: Vec<IpAddr>,
    /// Whether the link goes on to other hosts, whose guests ask as well.
    pub stretched: bool,
}

/// The host's addresses at which a network's guests ask for names; none when they are not answered.
pub(super) fn places(network: &Network) -> Vec<IpAddr> {
    if network.dns { host_addresses(network) } else { Vec::new() }
}

/// The host's own addresses in a network, at which its guests reach it.
pub fn host_addresses(network: &Network) -> Vec<IpAddr> {
    let link_local = IpAddr::V6(GATEWAY_V6);
    let with_link_local = |gateways: Vec<IpAddr>| {
        let v6 = gateways.iter().any(IpAddr::is_ipv6).then_some(link_local);
        gateways.into_iter().chain(v6).collect()
    };
    match &network.mode {
        Mode::Nat { subnets, .. } | Mode::Isolated { subnets, .. } => {
            with_link_local(subnets.iter().map(|subnet| subnet.gateway).collect())
        }
        Mode::Routed { .. } => vec![IpAddr::V4(ROUTED_GATEWAY_V4), link_local],
        // One host of several: the link-local address is not its own.
        Mode::Vnet { gateways, .. } => gateways.clone(),
        // The segment is somebody else's.
        Mode::Bridged { .. } => Vec::new(),
    }
}

/// The domain of a network's guests.
pub(super) fn domain(name: &NetworkName, network: &Network) -> Option<String> {
    let made = || (!places(network).is_empty()).then(|| format!("{name}.internal").to_ascii_lowercase());
    network.domain.clone().or_else(made)
}

/// Which of a network's addresses a guest is told to ask, of those that it can reach best: not the link-local one where
/// there is another, as not everybody can write that down.
pub(super) fn told(network: &Network, v6: bool) -> Vec<IpAddr> {
    let mut places: Vec<IpAddr> = places(network).into_iter().filter(|place| place.is_ipv6() == v6).collect();
    if places.len() > 1 {
        places.retain(|place| *place != IpAddr::V6(GATEWAY_V6));
    }
    places
}

pub(super) fn zones(context: &Context<'_>) -> BTreeMap<NetworkName, Zone> {
    let mut zones = BTreeMap::new();
    for (name, network) in &context.config.networks {
        let own = places(network);
        if own.is_empty() {
            continue;
        }
        let domain = domain(name, network).unwrap_or_default();
        let is_private =
            |private: &&str| domain.strip_suffix(private).is_some_and(|rest| rest.ends_with('.'));
        let alone =
            !domain.contains('.') || PRIVATE.iter().any(is_private) || PRIVATE.contains(&domain.as_str());
        let prefixes = match &network.mode {
            Mode::Nat { subnets, .. } | Mode::Isolated { subnets, .. } => {
                subnets.iter().map(|subnet| subnet.prefix).collect()
            }
            Mode::Routed { install_pool, .. } => install_pool.clone(),
            Mode::Bridged { .. } | Mode::Vnet { .. } => Vec::new(),
        };
        let gateways = own
            .into_iter()
            .filter(|place| *place != IpAddr::V6(GATEWAY_V6) && *place != IpAddr::V4(ROUTED_GATEWAY_V4));
        let gateways: BTreeSet<IpAddr> = gateways.collect();
        let host = context.config.host.split('.').next().unwrap_or_default();
        let host = (!gateways.is_empty() && !host.is_empty())
            .then(|| HostName { name: host.to_owned(), addresses: gateways });
        let head = ZoneHead { domain, alone, prefixes, servers: network.dns_servers.clone(), host };
        let mut guests = BTreeMap::new();
        for (guest, of) in &context.config.guests {
            let nics = of.nics.iter().filter(|nic| nic.network == *name);
            let addresses: BTreeSet<IpAddr> = nics.flat_map(|nic| &nic.addresses).map(IpNet::addr).collect();
            if !addresses.is_empty() {
                guests.insert(guest.clone(), addresses);
            }
        }
        zones.insert(name.clone(), Zone { head, guests });
    }
    zones
}
