//! What guests are told when they ask for their configuration. Everything comes from the file, so that an answer needs
//! no memory of what was answered before.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use serde::{Deserialize, Serialize};
use viaduct_model::{Mode, Spoofing};
use viaduct_types::{IfName, IpNet, Ipv4Net, MacAddr, NicId};

use super::{
    context::{Context, Port, bridge_of},
    links::{ROUTED_GATEWAY_V4, default_nic, gateway},
};

/// A NIC that is given its configuration when it asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// Which.
    pub nic: NicId,
    /// What it is known by.
    pub mac: MacAddr,
    /// Its address with the prefix length that it is told.
    pub address: Ipv4Net,
    /// Whether the address was chosen for it, so that nobody knows that it is free.
    pub lent: bool,
    /// Whether others share its link, so that one of them could have the address.
    pub shared: bool,
    /// What the server calls itself: an address that the guest can ask again.
    pub server: Ipv4Addr,
    /// Its gateway, when it has one by this NIC.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Its domain.
    pub domain: Option<String>,
    /// In bytes.
    pub mtu: u16,
}

/// By the device that they ask on.
pub type Served = BTreeMap<IfName, Vec<Client>>;

pub(super) fn served(context: &Context<'_>) -> Served {
    let mut served = Served::new();
    for port in context.ports.iter().filter(|port| port.network.dhcp) {
        let device = bridge_of(port.network).unwrap_or_else(|| port.device());
        if let Some(client) = client(context, port) {
            served.entry(device.clone()).or_default().push(client);
        }
    }
    served
}

fn client(context: &Context<'_>, port: &Port<'_>) -> Option<Client> {
    let (nic, network) = (port.nic, port.network);
    // Who may speak with any MAC has none that it is known by on a bridge that others share.
    if nic.spoofing == Spoofing::Mac && !port.is_routed() {
        return None;
    }
    let v4 = |net: &IpNet| match net {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    };
    let address = nic.addresses.iter().find_map(v4)?;
    let way_out =
        default_nic(context.config, port.guest, false).is_some_and(|nic| std::ptr::eq(nic, port.nic));
    let router = if way_out { gateway(nic, network, false).and_then(ipv4) } else { None };
    let server = match &network.mode {
        Mode::Nat { subnets, .. } | Mode::Isolated { subnets, .. } => {
            let own = subnets.iter().find(|subnet| subnet.prefix.contains(&IpAddr::V4(address.addr())));
            own.and_then(|subnet| ipv4(subnet.gateway))
        }
        Mode::Routed { .. } => Some(ROUTED_GATEWAY_V4),
        Mode::Bridged { .. } => context.main_address(network).and_then(ipv4),
        Mode::Vnet { .. } => None,
    };
    Some(Client {
        nic: port.id.clone(),
        mac: nic.mac,
        address,
        lent: nic.lent,
        shared: !port.is_routed(),
        server: server.unwrap_or(ROUTED_GATEWAY_V4),
        router,
        dns: network.dns_servers.iter().copied().filter_map(ipv4).collect(),
        domain: network.domain.clone(),
        mtu: u16::try_from(nic.mtu.unwrap_or_else(|| context.mtu(network))).unwrap_or(u16::MAX),
    })
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}
