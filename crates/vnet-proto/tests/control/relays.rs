//! Passing on between hosts that cannot reach each other.

use std::collections::BTreeSet;

use viaduct_vnet_proto::control::{Detour, Message, Pass};

use super::world::{World, key};

/// The first and the last have a vnet with each other and cannot connect; those between are connected to both, and pass on.
fn apart(relays: usize) -> World {
    let mut world = World::new(relays + 2);
    let last = relays + 1;
    for host in [0, last] {
        world.have(host, "97", &[0, last]);
    }
    for relay in 1..last {
        world.configure(relay, |settings| settings.relay = [key(0), key(last)].into());
        world.dial(0, relay);
        world.dial(last, relay);
    }
    world.settle();
    world
}

fn want(world: &mut World, host: usize, peer: usize, wanted: bool) {
    world.hosts[host].node.want_detour(key(peer), wanted);
    world.configure(host, |_| ());
    world.settle();
}

fn detours(world: &World, host: usize) -> Vec<Detour> {
    world.hosts[host].node.detours().collect()
}

fn passes(world: &World, host: usize) -> Vec<Pass> {
    world.hosts[host].node.passes().collect()
}

#[test]
fn one_asks_and_both_have_a_way() {
    let mut world = apart(1);
    want(&mut world, 0, 2, true);
    let (there, back) = (detours(&world, 0), detours(&world, 2));
    let [there, back] = [there[0], back[0]];
    assert_eq!((there.peer, there.relay, back.peer, back.relay), (key(2), key(1), key(0), key(1)));
    let pass =
        |from, to| passes(&world, 1).into_iter().find(|p| (p.from, p.to) == (key(from), key(to))).unwrap();
    // What one sends with the number that it was given arrives with the number that the other one chose.
    assert_eq!((Some(pass(0, 2).spi), pass(0, 2).onward), (there.outbound, back.inbound));
    assert_eq!((Some(pass(2, 0).spi), pass(2, 0).onward), (back.outbound, there.inbound));

    want(&mut world, 0, 2, false);
    assert!(passes(&world, 1).is_empty());
    assert!(detours(&world, 0).is_empty() && detours(&world, 2).is_empty());
}

#[test]
fn who_asks_again_and_again_has_nobody_else_told() {
    for has_both in [false, true] {
        let mut world = apart(1);
        if !has_both {
            // It hears that it is wanted, and wants nothing.
            world.have(2, "97", &[]);
        }
        want(&mut world, 0, 2, true);
        let spi = Some(detours(&world, 0)[0].inbound);
        let (session, heard) = (world.session(1, 0), world.heard.len());
        for _ in 0..100 {
            let ask = Message::Ask { key: key(2), spi };
            world.hosts[1].node.handle_message(world.now, session, ask).unwrap();
        }
        world.configure(1, |_| ());
        world.settle();
        let new = &world.heard[heard..];
        assert!(new.iter().all(|(_, at, _)| *at == 0), "{has_both}: {new:?}");
        assert_eq!(new.len(), if has_both { 100 } else { 0 }, "who asked is answered, if there is an answer");
    }
}

#[test]
fn nothing_is_passed_on_for_whom_it_is_not_meant() {
    let mut world = apart(1);
    world.configure(1, |settings| settings.relay = [key(0)].into());
    world.settle();
    want(&mut world, 0, 2, true);
    assert!(passes(&world, 1).is_empty());
    assert!(detours(&world, 0).iter().all(|detour| detour.outbound.is_none()));
    let told =
        |(_, at, message): &(usize, usize, Message)| *at == 2 && matches!(message, Message::Wanted { .. });
    assert!(!world.heard.iter().any(told), "it is not even told who asked");
    world.configure(1, |settings| settings.relay = [key(0), key(2)].into());
    world.settle();
    assert_eq!(passes(&world, 1).len(), 2);
    world.configure(1, |settings| settings.relay = BTreeSet::new());
    world.settle();
    assert!(passes(&world, 1).is_empty() && detours(&world, 0).is_empty() && detours(&world, 2).is_empty());
}

#[test]
fn whoever_is_no_peer_is_not_answered() {
    let mut world = apart(1);
    world.have(2, "97", &[]);
    want(&mut world, 0, 2, true);
    assert!(passes(&world, 1).is_empty() && detours(&world, 2).is_empty());
}

#[test]
fn another_relay_stays_when_one_goes() {
    let mut world = apart(2);
    want(&mut world, 0, 3, true);
    want(&mut world, 3, 0, true);
    assert_eq!((detours(&world, 0).len(), detours(&world, 3).len()), (2, 2));
    world.cut(0, 1);
    world.settle();
    let left = detours(&world, 3);
    assert_eq!(detours(&world, 0).iter().map(|detour| detour.relay).collect::<Vec<_>>(), [key(2)]);
    assert!(left.iter().all(|detour| (detour.relay == key(2)) == detour.outbound.is_some()), "{left:?}");
    assert!(passes(&world, 1).is_empty());
    world.dial(0, 1);
    world.settle();
    assert!(detours(&world, 0).iter().all(|detour| detour.outbound.is_some()));
    assert_eq!(passes(&world, 1).len(), 2);
}

#[test]
fn relays_are_asked_by_the_few() {
    let mut world = apart(7);
    want(&mut world, 0, 8, true);
    assert_eq!(detours(&world, 0).len(), 4);
}

#[test]
fn what_is_asked_for_while_it_is_taken_back_is_not_passed_on_to_nowhere() {
    let mut world = apart(1);
    want(&mut world, 0, 2, true);
    // The relay lets the other end know of the wish once more, and then loses who has it: its answer meets the news of that.
    world.cut(1, 2);
    world.dial(1, 2);
    world.cut(0, 1);
    world.dial(0, 1);
    world.settle();
    let (there, back, passes) = (detours(&world, 0), detours(&world, 2), passes(&world, 1));
    assert_eq!((there.len(), back.len(), passes.len()), (1, 1, 2));
    let onward = |from| passes.iter().find(|pass| pass.from == key(from)).unwrap().onward;
    assert_eq!((onward(0), onward(2)), (back[0].inbound, there[0].inbound));
}
