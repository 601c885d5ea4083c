//! Whose address a guest is told when it asks, and what it is told nothing of.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proptest::prelude::*;
use viaduct_types::MacAddr;
use viaduct_vnet_proto::control::{answer, too_big};

const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const ASKER_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const ASKER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const FIRST: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const SECOND: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
const ALL_NODES: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
const BROADCAST: MacAddr = MacAddr([0xff; 6]);

/// Two guests elsewhere, with an address of each version each, and the asker itself.
fn known() -> BTreeMap<IpAddr, MacAddr> {
    [
        ("10.0.0.1", ASKER),
        ("fd00::1", ASKER),
        ("10.0.0.2", FIRST),
        ("fd00::2", FIRST),
        ("10.0.0.3", SECOND),
        ("fd00::3", SECOND),
    ]
    .map(|(address, mac)| (address.parse().unwrap(), mac))
    .into()
}

fn answered(frame: &[u8]) -> Option<Vec<u8>> {
    let known = known();
    answer(frame, |address| known.get(&address).copied())
}

/// RFC 826, for Ethernet and IPv4.
fn arp(operation: u8, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = [&BROADCAST.0[..], &ASKER.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
    frame.extend(ASKER.0);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    // As long as Ethernet wants it.
    frame.resize(60, 0);
    frame
}

/// RFC 4861, section 4.3, to the solicited-node group.
fn solicitation(source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let target = target.octets();
    let low = [target[13], target[14], target[15]];
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target);
    if !source.is_unspecified() {
        message.extend([1, 1]);
        message.extend(ASKER.0);
    }
    let mut frame = [&[0x33, 0x33, 0xff][..], &low, &ASKER.0, &[0x86, 0xdd, 0x60, 0, 0, 0, 0]].concat();
    frame.push(u8::try_from(message.len()).unwrap());
    frame.extend([58, 255]);
    frame.extend(source.octets());
    frame.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]);
    frame.extend(low);
    frame.extend(message);
    frame
}

/// The one's complement sum over ICMPv6 with its pseudo-header (RFC 4443, section 2.3): all ones when it is right.
fn sum_of_icmpv6(frame: &[u8]) -> u32 {
    let message = &frame[54..];
    let length = u8::try_from(message.len()).unwrap();
    let covered = [&frame[22..54], &[0, 0, 0, length, 0, 0, 0, 58], message].concat();
    let mut sum: u32 = covered.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum
}

#[test]
fn arp_is_answered_in_the_name_of_who_has_the_address() {
    for (last, holder) in [(2, FIRST), (3, SECOND)] {
        let target = Ipv4Addr::new(10, 0, 0, last);
        let said = answered(&arp(1, ASKER_V4, target)).unwrap();
        let mut expected = [&ASKER.0[..], &holder.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]].concat();
        expected.extend(holder.0);
        expected.extend(target.octets());
        expected.extend(ASKER.0);
        expected.extend(ASKER_V4.octets());
        assert_eq!(said, expected, "{target}");
    }
}

#[test]
fn solicitations_are_answered_in_the_name_of_who_has_the_address() {
    for (last, holder) in [(2, FIRST), (3, SECOND)] {
        let target = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last);
        let said = answered(&solicitation(ASKER_V6, target)).unwrap();
        assert_eq!(said[..14], [&ASKER.0[..], &holder.0, &[0x86, 0xdd]].concat(), "{target}");
        // Of the message's length, with a hop limit that shows that no router has passed it on.
        assert_eq!(said[14..22], [0x60, 0, 0, 0, 0, 32, 58, 255]);
        assert_eq!(said[22..38], target.octets());
        assert_eq!(said[38..54], ASKER_V6.octets());
        assert_eq!((said[54], said[55]), (136, 0));
        // Solicited, and it takes the place of what was known; its holder is not said to be a router.
        assert_eq!(said[58..62], [0x60, 0, 0, 0]);
        assert_eq!(said[62..78], target.octets());
        assert_eq!(said[78..], [&[2, 1][..], &holder.0].concat());
        assert_eq!(sum_of_icmpv6(&said), 0xffff);
    }
}

#[test]
fn whoever_looks_for_duplicates_hears_of_them() {
    // RFC 5227, section 2.1.1: a probe has no sender's address.
    let said = answered(&arp(1, Ipv4Addr::UNSPECIFIED, [10, 0, 0, 2].into())).unwrap();
    assert_eq!(said[..12], [ASKER.0, FIRST.0].concat());
    assert_eq!(said[20..32], [&[0, 2][..], &FIRST.0, &[10, 0, 0, 2]].concat());
    assert_eq!(said[32..], [&ASKER.0[..], &[0; 4]].concat());
    // RFC 4861, section 7.2.4: to all nodes, and not as if somebody had been solicited.
    let target = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
    let said = answered(&solicitation(Ipv6Addr::UNSPECIFIED, target)).unwrap();
    assert_eq!(said[..12], [ALL_NODES.0, FIRST.0].concat());
    assert_eq!(said[22..38], target.octets());
    assert_eq!(said[38..54], "ff02::1".parse::<Ipv6Addr>().unwrap().octets());
    assert_eq!(said[58], 0x20);
    assert_eq!(sum_of_icmpv6(&said), 0xffff);
}

#[test]
fn nobody_is_told_that_its_own_address_is_taken() {
    for sender in [ASKER_V4, Ipv4Addr::UNSPECIFIED] {
        assert_eq!(answered(&arp(1, sender, ASKER_V4)), None, "{sender}");
    }
    for source in [ASKER_V6, Ipv6Addr::UNSPECIFIED] {
        assert_eq!(answered(&solicitation(source, ASKER_V6)), None, "{source}");
    }
}

#[test]
fn what_is_asked_for_another_is_told_that_one_and_nobody_is_asked_for_a_group() {
    let mut frame = arp(1, ASKER_V4, [10, 0, 0, 2].into());
    frame[22..28].copy_from_slice(&SECOND.0);
    assert_eq!(answered(&frame).unwrap()[..12], [SECOND.0, FIRST.0].concat());
    frame[22..28].copy_from_slice(&BROADCAST.0);
    assert_eq!(answered(&frame), None);
    let mut frame = arp(1, ASKER_V4, ASKER_V4);
    frame[22..32].copy_from_slice(&[2, 0, 0, 0, 0, 3, 10, 0, 0, 3]);
    assert_eq!(answered(&frame), None, "of itself, in another's name");
}

#[test]
fn who_tells_of_itself_asks_nothing() {
    // Gratuitous ARP, also of an address that somebody else has: that two have it shows elsewhere.
    for address in [ASKER_V4, [10, 0, 0, 2].into()] {
        for operation in [1, 2] {
            assert_eq!(answered(&arp(operation, address, address)), None, "{operation} {address}");
        }
    }
    let mut advertisement = solicitation(ASKER_V6, "fd00::2".parse().unwrap());
    advertisement[54] = 136;
    assert_eq!(answered(&advertisement), None);
}

#[test]
fn nothing_is_said_of_addresses_that_nobody_has() {
    for target in ["10.0.0.4", "10.0.1.2", "0.0.0.0", "255.255.255.255", "224.0.0.1"] {
        assert_eq!(answered(&arp(1, ASKER_V4, target.parse().unwrap())), None, "{target}");
    }
    for target in ["fd00::4", "fd01::2", "::", "ff02::1", "::ffff:10.0.0.2", "fe80::2"] {
        assert_eq!(answered(&solicitation(ASKER_V6, target.parse().unwrap())), None, "{target}");
    }
}

#[test]
fn what_is_no_question_is_none() {
    let question = arp(1, ASKER_V4, [10, 0, 0, 2].into());
    let of_v6 = solicitation(ASKER_V6, "fd00::2".parse().unwrap());
    assert!(answered(&question).is_some() && answered(&of_v6).is_some());
    // Another operation, hardware, protocol, or lengths of addresses; another kind of frame.
    for (place, value) in [(21, 2), (21, 3), (20, 1), (15, 6), (16, 0x86), (18, 8), (19, 16), (13, 0)] {
        let mut other = question.clone();
        other[place] = value;
        assert_eq!(answered(&other), None, "{place}");
    }
    // Another kind of message, or one that a router has passed on; no IPv6; a code; less than there is to a question.
    for (place, value) in [(54, 133), (54, 134), (21, 254), (20, 17), (14, 0x40), (55, 1), (19, 23), (19, 0)]
    {
        let mut other = of_v6.clone();
        other[place] = value;
        assert_eq!(answered(&other), None, "{place}");
    }
    // In a VLAN, there is another network.
    for frame in [&question, &of_v6] {
        let tagged = [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
        assert_eq!(answered(&tagged), None);
    }
    for length in 0..42 {
        assert_eq!(answered(&question[..length]), None, "{length}");
    }
    for length in 0..of_v6.len() {
        assert_eq!(answered(&of_v6[..length]), None, "{length}");
    }
}

#[test]
fn what_says_more_than_is_there_is_no_question() {
    let mut frame = solicitation(ASKER_V6, "fd00::2".parse().unwrap());
    frame[18..20].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(answered(&frame), None);
    // What follows it, as Ethernet fills frames up, does no harm.
    let mut frame = solicitation(Ipv6Addr::UNSPECIFIED, "fd00::2".parse().unwrap());
    frame.resize(1514, 0xaa);
    assert!(answered(&frame).is_some());
}

/// A whole question with some bytes changed, or cut off, or anything at all.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let last = || 0..5u8;
    let v4 = (0..3u8, last(), last()).prop_map(|(operation, sender, target)| {
        arp(operation, [10, 0, 0, sender].into(), [10, 0, 0, target].into())
    });
    let v6 = (last(), last(), any::<bool>()).prop_map(|(source, target, is_probe)| {
        let of = |last: u8| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into());
        solicitation(if is_probe { Ipv6Addr::UNSPECIFIED } else { of(source) }, of(target))
    });
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let changed = (prop_oneof![v4, v6], changes, 0..100usize).prop_map(|(mut frame, changes, length)| {
        for (place, value) in changes {
            let place = place.index(frame.len());
            frame[place] = value;
        }
        // Half of them whole.
        frame.truncate(length * 2);
        frame
    });
    prop_oneof![4 => changed, 1 => prop::collection::vec(any::<u8>(), 0..2000)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_asked_nobody_is_named_but_who_has_the_address(frame in nearly()) {
        let known = known();
        let asked = std::cell::RefCell::new(Vec::new());
        let said = answer(&frame, |address| {
            asked.borrow_mut().push(address);
            known.get(&address).copied()
        });
        prop_assert!(asked.borrow().len() <= 1);
        if let Some(said) = said {
            let asked = asked.borrow()[0];
            let holder = known[&asked];
            prop_assert_ne!(&holder.0, &frame[6..12], "it is told of itself");
            prop_assert_eq!(&said[6..12], &holder.0[..]);
            // The address that was asked for, and the MAC of who has it, stand together in the answer.
            let pair = match asked {
                IpAddr::V4(v4) => [&holder.0[..], &v4.octets()].concat(),
                IpAddr::V6(v6) => [&v6.octets()[..], &[2, 1], &holder.0].concat(),
            };
            let at = if asked.is_ipv4() { 22 } else { 62 };
            prop_assert_eq!(&said[at..at + pair.len()], &pair[..]);
        }
    }

    #[test]
    fn whatever_is_too_long_is_answered_by_something_short(frame in nearly(), mtu: u16) {
        if let Some(said) = too_big(&frame, mtu) {
            prop_assert!(said.len() <= 14 + 1280);
            prop_assert_eq!(&said[..6], &frame[6..12], "to who sent it");
        }
    }
}
