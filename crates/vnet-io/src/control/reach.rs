//! Hosts that are reached by way of others: addresses that stand for such ways, and what follows for workers, QUIC and
//! dialling.
//!
//! To QUIC such a way is an address like any other. What is sent there goes to the host that passes it on, with a number
//! before it; what comes from there with a number before it is given to QUIC as coming from that address. So all that holds
//! for a path holds for this one: handshake, keys, what it carries, its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tracing::{debug, info};
use viaduct_types::{HostKey, VNET_PORT};
use viaduct_vnet_proto::data::{PeerId, Spi};

use super::{engine::Engine, link::Farewell};
use crate::datapath::{Brought, Relay, Via};

/// Packets to this prefix are discarded wherever there is a network (RFC 6666), so that no host has an address of it.
const PREFIX: [u16; 4] = [0x100, 0, 0, 0];
/// A host that was not reached for so long is looked for by way of others.
const UNREACHED: Duration = Duration::from_secs(1);
/// What was sent by way of another before the hosts reached each other may be so late.
const LATE: Duration = Duration::from_secs(10);

/// The address that stands for the way to a peer by another one.
pub(super) fn address(relay: PeerId, peer: PeerId) -> SocketAddr {
    let [a, b, c, d] = PREFIX;
    let half = |number: u32, shift: u32| u16::try_from(number >> shift & 0xffff).unwrap_or_default();
    let ip =
        Ipv6Addr::new(a, b, c, d, half(relay.0, 16), half(relay.0, 0), half(peer.0, 16), half(peer.0, 0));
    SocketAddr::new(ip.into(), VNET_PORT)
}

/// By whom the way leads that the address stands for; none when it is an address.
pub(super) fn relay_of(address: SocketAddr) -> Option<PeerId> {
    let SocketAddr::V6(v6) = address else { return None };
    let segments = v6.ip().segments();
    let number = |high: u16, low: u16| u32::from(high) << 16 | u32::from(low);
    (segments[..4] == PREFIX).then(|| PeerId(number(segments[4], segments[5])))
}

/// Where what is sent to an address that stands for a way really goes.
#[derive(Clone, Debug, Default)]
pub(super) struct Ways(Arc<Mutex<BTreeMap<SocketAddr, Via>>>);

impl Ways {
    pub(super) fn via(&self, address: SocketAddr) -> Option<Via> {
        let SocketAddr::V6(v6) = address else { return None };
        let address = SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0).into();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&address).copied()
    }

    fn set(&self, ways: BTreeMap<SocketAddr, Via>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ways;
    }
}

/// What was last made of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    relays: Vec<Relay>,
    brought: Vec<Brought>,
    ways: BTreeMap<SocketAddr, Via>,
    /// Which of these addresses each peer may be at.
    pub(super) addresses: BTreeMap<HostKey, Vec<SocketAddr>>,
    /// What is passed on, by its number: from whom to whom.
    pub(super) passes: BTreeMap<Spi, (HostKey, HostKey)>,
}

/// How long it takes at the least until a peer is dialled anew for the sake of ways: as long as an attempt may take.
const APART: Duration = Duration::from_secs(3);

/// Whether there are ways to a peer that it has not been dialled by.
#[derive(Debug, Default)]
pub(super) struct NewWays {
    are_there: bool,
    dialled: Option<Duration>,
}

impl NewWays {
    /// Whether it is to be dialled anew, which ends the attempts that there are. Who passes on may say as often as it likes that there
    /// is a way and that there is none.
    fn are_due(&mut self, now: Duration) -> bool {
        let are_due = self.are_there && self.dialled.is_none_or(|then| now.saturating_sub(then) >= APART);
        if are_due {
            *self = Self { are_there: false, dialled: Some(now) };
        }
        are_due
    }
}

impl Engine {
    /// Asks for ways to those who are not reached, and no longer for those who are.
    pub(super) fn look_for_ways(&mut self) {
        let now = self.now();
        let (mut changes, mut needs_others) = (Vec::new(), false);
        for (key, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.spare.is_none()) {
            let link = peer.session.and_then(|session| self.links.get(&session));
            match link {
                None => {
                    let since = *peer.unreached.get_or_insert(now);
                    if now.saturating_sub(since) >= UNREACHED {
                        changes.push((*key, true));
                        needs_others = true;
                    }
                }
                Some(link) if relay_of(link.remote()).is_some() => {
                    peer.unreached = None;
                    needs_others = true;
                }
                Some(link) => {
                    peer.unreached = None;
                    if now.saturating_sub(link.since) >= LATE {
                        changes.push((*key, false));
                    }
                }
            }
        }
        changes.into_iter().for_each(|(key, wanted)| self.node.want_detour(key, wanted));
        self.seek(needs_others);
        self.dial_by_new_ways();
    }

    /// Sets up what the hosts have agreed on about ways; where each of them is at the moment counts.
    pub(super) fn reach(&mut self) {
        let at = |key: &HostKey| {
            let link = self.links.get(&self.peers.get(key)?.session?)?;
            // What comes by way of somebody goes on to nobody.
            Some(link.remote()).filter(|remote| relay_of(*remote).is_none())
        };
        let mut reach = Reach::default();
        for pass in self.node.passes() {
            let (Some(from), Some(to)) = (at(&pass.from), at(&pass.to)) else { continue };
            let bytes_per_second = self.orders.relay_rate;
            reach.relays.push(Relay { spi: pass.spi, from, to, onward: pass.onward, bytes_per_second });
            reach.passes.insert(pass.spi, (pass.from, pass.to));
        }
        for detour in self.node.detours() {
            let (Some(peer), Some(relay)) = (self.peers.get(&detour.peer), self.peers.get(&detour.relay))
            else {
                continue;
            };
            let Some(relay_at) = at(&detour.relay) else { continue };
            let from = address(relay.id, peer.id);
            reach.brought.push(Brought { spi: detour.inbound, relay: relay_at, from });
            if let Some(spi) = detour.outbound {
                reach.ways.insert(from, Via { relay: relay_at, spi });
                reach.addresses.entry(detour.peer).or_default().push(from);
            }
        }
        if reach == self.reach {
            return;
        }
        self.handle.set_relays(&reach.relays, &reach.brought);
        self.ways.set(reach.ways.clone());
        let before = std::mem::replace(&mut self.reach, reach);
        let now = self.now();
        for (spi, (from, to)) in &self.reach.passes {
            let to = self.peers.get(to).map(|peer| peer.name.clone());
            if !before.passes.contains_key(spi)
                && let (Some(from), Some(to)) = (self.peers.get_mut(from), to)
                && from.lines.has_room(now)
            {
                info!("what peer {} sends to peer {to} is passed on", from.name);
            }
        }
        // Nothing comes that way any more: whoever was there is looked for at once.
        for link in self.links.values() {
            if relay_of(link.remote()).is_some() && !self.reach.ways.contains_key(&link.remote()) {
                debug!("the way to a peer by another one is gone");
                Farewell::Ending.end(&link.connection, "the way is gone");
            }
        }
        let keys: BTreeSet<HostKey> =
            before.addresses.keys().chain(self.reach.addresses.keys()).copied().collect();
        for key in keys {
            let had = before.addresses.get(&key).map_or(&[][..], Vec::as_slice);
            let is_new = |way: &SocketAddr| !had.contains(way);
            if self.reach.addresses.get(&key).is_some_and(|ways| ways.iter().any(is_new))
                && let Some(peer) = self.peers.get_mut(&key)
            {
                peer.new_ways.are_there = true;
            }
            self.measure(key);
        }
        self.dial_by_new_ways();
    }

    fn dial_by_new_ways(&mut self) {
        let now = self.now();
        self.dial_anew(|peer| peer.session.is_none() && peer.new_ways.are_due(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_again_and_again_that_there_is_a_way_has_nobody_dialled_all_the_time() {
        let mut ways = NewWays::default();
        let dialled = (0..10_000).filter(|millisecond| {
            ways.are_there = true;
            ways.are_due(Duration::from_millis(*millisecond))
        });
        assert_eq!(dialled.collect::<Vec<_>>(), [0, 3_000, 6_000, 9_000]);
        // What came in between is not forgotten.
        ways.are_there = true;
        assert!(!ways.are_due(Duration::from_millis(11_999)) && ways.are_due(Duration::from_millis(12_000)));
        assert!(!ways.are_due(Duration::from_secs(60)));
    }

    #[test]
    fn addresses_stand_for_ways() {
        let way = address(PeerId(0x0001_0002), PeerId(0xffff_0003));
        assert_eq!(way.to_string(), "[100::1:2:ffff:3]:1798");
        assert_eq!(relay_of(way), Some(PeerId(0x0001_0002)));
        assert_eq!(relay_of("[2001:db8::1]:1798".parse().unwrap()), None);
        assert_eq!(relay_of("192.0.2.1:1798".parse().unwrap()), None);
    }
}
