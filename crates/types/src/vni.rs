use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::{VnetId, stable_hash};

/// Where the hosts of vnets take each other's connections, and frames: as the original vnets did.
pub const VNET_PORT: u16 = 1798;
/// The first of the ports at which threads that carry frames take them, one each.
pub const WORKER_PORT: u16 = 1800;
/// More threads than this carry no more between two hosts.
pub const MOST_WORKERS: u16 = 8;
/// Where vnets without protection take frames: not the usual port, whose datagrams may be others' who use VXLAN here.
pub const VXLAN_PORT: u16 = 1799;
/// What an Ethernet frame costs in VXLAN, in bytes of IP packets (RFC 7348, section 5), over IPv4 and over IPv6.
pub const VXLAN_OVERHEAD: [u16; 2] = [50, 70];

/// The number of a VXLAN segment (RFC 7348, section 5): 1 to 2^24 - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub struct Vni(u32);

impl Vni {
    const LAST: u32 = 0x00ff_ffff;

    /// None for what no segment can have.
    pub fn new(number: u32) -> Option<Self> {
        (1..=Self::LAST).contains(&number).then_some(Self(number))
    }

    /// As a number.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// A number for each of the vnets of one host: made of the id, so that it is the same on all hosts as long as no two
    /// vnets of one of them have the same by chance. Of those the later one has the next that is free.
    pub fn of_all(vnets: impl IntoIterator<Item = VnetId>) -> BTreeMap<VnetId, Self> {
        let mut ids: Vec<VnetId> = vnets.into_iter().collect();
        ids.sort();
        let (mut given, mut taken) = (BTreeMap::new(), BTreeSet::new());
        for id in ids {
            let mut vni = Self::made_of(id);
            while !taken.insert(vni) {
                vni = Self::new(vni.0 + 1).unwrap_or(Self(1));
            }
            given.insert(id, vni);
        }
        given
    }

    fn made_of(id: VnetId) -> Self {
        let hash = stable_hash(&id.to_bytes());
        let [_, a, b, c, d, e, f, g] = hash.to_be_bytes();
        let folded = u32::from_be_bytes([0, a, b, c]) ^ u32::from_be_bytes([0, d, e, f]) ^ u32::from(g);
        Self::new(folded).unwrap_or(Self(1))
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> Self {
        vni.0
    }
}

/// Why a number is none of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the number of a VXLAN segment is 1 to 16777215")]
pub struct VniError;

impl TryFrom<u32> for Vni {
    type Error = VniError;

    fn try_from(number: u32) -> Result<Self, VniError> {
        Self::new(number).ok_or(VniError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> VnetId {
        format!("0:0:0:0:0:0:{:x}:{:x}", number >> 16, (number & 0xffff) | 2).parse().unwrap()
    }

    #[test]
    fn the_same_on_every_host_and_for_ever() {
        let all = Vni::of_all(["97".parse().unwrap(), "b10e".parse().unwrap()]);
        let one = Vni::of_all(["97".parse().unwrap()]);
        let id = "97".parse().unwrap();
        assert_eq!(all[&id], one[&id]);
        assert_eq!(one[&id].number(), 8345107);
    }

    #[test]
    fn two_vnets_of_one_host_never_share_one() {
        // By the birthday bound some 2^13 of them collide here.
        let vnets: BTreeSet<VnetId> = (0..20_000).map(|n| id(n * 4)).collect();
        let singly: BTreeSet<Vni> = vnets.iter().map(|id| Vni::made_of(*id)).collect();
        assert!(singly.len() < vnets.len(), "nothing here has to be told apart");
        let given = Vni::of_all(vnets.iter().copied());
        let different: BTreeSet<Vni> = given.values().copied().collect();
        assert_eq!(different.len(), vnets.len());
    }

    #[test]
    fn what_no_segment_has() {
        assert!(Vni::new(0).is_none() && Vni::new(1 << 24).is_none());
        assert!(Vni::new(1).is_some() && Vni::new((1 << 24) - 1).is_some());
    }
}
