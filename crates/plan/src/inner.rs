//! The steps about namespaces that guests share: a part of the plan by itself, since nothing else depends on it.

use std::collections::{BTreeMap, BTreeSet};

use viaduct_types::{IfName, NamespaceName, RoutingRule};

use crate::{
    desired::{Desired, DesiredDevice, DesiredNamespace, INNER, MOVED},
    op::{GuestChange, InnerKind, NamespaceChange, Op},
    order::by_age,
    state::{InnerDevice, Observed, ObservedNamespace, Sysctl, Whereabouts},
};

/// Takes what is ours and not wanted away, and gives back what is the host's.
pub(crate) fn take_away(observed: &Observed, desired: &Desired) -> Vec<Op> {
    let misplaced = observed.moved.iter().filter(|(device, place)| !is_in_place(device, place, desired));
    let give_back = misplaced.map(|(device, place)| Op::Namespace {
        name: place.namespace().clone(),
        change: NamespaceChange::GiveBack(device.clone()),
    });
    let mut ops: Vec<Op> = give_back.collect();
    for (name, seen) in &observed.namespaces {
        let mut push = |change| ops.push(Op::Namespace { name: name.clone(), change });
        match desired.namespaces.get(name) {
            None if seen.ours => push(NamespaceChange::Delete),
            wanted => {
                let none = DesiredNamespace::default();
                let wanted = wanted.unwrap_or(&none);
                seen.rules
                    .difference(&wanted.rules)
                    .for_each(|rule| push(NamespaceChange::DeleteRule(*rule)));
                for (key, value) in seen.journal.iter().filter(|(key, _)| !wanted.sysctls.contains_key(*key))
                {
                    push(NamespaceChange::RestoreSysctl { key: key.clone(), value: value.clone() });
                }
                let devices =
                    seen.devices.iter().filter(|(device, now)| is_unwanted(device, now, &wanted.devices));
                devices.for_each(|(device, _)| push(NamespaceChange::DeleteDevice(device.clone())));
            }
        }
    }
    ops
}

/// Whether a device of the host's is where it is to be, and by the name that it is to have there.
fn is_in_place(device: &IfName, place: &Whereabouts, desired: &Desired) -> bool {
    match place {
        Whereabouts::Inside { namespace, name } => {
            let wanted = desired.namespaces.get(namespace).and_then(|wanted| wanted.devices.get(name));
            wanted.is_some_and(|wanted| wanted.alias == format!("{MOVED}{device}"))
        }
        Whereabouts::Between(_) | Whereabouts::Gone(_) => false,
    }
}

fn is_unwanted(device: &IfName, now: &InnerDevice, wanted: &BTreeMap<IfName, DesiredDevice>) -> bool {
    let alias = wanted.get(device).map(|wanted| &wanted.alias);
    now.alias.starts_with(INNER) && alias != Some(&now.alias)
}

/// Makes the namespaces that are wanted, each with its loopback device up.
pub(crate) fn make(observed: &Observed, desired: &Desired) -> Vec<Op> {
    let one = |name: &NamespaceName| match observed.namespaces.get(name) {
        None => Some(NamespaceChange::Make),
        Some(seen) if !seen.lo_up => {
            lo().map(|device| NamespaceChange::Device { device, change: GuestChange::LoopbackUp })
        }
        Some(_) => None,
    };
    let names = desired.namespaces.keys();
    names.filter_map(|name| Some(Op::Namespace { name: name.clone(), change: one(name)? })).collect()
}

/// Makes what is wanted in them: all devices, then settings, which may be about these, then what is on the devices, then
/// the rules that lead to it. Settings of all namespaces are together, so that what they were is kept at once. Devices go
/// with the host's device that they stand on, so that those of `fresh` ones are gone.
pub(crate) fn fill(observed: &Observed, desired: &Desired, fresh: &BTreeSet<IfName>) -> Vec<Op> {
    let (mut devices, mut set, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    for (name, wanted) in &desired.namespaces {
        let seen = observed.namespaces.get(name);
        let within = |change| Op::Namespace { name: name.clone(), change };
        let mut new = BTreeSet::new();
        for (device, wanted) in &wanted.devices {
            let Steps { make, fill } = one(device, wanted, seen, fresh);
            if !make.is_empty() {
                new.insert(device.as_str());
            }
            devices.extend(make.into_iter().map(within));
            rest.extend(fill.into_iter().map(within));
        }
        set.extend(settings(wanted, seen, &new).into_iter().map(within));
        let there = |rule: &RoutingRule| seen.is_some_and(|seen| seen.rules.contains(rule));
        let rules = wanted.rules.iter().filter(|rule| !there(rule));
        rest.extend(rules.map(|rule| within(NamespaceChange::AddRule(*rule))));
    }
    devices.into_iter().chain(set).chain(rest).collect()
}

/// Those of a `new` device are what the kernel made them.
fn settings(
    wanted: &DesiredNamespace,
    seen: Option<&ObservedNamespace>,
    new: &BTreeSet<&str>,
) -> Vec<NamespaceChange> {
    let differs = |(key, value): &(&Sysctl, &String)| {
        let now = seen.and_then(|seen| seen.sysctls.get(*key));
        let now = now.filter(|_| key.link().is_none_or(|link| !new.contains(link)));
        // The kernel writes tabs between numbers.
        !now.is_some_and(|now| now.split_whitespace().eq(value.split_whitespace()))
    };
    let differing = wanted.sysctls.iter().filter(differs);
    differing
        .map(|(key, value)| NamespaceChange::SetSysctl { key: key.clone(), value: value.clone() })
        .collect()
}

fn lo() -> Option<IfName> {
    "lo".parse().ok()
}

/// What it takes to have a device.
struct Steps {
    make: Vec<NamespaceChange>,
    fill: Vec<NamespaceChange>,
}

fn one(
    device: &IfName,
    wanted: &DesiredDevice,
    seen: Option<&ObservedNamespace>,
    fresh: &BTreeSet<IfName>,
) -> Steps {
    let there = seen.and_then(|seen| seen.devices.get(device));
    let stands = |kind: &InnerKind| kind.parent().is_none_or(|parent| !fresh.contains(parent));
    let now = there.filter(|now| now.alias == wanted.alias && stands(&wanted.kind));
    let mut make = Vec::new();
    let mut changes = Vec::new();
    match now {
        None => {
            // In a namespace of ours: made in a run that was stopped before it could say so.
            if there.is_some_and(|there| !is_known(there)) {
                make.push(NamespaceChange::DeleteDevice(device.clone()));
            }
            make.push(NamespaceChange::AddDevice {
                device: device.clone(),
                kind: wanted.kind.clone(),
                alias: wanted.alias.clone(),
                mac: wanted.mac,
                mtu: wanted.mtu,
            });
        }
        Some(now) => {
            changes.extend(wanted.mac.filter(|mac| now.mac != Some(*mac)).map(GuestChange::Mac));
            changes.extend(wanted.mtu.filter(|mtu| now.mtu != *mtu).map(GuestChange::Mtu));
        }
    }
    let none = (BTreeSet::new(), BTreeSet::new());
    let (addresses, routes) = now.map_or((&none.0, &none.1), |now| (&now.addresses, &now.routes));
    changes.extend(routes.difference(&wanted.routes).cloned().map(GuestChange::DeleteRoute));
    let unwanted = addresses.iter().filter(|address| !wanted.addresses.contains(*address));
    changes.extend(unwanted.copied().map(GuestChange::DeleteAddress));
    let add = |address| GuestChange::AddAddress { address, dad: true };
    let new = wanted.addresses.iter().filter(|address| !addresses.contains(*address));
    changes.extend(by_age(new).map(add));
    changes.extend((!now.is_some_and(|now| now.up)).then_some(GuestChange::Up));
    changes.extend(wanted.routes.difference(routes).cloned().map(GuestChange::AddRoute));
    let inside = |change| NamespaceChange::Device { device: device.clone(), change };
    Steps { make, fill: changes.into_iter().map(inside).collect() }
}

/// Those in which somebody else's device has a name that one of ours is to have.
pub(crate) fn taken<'a>(
    observed: &'a Observed,
    name: &NamespaceName,
    device: &IfName,
) -> Option<&'a InnerDevice> {
    let namespace = observed.namespaces.get(name).filter(|namespace| !namespace.ours)?;
    namespace.devices.get(device).filter(|device| !is_known(device))
}

/// Whether we made it, or moved it in.
fn is_known(device: &InnerDevice) -> bool {
    device.alias.starts_with(INNER) || device.alias.starts_with(MOVED)
}
