//! Frames that the control side wants to see.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    addresses::Addresses,
    layout::{Packet, Version, is_tagged, network, word},
};

const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
const IGMP: u8 = 2;
const HOP_BY_HOP: u8 = 0;
const ICMP6: u8 = 58;

/// Why a frame is shown to the control side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// ARP or neighbour discovery asks for an address that the control side answers for. It goes nowhere else.
    Question,
    /// RARP: a guest arrived (what QEMU and Xen send after a move). It is carried as well, unless its port is muted.
    Arrival,
    /// ARP or neighbour discovery from a muted port, or from somebody of whom nobody here knows. It goes nowhere else.
    Muted,
    /// IGMP or MLD: somebody joins or leaves a group. It goes to those who want all groups' frames, so that nobody is silent
    /// because somebody at another host has spoken (RFC 4541, section 2.1.1).
    Membership,
    /// IGMP or MLD: a router asks who is in which group. It is carried as well.
    Query,
    /// Another host bridges the same segment ([`Segment`](super::Segment)). It goes nowhere else.
    Segment,
    /// Other ARP and neighbour discovery; shown of muted ports and unknown sources only, as [`Muted`](Self::Muted).
    Announcement,
}

impl Interest {
    /// Whether it shows that its sender is there.
    pub(super) fn tells_of_its_sender(self) -> bool {
        !matches!(self, Self::Membership | Self::Query | Self::Segment)
    }
}

/// What is of interest in a frame, when these addresses are answered for.
pub(super) fn interest(frame: &[u8], answered: &Addresses) -> Option<Interest> {
    // Addresses are those of who sends without a VLAN; in one, there is another network.
    let answered = (!is_tagged(frame)).then_some(answered);
    let answers = |address: &IpAddr| answered.is_some_and(|answered| answered.contains(address));
    match network(frame)? {
        (_, RARP) => Some(Interest::Arrival),
        (at, ARP) => Some(arp(frame.get(at..)?, answers)),
        _ => {
            let packet = Packet::of(frame)?;
            match (packet.version, packet.next) {
                (Version::V4, IGMP) => Some(match frame.get(packet.transport)? {
                    0x11 => Interest::Query,
                    _ => Interest::Membership,
                }),
                (Version::V6, ICMP6) => icmp6(frame.get(packet.transport..packet.end)?, answers),
                (Version::V6, HOP_BY_HOP) => {
                    // MLD has a router alert before it (RFC 3810, section 5).
                    let header = frame.get(packet.transport..packet.end)?;
                    let length = 8 + usize::from(*header.get(1)?) * 8;
                    let is_icmp = *header.first()? == ICMP6;
                    let kind = *header.get(length)?;
                    is_icmp.then(|| listening(kind)).flatten()
                }
                _ => None,
            }
        }
    }
}

/// RFC 2710, section 3.1, and RFC 3810, section 5.
fn listening(kind: u8) -> Option<Interest> {
    match kind {
        130 => Some(Interest::Query),
        131 | 132 | 143 => Some(Interest::Membership),
        _ => None,
    }
}

/// RFC 826, for Ethernet and IPv4.
fn arp(packet: &[u8], answers: impl Fn(&IpAddr) -> bool) -> Interest {
    let address = |at: usize| {
        let bytes: [u8; 4] = *packet.get(at..)?.first_chunk()?;
        Some(IpAddr::V4(Ipv4Addr::from(bytes)))
    };
    let is_request = word(packet, 6) == Some(1);
    match (address(14), address(24)) {
        (Some(sender), Some(target)) if is_request && sender != target && answers(&target) => {
            Interest::Question
        }
        _ => Interest::Announcement,
    }
}

/// RFC 4861, sections 4.3 and 4.4.
fn icmp6(message: &[u8], answers: impl Fn(&IpAddr) -> bool) -> Option<Interest> {
    match *message.first()? {
        kind @ (130..=132 | 143) => listening(kind),
        135 => {
            let target: [u8; 16] = *message.get(8..)?.first_chunk()?;
            let is_answered = answers(&IpAddr::V6(Ipv6Addr::from(target)));
            Some(if is_answered { Interest::Question } else { Interest::Announcement })
        }
        136 => Some(Interest::Announcement),
        _ => None,
    }
}
