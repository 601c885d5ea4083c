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
/// So many frames in a second are more than one who yields carries well.
const SOME: f32 = 1_000.0;
/// For how long nothing of that has come when a worker yields again.
const CALM: Duration = Duration::from_secs(1);

/// How a worker stands among the threads that want a processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    /// Nobody leaves a processor for it (SCHED_BATCH).
    Yields,
    /// Whoever is nicer leaves it the processor (SCHED_OTHER).
    #[default]
    Ordinary,
    /// Before all ordinary threads (SCHED_RR, with the lowest of its priorities).
    Ahead,
}

/// How a worker stands: as it is best for what comes, and for who else wants the processors.
///
/// While so much comes that it has to be streams, it comes before all ordinary threads, if it still leaves time to them. An
/// ordinary thread, however nice others are, waits for a processor until the slice of who has it is over, also while another
/// processor is idle: milliseconds, in which megabytes come. Who sends or receives single frames, of which nobody waits for another,
/// needs the processors himself.
///
/// Lone frames, of which there are few, are carried soonest by one who lets whoever wakes it end what it does: that
/// is about to sleep, and where it is put aside, and two processors are there, the next to be woken is put on the other one, which
/// sleeps, and takes long to wake. When the processors are wanted by others, too, it would wait for these: then it is ordinary.
#[derive(Debug, Default)]
pub(super) struct Turns {
    since: Duration,
    awake: Duration,
    load: Load,
    standing: Standing,
    is_refused: bool,
    trial: Trial,
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
        self.standing == Standing::Ahead
    }

    /// It was awake from then until now, and carried this.
    #[unsafe(link_section = "frame_path")]
    pub(super) fn carried(&mut self, load: Load, from: Duration, now: Duration) {
        self.awake += now.saturating_sub(from);
        self.load += load;
        let passed = now.saturating_sub(self.since);
        if passed < WINDOW {
            return;
        }
        let most = if self.is_ahead() { MOST } else { MOST_OF_ORDINARY };
        let goes_ahead = self.load.is_broad(passed) && self.awake.div_duration_f32(passed) < most;
        let is_some = self.load.pieces as f32 >= SOME * passed.as_secs_f32();
        (self.since, self.awake, self.load) = (now, Duration::ZERO, Load::default());
        if goes_ahead {
            self.stand(Standing::Ahead);
        } else if is_some || self.is_ahead() {
            self.stand(Standing::Ordinary);
            self.trial.not_before(now + CALM);
        }
    }

    /// For how long to wait for frames, if that is to show how long it waits for a processor: what is to be said to
    /// [`waited`](Self::waited) when no frame has come meanwhile. To be asked when it has nothing more to do.
    pub(super) fn patience(&mut self, now: Duration) -> Option<Duration> {
        if self.is_ahead() || !self.trial.is_due(now) {
            return None;
        }
        self.stand(Standing::Yields);
        (self.standing == Standing::Yields).then_some(PATIENCE)
    }

    /// It should have been awake so much sooner.
    pub(super) fn waited(&mut self, late: Duration, now: Duration) {
        if !self.trial.goes_on(late, now) {
            self.stand(Standing::Ordinary);
        }
    }

    /// Where it may not, it stays as it is.
    fn stand(&mut self, standing: Standing) {
        if standing == self.standing || (standing == Standing::Ahead && self.is_refused) {
            return;
        }
        match take(standing) {
            Ok(()) => self.standing = standing,
            Err(error) if standing == Standing::Ahead => {
                self.is_refused = true;
                tracing::warn!(%error, "frames of vnets wait for their turns when there is much to do (systemd: LimitRTPRIO=1)");
            }
            Err(error) => {
                self.trial.not_before(Duration::MAX);
                tracing::warn!(%error, "lone frames of vnets may take a little longer");
            }
        }
    }
}

/// For so long a worker waits for frames when that is to show how long it waits for a processor.
const PATIENCE: Duration = Duration::from_millis(1);
/// It waits for others, then, and not for the machine: to wake a processor that sleeps takes a tenth of it.
const LATE: Duration = Duration::from_micros(500);
/// So often it looks, while frames come.
const BETWEEN: Duration = Duration::from_millis(100);
/// For how long it does not yield when it had to wait, and had to again.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(64);

/// Whether yielding costs nothing: it is tried, and after each time that it did, later.
#[derive(Debug, Default)]
struct Trial {
    due: Duration,
    /// When it began to yield, if it does.
    since: Option<Duration>,
    pause: Duration,
}

impl Trial {
    fn is_due(&self, now: Duration) -> bool {
        now >= self.due
    }

    /// It does not yield until then.
    fn not_before(&mut self, then: Duration) {
        self.due = self.due.max(then);
        self.since = None;
    }

    /// Whether to go on yielding, when it had to wait for so long.
    fn goes_on(&mut self, late: Duration, now: Duration) -> bool {
        let since = *self.since.get_or_insert(now);
        if late < LATE {
            self.due = now + BETWEEN;
            return true;
        }
        // Who has yielded for as long as it paused may try again soon.
        let was_short = now.saturating_sub(since) < self.pause;
        self.pause = if was_short { (2 * self.pause).min(LONGEST_PAUSE) } else { SHORTEST_PAUSE };
        self.not_before(now + self.pause);
        false
    }
}

/// This thread: sched_setscheduler(2). Who comes back is as nice as before.
fn take(standing: Standing) -> io::Result<()> {
    let (policy, priority) = match standing {
        Standing::Yields => (libc::SCHED_BATCH, 0),
        Standing::Ordinary => (libc::SCHED_OTHER, 0),
        Standing::Ahead => (libc::SCHED_RR, 1),
    };
    let parameter = libc::sched_param { sched_priority: priority };
    // Not by the C library, of which some have no such function.
    // SAFETY: the kernel only reads the parameter, which lives until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const parameter) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::{
        net::UdpSocket,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        time::Instant,
    };

    use tokio::sync::mpsc;

    use super::*;
    use crate::datapath::{
        mailbox::{Command, Mailbox},
        socket::Socket,
        worker::{Outlets, Worker},
    };

    /// This thread.
    const SELF: &str = "/proc/thread-self/stat";

    /// The kernel's word: a thread's policy and priority (proc_pid_stat(5), fields 41 and 40), and how nice it is (19).
    fn standing(stat: &str) -> (libc::c_int, u32, i32) {
        let stat = std::fs::read_to_string(stat).unwrap();
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

    const YIELDS: (libc::c_int, u32, i32) = (libc::SCHED_BATCH, 0, -15);
    const ORDINARY: (libc::c_int, u32, i32) = (libc::SCHED_OTHER, 0, -15);
    const AHEAD: (libc::c_int, u32, i32) = (libc::SCHED_RR, 1, -15);

    #[test]
    fn who_has_much_to_do_and_leaves_time_to_others_comes_first() {
        let run = || {
            let mut turns = Turns::begin();
            let mut now = Duration::from_secs(1);
            assert_eq!(standing(SELF), ORDINARY);
            work(&mut turns, &mut now, SMALL, 600, 31);
            assert_eq!(standing(SELF), ORDINARY, "single frames");
            work(&mut turns, &mut now, LARGE, 970, 10);
            assert_eq!(standing(SELF), AHEAD, "an ordinary one may have waited");
            work(&mut turns, &mut now, LARGE, 600, 30);
            assert_eq!(standing(SELF), AHEAD);
            work(&mut turns, &mut now, LARGE, 960, 10);
            assert_eq!(standing(SELF), ORDINARY, "hardly anybody else had a turn");
            work(&mut turns, &mut now, LARGE, 1_000, 30);
            assert_eq!(standing(SELF), ORDINARY);
            work(&mut turns, &mut now, LARGE, 600, 20);
            assert_eq!(standing(SELF), AHEAD);
            assert_eq!(turns.patience(now), None);
            now += Duration::from_secs(5);
            work(&mut turns, &mut now, LARGE, 10, 1);
            assert_eq!(standing(SELF), ORDINARY, "nothing had come for long");
        };
        std::thread::spawn(run).join().unwrap();
    }

    #[test]
    fn who_carries_lone_frames_yields_where_that_costs_nothing() {
        let run = || {
            let mut turns = Turns::begin();
            let mut now = Duration::from_secs(1);
            let soon = Duration::from_micros(60);
            assert_eq!(turns.patience(now), Some(PATIENCE));
            assert_eq!(standing(SELF), YIELDS);
            turns.waited(soon, now);
            assert_eq!((turns.patience(now), standing(SELF)), (None, YIELDS));
            now += BETWEEN;
            assert_eq!(turns.patience(now), Some(PATIENCE));
            // It had to wait: later, and when it had to again, later still.
            for pause in [1, 2, 4, 8, 16, 32, 64, 64].map(Duration::from_secs) {
                turns.waited(Duration::from_millis(3), now);
                assert_eq!(standing(SELF), ORDINARY);
                assert_eq!(turns.patience(now + pause - Duration::from_millis(1)), None);
                now += pause;
                assert_eq!(turns.patience(now), Some(PATIENCE));
                assert_eq!(standing(SELF), YIELDS);
            }
            // Whoever wanted the processor is gone for long, and comes again.
            turns.waited(soon, now);
            now += LONGEST_PAUSE;
            assert_eq!(turns.patience(now), Some(PATIENCE));
            turns.waited(LATE, now);
            assert_eq!((turns.patience(now), standing(SELF)), (None, ORDINARY));
            now += SHORTEST_PAUSE;
            assert_eq!(turns.patience(now), Some(PATIENCE));
            turns.waited(soon, now);
            // Much comes, and ends.
            work(&mut turns, &mut now, SMALL, 600, 11);
            assert_eq!((turns.patience(now), standing(SELF)), (None, ORDINARY));
            now += CALM;
            assert_eq!((turns.patience(now), standing(SELF)), (Some(PATIENCE), YIELDS));
            work(&mut turns, &mut now, LARGE, 600, 11);
            assert_eq!((turns.patience(now), standing(SELF)), (None, AHEAD));
        };
        std::thread::spawn(run).join().unwrap();
    }
    /// A thread that may run on the first processor alone.
    fn held<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
        std::thread::spawn(|| {
            let mut first = rustix::thread::CpuSet::new();
            first.set(0);
            rustix::thread::sched_setaffinity(None, &first).unwrap();
            what()
        })
    }

    #[test]
    fn a_worker_that_waits_for_a_busy_one_yields_no_longer() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (to, sender) = (socket.local_addr().unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let (events, _events) = mpsc::channel(1);
        let (datagrams, _datagrams) = mpsc::channel(1);
        let outlets = Outlets { events, datagrams };
        let worker =
            Worker::new(0, Socket::prepare(socket, 0).unwrap(), Arc::clone(&mailbox), outlets).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let worker = held(move || {
            tell.send(rustix::thread::gettid()).unwrap();
            worker.run();
        });
        let stat = format!("/proc/self/task/{}/stat", told.recv().unwrap().as_raw_nonzero());
        // What comes alone, until it stands like this for so many looks on end.
        let comes_to = |wanted, looks: u32| {
            let end = Instant::now() + Duration::from_secs(60);
            let mut seen = 0;
            for look in 0.. {
                if seen == looks {
                    break;
                }
                assert!(Instant::now() < end, "it is not {wanted:?}, but {:?}", standing(&stat));
                if look % 40 == 0 {
                    sender.send_to(b"alone", to).unwrap();
                }
                std::thread::sleep(Duration::from_micros(100));
                seen = if standing(&stat) == wanted { seen + 1 } else { 0 };
            }
        };
        comes_to(YIELDS, 1);
        let is_over = Arc::new(AtomicBool::new(false));
        let busy = held({
            let is_over = Arc::clone(&is_over);
            move || while !is_over.load(Ordering::Relaxed) {}
        });
        comes_to(ORDINARY, 2_000);
        is_over.store(true, Ordering::Relaxed);
        mailbox.put(Command::Stop);
        busy.join().unwrap();
        worker.join().unwrap();
    }
}
