//! Published ports, and the way out of translated networks.

use std::net::{IpAddr, Ipv6Addr};

use viaduct_model::Mode;
use viaduct_types::{IfName, IpNet};

use super::{
    super::{
        context::{Context, bridge_of, prefixes, translates},
        elements::{Builder, words::*},
        links::asks_as,
    },
    aggregate,
    families::{FAMILIES, FamilyWords, both},
    published,
};
use crate::nft::{Base, ChainKind, Const, Hook, Key, NatKind, Selector as S, Statement as St, Type as T};

const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;

/// The sets are there in any case: what ends flows reads in them what there was.
pub(super) fn add(context: &Context<'_>, table: &mut Builder) {
    for f in &FAMILIES {
        let a = f.address;
        table.map(both!(f, "publish4", "publish6"), &[a, T::Proto, T::Port], &[a, T::Port]);
        table.range_map(both!(f, "publish_range4", "publish_range6"), &[T::Port, T::Proto, a], &[a]);
        table.map(both!(f, "publish_all4", "publish_all6"), &[T::Proto, T::Port], &[a, T::Port]);
        table.range_map(both!(f, "publish_all_range4", "publish_all_range6"), &[T::Port, T::Proto], &[a]);
        table.ranges(both!(f, "hairpin4", "hairpin6"), &[a, a]);
        table.set(both!(f, "hairpin_own4", "hairpin_own6"), &[a, a]);
        table.set(both!(f, "away4", "away6"), &[a]);
        table.map(both!(f, "away_on_link4", "away_on_link6"), &[a], &[a]);
        table.range_map(both!(f, "snat4", "snat6"), &[T::IfName, a], &[a]);
        table.ranges(both!(f, "masquerade4", "masquerade6"), &[T::IfName, a]);
    }
    fill_published(context, table);
    fill_ways_out(context, table);
    if translates(context.config) {
        add_rules(table, &beyond(context));
    }
}

/// The bridges behind which published guests may be that other hosts have.
fn beyond<'a>(context: &Context<'a>) -> Vec<&'a IfName> {
    let vnets = context.config.networks.values().filter(|network| matches!(network.mode, Mode::Vnet { .. }));
    vnets.filter_map(bridge_of).collect()
}

fn add_rules(table: &mut Builder, beyond: &[&IfName]) {
    let mut ports = Vec::new();
    let mut everywhere = Vec::new();
    for f in &FAMILIES {
        let to = |key, map, port| {
            vec![(f.is)(), St::Translate { kind: NatKind::Dnat, family: f.proto, key, map, port }]
        };
        // Of ranges the port comes first: few of them share it, and all others are done with.
        let (exact, range) = (vec![f.daddr, S::L4Proto, S::ThDport], vec![S::ThDport, S::L4Proto, f.daddr]);
        ports.push(to(exact, both!(f, "publish4", "publish6"), true));
        ports.push(to(range, both!(f, "publish_range4", "publish_range6"), false));
        let (exact, range) = (vec![S::L4Proto, S::ThDport], vec![S::ThDport, S::L4Proto]);
        everywhere.push(to(exact, both!(f, "publish_all4", "publish_all6"), true));
        everywhere.push(to(range, both!(f, "publish_all_range4", "publish_all_range6"), false));
    }
    for f in &FAMILIES {
        // A guest's own address is none of the host's.
        let attached = both!(f, "attached4", "attached6");
        ports.push(vec![(f.is)(), St::In(vec![f.daddr], attached), accept()]);
    }
    // RTN_LOCAL
    let local = St::Is(S::FibDaddrType, Const::u32(2, "local"));
    ports.push(vec![local, goto("published_everywhere")]);
    table.chain("published_everywhere", everywhere);
    let nat = |hook, priority| Base { kind: ChainKind::Nat, hook, priority, device: None };
    table.base_chain("published", nat(Hook::Prerouting, DSTNAT), ports.clone());
    // ::1 cannot leave the loopback device, so nothing that is sent to it is led elsewhere.
    let to_localhost = vec![v6(), St::Is(S::Ip6Daddr, Const::v6(Ipv6Addr::LOCALHOST)), accept()];
    ports.insert(0, to_localhost);
    table.base_chain("published_to_host", nat(Hook::Output, DSTNAT), ports);
    // Whoever asks, answers by a link go to one address only where the way out is another one.
    let on_link = |f: &FamilyWords| {
        let (key, map) = (vec![f.daddr], both!(f, "away_on_link4", "away_on_link6"));
        vec![(f.is)(), St::Translate { kind: NatKind::Snat, family: f.proto, key, map, port: false }]
    };
    let mut to_published: Vec<_> = FAMILIES.iter().map(on_link).collect();
    to_published.push(vec![v4(), loopback_v4(S::IpSaddr), St::Masquerade]);
    let mut leaving = vec![
        vec![published(), jump("to_published")],
        // Between our own networks everybody is who they are.
        vec![to_ours(), accept()],
    ];
    for f in &FAMILIES {
        // Answers within one subnet would not come back through us.
        let pair = |set| vec![(f.is)(), St::In(vec![f.saddr, f.daddr], set), St::Masquerade];
        to_published.push(pair(both!(f, "hairpin4", "hairpin6")));
        to_published.push(pair(both!(f, "hairpin_own4", "hairpin_own6")));
        // Nor would those of who answers by another way.
        to_published.push(vec![(f.is)(), St::In(vec![f.daddr], both!(f, "away4", "away6")), St::Masquerade]);
        let key = || vec![S::OifName, f.saddr];
        let map = both!(f, "snat4", "snat6");
        leaving.push(vec![
            (f.is)(),
            St::Translate { kind: NatKind::Snat, family: f.proto, key: key(), map, port: false },
        ]);
        leaving.push(vec![(f.is)(), St::In(key(), both!(f, "masquerade4", "masquerade6")), St::Masquerade]);
    }
    for f in &FAMILIES {
        // Who is on another host of its vnet would answer by that host's gateway.
        let elsewhere = St::NotIn(vec![f.daddr], both!(f, "attached4", "attached6"));
        to_published.extend(beyond.iter().map(|bridge| {
            vec![
                (f.is)(),
                St::Is(S::OifName, Const::name(bridge.as_str())),
                elsewhere.clone(),
                St::Masquerade,
            ]
        }));
    }
    table.chain("to_published", to_published);
    table.base_chain("leaving", nat(Hook::Postrouting, SRCNAT), leaving);
}

fn fill_published(context: &Context<'_>, table: &mut Builder) {
    for (_, guest) in context.guests() {
        for publish in guest.publish.iter().map(|p| p.publish) {
            for f in FAMILIES.iter().filter(|f| publish.address.is_none_or(|a| a.is_ipv6() == f.v6)) {
                let Some((target, nic)) = context.publish_target(guest, f.v6) else { continue };
                if context.asked_by_host(guest, f.v6).is_some() {
                    let own = Key::new().ip(asks_as(f.v6));
                    table.relate(both!(f, "away_on_link4", "away_on_link6"), Key::new().ip(target), own);
                }
                if !context.answers_come_back(guest, nic, f.v6) {
                    table.insert(both!(f, "away4", "away6"), Key::new().ip(target));
                }
                let at = |key: Key| publish.address.map_or(key.clone(), |a| key.ip(a));
                let exact = match publish.address {
                    Some(_) => both!(f, "publish4", "publish6"),
                    None => both!(f, "publish_all4", "publish_all6"),
                };
                if publish.host.count() > 1 && publish.host == publish.guest {
                    let range = match publish.address {
                        Some(_) => both!(f, "publish_range4", "publish_range6"),
                        None => both!(f, "publish_all_range4", "publish_all_range6"),
                    };
                    let key = at(Key::new().ports(publish.host).proto(publish.proto));
                    table.relate(range, key, Key::new().ip(target));
                    continue;
                }
                // The kernel cannot shift a range of ports, so each port of a shifted one is an element.
                let pairs = (publish.host.first()..=publish.host.last())
                    .zip(publish.guest.first()..=publish.guest.last());
                for (host, port) in pairs {
                    let key = at(Key::new()).proto(publish.proto).port(host);
                    table.relate(exact, key, Key::new().ip(target).port(port));
                }
            }
        }
    }
    fill_hairpins(context, table);
}

/// Who reaches a published port from the same subnet: guests of one bridge, and a routed guest its own.
fn fill_hairpins(context: &Context<'_>, table: &mut Builder) {
    for network in context.config.networks.values().filter(|n| bridge_of(n).is_some()) {
        for prefix in aggregate(prefixes(network)) {
            let set = if prefix.addr().is_ipv6() { "hairpin6" } else { "hairpin4" };
            table.insert(set, Key::new().prefix(prefix).prefix(prefix));
        }
    }
    for (_, guest) in context.guests().filter(|(_, g)| !g.publish.is_empty()) {
        for (address, nic) in context.addresses_of(guest) {
            let network = context.config.networks.get(&nic.network);
            if network.is_some_and(|n| matches!(n.mode, Mode::Routed { .. })) {
                let set = if address.is_ipv6() { "hairpin_own6" } else { "hairpin_own4" };
                table.insert(set, Key::new().ip(address).ip(address));
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
