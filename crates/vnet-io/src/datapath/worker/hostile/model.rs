//! What has to come of each datagram, said without any of the worker's code: what is not expected here must not happen.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
};

use viaduct_types::MacAddr;
use viaduct_vnet_proto::data::{Interest, Lane, Offload, esp::Cipher};

use super::{
    frames::{ARRIVED, GONE, HERE, OF, SEGMENT_GROUP, SEGMENT_TYPE, SILENT},
    guests::Outgoing,
    sealing::{Material, content},
};
use crate::datapath::counters::{HostCounters, PeerCounters, RelayCounters, VnetCounters};

/// How far numbers may be behind the highest.
const WINDOW: u64 = 8_192;
/// No half of a frame is longer.
const LONGEST_HALF: usize = 4_608;
/// What is passed on at least, whatever the rate.
const LEAST_PASSED_ON: u64 = 65_536;

/// Whose keys they are, and where what they carry goes.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    pub(super) spi: u32,
    /// 1, 2 or 3.
    pub(super) peer: u32,
    pub(super) lane: Lane,
    pub(super) slot: usize,
}

const fn keys(spi: u32, peer: u32, lane: Lane, slot: usize) -> Keys {
    Keys { spi, peer, lane, slot }
}

/// Two for one way, as while keys are given anew.
pub(super) const KEYS: [Keys; 8] = [
    keys(0x1000, 1, Lane::First, 0),
    keys(0x8000_1001, 1, Lane::Own, 0),
    keys(0x1002, 2, Lane::First, 0),
    keys(0x1003, 1, Lane::First, 1),
    keys(0x1004, 2, Lane::Own, 1),
    keys(0xbfff_1005, 3, Lane::First, 0),
    keys(0x1006, 1, Lane::First, 0),
    keys(0x1007, 2, Lane::First, 0),
];
/// What begins datagrams that go on, those that were brought, and others that go on, but not at any rate.
pub(super) const ONWARD: u32 = 0x2001;
pub(super) const BROUGHT: u32 = 0x2002;
pub(super) const SLOWLY: u32 = 0x2003;
/// What they begin with when they go on.
pub(super) const AFTERWARDS: u32 = 0x8000_3001;

/// Where hosts are.
#[derive(Clone, Copy)]
pub(super) struct Places {
    /// By their numbers.
    pub(super) hosts: [SocketAddr; 4],
    pub(super) relay: SocketAddr,
}

/// Keys as they are in use.
pub(super) struct InUse {
    pub(super) keys: Keys,
    pub(super) material: Material,
    /// Which material.
    pub(super) generation: u32,
    highest: u64,
    seen: BTreeSet<u64>,
    half: Option<(u64, u8, Vec<u8>)>,
    has_roamed: bool,
}

/// What is in a datagram that was sealed.
struct Sealed {
    spi: u32,
    generation: u32,
    number: u64,
    text: Vec<u8>,
}

/// What came of all up to now, and what is to be seen of it.
#[derive(Default)]
pub(super) struct Expected {
    pub(super) host: HostCounters,
    pub(super) vnets: [VnetCounters; 2],
    pub(super) peers: [PeerCounters; 4],
    pub(super) relays: BTreeMap<u32, RelayCounters>,
    pub(super) quic: Vec<(SocketAddr, Vec<u8>)>,
    /// At the taps.
    pub(super) frames: [Vec<Vec<u8>>; 2],
    /// At the hosts.
    pub(super) outgoing: Vec<Outgoing>,
    pub(super) passed_on: Vec<Vec<u8>>,
    /// Those that are told of in any case: of the first time.
    pub(super) roamed: Vec<(u32, SocketAddr)>,
    /// Those that may be told of.
    pub(super) roaming: BTreeSet<(u32, SocketAddr)>,
    pub(super) foreign: BTreeSet<(u32, MacAddr)>,
    pub(super) probes: BTreeSet<(u32, u8, u32)>,
    /// Guests that may be told of because nobody knows them.
    pub(super) unknown: BTreeSet<MacAddr>,
    /// Frames of guests that are shown, of which vnet, and why.
    pub(super) shown: VecDeque<(usize, Interest, Vec<u8>)>,
    /// How much machines have had the control side do, at most.
    pub(super) spent: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Delivered,
    Forwarded,
    NotHere,
    Foreign,
    NoFrame,
}

pub(super) struct Model {
    cipher: Cipher,
    places: Places,
    pub(super) in_use: BTreeMap<u32, InUse>,
    sealed: HashMap<Vec<u8>, Sealed>,
    generation: u32,
    /// Whether anybody said anything of where frames of this vnet go.
    pub(super) forwards: [bool; 2],
    passes: bool,
    slowly: u64,
    pub(super) expected: Expected,
}

impl Model {
    pub(super) fn new(cipher: Cipher, places: Places) -> Self {
        Self {
            cipher,
            places,
            in_use: BTreeMap::new(),
            sealed: HashMap::new(),
            generation: 0,
            forwards: [true; 2],
            passes: true,
            slowly: 0,
            expected: Expected::default(),
        }
    }

    /// New keys, with what they are.
    pub(super) fn install(&mut self, keys: Keys) -> Material {
        self.generation += 1;
        let (generation, material) = (self.generation, Material::of(self.cipher, self.generation));
        let in_use = InUse {
            keys,
            material,
            generation,
            highest: 0,
            seen: BTreeSet::new(),
            half: None,
            has_roamed: false,
        };
        self.in_use.insert(keys.spi, in_use);
        material
    }

    pub(super) fn pass(&mut self, passes: bool) {
        self.passes = passes;
        if !passes {
            self.slowly = 0;
        }
    }

    /// Remembers what this datagram is.
    pub(super) fn sealed(
        &mut self,
        datagram: &[u8],
        (spi, generation, number): (u32, u32, u64),
        text: &[u8],
    ) {
        self.sealed.insert(datagram.to_vec(), Sealed { spi, generation, number, text: text.to_vec() });
    }

    /// A message comes: its datagrams are of this length each, but for the last.
    pub(super) fn message(&mut self, from: SocketAddr, lane: Lane, segment: Option<i32>, bytes: &[u8]) {
        let is_nowhere = matches!(from, SocketAddr::V6(v6) if v6.ip().segments()[..4] == [0x100, 0, 0, 0]);
        if bytes.is_empty() || is_nowhere {
            self.expected.host.malformed += 1;
            return;
        }
        let segment =
            segment.and_then(|segment| usize::try_from(segment).ok()).filter(|segment| *segment > 0);
        for datagram in bytes.chunks(segment.unwrap_or(bytes.len())) {
            self.datagram((from, lane), datagram, false);
        }
    }

    fn datagram(&mut self, (from, lane): (SocketAddr, Lane), datagram: &[u8], is_brought: bool) {
        let host = &mut self.expected.host;
        if datagram[0] & 0x40 != 0 {
            host.quic += 1;
            self.expected.quic.push((from, datagram.to_vec()));
            return;
        }
        let Some((header, _)) = datagram.split_first_chunk::<8>() else {
            host.malformed += 1;
            return;
        };
        let [a, b, c, d, low @ ..] = *header;
        let (spi, low) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes(low));
        let Some(in_use) = self.in_use.get_mut(&spi) else {
            return self.of_others((from, lane), spi, datagram, is_brought);
        };
        let least = 8 + if self.cipher.encrypts() { 0 } else { 8 } + 2 + 16;
        if datagram.len() < least {
            host.malformed += 1;
            return;
        }
        let number = in_use.number(low);
        if in_use.was_there(number) {
            host.replayed += 1;
            return;
        }
        let sealed = self.sealed.get(datagram).filter(|sealed| {
            (sealed.spi, sealed.generation, sealed.number) == (spi, in_use.generation, number)
        });
        let Some(sealed) = sealed else {
            host.forged += 1;
            return;
        };
        in_use.seen.insert(number);
        in_use.highest = in_use.highest.max(number);
        let Keys { peer, slot, .. } = in_use.keys;
        let counters = &mut self.expected.peers[peer as usize];
        counters.datagrams_in += 1;
        counters.bytes_in += datagram.len() as u64;
        counters.datagrams_in_first += u64::from(lane == Lane::First);
        let known = self.places.hosts[peer as usize];
        let is_known = match in_use.keys.lane {
            Lane::First => known == from,
            Lane::Own => known.ip() == from.ip(),
        };
        if !is_known {
            if !std::mem::replace(&mut in_use.has_roamed, true) {
                self.expected.roamed.push((peer, from));
            }
            self.expected.roaming.insert((peer, from));
        }
        match content(&sealed.text) {
            None => host.not_a_frame += 1,
            Some((true, frame)) => self.expected.frame(self.forwards[slot], (slot, peer), frame),
            Some((false, dummy)) => {
                if let ([0, 0, 0, worker, a, b, c, d], Lane::Own) = (dummy, in_use.keys.lane) {
                    let number = u32::from_be_bytes([*a, *b, *c, *d]);
                    self.expected.probes.insert((peer, *worker, number));
                }
                if let [1, 0, 0, which @ (0 | 1), half @ ..] = dummy
                    && let Some(frame) = in_use.join(number, *which, half)
                {
                    self.expected.frame(self.forwards[slot], (slot, peer), &frame);
                }
            }
        }
    }

    /// A datagram that begins with what stands for no keys.
    fn of_others(&mut self, (from, lane): (SocketAddr, Lane), spi: u32, datagram: &[u8], is_brought: bool) {
        let is_passed = self.passes && from == self.places.relay && !is_brought;
        match spi {
            ONWARD | SLOWLY if is_passed => {
                let (relay, length) = (self.expected.relays.entry(spi).or_default(), datagram.len() as u64);
                if spi == SLOWLY && self.slowly + length > LEAST_PASSED_ON {
                    relay.over_rate += 1;
                    self.expected.host.over_rate += 1;
                    return;
                }
                self.slowly += if spi == SLOWLY { length } else { 0 };
                relay.datagrams += 1;
                relay.bytes += length;
                self.expected.host.relayed += 1;
                self.expected.passed_on.push([&AFTERWARDS.to_be_bytes(), &datagram[4..]].concat());
            }
            BROUGHT if is_passed => self.datagram((self.places.hosts[3], lane), &datagram[4..], true),
            _ => self.expected.host.unknown_spi += 1,
        }
    }
}

impl InUse {
    /// The whole of a number: the least that has this low half and is not below the window.
    fn number(&self, low: u32) -> u64 {
        let bottom = self.highest.saturating_sub(WINDOW - 1);
        let number = bottom & !0xffff_ffff | u64::from(low);
        if number < bottom { number.saturating_add(1 << 32) } else { number }
    }

    fn was_there(&self, number: u64) -> bool {
        number == 0 || number.saturating_add(WINDOW) <= self.highest || self.seen.contains(&number)
    }

    fn join(&mut self, number: u64, which: u8, half: &[u8]) -> Option<Vec<u8>> {
        let waiting = self.half.take();
        if half.len() > LONGEST_HALF {
            return None;
        }
        if let Some((other_number, other, bytes)) = waiting {
            if (other, which) == (0, 1) && number.checked_sub(1) == Some(other_number) {
                return Some([&bytes, half].concat());
            }
            if (other, which) == (1, 0) && number.checked_add(1) == Some(other_number) {
                return Some([half, &bytes].concat());
            }
        }
        self.half = Some((number, which, half.to_vec()));
        None
    }
}

impl Expected {
    /// A frame of a peer's in this vnet.
    fn frame(&mut self, forwards: bool, (slot, peer): (usize, u32), frame: &[u8]) {
        let vnet = &mut self.vnets[slot];
        match fate(forwards, (slot, peer), frame) {
            Fate::NoFrame => self.host.not_a_frame += 1,
            Fate::NotHere => vnet.not_here += 1,
            Fate::Foreign => {
                vnet.foreign_source += 1;
                self.foreign.insert((peer, MacAddr(*frame[6..].first_chunk().unwrap())));
            }
            Fate::Forwarded => {
                vnet.forwarded += 1;
                let frame = frame.to_vec();
                self.outgoing.push(Outgoing { peer: 2, slot, offload: Offload::NONE, frame });
            }
            Fate::Delivered => {
                vnet.frames_in += 1;
                vnet.bytes_in += frame.len() as u64;
                self.frames[slot].push(frame.to_vec());
            }
        }
    }
}

/// In the first vnet all addresses are somebody's, in the second, behind host 1 are machines that nobody manages, and here, too.
fn fate(forwards: bool, (slot, peer): (usize, u32), frame: &[u8]) -> Fate {
    let Some((header, _)) = frame.split_first_chunk::<14>() else { return Fate::NoFrame };
    let [to, from] = [0, 6].map(|at| MacAddr(*header[at..].first_chunk().unwrap()));
    if from.0[0] & 1 != 0 || from == MacAddr([0; 6]) {
        return Fate::NoFrame;
    }
    if to == SEGMENT_GROUP && header[12..] == SEGMENT_TYPE.to_be_bytes() {
        return Fate::NotHere;
    }
    let is_here = forwards && [HERE, ARRIVED].contains(&from);
    let owner = (1..=3).find(|owner| forwards && OF[*owner as usize] == from);
    let owner = owner.or((forwards && from == GONE).then_some(2));
    let is_unmanaged = owner.is_none() && !is_here && from != SILENT && (slot, peer) == (1, 1);
    let is_sent_on = to == ARRIVED && peer == 2 && (owner.is_some() || is_here);
    if !forwards || !(owner == Some(peer) || is_unmanaged || is_sent_on) {
        return Fate::Foreign;
    }
    match to {
        to if to.0[0] & 1 != 0 => Fate::Delivered,
        HERE | ARRIVED => Fate::Delivered,
        GONE => Fate::Forwarded,
        SILENT => Fate::NotHere,
        to if OF[1..].contains(&to) => Fate::NotHere,
        _ if slot == 1 => Fate::Delivered,
        _ => Fate::NotHere,
    }
}
