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
use crate::data::Storm;

impl Node {
    /// What is to be from now on. `arrival` is higher for what comes later, on any host: the time of day, in milliseconds.
    pub fn configure(&mut self, now: Duration, arrival: u64, settings: Settings) {
        let before = std::mem::replace(&mut self.settings, settings);
        self.configured = (now, arrival);
        let vnets = std::mem::take(&mut self.settings.vnets);
        let gone: Vec<VnetId> = self.vnets.keys().filter(|id| !vnets.contains_key(id)).copied().collect();
        gone.into_iter().for_each(|vnet| self.remove_vnet(now, vnet));
        for (id, mut wanted) in vnets {
            // What was offered otherwise is another vnet, as far as peers are concerned.
            let offered = |vnet: &VnetSettings| (vnet.protection(), vnet.vni);
            if self.vnets.get(&id).is_some_and(|vnet| offered(&vnet.settings) != offered(&wanted)) {
                self.remove_vnet(now, id);
            }
            let nics = std::mem::take(&mut wanted.nics);
            let vnet = self.vnets.entry(id).or_insert_with(|| Vnet {
                settings: VnetSettings { peers: BTreeSet::new(), ..wanted.clone() },
                claims: Claims::new(self.own),
                members: BTreeMap::new(),
                mismatched: BTreeMap::new(),
                limit: None,
                mtu: None,
                changes: Storm::default(),
                is_late: false,
                listening: None,
            });
            let known = std::mem::replace(&mut vnet.settings, wanted.clone());
            for peer in known.peers.difference(&wanted.peers) {
                self.retract(*peer, id);
                self.leave(now, *peer, id);
            }
            self.set_nics(id, known.nics, nics, arrival);
            if known.learning != wanted.learning {
                self.learning_changed(now, id, known.peers.intersection(&wanted.peers).copied());
            }
            if known.mtu != wanted.mtu {
                self.tell_mtu(now, id);
            }
            for peer in wanted.peers.difference(&known.peers) {
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

    fn remove_vnet(&mut self, now: Duration, id: VnetId) {
        let Some(vnet) = self.vnets.get(&id) else { return };
        for peer in vnet.settings.peers.clone() {
            self.retract(peer, id);
            self.leave(now, peer, id);
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
