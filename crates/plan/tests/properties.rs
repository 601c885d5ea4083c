//! What holds for every configuration: a plan leads where it should, the next one is empty, the way there is closed
//! and the host stays reachable, and what is ours goes without a trace.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;

use common::{
    attach_all, config, converge, host, look, namespace,
    shape::{check_safe, comparable, namespace_table, shape},
};
use proptest::prelude::*;
use viaduct_plan::{Address, AddressInfo, Apply, sim::Host};

/// Every prefix of a plan leaves the host closed and manageable.
fn converge_step_by_step(
    host: &mut Host,
    config: &viaduct_model::Config,
    attachments: &viaduct_plan::Attachments,
) {
    for _ in 0..3 {
        let (.., plan) = look(host, config, attachments);
        // A carried address is put on the bridge and taken from the uplink in one send, before anything else happens.
        for op in &plan.ops {
            for result in host.apply(std::slice::from_ref(op), &|_, _| true, &mut |_| ()) {
                result.unwrap();
            }
            check_safe(host);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_leads_there_and_the_next_is_empty(shape in shape()) {
        let config = config(&shape.toml());
        let mut host = host();
        let attachments = attach_all(&mut host, &config);
        converge(&mut host, &config, &attachments);
        let (observed, desired, _, plan) = look(&mut host, &config, &attachments);
        prop_assert!(plan.is_empty());
        prop_assert_eq!(&observed.nft, &desired.nft);
        for (name, link) in &desired.links {
            let now = &observed.links[name];
            prop_assert!(now.master == link.master && (now.up || !link.up));
        }
        for route in desired.routes.iter().filter(|r| r.via.is_none()) {
            prop_assert!(observed.routes.contains(route));
        }
        for (nic, guest) in &desired.guests {
            prop_assert_eq!(&observed.guests[nic].addresses, &guest.addresses.iter().copied().collect());
            prop_assert_eq!(&observed.guests[nic].routes, &guest.routes);
        }
    }

    #[test]
    fn any_prefix_is_closed_and_reachable(before in shape(), after in shape()) {
        let mut host = host();
        for shape in [&before, &after] {
            let config = config(&shape.toml());
            let attachments = attach_all(&mut host, &config);
            converge_step_by_step(&mut host, &config, &attachments);
        }
    }

    #[test]
    fn where_one_comes_from_does_not_matter(before in shape(), after in shape()) {
        let (old, new) = (config(&before.toml()), config(&after.toml()));
        let (mut by_way, mut direct) = (host(), host());
        let attachments = attach_all(&mut by_way, &old);
        converge(&mut by_way, &old, &attachments);
        let attachments = attach_all(&mut by_way, &new);
        converge(&mut by_way, &new, &attachments);
        let attachments = attach_all(&mut direct, &new);
        converge(&mut direct, &new, &attachments);
        let (by_way, direct) = (comparable(&by_way), comparable(&direct));
        prop_assert_eq!(by_way.nft, direct.nft);
        prop_assert_eq!(by_way.links, direct.links);
        // Which of them was first is as it came: none is taken away to be put behind others.
        let anyhow = |addresses: BTreeMap<Address, AddressInfo>| -> BTreeMap<_, _> {
            addresses.into_iter().map(|(address, info)| (address, AddressInfo { place: 0, ..info })).collect()
        };
        prop_assert_eq!(anyhow(by_way.addresses), anyhow(direct.addresses));
        prop_assert_eq!(by_way.routes, direct.routes);
        prop_assert_eq!(by_way.proxies, direct.proxies);
        prop_assert_eq!(by_way.journal, direct.journal);
    }

    #[test]
    fn what_is_ours_goes_without_a_trace(shape in shape()) {
        let config = config(&shape.toml());
        let mut host = host();
        let before = comparable(&host);
        let attachments = attach_all(&mut host, &config);
        converge(&mut host, &config, &attachments);
        let observed = viaduct_plan::Observe::observe(&mut host, &Default::default()).unwrap();
        let plan = viaduct_plan::plan(&observed, &Default::default());
        for result in host.apply(&plan.ops, &|_, _| true, &mut |_| ()) {
            result.unwrap();
        }
        prop_assert_eq!(comparable(&host), before);
    }

    #[test]
    fn the_order_of_the_file_does_not_matter(shape in shape(), seed in any::<u64>()) {
        let (mut networks, mut guests) = shape.tables();
        let networks_by = usize::try_from(seed % 7).unwrap() % networks.len().max(1);
        networks.rotate_left(networks_by);
        guests.reverse();
        let shared: String = (0..shape.shared).rev().map(namespace_table).collect();
        let text = format!("{shared}{}{}[uplinks.wan]\ninterface = \"eth0\"\n[host]\nname = \"h\"\n", guests.concat(), networks.concat());
        let (straight, turned) = (config(&shape.toml()), config(&text));
        let mut host = host();
        let attachments = attach_all(&mut host, &straight);
        let (.., plan) = look(&mut host, &straight, &attachments);
        let (.., turned) = look(&mut host, &turned, &attachments);
        prop_assert_eq!(plan.to_string(), turned.to_string());
    }

    #[test]
    fn a_failed_step_heals(shape in shape(), at in 0usize..60) {
        let config = config(&shape.toml());
        let mut host = host();
        let attachments = attach_all(&mut host, &config);
        host.fail_at = Some(at);
        for _ in 0..4 {
            let (.., plan) = look(&mut host, &config, &attachments);
            let _ = host.apply(&plan.ops, &|_, _| true, &mut |_| ());
        }
        host.fail_at = None;
        converge(&mut host, &config, &attachments);
    }
}

#[test]
fn a_guest_that_dies_takes_its_links_and_comes_back() {
    let text = include_str!("../../../examples/openvz/viaduct.toml");
    let config = config(text);
    let mut host = host();
    let attachments = attach_all(&mut host, &config);
    converge(&mut host, &config, &attachments);
    let nic = "ldap".parse().unwrap();
    host.remove_namespace(&namespace(&nic));
    let (_, desired, notices, plan) = look(&mut host, &config, &attachments);
    assert!(!plan.is_empty() && !desired.links.keys().any(|l| l.as_str() == "v-ldap.0"));
    assert!(notices.iter().any(|n| n.text.contains("/run/netns/ldap")), "{notices:?}");
    converge(&mut host, &config, &attachments);
    host.namespace(&namespace(&nic));
    converge(&mut host, &config, &attachments);
    assert!(host.state.links.keys().any(|l| l.as_str() == "v-ldap.0"));
}
