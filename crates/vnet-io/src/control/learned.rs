//! Machines behind a bridge that nobody has told of. Whoever sends there may have as many MACs as frames: what follows from
//! a new one is work for all hosts, and is done for many at a time, for so many and no more.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use viaduct_types::MacAddr;

/// So many are known on this host; those seen first make room.
const MOST: usize = 4096;
/// So many wait to be known; what is heard beyond is heard again.
const MOST_WAITING: usize = 1024;
/// What is new is looked at no more often.
const PAUSE: Duration = Duration::from_millis(100);
/// So many are known anew each time.
const AT_ONCE: usize = 256;
/// So many of them in the place of others: who is really there is not pushed out by what is made up.
const REPLACED: usize = 8;

/// One vnet's.
#[derive(Debug, Default)]
pub(super) struct Learned {
    order: VecDeque<MacAddr>,
    known: BTreeSet<MacAddr>,
    waiting: VecDeque<MacAddr>,
    /// Whether one is not here any more, which nobody has been told yet.
    is_less: bool,
}

impl Learned {
    pub(super) fn contains(&self, mac: MacAddr) -> bool {
        self.known.contains(&mac)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = MacAddr> {
        self.known.iter().copied()
    }

    /// It will be known, if there is room.
    pub(super) fn hear(&mut self, mac: MacAddr) {
        if !self.contains(mac) && self.waiting.len() < MOST_WAITING && !self.waiting.contains(&mac) {
            self.waiting.push_back(mac);
        }
    }

    /// It is somewhere else, or nowhere; says whether it was here.
    pub(super) fn forget(&mut self, mac: MacAddr) -> bool {
        let waited = self.waiting.len();
        self.waiting.retain(|waiting| *waiting != mac);
        let was_known = self.known.remove(&mac);
        if was_known {
            self.order.retain(|known| *known != mac);
            self.is_less = true;
        }
        was_known || self.waiting.len() < waited
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn is_other(&self) -> bool {
        self.is_less || !self.waiting.is_empty()
    }

    /// Takes of what waits as much as may be; says whether others are known than before.
    fn settle(&mut self) -> bool {
        let mut is_other = std::mem::take(&mut self.is_less);
        let room = MOST - self.order.len();
        let count = self.waiting.len().min(AT_ONCE).min(room + REPLACED);
        for mac in self.waiting.drain(..count) {
            if self.order.len() >= MOST
                && let Some(first) = self.order.pop_front()
            {
                self.known.remove(&first);
            }
            self.order.push_back(mac);
            self.known.insert(mac);
            is_other = true;
        }
        is_other
    }
}

/// When what was learned, in all vnets, is looked at.
#[derive(Debug, Default)]
pub(super) struct Looks(Option<Duration>);

impl Looks {
    /// When the next one is due.
    pub(super) fn due<'l>(&self, mut all: impl Iterator<Item = &'l Learned>) -> Option<Duration> {
        all.any(Learned::is_other).then(|| self.0.map_or(Duration::ZERO, |last| last + PAUSE))
    }

    /// Looks, if it is time; says whether others are known than before.
    pub(super) fn look<'l>(&mut self, now: Duration, all: impl Iterator<Item = &'l mut Learned>) -> bool {
        if self.0.is_some_and(|last| now < last + PAUSE) {
            return false;
        }
        let mut is_other = false;
        for learned in all.filter(|learned| learned.is_other()) {
            is_other |= learned.settle();
            self.0 = Some(now);
        }
        is_other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: usize) -> MacAddr {
        let [.., a, b, c, d] = n.to_be_bytes();
        MacAddr([2, 0, a, b, c, d])
    }

    #[test]
    fn one_is_known_at_once_and_the_next_a_little_later() {
        let (mut learned, mut looks) = (Learned::default(), Looks::default());
        let at = Duration::from_millis;
        assert_eq!(looks.due([&learned].into_iter()), None);
        learned.hear(mac(1));
        assert!(looks.due([&learned].into_iter()) <= Some(at(5)));
        assert!(looks.look(at(5), [&mut learned].into_iter()) && learned.contains(mac(1)));
        learned.hear(mac(2));
        assert_eq!(looks.due([&learned].into_iter()), Some(at(105)));
        assert!(!looks.look(at(104), [&mut learned].into_iter()));
        assert!(looks.look(at(105), [&mut learned].into_iter()) && learned.contains(mac(2)));
        assert_eq!(looks.due([&learned].into_iter()), None);
        assert!(learned.forget(mac(1)) && !learned.forget(mac(1)));
        assert!(looks.look(at(300), [&mut learned].into_iter()) && !learned.contains(mac(1)));
    }

    #[test]
    fn fifty_thousand_a_second_are_ten_pieces_of_work() {
        let (mut learned, mut looks) = (Learned::default(), Looks::default());
        let (mut work, mut next) = (0, 0);
        for n in 0..50_000 {
            learned.hear(mac(n));
            work += usize::from(looks.look(Duration::from_micros(20 * n as u64), [&mut learned].into_iter()));
            next = next.max(learned.order.len());
        }
        assert!((9..=11).contains(&work), "{work}");
        assert!(next <= work * AT_ONCE);
    }

    #[test]
    fn all_that_come_at_once_are_known_in_the_end() {
        let (mut learned, mut looks) = (Learned::default(), Looks::default());
        (0..1_000).for_each(|n| learned.hear(mac(n)));
        while let Some(due) = looks.due([&learned].into_iter()) {
            looks.look(due, [&mut learned].into_iter());
        }
        assert!((0..1_000).all(|n| learned.contains(mac(n))));
    }

    #[test]
    fn who_is_there_is_pushed_out_slowly() {
        let (mut learned, mut looks) = (Learned::default(), Looks::default());
        let mut time = Duration::ZERO;
        for n in 0..MOST {
            learned.hear(mac(n));
            time += PAUSE;
            looks.look(time, [&mut learned].into_iter());
        }
        for n in 0..1_000 {
            learned.hear(mac(MOST + n));
        }
        for _ in 0..10 {
            time += PAUSE;
            looks.look(time, [&mut learned].into_iter());
        }
        let left = (0..MOST).filter(|n| learned.contains(mac(*n))).count();
        assert_eq!(left, MOST - 10 * REPLACED);
        assert_eq!((learned.order.len(), learned.known.len()), (MOST, MOST));
    }
}
