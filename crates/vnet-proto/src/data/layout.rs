//! Where things stand in a frame.

use super::checksum;

pub(super) const ETHERNET: usize = 14;
pub(super) const TAG: usize = 4;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
pub(super) const TCP_HEADER: usize = 20;
pub(super) const UDP_HEADER: usize = 8;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

/// An IP packet in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) version: Version,
    /// Where the IP header begins.
    pub(super) network: usize,
    /// What follows the IP header: TCP, UDP, or for IPv6 an extension header.
    pub(super) next: u8,
    /// Where that begins.
    pub(super) transport: usize,
    /// Where the packet ends, as its IP header says; the frame may be longer.
    pub(super) end: usize,
    /// Whether it is a part of a larger packet.
    pub(super) is_fragment: bool,
}

/// TCP or UDP directly after an IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transport {
    pub(super) packet: Packet,
    pub(super) protocol: Protocol,
    /// Where its payload begins.
    pub(super) payload: usize,
}

/// Where the network layer begins and of which type it is: after up to two VLAN tags.
pub(super) fn network(frame: &[u8]) -> Option<(usize, u16)> {
    let mut at = ETHERNET;
    let mut kind = word(frame, 12)?;
    for _ in 0..2 {
        if !is_tag(kind) {
            break;
        }
        kind = word(frame, at + 2)?;
        at += TAG;
    }
    Some((at, kind))
}

/// Whether it is in a VLAN.
pub(super) fn is_tagged(frame: &[u8]) -> bool {
    word(frame, 12).is_some_and(is_tag)
}

/// IEEE 802.1Q and 802.1ad.
fn is_tag(kind: u16) -> bool {
    matches!(kind, 0x8100 | 0x88a8)
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn double_word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn put_word(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

impl Packet {
    /// None when it is no IP packet, or its header is not whole.
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        let (network, kind) = network(frame)?;
        let header = frame.get(network..)?;
        match kind {
            0x0800 => {
                let fixed: &[u8; IPV4_HEADER] = header.first_chunk()?;
                let length = usize::from(fixed[0] & 0x0f) * 4;
                let end = network + usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
                let transport = network + length;
                if fixed[0] >> 4 != 4 || length < IPV4_HEADER || end < transport || end > frame.len() {
                    return None;
                }
                let fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff;
                Some(Self {
                    version: Version::V4,
                    network,
                    next: fixed[9],
                    transport,
                    end,
                    is_fragment: fragment != 0,
                })
            }
            0x86dd => {
                let fixed: &[u8; IPV6_HEADER] = header.first_chunk()?;
                let transport = network + IPV6_HEADER;
                let end = transport + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
                if fixed[0] >> 4 != 6 || end > frame.len() {
                    return None;
                }
                Some(Self {
                    version: Version::V6,
                    network,
                    next: fixed[6],
                    transport,
                    end,
                    is_fragment: false,
                })
            }
            _ => None,
        }
    }

    /// Both addresses.
    pub(super) fn addresses<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let (offset, length) = match self.version {
            Version::V4 => (12, 8),
            Version::V6 => (8, 32),
        };
        frame.get(self.network + offset..self.network + offset + length).unwrap_or_default()
    }
}

impl Transport {
    /// None when it is neither TCP nor UDP, a fragment, or its header is not whole.
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        let packet = Packet::of(frame)?;
        if packet.is_fragment {
            return None;
        }
        let header = frame.get(packet.transport..packet.end)?;
        let (protocol, length) = match packet.next {
            TCP => (Protocol::Tcp, usize::from(header.get(12)? >> 4) * 4),
            UDP => (Protocol::Udp, UDP_HEADER),
            _ => return None,
        };
        let least = if protocol == Protocol::Tcp { TCP_HEADER } else { UDP_HEADER };
        if length < least || header.len() < length {
            return None;
        }
        if protocol == Protocol::Udp && usize::from(word(header, 4)?) != header.len() {
            return None;
        }
        Some(Self { packet, protocol, payload: packet.transport + length })
    }

    /// From where the checksum counts, and where after that it stands.
    pub(super) fn checksum_place(&self) -> (usize, usize) {
        (self.packet.transport, if self.protocol == Protocol::Tcp { 16 } else { 6 })
    }

    /// What the checksum field holds when it is partial.
    pub(super) fn partial_checksum(&self, frame: &[u8]) -> u16 {
        let length = self.packet.end - self.packet.transport;
        checksum::fold(checksum::pseudo_header(self.packet.addresses(frame), self.packet.next, length))
    }

    /// What the checksum field holds.
    pub(super) fn checksum(&self, frame: &[u8]) -> u16 {
        let (start, offset) = self.checksum_place();
        word(frame, start + offset).unwrap_or_default()
    }

    /// Whether its checksum, which is complete, is right.
    pub(super) fn is_checksum_right(&self, frame: &[u8]) -> bool {
        let Some(bytes) = frame.get(self.packet.transport..self.packet.end) else { return false };
        let pseudo = checksum::pseudo_header(self.packet.addresses(frame), self.packet.next, bytes.len());
        checksum::complement(pseudo + checksum::sum(bytes)) == 0
    }
}
