//! Neighbour solicitations and advertisements: of the host's own addresses, and of others' (RFC 4861, sections 4.3, 4.4, 7.2.6
//! and 7.2.8).

use std::net::Ipv6Addr;

use viaduct_types::MacAddr;

use crate::{
    icmp6,
    ip6::{ALL_NODES, multicast_mac},
};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const TARGET_LINK_LAYER: u8 = 2;
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Somebody looks for a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// Who.
    pub mac: MacAddr,
    /// With which address; the unspecified one when the question is whether anybody has the target.
    pub from: Ipv6Addr,
    /// Whom.
    pub target: Ipv6Addr,
}

/// Reads a frame; none when it is no solicitation, or is one that must be ignored (RFC 4861, section 7.1.1).
pub fn parse_solicitation(frame: &[u8]) -> Option<Solicitation> {
    let (header, message) = icmp6::parse(frame)?;
    let [SOLICITATION, 0, _, _, _, _, _, _, rest @ ..] = message else { return None };
    let (target, options) = rest.split_first_chunk::<16>()?;
    let target = Ipv6Addr::from(*target);
    let nobody = header.from.is_unspecified();
    let is_right = icmp6::has_right_options(header.from, options)
        && !target.is_multicast()
        && !header.from.is_multicast()
        && !header.from_mac.is_multicast()
        && (!nobody || header.to == solicited_node(target));
    is_right.then_some(Solicitation { mac: header.from_mac, from: header.from, target })
}

/// The frame by which a router says that it takes what goes to the target of a solicitation. Who has the address
/// itself goes before it: the advertisement does not override.
pub fn advertisement(own_mac: MacAddr, own: Ipv6Addr, asked: &Solicitation) -> Option<Vec<u8>> {
    let nobody = asked.from.is_unspecified();
    let (to_mac, to) = if nobody { (multicast_mac(ALL_NODES), ALL_NODES) } else { (asked.mac, asked.from) };
    let flags = if nobody { 0 } else { SOLICITED };
    icmp6::build((own_mac, own), (to_mac, to), advertised(flags, asked.target, own_mac))
}

/// The frame that tells everybody who has an address (RFC 4861, section 7.2.6). A router that says it is none is dropped from
/// its neighbours' lists of routers (section 7.2.5).
pub fn announcement(mac: MacAddr, address: Ipv6Addr, router: bool) -> Option<Vec<u8>> {
    let flags = OVERRIDE | if router { ROUTER } else { 0 };
    let to = (multicast_mac(ALL_NODES), ALL_NODES);
    icmp6::build((mac, address), to, advertised(flags, address, mac))
}

fn advertised(flags: u8, target: Ipv6Addr, mac: MacAddr) -> Vec<u8> {
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    message.extend([TARGET_LINK_LAYER, 1]);
    message.extend(mac.0);
    message
}

/// The frame that asks whether somebody has an address, of nobody in particular and as nobody (RFC 4862, section 5.4.2).
pub fn probe(mac: MacAddr, target: Ipv6Addr) -> Option<Vec<u8>> {
    let group = solicited_node(target);
    let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    icmp6::build((mac, Ipv6Addr::UNSPECIFIED), (multicast_mac(group), group), message)
}

/// Which address a frame's sender says that it has, or is about to take, and the sender's MAC.
pub fn claim(frame: &[u8]) -> Option<(Ipv6Addr, MacAddr)> {
    let (header, message) = icmp6::parse(frame)?;
    let [kind, 0, _, _, _, _, _, _, rest @ ..] = message else { return None };
    let target = Ipv6Addr::from(*rest.first_chunk::<16>()?);
    let claims = match *kind {
        ADVERTISEMENT => true,
        SOLICITATION => header.from.is_unspecified(),
        _ => false,
    };
    claims.then_some((target, header.from_mac))
}

/// The group in which an address is looked for (RFC 4291, section 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let [high, low] = [u16::from_be_bytes([0xff, a]), u16::from_be_bytes([b, c])];
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, high, low)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        icmp6::{HOPS, ICMP, SOURCE_LINK_LAYER},
        ip6::{self, Header},
    };

    const TARGET: &str = "2001:db8:48:8000::7";
    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);

    fn solicitation(from: &str, to: Ipv6Addr, hops: u8, options: &[u8]) -> Vec<u8> {
        let header = Header {
            from_mac: MAC,
            to_mac: multicast_mac(to),
            from: from.parse().unwrap(),
            to,
            protocol: ICMP,
            hops,
        };
        let target: Ipv6Addr = TARGET.parse().unwrap();
        let mut message = [&[SOLICITATION, 0, 0, 0, 0, 0, 0, 0], &target.octets()[..], options].concat();
        let sum = ip6::sum(&header, &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        ip6::build(&header, &message).unwrap()
    }

    fn group() -> Ipv6Addr {
        solicited_node(TARGET.parse().unwrap())
    }

    #[test]
    fn what_neighbours_ask_is_read() {
        assert_eq!(group(), "ff02::1:ff00:7".parse::<Ipv6Addr>().unwrap());
        let link_layer = [&[SOURCE_LINK_LAYER, 1], &MAC.0[..]].concat();
        for (from, options) in [("fe80::9", &link_layer[..]), ("2001:db8::1", &[]), ("::", &[])] {
            let asked = parse_solicitation(&solicitation(from, group(), HOPS, options)).unwrap();
            let expected =
                Solicitation { mac: MAC, from: from.parse().unwrap(), target: TARGET.parse().unwrap() };
            assert_eq!(asked, expected);
        }
    }

    #[test]
    fn what_must_be_ignored_is() {
        let link_layer = [&[SOURCE_LINK_LAYER, 1], &MAC.0[..]].concat();
        let from = "fe80::9";
        let good = solicitation(from, group(), HOPS, &[]);
        assert!(parse_solicitation(&good).is_some());
        // It has passed a router; options without length; of nobody, with a link-layer address, or to another group.
        assert_eq!(parse_solicitation(&solicitation(from, group(), 254, &[])), None);
        assert_eq!(parse_solicitation(&solicitation(from, group(), HOPS, &[9, 0, 0, 0, 0, 0, 0, 0])), None);
        assert_eq!(parse_solicitation(&solicitation(from, group(), HOPS, &[9, 2, 0, 0, 0, 0, 0, 0])), None);
        assert_eq!(parse_solicitation(&solicitation("::", group(), HOPS, &link_layer)), None);
        assert_eq!(parse_solicitation(&solicitation("::", ALL_NODES, HOPS, &[])), None);
        assert_eq!(parse_solicitation(&solicitation("ff02::1", group(), HOPS, &[])), None);
        // Any bit of the message that is another one spoils the checksum.
        for bit in 8 * 54..8 * good.len() {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse_solicitation(&bad), None, "{bit}");
        }
    }

    #[test]
    fn who_asks_is_answered_alone_and_a_claim_is_answered_to_all() {
        let (own, target) = (MacAddr([2, 0, 0, 0, 9, 9]), TARGET.parse().unwrap());
        let address = "fe80::1".parse().unwrap();
        for (from, to, to_mac, flags) in
            [("fe80::9", "fe80::9", MAC, SOLICITED), ("::", "ff02::1", MacAddr([0x33, 0x33, 0, 0, 0, 1]), 0)]
        {
            let asked = Solicitation { mac: MAC, from: from.parse().unwrap(), target };
            let frame = advertisement(own, address, &asked).unwrap();
            let (header, message) = ip6::parse(&frame).unwrap();
            let expected = Header {
                from_mac: own,
                to_mac,
                from: address,
                to: to.parse().unwrap(),
                protocol: ICMP,
                hops: HOPS,
            };
            assert_eq!(header, expected);
            assert_eq!(ip6::sum(&header, message), 0);
            assert_eq!([message[0], message[1], message[4]], [ADVERTISEMENT, 0, flags]);
            assert_eq!(message[8..24], target.octets());
            assert_eq!(message[24..], [&[TARGET_LINK_LAYER, 1], &own.0[..]].concat());
        }
    }

    #[test]
    fn who_asks_as_nobody_is_about_to_take_the_address() {
        let target: Ipv6Addr = "2001:db8::12:3456".parse().unwrap();
        let frame = probe(MAC, target).unwrap();
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        assert_eq!(frame[38..54], "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(claim(&frame), Some((target, MAC)));
        // Who asks as somebody claims nothing.
        assert_eq!(claim(&solicitation("fe80::9", group(), HOPS, &[])), None);
        // Cut short, passed on by a router, with a code, with another sum.
        for length in 0..frame.len() {
            assert_eq!(claim(&frame[..length]), None);
        }
        for at in [21, 55, 56] {
            let mut frame = frame.clone();
            frame[at] ^= 1;
            assert_eq!(claim(&frame), None, "{at}");
        }
    }

    #[test]
    fn an_announcement_claims_and_says_whether_a_router_does() {
        let address = TARGET.parse().unwrap();
        for (router, flags) in [(true, 0xa0), (false, 0x20)] {
            let frame = announcement(MAC, address, router).unwrap();
            assert_eq!(frame.len(), 14 + 40 + 32);
            assert_eq!((frame[54], frame[58]), (ADVERTISEMENT, flags));
            assert_eq!(claim(&frame), Some((address, MAC)));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            claim(&bytes);
            parse_solicitation(&bytes);
        }
    }
}
