//! What is due.

use std::time::Duration;

use super::{
    Action,
    node::{Node, Timer},
};

impl Node {
    /// When [`Node::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        while let Some((due, timer)) = self.timers.first().copied().filter(|(due, _)| *due <= now) {
            self.timers.remove(&(due, timer));
            match timer {
                Timer::Rekey(key, vnet, session) => {
                    if self.is_member(key, vnet, session) && self.is_connected(key, Some(session)) {
                        self.issue_keys(now, key, vnet);
                    }
                }
                Timer::Outdated(key, vnet, used) => {
                    let vnet = self.vnets.get_mut(&vnet);
                    if let Some(member) = vnet.and_then(|vnet| vnet.members.get_mut(&key)) {
                        let spis = member.outdated(used);
                        if !spis.is_empty() {
                            self.actions.push_back(Action::Forget { spis });
                        }
                    }
                }
                Timer::Gone(key, vnet) => {
                    let member = self.vnets.get(&vnet).and_then(|vnet| vnet.members.get(&key));
                    if member.is_some_and(|member| !self.is_connected(key, member.session)) {
                        self.leave(now, key, vnet);
                    }
                }
                Timer::Mtu(vnet) => self.tell_late_mtu(now, vnet),
            }
        }
    }
}
