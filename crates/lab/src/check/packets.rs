//! Frames, read and written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, ArpPacket, Icmpv6Header, Icmpv6Type, IpFragOffset, IpNumber, Ipv4Header,
    Ipv6FragmentHeader, Ipv6Header, LinkSlice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
};
use viaduct_types::MacAddr;

use crate::sentence::Wrap;

/// What tells our packets from all others.
pub(super) type Token = [u8; 16];

pub(super) const BROADCAST: MacAddr = MacAddr([0xff; 6]);
/// All nodes of the link (RFC 4291, section 2.7.1).
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
/// Free for local experiments (IEEE 802).
const EXPERIMENTAL: u16 = 0x88b5;

// RFC 4861, section 4.
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;
const PREFIX_INFORMATION: u8 = 3;
/// An option for experiments (RFC 4727), which everybody passes over.
const EXPERIMENTAL_OPTION: u8 = 253;

/// A new one.
pub(super) fn token() -> std::io::Result<Token> {
    let mut token = [0; 16];
    rustix::rand::getrandom(&mut token, rustix::rand::GetRandomFlags::empty())?;
    Ok(token)
}

/// A packet above Ethernet.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    kind: u16,
    bytes: Vec<u8>,
}

/// The source MAC address of a frame and who it says it is from: the IP sender, or the one that ARP tells.
pub(super) fn sender(frame: &[u8]) -> Option<(MacAddr, IpAddr)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let address = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => ip.header().source_addr().into(),
        NetSlice::Ipv6(ip) => ip.header().source_addr().into(),
        NetSlice::Arp(arp) => v4(arp.sender_protocol_addr())?.into(),
    };
    Some((source(&packet)?, address))
}

/// Who answers for the address, if the frame is such an answer: the MAC address it tells, and the one it comes from.
pub(super) fn answer_for(frame: &[u8], address: IpAddr) -> Option<(MacAddr, MacAddr)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let from = source(&packet)?;
    match packet.net.as_ref()? {
        NetSlice::Arp(arp) => {
            let is_answer =
                arp.operation() == ArpOperation::REPLY && v4(arp.sender_protocol_addr())? == address;
            is_answer.then_some((MacAddr(arp.sender_hw_addr().try_into().ok()?), from))
        }
        NetSlice::Ipv6(_) => {
            let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport else { return None };
            let (head, options) = icmp.payload().split_at_checked(16)?;
            let target = Ipv6Addr::from(<[u8; 16]>::try_from(head).ok()?);
            if icmp.type_u8() != NEIGHBOUR_ADVERTISEMENT || target != address {
                return None;
            }
            // Without the option, the frame's source has to do (RFC 4861, section 4.4).
            let told = option(options, TARGET_LINK_ADDRESS)
                .and_then(|mac| Some(MacAddr(mac.get(..6)?.try_into().ok()?)));
            Some((told.unwrap_or(from), from))
        }
        NetSlice::Ipv4(_) => None,
    }
}

/// Asks who has an address.
pub(super) fn question(mac: MacAddr, from: IpAddr, address: IpAddr) -> Option<Vec<u8>> {
    match (from, address) {
        (IpAddr::V4(from), IpAddr::V4(address)) => {
            let packet = arp(ArpOperation::REQUEST, (mac, from), (MacAddr([0; 6]), address), &[]);
            Some(packet.frame(mac, BROADCAST, Wrap::Plain))
        }
        (IpAddr::V6(from), IpAddr::V6(address)) => {
            let group = solicited_node(address);
            let packet = solicitation(from, group, address, Some(mac), None);
            Some(packet.frame(mac, multicast_mac(group), Wrap::Plain))
        }
        _ => None,
    }
}

/// A datagram and an echo request, each with the token.
pub(super) fn probes(from: IpAddr, to: IpAddr, port: u16, token: &Token) -> Vec<Packet> {
    // Three times, so that each of two fragments has a whole one.
    let payload = token.repeat(3);
    let (mut udp, mut echo) = (Vec::new(), Vec::new());
    // Writing into a Vec cannot fail, and the payload is short.
    let _ = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let ip = || PacketBuilder::ipv4(from.octets(), to.octets(), 64);
            ip().udp(4, port)
                .write(&mut udp, &payload)
                .and(ip().icmpv4_echo_request(4, 4).write(&mut echo, &payload))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let ip = || PacketBuilder::ipv6(from.octets(), to.octets(), 64);
            ip().udp(4, port)
                .write(&mut udp, &payload)
                .and(ip().icmpv6_echo_request(4, 4).write(&mut echo, &payload))
        }
        _ => return Vec::new(),
    };
    let kind = if from.is_ipv4() { IPV4 } else { IPV6 };
    [udp, echo].map(|bytes| Packet { kind, bytes }).to_vec()
}

/// Something that is neither ARP nor IP.
pub(super) fn stranger(token: &Token) -> Packet {
    Packet { kind: EXPERIMENTAL, bytes: token.repeat(3) }
}

/// Packets by which a machine says that it has an IPv4 address: to one neighbour, or to all.
pub(super) fn claims_v4(
    mac: MacAddr,
    address: Ipv4Addr,
    to: (MacAddr, Ipv4Addr),
    token: &Token,
) -> Vec<Packet> {
    vec![
        arp(ArpOperation::REPLY, (mac, address), to, token),
        arp(ArpOperation::REQUEST, (mac, address), to, token),
        arp(ArpOperation::REQUEST, (mac, address), (MacAddr([0; 6]), address), token),
        arp(ArpOperation::REPLY, (mac, address), (BROADCAST, address), token),
    ]
}

/// The same for an IPv6 address; `own` is the sender's own address.
pub(super) fn claims_v6(
    mac: MacAddr,
    own: Ipv6Addr,
    address: Ipv6Addr,
    to: Ipv6Addr,
    token: &Token,
) -> Vec<Packet> {
    vec![
        advertisement(own, to, address, mac, token),
        advertisement(address, to, address, mac, token),
        solicitation(address, to, own, Some(mac), Some(token)),
    ]
}

/// Asks whether somebody has the address, which the sender does not have yet (RFC 5227, section 2.1.1).
pub(super) fn probe_v4(mac: MacAddr, address: Ipv4Addr, token: &Token) -> Packet {
    arp(ArpOperation::REQUEST, (mac, Ipv4Addr::UNSPECIFIED), (MacAddr([0; 6]), address), token)
}

/// The same for an IPv6 address (RFC 4862, section 5.4.2).
pub(super) fn probe_v6(address: Ipv6Addr, token: &Token) -> Packet {
    solicitation(Ipv6Addr::UNSPECIFIED, solicited_node(address), address, None, Some(token))
}

/// DHCPOFFER (RFC 2131).
pub(super) fn dhcp_offer(server: Ipv4Addr, token: &Token) -> Packet {
    let mut offer = vec![0; 236];
    offer[..4].copy_from_slice(&[2, 1, 6, 0]);
    offer[20..24].copy_from_slice(&server.octets());
    offer.extend_from_slice(&[0x63, 0x82, 0x53, 0x63, 53, 1, 2, 54, 4]);
    offer.extend_from_slice(&server.octets());
    // An option for private use with the token.
    offer.extend_from_slice(&[224, 16]);
    offer.extend_from_slice(token);
    offer.push(255);
    let mut bytes = Vec::new();
    let _ = PacketBuilder::ipv4(server.octets(), [255; 4], 64).udp(67, 68).write(&mut bytes, &offer);
    Packet { kind: IPV4, bytes }
}

/// A DHCPv6 advertisement (RFC 9915) to all nodes.
pub(super) fn dhcpv6_advertisement(server: Ipv6Addr, token: &Token) -> Packet {
    let mut advertisement = vec![2, 0, 0, 1];
    // A server identifier that holds the token.
    advertisement.extend_from_slice(&[0, 2, 0, 16]);
    advertisement.extend_from_slice(token);
    let mut bytes = Vec::new();
    let ip = PacketBuilder::ipv6(server.octets(), ALL_NODES.octets(), 64);
    let _ = ip.udp(547, 546).write(&mut bytes, &advertisement);
    Packet { kind: IPV6, bytes }
}

/// A router advertisement with a prefix.
pub(super) fn router_advertisement(mac: MacAddr, router: Ipv6Addr, token: &Token) -> Packet {
    let mut payload = vec![0; 8];
    payload.extend_from_slice(&[
        PREFIX_INFORMATION,
        4,
        64,
        0xc0,
        0,
        0,
        0x0e,
        0x10,
        0,
        0,
        0x0e,
        0x10,
        0,
        0,
        0,
        0,
    ]);
    payload.extend_from_slice(&Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0).octets());
    payload.extend_from_slice(&link_option(SOURCE_LINK_ADDRESS, mac));
    payload.extend_from_slice(&token_option(token));
    icmpv6(router, ALL_NODES, ROUTER_ADVERTISEMENT, [64, 0, 0x07, 0x08], &payload)
}

/// The group of those who may have the address (RFC 4291, section 2.7.1).
pub(super) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let mut group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).octets();
    group[13..].copy_from_slice(&[a, b, c]);
    group.into()
}

/// The Ethernet address of an IPv6 multicast group (RFC 2464, section 7).
pub(super) fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

impl Packet {
    pub(super) fn frame(&self, from: MacAddr, to: MacAddr, wrap: Wrap) -> Vec<u8> {
        let mut frame = [to.0, from.0].concat();
        let mut tag = |kind: u16, id: u16| {
            frame.extend_from_slice(&kind.to_be_bytes());
            frame.extend_from_slice(&id.to_be_bytes());
        };
        match wrap {
            Wrap::Plain | Wrap::Fragments => {}
            Wrap::Vlan(id) => tag(VLAN, id),
            Wrap::DoubleTags => {
                tag(SERVICE_VLAN, 5);
                tag(VLAN, 6);
            }
        }
        frame.extend_from_slice(&self.kind.to_be_bytes());
        frame.extend_from_slice(&self.bytes);
        frame
    }

    /// Cut in two; what is no IP stays whole.
    pub(super) fn fragments(&self) -> Vec<Self> {
        const CUT: usize = 32;
        let fragment =
            |header: Vec<u8>, body: &[u8]| Self { kind: self.kind, bytes: [header, body.to_vec()].concat() };
        if self.kind == IPV4
            && let Ok((mut header, body)) = Ipv4Header::from_slice(&self.bytes)
            && body.len() > CUT
        {
            header.dont_fragment = false;
            header.identification = 4;
            let parts = [(&body[..CUT], 0, true), (&body[CUT..], CUT / 8, false)];
            return parts
                .map(|(part, offset, more)| {
                    header.more_fragments = more;
                    header.fragment_offset = fragment_offset(offset);
                    let _ = header.set_payload_len(part.len());
                    header.header_checksum = header.calc_header_checksum();
                    fragment(header.to_bytes().to_vec(), part)
                })
                .to_vec();
        }
        if self.kind == IPV6
            && let Ok((mut header, body)) = Ipv6Header::from_slice(&self.bytes)
            && body.len() > CUT
        {
            let next = header.next_header;
            header.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
            let parts = [(&body[..CUT], 0, true), (&body[CUT..], CUT / 8, false)];
            return parts
                .map(|(part, offset, more)| {
                    let extension =
                        Ipv6FragmentHeader::new(next, fragment_offset(offset), more, 4).to_bytes();
                    let _ = header.set_payload_length(extension.len() + part.len());
                    fragment([&header.to_bytes()[..], &extension].concat(), part)
                })
                .to_vec();
        }
        vec![self.clone()]
    }
}

fn fragment_offset(units: usize) -> IpFragOffset {
    u16::try_from(units).ok().and_then(|units| IpFragOffset::try_new(units).ok()).unwrap_or_default()
}

fn arp(
    operation: ArpOperation,
    from: (MacAddr, Ipv4Addr),
    to: (MacAddr, Ipv4Addr),
    padding: &[u8],
) -> Packet {
    let packet = ArpPacket::from(ArpEthIpv4Packet {
        operation,
        sender_mac: from.0.0,
        sender_ipv4: from.1.octets(),
        target_mac: to.0.0,
        target_ipv4: to.1.octets(),
    });
    // The padding up to Ethernet's least length may hold anything.
    Packet { kind: ARP, bytes: [&packet.to_bytes()[..], padding].concat() }
}

fn solicitation(
    from: Ipv6Addr,
    to: Ipv6Addr,
    target: Ipv6Addr,
    mac: Option<MacAddr>,
    token: Option<&Token>,
) -> Packet {
    let mut payload = target.octets().to_vec();
    payload.extend(mac.map(|mac| link_option(SOURCE_LINK_ADDRESS, mac)).into_iter().flatten());
    payload.extend(token.map(token_option).into_iter().flatten());
    icmpv6(from, to, NEIGHBOUR_SOLICITATION, [0; 4], &payload)
}

fn advertisement(from: Ipv6Addr, to: Ipv6Addr, target: Ipv6Addr, mac: MacAddr, token: &Token) -> Packet {
    let mut payload = target.octets().to_vec();
    payload.extend_from_slice(&link_option(TARGET_LINK_ADDRESS, mac));
    payload.extend_from_slice(&token_option(token));
    // Override, so that caches take it.
    icmpv6(from, to, NEIGHBOUR_ADVERTISEMENT, [0x20, 0, 0, 0], &payload)
}

fn icmpv6(from: Ipv6Addr, to: Ipv6Addr, kind: u8, head: [u8; 4], payload: &[u8]) -> Packet {
    let kind = Icmpv6Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: head };
    let mut bytes = Vec::new();
    if let Ok(icmp) = Icmpv6Header::with_checksum(kind, from.octets(), to.octets(), payload) {
        let ip = Ipv6Header {
            payload_length: u16::try_from(8 + payload.len()).unwrap_or_default(),
            next_header: IpNumber::IPV6_ICMP,
            // Neighbour discovery takes no packet that a router has passed on.
            hop_limit: 255,
            source: from.octets(),
            destination: to.octets(),
            ..Ipv6Header::default()
        };
        bytes = [&ip.to_bytes()[..], &icmp.to_bytes(), payload].concat();
    }
    Packet { kind: IPV6, bytes }
}

fn link_option(kind: u8, mac: MacAddr) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac.0;
    [kind, 1, a, b, c, d, e, f]
}

fn token_option(token: &Token) -> Vec<u8> {
    [&[EXPERIMENTAL_OPTION, 3, 0, 0, 0, 0, 0, 0][..], token].concat()
}

/// The data of the first option of that type (RFC 4861, section 4.6).
fn option(mut options: &[u8], kind: u8) -> Option<&[u8]> {
    loop {
        let [found, units, ..] = *options else { return None };
        let (option, rest) =
            options.split_at_checked(usize::from(units) * 8).filter(|(o, _)| !o.is_empty())?;
        if found == kind {
            return option.get(2..);
        }
        options = rest;
    }
}

fn source(packet: &SlicedPacket<'_>) -> Option<MacAddr> {
    let Some(LinkSlice::Ethernet2(ethernet)) = &packet.link else { return None };
    Some(MacAddr(ethernet.source()))
}

fn v4(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_fragment_has_a_whole_token() {
        let token = *b"sixteen bytes it";
        for (from, to) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            for packet in probes(ip(from), ip(to), 9, &token) {
                let fragments = packet.fragments();
                assert_eq!(fragments.len(), 2);
                for fragment in fragments {
                    let frame = fragment.frame(MAC, BROADCAST, Wrap::Fragments);
                    assert!(frame.windows(16).any(|w| w == token));
                    assert_eq!(sender(&frame), Some((MAC, ip(from))));
                }
            }
        }
    }

    #[test]
    fn answers_are_understood() {
        let v4 = arp(
            ArpOperation::REPLY,
            (MAC, Ipv4Addr::new(10, 0, 0, 1)),
            (BROADCAST, Ipv4Addr::LOCALHOST),
            &[],
        );
        let frame = v4.frame(MacAddr([2; 6]), BROADCAST, Wrap::Plain);
        assert_eq!(answer_for(&frame, ip("10.0.0.1")), Some((MAC, MacAddr([2; 6]))));
        assert_eq!(answer_for(&frame, ip("10.0.0.2")), None);
        let target = "fd00::1".parse().unwrap();
        let v6 = advertisement(target, ALL_NODES, target, MAC, &[0; 16]).frame(MAC, BROADCAST, Wrap::Plain);
        assert_eq!(answer_for(&v6, target.into()), Some((MAC, MAC)));
    }

    #[test]
    fn tags_stand_before_the_type() {
        let frame = stranger(&[7; 16]).frame(MAC, BROADCAST, Wrap::DoubleTags);
        assert_eq!(frame[12..22], [0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x88, 0xb5]);
        let frame = stranger(&[7; 16]).frame(MAC, BROADCAST, Wrap::Vlan(5));
        assert_eq!(frame[12..18], [0x81, 0, 0, 5, 0x88, 0xb5]);
    }
}
