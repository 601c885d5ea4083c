//! What two guests of two hosts have of each other, by both families, and by wires that lose and repeat.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use viaduct_vnet_proto::data::esp::Cipher;

use super::{
    pair::{PEER, Pair},
    world::{PATIENCE, PORT, until, vnet},
};

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
    const BYTES: usize = 8_000_000;
    let pair = Pair::simple();
    // What the first host took, and the second gave, to carry so many bytes.
    let carried = |what: &str, carry: &dyn Fn()| {
        let [a, b] = pair.counters();
        carry();
        let [after_a, after_b] = pair.counters();
        let frames = after_a.vnets[&vnet()].frames_out - a.vnets[&vnet()].frames_out;
        assert!(frames > BYTES as u64 / 1_432, "{what}: {frames}");
        // With one call for each frame these were the same.
        for (call, before, after) in [
            ("tap_reads", a.host.tap_reads, after_a.host.tap_reads),
            ("send_calls", a.host.send_calls, after_a.host.send_calls),
            ("tap_writes", b.host.tap_writes, after_b.host.tap_writes),
        ] {
            let calls = after - before;
            assert!(calls > 0 && calls < frames / 4, "{what}: {calls} {call} for {frames} frames");
        }
    };
    carried("TCP over IPv4", &|| pair.transfer("10.9.0.2", BYTES));
    carried("TCP over IPv6", &|| pair.transfer("fd09::2", BYTES));
    let has_uso = linux() >= (6, 2);
    assert_eq!(pair.hosts[0].handle.cuts_udp(vnet()), Some(has_uso));
    if !has_uso {
        return;
    }
    for (what, network) in [("UDP over IPv4", "10.9.0."), ("UDP over IPv6", "fd09::")] {
        let (from, to) = pair.sockets(network);
        carried(what, &|| {
            // No more at once than the socket holds.
            for _ in 0..BYTES / (40 * 1_000) {
                send_numbered(&from, 40, 1_000);
                assert_eq!(received(&to, 40), (0..40).collect::<Vec<_>>(), "{what}");
            }
        });
    }
}

/// The version of the kernel.
fn linux() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
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
    let (from, to) = pair.sockets("10.9.0.");
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
    /// Sockets of both guests, whose addresses begin so, the first connected to the second.
    fn sockets(&self, network: &str) -> (UdpSocket, UdpSocket) {
        let [first, second] = [1, 2].map(|guest| {
            let address: IpAddr = format!("{network}{guest}").parse().unwrap();
            SocketAddr::new(address, 6_000)
        });
        let to = self.guests[1].run(move || UdpSocket::bind(second).unwrap());
        to.set_read_timeout(Some(PATIENCE)).unwrap();
        let from = self.guests[0].run(move || {
            let socket = UdpSocket::bind(first).unwrap();
            socket.connect(second).unwrap();
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
    let (from, to) = pair.sockets("10.9.0.");
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
    let (from, to) = pair.sockets("10.9.0.");
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
