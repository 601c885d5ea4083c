//! What a host says to its own guests in the place of others: who has an address, and that a packet is too long.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use viaduct_types::MacAddr;

use crate::data::checksum;

const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// Ethernet, IPv4, and the lengths of their addresses (RFC 826).
const ARP_KIND: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// So much of a packet is quoted by ICMP at most: an answer is never longer than any path carries (RFC 4443, 2.4).
const QUOTED_V6: usize = 1280 - 40 - 8;
/// As much as is of use (RFC 1812, 4.3.2.3).
const QUOTED_V4: usize = 548;

/// The answer to a question of a guest, an ARP request (RFC 826) or a neighbour solicitation (RFC 4861, section 4.3), when `find`
/// knows the address.
pub fn answer(frame: &[u8], find: impl Fn(IpAddr) -> Option<MacAddr>) -> Option<Vec<u8>> {
    let (_, asker, kind, packet) = ethernet(frame)?;
    match kind {
        ARP => answer_arp(asker, packet, find),
        IPV6 => answer_solicitation(asker, packet, find),
        _ => None,
    }
}

fn answer_arp(from: MacAddr, packet: &[u8], find: impl Fn(IpAddr) -> Option<MacAddr>) -> Option<Vec<u8>> {
    let packet = packet.strip_prefix(&ARP_KIND)?.strip_prefix(&[0, 1])?;
    let (asker, packet) = packet.split_first_chunk::<6>()?;
    let (sender, packet) = packet.split_first_chunk::<4>()?;
    let (_, packet) = packet.split_first_chunk::<6>()?;
    let (target, _) = packet.split_first_chunk::<4>()?;
    // A guest that tells its own address asks nothing, and nobody asks for a group.
    if sender == target || MacAddr(*asker).is_multicast() {
        return None;
    }
    let holder = find(IpAddr::V4(Ipv4Addr::from(*target)))?;
    // Also where it asks for another.
    if holder.0 == *asker || holder == from {
        return None;
    }
    let mut frame = [&asker[..], &holder.0, &ARP, &ARP_KIND, &[0, 2]].concat();
    frame.extend(holder.0);
    frame.extend(target);
    frame.extend(asker);
    frame.extend(sender);
    Some(frame)
}

fn answer_solicitation(
    asker: MacAddr,
    packet: &[u8],
    find: impl Fn(IpAddr) -> Option<MacAddr>,
) -> Option<Vec<u8>> {
    let (header, rest) = packet.split_first_chunk::<40>()?;
    let message = rest.get(..usize::from(u16::from_be_bytes([header[4], header[5]])))?;
    // Neighbour discovery is never fragmented, has a hop limit of 255, and no code (RFC 4861, 7.1.1; RFC 6980).
    if header[0] >> 4 != 6
        || header[6] != ICMPV6
        || header[7] != 255
        || !message.starts_with(&[SOLICITATION, 0])
    {
        return None;
    }
    let target: [u8; 16] = message.get(8..24)?.try_into().ok()?;
    let source: [u8; 16] = header[8..24].try_into().ok()?;
    let holder = find(IpAddr::V6(Ipv6Addr::from(target)))?;
    if holder == asker {
        return None;
    }
    // Whoever looks for duplicates has no address yet and listens to all (RFC 4861, 7.2.4).
    let unspecified = source == [0; 16];
    let to = if unspecified { Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1) } else { Ipv6Addr::from(source) };
    let to_mac = if unspecified { MacAddr([0x33, 0x33, 0, 0, 0, 1]) } else { asker };
    let flags = if unspecified { 0x20 } else { 0x60 };
    let mut advertisement = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    advertisement.extend(target);
    advertisement.extend([2, 1]);
    advertisement.extend(holder.0);
    Some(icmpv6(to_mac, holder, Ipv6Addr::from(target), to, 255, advertisement))
}

/// The answer to a packet of a guest's that is longer than the `mtu` bytes which get through: "fragmentation needed" (RFC 1191,
/// section 4) or "packet too big" (RFC 4443, section 3.2). None when there is to be none.
pub fn too_big(frame: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let (to, from, kind, packet) = ethernet(frame)?;
    if from.is_multicast() {
        return None;
    }
    match kind {
        IPV4 => fragmentation_needed(to, from, packet, mtu),
        IPV6 => {
            let header = packet.first_chunk::<40>()?;
            let source = Ipv6Addr::from(<[u8; 16]>::try_from(&header[8..24]).ok()?);
            let destination = Ipv6Addr::from(<[u8; 16]>::try_from(&header[24..40]).ok()?);
            let is_error = header[6] == ICMPV6 && packet.get(40).is_some_and(|kind| *kind < 128);
            if source.is_unspecified() || source.is_multicast() || is_error {
                return None;
            }
            // No less than every link of IPv6 carries (RFC 8200, section 5).
            let mut message = vec![2, 0, 0, 0, 0, 0];
            message.extend(mtu.max(1280).to_be_bytes());
            message.extend(&packet[..packet.len().min(QUOTED_V6)]);
            let answering = if destination.is_multicast() { from.link_local() } else { destination };
            let answering_mac = if to.is_multicast() { from } else { to };
            Some(icmpv6(from, answering_mac, answering, source, 64, message))
        }
        _ => None,
    }
}

fn fragmentation_needed(to: MacAddr, from: MacAddr, packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    const DONT_FRAGMENT: u8 = 0x40;
    let header = packet.first_chunk::<20>()?;
    let length = usize::from(header[0] & 0xf) * 4;
    let (source, destination) = (&header[12..16], &header[16..20]);
    let is_error = header[9] == 1 && packet.get(length).is_some_and(|kind| ![0, 8].contains(kind));
    // Who did not ask for whole packets is not told, nor is anybody about groups (RFC 1122, 3.2.2).
    if header[0] >> 4 != 4
        || header[6] & DONT_FRAGMENT == 0
        || is_error
        || destination[0] >= 224
        || source == [0; 4]
    {
        return None;
    }
    let quoted = &packet[..packet.len().min(QUOTED_V4)];
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(quoted);
    checksum::put(&mut message, 2, 0);
    let total = u16::try_from(20 + message.len()).ok()?;
    let mut answer = vec![0x45, 0xc0];
    answer.extend(total.to_be_bytes());
    answer.extend([0, 0, 0, 0, 64, 1, 0, 0]);
    // In the name of whom the packet was for: it is the one way in which it is believed and passes guards.
    answer.extend(destination);
    answer.extend(source);
    checksum::put(&mut answer, 10, 0);
    answer.extend(message);
    Some([&from.0[..], &to.0, &IPV4, &answer].concat())
}

fn icmpv6(
    to_mac: MacAddr,
    from_mac: MacAddr,
    from: Ipv6Addr,
    to: Ipv6Addr,
    hops: u8,
    mut message: Vec<u8>,
) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(0);
    let addresses = [from.octets(), to.octets()].concat();
    let before = checksum::pseudo_header(&addresses, ICMPV6, message.len());
    checksum::put(&mut message, 2, before);
    let mut frame = [&to_mac.0[..], &from_mac.0, &IPV6, &[0x60, 0, 0, 0]].concat();
    frame.extend(length.to_be_bytes());
    frame.extend([ICMPV6, hops]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    frame.extend(message);
    frame
}

fn ethernet(frame: &[u8]) -> Option<(MacAddr, MacAddr, [u8; 2], &[u8])> {
    let (to, rest) = frame.split_first_chunk::<6>()?;
    let (from, rest) = rest.split_first_chunk::<6>()?;
    let (kind, packet) = rest.split_first_chunk::<2>()?;
    Some((MacAddr(*to), MacAddr(*from), *kind, packet))
}
