//! A change of one guest that is planned without a look at the whole host leads where the whole plan leads, and the way
//! there is as closed.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeSet;

use common::{
    attach_all, config, converge, host, look,
    shape::{GuestShape, Shape, check_safe, comparable, guest, shape},
};
use proptest::{prelude::*, sample::Index};
use viaduct_model::{Config, Leases, written_addresses};
use viaduct_plan::{
    Apply, Attachments, Flow, ObservePart, Plan, ServedChange, Tuple, ends,
    nft::Family,
    part::{Judge, Reduced, Side},
    sim::Host,
};

/// The partial plan, if there is one.
fn part(host: &mut Host, before: Side<'_>, after: Side<'_>) -> Option<Plan> {
    part_with_told(host, before, after).map(|(plan, _)| plan)
}

/// With what guests are told otherwise.
fn part_with_told(host: &mut Host, before: Side<'_>, after: Side<'_>) -> Option<(Plan, ServedChange)> {
    let stale = BTreeSet::new();
    let reduced = Reduced::new(before, after, &stale)?;
    let ground = host.observe_part(None, &reduced.ground()).unwrap();
    let section = reduced.section(&ground)?;
    let observed = host.observe_part(None, section.ask()).unwrap();
    Some((section.plan(observed)?, section.served().clone()))
}

/// A configuration with the addresses and prefixes that those without are lent.
fn lent(text: &str, attachments: &Attachments, leases: &mut Leases) -> Config {
    let config = config(text);
    leases.renew(&config, &written_addresses(&config), attachments.keys(), 0);
    leases.lend(&config).unwrap_or(config)
}

/// What happens to a host.
#[derive(Clone, Debug)]
enum Change {
    Attach(Index),
    Detach(Index),
    Configure(Index, GuestShape),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<Index>().prop_map(Change::Attach),
        any::<Index>().prop_map(Change::Detach),
        (any::<Index>(), guest()).prop_map(|(index, guest)| Change::Configure(index, guest)),
    ]
}

/// A host that some of the guests are attached to, made so.
fn made(shape: &Shape, attached: &[bool]) -> (Host, Config, Attachments, Attachments) {
    let config = config(&shape.toml());
    let mut host = host();
    let all = attach_all(&mut host, &config);
    let some: Attachments = all
        .iter()
        .zip(attached.iter().cycle())
        .filter(|(_, attached)| **attached)
        .map(|((nic, target), _)| (nic.clone(), target.clone()))
        .collect();
    converge(&mut host, &config, &some);
    (host, config, some, all)
}

/// What the change makes of it; none when it changes nothing.
fn changed(
    shape: &Shape,
    attachments: &Attachments,
    all: &Attachments,
    change: &Change,
) -> Option<(String, Attachments)> {
    let (mut shape, mut attachments) = (shape.clone(), attachments.clone());
    match change {
        Change::Attach(index) => {
            let free: Vec<_> = all.iter().filter(|(nic, _)| !attachments.contains_key(*nic)).collect();
            let (nic, target) = free.get(index.index(free.len().max(1)))?;
            attachments.insert((*nic).clone(), (*target).clone());
        }
        Change::Detach(index) => {
            let nic = attachments.keys().nth(index.index(attachments.len().max(1)))?.clone();
            attachments.remove(&nic);
        }
        Change::Configure(index, guest) => {
            let place = index.index(shape.guests.len().max(1));
            let old = shape.guests.get_mut(place)?;
            // Its NICs stay, or it is another guest.
            let (network, second_nic) = (old.network, old.second_nic);
            *old = GuestShape { network, second_nic, ..guest.clone() };
        }
    }
    Some((shape.toml(), attachments))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_part_leads_where_the_whole_leads(
        shape in shape(),
        attached in prop::collection::vec(any::<bool>(), 1..9),
        changes in prop::collection::vec(change(), 1..6),
    ) {
        let (mut host, _, mut attachments, all) = made(&shape, &attached);
        let mut leases = Leases::default();
        let mut config = lent(&shape.toml(), &attachments, &mut leases);
        converge(&mut host, &config, &attachments);
        let mut served = look(&mut host, &config, &attachments).1.served;
        let mut shape = shape;
        for change in changes {
            let Some((new, wanted)) = changed(&shape, &attachments, &all, &change) else { continue };
            let new = lent(&new, &wanted, &mut leases);
            let before = Side { config: &config, attachments: &attachments };
            let after = Side { config: &new, attachments: &wanted };
            let mut by_whole = host.clone();
            converge(&mut by_whole, &new, &wanted);
            match part_with_told(&mut host, before, after) {
                Some((plan, told)) => {
                    for op in &plan.ops {
                        for result in host.apply(std::slice::from_ref(op), &|_, _| true, &mut |_| ()) {
                            prop_assert!(result.is_ok(), "{:?}\n{plan}", result);
                        }
                        check_safe(&host);
                    }
                    let (_, desired, _, rest) = look(&mut host, &new, &wanted);
                    prop_assert!(rest.is_empty(), "{change:?}:\n{plan}left undone:\n{rest}");
                    prop_assert_eq!(comparable(&host), comparable(&by_whole));
                    served.change(&told);
                    prop_assert_eq!(&served, &desired.served);
                }
                None => {
                    converge(&mut host, &new, &wanted);
                    let desired = look(&mut host, &new, &wanted).1;
                    let told = served.change_to(&desired.served);
                    served.change(&told);
                    prop_assert_eq!(&served, &desired.served);
                }
            }
            if let Change::Configure(index, guest) = &change {
                let place = index.index(shape.guests.len().max(1));
                let (network, second_nic) = (shape.guests[place].network, shape.guests[place].second_nic);
                shape.guests[place] = GuestShape { network, second_nic, ..guest.clone() };
            }
            (config, attachments) = (new, wanted);
        }
    }

    #[test]
    fn stopped_anywhere_the_whole_plan_ends_it(
        shape in shape(),
        attached in prop::collection::vec(any::<bool>(), 1..9),
        change in change(),
        at in 0usize..30,
    ) {
        let (mut host, config, attachments, all) = made(&shape, &attached);
        let Some((new, wanted)) = changed(&shape, &attachments, &all, &change) else { return Ok(()) };
        let new = common::config(&new);
        let before = Side { config: &config, attachments: &attachments };
        let after = Side { config: &new, attachments: &wanted };
        let Some(plan) = part(&mut host, before, after) else { return Ok(()) };
        let done = &plan.ops[..at.min(plan.ops.len())];
        for result in host.apply(done, &|_, _| true, &mut |_| ()) {
            prop_assert!(result.is_ok());
        }
        check_safe(&host);
        // Back, or on.
        let mut back = host.clone();
        converge(&mut back, &config, &attachments);
        converge(&mut host, &new, &wanted);
    }

    #[test]
    fn the_same_flows_end(
        shape in shape(),
        attached in prop::collection::vec(any::<bool>(), 1..9),
        change in change(),
        ends_of in prop::collection::vec((any::<Index>(), any::<Index>(), any::<bool>(), 0u16..9), 40),
        udp in any::<bool>(),
    ) {
        let (mut host, config, attachments, all) = made(&shape, &attached);
        let Some((new, wanted)) = changed(&shape, &attachments, &all, &change) else { return Ok(()) };
        let new = common::config(&new);
        let before = Side { config: &config, attachments: &attachments };
        let after = Side { config: &new, attachments: &wanted };
        let stale = BTreeSet::new();
        let Some(reduced) = Reduced::new(before, after, &stale) else { return Ok(()) };
        let ground = host.observe_part(None, &reduced.ground()).unwrap();
        let judge = Judge::new(&reduced, &ground);
        let (_, old, ..) = look(&mut host, &config, &attachments);
        let (_, wished, ..) = look(&mut host, &new, &wanted);
        let mut addresses: Vec<std::net::IpAddr> =
            config.nics().flat_map(|(_, nic)| &nic.addresses).map(|net| net.addr()).collect();
        addresses.extend(["192.0.2.7", "203.0.113.2", "2001:db8:ffff::7"].map(|a| a.parse::<std::net::IpAddr>().unwrap()));
        for (from, to, published, port) in ends_of {
            let (source, to) = (*from.get(&addresses), *to.get(&addresses));
            if source.is_ipv4() != to.is_ipv4() {
                continue;
            }
            let ports = [22, 80, 99, 443, 53, 25, 8000, 9001, 9011];
            let service = ports[usize::from(port)];
            // To a published port, or straight.
            let original = if published && to.is_ipv4() {
                ("203.0.113.2".parse().unwrap(), 8000 + port % 7, 80)
            } else {
                (to, service, service)
            };
            let flow = Flow {
                protocol: if udp { 17 } else { 6 },
                original: Tuple { source, destination: original.0, source_port: 1, destination_port: original.1 },
                reply: Tuple { source: to, destination: source, source_port: original.2, destination_port: 1 },
            };
            prop_assert_eq!(!judge.keeps(&flow), ends(&old.nft, &wished.nft, &flow), "{:?}", flow);
        }
    }
}

/// What people do all the time is planned in part.
#[test]
fn everyday_changes_are_partial() {
    let text = |publish: &str, v6: &str| {
        format!(
            "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n\
             [networks.pub]\nmode = \"routed\"\nuplink = \"wan\"\npool = [\"198.51.100.0/28\", \"2001:db8:1::/64\"]\n\
             [networks.lan]\nmode = \"nat\"\nuplink = \"wan\"\nsubnets = [\"10.0.0.0/24\", \"fd00::/64\"]\n\
             [guests.web]\npublish = [{publish}]\nallow-in = [{{ from = \"any\", ports = [\"443\"] }}]\n\
             [[guests.web.nics]]\nnetwork = \"pub\"\naddresses = [\"198.51.100.1\"{v6}]\n\
             [guests.db]\npublish = [\"5432:5432/tcp\"]\n[[guests.db.nics]]\nnetwork = \"lan\"\naddresses = [\"10.0.0.7\"]\n\
             [guests.old]\n[[guests.old.nics]]\nnetwork = \"lan\"\naddresses = [\"10.0.0.8\"]\n"
        )
    };
    let plain = config(&text("", ""));
    let published = config(&text("\"203.0.113.2:80:80/tcp\"", ""));
    let second = config(&text("", ", \"2001:db8:1::1\""));
    let mut host = host();
    let all = attach_all(&mut host, &plain);
    converge(&mut host, &plain, &all);
    let some = |gone: &str| -> Attachments {
        all.iter()
            .filter(|(nic, _)| nic.guest.as_str() != gone)
            .map(|(n, t)| (n.clone(), t.clone()))
            .collect()
    };
    for (to, attached, most) in [
        (&plain, some("web"), 4),
        (&plain, all.clone(), 30),
        (&plain, some("db"), 3),
        (&plain, all.clone(), 30),
        (&published, all.clone(), 4),
        (&plain, all.clone(), 4),
        (&second, all.clone(), 8),
        (&plain, all.clone(), 8),
    ] {
        // From where it is, which it was made to be last.
        let from = [&plain, &published, &second].into_iter().find(|config| {
            let now = [some(""), some("web"), some("db")];
            now.iter().any(|attached| look(&mut host, config, attached).3.is_empty())
        });
        let from = from.unwrap();
        let was =
            [some(""), some("web"), some("db")].into_iter().find(|a| look(&mut host, from, a).3.is_empty());
        let was = was.unwrap();
        let plan = part(
            &mut host,
            Side { config: from, attachments: &was },
            Side { config: to, attachments: &attached },
        );
        let plan = plan.expect("a partial plan");
        assert!(!plan.is_empty() && plan.ops.len() <= most, "{} steps:\n{plan}", plan.ops.len());
        for result in host.apply(&plan.ops, &|_, _| true, &mut |_| ()) {
            result.unwrap();
        }
        assert!(look(&mut host, to, &attached).3.is_empty());
    }
}

/// The first list in a network where all may talk to all, or the last one, changes the ports of every guest there; the first port that is published on all
/// addresses changes the links of every routed guest.
#[test]
fn what_one_guest_decides_for_others_is_no_part() {
    let text = |own: &str| {
        format!(
            "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n\
             [networks.pub]\nmode = \"routed\"\nuplink = \"wan\"\npool = [\"198.51.100.0/28\"]\n\
             [networks.lan]\nmode = \"nat\"\nuplink = \"wan\"\nsubnets = [\"10.0.0.0/24\"]\nbetween-guests = \"allow\"\n\
             [guests.one]\n{own}[[guests.one.nics]]\nnetwork = \"lan\"\naddresses = [\"10.0.0.7\"]\n\
             [[guests.one.nics]]\nnetwork = \"pub\"\naddresses = [\"198.51.100.1\"]\n\
             [guests.two]\n[[guests.two.nics]]\nnetwork = \"lan\"\naddresses = [\"10.0.0.8\"]\n\
             [[guests.two.nics]]\nnetwork = \"pub\"\naddresses = [\"198.51.100.2\"]\n"
        )
    };
    let plain = config(&text(""));
    let mut host = host();
    let all = attach_all(&mut host, &plain);
    converge(&mut host, &plain, &all);
    for own in ["allow-in = [{ from = \"any\" }]\n", "publish = [\"80:80/tcp\"]\n"] {
        let other = config(&text(own));
        let (plain, other) = [&plain, &other].map(|config| Side { config, attachments: &all }).into();
        for (before, after) in [(plain, other), (other, plain)] {
            assert!(part(&mut host, before, after).is_none(), "{own}");
            converge(&mut host, after.config, &all);
        }
    }
}

/// Where nobody publishes, the first port brings the rules of translation, and the last one takes them along.
#[test]
fn the_first_and_the_last_published_port_are_no_part() {
    let text = |one: &str, two: &str| {
        config(&format!(
            "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n\
             [networks.pub]\nmode = \"routed\"\nuplink = \"wan\"\npool = [\"198.51.100.0/28\"]\n\
             [guests.one]\n{one}[[guests.one.nics]]\nnetwork = \"pub\"\naddresses = [\"198.51.100.1\"]\n\
             [guests.two]\n{two}[[guests.two.nics]]\nnetwork = \"pub\"\naddresses = [\"198.51.100.2\"]\n"
        ))
    };
    let port = |number: u16| format!("publish = [\"192.0.2.1:{number}:80/tcp\"]\n");
    let states = [text("", ""), text(&port(81), ""), text(&port(81), &port(82)), text("", &port(82))];
    let mut host = host();
    let all = attach_all(&mut host, &states[0]);
    converge(&mut host, &states[0], &all);
    for (from, to, is_part) in [(0, 1, false), (1, 2, true), (2, 3, true), (3, 0, false)] {
        let [before, after] = [from, to].map(|state| Side { config: &states[state], attachments: &all });
        assert_eq!(part(&mut host, before, after).is_some(), is_part, "{from} to {to}");
        converge(&mut host, after.config, &all);
        let (_, desired, ..) = look(&mut host, after.config, &all);
        let translates = desired.nft.tables[&Family::Inet].chains.contains_key("published");
        assert_eq!(translates, to != 0, "{to}");
    }
}

/// Who answers for an address that a guest has and another one publishes at depends on both.
#[test]
fn who_comes_to_an_address_that_is_published_is_no_part() {
    let text = |own: &str, address: &str| {
        config(&format!(
            "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n\
             [networks.pub]\nmode = \"routed\"\nuplink = \"wan\"\npool = [\"203.0.113.96/29\"]\nproxy = true\n\
             [guests.one]\n[[guests.one.nics]]\nnetwork = \"pub\"\naddresses = [\"203.0.113.97\"{own}]\n\
             [guests.two]\npublish = [\"203.0.113.2:80:80/tcp\", \"203.0.113.{address}:81:80/tcp\"]\n\
             [[guests.two.nics]]\nnetwork = \"pub\"\naddresses = [\"203.0.113.98\"]\n\
             [guests.three]\npublish = [\"203.0.113.2:82:80/tcp\"]\n\
             [[guests.three.nics]]\nnetwork = \"pub\"\naddresses = [\"203.0.113.99\"]\n"
        ))
    };
    let states = [
        text("", "2"),
        text("", "100"),
        text(", \"203.0.113.100\"", "100"),
        text(", \"203.0.113.100\"", "2"),
    ];
    let mut host = host();
    let all = attach_all(&mut host, &states[0]);
    converge(&mut host, &states[0], &all);
    for (from, to, is_part) in
        [(0, 1, true), (1, 2, false), (2, 3, false), (3, 2, false), (2, 1, false), (1, 0, true)]
    {
        let [before, after] = [from, to].map(|state| Side { config: &states[state], attachments: &all });
        assert_eq!(part(&mut host, before, after).is_some(), is_part, "{from} to {to}");
        converge(&mut host, after.config, &all);
    }
}
