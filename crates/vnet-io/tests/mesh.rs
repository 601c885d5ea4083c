//! What a host hears, says and remembers of a fleet is what it takes part in, however many other hosts and vnets there are.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../examples/mesh.rs"]
#[expect(dead_code, reason = "the example's own way in")]
mod mesh;

use std::collections::BTreeMap;

use mesh::{Shape, simulate};

/// Each host in four vnets of five hosts, with two NICs in each; each NIC moves once in a hundred seconds.
fn fleet(hosts: usize) -> BTreeMap<&'static str, f64> {
    let nics = 8;
    let shape = Shape { hosts, vnets: 4, size: 5, nics, moves: hosts * nics / 100, seconds: 5 };
    simulate(&shape).unwrap().into_iter().collect()
}

#[test]
fn it_does_not_grow_with_what_a_host_does_not_take_part_in() {
    let (small, large) = (fleet(100), fleet(400));
    assert_eq!((small["moves"], large["moves"]), (8.0, 32.0), "as many as asked for");
    assert_eq!((small["known-nics"], large["known-nics"]), (40.0, 40.0));
    // With more hosts, fewer of them meet in two vnets and share a connection.
    assert!(large["connections"] <= 16.0 && small["connections"] > 14.0, "{small:?} {large:?}");
    let most = 1.1 * large["connections"] / small["connections"];
    for figure in ["start-messages", "start-bytes", "move-messages", "move-bytes"] {
        assert!(large[figure] < most * small[figure], "{figure}: {} {}", small[figure], large[figure]);
    }
    // A move is news for the other four of its vnet, and not for all whom the two hosts know.
    let for_each_move = large["move-messages"] * 400.0 / large["moves"];
    assert!(for_each_move < 3.0 * 4.0, "{for_each_move}");
    // Nor has one of them the work of all.
    assert!(large["most-messages"] < 10.0 * large["move-messages"], "{large:?}");
}
