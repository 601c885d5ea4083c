//! Keys: what this host gives its peers to send with, and when they are given the next ones.

use std::time::Duration;

use viaduct_types::{HostKey, VnetId};

use super::{
    Action, Association, Message,
    member::{MOST_EPOCHS, MOST_TAKEN},
    node::{Node, Timer, say},
};
use crate::data::{Lane, Spi};

impl Node {
    /// A number that this host has given to nobody yet.
    pub(super) fn new_spi(&mut self) -> Spi {
        next(&mut self.next_spi)
    }

    /// Gives a member new keys to send with.
    pub(super) fn issue_keys(&mut self, now: Duration, key: HostKey, id: VnetId) {
        let Some(session) = self.peers.get_mut(&key).and_then(|peer| peer.session.as_mut()) else { return };
        let Some(greeting) = session.greeting else { return };
        let Some(vnet) = self.vnets.get_mut(&id) else { return };
        let (own, theirs) = (vnet.settings.protection(), session.offer_of(id).map(|offer| offer.protection));
        let Some(member) = vnet.members.get_mut(&key) else { return };
        let cipher =
            theirs.and_then(|theirs| own.cipher_with(theirs, self.settings.fast_aes, greeting.fast_aes));
        let (Some(cipher), Some(channel)) = (cipher, session.channels.get(&id).copied()) else { return };
        let due = (now.saturating_add(self.settings.rekey), Timer::Rekey(key, id, session.id));
        if let Some(before) = member.rekey.replace(due) {
            self.timers.remove(&before);
        }
        self.timers.insert(due);
        if member.unused(session.id) >= MOST_EPOCHS {
            return;
        }
        if member.inbound.len() >= MOST_TAKEN {
            // By connections that ended before it could say what it uses.
            let Some(spis) = member.oldest_of_others(session.id) else { return };
            self.actions.push_back(Action::Forget { spis });
        }
        let Some(epoch) = session.next_epoch(id) else { return };
        let next_spi = &mut self.next_spi;
        let mut new_spis = |count: u8| -> Vec<Spi> { (0..count).map(|_| next(next_spi)).collect() };
        let spis = new_spis(greeting.workers);
        // Who has one port sends from one to one.
        let has_own = !self.settings.ports.is_empty() && session.spread.has_ports();
        let own = new_spis(if has_own { greeting.workers } else { 0 });
        member.inbound.insert((session.id, epoch), [&spis[..], &own[..]].concat());
        let mut receive = |lane, spis: &[Spi]| {
            self.actions.push_back(Action::Receive(Association {
                session: session.id,
                peer: key,
                vnet: id,
                sender_dialled: !session.dialled,
                epoch,
                cipher,
                lane,
                spis: spis.to_vec(),
            }));
        };
        receive(Lane::First, &spis);
        if own.is_empty() {
            say(&mut self.transmits, session.id, &Message::Keys { channel, epoch, cipher, spis });
            return;
        }
        receive(Lane::Own, &own);
        say(&mut self.transmits, session.id, &Message::Keys { channel, epoch, cipher, spis });
        say(&mut self.transmits, session.id, &Message::OwnKeys { channel, epoch, spis: own });
    }

    /// Keys that this host sends with will soon have been used enough: others are asked for.
    pub fn handle_worn_keys(&mut self, key: HostKey, id: VnetId) {
        self.tell(key, id, |channel| Message::Rekey { channel });
    }

    pub(super) fn schedule_rekeys(&mut self, now: Duration) {
        self.timers.retain(|(_, timer)| !matches!(timer, Timer::Rekey(..)));
        let due = now.saturating_add(self.settings.rekey);
        for (id, vnet) in &mut self.vnets {
            for (key, member) in &mut vnet.members {
                member.rekey = member.session.map(|session| (due, Timer::Rekey(*key, *id, session)));
                self.timers.extend(member.rekey);
            }
        }
    }
}

/// Counts through all numbers that an association can have.
fn next(count: &mut u32) -> Spi {
    loop {
        *count = count.wrapping_add(1);
        // The bit that QUIC has is left out in between, and those that are reserved are passed over.
        if let Some(spi) = Spi::new(*count & 0x3fff_ffff | (*count & 0x4000_0000) << 1) {
            return spi;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_number_is_given_twice_before_all_have_been() {
        for begin in [0, 0x3fff_fe00, 0x7fff_fe00, 0xbfff_fe00, u32::MAX - 0x1ff] {
            let mut count = begin;
            let spis: BTreeSet<Spi> = (0..4_096).map(|_| next(&mut count)).collect();
            assert_eq!(spis.len(), 4_096, "{begin:#x}");
        }
    }
}
