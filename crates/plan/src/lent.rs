//! Ports of bridges of ours that others made: how they are given back, and what becomes of a bridge by what they carry.

use std::collections::BTreeSet;

use viaduct_model::Config;
use viaduct_types::{IfName, VnetName};

use crate::{
    desired::{ADOPTED, CARRIER, Desired, DesiredLink, PORT, is_link_local},
    op::{LinkChange, NewLink, Op},
    state::{Address, AddressInfo, Link, OPEN_GROUP, Observed, PROTOCOL},
};

/// What the alias of a vnet's port ends with that was down before: beside it nothing is remembered.
const WAS_DOWN: &str = ":down";

/// The alias of an interface that is the port of a vnet: as it was before it became one.
pub(crate) fn port_alias(name: &VnetName, link: Option<&Link>) -> String {
    let was_down = link.is_some_and(|link| match link.alias.starts_with(PORT) {
        true => link.alias.ends_with(WAS_DOWN),
        false => !link.up || link.alias == CARRIER,
    });
    format!("{PORT}{name}{}", if was_down { WAS_DOWN } else { "" })
}

/// Marks what is down and has to come up for what stands on it, so that it is down again afterwards. What the file gives
/// addresses or ways out is set up by it, and what has an alias of others' keeps that.
pub(crate) fn mark_carriers(config: &Config, observed: &Observed, wanted: &mut Desired) {
    let vlans = wanted.links.values().filter_map(|link| match &link.make {
        Some(NewLink::Vlan { parent, .. }) => Some(parent),
        _ => None,
    });
    let devices = wanted.namespaces.values().flat_map(|namespace| namespace.devices.values());
    let carriers: BTreeSet<IfName> =
        vlans.chain(devices.filter_map(|device| device.kind.parent())).cloned().collect();
    let is_set_up = |name: &IfName| {
        let mut uplinks = config.uplinks.values().filter(|uplink| uplink.interface == *name);
        uplinks.any(|uplink| !uplink.addresses.is_empty() || !uplink.gateways.is_empty())
    };
    for name in carriers.iter().filter(|name| !wanted.moves.contains_key(*name) && !is_set_up(name)) {
        let Some(link) = observed.links.get(name) else { continue };
        let was_down = match link.alias.as_str() {
            "" => !link.up,
            alias => alias == CARRIER || alias.starts_with(PORT) && alias.ends_with(WAS_DOWN),
        };
        if let Some(carrier) = wanted.links.get_mut(name).filter(|link| was_down && link.alias.is_none()) {
            carrier.alias = Some(CARRIER.to_owned());
        }
    }
}

/// Whether somebody else has found a use for it since: it stays up then.
fn has_other_use(name: &IfName, link: &Link, observed: &Observed) -> bool {
    let is_foreign = |(address, info): (&Address, &AddressInfo)| {
        address.link == *name && info.protocol != PROTOCOL && !is_link_local(address.address)
    };
    let stands_on =
        |other: &Link| other.vlan.is_some_and(|(parent, _)| parent == link.index) && !other.is_ours();
    link.master.is_some()
        || observed.addresses.iter().any(is_foreign)
        || observed.links.values().any(stands_on)
}

/// What gives a device that somebody else made back as it was; `parted`: it is out of its bridge already, and `needed`: it has to be
/// up for something else.
pub(crate) fn given_back(
    name: &IfName,
    link: &Link,
    observed: &Observed,
    parted: bool,
    needed: bool,
) -> Vec<Op> {
    if link.alias == CARRIER {
        let down =
            (link.up && !needed && !has_other_use(name, link, observed)).then_some(LinkChange::Up(false));
        let changes = down.into_iter().chain([LinkChange::Alias(String::new())]);
        return changes.map(|change| Op::SetLink { name: name.clone(), change }).collect();
    }
    let adopted = link.alias.starts_with(ADOPTED);
    if !adopted && !link.alias.starts_with(PORT) {
        return Vec::new();
    }
    let leaves = (link.master.is_some() && !parted).then_some(LinkChange::Master(None));
    let down =
        (!adopted && link.alias.ends_with(WAS_DOWN) && link.up && !needed).then_some(LinkChange::Up(false));
    // Of a vnet's port the second is as it was.
    let group = (adopted || link.group == OPEN_GROUP).then_some(LinkChange::Group(0));
    let of_guest = adopted.then_some(LinkChange::AddrgenNone(false));
    let changes = leaves.into_iter().chain(down).chain(group).chain(of_guest);
    let changes = changes.chain([LinkChange::Alias(String::new())]);
    changes.map(|change| Op::SetLink { name: name.clone(), change }).collect()
}

/// Whether a bridge has a port that takes longer frames than the bridge itself.
pub(crate) fn has_longer_port(bridge: &IfName, mtu: u32, desired: &Desired) -> bool {
    desired.links.values().any(|port| is_longer(port, bridge, mtu))
}

fn is_longer(port: &DesiredLink, bridge: &IfName, mtu: u32) -> bool {
    port.master.as_ref() == Some(bridge) && port.mtu.is_some_and(|port| port > mtu)
}

/// What keeps the MTU of a bridge after these steps: it takes the least of its ports with each that comes, unless somebody
/// has set one before (net/bridge/br_if.c, `br_mtu_auto_adjust`).
pub(crate) fn kept_mtu(bridge: &IfName, desired: &Desired, ops: &[Op]) -> Option<Op> {
    let link = desired.links.get(bridge)?;
    let (Some(NewLink::Bridge), Some(mtu)) = (&link.make, link.mtu) else { return None };
    let changes = |op: &Op| {
        let Op::SetLink { name, change: LinkChange::Master(Some(_)) | LinkChange::Mtu(_) } = op else {
            return false;
        };
        desired.links.get(name).is_some_and(|port| is_longer(port, bridge, mtu))
    };
    let change = LinkChange::Mtu(mtu);
    ops.iter().any(changes).then(|| Op::SetLink { name: bridge.clone(), change })
}
