//! The words that every part of Viaduct shares: addresses, names, ports, identifiers, with their parsing and
//! display. Pure: no I/O, no clock.
#![forbid(unsafe_code)]

mod boot;
mod device;
mod host_key;
mod mac;
mod name;
mod port;
mod publish;
mod rule;
mod vlan;
mod vnet_id;
mod vni;

pub use boot::{BootClient, ParseBootClientError};
pub use device::{IpvlanMode, MacvlanMode, Priorities, VlanProtocol};
pub use host_key::{HostKey, ParseHostKeyError, from_base64, to_base64};
pub use ipnet::{IpNet, Ipv4Net, Ipv6Net};
pub use mac::{MacAddr, ParseMacError};
pub use name::{
    GuestName, IfName, NameError, NamespaceName, NetworkName, NicId, ParseNicIdError, PeerName, UplinkName,
    VnetName,
};
pub use port::{ParsePortError, PortRange, Proto};
pub use publish::{ParsePublishError, Publish};
pub use rule::{MAIN_TABLE, PROTOCOL, RoutingRule, table_number, write_table};
pub use vlan::VlanSet;
pub use vnet_id::{ParseVnetIdError, VnetId};
pub use vni::{MOST_WORKERS, VNET_PORT, VXLAN_OVERHEAD, VXLAN_PORT, Vni, VniError, WORKER_PORT};

/// FNV-1a over 64 bits: for names of devices and addresses that must be the same for ever, on every machine.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
