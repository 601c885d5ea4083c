//! Where frames go, what the control side hears, and changes while frames flow.

use std::{
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
use viaduct_types::MacAddr;
use viaduct_vnet_io::datapath::{Association, Brought, Direction, Event, Path, Relay, Via};
use viaduct_vnet_proto::data::{Forwarding, Interest, PeerId, Port, Spi, esp::Cipher};

use super::{
    wire::{reference, udp_frame},
    world::{
        Alone, Host, IN, LARGEST, OUT, PATIENCE, PEER, Room, association, hex, key, mac, path, until, vnet,
    },
};

const CIPHER: Cipher = Cipher::Aes128Gcm;

fn sealed(number: u64, frame: &[u8]) -> Vec<u8> {
    let material = hex(&key(CIPHER, IN));
    reference(&[format!("seal {CIPHER} {material} {IN} {number} {}", hex(frame))]).remove(0)
}

fn opened(spi: u32, datagram: &[u8]) -> Vec<u8> {
    let material = hex(&key(CIPHER, spi));
    reference(&[format!("open {CIPHER} {material} 0 {}", hex(datagram))]).remove(0)
}

fn say(alone: &Alone, what: &'static str) {
    alone.room.run(move || {
        let socket = UdpSocket::bind("10.9.0.1:7000").unwrap();
        socket.send_to(what.as_bytes(), "10.9.0.2:8000").unwrap();
    });
}

#[test]
fn a_peer_may_not_lie_about_its_source() {
    let mut alone = Alone::new(CIPHER);
    let mut frame = udp_frame(b"lies");
    frame[6..12].copy_from_slice(&mac(3).0);
    alone.give(&sealed(1, &frame));
    let told = alone.host.event(|event| {
        let Event::ForeignSource { peer, mac, .. } = event else { return None };
        Some((*peer, *mac))
    });
    assert_eq!(told, (PEER, mac(3)));
    assert_eq!(alone.host.counters().foreign_source, 1);
    assert_eq!(alone.host.counters().frames_in, 0);
}

#[test]
fn stragglers_follow_a_guest_that_went_on() {
    const NEXT: PeerId = PeerId(2);
    let alone = Alone::new(CIPHER);
    let next = alone.room.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    next.set_read_timeout(Some(PATIENCE)).unwrap();
    alone.host.reach(NEXT, next.local_addr().unwrap(), &[]);
    alone.host.handle.install(association(CIPHER, 0x2001, NEXT, Direction::Outbound, 0)).unwrap();
    let ports = [(mac(1), Port::Moved(NEXT)), (mac(2), Port::Peer(PEER))];
    alone.host.forward(&ports, &[]);
    alone.host.handle.settle().unwrap();
    let frame = udp_frame(b"wait for me");
    alone.give(&sealed(1, &frame));
    let mut bytes = [0; 2_000];
    let (length, _) = next.recv_from(&mut bytes).unwrap();
    assert_eq!(opened(0x2001, &bytes[..length]), frame);
    assert_eq!(alone.host.counters().forwarded, 1);
}

#[test]
fn questions_are_answered_by_the_control_side() {
    let mut alone = Alone::new(CIPHER);
    let mut forwarding = Forwarding::new(10);
    forwarding.macs.claim(mac(1), Port::Local).unwrap();
    forwarding.macs.claim(mac(2), Port::Peer(PEER)).unwrap();
    forwarding.answered = ["10.9.0.2".parse().unwrap()].into_iter().collect();
    alone.host.handle.set_forwarding(vnet(), forwarding).unwrap();
    alone.host.handle.settle().unwrap();
    alone.room.ip("neigh del 10.9.0.2 dev vn0");
    say(&alone, "who are you?");
    let question = alone.host.event(|event| {
        let Event::Frame { reason: Interest::Question, frame, .. } = event else { return None };
        Some(frame.clone())
    });
    // ARP for 10.9.0.2 from 10.9.0.1.
    assert_eq!(question[12..14], [8, 6]);
    assert_eq!(question[38..42], [10, 9, 0, 2]);
    let mut answer = [&mac(1).0[..], &mac(2).0, &question[12..20], &[0, 2]].concat();
    answer.extend([&mac(2).0[..], &[10, 9, 0, 2], &question[22..32]].concat());
    alone.host.handle.deliver(vnet(), answer).unwrap();
    let frame = opened(OUT, &alone.receive());
    assert_eq!(&frame[42..], b"who are you?");
}

#[test]
fn a_muted_port_is_silent() {
    let mut alone = Alone::new(CIPHER);
    alone.host.forward(&[(mac(1), Port::Muted), (mac(2), Port::Peer(PEER))], &[PEER]);
    alone.host.handle.settle().unwrap();
    say(&alone, "hello?");
    until("it is counted", || alone.host.counters().muted >= 1);
    alone.give(&sealed(1, &udp_frame(b"hello?")));
    until("it is counted", || alone.host.counters().not_here == 1);
    // But the control side hears that it is there.
    alone.room.ip("neigh flush dev vn0");
    alone.room.ip("neigh del 10.9.0.2 dev vn0");
    say(&alone, "hello?");
    let shown = alone.host.event(|event| {
        let Event::Frame { reason: Interest::Muted, frame, .. } = event else { return None };
        (frame[12..14] == [8, 6]).then(|| frame.clone())
    });
    assert_eq!(shown[6..12], mac(1).0);
    alone.peer.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(alone.peer.recv(&mut [0; 2_000]).is_err(), "something of a muted port was sent");
}

#[test]
fn an_unknown_source_is_told_once() {
    let mut alone = Alone::new(CIPHER);
    alone.host.forward(&[(mac(2), Port::Peer(PEER))], &[PEER]);
    alone.host.handle.settle().unwrap();
    for _ in 0..3 {
        say(&alone, "who am I?");
    }
    let mut told = alone.host.event(|event| {
        let Event::UnknownSource { mac, .. } = event else { return None };
        Some(*mac)
    });
    assert_eq!(told, mac(1));
    until("they are counted", || alone.host.counters().unknown_source >= 3);
    alone.host.handle.settle().unwrap();
    while let Ok(event) = alone.host.inbox.events.try_recv() {
        if let Event::UnknownSource { mac, .. } = event {
            told = MacAddr([0; 6]).min(mac);
        }
    }
    assert_eq!(told, mac(1), "it was told twice");
}

/// Has guests of the host send these: as many as its port holds, and then the next.
fn guests_send(alone: &Alone, frames: Vec<Vec<u8>>) {
    alone.room.run(move || {
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
        let index = netdevice::name_to_index(&socket, "vn0").unwrap();
        // SAFETY: it is plain data, for which all zeroes are valid.
        let mut port: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        port.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
        port.sll_ifindex = i32::try_from(index).unwrap();
        let length = libc::socklen_t::try_from(size_of_val(&port)).unwrap();
        for some in frames.chunks(50) {
            for frame in some {
                // SAFETY: the frame and the address live until the call returns, and the lengths are theirs.
                let sent = unsafe {
                    let (bytes, count) = (frame.as_ptr().cast(), frame.len());
                    libc::sendto(socket.as_raw_fd(), bytes, count, 0, (&raw const port).cast(), length)
                };
                assert_eq!(usize::try_from(sent), Ok(frame.len()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    });
}

/// A guest asks who has 10.9.0.2.
fn question(guest: u8) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &mac(guest).0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac(guest).0].concat();
    frame.extend([10, 9, 0, guest, 0, 0, 0, 0, 0, 0, 10, 9, 0, 2]);
    frame.resize(60, 0);
    frame
}

/// Guests 1 and 3, whose questions are answered here; others go to the peer.
fn two_guests() -> Alone {
    let alone = Alone::new(CIPHER);
    let mut forwarding = Forwarding::new(10);
    for (guest, port) in [(1, Port::Local), (3, Port::Local), (2, Port::Peer(PEER))] {
        forwarding.macs.claim(mac(guest), port).unwrap();
    }
    forwarding.flood = [PEER].into();
    forwarding.answered = ["10.9.0.2".parse().unwrap()].into_iter().collect();
    alone.host.handle.set_forwarding(vnet(), forwarding).unwrap();
    alone.host.handle.settle().unwrap();
    alone
}

/// What is told before a guest's question is, and that it is.
fn told_before_a_question(alone: &mut Alone, guest: u8) -> usize {
    guests_send(alone, vec![question(guest)]);
    let mut before = 0;
    alone.host.event(|event| {
        before += 1;
        let Event::Frame { reason: Interest::Question, frame, .. } = event else { return None };
        (frame[6..12] == mac(guest).0).then_some(())
    });
    before
}

#[test]
fn a_guest_that_asks_without_end_keeps_no_other_from_asking() {
    let mut alone = two_guests();
    guests_send(&alone, vec![question(1); 4_000]);
    let before = told_before_a_question(&mut alone, 3);
    assert!(before < 1_000, "{before}");
    // What is more is asked of everybody.
    until("it is asked elsewhere", || alone.host.counters().frames_out > 2_000);
    // Its kernel may have spoken of groups meanwhile.
    let dropped = alone.host.handle.counters().host.events_dropped;
    assert!(dropped < 10, "{dropped}");
}

#[test]
fn a_guest_whose_packets_are_too_long_keeps_no_other_from_asking() {
    let mut alone = two_guests();
    alone.host.handle.set_path(PEER, path(alone.peer.local_addr().unwrap(), 1_300));
    alone.host.handle.settle().unwrap();
    // What may not be cut.
    let mut long = udp_frame(&[7; 1_380]);
    long[..12].copy_from_slice(&[mac(2).0, mac(1).0].concat());
    guests_send(&alone, vec![long; 4_000]);
    until("they are counted", || alone.host.counters().too_big > 2_000);
    let before = told_before_a_question(&mut alone, 3);
    assert!((10..1_000).contains(&before), "{before}");
}

#[test]
fn a_peer_that_sends_as_everybody_and_from_everywhere_keeps_no_guest_from_asking() {
    let mut alone = two_guests();
    let material = hex(&key(CIPHER, IN));
    let lie = |number: u16| {
        let mut frame = udp_frame(b"lies");
        let [high, low] = number.to_be_bytes();
        frame[6..12].copy_from_slice(&[2, 9, 9, high, low, 9]);
        format!("seal {CIPHER} {material} {IN} {} {}", u32::from(number) + 1, hex(&frame))
    };
    let lies: Vec<String> = (0..4_000).map(lie).collect();
    // No more at once than pipes hold.
    let datagrams: Vec<Vec<u8>> = lies.chunks(100).flat_map(reference).collect();
    let other = alone.room.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    for (index, datagram) in datagrams.iter().enumerate() {
        let from = if index % 2 == 0 { &alone.peer } else { &other };
        from.send_to(datagram, alone.host.address).unwrap();
        if index % 50 == 49 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    until("they are dropped", || alone.host.counters().foreign_source > 3_000);
    let before = told_before_a_question(&mut alone, 3);
    assert!((2..1_000).contains(&before), "{before}");
}

#[test]
fn new_keys_take_over_without_a_gap() {
    let mut alone = Alone::new(CIPHER);
    let guest = alone.room.run(|| UdpSocket::bind("10.9.0.1:7000").unwrap());
    guest.set_read_timeout(Some(PATIENCE)).unwrap();
    let old = Association { rekey_after: 2, ..association(CIPHER, OUT, PEER, Direction::Outbound, 0) };
    alone.host.handle.install(old).unwrap();
    alone.host.handle.settle().unwrap();
    for _ in 0..3 {
        guest.send_to(b"old", "10.9.0.2:8000").unwrap();
    }
    let spi = alone.host.event(|event| {
        let Event::RekeyNeeded { spi, peer: PEER, .. } = event else { return None };
        Some(*spi)
    });
    assert_eq!(spi.value(), OUT);
    // It goes on with the old one until there is a new one.
    for number in 1..=3_u32 {
        let datagram = alone.receive();
        assert_eq!(datagram[..8], [OUT.to_be_bytes(), number.to_be_bytes()].concat());
    }
    alone.host.handle.install(association(CIPHER, 0x3001, PEER, Direction::Outbound, 0)).unwrap();
    alone.host.handle.install(association(CIPHER, 0x3002, PEER, Direction::Inbound, 0)).unwrap();
    alone.host.handle.settle().unwrap();
    guest.send_to(b"new", "10.9.0.2:8000").unwrap();
    assert_eq!(alone.receive()[..8], [0x3001_u32.to_be_bytes(), 1_u32.to_be_bytes()].concat());
    // Both are heard, until the old one is retired.
    let material = hex(&key(CIPHER, 0x3002));
    let by_new =
        reference(&[format!("seal {CIPHER} {material} {} 1 {}", 0x3002, hex(&udp_frame(b"by new")))]);
    let mut bytes = [0; 100];
    for (datagram, text) in [(sealed(1, &udp_frame(b"by old")), "by old"), (by_new[0].clone(), "by new")] {
        alone.give(&datagram);
        let length = guest.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], text.as_bytes());
    }
    alone.host.handle.retire(Spi::new(IN).unwrap());
    alone.host.handle.settle().unwrap();
    alone.give(&sealed(2, &udp_frame(b"too late")));
    until("it is unknown", || alone.host.handle.counters().host.unknown_spi == 1);
}

/// What stands before datagrams that are passed on.
fn before(spi: u32, datagram: &[u8]) -> Vec<u8> {
    [&spi.to_be_bytes()[..], datagram].concat()
}

/// What begins with 0x5005 goes on from the one to the other, and begins with 0x6006 then.
fn relay(from: &UdpSocket, to: &UdpSocket) -> Relay {
    Relay {
        spi: Spi::new(0x5005).unwrap(),
        from: from.local_addr().unwrap(),
        to: to.local_addr().unwrap(),
        onward: Spi::new(0x6006).unwrap(),
        bytes_per_second: 100_000,
    }
}

#[test]
fn datagrams_of_others_go_on_but_for_what_stands_before_them() {
    let alone = Alone::new(CIPHER);
    let [from, to] = [0, 1].map(|_| alone.room.run(|| UdpSocket::bind("127.0.0.1:0").unwrap()));
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    let relay = relay(&from, &to);
    let handle = &alone.host.handle;
    handle.set_relays(&[relay], &[]);
    handle.settle().unwrap();
    from.send_to(&before(0x5005, &[7; 500]), alone.host.address).unwrap();
    let mut bytes = [0; 2_000];
    let (length, sender) = to.recv_from(&mut bytes).unwrap();
    assert_eq!(bytes[..length], before(0x6006, &[7; 500]));
    assert_eq!(sender, alone.host.address);
    // From elsewhere it is for nobody, and so is what nothing follows.
    alone.give(&before(0x5005, &[7; 500]));
    from.send_to(&before(0x5005, &[]), alone.host.address).unwrap();
    until("they are unknown", || handle.counters().host.unknown_spi + handle.counters().host.malformed == 2);
    assert_eq!(handle.counters().host.relayed, 1);
    // No more than so much goes on.
    (0..200).for_each(|_| {
        from.send_to(&before(0x5005, &[7; 1_000]), alone.host.address).unwrap();
    });
    until("all have come", || {
        let counters = handle.counters();
        counters.host.relayed + counters.host.over_rate == 201
    });
    let counters = handle.counters();
    assert!(counters.host.over_rate > 50, "{counters:?}");
    assert_eq!(counters.relays[&relay.spi].over_rate, counters.host.over_rate);
    assert_eq!(counters.relays[&relay.spi].datagrams, counters.host.relayed);
    handle.set_relays(&[], &[]);
    handle.settle().unwrap();
    assert!(handle.counters().relays.is_empty());
}

#[test]
fn what_is_to_be_passed_on_comes_to_the_first_port() {
    let room = Room::new();
    let host = Host::start(&room, Ipv4Addr::LOCALHOST.into(), 1, true);
    let [from, to] = [0, 1].map(|_| room.run(|| UdpSocket::bind("127.0.0.1:0").unwrap()));
    let relay = relay(&from, &to);
    host.handle.set_relays(&[relay], &[]);
    host.handle.settle().unwrap();
    // Each worker would let the whole rate through at its own.
    from.send_to(&before(0x5005, &[7; 500]), host.own[0]).unwrap();
    until("it is unknown", || host.handle.counters().host.unknown_spi == 1);
    from.send_to(&before(0x5005, &[7; 500]), host.address).unwrap();
    until("it goes on", || host.handle.counters().host.relayed == 1);
}

#[test]
fn what_comes_by_way_of_another_host_is_taken_out_once() {
    let mut alone = Alone::new(CIPHER);
    let guest = alone.room.run(|| UdpSocket::bind("10.9.0.1:7000").unwrap());
    guest.set_read_timeout(Some(PATIENCE)).unwrap();
    let peer = alone.peer.local_addr().unwrap();
    let from = "[100::1]:1798".parse().unwrap();
    let brought = Brought { spi: Spi::new(0x5005).unwrap(), relay: peer, from };
    let onward = Relay {
        spi: Spi::new(0x7007).unwrap(),
        from,
        to: peer,
        onward: Spi::new(0x8008).unwrap(),
        bytes_per_second: u64::MAX,
    };
    alone.host.handle.set_relays(&[onward], &[brought]);
    alone.host.handle.settle().unwrap();
    alone.give(&before(0x5005, &[0x40, 1, 2, 3, 4]));
    let mut received = None;
    until("QUIC is there", || {
        received = alone.host.inbox.datagrams.try_recv().ok();
        received.is_some()
    });
    let received = received.unwrap();
    assert_eq!((received.from, &received.bytes[..]), (from, &[0x40, 1, 2, 3, 4][..]));
    alone.give(&before(0x5005, &sealed(1, &udp_frame(b"by the way"))));
    let mut bytes = [0; 100];
    let length = guest.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"by the way");
    // Neither twice, nor on to somebody else.
    alone.give(&before(0x5005, &before(0x5005, &[0x40, 1, 2, 3, 4])));
    alone.give(&before(0x5005, &before(0x7007, &[7; 100])));
    until("they are unknown", || alone.host.handle.counters().host.unknown_spi == 2);
    assert_eq!(alone.host.handle.counters().host.relayed, 0);
}

#[test]
fn what_goes_by_way_of_another_host_has_its_number_before_it() {
    let alone = Alone::new(CIPHER);
    let via = Via { relay: alone.peer.local_addr().unwrap(), spi: Spi::new(0x9009).unwrap() };
    let path = Path { via: Some(via), ..path("[100::1]:1798".parse().unwrap(), LARGEST) };
    alone.host.handle.set_path(PEER, path);
    alone.host.handle.settle().unwrap();
    say(&alone, "by the way");
    let datagram = alone.receive();
    let (number, inner) = datagram.split_first_chunk::<4>().unwrap();
    assert_eq!(u32::from_be_bytes(*number), 0x9009);
    assert_eq!(&opened(OUT, inner)[42..], b"by the way");
}

#[test]
fn quic_goes_to_the_control_side() {
    let mut alone = Alone::new(CIPHER);
    let datagram = [0x40, 1, 2, 3];
    alone.give(&datagram);
    let mut received = None;
    until("it is there", || {
        received = alone.host.inbox.datagrams.try_recv().ok();
        received.is_some()
    });
    let received = received.unwrap();
    assert_eq!(received.bytes, datagram);
    assert_eq!(received.from, alone.peer.local_addr().unwrap());
    assert_eq!(received.to, Some("127.0.0.1".parse().unwrap()));
    alone.host.inbox.socket.send_to(&[0x41], received.from).unwrap();
    assert_eq!(alone.receive(), [0x41]);
}

#[test]
fn a_peer_at_another_address_is_told() {
    let mut alone = Alone::new(CIPHER);
    let other = alone.room.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    other.send_to(&sealed(1, &udp_frame(b"moved")), alone.host.address).unwrap();
    let from = alone.host.event(|event| {
        let Event::Roamed { peer: PEER, from } = event else { return None };
        Some(*from)
    });
    assert_eq!(from, other.local_addr().unwrap());
    alone.host.handle.set_path(PEER, path(from, LARGEST));
    alone.host.handle.settle().unwrap();
    say(&alone, "there you are");
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(other.recv(&mut [0; 2_000]).unwrap() > 0);
}
