//! Ports by which vnets go on outside: what comes by them and leaves by them, and when anything does.

use viaduct_model::{Vnet, VnetPort};
use viaduct_types::{IfName, MacAddr, VnetName};

use super::{
    super::{
        context::Context,
        elements::{Builder, words::*},
    },
    dropped, of_type, rule,
};
use crate::nft::{Const, Key, Selector as S, Statement as St, Type as T, Verdict};

/// What hosts say on a segment that they bridge (IEEE 802, local experiments), and to whom: it goes no further by any host
/// (viaduct-vnet-proto, `is_segment`).
const SEGMENT: (u16, &str) = (0x88b5, "0x88b5");
const SEGMENT_GROUP: MacAddr = MacAddr([0x03, 0x56, 0x49, 0x41, 0x44, 0x00]);

/// The devices.
pub(super) fn outside<'a>(context: &Context<'a>) -> impl Iterator<Item = (&'a VnetName, &'a VnetPort)> {
    context.config.vnets.iter().filter_map(|(name, vnet)| Some((name, vnet.port.as_ref()?)))
}

/// Those through which nothing may go before it is known who else bridges the segment, which who carries the vnet finds out.
fn held<'a>(context: &Context<'a>) -> impl Iterator<Item = &'a IfName> {
    context.config.vnets.values().filter_map(Vnet::held_port).map(VnetPort::device)
}

pub(super) fn declare(context: &Context<'_>, table: &mut Builder) {
    if outside(context).next().is_some() {
        table.set("outside", &[T::IfName]);
        table.counted("drop_storm");
    }
    if held(context).next().is_some() {
        table.set("held", &[T::IfName]);
        table.counted("drop_held");
        table.chain("to_held_port", vec![said_on_segment(), vec![drop()]]);
    }
}

pub(super) fn fill(context: &Context<'_>, table: &mut Builder) {
    for (name, port) in outside(context) {
        table.insert("outside", Key::new().name(port.device()));
        let is_held = held(context).any(|held| held == port.device());
        let is_limited = context.observed.features.nft_limit;
        if is_held || is_limited {
            let chain = format!("from_outside_{name}");
            table.judge("ports", Key::new().name(port.device()), Verdict::Goto(chain.clone()));
            table.chain(&chain, from_outside(is_held, is_limited));
        }
    }
    for port in held(context) {
        table.insert("held", Key::new().name(port));
    }
}

/// What would leave by a port through which nothing goes yet; none where there is no such port.
pub(super) fn into_held(context: &Context<'_>) -> Option<Vec<St>> {
    let first = || vec![St::In(vec![S::OifName], "held"), to_held(), goto("to_held_port")];
    held(context).next().map(|_| first())
}

/// What hosts say of who bridges there goes through any port.
fn said_on_segment() -> Vec<St> {
    vec![of_type(SEGMENT), St::Is(S::EtherDaddr, Const::mac(SEGMENT_GROUP)), accept()]
}

/// What comes from outside: nothing as long as the port is held; and of what is for everybody, no more than a port may send. It is
/// half of what a thread that carries frames sends of a vnet, so that one port leaves room for the others. By what hosts say
/// of who bridges the segment circles are ended: a storm must not drown it. Each rule counts for itself, so that each port has its
/// own.
fn from_outside(is_held: bool, is_limited: bool) -> Vec<Vec<St>> {
    const RATE: u32 = 500;
    const SAID: u32 = 100;
    let group = Const::mac(MacAddr([1, 0, 0, 0, 0, 0]));
    let limited = |of, rate| {
        let over = St::Over { rate, burst: rate };
        is_limited.then(|| rule(vec![of, over], dropped("drop_storm")))
    };
    let held = is_held.then(|| rule(vec![from_held()], dropped("drop_held")));
    limited(of_type(SEGMENT), SAID)
        .into_iter()
        .chain([said_on_segment()])
        .chain(held)
        .chain(limited(St::Masked(S::EtherDaddr, group.clone(), group), RATE))
        .chain([vec![accept()]])
        .collect()
}
