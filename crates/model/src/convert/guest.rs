use std::collections::BTreeMap;

use viaduct_types::{GuestName, NamespaceName};

use super::{Context, allow, nic, publish};
use crate::{
    Family, Guest, GuestId, Hooks, Mode, Namespace, Nic, Spoofing, names, raw, report::Span, shape::is_known,
};

pub(crate) fn guest(
    name: &GuestName,
    span: Span,
    raw: &raw::Guest,
    namespaces: &BTreeMap<NamespaceName, Namespace>,
    cx: &mut Context<'_, '_>,
) -> Option<Guest> {
    let id = match &raw.id.value {
        Some(id) if cx.claims.guest_id(id.value.0, id.span, cx.report) => GuestId::Given(id.value.0),
        _ => names::id(name.as_str()),
    };
    if let Some(namespace) = &raw.namespace.value {
        is_known(namespace, "namespace", cx.root.namespaces.get().unwrap_or(&Default::default()), cx.report);
    }
    match (raw.namespace.key, raw.nics.key) {
        (Some(namespace), Some(nics)) => {
            cx.report
                .error(nics, format!("guest `{name}` has both `namespace` and `nics`"))
                .related(namespace, "it lives in this shared namespace")
                .help("guests of a shared namespace use its interfaces: remove one of the two");
        }
        (None, None) => {
            cx.report
                .warning(span, format!("guest `{name}` has no network at all"))
                .help(format!("give it a NIC, [[guests.{name}.nics]], or a `namespace`"));
        }
        (Some(_), None) | (None, Some(_)) => {}
    }
    let nics = nics(name, id, raw, cx);
    unkept(raw, &nics, cx);
    Some(Guest {
        id,
        publish: publish::published(name, raw, &nics, namespaces, cx),
        nics,
        allow_in: allow::allow_in(&raw.allow_in, cx),
        allow_out: allow::allow_out(&raw.allow_out, cx),
        namespace: raw.namespace.get().cloned(),
        is_namespace: false,
        hooks: raw.hooks.get().map(hooks).unwrap_or_default(),
        origin: cx.report.origin(span),
    })
}

/// Reports lists that this host's filter could not keep, or only in part, as flows of a NIC do not pass it. The cables of a
/// namespace are its guests' NICs.
fn unkept(raw: &raw::Guest, nics: &[Nic], cx: &mut Context<'_, '_>) {
    let namespace = raw.namespace.get();
    let cables = namespace.and_then(|name| Some(cx.cables.get(name)?.1.as_slice())).unwrap_or_default();
    let on = |is_one: fn(&Mode) -> bool| {
        let mut networks = nics.iter().chain(cables).map(|nic| &nic.network);
        networks.find(|name| {
            let network = cx.networks.get(*name).and_then(|ground| ground.network.as_ref());
            network.is_some_and(|network| is_one(&network.mode))
        })
    };
    let bridged = on(|mode| matches!(mode, Mode::Bridged { .. })).cloned();
    let in_vnet = on(|mode| matches!(mode, Mode::Vnet { .. })).is_some();
    let by = namespace
        .filter(|_| nics.is_empty())
        .map(|name| format!(", to which its namespace `{name}` has a cable"));
    let by = by.unwrap_or_default();
    for (key, at) in [("allow-in", raw.allow_in.key), ("allow-out", raw.allow_out.key)] {
        let Some(at) = at else { continue };
        if let Some(network) = &bridged {
            cx.report
                .error(
                    at,
                    format!(
                        "`{key}` cannot be kept on bridged network `{network}`{by}: its flows do not pass this host's filter"
                    ),
                )
                .help("use a routed network, leave the filter to the guest, or remove the key");
        } else if in_vnet {
            cx.report
                .warning(
                    at,
                    format!(
                        "`{key}` is kept for what passes this host's filter, which guests of the same vnet do not on their way \
                         to each other"
                    ),
                )
                .help("where they are not to reach each other, use another network, or leave that filter to the guest");
        }
    }
}

fn nics(name: &GuestName, id: GuestId, raw: &raw::Guest, cx: &mut Context<'_, '_>) -> Vec<Nic> {
    let mut nics: Vec<(Span, Nic)> = Vec::new();
    for (index, at) in raw.nics.items().enumerate() {
        let Ok(index) = u8::try_from(index) else {
            cx.report
                .error(at.span, format!("guest `{name}` has more than 256 NICs"))
                .help("derived MAC addresses have room for no more");
            break;
        };
        let Some(nic) = nic::nic(name, id, index, at.span, &at.value, cx) else { continue };
        let place = at.value.name.value.as_ref().map_or(at.span, |at| at.span);
        if let Some((first, _)) = nics.iter().find(|(_, other)| other.name == nic.name) {
            cx.report
                .error(place, format!("two NICs of guest `{name}` are called `{}`", nic.name))
                .related(*first, "the other one")
                .help("give one of them another `name`");
        }
        let answers_for_it = |other: &Nic| share_addresses_of_a_family(other, &nic, cx);
        if let Some((first, other)) = nics.iter().find(|(_, other)| answers_for_it(other)) {
            let (network, by) = (&nic.network, &other.name);
            cx.report
                .warning(
                    place,
                    format!(
                        "two NICs of guest `{name}` are in network `{network}`: it answers by {by}, which may not speak for \
                         the addresses of {}",
                        nic.name
                    ),
                )
                .related(*first, "the other one")
                .help(
                    "give all addresses to one NIC, or write spoofing = \"ip\" for both; a guest that routes by its source \
                     addresses needs neither",
                );
        }
        nics.push((place, nic));
    }
    nics.into_iter().map(|(_, nic)| nic).collect()
}

/// Whether two NICs of a guest are on one segment, each with an address of the same family: of two ways to it, a system takes the
/// first, whatever address it speaks from.
fn share_addresses_of_a_family(first: &Nic, second: &Nic, cx: &Context<'_, '_>) -> bool {
    let is_one_segment = first.network == second.network
        && first.vlan == second.vlan
        && [first, second].iter().all(|nic| nic.trunk.is_empty());
    if !is_one_segment || first.spoofing != Spoofing::None {
        return false;
    }
    let network = cx.networks.get(&first.network).and_then(|ground| ground.network.as_ref());
    let has = |nic: &Nic, family| {
        let is_lent = nic.addresses.is_empty() && network.is_some_and(|network| network.dhcp);
        is_lent || nic.addresses.iter().any(|net| Family::of(net.addr()) == family)
    };
    [Family::V4, Family::V6].into_iter().any(|family| has(first, family) && has(second, family))
}

pub(crate) fn hooks(raw: &raw::Hooks) -> Hooks {
    let path = |slot: &crate::shape::Slot<crate::shape::HookPath>| slot.get().map(|path| path.0.clone());
    Hooks {
        prepare: path(&raw.prepare),
        started: path(&raw.started),
        stopping: path(&raw.stopping),
        stopped: path(&raw.stopped),
        timeout: raw.timeout.get().map(|timeout| timeout.0),
    }
}
