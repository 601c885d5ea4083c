//! Which NICs are lent which addresses.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{collections::BTreeSet, net::IpAddr};

use viaduct_model::{AVOIDED, Config, Family, Leases, Source, load, written_addresses};
use viaduct_types::NicId;

const NOW: u64 = 1_800_000_000;

/// Guests g0 and so on without addresses, on a network of `mode` with these keys.
fn config(keys: &str, guests: usize) -> Config {
    let mut text = format!(
        "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\naddresses = [\"192.0.2.2/24\"]\n[networks.n]\nuplink = \"wan\"\n{keys}\n"
    );
    for number in 0..guests {
        text += &format!("[guests.g{number}]\n[[guests.g{number}.nics]]\nnetwork = \"n\"\n");
    }
    load(&[Source { name: "viaduct.toml".to_owned(), text }]).unwrap_or_else(|e| panic!("{e}")).config
}

fn nics(config: &Config) -> Vec<NicId> {
    config.nics().map(|(id, _)| id).collect()
}

fn addresses(leases: &Leases) -> BTreeSet<IpAddr> {
    leases.held.values().map(|lease| lease.address).collect()
}

const NAT: &str = "mode = \"nat\"\nsubnets = [\"10.0.0.0/29\"]\ndhcp = true";
const ROUTED: &str =
    "mode = \"routed\"\npool = [\"198.51.100.0/24\"]\ninstall-pool = \"172.30.0.0/16\"\ndhcp = true";

#[test]
fn each_gets_another_one_of_the_pool_and_keeps_it() {
    let config = config(ROUTED, 200);
    let attached = nics(&config);
    let mut leases = Leases::default();
    assert_eq!(leases.renew(&config, &written_addresses(&config), &attached, NOW), []);
    let all = addresses(&leases);
    assert_eq!(all.len(), 200);
    let pool: viaduct_types::IpNet = "172.30.0.0/16".parse().unwrap();
    assert!(all.iter().all(|address| pool.contains(address)));
    let before = leases.clone();
    // Whoever is away for a while, too.
    leases.renew(&config, &written_addresses(&config), &attached[..100], NOW + 9);
    assert_eq!(leases, before);

    let lent = leases.lend(&config).unwrap();
    let (id, nic) = lent.nics().next().unwrap();
    assert!(nic.lent);
    assert_eq!(nic.addresses, [viaduct_types::IpNet::from(leases.held[&id].address)]);
}

#[test]
fn the_same_nic_gets_the_same_address_when_all_is_forgotten() {
    let config = config(ROUTED, 3);
    let lend = |attached: &[NicId]| {
        let mut leases = Leases::default();
        leases.renew(&config, &written_addresses(&config), attached, NOW);
        leases.held[&attached[0]].address
    };
    let attached = nics(&config);
    assert_eq!(lend(&attached), lend(&attached[..1]));
}

#[test]
fn a_subnet_is_used_up_but_for_what_is_somebodys() {
    // Of eight addresses, .0 and .7 are nobody's and .1 is the gateway.
    let config = config(NAT, 6);
    let attached = nics(&config);
    let mut leases = Leases::default();
    assert_eq!(leases.renew(&config, &written_addresses(&config), &attached, NOW), attached[5..]);
    let expected: BTreeSet<IpAddr> = (2..7).map(|host| IpAddr::from([10, 0, 0, host])).collect();
    assert_eq!(addresses(&leases), expected);
    // The one that waits gets the address of one that went away, when it is there to take it.
    assert_eq!(leases.renew(&config, &written_addresses(&config), &attached[1..], NOW), []);
    assert_eq!((addresses(&leases), leases.held.contains_key(&attached[0])), (expected, false));
    let lent = leases.lend(&config).unwrap();
    assert!(lent.nics().filter(|(_, nic)| nic.lent).all(|(_, nic)| nic.addresses[0].prefix_len() == 29));
}

#[test]
fn what_somebody_else_uses_is_left_for_a_while() {
    let config = config(ROUTED, 1);
    let attached = nics(&config);
    let mut leases = Leases::default();
    leases.renew(&config, &written_addresses(&config), &attached, NOW);
    let first = leases.held[&attached[0]].address;
    leases.avoid(first, NOW);
    leases.renew(&config, &written_addresses(&config), &attached, NOW + 1);
    let second = leases.held[&attached[0]].address;
    assert_ne!(first, second);
    leases.renew(&config, &written_addresses(&config), &attached, NOW + AVOIDED);
    assert_eq!((leases.held[&attached[0]].address, leases.avoided.len()), (second, 0));
}

#[test]
fn who_needs_none_any_more_holds_none() {
    let before = config(ROUTED, 1);
    let attached = nics(&before);
    let mut leases = Leases::default();
    leases.renew(&before, &written_addresses(&before), &attached, NOW);
    let mut after = before.clone();
    after.guests.values_mut().next().unwrap().nics[0].addresses = vec!["198.51.100.9/32".parse().unwrap()];
    assert_eq!(leases.lend(&after), None, "an address of its own counts");
    leases.renew(&after, &written_addresses(&after), &attached, NOW);
    assert_eq!(leases, Leases::default());

    for keys in [
        "mode = \"routed\"\npool = [\"198.51.100.0/24\"]\ndhcp = true",
        "mode = \"nat\"\nsubnets = [\"10.0.0.0/29\"]\ndhcp = false",
        "mode = \"bridged\"\ndhcp = true",
    ] {
        let config = config(keys, 1);
        assert_eq!(leases.renew(&config, &written_addresses(&config), &nics(&config), NOW), []);
        assert_eq!(leases, Leases::default(), "{keys}");
    }
}

#[test]
fn what_the_file_gives_away_later_is_taken_back() {
    let before = config(NAT, 1);
    let attached = nics(&before);
    let mut leases = Leases::default();
    leases.renew(&before, &written_addresses(&before), &attached, NOW);
    let lent = leases.held[&attached[0]].address;
    let mut after = config(NAT, 2);
    let second = after.guests.values_mut().nth(1).unwrap();
    second.nics[0].addresses = vec![viaduct_types::IpNet::new(lent, 29).unwrap()];
    leases.renew(&after, &written_addresses(&after), &attached, NOW);
    assert_ne!(leases.held[&attached[0]].address, lent);
}

#[test]
fn an_ipv6_address_is_lent_beside_the_other_and_is_the_one_made_of_the_mac() {
    let keys = "mode = \"nat\"\nsubnets = [\"10.0.0.0/24\", \"fd00:1::/64\"]\ndhcp = true";
    let config = config(keys, 2);
    let attached = nics(&config);
    let mut leases = Leases::default();
    assert_eq!(leases.renew(&config, &written_addresses(&config), &attached, NOW), []);
    let own = config.nic(&attached[0]).unwrap().mac.slaac("fd00:1::/64".parse().unwrap()).unwrap();
    assert_eq!(leases.lent(&attached[0], Family::V6), Some(IpAddr::V6(own)));
    let lent = leases.lend(&config).unwrap();
    let lengths: Vec<u8> = lent.nic(&attached[0]).unwrap().addresses.iter().map(|a| a.prefix_len()).collect();
    assert_eq!(lengths, [24, 64]);
    // In use elsewhere, it is another one, and the IPv4 address stays.
    let before = leases.clone();
    leases.avoid(own.into(), NOW);
    leases.renew(&config, &written_addresses(&config), &attached, NOW);
    assert_ne!(leases.lent(&attached[0], Family::V6), Some(IpAddr::V6(own)));
    assert!(leases.lent(&attached[0], Family::V6).is_some());
    assert_eq!(leases.held, before.held);
}

#[test]
fn prefixes_for_what_is_behind_are_parts_of_the_pool_and_are_kept() {
    let keys = "mode = \"routed\"\npool = [\"2001:db8:1::/64\"]\ndhcp = true\n\
                delegate-pool = [\"2001:db8:8000::/62\"]\ndelegate-length = 64";
    let config = config(keys, 5);
    let attached = nics(&config);
    let mut leases = Leases::default();
    assert_eq!(leases.renew(&config, &written_addresses(&config), &attached, NOW), attached[4..]);
    let parts =
        |leases: &Leases| leases.delegated.values().map(|lease| lease.address).collect::<BTreeSet<_>>();
    assert_eq!(parts(&leases).len(), 4);
    let pool: viaduct_types::Ipv6Net = "2001:db8:8000::/62".parse().unwrap();
    assert!(parts(&leases).iter().all(|part| part.prefix_len() == 64 && pool.contains(part)));
    let before = leases.clone();
    leases.renew(&config, &written_addresses(&config), &attached[..4], NOW);
    assert_eq!(leases, before);
    // Who waits gets the one of who is away.
    assert_eq!(leases.renew(&config, &written_addresses(&config), &attached[1..], NOW), []);
    assert_eq!(parts(&leases), parts(&before));
    let lent = leases.lend(&config).unwrap();
    assert_eq!(lent.nic(&attached[4]).unwrap().delegated, Some(leases.delegated[&attached[4]].address));
    // The pool is another one now.
    let other = self::config(&keys.replace("8000", "9000"), 5);
    leases.renew(&other, &written_addresses(&other), &attached, NOW);
    assert!(parts(&leases).is_disjoint(&parts(&before)));
}
