//! Kinds of devices that stand on others.

use std::fmt;

/// Whose tag a VLAN has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VlanProtocol {
    /// A customer's, 802.1Q.
    Customer,
    /// A service provider's, 802.1ad: the outer one of two.
    Service,
}

impl fmt::Display for VlanProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Customer => "802.1Q",
            Self::Service => "802.1ad",
        })
    }
}

/// Whom a macvlan device reaches beside the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MacvlanMode {
    /// The others of its parent.
    Bridge,
    /// None of them.
    Private,
    /// Those that a switch outside sends frames back to.
    Vepa,
    /// It has the parent for itself.
    Passthru,
}

impl fmt::Display for MacvlanMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "bridge",
            Self::Private => "private",
            Self::Vepa => "vepa",
            Self::Passthru => "passthru",
        })
    }
}

/// On which layer an ipvlan device shares its parent's MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IpvlanMode {
    /// It speaks ARP and ND itself.
    L2,
    /// The host routes for it.
    L3,
    /// The same, and the host's filter and connection tracking see its packets.
    L3s,
}

impl fmt::Display for IpvlanMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L2 => "l2",
            Self::L3 => "l3",
            Self::L3s => "l3s",
        })
    }
}

/// How priorities of frames and of packets become each other, as pairs of from and to.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priorities {
    /// From a frame's (0 to 7) to the packet's.
    pub ingress: Vec<(u32, u32)>,
    /// From a packet's to the frame's (0 to 7).
    pub egress: Vec<(u32, u32)>,
}

impl Priorities {
    /// Whether nothing is written: packets get 0, and frames have 0.
    pub fn is_empty(&self) -> bool {
        self.ingress.is_empty() && self.egress.is_empty()
    }
}

impl fmt::Display for Priorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("in")?;
        self.ingress.iter().try_for_each(|(from, to)| write!(f, " {from}:{to}"))?;
        f.write_str(", out")?;
        self.egress.iter().try_for_each(|(from, to)| write!(f, " {from}:{to}"))
    }
}
