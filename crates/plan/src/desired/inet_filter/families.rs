//! What differs between IPv4 and IPv6, so that every rule is written once for both.

use super::super::elements::words::{v4, v6};
use crate::nft::{NfProto, Selector as S, Statement as St, Type as T};

/// The two families' address types and selectors.
pub(super) struct FamilyWords {
    pub(super) is: fn() -> St,
    pub(super) v6: bool,
    pub(super) address: T,
    pub(super) saddr: S,
    pub(super) daddr: S,
    pub(super) proto: NfProto,
}

pub(super) const FAMILIES: [FamilyWords; 2] = [
    FamilyWords {
        is: v4,
        v6: false,
        address: T::Ipv4,
        saddr: S::IpSaddr,
        daddr: S::IpDaddr,
        proto: NfProto::V4,
    },
    FamilyWords {
        is: v6,
        v6: true,
        address: T::Ipv6,
        saddr: S::Ip6Saddr,
        daddr: S::Ip6Daddr,
        proto: NfProto::V6,
    },
];

/// A set's name in both families; rules and elements are made from the same list.
macro_rules! both {
    ($f:expr, $v4:literal, $v6:literal) => {
        if $f.v6 { $v6 } else { $v4 }
    };
}

pub(super) use both;
