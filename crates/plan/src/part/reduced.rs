//! The guests of a change, and those without which what is asked for them could not be told.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use viaduct_model::{
    Allow, AllowPeer, CableEnd, Config, Guest, InterfaceKind, Mode, Namespace, Network, Nic, Origin,
    Spoofing, Uplink,
};
use viaduct_types::{GuestName, IfName, IpNet, NamespaceName, NetworkName, NicId};

use super::{AskPart, Side, section::Section};
use crate::{
    desired::{Desired, Notice, ask_one, decided_by_one, of_one},
    state::{Attachments, Observed, Target, attached_otherwise, differing},
};

/// More guests than these are planned faster together with all others.
const MOST: usize = 16;
/// With so many others.
const MOST_OTHERS: usize = 256;

/// Two states of a host, reduced to the guests that they differ in.
#[derive(Debug)]
pub struct Reduced<'a> {
    pub(super) before: Side<'a>,
    pub(super) after: Side<'a>,
    /// Attachments that led nowhere when the host was made like `before`.
    pub(super) stale: &'a BTreeSet<NicId>,
    pub(super) changed: BTreeSet<GuestName>,
    /// The namespace whose stack they are in, and whether there are several stacks.
    stack: Option<NamespaceName>,
    several: bool,
    pub(super) small: Pair,
}

/// Two small configurations with their attachments.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) before: (Config, Attachments),
    pub(super) after: (Config, Attachments),
}

impl<'a> Reduced<'a> {
    /// None when no guest differs, or more than a few do. `stale` are the attachments that led nowhere when the host was last
    /// made like `before`.
    pub fn new(before: Side<'a>, after: Side<'a>, stale: &'a BTreeSet<NicId>) -> Option<Self> {
        let same_config = std::ptr::eq(before.config, after.config);
        let mut changed = BTreeSet::new();
        if !same_config {
            if !same_but_for_guests(before.config, after.config) {
                return None;
            }
            changed.extend(differing(&before.config.guests, &after.config.guests, same_guest).cloned());
        }
        let moved = attached_otherwise(before.attachments, after.attachments);
        changed.extend(moved.into_keys().map(|nic| nic.guest.clone()));
        // Who asks for what is so already wants to have it looked at.
        if changed.is_empty() || changed.len() > MOST {
            return None;
        }
        // What is reached by the NICs of a namespace is everybody's in it.
        let shares =
            |name: &GuestName| both(before.config, after.config, name).any(|g| g.namespace.is_some());
        if changed.iter().any(shares) {
            return None;
        }
        if [before.config, after.config].into_iter().any(|config| publishes_at_guests(config, &changed)) {
            return None;
        }
        let (stack, several) = stack(before.config, after.config, &changed)?;
        if stack.is_some() && !same_config {
            // What leaves the namespace as it is has to be let out by the stack before it, too.
            let mut nics =
                changed.iter().flat_map(|name| both(before.config, after.config, name)).flat_map(|g| &g.nics);
            let is_bridged = |nic: &Nic| {
                let network = after.config.networks.get(&nic.network);
                nic.uplink_mac || network.is_some_and(|n| matches!(n.mode, Mode::Bridged { .. }))
            };
            if nics.any(is_bridged) {
                return None;
            }
        }
        let small = Pair::empty(after.config);
        let mut reduced = Self { before, after, stale, changed, stack, several, small };
        let mut guests = reduced.witnesses();
        if !same_config {
            guests.extend(reduced.related());
        }
        if guests.len() > MOST_OTHERS {
            return None;
        }
        reduced.small = reduced.with(&guests);
        // The first such guest of a network, or the last one, changes the ports of all the others.
        let Pair { before: (before, _), after: (after, _) } = &reduced.small;
        (decided_by_one(before) == decided_by_one(after)).then_some(reduced)
    }

    /// Whether it is a changed guest's.
    pub fn is_changed(&self, nic: &NicId) -> bool {
        self.changed.contains(&nic.guest)
    }

    /// What to look at first: what the desired state depends on.
    pub fn ground(&self) -> AskPart {
        let (config, attachments) = &self.small.after;
        let mut asked = AskPart { all_addresses: self.publishes_at_an_address(), ..AskPart::default() };
        for (name, uplink) in &config.uplinks {
            let bridges = config.networks.values().filter(|n| n.uplink.as_ref() == Some(name));
            let bridges = bridges.filter_map(bridge).cloned();
            asked.addresses_of.extend(bridges.chain([uplink.interface.clone()]));
            asked.links.insert(uplink.interface.clone());
        }
        asked.links.extend(
            config.vnets.values().filter_map(|vnet| vnet.port.as_ref()).map(|port| port.interface.clone()),
        );
        for (nic, target) in attachments.iter().filter(|(nic, _)| self.changed.contains(&nic.guest)) {
            match target {
                Target::Tap { name, .. } | Target::Device { name } => asked.links.insert(name.clone()),
                Target::Netns { .. } => {
                    config.nic(nic).is_some_and(|nic| asked.links.insert(nic.device.clone()))
                }
            };
        }
        // What namespaces stand on.
        let interfaces = config.namespaces.values().flat_map(|namespace| &namespace.interfaces);
        for interface in interfaces {
            let named = match &interface.kind {
                InterfaceKind::Veth { end: CableEnd::Bridge(named), .. }
                | InterfaceKind::Device { device: named } => Some(named),
                InterfaceKind::Vlan { .. }
                | InterfaceKind::Macvlan { .. }
                | InterfaceKind::Ipvlan { .. }
                | InterfaceKind::Veth { .. } => None,
            };
            asked.links.extend(interface.kind.parent().or(named).cloned());
        }
        asked.guests = ask_one(config, attachments).guests;
        asked.guests.retain(|nic, _| self.changed.contains(&nic.guest));
        asked
    }

    /// The namespace in whose stack it is; none: in the host's own.
    pub fn stack(&self) -> Option<&NamespaceName> {
        self.stack.as_ref()
    }

    /// The guests of the stack.
    pub(super) fn guests<'c>(
        &self,
        config: &'c Config,
    ) -> impl Iterator<Item = (&'c GuestName, &'c Guest)> + use<'c, '_> {
        let is_here = |guest: &Guest| !self.several || config.stack_of(guest) == self.stack();
        config.guests.iter().filter(move |(_, guest)| is_here(guest))
    }

    /// What is asked of it by a configuration that is reduced to it.
    pub(super) fn desired(
        &self,
        config: &Config,
        attachments: &Attachments,
        ground: &Observed,
    ) -> (Desired, Vec<Notice>) {
        let (mut wanted, notices) = of_one(config, attachments, ground);
        if let Some(written) = self.namespace().map(|namespace| &namespace.sysctls) {
            // What the file says of the namespace's settings is the last word.
            wanted.sysctls.retain(|key, _| !written.contains_key(key.path()));
        }
        (wanted, notices)
    }

    /// The namespace of the stack.
    pub(super) fn namespace(&self) -> Option<&Namespace> {
        self.after.config.namespaces.get(self.stack()?)
    }

    /// What of a configuration is about the stack.
    fn of_stack(&self, config: Config) -> Config {
        match &self.stack {
            Some(name) => config.of_stack(name),
            None if self.several => config.of_host().into_owned(),
            None => config,
        }
    }

    /// What differs, given what [`Self::ground`] found. None when it is no matter of a part.
    pub fn section(&self, ground: &Observed) -> Option<Section> {
        Section::new(self, ground)
    }

    /// Whether what the addresses of this host are decides about a published port that comes or goes.
    fn publishes_at_an_address(&self) -> bool {
        let ports = |side: Side<'_>| -> BTreeSet<IpAddr> {
            self.changed.iter().flat_map(|name| published_addresses(side.config, name)).collect()
        };
        !std::ptr::eq(self.before.config, self.after.config) && ports(self.before) != ports(self.after)
    }

    /// These guests and the changed ones, with their attachments.
    pub(super) fn with(&self, others: &BTreeSet<GuestName>) -> Pair {
        // A guest of a namespace is reached by its NICs.
        let shared = |name: &GuestName| {
            let guests = both(self.before.config, self.after.config, name);
            guests
                .filter_map(|guest| guest.namespace.as_ref()?.as_str().parse().ok())
                .collect::<Vec<GuestName>>()
        };
        let all: BTreeSet<GuestName> = self.changed.iter().chain(others).cloned().collect();
        let all: BTreeSet<GuestName> = all.iter().flat_map(shared).chain(all.iter().cloned()).collect();
        let chosen = || all.iter();
        let small = |side: Side<'_>| {
            let guests = chosen()
                .filter_map(|name| Some((name.clone(), side.config.guests.get(name)?.clone())))
                .collect();
            let of = |name: &GuestName| {
                let nics = side.config.guests.get(name).map_or(0, |guest| guest.nics.len());
                let nics = (0..nics).filter_map(|index| {
                    Some(NicId { guest: name.clone(), index: u8::try_from(index).ok()? })
                });
                nics.filter_map(|nic| side.attachments.get(&nic).cloned().map(|target| (nic, target)))
                    .collect::<Vec<_>>()
            };
            (self.of_stack(without_guests(side.config, guests)), chosen().flat_map(of).collect())
        };
        Pair { before: small(self.before), after: small(self.after) }
    }

    /// Some things are there as long as any guest needs them. For each such thing one guest besides the changed ones
    /// stands for all others.
    fn witnesses(&self) -> BTreeSet<GuestName> {
        let mut witnesses = BTreeSet::new();
        let config = self.after.config;
        let nics = || self.changed.iter().flat_map(|name| both(self.before.config, self.after.config, name));
        let networks: BTreeSet<&NetworkName> = nics().flat_map(|g| &g.nics).map(|nic| &nic.network).collect();
        let everywhere = |g: &Guest| g.publish.iter().any(|p| p.publish.address.is_none());
        let has_list = |g: &Guest| g.allow_in.is_some() || g.allow_out.is_some();
        let (mut published, mut listed) = (networks.clone(), networks);
        // There may be several uplinks, so that every guest with a MAC on one of them is a witness.
        let own_mac = nics().flat_map(|g| &g.nics).any(|nic| nic.uplink_mac);
        for (name, guest) in self.guests(config).filter(|(name, _)| !self.changed.contains(*name)) {
            if published.is_empty() && listed.is_empty() && !own_mac {
                break;
            }
            let first_of = |networks: &mut BTreeSet<&NetworkName>| {
                guest.nics.iter().fold(false, |found, nic| networks.remove(&nic.network) | found)
            };
            let first_to_publish = everywhere(guest) && first_of(&mut published);
            let first_with_list = has_list(guest) && first_of(&mut listed);
            if first_to_publish || first_with_list || own_mac && guest.nics.iter().any(|nic| nic.uplink_mac) {
                witnesses.insert(name.clone());
            }
        }
        let publishes = |guest: &Guest| !guest.publish.is_empty();
        if self.changed.iter().flat_map(|name| both(self.before.config, config, name)).any(publishes) {
            let other = self.guests(config).find(|(name, g)| publishes(g) && !self.changed.contains(*name));
            witnesses.extend(other.map(|(name, _)| name.clone()));
        }
        let of_stack = |n: &&Network| n.namespace == self.stack;
        let mode = |nic: &Nic| config.networks.get(&nic.network).filter(of_stack).map(|n: &Network| &n.mode);
        let routed = |nic: &Nic| matches!(mode(nic), Some(Mode::Routed { .. }));
        let free =
            |nic: &Nic| nic.spoofing == Spoofing::Mac && matches!(mode(nic), Some(Mode::Bridged { .. }));
        let kinds: [&dyn Fn(&Nic) -> bool; 2] = [&routed, &free];
        for kind in kinds {
            if !nics().flat_map(|g| &g.nics).any(kind) {
                continue;
            }
            let mut attached = self
                .before
                .attachments
                .keys()
                .filter(|nic| !self.changed.contains(&nic.guest) && !self.stale.contains(*nic));
            let witness = attached.find(|nic| config.nic(nic).is_some_and(kind));
            witnesses.extend(witness.map(|nic| nic.guest.clone()));
        }
        witnesses
    }

    /// The guests whose lists name a changed one, and one for each address that others publish at, too.
    fn related(&self) -> BTreeSet<GuestName> {
        let config = self.after.config;
        let sides = [self.before, self.after];
        let addresses: BTreeSet<IpAddr> = sides
            .iter()
            .flat_map(|side| self.changed.iter().flat_map(|name| published_addresses(side.config, name)))
            .collect();
        let bridged: BTreeSet<&NetworkName> = self
            .changed
            .iter()
            .flat_map(|name| both(self.before.config, config, name))
            .flat_map(|guest| &guest.nics)
            .map(|nic| &nic.network)
            .filter(|name| config.networks.get(*name).is_some_and(|n| bridge(n).is_some()))
            .collect();
        let names = |allow: &Allow| match &allow.peer {
            AllowPeer::Guest(name) => self.changed.contains(name),
            AllowPeer::Network(name) => bridged.contains(name),
            AllowPeer::Any | AllowPeer::Prefix(_) => false,
        };
        let mut related: BTreeSet<GuestName> = self
            .guests(config)
            .filter(|(_, guest)| lists(guest).any(names))
            .map(|(name, _)| name.clone())
            .collect();
        // That an address is answered for does not depend on how many publish at it; where, on their uplink.
        let mut claimed = BTreeSet::new();
        for (name, guest) in self.guests(config).filter(|(name, _)| !self.changed.contains(*name)) {
            let at = guest.publish.iter().filter_map(|p| p.publish.address).filter(|a| addresses.contains(a));
            let uplink =
                || guest.nics.iter().find_map(|nic| config.networks.get(&nic.network)?.uplink.as_ref());
            if at.fold(false, |new, address| claimed.insert((address, uplink())) | new) {
                related.insert(name.clone());
            }
        }
        // What a list comes to depends on all whom it names.
        let listing =
            || self.changed.iter().chain(&related).flat_map(|name| both(self.before.config, config, name));
        let (mut named, mut members) = (BTreeSet::new(), BTreeSet::new());
        for allow in listing().flat_map(lists) {
            match &allow.peer {
                AllowPeer::Guest(name) => {
                    named.insert(name.clone());
                }
                AllowPeer::Network(name) => {
                    members.extend(config.networks.get(name).and_then(bridge).map(|_| name.clone()));
                }
                AllowPeer::Any | AllowPeer::Prefix(_) => {}
            }
        }
        if !members.is_empty() {
            let is_member = |guest: &Guest| guest.nics.iter().any(|nic| members.contains(&nic.network));
            named.extend(self.guests(config).filter(|(_, g)| is_member(g)).map(|(name, _)| name.clone()));
        }
        related.append(&mut named);
        related
    }
}

impl Pair {
    fn empty(config: &Config) -> Self {
        let none = || (without_guests(config, BTreeMap::new()), Attachments::new());
        Self { before: none(), after: none() }
    }
}

/// The stack that guests are in, all of them and before and after, and whether there are several.
fn stack(
    before: &Config,
    after: &Config,
    guests: &BTreeSet<GuestName>,
) -> Option<(Option<NamespaceName>, bool)> {
    let has_several = |config: &Config| config.networks.values().any(|network| network.namespace.is_some());
    if !has_several(before) && !has_several(after) {
        return Some((None, false));
    }
    let of = |config: &Config, name: &GuestName| {
        config.guests.get(name).map(|guest| config.stack_of(guest).cloned())
    };
    let mut stacks = guests.iter().flat_map(|name| [of(before, name), of(after, name)]).flatten();
    let stack = stacks.next()?;
    stacks.all(|other| other == stack).then_some((stack, true))
}

/// A guest as it is on each side.
fn both<'a>(before: &'a Config, after: &'a Config, name: &GuestName) -> impl Iterator<Item = &'a Guest> {
    [before.guests.get(name), after.guests.get(name)].into_iter().flatten()
}

fn lists(guest: &Guest) -> impl Iterator<Item = &Allow> {
    guest.allow_in.iter().chain(&guest.allow_out).flatten()
}

fn published_addresses<'a>(config: &'a Config, name: &GuestName) -> impl Iterator<Item = IpAddr> + 'a {
    config.guests.get(name).into_iter().flat_map(|g| &g.publish).filter_map(|p| p.publish.address)
}

/// Whether one of these has an address at which somebody publishes, or publishes at one that a guest has: who answers for it
/// depends on both.
fn publishes_at_guests(config: &Config, changed: &BTreeSet<GuestName>) -> bool {
    let own = |guest: &Guest| -> Vec<IpAddr> {
        guest.nics.iter().flat_map(|nic| &nic.addresses).map(IpNet::addr).collect()
    };
    let guests = || changed.iter().filter_map(|name| config.guests.get(name));
    let had: BTreeSet<IpAddr> = guests().flat_map(own).collect();
    let at: BTreeSet<IpAddr> = changed.iter().flat_map(|name| published_addresses(config, name)).collect();
    let is_at =
        |guest: &Guest| guest.publish.iter().filter_map(|p| p.publish.address).any(|a| had.contains(&a));
    let has = |guest: &Guest| !at.is_empty() && own(guest).iter().any(|a| at.contains(a));
    config.guests.values().any(|guest| is_at(guest) || has(guest))
}

fn bridge(network: &Network) -> Option<&IfName> {
    match &network.mode {
        Mode::Bridged { bridge, .. } => Some(bridge),
        Mode::Nat { .. } | Mode::Routed { .. } | Mode::Isolated { .. } | Mode::Vnet { .. } => None,
    }
}

fn without_guests(config: &Config, guests: BTreeMap<GuestName, Guest>) -> Config {
    Config {
        host: config.host.clone(),
        single_port: config.single_port,
        stack: config.stack.clone(),
        uplinks: config.uplinks.clone(),
        networks: config.networks.clone(),
        guests,
        namespaces: config.namespaces.clone(),
        peers: config.peers.clone(),
        vnets: config.vnets.clone(),
        relay: config.relay.clone(),
        discovery: config.discovery.clone(),
    }
}

/// Lines of the file may have moved; that is no difference.
fn same_but_for_guests(one: &Config, other: &Config) -> bool {
    let nowhere = || Origin { file: "".into(), line: 0 };
    let networks = |config: &Config| -> Vec<_> {
        let at = |n: &Network| Network { origin: nowhere(), ..n.clone() };
        config.networks.iter().map(|(name, n)| (name.clone(), at(n))).collect()
    };
    let uplinks = |config: &Config| -> Vec<_> {
        let at = |u: &Uplink| Uplink { origin: nowhere(), ..u.clone() };
        config.uplinks.iter().map(|(name, u)| (name.clone(), at(u))).collect()
    };
    one.host == other.host
        && uplinks(one) == uplinks(other)
        && networks(one) == networks(other)
        && one.namespaces == other.namespaces
        && one.peers == other.peers
        && one.vnets == other.vnets
}

fn same_guest(one: &Guest, other: &Guest) -> bool {
    let Guest { id, nics, publish, allow_in, allow_out, namespace, is_namespace, hooks, origin: _ } = one;
    *id == other.id
        && nics.len() == other.nics.len()
        && nics.iter().zip(&other.nics).all(|(a, b)| same_nic(a, b))
        && publish.iter().map(|p| p.publish).eq(other.publish.iter().map(|p| p.publish))
        && same_list(allow_in.as_deref(), other.allow_in.as_deref())
        && same_list(allow_out.as_deref(), other.allow_out.as_deref())
        && *namespace == other.namespace
        && *is_namespace == other.is_namespace
        && *hooks == other.hooks
}

fn same_nic(one: &Nic, other: &Nic) -> bool {
    let Nic {
        network,
        name,
        device,
        mac,
        lent,
        addresses,
        delegated,
        gateways,
        spoofing,
        uplink_mac,
        mtu,
        boot,
        vlan,
        trunk,
        origin: _,
    } = one;
    *network == other.network
        && *name == other.name
        && *device == other.device
        && *mac == other.mac
        && *addresses == other.addresses
        && *delegated == other.delegated
        && *gateways == other.gateways
        && *spoofing == other.spoofing
        && *uplink_mac == other.uplink_mac
        && *mtu == other.mtu
        && *boot == other.boot
        && *vlan == other.vlan
        && *trunk == other.trunk
        && *lent == other.lent
}

fn same_list(one: Option<&[Allow]>, other: Option<&[Allow]>) -> bool {
    let same = |(a, b): (&Allow, &Allow)| a.peer == b.peer && a.services == b.services;
    match (one, other) {
        (Some(one), Some(other)) => one.len() == other.len() && one.iter().zip(other).all(same),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}
