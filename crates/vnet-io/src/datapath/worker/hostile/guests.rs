//! Frames of this host's own guests: what has to come of each, said without any of the worker's code but what cuts them, which has
//! tests of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use viaduct_types::MacAddr;
use viaduct_vnet_proto::data::{
    Cut, CutError, Interest, OFFLOAD_HEADER, Offload, clamp_mss,
    esp::{Cipher, largest_frame},
    fragments,
};

use super::{
    Hostile, Input,
    frames::{ARRIVED, Flow, GONE, HERE, OF, SEGMENT_GROUP, SEGMENT_TYPE, SILENT, address, header},
    model::Model,
    sealing::{Material, content},
    world::World,
};

/// Machines have the control side do no more than what it does for each of them in a second: no input is about the others.
const MOST_SPENT: usize = 90;
/// Who wants a group's frames, and which.
pub(super) const GROUP: MacAddr = MacAddr([1, 0, 0x5e, 1, 2, 3]);
pub(super) const IN_GROUP: [u32; 2] = [2, 3];
/// Who wants all groups'.
pub(super) const IN_ALL: [u32; 1] = [1];
/// For whom questions are answered here.
pub(super) const ANSWERED: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 9, 0, 7)), IpAddr::V6(Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 7))];
/// What paths to the hosts take whole, and what they may take.
pub(super) const PATHS: [(u16, u16); 4] = [(0, 0), (1_232, 1_472), (1_472, 1_472), (1_472, 1_472)];
/// What stands before that for the third, which is reached by way of another.
pub(super) const VIA: u32 = 0x9009;
/// Of keys for what goes out: above all others, with host and vnet.
const OUTGOING: u32 = 1 << 20;
/// No half of a frame is longer.
const LONGEST_HALF: usize = 4_608;
/// What IPv6 counts on, with a tag.
const LEAST: usize = 1_298;

pub(super) const fn outgoing(peer: u32, slot: usize) -> u32 {
    OUTGOING | peer << 8 | if slot == 0 { 0 } else { 1 }
}

/// A frame that is sent to a host.
pub(super) struct Outgoing {
    pub(super) peer: u32,
    pub(super) slot: usize,
    pub(super) offload: Offload,
    pub(super) frame: Vec<u8>,
}

/// What is done with a frame of a guest's.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Malformed,
    Muted,
    UnknownSource,
    UnknownDestination,
    Nobody,
    To(Vec<u32>),
}

impl Hostile<'_> {
    /// A guest of this host sends something, by the first tap or the second.
    pub(super) fn guest(&mut self, which: u8, input: &mut Input<'_>) -> Option<()> {
        if self.world.model.expected.spent > MOST_SPENT {
            return None;
        }
        let (offload, frame) = match which >> 1 & 7 {
            0 => (Offload::NONE.write(), [&header(input.array()?), input.bytes()?].concat()),
            1 => (input.array()?, [&header(input.array()?), input.bytes()?].concat()),
            2..=4 => {
                let [addresses, kind, count] = input.array()?;
                let size = usize::from(input.word()?) % 1_500;
                let flow = Flow { addresses, kind, size };
                match usize::from(count & 31) {
                    0 | 1 => (Offload::NONE.write(), flow.frame(0, size)),
                    many if size > 0 => {
                        let (offload, frame) = flow.whole(many, count & 0x80 != 0);
                        (offload.write(), frame)
                    }
                    _ => return Some(()),
                }
            }
            5 => {
                let [who, last, operation] = input.array()?;
                (Offload::NONE.write(), arp(address(who), last, operation))
            }
            6 => {
                let [who, kind, last] = input.array()?;
                (Offload::NONE.write(), icmp6(address(who), kind, last))
            }
            _ => {
                let [who, kind] = input.array()?;
                (Offload::NONE.write(), igmp(address(who), kind))
            }
        };
        self.world.guest(usize::from(which & 1), &offload, &frame);
        Some(())
    }
}

/// RFC 826: from 10.9.0.1, about 10.9.0.x.
fn arp(from: MacAddr, last: u8, operation: u8) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &from.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation], &from.0].concat();
    frame.extend([10, 9, 0, 1, 0, 0, 0, 0, 0, 0, 10, 9, 0, last]);
    frame.resize(60, 0);
    frame
}

/// Something of ICMPv6 about fd09::x, with a hop-by-hop header where the first bit of the last says so.
fn icmp6(from: MacAddr, kind: u8, last: u8) -> Vec<u8> {
    let mut message =
        vec![kind, 0, 0, 0, 0, 0, 0, 0, 0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last & 0x7f];
    let mut next = 58;
    if last & 0x80 != 0 {
        message.splice(..0, [58, 0, 5, 2, 0, 0, 1, 0]);
        next = 0;
    }
    let length = u8::try_from(message.len()).unwrap();
    let mut frame =
        [&[0x33, 0x33, 0, 0, 0, 0x16][..], &from.0, &[0x86, 0xdd, 0x60, 0, 0, 0, 0, length]].concat();
    frame.extend([next, 255]);
    frame.extend([0xfe; 32]);
    frame.extend(message);
    frame
}

/// IGMP of some kind.
fn igmp(from: MacAddr, kind: u8) -> Vec<u8> {
    let mut frame = [&GROUP.0[..], &from.0, &[8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 1, 2, 0, 0]].concat();
    frame.extend([10, 9, 0, 1, 239, 1, 2, 3, kind, 0, 0, 0, 239, 1, 2, 3]);
    frame
}

impl Model {
    /// Where a guest's frame goes, what of it is shown, and whether it is told that nobody knows its sender.
    fn of_guest(&self, slot: usize, frame: &[u8]) -> (Fate, Option<Interest>, bool) {
        let Some(header) = frame.first_chunk::<14>() else { return (Fate::Malformed, None, false) };
        let [to, from] = [0, 6].map(|at| MacAddr(*header[at..].first_chunk().unwrap()));
        if from.0[0] & 1 != 0 || from == MacAddr([0; 6]) {
            return (Fate::Malformed, None, false);
        }
        if to == SEGMENT_GROUP && header[12..] == SEGMENT_TYPE.to_be_bytes() {
            return (Fate::Nobody, Some(Interest::Segment), false);
        }
        let (forwards, kind) = (self.forwards[slot], of_interest(frame));
        let is_here = forwards && [HERE, ARRIVED].contains(&from);
        if forwards && from == SILENT {
            let shown = match kind {
                Some(Interest::Arrival) => kind,
                Some(Interest::Question | Interest::Announcement) => Some(Interest::Muted),
                _ => None,
            };
            return (Fate::Muted, shown, false);
        }
        let is_elsewhere = forwards && (OF[1..].contains(&from) || from == GONE);
        // Where nothing has been said of a vnet, nobody is known.
        let is_learned = !is_here && !is_elsewhere && forwards && slot == 1;
        if !is_here && !is_learned {
            let asks = matches!(kind, Some(Interest::Question | Interest::Announcement));
            return (Fate::UnknownSource, asks.then_some(Interest::Muted), true);
        }
        if to.0[0] & 1 != 0 {
            let shown = kind.filter(|kind| !matches!(kind, Interest::Announcement));
            let fate = match shown {
                Some(Interest::Question) => Fate::Nobody,
                Some(Interest::Membership) => Fate::To(IN_ALL.to_vec()),
                _ if !is_for_some(to) => Fate::To(vec![1, 2, 3]),
                _ if to == GROUP => Fate::To(IN_GROUP.to_vec()),
                _ => Fate::To(IN_ALL.to_vec()),
            };
            return (fate, shown, is_learned);
        }
        let fate = match (1..=3).find(|peer| OF[*peer as usize] == to) {
            Some(peer) => Fate::To(vec![peer]),
            // What is on its way to who has come, or has gone, may still go by the second.
            None if to == GONE || to == ARRIVED => Fate::To(vec![2]),
            None if to == HERE => Fate::Nobody,
            None if to == SILENT => Fate::Muted,
            None if slot == 1 => Fate::To(vec![1]),
            None => Fate::UnknownDestination,
        };
        (fate, None, is_learned)
    }
}

/// Whether a group's frames go to those only who want them (RFC 4541, section 2.1.2).
fn is_for_some(group: MacAddr) -> bool {
    match group.0 {
        [1, 0, 0x5e, high, middle, _] => high & 0x7f != 0 || middle != 0,
        [0x33, 0x33, a, b, c, _] => a != 0xff && [a, b, c] != [0; 3],
        _ => false,
    }
}

/// What the control side wants to know of a frame.
fn of_interest(frame: &[u8]) -> Option<Interest> {
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let (mut at, mut kind) = (14, word(12)?);
    while at < 22 && matches!(kind, 0x8100 | 0x88a8) {
        (at, kind) = (at + 4, word(at + 2)?);
    }
    let answers = |address: &[u8]| {
        let is = |known: &IpAddr| match known {
            IpAddr::V4(v4) => address == v4.octets(),
            IpAddr::V6(v6) => address == v6.octets(),
        };
        // In a VLAN there is another network.
        at == 14 && ANSWERED.iter().any(is)
    };
    let listens = |kind: u8| match kind {
        130 => Some(Interest::Query),
        131 | 132 | 143 => Some(Interest::Membership),
        _ => None,
    };
    let packet = frame.get(at..)?;
    match kind {
        0x8035 => Some(Interest::Arrival),
        0x0806 => {
            let asks = packet.get(6..8) == Some(&[0, 1])
                && packet.get(24..28).is_some_and(|target| packet[14..18] != *target && answers(target));
            Some(if asks { Interest::Question } else { Interest::Announcement })
        }
        0x0800 => {
            let header = 4 * usize::from(packet.first()? & 15);
            let length = usize::from(word(at + 2)?);
            let is_whole = packet.len() >= 20 && packet[0] >> 4 == 4 && header >= 20;
            let is_whole = is_whole && (header..=packet.len()).contains(&length);
            (is_whole && packet[9] == 2).then_some(())?;
            Some(if *packet.get(header)? == 0x11 { Interest::Query } else { Interest::Membership })
        }
        0x86dd => {
            let end = 40 + usize::from(word(at + 4)?);
            (packet.first()? >> 4 == 6).then_some(())?;
            let body = packet.get(40..end)?;
            match (packet[6], body.first()?) {
                (58, 135) => {
                    let target = body.get(8..24)?;
                    Some(if answers(target) { Interest::Question } else { Interest::Announcement })
                }
                (58, 136) => Some(Interest::Announcement),
                (58, kind) => listens(*kind),
                (0, 58) => listens(*body.get(8 + 8 * usize::from(*body.get(1)?))?),
                _ => None,
            }
        }
        _ => None,
    }
}

impl World<'_> {
    /// A guest's frame comes by a tap, with what stands before it.
    fn guest(&mut self, slot: usize, offload: &[u8; OFFLOAD_HEADER], frame: &[u8]) {
        self.carry();
        if !self.carried[slot] {
            return;
        }
        let (fate, shown, is_unknown) = self.model.of_guest(slot, frame);
        let expected = &mut self.model.expected;
        expected.spent += usize::from(shown.is_some());
        expected.shown.extend(shown.map(|kind| (slot, kind, frame.to_vec())));
        if is_unknown {
            expected.unknown.insert(MacAddr(*frame[6..].first_chunk().unwrap()));
        }
        let counters = &mut expected.vnets[slot];
        match fate {
            Fate::Malformed => counters.malformed += 1,
            Fate::Muted => counters.muted += 1,
            Fate::UnknownSource => counters.unknown_source += 1,
            Fate::UnknownDestination => counters.unknown_destination += 1,
            Fate::Nobody => {}
            Fate::To(peers) => {
                for peer in peers {
                    let (offload, frame) = (Offload::read(offload), frame.to_vec());
                    expected.outgoing.push(Outgoing { peer, slot, offload, frame });
                }
            }
        }
        assert_eq!(
            self.taps[slot].send(&[&offload[..], frame].concat()).unwrap(),
            OFFLOAD_HEADER + frame.len()
        );
        let before = self.sent();
        self.worker.carry_out(slot, false);
        self.compare(before);
    }

    /// How many datagrams each host was sent.
    pub(super) fn sent(&self) -> [u64; 4] {
        self.peers.each_ref().map(|live| live.read().datagrams_out)
    }

    /// What came to the hosts: as many datagrams as were sent, all of them sealed for them, in the order of their numbers, with what was
    /// to be sent.
    pub(super) fn compare_outgoing(&mut self, before: [u64; 4]) {
        let now = self.sent();
        let mut came: [[Vec<Vec<u8>>; 2]; 4] = Default::default();
        for peer in 1..=3_u32 {
            let at = peer as usize;
            for _ in before[at]..now[at] {
                let socket = self.ends.of_host(peer);
                let length = socket.recv(&mut self.bytes).expect("what is sent arrives");
                let mut datagram = &self.bytes[..length];
                if peer == 3 {
                    assert_eq!(datagram[..4], VIA.to_be_bytes());
                    datagram = &datagram[4..];
                }
                assert!(datagram.len() <= PATHS[at].0.into(), "{} bytes", datagram.len());
                let slot = usize::from(datagram[3]);
                assert_eq!(datagram[..4], outgoing(peer, slot).to_be_bytes());
                self.numbers[at][slot] += 1;
                let material = Material::of(self.cipher, outgoing(peer, slot));
                let text = material.open(self.numbers[at][slot], datagram);
                let text = text.expect("it is sealed with the next number");
                match content(&text).unwrap() {
                    (true, frame) => came[at][slot].push(frame.to_vec()),
                    (false, [1, 0, 0, 0, half @ ..]) => self.halves[at][slot] = half.to_vec(),
                    (false, [1, 0, 0, 1, half @ ..]) => {
                        let first = std::mem::take(&mut self.halves[at][slot]);
                        came[at][slot].push([&first[..], half].concat());
                    }
                    (false, other) => panic!("{other:x?}"),
                }
            }
        }
        let mut came = came.map(|of_host| of_host.map(Vec::into_iter));
        for Outgoing { peer, slot, offload, mut frame } in std::mem::take(&mut self.model.expected.outgoing) {
            let counters = &mut self.model.expected.vnets[slot];
            let came = &mut came[peer as usize][slot];
            let mut arrives = |frames: Vec<Vec<u8>>| {
                counters.frames_out += frames.len() as u64;
                counters.bytes_out += frames.iter().map(|frame| frame.len() as u64).sum::<u64>();
                frames
                    .into_iter()
                    .for_each(|frame| assert!(came.next().as_ref() == Some(&frame), "{frame:x?}"));
            };
            match pieces(self.cipher, PATHS[peer as usize], &offload, &mut frame) {
                Pieces::Whole(frames) => arrives(frames),
                Pieces::Cut(frames) => {
                    arrives(frames);
                    counters.cut_ipv4 += 1;
                }
                Pieces::TooBig => {
                    counters.too_big += 1;
                    self.model.expected.spent += 1;
                }
                Pieces::Malformed => counters.malformed += 1,
            }
        }
        assert!(came.iter_mut().flatten().all(|rest| rest.next().is_none()), "it was not to be sent");
    }
}

enum Pieces {
    Whole(Vec<Vec<u8>>),
    /// As a router does it.
    Cut(Vec<Vec<u8>>),
    TooBig,
    Malformed,
}

/// What becomes of a frame on a path that takes datagrams of so many bytes whole, and may take so many.
fn pieces(cipher: Cipher, (takes, hoped): (u16, u16), offload: &Offload, frame: &mut [u8]) -> Pieces {
    let of = |datagram: u16| largest_frame(cipher, datagram.into()).unwrap();
    let whole = of(takes);
    let in_two = 2 * (whole - 4).min(LONGEST_HALF);
    let largest = of(hoped).max(LEAST.min(in_two.max(whole)));
    clamp_mss(frame, if hoped > takes { largest } else { whole });
    match Cut::plan(offload, frame, if offload.is_tcp() { whole } else { largest }) {
        Ok(cut) => {
            Pieces::Whole((0..cut.count()).map(|at| cut.with_frame(at, frame, <[u8]>::to_vec)).collect())
        }
        Err(CutError::Malformed) => Pieces::Malformed,
        Err(CutError::TooBig) => fragments(offload, frame, whole).map_or(Pieces::TooBig, Pieces::Cut),
    }
}
