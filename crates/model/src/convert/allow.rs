use super::Context;
use crate::{
    Allow, AllowPeer, Service,
    raw::{AllowIn, AllowOut},
    report::{At, Span},
    shape::{AllowEnd, List, OneOrMany, PortSpec, ProtocolSpec, Slot, is_known},
};

pub(crate) fn allow_in(slot: &Slot<List<AllowIn>>, cx: &mut Context<'_, '_>) -> Option<Vec<Allow>> {
    slot.key?;
    let each = slot.items().flat_map(|at| {
        let AllowIn { end, ports, protocols, icmp } = &at.value;
        permission(at.span, end, ports, protocols, icmp, cx)
    });
    Some(each.collect())
}

pub(crate) fn allow_out(slot: &Slot<List<AllowOut>>, cx: &mut Context<'_, '_>) -> Option<Vec<Allow>> {
    slot.key?;
    let each = slot.items().flat_map(|at| {
        let AllowOut { end, ports, protocols, icmp } = &at.value;
        permission(at.span, end, ports, protocols, icmp, cx)
    });
    Some(each.collect())
}

/// One permission for each of the ends.
fn permission(
    span: Span,
    ends: &Slot<OneOrMany<AllowEnd>>,
    ports: &Slot<List<PortSpec>>,
    protocols: &Slot<List<ProtocolSpec>>,
    icmp: &Slot<bool>,
    cx: &mut Context<'_, '_>,
) -> Vec<Allow> {
    // An empty list reads like "nothing", yet a permission without services is for everything.
    for (key, empty) in [
        ("ports", is_empty(ports).then_some(ports.key)),
        ("protocols", is_empty(protocols).then_some(protocols.key)),
    ] {
        if let Some(at) = empty.flatten() {
            cx.report
                .error(at, format!("`{key}` is empty"))
                .help("leave the key out to allow everything, or remove the whole permission");
        }
    }
    if let (Some(key), Some(false), None, None) = (icmp.key, icmp.get(), ports.key, protocols.key) {
        cx.report
            .error(key, "`icmp = false` alone does not narrow what is allowed")
            .help("list what to allow in `ports` or `protocols`; the rest is not allowed then");
    }
    let mut services: Vec<Service> = ports.items().map(|at| at.value.0).collect();
    services.extend(protocols.items().map(|at| at.value.0));
    services.extend(icmp.is_set().then_some(Service::Icmp));
    services.sort();
    services.dedup();

    let origin = cx.report.origin(span);
    let mut peers: Vec<AllowPeer> = Vec::new();
    for At { value, span } in ends.each() {
        let peer = match value {
            AllowEnd::Any => AllowPeer::Any,
            AllowEnd::Prefix(prefix) => AllowPeer::Prefix(*prefix),
            AllowEnd::Guest(name) => {
                let at = At { value: name.clone(), span: *span };
                // A namespace that is on a network is a guest there.
                if !cx.cables.contains_key(name.as_str()) {
                    is_known(&at, "guest", cx.root.guests.get().unwrap_or(&Default::default()), cx.report);
                }
                AllowPeer::Guest(at.value)
            }
            AllowEnd::Network(name) => {
                let at = At { value: name.clone(), span: *span };
                is_known(&at, "network", cx.root.networks.get().unwrap_or(&Default::default()), cx.report);
                AllowPeer::Network(at.value)
            }
        };
        if !peers.contains(&peer) {
            peers.push(peer);
        }
    }
    peers.into_iter().map(|peer| Allow { peer, services: services.clone(), origin: origin.clone() }).collect()
}

fn is_empty<T>(slot: &Slot<List<T>>) -> bool {
    slot.get().is_some_and(|list| list.whole && list.items.is_empty())
}
