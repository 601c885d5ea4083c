use viaduct_plan::ServedNic;
use viaduct_wire::{
    checksum,
    ip6::{self, Header, multicast_mac},
};

use super::*;

const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0x64, 0]);
const OWN: MacAddr = MacAddr([0xfe, 0, 0, 0, 0x64, 0]);

fn device() -> IfName {
    "vd100.0".parse().unwrap()
}

fn nic(name: &str) -> NicId {
    name.parse().unwrap()
}

fn neighbours(prefix: &str, except: &[&str], defended: bool) -> Neighbours {
    Neighbours {
        address: "fe80::1".parse().unwrap(),
        prefix: prefix.parse().unwrap(),
        except: except.iter().map(|net| net.parse().unwrap()).collect(),
        defended,
    }
}

fn serve(responder: &mut Responder, all: &[(&str, Neighbours)], changed: &[&str]) {
    let mut link = ServedLink::default();
    for (name, neighbours) in all {
        let served = ServedNic { neighbours: Some(neighbours.clone()), ..ServedNic::default() };
        link.nics.insert(nic(name), served);
    }
    responder.serve(&device(), &link, &changed.iter().map(|name| nic(name)).collect::<Vec<_>>());
}

fn solicitation(from: &str, target: &str) -> Vec<u8> {
    let (from, target): (Ipv6Addr, Ipv6Addr) = (from.parse().unwrap(), target.parse().unwrap());
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let header =
        Header { from_mac: GUEST, to_mac: multicast_mac(group), from, to: group, protocol: 58, hops: 255 };
    let mut message = [&[135, 0, 0, 0, 0, 0, 0, 0], &target.octets()[..]].concat();
    let pseudo = [&from.octets()[..], &group.octets(), &[0, 0, 0, 24, 0, 0, 0, 58]].concat();
    let sum = checksum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip6::build(&header, &message).unwrap()
}

/// Whether somebody who asks is answered, as a router does.
fn answers(responder: &mut Responder, from: &str, target: &str) -> bool {
    responder.receive(&device(), OWN, &solicitation(from, target));
    let Some(frame) = responder.transmit() else { return false };
    let (header, message) = ip6::parse(&frame.bytes).unwrap();
    assert_eq!((header.from_mac, header.hops, message[0]), (OWN, 255, 136));
    assert_eq!(message[8..24], target.parse::<Ipv6Addr>().unwrap().octets());
    assert!(message.ends_with(&OWN.0) && responder.transmit().is_none());
    true
}

#[test]
fn on_its_own_link_a_guest_finds_any_gateway_and_keeps_its_addresses() {
    let mut responder = Responder::default();
    let own = ["2001:db8:1::7/128", "2001:db8:8::/64", "fe80::1/128"];
    serve(&mut responder, &[("web", neighbours("::/0", &own, false))], &["web"]);
    for gateway in ["2001:db8:1::1", "2001:db8:ffff::1", "fe80::99"] {
        assert!(
            answers(&mut responder, "fe80::9", gateway) && answers(&mut responder, "2001:db8:1::7", gateway)
        );
        // Who looks whether an address is free, finds that it is.
        assert!(!answers(&mut responder, "::", gateway), "{gateway}");
    }
    for other in ["2001:db8:1::7", "2001:db8:8::5", "fe80::1"] {
        assert!(!answers(&mut responder, "fe80::9", other), "{other}");
    }
    serve(&mut responder, &[], &["web"]);
    assert!(!answers(&mut responder, "fe80::9", "2001:db8:1::1"));
}

#[test]
fn prefixes_of_several_come_and_go_one_by_one() {
    let mut responder = Responder::default();
    let one = ("one", neighbours("2001:db8:1::/64", &[], true));
    let two = ("two", neighbours("2001:db8:2::/64", &[], true));
    serve(&mut responder, &[one.clone(), two.clone()], &["one", "two"]);
    for target in ["2001:db8:1::5", "2001:db8:2::5"] {
        assert!(answers(&mut responder, "fe80::9", target) && answers(&mut responder, "::", target));
    }
    assert!(!answers(&mut responder, "fe80::9", "2001:db8:3::5"));
    // A prefix goes from one to the other, whichever of the two is told first.
    let taken = ("one", neighbours("2001:db8:2::/64", &[], true));
    serve(&mut responder, std::slice::from_ref(&taken), &["one", "two"]);
    assert!(answers(&mut responder, "fe80::9", "2001:db8:2::5"));
    assert!(!answers(&mut responder, "fe80::9", "2001:db8:1::5"));
    serve(&mut responder, &[("two", taken.1)], &["one", "two"]);
    assert!(answers(&mut responder, "fe80::9", "2001:db8:2::5"));
    serve(&mut responder, &[two], &["one"]);
    assert!(answers(&mut responder, "fe80::9", "2001:db8:2::5"));
}
