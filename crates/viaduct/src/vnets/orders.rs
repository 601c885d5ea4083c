//! What the process that carries vnets is to do, of what is configured and attached.

use std::collections::{BTreeMap, BTreeSet};

use viaduct_model::{Cipher, Config, Mode, Security};
use viaduct_plan::Attachments;
use viaduct_types::{PeerName, VnetId, VnetName};
use viaduct_vnet_io::control::{DiscoveryOrders, NicOrders, Orders, PeerOrders, PlainOrders, VnetOrders};
use viaduct_vnet_proto::{control::Security as Level, data::esp};

/// None when there is nothing to carry.
pub(crate) fn orders(config: &Config, attachments: &Attachments) -> Option<Orders> {
    if config.vnets.is_empty() && config.relay.is_none() {
        return None;
    }
    let claims = viaduct_plan::vnet_claims(config, attachments);
    let devices = viaduct_plan::vnet_ports(config, attachments);
    let vnis = viaduct_plan::vnis(config);
    let vnets: BTreeMap<VnetId, VnetOrders> = config
        .vnets
        .iter()
        .map(|(name, vnet)| {
            let nic = |(mac, addresses): (&_, &Vec<_>)| {
                let device = devices.get(name).and_then(|devices| devices.get(mac)).cloned();
                (
                    *mac,
                    NicOrders { addresses: addresses.clone(), prepared: vnet.prepared.contains(mac), device },
                )
            };
            let orders = VnetOrders {
                name: name.clone(),
                tap: vnet.interface.clone(),
                security: level(vnet.security),
                cipher: vnet.cipher.map(suite),
                plain: vnis.get(&vnet.id).map(|vni| PlainOrders {
                    vni: *vni,
                    second: vnet.second_interface(),
                    bridge: vnet.bridge.clone(),
                }),
                learning: vnet.learning,
                port: vnet.port.as_ref().map(|port| port.device().clone()),
                opens: vnet.held_port().map(|_| viaduct_plan::OPEN_GROUP),
                mtu: written_mtu(config, name),
                peers: vnet.peers.iter().cloned().collect(),
                nics: claims.get(name).into_iter().flatten().map(nic).collect(),
            };
            (vnet.id, orders)
        })
        .collect();
    let relay: BTreeSet<PeerName> = config.relay.iter().flat_map(|relay| &relay.peers).cloned().collect();
    let is_needed =
        |name: &PeerName| relay.contains(name) || vnets.values().any(|vnet| vnet.peers.contains(name));
    let peers = config.peers.iter().filter_map(|(name, peer)| {
        let endpoints = peer.endpoints.iter().map(ToString::to_string).collect();
        Some((name.clone(), PeerOrders { key: peer.key.parse().ok()?, endpoints, spare: !is_needed(name) }))
    });
    let discovery = config.discovery.as_ref().map(|discovery| DiscoveryOrders {
        interfaces: discovery.interfaces.clone(),
        groups: discovery.groups.clone(),
        port: discovery.port,
    });
    let rate = config.relay.as_ref().map_or(0, |relay| relay.rate);
    // Of megabits, bytes.
    let relay_rate = u64::from(rate) * 125_000;
    let single_port = config.single_port;
    let names = config.peers.iter().filter_map(|(name, peer)| Some((name.clone(), peer.key.parse().ok()?)));
    let names = names.collect();
    Some(Orders { peers: peers.collect(), vnets, relay, relay_rate, discovery, single_port, names })
}

/// What a file says that a vnet's devices take.
fn written_mtu(config: &Config, name: &VnetName) -> Option<u16> {
    let of = |mode: &Mode| matches!(mode, Mode::Vnet { vnet, .. } if vnet == name);
    let network = config.networks.values().find(|network| of(&network.mode))?;
    network.mtu.map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX))
}

fn level(security: Security) -> Level {
    match security {
        Security::Conf => Level::Conf,
        Security::Auth => Level::Auth,
        Security::None => Level::None,
    }
}

fn suite(cipher: Cipher) -> esp::Cipher {
    match cipher {
        Cipher::Aes128Gcm => esp::Cipher::Aes128Gcm,
        Cipher::Aes256Gcm => esp::Cipher::Aes256Gcm,
        Cipher::ChaCha20Poly1305 => esp::Cipher::ChaCha20Poly1305,
        Cipher::Aes128Gmac => esp::Cipher::Aes128Gmac,
        Cipher::Aes256Gmac => esp::Cipher::Aes256Gmac,
    }
}
