//! Table `inet viaduct`: who may reach whom, and what is translated; and table `arp viaduct`, which guards what routed
//! ports say in ARP.
//!
//! Rules are constant: whatever depends on guests, ports or permissions stands in sets and maps, so that a packet costs
//! the same with ten guests and ten thousand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use viaduct_model::{Mode, Network, Policy, Spoofing};
use viaduct_types::IpNet;

use super::{
    context::{Context, Port, bridge_of, prefixes},
    elements::{Builder, words::*},
    links::GATEWAY_V6,
    services::permissions,
    uplinks::ip_forward,
};
use crate::{
    nft::{
        Base, ChainKind, Const, Family, Hook, Key, NatKind, NfProto, Selector as S, Statement as St, Table,
        Type as T, Verdict,
    },
    state::Sysctl,
};

/// Before defragmentation (-400), so that every fragment shows its sender.
const BEFORE_DEFRAG: i32 = -450;
const FILTER: i32 = 0;
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;
/// IPS_DST_NAT.
const DNATED: u32 = 0x20;

/// The table, when there is anything to filter.
pub(super) fn table(context: &Context<'_>) -> Option<(Family, Table)> {
    if context.config.networks.is_empty() {
        return None;
    }
    let mut table = Builder::default();
    add_guard(context, &mut table);
    add_forward(context, &mut table);
    add_input(context, &mut table);
    add_translation(context, &mut table);
    Some((Family::Inet, table.finish()))
}

/// The two families' names of sets, address types and selectors, so that every rule is written once for both.
struct FamilyWords {
    is: fn() -> St,
    v6: bool,
    address: T,
    saddr: S,
    daddr: S,
    proto: NfProto,
}

const FAMILIES: [FamilyWords; 2] = [
    FamilyWords {
        is: v4,
        v6: false,
        address: T::Ipv4,
        saddr: S::IpSaddr,
        daddr: S::IpDaddr,
        proto: NfProto::V4,
    },
    FamilyWords {
        is: v6,
        v6: true,
        address: T::Ipv6,
        saddr: S::Ip6Saddr,
        daddr: S::Ip6Daddr,
        proto: NfProto::V6,
    },
];

/// A set's name in both families; rules and elements are made from the same list.
macro_rules! both {
    ($f:expr, $v4:literal, $v6:literal) => {
        if $f.v6 { $v6 } else { $v4 }
    };
}

/// Anti-spoofing of routed ports.
fn add_guard(context: &Context<'_>, table: &mut Builder) {
    table.verdicts("ports", &[T::IfName]);
    table.set("source4", &[T::IfName, T::Ether, T::Ipv4]);
    table.set("source6", &[T::IfName, T::Ether, T::Ipv6]);
    table.set("port_mac", &[T::IfName, T::Ether]);
    for counter in ["drop_unknown", "drop_mac", "drop_address", "drop_ra", "drop_loopback"] {
        table.counted(counter);
    }
    for (bridge, _) in context.inside().filter(|(_, n)| bridge_of(n).is_some()) {
        table.judge("ports", Key::new().name(bridge), Verdict::Goto("no_loopback".to_owned()));
    }
    for port in context.ports.iter().filter(|p| p.is_routed()) {
        table.judge("ports", Key::new().name(port.device()), guard_of(port));
        add_own_addresses(port, table, false);
    }
    table.base(
        "guard",
        Hook::Prerouting,
        BEFORE_DEFRAG,
        vec![
            vec![St::VerdictMap(vec![S::IifName], "ports")],
            // A link of ours that the map does not know: not yet, or no longer, a guest's.
            vec![from_ours(), St::CountIn("drop_unknown", vec![S::IifName]), drop()],
        ],
    );
    let source = |f: &FamilyWords| {
        vec![
            (f.is)(),
            St::In(vec![S::IifName, S::EtherSaddr, f.saddr], both!(f, "source4", "source6")),
            goto("no_loopback"),
        ]
    };
    table.chain(
        "from_port",
        vec![
            source(&FAMILIES[0]),
            source(&FAMILIES[1]),
            vec![
                St::NotIn(vec![S::IifName, S::EtherSaddr], "port_mac"),
                St::CountIn("drop_mac", vec![S::IifName]),
                drop(),
            ],
            // A client that has no address yet asks for one (RFC 2131, 4.1).
            vec![v4(), St::Is(S::IpSaddr, Const::v4(Ipv4Addr::UNSPECIFIED)), udp(), dport(67), accept()],
            vec![
                v6(),
                icmpv6(),
                icmpv6_type(134, "nd-router-advert"),
                St::CountIn("drop_ra", vec![S::IifName]),
                drop(),
            ],
            vec![
                v6(),
                icmpv6(),
                icmpv6_type(137, "nd-redirect"),
                St::CountIn("drop_ra", vec![S::IifName]),
                drop(),
            ],
            vec![v6(), icmpv6(), St::Is(S::Ip6Saddr, Const::v6(Ipv6Addr::UNSPECIFIED)), accept()],
            // No other guest shares the link: any link-local address but ours is the guest's own.
            vec![v6(), link_local(S::Ip6Saddr), St::Not(S::Ip6Saddr, Const::v6(GATEWAY_V6)), accept()],
            vec![St::CountIn("drop_address", vec![S::IifName]), drop()],
        ],
    );
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
pub(super) fn guard_of(port: &Port<'_>) -> Verdict {
    match port.nic.spoofing {
        Spoofing::None => Verdict::Goto("from_port".to_owned()),
        Spoofing::Ip => Verdict::Goto("from_port_mac".to_owned()),
        Spoofing::Mac if port.is_routed() => Verdict::Goto("no_loopback".to_owned()),
        Spoofing::Mac => Verdict::Goto("from_port_any".to_owned()),
    }
}

/// What a port may send from: its addresses with its MAC; with `link_local` also the address made of the MAC.
pub(super) fn add_own_addresses(port: &Port<'_>, table: &mut Builder, link_local: bool) {
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
pub(super) fn arp_table(context: &Context<'_>) -> Option<(Family, Table)> {
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

/// Who may open flows to whom, through this host.
fn add_forward(context: &Context<'_>, table: &mut Builder) {
    table.set("inside", &[T::IfName]);
    table.set("exits", &[T::IfName, T::IfName]);
    table.set("switched", &[T::IfName, T::IfName]);
    table.set("closed4", &[T::IfName]);
    table.set("closed6", &[T::IfName]);
    for counter in ["drop_out", "drop_in"] {
        table.counted(counter);
    }
    for f in &FAMILIES {
        let a = f.address;
        table.set(both!(f, "attached4", "attached6"), &[a]);
        table.set(both!(f, "listed_in4", "listed_in6"), &[a]);
        table.set(both!(f, "listed_out4", "listed_out6"), &[a]);
        table.ranges(both!(f, "in_protocol4", "in_protocol6"), &[a, a, T::Proto]);
        table.ranges(both!(f, "out_protocol4", "out_protocol6"), &[a, a, T::Proto]);
        table.ranges(both!(f, "in_port4", "in_port6"), &[a, a, T::Proto, T::Port]);
        table.ranges(both!(f, "out_port4", "out_port6"), &[a, a, T::Proto, T::Port]);
        table.ranges(both!(f, "between4", "between6"), &[a, a]);
        table.ranges(both!(f, "inbound4", "inbound6"), &[T::IfName, a]);
    }
    fill_zones(context, table);
    fill_permissions(context, table);
    let ct_state = |bits: u32, words: &str| St::Any(S::CtState, Const::u32(bits, words));
    // NF_CT_STATE_BIT: established is bit 1, related bit 2, invalid bit 0.
    let known = || vec![ct_state(0b110, "established,related"), accept()];
    let invalid = || vec![ct_state(0b001, "invalid"), drop()];
    table.base(
        "through",
        Hook::Forward,
        FILTER,
        vec![
            known(),
            vec![St::In(vec![S::IifName], "inside"), goto("from_guest")],
            vec![St::In(vec![S::OifName], "inside"), goto("from_outside")],
            vec![from_ours(), drop()],
            vec![to_ours(), drop()],
            // With br_netfilter frames that only cross a bridge come here, too.
            vec![St::In(vec![S::IifName, S::OifName], "switched"), accept()],
            // We made this host forward for our guests, not for whatever else is connected to it.
            vec![v4(), St::In(vec![S::IifName], "closed4"), drop()],
            vec![v6(), St::In(vec![S::IifName], "closed6"), drop()],
        ],
    );
    let listed_out = |f: &FamilyWords| {
        let set = both!(f, "listed_out4", "listed_out6");
        vec![(f.is)(), St::In(vec![f.saddr], set), jump(both!(f, "allow_out4", "allow_out6"))]
    };
    table.chain(
        "from_guest",
        vec![
            invalid(),
            vec![St::In(vec![S::IifName, S::OifName], "switched"), accept()],
            listed_out(&FAMILIES[0]),
            listed_out(&FAMILIES[1]),
            vec![St::In(vec![S::OifName], "inside"), goto("from_guest_to_guest")],
            vec![St::In(vec![S::IifName, S::OifName], "exits"), accept()],
            vec![goto("refuse_out")],
        ],
    );
    let between = |f: &FamilyWords| {
        vec![(f.is)(), St::In(vec![f.saddr, f.daddr], both!(f, "between4", "between6")), accept()]
    };
    table.chain(
        "from_guest_to_guest",
        vec![vec![jump("to_guest")], between(&FAMILIES[0]), between(&FAMILIES[1]), vec![goto("refuse_out")]],
    );
    let pretender = |f: &FamilyWords| {
        vec![(f.is)(), St::In(vec![f.saddr], both!(f, "attached4", "attached6")), goto("refuse_in")]
    };
    let inbound = |f: &FamilyWords| {
        vec![(f.is)(), St::In(vec![S::IifName, f.daddr], both!(f, "inbound4", "inbound6")), accept()]
    };
    table.chain(
        "from_outside",
        vec![
            invalid(),
            // A guest's address does not come from outside while the guest is here.
            pretender(&FAMILIES[0]),
            pretender(&FAMILIES[1]),
            vec![jump("to_guest")],
            inbound(&FAMILIES[0]),
            inbound(&FAMILIES[1]),
            vec![goto("refuse_in")],
        ],
    );
    let listed_in = |f: &FamilyWords| {
        let set = both!(f, "listed_in4", "listed_in6");
        vec![(f.is)(), St::In(vec![f.daddr], set), goto(both!(f, "allow_in4", "allow_in6"))]
    };
    table.chain(
        "to_guest",
        vec![
            // Its translation is the permission of a published port.
            vec![St::Any(S::CtStatus, Const::u32(DNATED, "dnat")), accept()],
            listed_in(&FAMILIES[0]),
            listed_in(&FAMILIES[1]),
        ],
    );
    for f in &FAMILIES {
        let protocol = || vec![f.saddr, f.daddr, S::L4Proto];
        let port = || vec![f.saddr, f.daddr, S::L4Proto, S::ThDport];
        table.chain(
            both!(f, "allow_in4", "allow_in6"),
            vec![
                vec![St::In(protocol(), both!(f, "in_protocol4", "in_protocol6")), accept()],
                vec![St::In(port(), both!(f, "in_port4", "in_port6")), accept()],
                vec![goto("refuse_in")],
            ],
        );
        table.chain(
            both!(f, "allow_out4", "allow_out6"),
            vec![
                vec![St::In(protocol(), both!(f, "out_protocol4", "out_protocol6")), back()],
                vec![St::In(port(), both!(f, "out_port4", "out_port6")), back()],
                vec![goto("refuse_out")],
            ],
        );
    }
    table.chain("refuse_out", vec![vec![St::CountIn("drop_out", vec![S::IifName]), drop()]]);
    table.chain("refuse_in", vec![vec![St::CountIn("drop_in", vec![S::OifName]), drop()]]);
}

fn fill_zones(context: &Context<'_>, table: &mut Builder) {
    for (device, network) in context.inside() {
        table.insert("inside", Key::new().name(device));
        if let (Mode::Nat { .. } | Mode::Routed { .. }, Some((_, l3))) =
            (&network.mode, context.uplink(network))
        {
            table.insert("exits", Key::new().name(device).name(l3));
        }
    }
    for (name, network) in &context.config.networks {
        // A bridge whose frames do not pass the IP filter; with br_netfilter they come here all the same.
        if let Some(bridge) = bridge_of(network).filter(|_| !context.is_redirected(name, network)) {
            table.insert("switched", Key::new().name(bridge).name(bridge));
        }
        let own = aggregate(prefixes(network));
        if network.between_guests == Policy::Allow {
            open_between(&own, &own, table);
        }
        // Who may come from outside may come from our other networks that have a way there.
        let goes_out = |n: &Network| matches!(n.mode, Mode::Nat { .. } | Mode::Routed { .. });
        if network.inbound == Policy::Allow && context.uplink(network).is_some() {
            for (_, other) in
                context.config.networks.iter().filter(|(n, other)| *n != name && goes_out(other))
            {
                open_between(&aggregate(prefixes(other)), &own, table);
            }
        }
        if let (Policy::Allow, Some((_, l3))) = (network.inbound, context.uplink(network)) {
            for prefix in own {
                let set = if prefix.addr().is_ipv6() { "inbound6" } else { "inbound4" };
                table.insert(set, Key::new().name(l3).prefix(prefix));
            }
        }
    }
    for port in context.ports.iter().filter(|p| !matches!(p.network.mode, Mode::Bridged { .. })) {
        for address in port.nic.addresses.iter().map(|net| net.addr()) {
            table.insert(if address.is_ipv6() { "attached6" } else { "attached4" }, Key::new().ip(address));
        }
    }
    // Whether forwarding is on, or about to be, because of us alone.
    let opened = |key: Sysctl| {
        let was = context.observed.journal.get(&key).or_else(|| context.observed.sysctls.get(&key));
        was.map(String::as_str) == Some("0")
    };
    let everywhere = context.observed.sysctls.get(&ip_forward()).map(String::as_str) == Some("1");
    for (_, uplink, l3) in context.uplinks() {
        // A bridge that we made for an uplink forwards because of us just the same.
        let ours = *l3 != uplink.interface || opened(Sysctl::ipv4(l3, "forwarding"));
        if ours && !everywhere {
            table.insert("closed4", Key::new().name(l3));
        }
        if opened(Sysctl::all("ipv6", "forwarding")) {
            table.insert("closed6", Key::new().name(l3));
        }
    }
}

fn open_between(from: &[IpNet], to: &[IpNet], table: &mut Builder) {
    for (from, to) in from.iter().flat_map(|from| to.iter().map(move |to| (from, to))) {
        if from.addr().is_ipv4() == to.addr().is_ipv4() {
            let set = if from.addr().is_ipv6() { "between6" } else { "between4" };
            table.insert(set, Key::new().prefix(*from).prefix(*to));
        }
    }
}

fn aggregate(prefixes: Vec<IpNet>) -> Vec<IpNet> {
    IpNet::aggregate(&prefixes)
}

fn fill_permissions(context: &Context<'_>, table: &mut Builder) {
    for (_, guest) in context.guests() {
        for f in &FAMILIES {
            let own = || context.addresses_of(guest).map(|(a, _)| a).filter(|a| a.is_ipv6() == f.v6);
            if let Some(list) = &guest.allow_in {
                let allowed = permissions(context, list, f.v6);
                for to in own() {
                    table.insert(both!(f, "listed_in4", "listed_in6"), Key::new().ip(to));
                    for (peer, protocols) in &allowed.protocols {
                        let key = Key::new().prefix(*peer).ip(to).protocols(protocols.0, protocols.1);
                        table.insert(both!(f, "in_protocol4", "in_protocol6"), key);
                    }
                    for (peer, proto, ports) in &allowed.ports {
                        let key = Key::new().prefix(*peer).ip(to).proto(*proto).ports(*ports);
                        table.insert(both!(f, "in_port4", "in_port6"), key);
                    }
                }
            }
            if let Some(list) = &guest.allow_out {
                let allowed = permissions(context, list, f.v6);
                for from in own() {
                    table.insert(both!(f, "listed_out4", "listed_out6"), Key::new().ip(from));
                    for (peer, protocols) in &allowed.protocols {
                        let key = Key::new().ip(from).prefix(*peer).protocols(protocols.0, protocols.1);
                        table.insert(both!(f, "out_protocol4", "out_protocol6"), key);
                    }
                    for (peer, proto, ports) in &allowed.ports {
                        let key = Key::new().ip(from).prefix(*peer).proto(*proto).ports(*ports);
                        table.insert(both!(f, "out_port4", "out_port6"), key);
                    }
                }
            }
        }
    }
}

/// What guests may want of the host itself.
fn add_input(context: &Context<'_>, table: &mut Builder) {
    table.set("open_host", &[T::IfName]);
    table.counted("drop_host");
    for (device, _) in context.inside().filter(|(_, n)| n.to_host == Policy::Allow) {
        table.insert("open_host", Key::new().name(device));
    }
    table.base(
        "to_host",
        Hook::Input,
        FILTER,
        vec![vec![St::In(vec![S::IifName], "inside"), goto("from_guest_to_host")], vec![from_ours(), drop()]],
    );
    table.chain(
        "from_guest_to_host",
        vec![
            vec![St::Any(S::CtState, Const::u32(0b110, "established,related")), accept()],
            vec![v4(), icmp(), St::Is(S::IcmpType, Const::u8(8, "echo-request")), accept()],
            vec![v6(), icmpv6(), accept()],
            vec![St::In(vec![S::IifName], "open_host"), accept()],
            vec![St::CountIn("drop_host", vec![S::IifName]), drop()],
        ],
    );
}

/// Published ports, and the way out of translated networks.
fn add_translation(context: &Context<'_>, table: &mut Builder) {
    table.set("transport", &[T::Proto]);
    for proto in viaduct_types::Proto::ALL {
        table.insert("transport", Key::new().proto(proto));
    }
    for f in &FAMILIES {
        let a = f.address;
        table.map(both!(f, "publish4", "publish6"), &[a, T::Proto, T::Port], &[a, T::Port]);
        table.range_map(both!(f, "publish_range4", "publish_range6"), &[a, T::Proto, T::Port], &[a]);
        table.map(both!(f, "publish_all4", "publish_all6"), &[T::Proto, T::Port], &[a, T::Port]);
        table.range_map(both!(f, "publish_all_range4", "publish_all_range6"), &[T::Proto, T::Port], &[a]);
        table.ranges(both!(f, "hairpin4", "hairpin6"), &[a, a]);
        table.range_map(both!(f, "snat4", "snat6"), &[T::IfName, a], &[a]);
        table.ranges(both!(f, "masquerade4", "masquerade6"), &[T::IfName, a]);
    }
    fill_published(context, table);
    fill_ways_out(context, table);
    let mut published = vec![vec![St::NotIn(vec![S::L4Proto], "transport"), accept()]];
    for f in &FAMILIES {
        let to =
            |key: Vec<S>, map, port| St::Translate { kind: NatKind::Dnat, family: f.proto, key, map, port };
        let exact = || vec![f.daddr, S::L4Proto, S::ThDport];
        let any = || vec![S::L4Proto, S::ThDport];
        // RTN_LOCAL
        let local = || St::Is(S::FibDaddrType, Const::u32(2, "local"));
        published.push(vec![(f.is)(), to(exact(), both!(f, "publish4", "publish6"), true)]);
        published.push(vec![(f.is)(), to(exact(), both!(f, "publish_range4", "publish_range6"), false)]);
        published.push(vec![(f.is)(), local(), to(any(), both!(f, "publish_all4", "publish_all6"), true)]);
        let map = both!(f, "publish_all_range4", "publish_all_range6");
        published.push(vec![(f.is)(), local(), to(any(), map, false)]);
    }
    let nat = |hook, priority| Base { kind: ChainKind::Nat, hook, priority, device: None };
    table.base_chain("published", nat(Hook::Prerouting, DSTNAT), published.clone());
    // ::1 cannot leave the loopback device, so nothing that is sent to it is led elsewhere.
    let to_localhost = vec![v6(), St::Is(S::Ip6Daddr, Const::v6(Ipv6Addr::LOCALHOST)), accept()];
    published.insert(0, to_localhost);
    table.base_chain("published_to_host", nat(Hook::Output, DSTNAT), published);
    let dnated = || St::Any(S::CtStatus, Const::u32(DNATED, "dnat"));
    let mut leaving = vec![vec![dnated(), v4(), loopback_v4(S::IpSaddr), St::Masquerade]];
    for f in &FAMILIES {
        // Answers within one subnet would not come back through us.
        let hairpin = St::In(vec![f.saddr, f.daddr], both!(f, "hairpin4", "hairpin6"));
        leaving.push(vec![dnated(), (f.is)(), hairpin, St::Masquerade]);
        let key = || vec![S::OifName, f.saddr];
        let map = both!(f, "snat4", "snat6");
        leaving.push(vec![
            (f.is)(),
            St::Translate { kind: NatKind::Snat, family: f.proto, key: key(), map, port: false },
        ]);
        leaving.push(vec![(f.is)(), St::In(key(), both!(f, "masquerade4", "masquerade6")), St::Masquerade]);
    }
    table.base_chain("leaving", nat(Hook::Postrouting, SRCNAT), leaving);
}

fn fill_published(context: &Context<'_>, table: &mut Builder) {
    for (_, guest) in context.guests() {
        for publish in guest.publish.iter().map(|p| p.publish) {
            for f in FAMILIES.iter().filter(|f| publish.address.is_none_or(|a| a.is_ipv6() == f.v6)) {
                let Some(target) = context.publish_target(guest, f.v6) else { continue };
                let key = || publish.address.map_or_else(Key::new, |a| Key::new().ip(a)).proto(publish.proto);
                let exact = match publish.address {
                    Some(_) => both!(f, "publish4", "publish6"),
                    None => both!(f, "publish_all4", "publish_all6"),
                };
                if publish.host.count() > 1 && publish.host == publish.guest {
                    let range = match publish.address {
                        Some(_) => both!(f, "publish_range4", "publish_range6"),
                        None => both!(f, "publish_all_range4", "publish_all_range6"),
                    };
                    table.relate(range, key().ports(publish.host), Key::new().ip(target));
                    continue;
                }
                // The kernel cannot shift a range of ports, so each port of a shifted one is an element.
                let pairs = (publish.host.first()..=publish.host.last())
                    .zip(publish.guest.first()..=publish.guest.last());
                for (host, port) in pairs {
                    table.relate(exact, key().port(host), Key::new().ip(target).port(port));
                }
            }
        }
    }
    fill_hairpins(context, table);
}

/// Who reaches a published port from the same subnet: guests of one bridge, and a routed guest its own.
fn fill_hairpins(context: &Context<'_>, table: &mut Builder) {
    let mut insert = |prefix: IpNet| {
        let set = if prefix.addr().is_ipv6() { "hairpin6" } else { "hairpin4" };
        table.insert(set, Key::new().prefix(prefix).prefix(prefix));
    };
    for network in context.config.networks.values().filter(|n| bridge_of(n).is_some()) {
        aggregate(prefixes(network)).into_iter().for_each(&mut insert);
    }
    for (_, guest) in context.guests().filter(|(_, g)| !g.publish.is_empty()) {
        for (address, nic) in context.addresses_of(guest) {
            let network = context.config.networks.get(&nic.network);
            if network.is_some_and(|n| matches!(n.mode, Mode::Routed { .. })) {
                insert(IpNet::from(address));
            }
        }
    }
}

fn fill_ways_out(context: &Context<'_>, table: &mut Builder) {
    for network in context.config.networks.values() {
        let Some((_, l3)) = context.uplink(network) else { continue };
        let (sources, translated): (&[IpAddr], Vec<IpNet>) = match &network.mode {
            Mode::Nat { source_address, subnets, .. } => {
                (source_address, subnets.iter().map(|s| s.prefix).collect())
            }
            Mode::Routed { install_pool, .. } => (&[], install_pool.clone()),
            Mode::Bridged { .. } | Mode::Isolated { .. } | Mode::Vnet { .. } => continue,
        };
        for prefix in translated {
            let v6 = prefix.addr().is_ipv6();
            let key = Key::new().name(l3).prefix(prefix);
            match sources.iter().find(|a| a.is_ipv6() == v6) {
                Some(source) => table.relate(if v6 { "snat6" } else { "snat4" }, key, Key::new().ip(*source)),
                None => table.insert(if v6 { "masquerade6" } else { "masquerade4" }, key),
            }
        }
    }
}
