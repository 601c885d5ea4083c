//! Whether machines are behind a host that nobody has told of, changes.

use std::{collections::BTreeSet, time::Duration};

use viaduct_vnet_proto::control::Message;

use super::{
    rules::{owner, together},
    world::{World, key, vnet},
};

/// What one host has of a vnet: with whom, by which keys in and out, and where which NIC is.
fn agreed(world: &World, host: usize) -> impl PartialEq + std::fmt::Debug + use<> {
    let state = &world.hosts[host];
    let keys = (state.inbound.clone(), state.outbound.clone(), state.own.clone());
    (state.members.clone(), keys, state.routes.clone(), state.node.sequences())
}

#[test]
fn machines_that_nobody_manages_may_come_behind_a_host_while_it_is_in_a_vnet() {
    let mut world = together(3);
    (0..3).for_each(|host| world.attach(host, "97", u8::try_from(host + 1).unwrap()));
    world.settle();
    let before: Vec<_> = (0..3).map(|host| agreed(&world, host)).collect();
    for learning in [true, false, true, false] {
        world.pass(Duration::from_secs(1));
        world.heard.clear();
        world.learn(0, "97", learning);
        // Also before anything of it has arrived, and while it is on its way.
        loop {
            for (host, before) in before.iter().enumerate() {
                assert_eq!(&agreed(&world, host), before, "host {host}, {learning}");
            }
            if !world.deliver(0, 1) {
                break;
            }
        }
        let told: Vec<_> = world.heard.iter().map(|(from, _, message)| (*from, message)).collect();
        assert!(
            matches!(told[..], [(0, Message::Learns { on, .. }), (0, Message::Learns { .. })] if *on == learning),
            "{told:?}"
        );
        for host in [1, 2] {
            let known = world.hosts[host].learning.contains(&(vnet("97"), key(0)));
            assert_eq!(known, learning, "what host {host} knows");
        }
    }
}

#[test]
fn who_knows_no_such_message_is_offered_the_vnet_anew() {
    let mut world = together(3);
    world.older.insert(2);
    // Its connections are those of the older version from the beginning.
    for other in [0, 1] {
        world.pass(Duration::from_secs(3));
        world.cut(other, 2);
        world.dial(other, 2);
    }
    world.attach(1, "97", 2);
    world.settle();
    let before = agreed(&world, 1);
    for (host, learning) in [(0, true), (2, true), (0, false), (2, false)] {
        world.heard.clear();
        world.learn(host, "97", learning);
        world.settle();
        for other in (0..3).filter(|other| *other != host) {
            let known = world.hosts[other].learning.contains(&(vnet("97"), key(host)));
            assert_eq!(known, learning, "what host {other} knows of {host}");
            assert!(world.hosts[other].outbound.contains_key(&(vnet("97"), key(host))));
            assert!(owner(&world, other, 2).is_some());
        }
        // The others, between which it may be told, notice nothing of that.
        let offered = world.heard.iter().filter(|(_, _, message)| matches!(message, Message::Offer { .. }));
        let offered: BTreeSet<(usize, usize)> = offered.map(|(from, to, _)| (*from, *to)).collect();
        let expected = if host == 0 { BTreeSet::from([(0, 2)]) } else { BTreeSet::from([(2, 0), (2, 1)]) };
        assert_eq!(offered, expected);
        if host == 0 {
            assert_eq!(world.hosts[1].outbound.len(), 2);
        }
    }
    assert_ne!(agreed(&world, 1), before, "the older one has other keys");
}

#[test]
fn what_is_offered_otherwise_before_anybody_has_come_in_holds() {
    for older in [false, true] {
        let mut world = World::new(2);
        if older {
            world.older.insert(1);
        }
        world.have(0, "97", &[1]);
        world.have(1, "97", &[0]);
        world.dial(0, 1);
        // Nothing has arrived yet; and while it is all on its way.
        for learning in [true, false, true] {
            world.learn(0, "97", learning);
            world.deliver(0, 2);
            world.deliver(1, 1);
        }
        world.settle();
        assert!(world.hosts[1].learning.contains(&(vnet("97"), key(0))), "{older}");
        assert!(world.hosts.iter().all(|host| host.outbound.len() == 1), "{older}");
        // Who leaves and comes back by the same offer knows what was said last.
        world.learn(0, "97", false);
        world.settle();
        world.have(1, "97", &[]);
        world.settle();
        world.have(1, "97", &[0]);
        world.settle();
        assert_eq!(world.hosts[1].members.len(), 1, "{older}");
        assert!(world.hosts[1].learning.is_empty(), "{older}");
    }
}
