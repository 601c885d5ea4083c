use std::collections::BTreeMap;

use viaduct_types::{GuestName, NamespaceName};

use super::{Context, allow, nic, publish};
use crate::{Guest, GuestId, Hooks, Namespace, Nic, names, raw, report::Span, shape::is_known};

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
        nics.push((place, nic));
    }
    nics.into_iter().map(|(_, nic)| nic).collect()
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
