//! What is configured of a host, and what follows when it is another thing than before.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use viaduct_types::{MacAddr, VnetId};

use super::{
    Message, Settings, VnetSettings,
    claims::{Claim, Claims, Owner},
    node::{Node, Vnet, said},
};

impl Node {
    /// What is to be from now on. `arrival` is higher for what comes later, on any host: the time of day, in milliseconds.
    pub fn configure(&mut self, now: Duration, arrival: u64, settings: Settings) {
        let before = std::mem::replace(&mut self.settings, settings);
        self.configured = (now, arrival);
        let gone: Vec<VnetId> =
            self.vnets.keys().filter(|id| !self.settings.vnets.contains_key(id)).copied().collect();
        gone.into_iter().for_each(|vnet| self.remove_vnet(vnet));
        for (id, wanted) in self.settings.vnets.clone() {
            // What was offered otherwise is another vnet, as far as peers are concerned.
            let offered = |vnet: &VnetSettings| (vnet.protection(), vnet.vni);
            if self.vnets.get(&id).is_some_and(|vnet| offered(&vnet.settings) != offered(&wanted)) {
                self.remove_vnet(id);
            }
            let settings = VnetSettings { nics: BTreeMap::new(), ..wanted.clone() };
            let vnet = self.vnets.entry(id).or_insert_with(|| Vnet {
                settings: VnetSettings { peers: BTreeSet::new(), ..settings.clone() },
                claims: Claims::new(self.own),
                members: BTreeMap::new(),
                mismatched: BTreeMap::new(),
                limit: None,
                mtu: None,
                listening: None,
            });
            let nics = std::mem::take(&mut vnet.settings.nics);
            let VnetSettings { peers, learning, mtu, .. } = std::mem::replace(&mut vnet.settings, settings);
            for peer in peers.difference(&wanted.peers) {
                self.retract(*peer, id);
                self.leave(*peer, id);
            }
            self.set_nics(id, nics, wanted.nics, arrival);
            if learning != wanted.learning {
                self.learning_changed(now, id, peers.intersection(&wanted.peers).copied());
            }
            if mtu != wanted.mtu {
                self.tell_mtu(id);
            }
            for peer in wanted.peers.difference(&peers) {
                self.offer(now, *peer, id);
            }
        }
        self.remembered.clear();
        if before.ports != self.settings.ports {
            self.ports_configured(now);
        }
        if before.relay != self.settings.relay {
            self.relays_configured(&before.relay);
        }
        if before.rekey != self.settings.rekey {
            self.schedule_rekeys(now);
        }
    }

    fn remove_vnet(&mut self, id: VnetId) {
        let Some(vnet) = self.vnets.get(&id) else { return };
        for peer in vnet.settings.peers.clone() {
            self.retract(peer, id);
            self.leave(peer, id);
        }
        let macs: Vec<MacAddr> =
            self.vnets.get(&id).into_iter().flat_map(|vnet| vnet.claims.macs()).collect();
        for mac in macs {
            self.change(id, mac, |claims| claims.remove(Owner::Here, mac));
        }
        self.vnets.remove(&id);
    }

    fn set_nics(
        &mut self,
        id: VnetId,
        before: BTreeMap<MacAddr, Vec<IpAddr>>,
        wanted: BTreeMap<MacAddr, Vec<IpAddr>>,
        arrival: u64,
    ) {
        for mac in before.keys().filter(|mac| !wanted.contains_key(mac)) {
            self.change(id, *mac, |claims| claims.remove(Owner::Here, *mac));
            self.tell_members(id, |channel| Message::Withdraw { channel, mac: *mac });
        }
        for (mac, addresses) in wanted.iter().filter(|(mac, addresses)| before.get(mac) != Some(addresses)) {
            let remembered = self.remembered.get(&(id, *mac)).copied();
            let Some(vnet) = self.vnets.get_mut(&id) else { return };
            let sequence = match vnet.claims.of(Owner::Here, *mac) {
                Some(claim) => claim.sequence,
                None => {
                    remembered.unwrap_or_else(|| arrival.max(vnet.claims.highest(*mac).saturating_add(1)))
                }
            };
            let claim = Claim { sequence, addresses: addresses.clone() };
            self.change(id, *mac, |claims| {
                claims.set(Owner::Here, *mac, claim.clone());
            });
            self.tell_members(id, |channel| said(channel, *mac, &claim));
        }
        if let Some(vnet) = self.vnets.get_mut(&id) {
            vnet.settings.nics = wanted;
        }
    }
}
