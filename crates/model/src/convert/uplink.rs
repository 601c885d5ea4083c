use viaduct_types::UplinkName;

use super::{Context, Use, UseKind, mtu, one_per_family, stack};
use crate::{
    Family, Uplink,
    claims::{DeviceUse, Holder, Segment},
    raw,
    report::Span,
};

pub(crate) fn uplink(
    _: &UplinkName,
    span: Span,
    raw: &raw::Uplink,
    cx: &mut Context<'_, '_>,
) -> Option<Uplink> {
    let interface = raw.interface.value.as_ref()?;
    if raw.namespace.key.is_some() {
        return stack::uplink(span, raw, cx);
    }
    cx.claims.device(None, &interface.value, interface.span, DeviceUse::Uplink, cx.report);

    let segment = Segment::Device(interface.value.clone(), None);
    let stack = Segment::Stack(None);
    for at in raw.addresses.items() {
        let net = at.value.0;
        cx.claims.address([&stack, &segment], net.addr(), at.span, Holder::Machine, cx.report);
        cx.prefixes.push((net.trunc(), Use { span: at.span, segment: stack.clone(), kind: UseKind::Uplink }));
    }
    for at in raw.gateways.items() {
        cx.claims.address([&segment], at.value, at.span, Holder::Router, cx.report);
    }
    let gateways = one_per_family(raw.gateways.items().copied(), "gateway", cx.report);
    let addresses: Vec<_> = raw.addresses.items().map(|at| at.value.0).collect();
    if !addresses.is_empty() {
        for at in raw.gateways.items() {
            let family = Family::of(at.value);
            if !addresses.iter().any(|net| Family::of(net.addr()) == family) {
                cx.report
                    .error(at.span, format!("an {family} gateway without an {family} address"))
                    .help(format!("add an {family} address to `addresses`, or remove the gateway"));
            }
        }
    }
    let with_ipv6 = addresses.iter().any(|net| Family::of(net.addr()) == Family::V6);
    Some(Uplink {
        interface: interface.value.clone(),
        namespace: None,
        mtu: mtu(&raw.mtu, with_ipv6, cx.report),
        addresses,
        gateways,
        origin: cx.report.origin(span),
    })
}
