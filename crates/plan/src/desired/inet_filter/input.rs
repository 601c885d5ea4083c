//! What may come to the host itself.

use std::{collections::BTreeSet, net::IpAddr};

use viaduct_model::Policy;

use super::{
    super::{
        context::Context,
        elements::{Builder, words::*},
        named,
        vnets::between_workers,
    },
    FILTER,
    families::{FAMILIES, FamilyWords, both},
    known,
};
use crate::nft::{Const, Hook, Key, Selector as S, Statement as St, Type as T};

/// What guests may want of the host itself.
pub(super) fn add(context: &Context<'_>, claimed: &BTreeSet<IpAddr>, table: &mut Builder) {
    table.set("open_host", &[T::IfName]);
    table.set("dhcp", &[T::IfName]);
    table.counted("drop_host");
    table.counted("drop_claimed");
    table.counted("drop_pretender");
    for (device, _) in context.inside().filter(|(_, n)| n.to_host == Policy::Allow) {
        table.insert("open_host", Key::new().name(device));
    }
    for (device, _) in context.inside().filter(|(_, n)| n.dhcp) {
        table.insert("dhcp", Key::new().name(device));
    }
    let names = context.config.networks.values().any(|network| network.dns);
    if names {
        table.set("names4", &[T::IfName, T::Ipv4]);
        table.set("names6", &[T::IfName, T::Ipv6]);
        for (device, network) in context.inside() {
            for place in named::places(network) {
                let set = if place.is_ipv6() { "names6" } else { "names4" };
                table.insert(set, Key::new().name(device).ip(place));
            }
        }
    }
    for f in &FAMILIES {
        table.set(both!(f, "claimed4", "claimed6"), &[f.address]);
    }
    for address in claimed {
        table.insert(if address.is_ipv6() { "claimed6" } else { "claimed4" }, Key::new().ip(*address));
    }
    let to_claimed = |f: &FamilyWords| {
        vec![(f.is)(), St::In(vec![f.daddr], both!(f, "claimed4", "claimed6")), goto("to_claimed")]
    };
    // A guest's address does not come from outside while the guest is here; the host would answer the guest.
    let pretender = |f: &FamilyWords| {
        let sender = St::In(vec![f.saddr], both!(f, "attached4", "attached6"));
        vec![(f.is)(), sender, St::CountIn("drop_pretender", vec![S::IifName]), drop()]
    };
    let mut to_host = Vec::new();
    if !context.config.vnets.is_empty() {
        // Whoever has the keys is asked for nothing else, and nobody else is answered.
        to_host.push([not_from_ours()].into_iter().chain(between_workers()).chain([accept()]).collect());
    }
    to_host.extend([
        vec![St::In(vec![S::IifName], "inside"), goto("from_guest_to_host")],
        vec![from_ours(), drop()],
        pretender(&FAMILIES[0]),
        pretender(&FAMILIES[1]),
        to_claimed(&FAMILIES[0]),
        to_claimed(&FAMILIES[1]),
    ]);
    table.base("to_host", Hook::Input, FILTER, to_host);
    // An address that the host has only for its guests' published ports is no way to the host's own services.
    table.chain(
        "to_claimed",
        vec![
            vec![known(), accept()],
            vec![v4(), icmp(), accept()],
            vec![v6(), icmpv6(), accept()],
            vec![St::Is(S::IifName, Const::name("lo")), accept()],
            vec![St::CountIn("drop_claimed", vec![S::IifName]), drop()],
        ],
    );
    let mut from_guest = vec![
        // Answered from a packet socket, which has seen it before; the host's own answer would be "unreachable".
        vec![v4(), udp(), dport(67), St::In(vec![S::IifName], "dhcp"), drop()],
        vec![known(), accept()],
        vec![v4(), icmp(), St::Is(S::IcmpType, Const::u8(8, "echo-request")), accept()],
        vec![v6(), icmpv6(), accept()],
        vec![St::In(vec![S::IifName], "open_host"), accept()],
        vec![St::CountIn("drop_host", vec![S::IifName]), drop()],
    ];
    if names {
        let at = |f: &FamilyWords| St::In(vec![S::IifName, f.daddr], both!(f, "names4", "names6"));
        for protocol in [udp, tcp] {
            for f in &FAMILIES {
                from_guest.insert(2, vec![(f.is)(), protocol(), dport(53), at(f), accept()]);
            }
        }
    }
    table.chain("from_guest_to_host", from_guest);
}
