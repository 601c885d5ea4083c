//! How long a worker lets frames gather before it carries them.

use std::{ops::AddAssign, time::Duration};

/// Over such a time it is counted what comes.
const WINDOW: Duration = Duration::from_micros(500);
/// So many frames in a second are much. Two who only answer each other are slower.
const MUCH: f32 = 30_000.0;
/// Or so many bytes: 2 Gbit/s.
const BROAD: f32 = 250_000_000.0;
/// How long frames gather then: the more come, the longer, for what wakes and is woken is what has no processor left.
const SHORTEST: Duration = Duration::from_micros(100);
const LONGEST: Duration = Duration::from_micros(300);
/// For each that came in a window: 200 µs when 80,000 come in a second.
const FOR_EACH: Duration = Duration::from_micros(5);
/// But no more bytes than these: what a program that is sent datagrams has by default holds some 95 of full size (212,992 bytes in all,
/// net/core/sock.c), and is emptied by a thread that has to be woken for it.
const GATHERED: usize = 32 << 10;
/// Who finds so many at once, or so many bytes, is behind with the work and does not rest.
const MANY: u32 = 8;
const LARGE: usize = 256 << 10;

/// What came with one waking: frames or super-frames, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) pieces: u32,
    pub(super) bytes: usize,
}

impl Load {
    /// Whether it is one frame at most, and no super-frame. When such ones come alone, they are neither many nor broad.
    pub(super) fn is_little(self) -> bool {
        const LONGEST: usize = 10 << 10;
        self.pieces <= 1 && self.bytes <= LONGEST
    }

    /// Whether they are many bytes, for what came in this time.
    pub(super) fn is_broad(self, passed: Duration) -> bool {
        self.bytes as f32 >= BROAD * passed.as_secs_f32()
    }
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Self) {
        self.pieces += other.pieces;
        self.bytes += other.bytes;
    }
}

/// When much comes, to be woken for each piece costs more than to carry it, and it costs the wakers, too. Then frames gather for a
/// moment, as with a network card's interrupt moderation. What comes alone never waits.
#[derive(Debug, Default)]
pub(super) struct Pace {
    since: Duration,
    load: Load,
    /// For how long frames gather, while many come.
    rest: Option<Duration>,
}

impl Pace {
    /// Whether frames gather.
    pub(super) fn rests(&self) -> bool {
        self.rest.is_some()
    }

    /// This has come, up to now; says for how long the next should gather. What comes alone while none gather need not be told.
    #[unsafe(link_section = "frame_path")]
    pub(super) fn rest_after(&mut self, now: Duration, load: Load) -> Option<Duration> {
        self.load += load;
        let passed = now.saturating_sub(self.since);
        if passed >= WINDOW {
            let in_a_window = (WINDOW * self.load.pieces).div_duration_f32(passed);
            let filled = passed.mul_f32(GATHERED as f32 / self.load.bytes.max(1) as f32);
            let rest = FOR_EACH.mul_f32(in_a_window).min(filled).clamp(SHORTEST, LONGEST);
            let are_many = self.load.pieces as f32 >= MUCH * passed.as_secs_f32();
            self.rest = (are_many || self.load.is_broad(passed)).then_some(rest);
            self.since = now;
            self.load = Load::default();
        }
        self.rest.filter(|_| load.pieces < MANY && load.bytes < LARGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it rests after each of so many wakings, so far apart.
    fn rests(pace: &mut Pace, from: Duration, apart: Duration, count: u32, load: Load) -> Vec<bool> {
        (0..count).map(|index| pace.rest_after(from + apart * index, load).is_some()).collect()
    }

    const SMALL: Load = Load { pieces: 1, bytes: 100 };

    #[test]
    fn what_comes_alone_does_not_wait() {
        let mut pace = Pace::default();
        let second = Duration::from_secs(1);
        assert!(!rests(&mut pace, second, Duration::from_micros(60), 1_000, SMALL).contains(&true));
    }

    #[test]
    fn frames_gather_while_many_come_and_no_longer() {
        let mut pace = Pace::default();
        let apart = Duration::from_micros(20);
        let rest = rests(&mut pace, Duration::from_secs(1), apart, 200, SMALL);
        assert!(rest[60..].iter().all(|rests| *rests));
        // Two who answer each other do not wait.
        let apart = Duration::from_micros(40);
        assert!(!rests(&mut pace, Duration::from_millis(1_500), apart, 200, SMALL)[15..].contains(&true));
        // While they gather, there are fewer wakings, but no fewer frames.
        let gathered = Load { pieces: 5, bytes: 500 };
        let rest = rests(&mut pace, Duration::from_secs(2), Duration::from_micros(100), 200, gathered);
        assert!(rest[12..].iter().all(|rests| *rests));
        // Of many there are more, and they gather for longer.
        let many = Load { pieces: 7, bytes: 700 };
        let longest = (0..200)
            .filter_map(|index| {
                pace.rest_after(Duration::from_millis(2_100) + Duration::from_micros(50) * index, many)
            })
            .max();
        assert_eq!(longest, Some(LONGEST));
        // Unless they are of full size: of these, no more gather than who is sent them has room for.
        let full = Load { pieces: 7, bytes: 7 * 1_500 };
        let rests = (0..200).filter_map(|index| {
            pace.rest_after(Duration::from_millis(2_200) + Duration::from_micros(50) * index, full)
        });
        // 210 bytes in a microsecond.
        assert_eq!(rests.skip(20).max().map(|rest| rest.as_micros()), Some(156));
        // The first one after some quiet shows that it is over.
        assert_eq!(pace.rest_after(Duration::from_secs(3), SMALL), None);
    }

    #[test]
    fn super_frames_gather_when_there_are_many_bytes_of_them() {
        let large = Load { pieces: 1, bytes: 64 << 10 };
        let mut pace = Pace::default();
        let rest = rests(&mut pace, Duration::from_secs(1), Duration::from_micros(200), 50, large);
        assert!(rest[4..].iter().all(|rests| *rests));
        assert_eq!(pace.rest, Some(SHORTEST));
        let rest = rests(&mut pace, Duration::from_secs(2), Duration::from_micros(400), 50, large);
        assert!(!rest[4..].contains(&true));
    }

    #[test]
    fn who_is_behind_does_not_rest() {
        let apart = Duration::from_micros(50);
        for load in [Load { pieces: MANY, bytes: 3_200 }, Load { pieces: 4, bytes: LARGE }] {
            let mut pace = Pace::default();
            assert!(!rests(&mut pace, Duration::from_secs(1), apart, 200, load).contains(&true));
            assert!(pace.rest.is_some());
        }
    }
}
