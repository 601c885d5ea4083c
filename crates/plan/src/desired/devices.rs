//! Devices that two parts of a configuration mean. Of files this is refused before; what commands made and attached comes beside them.

use std::collections::BTreeMap;

use viaduct_model::{Mode, Origin};
use viaduct_types::IfName;

use super::{
    Notice, Severity,
    context::{Context, bridge_of},
};

/// Each device that two have.
pub(super) fn meant_twice(context: &Context<'_>) -> Vec<Notice> {
    let mut known = BTreeMap::<IfName, String>::new();
    let mut notices = Vec::new();
    let mut mean = |device: &IfName, owner: &str, origin: Option<&Origin>| {
        let Some(other) = known.insert(device.clone(), owner.to_owned()) else { return };
        notices.push(Notice {
            severity: Severity::Error,
            text: format!(
                "{device} is a device of {other} and of {owner}: give one of them another name, or take away what a command \
                 made (`viaduct vnet delete`, `viaduct detach`)"
            ),
            origin: origin.cloned(),
            vnet: None,
        });
    };
    for (name, network) in &context.config.networks {
        // A vnet's is the vnet's.
        if let (Some(bridge), false) = (bridge_of(network), matches!(network.mode, Mode::Vnet { .. })) {
            mean(bridge, &format!("network {name}"), Some(&network.origin));
        }
    }
    for (name, vnet) in &context.config.vnets {
        for device in std::iter::once(vnet.bridge.clone()).chain(vnet.interfaces()) {
            mean(&device, &format!("vnet {name}"), vnet.origin.as_ref());
        }
    }
    for port in &context.ports {
        mean(port.device(), &port.id.to_string(), Some(&port.nic.origin));
    }
    notices
}
