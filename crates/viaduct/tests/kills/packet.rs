//! Packets as they are sent and found again: each carries who sent it, and when.

use std::net::IpAddr;

use crate::policy::Service;

/// The port that everything is sent from: each probe is one flow.
pub(crate) const SOURCE_PORT: u16 = 5000;
const MAGIC: [u8; 8] = *b"viaduct?";

/// What a packet says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    /// Which probe, or which try.
    pub(crate) number: u32,
    /// When it was sent.
    pub(crate) epoch: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Probe = 1,
    Answer = 2,
    Ping = 3,
}

impl Token {
    fn bytes(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(self.kind as u8);
        bytes.extend(self.number.to_be_bytes());
        bytes.extend(self.epoch.to_be_bytes());
        bytes
    }

    /// That of a packet of ours, wherever in it.
    pub(crate) fn find(packet: &[u8]) -> Option<Self> {
        let at = packet.windows(MAGIC.len()).position(|bytes| bytes == MAGIC)? + MAGIC.len();
        let kind = match packet.get(at)? {
            1 => Kind::Probe,
            2 => Kind::Answer,
            _ => Kind::Ping,
        };
        let number = |at: usize| Some(u32::from_be_bytes(packet.get(at..at + 4)?.try_into().ok()?));
        Some(Self { kind, number: number(at + 1)?, epoch: number(at + 5)? })
    }
}

/// An IP packet that begins a flow.
pub(crate) fn opening(source: IpAddr, destination: IpAddr, service: Service, token: Token) -> Vec<u8> {
    let v6 = destination.is_ipv6();
    let (protocol, header) = match service {
        Service::Udp(port) => (17, [ports(SOURCE_PORT, port), vec![0, 25, 0, 0]].concat()),
        Service::Tcp(port) => {
            let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0];
            (6, [ports(SOURCE_PORT, port), rest.to_vec()].concat())
        }
        Service::Icmp if v6 => (58, vec![128, 0, 0, 0, 0x13, 0x88, 0, 1]),
        Service::Icmp => (1, vec![8, 0, 0, 0, 0x13, 0x88, 0, 1]),
    };
    whole(source, destination, protocol, [header, token.bytes()].concat())
}

/// The answer to a datagram that has arrived, if it is one.
pub(crate) fn answer(packet: &[u8], token: Token) -> Option<(IpAddr, Vec<u8>)> {
    let (protocol, source, destination, rest) = read(packet)?;
    let (from, to) = (rest.get(..2)?, rest.get(2..4)?);
    if protocol != 17 {
        return None;
    }
    let header = [to, from, &[0, 25, 0, 0]].concat();
    let token = Token { kind: Kind::Answer, ..token };
    Some((source, whole(destination, source, 17, [header, token.bytes()].concat())))
}

/// Whether it is the answer to an echo request.
pub(crate) fn is_echo_reply(packet: &[u8]) -> bool {
    read(packet).is_some_and(|(protocol, _, _, rest)| {
        matches!((protocol, rest.first()), (1, Some(0)) | (58, Some(129)))
    })
}

/// Protocol, source, destination and what follows the header.
fn read(packet: &[u8]) -> Option<(u8, IpAddr, IpAddr, &[u8])> {
    let v4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let v6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
    match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 15) * 4;
            Some((*packet.get(9)?, v4(12)?, v4(16)?, packet.get(header..)?))
        }
        6 => Some((*packet.get(6)?, v6(8)?, v6(24)?, packet.get(40..)?)),
        _ => None,
    }
}

fn ports(from: u16, to: u16) -> Vec<u8> {
    [from.to_be_bytes(), to.to_be_bytes()].concat()
}

fn whole(source: IpAddr, destination: IpAddr, protocol: u8, mut segment: Vec<u8>) -> Vec<u8> {
    let len = u16::try_from(segment.len()).unwrap();
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let (from, to) = (bytes(source), bytes(destination));
    let pseudo = [&from[..], &to, &[0, protocol], &len.to_be_bytes()].concat();
    let covered = if protocol == 1 { segment.clone() } else { [&pseudo[..], &segment].concat() };
    let at = match protocol {
        17 => 6,
        6 => 16,
        _ => 2,
    };
    let sum = checksum(&covered).to_be_bytes();
    segment[at..at + 2].copy_from_slice(&sum);
    let mut packet = if source.is_ipv4() {
        let mut header = vec![0x45, 0];
        header.extend((len + 20).to_be_bytes());
        header.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
        [header, from, to].concat()
    } else {
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(len.to_be_bytes());
        header.extend([protocol, 64]);
        [header, from, to].concat()
    };
    packet.append(&mut segment);
    packet
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !u16::try_from(sum).unwrap() {
        // Zero would mean that there is none (UDP).
        0 => 0xffff,
        sum => sum,
    }
}
