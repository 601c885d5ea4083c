//! What is on the wire, as others read it: Wireshark, and a few lines of Python written from the RFCs.

use std::net::UdpSocket;

use viaduct_vnet_proto::data::esp::Cipher;

use super::wireshark::wireshark;
use super::world::{Alone, IN, OUT, hex, key, mac, python};

const ESP: &str = include_str!("esp.py");

/// What the reference implementation says to these lines.
pub(crate) fn reference(lines: &[String]) -> Vec<Vec<u8>> {
    let output = python(ESP, (lines.join("\n") + "\n").as_bytes());
    let text = String::from_utf8(output).unwrap();
    text.lines().map(bytes_of).collect()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
}

/// Makes the guest send datagrams with these lengths to 10.9.0.2.
fn send(alone: &Alone, lengths: &'static [usize]) {
    alone.room.run(move || {
        let socket = UdpSocket::bind("10.9.0.1:7000").unwrap();
        for length in lengths {
            socket.send_to(&vec![b'v'; *length], "10.9.0.2:8000").unwrap();
        }
    });
}

/// An IPv4 UDP frame from the MAC address 2 to 1, with its checksum.
pub(crate) fn udp_frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = [&mac(1).0[..], &mac(2).0, &[8, 0, 0x45, 0]].concat();
    frame.extend(u16::try_from(28 + payload.len()).unwrap().to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 17, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1]);
    let check = !sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    let length = u16::try_from(8 + payload.len()).unwrap().to_be_bytes();
    // Without a checksum, as IPv4 allows.
    frame.extend([0x1f, 0x40, 0x1b, 0x58]);
    frame.extend(length);
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).unwrap()
}

#[test]
fn every_cipher_is_as_the_rfcs_say() {
    for cipher in Cipher::ALL {
        let alone = Alone::new(cipher);
        send(&alone, &[0, 1, 2, 3, 100, 1_300]);
        let datagrams: Vec<Vec<u8>> = (0..6).map(|_| alone.receive()).collect();
        let material = hex(&key(cipher, OUT));
        let open = |datagram: &Vec<u8>| format!("open {cipher} {material} 0 {}", hex(datagram));
        let frames = reference(&datagrams.iter().map(open).collect::<Vec<_>>());
        for (frame, length) in frames.iter().zip([0, 1, 2, 3, 100, 1_300]) {
            assert_eq!(frame.len(), 42 + length, "{cipher}");
            assert_eq!(frame[..12], [mac(2).0, mac(1).0].concat());
            assert_eq!(frame[42..], vec![b'v'; length]);
        }
        let is_readable = datagrams[5].windows(100).any(|window| window == [b'v'; 100]);
        assert_eq!(is_readable, !cipher.encrypts(), "{cipher}");

        // And the other way round, with numbers whose high half is not on the wire.
        let material = hex(&key(cipher, IN));
        let numbers = [1, 2, 0xffff_ffff_u64, 0x1_0000_0000, 0x1_0000_0001];
        let seal = |number: &u64| {
            let frame = udp_frame(&number.to_be_bytes());
            format!("seal {cipher} {material} {IN} {number} {}", hex(&frame))
        };
        let datagrams = reference(&numbers.iter().map(seal).collect::<Vec<_>>());
        let guest = alone.room.run(|| {
            let socket = UdpSocket::bind("10.9.0.1:7000").unwrap();
            socket.set_read_timeout(Some(super::world::PATIENCE)).unwrap();
            socket
        });
        for (datagram, number) in datagrams.iter().zip(numbers) {
            alone.give(datagram);
            let mut bytes = [0; 100];
            let (length, from) = guest.recv_from(&mut bytes).unwrap();
            assert_eq!(bytes[..length], number.to_be_bytes(), "{cipher}");
            assert_eq!(from.to_string(), "10.9.0.2:8000");
        }
    }
}

#[test]
fn wireshark_reads_the_frames() {
    for cipher in [Cipher::Aes128Gcm, Cipher::Aes256Gcm] {
        let alone = Alone::new(cipher);
        send(&alone, &[5, 700]);
        alone.room.run(|| {
            let socket = UdpSocket::bind("[fd09::1]:7000").unwrap();
            socket.send_to(b"six", "[fd09::2]:8000").unwrap();
        });
        let datagrams: Vec<Vec<u8>> = (0..3).map(|_| alone.receive()).collect();
        let fields =
            ["esp.spi", "esp.sequence", "eth.dst", "ip.dst", "ipv6.dst", "udp.dstport", "udp.length"];
        let text = wireshark(&datagrams, &[(OUT, key(cipher, OUT))], &fields);
        let lines: Vec<Vec<&str>> =
            text.iter().map(|line| line.iter().map(String::as_str).collect()).collect();
        assert_eq!(lines.len(), 3, "{text:?}");
        for (index, line) in lines.iter().enumerate() {
            assert_eq!(line[0], format!("0x{OUT:08x}"), "{text:?}");
            assert_eq!(line[1], (index + 1).to_string(), "{text:?}");
            // The outer frame's, and the inner one's.
            assert_eq!(line[2], "00:00:00:00:00:00,02:00:00:00:00:02", "{text:?}");
            assert_eq!(line[5], "4500,8000", "{text:?}");
        }
        assert_eq!([lines[0][3], lines[1][3]], ["127.0.0.1,10.9.0.2"; 2], "{text:?}");
        assert_eq!(lines[2][4], "fd09::2", "{text:?}");
        let inner = |line: &[&str]| line[6].split(',').nth(1).unwrap().to_owned();
        assert_eq!([inner(&lines[0]), inner(&lines[1]), inner(&lines[2])], ["13", "708", "11"], "{text:?}");
    }
}
