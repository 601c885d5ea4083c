//! Which groups' frames each member wants, so that they go to no others.

use std::collections::BTreeSet;

use viaduct_types::{HostKey, MacAddr, VnetId};

use super::{Action, Message, node::Node};
use crate::data::MOST_GROUPS;

impl Node {
    /// The groups whose frames this host's machines want; none: all of them.
    pub fn handle_listening(&mut self, id: VnetId, wanted: Option<BTreeSet<MacAddr>>) {
        let Some(vnet) = self.vnets.get_mut(&id) else { return };
        if vnet.listening == wanted {
            return;
        }
        let before = std::mem::replace(&mut vnet.listening, wanted.clone());
        let Some(wanted) = wanted else {
            self.tell_members(id, |channel| Message::Prunes { channel, on: false });
            return;
        };
        let is_new = before.is_none();
        let before = before.unwrap_or_default();
        for (group, on) in wanted
            .difference(&before)
            .map(|group| (*group, true))
            .chain(before.difference(&wanted).map(|group| (*group, false)))
        {
            self.tell_members(id, |channel| Message::Listens { channel, group, on });
        }
        // When all that are wanted have been told.
        if is_new {
            self.tell_members(id, |channel| Message::Prunes { channel, on: true });
        }
    }

    /// Tells somebody who has come into a vnet.
    pub(super) fn tell_listening(&mut self, key: HostKey, id: VnetId) {
        let Some(groups) = self.vnets.get(&id).and_then(|vnet| vnet.listening.clone()) else { return };
        for group in groups {
            self.tell(key, id, |channel| Message::Listens { channel, group, on: true });
        }
        self.tell(key, id, |channel| Message::Prunes { channel, on: true });
    }

    pub(super) fn hear_listens(&mut self, key: HostKey, id: VnetId, group: MacAddr, on: bool) {
        let Some(member) = self.vnets.get_mut(&id).and_then(|vnet| vnet.members.get_mut(&key)) else {
            return;
        };
        let changed = match on {
            // Whoever wants more than anybody may gets those that it wanted first.
            true => member.groups.len() < MOST_GROUPS && member.groups.insert(group),
            false => member.groups.remove(&group),
        };
        if changed && member.prunes {
            self.listening_changed(id);
        }
    }

    pub(super) fn hear_prunes(&mut self, key: HostKey, id: VnetId, on: bool) {
        let Some(member) = self.vnets.get_mut(&id).and_then(|vnet| vnet.members.get_mut(&key)) else {
            return;
        };
        if !on {
            member.groups.clear();
        }
        if std::mem::replace(&mut member.prunes, on) != on {
            self.listening_changed(id);
        }
    }

    fn listening_changed(&mut self, vnet: VnetId) {
        let action = Action::Listening { vnet };
        if self.actions.back() != Some(&action) {
            self.actions.push_back(action);
        }
    }

    /// The members of a vnet that do not want all groups' frames, with those that they want.
    pub fn listening(&self, id: VnetId) -> impl Iterator<Item = (HostKey, &BTreeSet<MacAddr>)> {
        let members = self.vnets.get(&id).into_iter().flat_map(|vnet| &vnet.members);
        members.filter(|(_, member)| member.prunes).map(|(key, member)| (*key, &member.groups))
    }
}
