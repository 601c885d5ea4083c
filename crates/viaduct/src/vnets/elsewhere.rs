//! Addresses that this host gives to somebody in a vnet, and another host, too.

use std::{collections::BTreeMap, net::IpAddr};

use viaduct_model::Config;
use viaduct_plan::Attachments;
use viaduct_types::{MacAddr, PeerName};
use viaduct_vnet_io::control::Report;

/// A line for each, as far as the process that carries vnets has heard of the others.
pub(crate) fn elsewhere(config: &Config, attachments: &Attachments, report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, claims) in viaduct_plan::vnet_claims(config, attachments) {
        let carried = config.vnets.get(&name).and_then(|vnet| report.vnets.get(&vnet.id));
        let others: BTreeMap<IpAddr, (MacAddr, &PeerName)> = carried
            .into_iter()
            .flat_map(|vnet| &vnet.macs)
            .filter_map(|(mac, seen)| Some((*mac, seen.peer.as_ref()?, &seen.addresses)))
            .flat_map(|(mac, peer, addresses)| addresses.iter().map(move |address| (*address, (mac, peer))))
            .collect();
        for (own, addresses) in claims {
            let taken = addresses.iter().filter_map(|address| Some((address, others.get(address)?)));
            // Who moves is at two hosts for a while.
            lines.extend(taken.filter(|(_, (mac, _))| *mac != own).map(|(address, (_, peer))| {
                format!(
                    "vnet {name}: {address} is at peer {peer}, too; machines in a vnet have addresses of their own, and each \
                     host has other `gateways`"
                )
            }));
        }
    }
    lines
}
