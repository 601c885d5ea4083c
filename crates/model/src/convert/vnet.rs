use std::collections::BTreeSet;

use viaduct_types::{IfName, VnetName};

use super::Context;
use crate::{Peer, Security, Vnet, claims::DeviceUse, names, raw, report::Span, shape::is_known};

pub(crate) fn peer(span: Span, raw: &raw::Peer, cx: &mut Context<'_, '_>) -> Option<Peer> {
    let endpoints = raw.endpoint.each().map(|at| at.value.clone()).collect();
    Some(Peer { endpoints, key: raw.key.get()?.0.clone(), origin: cx.report.origin(span) })
}

pub(crate) fn vnet(name: &VnetName, span: Span, raw: &raw::Vnet, cx: &mut Context<'_, '_>) -> Option<Vnet> {
    let mut peers = Vec::new();
    for at in raw.peers.items() {
        let known = cx.root.peers.get();
        if !is_known(at, "peer", known.unwrap_or(&Default::default()), cx.report) {
            continue;
        }
        if peers.contains(&at.value) {
            cx.report
                .error(at.span, format!("the peer `{}` is listed twice", at.value))
                .help("remove one of them");
        } else {
            peers.push(at.value.clone());
        }
    }
    let at = raw.bridge.value.as_ref().map_or(span, |at| at.span);
    let bridge = bridge(name, raw)?;
    cx.claims.device(None, &bridge, at, DeviceUse::Made, cx.report);
    let (interface, at) = match &raw.interface.value {
        Some(at) => (at.value.clone(), at.span),
        None => (names::vnet(name.as_str())?, span),
    };
    cx.claims.device(None, &interface, at, DeviceUse::Made, cx.report);
    let networks = cx.root.networks.get().into_iter().flat_map(|networks| networks.values());
    let is_used = networks.filter_map(|(_, network)| network.as_ref()).any(|n| n.0.vnet.get() == Some(name));
    let learning = raw.learning.get().copied().unwrap_or(!is_used);
    let id = raw.id.value.as_ref()?;
    cx.claims.vnet_id(id.value, id.span, cx.report);
    let security = raw.security.get().copied().unwrap_or(Security::Conf);
    let origin = cx.report.origin(span);
    Some(Vnet {
        id: id.value,
        bridge,
        interface,
        learning,
        mtu: None,
        lost: BTreeSet::new(),
        prepared: BTreeSet::new(),
        security,
        peers,
        origin,
    })
}

/// The bridge of a vnet.
pub(crate) fn bridge(name: &VnetName, raw: &raw::Vnet) -> Option<IfName> {
    raw.bridge.get().cloned().or_else(|| names::bridge(name.as_str()))
}
