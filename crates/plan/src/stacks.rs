//! Networks in namespaces: each such namespace has a stack of its own, which is planned like a host of its own, beside
//! the host's.

use std::net::IpAddr;

use viaduct_model::Namespace;
use viaduct_types::{IfName, IpNet, MacAddr, NamespaceName};

use crate::{
    desired::{Desired, INNER, MOVED, NIC, namespace_of},
    diff::one,
    nft::Ruleset,
    op::Op,
    state::{Address, AddressInfo, Features, Link, Observed, ObservedGuest, PROTOCOL, RouteKind},
};

impl Observed {
    /// A stack in which nothing is.
    pub fn nothing(features: Features) -> Self {
        Self {
            links: Default::default(),
            addresses: Default::default(),
            routes: Default::default(),
            proxies: Default::default(),
            unicast: Default::default(),
            sysctls: Default::default(),
            journal: Default::default(),
            nft: Ruleset::default(),
            guests: Default::default(),
            namespaces: Default::default(),
            moved: Default::default(),
            stacks: Default::default(),
            features,
        }
    }
}

/// An interface that a namespace is to have by the host's plan, or another stack's.
struct Interface<'a> {
    name: &'a IfName,
    mac: Option<MacAddr>,
    mtu: u32,
    addresses: Box<dyn Iterator<Item = IpNet> + 'a>,
}

/// What the stack of a namespace is like when the plans of the host and of the stacks before it are carried out: its
/// interfaces are there and, like what is put on them, nothing of the stack's own.
pub(crate) fn supposed(observed: &Observed, name: &NamespaceName, desired: &Desired) -> Observed {
    let nothing = || Observed::nothing(observed.features);
    let mut stack = observed.stacks.get(name).cloned().unwrap_or_else(nothing);
    // Namespaces, and devices of the host that are in them, are the host's business.
    stack.namespaces.clear();
    stack.moved.clear();
    let interfaces: Vec<Interface<'_>> = interfaces(observed, name, desired).collect();
    let is_given = |name: &IfName, link: Option<&Link>| {
        let given = |link: &Link| link.alias.starts_with(INNER) || link.alias.starts_with(MOVED);
        interfaces.iter().any(|interface| interface.name == name) || link.is_some_and(given)
    };
    let is_given: Vec<IfName> = stack
        .links
        .iter()
        .filter(|(name, link)| is_given(name, Some(link)))
        .map(|(name, _)| name.clone())
        .collect();
    let on_given = |link: &IfName| is_given.contains(link);
    stack.addresses.retain(|address, info| !(on_given(&address.link) && info.protocol == PROTOCOL));
    stack.routes.retain(|route| !(route.protocol == PROTOCOL && route.link.as_ref().is_some_and(on_given)));
    for (name, link) in &mut stack.links {
        // The loopback device of a namespace of ours is marked, too.
        if on_given(name) || link.index == 1 {
            link.alias.clear();
        }
    }
    for Interface { name, mac, mtu, addresses } in interfaces {
        let new = || Link { mac, mtu, ..Link::plain(0) };
        stack.links.entry(name.clone()).or_insert_with(new);
        for (place, address) in addresses.enumerate() {
            let info = AddressInfo { protocol: 0, scope: 0, dynamic: false, place };
            stack.addresses.insert(Address { link: name.clone(), address }, info);
        }
    }
    stack
}

/// What a look at a part of a stack says of the interfaces that its namespace has from the host, all being as it should be
/// there.
pub(crate) fn given(mut part: Observed, namespace: &Namespace) -> Observed {
    let is_given = |name: &IfName, link: &Link| {
        let moved = link.alias.starts_with(INNER) || link.alias.starts_with(MOVED);
        moved || namespace.interfaces.iter().any(|interface| interface.name == *name)
    };
    let mut names = Vec::new();
    for (name, link) in &mut part.links {
        if is_given(name, link) {
            link.alias.clear();
            names.push(name.clone());
        }
    }
    for (address, info) in &mut part.addresses {
        if names.contains(&address.link) && info.protocol == PROTOCOL {
            info.protocol = 0;
        }
    }
    part
}

fn interfaces<'a>(
    observed: &'a Observed,
    name: &'a NamespaceName,
    desired: &'a Desired,
) -> impl Iterator<Item = Interface<'a>> {
    let devices = desired.namespaces.get(name).into_iter().flat_map(|namespace| &namespace.devices);
    let devices = devices.map(|(name, device)| {
        let parent = device.kind.parent().and_then(|parent| observed.links.get(parent));
        Interface {
            name,
            mac: device.mac.or_else(|| parent.and_then(|parent| parent.mac)),
            mtu: device.mtu.or(parent.map(|parent| parent.mtu)).unwrap_or(1500),
            addresses: Box::new(device.addresses.iter().copied()) as Box<dyn Iterator<Item = IpNet>>,
        }
    });
    let all = std::iter::once(desired).chain(desired.stacks.iter().map(|(_, stack)| stack));
    let cables = all.flat_map(|stack| stack.guests.values());
    let cables =
        cables.filter(|guest| namespace_of(&guest.netns) == Some(name.as_str())).map(|guest| Interface {
            name: &guest.device,
            mac: Some(guest.mac),
            mtu: guest.mtu,
            addresses: Box::new(guest.addresses.iter().copied()) as Box<dyn Iterator<Item = IpNet>>,
        });
    devices.chain(cables)
}

/// What goes before the host and its namespaces are made: stacks that are not wanted any more, and from the others the
/// guests that leave, who may have come to another.
pub(crate) fn leave(observed: &Observed, desired: &Desired) -> Vec<Op> {
    let mut ops = Vec::new();
    for name in observed.stacks.keys() {
        let now = supposed(observed, name, desired);
        match desired.stack(name) {
            None => ops.extend(within(name, one(&now, &Desired::default()))),
            Some(wanted) => ops.extend(within(name, departures(&now, wanted))),
        }
    }
    ops
}

fn departures(now: &Observed, wanted: &Desired) -> Vec<Op> {
    let leaves =
        |(name, link): &(&IfName, &Link)| link.alias.starts_with(NIC) && !wanted.links.contains_key(*name);
    let names: Vec<IfName> = now.links.iter().filter(leaves).map(|(name, _)| name.clone()).collect();
    if names.is_empty() { Vec::new() } else { vec![Op::DeleteLinks(names)] }
}

/// Whether nothing of ours is in a stack but for the interfaces that its namespace has from the host.
pub fn is_bare(stack: &Observed) -> bool {
    let given = |link: &Link| {
        link.index == 1 || link.alias.starts_with(INNER) || link.alias.starts_with(MOVED) || !link.is_ours()
    };
    stack.nft.tables.is_empty()
        && stack.journal.is_empty()
        && stack.links.values().all(given)
        && !stack.proxies.values().any(|protocol| *protocol == PROTOCOL)
        && !stack.routes.iter().any(|route| route.protocol == PROTOCOL && route.kind != RouteKind::Unicast)
}

/// Makes the stacks that are wanted.
pub(crate) fn make(observed: &Observed, desired: &Desired) -> Vec<Op> {
    let mut ops = Vec::new();
    for (name, wanted) in &desired.stacks {
        let mut now = supposed(observed, name, desired);
        for op in departures(&now, wanted) {
            if let Op::DeleteLinks(names) = op {
                names.iter().for_each(|link| without(&mut now, link));
            }
        }
        // Those in namespaces that are made before have nothing yet.
        for (nic, guest) in &wanted.guests {
            let is_made =
                namespace_of(&guest.netns).is_some_and(|name| desired.namespaces.contains_key(name));
            if is_made && !now.guests.contains_key(nic) {
                now.guests.insert(nic.clone(), ObservedGuest { lo_up: true, ..ObservedGuest::default() });
            }
        }
        ops.extend(within(name, one(&now, wanted)));
    }
    ops
}

/// What went with a device that went.
fn without(now: &mut Observed, link: &IfName) {
    now.links.remove(link);
    now.addresses.retain(|address, _| address.link != *link);
    now.routes.retain(|route| route.link.as_ref() != Some(link));
    now.proxies.retain(|proxy, _| proxy.link != *link);
}

fn within(name: &NamespaceName, ops: Vec<Op>) -> impl Iterator<Item = Op> {
    ops.into_iter().map(|op| Op::Within { namespace: name.clone(), op: Box::new(op) })
}

impl Desired {
    /// What the stack of a namespace should have.
    pub fn stack(&self, name: &NamespaceName) -> Option<&Self> {
        self.stacks.iter().find(|(stack, _)| stack == name).map(|(_, wanted)| wanted)
    }

    /// The stack, and the device in it, with which an address is made known.
    pub fn announced_at(
        &self,
        address: IpAddr,
    ) -> Option<(Option<&NamespaceName>, &IfName, Option<MacAddr>)> {
        let all =
            std::iter::once((None, self)).chain(self.stacks.iter().map(|(name, stack)| (Some(name), stack)));
        all.into_iter().find_map(|(name, stack)| {
            let (proxy, mac) = stack.announced.iter().find(|(proxy, _)| proxy.address == address)?;
            Some((name, &proxy.link, *mac))
        })
    }
}
