//! Machines that nobody manages and that are heard behind several hosts by turns: two have the same MAC, or frames go round. Each host
//! would take the MAC from the other one for ever; so each takes it a few times, and then not for a while (RFC 7432, section 15.1).
//! Whoever has it when the other one gives in keeps it, so that there always is somebody who does.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use viaduct_types::MacAddr;

/// So often a MAC is taken from other hosts within [`WHILE`], and then for as long not at all.
const MOVES: u32 = 5;
const WHILE: Duration = Duration::from_secs(180);
/// Of so many it is known at most, and those for longest make room.
const MOST: usize = 4096;

/// One vnet's.
#[derive(Debug, Default)]
pub(super) struct Flips {
    states: BTreeMap<MacAddr, (Duration, State)>,
    /// Since when each is in its state, and in which it was before, as long as the time of that is not over.
    order: VecDeque<(Duration, MacAddr)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It was taken from other hosts so often.
    Counted(u32),
    /// It is not taken from other hosts.
    Stays,
    /// It was not for a while, and may be once.
    Tried,
}

impl Flips {
    /// Whether it is left to another host that has it.
    pub(super) fn stays(&self, mac: MacAddr) -> bool {
        matches!(self.states.get(&mac), Some((_, State::Stays)))
    }

    /// Those that are.
    pub(super) fn staying(&self) -> impl Iterator<Item = MacAddr> {
        self.states.iter().filter(|(_, (_, state))| *state == State::Stays).map(|(mac, _)| *mac)
    }

    /// It is taken from another host; says whether that was the last time for a while, and nobody has been told of it yet.
    pub(super) fn taken(&mut self, now: Duration, mac: MacAddr) -> bool {
        let (since, state) = match self.states.get(&mac) {
            None => (now, State::Counted(1)),
            Some((since, State::Counted(count))) if count + 1 < MOVES => (*since, State::Counted(count + 1)),
            Some((_, State::Counted(_) | State::Tried)) => (now, State::Stays),
            Some((since, State::Stays)) => (*since, State::Stays),
        };
        let before = self.set(since, mac, state);
        state == State::Stays && matches!(before, Some(State::Counted(_)))
    }

    /// Ends what was for a while; says whether there is one that may be taken again.
    pub(super) fn tick(&mut self, now: Duration) -> bool {
        let mut may_be_taken = false;
        while let Some((since, mac)) = self.order.pop_front_if(|(since, _)| now >= *since + WHILE) {
            if self.forget(since, mac) == Some(State::Stays) {
                self.set(now, mac, State::Tried);
                may_be_taken = true;
            }
        }
        may_be_taken
    }

    fn set(&mut self, since: Duration, mac: MacAddr, state: State) -> Option<State> {
        let before = self.states.insert(mac, (since, state));
        if before.is_none_or(|(before, _)| before != since) {
            if self.order.len() >= MOST
                && let Some((since, mac)) = self.order.pop_front()
            {
                self.forget(since, mac);
            }
            self.order.push_back((since, mac));
        }
        before.map(|(_, state)| state)
    }

    /// Forgets a state, if it is not another one by now.
    fn forget(&mut self, since: Duration, mac: MacAddr) -> Option<State> {
        let (then, state) = *self.states.get(&mac)?;
        (then == since).then(|| {
            self.states.remove(&mac);
            state
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_few_moves_are_nothing_and_more_are_the_last_for_a_while() {
        let mut flips = Flips::default();
        for round in 0..10 {
            let begin = 230_000 * round;
            assert!(!flips.tick(at(begin)));
            assert!((1..5).all(|n| !flips.taken(at(begin + 40_000 * n), MAC)), "four in each 180 seconds");
            assert!(!flips.stays(MAC));
        }
        assert!(!flips.tick(at(3_000_000)) && flips.states.is_empty());
        assert!((0..4).all(|n| !flips.taken(at(3_000_000 + n), MAC)) && flips.taken(at(3_000_004), MAC));
        assert!(flips.stays(MAC) && flips.staying().eq([MAC]));
        assert!(!flips.tick(at(3_180_003)) && flips.stays(MAC));
        // It may be taken once then, and if nobody takes it back, it is as if nothing had been.
        assert!(flips.tick(at(3_180_004)) && !flips.stays(MAC));
        assert!(!flips.taken(at(3_190_000), MAC), "it was said before");
        assert!(flips.stays(MAC) && flips.tick(at(3_370_000)) && !flips.stays(MAC));
        assert!(!flips.tick(at(3_550_000)) && flips.states.is_empty() && flips.order.is_empty());
    }

    #[test]
    fn of_two_hosts_that_hear_the_same_mac_one_has_it_and_the_other_when_that_one_is_gone() {
        let mut hosts = [Flips::default(), Flips::default()];
        let (mut owner, mut moves, mut said) = (0, Vec::new(), [0, 0]);
        // They look at different times, and the machine of the second speaks less.
        for time in (0..1_000_000).step_by(50) {
            let host = usize::from(time % 100 != 0);
            hosts[host].tick(at(time));
            let speaks = host == 0 || time % 350 == 0;
            if speaks && owner != host && !hosts[host].stays(MAC) {
                said[host] += usize::from(hosts[host].taken(at(time), MAC));
                owner = host;
                moves.push(time);
            }
        }
        assert!(moves.iter().filter(|time| **time < 180_000).count() <= 10, "{moves:?}");
        assert!(moves.len() <= 10 + 2 * 5, "two in each further 180 seconds: {moves:?}");
        assert!(said.iter().all(|said| *said <= 1) && said != [0, 0], "{said:?}");
        assert_eq!(moves.windows(2).filter(|pair| pair[1] - pair[0] > 100_000).count(), 5, "{moves:?}");
        // The machine of who has it is gone.
        let other = 1 - owner;
        let is_back = (1_000_000..1_200_000).step_by(250).any(|time| {
            hosts[other].tick(at(time));
            !hosts[other].stays(MAC)
        });
        assert!(is_back);
    }

    #[test]
    fn however_many_move_so_many_are_known() {
        let mut flips = Flips::default();
        for n in 0..100_000_u64 {
            let [.., a, b, c, d] = (n % 20_000).to_be_bytes();
            flips.taken(at(n), MacAddr([2, 0, a, b, c, d]));
            assert!(flips.order.len() <= MOST && flips.states.len() <= MOST);
        }
        // Nor do the same ones take more than that.
        for n in 0..100_000 {
            flips.taken(at(100_000 + n), MAC);
        }
        assert!(flips.order.len() <= MOST);
        assert!(flips.states.keys().all(|mac| flips.order.iter().any(|(_, known)| known == mac)));
        flips.tick(at(400_000));
        flips.tick(at(600_000));
        assert!(flips.order.is_empty() && flips.states.is_empty());
    }
}
