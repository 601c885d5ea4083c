//! What a packet meets does not grow with the guests: they are elements of sets, never rules.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fmt::Write as _;

use common::{attach_all, config, host, look};
use viaduct_plan::nft::Ruleset;

/// The filter of so many guests, each with two addresses, a published port and permissions, all attached.
fn filter(guests: usize) -> Ruleset {
    let mut text = "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n[networks.public]\nmode = \"routed\"\n\
         uplink = \"wan\"\npool = [\"198.18.0.0/16\", \"2001:db8:1::/64\"]\n[networks.inside]\nmode = \"nat\"\n\
         uplink = \"wan\"\nsubnets = [\"10.0.0.0/16\"]\n"
        .to_owned();
    for n in 0..guests {
        let _ = write!(
            text,
            "[guests.g{n}]\nid = {}\npublish = [\"203.0.113.2:{}:80\"]\n\
             allow-in = [{{ from = \"192.0.2.0/24\", ports = [\"22\", \"8000-8010\"] }}]\n\
             nics = [{{ network = \"public\", addresses = [\"198.18.{}.{}\", \"2001:db8:1::{:x}\"] }}, \
             {{ network = \"inside\", addresses = [\"10.0.{}.{}\"] }}]\n",
            n + 1,
            1000 + n,
            n / 200,
            n % 200 + 10,
            n + 16,
            n / 200,
            n % 200 + 10,
        );
    }
    let (config, mut host) = (config(&text), host());
    let attachments = attach_all(&mut host, &config);
    look(&mut host, &config, &attachments).1.nft
}

#[test]
fn rules_do_not_grow_with_guests() {
    let count = |filter: &Ruleset| -> (usize, usize) {
        let tables = || filter.tables.values();
        (
            tables().flat_map(|t| t.chains.values()).map(|c| c.rules.len()).sum(),
            tables().flat_map(|t| t.sets.values()).map(|s| s.elements.len()).sum(),
        )
    };
    let ((few_rules, few_elements), (many_rules, many_elements)) = (count(&filter(10)), count(&filter(1000)));
    assert_eq!(few_rules, many_rules);
    // What does grow is what one guest needs, and no more.
    let per_guest = |elements: usize, guests: usize| elements as f64 / guests as f64;
    assert!(per_guest(many_elements, 1000) < per_guest(few_elements, 10) + 1.0);
}
