//! That what was said has been done: a NIC is claimed before its guest speaks.

use std::collections::BTreeSet;

use viaduct_types::HostKey;

use super::{
    Action, Message, SessionId,
    node::{Node, say},
};

impl Node {
    /// Asks all hosts that this one shares a vnet with to say when they have done what they were told until now
    /// ([`Action::Heeded`]); says by which connections. Those of a version that does not know of this are not asked. Numbers
    /// begin with 1.
    pub fn ask_to_heed(&mut self, number: u32) -> BTreeSet<SessionId> {
        let sessions = self.peers.iter().filter_map(|(key, peer)| Some((*key, peer.session.as_ref()?)));
        let asked: BTreeSet<SessionId> = sessions
            .filter(|(key, session)| session.heeds && self.shares_vnet(*key, session.id))
            .map(|(_, session)| session.id)
            .collect();
        for session in &asked {
            say(&mut self.transmits, *session, &Message::Heed { number });
        }
        asked
    }

    /// Who shares no vnet has told nothing that anybody would wait for.
    pub(super) fn heed(&mut self, key: HostKey, session: SessionId, number: u32) {
        if self.shares_vnet(key, session) {
            self.actions.push_back(Action::Settle);
            say(&mut self.transmits, session, &Message::Heeded { number });
        }
    }

    fn shares_vnet(&self, key: HostKey, session: SessionId) -> bool {
        self.vnets.keys().any(|vnet| self.is_member(key, *vnet, session))
    }
}
