//! Machines behind a bridge that nobody has told of. Whoever sends there may have as many MACs as frames: what follows from
//! a new one is work for all hosts, and is done for many at a time, for so many and no more.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
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
/// How often it is looked who has not been heard for long.
const LOOK: Duration = Duration::from_secs(5);
/// For so long who is not heard is known: as long as a bridge does to which nobody has said anything else (net/bridge/br_device.c).
pub(super) const AGEING: Duration = Duration::from_secs(300);

/// One vnet's.
#[derive(Debug, Default)]
pub(super) struct Learned {
    order: VecDeque<MacAddr>,
    /// Each with when it was last heard.
    known: BTreeMap<MacAddr, Duration>,
    waiting: VecDeque<MacAddr>,
    /// Those that are not here any more, which nobody has been told yet.
    less: BTreeSet<MacAddr>,
    /// How many frames the host itself had sent by the bridge at the last look.
    own_sent: u64,
}

impl Learned {
    pub(super) fn contains(&self, mac: MacAddr) -> bool {
        self.known.contains_key(&mac)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = MacAddr> {
        self.known.keys().copied()
    }

    /// It will be known, if there is room; says whether that is new.
    pub(super) fn hear(&mut self, mac: MacAddr) -> bool {
        let is_new = !self.contains(mac) && self.waiting.len() < MOST_WAITING && !self.waiting.contains(&mac);
        if is_new {
            self.waiting.push_back(mac);
        }
        is_new
    }

    /// It is somewhere else, or nowhere; says whether it was here.
    pub(super) fn forget(&mut self, mac: MacAddr) -> bool {
        let waited = self.waiting.len();
        self.waiting.retain(|waiting| *waiting != mac);
        let was_known = self.known.remove(&mac).is_some();
        if was_known {
            self.order.retain(|known| *known != mac);
            self.less.insert(mac);
        }
        was_known || self.waiting.len() < waited
    }

    /// It was heard so long before, if it is known.
    pub(super) fn heard(&mut self, now: Duration, mac: MacAddr, before: Duration) {
        if let Some(last) = self.known.get_mut(&mac) {
            *last = (*last).max(now.saturating_sub(before));
        }
    }

    /// The host itself has sent so many frames by the bridge; whether these are others than at the last look.
    pub(super) fn own_has_sent(&mut self, sent: u64) -> bool {
        std::mem::replace(&mut self.own_sent, sent) != sent
    }

    /// Those that have not been heard for so long are known no longer, unless it is said that they have been, and how long before;
    /// says how many these are. Of so many it is asked at a time.
    pub(super) fn age(
        &mut self,
        now: Duration,
        ageing: Duration,
        mut before: impl FnMut(MacAddr) -> Option<Duration>,
    ) -> usize {
        let is_silent = |last: Duration| now.saturating_sub(last) >= ageing;
        let silent = self.known.iter().filter(|(_, last)| is_silent(**last)).map(|(mac, _)| *mac);
        let mut gone = BTreeSet::new();
        for mac in silent.take(AT_ONCE).collect::<Vec<_>>() {
            match before(mac) {
                Some(before) if before < ageing => self.heard(now, mac, before),
                Some(_) | None => {
                    gone.insert(mac);
                }
            }
        }
        if !gone.is_empty() {
            self.known.retain(|mac, _| !gone.contains(mac));
            self.order.retain(|mac| !gone.contains(mac));
        }
        let count = gone.len();
        self.less.append(&mut gone);
        count
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn is_other(&self) -> bool {
        !self.less.is_empty() || !self.waiting.is_empty()
    }

    /// Takes of what waits as much as may be; says whether others are known than before.
    fn settle(&mut self, now: Duration) -> bool {
        let less = std::mem::take(&mut self.less);
        let mut is_other = !less.is_empty();
        let room = MOST - self.order.len();
        let count = self.waiting.len().min(AT_ONCE).min(room + REPLACED);
        for mac in self.waiting.drain(..count).collect::<Vec<_>>() {
            // It is told first that it was gone: then it arrives anew, with more right than who has it since.
            if less.contains(&mac) {
                self.waiting.push_back(mac);
                continue;
            }
            if self.order.len() >= MOST
                && let Some(first) = self.order.pop_front()
            {
                self.known.remove(&first);
            }
            self.order.push_back(mac);
            self.known.insert(mac, now);
            is_other = true;
        }
        is_other
    }
}

/// When what was learned, in all vnets, is looked at.
#[derive(Debug, Default)]
pub(super) struct Looks {
    last: Option<Duration>,
    aged: Duration,
}

impl Looks {
    /// Whether it is to be looked who has not been heard for long.
    pub(super) fn ages(&mut self, now: Duration) -> bool {
        let is_due = now.saturating_sub(self.aged) >= LOOK;
        if is_due {
            self.aged = now;
        }
        is_due
    }

    /// When the next one is due.
    pub(super) fn due<'l>(&self, mut all: impl Iterator<Item = &'l Learned>) -> Option<Duration> {
        all.any(Learned::is_other).then(|| self.last.map_or(Duration::ZERO, |last| last + PAUSE))
    }

    /// Looks, if it is time; says whether others are known than before.
    pub(super) fn look<'l>(&mut self, now: Duration, all: impl Iterator<Item = &'l mut Learned>) -> bool {
        if self.last.is_some_and(|last| now < last + PAUSE) {
            return false;
        }
        let mut is_other = false;
        for learned in all.filter(|learned| learned.is_other()) {
            is_other |= learned.settle(now);
            self.last = Some(now);
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
    fn who_comes_back_at_once_was_gone_in_between() {
        let (mut learned, mut looks) = (Learned::default(), Looks::default());
        let at = Duration::from_millis;
        assert!(learned.hear(mac(1)) && looks.look(at(0), [&mut learned].into_iter()));
        assert!(learned.forget(mac(1)) && learned.hear(mac(1)) && learned.hear(mac(2)));
        assert!(looks.look(at(100), [&mut learned].into_iter()));
        assert_eq!(learned.iter().collect::<Vec<_>>(), [mac(2)], "others do not wait for it");
        assert_eq!(looks.due([&learned].into_iter()), Some(at(200)));
        assert!(looks.look(at(200), [&mut learned].into_iter()) && learned.contains(mac(1)));
    }

    #[test]
    fn who_is_not_heard_is_known_no_longer_and_who_is_stays() {
        let (mut learned, mut looks) = (Learned::default(), Looks::default());
        let at = Duration::from_secs;
        assert!((1..=3).all(|n| learned.hear(mac(n))));
        assert!(looks.look(at(10), [&mut learned].into_iter()));
        let (mut aged, mut asked) = (Vec::new(), 0);
        for second in 11..700 {
            if !looks.ages(at(second)) {
                continue;
            }
            // The second speaks every 100 seconds, and the third once more, in the 200th.
            let count = learned.age(at(second), AGEING, |of| {
                asked += 1;
                match of {
                    _ if of == mac(2) => Some(at((second - 10) % 100)),
                    _ if of == mac(3) => Some(at(second - 200)),
                    _ => None,
                }
            });
            if count > 0 {
                aged.push((second, count));
                assert!(looks.look(at(second), [&mut learned].into_iter()), "others are told");
            }
        }
        assert_eq!(aged, [(311, 1), (501, 1)], "300 seconds after they were heard, and within the next look");
        assert!(asked < 10, "nobody is asked for who was heard lately: {asked}");
        assert_eq!(learned.iter().collect::<Vec<_>>(), [mac(2)]);
        assert_eq!(learned.order, [mac(2)]);
        // Nobody is known by having been heard, and nothing is heard earlier than it was.
        learned.heard(at(700), mac(9), Duration::ZERO);
        learned.heard(at(700), mac(2), at(700));
        assert_eq!(learned.age(at(700), AGEING, |_| None), 0);
        // It may come again.
        learned.hear(mac(1));
        assert!(looks.look(at(800), [&mut learned].into_iter()) && learned.contains(mac(1)));
        assert_eq!(learned.age(at(1_100), AGEING, |_| None), 2);
        assert!(learned.is_empty() && learned.order.is_empty());
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
        assert!((0..1_000).all(|n| learned.hear(mac(n))));
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
