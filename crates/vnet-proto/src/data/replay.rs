//! Sequence numbers: the high half that is not on the wire, and what was seen before (RFC 4303, section 3.4.3 and
//! appendix A2).

/// How many sequence numbers behind the highest are told apart.
const WINDOW: u64 = 8_192;
const WORDS: usize = 8_192 / 64;

/// It was received before, or is so old that this is not known any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Replayed {
    /// Received before.
    #[error("received before")]
    Duplicate,
    /// Older than what is remembered.
    #[error("older than the last 8192")]
    TooOld,
}

/// What was received of an association.
///
/// For each datagram: [`infer`](Self::infer) the whole number, [`check`](Self::check) it, authenticate the datagram with it,
/// and only then [`accept`](Self::accept) it.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// The highest number that was accepted; 0 when none was (numbers begin at 1).
    highest: u64,
    /// A bit for each of the last numbers, at its number modulo the size.
    seen: Box<[u64; WORDS]>,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { highest: 0, seen: Box::new([0; WORDS]) }
    }
}

impl ReplayWindow {
    /// The size.
    pub const SIZE: u64 = WINDOW;

    /// The highest number that was accepted, 0 when none was.
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// The whole of a number whose low half is on the wire: that which is in the window, or else the next after it
    /// (RFC 4303, appendix A2.2). Whether it is right, authentication says.
    pub fn infer(&self, low: u32) -> u64 {
        let bottom = self.highest.saturating_sub(WINDOW - 1);
        let candidate = (bottom & !0xffff_ffff) | u64::from(low);
        if candidate < bottom { candidate.saturating_add(1 << 32) } else { candidate }
    }

    /// Whether it is new.
    ///
    /// # Errors
    /// When it was received before, or is too old to tell.
    pub fn check(&self, number: u64) -> Result<(), Replayed> {
        if number > self.highest {
            return Ok(());
        }
        if number == 0 || self.highest - number >= WINDOW {
            return Err(Replayed::TooOld);
        }
        let (word, bit) = place(number);
        if self.seen[word] & bit == 0 { Ok(()) } else { Err(Replayed::Duplicate) }
    }

    /// Remembers a number whose datagram is authentic.
    ///
    /// # Errors
    /// As [`check`](Self::check): two datagrams of one batch can have the same number.
    pub fn accept(&mut self, number: u64) -> Result<(), Replayed> {
        self.check(number)?;
        if number > self.highest {
            self.forget_until(number);
            self.highest = number;
        }
        let (word, bit) = place(number);
        self.seen[word] |= bit;
        Ok(())
    }

    /// Clears the bits of the numbers between the highest (which stays) and `number`, inclusive.
    fn forget_until(&mut self, number: u64) {
        if number - self.highest >= WINDOW {
            self.seen.fill(0);
            return;
        }
        let mut next = self.highest + 1;
        while next <= number {
            let (word, bit) = place(next);
            if bit == 1 && number - next >= 63 {
                self.seen[word] = 0;
                next += 64;
            } else {
                self.seen[word] &= !bit;
                next += 1;
            }
        }
    }
}

fn place(number: u64) -> (usize, u64) {
    let place = number % WINDOW;
    (usize::try_from(place / 64).unwrap_or_default(), 1 << (place % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The same without any cleverness.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn highest(&self) -> u64 {
            self.seen.last().copied().unwrap_or(0)
        }

        fn accept(&mut self, number: u64) -> Result<(), Replayed> {
            if number == 0 || number + WINDOW <= self.highest() {
                return Err(Replayed::TooOld);
            }
            if self.seen.insert(number) { Ok(()) } else { Err(Replayed::Duplicate) }
        }
    }

    proptest! {
        #[test]
        fn it_is_as_the_model(
            start in prop_oneof![Just(0u64), Just((1 << 32) - 9_000), Just((7 << 32) - 3)],
            steps in prop::collection::vec((prop_oneof![
                0u64..4, 0u64..200, 0u64..9_000, 8_190u64..8_195, 0u64..40_000
            ], any::<bool>()), 1..300),
        ) {
            let mut window = ReplayWindow::default();
            let mut model = Model::default();
            if start > 0 {
                prop_assert_eq!(window.accept(start), model.accept(start));
            }
            for (distance, back) in steps {
                let highest = model.highest();
                let number = if back { highest.saturating_sub(distance) } else { highest + distance };
                let expected = model.accept(number);
                prop_assert_eq!(window.check(number), expected);
                prop_assert_eq!(window.accept(number), expected);
                prop_assert_eq!(window.highest(), model.highest());
            }
        }

        #[test]
        fn the_high_half_is_inferred(
            highest in prop_oneof![1u64..20_000, (1u64 << 32) - 20_000..(1 << 32) + 20_000, any::<u32>().prop_map(u64::from)],
            ahead in 0u64..1 << 31, behind in 0u64..WINDOW,
        ) {
            let mut window = ReplayWindow::default();
            window.accept(highest).unwrap();
            for number in [highest + ahead, highest.saturating_sub(behind)] {
                let low = u32::try_from(number & 0xffff_ffff).unwrap();
                prop_assert_eq!(window.infer(low), number);
            }
        }
    }

    #[test]
    fn the_end_of_all_numbers_is_no_panic() {
        let mut window = ReplayWindow::default();
        window.accept(u64::MAX).unwrap();
        assert_eq!(window.accept(u64::MAX), Err(Replayed::Duplicate));
        window.infer(3);
    }
}
