//! Super-frames are cut into frames that are right by themselves, and what is joined is what was cut.
#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

use proptest::prelude::*;
use viaduct_vnet_proto::data::{Cut, CutError, Joins, Offload, Run, Segments};

/// What a super-frame is made of.
#[derive(Clone, Debug)]
struct Recipe {
    tags: usize,
    is_v6: bool,
    is_tcp: bool,
    options: usize,
    flags: u8,
    sequence: u32,
    identification: u16,
    may_fragment: bool,
    segment: u16,
    payload: Vec<u8>,
}

fn recipe(payload: std::ops::Range<usize>) -> impl Strategy<Value = Recipe> {
    let header = (0usize..3, any::<bool>(), any::<bool>(), 0usize..11);
    let fields = (any::<[bool; 3]>(), any::<u32>(), any::<u16>(), any::<bool>(), 1u16..1_500);
    (header, fields, prop::collection::vec(any::<u8>(), payload)).prop_map(|(header, fields, payload)| {
        let (tags, is_v6, is_tcp, options) = header;
        let ([fin, push, ecn], sequence, identification, may_fragment, segment) = fields;
        let flags = 0x10 | u8::from(fin) | u8::from(push) << 3 | u8::from(ecn) << 7 | u8::from(ecn) << 6;
        // No more than 64 datagrams in one.
        let least = u16::try_from(payload.len().div_ceil(64)).unwrap();
        let segment = if is_tcp { segment } else { segment.max(least) };
        Recipe {
            tags,
            is_v6,
            is_tcp,
            options,
            flags,
            sequence,
            identification,
            may_fragment,
            segment,
            payload,
        }
    })
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).unwrap()
}

/// A frame taken apart without the code that is tested.
struct Parts<'a> {
    network: &'a [u8],
    transport: &'a [u8],
    is_v6: bool,
    protocol: u8,
}

fn parts(frame: &[u8]) -> Parts<'_> {
    let mut at = 12;
    while frame[at..at + 2] == [0x81, 0] {
        at += 4;
    }
    let is_v6 = frame[at..at + 2] == [0x86, 0xdd];
    let (network, transport) = frame[at + 2..].split_at(if is_v6 { 40 } else { 20 });
    let protocol = if is_v6 { network[6] } else { network[9] };
    Parts { network, transport, is_v6, protocol }
}

impl Parts<'_> {
    fn pseudo(&self) -> u16 {
        let addresses = if self.is_v6 { &self.network[8..40] } else { &self.network[12..20] };
        fold(sum(addresses) + u32::from(self.protocol) + u32::try_from(self.transport.len()).unwrap())
    }

    fn checksum_at(&self) -> usize {
        if self.protocol == 6 { 16 } else { 6 }
    }

    fn checksum(&self) -> u16 {
        let at = self.checksum_at();
        u16::from_be_bytes([self.transport[at], self.transport[at + 1]])
    }

    fn header(&self) -> usize {
        if self.protocol == 6 { usize::from(self.transport[12] >> 4) * 4 } else { 8 }
    }
}

/// Completes a partial checksum, as a network card would.
fn completed(frame: &[u8]) -> Vec<u8> {
    let parts = parts(frame);
    if parts.checksum() != parts.pseudo() {
        return frame.to_vec();
    }
    let at = frame.len() - parts.transport.len() + parts.checksum_at();
    let value = !fold(sum(parts.transport));
    let mut frame = frame.to_vec();
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
    frame
}

fn build(recipe: &Recipe) -> (Offload, Vec<u8>) {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for tag in 0..recipe.tags {
        frame.extend([0x81, 0, 0, u8::try_from(tag).unwrap()]);
    }
    let header = if recipe.is_tcp { 20 + recipe.options * 4 } else { 8 };
    let length = header + recipe.payload.len();
    let protocol = if recipe.is_tcp { 6 } else { 17 };
    if recipe.is_v6 {
        frame.extend([0x86, 0xdd, 0x60, 1, 2, 3]);
        frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        frame.extend([protocol, 64]);
        frame.extend([0xfd; 16]);
        frame.extend([0xfc; 16]);
    } else {
        frame.extend([8, 0]);
        let mut ip = vec![0x45, 2];
        ip.extend(u16::try_from(20 + length).unwrap().to_be_bytes());
        ip.extend(recipe.identification.to_be_bytes());
        ip.extend([
            if recipe.may_fragment { 0 } else { 0x40 },
            0,
            64,
            protocol,
            0,
            0,
            10,
            0,
            0,
            1,
            10,
            0,
            0,
            2,
        ]);
        let check = !fold(sum(&ip));
        ip[10..12].copy_from_slice(&check.to_be_bytes());
        frame.extend(ip);
    }
    let start = frame.len();
    frame.extend([0x12, 0x34, 0x56, 0x78]);
    if recipe.is_tcp {
        frame.extend(recipe.sequence.to_be_bytes());
        frame.extend([9, 9, 9, 9, u8::try_from(header / 4).unwrap() << 4, recipe.flags, 1, 2, 0, 0, 0, 0]);
        frame.extend(vec![1; recipe.options * 4]);
    } else {
        frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        frame.extend([0, 0]);
    }
    frame.extend(&recipe.payload);
    let parts = parts(&frame);
    let (pseudo, at) = (parts.pseudo(), start + parts.checksum_at());
    frame[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    let size = recipe.segment;
    let segments = match (recipe.is_tcp, recipe.is_v6) {
        (true, false) => Segments::Tcp4(size),
        (true, true) => Segments::Tcp6(size),
        (false, _) => Segments::Udp(size),
    };
    let offload = Offload {
        partial: Some((u16::try_from(start).unwrap(), u16::try_from(at - start).unwrap())),
        segments,
        header_length: u16::try_from(start + header).unwrap(),
        ecn: recipe.is_tcp && recipe.flags & 0x80 != 0,
    };
    (offload, frame)
}

fn frames(cut: &Cut, buffer: &mut [u8]) -> Vec<Vec<u8>> {
    (0..cut.count()).map(|index| cut.with_frame(index, buffer, <[u8]>::to_vec)).collect()
}

/// Joins as far as it goes; each run as one frame with what stands before it.
fn join(frames: &[Vec<u8>], joins: Joins) -> Vec<(Offload, Vec<u8>)> {
    let mut joined = Vec::new();
    let mut rest = frames;
    while let [first, after @ ..] = rest {
        let mut run = Run::start(first, joins);
        let mut bytes = first.clone();
        rest = after;
        while let [next, after @ ..] = rest {
            let Some(payload) = run.push(first, next) else { break };
            bytes.extend(&next[payload..]);
            rest = after;
        }
        let length = first.len();
        let offload = run.finish(&mut bytes[..length]);
        joined.push((offload, bytes));
    }
    joined
}

/// Without what joining may change: the form of the checksum, and the identification of what is never fragmented.
fn essence(frame: &[u8]) -> Vec<u8> {
    let mut frame = completed(frame);
    let length = frame.len();
    let taken = parts(&frame);
    if !taken.is_v6 && taken.network[6] & 0x40 != 0 {
        let at = length - taken.transport.len() - 20;
        if fold(sum(&frame[at..at + 20])) == 0xffff {
            frame[at + 4..at + 6].fill(0);
            frame[at + 10..at + 12].fill(0);
        }
    }
    frame
}

const ANY_LENGTH: usize = 70_000;

proptest! {
    #[test]
    fn a_super_frame_is_cut_into_frames_that_are_right(recipe in recipe(1..6_000), room in 200usize..2_000) {
        let (offload, mut frame) = build(&recipe);
        let original = frame.clone();
        let cut = match Cut::plan(&offload, &mut frame, room) {
            Ok(cut) => cut,
            Err(error) => {
                // Datagrams have their borders; TCP always fits.
                prop_assert_eq!(error, CutError::TooBig);
                let headers = 14 + 4 * recipe.tags + if recipe.is_v6 { 40 } else { 20 } + 8;
                let datagram = usize::from(recipe.segment).min(recipe.payload.len());
                prop_assert!(!recipe.is_tcp && headers + datagram > room);
                return Ok(());
            }
        };
        let frames = frames(&cut, &mut frame);
        prop_assert_eq!(&frame, &original, "the buffer is as it was");
        let mut payload: Vec<u8> = Vec::new();
        for (index, frame) in frames.iter().enumerate() {
            prop_assert!(frame.len() <= room && frame.len() == cut.frame_length(index));
            let is_last = index + 1 == frames.len();
            let parts = parts(frame);
            prop_assert_eq!(parts.checksum(), parts.pseudo(), "the checksum is partial");
            if parts.is_v6 {
                prop_assert_eq!(&parts.network[4..6], &u16::try_from(parts.transport.len()).unwrap().to_be_bytes());
            } else {
                prop_assert_eq!(&parts.network[2..4], &u16::try_from(20 + parts.transport.len()).unwrap().to_be_bytes());
                prop_assert_eq!(fold(sum(parts.network)), 0xffff, "the header's checksum is right");
                let identification = recipe.identification.wrapping_add(u16::try_from(index).unwrap());
                prop_assert_eq!(&parts.network[4..6], &identification.to_be_bytes());
            }
            if recipe.is_tcp {
                let sequence = recipe.sequence.wrapping_add(u32::try_from(payload.len()).unwrap());
                prop_assert_eq!(&parts.transport[4..8], &sequence.to_be_bytes());
                let mut flags = recipe.flags;
                if !is_last { flags &= !0x09; }
                if index > 0 { flags &= !0x80; }
                prop_assert_eq!(parts.transport[13], flags);
            } else {
                prop_assert_eq!(&parts.transport[4..6], &u16::try_from(parts.transport.len()).unwrap().to_be_bytes());
            }
            payload.extend(&parts.transport[parts.header()..]);
        }
        prop_assert_eq!(payload, recipe.payload);
    }

    #[test]
    fn what_was_cut_is_joined_to_the_same(recipe in recipe(1..60_000)) {
        let (offload, mut frame) = build(&recipe);
        let cut = Cut::plan(&offload, &mut frame, ANY_LENGTH).unwrap();
        let joined = join(&frames(&cut, &mut frame), Joins::TcpAndUdp);
        prop_assert_eq!(joined.len(), 1);
        let (joined_offload, joined_frame) = &joined[0];
        prop_assert_eq!(joined_frame, &frame);
        if cut.count() > 1 {
            prop_assert_eq!(joined_offload, &offload);
        } else {
            prop_assert_eq!(joined_offload, &Offload { partial: offload.partial, ..Offload::NONE });
        }
    }

    #[test]
    fn whatever_is_joined_stays_what_it_was(
        recipes in prop::collection::vec(recipe(1..6_000), 1..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 12usize..90, 1u8..), 0..6),
        complete: bool,
        swap in prop::option::of(any::<prop::sample::Index>()),
        with_udp: bool,
    ) {
        let mut sent = Vec::new();
        for recipe in &recipes {
            let (offload, mut frame) = build(recipe);
            let cut = Cut::plan(&offload, &mut frame, ANY_LENGTH).unwrap();
            sent.extend(frames(&cut, &mut frame));
        }
        if complete {
            sent = sent.iter().map(|frame| completed(frame)).collect();
        }
        if let Some(index) = swap && sent.len() > 1 {
            let at = index.index(sent.len() - 1);
            sent.swap(at, at + 1);
        }
        let mut changed = vec![false; sent.len()];
        for (index, at, bits) in changes {
            let which = index.index(sent.len());
            // Not the kind of the frame, which this test could not read any more.
            if let Some(byte) = sent[which].get_mut(at).filter(|_| at >= 30) {
                *byte ^= bits;
                changed[which] = true;
            }
        }
        let mut received = Vec::new();
        for (offload, mut frame) in join(&sent, if with_udp { Joins::TcpAndUdp } else { Joins::Tcp }) {
            prop_assert!(with_udp || !matches!(offload.segments, Segments::Udp(_)));
            if offload.segments == Segments::None {
                received.push(frame);
            } else {
                let cut = Cut::plan(&offload, &mut frame, ANY_LENGTH).unwrap();
                received.extend(frames(&cut, &mut frame));
            }
        }
        prop_assert_eq!(received.len(), sent.len());
        for ((received, sent), changed) in received.iter().zip(&sent).zip(changed) {
            if changed {
                // It may be anything; what stays alone stays to the last bit, and what was joined has what matters.
                if received == sent { continue; }
            }
            prop_assert_eq!(essence(received), essence(sent));
        }
    }

    #[test]
    fn any_bytes_are_no_panic(
        header: [u8; 10], mut frame in prop::collection::vec(any::<u8>(), 0..300), largest in 0usize..400,
        kind in prop::option::of(0usize..4),
    ) {
        if let (Some(kind), Some(place)) = (kind, frame.get_mut(12..16)) {
            place.copy_from_slice(&[[8, 0, 0x45, 0], [0x86, 0xdd, 0x60, 0], [0x81, 0, 0, 0], [8, 6, 0, 0]][kind]);
        }
        let offload = Offload::read(&header);
        if let Ok(cut) = Cut::plan(&offload, &mut frame, largest) {
            let frames = frames(&cut, &mut frame);
            prop_assert!(frames.iter().all(|frame| frame.len() <= largest));
            join(&frames, Joins::TcpAndUdp);
        }
        join(&[frame.clone(), frame], Joins::TcpAndUdp);
    }
}

#[test]
fn checksums_that_nobody_would_recognize_are_completed() {
    // ICMPv6 in a frame whose kernel left its checksum partial.
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 58, 64];
    frame.extend([0xfd; 16]);
    frame.extend([0xfc; 16]);
    frame.extend([128, 0, 0, 0, 1, 2, 3, 4]);
    let pseudo = fold(sum(&[0xfd; 16]) + sum(&[0xfc; 16]) + 58 + 8);
    frame[56..58].copy_from_slice(&pseudo.to_be_bytes());
    let offload = Offload { partial: Some((54, 2)), ..Offload::NONE };
    Cut::plan(&offload, &mut frame, ANY_LENGTH).unwrap();
    assert_eq!(fold(sum(&frame[22..54]) + 58 + 8 + sum(&frame[54..])), 0xffff);
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    let recipe = Recipe {
        tags: 0,
        is_v6: false,
        is_tcp: true,
        options: 3,
        flags: 0x10,
        sequence: 7,
        identification: 1,
        may_fragment: false,
        segment: 100,
        payload: vec![9; 300],
    };
    let (offload, mut frame) = build(&recipe);
    let cut = Cut::plan(&offload, &mut frame, ANY_LENGTH).unwrap();
    let mut frames: Vec<_> = frames(&cut, &mut frame).iter().map(|frame| completed(frame)).collect();
    assert_eq!(join(&frames, Joins::Tcp).len(), 1);
    *frames[1].last_mut().unwrap() ^= 1;
    assert_eq!(join(&frames, Joins::Tcp).len(), 3);
}
