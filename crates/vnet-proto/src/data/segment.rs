//! Whether two hosts bridge the same segment into a vnet: frames that each puts into its own bridge, and that the other must
//! not hear from its own. If both carried what they hear, each broadcast would go round for ever.

use viaduct_types::{HostKey, MacAddr};

use super::layout::word;

/// For experiments on a segment of one's own (IEEE 802, section 9.2).
const LOCAL_EXPERIMENT: u16 = 0x88b5;
const MAGIC: [u8; 8] = *b"viaduct1";
/// Switches flood it, and nobody listens to it: a group that is administered locally.
const GROUP: MacAddr = MacAddr([0x03, 0x56, 0x49, 0x41, 0x44, 0x00]);
const HEAD: usize = 14 + 8 + 32;
/// So many peers are meant by one frame.
pub const MOST_MARKS: usize = 80;

/// What shows one peer, and nobody else, that the frame is from whom it says: both ends of a connection can compute it.
pub type Mark = [u8; 16];

/// A frame that says who bridges here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Who.
    pub host: HostKey,
    /// One for each peer that shares the vnet, in any order.
    pub marks: Vec<Mark>,
}

impl Segment {
    /// The frame. Marks beyond [`MOST_MARKS`] do not fit.
    pub fn frame(&self) -> Vec<u8> {
        let key = &self.host.0;
        // One's own on the segment; switches learn nothing else from it.
        let source = [0x06, key[0], key[1], key[2], key[3], key[4]];
        let mut frame = [&GROUP.0[..], &source, &LOCAL_EXPERIMENT.to_be_bytes(), &MAGIC, key].concat();
        self.marks.iter().take(MOST_MARKS).for_each(|mark| frame.extend(mark));
        frame
    }

    /// None when it is another frame.
    pub fn read(frame: &[u8]) -> Option<Self> {
        if !is_segment(frame) {
            return None;
        }
        let (head, rest) = frame.split_at_checked(HEAD)?;
        let host = HostKey(head[22..].try_into().ok()?);
        let marks = rest.chunks_exact(16).take(MOST_MARKS).filter_map(|mark| mark.try_into().ok());
        Some(Self { host, marks: marks.collect() })
    }
}

/// Whether a frame is one of these, by its first bytes.
pub(super) fn is_segment(frame: &[u8]) -> bool {
    frame.starts_with(&GROUP.0)
        && word(frame, 12) == Some(LOCAL_EXPERIMENT)
        && frame.get(14..22) == Some(&MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for count in [0, 1, 7, MOST_MARKS] {
            let marks = (0..count).map(|n| [u8::try_from(n).unwrap(); 16]).collect();
            let segment = Segment { host: HostKey([7; 32]), marks };
            let frame = segment.frame();
            assert!(frame.len() <= 1_514 && is_segment(&frame));
            assert_eq!(Segment::read(&frame), Some(segment));
        }
    }

    #[test]
    fn switches_may_pad_it_and_anything_else_is_none() {
        let segment = Segment { host: HostKey([7; 32]), marks: vec![[1; 16]] };
        let mut frame = segment.frame();
        frame.extend([0; 10]);
        assert_eq!(Segment::read(&frame), Some(segment.clone()));
        for length in 0..HEAD {
            assert_eq!(Segment::read(&frame[..length]), None);
        }
        for at in (0..6).chain(12..22) {
            let mut other = segment.frame();
            other[at] ^= 1;
            assert_eq!(Segment::read(&other), None, "{at}");
        }
    }
}
