//! Addresses for NICs that the file gives none: which NIC gets which, and keeps it. Pure; the same input gives the same
//! addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};
use viaduct_types::{IpNet, NetworkName, NicId, stable_hash};

use crate::{Config, Mode, Network, Nic, ipam};

/// Seconds for which an address that somebody else uses is not given out again.
pub const AVOIDED: u64 = 3600;

/// Which addresses are lent to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leases {
    /// By NIC; also of NICs that are not attached, as long as nobody else needs the address.
    pub held: BTreeMap<NicId, Lease>,
    /// Addresses that somebody else was found to use, until when (seconds since 1970).
    #[serde(default)]
    pub avoided: BTreeMap<IpAddr, u64>,
}

/// An address that is lent to a NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// For which network.
    pub network: NetworkName,
    /// Which.
    pub address: IpAddr,
}

impl Leases {
    /// Gives an address to each NIC that has none and is attached, on networks that serve DHCP and have addresses to
    /// give. Who has one keeps it. `now` is in seconds since 1970. NICs for which there was none left are returned.
    pub fn renew<'a>(
        &mut self,
        config: &Config,
        attached: impl IntoIterator<Item = &'a NicId>,
        now: u64,
    ) -> Vec<NicId> {
        self.avoided.retain(|_, until| *until > now);
        let taken = taken(config);
        self.held.retain(|nic, lease| {
            let place = config.nic(nic).and_then(|nic| borrower(config, nic));
            place.is_some_and(|(name, network)| {
                lease.network == *name
                    && !taken.contains(&lease.address)
                    && !self.avoided.contains_key(&lease.address)
                    && pool(network).any(|prefix| prefix.contains(&lease.address))
            })
        });
        let attached: BTreeSet<&NicId> = attached.into_iter().collect();
        let mut used = taken;
        used.extend(self.held.values().map(|lease| lease.address));
        used.extend(self.avoided.keys());
        let mut without = Vec::new();
        for id in &attached {
            if self.held.contains_key(*id) {
                continue;
            }
            let Some((nic, (name, network))) =
                config.nic(id).and_then(|nic| Some((nic, borrower(config, nic)?)))
            else {
                continue;
            };
            if pool(network).next().is_none() {
                continue;
            }
            let mut address = choose(network, nic, &used);
            if address.is_none() {
                // Who is away gives way.
                let away = self
                    .held
                    .iter()
                    .find(|(other, lease)| lease.network == *name && !attached.contains(other));
                if let Some((other, lease)) = away.map(|(other, lease)| (other.clone(), lease.address)) {
                    self.held.remove(&other);
                    address = Some(lease);
                }
            }
            match address {
                Some(address) => {
                    used.insert(address);
                    self.held.insert((*id).clone(), Lease { network: name.clone(), address });
                }
                None => without.push((*id).clone()),
            }
        }
        without
    }

    /// Somebody else uses an address: it is not given out for [`AVOIDED`] seconds.
    pub fn avoid(&mut self, address: IpAddr, now: u64) {
        self.avoided.insert(address, now.saturating_add(AVOIDED));
    }

    /// The configuration with the addresses that are lent; none when there are none of its NICs.
    pub fn lend(&self, config: &Config) -> Option<Config> {
        let mut lent = None;
        for (id, lease) in &self.held {
            let Some(network) = config.networks.get(&lease.network) else { continue };
            let Some(prefix) = pool(network).find(|prefix| prefix.contains(&lease.address)) else { continue };
            let length = match network.mode {
                Mode::Routed { .. } => prefix.max_prefix_len(),
                Mode::Nat { .. } | Mode::Isolated { .. } | Mode::Bridged { .. } | Mode::Vnet { .. } => {
                    prefix.prefix_len()
                }
            };
            if config.nic(id).is_none_or(|nic| nic.network != lease.network || !nic.addresses.is_empty()) {
                continue;
            }
            let whole = lent.get_or_insert_with(|| config.clone());
            let nic = whole.guests.get_mut(&id.guest).and_then(|g| g.nics.get_mut(usize::from(id.index)));
            if let (Some(nic), Ok(address)) = (nic, IpNet::new(lease.address, length)) {
                nic.addresses = vec![address];
                nic.lent = true;
            }
        }
        lent
    }
}

/// The network of a NIC that is to be lent an address.
fn borrower<'a>(config: &'a Config, nic: &'a Nic) -> Option<(&'a NetworkName, &'a Network)> {
    let network = config.networks.get(&nic.network)?;
    (nic.addresses.is_empty() && network.dhcp).then_some((&nic.network, network))
}

/// The prefixes that a network lends addresses of.
fn pool(network: &Network) -> impl Iterator<Item = IpNet> {
    let prefixes: Vec<IpNet> = match &network.mode {
        Mode::Nat { subnets, .. } | Mode::Isolated { subnets, .. } => {
            subnets.iter().map(|subnet| subnet.prefix).collect()
        }
        Mode::Routed { install_pool, .. } => install_pool.clone(),
        Mode::Bridged { .. } | Mode::Vnet { .. } => Vec::new(),
    };
    // IPv6 is told by router advertisements, which are not sent yet.
    prefixes.into_iter().filter(|prefix| prefix.addr().is_ipv4())
}

/// Every address that the file gives to somebody.
fn taken(config: &Config) -> BTreeSet<IpAddr> {
    let mut taken: BTreeSet<IpAddr> = BTreeSet::new();
    for network in config.networks.values() {
        match &network.mode {
            Mode::Nat { subnets, source_address, .. } => {
                taken.extend(subnets.iter().map(|subnet| subnet.gateway));
                taken.extend(source_address);
            }
            Mode::Isolated { subnets, .. } => taken.extend(subnets.iter().map(|subnet| subnet.gateway)),
            Mode::Vnet { gateways, .. } => taken.extend(gateways),
            Mode::Routed { .. } | Mode::Bridged { .. } => {}
        }
    }
    for uplink in config.uplinks.values() {
        taken.extend(uplink.addresses.iter().map(IpNet::addr));
        taken.extend(&uplink.gateways);
    }
    for guest in config.guests.values() {
        taken.extend(guest.nics.iter().flat_map(|nic| &nic.addresses).map(IpNet::addr));
        taken.extend(guest.nics.iter().flat_map(|nic| &nic.gateways));
        taken.extend(guest.publish.iter().filter_map(|publish| publish.publish.address));
    }
    taken
}

/// A free address: the one that the NIC's MAC leads to, or the next, so that a NIC mostly gets the same one again even
/// when nobody remembers.
fn choose(network: &Network, nic: &Nic, used: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    pool(network).find_map(|prefix| {
        let IpNet::V4(v4) = prefix else { return None };
        let first = u32::from(v4.network());
        let count = 1u64 << (32 - u32::from(v4.prefix_len()));
        let begin = stable_hash(&nic.mac.0) % count;
        // Every address that cannot be given is one of these or one of the two that nobody can have.
        let tries = count.min(used.len() as u64 + 3);
        (0..tries).find_map(|step| {
            let offset = u32::try_from((begin + step) % count).ok()?;
            let address = IpAddr::V4(first.checked_add(offset)?.into());
            let free = !used.contains(&address) && ipam::role_on_segment(prefix, address).is_none();
            free.then_some(address)
        })
    })
}
