//! What a worker has of a vnet.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use viaduct_types::{MacAddr, VnetId};
use viaduct_vnet_proto::data::{Forwarding, Joins, PeerId, Spi, Storm};

use super::PeerHash;
use crate::datapath::{cipher::Keys, counters::LiveVnet};

/// A vnet nobody has said anything about forwards nothing.
const NO_MACS: usize = 0;
/// How many addresses are remembered as told; the next that comes to the same place pushes one out.
const TOLD: usize = 64;
/// How far machines are told apart in what they have the control side do.
const PLACES: usize = 64;
/// What each may in a second. Nobody looks for more neighbours in earnest.
const SHOWN: u32 = 100;

pub(super) struct Vnet {
    pub(super) id: VnetId,
    pub(super) queue: OwnedFd,
    /// The device was deleted.
    pub(super) is_gone: bool,
    others: Vec<OwnedFd>,
    pub(super) joins: Joins,
    pub(super) forwarding: Arc<Forwarding>,
    pub(super) counters: Arc<LiveVnet>,
    pub(super) outbound: HashMap<PeerId, Lanes, PeerHash>,
    pub(super) told: Told,
    /// How many addresses are told of.
    pub(super) news: Storm,
    /// How many that peers sent with and are not theirs.
    pub(super) foreign: Storm<100>,
    pub(super) shown: Shown,
    pub(super) storm: Storm,
    pub(super) since: Instant,
}

/// Keys for what we send to a peer, by either kind of ports.
#[derive(Default)]
pub(super) struct Lanes {
    pub(super) first: Option<Outbound>,
    pub(super) own: Option<Outbound>,
}

/// Keys for what we send.
pub(super) struct Outbound {
    pub(super) spi: Spi,
    pub(super) keys: Keys,
    /// The number of the next datagram; the first is 1 (RFC 4303, section 3.3.3).
    pub(super) next: u64,
    pub(super) rekey_after: u64,
}

impl Outbound {
    /// No key protects more datagrams: beyond this, AES-GCM's bounds are not worth much (NIST SP 800-38D, appendix B),
    /// though its nonces do not repeat for long.
    pub(super) const LAST: u64 = 1 << 40;

    pub(super) fn new(spi: Spi, keys: Keys, rekey_after: u64) -> Self {
        Self { spi, keys, next: 1, rekey_after }
    }
}

impl Vnet {
    pub(super) fn new(
        id: VnetId,
        (queue, others): (OwnedFd, Vec<OwnedFd>),
        cuts_udp: bool,
        counters: Arc<LiveVnet>,
    ) -> Self {
        Self {
            id,
            queue,
            is_gone: false,
            others,
            joins: if cuts_udp { Joins::TcpAndUdp } else { Joins::Tcp },
            forwarding: Arc::new(Forwarding::new(NO_MACS)),
            counters,
            outbound: HashMap::default(),
            told: Told::default(),
            news: Storm::default(),
            foreign: Storm::default(),
            shown: Shown::default(),
            storm: Storm::default(),
            since: Instant::now(),
        }
    }

    /// The queue of the tap of this number, where the worker has it; its own otherwise.
    pub(super) fn queue(&self, number: usize) -> &OwnedFd {
        number.checked_sub(1).and_then(|other| self.others.get(other)).unwrap_or(&self.queue)
    }

    pub(super) fn set_forwarding(&mut self, forwarding: Arc<Forwarding>) {
        self.forwarding = forwarding;
        self.told = Told::default();
    }
}

/// Which addresses the control side was told of.
pub(super) struct Told([Option<(MacAddr, Option<PeerId>)>; TOLD]);

impl Default for Told {
    fn default() -> Self {
        Self([None; TOLD])
    }
}

impl Told {
    /// Whether it is to be told: not if it just was.
    pub(super) fn is_news(&mut self, mac: MacAddr, peer: Option<PeerId>) -> bool {
        let place = place(mac) % TOLD;
        let news = Some((mac, peer));
        let is_news = self.0[place] != news;
        self.0[place] = news;
        is_news
    }

    /// It was not told after all, and is the next time.
    pub(super) fn take_back(&mut self, mac: MacAddr) {
        self.0[place(mac) % TOLD] = None;
    }
}

/// What machines have the control side do: it has so many places for all of them, and each its part of these, so that none keeps it
/// from answering the others.
pub(super) struct Shown([Storm<SHOWN>; PLACES]);

impl Default for Shown {
    fn default() -> Self {
        Self([Storm::default(); PLACES])
    }
}

impl Shown {
    /// Whether a frame that says to be of this machine's is within its part.
    pub(super) fn lets_through(&mut self, now: Duration, mac: MacAddr) -> bool {
        self.0[place(mac) % PLACES].lets_through(now)
    }
}

fn place(mac: MacAddr) -> usize {
    usize::from(mac.0[5] ^ mac.0[4].rotate_left(3) ^ mac.0[3].rotate_left(5))
}
