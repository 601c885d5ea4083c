//! Ports of workers' own: used when the path says so, in order, and with nothing lost between one way and the other.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use viaduct_vnet_io::datapath::{Association, Direction, Event, Lane};
use viaduct_vnet_proto::data::{PeerId, esp::Cipher};

use super::{
    between_hosts::Pair,
    world::{PORT, association, until},
};

const PEER: PeerId = PeerId(1);
/// Of the guests' sockets.
const FLOWS: u16 = 16;

fn two_and_two() -> Pair {
    Pair::new(["192.0.2.1", "192.0.2.2"], Cipher::Aes128Gcm, [2, 2], [2, 2])
}

/// What each worker of the second host has opened.
fn opened(pair: &Pair) -> Vec<u64> {
    pair.hosts[1].handle.counters().workers[&PEER].iter().map(|of| of.datagrams_in).collect()
}

/// The first host sends to so many sockets of the second from now on.
fn go_by(pair: &Pair, sockets: usize) {
    pair.hosts[0].reach(PEER, pair.hosts[1].addresses[..sockets].to_vec());
    pair.hosts[0].handle.settle().unwrap();
}

/// Flows of numbered datagrams from the first guest to the second, all at the same time; gives what came of each.
fn flows(pair: &Pair, first_port: u16, rounds: u32, between: impl FnMut(u32)) -> BTreeMap<u16, Vec<u32>> {
    let from: Vec<UdpSocket> = pair.guests[0].run(move || {
        let open = |flow| {
            let socket = UdpSocket::bind(("10.9.0.1", first_port + flow)).unwrap();
            socket.connect(("10.9.0.2", first_port)).unwrap();
            socket
        };
        (0..FLOWS).map(open).collect()
    });
    let to = pair.guests[1].run(move || UdpSocket::bind(("10.9.0.2", first_port)).unwrap());
    to.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let hearing = thread::spawn(move || {
        let (mut heard, mut bytes) = (BTreeMap::<u16, Vec<u32>>::new(), [0; 100]);
        let total = usize::from(FLOWS) * usize::try_from(rounds).unwrap();
        for _ in 0..total {
            let Ok((_, from)) = to.recv_from(&mut bytes) else { break };
            let number = u32::from_be_bytes(*bytes.first_chunk().unwrap());
            heard.entry(from.port() - first_port).or_default().push(number);
        }
        heard
    });
    let mut between = between;
    for round in 0..rounds {
        between(round);
        for socket in &from {
            socket.send(&round.to_be_bytes()).unwrap();
        }
        thread::sleep(Duration::from_millis(2));
    }
    hearing.join().unwrap()
}

fn greet(pair: &Pair) {
    pair.transfer("10.9.0.2", 1_000);
}

#[test]
fn flows_go_to_several_workers_and_stay_in_order() {
    for underlay in [["192.0.2.1", "192.0.2.2"], ["fd00::1", "fd00::2"]] {
        let pair = Pair::new(underlay, Cipher::Aes128Gcm, [2, 2], [2, 2]);
        greet(&pair);
        let before = opened(&pair);
        let heard = flows(&pair, 6_000, 200, |_| ());
        let all: Vec<u32> = (0..200).collect();
        assert_eq!(heard.len(), usize::from(FLOWS));
        for (flow, numbers) in heard {
            assert_eq!(numbers, all, "flow {flow}");
        }
        let after = opened(&pair);
        for (worker, (before, after)) in before.iter().zip(&after).enumerate() {
            assert!(after - before >= 200, "worker {worker} has opened {}", after - before);
        }
    }
}

#[test]
fn nothing_is_lost_between_several_ports_and_one() {
    let pair = two_and_two();
    greet(&pair);
    let mut seen = Vec::new();
    let heard = flows(&pair, 6_100, 400, |round| {
        if round % 50 == 0 {
            seen.push(opened(&pair));
            go_by(&pair, if round % 100 == 0 { 1 } else { 2 });
        }
    });
    for (flow, mut numbers) in heard {
        numbers.sort_unstable();
        assert_eq!(numbers, (0..400).collect::<Vec<_>>(), "flow {flow}");
    }
    assert_eq!(pair.lost(), [0, 0]);
    let host = pair.counters()[1].host;
    assert_eq!((host.unknown_spi, host.forged, host.replayed), (0, 0, 0));
    // With one port the second worker has nothing to do, with two it has.
    let second: Vec<u64> = seen.windows(2).map(|pair| pair[1][1] - pair[0][1]).collect();
    for (step, opened) in second.iter().enumerate() {
        assert_eq!(*opened > 20, step % 2 == 1, "{second:?}");
    }
}

/// How many workers of the first host have sent something meanwhile.
fn senders(pair: &Pair, meanwhile: impl FnOnce()) -> usize {
    let sent = || -> Vec<u64> {
        pair.hosts[0].handle.counters().workers[&PEER].iter().map(|of| of.datagrams_out).collect()
    };
    let before = sent();
    meanwhile();
    before.iter().zip(sent()).filter(|(before, after)| after - **before >= 50).count()
}

#[test]
fn flows_that_begin_with_one_port_do_not_gather_at_the_first_worker() {
    let pair = two_and_two();
    greet(&pair);
    for host in 0..2 {
        pair.hosts[host].reach(PEER, pair.hosts[1 - host].addresses[..1].to_vec());
        pair.hosts[host].handle.settle().unwrap();
    }
    // The second guest gives back what comes, so that its kernel knows each flow from both sides.
    let echo = pair.guests[1].run(|| UdpSocket::bind("10.9.0.2:6400").unwrap());
    echo.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let echoing = thread::spawn(move || {
        let mut bytes = [0; 100];
        while let Ok((length, from)) = echo.recv_from(&mut bytes) {
            echo.send_to(&bytes[..length], from).unwrap();
        }
    });
    let sockets: Vec<UdpSocket> = pair.guests[0].run(|| {
        let open = |flow| {
            let socket = UdpSocket::bind(("10.9.0.1", 6_400 + flow)).unwrap();
            socket.connect("10.9.0.2:6400").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket
        };
        (0..FLOWS).map(open).collect()
    });
    let talk = || {
        for _ in 0..50 {
            sockets.iter().for_each(|socket| assert_eq!(socket.send(&[7; 4]).unwrap(), 4));
            sockets.iter().for_each(|socket| assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 4));
        }
    };
    assert_eq!(senders(&pair, talk), 2);
    // And with several, the flows go on at several.
    for host in 0..2 {
        pair.hosts[host].reach(PEER, pair.hosts[1 - host].addresses.clone());
        pair.hosts[host].handle.settle().unwrap();
    }
    let before = opened(&pair);
    assert_eq!(senders(&pair, talk), 2);
    assert!(opened(&pair).iter().zip(&before).all(|(after, before)| after - before >= 50));
    echoing.join().unwrap();
}

#[test]
fn a_worker_without_keys_for_its_own_port_takes_the_first() {
    let pair = Pair::new(["192.0.2.1", "192.0.2.2"], Cipher::Aes128Gcm, [2, 2], [2, 2]);
    greet(&pair);
    for (host, direction) in [(&pair.hosts[0], Direction::Outbound), (&pair.hosts[1], Direction::Inbound)] {
        // Everything anew, without keys for own ports.
        host.handle.silence(super::world::vnet(), PEER).unwrap();
        for worker in 0..2 {
            let at = if direction == Direction::Outbound { worker } else { 0 };
            let spi = 0x2000 + u32::try_from(worker).unwrap();
            host.handle.install(association(Cipher::Aes128Gcm, spi, PEER, direction, at)).unwrap();
        }
        host.handle.settle().unwrap();
    }
    let own: Association = Association {
        lane: Lane::Own,
        ..association(Cipher::Aes128Gcm, 0x2100, PEER, Direction::Outbound, 1)
    };
    pair.hosts[1].handle.install(own).unwrap();
    let before = opened(&pair);
    let heard = flows(&pair, 6_200, 50, |_| ());
    assert!(heard.values().all(|numbers| numbers.len() == 50));
    assert_eq!(opened(&pair)[1], before[1]);
}

#[test]
fn what_is_sent_to_find_out_arrives_and_is_told() {
    let mut pair = two_and_two();
    let remotes = pair.hosts[1].addresses.clone();
    pair.hosts[0].handle.probe(PEER, 7, &remotes);
    let told = pair.hosts[1].event(|event| {
        let Event::Probed { peer, worker, number } = event else { return None };
        Some((*peer, *worker, *number))
    });
    assert_eq!(told, (PEER, 1, 7));
    // It is no frame, and no traffic.
    let [sender, receiver] = pair.counters();
    assert_eq!((sender.host.probes, sender.peers[&PEER].datagrams_out), (1, 0));
    assert_eq!(receiver.host.not_a_frame, 0);
    // Sent where nobody is, it is not told; nor is it in the way of frames.
    let nowhere = SocketAddr::from(([192, 0, 2, 2], PORT + 50));
    pair.hosts[0].handle.probe(PEER, 8, &[remotes[0], nowhere]);
    pair.hosts[0].handle.settle().unwrap();
    greet(&pair);
    // Whoever asks more often than anybody has to is not answered.
    thread::sleep(Duration::from_millis(50));
    pair.hosts[0].handle.probe(PEER, 9, &remotes);
    let told = pair.hosts[1].event(|event| {
        let Event::Probed { number, .. } = event else { return None };
        Some(*number)
    });
    assert_eq!(told, 9);
}

#[test]
fn sockets_are_given_and_taken_while_frames_go() {
    let pair = Pair::new(["192.0.2.1", "192.0.2.2"], Cipher::Aes128Gcm, [2, 2], [1, 1]);
    greet(&pair);
    let mut own = Vec::new();
    for (side, address) in ["192.0.2.1", "192.0.2.2"].into_iter().enumerate() {
        let socket = pair.rooms[side].run(move || UdpSocket::bind((address, PORT + 1)).unwrap());
        own.push(socket.local_addr().unwrap());
        pair.hosts[side].handle.set_own_sockets(vec![socket]).unwrap();
        let too_many = pair.rooms[side].run(|| [0, 0].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()));
        assert!(pair.hosts[side].handle.set_own_sockets(too_many.into()).is_err());
    }
    // What the second worker takes at its port.
    for (side, direction, worker) in [(0, Direction::Outbound, 1), (1, Direction::Inbound, 1)] {
        let keys = Association {
            lane: Lane::Own,
            ..association(Cipher::Aes128Gcm, 0x3000, PEER, direction, worker)
        };
        pair.hosts[side].handle.install(keys).unwrap();
    }
    pair.hosts[1].handle.settle().unwrap();
    let before = opened(&pair);
    let heard = flows(&pair, 6_300, 200, |round| {
        if round == 50 {
            pair.hosts[0].reach(PEER, vec![pair.hosts[1].addresses[0], own[1]]);
        }
        if round == 150 {
            go_by(&pair, 1);
        }
    });
    assert!(heard.values().all(|numbers| numbers.len() == 200));
    assert!(opened(&pair)[1] > before[1] + 100);
    for host in &pair.hosts {
        host.handle.set_own_sockets(Vec::new()).unwrap();
        host.handle.settle().unwrap();
    }
    // They are closed: somebody else may have them.
    until("the port is free", || pair.rooms[1].run(|| UdpSocket::bind(("192.0.2.2", PORT + 1)).is_ok()));
    greet(&pair);
}
