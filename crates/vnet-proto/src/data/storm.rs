//! How much of what is for everybody a bridge may give, where machines that nobody manages are behind it.

use std::time::Duration;

/// So many frames a second, and so many at once after a pause.
const RATE: u32 = 1_000;
const BURST: u32 = 1_000;

/// Counts frames that are sent to more than one peer, and says which are too many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storm {
    left: u32,
    /// Up to when what may be sent has been counted.
    counted: Duration,
}

impl Default for Storm {
    fn default() -> Self {
        Self { left: BURST, counted: Duration::ZERO }
    }
}

impl Storm {
    /// Whether one more may go, at a time since any moment that is the same for all calls.
    pub fn lets_through(&mut self, now: Duration) -> bool {
        const EACH: Duration = Duration::from_nanos(1_000_000_000 / RATE as u64);
        let passed = now.saturating_sub(self.counted);
        let more = u32::try_from(passed.as_nanos() / EACH.as_nanos()).unwrap_or(u32::MAX);
        if more > 0 {
            self.left = self.left.saturating_add(more).min(BURST);
            // What is left of the time counts for the next.
            self.counted = if self.left == BURST { now } else { self.counted + EACH * more };
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
        let mut storm = Storm::default();
        let mut passed = 0;
        // A hundred thousand a second, for ten seconds.
        for number in 0..1_000_000_u64 {
            passed += u32::from(storm.lets_through(Duration::from_micros(number * 10)));
        }
        assert!((RATE * 10..=RATE * 10 + BURST).contains(&passed), "{passed}");
    }

    #[test]
    fn what_is_below_the_limit_is_not_touched() {
        let mut storm = Storm::default();
        assert!((0..10_000_u64).all(|number| storm.lets_through(Duration::from_micros(number * 1_001))));
    }

    #[test]
    fn after_a_pause_there_is_room_for_a_burst_and_time_may_stand_still() {
        let mut storm = Storm::default();
        let at = Duration::from_secs(9);
        let burst = (0..5_000).filter(|_| storm.lets_through(at)).count();
        assert_eq!(burst, 1_000);
        assert!(!storm.lets_through(Duration::from_secs(3)), "time does not go back");
        assert!(storm.lets_through(at + Duration::from_millis(2)));
    }
}
