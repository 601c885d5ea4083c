//! How much of what is for everybody a bridge may give, where machines that nobody manages are behind it; and how much of
//! what each may have done for it.

use std::time::Duration;

/// Counts frames that are sent to more than one peer, or others, and says which are too many: so many a second may be, and as many at
/// once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storm<const RATE: u32 = 1_000> {
    left: u32,
    /// Up to when what may be sent has been counted.
    counted: Duration,
}

impl<const RATE: u32> Default for Storm<RATE> {
    fn default() -> Self {
        Self { left: RATE, counted: Duration::ZERO }
    }
}

impl<const RATE: u32> Storm<RATE> {
    /// Whether one more may go, at a time since any moment that is the same for all calls.
    pub fn lets_through(&mut self, now: Duration) -> bool {
        let each = Duration::from_nanos(1_000_000_000 / u64::from(RATE.max(1)));
        let passed = now.saturating_sub(self.counted);
        let more = u32::try_from(passed.as_nanos() / each.as_nanos()).unwrap_or(u32::MAX);
        if more > 0 {
            self.left = self.left.saturating_add(more).min(RATE);
            // What is left of the time counts for the next.
            self.counted = if self.left == RATE { now } else { self.counted + each * more };
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_may_be_and_no_more() {
        fn passed<const RATE: u32>() -> u32 {
            let mut storm = Storm::<RATE>::default();
            // A hundred thousand a second, for ten seconds.
            let times = (0..1_000_000_u64).map(|number| Duration::from_micros(number * 10));
            times.map(|now| u32::from(storm.lets_through(now))).sum()
        }
        for (passed, rate) in [(passed::<1_000>(), 1_000), (passed::<100>(), 100)] {
            assert!((rate * 10..=rate * 11).contains(&passed), "{passed}");
        }
    }

    #[test]
    fn what_is_below_the_limit_is_not_touched() {
        let mut storm = Storm::<1_000>::default();
        assert!((0..10_000_u64).all(|number| storm.lets_through(Duration::from_micros(number * 1_001))));
    }

    #[test]
    fn after_a_pause_there_is_room_for_a_burst_and_time_may_stand_still() {
        let mut storm = Storm::<1_000>::default();
        let at = Duration::from_secs(9);
        let burst = (0..5_000).filter(|_| storm.lets_through(at)).count();
        assert_eq!(burst, 1_000);
        assert!(!storm.lets_through(Duration::from_secs(3)), "time does not go back");
        assert!(storm.lets_through(at + Duration::from_millis(2)));
    }
}
