//! UDP over IPv6 over Ethernet: whole frames.

use std::net::Ipv6Addr;

use viaduct_types::MacAddr;

use crate::ip6::{self, Header};

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
    pub from: Ipv6Addr,
    /// The packet's destination.
    pub to: Ipv6Addr,
    /// The datagram's source.
    pub from_port: u16,
    /// The datagram's destination.
    pub to_port: u16,
}

impl Way {
    fn header(&self) -> Header {
        Header {
            from_mac: self.from_mac,
            to_mac: self.to_mac,
            from: self.from,
            to: self.to,
            protocol: PROTOCOL,
            hops: 64,
        }
    }
}

/// Reads a frame; none when it is not a whole UDP datagram over IPv6.
///
/// UDP's checksum is not looked at: guests leave it to the network card, and where the card is the host's memory,
/// nobody has filled it in.
pub fn parse(frame: &[u8]) -> Option<(Way, &[u8])> {
    let (header, datagram) = ip6::parse(frame)?;
    if header.protocol != PROTOCOL {
        return None;
    }
    let (udp, _) = datagram.split_first_chunk::<UDP>()?;
    let word = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    let payload = datagram.get(UDP..usize::from(word(4)))?;
    let way = Way {
        from_mac: header.from_mac,
        to_mac: header.to_mac,
        from: header.from,
        to: header.to,
        from_port: word(0),
        to_port: word(2),
    };
    Some((way, payload))
}

/// The frame that carries a payload; none when it is longer than a datagram can be.
pub fn build(way: &Way, payload: &[u8]) -> Option<Vec<u8>> {
    let size = u16::try_from(UDP + payload.len()).ok()?;
    let mut datagram = Vec::with_capacity(UDP + payload.len());
    datagram.extend(way.from_port.to_be_bytes());
    datagram.extend(way.to_port.to_be_bytes());
    datagram.extend(size.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    // Zero would mean that there is none, which IPv6 does not allow (RFC 8200, section 8.1).
    let sum = match ip6::sum(&way.header(), &datagram) {
        0 => 0xffff,
        sum => sum,
    };
    datagram[6..UDP].copy_from_slice(&sum.to_be_bytes());
    ip6::build(&way.header(), &datagram)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn way() -> Way {
        Way {
            from_mac: MacAddr([2, 0, 0, 0, 1, 0]),
            to_mac: MacAddr([2, 0, 0, 0, 2, 0]),
            from: "fe80::1".parse().unwrap(),
            to: "fe80::2".parse().unwrap(),
            from_port: 547,
            to_port: 546,
        }
    }

    proptest! {
        #[test]
        fn what_is_built_is_read(payload in prop::collection::vec(any::<u8>(), 0..600)) {
            let frame = build(&way(), &payload).unwrap();
            prop_assert_eq!(parse(&frame), Some((way(), &payload[..])));
            // The datagram with its pseudo header sums to zero.
            prop_assert_eq!(ip6::sum(&way().header(), &frame[54..]), 0);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            parse(&bytes);
        }
    }

    #[test]
    fn a_length_beyond_the_packet_is_refused() {
        let mut frame = build(&way(), b"payload").unwrap();
        frame[59] += 1;
        assert_eq!(parse(&frame), None);
        // Shorter than its own header.
        frame[58..60].copy_from_slice(&[0, 7]);
        assert_eq!(parse(&frame), None);
    }
}
