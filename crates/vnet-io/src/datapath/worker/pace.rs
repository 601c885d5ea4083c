//! How a worker gets its turns on a processor, and how long it lets frames gather for one.

use std::{io, num::NonZeroU64, ops::AddAssign, time::Duration};

/// Over such a time it is counted what comes.
const WINDOW: Duration = Duration::from_micros(500);
/// So much in a window is much: 20,000 in a second.
const MUCH: f32 = 10.0;
/// How long frames gather then: the more come, the longer, for what wakes and is woken is what has no processor left.
const SHORTEST: Duration = Duration::from_micros(100);
const LONGEST: Duration = Duration::from_micros(300);
/// For each that came in a window: 200 µs when 80,000 come in a second.
const FOR_EACH: Duration = Duration::from_micros(5);
/// Who finds so many at once, or so many bytes, is behind with the work and does not rest.
const MANY: u32 = 8;
const LARGE: usize = 64 << 10;

/// What came with one waking: frames or super-frames, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) pieces: u32,
    pub(super) bytes: usize,
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Self) {
        self.pieces += other.pieces;
        self.bytes += other.bytes;
    }
}

/// When much comes in small pieces, to be woken for each costs more than to carry it, and it costs the wakers, too. Then frames
/// gather for a moment, as with a network card's interrupt moderation. What comes alone never waits, nor does what the kernel
/// has gathered already.
#[derive(Debug, Default)]
pub(super) struct Pace {
    since: Duration,
    pieces: u32,
    /// For how long frames gather, while many come.
    rest: Option<Duration>,
}

impl Pace {
    /// This has come, up to now; says for how long the next should gather.
    pub(super) fn rest_after(&mut self, now: Duration, load: Load) -> Option<Duration> {
        self.pieces = self.pieces.saturating_add(load.pieces);
        let passed = now.saturating_sub(self.since);
        if passed >= WINDOW {
            let in_a_window = (WINDOW * self.pieces).div_duration_f32(passed);
            self.rest = (in_a_window >= MUCH).then(|| FOR_EACH.mul_f32(in_a_window).clamp(SHORTEST, LONGEST));
            self.since = now;
            self.pieces = 0;
        }
        self.rest.filter(|_| load.pieces < MANY && load.bytes < LARGE)
    }
}

/// Lets this thread, and those that it starts from now on, come before whatever has no reason of its own; nothing that is real-time. It
/// needs CAP_SYS_NICE or a limit (RLIMIT_NICE) that allows it.
///
/// # Errors
/// When there is neither.
pub fn go_first() -> io::Result<()> {
    const NICE: i32 = -15;
    // Who is meant by 0 is the calling thread (setpriority(2), C library/kernel differences).
    Ok(rustix::process::setpriority_process(None, NICE)?)
}

/// Frames do not wait for a processor behind what else the host does, nor does a rest last twice as long as it says: of itself the
/// kernel adds up to 50 µs.
pub(super) fn keep() {
    if let Err(error) = go_first() {
        tracing::warn!(%error, "frames of vnets wait for a processor like everybody else (systemd: LimitNICE=-15)");
    }
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
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
        // The first one after some quiet shows that it is over.
        assert_eq!(pace.rest_after(Duration::from_secs(3), SMALL), None);
    }

    #[test]
    fn who_is_behind_does_not_rest() {
        let apart = Duration::from_micros(50);
        for load in [Load { pieces: MANY, bytes: 3_200 }, Load { pieces: 2, bytes: 128 << 10 }] {
            let mut pace = Pace::default();
            assert!(!rests(&mut pace, Duration::from_secs(1), apart, 200, load).contains(&true));
            assert!(pace.rest.is_some());
        }
    }
}
