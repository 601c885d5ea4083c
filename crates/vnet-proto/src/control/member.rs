//! A peer in one vnet: its keys, in both directions.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use viaduct_types::MacAddr;

use super::{SessionId, node::Timer};
use crate::data::{Spi, esp::Cipher};

/// So many sets of keys may wait for the peer to use them.
pub(super) const MOST_EPOCHS: usize = 4;
/// So many are taken at all, with those that are for what may be late: who uses each set at once is given the next no sooner
/// than one of them is over.
pub(super) const MOST_TAKEN: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Member {
    /// The connection that it was last seen in this vnet on.
    pub(super) session: Option<SessionId>,
    /// What is taken: by connection and epoch.
    pub(super) inbound: BTreeMap<(SessionId, u32), Vec<Spi>>,
    /// The keys that the peer uses last, as far as it said.
    pub(super) used: Option<(SessionId, u32)>,
    /// When it is given the next keys.
    pub(super) rekey: Option<(Duration, Timer)>,
    /// When it is not in the vnet any more, unless it comes back: since the end of the connection that it was last in it on.
    pub(super) gone: Option<(Duration, Timer)>,
    /// Whether machines are behind it that nobody has told of.
    pub(super) learning: bool,
    /// Whether frames can be sealed for it.
    pub(super) speaks: bool,
    /// By what, if anything seals them.
    pub(super) cipher: Option<Cipher>,
    /// What its own paths to the members let through, as it said: in bytes, of IP packets inside.
    pub(super) limit: Option<u16>,
    /// The groups that it has asked for since it began to say so.
    pub(super) groups: BTreeSet<MacAddr>,
    /// Whether it wants no others.
    pub(super) prunes: bool,
}

impl Member {
    /// What of a connection the peer has not begun to use.
    pub(super) fn unused(&self, session: SessionId) -> usize {
        let waits = |key: &(SessionId, u32)| key.0 == session && self.used.is_none_or(|used| *key > used);
        self.inbound.keys().filter(|key| waits(key)).count()
    }

    /// Takes back what is older than what the peer has used for so long that nothing older is on its way.
    pub(super) fn outdated(&mut self, used: (SessionId, u32)) -> Vec<Spi> {
        let newer = self.inbound.split_off(&used);
        std::mem::replace(&mut self.inbound, newer).into_values().flatten().collect()
    }

    /// Takes back the oldest of other connections, but for those that the peer uses last.
    pub(super) fn oldest_of_others(&mut self, session: SessionId) -> Option<Vec<Spi>> {
        let key = *self.inbound.keys().find(|key| key.0 != session && Some(**key) != self.used)?;
        self.inbound.remove(&key)
    }

    /// Takes back everything.
    pub(super) fn all(&mut self) -> Vec<Spi> {
        std::mem::take(&mut self.inbound).into_values().flatten().collect()
    }
}
