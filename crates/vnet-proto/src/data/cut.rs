//! Super-frames into frames, as a network card would do it (Documentation/networking/segmentation-offloads.rst).

use super::{
    checksum,
    layout::{
        Packet, Protocol, TCP_HEADER, Transport, UDP_HEADER, Version, double_word, network, put_word, word,
    },
    offload::{Offload, Segments},
};

const FIN: u8 = 0x01;
const PUSH: u8 = 0x08;
const REDUCED: u8 = 0x80;

/// No headers are longer: two tags, IPv6 with extension headers, TCP with all options.
const LONGEST_HEADER: usize = 192;

/// Why a frame from a tap cannot be carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// What stands before it does not fit it.
    #[error("no frame, or its offloads do not fit it")]
    Malformed,
    /// It is longer than what the path takes, and may not be cut.
    #[error("longer than the path takes")]
    TooBig,
}

/// How a frame from a tap becomes one or more frames that stand alone.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Of the whole.
    length: usize,
    /// Of all headers, which each frame has; zero for a frame that stays as it is.
    header: usize,
    /// Payload bytes in each frame but the last.
    segment: usize,
    count: usize,
    /// None for a frame that stays as it is.
    template: Option<Template>,
}

/// What the headers of all segments have in common.
#[derive(Clone, Debug)]
struct Template {
    /// The super-frame's own.
    header: [u8; LONGEST_HEADER],
    version: Version,
    protocol: Protocol,
    network: usize,
    transport: usize,
    /// The sum of the IPv4 header without length, identification and checksum.
    header_sum: u64,
    identification: u16,
    /// The sum of the pseudo-header without the length.
    pseudo: u64,
    sequence: u32,
    flags: u8,
}

impl Cut {
    /// Plans it for a path that takes frames of at most `largest` bytes. TCP is cut smaller than the sender asked for when the
    /// path needs that: how TCP is cut is nobody's business but the path's. Only a checksum may be changed in the frame, one of
    /// a kind that would not be [recognized](super::Offload) as partial at the other end.
    ///
    /// # Errors
    /// When the frame cannot be carried.
    pub fn plan(offload: &Offload, frame: &mut [u8], largest: usize) -> Result<Self, CutError> {
        let (protocol, size) = match offload.segments {
            Segments::None => return Self::whole(offload, frame, largest),
            Segments::Tcp4(size) | Segments::Tcp6(size) => (Protocol::Tcp, size),
            Segments::Udp(size) => (Protocol::Udp, size),
            Segments::Other => return Err(CutError::Malformed),
        };
        let template = Template::of(offload, frame, protocol).ok_or(CutError::Malformed)?;
        let header = match protocol {
            Protocol::Udp => template.transport + UDP_HEADER,
            Protocol::Tcp => {
                let offset = frame.get(template.transport + 12).ok_or(CutError::Malformed)? >> 4;
                template.transport + usize::from(offset) * 4
            }
        };
        let payload = frame.len().checked_sub(header).filter(|payload| *payload > 0);
        let payload = payload.ok_or(CutError::Malformed)?;
        let least = match protocol {
            Protocol::Tcp => TCP_HEADER,
            Protocol::Udp => UDP_HEADER,
        };
        if header < template.transport + least || header > LONGEST_HEADER || size == 0 {
            return Err(CutError::Malformed);
        }
        let mut template = template;
        template.header[..header].copy_from_slice(&frame[..header]);
        let room = largest.checked_sub(header).filter(|room| *room > 0).ok_or(CutError::TooBig)?;
        let segment = usize::from(size);
        let segment = match protocol {
            Protocol::Tcp => segment.min(room),
            Protocol::Udp if segment.min(payload) > room => return Err(CutError::TooBig),
            Protocol::Udp => segment,
        };
        let count = payload.div_ceil(segment);
        Ok(Self { length: frame.len(), header, segment, count, template: Some(template) })
    }

    fn whole(offload: &Offload, frame: &mut [u8], largest: usize) -> Result<Self, CutError> {
        // Who looks for the type of a frame finds it.
        network(frame).ok_or(CutError::Malformed)?;
        if frame.len() > largest {
            return Err(CutError::TooBig);
        }
        if let Some((start, offset)) = offload.partial {
            complete_unless_recognized(frame, usize::from(start), usize::from(offset))
                .ok_or(CutError::Malformed)?;
        }
        Ok(Self { length: frame.len(), header: 0, segment: frame.len(), count: 1, template: None })
    }

    /// How many frames there will be.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The length of one of them.
    pub fn frame_length(&self, index: usize) -> usize {
        let begin = index * self.segment;
        let rest = (self.length - self.header).saturating_sub(begin);
        self.header + rest.min(self.segment)
    }

    /// Shows one of them. It is made where its payload stands, in the super-frame's own buffer: its headers overwrite the end of
    /// the payload before for this moment. Afterwards the buffer is as it was.
    pub fn with_frame<R>(&self, index: usize, buffer: &mut [u8], look: impl FnOnce(&[u8]) -> R) -> R {
        let Some(template) = &self.template else { return look(&buffer[..self.length]) };
        let begin = index * self.segment;
        let place = &mut buffer[begin..begin + self.frame_length(index)];
        let mut covered = [0; LONGEST_HEADER];
        covered[..self.header].copy_from_slice(&place[..self.header]);
        let (header, payload) = place.split_at_mut(self.header);
        header.copy_from_slice(&template.header[..self.header]);
        template.patch(
            header,
            payload.len(),
            Place { index, is_last: index + 1 == self.count, offset: begin },
        );
        let result = look(place);
        place[..self.header].copy_from_slice(&covered[..self.header]);
        result
    }
}

/// Which of the segments.
struct Place {
    index: usize,
    is_last: bool,
    offset: usize,
}

impl Template {
    fn of(offload: &Offload, frame: &[u8], protocol: Protocol) -> Option<Self> {
        // The kernel sets the lengths of super-frames, but for those of IPv6 that have more than 64 KiB, which taps are
        // not given.
        let packet = Packet::of(frame).filter(|packet| !packet.is_fragment)?;
        let version = match offload.segments {
            Segments::Tcp4(_) => Version::V4,
            Segments::Tcp6(_) => Version::V6,
            Segments::Udp(_) | Segments::None | Segments::Other => packet.version,
        };
        let (start, offset) = offload.partial?;
        // After extension headers of IPv6 only this says where TCP or UDP begins.
        let transport = usize::from(start);
        let (number, place) = match protocol {
            Protocol::Tcp => (super::layout::TCP, 16),
            Protocol::Udp => (super::layout::UDP, 6),
        };
        let is_direct = packet.next == number && packet.transport == transport;
        let is_extended = packet.version == Version::V6 && transport > packet.transport;
        if version != packet.version
            || packet.end != frame.len()
            || usize::from(offset) != place
            || !(is_direct || is_extended)
        {
            return None;
        }
        let header = frame.get(packet.network..packet.transport)?;
        let (header_sum, identification) = match version {
            Version::V4 => {
                let without = [&header[..2], &[0; 4], &header[6..10], &[0; 2]].concat_sum();
                (without + checksum::sum(&header[12..]), word(header, 4)?)
            }
            Version::V6 => (0, 0),
        };
        // With a routing header the pseudo-header has another destination (RFC 8200, section 8.1): what the sender left
        // in the field, without the length.
        let pseudo = if is_direct {
            checksum::pseudo_header(packet.addresses(frame), number, 0)
        } else {
            let field = word(frame, transport + place)?;
            let length = checksum::fold(frame.len() as u64 - transport as u64);
            u64::from(field) + u64::from(!length)
        };
        let (sequence, flags) = match protocol {
            Protocol::Tcp => (double_word(frame, transport + 4)?, *frame.get(transport + 13)?),
            Protocol::Udp => (0, 0),
        };
        Some(Self {
            header: [0; LONGEST_HEADER],
            version,
            protocol,
            network: packet.network,
            transport,
            header_sum,
            identification,
            pseudo,
            sequence,
            flags,
        })
    }

    /// Makes a copy of the super-frame's headers those of one segment.
    fn patch(&self, header: &mut [u8], payload: usize, place: Place) {
        let transport_length = header.len() - self.transport + payload;
        let low = |number: usize| u16::try_from(number & 0xffff).unwrap_or_default();
        match self.version {
            Version::V4 => {
                let total = low(header.len() - self.network + payload);
                let identification = self.identification.wrapping_add(low(place.index));
                let sum = self.header_sum + u64::from(total) + u64::from(identification);
                put_word(header, self.network + 2, total);
                put_word(header, self.network + 4, identification);
                put_word(header, self.network + 10, checksum::complement(sum));
            }
            Version::V6 => {
                // The fixed header is not counted.
                put_word(header, self.network + 4, low(header.len() - self.network - 40 + payload));
            }
        }
        let partial = checksum::fold(self.pseudo + transport_length as u64);
        match self.protocol {
            Protocol::Udp => {
                put_word(header, self.transport + 4, low(transport_length));
                put_word(header, self.transport + 6, partial);
            }
            Protocol::Tcp => {
                let offset = u32::try_from(place.offset & 0xffff_ffff).unwrap_or_default();
                let sequence = self.sequence.wrapping_add(offset);
                header[self.transport + 4..self.transport + 8].copy_from_slice(&sequence.to_be_bytes());
                let mut flags = self.flags;
                if !place.is_last {
                    flags &= !(FIN | PUSH);
                }
                if place.index > 0 {
                    flags &= !REDUCED;
                }
                header[self.transport + 13] = flags;
                put_word(header, self.transport + 16, partial);
            }
        }
    }
}

/// Sums of parts of even length.
trait ConcatSum {
    fn concat_sum(&self) -> u64;
}

impl ConcatSum for [&[u8]; 4] {
    fn concat_sum(&self) -> u64 {
        self.iter().map(|part| checksum::sum(part)).sum()
    }
}

/// Leaves the checksum partial if the other end will see that it is, and completes it otherwise: of packets in packets, of
/// extension headers, of protocols that are neither TCP nor UDP.
fn complete_unless_recognized(frame: &mut [u8], start: usize, offset: usize) -> Option<()> {
    if let Some(transport) = Transport::of(frame)
        && transport.checksum_place() == (start, offset)
        && transport.packet.end == frame.len()
        && transport.checksum(frame) == transport.partial_checksum(frame)
    {
        return Some(());
    }
    complete(frame, start, offset)
}

/// Completes a checksum that begins at a place and stands so many bytes after it.
pub(super) fn complete(frame: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let field = start.checked_add(offset)?;
    word(frame, field)?;
    let sum = checksum::complement(checksum::sum(frame.get(start..)?));
    // A UDP checksum of zero would say that there is none (RFC 768); for TCP both are the same number.
    put_word(frame, field, if sum == 0 { 0xffff } else { sum });
    Some(())
}
