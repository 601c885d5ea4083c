//! Ports of bridges of ours that others made: how they are given back, and what becomes of a bridge by what they carry.

use viaduct_types::{IfName, VnetName};

use crate::{
    desired::{ADOPTED, Desired, DesiredLink, PORT},
    op::{LinkChange, NewLink, Op},
    state::Link,
};

/// What the alias of a vnet's port ends with that was down before: beside it nothing is remembered.
const WAS_DOWN: &str = ":down";

/// The alias of an interface that is the port of a vnet: as it was before it became one.
pub(crate) fn port_alias(name: &VnetName, link: Option<&Link>) -> String {
    let was_down = link.is_some_and(|link| match link.alias.starts_with(PORT) {
        true => link.alias.ends_with(WAS_DOWN),
        false => !link.up,
    });
    format!("{PORT}{name}{}", if was_down { WAS_DOWN } else { "" })
}

/// What gives a device that somebody else made back as it was; `parted`: it is out of its bridge already, and `needed`: it has to be
/// up for something else.
pub(crate) fn given_back(name: &IfName, link: &Link, parted: bool, needed: bool) -> Vec<Op> {
    let adopted = link.alias.starts_with(ADOPTED);
    if !adopted && !link.alias.starts_with(PORT) {
        return Vec::new();
    }
    let leaves = (link.master.is_some() && !parted).then_some(LinkChange::Master(None));
    let down =
        (!adopted && link.alias.ends_with(WAS_DOWN) && link.up && !needed).then_some(LinkChange::Up(false));
    // Of a vnet's port these are as they were.
    let of_guest = adopted.then_some([LinkChange::Group(0), LinkChange::AddrgenNone(false)]);
    let changes = leaves.into_iter().chain(down).chain(of_guest.into_iter().flatten());
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
