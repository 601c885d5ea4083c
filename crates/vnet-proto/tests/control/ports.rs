//! Further ports: keys for them, and whether they are used.

use std::{net::SocketAddr, time::Duration};

use viaduct_vnet_proto::control::{Further, Message, ProtocolError, Security};
use viaduct_vnet_proto::data::{Lane, esp::Cipher};

use super::world::{World, key, vnet};

/// Hosts 1 and 2, with two and three workers, in one vnet.
fn pair() -> World {
    let mut world = World::new(3);
    for host in [1, 2] {
        world.have(host, "97", &[1, 2]);
    }
    world.dial(1, 2);
    world.settle();
    world
}

fn at(host: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, u8::try_from(host).unwrap()], 1798))
}

/// Asks and hears of one round between two hosts; the workers for which it is so hear.
fn round(world: &mut World, from: usize, to: usize, arrives: impl Fn(u8) -> bool) {
    let (now, workers) = (world.now, world.hosts[from].settings.workers);
    let number = world.hosts[from].node.probe_ports(now, key(to), Some(at(to)), true);
    if let Some(number) = number {
        for worker in (0..workers).filter(|worker| arrives(*worker)) {
            world.hosts[to].node.handle_probe(key(from), worker, number);
        }
    }
    // Both say what they have to say.
    world.configure(to, |_| ());
    world.settle();
    world.pass(Duration::from_millis(250));
}

fn further(world: &World, from: usize, to: usize) -> Further<'_> {
    world.hosts[from].node.further_ports(key(to), at(to))
}

#[test]
fn each_worker_has_keys_of_its_own_for_them() {
    let world = pair();
    for (host, other, spis) in [(1, 2, 2), (2, 1, 3)] {
        let own = &world.hosts[host].own[&(vnet("97"), key(other))];
        assert_eq!((own.lane, own.spis.len()), (Lane::Own, spis));
        let first = &world.hosts[host].outbound[&(vnet("97"), key(other))];
        assert_eq!(first.spis.len(), spis);
        // The receiver has the same, and other keys than those of the first port.
        for (worker, spi) in own.workers() {
            let inbound = &world.hosts[other].inbound[&spi];
            assert_eq!(inbound.context(worker), own.context(worker));
            assert_ne!(first.context(worker), own.context(worker));
        }
    }
}

#[test]
fn who_has_one_port_is_sent_no_keys_for_others_and_sends_to_one() {
    let mut world = World::new(3);
    for host in 0..3 {
        world.have(host, "97", &[0, 1, 2]);
    }
    for host in [0, 2] {
        world.configure(host, |settings| settings.ports.clear());
    }
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        world.dial(one, other);
    }
    world.settle();
    assert!(world.hosts.iter().all(|host| host.own.is_empty()));
    let said = |message: &Message| matches!(message, Message::OwnKeys { .. });
    assert!(!world.heard.iter().any(|(_, _, message)| said(message)));
    round(&mut world, 2, 1, |_| true);
    assert_eq!(further(&world, 1, 2), Further::None);
    assert!(!matches!(further(&world, 2, 1), Further::Used(_)));
}

#[test]
fn they_are_used_while_all_that_is_sent_there_arrives() {
    let mut world = pair();
    assert_eq!(further(&world, 1, 2), Further::Idle);
    round(&mut world, 1, 2, |_| true);
    assert_eq!(further(&world, 1, 2), Further::Used(&[1800, 1801, 1802]));
    // Each direction by itself.
    round(&mut world, 2, 1, |worker| worker == 1);
    assert_eq!(further(&world, 2, 1), Further::Tried);
    // The first worker's is one as the others' are.
    for _ in 0..6 {
        round(&mut world, 1, 2, |worker| worker != 0);
    }
    assert_eq!(further(&world, 1, 2), Further::Silent);
    for _ in 0..12 {
        round(&mut world, 1, 2, |_| true);
    }
    assert_eq!(further(&world, 1, 2), Further::Used(&[1800, 1801, 1802]));
    // A new connection knows nothing of it.
    world.cut(1, 2);
    world.dial(1, 2);
    world.settle();
    assert_eq!(further(&world, 1, 2), Further::Idle);
}

#[test]
fn who_has_one_worker_has_a_port_of_its_own_too() {
    let mut world = World::new(4);
    for host in [0, 3] {
        world.have(host, "97", &[0, 3]);
    }
    world.dial(0, 3);
    world.settle();
    for (one, other) in [(0, 3), (3, 0)] {
        assert_eq!(further(&world, one, other), Further::Idle);
        round(&mut world, one, other, |_| true);
        assert_eq!(further(&world, one, other), Further::Used(&[1800]));
        let (own, first) = (
            &world.hosts[one].own[&(vnet("97"), key(other))],
            &world.hosts[one].outbound[&(vnet("97"), key(other))],
        );
        assert_eq!((own.spis.len(), first.spis.len()), (1, 1));
        assert_ne!(own.context(0), first.context(0));
    }
    for _ in 0..6 {
        round(&mut world, 0, 3, |_| false);
    }
    assert_eq!(further(&world, 0, 3), Further::Silent);
    assert_eq!(further(&world, 3, 0), Further::Used(&[1800]));
}

#[test]
fn what_is_opened_and_closed_while_hosts_are_connected_is_told() {
    let mut world = pair();
    round(&mut world, 1, 2, |_| true);
    round(&mut world, 2, 1, |_| true);
    assert_eq!(further(&world, 2, 1), Further::Used(&[1800, 1801]));
    world.configure(2, |settings| settings.ports.clear());
    assert_eq!(further(&world, 2, 1), Further::Idle);
    world.settle();
    assert_eq!(further(&world, 1, 2), Further::None);
    // Keys go on without.
    world.pass(Duration::from_secs(61));
    world.settle();
    world.pass(Duration::from_secs(11));
    let left = world.hosts[2].inbound.values().filter(|association| association.lane == Lane::Own);
    assert_eq!(left.count(), 0);
    world.configure(2, |settings| settings.ports = vec![1810, 1811, 1812]);
    world.settle();
    round(&mut world, 1, 2, |_| true);
    assert_eq!(further(&world, 1, 2), Further::Used(&[1810, 1811, 1812]));
    let own = &world.hosts[1].own[&(vnet("97"), key(2))];
    assert!(own.spis.iter().all(|spi| world.hosts[2].inbound.contains_key(spi)));
}

#[test]
fn keys_for_them_come_once_after_the_others_and_for_as_many_workers_as_there_are() {
    let world = pair();
    let keys = world.heard.iter().find_map(|(from, to, message)| {
        let Message::OwnKeys { channel, epoch, spis } = message else { return None };
        ((*from, *to) == (2, 1)).then(|| (*channel, *epoch, spis.clone()))
    });
    let (channel, epoch, spis) = keys.unwrap();
    let cipher = Cipher::ChaCha20Poly1305;
    assert_eq!(spis.len(), 2);
    let next = Message::Keys { channel, epoch: epoch + 1, cipher, spis: spis.clone() };
    let own = |epoch, spis: &[_]| Message::OwnKeys { channel, epoch, spis: spis.to_vec() };
    let too_many = [spis[0]; 3];
    for bad in [
        vec![own(epoch, &spis)],
        vec![next.clone(), own(epoch, &spis)],
        vec![next.clone(), own(epoch + 1, &spis[1..])],
        vec![next.clone(), own(epoch + 1, &too_many)],
        vec![next.clone(), own(epoch + 1, &spis), own(epoch + 1, &spis)],
    ] {
        let mut world = pair();
        let session = world.session(1, 2);
        let node = &mut world.hosts[1].node;
        let said: Vec<_> = bad.into_iter().map(|m| node.handle_message(Duration::ZERO, session, m)).collect();
        let (last, before) = said.split_last().unwrap();
        assert_eq!(*last, Err(ProtocolError::Keys));
        assert!(before.iter().all(Result::is_ok));
    }
}

#[test]
fn without_security_there_are_no_keys() {
    let mut world = pair();
    for host in [1, 2] {
        world.configure(host, |settings| {
            let vnet = settings.vnets.get_mut(&vnet("97")).unwrap();
            (vnet.security, vnet.vni) = (Security::None, viaduct_types::Vni::new(97));
        });
    }
    world.settle();
    assert!(world.hosts.iter().all(|host| host.own.is_empty()));
}
