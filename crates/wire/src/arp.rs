//! ARP for IPv4 on Ethernet (RFC 826), as far as looking for an address's holder needs it.

use std::net::Ipv4Addr;

use viaduct_types::MacAddr;

use crate::{BROADCAST, ethernet, ethernet_header};

/// The Ethernet type.
pub const ETHERTYPE: u16 = 0x0806;

/// Ethernet, IPv4, and the lengths of their addresses.
const KIND: [u8; 6] = [0, 1, 0x08, 0, 6, 4];

/// An ARP packet, request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Who says it.
    pub sender_mac: MacAddr,
    /// With which address; 0.0.0.0 in a probe.
    pub sender: Ipv4Addr,
    /// About which address.
    pub target: Ipv4Addr,
}

/// Reads a whole frame; none when it is no ARP for IPv4.
pub fn parse(frame: &[u8]) -> Option<Arp> {
    let (_, _, kind, packet) = ethernet(frame)?;
    if kind != ETHERTYPE {
        return None;
    }
    let packet = packet.strip_prefix(&KIND)?;
    // The operation does not matter: who has an address says so in requests as well as in replies.
    let (_operation, packet) = packet.split_first_chunk::<2>()?;
    let (sender_mac, packet) = packet.split_first_chunk::<6>()?;
    let (sender, packet) = packet.split_first_chunk::<4>()?;
    let (_target_mac, packet) = packet.split_first_chunk::<6>()?;
    let (target, _padding) = packet.split_first_chunk::<4>()?;
    Some(Arp {
        sender_mac: MacAddr(*sender_mac),
        sender: Ipv4Addr::from(*sender),
        target: Ipv4Addr::from(*target),
    })
}

/// The frame that asks whether somebody has an address, without claiming it (RFC 5227, section 2.1.1).
pub fn probe(from: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet_header(BROADCAST, from, ETHERTYPE).to_vec();
    frame.extend(KIND);
    frame.extend([0, 1]);
    frame.extend(from.0);
    frame.extend([0; 4]);
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_claims_nothing() {
        let mac = MacAddr([2, 0, 0, 0, 1, 0]);
        let address = Ipv4Addr::new(192, 0, 2, 7);
        let frame = probe(mac, address);
        assert_eq!(frame.len(), 42);
        let arp = Arp { sender_mac: mac, sender: Ipv4Addr::UNSPECIFIED, target: address };
        assert_eq!(parse(&frame), Some(arp));
    }

    #[test]
    fn what_is_cut_short_is_none() {
        let frame = probe(MacAddr([2, 0, 0, 0, 1, 0]), Ipv4Addr::new(192, 0, 2, 7));
        for length in 0..frame.len() {
            assert_eq!(parse(&frame[..length]), None);
        }
    }
}
