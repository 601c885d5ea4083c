//! Frames into super-frames, so that the kernel has one packet's work with many: the opposite of [`Cut`](super::Cut).

use super::{
    checksum,
    layout::{Protocol, Transport, Version, double_word, put_word, word},
    offload::{Offload, Segments},
};

const FIN: u8 = 0x01;
const PUSH: u8 = 0x08;
const ACKNOWLEDGEMENT: u8 = 0x10;
const ECHO: u8 = 0x40;
const REDUCED: u8 = 0x80;
const DO_NOT_FRAGMENT: u16 = 0x4000;

/// The kernel takes no more UDP datagrams than this in one (UDP_MAX_SEGMENTS of older kernels).
const MOST_DATAGRAMS: usize = 64;
/// An IP packet is not longer.
const LONGEST_PACKET: usize = 65_535;

/// Which kinds of super-frames a tap takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joins {
    /// TCP.
    Tcp,
    /// TCP, and UDP, which taps take since Linux 6.2.
    TcpAndUdp,
}

/// A frame, and those that were joined to it. The bytes are elsewhere: a run knows the first frame's place of headers, and of
/// the others only the payloads are needed.
///
/// Only frames are joined that [`Cut`](super::Cut) would make of the super-frame again, to the last bit, but for one thing:
/// an IPv4 packet that may not be fragmented needs no identification (RFC 6864), and gets those that follow the first's.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Of the first frame; none when nothing can be joined to it.
    transport: Option<Transport>,
    is_partial: bool,
    /// Payload bytes of each frame but the last.
    segment: usize,
    /// Payload bytes of all.
    payload: usize,
    count: usize,
    /// Nothing can follow: the last was shorter, or said so.
    is_closed: bool,
    identification: u16,
    /// The last frame's, which the super-frame gets.
    last_flags: u8,
}

impl Run {
    /// Begins with a frame.
    pub fn start(frame: &[u8], joins: Joins) -> Self {
        let mut run = Self {
            transport: None,
            is_partial: false,
            segment: 0,
            payload: 0,
            count: 1,
            is_closed: true,
            identification: 0,
            last_flags: 0,
        };
        let Some(transport) = Transport::of(frame) else { return run };
        run.is_partial = transport.packet.end == frame.len()
            && transport.checksum(frame) == transport.partial_checksum(frame);
        run.transport = Some(transport);
        run.payload = transport.packet.end - transport.payload;
        run.segment = run.payload;
        let at = transport.packet.transport;
        run.last_flags = if transport.protocol == Protocol::Tcp { frame[at + 13] } else { 0 };
        run.identification = word(frame, transport.packet.network + 4).unwrap_or_default();
        let may_begin = match transport.protocol {
            // CWR may stand in the first, and only there; PSH and FIN in the last, and only there.
            Protocol::Tcp => run.last_flags & !(ECHO | REDUCED) == ACKNOWLEDGEMENT,
            Protocol::Udp => joins == Joins::TcpAndUdp,
        };
        run.is_closed = !(may_begin && run.payload > 0 && is_regular(frame, &transport));
        run
    }

    /// How many frames there are in it.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Where the next frame's payload begins, if it joins the run whose first frame is `first`.
    pub fn push(&mut self, first: &[u8], frame: &[u8]) -> Option<usize> {
        let transport = self.transport?;
        if self.is_closed || frame.len() > first.len() || frame.len() <= transport.payload {
            return None;
        }
        let header = transport.payload;
        let payload = frame.len() - header;
        if header - transport.packet.network + self.payload + payload > LONGEST_PACKET {
            return None;
        }
        if !self.follows(first, frame, &transport) {
            return None;
        }
        let same = Transport::of(frame).filter(|other| {
            other.packet.transport == transport.packet.transport && other.payload == header
        })?;
        if !is_regular(frame, &same) || !self.is_checksum_sound(first, frame, &same) {
            return None;
        }
        let flags = match transport.protocol {
            Protocol::Tcp => frame[transport.packet.transport + 13],
            Protocol::Udp => 0,
        };
        self.payload += payload;
        self.count += 1;
        self.identification = self.identification.wrapping_add(1);
        self.last_flags = flags;
        self.is_closed = payload < self.segment
            || flags & (FIN | PUSH) != 0
            || (transport.protocol == Protocol::Udp && self.count == MOST_DATAGRAMS);
        Some(header)
    }

    /// Whether the headers are the first frame's, but for what changes from segment to segment.
    fn follows(&self, first: &[u8], frame: &[u8], transport: &Transport) -> bool {
        let (network, at) = (transport.packet.network, transport.packet.transport);
        let same = |from: usize, to: usize| first[from..to] == frame[from..to];
        let same_network = match transport.packet.version {
            Version::V4 => {
                let identification = word(frame, network + 4).unwrap_or_default();
                let flags = word(frame, network + 6).unwrap_or_default();
                let in_order = identification == self.identification.wrapping_add(1);
                same(0, network + 2)
                    && same(network + 6, network + 10)
                    && same(network + 12, at)
                    && (in_order || flags & DO_NOT_FRAGMENT != 0)
            }
            Version::V6 => same(0, network + 4) && same(network + 6, at),
        };
        let same_transport = match transport.protocol {
            Protocol::Udp => same(at, at + 4),
            Protocol::Tcp => {
                let sequence = double_word(first, at + 4).unwrap_or_default();
                let passed = u32::try_from(self.payload).unwrap_or_default();
                let ignored = if self.count == 1 { FIN | PUSH | REDUCED } else { FIN | PUSH };
                let flags = |bytes: &[u8]| bytes[at + 13] & !ignored;
                let reduced = frame[at + 13] & REDUCED != 0;
                same(at, at + 4)
                    && double_word(frame, at + 4) == Some(sequence.wrapping_add(passed))
                    && same(at + 8, at + 13)
                    && flags(first) & !REDUCED == flags(frame) & !REDUCED
                    && !reduced
                    && same(at + 14, at + 16)
                    && same(at + 18, transport.payload)
            }
        };
        same_network && same_transport
    }

    /// A wrong checksum must stay wrong, so it must not be computed anew. The first frame's is looked at when the second comes.
    fn is_checksum_sound(&self, first: &[u8], frame: &[u8], transport: &Transport) -> bool {
        let sound = |frame: &[u8], transport: &Transport| {
            transport.checksum(frame) == transport.partial_checksum(frame)
                || (transport.checksum(frame) != 0 && transport.is_checksum_right(frame))
        };
        sound(frame, transport)
            && (self.count > 1
                || self.is_partial
                || self.transport.is_some_and(|transport| sound(first, &transport)))
    }

    /// Makes the first frame's headers those of all, and says what to tell the tap.
    pub fn finish(&self, first: &mut [u8]) -> Offload {
        let Some(transport) = self.transport else { return Offload::NONE };
        let (start, offset) = transport.checksum_place();
        let small = |number: usize| u16::try_from(number).unwrap_or_default();
        let partial = Some((small(start), small(offset)));
        if self.count == 1 {
            return Offload { partial: partial.filter(|_| self.is_partial), ..Offload::NONE };
        }
        let network = transport.packet.network;
        let length = transport.payload - network + self.payload;
        match transport.packet.version {
            Version::V4 => {
                put_word(first, network + 2, small(length));
                put_word(first, network + 10, 0);
                let sum = checksum::sum(&first[network..transport.packet.transport]);
                put_word(first, network + 10, checksum::complement(sum));
            }
            Version::V6 => put_word(first, network + 4, small(length - 40)),
        }
        let transport_length = transport.payload - transport.packet.transport + self.payload;
        let addresses = transport.packet.addresses(first);
        let pseudo = checksum::pseudo_header(addresses, transport.packet.next, transport_length);
        put_word(first, start + offset, checksum::fold(pseudo));
        let size = small(self.segment);
        let segments = match (transport.protocol, transport.packet.version) {
            (Protocol::Tcp, Version::V4) => Segments::Tcp4(size),
            (Protocol::Tcp, Version::V6) => Segments::Tcp6(size),
            (Protocol::Udp, _) => Segments::Udp(size),
        };
        let mut ecn = false;
        match transport.protocol {
            Protocol::Tcp => {
                first[start + 13] |= self.last_flags & (FIN | PUSH);
                ecn = first[start + 13] & REDUCED != 0;
            }
            Protocol::Udp => put_word(first, start + 4, small(transport_length)),
        }
        Offload { partial, segments, header_length: small(transport.payload), ecn }
    }
}

/// Whether a super-frame's headers could say the same: no options of IPv4, no bytes after the packet, and an IPv4 header
/// whose checksum is right, for a wrong one must stay wrong.
fn is_regular(frame: &[u8], transport: &Transport) -> bool {
    let packet = &transport.packet;
    if packet.end != frame.len() {
        return false;
    }
    match packet.version {
        Version::V6 => true,
        Version::V4 => {
            packet.transport - packet.network == 20
                && checksum::complement(checksum::sum(&frame[packet.network..packet.transport])) == 0
        }
    }
}
