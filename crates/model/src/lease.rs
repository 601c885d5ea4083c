//! Addresses for NICs that the file gives none, and prefixes for what is behind NICs: which NIC gets which, and keeps it. Pure; the same input gives the same
//! addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};
use viaduct_types::{IpNet, Ipv6Net, NetworkName, NicId, stable_hash};

use crate::{Config, Delegate, Family, Mode, Network, Nic, ipam};

/// Seconds for which an address that somebody else uses is not given out again.
pub const AVOIDED: u64 = 3600;

/// Which addresses are lent to whom, and which prefixes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leases {
    /// IPv4, by NIC; also of NICs that are not attached, as long as nobody else needs the address.
    pub held: BTreeMap<NicId, Lease<IpAddr>>,
    /// IPv6.
    #[serde(default)]
    pub held6: BTreeMap<NicId, Lease<IpAddr>>,
    /// Prefixes for what is behind NICs.
    #[serde(default)]
    pub delegated: BTreeMap<NicId, Lease<Ipv6Net>>,
    /// Addresses that somebody else was found to use, until when (seconds since 1970).
    #[serde(default)]
    pub avoided: BTreeMap<IpAddr, u64>,
}

/// An address, or a prefix, that is lent to a NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease<T> {
    /// For which network.
    pub network: NetworkName,
    /// Which.
    pub address: T,
}

impl Leases {
    /// Gives an address of each family to each NIC that has none and is attached, on networks that serve DHCP and have
    /// addresses to give, and a prefix to each that is to have one. Who has one keeps it. `written` are the addresses of
    /// the [file](written_addresses), `now` is in seconds since 1970. NICs for which there was none left are returned.
    pub fn renew<'a>(
        &mut self,
        config: &Config,
        written: &BTreeSet<IpAddr>,
        attached: impl IntoIterator<Item = &'a NicId>,
        now: u64,
    ) -> Vec<NicId> {
        self.avoided.retain(|_, until| *until > now);
        if !lends(config) {
            // Mostly so, and asked for at each change of a guest.
            (self.held, self.held6, self.delegated) = Default::default();
            return Vec::new();
        }
        let may_be_lent = |nic: &Nic| {
            let network = || config.networks.get(&nic.network);
            nic.addresses.is_empty() || network().is_some_and(|network| network.delegate.is_some())
        };
        let attached: Borrowers<'_> = attached
            .into_iter()
            .filter_map(|id| Some((id, config.nic(id)?)))
            .filter(|(_, nic)| may_be_lent(nic))
            .collect();
        let mut without = BTreeSet::new();
        for (family, held) in [(Family::V4, &mut self.held), (Family::V6, &mut self.held6)] {
            let lender = Lender { config, family, written, avoided: &self.avoided };
            without.extend(lender.renew(held, &attached));
        }
        without.extend(delegate(config, &mut self.delegated, &attached));
        without.into_iter().collect()
    }

    /// Somebody else uses an address: it is not given out for [`AVOIDED`] seconds.
    pub fn avoid(&mut self, address: IpAddr, now: u64) {
        self.avoided.insert(address, now.saturating_add(AVOIDED));
    }

    /// What a NIC is lent of a family.
    pub fn lent(&self, nic: &NicId, family: Family) -> Option<IpAddr> {
        let held = match family {
            Family::V4 => &self.held,
            Family::V6 => &self.held6,
        };
        held.get(nic).map(|lease| lease.address)
    }

    /// The configuration with what is lent; none when there is nothing of its NICs.
    pub fn lend(&self, config: &Config) -> Option<Config> {
        let mut whole = None;
        let mut nic_of = |id: &NicId, change: &dyn Fn(&mut Nic)| {
            let whole = whole.get_or_insert_with(|| config.clone());
            if let Some(nic) =
                whole.guests.get_mut(&id.guest).and_then(|g| g.nics.get_mut(usize::from(id.index)))
            {
                change(nic);
            }
        };
        for (id, lease) in self.held.iter().chain(&self.held6) {
            let Some(network) = config.networks.get(&lease.network) else { continue };
            let family = Family::of(lease.address);
            let Some(prefix) = pool(network, family).find(|prefix| prefix.contains(&lease.address)) else {
                continue;
            };
            let length = match network.mode {
                Mode::Routed { .. } => prefix.max_prefix_len(),
                Mode::Nat { .. } | Mode::Isolated { .. } | Mode::Bridged { .. } | Mode::Vnet { .. } => {
                    prefix.prefix_len()
                }
            };
            if config.nic(id).is_none_or(|nic| nic.network != lease.network || !nic.addresses.is_empty()) {
                continue;
            }
            if let Ok(address) = IpNet::new(lease.address, length) {
                nic_of(id, &|nic| {
                    nic.addresses.push(address);
                    nic.lent = true;
                });
            }
        }
        for (id, lease) in &self.delegated {
            if config.nic(id).is_some_and(|nic| nic.network == lease.network) {
                nic_of(id, &|nic| nic.delegated = Some(lease.address));
            }
        }
        whole
    }
}

/// NICs that are attached and may be lent something.
type Borrowers<'a> = BTreeMap<&'a NicId, &'a Nic>;

/// Who lends addresses of a family.
struct Lender<'a> {
    config: &'a Config,
    family: Family,
    /// What the file gives to somebody.
    written: &'a BTreeSet<IpAddr>,
    avoided: &'a BTreeMap<IpAddr, u64>,
}

impl Lender<'_> {
    fn renew(&self, held: &mut BTreeMap<NicId, Lease<IpAddr>>, attached: &Borrowers<'_>) -> Vec<NicId> {
        let config = self.config;
        held.retain(|nic, lease| {
            let place = config.nic(nic).and_then(|nic| borrower(config, nic));
            place.is_some_and(|(name, network)| {
                lease.network == *name
                    && !self.written.contains(&lease.address)
                    && !self.avoided.contains_key(&lease.address)
                    && pool(network, self.family).any(|prefix| prefix.contains(&lease.address))
            })
        });
        let mut lent: BTreeSet<IpAddr> = held.values().map(|lease| lease.address).collect();
        let mut without = Vec::new();
        for (id, nic) in attached.iter().filter(|(_, nic)| nic.addresses.is_empty()) {
            if held.contains_key(*id) {
                continue;
            }
            let Some((name, network)) = borrower(config, nic) else { continue };
            if pool(network, self.family).next().is_none() {
                continue;
            }
            let mut address = self.choose(network, nic, &lent);
            if address.is_none() {
                address = give_way(held, name, attached);
            }
            match address {
                Some(address) => {
                    lent.insert(address);
                    held.insert((*id).clone(), Lease { network: name.clone(), address });
                }
                None => without.push((*id).clone()),
            }
        }
        without
    }

    /// A free address: the one that the NIC's MAC leads to, or the next, so that a NIC mostly gets the same one again even
    /// when nobody remembers. Of a /64 it is the one that the NIC would make for itself.
    fn choose(&self, network: &Network, nic: &Nic, lent: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let used = |address: &IpAddr| {
            lent.contains(address) || self.written.contains(address) || self.avoided.contains_key(address)
        };
        pool(network, self.family).find_map(|prefix| {
            let is_free =
                |address: IpAddr| !used(&address) && ipam::role_on_segment(prefix, address).is_none();
            let own = match prefix {
                IpNet::V6(v6) => nic.mac.slaac(v6).map(IpAddr::V6).filter(|own| is_free(*own)),
                IpNet::V4(_) => None,
            };
            let first = ipam::number(prefix.network());
            // More than are ever tried.
            let count = 1u64 << u32::from(prefix.max_prefix_len() - prefix.prefix_len()).min(62);
            let begin = stable_hash(&nic.mac.0) % count;
            // Every address that cannot be given is one of these or one of the two that nobody can have.
            let tries = count.min((lent.len() + self.written.len() + self.avoided.len()) as u64 + 3);
            own.or_else(|| {
                (0..tries).find_map(|step| {
                    let number = first + u128::from((begin + step) % count);
                    let address = match prefix {
                        IpNet::V4(_) => IpAddr::V4(u32::try_from(number).ok()?.into()),
                        IpNet::V6(_) => IpAddr::V6(number.into()),
                    };
                    Some(address).filter(|address| is_free(*address))
                })
            })
        })
    }
}

/// Takes back what one that is away was lent of a network.
fn give_way<T: Clone>(
    held: &mut BTreeMap<NicId, Lease<T>>,
    network: &NetworkName,
    attached: &Borrowers<'_>,
) -> Option<T> {
    let away = held.iter().find(|(other, lease)| lease.network == *network && !attached.contains_key(other));
    let (other, address) = away.map(|(other, lease)| (other.clone(), lease.address.clone()))?;
    held.remove(&other);
    Some(address)
}

/// Gives a prefix to each NIC that is attached and is to have one; those without are returned.
fn delegate(
    config: &Config,
    held: &mut BTreeMap<NicId, Lease<Ipv6Net>>,
    attached: &Borrowers<'_>,
) -> Vec<NicId> {
    held.retain(|id, lease| {
        config.nic(id).and_then(|nic| router(config, id, nic)).is_some_and(|(name, delegate)| {
            lease.network == *name
                && lease.address.prefix_len() == delegate.length
                && delegate.pool.iter().any(|prefix| prefix.contains(&lease.address))
        })
    });
    let mut used: BTreeSet<Ipv6Net> = held.values().map(|lease| lease.address).collect();
    let mut without = Vec::new();
    for (id, nic) in attached {
        if held.contains_key(*id) {
            continue;
        }
        let Some((name, delegate)) = router(config, id, nic) else { continue };
        let free = part(delegate, nic, &used).or_else(|| give_way(held, name, attached));
        match free {
            Some(address) => {
                used.insert(address);
                held.insert((*id).clone(), Lease { network: name.clone(), address });
            }
            None => without.push((*id).clone()),
        }
    }
    without
}

/// The network of a NIC that is to have a prefix. What a guest's own lists allow is about its own addresses: with a
/// prefix behind it, it could speak with others.
fn router<'a>(config: &'a Config, id: &NicId, nic: &'a Nic) -> Option<(&'a NetworkName, &'a Delegate)> {
    let delegate = config.networks.get(&nic.network)?.delegate.as_ref()?;
    let guest = config.guests.get(&id.guest)?;
    (guest.allow_in.is_none() && guest.allow_out.is_none()).then_some((&nic.network, delegate))
}

/// A free part of a pool: the one that the NIC's MAC leads to, or the next.
fn part(delegate: &Delegate, nic: &Nic, used: &BTreeSet<Ipv6Net>) -> Option<Ipv6Net> {
    delegate.pool.iter().find_map(|prefix| {
        let count = 1u64 << u32::from(delegate.length.saturating_sub(prefix.prefix_len())).min(32);
        let begin = stable_hash(&nic.mac.0) % count;
        let tries = count.min(used.len() as u64 + 1);
        (0..tries).find_map(|step| {
            let offset = u128::from((begin + step) % count) << (128 - u32::from(delegate.length));
            let network = u128::from(prefix.network()) | offset;
            let part = Ipv6Net::new(network.into(), delegate.length).ok()?;
            (!used.contains(&part)).then_some(part)
        })
    })
}

/// The network of a NIC that is to be lent an address.
fn borrower<'a>(config: &'a Config, nic: &'a Nic) -> Option<(&'a NetworkName, &'a Network)> {
    let network = config.networks.get(&nic.network)?;
    (nic.addresses.is_empty() && network.dhcp).then_some((&nic.network, network))
}

/// The prefixes of a family that a network lends addresses of.
fn pool(network: &Network, family: Family) -> impl Iterator<Item = IpNet> {
    let prefixes: Vec<IpNet> = match &network.mode {
        Mode::Nat { subnets, .. } | Mode::Isolated { subnets, .. } => {
            subnets.iter().map(|subnet| subnet.prefix).collect()
        }
        Mode::Routed { install_pool, .. } => install_pool.clone(),
        Mode::Bridged { .. } | Mode::Vnet { .. } => Vec::new(),
    };
    prefixes.into_iter().filter(move |prefix| Family::of(prefix.addr()) == family)
}

/// Whether there is anything that NICs may be lent.
pub fn lends(config: &Config) -> bool {
    config.networks.values().any(|network| network.dhcp || network.delegate.is_some())
}

/// Every address that the file gives to somebody.
pub fn written_addresses(config: &Config) -> BTreeSet<IpAddr> {
    let mut written: BTreeSet<IpAddr> = BTreeSet::new();
    for network in config.networks.values() {
        match &network.mode {
            Mode::Nat { subnets, source_address, .. } => {
                written.extend(subnets.iter().map(|subnet| subnet.gateway));
                written.extend(source_address);
            }
            Mode::Isolated { subnets, .. } => written.extend(subnets.iter().map(|subnet| subnet.gateway)),
            Mode::Vnet { gateways, .. } => written.extend(gateways),
            Mode::Routed { .. } | Mode::Bridged { .. } => {}
        }
    }
    for uplink in config.uplinks.values() {
        written.extend(uplink.addresses.iter().map(IpNet::addr));
        written.extend(&uplink.gateways);
    }
    for guest in config.guests.values() {
        written.extend(guest.nics.iter().flat_map(|nic| &nic.addresses).map(IpNet::addr));
        written.extend(guest.nics.iter().flat_map(|nic| &nic.gateways));
        written.extend(guest.publish.iter().filter_map(|publish| publish.publish.address));
    }
    written
}
