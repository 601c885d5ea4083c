//! Whether it is still searched what a path carries: QUIC says what it has found, and not whether there may be more.

use std::time::Duration;

use quinn::PathStats;

use super::engine::TICK;

/// It takes no longer: each length is tried several times, each time until its loss shows.
pub(super) const LONGEST_SEARCH: Duration = Duration::from_secs(10);
/// When there were no more lengths to try at so many looks in a row, the last one has been answered or given up.
const QUIET_LOOKS: u32 = 2;
/// A length that does not get there is tried again after some round trips and the other end's own delay (25 ms; RFC 9002, section
/// 6.2.1). These are many.
const QUIET_ROUND_TRIPS: u32 = 8;

/// The search of one connection, which begins anew when what was known to get there does not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Search {
    /// When it began.
    pub(super) begun: Duration,
    /// Lengths that had been tried when it began, and when it was last looked at.
    tried: [u64; 2],
    /// How often the path was found not to carry what it did.
    falls: u64,
    /// At so many looks in a row nothing more was tried.
    quiet: u32,
    is_over: bool,
    /// Packets that were lost by the last look, and whether these were more than by the one before.
    lost: (u64, bool),
}

impl Search {
    pub(super) fn new(now: Duration) -> Self {
        Self { begun: now, tried: [0, 0], falls: 0, quiet: 0, is_over: false, lost: (0, false) }
    }

    /// Begins anew if what was known to get there does not any more.
    pub(super) fn hear(&mut self, now: Duration, stats: &PathStats) {
        let PathStats { sent_plpmtud_probes: tried, black_holes_detected: falls, .. } = *stats;
        if falls != self.falls {
            *self = Self { tried: [tried, tried], falls, lost: self.lost, ..Self::new(now) };
        }
    }

    /// Looks whether it goes on: at each tick, and not in between, as it would not have had the time to.
    pub(super) fn look(&mut self, now: Duration, stats: &PathStats) {
        self.hear(now, stats);
        let PathStats { sent_plpmtud_probes: tried, rtt, lost_packets: lost, .. } = *stats;
        self.lost = (lost, lost != self.lost.0);
        let [at_begin, last] = &mut self.tried;
        self.quiet = if tried == *last { self.quiet.saturating_add(1) } else { 0 };
        *last = tried;
        // Before the first one, it has not begun.
        let has_begun = tried != *at_begin;
        let needed = QUIET_LOOKS.saturating_add(looks(rtt.saturating_mul(QUIET_ROUND_TRIPS)));
        self.is_over |= has_begun && self.quiet >= needed || now.saturating_sub(self.begun) >= LONGEST_SEARCH;
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether the path is to be asked again, whatever there is to send: it is searched, or did not carry something. Who hears
    /// nothing may be silent for long, and the path is to be known when it sends again.
    pub(super) fn goes_on(&self) -> bool {
        !self.is_over || self.lost.1
    }
}

/// So many ticks there are in a time.
fn looks(time: Duration) -> u32 {
    u32::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What QUIC says at a look.
    fn stats(tried: u64, falls: u64, rtt: u64) -> PathStats {
        let mut stats = PathStats::default();
        stats.sent_plpmtud_probes = tried;
        stats.black_holes_detected = falls;
        stats.rtt = Duration::from_millis(rtt);
        stats
    }

    /// After how many looks it is over, where so many lengths have been tried at each.
    fn over_after(search: &mut Search, begun: Duration, seen: impl Iterator<Item = PathStats>) -> usize {
        seen.zip(1u32..)
            .take_while(|(stats, number)| {
                search.look(begun + TICK * *number, stats);
                !search.is_over()
            })
            .count()
            + 1
    }

    #[test]
    fn a_search_is_over_when_nothing_more_is_tried() {
        let mut search = Search::new(Duration::ZERO);
        let tried = [0, 3, 9, 12, 12, 12, 12].map(|tried| stats(tried, 0, 1));
        assert_eq!(over_after(&mut search, Duration::ZERO, tried.into_iter()), 6);
        // What looks again after a while for more has found what there is.
        search.look(Duration::from_secs(30), &stats(14, 0, 1));
        assert!(search.is_over());
    }

    #[test]
    fn it_takes_longer_where_answers_do_and_never_for_ever() {
        let mut search = Search::new(Duration::ZERO);
        let tried = (0..).map(|number| stats(1 + number / 4, 0, 150));
        assert_eq!(over_after(&mut search, Duration::ZERO, tried), 40, "each length takes a second");
        let mut search = Search::new(Duration::ZERO);
        let tried = (0..).map(|number| stats(1 + number / 4, 0, 1));
        assert_eq!(over_after(&mut search, Duration::ZERO, tried), 3, "which is for answers that are quick");
        let mut search = Search::new(Duration::ZERO);
        assert_eq!(over_after(&mut search, Duration::ZERO, std::iter::repeat(stats(0, 0, 1))), 40);
    }

    #[test]
    fn it_begins_anew_when_a_path_falls_and_not_before_something_is_tried() {
        let mut search = Search::new(Duration::ZERO);
        over_after(&mut search, Duration::ZERO, std::iter::repeat(stats(5, 0, 1)));
        let fell = Duration::from_secs(60);
        search.look(fell, &stats(5, 1, 1));
        assert!(!search.is_over() && search.begun == fell);
        // For a second, nothing is.
        let tried = [5, 5, 5, 5, 9, 12, 12, 12].map(|tried| stats(tried, 1, 1));
        assert_eq!(over_after(&mut search, fell, tried.into_iter()), 8);
    }

    #[test]
    fn who_loses_something_is_asked_again_until_it_does_not() {
        let mut search = Search::new(Duration::ZERO);
        over_after(&mut search, Duration::ZERO, std::iter::repeat(stats(5, 0, 1)));
        let mut goes_on = |lost, falls| {
            let mut stats = stats(5, falls, 1);
            stats.lost_packets = lost;
            search.look(Duration::from_secs(60), &stats);
            search.goes_on()
        };
        assert!(!goes_on(0, 0) && goes_on(1, 0) && goes_on(2, 0) && !goes_on(2, 0));
        assert!(goes_on(3, 1) && goes_on(3, 1), "it is searched");
    }
}
