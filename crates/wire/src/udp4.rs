//! UDP over IPv4 over Ethernet: whole frames.

use std::net::Ipv4Addr;

use viaduct_types::MacAddr;

use crate::{checksum, ethernet, ethernet_header};

/// The Ethernet type of IPv4.
pub const ETHERTYPE: u16 = 0x0800;
/// The longest payload that [`build`] takes.
pub const LARGEST: usize = 0xffff - IP - UDP;

const IP: usize = 20;
const UDP: usize = 8;
const PROTOCOL: u8 = 17;

/// From where to where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The frame's source.
    pub from_mac: MacAddr,
    /// The frame's destination.
    pub to_mac: MacAddr,
    /// The packet's source.
    pub from: Ipv4Addr,
    /// The packet's destination.
    pub to: Ipv4Addr,
    /// The datagram's source.
    pub from_port: u16,
    /// The datagram's destination.
    pub to_port: u16,
}

/// Reads a frame; none when it is not a whole UDP datagram over IPv4, or its IP header is damaged.
///
/// UDP's own checksum is not looked at: guests leave it to the network card, and where the card is the host's memory,
/// nobody has filled it in.
pub fn parse(frame: &[u8]) -> Option<(Way, &[u8])> {
    let (to_mac, from_mac, kind, packet) = ethernet(frame)?;
    let length = usize::from(packet.first()? & 0x0f) * 4;
    let header = packet.get(..length)?;
    if kind != ETHERTYPE || packet[0] >> 4 != 4 || header.len() < IP || checksum(&[header]) != 0 {
        return None;
    }
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    // More fragments, or not the first one.
    if word(6) & 0x3fff != 0 || header[9] != PROTOCOL {
        return None;
    }
    // What is behind the packet pads the frame.
    let datagram = packet.get(length..usize::from(word(2)))?;
    let (ports, rest) = datagram.split_first_chunk::<4>()?;
    let (size, _) = rest.split_first_chunk::<2>()?;
    let payload = datagram.get(UDP..usize::from(u16::from_be_bytes(*size)))?;
    let [a, b, c, d] = *ports;
    let way = Way {
        from_mac,
        to_mac,
        from: address(12),
        to: address(16),
        from_port: u16::from_be_bytes([a, b]),
        to_port: u16::from_be_bytes([c, d]),
    };
    Some((way, payload))
}

/// The frame that carries a payload, with both checksums. None when the payload is longer than [`LARGEST`].
pub fn build(way: &Way, payload: &[u8]) -> Option<Vec<u8>> {
    let size = u16::try_from(UDP + payload.len()).ok()?;
    let total = u16::try_from(IP + UDP + payload.len()).ok()?;
    let mut ip = [0; IP];
    ip[0] = 0x45;
    // Network control, as of everything that keeps a network going (RFC 4594, section 3.2).
    ip[1] = 0xc0;
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[8] = 64;
    ip[9] = PROTOCOL;
    ip[12..16].copy_from_slice(&way.from.octets());
    ip[16..].copy_from_slice(&way.to.octets());
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());

    let mut udp = [0; UDP];
    udp[..2].copy_from_slice(&way.from_port.to_be_bytes());
    udp[2..4].copy_from_slice(&way.to_port.to_be_bytes());
    udp[4..6].copy_from_slice(&size.to_be_bytes());
    let mut pseudo = [0; 12];
    pseudo[..8].copy_from_slice(&ip[12..]);
    pseudo[9] = PROTOCOL;
    pseudo[10..].copy_from_slice(&size.to_be_bytes());
    // Zero would mean that there is none (RFC 768).
    let sum = match checksum(&[&pseudo, &udp, payload]) {
        0 => 0xffff,
        sum => sum,
    };
    udp[6..].copy_from_slice(&sum.to_be_bytes());
    Some([&ethernet_header(way.to_mac, way.from_mac, ETHERTYPE)[..], &ip, &udp, payload].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WAY: Way = Way {
        from_mac: MacAddr([2, 0, 0, 0, 1, 0]),
        to_mac: MacAddr([2, 0, 0, 0, 2, 0]),
        from: Ipv4Addr::new(192, 0, 2, 1),
        to: Ipv4Addr::new(192, 0, 2, 2),
        from_port: 67,
        to_port: 68,
    };

    proptest! {
        #[test]
        fn what_is_built_is_read(payload in prop::collection::vec(any::<u8>(), 0..600)) {
            let frame = build(&WAY, &payload).unwrap();
            prop_assert_eq!(parse(&frame), Some((WAY, &payload[..])));
            // Padding is no payload.
            let padded = [&frame[..], &[0xee; 20]].concat();
            prop_assert_eq!(parse(&padded), Some((WAY, &payload[..])));
            // The datagram with its pseudo header sums to zero.
            let size = u16::try_from(UDP + payload.len()).unwrap().to_be_bytes();
            let pseudo = [&frame[26..34], &[0, PROTOCOL], &size].concat();
            prop_assert_eq!(checksum(&[&pseudo, &frame[34..]]), 0);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            parse(&bytes);
        }

        #[test]
        fn one_wrong_bit_in_the_ip_header_is_noticed(bit in 0usize..IP * 8) {
            let mut frame = build(&WAY, b"payload").unwrap();
            frame[14 + bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(parse(&frame), None);
        }
    }

    #[test]
    fn fragments_are_nothing() {
        let mut frame = build(&WAY, b"payload").unwrap();
        frame[20] = 0x20;
        frame[24..26].copy_from_slice(&[0, 0]);
        let sum = checksum(&[&frame[14..34]]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(parse(&frame), None);
    }

    #[test]
    fn a_payload_that_fits_no_packet_is_refused() {
        assert!(build(&WAY, &vec![0; LARGEST]).is_some());
        assert!(build(&WAY, &vec![0; LARGEST + 1]).is_none());
    }
}
