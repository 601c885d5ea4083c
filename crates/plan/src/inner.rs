//! The steps about namespaces that guests share: a part of the plan by itself, since nothing else depends on it.

use std::collections::{BTreeMap, BTreeSet};

use viaduct_types::{IfName, NamespaceName};

use crate::{
    desired::{Desired, DesiredDevice, INNER},
    op::{GuestChange, NamespaceChange, Op},
    state::{InnerDevice, Observed, ObservedNamespace},
};

/// Takes what is ours and not wanted away.
pub(crate) fn take_away(observed: &Observed, desired: &Desired) -> Vec<Op> {
    let mut ops = Vec::new();
    for (name, seen) in &observed.namespaces {
        let mut push = |change| ops.push(Op::Namespace { name: name.clone(), change });
        match desired.namespaces.get(name) {
            None if seen.ours => push(NamespaceChange::Delete),
            wanted => {
                for (device, _) in
                    seen.devices.iter().filter(|(device, now)| is_unwanted(device, now, wanted))
                {
                    push(NamespaceChange::DeleteDevice(device.clone()));
                }
            }
        }
    }
    ops
}

fn is_unwanted(device: &IfName, now: &InnerDevice, wanted: Option<&BTreeMap<IfName, DesiredDevice>>) -> bool {
    let alias = wanted.and_then(|devices| devices.get(device)).map(|wanted| &wanted.alias);
    now.alias.starts_with(INNER) && alias != Some(&now.alias)
}

/// Makes what is wanted. Devices go with the host's device that they stand on, so that those of `fresh` ones are gone.
pub(crate) fn make(observed: &Observed, desired: &Desired, fresh: &BTreeSet<IfName>) -> Vec<Op> {
    let mut ops = Vec::new();
    for (name, devices) in &desired.namespaces {
        let seen = observed.namespaces.get(name);
        let mut changes = Vec::new();
        match seen {
            None => changes.push(NamespaceChange::Make),
            Some(seen) if !seen.lo_up => changes.extend(
                lo().map(|device| NamespaceChange::Device { device, change: GuestChange::LoopbackUp }),
            ),
            Some(_) => {}
        }
        for (device, wanted) in devices {
            changes.extend(one(device, wanted, seen, fresh));
        }
        ops.extend(changes.into_iter().map(|change| Op::Namespace { name: name.clone(), change }));
    }
    ops
}

fn lo() -> Option<IfName> {
    "lo".parse().ok()
}

fn one(
    device: &IfName,
    wanted: &DesiredDevice,
    seen: Option<&ObservedNamespace>,
    fresh: &BTreeSet<IfName>,
) -> Vec<NamespaceChange> {
    let there = seen.and_then(|seen| seen.devices.get(device));
    let now = there.filter(|now| now.alias == wanted.alias && !fresh.contains(wanted.kind.parent()));
    let mut steps = Vec::new();
    let mut changes = Vec::new();
    match now {
        None => {
            // In a namespace of ours: made in a run that was stopped before it could say so.
            if there.is_some_and(|there| !there.alias.starts_with(INNER)) {
                steps.push(NamespaceChange::DeleteDevice(device.clone()));
            }
            steps.push(NamespaceChange::AddDevice {
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
    changes.extend(addresses.difference(&wanted.addresses).copied().map(GuestChange::DeleteAddress));
    let add = |address: &_| GuestChange::AddAddress { address: *address, dad: true };
    changes.extend(wanted.addresses.difference(addresses).map(add));
    changes.extend((!now.is_some_and(|now| now.up)).then_some(GuestChange::Up));
    changes.extend(wanted.routes.difference(routes).cloned().map(GuestChange::AddRoute));
    let inside = |change| NamespaceChange::Device { device: device.clone(), change };
    steps.extend(changes.into_iter().map(inside));
    steps
}

/// Those in which somebody else's device has a name that one of ours is to have.
pub(crate) fn taken<'a>(
    observed: &'a Observed,
    name: &NamespaceName,
    device: &IfName,
) -> Option<&'a InnerDevice> {
    let namespace = observed.namespaces.get(name).filter(|namespace| !namespace.ours)?;
    namespace.devices.get(device).filter(|device| !device.alias.starts_with(INNER))
}
