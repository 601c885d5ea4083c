//! Who has which MAC address.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
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

/// What came of learning an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It was unknown.
    New,
    /// It was known to be there.
    Known,
    /// It was learned elsewhere before.
    Moved,
    /// Somebody claims it, and a claim is not displaced by a frame.
    Claimed,
}

/// How many parts the table has. A copy of a table shares all parts with the original that have not changed since, so
/// that one change of a large table is cheap.
const PARTS: usize = 64;

/// The MAC addresses of a vnet. Claimed addresses stay until the claim is changed; learned ones are overwritten by what is
/// learned later, never the other way round. There is an upper limit to their number.
///
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct MacTable {
    parts: Arc<[Arc<Part>; PARTS]>,
    length: usize,
    most: usize,
}

type Part = HashMap<MacAddr, Entry, BuildHasherDefault<MacHasher>>;

#[derive(Clone, Copy, Debug)]
struct Entry {
    port: Port,
    claimed: bool,
}

impl MacTable {
    /// An empty table for at most so many addresses.
    pub fn new(most: usize) -> Self {
        Self { parts: Arc::new(std::array::from_fn(|_| Arc::default())), length: 0, most }
    }

    /// Where it is.
    pub fn port(&self, mac: MacAddr) -> Option<Port> {
        self.parts[part_of(mac)].get(&mac).map(|entry| entry.port)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Claims it for a port; a claim there was before, and what was learned, gives way.
    ///
    /// # Errors
    /// When it is new and the table is full.
    pub fn claim(&mut self, mac: MacAddr, port: Port) -> Result<(), TableFull> {
        self.put(mac, Entry { port, claimed: true })
    }

    /// A frame from this address came from this port.
    ///
    /// # Errors
    /// When it is new and the table is full.
    pub fn learn(&mut self, mac: MacAddr, port: Port) -> Result<Learned, TableFull> {
        let learned = match self.parts[part_of(mac)].get(&mac) {
            None => Learned::New,
            Some(entry) if entry.port == port => return Ok(Learned::Known),
            Some(entry) if entry.claimed => return Ok(Learned::Claimed),
            Some(_) => Learned::Moved,
        };
        self.put(mac, Entry { port, claimed: false })?;
        Ok(learned)
    }

    /// Forgets it; says where it was.
    pub fn remove(&mut self, mac: MacAddr) -> Option<Port> {
        self.port(mac)?;
        let entry = self.part(mac).remove(&mac)?;
        self.length -= 1;
        Some(entry.port)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (MacAddr, Port)> {
        self.parts.iter().flat_map(|part| part.iter().map(|(mac, entry)| (*mac, entry.port)))
    }

    fn put(&mut self, mac: MacAddr, entry: Entry) -> Result<(), TableFull> {
        let is_new = self.port(mac).is_none();
        if is_new && self.length >= self.most {
            return Err(TableFull(self.most));
        }
        self.part(mac).insert(mac, entry);
        self.length += usize::from(is_new);
        Ok(())
    }

    fn part(&mut self, mac: MacAddr) -> &mut Part {
        Arc::make_mut(&mut Arc::make_mut(&mut self.parts)[part_of(mac)])
    }
}

fn part_of(mac: MacAddr) -> usize {
    // The hash map takes the low bits, so the part is of the high ones.
    usize::try_from(mixed(mac) >> 58).unwrap_or_default()
}

/// A 48-bit number spread over 64 bits. Whoever chooses addresses so that they collide has to claim them first, and there
/// is a limit to that.
fn mixed(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    let mut x = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    // The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hashes nothing but a MAC address.
#[derive(Clone, Copy, Default)]
struct MacHasher(u64);

impl Hasher for MacHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(mac) = bytes.first_chunk::<6>() {
            self.0 = mixed(MacAddr(*mac));
        }
    }

    // An array hashes its length first.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
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
    fn what_is_learned_does_not_displace_a_claim() {
        let mut table = MacTable::new(2);
        let (here, there) = (Port::Local, Port::Peer(PeerId(1)));
        assert_eq!(table.learn(mac(1), there), Ok(Learned::New));
        assert_eq!(table.learn(mac(1), there), Ok(Learned::Known));
        assert_eq!(table.learn(mac(1), here), Ok(Learned::Moved));
        table.claim(mac(1), there).unwrap();
        assert_eq!(table.learn(mac(1), here), Ok(Learned::Claimed));
        assert_eq!(table.port(mac(1)), Some(there));
        table.claim(mac(1), here).unwrap();
        assert_eq!(table.port(mac(1)), Some(here));
    }

    #[test]
    fn there_is_a_limit() {
        let mut table = MacTable::new(2);
        table.claim(mac(1), Port::Local).unwrap();
        table.claim(mac(2), Port::Local).unwrap();
        assert_eq!(table.claim(mac(3), Port::Local), Err(TableFull(2)));
        assert_eq!(table.learn(mac(3), Port::Local), Err(TableFull(2)));
        table.claim(mac(2), Port::Muted).unwrap();
        assert_eq!(table.remove(mac(1)), Some(Port::Local));
        assert_eq!(table.learn(mac(3), Port::Local), Ok(Learned::New));
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
                prop_assert_eq!(table.len(), map.len());
                prop_assert_eq!(table.iter().collect::<BTreeMap<_, _>>(), map);
            }
        }
    }
}
