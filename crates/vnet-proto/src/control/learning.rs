//! Whether machines are behind a host that nobody has told of: it may become so, and end, while hosts are in a vnet together.

use std::time::Duration;

use viaduct_types::{HostKey, VnetId};

use super::{Action, Channel, Message, node::Node};

impl Node {
    /// It is otherwise here than these peers have been offered. Who is in the vnet, and knows of the message, is told, and
    /// nothing else is different; to all others it is offered anew: to those of a version that takes it as it was offered, and
    /// to those who may not have come into it yet.
    pub(super) fn learning_changed(
        &mut self,
        now: Duration,
        id: VnetId,
        peers: impl Iterator<Item = HostKey>,
    ) {
        let on = self.vnets.get(&id).is_some_and(|vnet| vnet.settings.learning);
        for key in peers {
            let Some(session) = self.peers.get(&key).and_then(|peer| peer.session.as_ref()) else { continue };
            if session.knows_learns && self.is_member(key, id, session.id) {
                self.tell(key, id, |channel| Message::Learns { channel, on });
            } else {
                self.retract(key, id);
                self.leave(now, key, id);
                self.offer(now, key, id);
            }
        }
    }

    /// Tells somebody who has come into a vnet, which also shows that it may be told of changes.
    pub(super) fn tell_learning(&mut self, key: HostKey, id: VnetId) {
        let Some(on) = self.vnets.get(&id).map(|vnet| vnet.settings.learning) else { return };
        self.tell(key, id, |channel| Message::Learns { channel, on });
    }

    pub(super) fn hear_learns(&mut self, key: HostKey, channel: Channel, on: bool) {
        let Some(session) = self.peers.get_mut(&key).and_then(|peer| peer.session.as_mut()) else { return };
        session.knows_learns = true;
        // Also where it is not in the vnet at the moment: it may come into it again by the same offer.
        let Some(id) = session.set_learning(channel, on) else { return };
        let session = session.id;
        let Some(member) = self.vnets.get_mut(&id).and_then(|vnet| vnet.members.get_mut(&key)) else {
            return;
        };
        if member.session == Some(session) && std::mem::replace(&mut member.learning, on) != on {
            self.actions.push_back(Action::Join { peer: key, vnet: id, learning: on });
        }
    }
}
