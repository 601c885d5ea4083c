//! Which host each MAC of one vnet is on. Each host says so of its own NICs only, and of machines behind a bridge, which are
//! claimed without addresses. Where two say it of the same MAC, one with addresses holds before one without, for a frame that
//! went round may be heard behind any bridge; then the higher sequence, and between equal ones the greater key, so that all
//! hosts decide alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use viaduct_types::{HostKey, MacAddr};

/// So many MACs are taken from one peer; what it claims beyond is not believed.
pub const MOST_CLAIMS: usize = 65_536;
/// So many addresses, of all of its MACs.
const MOST_CLAIMED_ADDRESSES: usize = 4 * MOST_CLAIMS;
/// So many MACs are known of which only the last sequence is.
const MOST_REMEMBERED: usize = 65_536;

/// Who claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// This host.
    Here,
    /// Another one.
    Peer(HostKey),
}

/// What a host says of one of its NICs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Raised whenever the NIC arrives on a host.
    pub sequence: u64,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What one host claims. What it says of all of that at once costs no more for what others claim, nor for what it has told before.
#[derive(Debug, Default)]
struct Claimed {
    macs: BTreeSet<MacAddr>,
    /// How many addresses these have.
    addresses: usize,
    /// Those of the MACs that were told on a connection that ended, and not again since.
    stale: BTreeSet<MacAddr>,
}

/// All claims of one vnet.
#[derive(Debug)]
pub(super) struct Claims {
    own: HostKey,
    by_mac: BTreeMap<MacAddr, BTreeMap<Owner, Claim>>,
    by_owner: BTreeMap<Owner, Claimed>,
    /// The highest sequence of MACs that nobody claims any more.
    last: BTreeMap<MacAddr, u64>,
    by_address: BTreeMap<IpAddr, BTreeSet<MacAddr>>,
}

impl Claims {
    pub(super) fn new(own: HostKey) -> Self {
        Self {
            own,
            by_mac: BTreeMap::new(),
            by_owner: BTreeMap::new(),
            last: BTreeMap::new(),
            by_address: BTreeMap::new(),
        }
    }

    /// Takes a claim; says whether it is believed.
    pub(super) fn set(&mut self, owner: Owner, mac: MacAddr, claim: Claim) -> bool {
        let known = self.of(owner, mac).map(|known| known.addresses.len());
        let claimed = self.by_owner.entry(owner).or_default();
        let macs = claimed.macs.len() + usize::from(known.is_none());
        let addresses = claimed.addresses - known.unwrap_or(0) + claim.addresses.len();
        if owner != Owner::Here && (macs > MOST_CLAIMS || addresses > MOST_CLAIMED_ADDRESSES) {
            return false;
        }
        claimed.macs.insert(mac);
        claimed.stale.remove(&mac);
        claimed.addresses = addresses;
        self.unlist(owner, mac);
        claim.addresses.iter().for_each(|address| {
            self.by_address.entry(*address).or_default().insert(mac);
        });
        self.by_mac.entry(mac).or_default().insert(owner, claim);
        self.last.remove(&mac);
        true
    }

    pub(super) fn remove(&mut self, owner: Owner, mac: MacAddr) {
        self.unlist(owner, mac);
        let Some(claims) = self.by_mac.get_mut(&mac) else { return };
        let Some(claim) = claims.remove(&owner) else { return };
        if let Some(claimed) = self.by_owner.get_mut(&owner) {
            claimed.macs.remove(&mac);
            claimed.stale.remove(&mac);
            claimed.addresses -= claim.addresses.len();
        }
        if claims.is_empty() {
            self.by_mac.remove(&mac);
            if self.last.len() >= MOST_REMEMBERED {
                self.last.pop_first();
            }
            self.last.insert(mac, claim.sequence);
        }
    }

    /// Takes a claim's addresses out of the list, but for those that another host claims with the same MAC.
    fn unlist(&mut self, owner: Owner, mac: MacAddr) {
        let Some(claims) = self.by_mac.get(&mac) else { return };
        let Some(claim) = claims.get(&owner) else { return };
        let others = |address: &IpAddr| {
            claims.iter().any(|(other, claim)| *other != owner && claim.addresses.contains(address))
        };
        for address in claim.addresses.iter().filter(|address| !others(address)) {
            if let Some(macs) = self.by_address.get_mut(address) {
                macs.remove(&mac);
                if macs.is_empty() {
                    self.by_address.remove(address);
                }
            }
        }
    }

    /// Whose the MAC is.
    pub(super) fn winner(&self, mac: MacAddr) -> Option<(Owner, &Claim)> {
        let claims = self.by_mac.get(&mac)?;
        claims
            .iter()
            .map(|(owner, claim)| (*owner, claim))
            .max_by_key(|(owner, claim)| self.rank(*owner, claim))
    }

    /// The greatest of a MAC's claims holds.
    fn rank(&self, owner: Owner, claim: &Claim) -> (bool, u64, HostKey) {
        (!claim.addresses.is_empty(), claim.sequence, self.key(owner))
    }

    fn key(&self, owner: Owner) -> HostKey {
        match owner {
            Owner::Here => self.own,
            Owner::Peer(key) => key,
        }
    }

    /// The highest sequence that is known of a MAC.
    pub(super) fn highest(&self, mac: MacAddr) -> u64 {
        let claimed = self.by_mac.get(&mac).into_iter().flat_map(BTreeMap::values).map(|c| c.sequence);
        claimed.chain(self.last.get(&mac).copied()).max().unwrap_or(0)
    }

    pub(super) fn of(&self, owner: Owner, mac: MacAddr) -> Option<&Claim> {
        self.by_mac.get(&mac)?.get(&owner)
    }

    /// The MACs that a host claims.
    pub(super) fn macs_of(&self, owner: Owner) -> impl Iterator<Item = MacAddr> {
        self.by_owner.get(&owner).into_iter().flat_map(|claimed| claimed.macs.iter().copied())
    }

    /// What a host has claimed has to be told again.
    pub(super) fn doubt(&mut self, owner: Owner) {
        if let Some(claimed) = self.by_owner.get_mut(&owner) {
            claimed.stale.clone_from(&claimed.macs);
        }
    }

    /// The MACs of a host that it has not told again.
    pub(super) fn doubted(&self, owner: Owner) -> Vec<MacAddr> {
        self.by_owner.get(&owner).into_iter().flat_map(|claimed| claimed.stale.iter().copied()).collect()
    }

    pub(super) fn macs(&self) -> impl Iterator<Item = MacAddr> {
        self.by_mac.keys().copied()
    }

    /// How many MACs somebody claims.
    pub(super) fn count(&self) -> usize {
        self.by_mac.len()
    }

    /// So many MACs at most, each with everybody who claims it: those first that several hosts claim, then those with addresses,
    /// for there may be any number of the rest.
    pub(super) fn listed(&self, most: usize) -> BTreeMap<MacAddr, Vec<(Owner, Claim)>> {
        let has_addresses = |claim: &Claim| !claim.addresses.is_empty();
        let place = |claims: &BTreeMap<Owner, Claim>| match claims.len() {
            1 => usize::from(!claims.values().any(has_addresses)) + 1,
            _ => 0,
        };
        let mut listed = BTreeMap::new();
        for now in 0..3 {
            let of_now = self.by_mac.iter().filter(|(_, claims)| place(claims) == now).map(|(mac, _)| *mac);
            let macs = of_now.take(most - listed.len()).map(|mac| (mac, self.claimants(mac)));
            listed.extend(macs.collect::<Vec<_>>());
        }
        listed
    }

    /// Everybody who claims a MAC, who has it first.
    fn claimants(&self, mac: MacAddr) -> Vec<(Owner, Claim)> {
        let mut claimants: Vec<(Owner, Claim)> = self
            .by_mac
            .get(&mac)
            .into_iter()
            .flatten()
            .map(|(owner, claim)| (*owner, claim.clone()))
            .collect();
        claimants.sort_by_key(|(owner, claim)| std::cmp::Reverse(self.rank(*owner, claim)));
        claimants
    }

    /// Addresses of more than one MAC, with so many MACs in all, or one more.
    pub(super) fn shared_addresses(&self, most: usize) -> BTreeMap<IpAddr, BTreeSet<MacAddr>> {
        let mut left = most;
        let shared = self.by_address.iter().filter(|(_, macs)| macs.len() > 1);
        let listed = shared.map_while(|(address, macs)| {
            let macs: BTreeSet<MacAddr> =
                macs.iter().take((left > 0).then_some(left.max(2))?).copied().collect();
            left = left.saturating_sub(macs.len());
            Some((*address, macs))
        });
        listed.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Owner = Owner::Peer(HostKey([1; 32]));
    const B: Owner = Owner::Peer(HostKey([2; 32]));
    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn claims() -> Claims {
        Claims::new(HostKey([9; 32]))
    }

    fn claim(sequence: u64) -> Claim {
        Claim { sequence, addresses: vec![IpAddr::from([10, 0, 0, 1])] }
    }

    #[test]
    fn the_higher_sequence_holds_and_gives_back_when_it_goes() {
        let mut claims = claims();
        claims.set(A, MAC, claim(5));
        claims.set(B, MAC, claim(4));
        assert_eq!(claims.winner(MAC).unwrap().0, A);
        claims.set(B, MAC, claim(6));
        assert_eq!(claims.winner(MAC).unwrap().0, B);
        assert_eq!(claims.claimants(MAC).iter().map(|(owner, _)| *owner).collect::<Vec<_>>(), [B, A]);
        claims.remove(B, MAC);
        assert_eq!(claims.winner(MAC).unwrap().0, A);
    }

    #[test]
    fn a_nic_is_not_taken_by_who_merely_hears_it() {
        let mut claims = claims();
        claims.set(A, MAC, claim(5));
        claims.set(B, MAC, Claim { sequence: 9, addresses: Vec::new() });
        assert_eq!(claims.winner(MAC).unwrap().0, A);
        assert_eq!(claims.claimants(MAC).iter().map(|(owner, _)| *owner).collect::<Vec<_>>(), [A, B]);
    }

    #[test]
    fn equal_sequences_are_decided_by_the_keys() {
        let mut claims = claims();
        claims.set(A, MAC, claim(5));
        claims.set(Owner::Here, MAC, claim(5));
        claims.set(B, MAC, claim(5));
        assert_eq!(claims.winner(MAC).unwrap().0, Owner::Here, "of the greatest key");
    }

    #[test]
    fn a_sequence_is_known_after_its_claim_went() {
        let mut claims = claims();
        claims.set(A, MAC, claim(7));
        claims.remove(A, MAC);
        assert!(claims.winner(MAC).is_none());
        assert_eq!(claims.highest(MAC), 7);
    }

    #[test]
    fn addresses_of_two_macs_show() {
        let other = MacAddr([2, 0, 0, 0, 0, 2]);
        let mut claims = claims();
        claims.set(A, MAC, claim(1));
        claims.set(B, MAC, claim(2));
        assert_eq!(claims.shared_addresses(9).len(), 0, "the same MAC twice is no second one");
        claims.set(B, other, claim(1));
        assert_eq!(claims.shared_addresses(9).len(), 1);
        claims.remove(A, MAC);
        assert_eq!(claims.shared_addresses(9).len(), 1, "its other claim has the address, too");
        claims.remove(B, MAC);
        assert_eq!(claims.shared_addresses(9).len(), 0);
    }

    #[test]
    fn what_is_listed_has_a_bound_and_what_matters_comes_first() {
        let mut claims = claims();
        let mac = |n: u8| MacAddr([2, 0, 0, 0, 1, n]);
        (0..200).for_each(|n| assert!(claims.set(A, mac(n), Claim { sequence: 1, addresses: Vec::new() })));
        claims.set(A, mac(201), claim(1));
        claims.set(B, mac(150), Claim { sequence: 2, addresses: Vec::new() });
        let listed = claims.listed(2);
        assert_eq!(listed.keys().collect::<Vec<_>>(), [&mac(150), &mac(201)]);
        assert_eq!(listed[&mac(150)].iter().map(|(owner, _)| *owner).collect::<Vec<_>>(), [B, A]);
        let most = claims.listed(10);
        assert_eq!(most.len(), 10);
        assert!((0..8).all(|n| most.contains_key(&mac(n))));
        assert_eq!((claims.listed(1_000).len(), claims.count()), (201, 201));
        assert!(claims.listed(0).is_empty());
        // All with one address, and each two with another.
        for n in 0..200 {
            let address = |last| IpAddr::from([10, 0, 1, last]);
            claims.set(A, mac(n), Claim { sequence: 3, addresses: vec![address(0), address(1 + n / 2)] });
        }
        let count = |most| claims.shared_addresses(most).values().map(BTreeSet::len).sum::<usize>();
        assert_eq!([0, 1, 10, 207, 10_000].map(count), [0, 2, 10, 208, 400]);
    }

    #[test]
    fn a_peer_claims_so_many_and_no_more() {
        let mut claims = claims();
        let mac = |n: usize| {
            let [.., a, b, c, d] = n.to_be_bytes();
            MacAddr([2, 0, a, b, c, d])
        };
        assert!((0..MOST_CLAIMS).all(|n| claims.set(A, mac(n), claim(1))));
        assert!(!claims.set(A, mac(MOST_CLAIMS), claim(1)));
        assert!(claims.set(A, mac(0), claim(2)), "what it has it may change");
        assert!(claims.set(B, mac(MOST_CLAIMS), claim(1)), "others are not held back");
        claims.remove(A, mac(0));
        assert!(claims.set(A, mac(MOST_CLAIMS), claim(1)));
    }
}
