//! Who may open flows to whom, through this host.

use viaduct_model::{Mode, Network, Policy};
use viaduct_types::IpNet;

use super::{
    super::{
        context::{Context, bridge_of, prefixes},
        elements::{Builder, words::*},
        services::{Permissions, permissions},
        uplinks::ip_forward,
    },
    FILTER, aggregate, ct_state,
    families::{FAMILIES, FamilyWords, both},
    from_uplink, known, midway, published,
    recall::{Recall, Way},
};
use crate::{
    nft::{Hook, Key, Selector as S, Statement as St, Type as T},
    state::Sysctl,
};

/// Who may open flows to whom, through this host.
pub(super) fn add(context: &Context<'_>, table: &mut Builder) {
    table.set("inside", &[T::IfName]);
    table.set("exits", &[T::IfName, T::IfName]);
    table.set("switched", &[T::IfName, T::IfName]);
    table.set("redirected", &[T::IfName, T::IfName]);
    table.set("confined", &[T::IfName]);
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
        for side in [&IN, &OUT] {
            table.set(side.service[usize::from(f.v6)], &[a, a, T::Proto, T::Port]);
            table.ranges(side.ports[usize::from(f.v6)], &[a, a, T::Proto, T::Port]);
            table.ranges(side.protocols[usize::from(f.v6)], &[a, a, T::Proto]);
        }
        table.ranges(both!(f, "between4", "between6"), &[a, a]);
        table.ranges(both!(f, "inbound4", "inbound6"), &[T::IfName, a]);
        // Of no rule: what ends flows knows by it whose addresses belong to guests that are away. Ranges of one field
        // are kept in another way by the kernel, hence any protocol.
        table.ranges(both!(f, "own4", "own6"), &[T::Proto, a]);
    }
    if context.delegates() {
        // What is behind guests that are routers. Ranges need a second field, which is of any protocol.
        table.ranges("behind6", &[T::Ipv6, T::Proto]);
    }
    let recall = Recall::new(context);
    recall.add(table);
    fill_zones(context, table);
    fill_permissions(context, table);
    let invalid = || vec![ct_state(0b001, "invalid"), drop()];
    let mut through = vec![vec![known(), accept()]];
    // Comparing a name or two costs less than a look that finds nothing.
    through.extend(context.uplinks().map(|(_, _, l3)| vec![from_uplink(l3), goto("from_elsewhere")]));
    through.extend([
        vec![St::In(vec![S::IifName], "inside"), goto("from_guest")],
        // A segment on a VLAN that the host is not on: with br_netfilter its frames come here, too.
        vec![from_ours(), St::In(vec![S::IifName, S::OifName], "switched"), accept()],
        vec![from_ours(), drop()],
        vec![goto("from_elsewhere")],
    ]);
    table.base("through", Hook::Forward, FILTER, through);
    let mut from_elsewhere: Vec<_> =
        recall.known(Way::In, [to_ours(), goto("known_in")]).into_iter().collect();
    from_elsewhere.extend([
        vec![St::In(vec![S::OifName], "inside"), goto("from_outside")],
        vec![to_ours(), drop()],
        // With br_netfilter frames that only cross a bridge come here, too.
        vec![St::In(vec![S::IifName, S::OifName], "switched"), accept()],
        // We made this host forward for our guests, not for whatever else is connected to it.
        vec![v4(), St::In(vec![S::IifName], "closed4"), drop()],
        vec![v6(), St::In(vec![S::IifName], "closed6"), drop()],
    ]);
    table.chain("from_elsewhere", from_elsewhere);
    let listed_out = |f: &FamilyWords| {
        let set = both!(f, "listed_out4", "listed_out6");
        vec![(f.is)(), St::In(vec![f.saddr], set), jump(both!(f, "allow_out4", "allow_out6"))]
    };
    // Neighbour discovery stays between the guests of a bridge; with br_netfilter it comes here on its way.
    let discovery = |number, word| {
        let on_bridge = St::In(vec![S::IifName, S::OifName], "redirected");
        vec![v6(), icmpv6(), icmpv6_type(number, word), on_bridge, accept()]
    };
    // The set says whether the guest's network still has this way out.
    let out = recall.known(Way::Out, [St::In(vec![S::IifName, S::OifName], "exits"), accept()]);
    let between = recall.known(Way::Between, [jump("known_between")]);
    let mut from_guest: Vec<_> = out.into_iter().chain(between).collect();
    from_guest.extend([
        // What only crosses a bridge may be in the midst of a connection that was elsewhere for a while, as its guest was.
        vec![St::In(vec![S::IifName, S::OifName], "switched"), accept()],
        invalid(),
        discovery(135, "nd-neighbor-solicit"),
        discovery(136, "nd-neighbor-advert"),
        midway::check("midway_from_guest"),
        listed_out(&FAMILIES[0]),
        listed_out(&FAMILIES[1]),
        vec![St::In(vec![S::OifName], "inside"), goto("from_guest_to_guest")],
        vec![St::In(vec![S::IifName, S::OifName], "exits"), recall.admit(Way::Out)],
        vec![goto("refuse_out")],
    ]);
    table.chain("from_guest", from_guest);
    let between = |f: &FamilyWords| {
        let pair = St::In(vec![f.saddr, f.daddr], both!(f, "between4", "between6"));
        vec![(f.is)(), pair, recall.admit(Way::Between)]
    };
    table.chain(
        "from_guest_to_guest",
        vec![
            // From an isolated network there is no way out, whoever would let it in.
            vec![
                St::In(vec![S::IifName], "confined"),
                St::NotIn(vec![S::IifName, S::OifName], "redirected"),
                goto("refuse_out"),
            ],
            vec![jump("to_guest")],
            between(&FAMILIES[0]),
            between(&FAMILIES[1]),
            vec![goto("refuse_out")],
        ],
    );
    let pretender = |f: &FamilyWords| {
        vec![(f.is)(), St::In(vec![f.saddr], both!(f, "attached4", "attached6")), goto("refuse_in")]
    };
    let behind = || vec![v6(), St::In(vec![S::Ip6Saddr, S::L4Proto], "behind6"), goto("refuse_in")];
    let behind = context.delegates().then(behind);
    let inbound = |f: &FamilyWords| {
        let to = St::In(vec![S::IifName, f.daddr], both!(f, "inbound4", "inbound6"));
        vec![(f.is)(), to, recall.admit(Way::In)]
    };
    let mut from_outside = vec![
        invalid(),
        // A guest's address does not come from outside while the guest is here.
        pretender(&FAMILIES[0]),
        pretender(&FAMILIES[1]),
    ];
    from_outside.extend(behind);
    from_outside.extend([
        midway::check("midway_from_outside"),
        vec![jump("to_guest")],
        inbound(&FAMILIES[0]),
        inbound(&FAMILIES[1]),
        vec![goto("refuse_in")],
    ]);
    table.chain("from_outside", from_outside);
    let listed_in = |f: &FamilyWords| {
        let set = both!(f, "listed_in4", "listed_in6");
        vec![(f.is)(), St::In(vec![f.daddr], set), goto(both!(f, "allow_in4", "allow_in6"))]
    };
    table.chain(
        "to_guest",
        vec![
            // Its translation is the permission of a published port.
            vec![published(), recall.admit_to_guest()],
            listed_in(&FAMILIES[0]),
            listed_in(&FAMILIES[1]),
        ],
    );
    for f in &FAMILIES {
        let family = usize::from(f.v6);
        let allowed = |side: &Side, own: S, peer: S, end: &dyn Fn() -> St| {
            // The guest's own address first: see [`fill_side`].
            let flow = || vec![own, peer, S::L4Proto];
            let to_port = || vec![own, peer, S::L4Proto, S::ThDport];
            vec![
                vec![St::In(to_port(), side.service[family]), end()],
                vec![St::In(to_port(), side.ports[family]), end()],
                vec![St::In(flow(), side.protocols[family]), end()],
            ]
        };
        let refuse = |chain| vec![vec![goto(chain)]];
        let name = both!(f, "allow_in4", "allow_in6");
        table.chain(
            name,
            [allowed(&IN, f.daddr, f.saddr, &|| recall.admit_to_guest()), refuse("refuse_in")].concat(),
        );
        let name = both!(f, "allow_out4", "allow_out6");
        table.chain(name, [allowed(&OUT, f.saddr, f.daddr, &back), refuse("refuse_out")].concat());
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
    // What has no address here is only switched; with br_netfilter it comes here all the same.
    for (_, vnet) in context.bare_vnets() {
        table.insert("inside", Key::new().name(&vnet.bridge));
        table.insert("switched", Key::new().name(&vnet.bridge).name(&vnet.bridge));
    }
    for (name, network) in &context.config.networks {
        if let Some(bridge) = bridge_of(network) {
            // A bridge whose frames do not pass the IP filter; with br_netfilter they come here all the same.
            let set = if context.is_redirected(name, network) { "redirected" } else { "switched" };
            table.insert(set, Key::new().name(bridge).name(bridge));
            if matches!(network.mode, Mode::Isolated { .. }) {
                table.insert("confined", Key::new().name(bridge));
            }
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
    let filtered = context.config.networks.values().filter(|n| !matches!(n.mode, Mode::Bridged { .. }));
    for prefix in aggregate(filtered.flat_map(prefixes).collect()) {
        let set = if prefix.addr().is_ipv6() { "own6" } else { "own4" };
        table.insert(set, Key::new().protocols(0, u8::MAX).prefix(prefix));
    }
    for port in context.ports.iter().filter(|p| !matches!(p.network.mode, Mode::Bridged { .. })) {
        for address in port.nic.addresses.iter().map(|net| net.addr()) {
            table.insert(if address.is_ipv6() { "attached6" } else { "attached4" }, Key::new().ip(address));
        }
        if let Some(prefix) = port.nic.delegated {
            table.insert("behind6", Key::new().prefix(prefix.into()).protocols(0, 255));
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

/// The sets with what one side of a flow allows, by family. A single service between two addresses stands in a hash,
/// as taking one out of a large set of ranges is slow.
struct Side {
    service: [&'static str; 2],
    ports: [&'static str; 2],
    protocols: [&'static str; 2],
}

const IN: Side = Side {
    service: ["in_service4", "in_service6"],
    ports: ["in_ports4", "in_ports6"],
    protocols: ["in_protocols4", "in_protocols6"],
};
const OUT: Side = Side {
    service: ["out_service4", "out_service6"],
    ports: ["out_ports4", "out_ports6"],
    protocols: ["out_protocols4", "out_protocols6"],
};

fn fill_permissions(context: &Context<'_>, table: &mut Builder) {
    for (_, guest) in context.guests() {
        for f in &FAMILIES {
            let own = || context.addresses_of(guest).map(|(a, _)| a).filter(|a| a.is_ipv6() == f.v6);
            if let Some(list) = &guest.allow_in {
                let allowed = permissions(context, list, f.v6);
                for to in own() {
                    table.insert(both!(f, "listed_in4", "listed_in6"), Key::new().ip(to));
                    fill_side(&IN, f, &allowed, |peer| Key::new().ip(to).prefix(peer), table);
                }
            }
            if let Some(list) = &guest.allow_out {
                let allowed = permissions(context, list, f.v6);
                for from in own() {
                    table.insert(both!(f, "listed_out4", "listed_out6"), Key::new().ip(from));
                    fill_side(&OUT, f, &allowed, |peer| Key::new().ip(from).prefix(peer), table);
                }
            }
        }
    }
}

/// `pair` makes the key's addresses, the guest's own first, of the other end's prefix.
///
/// The kernel looks ranges up field by field and goes on with every element that the fields so far match (nft_set_pipapo).
/// By the guest's address few are left, while many guests let the same others in. The same search is done for each
/// element that is added, so that the order also decides whether a large set is filled in a moment.
fn fill_side(
    side: &Side,
    f: &FamilyWords,
    allowed: &Permissions,
    pair: impl Fn(IpNet) -> Key,
    table: &mut Builder,
) {
    let family = usize::from(f.v6);
    for (peer, (first, last)) in &allowed.protocols {
        table.insert(side.protocols[family], pair(*peer).protocols(*first, *last));
    }
    for (peer, proto, ports) in &allowed.ports {
        let key = pair(*peer).proto(*proto).ports(*ports);
        table.insert(if key.is_single() { side.service[family] } else { side.ports[family] }, key);
    }
}
