//! Segments that span hosts, and those hosts.

use viaduct_types::{IfName, PeerName, VlanProtocol, VnetId};

use super::{Port, Rate, Vlan};
use crate::{
    Cipher, Endpoint, Security,
    shape::{Group, List, OneOrMany, Parent, PeerKey, table},
};

table! {
    /// Another host in our vnets.
    Peer {
        /// Where to reach it: ADDRESS:PORT or NAME:PORT, several allowed; without it the peer has to dial us.
        "endpoint" => endpoint: OneOrMany<Endpoint>,
        /// Its public key, as `viaduct identity` prints it there. Each peer has another one.
        required "key" => key: PeerKey,
    }
}

table! {
    /// Peers are found by what they say on a multicast group; it is signed, and says only where a key is.
    Discovery {
        /// The interfaces on which this host says so and listens.
        required "interfaces" => interfaces: List<IfName>,
        /// The groups, at most one of IPv4 and one of IPv6; 224.10.0.1 and ff12::e00a:1 unless written.
        "groups" => groups: List<Group>,
        /// The UDP port; 1798 unless written.
        "port" => port: Port,
    }
}

table! {
    /// What this host passes on for peers that cannot reach each other; it cannot read it.
    Relay {
        /// Between which peers.
        required "for" => peers: List<PeerName>,
        /// How much from one of them to another at most, in Mbit/s; 100 unless written.
        "rate" => rate: Rate,
    }
}

table! {
    /// An Ethernet segment that spans hosts.
    Vnet {
        /// Its identity on every host: up to four hex digits, or eight groups of them.
        required "id" => id: VnetId,
        /// The bridge's name on this host; made from the vnet's name unless written.
        "bridge" => bridge: IfName,
        /// The device on this host that leads to the others, a port of the bridge; made from the vnet's name unless
        /// written.
        "interface" => interface: IfName,
        /// conf: encrypted and authenticated. auth: authenticated only. none: neither. conf unless written.
        "security" => security: Security,
        /// What seals its frames, whatever both ends do best: aes-128-gcm, aes-256-gcm or chacha20-poly1305 with security
        /// conf; aes-128-gmac or aes-256-gmac with auth. It holds for both ends when one of them says it.
        "cipher" => cipher: Cipher,
        /// The hosts that may belong to it.
        "peers" => peers: List<PeerName>,
        /// Machines that no file knows are behind the bridge: they are reached, too. true unless written when no network
        /// lies on the vnet, or with `port`.
        "learning" => learning: bool,
        /// An interface that becomes a port of the bridge, with the segment that is behind it: a device's name, or with
        /// `vlan` an uplink's, too.
        "port" => port: Parent,
        /// VLAN of `port` that is the segment; what has no tag unless written.
        "vlan" => vlan: Vlan,
        /// Whose tag `vlan` is: 802.1Q unless written; 802.1ad for a service provider's.
        "protocol" => protocol: VlanProtocol,
    }
}
