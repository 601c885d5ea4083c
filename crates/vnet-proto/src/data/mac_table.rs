//! Who has which MAC address.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
};

use viaduct_types::MacAddr;

use super::PeerId;

/// Where a MAC address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// On this host's bridge.
    Local,
    /// On this host's bridge, but it has to be silent: prepared for a move and not yet activated, or another host's claim
    /// won. Nothing of it leaves, nothing comes to it; what it says goes to the control side.
    Muted,
    /// Behind a peer.
    Peer(PeerId),
    /// It was here and went to a peer: what others still send here for it goes on there.
    Moved(PeerId),
}

/// The table holds as many as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the vnet has as many MAC addresses as it may: {0}")]
pub struct TableFull(pub usize);

/// How many parts the table has. A copy of a table shares all parts with the original that have not changed since, so
/// that one change of a large table is cheap.
const PARTS: usize = 64;

/// The MAC addresses of a vnet, as they are claimed: no frame changes where one is. There is an upper limit to their number.
///
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct MacTable {
    parts: Arc<[Arc<Part>; PARTS]>,
    spread: Spread,
    length: usize,
    most: usize,
}

type Part = HashMap<MacAddr, Port, Spread>;

impl MacTable {
    /// An empty table for at most so many addresses.
    pub fn new(most: usize) -> Self {
        let spread = Spread::new();
        let parts = Arc::new(std::array::from_fn(|_| Arc::new(Part::with_hasher(spread))));
        Self { parts, spread, length: 0, most }
    }

    /// Where it is.
    pub fn port(&self, mac: MacAddr) -> Option<Port> {
        self.parts[self.spread.part_of(mac)].get(&mac).copied()
    }

    /// Claims it for a port; a claim there was before gives way.
    ///
    /// # Errors
    /// When it is new and the table is full.
    pub fn claim(&mut self, mac: MacAddr, port: Port) -> Result<(), TableFull> {
        let is_new = self.port(mac).is_none();
        if is_new && self.length >= self.most {
            return Err(TableFull(self.most));
        }
        self.part(mac).insert(mac, port);
        self.length += usize::from(is_new);
        Ok(())
    }

    /// Forgets it; says where it was.
    pub fn remove(&mut self, mac: MacAddr) -> Option<Port> {
        self.port(mac)?;
        let port = self.part(mac).remove(&mac)?;
        self.length -= 1;
        Some(port)
    }

    fn part(&mut self, mac: MacAddr) -> &mut Part {
        Arc::make_mut(&mut Arc::make_mut(&mut self.parts)[self.spread.part_of(mac)])
    }
}

/// How addresses are spread. It is a secret: a member of the vnet may claim tens of thousands of addresses, and those of its choice
/// would all be in one place otherwise, with each frame from there or to there a search through all of them.
#[derive(Clone, Copy, Debug)]
struct Spread([u64; 2]);

impl Spread {
    fn new() -> Self {
        // Nothing but the order of what is in no order depends on it.
        let random = RandomState::new();
        Self([random.hash_one(0), random.hash_one(1) | 1])
    }

    fn part_of(self, mac: MacAddr) -> usize {
        // The hash map takes the low bits, so the part is of the high ones.
        usize::try_from(self.spread(mac) >> 58).unwrap_or_default()
    }

    /// A 48-bit number spread over 64 bits: a product with secrets, folded, and then [mixed].
    fn spread(self, mac: MacAddr) -> u64 {
        let [a, b, c, d, e, f] = mac.0;
        let Self([before, factor]) = self;
        let x = u64::from_be_bytes([0, 0, a, b, c, d, e, f]) ^ before;
        let product = u128::from(x) * u128::from(factor);
        let high = u64::try_from(product >> 64).unwrap_or_default();
        mixed(x.wrapping_mul(factor) ^ high)
    }
}

impl BuildHasher for Spread {
    type Hasher = MacHasher;

    fn build_hasher(&self) -> MacHasher {
        MacHasher(*self, 0)
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hashes nothing but a MAC address.
struct MacHasher(Spread, u64);

impl Hasher for MacHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(mac) = bytes.first_chunk::<6>() {
            self.1 = self.0.spread(MacAddr(*mac));
        }
    }

    // An array hashes its length first.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn mac(last: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, last])
    }

    #[test]
    fn there_is_a_limit() {
        let mut table = MacTable::new(2);
        table.claim(mac(1), Port::Local).unwrap();
        table.claim(mac(2), Port::Local).unwrap();
        assert_eq!(table.claim(mac(3), Port::Local), Err(TableFull(2)));
        table.claim(mac(2), Port::Muted).unwrap();
        assert_eq!(table.remove(mac(1)), Some(Port::Local));
        assert_eq!(table.claim(mac(3), Port::Local), Ok(()));
    }

    #[test]
    fn nobody_knows_which_addresses_are_in_one_place() {
        // As far as it is known how they are spread, these are.
        let chosen: Vec<MacAddr> = (0..1_u32 << 22)
            .map(|number| {
                let [a, b, c, d] = number.to_be_bytes();
                MacAddr([2, 0, a, b, c, d])
            })
            .filter(|mac| {
                let [a, b, c, d, e, f] = mac.0;
                mixed(u64::from_be_bytes([0, 0, a, b, c, d, e, f])) & (63 << 58 | 63) == 0
            })
            .collect();
        assert!(chosen.len() > 500);
        let mut table = MacTable::new(usize::MAX);
        chosen.iter().for_each(|mac| table.claim(*mac, Port::Local).unwrap());
        assert!(table.parts.iter().all(|part| part.len() < chosen.len() / 8), "they are in few parts");
        let mut places = BTreeMap::<u64, usize>::new();
        chosen.iter().for_each(|mac| *places.entry(table.spread.hash_one(mac) & 63).or_default() += 1);
        assert!(places.values().all(|count| *count < chosen.len() / 8), "they are in few places of these");
        // Nor is one table as another.
        let other = MacTable::new(usize::MAX);
        assert!(chosen.iter().any(|mac| other.spread.part_of(*mac) != table.spread.part_of(*mac)));
    }

    proptest! {
        #[test]
        fn it_is_as_a_map_is(steps in prop::collection::vec((any::<[u8; 2]>(), 0u32..4), 0..400)) {
            let mut table = MacTable::new(usize::MAX);
            let mut map = BTreeMap::new();
            let mut old = (table.clone(), map.clone());
            for (index, ([high, low], choice)) in steps.into_iter().enumerate() {
                let address = MacAddr([2, high & 3, 0, 0, 0, low]);
                if choice == 0 {
                    prop_assert_eq!(table.remove(address), map.remove(&address));
                } else {
                    table.claim(address, Port::Peer(PeerId(choice))).unwrap();
                    map.insert(address, Port::Peer(PeerId(choice)));
                }
                if index == 100 {
                    old = (table.clone(), map.clone());
                }
            }
            // A copy is not touched by what happens to the original.
            for (table, map) in [(table, map), old] {
                prop_assert_eq!(table.length, map.len());
                let all = table.parts.iter().flat_map(|part| part.iter().map(|(mac, port)| (*mac, *port)));
                prop_assert_eq!(all.collect::<BTreeMap<_, _>>(), map);
            }
        }
    }
}
