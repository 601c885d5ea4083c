//! Beacons: a host says on a multicast group where its key is. What it says is signed, and says nothing else.
//!
//! All numbers are in network byte order: four bytes of zero (which are no ESP, RFC 3948, and no QUIC), the version (1), the
//! number of addresses (1), the UDP port (2), the time (8), the key (32), the addresses (16 each, IPv4 ones as mapped
//! into IPv6), and the signature of all that (Ed25519, 64).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use viaduct_types::HostKey;

/// A host says so many addresses at most.
pub const MOST_BEACON_ADDRESSES: usize = 8;
/// What is signed begins with it: a signature for something else is none of a beacon.
pub const BEACON_CONTEXT: &[u8] = b"viaduct-vnet-beacon/1";
/// How often a host says where it is.
pub const BEACON_INTERVAL: Duration = Duration::from_secs(10);

const VERSION: u8 = 1;
const HEAD: usize = 4 + 1 + 1 + 2 + 8 + 32;
const SIGNATURE: usize = 64;
/// Clocks may be so far apart; what is older has been kept by somebody.
const APART: Duration = Duration::from_secs(5 * 60);
/// How many beacons of known keys are looked at within a second: a signature costs some 50 microseconds.
const MOST_A_SECOND: u32 = 64;

/// Where a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// Which.
    pub key: HostKey,
    /// The time of day when it was said, in milliseconds: each is later than the one before.
    pub time: u64,
    /// The UDP port.
    pub port: u16,
    /// Its addresses where it said so, at least one.
    pub addresses: Vec<IpAddr>,
}

impl Beacon {
    /// What is signed, without the [context](BEACON_CONTEXT) before it; the signature follows.
    pub fn write(&self) -> Vec<u8> {
        let addresses = self.addresses.get(..MOST_BEACON_ADDRESSES).unwrap_or(&self.addresses);
        let mut bytes = vec![0, 0, 0, 0, VERSION, u8::try_from(addresses.len()).unwrap_or_default()];
        bytes.extend(self.port.to_be_bytes());
        bytes.extend(self.time.to_be_bytes());
        bytes.extend(self.key.0);
        for address in addresses {
            bytes.extend(match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            });
        }
        bytes
    }

    /// What bytes from anyone say, what of them is signed, and the signature, which is still to be looked at; none when they
    /// are no beacon.
    pub fn read(bytes: &[u8]) -> Option<(Self, &[u8], &[u8; SIGNATURE])> {
        let (signed, signature) = bytes.split_last_chunk::<SIGNATURE>()?;
        let (head, addresses) = signed.split_first_chunk::<HEAD>()?;
        let [0, 0, 0, 0, VERSION, count, rest @ ..] = head else { return None };
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let (time, key) = rest.split_first_chunk::<8>()?;
        let (addresses, left) = addresses.as_chunks::<16>();
        let count = usize::from(*count);
        if count == 0 || count > MOST_BEACON_ADDRESSES || addresses.len() != count || !left.is_empty() {
            return None;
        }
        let addresses = addresses.iter().map(|octets| Ipv6Addr::from(*octets).to_canonical()).collect();
        let beacon = Self {
            key: HostKey(key.try_into().ok()?),
            time: u64::from_be_bytes(*time),
            port: u16::from_be_bytes(*port),
            addresses,
        };
        let is_place =
            |address: &IpAddr| !(address.is_multicast() || address.is_unspecified() || address.is_loopback());
        (beacon.port != 0 && beacon.addresses.iter().all(is_place)).then_some((beacon, signed, signature))
    }
}

/// Why a beacon is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ignored {
    /// It is of this host itself.
    Own,
    /// Nobody here knows the key.
    Stranger,
    /// It, or a later one, was heard before.
    Replayed,
    /// It says a time that is far from this host's.
    Clock,
    /// There are too many.
    TooMany,
    /// The signature is not the key's.
    Forged,
}

/// What was heard of whom.
#[derive(Debug, Default)]
pub struct Heard {
    last: BTreeMap<HostKey, u64>,
    second: u64,
    looked_at: u32,
}

impl Heard {
    /// Whether the beacon is worth a look at its signature, at this time of day in milliseconds.
    ///
    /// # Errors
    /// Why not.
    pub fn check(
        &mut self,
        time: u64,
        beacon: &Beacon,
        own: HostKey,
        is_known: impl Fn(HostKey) -> bool,
    ) -> Result<(), Ignored> {
        if beacon.key == own {
            return Err(Ignored::Own);
        }
        if !is_known(beacon.key) {
            return Err(Ignored::Stranger);
        }
        if self.last.get(&beacon.key).is_some_and(|last| *last >= beacon.time) {
            return Err(Ignored::Replayed);
        }
        if u128::from(time.abs_diff(beacon.time)) > APART.as_millis() {
            return Err(Ignored::Clock);
        }
        if self.second != time / 1000 {
            (self.second, self.looked_at) = (time / 1000, 0);
        }
        self.looked_at += 1;
        if self.looked_at > MOST_A_SECOND { Err(Ignored::TooMany) } else { Ok(()) }
    }

    /// Its signature was right.
    pub fn accept(&mut self, beacon: &Beacon) {
        self.last.insert(beacon.key, beacon.time);
    }

    /// Remembers nothing of those who are not known any more.
    pub fn retain(&mut self, is_known: impl Fn(HostKey) -> bool) {
        self.last.retain(|key, _| is_known(*key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: HostKey = HostKey([9; 32]);

    fn beacon(time: u64) -> Beacon {
        Beacon {
            key: HostKey([1; 32]),
            time,
            port: 1798,
            addresses: vec!["192.0.2.1".parse().unwrap(), "fe80::1".parse().unwrap()],
        }
    }

    fn signed(beacon: &Beacon) -> Vec<u8> {
        [beacon.write(), vec![7; SIGNATURE]].concat()
    }

    #[test]
    fn what_is_written_is_read_and_nothing_beside_it() {
        let bytes = signed(&beacon(5));
        let (read, of, signature) = Beacon::read(&bytes).unwrap();
        assert_eq!((&read, of.len(), signature), (&beacon(5), bytes.len() - SIGNATURE, &[7; SIGNATURE]));
        for cut in 0..bytes.len() {
            assert_eq!(Beacon::read(&bytes[..cut]), None, "cut to {cut}");
        }
        assert_eq!(Beacon::read(&[&bytes[..], &[0]].concat()), None);
        let mut many = beacon(5);
        many.addresses = vec!["192.0.2.1".parse().unwrap(); 20];
        assert_eq!(Beacon::read(&signed(&many)).unwrap().0.addresses.len(), MOST_BEACON_ADDRESSES);
        for nowhere in ["224.0.0.1", "0.0.0.0", "127.0.0.1", "::1", "ff02::1"] {
            let beacon = Beacon { addresses: vec![nowhere.parse().unwrap()], ..beacon(5) };
            assert_eq!(Beacon::read(&signed(&beacon)), None, "{nowhere}");
        }
        assert_eq!(Beacon::read(&signed(&Beacon { port: 0, ..beacon(5) })), None);
    }

    #[test]
    fn each_is_heard_once_and_in_its_time() {
        let mut heard = Heard::default();
        let now = 1_000_000_000;
        let check = |heard: &mut Heard, beacon: &Beacon| heard.check(now, beacon, OWN, |key| key.0[0] < 3);
        let first = beacon(now);
        assert_eq!(check(&mut heard, &first), Ok(()));
        assert_eq!(check(&mut heard, &first), Ok(()), "its signature may have been wrong");
        heard.accept(&first);
        assert_eq!(check(&mut heard, &first), Err(Ignored::Replayed));
        assert_eq!(check(&mut heard, &beacon(now - 1)), Err(Ignored::Replayed));
        assert_eq!(check(&mut heard, &beacon(now + 1)), Ok(()));
        for far in [now + 400_000, u64::MAX] {
            assert_eq!(check(&mut heard, &beacon(far)), Err(Ignored::Clock));
        }
        let other = Beacon { key: HostKey([2; 32]), ..beacon(0) };
        assert_eq!(check(&mut heard, &other), Err(Ignored::Clock));
        assert_eq!(
            check(&mut heard, &Beacon { key: HostKey([4; 32]), ..beacon(now) }),
            Err(Ignored::Stranger)
        );
        assert_eq!(check(&mut heard, &Beacon { key: OWN, ..beacon(now) }), Err(Ignored::Own));
        let looked_at = (0..1000).filter(|_| check(&mut heard, &beacon(now + 2)).is_ok()).count();
        assert!(looked_at < 100, "{looked_at}");
        heard.retain(|_| false);
        assert!(heard.last.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_panic(bytes: Vec<u8>, mut own in any::<[u8; 200]>()) {
            let _ = Beacon::read(&bytes);
            own[..6].copy_from_slice(&[0, 0, 0, 0, 1, 2]);
            for length in 0..own.len() {
                if let Some((beacon, ..)) = Beacon::read(&own[..length]) {
                    prop_assert_eq!(beacon.write(), own[..length - SIGNATURE].to_vec());
                }
            }
        }
    }
}
