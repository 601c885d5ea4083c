//! So much in a time, and no more.

use std::time::Duration;

/// What has not been used of so long may be used at once.
const BURST: Duration = Duration::from_millis(100);
/// The longest datagram is let through whatever the rate.
const LEAST: u64 = 65_536;

/// A token bucket: tokens are bytes, and it fills at the rate that it is asked with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// In bytes.
    used: u64,
    at: Duration,
}

impl Bucket {
    /// Takes so many bytes; says whether there were as many. Times are since any moment, the same one each time.
    pub fn take(&mut self, now: Duration, bytes_per_second: u64, bytes: u64) -> bool {
        let micros = u64::try_from(now.saturating_sub(self.at).as_micros()).unwrap_or(u64::MAX);
        let filled = u128::from(micros) * u128::from(bytes_per_second) / 1_000_000;
        // What is less than a byte waits for the next time.
        if filled > 0 {
            self.used = self.used.saturating_sub(u64::try_from(filled).unwrap_or(u64::MAX));
            self.at = now;
        }
        let room = bytes_per_second / u64::try_from(1_000 / BURST.as_millis()).unwrap_or(1);
        let fits = self.used.saturating_add(bytes) <= room.max(LEAST);
        if fits {
            self.used += bytes;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_it_lets_through_is_the_rate() {
        let mut bucket = Bucket::default();
        let rate = 1_000_000;
        let through: u64 = (0..10_000)
            .map(|step| {
                let now = Duration::from_micros(step * 1_000);
                if bucket.take(now, rate, 1_500) { 1_500 } else { 0 }
            })
            .sum();
        // Ten seconds of fifteen thousand bytes' worth each hundredth, and the burst.
        assert!((9_900_000..=10_000_000 + 100_000 + 1_500).contains(&through), "{through}");
    }

    proptest! {
        #[test]
        fn never_more_than_rate_and_burst(
            rate in 0..10_000_000u64,
            steps in prop::collection::vec((0..50_000u64, 0..70_000u64), 1..200),
        ) {
            let (mut bucket, mut now, mut through) = (Bucket::default(), 0, 0u128);
            for (later, bytes) in steps {
                now += later;
                through += u128::from(if bucket.take(Duration::from_micros(now), rate, bytes) { bytes } else { 0 });
            }
            let most = u128::from(now) * u128::from(rate) / 1_000_000 + u128::from((rate / 10).max(LEAST));
            prop_assert!(through <= most, "{through} of {most}");
        }

        #[test]
        fn time_that_goes_backwards_gives_nothing(times in prop::collection::vec(any::<u64>(), 1..50)) {
            let mut bucket = Bucket::default();
            for time in times {
                bucket.take(Duration::from_micros(time), u64::MAX, u64::MAX);
            }
        }
    }
}
