//! How a worker gets its turns on a processor.

use std::{io, num::NonZeroU64, time::Duration};

use super::pace::Load;

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

/// Over such a time it is looked how much a worker has to do.
const WINDOW: Duration = Duration::from_millis(10);
/// Who is awake for a greater part of the time would leave nothing to whoever needs the same processor.
const MOST: f32 = 0.93;
/// An ordinary thread waits for processors, too, and counts as awake meanwhile.
const MOST_OF_ORDINARY: f32 = 0.98;

/// Puts a worker before all ordinary threads while so much comes that it has to be streams, and it still leaves time to them. An
/// ordinary thread, however nice others are, waits for a processor until the slice of who has it is over, also while another
/// processor is idle: milliseconds, in which megabytes come. Lone frames, on the other hand, are carried soonest by an ordinary
/// thread, which the kernel wakes on the processor of who wakes it: the others sleep, and take long to wake. And who sends or
/// receives single frames, of which nobody waits for another, needs the processors himself.
#[derive(Debug, Default)]
pub(super) struct Turns {
    since: Duration,
    awake: Duration,
    load: Load,
    /// Before all ordinary threads (SCHED_RR, with the lowest of its priorities).
    is_ahead: bool,
    is_refused: bool,
}

impl Turns {
    /// Frames do not wait for a processor behind what else the host does, nor does a rest last twice as long as it says: of itself the
    /// kernel adds up to 50 µs.
    pub(super) fn begin() -> Self {
        if let Err(error) = go_first() {
            tracing::warn!(%error, "frames of vnets wait for a processor like everybody else (systemd: LimitNICE=-15)");
        }
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        Self::default()
    }

    pub(super) fn is_ahead(&self) -> bool {
        self.is_ahead
    }

    /// It was awake from then until now, and carried this. What came alone need not be told while it is an ordinary thread.
    pub(super) fn carried(&mut self, load: Load, from: Duration, now: Duration) {
        self.awake += now.saturating_sub(from);
        self.load += load;
        let passed = now.saturating_sub(self.since);
        if passed < WINDOW {
            return;
        }
        let most = if self.is_ahead { MOST } else { MOST_OF_ORDINARY };
        let goes_ahead = self.load.is_broad(passed) && self.awake.div_duration_f32(passed) < most;
        (self.since, self.awake, self.load) = (now, Duration::ZERO, Load::default());
        if goes_ahead == self.is_ahead || self.is_refused {
            return;
        }
        match put_ahead(goes_ahead) {
            Ok(()) => self.is_ahead = goes_ahead,
            Err(error) => {
                self.is_refused = true;
                tracing::warn!(%error, "frames of vnets wait for their turns when there is much to do (systemd: LimitRTPRIO=1)");
            }
        }
    }
}

/// This thread: sched_setscheduler(2). Who comes back is as nice as before.
fn put_ahead(is_ahead: bool) -> io::Result<()> {
    let policy = if is_ahead { libc::SCHED_RR } else { libc::SCHED_OTHER };
    let parameter = libc::sched_param { sched_priority: libc::c_int::from(is_ahead) };
    // Not by the C library, of which some have no such function.
    // SAFETY: the kernel only reads the parameter, which lives until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const parameter) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's word: policy and priority of this thread (proc_pid_stat(5), fields 41 and 40), and how nice it is (19).
    fn standing() -> (libc::c_int, u32, i32) {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[38].parse().unwrap(), fields[37].parse().unwrap(), fields[16].parse().unwrap())
    }

    /// In a millisecond.
    const SMALL: usize = 100_000;
    const LARGE: usize = 500_000;

    /// Carries so much in each millisecond, and is awake for so many microseconds of it.
    fn work(turns: &mut Turns, now: &mut Duration, bytes: usize, awake: u64, milliseconds: u32) {
        for _ in 0..milliseconds {
            *now += Duration::from_millis(1);
            let from = now.saturating_sub(Duration::from_micros(awake));
            turns.carried(Load { pieces: 50, bytes }, from, *now);
        }
    }

    #[test]
    fn who_has_much_to_do_and_leaves_time_to_others_comes_first() {
        let run = || {
            let mut turns = Turns::begin();
            let mut now = Duration::from_secs(1);
            let (ordinary, ahead) = ((libc::SCHED_OTHER, 0, -15), (libc::SCHED_RR, 1, -15));
            assert_eq!(standing(), ordinary);
            work(&mut turns, &mut now, SMALL, 600, 31);
            assert_eq!(standing(), ordinary, "single frames");
            work(&mut turns, &mut now, LARGE, 970, 10);
            assert_eq!(standing(), ahead, "an ordinary one may have waited");
            work(&mut turns, &mut now, LARGE, 600, 30);
            assert_eq!(standing(), ahead);
            work(&mut turns, &mut now, LARGE, 960, 10);
            assert_eq!(standing(), ordinary, "hardly anybody else had a turn");
            work(&mut turns, &mut now, LARGE, 1_000, 30);
            assert_eq!(standing(), ordinary);
            work(&mut turns, &mut now, LARGE, 600, 20);
            assert_eq!(standing(), ahead);
            now += Duration::from_secs(5);
            work(&mut turns, &mut now, LARGE, 10, 1);
            assert_eq!(standing(), ordinary, "nothing had come for long");
        };
        std::thread::spawn(run).join().unwrap();
    }
}
