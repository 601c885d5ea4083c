//! IPv6 over Ethernet, without extension headers: whole frames.

use std::net::Ipv6Addr;

use viaduct_types::MacAddr;

use crate::{checksum, ethernet, ethernet_header};

/// The Ethernet type of IPv6.
pub const ETHERTYPE: u16 = 0x86dd;

const HEADER: usize = 40;

/// From where to where a packet goes, and what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The frame's source.
    pub from_mac: MacAddr,
    /// The frame's destination.
    pub to_mac: MacAddr,
    /// The packet's source.
    pub from: Ipv6Addr,
    /// The packet's destination.
    pub to: Ipv6Addr,
    /// IANA's number of what it carries.
    pub protocol: u8,
    /// How many routers it may still pass.
    pub hops: u8,
}

/// Reads a frame; none when it is not a whole packet. Extension headers are a protocol like any other: nothing that the
/// host answers comes behind one.
pub fn parse(frame: &[u8]) -> Option<(Header, &[u8])> {
    let (to_mac, from_mac, kind, packet) = ethernet(frame)?;
    let (header, rest) = packet.split_first_chunk::<HEADER>()?;
    if kind != ETHERTYPE || header[0] >> 4 != 6 {
        return None;
    }
    // What is behind the packet pads the frame.
    let payload = rest.get(..usize::from(u16::from_be_bytes([header[4], header[5]])))?;
    let address = |at: usize| header[at..].first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets));
    let header = Header {
        from_mac,
        to_mac,
        from: address(8)?,
        to: address(24)?,
        protocol: header[6],
        hops: header[7],
    };
    Some((header, payload))
}

/// The frame that carries a payload; none when the payload is longer than a packet can be.
pub fn build(header: &Header, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(payload.len()).ok()?;
    let mut ip = [0; HEADER];
    // Network control, as of everything that keeps a network going (RFC 4594, section 3.2).
    ip[..2].copy_from_slice(&[0x6c, 0]);
    ip[4..6].copy_from_slice(&length.to_be_bytes());
    ip[6] = header.protocol;
    ip[7] = header.hops;
    ip[8..24].copy_from_slice(&header.from.octets());
    ip[24..].copy_from_slice(&header.to.octets());
    Some([&ethernet_header(header.to_mac, header.from_mac, ETHERTYPE)[..], &ip, payload].concat())
}

/// The checksum of a payload with its pseudo header (RFC 8200, section 8.1); zero when the payload has the right one.
pub(crate) fn sum(header: &Header, payload: &[u8]) -> u16 {
    let mut pseudo = [0; HEADER];
    pseudo[..16].copy_from_slice(&header.from.octets());
    pseudo[16..32].copy_from_slice(&header.to.octets());
    pseudo[32..36].copy_from_slice(&u32::try_from(payload.len()).unwrap_or(0).to_be_bytes());
    pseudo[39] = header.protocol;
    checksum(&[&pseudo, payload])
}

/// The Ethernet address of a multicast group (RFC 2464, section 7).
pub fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// ff02::1, all nodes of the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        Header {
            from_mac: MacAddr([2, 0, 0, 0, 1, 0]),
            to_mac: multicast_mac(ALL_NODES),
            from: "fe80::1".parse().unwrap(),
            to: ALL_NODES,
            protocol: 58,
            hops: 255,
        }
    }

    proptest! {
        #[test]
        fn what_is_built_is_read(payload in prop::collection::vec(any::<u8>(), 0..600)) {
            let frame = build(&header(), &payload).unwrap();
            prop_assert_eq!(parse(&frame), Some((header(), &payload[..])));
            let padded = [&frame[..], &[0xee; 20]].concat();
            prop_assert_eq!(parse(&padded), Some((header(), &payload[..])));
            for length in 0..frame.len() {
                prop_assert_eq!(parse(&frame[..length]), None);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            parse(&bytes);
        }
    }

    #[test]
    fn a_payload_that_fits_no_packet_is_refused() {
        assert!(build(&header(), &vec![0; 65_535]).is_some());
        assert!(build(&header(), &vec![0; 65_536]).is_none());
    }
}
