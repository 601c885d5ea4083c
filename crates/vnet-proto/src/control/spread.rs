//! Further ports among what hosts say to each other: which there are, and whether what is sent there arrives.

use std::{net::SocketAddr, time::Duration};

use viaduct_types::{HostKey, VnetId};

use super::{
    Action, Message,
    node::{Node, say},
    ports::Further,
};

impl Node {
    /// How it is about a peer's further ports, when it is reached at this address. By way of others there are none.
    pub fn further_ports(&self, key: HostKey, at: SocketAddr) -> Further<'_> {
        let session = self.peers.get(&key).and_then(|peer| peer.session.as_ref());
        let further = session.map_or(Further::None, |session| session.spread.further(at));
        // Who has one port sends from one to one.
        let is_single = self.settings.ports.is_empty();
        if is_single && matches!(further, Further::Used(_)) { Further::Idle } else { further }
    }

    /// The peer's further ports, used or not, in the order of their workers.
    pub fn told_ports(&self, key: HostKey) -> &[u16] {
        let session = self.peers.get(&key).and_then(|peer| peer.session.as_ref());
        session.map_or(&[], |session| session.spread.ports())
    }

    /// To be called a few times a second for each peer with a connection. Gives a number when each worker is to send it
    /// to the peer by its own ports ([`Node::handle_probe`] at the other end). `at` is where the peer is, none when it is
    /// reached by way of others; `has_traffic`, whether it was sent frames since the last call.
    pub fn probe_ports(
        &mut self,
        now: Duration,
        key: HostKey,
        at: Option<SocketAddr>,
        has_traffic: bool,
    ) -> Option<u32> {
        // Who has one port sends from it.
        let workers = if self.settings.ports.is_empty() { 0 } else { self.settings.workers };
        let session = self.peers.get_mut(&key)?.session.as_mut()?;
        // Who has left the last vnet has no keys any more, and what is sent there is for nobody.
        let id = session.id;
        let mut members = self.vnets.values().filter_map(|vnet| vnet.members.get(&key));
        if !members.any(|member| member.session == Some(id)) {
            session.spread.set_keyed(false);
        }
        session.spread.handle_timeout(now, at, workers, has_traffic)
    }

    /// A worker of the peer has sent this by its own ports, and it came.
    pub fn handle_probe(&mut self, key: HostKey, worker: u8, number: u32) {
        self.tell_peer(key, &Message::Arrived { worker, number });
    }

    pub(super) fn hear_arrived(&mut self, now: Duration, key: HostKey, worker: u8, number: u32) {
        let Some(session) = self.peers.get_mut(&key).and_then(|peer| peer.session.as_mut()) else { return };
        if session.spread.arrived(now, worker, number) {
            self.actions.push_back(Action::Ports { peer: key });
        }
    }

    pub(super) fn hear_ports(&mut self, now: Duration, key: HostKey, ports: Vec<u16>) {
        let Some(session) = self.peers.get_mut(&key).and_then(|peer| peer.session.as_mut()) else { return };
        let had = session.spread.has_ports();
        session.spread.set_ports(ports);
        let has = session.spread.has_ports();
        let id = session.id;
        self.actions.push_back(Action::Ports { peer: key });
        // Keys that it has been given already are for one port.
        if has && !had && !self.settings.ports.is_empty() {
            let vnets: Vec<VnetId> =
                self.vnets.keys().filter(|vnet| self.is_member(key, **vnet, id)).copied().collect();
            vnets.into_iter().for_each(|vnet| self.issue_keys(now, key, vnet));
        }
    }

    /// This host's further ports are others than before.
    pub(super) fn ports_configured(&mut self, now: Duration) {
        let ports = self.settings.ports.clone();
        let sessions = self.peers.iter().filter_map(|(key, peer)| Some((*key, peer.session.as_ref()?.id)));
        let sessions: Vec<_> = sessions.collect();
        for (key, id) in sessions {
            say(&mut self.transmits, id, &Message::Ports { ports: ports.clone() });
            self.actions.push_back(Action::Ports { peer: key });
            if ports.is_empty() {
                continue;
            }
            let vnets: Vec<VnetId> =
                self.vnets.keys().filter(|vnet| self.is_member(key, **vnet, id)).copied().collect();
            vnets.into_iter().for_each(|vnet| self.issue_keys(now, key, vnet));
        }
    }
}
