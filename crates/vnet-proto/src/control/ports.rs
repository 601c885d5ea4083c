//! Whether a peer's further ports are used: as long as what is sent there arrives.
//!
//! A firewall may let the first port through and no other, and NAT knows of none that it has not seen. So each worker sends
//! small datagrams to where its frames would go, and the peer says on the control channel which have come. When all have,
//! frames follow. When none of a second's do, everything goes to the first port again, where the control channel itself is.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

/// How often is asked whether datagrams arrive, while frames go that way or it is not known.
const OFTEN: Duration = Duration::from_millis(200);
/// How often, while nothing else is sent: what is on the way may forget who is not heard.
const SELDOM: Duration = Duration::from_secs(5);
/// What has not been answered for so long is not going to be. Frames are lost for no longer.
const PATIENCE: Duration = Duration::from_secs(1);
/// When it is tried again, at first; later after twice the time, and so on.
const AGAIN: Duration = Duration::from_secs(2);
/// No later than this.
const LATEST: Duration = Duration::from_secs(60);
/// Ports that have been used for so long have not failed again and again.
const STEADY: Duration = Duration::from_secs(30);
/// So many questions are remembered: those of more than the time in which they have to be answered.
const REMEMBERED: usize = 16;

/// How it is about a peer's further ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Further<'a> {
    /// They are used, each for what one or several workers send.
    Used(&'a [u16]),
    /// The peer has none, or there is no connection to it.
    None,
    /// There are keys for no vnet whose frames would go there.
    Idle,
    /// Whether what is sent there arrives is being found out.
    Tried,
    /// It does not arrive, and is tried again from time to time.
    Silent,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nothing has been asked yet.
    #[default]
    Idle,
    Tried,
    Used {
        since: Duration,
    },
    Silent {
        until: Duration,
    },
}

/// See the module. One for each connection.
#[derive(Debug, Default)]
pub(super) struct Spread {
    ports: Vec<u16>,
    is_keyed: bool,
    state: State,
    /// Where the peer is; none: where it has no ports of its own.
    at: Option<SocketAddr>,
    /// Counts questions.
    number: u32,
    /// Those that not all workers' answers have come to, with their times.
    asked: VecDeque<(u32, Duration)>,
    last: Option<Duration>,
    /// The last question of each worker that has been answered.
    answered: Vec<Option<u32>>,
    /// How often in a row nothing arrived.
    failures: u32,
}

impl Spread {
    pub(super) fn has_ports(&self) -> bool {
        !self.ports.is_empty()
    }

    pub(super) fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// The peer has told its ports.
    pub(super) fn set_ports(&mut self, ports: Vec<u16>) {
        if ports != self.ports {
            self.ports = ports;
            self.begin();
        }
    }

    /// There are keys for what is sent there, or none any more.
    pub(super) fn set_keyed(&mut self, is_keyed: bool) {
        if std::mem::replace(&mut self.is_keyed, is_keyed) != is_keyed {
            self.begin();
        }
    }

    fn begin(&mut self) {
        self.failures = 0;
        self.forget(State::Idle);
    }

    fn forget(&mut self, state: State) {
        self.state = state;
        self.asked.clear();
        self.answered.clear();
        self.last = None;
    }

    /// What is to be asked at this moment, if anything, when the peer is reached at this address (none: by way of others), by
    /// so many workers with ports of their own, and with frames on the way or not.
    pub(super) fn handle_timeout(
        &mut self,
        now: Duration,
        at: Option<SocketAddr>,
        workers: u8,
        has_traffic: bool,
    ) -> Option<u32> {
        if at != self.at {
            self.at = at;
            self.begin();
        }
        if at.is_none() || workers == 0 || !self.has_ports() || !self.is_keyed {
            self.forget(State::Idle);
            return None;
        }
        match self.state {
            State::Silent { until } if now < until => return None,
            State::Silent { .. } | State::Idle => {
                self.forget(State::Tried);
                self.answered = vec![None; usize::from(workers)];
            }
            State::Tried | State::Used { .. } => {}
        }
        if self.asked.front().is_some_and(|(_, then)| now.saturating_sub(*then) >= PATIENCE) {
            if matches!(self.state, State::Used { since } if now.saturating_sub(since) >= STEADY) {
                self.failures = 0;
            }
            let wait = AGAIN.saturating_mul(1 << self.failures.min(8)).min(LATEST);
            self.failures = self.failures.saturating_add(1);
            self.forget(State::Silent { until: now.saturating_add(wait) });
            return None;
        }
        let is_quiet = !has_traffic && self.asked.is_empty() && matches!(self.state, State::Used { .. });
        let every = if is_quiet { SELDOM } else { OFTEN };
        if self.last.is_some_and(|last| now.saturating_sub(last) < every) || self.asked.len() >= REMEMBERED {
            return None;
        }
        self.number = self.number.wrapping_add(1);
        self.asked.push_back((self.number, now));
        self.last = Some(now);
        Some(self.number)
    }

    /// What a worker sent has arrived, as the peer says; whether its ports are used from now on. Whoever says so of what was not
    /// sent, or not lately, says nothing.
    pub(super) fn arrived(&mut self, now: Duration, worker: u8, number: u32) -> bool {
        let Some(answered) = self.answered.get_mut(usize::from(worker)) else { return false };
        if !self.asked.iter().any(|(asked, _)| *asked == number) {
            return false;
        }
        *answered = Some(answered.map_or(number, |before| before.max(number)));
        // A `None` is less than all numbers.
        let Some(all) = self.answered.iter().min().copied().flatten() else { return false };
        self.asked.retain(|(asked, _)| *asked > all);
        let begins = self.state == State::Tried;
        if begins {
            self.state = State::Used { since: now };
        }
        begins
    }

    /// How it is, when the peer is reached at this address.
    pub(super) fn further(&self, at: SocketAddr) -> Further<'_> {
        match self.state {
            _ if !self.has_ports() => Further::None,
            _ if !self.is_keyed || self.at.is_none() => Further::Idle,
            State::Used { .. } if self.at == Some(at) => Further::Used(&self.ports),
            State::Used { .. } | State::Tried | State::Idle => Further::Tried,
            State::Silent { .. } => Further::Silent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WORKERS: u8 = 3;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn there() -> SocketAddr {
        "192.0.2.1:1798".parse().unwrap()
    }

    /// A peer with two workers, and keys for their ports.
    fn spread() -> Spread {
        let mut spread = Spread::default();
        spread.set_ports(vec![1800, 1801]);
        spread.set_keyed(true);
        spread
    }

    /// Asks every 100 ms from the one time to the other; what each worker sends arrives if it may. When they were used.
    fn pass(spread: &mut Spread, times: std::ops::Range<u64>, may: impl Fn(u8) -> bool) -> Vec<u64> {
        let mut used = Vec::new();
        for time in times.step_by(100) {
            if let Some(number) = spread.handle_timeout(at(time), Some(there()), WORKERS, true) {
                for worker in (0..WORKERS).filter(|worker| may(*worker)) {
                    spread.arrived(at(time), worker, number);
                }
            }
            if matches!(spread.further(there()), Further::Used(_)) {
                used.push(time);
            }
        }
        used
    }

    #[test]
    fn ports_are_used_when_what_all_workers_send_arrives() {
        let mut spread = spread();
        assert_eq!(pass(&mut spread, 0..1_000, |worker| worker == 1), []);
        assert_eq!(spread.further(there()), Further::Tried);
        assert_eq!(pass(&mut spread, 1_000..1_100, |_| true), []);
        assert_eq!(spread.further(there()), Further::Silent);
        assert_eq!(pass(&mut spread, 1_100..4_000, |_| true).first(), Some(&3_000));
        assert_eq!(spread.further(there()), Further::Used(&[1800, 1801]));
    }

    #[test]
    fn what_stops_arriving_is_noticed_within_a_second_and_tried_less_and_less_often() {
        let mut spread = spread();
        let used = pass(&mut spread, 0..5_000, |_| true);
        assert_eq!(used.len(), 50);
        let used = pass(&mut spread, 5_000..300_000, |worker| worker != 0);
        assert_eq!(used.last(), Some(&5_900));
        // In five minutes, a second each at 2, 4, 8, 16, 32, 60, 60 and 60 seconds after the one before.
        let tried = (300..400).filter(|second| {
            let mut asked = false;
            for time in (second * 1_000..second * 1_000 + 1_000).step_by(100) {
                asked |= spread.handle_timeout(at(time), Some(there()), WORKERS, true).is_some();
            }
            asked
        });
        assert!(tried.count() <= 4);
    }

    #[test]
    fn single_losses_do_no_harm() {
        let mut spread = spread();
        pass(&mut spread, 0..1_000, |_| true);
        for round in 1..20 {
            assert_eq!(pass(&mut spread, round * 1_000..round * 1_000 + 600, |w| w == 1).len(), 6);
            assert_eq!(pass(&mut spread, round * 1_000 + 600..round * 1_000 + 1_000, |_| true).len(), 4);
        }
    }

    #[test]
    fn another_place_is_tried_anew_at_once() {
        let mut spread = spread();
        pass(&mut spread, 0..1_000, |_| true);
        let other = "192.0.2.9:30000".parse().unwrap();
        assert_eq!(spread.further(other), Further::Tried);
        let number = spread.handle_timeout(at(1_000), Some(other), WORKERS, false).unwrap();
        assert_eq!(spread.further(other), Further::Tried);
        let begins = (0..WORKERS).map(|worker| spread.arrived(at(1_010), worker, number));
        assert_eq!(begins.collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(spread.further(other), Further::Used(&[1800, 1801]));
        // By way of others there is one port.
        assert_eq!(spread.handle_timeout(at(2_000), None, WORKERS, true), None);
        assert_eq!(spread.further(other), Further::Idle);
    }

    #[test]
    fn nothing_is_asked_where_there_is_nothing_to_use() {
        let mut none = Spread::default();
        none.set_keyed(true);
        assert_eq!(none.handle_timeout(at(0), Some(there()), WORKERS, true), None);
        assert_eq!(none.further(there()), Further::None);
        let mut unkeyed = Spread::default();
        unkeyed.set_ports(vec![1800]);
        assert_eq!(unkeyed.handle_timeout(at(0), Some(there()), WORKERS, true), None);
        assert_eq!(unkeyed.further(there()), Further::Idle);
        assert_eq!(spread().handle_timeout(at(0), Some(there()), 0, true), None);
        // Nor used any more, when there is one port here.
        let mut spread = self::spread();
        pass(&mut spread, 0..1_000, |_| true);
        assert_eq!(spread.handle_timeout(at(1_000), Some(there()), 0, true), None);
        assert_eq!(spread.further(there()), Further::Tried);
        // Ports that are taken back are not used from that moment.
        let mut spread = self::spread();
        pass(&mut spread, 0..1_000, |_| true);
        spread.set_ports(Vec::new());
        assert_eq!(spread.further(there()), Further::None);
    }

    #[test]
    fn what_nobody_answers_without_keys_is_tried_at_once_with_new_ones() {
        let mut spread = spread();
        pass(&mut spread, 0..60_000, |_| false);
        assert_eq!(spread.further(there()), Further::Silent);
        spread.set_keyed(false);
        assert_eq!(spread.handle_timeout(at(60_000), Some(there()), WORKERS, true), None);
        assert_eq!(spread.further(there()), Further::Idle);
        spread.set_keyed(true);
        assert_eq!(pass(&mut spread, 60_100..61_000, |_| true).len(), 9);
    }

    #[test]
    fn without_traffic_little_is_asked() {
        let mut spread = spread();
        pass(&mut spread, 0..1_000, |_| true);
        let mut asked = 0;
        for time in (1_000..61_000).step_by(100) {
            if let Some(number) = spread.handle_timeout(at(time), Some(there()), WORKERS, false) {
                asked += 1;
                for worker in 0..WORKERS {
                    spread.arrived(at(time), worker, number);
                }
            }
        }
        assert!((11..=13).contains(&asked), "{asked}");
    }

    proptest! {
        /// A peer may say what it wants.
        #[test]
        fn answers_to_what_was_not_asked_are_none(said in prop::collection::vec((any::<u8>(), any::<u32>()), 0..200)) {
            let mut spread = spread();
            for (time, (worker, number)) in (0..).step_by(100).zip(said) {
                let asked = spread.handle_timeout(at(time), Some(there()), WORKERS, true);
                let known = asked.into_iter().chain(spread.asked.iter().map(|(number, _)| *number)).any(|n| n == number);
                let before = spread.further(there()) == Further::Used(&[1800, 1801]);
                spread.arrived(at(time), worker, number);
                let after = spread.further(there()) == Further::Used(&[1800, 1801]);
                prop_assert!(known || before == after);
            }
        }
    }
}
