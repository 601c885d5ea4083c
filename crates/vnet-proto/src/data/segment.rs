//! Whether two hosts bridge the same segment into a vnet: frames that each puts into its own bridge, and that the other must
//! not hear from its own. If both carried what they hear, each broadcast would go round for ever.
//!
//! All numbers are in network byte order. After the head of Ethernet: eight bytes that tell it from others' experiments, the host's
//! key (32), a number (8), and a signature (Ed25519, 64) of the [context](SEGMENT_CONTEXT), the vnet's id, the key and the number.
//! Who hears it on a vnet's segment knows the id; it is not in the frame.

use std::{collections::BTreeMap, time::Duration};

use viaduct_types::{HostKey, MacAddr, VnetId};

use super::layout::word;

/// What is signed begins with it: a signature for something else is none of a host on a segment.
pub const SEGMENT_CONTEXT: &[u8] = b"viaduct-vnet-segment/1";
/// How old a host's number may be, and how far ahead, as long as it says by a connection at which one it is: both ends count on
/// from there by clocks that nobody sets, so that only what it took on its way is between them, and who was busy.
pub const NEAR: Duration = Duration::from_secs(3);
/// As long as that is not known: clocks may be so far apart.
pub const APART: Duration = Duration::from_secs(5 * 60);
/// What a host has said of its numbers by a connection holds for so long.
pub const TOLD: Duration = Duration::from_secs(25);

/// What these frames are: experiments on a segment of one's own (IEEE 802, section 9.2).
const SEGMENT_TYPE: u16 = 0x88b5;
/// Where they go. Switches flood it, and nobody listens to it: a group that is administered locally.
const SEGMENT_GROUP: MacAddr = MacAddr([0x03, 0x56, 0x49, 0x41, 0x44, 0x00]);
const MAGIC: [u8; 8] = *b"viaduct2";
const SIGNATURE: usize = 64;

/// What a frame says: who bridges here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Who.
    pub host: HostKey,
    /// Each is greater than the one before; see [`Numbers`].
    pub number: u64,
}

impl Segment {
    /// What is signed, where this vnet is bridged.
    pub fn signed(&self, vnet: VnetId) -> Vec<u8> {
        [SEGMENT_CONTEXT, &vnet.to_bytes(), &self.host.0, &self.number.to_be_bytes()].concat()
    }

    /// The frame.
    pub fn frame(&self, signature: &[u8]) -> Vec<u8> {
        let key = &self.host.0;
        // One's own on the segment; switches learn nothing else from it.
        let source = [0x06, key[0], key[1], key[2], key[3], key[4]];
        let kind = SEGMENT_TYPE.to_be_bytes();
        [&SEGMENT_GROUP.0[..], &source, &kind, &MAGIC, key, &self.number.to_be_bytes(), signature].concat()
    }

    /// What it says, and the signature, which is still to be looked at; none when it is another frame. Switches may have padded it.
    pub fn read(frame: &[u8]) -> Option<(Self, &[u8; SIGNATURE])> {
        if !is_segment(frame) || frame.get(14..22) != Some(&MAGIC) {
            return None;
        }
        let (key, rest) = frame.get(22..)?.split_first_chunk::<32>()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        Some((Self { host: HostKey(*key), number: u64::from_be_bytes(*number) }, rest.first_chunk()?))
    }
}

/// Whether a frame goes where these go, whatever it says. It is what ports let through before anything else, so that it
/// must not get further by any host.
pub(super) fn is_segment(frame: &[u8]) -> bool {
    frame.starts_with(&SEGMENT_GROUP.0) && word(frame, 12) == Some(SEGMENT_TYPE)
}

/// Why a number is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It, or a greater one, was heard before.
    Old,
    /// It is far from what its host would say by this host's clock, or by what it has said itself.
    Far,
}

/// The numbers of hosts on segments: milliseconds, from the time of day at which the process began, so that it does not matter when
/// somebody sets a clock later. So a host's numbers only grow, also over its restarts, and what was heard once is not heard again. What
/// somebody has kept before it was heard here is too old soon: how soon depends on whether the host says by a connection
/// what its numbers are, or it is to be told by this host's clock.
#[derive(Debug, Default)]
pub struct Numbers(BTreeMap<HostKey, Of>);

#[derive(Clone, Debug, Default)]
struct Of {
    /// On the segment of each vnet: what is said on two at once may be heard in any order.
    last: BTreeMap<VnetId, u64>,
    told: Option<(u64, Duration)>,
}

impl Numbers {
    /// The host has said by a connection what its number is now.
    pub fn tell(&mut self, now: Duration, host: HostKey, number: u64) {
        let of = self.0.entry(host).or_default();
        of.told = Some((number, now));
        // Its clock has been set back between two starts.
        of.last.values_mut().for_each(|last| *last = (*last).min(number));
    }

    /// Whether a number may be taken that was heard on a vnet's segment, at this time of day in milliseconds.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, now: Duration, time: u64, vnet: VnetId, segment: &Segment) -> Result<(), Doubt> {
        let of = self.0.get(&segment.host);
        let (expected, within) = match of.and_then(|of| of.told) {
            Some((number, then)) if now.saturating_sub(then) < TOLD => {
                (number.saturating_add(milliseconds(now.saturating_sub(then))), NEAR)
            }
            Some(_) | None => (time, APART),
        };
        let last = of.and_then(|of| of.last.get(&vnet)).copied();
        // Not one that cannot be by now: its clock was ahead, and is not any more.
        let last = last.filter(|last| *last <= expected.saturating_add(milliseconds(within)));
        if last.is_some_and(|last| last >= segment.number) {
            return Err(Doubt::Old);
        }
        if segment.number.abs_diff(expected) > milliseconds(within) { Err(Doubt::Far) } else { Ok(()) }
    }

    /// The signature was right.
    pub fn accept(&mut self, vnet: VnetId, segment: &Segment) {
        self.0.entry(segment.host).or_default().last.insert(vnet, segment.number);
    }

    /// Remembers nothing of those who are not known any more.
    pub fn retain(&mut self, is_known: impl Fn(HostKey) -> bool) {
        self.0.retain(|key, _| is_known(*key));
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A host's own numbers.
#[derive(Debug)]
pub struct Count {
    begin: u64,
    last: u64,
}

impl Count {
    /// From this time of day in milliseconds on.
    pub fn new(begin: u64) -> Self {
        Self { begin, last: 0 }
    }

    /// The next one, at a time since then.
    pub fn next(&mut self, now: Duration) -> u64 {
        self.last = self.begin.saturating_add(milliseconds(now)).max(self.last.saturating_add(1));
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostKey = HostKey([7; 32]);

    fn vnet(n: u8) -> VnetId {
        format!("{n}7").parse().unwrap()
    }

    fn said(number: u64) -> Segment {
        Segment { host: HOST, number }
    }

    #[test]
    fn what_is_written_is_read_and_anything_else_is_none() {
        let mut frame = said(5).frame(&[9; SIGNATURE]);
        assert!(is_segment(&frame));
        assert_eq!(Segment::read(&frame), Some((said(5), &[9; SIGNATURE])));
        for length in 0..frame.len() {
            assert_eq!(Segment::read(&frame[..length]), None);
        }
        for at in (0..6).chain(12..22) {
            let mut other = frame.clone();
            other[at] ^= 1;
            assert_eq!(Segment::read(&other), None, "{at}");
            assert_eq!(is_segment(&other), at >= 14, "it goes no further than these do: {at}");
        }
        // Switches may pad it.
        frame.extend([0; 10]);
        assert_eq!(Segment::read(&frame), Some((said(5), &[9; SIGNATURE])));
    }

    #[test]
    fn what_is_signed_is_of_one_vnet_host_and_number() {
        let all = [
            said(5).signed(vnet(1)),
            said(5).signed(vnet(2)),
            said(6).signed(vnet(1)),
            Segment { host: HostKey([8; 32]), number: 5 }.signed(vnet(1)),
        ];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
    }

    #[test]
    fn each_is_taken_once_and_those_before_it_never() {
        let (mut numbers, now, time) = (Numbers::default(), Duration::ZERO, 1_000_000_000);
        for number in [time, time + 1, time + 900] {
            assert_eq!(numbers.check(now, time, vnet(1), &said(number)), Ok(()));
            numbers.accept(vnet(1), &said(number));
            assert_eq!(numbers.check(now, time, vnet(2), &said(number)), Ok(()), "on another segment");
            for old in [number, number - 1, time - 5_000] {
                assert_eq!(numbers.check(now, time, vnet(1), &said(old)), Err(Doubt::Old));
            }
        }
    }

    #[test]
    fn what_was_kept_is_too_old_by_the_clock_and_sooner_by_the_connection() {
        let (mut numbers, time) = (Numbers::default(), 1_000_000_000);
        let at = Duration::from_secs;
        let is = |numbers: &Numbers, now, number| {
            numbers.check(at(now), time + now * 1000, vnet(1), &said(number))
        };
        assert_eq!(is(&numbers, 299, time), Ok(()));
        assert_eq!(is(&numbers, 301, time), Err(Doubt::Far));
        // Its clock is an hour ahead, and it says so.
        let ahead = time + 3_600_000;
        assert_eq!(is(&numbers, 0, ahead), Err(Doubt::Far));
        numbers.tell(at(0), HOST, ahead);
        assert_eq!(is(&numbers, 3, ahead), Ok(()));
        assert_eq!(is(&numbers, 4, ahead), Err(Doubt::Far));
        assert_eq!(is(&numbers, 11, time), Err(Doubt::Far));
        assert_eq!(is(&numbers, 11, ahead + 11_000), Ok(()));
        numbers.accept(vnet(1), &said(ahead + 11_000));
        // It is started again, by when its clock is right.
        numbers.tell(at(20), HOST, time + 20_000);
        assert_eq!(is(&numbers, 21, time + 21_000), Ok(()));
        assert_eq!(is(&numbers, 21, time + 20_000), Err(Doubt::Old));
        numbers.accept(vnet(1), &said(time + 400_000));
        assert_eq!(is(&numbers, 50, time + 50_000), Ok(()), "a number that it cannot have reached is none");
    }

    #[test]
    fn own_numbers_grow_with_time_and_without() {
        let mut count = Count::new(1_000);
        let all: Vec<u64> = [0, 0, 0, 5, 5, 900].map(|now| count.next(Duration::from_millis(now))).to_vec();
        assert_eq!(all, [1_000, 1_001, 1_002, 1_005, 1_006, 1_900]);
    }
}
