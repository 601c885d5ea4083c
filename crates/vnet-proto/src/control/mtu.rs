//! How long frames of a vnet may be: what gets through to and from each of its hosts, and what each has said.

use std::time::Duration;

use viaduct_types::{HostKey, VnetId};

use super::{
    Action, Message, Security, inner_mtu, least_inner_mtu,
    node::{Node, Timer, Vnet, say},
};

/// So many changes of one vnet follow at once what its members say, or how they come and go; each is told to all of them.
pub(super) const CHANGES: u32 = 16;
/// What is more follows so much later, together.
const LATER: Duration = Duration::from_secs(1);

impl Node {
    /// The longest IP packet that gets to a peer, in bytes, as IPv6 or IPv4.
    pub fn handle_path_mtu(&mut self, now: Duration, key: HostKey, mtu: u16, outer_v6: bool) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.path.replace((mtu, outer_v6)) == Some((mtu, outer_v6)) {
            return;
        }
        if let Some(session) = &peer.session {
            say(&mut self.transmits, session.id, &Message::PathMtu { mtu });
        }
        self.measure(now, key);
    }

    /// The longest IP packet that gets here from a peer, as it said.
    pub fn path_back(&self, key: HostKey) -> Option<u16> {
        self.peers.get(&key)?.path_back
    }

    pub(super) fn measure(&mut self, now: Duration, key: HostKey) {
        let member = |(_, vnet): &(&VnetId, &Vnet)| vnet.members.contains_key(&key);
        let vnets: Vec<VnetId> = self.vnets.iter().filter(member).map(|(id, _)| *id).collect();
        vnets.into_iter().for_each(|vnet| self.tell_mtu(now, vnet));
    }

    /// What gets through inside, to and from a member.
    pub(super) fn mtu_of(&self, key: HostKey, security: Security) -> Option<u16> {
        let peer = self.peers.get(&key)?;
        let (there, outer_v6) = peer.path?;
        Some(inner_mtu(there.min(peer.path_back.unwrap_or(there)), outer_v6, security))
    }

    pub(super) fn tell_mtu(&mut self, now: Duration, id: VnetId) {
        let Some(vnet) = self.vnets.get(&id) else { return };
        let limit = vnet.members.keys().filter_map(|key| self.mtu_of(*key, vnet.settings.security)).min();
        // As long as nobody is there, what was known holds.
        let Some(limit) = limit else { return };
        let own = vnet.settings.mtu.map_or(limit, |written| limit.min(written));
        let Some(vnet) = self.vnets.get_mut(&id) else { return };
        // What one host's ports do not take, the others' guests must not send.
        let least = least_inner_mtu(vnet.settings.security);
        let said = vnet.members.values().filter_map(|member| member.limit);
        let mtu = said.map(|limit| limit.max(least)).fold(own, u16::min);
        if (vnet.mtu, vnet.limit) == (Some(mtu), Some(own)) {
            return;
        }
        if !vnet.changes.lets_through(now) {
            if !std::mem::replace(&mut vnet.is_late, true) {
                self.timers.insert((now.saturating_add(LATER), Timer::Mtu(id)));
            }
            return;
        }
        if vnet.mtu.replace(mtu) != Some(mtu) {
            self.actions.push_back(Action::Mtu { vnet: id, mtu: Some(mtu) });
        }
        if vnet.limit.replace(own) != Some(own) {
            self.tell_members(id, |channel| Message::VnetMtu { channel, mtu: own });
        }
    }

    /// What came too often follows.
    pub(super) fn tell_late_mtu(&mut self, now: Duration, id: VnetId) {
        if let Some(vnet) = self.vnets.get_mut(&id) {
            vnet.is_late = false;
            self.tell_mtu(now, id);
        }
    }
}
