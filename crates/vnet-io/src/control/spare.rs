//! Hosts that are known, but that no vnet here has and that this host passes nothing on for: one of them may pass on what this host and
//! another one send each other that cannot reach each other. They are dialled while somebody is not reached, and left alone again when
//! everybody is; where there are many, some at a time, and those who do not offer to pass on make room for others.

use std::time::Duration;

use quinn::Side;
use tracing::debug;
use viaduct_types::HostKey;

use super::{engine::Engine, link::Farewell, reach::relay_of};

/// So many are dialled, or asked, at once.
const AT_ONCE: usize = 16;
/// Who has been dialled for so long in vain, or is there and has not offered it, makes room for others.
const TRIED: Duration = Duration::from_secs(10);
/// So long they are left alone then.
const RESTS: Duration = Duration::from_secs(120);
/// Connections to those who pass on are kept for so long after everybody was reached without: what was sent by them may be late.
const KEPT: Duration = Duration::from_secs(20);

/// What is known of one of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spare {
    /// Since when it is dialled.
    tried: Option<Duration>,
    /// Until when it is left alone.
    rests: Duration,
}

impl Spare {
    /// Whether it may be dialled now; notes that it is.
    pub(super) fn may_try(&mut self, now: Duration) -> bool {
        if now < self.rests {
            return false;
        }
        self.tried.get_or_insert(now);
        true
    }

    fn rest(&mut self, now: Duration) {
        *self = Self { tried: None, rests: now + RESTS };
    }

    fn is_tried_in_vain(&self, now: Duration) -> bool {
        self.tried.is_some_and(|since| now.saturating_sub(since) >= TRIED)
    }
}

impl Engine {
    /// Whether others are to be found who pass on.
    pub(super) fn seeks(&self) -> bool {
        self.sought.is_some_and(|last| self.now().saturating_sub(last) < KEPT)
    }

    /// Dials those who may pass on, as long as somebody is not reached without them.
    pub(super) fn seek(&mut self, is_needed: bool) {
        let now = self.now();
        if is_needed {
            self.sought = Some(now);
        }
        let seeks = self.seeks();
        let are_many = self.peers.values().filter(|peer| peer.spare.is_some()).count() > AT_ONCE;
        let (mut room, mut next) = (AT_ONCE, Vec::<HostKey>::new());
        for (key, peer) in &mut self.peers {
            let Some(spare) = &mut peer.spare else { continue };
            let link = peer.session.and_then(|session| self.links.get(&session));
            let is_dialling = peer.dialling.is_some();
            match link {
                // Who has dialled knows what for.
                Some(link) if link.connection.side() == Side::Server || relay_of(link.remote()).is_some() => {
                }
                Some(_) if seeks && self.node.is_offered_by(*key) => spare.tried = None,
                Some(link) if !seeks => {
                    *spare = Spare::default();
                    Farewell::Ending.end(&link.connection, "nobody needs it");
                }
                Some(link) if are_many && now.saturating_sub(link.since) >= TRIED => {
                    debug!("peer {} does not pass anything on for this host", peer.name);
                    spare.rest(now);
                    Farewell::Ending.end(&link.connection, "nobody needs it");
                }
                Some(_) => room = room.saturating_sub(1),
                None if is_dialling && !seeks => {
                    *spare = Spare::default();
                    peer.stop_dialling();
                }
                None if is_dialling && are_many && spare.is_tried_in_vain(now) => {
                    spare.rest(now);
                    peer.stop_dialling();
                }
                None if is_dialling => room = room.saturating_sub(1),
                None => next.push(*key),
            }
        }
        if seeks {
            for key in next {
                if room == 0 {
                    break;
                }
                self.dial(key);
                let is_dialled = self.peers.get(&key).is_some_and(|peer| peer.dialling.is_some());
                room -= usize::from(is_dialled);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_tried_in_vain_is_left_alone_for_a_while() {
        let mut spare = Spare::default();
        let at = Duration::from_secs;
        assert!(spare.may_try(at(5)) && spare.may_try(at(9)));
        assert!(!spare.is_tried_in_vain(at(14)) && spare.is_tried_in_vain(at(15)));
        spare.rest(at(15));
        assert!(!spare.may_try(at(134)) && spare.may_try(at(135)));
        assert!(!spare.is_tried_in_vain(at(144)));
    }
}
