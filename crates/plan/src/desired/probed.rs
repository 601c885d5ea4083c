//! Addresses that have to be nobody else's before a guest gets them.

use std::collections::BTreeMap;

use viaduct_model::{Config, Mode};
use viaduct_types::{NamespaceName, NicId};

use super::context::{layer3, ports};
use crate::state::{Attachments, Proxy};

/// The addresses of attached NICs that the file wants to be asked for on an uplink first, with the device to ask on and
/// the namespace that it is in, and whose they are.
pub fn probed(config: &Config, attachments: &Attachments) -> BTreeMap<(Option<NamespaceName>, Proxy), NicId> {
    let mut probed = BTreeMap::new();
    // Asked for at each change of a guest.
    if !config.networks.values().any(|network| matches!(network.mode, Mode::Routed { probe: true, .. })) {
        return probed;
    }
    for port in ports(config, attachments) {
        let Mode::Routed { proxy: true, probe: true, .. } = port.network.mode else { continue };
        // What is lent is translated on the way out; nobody there ever sees it.
        if port.nic.lent {
            continue;
        }
        let Some(name) = &port.network.uplink else { continue };
        let Some(uplink) = config.uplinks.get(name) else { continue };
        for address in port.nic.addresses.iter().map(|net| net.addr()) {
            let link = layer3(config, name, uplink).clone();
            let stack = port.network.namespace.clone();
            probed.insert((stack, Proxy { link, address }), port.id.clone());
        }
    }
    probed
}
