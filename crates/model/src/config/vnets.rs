//! Vnets, the hosts that share them, and how these reach each other.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

use viaduct_types::{IfName, MacAddr, PeerName, VnetId};

use super::{Origin, UplinkVlan};

/// Another host in our vnets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where to reach it; empty: it dials us.
    pub endpoints: Vec<Endpoint>,
    /// Its public key as its `viaduct identity` prints it; checked when it is used.
    pub key: String,
    /// Where it was written; none: a command made it.
    pub origin: Option<Origin>,
}

/// A peer's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Address and port.
    Address(SocketAddr),
    /// A name to resolve, and the port.
    Name(String, u16),
}

/// As it is written.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// How peers are found whose places no file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// On which interfaces is said and heard where hosts are.
    pub interfaces: Vec<IfName>,
    /// The multicast groups.
    pub groups: Vec<IpAddr>,
    /// The UDP port.
    pub port: u16,
    /// Where it was written.
    pub origin: Origin,
}

/// What this host passes on for peers that cannot reach each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Between which.
    pub peers: Vec<PeerName>,
    /// How much from one of them to another at most, in Mbit/s.
    pub rate: u32,
    /// Where it was written.
    pub origin: Origin,
}

/// An Ethernet segment that spans hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vnet {
    /// Its identity everywhere.
    pub id: VnetId,
    /// The bridge's name on this host.
    pub bridge: IfName,
    /// The device on this host that leads to the others.
    pub interface: IfName,
    /// Whether machines are behind the bridge that no file knows.
    pub learning: bool,
    /// Where its bridge goes on into a segment outside.
    pub port: Option<VnetPort>,
    /// What gets through to all of its hosts, in bytes, when that is known; no file says so.
    pub mtu: Option<u32>,
    /// NICs that have arrived at another host later, so that they have to be silent here; no file says so.
    pub lost: BTreeSet<MacAddr>,
    /// NICs that are attached here and have to be silent until their guest arrives; no file says so.
    pub prepared: BTreeSet<MacAddr>,
    /// Where those who are in it are, when nothing protects its frames; no file says so.
    pub reached: BTreeSet<IpAddr>,
    /// What protects its frames.
    pub security: Security,
    /// By which cipher, which gives that level; none: by what both ends do best.
    pub cipher: Option<Cipher>,
    /// The hosts that may belong to it.
    pub peers: Vec<PeerName>,
    /// Where it was written; none: a command made it.
    pub origin: Option<Origin>,
}

impl Vnet {
    /// The device over IPv6, where frames are carried by the kernel, which has one for each family.
    pub fn second_interface(&self) -> Option<IfName> {
        let is_plain = self.security == Security::None;
        is_plain.then(|| crate::names::second(&self.interface)).flatten()
    }

    /// The port, where nothing may go through it before it is known who else bridges the segment: where there are other hosts, and
    /// their frames are carried by somebody who finds out.
    pub fn held_port(&self) -> Option<&VnetPort> {
        self.port.as_ref().filter(|_| self.security != Security::None && !self.peers.is_empty())
    }

    /// The devices that lead to the other hosts.
    pub fn interfaces(&self) -> impl Iterator<Item = IfName> + use<> {
        [Some(self.interface.clone()), self.second_interface()].into_iter().flatten()
    }
}

/// An interface of this host behind which a vnet goes on, by its bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VnetPort {
    /// The interface.
    pub interface: IfName,
    /// The VLAN of it that is meant; none: what has no tag.
    pub vlan: Option<UplinkVlan>,
}

impl VnetPort {
    /// The device that is a port of the bridge.
    pub fn device(&self) -> &IfName {
        self.vlan.as_ref().map_or(&self.interface, |vlan| &vlan.device)
    }
}

/// What protects a vnet's frames between hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Encrypted and authenticated.
    Conf,
    /// Authenticated only.
    Auth,
    /// Neither.
    None,
}

/// What seals frames between hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// Encrypts, with a key of 128 bits.
    Aes128Gcm,
    /// Encrypts, with a key of 256 bits.
    Aes256Gcm,
    /// Encrypts, with a key of 256 bits; the fastest without instructions for AES.
    ChaCha20Poly1305,
    /// Authenticates, with a key of 128 bits.
    Aes128Gmac,
    /// Authenticates, with a key of 256 bits.
    Aes256Gmac,
}

impl Cipher {
    /// The level that it gives.
    pub fn security(self) -> Security {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm | Self::ChaCha20Poly1305 => Security::Conf,
            Self::Aes128Gmac | Self::Aes256Gmac => Security::Auth,
        }
    }
}

/// As it is written.
impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes128Gcm => "aes-128-gcm",
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
            Self::Aes128Gmac => "aes-128-gmac",
            Self::Aes256Gmac => "aes-256-gmac",
        })
    }
}

/// As it is written.
impl fmt::Display for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Conf => "conf",
            Self::Auth => "auth",
            Self::None => "none",
        })
    }
}
