//! What stands before each frame of a tap: which checksum is not complete yet, and how a super-frame is to be cut
//! (`struct virtio_net_hdr`, include/uapi/linux/virtio_net.h; virtio 1.3, section 5.1.6).

const NEEDS_CHECKSUM: u8 = 1;
const TCP4: u8 = 1;
const TCP6: u8 = 4;
const UDP: u8 = 5;
/// The first frame says that the congestion window was reduced, the others do not.
const ECN: u8 = 0x80;

/// How many bytes it has.
pub const OFFLOAD_HEADER: usize = 10;

/// What a super-frame is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segments {
    /// It is no super-frame.
    None,
    /// TCP over IPv4 with so many bytes in each.
    Tcp4(u16),
    /// TCP over IPv6.
    Tcp6(u16),
    /// UDP datagrams over IPv4 or IPv6.
    Udp(u16),
    /// Something else, which no tap of ours offers.
    Other,
}

/// The header's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// From where to where the checksum goes: it begins at the first number, and stands so many bytes after that.
    pub partial: Option<(u16, u16)>,
    /// How it is to be cut.
    pub segments: Segments,
    /// Where the first frame's payload begins; only a hint.
    pub header_length: u16,
    /// TCP's CWR is for the first frame only.
    pub ecn: bool,
}

impl Offload {
    /// A frame as it is on a wire.
    pub const NONE: Self = Self { partial: None, segments: Segments::None, header_length: 0, ecn: false };

    /// Whether it stands before TCP that is to be cut.
    pub const fn is_tcp(&self) -> bool {
        matches!(self.segments, Segments::Tcp4(_) | Segments::Tcp6(_))
    }

    /// Reads it. The numbers are in the machine's own order.
    pub fn read(bytes: &[u8; OFFLOAD_HEADER]) -> Self {
        let [flags, kind, rest @ ..] = bytes;
        let number = |at: usize| u16::from_ne_bytes([rest[at], rest[at + 1]]);
        let size = number(2);
        Self {
            partial: (flags & NEEDS_CHECKSUM != 0).then(|| (number(4), number(6))),
            segments: match kind & !ECN {
                0 => Segments::None,
                TCP4 => Segments::Tcp4(size),
                TCP6 => Segments::Tcp6(size),
                UDP => Segments::Udp(size),
                _ => Segments::Other,
            },
            header_length: number(0),
            ecn: kind & ECN != 0,
        }
    }

    /// Writes it.
    pub fn write(&self) -> [u8; OFFLOAD_HEADER] {
        let (kind, size) = match self.segments {
            Segments::None | Segments::Other => (0, 0),
            Segments::Tcp4(size) => (TCP4, size),
            Segments::Tcp6(size) => (TCP6, size),
            Segments::Udp(size) => (UDP, size),
        };
        let kind = if self.ecn && kind != 0 { kind | ECN } else { kind };
        let (start, offset) = self.partial.unwrap_or_default();
        let mut bytes = [0; OFFLOAD_HEADER];
        bytes[0] = if self.partial.is_some() { NEEDS_CHECKSUM } else { 0 };
        bytes[1] = kind;
        for (at, number) in [(2, self.header_length), (4, size), (6, start), (8, offset)] {
            bytes[at..at + 2].copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(size: u16, partial: Option<(u16, u16)>, header_length: u16, ecn: bool, which in 0..4) {
            let segments = [Segments::None, Segments::Tcp4(size), Segments::Tcp6(size), Segments::Udp(size)]
                [usize::try_from(which).unwrap()];
            let ecn = ecn && segments != Segments::None;
            let offload = Offload { partial, segments, header_length, ecn };
            prop_assert_eq!(Offload::read(&offload.write()), offload);
        }

        #[test]
        fn any_bytes_are_read(bytes: [u8; OFFLOAD_HEADER]) {
            Offload::read(&bytes);
        }
    }
}
