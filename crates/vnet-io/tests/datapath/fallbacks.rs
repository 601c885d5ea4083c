//! What the kernel or the path does not do.

use std::{
    net::{SocketAddr, UdpSocket},
    num::NonZeroUsize,
    os::fd::AsRawFd,
};

use viaduct_types::IfName;
use viaduct_vnet_io::datapath::{Datapath, Event, Options, Relay, StartError, Tap};
use viaduct_vnet_proto::data::{Spi, esp::Cipher};

use super::{
    pair::Pair,
    world::{Alone, Host, LARGEST, OUT, PATIENCE, PEER, PORT, Room, association, mac, path, until},
};

const CIPHER: Cipher = Cipher::Aes128Gcm;

#[test]
fn what_the_kernel_will_not_cut_is_sent_one_by_one() {
    let pair = Pair::simple();
    // Segmentation is refused where there are no checksums (EINVAL), as on routes whose device has none (EIO).
    set(&pair.hosts[0].inbox.socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1);
    pair.guests[0].command("ping -q -c 1 -W 5 10.9.0.2");
    let lost = pair.lost();
    pair.transfer("10.9.0.2", 1_000_000);
    let [a, b] = pair.counters();
    let peer = a.peers[&PEER];
    assert!(peer.segmentation_refused >= 1 && peer.unsegmented == 1, "{peer:?}");
    assert!(peer.sent_singly > 500, "{peer:?}");
    // What was refused was sent again, and nothing else.
    until("nothing is lost", || pair.lost() == lost);
    assert_eq!(b.host.replayed, 0);
    assert_eq!(b.peers[&PEER].segmentation_refused, 0, "the other direction is another path");
    // Another path may be better.
    pair.hosts[0].reach(PEER, pair.hosts[1].address, &[]);
    pair.hosts[0].handle.settle().unwrap();
    assert_eq!(pair.counters()[0].peers[&PEER].unsegmented, 0);
}

#[test]
fn a_device_that_takes_less_is_told() {
    let mut pair = Pair::simple();
    pair.rooms[0].ip("link set u0 mtu 1300");
    pair.rooms[1].ip("link set u0 mtu 1300");
    let ping = |pair: &Pair, size: usize| {
        let words = format!("ping -q -c 1 -W 1 -s {size} 10.9.0.2");
        pair.guests[0].run(move || {
            let words: Vec<&str> = words.split(' ').collect();
            std::process::Command::new(words[0]).args(&words[1..]).output().unwrap().status.success()
        })
    };
    assert!(ping(&pair, 500));
    assert!(!ping(&pair, 1_400));
    let remote = pair.hosts[1].address;
    pair.hosts[0].event(|event| {
        let Event::PathTooBig { remote: told, .. } = event else { return None };
        (*told == remote).then_some(())
    });
    assert!(pair.counters()[0].peers[&PEER].too_big >= 1);
    // The control side has found out what the path takes; the guests have not heard of it yet.
    for side in 0..2 {
        pair.hosts[side].handle.set_path(PEER, path(pair.hosts[1 - side].address, 1_272));
        pair.hosts[side].handle.settle().unwrap();
    }
    // What may not be cut is told, with what an answer by ICMP needs.
    assert!(!ping(&pair, 1_400));
    let (largest, head) = pair.hosts[0].event(|event| {
        let Event::TooBig { largest_frame, head, peer: PEER, .. } = event else { return None };
        Some((*largest_frame, head.clone()))
    });
    // 1,300 without 68 bytes of tunnel is less than IPv6 counts on, which is carried in any case, with a tag, too.
    assert_eq!(largest, 1_280 + 4 + 14);
    assert_eq!(head[30..34], [10, 9, 0, 2]);
}

#[test]
fn a_router_that_takes_less_is_heard() {
    let mut alone = Alone::new(CIPHER);
    // To 198.51.100.2 through another namespace, whose second link is narrow.
    let (router, far) = (Room::new(), Room::new());
    alone.room.link("u0", &router, "u0");
    router.link("u1", &far, "u0");
    alone.room.ip("addr add 192.0.2.1/24 dev u0");
    alone.room.ip("route add 198.51.100.0/24 via 192.0.2.9");
    router.ip("addr add 192.0.2.9/24 dev u0");
    router.ip("addr add 198.51.100.9/24 dev u1");
    router.ip("link set u1 mtu 1200");
    router.command("sysctl -q -w net.ipv4.ip_forward=1");
    far.ip("addr add 198.51.100.2/24 dev u0");
    // A second host in the room, for the first one's socket is at 127.0.0.1.
    let (datapath, mut inbox) = alone.room.run(|| {
        let socket = UdpSocket::bind(("192.0.2.1", PORT)).unwrap();
        Datapath::start(Options { workers: NonZeroUsize::MIN, socket }).unwrap()
    });
    let handle = datapath.handle();
    let tap = alone.room.run(|| Tap::make(&"vn1".parse::<IfName>().unwrap(), 1).unwrap());
    handle.add_vnet(super::world::vnet(), tap).unwrap();
    let remote = "198.51.100.2:1798".parse().unwrap();
    handle.set_path(PEER, path(remote, LARGEST));
    handle
        .install(association(CIPHER, OUT, PEER, viaduct_vnet_io::datapath::Direction::Outbound, 0))
        .unwrap();
    let frame = [&mac(2).0[..], &mac(1).0, &[8, 0], &[0; 1_400]].concat();
    handle.send(super::world::vnet(), Some(PEER), frame).unwrap();
    let mut told = None;
    until("the router's word is heard", || {
        if let Ok(Event::PathTooBig { remote, largest_packet }) = inbox.events.try_recv() {
            told = Some((remote, largest_packet));
        }
        told.is_some()
    });
    assert_eq!(told, Some((remote, Some(1_200))));
    // A word from the network is no reason to lose what comes next.
    let small = [&mac(2).0[..], &mac(1).0, &[8, 0], &[0; 100]].concat();
    for _ in 0..3 {
        handle.send(super::world::vnet(), Some(PEER), small.clone()).unwrap();
    }
    until("they are sent", || handle.counters().peers[&PEER].datagrams_out == 4);
    assert_eq!(handle.counters().peers[&PEER].send_failed, 0);
    let _ = alone.host.inbox.events.try_recv();
}

#[test]
fn a_tap_that_is_kept_is_gone_on_with_and_none_is_made() {
    let room = Room::new();
    let name: IfName = "vn5".parse().unwrap();
    let open = || {
        let name = name.clone();
        room.run(move || {
            let tap = Tap::open(&name, 2);
            tap.map(|tap| tap.name().to_string()).map_err(|error| error.source.raw_os_error())
        })
    };
    assert_eq!(open(), Err(Some(libc::ENODEV)));
    room.ip("tuntap add vn5 mode tap vnet_hdr multi_queue");
    assert_eq!(open().unwrap(), "vn5");
    assert_eq!(open().unwrap(), "vn5");
    // One that goes with somebody else's descriptors is as good as gone.
    room.ip("link del vn5");
    let other = name.clone();
    let theirs = room.run(move || Tap::make(&other, 1).unwrap());
    assert_eq!(open(), Err(Some(libc::ENODEV)));
    drop(theirs);
    assert_eq!(open(), Err(Some(libc::ENODEV)));
}

#[test]
fn a_device_of_another_kind_is_left_alone() {
    let room = Room::new();
    room.ip("link add vn6 type bridge");
    let error = room.run(|| {
        let error = Tap::open(&"vn6".parse::<IfName>().unwrap(), 1).unwrap_err();
        error.to_string()
    });
    assert!(error.contains("vn6") && error.contains("another kind"), "{error}");
}

#[test]
fn a_deleted_tap_is_told_and_keeps_nobody_busy() {
    let mut alone = Alone::new(CIPHER);
    alone.room.ip("link del vn0");
    alone.host.event(|event| {
        let Event::TapGone { .. } = event else { return None };
        Some(())
    });
    alone.host.handle.remove_vnet(super::world::vnet()).unwrap();
    alone.host.handle.settle().unwrap();
}

#[test]
fn own_sockets_are_none_or_one_for_each() {
    let socket = || UdpSocket::bind("127.0.0.1:0").unwrap();
    let workers = NonZeroUsize::new(3).unwrap();
    let (datapath, _inbox) = Datapath::start(Options { workers, socket: socket() }).unwrap();
    let give = |count| datapath.handle().set_own_sockets((0..count).map(|_| socket()).collect());
    for wrong in [1, 2, 4] {
        let given = give(wrong);
        assert!(
            matches!(given, Err(StartError::Sockets { workers: 3, sockets }) if sockets == wrong),
            "{given:?}"
        );
    }
    give(3).unwrap();
    give(0).unwrap();
}

/// Sets a number of a socket.
fn set(socket: &UdpSocket, level: libc::c_int, name: libc::c_int, value: libc::c_int) {
    let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap();
    // SAFETY: the option is a c_int, which lives until the call returns.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    assert_eq!(result, 0);
}

/// A run of datagrams of 500 bytes, which the kernel cuts, so that it arrives as one.
fn run_of(spi: u32, datagrams: usize) -> Vec<u8> {
    let mut one = vec![7; 500];
    one[..4].copy_from_slice(&spi.to_be_bytes());
    one.repeat(datagrams)
}

const SEGMENT: libc::c_int = 103;

#[test]
fn what_is_of_others_goes_one_by_one_too_where_the_kernel_does_not_cut() {
    let alone = Alone::new(CIPHER);
    let [from, to] = [0, 1].map(|_| alone.room.run(|| UdpSocket::bind("127.0.0.1:0").unwrap()));
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut relay = Relay {
        spi: Spi::new(0x5005).unwrap(),
        from: from.local_addr().unwrap(),
        to: to.local_addr().unwrap(),
        onward: Spi::new(0x6006).unwrap(),
        bytes_per_second: u64::MAX,
    };
    let handle = &alone.host.handle;
    handle.set_relays(&[relay], &[]);
    handle.settle().unwrap();
    set(&from, libc::SOL_UDP, SEGMENT, 500);
    set(&alone.host.inbox.socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1);
    let carry = |to: &UdpSocket| {
        from.send_to(&run_of(0x5005, 40), alone.host.address).unwrap();
        for _ in 0..40 {
            let mut bytes = [0; 600];
            assert_eq!(to.recv(&mut bytes).unwrap(), 500);
            assert_eq!(bytes[..5], [0, 0, 0x60, 6, 7]);
        }
        handle.settle().unwrap();
        handle.counters().relays[&relay.spi]
    };
    // It is refused once, and then known.
    let first = carry(&to);
    assert_eq!((first.segmentation_refused, first.sent_singly, first.send_failed), (1, 40, 0), "{first:?}");
    let second = carry(&to);
    assert_eq!((second.segmentation_refused, second.sent_singly), (1, 80), "{second:?}");
    assert!(second.unsegmented > 0, "{second:?}");
    // Another place may be better.
    let other = alone.room.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    relay.to = other.local_addr().unwrap();
    handle.set_relays(&[relay], &[]);
    handle.settle().unwrap();
    assert_eq!(handle.counters().relays[&relay.spi].unsegmented, 0);
    set(&alone.host.inbox.socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 0);
    let third = carry(&other);
    assert_eq!((third.segmentation_refused, third.sent_singly), (1, 80), "{third:?}");
}

#[test]
fn what_a_socket_cannot_hold_is_counted_also_when_it_is_closed() {
    const EACH: u64 = 3_000;
    let room = Room::new();
    let host = Host::start(&room, "127.0.0.1".parse().unwrap(), 1, false);
    let own = room.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    let at = own.local_addr().unwrap();
    let other = own.try_clone().unwrap();
    host.handle.set_own_sockets(vec![own]).unwrap();
    host.handle.settle().unwrap();
    assert_eq!(host.handle.counters().host.overflow, 0);
    let sender = room.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    // For nobody: each that is received counts as that.
    let burst = |to: SocketAddr| {
        (0..EACH).for_each(|_| {
            sender.send_to(&run_of(0x7007, 1), to).unwrap();
        });
    };
    let lost = |sent: u64, before: u64| {
        until("each has been received, or is counted as lost", || {
            let counters = host.handle.counters().host;
            counters.unknown_spi + counters.overflow == sent
        });
        let lost = host.handle.counters().host.overflow;
        assert!(lost > before, "{lost} of {sent}");
        lost
    };
    // As little as the kernel lets it be: two datagrams.
    set(&host.inbox.socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 1);
    burst(host.address);
    let first = lost(EACH, 0);
    set(&other, libc::SOL_SOCKET, libc::SO_RCVBUF, 1);
    burst(at);
    let both = lost(2 * EACH, first);
    host.handle.set_own_sockets(Vec::new()).unwrap();
    host.handle.settle().unwrap();
    let after = host.handle.counters().host;
    assert_eq!(after.overflow, both);
    assert!(after.drops().any(|(name, count)| name == "overflow" && count == both));
    assert!(after.drops().all(|(name, _)| name != "receive_calls"));
    // And it is closed: nothing here holds it any more.
    drop(other);
    room.run(move || UdpSocket::bind(at).unwrap());
}
