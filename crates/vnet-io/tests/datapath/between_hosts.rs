//! Guest, bridge, tap, host, and the same at the other side.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use viaduct_vnet_io::datapath::{Association, Counters, Direction, Lane};
use viaduct_vnet_proto::data::{
    PeerId, Port,
    esp::{Cipher, largest_frame},
    receiver,
};

use super::world::{Host, LARGEST, PATIENCE, PORT, Room, association, mac, until};

const PEER: PeerId = PeerId(1);

/// Two hosts with a guest each.
pub(crate) struct Pair {
    pub(crate) hosts: [Host; 2],
    pub(crate) rooms: [Room; 2],
    pub(crate) guests: [Room; 2],
}

impl Pair {
    /// Over IPv4 or IPv6 between the hosts.
    pub(crate) fn new(underlay: [&str; 2], cipher: Cipher, workers: [usize; 2], has_own: [bool; 2]) -> Self {
        let datagram = if underlay[0].contains(':') { LARGEST - 20 } else { LARGEST };
        let mtu = largest_frame(cipher, usize::from(datagram)).unwrap() - 14;
        let (rooms, guests) = ([Room::new(), Room::new()], [Room::new(), Room::new()]);
        rooms[0].link("u0", &rooms[1], "u0");
        let addresses = underlay.map(|address| address.parse::<IpAddr>().unwrap());
        for (room, address) in rooms.iter().zip(addresses) {
            let (length, nodad) = if address.is_ipv4() { (24, "") } else { (64, " nodad") };
            room.ip(&format!("addr add {address}/{length} dev u0{nodad}"));
        }
        let hosts =
            [0, 1].map(|side| Host::start(&rooms[side], addresses[side], workers[side], has_own[side]));
        for side in 0..2 {
            let other = 1 - side;
            let (room, guest, host) = (&rooms[side], &guests[side], &hosts[side]);
            host.reach(PEER, hosts[other].address, &hosts[other].own);
            let number = |side: usize| u8::try_from(side + 1).unwrap();
            host.forward(
                &[(mac(number(side)), Port::Local), (mac(number(other)), Port::Peer(PEER))],
                &[PEER],
            );
            for worker in 0..workers[side] {
                let spi = 0x1000 + u32::try_from(16 * side + worker).unwrap();
                host.handle.install(association(cipher, spi, PEER, Direction::Outbound, worker)).unwrap();
                let own = Association {
                    lane: Lane::Own,
                    ..association(cipher, spi + 0x100, PEER, Direction::Outbound, worker)
                };
                host.handle.install(own).unwrap();
            }
            for worker in 0..workers[other] {
                let spi = 0x1000 + u32::try_from(16 * other + worker).unwrap();
                // By the first ports, the first worker receives for all.
                let first = Association {
                    queue: receiver(worker, workers[side]),
                    ..association(cipher, spi, PEER, Direction::Inbound, 0)
                };
                host.handle.install(first).unwrap();
                let at = receiver(worker, hosts[side].own.len());
                let own = Association {
                    lane: Lane::Own,
                    ..association(cipher, spi + 0x100, PEER, Direction::Inbound, at)
                };
                host.handle.install(own).unwrap();
            }
            host.handle.settle().unwrap();
            room.ip("link add br0 type bridge");
            room.ip("link set br0 addrgenmode none up");
            room.link("g0", guest, "eth0");
            room.ip("link set g0 master br0");
            room.ip(&format!("link set vn0 mtu {mtu} addrgenmode none master br0 up"));
            guest.ip(&format!("link set eth0 address {} mtu {mtu}", mac(number(side))));
            guest.ip(&format!("addr add 10.9.0.{}/24 dev eth0", number(side)));
            guest.ip(&format!("addr add fd09::{}/64 dev eth0 nodad", number(side)));
        }
        Self { hosts, rooms, guests }
    }

    pub(crate) fn simple() -> Self {
        Self::new(["192.0.2.1", "192.0.2.2"], Cipher::Aes128Gcm, [1, 1], [false, false])
    }

    /// How many datagrams of each host the other did not get.
    pub(crate) fn lost(&self) -> [u64; 2] {
        let [a, b] = self.counters().map(|counters| counters.peers[&PEER]);
        [
            a.datagrams_out - b.datagrams_in.min(a.datagrams_out),
            b.datagrams_out - a.datagrams_in.min(b.datagrams_out),
        ]
    }

    pub(crate) fn counters(&self) -> [Counters; 2] {
        [self.hosts[0].handle.counters(), self.hosts[1].handle.counters()]
    }

    /// The second guest takes a connection and gets so many bytes; each has to be right.
    pub(crate) fn transfer(&self, address: &'static str, length: usize) {
        let [client, server] = &self.guests;
        let listener = server.run(move || TcpListener::bind((address, 5_000)).unwrap());
        let received = server.start(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let sent = client.run(move || {
            let bytes: Vec<u8> = (0..=250).cycle().take(length).collect();
            let mut stream = TcpStream::connect((address, 5_000)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&bytes).unwrap();
            bytes
        });
        assert!(received.recv().unwrap() == sent, "the bytes are others");
    }
}

#[test]
fn guests_reach_each_other_over_ipv4_and_ipv6() {
    for (underlay, cipher) in [
        (["192.0.2.1", "192.0.2.2"], Cipher::Aes128Gcm),
        (["2001:db8::1", "2001:db8::2"], Cipher::ChaCha20Poly1305),
        (["192.0.2.1", "192.0.2.2"], Cipher::Aes256Gmac),
    ] {
        let pair = Pair::new(underlay, cipher, [1, 1], [true, true]);
        let addresses = ["10.9.0.2", "fd09::2"];
        for address in addresses {
            pair.guests[0].command(&format!("ping -q -c 2 -i 0.01 -W 5 {address}"));
        }
        // Before that, something may have been said while a tap was down or a neighbour unknown.
        let lost = pair.lost();
        for address in addresses {
            // Less than what waits for a worker that the machine does not let run.
            pair.transfer(address, 1_000_000);
        }
        until("nothing more is lost", || pair.lost() == lost);
    }
}

#[test]
fn super_frames_stay_together() {
    let pair = Pair::simple();
    pair.transfer("10.9.0.2", 8_000_000);
    let [a, b] = pair.counters();
    let frames = a.vnets.values().next().unwrap().frames_out;
    assert!(frames > 8_000_000 / 1_432, "{frames}");
    // With one call for each frame these were the same.
    assert!(a.host.send_calls < frames / 4, "{} of {frames}", a.host.send_calls);
    assert!(b.host.tap_writes < frames / 4, "{} of {frames}", b.host.tap_writes);
}

#[test]
fn hosts_may_have_different_numbers_of_workers_and_ports() {
    for (workers, has_own) in [
        ([2, 2], [true, true]),
        ([2, 2], [false, true]),
        ([3, 1], [true, true]),
        ([3, 2], [true, true]),
        ([2, 2], [false, false]),
        ([1, 1], [true, true]),
    ] {
        let pair = Pair::new(["192.0.2.1", "192.0.2.2"], Cipher::Aes128Gcm, workers, has_own);
        // The first host may have sent something before the second had its keys.
        let dropped = |pair: &Pair| {
            let hosts = pair.counters().map(|counters| counters.host);
            hosts.map(|host| host.unknown_spi + host.replayed + host.forged)
        };
        let before = dropped(&pair);
        for _ in 0..3 {
            pair.transfer("10.9.0.2", 1_000_000);
            pair.transfer("fd09::2", 1_000_000);
        }
        assert_eq!(dropped(&pair), before);
    }
}

#[test]
fn a_wire_without_offloads_carries_the_same() {
    let pair = Pair::simple();
    for room in &pair.rooms {
        room.command("ethtool -K u0 tso off gso off gro off tx-udp-segmentation off");
    }
    pair.transfer("10.9.0.2", 4_000_000);
    pair.transfer("fd09::2", 4_000_000);
}

#[test]
fn packets_without_offloads_in_the_guest_are_carried() {
    let pair = Pair::simple();
    for guest in &pair.guests {
        guest.command("ethtool -K eth0 tx off rx off tso off gso off gro off");
    }
    pair.transfer("10.9.0.2", 1_000_000);
    pair.transfer("fd09::2", 1_000_000);
}

#[test]
fn datagrams_up_to_the_mtu_arrive_whole() {
    let pair = Pair::simple();
    let (from, to) = pair.sockets();
    let mut bytes = vec![0; 2_000];
    for length in [0, 1, 2, 3, 1_000, 1_432 - 28] {
        from.send(&vec![7; length]).unwrap();
        assert_eq!(to.recv(&mut bytes).unwrap(), length);
    }
    // In fragments that the guest made.
    from.send(&[9; 5_000]).unwrap();
    bytes.resize(6_000, 0);
    assert_eq!(to.recv(&mut bytes).unwrap(), 5_000);
}

impl Pair {
    /// Sockets of both guests, the first connected to the second.
    fn sockets(&self) -> (UdpSocket, UdpSocket) {
        let to = self.guests[1].run(|| UdpSocket::bind("10.9.0.2:6000").unwrap());
        to.set_read_timeout(Some(PATIENCE)).unwrap();
        let from = self.guests[0].run(|| {
            let socket = UdpSocket::bind("10.9.0.1:6000").unwrap();
            socket.connect("10.9.0.2:6000").unwrap();
            socket
        });
        (from, to)
    }

    /// Puts a wire between the hosts that does this with each datagram to the second: how often it is passed on.
    fn wire(&self, copies: impl Fn(usize) -> usize + Send + 'static) -> Wire {
        let wire = self.rooms[1].run(|| UdpSocket::bind(("192.0.2.2", PORT + 100)).unwrap());
        let (at, to): (SocketAddr, SocketAddr) = (wire.local_addr().unwrap(), self.hosts[1].address);
        wire.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stopped);
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 2_000];
            let mut count = 0;
            while !is_stopped.load(Ordering::Relaxed) {
                let Ok((length, _)) = wire.recv_from(&mut bytes) else { continue };
                for _ in 0..copies(count) {
                    wire.send_to(&bytes[..length], to).unwrap();
                }
                count += 1;
            }
        });
        self.hosts[0].reach(PEER, at, &[]);
        self.hosts[0].handle.settle().unwrap();
        Wire { stopped, thread: Some(thread) }
    }
}

struct Wire {
    stopped: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends numbered datagrams as one super-frame.
fn send_numbered(socket: &UdpSocket, count: u32, length: usize) {
    use std::os::fd::AsRawFd;
    const UDP_SEGMENT: libc::c_int = 103;
    let size = libc::c_int::try_from(length).unwrap();
    let size_length = libc::socklen_t::try_from(size_of_val(&size)).unwrap();
    // SAFETY: the option is a c_int, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            UDP_SEGMENT,
            (&raw const size).cast(),
            size_length,
        )
    };
    assert_eq!(result, 0);
    let bytes: Vec<u8> =
        (0..count).flat_map(|number| [&number.to_be_bytes()[..], &vec![0; length - 4]].concat()).collect();
    socket.send(&bytes).unwrap();
}

fn received(socket: &UdpSocket, count: usize) -> Vec<u32> {
    let mut bytes = [0; 2_000];
    (0..count)
        .map(|_| {
            socket.recv(&mut bytes).unwrap();
            u32::from_be_bytes(*bytes.first_chunk().unwrap())
        })
        .collect()
}

#[test]
fn one_lost_datagram_loses_one_frame() {
    let pair = Pair::simple();
    let (from, to) = pair.sockets();
    // The guests know each other.
    from.send(&[1; 4]).unwrap();
    received(&to, 1);
    let lost = pair.lost();
    let _wire = pair.wire(|count| usize::from(count != 17));
    send_numbered(&from, 40, 500);
    let numbers: BTreeSet<u32> = received(&to, 39).into_iter().collect();
    let missing: Vec<u32> = (0..40).filter(|number| !numbers.contains(number)).collect();
    assert_eq!(missing.len(), 1, "{missing:?}");
    until("one more is lost", || pair.lost() == [lost[0] + 1, lost[1]]);
}

#[test]
fn datagrams_that_come_twice_are_delivered_once() {
    let pair = Pair::simple();
    let (from, to) = pair.sockets();
    from.send(&[1; 4]).unwrap();
    received(&to, 1);
    let _wire = pair.wire(|_| 3);
    send_numbered(&from, 40, 500);
    assert_eq!(received(&to, 40), (0..40).collect::<Vec<_>>());
    until("the others are dropped", || pair.counters()[1].host.replayed >= 80);
    to.set_nonblocking(true).unwrap();
    assert!(to.recv(&mut [0; 2_000]).is_err());
}

#[test]
fn connections_live_on_a_wire_that_loses_datagrams() {
    let pair = Pair::simple();
    let _wire = pair.wire(|count| usize::from(count % 50 != 7));
    pair.transfer("10.9.0.2", 500_000);
}
