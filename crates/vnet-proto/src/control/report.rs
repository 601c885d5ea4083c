//! How a host and its vnets are.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use viaduct_types::{HostKey, MacAddr, VnetId};

use crate::data::esp::Cipher;

use super::{
    Protection,
    claims::{Claim, Owner},
    member::Member,
    node::{Node, Vnet},
};

/// How a vnet is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VnetReport {
    /// Those who are in it, or were until shortly.
    pub members: BTreeMap<HostKey, MemberReport>,
    /// Peers that have it with another security, or cipher; nothing is carried to and from them.
    pub mismatched: BTreeMap<HostKey, Protection>,
    /// Who claims which MAC, who has it first; of more than were asked for those that several claim, then those with addresses.
    pub macs: BTreeMap<MacAddr, Vec<(Owner, Claim)>>,
    /// How many MACs there are.
    pub mac_count: usize,
    /// Addresses that belong to several MACs, with as many of these as were asked for.
    pub shared_addresses: BTreeMap<IpAddr, BTreeSet<MacAddr>>,
    /// In bytes, of IP packets inside.
    pub mtu: Option<u16>,
}

/// How a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberReport {
    /// Whether there is a connection.
    pub connected: bool,
    /// Whether frames can be sealed for it.
    pub speaks: bool,
    /// In bytes, of IP packets inside, in both directions.
    pub mtu: Option<u16>,
    /// What seals the frames that go to it; none when nothing does, or not yet.
    pub cipher: Option<Cipher>,
}

impl Node {
    /// The sequences of the NICs that are here.
    pub fn sequences(&self) -> BTreeMap<(VnetId, MacAddr), u64> {
        let of_vnet = |(id, vnet): (&VnetId, &Vnet)| -> Vec<_> {
            let sequence = |mac| Some(((*id, mac), vnet.claims.of(Owner::Here, mac)?.sequence));
            vnet.settings.nics.keys().filter_map(|mac| sequence(*mac)).collect()
        };
        self.vnets.iter().flat_map(of_vnet).collect()
    }

    /// How a vnet is, with so many of its MACs at most.
    pub fn report(&self, id: VnetId, most_macs: usize) -> Option<VnetReport> {
        let vnet = self.vnets.get(&id)?;
        let member = |(key, member): (&HostKey, &Member)| {
            let report = MemberReport {
                connected: self.is_connected(*key, member.session),
                speaks: member.speaks,
                mtu: self.mtu_of(*key, vnet.settings.security),
                cipher: member.cipher,
            };
            (*key, report)
        };
        Some(VnetReport {
            members: vnet.members.iter().map(member).collect(),
            mismatched: vnet.mismatched.clone(),
            macs: vnet.claims.listed(most_macs),
            mac_count: vnet.claims.count(),
            shared_addresses: vnet.claims.shared_addresses(most_macs),
            mtu: vnet.mtu,
        })
    }
}
