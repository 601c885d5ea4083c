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
}

#[derive(Debug)]
struct Waiting {
    number: u32,
    until: Duration,
    /// Who has not said so yet.
    sessions: BTreeSet<SessionId>,
    answers: mpsc::Sender<Answer>,
}

impl Heeded {
    fn wait(&mut self, until: Duration, sessions: BTreeSet<SessionId>, answers: mpsc::Sender<Answer>) {
        self.waiting.push_back(Waiting { number: self.last, until, sessions, answers });
    }

    /// Who has done what came before a number has done what came before all earlier ones.
    pub(super) fn heard(&mut self, session: SessionId, number: u32) {
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.number <= number) {
            waiting.sessions.remove(&session);
        }
    }

    /// A connection that has ended tells nothing.
    pub(super) fn ended(&mut self, session: SessionId) {
        self.waiting.iter_mut().for_each(|waiting| {
            waiting.sessions.remove(&session);
        });
    }

    /// Those who are told now.
    fn take(&mut self, now: Duration) -> Vec<mpsc::Sender<Answer>> {
        let over = |waiting: &Waiting| waiting.sessions.is_empty() || waiting.until <= now;
        let count = self.waiting.iter().take_while(|waiting| over(waiting)).count();
        self.waiting.drain(..count).map(|waiting| waiting.answers).collect()
    }

    /// When somebody is told at the latest.
    pub(super) fn due(&self) -> Option<Duration> {
        self.waiting.front().map(|waiting| waiting.until)
    }
}

impl Engine {
    /// Says `Known` when all know what they were told until now.
    pub(super) fn tell_when_known(&mut self, answers: mpsc::Sender<Answer>) {
        self.heeded.last = self.heeded.last.wrapping_add(1);
        let sessions = self.node.ask_to_heed(self.heeded.last);
        // What this host's own workers do is part of it.
        let _ = self.handle.settle();
        let until = self.now() + PATIENCE;
        self.heeded.wait(until, sessions, answers);
    }

    pub(super) fn tell_known(&mut self) {
        let now = self.now();
        for answers in self.heeded.take(now) {
            let _ = answers.try_send(Answer::Known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);

    fn two() -> (Heeded, mpsc::Receiver<Answer>) {
        let (answers, queue) = mpsc::channel(8);
        let mut heeded = Heeded::default();
        for _ in 0..2 {
            heeded.last += 1;
            heeded.wait(PATIENCE, [A, B].into(), answers.clone());
        }
        (heeded, queue)
    }

    #[test]
    fn all_have_to_say_so_and_the_first_is_told_first() {
        let (mut heeded, _queue) = two();
        heeded.heard(A, 2);
        heeded.heard(B, 1);
        assert_eq!(heeded.take(Duration::ZERO).len(), 1);
        heeded.heard(B, 2);
        assert_eq!(heeded.take(Duration::ZERO).len(), 1);
        assert_eq!(heeded.due(), None);
    }

    #[test]
    fn who_has_gone_is_not_waited_for_nor_who_says_nothing() {
        let (mut heeded, _queue) = two();
        heeded.heard(A, 1);
        heeded.ended(B);
        assert_eq!(heeded.take(Duration::ZERO).len(), 1);
        assert_eq!(heeded.take(Duration::ZERO).len(), 0);
        assert_eq!(heeded.take(PATIENCE).len(), 1);
    }
}
