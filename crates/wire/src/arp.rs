//! ARP for IPv4 on Ethernet (RFC 826), as far as looking for an address's holder, and telling it, need it.

use std::net::Ipv4Addr;

use viaduct_types::MacAddr;

use crate::{BROADCAST, ethernet, ethernet_header};

/// The Ethernet type.
pub const ETHERTYPE: u16 = 0x0806;
/// That of its reverse (RFC 903).
const RARP: u16 = 0x8035;

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

/// Which address a frame's sender says that it has, or is about to take, and the sender's MAC.
pub fn claim(frame: &[u8]) -> Option<(Ipv4Addr, MacAddr)> {
    let Arp { sender_mac, sender, target } = parse(frame)?;
    Some((if sender.is_unspecified() { target } else { sender }, sender_mac))
}

/// The frame that asks whether somebody has an address, without claiming it (RFC 5227, section 2.1.1).
pub fn probe(from: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    to_all(from, Ipv4Addr::UNSPECIFIED, address, Operation::Request)
}

/// The frames that say who has an address (RFC 5227, section 1.1), in both forms: some systems take note only of replies
/// (section 3).
pub fn announcements(from: MacAddr, address: Ipv4Addr) -> [Vec<u8>; 2] {
    [Operation::Request, Operation::Reply].map(|operation| to_all(from, address, address, operation))
}

/// The frame that says where a MAC is, whatever addresses it has: it asks for its own by RARP (RFC 903), as hypervisors do for a
/// machine that has arrived.
pub fn arrival(from: MacAddr) -> Vec<u8> {
    to_all(from, Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED, Operation::Reverse)
}

#[derive(Clone, Copy)]
enum Operation {
    Request,
    Reply,
    Reverse,
}

fn to_all(from: MacAddr, sender: Ipv4Addr, target: Ipv4Addr, operation: Operation) -> Vec<u8> {
    let (kind, number, target_mac) = match operation {
        Operation::Request => (ETHERTYPE, 1, MacAddr([0; 6])),
        Operation::Reply => (ETHERTYPE, 2, BROADCAST),
        Operation::Reverse => (RARP, 3, from),
    };
    let mut frame = ethernet_header(BROADCAST, from, kind).to_vec();
    frame.extend(KIND);
    frame.extend([0, number]);
    frame.extend(from.0);
    frame.extend(sender.octets());
    frame.extend(target_mac.0);
    frame.extend(target.octets());
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
        // Who asks so is about to take it.
        assert_eq!(claim(&frame), Some((address, mac)));
    }

    #[test]
    fn an_arrival_asks_for_its_own_address() {
        let frame = arrival(MacAddr([2, 0, 0, 0, 1, 0]));
        assert_eq!(frame[..14], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 1, 0, 0x80, 0x35]);
        assert_eq!(
            frame[14..],
            [0, 1, 8, 0, 6, 4, 0, 3, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0]
        );
        assert_eq!(parse(&frame), None);
    }

    #[test]
    fn an_announcement_tells_the_address_twice() {
        let mac = MacAddr([2, 0, 0, 0, 1, 0]);
        let address = Ipv4Addr::new(192, 0, 2, 7);
        for (frame, operation) in announcements(mac, address).iter().zip([1, 2]) {
            assert_eq!(frame.len(), 42);
            assert_eq!(frame[..14], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 1, 0, 8, 6]);
            assert_eq!(frame[20..22], [0, operation]);
            assert_eq!(parse(frame), Some(Arp { sender_mac: mac, sender: address, target: address }));
            assert_eq!(claim(frame), Some((address, mac)));
        }
    }

    #[test]
    fn what_is_cut_short_is_none() {
        let frame = probe(MacAddr([2, 0, 0, 0, 1, 0]), Ipv4Addr::new(192, 0, 2, 7));
        for length in 0..frame.len() {
            assert_eq!(parse(&frame[..length]), None);
        }
    }
}
