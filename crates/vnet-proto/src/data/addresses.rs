//! Which addresses there are.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// How many parts a set has. A copy of a set shares all parts with the original that have not changed since, so that one change of
/// a large set is cheap.
const PARTS: usize = 64;

/// A set of addresses.
///
/// Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses(Arc<[Arc<BTreeSet<IpAddr>>; PARTS]>);

impl Default for Addresses {
    fn default() -> Self {
        Self(Arc::new(std::array::from_fn(|_| Arc::default())))
    }
}

impl Addresses {
    /// Whether it is one of them.
    pub fn contains(&self, address: &IpAddr) -> bool {
        self.0[part_of(address)].contains(address)
    }

    /// Puts one in, or takes it out.
    pub fn set(&mut self, address: IpAddr, is_in: bool) {
        if self.contains(&address) == is_in {
            return;
        }
        let part = Arc::make_mut(&mut Arc::make_mut(&mut self.0)[part_of(&address)]);
        if is_in {
            part.insert(address);
        } else {
            part.remove(&address);
        }
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().flat_map(|part| part.iter().copied())
    }
}

impl FromIterator<IpAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        let mut all = Self::default();
        addresses.into_iter().for_each(|address| all.set(address, true));
        all
    }
}

/// Neighbours, whose addresses differ in the last bits, are in different parts.
fn part_of(address: &IpAddr) -> usize {
    let last = match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    };
    usize::from(last) % PARTS
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
        let shared = before.0.iter().zip(&*after.0).filter(|(one, other)| Arc::ptr_eq(one, other));
        assert_eq!(shared.count(), PARTS - 1);
        assert!(before.contains(&address(77)) && !after.contains(&address(77)));
        assert_eq!(before.0.iter().map(|part| part.len()).max(), Some(10_000_usize.div_ceil(PARTS)));
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
