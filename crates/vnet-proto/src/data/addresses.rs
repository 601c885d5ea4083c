//! Which addresses there are.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Arc, LazyLock},
};

/// How many groups a set has, and how many parts each of them. A copy of a set shares all parts with the original that have not changed
/// since, so that one change of a large set is cheap, and a thousand are.
const PARTS: usize = 64;

type Group = [Arc<BTreeSet<IpAddr>>; PARTS];

/// A set of addresses.
///
/// Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses(Arc<[Arc<Group>; PARTS]>);

impl Default for Addresses {
    fn default() -> Self {
        let group: Arc<Group> = Arc::new(std::array::from_fn(|_| Arc::default()));
        Self(Arc::new(std::array::from_fn(|_| Arc::clone(&group))))
    }
}

impl Addresses {
    /// Whether it is one of them.
    pub fn contains(&self, address: &IpAddr) -> bool {
        let (group, part) = place_of(address);
        self.0[group][part].contains(address)
    }

    /// Puts one in, or takes it out.
    pub fn set(&mut self, address: IpAddr, is_in: bool) {
        if self.contains(&address) == is_in {
            return;
        }
        let (group, part) = place_of(&address);
        let group = Arc::make_mut(&mut Arc::make_mut(&mut self.0)[group]);
        let part = Arc::make_mut(&mut group[part]);
        if is_in {
            part.insert(address);
        } else {
            part.remove(&address);
        }
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().flat_map(|group| group.iter()).flat_map(|part| part.iter().copied())
    }
}

impl FromIterator<IpAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        let mut all = Self::default();
        addresses.into_iter().for_each(|address| all.set(address, true));
        all
    }
}

/// In which part of which group it is. That is a secret, the same for all sets: a member of a vnet may claim hundreds of thousands of
/// addresses, and those of its choice would all be in one part otherwise.
fn place_of(address: &IpAddr) -> (usize, usize) {
    /// Nothing but the order of what is in no order depends on it.
    static SECRET: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let hash = SECRET.hash_one(address);
    let place = usize::try_from(hash % (PARTS * PARTS) as u64).unwrap_or_default();
    (place / PARTS, place % PARTS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        if high & 1 == 0 {
            IpAddr::from([10, 0, high, low])
        } else {
            IpAddr::from([0xfd00, 0, 0, 0, 0, 0, high.into(), low.into()])
        }
    }

    #[test]
    fn a_copy_shares_what_has_not_changed() {
        let before: Addresses = (0..10_000).map(address).collect();
        let mut after = before.clone();
        after.set(address(77), true);
        assert!(Arc::ptr_eq(&before.0, &after.0), "it was in it");
        after.set(address(77), false);
        let parts = |all: &Addresses| -> Vec<_> { all.0.iter().flat_map(|group| group.to_vec()).collect() };
        let (parts_before, parts_after) = (parts(&before), parts(&after));
        let shared = parts_before.iter().zip(&parts_after).filter(|(one, other)| Arc::ptr_eq(one, other));
        assert_eq!(shared.count(), PARTS * PARTS - 1);
        assert!(before.contains(&address(77)) && !after.contains(&address(77)));
    }

    #[test]
    fn whatever_somebody_claims_no_part_has_much_of_it() {
        // All with the same last bytes.
        let address = |number: u32| IpAddr::from((u128::from(number) << 64).to_be_bytes());
        let all: Addresses = (0..1 << 18).map(address).collect();
        let most = all.0.iter().flat_map(|group| group.iter()).map(|part| part.len()).max();
        assert!(most < Some(256), "{most:?}");
    }

    proptest! {
        #[test]
        fn it_is_as_a_set_is(steps in prop::collection::vec((0..600_u16, any::<bool>()), 0..300)) {
            let (mut all, mut set) = (Addresses::default(), BTreeSet::new());
            let mut old = (all.clone(), set.clone());
            for (index, (number, is_in)) in steps.into_iter().enumerate() {
                let address = address(number);
                all.set(address, is_in);
                let _ = if is_in { set.insert(address) } else { set.remove(&address) };
                prop_assert_eq!(all.contains(&address), is_in);
                if index == 100 {
                    old = (all.clone(), set.clone());
                }
            }
            // A copy is not touched by what happens to the original.
            for (all, set) in [(all, set), old] {
                prop_assert_eq!(all.iter().collect::<BTreeSet<_>>(), set);
            }
        }
    }
}
