//! Packets of IPv4 that may be cut are cut into fragments of which a host makes the packet again.
#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

use proptest::prelude::*;
use viaduct_vnet_proto::data::{Offload, Segments, fragments};

const ETHERNET: [u8; 14] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
/// No operation, a security option that is in each fragment, and a time stamp that is in the first.
const OPTIONS: [u8; 16] = [1, 130, 5, 7, 7, 7, 68, 8, 9, 0, 1, 2, 3, 4, 0, 0];

fn sum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).unwrap()
}

/// A packet of UDP with a checksum that is not complete.
fn packet(options: &[u8], flags: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).unwrap();
    let header = 20 + options.len();
    let total = u16::try_from(header).unwrap() + length;
    let mut ip = vec![0x40 | u8::try_from(header / 4).unwrap(), 4];
    ip.extend(total.to_be_bytes());
    ip.extend([0x12, 0x34]);
    ip.extend(flags.to_be_bytes());
    ip.extend([64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    ip.extend(options);
    let check = !sum(&ip);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    let pseudo = [&ip[12..20], &[0, 17], &length.to_be_bytes()].concat();
    ip.extend([0x30, 0x39, 0x30, 0x3a]);
    ip.extend(length.to_be_bytes());
    ip.extend(sum(&pseudo).to_be_bytes());
    ip.extend(data);
    ip
}

fn frame(tagged: bool, packet: &[u8]) -> Vec<u8> {
    let tag: &[u8] = if tagged { &[0x81, 0, 0, 5] } else { &[] };
    [&ETHERNET[..12], tag, &ETHERNET[12..], packet].concat()
}

/// What a host has when all fragments of it have come, in whatever order: header without what is of one fragment, and the rest.
/// None as long as something is missing.
fn together(packets: &[Vec<u8>]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut parts: Vec<(usize, bool, &[u8])> = packets
        .iter()
        .map(|packet| {
            let header = usize::from(packet[0] & 15) * 4;
            assert_eq!(sum(&packet[..header]), 0xffff, "the header's checksum is right");
            assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
            let flags = u16::from_be_bytes([packet[6], packet[7]]);
            (usize::from(flags & 0x1fff) * 8, flags & 0x2000 != 0, &packet[header..])
        })
        .collect();
    parts.sort_unstable();
    let mut whole = Vec::new();
    for (at, _, part) in &parts {
        (*at == whole.len()).then(|| whole.extend(*part))?;
    }
    let is_more: Vec<bool> = parts.iter().map(|(_, more, _)| *more).collect();
    let (last, others) = is_more.split_last()?;
    assert!(!last && others.iter().all(|more| *more));
    let first = packets.iter().find(|packet| packet[7] == 0 && packet[6] & 0x1f == 0)?;
    let mut header = first[..usize::from(first[0] & 15) * 4].to_vec();
    header[2..4].fill(0);
    header[6..8].fill(0);
    header[10..12].fill(0);
    Some((header, whole))
}

fn is_right_udp(header: &[u8], whole: &[u8]) -> bool {
    let length = u16::try_from(whole.len()).unwrap().to_be_bytes();
    sum(&[&header[12..20], &[0, 17], &length, whole].concat()) == 0xffff
}

proptest! {
    #[test]
    fn a_packet_is_cut_and_made_again(
        data in prop::collection::vec(any::<u8>(), 1..9_000),
        has_options in any::<bool>(),
        tagged in any::<bool>(),
        largest in 90usize..1_500,
        // As a tap says it, or as it comes by the tunnel.
        is_told in any::<bool>(),
    ) {
        let options: &[u8] = if has_options { &OPTIONS } else { &[] };
        let packet = packet(options, 0, &data);
        let mut whole = frame(tagged, &packet);
        let before = whole.len() - packet.len();
        let start = u16::try_from(before + 20 + options.len()).unwrap();
        let offload = Offload { partial: is_told.then_some((start, 6)), ..Offload::NONE };
        let pieces = fragments(&offload, &mut whole, largest).unwrap();
        prop_assert!(pieces.iter().all(|piece| piece.len() <= largest && piece[..before] == whole[..before]));
        let packets: Vec<Vec<u8>> = pieces.iter().map(|piece| piece[before..].to_vec()).collect();
        let (header, rest) = together(&packets).unwrap();
        let mut wanted = packet[..20 + options.len()].to_vec();
        wanted[2..4].fill(0);
        wanted[10..12].fill(0);
        prop_assert_eq!(&header, &wanted);
        prop_assert!(is_right_udp(&header, &rest));
        prop_assert_eq!(&rest[8..], &data[..]);
        for later in packets.iter().skip(1) {
            let options: &[u8] = if has_options { &[130, 5, 7, 7, 7, 0, 0, 0] } else { &[] };
            prop_assert_eq!(&later[20..usize::from(later[0] & 15) * 4], options);
        }
        // Each may be cut again, the last as well as those before it.
        let again = pieces.iter().flat_map(|piece| {
            let mut piece = piece.clone();
            fragments(&Offload::NONE, &mut piece, 90).unwrap()
        });
        let again: Vec<Vec<u8>> = again.map(|piece| piece[before..].to_vec()).collect();
        prop_assert_eq!(together(&again), Some((header, rest)));
    }

    #[test]
    fn a_super_frame_is_as_many_packets(
        data in prop::collection::vec(any::<u8>(), 1..20_000),
        segment in 500u16..1_400,
        largest in 200usize..1_500,
    ) {
        let packet = packet(&[], 0, &data);
        let mut whole = frame(false, &packet);
        let offload = Offload { partial: Some((34, 6)), segments: Segments::Udp(segment), ..Offload::NONE };
        let pieces = fragments(&offload, &mut whole, largest).unwrap();
        let mut of_one = std::collections::BTreeMap::<[u8; 2], Vec<Vec<u8>>>::new();
        for piece in &pieces {
            prop_assert!(piece.len() <= largest);
            of_one.entry([piece[18], piece[19]]).or_default().push(piece[14..].to_vec());
        }
        let mut sent = Vec::new();
        for packets in of_one.values() {
            let (_, rest) = together(packets).unwrap();
            sent.extend_from_slice(&rest[8..]);
        }
        prop_assert_eq!(sent, data);
    }

    #[test]
    fn whatever_comes_is_cut_or_not(mut bytes in prop::collection::vec(any::<u8>(), 0..300), largest in 0usize..200) {
        let mut like = [&ETHERNET[..], &bytes].concat();
        for frame in [&mut bytes, &mut like] {
            let pieces = fragments(&Offload::NONE, frame, largest).unwrap_or_default();
            prop_assert!(pieces.iter().all(|piece| piece.len() <= largest));
        }
    }
}

#[test]
fn what_may_not_be_cut_is_not() {
    let long = [7; 1_400];
    let mut forbidden = frame(false, &packet(&[], 0x4000, &long));
    assert_eq!(fragments(&Offload::NONE, &mut forbidden, 600), None);
    let mut v6 =
        [&ETHERNET[..12], &[0x86, 0xdd, 0x60, 0, 0, 0, 2, 0, 17, 64], &[0xfd; 32], &[1; 512]].concat();
    assert_eq!(fragments(&Offload::NONE, &mut v6, 300), None);
    // What would lie beyond the longest packet that there is.
    let mut beyond = frame(false, &packet(&[], 0x1fff, &long));
    assert_eq!(fragments(&Offload::NONE, &mut beyond, 600), None);
    // Nothing gets through, or no eight bytes of it.
    let mut plain = frame(false, &packet(&[], 0, &long));
    assert_eq!(fragments(&Offload::NONE, &mut plain, 40), None);
    assert!(fragments(&Offload::NONE, &mut plain, 42).is_some());
}
