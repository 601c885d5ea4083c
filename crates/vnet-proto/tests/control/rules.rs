//! One rule each.

use std::{collections::BTreeSet, time::Duration};

use viaduct_types::{VnetId, Vni};
use viaduct_vnet_proto::control::{Message, Owner, Protection, Security};
use viaduct_vnet_proto::data::{Spi, esp::Cipher};

use super::world::{World, key, mac, vnet};

/// Hosts that all have vnet 97 with each other, and are connected.
pub(crate) fn together(hosts: usize) -> World {
    let mut world = World::new(hosts);
    let all: Vec<usize> = (0..hosts).collect();
    for host in 0..hosts {
        world.have(host, "97", &all);
    }
    for one in 0..hosts {
        (one + 1..hosts).for_each(|other| world.dial(one, other));
    }
    world.settle();
    world
}

/// All proofs that went over the wires.
fn proofs(world: &World) -> impl Iterator<Item = [u8; 16]> {
    let proof =
        |message: &Message| if let Message::Offer { proof, .. } = message { Some(*proof) } else { None };
    world.heard.iter().filter_map(move |(_, _, message)| proof(message))
}

pub(crate) fn owner(world: &World, host: usize, nic: u8) -> Option<Owner> {
    world.hosts[host].routes.get(&(vnet("97"), mac(nic))).copied()
}

#[test]
fn members_know_each_other_s_nics_and_have_keys() {
    let mut world = together(3);
    world.attach(0, "97", 1);
    world.attach(1, "97", 2);
    world.settle();
    for host in 0..3 {
        assert_eq!(world.hosts[host].members.len(), 2);
        assert_eq!(world.hosts[host].outbound.len(), 2);
        let expected = |at: usize| if at == host { Owner::Here } else { Owner::Peer(key(at)) };
        assert_eq!(owner(&world, host, 1), Some(expected(0)));
        assert_eq!(owner(&world, host, 2), Some(expected(1)));
        for ((id, peer), out) in &world.hosts[host].outbound {
            let at = (0..3).find(|at| key(*at) == *peer).unwrap();
            // One for each worker of the sender, known at the receiver by the same keys.
            assert_eq!(out.spis.len(), host % 3 + 1);
            for spi in &out.spis {
                let inbound = &world.hosts[at].inbound[spi];
                assert_eq!(
                    (inbound.vnet, inbound.context(0), inbound.cipher),
                    (*id, out.context(0), out.cipher)
                );
            }
            let both_fast = host % 2 == 0 && at % 2 == 0;
            assert_eq!(out.cipher, if both_fast { Cipher::Aes128Gcm } else { Cipher::ChaCha20Poly1305 });
        }
    }
}

#[test]
fn a_vnet_is_not_disclosed_to_those_outside() {
    let mut world = World::new(3);
    world.have(0, "97", &[0, 1]);
    world.have(1, "97", &[0, 1]);
    // The third has it, too, and lists both: they do not list it.
    world.have(2, "97", &[0, 1, 2]);
    world.attach(0, "97", 1);
    (1..3).for_each(|other| world.dial(0, other));
    world.dial(1, 2);
    world.settle();
    // What a host says of itself is of no vnet.
    let of_itself = |message: &Message| {
        matches!(message, Message::Hello { .. } | Message::Ports { .. } | Message::Heeded { number: 0 })
    };
    let to_outside = world.heard.iter().filter(|(_, at, message)| *at == 2 && !of_itself(message));
    assert_eq!(to_outside.count(), 0);
    assert!(world.hosts[2].members.is_empty());
    assert_eq!(world.hosts[0].members, BTreeSet::from([(vnet("97"), key(1))]));
}

#[test]
fn who_is_asked_says_when_it_has_done_what_it_was_told() {
    let mut world = World::new(4);
    world.older.insert(2);
    (0..3).for_each(|host| world.have(host, "97", &[0, 1, 2]));
    // The fourth shares no vnet.
    (1..4).for_each(|other| world.dial(0, other));
    world.settle();
    assert!(world.hosts[0].members.contains(&(vnet("97"), key(2))));
    let session = world.session(0, 1);
    world.attach(0, "97", 1);
    let asked = world.hosts[0].node.ask_to_heed(1);
    assert_eq!(
        asked,
        BTreeSet::from([session]),
        "neither who does not know of it, nor whom it does not concern"
    );
    world.configure(0, |_| ());
    world.settle();
    let first = |wanted: &dyn Fn(&Message) -> bool| {
        world.heard.iter().position(|(from, at, message)| (*from, *at) == (0, 1) && wanted(message))
    };
    let claim = first(&|message| matches!(message, Message::Claim { .. })).unwrap();
    assert!(Some(claim) < first(&|message| matches!(message, Message::Heed { number: 1 })));
    assert_eq!(owner(&world, 1, 1), Some(Owner::Peer(key(0))));
    assert!(world.hosts[0].heeded.contains(&(session, 1)));
    let questions = world.heard.iter().filter(|(_, _, message)| matches!(message, Message::Heed { .. }));
    assert_eq!(questions.count(), 1);
}

#[test]
fn proofs_do_not_show_the_id_and_are_no_use_to_the_other_end() {
    let mut world = World::new(2);
    world.have(0, "97", &[1]);
    world.have(1, "98", &[0]);
    world.dial(0, 1);
    world.settle();
    assert!(world.hosts.iter().all(|host| host.members.is_empty()));
    assert_eq!(proofs(&world).count(), 2);
    let mut world = together(2);
    let id: VnetId = vnet("97");
    let offers = proofs(&world);
    let distinct: BTreeSet<[u8; 16]> = offers.collect();
    assert_eq!(distinct.len(), 2, "each end has its own");
    assert!(!distinct.contains(&id.to_bytes()));
    world.cut(0, 1);
    world.dial(0, 1);
    world.settle();
    let offers = proofs(&world);
    assert_eq!(offers.collect::<BTreeSet<_>>().len(), 4, "and each connection");
}

#[test]
fn other_security_is_said_and_nothing_is_carried() {
    let mut world = World::new(2);
    world.have(0, "97", &[1]);
    world.have(1, "97", &[0]);
    world.configure(1, |settings| {
        settings.vnets.values_mut().for_each(|vnet| vnet.security = Security::Auth);
    });
    world.dial(0, 1);
    world.settle();
    assert!(world.hosts.iter().all(|host| host.members.is_empty() && host.outbound.is_empty()));
    let report = world.hosts[0].node.report(vnet("97"), 100).unwrap();
    assert_eq!(report.mismatched.get(&key(1)).map(|protection| protection.security), Some(Security::Auth));
    world.configure(1, |settings| {
        settings.vnets.values_mut().for_each(|vnet| vnet.security = Security::Conf);
    });
    world.settle();
    assert_eq!(world.hosts[0].members.len(), 1);
    assert!(world.hosts[0].node.report(vnet("97"), 100).unwrap().mismatched.is_empty());
}

/// All associations, each with what it seals.
fn ciphers(world: &World) -> BTreeSet<Cipher> {
    let all = world.hosts.iter().flat_map(|host| host.outbound.values().chain(host.own.values()));
    all.map(|association| association.cipher).collect()
}

#[test]
fn a_cipher_that_one_end_asks_for_seals_both_ways() {
    for cipher in Cipher::ALL {
        let mut world = together(3);
        let security = if cipher.encrypts() { Security::Conf } else { Security::Auth };
        (0..3).for_each(|host| world.secure(host, "97", security, None));
        world.settle();
        world.secure(1, "97", security, Some(cipher));
        world.settle();
        assert!(world.hosts.iter().all(|host| host.members.len() == 2));
        for (host, other) in [(0, 1), (1, 0), (1, 2), (2, 1)] {
            assert_eq!(world.hosts[host].outbound[&(vnet("97"), key(other))].cipher, cipher);
            let report = world.hosts[host].node.report(vnet("97"), 100).unwrap();
            assert_eq!(report.members[&key(other)].cipher, Some(cipher));
        }
        world.pass(Duration::from_secs(61));
        world.settle();
        assert_eq!(world.hosts[0].outbound[&(vnet("97"), key(1))].cipher, cipher, "also of the next keys");
    }
}

#[test]
fn who_asks_for_other_ciphers_is_told_and_nothing_is_carried() {
    let mut world = together(2);
    let (aes, chacha) = (Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305);
    world.secure(0, "97", Security::Conf, Some(aes));
    world.secure(1, "97", Security::Conf, Some(chacha));
    world.settle();
    for (host, theirs) in [(0, chacha), (1, aes)] {
        assert!(world.hosts[host].members.is_empty() && world.hosts[host].outbound.is_empty());
        let report = world.hosts[host].node.report(vnet("97"), 100).unwrap();
        let said = &report.mismatched[&key(1 - host)];
        assert_eq!((said.security, said.cipher), (Security::Conf, Some(theirs)));
        assert_eq!(said.to_string(), format!("security conf and cipher {theirs}"));
    }
    // Whoever does not have it at all any more has it with no other cipher, either.
    let mismatched = |world: &World, host: usize| {
        world.hosts[host].node.report(vnet("97"), 100).unwrap().mismatched.into_keys().collect::<Vec<_>>()
    };
    world.have(1, "97", &[]);
    world.settle();
    assert_eq!((mismatched(&world, 0), mismatched(&world, 1)), (vec![], vec![]));
    world.have(1, "97", &[0]);
    world.settle();
    assert_eq!((mismatched(&world, 0), mismatched(&world, 1)), (vec![key(1)], vec![key(0)]));
    world.secure(1, "97", Security::Conf, None);
    world.settle();
    assert_eq!(ciphers(&world), [aes].into());
    assert!(world.hosts[0].node.report(vnet("97"), 100).unwrap().mismatched.is_empty());
}

#[test]
fn keys_of_another_cipher_than_was_asked_for_are_not_used() {
    let mut world = together(2);
    world.secure(0, "97", Security::Conf, Some(Cipher::Aes256Gcm));
    world.settle();
    let keys = world.heard.iter().rev().filter(|(_, to, _)| *to == 0).find_map(|(_, _, message)| {
        let Message::Keys { channel, epoch, spis, .. } = message else { return None };
        Some((*channel, *epoch, spis.clone()))
    });
    let (channel, epoch, spis) = keys.unwrap();
    // Whoever gives them may not have heard yet of the wish: it is no offence, and they are not used.
    for (number, cipher) in (1..).zip([Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm]) {
        let spis = spis.iter().map(|spi| Spi::new(spi.value() + number * 1000).unwrap()).collect();
        let keys = Message::Keys { channel, epoch: epoch + number, cipher, spis };
        let (now, session) = (world.now, world.session(0, 1));
        world.hosts[0].node.handle_message(now, session, keys).unwrap();
        world.configure(0, |_| ());
        let used = &world.hosts[0].outbound[&(vnet("97"), key(1))];
        assert_eq!(used.cipher, Cipher::Aes256Gcm);
        assert_eq!(used.epoch == epoch + number, cipher == Cipher::Aes256Gcm);
    }
    let weaker = Message::Keys { channel, epoch: epoch + 9, cipher: Cipher::Aes256Gmac, spis };
    let plain = Message::Plain { channel, vni: Vni::new(7).unwrap() };
    let (now, session) = (world.now, world.session(0, 1));
    for message in [weaker, plain] {
        world.hosts[0].node.handle_message(now, session, message).unwrap();
    }
    world.configure(0, |_| ());
    assert_eq!(world.hosts[0].outbound[&(vnet("97"), key(1))].cipher, Cipher::Aes256Gcm);
    assert!(world.hosts[0].plain.is_empty(), "nor less protection");
}

#[test]
fn a_nic_moves_and_what_comes_late_is_sent_on() {
    let mut world = together(3);
    world.attach(0, "97", 1);
    world.settle();
    world.attach(1, "97", 1);
    world.settle();
    assert_eq!(owner(&world, 0, 1), Some(Owner::Peer(key(1))));
    assert_eq!(owner(&world, 2, 1), Some(Owner::Peer(key(1))));
    assert_eq!(world.hosts[0].moved, [mac(1)]);
    let report = world.hosts[2].node.report(vnet("97"), 100).unwrap();
    assert_eq!(report.macs[&mac(1)].len(), 2, "everybody sees that two claim it");
    world.detach(0, "97", 1);
    world.settle();
    let report = world.hosts[2].node.report(vnet("97"), 100).unwrap();
    assert_eq!(report.macs[&mac(1)].len(), 1);
    // And back, as often as one likes: nobody is punished for moving.
    for (from, to) in [(1, 0), (0, 2), (2, 1), (1, 0), (0, 1), (1, 2)] {
        world.attach(to, "97", 1);
        world.detach(from, "97", 1);
        world.settle();
        assert_eq!(owner(&world, to, 1), Some(Owner::Here));
    }
}

#[test]
fn whoever_lost_a_nic_has_it_again_when_the_other_lets_go() {
    let mut world = together(2);
    world.attach(0, "97", 1);
    world.settle();
    world.attach(1, "97", 1);
    world.settle();
    assert_eq!(owner(&world, 0, 1), Some(Owner::Peer(key(1))));
    world.detach(1, "97", 1);
    world.settle();
    assert_eq!(owner(&world, 0, 1), Some(Owner::Here));
    assert_eq!(owner(&world, 1, 1), Some(Owner::Peer(key(0))));
}

#[test]
fn no_claim_is_so_late_that_nothing_comes_after_it() {
    let mut world = together(3);
    world.attach(0, "97", 1);
    world.settle();
    for victim in [0, 1] {
        let said = world.heard.iter().rev().filter(|(from, to, _)| (*from, *to) == (2, victim));
        let mut channels =
            said.filter_map(
                |(_, _, message)| {
                    if let Message::Complete { channel } = message { Some(*channel) } else { None }
                },
            );
        let channel = channels.next();
        let (mac, addresses) = (mac(1), vec![[10, 0, 0, 1].into()]);
        let lie = Message::Claim { channel: channel.unwrap(), mac, sequence: u64::MAX, addresses };
        let (now, session) = (world.now, world.session(victim, 2));
        world.hosts[victim].node.handle_message(now, session, lie).unwrap();
        world.configure(victim, |_| ());
    }
    world.settle();
    assert_eq!(
        owner(&world, 0, 1),
        Some(Owner::Peer(key(2))),
        "the later arrival holds, whoever tells of it"
    );
    world.pass(Duration::from_millis(5));
    world.detach(0, "97", 1);
    world.attach(0, "97", 1);
    world.settle();
    assert_eq!(owner(&world, 0, 1), Some(Owner::Here));
    assert_eq!(owner(&world, 1, 1), Some(Owner::Peer(key(0))));
}

#[test]
fn a_process_that_begins_anew_does_not_take_back_what_has_moved() {
    let mut world = together(2);
    world.attach(0, "97", 1);
    world.settle();
    world.pass(Duration::from_secs(5));
    world.attach(1, "97", 1);
    world.settle();
    world.pass(Duration::from_secs(5));
    world.restart(0);
    world.dial(0, 1);
    world.settle();
    assert_eq!(owner(&world, 0, 1), Some(Owner::Peer(key(1))));
    assert_eq!(owner(&world, 1, 1), Some(Owner::Here));
}

#[test]
fn keys_change_and_none_is_taken_back_that_is_in_use() {
    let mut world = together(2);
    let first = world.hosts[0].outbound[&(vnet("97"), key(1))].clone();
    world.pass(Duration::from_secs(61));
    let before = &world.hosts[1].inbound;
    assert!(first.spis.iter().all(|spi| before.contains_key(spi)), "the other end has not heard yet");
    world.settle();
    let second = world.hosts[0].outbound[&(vnet("97"), key(1))].clone();
    assert!(second.epoch > first.epoch);
    assert!(first.spis.iter().all(|spi| world.hosts[1].inbound.contains_key(spi)), "what is late is taken");
    world.pass(Duration::from_secs(11));
    assert!(first.spis.iter().all(|spi| !world.hosts[1].inbound.contains_key(spi)));
    assert!(second.spis.iter().all(|spi| world.hosts[1].inbound.contains_key(spi)));
}

#[test]
fn keys_are_changed_when_they_are_worn() {
    let mut world = together(2);
    let first = world.hosts[0].outbound[&(vnet("97"), key(1))].epoch;
    world.hosts[0].node.handle_worn_keys(key(1), vnet("97"));
    world.configure(0, |_| ());
    world.settle();
    assert_eq!(world.hosts[0].outbound[&(vnet("97"), key(1))].epoch, first + 1);
}

#[test]
fn keys_that_were_asked_for_early_do_not_come_more_often_from_then_on() {
    let mut world = together(2);
    let epoch = |world: &World| world.hosts[0].outbound[&(vnet("97"), key(1))].epoch;
    for _ in 0..3 {
        world.pass(Duration::from_secs(1));
        world.hosts[0].node.handle_worn_keys(key(1), vnet("97"));
        world.configure(0, |_| ());
        world.settle();
    }
    let before = epoch(&world);
    for _ in 0..10 {
        world.pass(Duration::from_secs(60));
        world.settle();
    }
    assert_eq!(epoch(&world) - before, 10);
}

#[test]
fn keys_that_change_often_are_each_taken_for_as_long_as_something_may_be_late() {
    let mut world = together(2);
    let mut used = Vec::new();
    for second in 0..40 {
        used.push(world.hosts[0].outbound[&(vnet("97"), key(1))].spis.clone());
        world.pass(Duration::from_secs(1));
        world.hosts[0].node.handle_worn_keys(key(1), vnet("97"));
        world.configure(0, |_| ());
        world.settle();
        let taken = &world.hosts[1].inbound;
        let (late, recent) = (used.len().saturating_sub(13), used.len().saturating_sub(9));
        assert!(used[recent..].iter().flatten().all(|spi| taken.contains_key(spi)), "in second {second}");
        assert!(used[..late].iter().flatten().all(|spi| !taken.contains_key(spi)), "in second {second}");
    }
}

#[test]
fn a_peer_that_does_not_answer_is_not_given_keys_for_ever() {
    let mut world = together(2);
    // Nothing arrives any more, and nobody sees an end.
    world.pass(Duration::from_secs(3600));
    // Those for the first port, and those for the worker's own.
    assert!(world.hosts[1].inbound.len() <= 2 * 5, "{}", world.hosts[1].inbound.len());
}

#[test]
fn a_short_cut_changes_nothing_and_a_long_one_everything() {
    let mut world = together(2);
    world.attach(0, "97", 1);
    world.settle();
    world.cut(0, 1);
    world.pass(Duration::from_secs(20));
    assert_eq!(owner(&world, 1, 1), Some(Owner::Peer(key(0))), "frames go on");
    assert_eq!(world.hosts[1].outbound.len(), 1);
    world.detach(0, "97", 1);
    world.attach(0, "97", 2);
    world.dial(1, 0);
    world.settle();
    assert_eq!(owner(&world, 1, 1), None, "what was not told again is gone");
    assert_eq!(owner(&world, 1, 2), Some(Owner::Peer(key(0))));
    world.cut(0, 1);
    world.pass(Duration::from_secs(31));
    assert!(world.hosts.iter().all(|host| host.members.is_empty() && host.inbound.is_empty()));
    assert_eq!(owner(&world, 1, 2), None);
}

#[test]
fn both_dial_at_once_and_one_connection_stays() {
    for (first, second) in [(0, 1), (1, 0)] {
        let mut world = World::new(2);
        world.have(0, "97", &[1]);
        world.have(1, "97", &[0]);
        world.dial(first, second);
        world.dial(second, first);
        world.settle();
        assert!(world.is_connected(0, 1));
        world.attach(0, "97", 1);
        world.settle();
        assert_eq!(owner(&world, 1, 1), Some(Owner::Peer(key(0))));
        let report = world.hosts[1].node.report(vnet("97"), 100).unwrap();
        assert!(report.members[&key(0)].connected);
    }
}

#[test]
fn the_shortest_way_in_either_direction_decides() {
    let mut world = together(3);
    world.hosts[0].node.handle_path_mtu(Duration::ZERO, key(1), 1500, false);
    world.configure(0, |_| ());
    world.settle();
    assert_eq!(world.hosts[0].mtus[&vnet("97")], Some(1432));
    world.hosts[1].node.handle_path_mtu(Duration::ZERO, key(0), 1400, false);
    world.configure(1, |_| ());
    world.settle();
    assert_eq!(world.hosts[0].mtus[&vnet("97")], Some(1332), "the way back is shorter");
    assert_eq!(world.hosts[1].mtus[&vnet("97")], Some(1332));
    world.hosts[0].node.handle_path_mtu(Duration::ZERO, key(2), 1400, true);
    world.configure(0, |_| ());
    world.settle();
    assert_eq!(world.hosts[0].mtus[&vnet("97")], Some(1312), "IPv6 outside takes 20 bytes more");
    world.hosts[0].node.handle_path_mtu(Duration::ZERO, key(2), 1300, true);
    world.configure(0, |_| ());
    world.settle();
    assert_eq!(world.hosts[0].mtus[&vnet("97")], Some(1280), "no less than IPv6 counts on");
}

#[test]
fn no_host_keeps_others_from_sending_by_what_it_says_of_the_mtu() {
    let mut world = together(2);
    world.hosts[0].node.handle_path_mtu(Duration::ZERO, key(1), 1500, false);
    world.configure(0, |_| ());
    world.settle();
    let channel = world.heard.iter().rev().filter(|(_, to, _)| *to == 0).find_map(|(_, _, message)| {
        if let Message::Complete { channel } = message { Some(*channel) } else { None }
    });
    let lies = [Message::VnetMtu { channel: channel.unwrap(), mtu: 100 }, Message::PathMtu { mtu: 68 }];
    let (now, session) = (world.now, world.session(0, 1));
    for lie in lies {
        world.hosts[0].node.handle_message(now, session, lie).unwrap();
        world.configure(0, |_| ());
        world.settle();
        assert_eq!(world.hosts[0].mtus[&vnet("97")], Some(1280));
    }
}

#[test]
fn a_segment_has_one_mtu_on_all_of_its_hosts() {
    let mut world = together(3);
    for (one, other, mtu) in [(0, 1, 1500), (0, 2, 1400), (1, 2, 1500)] {
        world.hosts[one].node.handle_path_mtu(Duration::ZERO, key(other), mtu, false);
        world.hosts[other].node.handle_path_mtu(Duration::ZERO, key(one), mtu, false);
    }
    world.pass(Duration::ZERO);
    world.settle();
    let mtus = |world: &World| (0..3).map(|host| world.hosts[host].mtus[&vnet("97")]).collect::<Vec<_>>();
    assert_eq!(
        mtus(&world),
        [Some(1332); 3],
        "what the third sends to the second goes to ports like the first's"
    );
    world.cut(0, 2);
    world.dial(0, 2);
    world.settle();
    assert_eq!(mtus(&world), [Some(1332); 3]);
    for (one, other) in [(0, 2), (2, 0)] {
        world.hosts[one].node.handle_path_mtu(Duration::ZERO, key(other), 1500, false);
    }
    world.pass(Duration::ZERO);
    world.settle();
    assert_eq!(mtus(&world), [Some(1432); 3]);

    // What the ports of one take because its file says so, the others do not send more than.
    let written = |world: &mut World, mtu| {
        world.configure(1, |settings| settings.vnets.get_mut(&vnet("97")).unwrap().mtu = mtu);
        world.settle();
    };
    written(&mut world, Some(1300));
    assert_eq!(mtus(&world), [Some(1300); 3]);
    written(&mut world, Some(9000));
    assert_eq!(mtus(&world), [Some(1432); 3]);
    written(&mut world, Some(1300));
    written(&mut world, None);
    assert_eq!(mtus(&world), [Some(1432); 3]);
}

#[test]
fn a_peer_is_struck_from_the_list_and_comes_back() {
    let mut world = together(2);
    world.attach(0, "97", 1);
    world.settle();
    world.have(0, "97", &[]);
    world.settle();
    assert!(world.hosts.iter().all(|host| host.members.is_empty() && host.outbound.is_empty()));
    assert_eq!(owner(&world, 1, 1), None);
    // The keys of before must not come again.
    world.have(0, "97", &[1]);
    world.settle();
    assert_eq!(world.hosts[0].outbound.len(), 1);
    assert_eq!(owner(&world, 1, 1), Some(Owner::Peer(key(0))));
}

#[test]
fn without_security_each_says_by_which_number_it_takes_frames() {
    let mut world = together(3);
    let number = |host: usize| Vni::new(u32::try_from(host).unwrap() + 1).unwrap();
    for host in 0..3 {
        world.configure(host, |settings| {
            let vnet = settings.vnets.get_mut(&vnet("97")).unwrap();
            (vnet.security, vnet.vni) = (Security::None, Some(number(host)));
        });
    }
    world.attach(0, "97", 1);
    world.settle();
    for host in 0..3 {
        assert!(
            world.hosts[host].outbound.is_empty() && world.hosts[host].inbound.is_empty(),
            "keys for nothing"
        );
        let others = (0..3).filter(|other| *other != host);
        let expected = others.map(|other| ((vnet("97"), key(other)), number(other))).collect();
        assert_eq!(world.hosts[host].plain, expected);
    }
    assert_eq!(owner(&world, 2, 1), Some(Owner::Peer(key(0))));
    // A number that has changed is said anew, and who protects its frames is none of them.
    world.configure(1, |settings| settings.vnets.get_mut(&vnet("97")).unwrap().vni = Some(number(9)));
    world.configure(2, |settings| {
        let vnet = settings.vnets.get_mut(&vnet("97")).unwrap();
        (vnet.security, vnet.vni) = (Security::Conf, None);
    });
    world.settle();
    assert_eq!(world.hosts[0].plain, [((vnet("97"), key(1)), number(9))].into());
    assert!(world.hosts[2].plain.is_empty());
    let report = world.hosts[0].node.report(vnet("97"), 100).unwrap();
    let conf = Protection { security: Security::Conf, cipher: None };
    assert_eq!(report.mismatched, [(key(2), conf)].into());
}

#[test]
fn nobody_makes_a_protected_vnet_a_plain_one() {
    let mut world = together(2);
    let plain = Message::Plain { channel: 0, vni: Vni::new(5).unwrap() };
    let session = world.hosts[0].outbound[&(vnet("97"), key(1))].session;
    let now = world.now;
    // It may be late word of what was.
    world.hosts[0].node.handle_message(now, session, plain).unwrap();
    world.configure(0, |_| ());
    assert!(world.hosts[0].plain.is_empty());
}
