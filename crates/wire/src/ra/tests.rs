use proptest::prelude::*;

use super::*;
use crate::{
    icmp6::ICMP,
    ip6::{self, ALL_NODES, Header, multicast_mac},
};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0x64, 0]);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// A solicitation with these options and hops.
fn solicitation(from: &str, options: &[u8], hops: u8) -> Vec<u8> {
    let header = Header {
        from_mac: MAC,
        to_mac: multicast_mac(ALL_ROUTERS),
        from: from.parse().unwrap(),
        to: ALL_ROUTERS,
        protocol: ICMP,
        hops,
    };
    let mut message = [&[SOLICITATION, 0, 0, 0, 0, 0, 0, 0], options].concat();
    let sum = ip6::sum(&header, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip6::build(&header, &message).unwrap()
}

#[test]
fn solicitations_are_read_or_ignored_as_the_standard_says() {
    let link_layer = [SOURCE_LINK_LAYER, 1, 2, 0, 0, 0, 0x64, 0];
    let cases: [(&str, &[u8], u8, bool); 9] = [
        ("fe80::ff:fe00:6400", &link_layer, 255, true),
        ("fe80::ff:fe00:6400", &[], 255, true),
        ("::", &[], 255, true),
        // An option nobody knows.
        ("::", &[99, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 255, true),
        ("::", &link_layer, 255, false),
        ("fe80::ff:fe00:6400", &[], 254, false),
        ("2001:db8::1", &[], 255, false),
        ("fe80::1", &[1, 0, 0, 0, 0, 0, 0, 0], 255, false),
        ("fe80::1", &[1, 2, 0, 0, 0, 0, 0, 0], 255, false),
    ];
    for (from, options, hops, is_good) in cases {
        let expected = is_good.then(|| Solicitation { mac: MAC, from: from.parse().unwrap() });
        assert_eq!(
            parse_solicitation(&solicitation(from, options, hops)),
            expected,
            "{from} {options:?} {hops}"
        );
    }
    let mut damaged = solicitation("::", &[], 255);
    damaged[60] ^= 1;
    assert_eq!(parse_solicitation(&damaged), None);
}

fn advertisement() -> Advertisement {
    Advertisement {
        lifetime: 1800,
        managed: true,
        other: true,
        mtu: Some(1400),
        prefixes: vec![Prefix {
            prefix: "2001:db8:1::/64".parse().unwrap(),
            on_link: true,
            autonomous: false,
            lifetime: 3600,
        }],
        routes: vec![("2001:db8::/32".parse().unwrap(), 60), ("fd00::/65".parse().unwrap(), 0)],
        dns: vec![(vec!["fe80::1".parse().unwrap()], 7200)],
        search: vec![(vec!["lan.example".to_owned()], 7200)],
    }
}

#[test]
fn an_advertisement_byte_by_byte() {
    let frame = advertisement().frame(MAC, "fe80::1".parse().unwrap(), multicast_mac(ALL_NODES), ALL_NODES);
    let frame = frame.unwrap();
    let (header, message) = ip6::parse(&frame).unwrap();
    assert_eq!((header.hops, header.protocol, header.to_mac.0), (255, 58, [0x33, 0x33, 0, 0, 0, 1]));
    assert_eq!(ip6::sum(&header, message), 0);
    assert_eq!(message[..2], [134, 0]);
    #[rustfmt::skip]
    let expected: &[&[u8]] = &[
        &[64, 0xc0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0],
        &[1, 1, 2, 0, 0, 0, 0x64, 0],
        &[5, 1, 0, 0, 0, 0, 0x05, 0x78],
        &[3, 4, 64, 0x80, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0],
        &[0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[25, 3, 0, 0, 0, 0, 0x1c, 0x20, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        &[24, 2, 32, 0, 0, 0, 0, 60, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0],
        &[24, 3, 65, 0, 0, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[31, 3, 0, 0, 0, 0, 0x1c, 0x20],
        b"\x03lan\x07example\x00\x00\x00\x00",
    ];
    assert_eq!(message[4..], expected.concat());
}

#[test]
fn what_does_not_fit_is_left_out() {
    let prefix = Prefix { lifetime: 1, ..advertisement().prefixes[0] };
    let long = Advertisement { prefixes: vec![prefix; 100], ..advertisement() };
    let frame = long.frame(MAC, "fe80::1".parse().unwrap(), MAC, ALL_NODES).unwrap();
    assert!(frame.len() <= 14 + 1280, "{}", frame.len());
}

proptest! {
    #[test]
    fn no_bytes_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        options in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        parse_solicitation(&bytes);
        parse_solicitation(&solicitation("fe80::1", &options, 255));
    }
}
