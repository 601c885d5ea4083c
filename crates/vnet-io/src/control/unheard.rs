//! What guests have said before it was known here that they had come. A guest that arrives asks for its neighbours at once,
//! sooner than its host has told that it is there, and would ask again after a second only (RFC 4861, section 10;
//! net/ipv4/arp.c, `retrans_time`).

use std::{collections::VecDeque, time::Duration};

use viaduct_vnet_proto::{control::answer, data::source};

use super::tables::Tables;

/// For so long it is of use.
const KEPT: Duration = Duration::from_secs(2);
/// So much of it is kept; what is older makes room.
const MOST: usize = 64;
/// ARP and neighbour discovery are no longer.
const LONGEST: usize = 256;
/// In this time the other hosts know, as a rule, where the guest is: before, they take nothing of it from here.
const SPREAD: Duration = Duration::from_millis(100);

/// Whoever came so short a time ago may have a port that gives it nothing yet.
const NEW: Duration = Duration::from_secs(1);

/// The frames of one vnet.
#[derive(Debug, Default)]
pub(super) struct Unheard(VecDeque<Kept>);

#[derive(Debug)]
struct Kept {
    since: Duration,
    frame: Vec<u8>,
    /// It is once more: a pair of devices comes up one end after the other, and what is for a guest whose own end is up already is
    /// dropped until the kernel has come to the other one (net/core/link_watch.c).
    answered: bool,
}

/// What is done now with frames that were kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// Answers for this host's bridge.
    pub(super) answers: Vec<Vec<u8>>,
    /// Frames for all other hosts.
    pub(super) for_all: Vec<Vec<u8>>,
}

impl Unheard {
    pub(super) fn keep(&mut self, now: Duration, frame: Vec<u8>) {
        self.push(Kept { since: now, frame, answered: false });
    }

    /// A question that was answered; it is once more where its asker has just come.
    pub(super) fn keep_answered(&mut self, now: Duration, frame: Vec<u8>, tables: &Tables) {
        let came = source(&frame).and_then(|mac| tables.since(mac));
        if came.is_some_and(|came| now.saturating_sub(came) < NEW) {
            self.push(Kept { since: now, frame, answered: true });
        }
    }

    fn push(&mut self, kept: Kept) {
        if kept.frame.len() > LONGEST {
            return;
        }
        if self.0.len() >= MOST {
            self.0.pop_front();
        }
        self.0.push_back(kept);
    }

    /// When something is answered once more, at the latest.
    pub(super) fn due(&self) -> Option<Duration> {
        self.0.iter().filter(|kept| kept.answered).map(|kept| kept.since + SPREAD).min()
    }

    /// What is to be done with frames of those who are here by now.
    pub(super) fn take(&mut self, now: Duration, tables: &Tables) -> Heard {
        let mut heard = Heard::default();
        self.0.retain_mut(|Kept { since, frame, answered }| {
            let age = now.saturating_sub(*since);
            if age > KEPT {
                return false;
            }
            if !source(frame).is_some_and(|mac| tables.is_here(mac)) {
                return !*answered;
            }
            let is_young = age < SPREAD;
            if *answered && is_young {
                return true;
            }
            if let Some(answer) = answer(frame, |address| tables.remote_mac(address)) {
                heard.answers.push(answer);
                *answered = true;
                return is_young;
            }
            if !is_young && !*answered {
                heard.for_all.push(frame.clone());
            }
            is_young
        });
        heard
    }
}

#[cfg(test)]
mod tests {
    use viaduct_types::MacAddr;
    use viaduct_vnet_proto::data::PeerId;

    use super::{super::tables::Place, *};

    const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn question(target: [u8; 4]) -> Vec<u8> {
        let mut frame = [&[0xff; 6][..], &GUEST.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &GUEST.0].concat();
        frame.extend([10, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        frame.extend(target);
        frame
    }

    fn tables() -> Tables {
        let mut tables = Tables::new();
        let address = vec![[10, 0, 0, 2].into()];
        tables.route(Duration::ZERO, OTHER, Some(Place::At(PeerId(1))), address, false);
        tables
    }

    fn arrive(tables: &mut Tables) {
        tables.route(Duration::ZERO, GUEST, Some(Place::Here), vec![[10, 0, 0, 1].into()], false);
    }

    #[test]
    fn a_question_is_answered_when_its_asker_is_known_and_once_more() {
        let (mut unheard, mut tables) = (Unheard::default(), tables());
        let second = Duration::from_secs(1);
        unheard.keep(second, question([10, 0, 0, 2]));
        assert_eq!(unheard.take(second, &tables), Heard::default(), "nobody knows that it is here");
        arrive(&mut tables);
        let heard = unheard.take(second, &tables);
        assert_eq!((heard.answers.len(), heard.for_all.len()), (1, 0));
        assert_eq!(heard.answers[0][..12], [GUEST.0, OTHER.0].concat());
        // Its port may not have given it that.
        assert_eq!(unheard.take(second + SPREAD / 2, &tables), Heard::default());
        assert_eq!(unheard.take(second + SPREAD, &tables), heard);
        assert_eq!(unheard.take(second + SPREAD, &tables), Heard::default());
    }

    #[test]
    fn who_has_just_come_is_answered_once_more_and_who_is_here_for_long_is_not() {
        let (mut unheard, mut tables) = (Unheard::default(), tables());
        arrive(&mut tables);
        let now = NEW / 2;
        unheard.keep_answered(now, question([10, 0, 0, 2]), &tables);
        assert_eq!(unheard.due(), Some(now + SPREAD));
        assert_eq!(unheard.take(now, &tables), Heard::default());
        assert_eq!(unheard.take(now + SPREAD, &tables).answers.len(), 1);
        assert_eq!(unheard.due(), None);
        unheard.keep_answered(NEW, question([10, 0, 0, 2]), &tables);
        assert_eq!(unheard.take(NEW + SPREAD, &tables), Heard::default());
        // What was answered is no question to others, also when nobody has the address any more.
        unheard.keep_answered(now, question([10, 0, 0, 9]), &tables);
        assert_eq!(unheard.take(now + SPREAD, &tables), Heard::default());
        // Nor is anything left of who has gone on: nobody wakes for it.
        unheard.keep_answered(now, question([10, 0, 0, 2]), &tables);
        tables.route(now, GUEST, None, Vec::new(), false);
        assert_eq!(unheard.take(now, &tables), Heard::default());
        assert_eq!(unheard.due(), None);
    }

    #[test]
    fn what_others_have_to_hear_waits_until_they_know() {
        let (mut unheard, mut tables) = (Unheard::default(), tables());
        let second = Duration::from_secs(1);
        unheard.keep(second, question([10, 0, 0, 9]));
        arrive(&mut tables);
        assert_eq!(unheard.take(second, &tables), Heard::default());
        let heard = unheard.take(second + SPREAD, &tables);
        assert_eq!(heard, Heard { answers: Vec::new(), for_all: vec![question([10, 0, 0, 9])] });
        assert_eq!(unheard.take(second + SPREAD, &tables), Heard::default());
    }

    #[test]
    fn what_is_old_long_or_too_much_is_left() {
        let (mut unheard, mut tables) = (Unheard::default(), tables());
        let mut long = question([10, 0, 0, 2]);
        long.resize(LONGEST + 1, 0);
        unheard.keep(Duration::ZERO, long);
        unheard.keep(Duration::ZERO, question([10, 0, 0, 2]));
        arrive(&mut tables);
        assert_eq!(unheard.take(KEPT + SPREAD, &tables), Heard::default());
        for _ in 0..2 * MOST {
            unheard.keep(KEPT, question([10, 0, 0, 2]));
        }
        assert_eq!(unheard.take(KEPT, &tables).answers.len(), MOST);
        assert_eq!(unheard.take(KEPT + SPREAD, &tables).answers.len(), MOST);
    }

    #[test]
    fn who_has_lost_its_mac_to_another_host_stays_silent() {
        let (mut unheard, mut tables) = (Unheard::default(), tables());
        tables.route(Duration::ZERO, GUEST, Some(Place::At(PeerId(1))), Vec::new(), true);
        unheard.keep(Duration::ZERO, question([10, 0, 0, 2]));
        assert_eq!(unheard.take(SPREAD, &tables), Heard::default());
    }
}
