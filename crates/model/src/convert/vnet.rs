use viaduct_types::VnetName;

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
    let (bridge, at) = match &raw.bridge.value {
        Some(at) => (at.value.clone(), at.span),
        None => (names::bridge(name.as_str())?, span),
    };
    cx.claims.device(None, &bridge, at, DeviceUse::Made, cx.report);
    let id = raw.id.value.as_ref()?;
    cx.claims.vnet_id(id.value, id.span, cx.report);
    let security = raw.security.get().copied().unwrap_or(Security::Conf);
    Some(Vnet { id: id.value, bridge, security, peers, origin: cx.report.origin(span) })
}
