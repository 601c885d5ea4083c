//! Vnets and peers that commands made, beside those of the files.

use std::collections::BTreeSet;

use viaduct_model::{Beside, Config, Endpoint, MadeVnet, Mode, Peer, Security, Vnet};
use viaduct_reconcile::{Created, CreatedPeer, CreatedVnet, Found, Store, StoreError};
use viaduct_types::{HostKey, MacAddr, NicId, PeerName, VnetName};
use viaduct_vnet_io::control::Identity;

/// The configuration with what commands made and what was found out; none when that is nothing.
pub(crate) fn with_created(config: &Config, created: &Created, found: &Found) -> Option<Config> {
    let known = |vnet: &Vnet| {
        found.mtus.contains_key(&vnet.id)
            || found.lost.contains_key(&vnet.id)
            || found.reached.contains_key(&vnet.id)
    };
    if created.vnets.is_empty()
        && created.peers.is_empty()
        && found.prepared.is_empty()
        && !config.vnets.values().any(known)
    {
        return None;
    }
    let mut config = config.clone();
    for (name, peer) in &created.peers {
        // What a file says counts.
        if named(&config, &peer.key).is_none() {
            let endpoints = peer.endpoints.iter().filter_map(|text| endpoint(text)).collect();
            let made = Peer { endpoints, key: peer.key.to_string(), origin: None };
            config.peers.entry(name.clone()).or_insert(made);
        }
    }
    for (name, made) in &created.vnets {
        let vnet = Vnet {
            id: made.id,
            bridge: made.bridge.clone(),
            interface: made.interface.clone(),
            learning: true,
            port: None,
            mtu: None,
            lost: BTreeSet::new(),
            prepared: BTreeSet::new(),
            reached: BTreeSet::new(),
            security: security(&made.security),
            cipher: None,
            peers: config.peers.keys().cloned().collect(),
            origin: None,
        };
        if !config.vnets.values().any(|other| other.id == made.id) {
            config.vnets.entry(name.clone()).or_insert(vnet);
        }
    }
    for nic in &found.prepared {
        if let Some((name, mac)) = vnet_of(&config, nic)
            && let Some(vnet) = config.vnets.get_mut(&name)
        {
            vnet.prepared.insert(mac);
        }
    }
    for vnet in config.vnets.values_mut() {
        vnet.mtu = found.mtus.get(&vnet.id).copied();
        vnet.lost = found.lost.get(&vnet.id).cloned().unwrap_or_default();
        vnet.reached = found.reached.get(&vnet.id).cloned().unwrap_or_default();
    }
    Some(config)
}

/// What matters of a host for its files: the vnets and peers that commands made, and its key.
///
/// # Errors
/// When it cannot be read what commands made.
pub(crate) fn beside(store: &Store) -> Result<Beside, StoreError> {
    let created = store.created()?;
    let vnet = |made: &CreatedVnet| MadeVnet {
        id: made.id,
        bridge: made.bridge.clone(),
        interface: made.interface.clone(),
        security: security(&made.security),
    };
    let vnets = created.vnets.iter().map(|(name, made)| (name.clone(), vnet(made))).collect();
    let peers = created.peers.iter().map(|(name, made)| (name.clone(), made.key)).collect();
    Ok(Beside { vnets, peers, key: Identity::known(store.state_dir()) })
}

/// What commands made and does not count, as the files have something else of that name, or the same.
pub(crate) fn set_aside(files: &Config, created: &Created) -> (Vec<VnetName>, Vec<PeerName>) {
    let has_vnet = |name: &VnetName, made: &CreatedVnet| {
        files.vnets.contains_key(name) || files.vnets.values().any(|vnet| vnet.id == made.id)
    };
    let has_peer = |name: &PeerName, made: &CreatedPeer| {
        files.peers.contains_key(name) || named(files, &made.key).is_some()
    };
    let vnets = created.vnets.iter().filter(|(name, made)| has_vnet(name, made));
    let peers = created.peers.iter().filter(|(name, made)| has_peer(name, made));
    (vnets.map(|(name, _)| name.clone()).collect(), peers.map(|(name, _)| name.clone()).collect())
}

/// The peer that has this key.
pub(crate) fn named<'a>(config: &'a Config, key: &HostKey) -> Option<&'a PeerName> {
    config.peers.iter().find(|(_, peer)| peer.key.parse().as_ref() == Ok(key)).map(|(name, _)| name)
}

/// The vnet that a NIC is in, with its MAC there.
pub(crate) fn vnet_of(config: &Config, nic: &NicId) -> Option<(VnetName, MacAddr)> {
    let nic = config.nic(nic)?;
    match &config.networks.get(&nic.network)?.mode {
        Mode::Vnet { vnet, .. } => Some((vnet.clone(), nic.mac)),
        Mode::Nat { .. } | Mode::Routed { .. } | Mode::Bridged { .. } | Mode::Isolated { .. } => None,
    }
}

/// ADDRESS:PORT or NAME:PORT; what was taken once is not asked again whether it is right.
fn endpoint(text: &str) -> Option<Endpoint> {
    if let Ok(address) = text.parse() {
        return Some(Endpoint::Address(address));
    }
    let (host, port) = text.rsplit_once(':')?;
    Some(Endpoint::Name(host.to_owned(), port.parse().ok()?))
}

fn security(word: &str) -> Security {
    match word {
        "none" => Security::None,
        "auth" => Security::Auth,
        // Nothing is ever weaker than it was meant.
        _ => Security::Conf,
    }
}
