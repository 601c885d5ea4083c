//! Who waits until the other hosts know what they were told. A guest that speaks sooner is answered by its own host, but what it
//! says to others is of nobody, as far as these know, and is dropped there.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use tokio::sync::mpsc;
use viaduct_vnet_proto::control::SessionId;

use super::{Answer, engine::Engine};

/// Nobody is waited for longer: a host may be gone without a word, or not know what it is asked.
const PATIENCE: Duration = Duration::from_millis(500);

/// Those who wait, the first first.
#[derive(Debug, Default)]
pub(super) struct Heeded {
    last: u32,
    waiting: VecDeque<Waiting>,
    /// Who was waited for in vain, and has not answered since: they are asked, but nobody waits for them.
    silent: BTreeSet<SessionId>,
}

#[derive(Debug)]
struct Waiting {
    number: u32,
    until: Duration,
    /// Who has not said so yet.
    sessions: BTreeSet<SessionId>,
    /// Who is told, and with which number of its own.
    answers: mpsc::Sender<Answer>,
    request: u64,
}

impl Heeded {
    /// The number of the next question.
    fn next(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.last
    }

    /// Waits for those who were asked last.
    fn wait(
        &mut self,
        until: Duration,
        mut sessions: BTreeSet<SessionId>,
        (request, answers): (u64, mpsc::Sender<Answer>),
    ) {
        sessions.retain(|session| !self.silent.contains(session));
        self.waiting.push_back(Waiting { number: self.last, until, sessions, answers, request });
    }

    /// Who has done what came before a number has done what came before all earlier ones.
    pub(super) fn heard(&mut self, session: SessionId, number: u32) {
        self.silent.remove(&session);
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.number <= number) {
            waiting.sessions.remove(&session);
        }
    }

    /// A connection that has ended tells nothing.
    pub(super) fn ended(&mut self, session: SessionId) {
        self.silent.remove(&session);
        self.waiting.iter_mut().for_each(|waiting| {
            waiting.sessions.remove(&session);
        });
    }

    /// Those who are told now, with their numbers.
    fn take(&mut self, now: Duration) -> Vec<(u64, mpsc::Sender<Answer>)> {
        let over = |waiting: &Waiting| waiting.sessions.is_empty() || waiting.until <= now;
        let count = self.waiting.iter().take_while(|waiting| over(waiting)).count();
        let told = self.waiting.drain(..count).map(|waiting| {
            self.silent.extend(waiting.sessions);
            (waiting.request, waiting.answers)
        });
        told.collect()
    }

    /// When somebody is told at the latest.
    pub(super) fn due(&self) -> Option<Duration> {
        self.waiting.front().map(|waiting| waiting.until)
    }
}

impl Engine {
    /// Says `Known` when all know what they were told until now.
    pub(super) fn tell_when_known(&mut self, request: u64, answers: mpsc::Sender<Answer>) {
        let sessions = self.node.ask_to_heed(self.heeded.next());
        // What this host's own workers do is part of it.
        let _ = self.handle.settle();
        let until = self.now() + PATIENCE;
        self.heeded.wait(until, sessions, (request, answers));
    }

    pub(super) fn tell_known(&mut self) {
        let now = self.now();
        for (number, answers) in self.heeded.take(now) {
            let _ = answers.try_send(Answer::Known { number });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);

    fn ask(heeded: &mut Heeded, now: Duration) {
        let number = heeded.next();
        heeded.wait(now + PATIENCE, [A, B].into(), (number.into(), mpsc::channel(8).0));
    }

    fn two() -> Heeded {
        let mut heeded = Heeded::default();
        (0..2).for_each(|_| ask(&mut heeded, Duration::ZERO));
        heeded
    }

    fn told(heeded: &mut Heeded, now: Duration) -> Vec<u64> {
        heeded.take(now).into_iter().map(|(number, _)| number).collect()
    }

    #[test]
    fn all_have_to_say_so_and_the_first_is_told_first() {
        let mut heeded = two();
        // It can be asked; it has not been before.
        heeded.heard(A, 0);
        heeded.heard(A, 2);
        heeded.heard(B, 1);
        assert_eq!(told(&mut heeded, Duration::ZERO), [1]);
        heeded.heard(B, 2);
        assert_eq!(told(&mut heeded, Duration::ZERO), [2]);
        assert_eq!(heeded.due(), None);
    }

    #[test]
    fn who_has_gone_is_not_waited_for_nor_who_says_nothing() {
        let mut heeded = two();
        heeded.heard(A, 1);
        heeded.ended(B);
        assert_eq!(told(&mut heeded, Duration::ZERO), [1]);
        assert!(told(&mut heeded, Duration::ZERO).is_empty());
        assert_eq!(told(&mut heeded, PATIENCE), [2]);
    }

    #[test]
    fn who_says_nothing_is_waited_for_once_until_it_has_answered() {
        let mut heeded = Heeded::default();
        ask(&mut heeded, Duration::ZERO);
        heeded.heard(A, 1);
        assert!(told(&mut heeded, Duration::ZERO).is_empty());
        assert_eq!(told(&mut heeded, PATIENCE), [1]);
        ask(&mut heeded, PATIENCE);
        assert!(told(&mut heeded, PATIENCE).is_empty(), "A is waited for");
        heeded.heard(A, 2);
        assert_eq!(told(&mut heeded, PATIENCE), [2], "and B is not");
        // It was asked all the same, and is late.
        heeded.heard(B, 1);
        ask(&mut heeded, PATIENCE);
        heeded.heard(A, 3);
        assert!(told(&mut heeded, PATIENCE).is_empty());
        heeded.heard(B, 3);
        assert_eq!(told(&mut heeded, PATIENCE), [3]);
        // Nothing stays of who has gone.
        ask(&mut heeded, PATIENCE);
        assert_eq!(told(&mut heeded, 2 * PATIENCE), [4]);
        [A, B].into_iter().for_each(|session| heeded.ended(session));
        assert!(heeded.silent.is_empty());
    }
}
