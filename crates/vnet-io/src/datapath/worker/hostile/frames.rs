//! Frames as guests send them, one by one or many as one, and how they are compared after they were joined.

use viaduct_types::MacAddr;
use viaduct_vnet_proto::data::{Offload, Segments};

/// Here.
pub(super) const HERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// Of the hosts by their numbers: 1, 2, 3.
pub(super) const OF: [MacAddr; 4] = [
    MacAddr([2, 0, 0, 0, 0, 2]),
    MacAddr([2, 0, 0, 0, 1, 1]),
    MacAddr([2, 0, 0, 0, 1, 2]),
    MacAddr([2, 0, 0, 0, 1, 3]),
];
/// Was here, and went to host 2.
pub(super) const GONE: MacAddr = MacAddr([2, 0, 0, 0, 0, 4]);
/// Is here, and was at host 2.
pub(super) const ARRIVED: MacAddr = MacAddr([2, 0, 0, 0, 0, 8]);
pub(super) const SILENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 5]);
pub(super) const NOWHERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
/// What hosts say to each other of who bridges a segment (with [`SEGMENT_TYPE`]).
pub(super) const SEGMENT_GROUP: MacAddr = MacAddr([0x03, 0x56, 0x49, 0x41, 0x44, 0x00]);
pub(super) const SEGMENT_TYPE: u16 = 0x88b5;

const ADDRESSES: [MacAddr; 16] = [
    HERE,
    OF[1],
    OF[2],
    OF[3],
    GONE,
    ARRIVED,
    SILENT,
    NOWHERE,
    MacAddr([0xff; 6]),
    SEGMENT_GROUP,
    MacAddr([1, 0, 0x5e, 1, 2, 3]),
    MacAddr([0; 6]),
    HERE,
    OF[1],
    OF[2],
    MacAddr([0x33, 0x33, 0, 0, 0, 1]),
];
const TYPES: [u16; 8] = [0x0800, 0x86dd, 0x0806, SEGMENT_TYPE, 0x8100, 0x88a8, 0, 0xffff];

/// Who is meant by half a byte.
pub(super) fn address(which: u8) -> MacAddr {
    ADDRESSES[usize::from(which & 0xf)]
}

/// A frame's header, by two bytes: to and from whom, and of which type.
pub(super) fn header([addresses, kind]: [u8; 2]) -> Vec<u8> {
    let kind = TYPES[usize::from(kind & 7)].to_be_bytes();
    [&address(addresses >> 4).0[..], &address(addresses).0, &kind].concat()
}

/// How frames of one flow are made.
#[derive(Clone, Copy)]
pub(super) struct Flow {
    /// To and from whom.
    pub(super) addresses: u8,
    /// Bits: IPv6, UDP, in a VLAN, checksums partial, checksums wrong, PSH in each, IPv4 that may be cut, CWR in the first.
    pub(super) kind: u8,
    pub(super) size: usize,
}

impl Flow {
    fn is(self, bit: u8) -> bool {
        self.kind & 1 << bit != 0
    }

    /// The frame of this index among those that follow each other, with so many bytes: no more than those before.
    pub(super) fn frame(self, index: usize, size: usize) -> Vec<u8> {
        self.with(index, &Self::payload(index, size))
    }

    /// So many of them as one, as a guest gives them to be cut, with what stands before it.
    pub(super) fn whole(self, count: usize, is_short: bool) -> (Offload, Vec<u8>) {
        let size = |index: usize| if is_short && index + 1 == count { self.size / 2 } else { self.size };
        let payload: Vec<u8> = (0..count).flat_map(|index| Self::payload(index, size(index))).collect();
        // A checksum of all is left to whoever cuts it.
        let flow = Self { kind: self.kind & !(1 << 4) | 1 << 3, ..self };
        let frame = flow.with(0, &payload);
        let each = u16::try_from(self.size).unwrap();
        let segments = match (self.is(1), self.is(0)) {
            (true, _) => Segments::Udp(each),
            (false, true) => Segments::Tcp6(each),
            (false, false) => Segments::Tcp4(each),
        };
        let ecn = !self.is(1) && self.is(7);
        (Offload { partial: partial(&frame), segments, header_length: 0, ecn }, frame)
    }

    fn payload(index: usize, size: usize) -> Vec<u8> {
        (0..size).map(|place| u8::try_from((place + 3 * index) & 0xff).unwrap()).collect()
    }

    fn with(self, index: usize, payload: &[u8]) -> Vec<u8> {
        let mut frame = header([self.addresses, u8::from(self.is(0))]);
        if self.is(2) {
            frame.splice(12..12, [0x81, 0, 0, 5]);
        }
        let at = frame.len();
        let (header, protocol) = if self.is(1) { (8, 17) } else { (20, 6) };
        let length = u16::try_from(header + payload.len()).unwrap();
        let count = u16::try_from(index).unwrap();
        if self.is(0) {
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend([0xfd; 15]);
            frame.push(2);
            frame.extend([0xfd; 15]);
            frame.push(1);
        } else {
            frame.extend([0x45, 0]);
            frame.extend((20 + length).to_be_bytes());
            frame.extend((700 + count).to_be_bytes());
            frame.extend([
                if self.is(6) { 0 } else { 0x40 },
                0,
                64,
                protocol,
                0,
                0,
                10,
                9,
                0,
                2,
                10,
                9,
                0,
                1,
            ]);
            let sum = !fold(sum(&frame[at..]));
            frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
        }
        frame.extend([0x1f, 0x40, 0x1b, 0x58]);
        if self.is(1) {
            frame.extend(length.to_be_bytes());
            frame.extend([0, 0]);
        } else {
            frame.extend(u32::try_from(1_000 + index * self.size).unwrap().to_be_bytes());
            let flags =
                0x10 | if self.is(5) { 8 } else { 0 } | if self.is(7) && index == 0 { 0x80 } else { 0 };
            frame.extend([0, 0, 0, 9, 0x50, flags, 1, 0, 0, 0, 0, 0]);
        }
        frame.extend(payload);
        let place = Checksum::of(&frame).unwrap();
        let field = if self.is(3) { place.partial(&frame) } else { place.whole(&frame) };
        place.put(&mut frame, if self.is(4) { field.wrapping_add(0x1234) } else { field });
        frame
    }
}

/// A frame as it is after what joining may change was set alike: a partial checksum is completed, and an IPv4 packet that may not
/// be cut has no identification.
pub(super) fn alike(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let Some(place) = Checksum::of(&frame) else { return frame };
    if place.field(&frame) == place.partial(&frame) {
        let whole = place.whole(&frame);
        place.put(&mut frame, whole);
    }
    if !place.is_v6 && frame[place.network + 6] & 0x40 != 0 {
        frame[place.network + 4..place.network + 6].fill(0);
        frame[place.network + 10..place.network + 12].fill(0);
    }
    frame
}

/// Where a checksum begins that is to be completed, and how far from there it stands; none of what does not look so.
pub(super) fn partial(frame: &[u8]) -> Option<(u16, u16)> {
    let place = Checksum::of(frame).filter(|place| place.field(frame) == place.partial(frame))?;
    let small = |number: usize| u16::try_from(number).unwrap();
    Some((small(place.transport), small(place.at - place.transport)))
}

/// Where a transport's checksum stands, of TCP or UDP directly after IP.
struct Checksum {
    network: usize,
    transport: usize,
    at: usize,
    is_v6: bool,
}

impl Checksum {
    fn of(frame: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
        let mut network = 14;
        while network < 22 && matches!(word(network - 2)?, 0x8100 | 0x88a8) {
            network += 4;
        }
        let is_v6 = word(network - 2)? == 0x86dd;
        let (transport, protocol) = match word(network - 2)? {
            0x0800 => (network + 4 * usize::from(frame.get(network)? & 15), *frame.get(network + 9)?),
            0x86dd => (network + 40, *frame.get(network + 6)?),
            _ => return None,
        };
        let at = match protocol {
            6 => transport + 16,
            17 => transport + 6,
            _ => return None,
        };
        word(at)?;
        word(network + if is_v6 { 38 } else { 18 })?;
        Some(Self { network, transport, at, is_v6 })
    }

    fn field(&self, frame: &[u8]) -> u16 {
        u16::from_be_bytes([frame[self.at], frame[self.at + 1]])
    }

    fn put(&self, frame: &mut [u8], value: u16) {
        frame[self.at..self.at + 2].copy_from_slice(&value.to_be_bytes());
    }

    /// The pseudo-header's sum (RFC 9293, section 3.1; RFC 8200, section 8.1).
    fn partial(&self, frame: &[u8]) -> u16 {
        let (addresses, protocol) = if self.is_v6 { (8..40, 6) } else { (12..20, 9) };
        let addresses = &frame[self.network + addresses.start..self.network + addresses.end];
        let length = u64::try_from(frame.len() - self.transport).unwrap();
        fold(sum(addresses) + u64::from(frame[self.network + protocol]) + length)
    }

    fn whole(&self, frame: &[u8]) -> u16 {
        let mut segment = frame[self.transport..].to_vec();
        let partial = self.partial(frame).to_be_bytes();
        segment[self.at - self.transport..][..2].copy_from_slice(&partial);
        match !fold(sum(&segment)) {
            0 => 0xffff,
            sum => sum,
        }
    }
}

fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).unwrap()
}
