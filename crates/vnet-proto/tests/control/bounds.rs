//! How much one host has of another, whatever it says and however much changes at once.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use viaduct_types::MacAddr;
use viaduct_vnet_proto::control::{MOST_CLAIMS, Message, Owner, Protection, Security};

use super::{
    rules::{owner, together},
    world::{World, key, vnet},
};

#[test]
fn however_much_changes_at_once_each_connection_is_given_one_piece() {
    let mut world = together(3);
    let settings = &mut world.hosts[0].settings;
    let nics: BTreeMap<MacAddr, Vec<IpAddr>> = (0..3_000_u16)
        .map(|nic| {
            let [high, low] = nic.to_be_bytes();
            (MacAddr([2, 0, 0, 1, high, low]), vec![IpAddr::from([10, 1, high, low])])
        })
        .collect();
    settings.vnets.get_mut(&vnet("97")).unwrap().nics = nics.clone();
    let settings = settings.clone();
    let node = &mut world.hosts[0].node;
    node.configure(Duration::ZERO, 1, settings);
    let mut said = Vec::new();
    while let Some((session, bytes)) = node.poll_transmit() {
        said.push((session, bytes));
    }
    let sessions: Vec<_> = said.iter().map(|(session, _)| *session).collect();
    assert_eq!(sessions.len(), 2, "not one for each of the two others");
    assert_ne!(sessions[0], sessions[1]);
    // Each hears of all of them.
    for (_, bytes) in said {
        let (mut rest, mut claimed) = (&bytes[..], Vec::new());
        while let Some((message, length)) = Message::read(rest).unwrap() {
            if let Some(Message::Claim { mac, .. }) = message {
                claimed.push(mac);
            }
            rest = &rest[length..];
        }
        assert_eq!(claimed, nics.keys().copied().collect::<Vec<_>>());
    }
}

/// The last keys that one host has given another, and by which number of the other's it calls the vnet.
fn given(world: &World, from: usize, to: usize) -> (u16, u32) {
    let of = |from: usize, to: usize| {
        world.heard.iter().rev().filter(move |heard| (heard.0, heard.1) == (from, to))
    };
    let epoch =
        of(from, to).find_map(
            |(_, _, message)| {
                if let Message::Keys { epoch, .. } = message { Some(*epoch) } else { None }
            },
        );
    let channel = of(to, from).find_map(|(_, _, message)| {
        if let Message::Complete { channel } = message { Some(*channel) } else { None }
    });
    (channel.unwrap(), epoch.unwrap())
}

#[test]
fn a_member_that_takes_keys_again_and_again_is_given_so_many() {
    let mut world = together(2);
    let mut most = 0;
    for _ in 0..1_000 {
        let (channel, epoch) = given(&world, 0, 1);
        let (now, session) = (world.now, world.session(0, 1));
        for message in [Message::Using { channel, epoch }, Message::Rekey { channel }] {
            world.hosts[0].node.handle_message(now, session, message).unwrap();
        }
        world.configure(0, |_| ());
        world.settle();
        most = most.max(world.hosts[0].inbound.len());
    }
    // For each of its two workers, by the first port and by its own one.
    assert!(most <= 64 * 4, "{most}");
    // Who goes on as others do is given more when the first are over.
    let before = given(&world, 0, 1).1;
    world.pass(Duration::from_secs(80));
    world.settle();
    world.pass(Duration::from_secs(80));
    world.settle();
    assert!(given(&world, 0, 1).1 > before);
    assert!(world.hosts[0].inbound.len() <= 5 * 4, "{}", world.hosts[0].inbound.len());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it is about how long something takes")]
fn what_a_member_says_costs_no_more_for_what_it_has_said_before() {
    let mut world = together(2);
    let channel = given(&world, 0, 1).0;
    let (now, session) = (world.now, world.session(0, 1));
    let node = &mut world.hosts[0].node;
    let mut say = |message| node.handle_message(now, session, message).unwrap();
    for number in 0..MOST_CLAIMS {
        let [.., a, b, c] = number.to_be_bytes();
        say(Message::Claim { channel, mac: MacAddr([2, 1, 0, a, b, c]), sequence: 1, addresses: Vec::new() });
    }
    // As many vnets as it may, which are nobody's.
    for number in 1..4_096_u16 {
        let proof = std::array::from_fn(|at| number.to_be_bytes()[at % 2]);
        let protection = Protection { security: Security::Conf, cipher: None };
        say(Message::Offer { channel: channel + number, proof, protection, learning: false });
    }
    let begun = Instant::now();
    for _ in 0..10_000 {
        say(Message::Complete { channel });
        say(Message::Rekey { channel });
    }
    // A look at each claim takes a millisecond.
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn however_often_a_member_says_another_mtu_the_others_are_told_a_few_times() {
    let mut world = together(3);
    for (one, other) in [(0, 1), (0, 2), (1, 0), (2, 0), (1, 2), (2, 1)] {
        world.measure(one, other, 1500, false);
    }
    world.settle();
    let told = |world: &World| {
        let is_told = |heard: &&(usize, usize, Message)| {
            (heard.0, heard.1) == (0, 1) && matches!(heard.2, Message::VnetMtu { .. })
        };
        world.heard.iter().filter(is_told).count()
    };
    let before = told(&world);
    let session = world.session(0, 2);
    for number in 0..10_000_u16 {
        let message = Message::PathMtu { mtu: 1300 + 100 * (number % 2) };
        let now = world.now;
        world.hosts[0].node.handle_message(now, session, message).unwrap();
        world.configure(0, |_| ());
    }
    world.settle();
    assert!((2..=20).contains(&(told(&world) - before)), "{}", told(&world) - before);
    // The last word holds.
    world.pass(Duration::from_secs(2));
    world.settle();
    assert_eq!(world.hosts[0].mtus[&vnet("97")], Some(1400 - 68));
    assert_eq!(world.hosts[1].mtus[&vnet("97")], Some(1400 - 68));
}

#[test]
fn answers_that_change_nothing_have_nothing_done() {
    let mut world = together(2);
    let (now, session) = (world.now, world.session(0, 1));
    let node = &mut world.hosts[0].node;
    for number in 0..1_000 {
        node.handle_message(now, session, Message::Arrived { worker: 0, number }).unwrap();
    }
    assert_eq!(node.poll_action(), None);
}

#[test]
fn who_comes_back_is_given_as_long_as_before_when_it_goes_again() {
    let mut world = together(2);
    world.attach(0, "97", 1);
    world.settle();
    world.cut(0, 1);
    world.pass(Duration::from_secs(1));
    world.dial(0, 1);
    world.settle();
    world.pass(Duration::from_secs(28));
    world.cut(0, 1);
    // Thirty seconds after the first end, and one after the second.
    world.pass(Duration::from_secs(1) + Duration::from_millis(1));
    assert_eq!(owner(&world, 1, 1), Some(Owner::Peer(key(0))), "frames go on");
    assert_eq!(world.hosts[1].outbound.len(), 1);
    world.pass(Duration::from_secs(28));
    assert_eq!(owner(&world, 1, 1), Some(Owner::Peer(key(0))));
    world.pass(Duration::from_secs(1));
    assert_eq!(owner(&world, 1, 1), None);
    assert!(world.hosts.iter().all(|host| host.members.is_empty() && host.inbound.is_empty()));
}

#[test]
fn who_is_connected_and_not_in_it_any_more_has_no_longer_for_it() {
    let mut world = together(2);
    world.attach(0, "97", 1);
    world.settle();
    // It comes back without the vnet, and the connection ends once more.
    world.cut(0, 1);
    world.configure(0, |settings| settings.vnets.clear());
    world.dial(0, 1);
    world.settle();
    world.pass(Duration::from_secs(20));
    assert_eq!(world.hosts[1].members.len(), 1);
    world.cut(0, 1);
    world.pass(Duration::from_secs(11));
    assert!(world.hosts[1].members.is_empty(), "it has been away for 31 seconds");
}

#[test]
fn a_peer_whose_connections_end_before_it_uses_keys_is_given_others_afterwards() {
    let mut world = together(2);
    for _ in 0..100 {
        world.cut(0, 1);
        world.dial(1, 0);
        world.settle_at(0);
        world.pass(Duration::from_secs(1));
    }
    // Of two threads, each at the first port and at its own.
    assert!(world.hosts[0].inbound.len() <= 64 * 4, "{}", world.hosts[0].inbound.len());
    world.cut(0, 1);
    world.dial(1, 0);
    world.settle();
    let sends_with = &world.hosts[1].outbound[&(vnet("97"), key(0))].spis;
    assert!(sends_with.iter().all(|spi| world.hosts[0].inbound.contains_key(spi)));
}
