//! What guests may send, on links of their own: anti-spoofing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use viaduct_model::{Mode, Spoofing};

use super::{
    super::{
        context::{Context, Port, bridge_of},
        elements::{Builder, words::*},
        links::GATEWAY_V6,
        vnets::between_workers,
    },
    FILTER,
    families::{FAMILIES, FamilyWords, both},
    from_uplink,
};
use crate::nft::{Const, Family, Hook, Key, Selector as S, Statement as St, Table, Type as T, Verdict};

/// Before defragmentation (-400), so that every fragment shows its sender.
const BEFORE_DEFRAG: i32 = -450;

/// Before connections are looked up (-200).
const RAW: i32 = -300;

/// Anti-spoofing of routed ports.
pub(super) fn add(context: &Context<'_>, table: &mut Builder) {
    table.verdicts("ports", &[T::IfName]);
    table.set("source4", &[T::IfName, T::Ether, T::Ipv4]);
    table.set("source6", &[T::IfName, T::Ether, T::Ipv6]);
    table.set("port_mac", &[T::IfName, T::Ether]);
    if context.delegates() {
        // What is behind guests that are routers.
        table.ranges("source_behind6", &[T::IfName, T::Ipv6]);
    }
    for counter in ["drop_unknown", "drop_mac", "drop_address", "drop_nd", "drop_ra", "drop_loopback"] {
        table.counted(counter);
    }
    for (bridge, _) in context.inside().filter(|(_, n)| bridge_of(n).is_some()) {
        table.judge("ports", Key::new().name(bridge), Verdict::Goto("no_loopback".to_owned()));
    }
    for (_, vnet) in context.bare_vnets() {
        table.judge("ports", Key::new().name(&vnet.bridge), Verdict::Goto("no_loopback".to_owned()));
    }
    for port in context.ports.iter().filter(|p| p.is_routed()) {
        table.judge("ports", Key::new().name(port.device()), guard_of(port));
        add_own_addresses(port, table, false);
        if let Some(prefix) = port.nic.delegated {
            table.insert("source_behind6", Key::new().name(port.device()).prefix(prefix.into()));
        }
    }
    let source =
        |f: &FamilyWords| St::In(vec![S::IifName, S::EtherSaddr, f.saddr], both!(f, "source4", "source6"));
    let own_packet = || vec![v4(), not_loopback_v4(S::IpDaddr), source(&FAMILIES[0]), accept()];
    let mut guard = Vec::new();
    if !context.config.vnets.is_empty() {
        // No connection is made of what workers of vnets send each other: each datagram would be looked up, and that costs as much
        // as to receive it. The port of the vnets themselves is tracked: what the host has begun there, its answers come back
        // through whoever's firewall.
        let untracked = || between_workers().into_iter().chain([St::NoTrack, accept()]);
        guard.push([not_from_ours()].into_iter().chain(untracked()).collect());
        table.base("own_frames", Hook::Output, RAW, vec![untracked().collect()]);
    }
    guard.extend([
        // Table bridge has looked at what comes by a bridge.
        vec![from_ours(), St::Is(S::IifKind, Const::name("bridge")), goto("no_loopback")],
        // What most packets of guests are: one look says what the chain of the port would.
        [vec![from_ours()], own_packet()].concat(),
    ]);
    // Comparing a name or two costs less than a look that finds nothing.
    guard.extend(context.uplinks().map(|(_, _, l3)| vec![from_uplink(l3), accept()]));
    guard.extend([
        vec![St::VerdictMap(vec![S::IifName], "ports")],
        // A link of ours that the map does not know: not yet, or no longer, a guest's.
        vec![from_ours(), St::CountIn("drop_unknown", vec![S::IifName]), drop()],
    ]);
    table.base("guard", Hook::Prerouting, BEFORE_DEFRAG, guard);
    table.chain(
        "from_port",
        vec![
            own_packet(),
            vec![v6(), icmpv6(), goto("from_port_icmpv6")],
            vec![v6(), source(&FAMILIES[1]), accept()],
            vec![
                St::NotIn(vec![S::IifName, S::EtherSaddr], "port_mac"),
                St::CountIn("drop_mac", vec![S::IifName]),
                drop(),
            ],
            vec![v4(), loopback_v4(S::IpDaddr), goto("no_loopback")],
            // A client that has no address yet asks for one (RFC 2131, 4.1).
            vec![v4(), St::Is(S::IpSaddr, Const::v4(Ipv4Addr::UNSPECIFIED)), udp(), dport(67), accept()],
            vec![v6(), goto("from_port_link_local")],
            vec![St::CountIn("drop_address", vec![S::IifName]), drop()],
        ],
    );
    let dropped = |counter| vec![St::CountIn(counter, vec![S::IifName]), drop()];
    let message = |number, word, end: Vec<St>| [vec![icmpv6_type(number, word)], end].concat();
    table.chain(
        "from_port_icmpv6",
        vec![
            message(134, "nd-router-advert", dropped("drop_ra")),
            message(137, "nd-redirect", dropped("drop_ra")),
            message(136, "nd-neighbor-advert", vec![jump("from_port_advert")]),
            vec![source(&FAMILIES[1]), accept()],
            [vec![St::NotIn(vec![S::IifName, S::EtherSaddr], "port_mac")], dropped("drop_mac")].concat(),
            vec![St::Is(S::Ip6Saddr, Const::v6(Ipv6Addr::UNSPECIFIED)), goto("from_port_unspecified")],
            vec![goto("from_port_link_local")],
        ],
    );
    table.chain("from_port_unspecified", from_unspecified(accept));
    table.chain(
        "from_port_advert",
        vec![
            vec![St::In(vec![S::IifName, S::EtherSaddr, S::NdTarget], "source6"), back()],
            vec![link_local(S::NdTarget), St::Not(S::NdTarget, Const::v6(GATEWAY_V6)), back()],
            dropped("drop_nd"),
        ],
    );
    let mut from_beyond = vec![
        // No other guest shares the link: any link-local address but ours is the guest's own.
        vec![link_local(S::Ip6Saddr), St::Not(S::Ip6Saddr, Const::v6(GATEWAY_V6)), accept()],
        dropped("drop_address"),
    ];
    if context.delegates() {
        from_beyond.insert(1, vec![St::In(vec![S::IifName, S::Ip6Saddr], "source_behind6"), accept()]);
    }
    table.chain("from_port_link_local", from_beyond);
    table.chain(
        "from_port_mac",
        vec![
            vec![St::In(vec![S::IifName, S::EtherSaddr], "port_mac"), goto("no_loopback")],
            vec![St::CountIn("drop_mac", vec![S::IifName]), drop()],
        ],
    );
    // Where 127.0.0.1 may leave by a guest's link (ports published on all addresses), nothing may come in for it.
    table.chain(
        "no_loopback",
        vec![
            vec![v4(), loopback_v4(S::IpDaddr), St::CountIn("drop_loopback", vec![S::IifName]), drop()],
            vec![accept()],
        ],
    );
}

/// The chain that looks at what a port sends.
pub(in super::super) fn guard_of(port: &Port<'_>) -> Verdict {
    match port.nic.spoofing {
        Spoofing::None => Verdict::Goto("from_port".to_owned()),
        Spoofing::Ip => Verdict::Goto("from_port_mac".to_owned()),
        Spoofing::Mac if port.is_routed() => Verdict::Goto("no_loopback".to_owned()),
        Spoofing::Mac => Verdict::Goto("from_port_any".to_owned()),
    }
}

/// What a port may send of ICMPv6 before it has an address: whether somebody has one that it may have, of which the chain of
/// advertisements judges, who is a router, and which groups it is in (RFC 4862, 5.4; RFC 4861, 4.1; RFC 3590, 4; RFC 3810, 5.2.13).
pub(in super::super) fn from_unspecified(pass: impl Fn() -> St) -> Vec<Vec<St>> {
    let message = |number, word, end| vec![icmpv6_type(number, word), end];
    vec![
        message(135, "nd-neighbor-solicit", jump("from_port_advert")),
        message(135, "nd-neighbor-solicit", pass()),
        message(133, "nd-router-solicit", pass()),
        message(143, "mld2-listener-report", pass()),
        message(131, "mld-listener-report", pass()),
        message(132, "mld-listener-done", pass()),
        vec![St::CountIn("drop_address", vec![S::IifName]), drop()],
    ]
}

/// What a port may send from: its addresses with its MAC; with `link_local` also the address made of the MAC.
pub(in super::super) fn add_own_addresses(port: &Port<'_>, table: &mut Builder, link_local: bool) {
    let own = || Key::new().name(port.device()).mac(port.nic.mac);
    table.insert("port_mac", own());
    for address in port.nic.addresses.iter().map(|net| net.addr()) {
        let set = if address.is_ipv6() { "source6" } else { "source4" };
        table.insert(set, own().ip(address));
    }
    if link_local {
        table.insert("source6", own().ip(IpAddr::V6(port.nic.mac.link_local())));
    }
}

/// Table `arp viaduct`: on routed ports only the host hears ARP, and it must not learn lies from it.
pub(in super::super) fn arp_table(context: &Context<'_>) -> Option<(Family, Table)> {
    if !context.observed.features.nft_arp
        || !context.config.networks.values().any(|n| matches!(n.mode, Mode::Routed { .. }))
    {
        return None;
    }
    let mut table = Builder::default();
    table.verdicts("ports", &[T::IfName]);
    table.set("source4", &[T::IfName, T::Ether, T::Ipv4]);
    table.set("port_mac", &[T::IfName, T::Ether]);
    table.counted("drop_arp");
    for port in context.ports.iter().filter(|p| p.is_routed() && p.nic.spoofing != Spoofing::Mac) {
        let verdict = guard_of(port);
        table.judge("ports", Key::new().name(port.device()), verdict);
        table.insert("port_mac", Key::new().name(port.device()).mac(port.nic.mac));
        for address in port.nic.addresses.iter().map(|net| net.addr()).filter(IpAddr::is_ipv4) {
            table.insert("source4", Key::new().name(port.device()).mac(port.nic.mac).ip(address));
        }
    }
    let sender = || vec![S::IifName, S::ArpSaddrEther];
    let dropped = || vec![St::CountIn("drop_arp", vec![S::IifName]), drop()];
    table.base("guard", Hook::Input, FILTER, vec![vec![St::VerdictMap(vec![S::IifName], "ports")]]);
    table.chain(
        "from_port",
        vec![
            vec![St::In(vec![S::IifName, S::ArpSaddrEther, S::ArpSaddrIp], "source4"), accept()],
            // An address conflict probe has no sender address (RFC 5227, 2.1.1).
            vec![
                St::Is(S::ArpSaddrIp, Const::v4(Ipv4Addr::UNSPECIFIED)),
                St::In(sender(), "port_mac"),
                accept(),
            ],
            dropped(),
        ],
    );
    table.chain("from_port_mac", vec![vec![St::In(sender(), "port_mac"), accept()], dropped()]);
    Some((Family::Arp, table.finish()))
}
