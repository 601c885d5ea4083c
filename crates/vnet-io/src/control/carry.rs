//! What the engine is told to be.

use std::{collections::BTreeSet, net::IpAddr};

use tracing::{debug, info};
use viaduct_types::{HostKey, MacAddr, PeerName, VnetId};
use viaduct_vnet_proto::{
    control::{Settings, VnetSettings},
    data::{Listeners, PeerId},
};

use super::{
    Orders, VnetOrders,
    discovery::time_of_day,
    engine::{Engine, Vnet},
    flips::Flips,
    learned::Learned,
    link::Farewell,
    peers::Peer,
    plain::Plain,
    segment::Bridging,
    spare::Spare,
    tables::Tables,
    unheard::Unheard,
};
use crate::datapath::Tap;

impl Engine {
    /// What is to be from now on; says what is not.
    pub(super) fn be(&mut self, mut orders: Orders) -> Vec<String> {
        // Hosts may share a file in which each of them stands.
        let own = self.identity.public();
        orders.peers.retain(|_, peer| peer.key != own);
        // Whoever gives orders may not have heard yet whose guest has arrived.
        self.findings.arrived.retain(|id, macs| {
            let Some(vnet) = orders.vnets.get_mut(id) else { return false };
            macs.retain(|mac| vnet.nics.get_mut(mac).is_some_and(|nic| std::mem::take(&mut nic.prepared)));
            !macs.is_empty()
        });
        self.gate.open();
        let mut gone: BTreeSet<HostKey> = self.peers.keys().copied().collect();
        for (name, wanted) in &orders.peers {
            let key = wanted.key;
            gone.remove(&key);
            self.strangers.remove(key);
            let peer = self.peers.entry(key).or_insert_with(|| {
                self.next_peer += 1;
                Peer::new(name.clone(), PeerId(self.next_peer), Vec::new())
            });
            peer.name = name.clone();
            if peer.spare.is_some() != wanted.spare {
                peer.spare = wanted.spare.then(Spare::default);
                peer.unreached = None;
            }
            if peer.endpoints != wanted.endpoints {
                peer.endpoints.clone_from(&wanted.endpoints);
                peer.stop_dialling();
            }
            self.dial(key);
            if wanted.spare {
                self.node.want_detour(key, false);
            }
        }
        for id in self.vnets.keys().copied().collect::<Vec<_>>() {
            let same = |vnet: &Vnet| {
                let wanted = orders.vnets.get(&id);
                wanted.is_some_and(|wanted| {
                    let plain = vnet.plain.as_ref().map(Plain::orders);
                    wanted.tap == vnet.tap
                        && wanted.security == vnet.security
                        && wanted.plain.as_ref() == plain
                })
            };
            if !self.vnets.get(&id).is_some_and(same) {
                self.remove_vnet(id);
            }
        }
        let now = self.now();
        for (id, wanted) in &orders.vnets {
            let before = self.orders.vnets.get(id).map(|before| (&before.port, before.opens));
            let is_new_port = wanted.opens.is_some() && before != Some((&wanted.port, wanted.opens));
            let vnet = self.vnets.entry(*id).or_insert_with(|| Vnet {
                name: wanted.name.clone(),
                tap: wanted.tap.clone(),
                security: wanted.security,
                tables: Tables::new(),
                carried: false,
                trouble: None,
                plain: wanted.plain.as_ref().map(|plain| Plain::new(wanted.tap.clone(), plain.clone())),
                bridging: Bridging::default(),
                accused: None,
                learned: Learned::default(),
                flips: Flips::default(),
                own: BTreeSet::new(),
                pinned: BTreeSet::new(),
                listeners: Listeners::new(now),
                unheard: Unheard::default(),
            });
            let (learning, before) = (wanted.learning, vnet.own.clone());
            let has_learned = vnet.tables.is_learning();
            vnet.name = wanted.name.clone();
            let with = |prepared| {
                let nics = wanted.nics.iter().filter(move |(_, nic)| nic.prepared == prepared);
                nics.map(|(mac, _)| *mac).collect::<BTreeSet<MacAddr>>()
            };
            vnet.tables.set_learning(wanted.learning);
            vnet.tables.set_longest(wanted.mtu.or(self.findings.mtus.get(id).copied()));
            if !wanted.learning {
                vnet.learned.clear();
                vnet.flips = Flips::default();
                vnet.bridging.end();
            } else if is_new_port && vnet.plain.is_none() && !self.bridged_before.remove(id) {
                let is_there = wanted.port.as_ref().is_some_and(|port| self.bridged.contains(port));
                vnet.bridging.has_new_port(now, is_there);
            }
            vnet.own = with(false);
            // Who hears reports of others' machines asks none what it listens to.
            if !learning && (has_learned || !vnet.own.is_subset(&before)) {
                vnet.listeners.arrived(now);
            }
            if let Some(lost) = self.findings.lost.get_mut(id) {
                lost.retain(|mac| vnet.own.contains(mac));
            }
            vnet.tables.set_prepared(with(true));
        }
        self.findings.lost.retain(|_, lost| !lost.is_empty());
        self.orders = orders;
        self.hold_ports();
        self.open_ports();
        self.carry();
        self.configure();
        // Those who are gone have to be known as long as something follows for them.
        self.flush();
        for key in gone {
            self.node.want_detour(key, false);
            if let Some(peer) = self.peers.remove(&key) {
                self.handle.remove_path(peer.id);
                if let Some(link) = peer.session.and_then(|session| self.links.get(&session)) {
                    Farewell::Stranger.end(&link.connection, "your key is not known here any more");
                }
            }
        }
        self.forget_beacons();
        self.discover();
        self.flush();
        let trouble =
            |vnet: &Vnet| vnet.trouble.as_ref().map(|trouble| format!("vnet {}: {trouble}", vnet.name));
        self.vnets.values().filter_map(trouble).collect()
    }

    pub(super) fn configure(&mut self) {
        let key_of = |name: &PeerName| self.orders.peers.get(name).map(|peer| peer.key);
        let vnet = |(id, orders): (&VnetId, &VnetOrders)| {
            let nics = orders.nics.iter().filter(|(_, nic)| !nic.prepared);
            let learned = self.vnets.get(id).into_iter().flat_map(|vnet| vnet.learned.iter());
            // Who bridges the same segment reaches what is there, this host's NICs among it. And keys that come while there
            // is no device would be nobody's. As long as it is not known who does, the port is held.
            let is_out = self
                .vnets
                .get(id)
                .is_some_and(|vnet| vnet.bridging.is_out() || vnet.plain.is_none() && !vnet.carried);
            let settings = VnetSettings {
                security: orders.security,
                cipher: orders.cipher,
                vni: orders.plain.as_ref().map(|plain| plain.vni),
                learning: orders.learning,
                mtu: orders.mtu,
                peers: orders.peers.iter().filter(|_| !is_out).filter_map(key_of).collect(),
                nics: learned
                    .map(|mac| (mac, Vec::new()))
                    .chain(nics.map(|(mac, nic)| (*mac, claimed(*mac, &nic.addresses))))
                    .collect(),
            };
            (*id, settings)
        };
        let settings = Settings {
            workers: u8::try_from(self.handle.workers()).unwrap_or(u8::MAX),
            ports: self.ports.told().to_vec(),
            fast_aes: fast_aes(),
            rekey: self.rekey,
            vnets: self.orders.vnets.iter().map(vnet).collect(),
            relay: self.orders.relay.iter().filter_map(key_of).collect(),
        };
        self.node.configure(self.now(), time_of_day(), settings);
        self.configured = (self.configured.0 + 1, true);
    }

    pub(super) fn remove_vnet(&mut self, id: VnetId) {
        // What was agreed on about it is taken back while there still is something to take it from.
        if self.orders.vnets.remove(&id).is_some() {
            self.configure();
            self.flush();
        }
        if self.vnets.remove(&id).is_some_and(|vnet| vnet.hears()) {
            let _ = self.handle.remove_vnet(id);
        }
        self.findings.reached.remove(&id);
        self.findings.mtus.remove(&id);
        self.findings.lost.remove(&id);
        self.findings.arrived.remove(&id);
    }

    /// Gives the workers the vnets that they do not have; says whether there is one that others may be told of now.
    pub(super) fn carry(&mut self) -> bool {
        let mut is_ready = false;
        for (id, vnet) in self.vnets.iter_mut().filter(|(_, vnet)| !vnet.carried) {
            if let Some(plain) = &mut vnet.plain {
                match plain.begin() {
                    Ok(()) => {
                        vnet.carried = true;
                        vnet.trouble = None;
                        vnet.tables.tell_again();
                    }
                    Err(trouble) => vnet.trouble = Some(trouble),
                }
                continue;
            }
            let opened = Tap::open(&vnet.tap, self.handle.workers())
                .map_err(|error| chain(&error))
                .and_then(|tap| self.handle.add_vnet(*id, tap).map_err(|error| error.to_string()));
            match opened {
                Ok(()) => {
                    vnet.carried = true;
                    vnet.trouble = None;
                    vnet.tables.tell_again();
                    is_ready = true;
                }
                Err(trouble) => {
                    if vnet.trouble.as_ref() != Some(&trouble) {
                        debug!("vnet {}: {trouble}", vnet.name);
                    }
                    vnet.trouble = Some(trouble);
                }
            }
        }
        is_ready
    }

    /// A tap went away; another one of its name may come.
    pub(super) fn lost_tap(&mut self, id: VnetId) {
        let Some(vnet) = self.vnets.get_mut(&id).filter(|vnet| vnet.carried) else { return };
        info!("vnet {}: its device {} is gone", vnet.name, vnet.tap);
        vnet.carried = false;
        let _ = self.handle.remove_vnet(id);
        // The workers have forgotten the keys, and a key must not come to life again: whoever is in it begins anew.
        self.configure();
        self.flush();
        if self.carry() {
            self.configure();
        }
    }
}

/// The addresses that an attached NIC is claimed with. What is merely heard is claimed without any, and has less right.
fn claimed(mac: MacAddr, addresses: &[IpAddr]) -> Vec<IpAddr> {
    if addresses.is_empty() { vec![mac.link_local().into()] } else { addresses.to_vec() }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// Whether the processor has instructions for AES.
fn fast_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}
