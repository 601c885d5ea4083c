//! Bytes from anyone: nothing gets through that the peer did not seal, and nothing twice.

use std::net::UdpSocket;

use viaduct_vnet_io::datapath::HostCounters;
use viaduct_vnet_proto::data::esp::Cipher;

use super::{
    wire::{reference, udp_frame},
    world::{Alone, IN, PATIENCE, hex, key, until},
};

/// Datagrams of the peer, with the numbers from 1; each frame carries its number.
fn sealed(cipher: Cipher, count: u64) -> Vec<Vec<u8>> {
    let material = hex(&key(cipher, IN));
    let seal = |number| {
        let frame = udp_frame(&u64::to_be_bytes(number));
        format!("seal {cipher} {material} {IN} {number} {}", hex(&frame))
    };
    reference(&(1..=count).map(seal).collect::<Vec<_>>())
}

fn guest(alone: &Alone) -> UdpSocket {
    let socket = alone.room.run(|| UdpSocket::bind("10.9.0.1:7000").unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn next(guest: &UdpSocket) -> u64 {
    let mut bytes = [0; 8];
    assert_eq!(guest.recv(&mut bytes).unwrap(), 8);
    u64::from_be_bytes(bytes)
}

/// How many datagrams were looked at and dropped.
fn dropped(counters: &HostCounters) -> u64 {
    counters.malformed
        + counters.unknown_spi
        + counters.replayed
        + counters.forged
        + counters.not_a_frame
        + counters.quic
}

/// Waits until so many were dropped; nothing was delivered meanwhile beyond what there was.
fn all_dropped(alone: &Alone, count: u64, delivered: u64) {
    until("everything is dropped", || dropped(&alone.host.handle.counters().host) >= count);
    assert_eq!(dropped(&alone.host.handle.counters().host), count);
    assert_eq!(alone.host.counters().frames_in, delivered);
}

#[test]
fn nothing_is_accepted_twice() {
    for cipher in [Cipher::Aes128Gcm, Cipher::Aes256Gmac] {
        let alone = Alone::new(cipher);
        let guest = guest(&alone);
        let datagrams = sealed(cipher, 50);
        // Out of order is no replay.
        for datagram in datagrams.iter().rev() {
            alone.give(datagram);
        }
        let mut numbers: Vec<u64> = (0..50).map(|_| next(&guest)).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=50).collect::<Vec<_>>());
        for datagram in &datagrams {
            alone.give(datagram);
        }
        all_dropped(&alone, 50, 50);
        assert_eq!(alone.host.handle.counters().host.replayed, 50);
    }
}

#[test]
fn changed_datagrams_are_dropped() {
    for cipher in [Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305, Cipher::Aes128Gmac] {
        let alone = Alone::new(cipher);
        let guest = guest(&alone);
        let genuine = sealed(cipher, 1).remove(0);
        let mut given = 0;
        for bit in 0..genuine.len() * 8 {
            let mut datagram = genuine.clone();
            datagram[bit / 8] ^= 1 << (bit % 8);
            alone.give(&datagram);
            given += 1;
            if given % 100 == 0 {
                // The socket's buffer is not what is tested.
                until("they are looked at", || dropped(&alone.host.handle.counters().host) == given);
            }
        }
        for length in 0..genuine.len() {
            alone.give(&genuine[..length]);
            given += 1;
            if given % 100 == 0 {
                until("they are looked at", || dropped(&alone.host.handle.counters().host) == given);
            }
        }
        for more in 1..20 {
            alone.give(&[&genuine[..], &vec![0; more]].concat());
            given += 1;
        }
        all_dropped(&alone, given, 0);
        alone.give(&genuine);
        assert_eq!(next(&guest), 1, "{cipher}");
    }
}

#[test]
fn garbage_in_runs_does_not_hide_what_is_genuine() {
    let alone = Alone::new(Cipher::Aes128Gcm);
    let guest = guest(&alone);
    let genuine = sealed(Cipher::Aes128Gcm, 6);
    let length = genuine[0].len();
    let mut random = Random(7);
    let mut given = 0;
    let mut genuine_left = genuine.iter();
    for segment in [length, 1, 7, 8, 9, 25, 26, 1_000, length, 60_000, length] {
        let count = (65_000 / segment).min(60);
        let mut run: Vec<u8> = (0..segment * count).map(|_| random.byte()).collect();
        let mut garbage = count as u64;
        if segment == length {
            // Between garbage, and as the last.
            for place in [count / 2, count - 1] {
                let genuine = genuine_left.next().unwrap();
                run[place * segment..(place + 1) * segment].copy_from_slice(genuine);
                garbage -= 1;
            }
        }
        alone.room.run({
            let (peer, to) = (alone.peer.try_clone().unwrap(), alone.host.address);
            move || send_run(&peer, to, &run, segment)
        });
        given += garbage;
        until("they are looked at", || dropped(&alone.host.handle.counters().host) >= given);
    }
    let numbers: Vec<u64> = (0..6).map(|_| next(&guest)).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    all_dropped(&alone, given, 6);
}

#[test]
fn a_forged_number_does_not_move_the_window() {
    let alone = Alone::new(Cipher::Aes256Gcm);
    let guest = guest(&alone);
    let datagrams = sealed(Cipher::Aes256Gcm, 3);
    alone.give(&datagrams[0]);
    assert_eq!(next(&guest), 1);
    let mut ahead = datagrams[1].clone();
    ahead[4..8].copy_from_slice(&0x7fff_ffff_u32.to_be_bytes());
    alone.give(&ahead);
    all_dropped(&alone, 1, 1);
    alone.give(&datagrams[1]);
    assert_eq!(next(&guest), 2);
}

/// Sends a run of datagrams with one call, cut by the kernel, as a peer of ours does.
fn send_run(socket: &UdpSocket, to: std::net::SocketAddr, run: &[u8], segment: usize) {
    use std::os::fd::AsRawFd;
    const UDP_SEGMENT: libc::c_int = 103;
    let size = libc::c_int::try_from(segment).unwrap();
    let length = libc::socklen_t::try_from(size_of_val(&size)).unwrap();
    // SAFETY: the option is a c_int, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, UDP_SEGMENT, (&raw const size).cast(), length)
    };
    assert_eq!(result, 0);
    assert_eq!(socket.send_to(run, to).unwrap(), run.len());
}

/// Xorshift: the same garbage each time.
struct Random(u64);

impl Random {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.to_le_bytes()[3]
    }
}
