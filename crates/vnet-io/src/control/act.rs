//! What the hosts have agreed on is done.

use std::{collections::BTreeSet, io, net::IpAddr, time::Duration};

use tokio::sync::mpsc::error::TrySendError;
use tracing::{debug, info, warn};
use viaduct_types::{HostKey, MacAddr, VnetId};
use viaduct_vnet_proto::control::{Action, Association, Owner};

use super::{
    Answer, bridge,
    engine::{Engine, TICK, Vnet},
    link::Farewell,
    memory,
    tables::Place,
};
use crate::datapath::{self, Direction, KeyMaterial, Lane, receiver};

/// Keys are changed after so many datagrams at the latest.
const WORN: u64 = 1 << 32;

fn told(vnet: &Vnet, mac: MacAddr, done: io::Result<()>) {
    if let Err(error) = done {
        warn!("vnet {}: the bridge is not told where {mac} is: {error}", vnet.name);
    }
}

impl Engine {
    /// Does what the hosts have agreed on, and then says what is to be said.
    pub(super) fn flush(&mut self) {
        let (mut receives, mut reaches, mut regrouped) = (false, false, BTreeSet::new());
        loop {
            while let Some(action) = self.node.poll_action() {
                receives |= matches!(action, Action::Receive(_) | Action::Reach | Action::Settle);
                // Once for all of it: a member may have it be otherwise with each of its messages.
                if let Action::Listening { vnet } = action {
                    regrouped.insert(vnet);
                } else if action == Action::Reach {
                    reaches = true;
                } else {
                    self.act(action);
                }
            }
            std::mem::take(&mut regrouped).into_iter().for_each(|vnet| self.regroup(vnet));
            if std::mem::take(&mut reaches) {
                self.reach();
                // More may follow from that.
                continue;
            }
            let now = self.now();
            if !self.looks.look(now, self.vnets.values_mut().map(|vnet| &mut vnet.learned)) {
                break;
            }
            self.configure();
        }
        self.tell_kernel();
        for (id, vnet) in self.vnets.iter_mut().filter(|(_, vnet)| vnet.hears()) {
            if let Some(forwarding) = vnet.tables.take_changed() {
                let _ = self.handle.set_forwarding(*id, forwarding);
            }
        }
        let gone = std::mem::take(&mut self.gone);
        // Nobody is told of keys that the workers do not have yet, nor is a bridge told to give them what they would give back.
        if (receives || !gone.is_empty())
            && let Err(error) = self.handle.settle()
        {
            warn!("{error}");
        }
        for (id, mac) in gone {
            if let Some(vnet) = self.vnets.get_mut(&id).filter(|vnet| vnet.carried) {
                vnet.pinned.insert(mac);
                told(vnet, mac, bridge::pin(&vnet.tap, mac));
            }
        }
        while let Some((session, bytes)) = self.node.poll_transmit() {
            if let Some(link) = self.links.get(&session) {
                link.send(bytes);
            }
        }
        self.hear_unheard();
        self.remember();
        // Whose ports take more from now on is not to be told of less by the kernel.
        if self.findings.mtus != self.told.mtus {
            self.narrow();
        }
        self.tell_findings();
    }

    /// Says what was found, at once or with the next look: peers may have it be something else as often as they like, and who hears
    /// it has work to do. A guest that has arrived waits for its port.
    fn tell_findings(&mut self) {
        let now = self.now();
        let is_due = self.told_at.is_none_or(|then| now.saturating_sub(then) >= TICK);
        if self.findings != self.told && (is_due || self.findings.arrived != self.told.arrived) {
            self.told = self.findings.clone();
            self.told_at = Some(now);
            self.listeners.iter_mut().for_each(|listener| listener.is_behind = true);
        }
        let told = &self.told;
        self.listeners.retain_mut(|listener| {
            if !listener.is_behind {
                return true;
            }
            let said = listener.answers.try_send(Answer::Changed(told.clone()));
            // Who has not read for a while is told the last when it does.
            listener.is_behind = matches!(said, Err(TrySendError::Full(_)));
            !matches!(said, Err(TrySendError::Closed(_)))
        });
    }

    /// Writes down the sequences, so that the next engine claims what this one did.
    pub(super) fn remember(&mut self) {
        if !std::mem::take(&mut self.configured.1) {
            return;
        }
        let sequences = self.node.sequences();
        if sequences != self.written {
            if let Err(error) = memory::write(&self.run_dir, &sequences) {
                warn!("which NICs are here cannot be written down: {error}");
            }
            self.written = sequences;
        }
    }

    pub(super) fn act(&mut self, action: Action) {
        let now = self.now();
        match action {
            Action::Close { session } => {
                self.heeded.ended(session);
                if let Some(link) = self.links.remove(&session) {
                    Farewell::Duplicate.end(&link.connection, "there is another connection");
                }
            }
            Action::Join { peer, vnet: id, learning } => {
                if let (Some(peer), Some(vnet)) = (self.peers.get_mut(&peer), self.vnets.get_mut(&id)) {
                    vnet.tables.set_learning_peer(peer.id, learning);
                    let behind = if learning { ", with machines that nobody manages behind it" } else { "" };
                    if peer.lines.has_room(now) {
                        info!("vnet {}: peer {} is in it{behind}", vnet.name, peer.name);
                    }
                }
                self.say_segment(id);
            }
            Action::Leave { peer, vnet } => {
                if let (Some(peer), Some(vnet)) = (self.peers.get_mut(&peer), self.vnets.get_mut(&vnet)) {
                    vnet.tables.set_learning_peer(peer.id, false);
                    if peer.lines.has_room(now) {
                        info!("vnet {}: peer {} is in it no longer", vnet.name, peer.name);
                    }
                }
            }
            Action::Receive(association) => self.install(&association, Direction::Inbound),
            Action::Transmit(association) => {
                self.install(&association, Direction::Outbound);
                self.set_speaking(association.vnet, association.peer, true);
            }
            Action::Plain { peer, vnet, vni } => {
                if let Some(plain) = self.vnets.get_mut(&vnet).and_then(|vnet| vnet.plain.as_mut()) {
                    plain.speak(peer, Some(vni));
                }
            }
            Action::Forget { spis } => spis.into_iter().for_each(|spi| self.handle.retire(spi)),
            Action::Mute { peer, vnet } => {
                if let Some(plain) = self.vnets.get_mut(&vnet).and_then(|vnet| vnet.plain.as_mut()) {
                    plain.speak(peer, None);
                    return;
                }
                self.set_speaking(vnet, peer, false);
                if let Some(peer) = self.peers.get(&peer) {
                    let _ = self.handle.silence(vnet, peer.id);
                }
            }
            Action::Route { vnet, mac, owner, addresses, moved } => {
                let place = match owner {
                    None => None,
                    Some(Owner::Here) => Some(Place::Here),
                    Some(Owner::Peer(key)) => self.peers.get(&key).map(|peer| Place::At(peer.id)),
                };
                self.route(now, vnet, mac, place, addresses, moved);
            }
            // They are done in `flush`, before anything is said.
            Action::Reach | Action::Listening { .. } | Action::Settle => {}
            Action::Heeded { session, number } => self.heeded.heard(session, number),
            Action::Ports { peer } => self.measure(peer),
            Action::Mtu { vnet, mtu } => {
                match mtu {
                    Some(mtu) => self.findings.mtus.insert(vnet, mtu),
                    None => self.findings.mtus.remove(&vnet),
                };
                let written = self.orders.vnets.get(&vnet).and_then(|orders| orders.mtu);
                if let Some(vnet) = self.vnets.get_mut(&vnet) {
                    vnet.tables.set_longest(written.or(mtu));
                }
            }
        }
    }

    /// Who wants which groups' frames.
    fn regroup(&mut self, id: VnetId) {
        let listening = self.node.listening(id).filter_map(|(key, groups)| {
            let peer = self.peers.get(&key)?;
            Some((peer.id, groups.clone()))
        });
        let listening = listening.collect();
        if let Some(vnet) = self.vnets.get_mut(&id) {
            vnet.tables.set_listening(listening);
        }
    }

    pub(super) fn route(
        &mut self,
        now: Duration,
        id: VnetId,
        mac: MacAddr,
        place: Option<Place>,
        addresses: Vec<IpAddr>,
        moved: bool,
    ) {
        let Some(vnet) = self.vnets.get_mut(&id) else { return };
        vnet.tables.route(now, mac, place, addresses, moved);
        // It was seen here and has been seen elsewhere since.
        if matches!(place, Some(Place::At(_))) && vnet.learned.contains(mac) {
            vnet.learned.forget(mac);
        }
        self.point_bridge(id, mac, place);
        let Some(vnet) = self.vnets.get(&id) else { return };
        let lost = self.findings.lost.entry(id).or_default();
        match place {
            Some(Place::At(peer)) if vnet.own.contains(&mac) => {
                let peer = self.peers.values_mut().find(|known| known.id == peer);
                if lost.insert(mac) && peer.is_some_and(|peer| peer.lines.has_room(now)) {
                    let name = &vnet.name;
                    warn!("vnet {name}: {mac} is attached here, and has arrived at another host later");
                }
            }
            Some(_) | None => {
                lost.remove(&mac);
            }
        }
        if lost.is_empty() {
            self.findings.lost.remove(&id);
        }
    }

    /// A bridge learns where a MAC is from what comes from it, and knows no better until then. Who has come here may not
    /// have said anything yet; who has gone on may still be heard where it was.
    fn point_bridge(&mut self, id: VnetId, mac: MacAddr, place: Option<Place>) {
        let Some(vnet) = self.vnets.get_mut(&id).filter(|vnet| vnet.carried) else { return };
        self.gone.retain(|known| *known != (id, mac));
        if vnet.plain.is_some() {
            if place == Some(Place::Here) {
                let nic = self.orders.vnets.get(&id).and_then(|orders| orders.nics.get(&mac));
                // Whoever is no port yet is heard when it is.
                let _ = nic.and_then(|nic| nic.device.as_ref()).map(|device| bridge::lead(device, mac));
            }
            return;
        }
        // What a host has attached is not taken from it by whoever is heard with its address, nor what has been taken too often. But
        // the host's own guests reach it, whoever else has its MAC.
        let is_kept = || vnet.flips.stays(mac) && !bridge::is_own(&vnet.tap, mac);
        let is_others = || vnet.tables.is_learning() && (vnet.tables.is_attached_elsewhere(mac) || is_kept());
        if matches!(place, Some(Place::At(_))) && (vnet.own.contains(&mac) || is_others()) {
            self.gone.push((id, mac));
            return;
        }
        let was_pinned = vnet.pinned.remove(&mac);
        if place == Some(Place::Here) {
            let nic = self.orders.vnets.get(&id).and_then(|orders| orders.nics.get(&mac));
            let led = nic.and_then(|nic| nic.device.as_ref()).map(|device| bridge::lead(device, mac));
            // Whoever is no port yet is heard when it is.
            if !matches!(led, Some(Ok(()))) {
                told(vnet, mac, bridge::forget(&vnet.tap, mac));
            }
        } else if was_pinned {
            told(vnet, mac, bridge::forget(&vnet.tap, mac));
        }
    }

    pub(super) fn set_speaking(&mut self, vnet: VnetId, peer: HostKey, speaks: bool) {
        if let (Some(peer), Some(vnet)) = (self.peers.get(&peer), self.vnets.get_mut(&vnet)) {
            vnet.tables.set_speaking(peer.id, speaks);
        }
    }

    pub(super) fn install(&mut self, association: &Association, direction: Direction) {
        let Some(peer) = self.peers.get(&association.peer).map(|peer| peer.id) else { return };
        let Some(link) = self.links.get(&association.session) else { return };
        for (number, spi) in association.workers() {
            let worker = usize::from(number);
            // By the first port, the first worker receives for all.
            let receives = match association.lane {
                Lane::First => 0,
                Lane::Own => receiver(worker, self.ports.count()),
            };
            let mut bytes = zeroize::Zeroizing::new(vec![0; KeyMaterial::length(association.cipher)]);
            let context = association.context(number);
            if link.connection.export_keying_material(&mut bytes, Association::LABEL, &context).is_err() {
                return;
            }
            let Some(key) = KeyMaterial::new(association.cipher, &bytes) else { return };
            let installed = self.handle.install(datapath::Association {
                spi,
                peer,
                vnet: association.vnet,
                direction,
                lane: association.lane,
                worker: if direction == Direction::Outbound { worker } else { receives },
                queue: receiver(worker, self.handle.workers()),
                cipher: association.cipher,
                key,
                rekey_after: WORN,
            });
            if let Err(error) = installed {
                debug!("keys are not used: {error}");
            }
        }
    }
}
