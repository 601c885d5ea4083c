//! When a host is looked at, and which repairs are left for later: the daemon's decisions, with time as an argument.
//! Times are since any moment that stays the same.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// What one program changes comes in several events; so long a look waits for the rest of them.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// Looking takes at most one part in so many of the time, however much happens on the host.
const SHARE: u32 = 10;
/// Without an event, a look comes this often at most,
const SLOWEST: Duration = Duration::from_secs(60);
/// and takes at most one part in so many of the time.
const IDLE_SHARE: u32 = 1000;
/// So many repairs of one thing
const REPAIRS: usize = 3;
/// within this time are a dispute.
const WINDOW: Duration = Duration::from_secs(10);
/// How long a disputed thing is left at first; twice as long whenever it is disputed again,
const PAUSE: Duration = Duration::from_secs(10);
/// up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The kernel does not say of all changes whose they are; after changes of our own a look makes sure when there was
/// none for so long,
const QUIET: Duration = Duration::from_secs(1);
/// but so long after the first of them at the latest.
const UNSURE: Duration = Duration::from_secs(30);
/// While something is in dispute, its events come all the time: so long passes at least between two looks. Everything
/// else is repaired within a second all the same.
const CALM: Duration = Duration::from_millis(500);
/// The packet filter is what keeps the host closed: it is never left for longer than this.
const FILTER_PAUSE: Duration = Duration::from_secs(1);

/// Something that another program keeps changing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispute {
    /// What, as [`viaduct_plan::Op::object`] says it.
    pub object: String,
    /// When it is repaired again.
    pub until: Duration,
}

#[derive(Debug, Default)]
struct Record {
    /// When it was repaired lately.
    repaired: VecDeque<Duration>,
    /// How often that was a dispute.
    disputes: u32,
    /// Until when it is left alone.
    until: Option<Duration>,
}

/// When to look, and what to leave.
#[derive(Debug)]
pub struct Keeper {
    due: Duration,
    /// Not before this, whatever happens.
    rest: Duration,
    /// The same when it is about the packet filter.
    filter_rest: Duration,
    /// The first change of our own since the last look, and the last one.
    own: Option<(Duration, Duration)>,
    records: BTreeMap<String, Record>,
}

impl Keeper {
    /// Begins with a look at once.
    pub fn new(now: Duration) -> Self {
        Self { due: now, rest: now, filter_rest: now, own: None, records: BTreeMap::new() }
    }

    /// Somebody else changed something.
    pub fn disturbed(&mut self, now: Duration) {
        self.due = self.due.min((now + DEBOUNCE).max(self.rest));
    }

    /// Somebody else changed our packet filter. It is looked at within a second, also when looks take long.
    pub fn opened(&mut self, now: Duration) {
        self.due = self.due.min((now + DEBOUNCE).max(self.filter_rest));
    }

    /// In one look these were put right again and again, and changed again each time.
    pub fn insisted(&mut self, now: Duration, objects: &BTreeSet<String>) {
        for object in objects {
            let record = self.records.entry(object.clone()).or_default();
            record.repaired.extend([now; REPAIRS]);
        }
    }

    /// When the next look is due.
    pub fn due(&self) -> Duration {
        let sure = self.own.map(|(first, last)| (last + QUIET).min(first + UNSURE).max(self.rest));
        sure.map_or(self.due, |sure| self.due.min(sure))
    }

    /// We made a change that is right as far as we know.
    pub fn reassure(&mut self, now: Duration) {
        let first = self.own.map_or(now, |(first, _)| first);
        self.own = Some((first, now));
    }

    /// What is left alone for now.
    pub fn disputes(&self, now: Duration) -> Vec<Dispute> {
        let left = |(object, record): (&String, &Record)| {
            let until = record.until.filter(|&until| until > now)?;
            Some(Dispute { object: object.clone(), until })
        };
        self.records.iter().filter_map(left).collect()
    }

    /// A look took this long, and these things were put right. Gives what is in dispute since.
    pub fn looked(&mut self, begun: Duration, ended: Duration, repaired: &BTreeSet<String>) -> Vec<Dispute> {
        let took = ended.saturating_sub(begun);
        self.rest = ended + took * (SHARE - 1);
        self.filter_rest = self.rest.min(ended + FILTER_PAUSE);
        self.own = None;
        self.due = ended + SLOWEST.max(took * IDLE_SHARE);
        for object in repaired {
            self.records.entry(object.clone()).or_default().repaired.push_back(ended);
        }
        let mut new = Vec::new();
        self.records.retain(|object, record| {
            while record.repaired.front().is_some_and(|&time| time + WINDOW < ended) {
                record.repaired.pop_front();
            }
            if record.repaired.len() >= REPAIRS {
                let longest = if object.starts_with(PACKET_FILTER) { FILTER_PAUSE } else { LONGEST_PAUSE };
                let pause = PAUSE.saturating_mul(1 << record.disputes.min(10)).min(longest);
                record.disputes += 1;
                record.repaired.clear();
                let until = ended + pause;
                record.until = Some(until);
                new.push(Dispute { object: object.clone(), until });
            }
            // Forgotten when it was left in peace for long.
            let peace = |until| ended < until + LONGEST_PAUSE;
            !record.repaired.is_empty() || record.until.is_some_and(peace)
        });
        if self.records.values().any(|record| record.until.is_some_and(|until| until > ended)) {
            self.rest = self.rest.max(ended + CALM);
        }
        // What was left in this look, or will be in the next.
        if let Some(until) = self.records.values().filter_map(|r| r.until).filter(|&u| u > begun).min() {
            self.due = self.due.min(until.max(self.rest));
        }
        new
    }

    /// Looks again then, at the latest.
    pub fn look_by(&mut self, then: Duration) {
        self.due = self.due.min(then.max(self.rest));
    }
}

/// What [`viaduct_plan::Op::object`] calls the filter; of a stack, where it is follows.
const PACKET_FILTER: &str = "the packet filter";

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const S: Duration = Duration::from_secs(1);

    fn one(object: &str) -> BTreeSet<String> {
        BTreeSet::from([object.to_owned()])
    }

    #[test]
    fn changes_of_our_own_are_made_sure_of_when_they_pause() {
        let mut keeper = Keeper::new(S);
        keeper.looked(S, S, &BTreeSet::new());
        keeper.reassure(2 * S);
        keeper.reassure(2 * S + 900 * MS);
        assert_eq!(keeper.due(), 2 * S + 900 * MS + QUIET);
        for tick in 3..60 {
            keeper.reassure(tick * S);
        }
        assert_eq!(keeper.due(), 2 * S + UNSURE);
        keeper.looked(32 * S, 32 * S, &BTreeSet::new());
        assert_eq!(keeper.due(), 32 * S + SLOWEST);
    }

    #[test]
    fn a_change_is_looked_at_once_its_events_are_there() {
        let mut keeper = Keeper::new(S);
        assert_eq!(keeper.due(), S);
        keeper.looked(S, S + 5 * MS, &BTreeSet::new());
        assert_eq!(keeper.due(), S + 5 * MS + SLOWEST);
        keeper.disturbed(10 * S);
        keeper.disturbed(10 * S + 10 * MS);
        assert_eq!(keeper.due(), 10 * S + DEBOUNCE);
    }

    #[test]
    fn a_storm_of_changes_costs_a_tenth_of_the_time() {
        let mut keeper = Keeper::new(Duration::ZERO);
        let (mut now, mut busy) = (Duration::ZERO, Duration::ZERO);
        while now < 100 * S {
            keeper.disturbed(now);
            if now < keeper.due() {
                now += MS;
                continue;
            }
            keeper.looked(now, now + 80 * MS, &BTreeSet::new());
            now += 80 * MS;
            busy += 80 * MS;
        }
        assert!(busy <= 11 * S && busy >= 9 * S, "{busy:?}");
    }

    #[test]
    fn a_large_host_is_looked_at_less_often_at_rest() {
        let mut keeper = Keeper::new(Duration::ZERO);
        keeper.looked(Duration::ZERO, 300 * MS, &BTreeSet::new());
        assert_eq!(keeper.due(), 300 * MS + 300 * S);
    }

    #[test]
    fn the_third_repair_in_ten_seconds_is_the_last_for_now() {
        let mut keeper = Keeper::new(Duration::ZERO);
        for time in [S, 2 * S] {
            assert_eq!(keeper.looked(time, time, &one("route x")), []);
        }
        let dispute = Dispute { object: "route x".to_owned(), until: 3 * S + PAUSE };
        assert_eq!(keeper.looked(3 * S, 3 * S, &one("route x")), std::slice::from_ref(&dispute));
        assert_eq!(keeper.disputes(4 * S), [dispute]);
        assert_eq!(keeper.due(), 3 * S + PAUSE);
        assert_eq!(keeper.disputes(3 * S + PAUSE), []);
        // The same again: left for twice as long.
        for time in [14 * S, 15 * S] {
            assert_eq!(keeper.looked(time, time, &one("route x")), []);
        }
        assert_eq!(keeper.looked(16 * S, 16 * S, &one("route x"))[0].until, 16 * S + 2 * PAUSE);
    }

    #[test]
    fn a_dispute_is_looked_at_twice_a_second_however_many_its_events_are() {
        let mut keeper = Keeper::new(Duration::ZERO);
        let (mut now, mut looks) = (Duration::ZERO, 0);
        let mut repairs = Vec::new();
        while now < 40 * S {
            keeper.disturbed(now);
            if keeper.due() <= now {
                looks += 1;
                let left = keeper.disputes(now).iter().any(|dispute| dispute.object == "route x");
                if !left {
                    repairs.push(now);
                }
                keeper.looked(now, now + MS, &if left { BTreeSet::new() } else { one("route x") });
            }
            now += MS;
        }
        // Three at once, then three after a pause of ten seconds, then after twenty.
        assert_eq!(repairs.len(), 9, "{repairs:?}");
        assert!(looks <= 9 + 2 * 40, "{looks} looks");
    }

    #[test]
    fn three_repairs_in_a_longer_time_are_none_too_many() {
        let mut keeper = Keeper::new(Duration::ZERO);
        for time in [S, 7 * S, 13 * S, 19 * S, 25 * S] {
            assert_eq!(keeper.looked(time, time, &one("link x")), []);
        }
    }

    #[test]
    fn the_filter_is_never_left_for_long() {
        let mut keeper = Keeper::new(Duration::ZERO);
        let mut now = Duration::ZERO;
        for _ in 0..30 {
            now = keeper.due().max(now + 100 * MS);
            for dispute in keeper.looked(now, now, &one(PACKET_FILTER)) {
                assert_eq!(dispute.until, now + FILTER_PAUSE);
            }
        }
    }

    #[test]
    fn the_filter_is_looked_at_within_a_second_on_a_host_that_takes_long() {
        let mut keeper = Keeper::new(Duration::ZERO);
        keeper.looked(Duration::ZERO, S, &BTreeSet::new());
        keeper.disturbed(S + MS);
        assert_eq!(keeper.due(), 10 * S);
        keeper.opened(S + 2 * MS);
        assert_eq!(keeper.due(), S + FILTER_PAUSE);
    }

    #[test]
    fn what_is_undone_within_a_look_is_a_dispute_at_once() {
        let mut keeper = Keeper::new(Duration::ZERO);
        keeper.insisted(S, &one("link x"));
        assert_eq!(keeper.looked(S, S, &BTreeSet::new())[0].until, S + PAUSE);
        keeper.insisted(20 * S, &one(PACKET_FILTER));
        assert_eq!(keeper.looked(20 * S, 20 * S, &BTreeSet::new())[0].until, 20 * S + FILTER_PAUSE);
    }

    #[test]
    fn what_is_at_peace_is_forgotten() {
        let mut keeper = Keeper::new(Duration::ZERO);
        for time in [S, 2 * S, 3 * S] {
            keeper.looked(time, time, &one("link x"));
        }
        keeper.looked(2000 * S, 2000 * S, &BTreeSet::new());
        assert!(keeper.records.is_empty());
    }
}
