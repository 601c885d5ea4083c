//! The packet filter as values: tables, sets, chains and rules, with nft's syntax for people and the kernel's
//! expressions for the kernel. The desired [`Ruleset`] is rendered from the configuration, the observed one is read
//! back from the kernel; both have the same types, so that they can be compared.
//!
//! All our tables are named [`TABLE`]; one per family. Element keys and values are kept as the bytes that the kernel
//! compares, each field padded to four bytes as in its registers (net/netfilter/nf_tables_api.c,
//! `nft_set_desc_concat`).

mod change;
mod expr;
mod set;
mod statement;
mod text;

use std::collections::BTreeMap;

pub use change::{Change, diff};
pub use expr::{
    BitOp, CmpOp, CtDirection, CtKey, DynsetOp, Expr, ExthdrOp, FibResult, LookupTo, MetaKey, NatKind,
    NfProto, PayloadBase, PayloadChecksum, Reg,
};
pub use set::{Elements, Key, Set, SetDef, Type, Value, ValueType};
pub use statement::{Const, Rule, Selector, Statement};
use viaduct_types::IfName;

/// The name of each of our tables.
pub const TABLE: &str = "viaduct";

/// Our tables, by family; a family without one has no key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// By family.
    pub tables: BTreeMap<Family, Table>,
}

/// The families we have tables in (NFPROTO_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 and IPv6: filter and translation.
    Inet,
    /// ARP on routed ports.
    Arp,
    /// Frames between ports of bridges.
    Bridge,
    /// Frames on uplinks.
    Netdev,
}

impl Family {
    /// Every one of them.
    pub const ALL: [Self; 4] = [Self::Inet, Self::Arp, Self::Bridge, Self::Netdev];

    /// nft's word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Arp => "arp",
            Self::Bridge => "bridge",
            Self::Netdev => "netdev",
        }
    }

    /// The kernel's number (include/uapi/linux/netfilter.h).
    pub const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Arp => 3,
            Self::Netdev => 5,
            Self::Bridge => 7,
        }
    }
}

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// By name.
    pub sets: BTreeMap<String, Set>,
    /// By name.
    pub chains: BTreeMap<String, Chain>,
}

/// One chain with its rules in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets come in; none for a chain that others jump to.
    pub base: Option<Base>,
    /// First to last.
    pub rules: Vec<Rule>,
}

/// What makes a chain a base chain. The policy is always accept: what is not ours is not judged by us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// What may stand in it.
    pub kind: ChainKind,
    /// Where in the packet's way.
    pub hook: Hook,
    /// Order among chains of one hook, lowest first.
    pub priority: i32,
    /// The device, for netdev hooks.
    pub device: Option<IfName>,
}

/// The type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Judges packets.
    Filter,
    /// Sees the first packet of each connection and translates addresses.
    Nat,
}

impl ChainKind {
    /// nft's and the kernel's word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// The hooks we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// After routing.
    Postrouting,
    /// A device received it (netdev).
    Ingress,
    /// A device is about to send it (netdev).
    Egress,
}

impl Hook {
    /// nft's word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// The kernel's number in a family (NF_INET_*, NF_BR_*, NF_ARP_*, NF_NETDEV_* in include/uapi/linux).
    pub const fn number(self, family: Family) -> u32 {
        match (family, self) {
            (Family::Arp, Self::Output) | (Family::Netdev, Self::Egress) => 1,
            (Family::Arp | Family::Netdev, _) => 0,
            (_, Self::Prerouting | Self::Ingress) => 0,
            (_, Self::Input) => 1,
            (_, Self::Forward) => 2,
            (_, Self::Output) => 3,
            (_, Self::Postrouting | Self::Egress) => 4,
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// On to the next hook.
    Accept,
    /// Gone.
    Drop,
    /// Back to the calling chain.
    Return,
    /// Next rule.
    Continue,
    /// Into a chain, and back after its end.
    Jump(String),
    /// Into a chain, for good.
    Goto(String),
}
