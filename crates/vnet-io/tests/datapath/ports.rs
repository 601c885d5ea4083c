//! Ports of workers' own: used when the path says so, in order, and with nothing lost between one way and the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use viaduct_vnet_io::datapath::{Association, Direction, Event, Lane};
use viaduct_vnet_proto::data::{PeerId, esp::Cipher};

use super::{
    pair::Pair,
    world::{PATIENCE, PORT, association, mac, until, vnet},
};

const PEER: PeerId = PeerId(1);
/// Of the guests' sockets.
const FLOWS: u16 = 16;

fn two_and_two() -> Pair {
    Pair::new(["192.0.2.1", "192.0.2.2"], Cipher::Aes128Gcm, [2, 2], [true, true])
}

/// What each worker of the second host has opened.
fn opened(pair: &Pair) -> Vec<u64> {
    pair.hosts[1].handle.counters().workers[&PEER].iter().map(|of| of.datagrams_in).collect()
}

/// By which ports a host sends to the other from now on.
fn go_by(pair: &Pair, from: usize, lane: Lane) {
    let to = &pair.hosts[1 - from];
    pair.hosts[from].reach(PEER, to.address, if lane == Lane::Own { &to.own } else { &[] });
    pair.hosts[from].handle.settle().unwrap();
}

/// How many datagrams of the first host have come to the second at its first port, and at its first worker's own one.
fn at_first_worker(pair: &Pair) -> [u64; 2] {
    let of = pair.hosts[1].handle.counters().workers[&PEER][0];
    [of.datagrams_in_first, of.datagrams_in - of.datagrams_in_first]
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
    // Of what the tunnel brings, nothing is lost at its end, however busy the machine is.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&to, 16 << 20).unwrap();
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
        let pair = Pair::new(underlay, Cipher::Aes128Gcm, [2, 2], [true, true]);
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
            go_by(&pair, 0, if round % 100 == 0 { Lane::First } else { Lane::Own });
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
        go_by(&pair, host, Lane::First);
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
        go_by(&pair, host, Lane::Own);
    }
    let before = opened(&pair);
    assert_eq!(senders(&pair, talk), 2);
    assert!(opened(&pair).iter().zip(&before).all(|(after, before)| after - before >= 50));
    echoing.join().unwrap();
}

#[test]
fn a_worker_without_keys_for_its_own_port_takes_the_first() {
    let pair = Pair::new(["192.0.2.1", "192.0.2.2"], Cipher::Aes128Gcm, [2, 2], [true, true]);
    greet(&pair);
    for (host, direction) in [(&pair.hosts[0], Direction::Outbound), (&pair.hosts[1], Direction::Inbound)] {
        // Everything anew, without keys for own ports.
        host.handle.silence(vnet(), PEER).unwrap();
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
    let own = pair.hosts[1].own.clone();
    pair.hosts[0].handle.probe(PEER, 7, &own);
    let mut told = BTreeSet::new();
    pair.hosts[1].event(|event| {
        if let Event::Probed { peer, worker, number } = event {
            told.insert((*peer, *worker, *number));
        }
        (told.len() == 2).then_some(())
    });
    assert_eq!(told, BTreeSet::from([(PEER, 0, 7), (PEER, 1, 7)]));
    // It is no frame, and no traffic; a guest that begins may have said something meanwhile.
    assert_eq!(pair.counters()[0].host.probes, 2);
    until("what is sent is frames", || {
        let sender = pair.counters()[0].clone();
        sender.peers[&PEER].datagrams_out == sender.vnets[&vnet()].frames_out
    });
    assert_eq!(pair.counters()[1].host.not_a_frame, 0);
    let [by_first, by_own] = at_first_worker(&pair);
    assert!(by_first == 0 && by_own > 0, "{by_first} {by_own}");
    // Sent where nobody is, it is not told; nor is it in the way of frames.
    let nowhere = SocketAddr::from(([192, 0, 2, 2], PORT + 50));
    pair.hosts[0].handle.probe(PEER, 8, &[nowhere]);
    pair.hosts[0].handle.settle().unwrap();
    greet(&pair);
    // Whoever asks more often than anybody has to is not answered.
    thread::sleep(Duration::from_millis(50));
    pair.hosts[0].handle.probe(PEER, 9, &own);
    let told = pair.hosts[1].event(|event| {
        let Event::Probed { number, .. } = event else { return None };
        Some(*number)
    });
    assert_eq!(told, 9);
}

#[test]
fn what_is_sent_to_find_out_wears_keys_out_as_frames_do() {
    let mut pair = two_and_two();
    let worn = Association {
        lane: Lane::Own,
        rekey_after: 1,
        ..association(Cipher::Aes128Gcm, 0x4000, PEER, Direction::Outbound, 1)
    };
    pair.hosts[0].handle.install(worn).unwrap();
    let own = pair.hosts[1].own.clone();
    pair.hosts[0].handle.probe(PEER, 7, &own);
    let spi = pair.hosts[0].event(|event| {
        let Event::RekeyNeeded { spi, .. } = event else { return None };
        Some(*spi)
    });
    assert_eq!(spi.value(), 0x4000);
}

#[test]
fn sockets_are_given_and_taken_while_frames_go() {
    let pair = Pair::new(["192.0.2.1", "192.0.2.2"], Cipher::Aes128Gcm, [2, 2], [false, false]);
    greet(&pair);
    let mut own = Vec::new();
    for (side, address) in ["192.0.2.1", "192.0.2.2"].into_iter().enumerate() {
        let open = move |port| UdpSocket::bind((address, port)).unwrap();
        let sockets = pair.rooms[side].run(move || [PORT + 2, PORT + 3].map(open));
        own = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        pair.hosts[side].handle.set_own_sockets(sockets.into()).unwrap();
        let too_few = pair.rooms[side].run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
        assert!(pair.hosts[side].handle.set_own_sockets(vec![too_few]).is_err());
    }
    // What each worker takes at its port.
    for (side, direction) in [(0, Direction::Outbound), (1, Direction::Inbound)] {
        for (worker, spi) in [(0, 0x3000), (1, 0x3001)] {
            let keys = Association {
                lane: Lane::Own,
                ..association(Cipher::Aes128Gcm, spi, PEER, direction, worker)
            };
            pair.hosts[side].handle.install(keys).unwrap();
        }
    }
    pair.hosts[1].handle.settle().unwrap();
    let (before, first) = (opened(&pair), at_first_worker(&pair));
    let heard = flows(&pair, 6_300, 200, |round| {
        if round == 50 {
            pair.hosts[0].reach(PEER, pair.hosts[1].address, &own);
        }
        if round == 150 {
            go_by(&pair, 0, Lane::First);
        }
    });
    assert!(heard.values().all(|numbers| numbers.len() == 200));
    assert!(opened(&pair)[1] > before[1] + 100);
    // What came before and after did by the first port, and what came meanwhile by the workers' own.
    let now = at_first_worker(&pair);
    let meanwhile = [now[0] - first[0], now[1] - first[1]];
    assert!(meanwhile[0] >= u64::from(FLOWS) * 80 && meanwhile[1] >= 100, "{meanwhile:?}");
    for host in &pair.hosts {
        host.handle.set_own_sockets(Vec::new()).unwrap();
        host.handle.settle().unwrap();
    }
    // They are closed: somebody else may have them.
    until("the port is free", || pair.rooms[1].run(|| UdpSocket::bind(("192.0.2.2", PORT + 2)).is_ok()));
    greet(&pair);
}

#[test]
fn the_first_worker_sends_by_own_ports_from_its_own_socket() {
    let pair = Pair::new(["192.0.2.1", "192.0.2.2"], Cipher::Aes128Gcm, [1, 1], [true, true]);
    greet(&pair);
    let [first, own] = at_first_worker(&pair);
    assert!(first == 0 && own > 0, "{first} {own}");
    let mut bytes = [0; 2_000];
    let from = pair.guests[0].run(|| UdpSocket::bind("10.9.0.1:6500").unwrap());
    for (lane, source) in [(Lane::Own, pair.hosts[0].own[0]), (Lane::First, pair.hosts[0].address)] {
        let there = pair.rooms[1].run(|| UdpSocket::bind("192.0.2.2:0").unwrap());
        there.set_read_timeout(Some(PATIENCE)).unwrap();
        let at = there.local_addr().unwrap();
        match lane {
            Lane::Own => pair.hosts[0].reach(PEER, pair.hosts[1].address, &[at]),
            Lane::First => pair.hosts[0].reach(PEER, at, &[]),
        }
        pair.hosts[0].handle.settle().unwrap();
        from.send_to(&[7; 4], "10.9.0.2:6500").unwrap();
        let (length, heard) = there.recv_from(&mut bytes).unwrap();
        assert_eq!(heard, source);
        // It is taken once, at whatever port it comes in the end: both have one window.
        let taken = || pair.counters()[1].peers[&PEER].datagrams_in;
        let (before, replayed) = (taken(), pair.counters()[1].host.replayed);
        for to in [pair.hosts[1].own[0], pair.hosts[1].address, pair.hosts[1].own[0]] {
            there.send_to(&bytes[..length], to).unwrap();
        }
        until("the others are dropped", || pair.counters()[1].host.replayed == replayed + 2);
        assert_eq!(taken(), before + 1);
    }
}

/// The ports of a host that have a connected socket (state 1 is TCP_ESTABLISHED in include/net/tcp_states.h, for UDP, too).
fn connected(pair: &Pair, host: usize) -> Vec<u16> {
    pair.rooms[host].run(|| {
        let table = |of| std::fs::read_to_string(format!("/proc/thread-self/net/{of}")).unwrap();
        let port = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            let (local, _, state) = (words.next()?, words.next()?, words.next()?);
            (state == "01").then(|| u16::from_str_radix(local.rsplit(':').next()?, 16).ok())?
        };
        ["udp", "udp6"].iter().flat_map(|of| table(of).lines().filter_map(port).collect::<Vec<_>>()).collect()
    })
}

#[test]
fn who_comes_first_has_a_socket_and_loses_nothing_by_it() {
    for underlay in [["192.0.2.1", "192.0.2.2"], ["fd00::1", "fd00::2"]] {
        let pair = Pair::new(underlay, Cipher::Aes128Gcm, [1, 1], [true, true]);
        for host in 0..2 {
            go_by(&pair, host, Lane::First);
        }
        greet(&pair);
        let own = pair.hosts[1].own[0];
        let of_flows = || connected(&pair, 1).into_iter().filter(|port| *port == own.port()).count();
        let before = pair.counters()[1].peers[&PEER].datagrams_in;
        let heard = flows(&pair, 6_600, 600, |round| {
            if round == 300 {
                (0..2).for_each(|host| go_by(&pair, host, Lane::Own));
            }
        });
        assert_eq!(heard.len(), usize::from(FLOWS));
        // What a guest sends faster than the tunnel takes it is lost before it.
        until("all has come", || pair.lost() == [0, 0]);
        assert_eq!(of_flows(), 1);
        let counters = pair.counters()[1].clone();
        assert!(counters.peers[&PEER].datagrams_in - before >= u64::from(FLOWS) * 400);
        assert_eq!((counters.host.overflow, counters.host.replayed), (0, 0));
        // Others are heard at the same port.
        let somebody = pair.rooms[0].run(move || UdpSocket::bind((underlay[0], 0)).unwrap());
        somebody.send_to(&[1; 4], own).unwrap();
        until("a stranger is heard", || pair.counters()[1].host.malformed == counters.host.malformed + 1);
        // With the port, it is gone.
        pair.hosts[0].reach(PEER, pair.hosts[1].address, &[]);
        pair.hosts[1].handle.set_own_sockets(Vec::new()).unwrap();
        until("the port is free", || pair.rooms[1].run(move || UdpSocket::bind(own).is_ok()));
        assert_eq!(of_flows(), 0);
        greet(&pair);
    }
}

#[test]
fn what_goes_to_a_peer_leaves_from_where_it_sends_to() {
    const MESSAGE: [u8; 400] = [7; 400];
    for (underlay, further, any, prefix) in [
        (["192.0.2.1", "192.0.2.2"], "192.0.2.22", "0.0.0.0", "24"),
        (["fd00::1", "fd00::2"], "fd00::22", "::", "64"),
    ] {
        let pair = Pair::new(underlay, Cipher::Aes128Gcm, [1, 1], [true, true]);
        let [near, far] = underlay;
        pair.rooms[1].ip(&format!("addr add {further}/{prefix} dev u0 noprefixroute"));
        until("the address is there", || pair.rooms[1].run(move || UdpSocket::bind((further, 0)).is_ok()));
        let own = pair.rooms[1].run(move || UdpSocket::bind((any, PORT + 20)).unwrap());
        pair.hosts[1].handle.set_own_sockets(vec![own]).unwrap();
        let there = pair.rooms[0].run(move || UdpSocket::bind((near, PORT + 20)).unwrap());
        there.set_read_timeout(Some(PATIENCE)).unwrap();
        let at = there.local_addr().unwrap();
        let guests = [0, 1].map(|side| {
            let room = &pair.guests[side];
            room.ip(&format!(
                "neigh add 10.9.0.{} lladdr {} dev eth0",
                2 - side,
                mac(if side == 0 { 2 } else { 1 })
            ));
            pair.hosts[side].reach(PEER, pair.hosts[1 - side].address, &[at]);
            pair.hosts[side].handle.settle().unwrap();
            let socket = room.run(move || UdpSocket::bind(format!("10.9.0.{}:6700", side + 1)).unwrap());
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        });
        let mut bytes = [0; 2_000];
        // What a guest sends, and whence; kernels say something by themselves as well.
        let mut send = |from: usize| loop {
            guests[from].send_to(&MESSAGE, format!("10.9.0.{}:6700", 2 - from)).unwrap();
            let (length, source) = there.recv_from(&mut bytes).unwrap();
            if length > MESSAGE.len() {
                return (bytes[..length].to_vec(), source);
            }
        };
        let at_port = |ip: &str| SocketAddr::new(ip.parse().unwrap(), PORT + 20);
        // The kernel prefers one of the two; what the first host sends comes to the other one.
        let preferred = send(1).1;
        let other = if preferred == at_port(far) { further } else { far };
        until("it has a socket", || {
            let (datagram, _) = send(0);
            there.send_to(&datagram, at_port(other)).unwrap();
            assert_eq!(guests[1].recv(&mut [0; 500]).unwrap(), MESSAGE.len());
            connected(&pair, 1) == [PORT + 20]
        });
        assert_eq!(send(1).1, at_port(other));
        // Which it has no longer.
        pair.rooms[1].ip(&format!("addr del {other}/{prefix} dev u0"));
        // Of IPv6, the kernel does not know it; and nothing comes there any more.
        until("it leaves from an address that is there", || send(1).1 == preferred);
    }
}
