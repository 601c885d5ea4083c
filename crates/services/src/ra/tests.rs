use proptest::prelude::*;
use viaduct_plan::LinkPrefix;
use viaduct_wire::ip6::{self, Header};

use super::*;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0x64, 0]);
const OWN: MacAddr = MacAddr([0xfe, 0, 0, 0, 0x64, 0]);

fn device() -> IfName {
    "br-lan".parse().unwrap()
}

fn router() -> Router {
    Router {
        address: "fe80::1".parse().unwrap(),
        default: true,
        mtu: 1400,
        prefixes: vec![LinkPrefix {
            prefix: "2001:db8:1::/64".parse().unwrap(),
            on_link: true,
            autonomous: false,
        }],
        routes: Vec::new(),
        dns: vec!["2001:db8::53".parse().unwrap()],
        search: vec!["lan.example".to_owned()],
        only: None,
    }
}

/// On a link that goes on to other hosts.
fn router_of(macs: &[MacAddr]) -> Router {
    Router { only: Some(macs.iter().copied().collect()), ..router() }
}

fn at(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn solicitation(from: &str, mac: MacAddr) -> Vec<u8> {
    let to: Ipv6Addr = "ff02::2".parse().unwrap();
    let from = from.parse().unwrap();
    let header = Header { from_mac: mac, to_mac: multicast_mac(to), from, to, protocol: 58, hops: 255 };
    // The sum of the message by itself, and of the rest of the frame that it is counted with.
    let mut message = [133, 0, 0, 0, 0, 0, 0, 0];
    let mut pseudo = [header.from.octets(), to.octets()].concat();
    pseudo.extend([0, 0, 0, 8, 0, 0, 0, 58]);
    let sum = viaduct_wire::checksum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip6::build(&header, &message).unwrap()
}

/// What an advertisement says, as far as these tests want to know.
#[derive(Debug, PartialEq)]
struct Said {
    to: Ipv6Addr,
    lifetime: u16,
    managed: bool,
    /// With their valid time.
    prefixes: Vec<(Ipv6Addr, u32)>,
    /// Name servers with their time.
    dns: Vec<(Ipv6Addr, u32)>,
    domains: Vec<u32>,
}

fn said(frame: &Frame) -> Said {
    let (header, message) = ip6::parse(&frame.bytes).unwrap();
    assert_eq!((frame.device.clone(), header.hops, header.from_mac), (device(), 255, OWN));
    let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let address = |bytes: &[u8]| Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap());
    let mut said = Said {
        to: header.to,
        lifetime: u16::from_be_bytes([message[6], message[7]]),
        managed: message[5] & 0x80 != 0,
        prefixes: Vec::new(),
        dns: Vec::new(),
        domains: Vec::new(),
    };
    let mut rest = &message[16..];
    while !rest.is_empty() {
        let (option, more) = rest.split_at(usize::from(rest[1]) * 8);
        match option[0] {
            3 => said.prefixes.push((address(&option[16..]), word(&option[4..8]))),
            25 => {
                said.dns.extend(option[8..].chunks(16).map(|server| (address(server), word(&option[4..8]))))
            }
            31 => said.domains.push(word(&option[4..8])),
            _ => {}
        }
        rest = more;
    }
    said
}

fn all(advertiser: &mut Advertiser) -> Vec<Said> {
    std::iter::from_fn(|| advertiser.transmit()).map(|frame| said(&frame)).collect()
}

fn advertising() -> Advertiser {
    let mut advertiser = Advertiser::new(7);
    advertiser.serve(at(0), &device(), Some(router()));
    assert_eq!(advertiser.due(), None, "nobody hears it");
    advertiser.opened(at(0), &device(), OWN);
    advertiser
}

#[test]
fn all_hear_at_once_then_three_times_within_a_minute_then_rarely() {
    let mut advertiser = advertising();
    let first = all(&mut advertiser);
    assert_eq!(first.len(), 1);
    let expected = Said {
        to: ALL_NODES,
        lifetime: 65_535,
        managed: true,
        prefixes: vec![("2001:db8:1::".parse().unwrap(), 86_400)],
        dns: vec![("2001:db8::53".parse().unwrap(), 65_535)],
        domains: vec![65_535],
    };
    assert_eq!(first[0], expected);
    let mut times = Vec::new();
    while times.len() < 6 {
        let due = advertiser.due().unwrap();
        advertiser.tick(due - at(1));
        assert_eq!(all(&mut advertiser), []);
        advertiser.tick(due);
        assert_eq!(all(&mut advertiser).len(), 1);
        times.push(due);
    }
    assert!(times[0] >= at(3000) && times[1] <= at(32_000), "{times:?}");
    for pair in times[1..].windows(2) {
        let pause = pair[1] - pair[0];
        assert!((Duration::from_secs(200)..Duration::from_secs(600)).contains(&pause), "{times:?}");
    }
}

#[test]
fn who_asks_is_answered_alone_and_soon() {
    let mut advertiser = advertising();
    all(&mut advertiser);
    let guest = "fe80::ff:fe00:6400";
    for _ in 0..5 {
        advertiser.receive(at(1000), &device(), &solicitation(guest, MAC));
    }
    let due = advertiser.due().unwrap();
    assert!(due <= at(1500));
    advertiser.tick(due);
    let answers = all(&mut advertiser);
    assert_eq!(answers.len(), 1, "however often it asked");
    assert_eq!((answers[0].to, answers[0].lifetime), (guest.parse().unwrap(), 65_535));
    assert_eq!(advertiser.counts(), Counts { announced: 1, answered: 1 });
}

#[test]
fn who_has_no_address_yet_is_answered_with_all_and_not_before_the_pause_is_over() {
    let mut advertiser = advertising();
    all(&mut advertiser);
    advertiser.receive(at(1000), &device(), &solicitation("::", MAC));
    assert!(advertiser.due().unwrap() >= at(3000));
    advertiser.tick(at(3500));
    assert_eq!(all(&mut advertiser)[0].to, ALL_NODES);
}

#[test]
fn where_a_link_goes_on_to_other_hosts_each_speaks_to_its_own_guests() {
    let other = MacAddr([2, 0, 0, 0, 0x64, 1]);
    let own = MacAddr([2, 0, 0, 0, 0x64, 2]);
    let mut advertiser = Advertiser::new(7);
    advertiser.serve(at(0), &device(), Some(router_of(&[MAC])));
    advertiser.opened(at(0), &device(), OWN);
    let first = all(&mut advertiser);
    assert_eq!(
        (first.len(), first[0].to, first[0].lifetime, first[0].dns[0].1),
        (1, ALL_NODES, 1_800, 1_800)
    );
    for from in ["::", "fe80::64:1"] {
        let due = advertiser.due();
        advertiser.receive(at(100), &device(), &solicitation(from, other));
        assert_eq!(advertiser.due(), due, "another host answers it");
    }
    advertiser.receive(at(100), &device(), &solicitation("fe80::64:0", MAC));
    advertiser.tick(at(700));
    assert_eq!(all(&mut advertiser)[0].to, "fe80::64:0".parse::<Ipv6Addr>().unwrap());

    // Who comes hears at once, and once more with all as soon as that may be.
    advertiser.serve(at(800), &device(), Some(router_of(&[MAC, own])));
    let frames: Vec<Frame> = std::iter::from_fn(|| advertiser.transmit()).collect();
    assert_eq!((frames.len(), &frames[0].bytes[..6]), (1, &own.0[..]));
    assert_eq!((said(&frames[0]).to, said(&frames[0]).lifetime), (ALL_NODES, 1_800));
    assert_eq!(advertiser.due(), Some(at(3_000)));
    // And of a change each of them, although all together would have to wait.
    let narrower = Router { mtu: 1300, ..router_of(&[MAC, own]) };
    advertiser.serve(at(900), &device(), Some(narrower));
    let frames: Vec<Frame> = std::iter::from_fn(|| advertiser.transmit()).collect();
    let to: Vec<&[u8]> = frames.iter().map(|frame| &frame.bytes[..6]).collect();
    assert_eq!(to, [&MAC.0[..], &own.0[..]]);
    assert_eq!(advertiser.due(), Some(at(3_000)));
    // Who goes is answered no more.
    advertiser.serve(at(1_000), &device(), Some(Router { mtu: 1300, ..router_of(&[own]) }));
    let due = advertiser.due();
    advertiser.receive(at(1_100), &device(), &solicitation("fe80::64:0", MAC));
    assert_eq!((advertiser.transmit(), advertiser.due()), (None, due));
}

#[test]
fn what_is_no_longer_so_is_taken_back() {
    let mut advertiser = advertising();
    all(&mut advertiser);
    let other = Router {
        default: false,
        prefixes: vec![LinkPrefix { prefix: "2001:db8:2::/64".parse().unwrap(), ..router().prefixes[0] }],
        dns: vec!["2001:db8::54".parse().unwrap()],
        search: Vec::new(),
        ..router()
    };
    advertiser.serve(at(60_000), &device(), Some(other));
    let changed = all(&mut advertiser);
    let expected = Said {
        to: ALL_NODES,
        lifetime: 0,
        managed: true,
        prefixes: vec![("2001:db8:2::".parse().unwrap(), 86_400), ("2001:db8:1::".parse().unwrap(), 0)],
        dns: vec![("2001:db8::54".parse().unwrap(), 65_535), ("2001:db8::53".parse().unwrap(), 0)],
        domains: vec![0],
    };
    assert_eq!(changed, [expected]);
    // As it was before: nothing of that is gone any more.
    advertiser.serve(at(120_000), &device(), Some(router()));
    let again = all(&mut advertiser).remove(0);
    assert_eq!(
        (again.prefixes.len(), again.prefixes[0], again.prefixes[1]),
        (2, ("2001:db8:1::".parse().unwrap(), 86_400), ("2001:db8:2::".parse().unwrap(), 0))
    );
    // Said three times it is known.
    for _ in 0..3 {
        advertiser.tick(advertiser.due().unwrap());
    }
    assert_eq!(all(&mut advertiser).last().unwrap().prefixes.len(), 1);

    advertiser.serve(at(9_000_000), &device(), None);
    let last = all(&mut advertiser);
    assert_eq!(last.len(), 1);
    assert_eq!((last[0].lifetime, last[0].managed), (0, false));
    assert_eq!((last[0].prefixes[0].1, last[0].dns[0].1, last[0].domains[0]), (0, 0, 0));
    assert_eq!(advertiser.due(), None);
}

#[test]
fn the_same_again_is_no_change_and_a_device_that_comes_again_hears_again() {
    let mut advertiser = advertising();
    all(&mut advertiser);
    advertiser.serve(at(1000), &device(), Some(router()));
    advertiser.closed(&device());
    assert_eq!((all(&mut advertiser), advertiser.due()), (vec![], None));
    advertiser.receive(at(61_000), &device(), &solicitation("::", MAC));
    advertiser.opened(at(62_000), &device(), OWN);
    assert_eq!(all(&mut advertiser).len(), 1);
}

#[test]
fn who_becomes_a_router_on_a_device_that_is_open_is_heard_at_once() {
    let mut advertiser = Advertiser::new(7);
    advertiser.opened(at(0), &device(), OWN);
    advertiser.serve(at(1000), &device(), Some(router()));
    assert_eq!(all(&mut advertiser).len(), 1);
    advertiser.serve(at(2000), &device(), None);
    all(&mut advertiser);
    advertiser.closed(&device());
    advertiser.serve(at(3000), &device(), Some(router()));
    assert_eq!((all(&mut advertiser), advertiser.due()), (vec![], None));
}

#[test]
fn many_that_ask_are_answered_together() {
    let mut advertiser = advertising();
    all(&mut advertiser);
    for number in 0..2_000u16 {
        let [high, low] = number.to_be_bytes();
        let mac = MacAddr([2, 0, 0, 9, high, low]);
        advertiser.receive(at(4000), &device(), &solicitation("fe80::9", mac));
    }
    advertiser.tick(at(5000));
    let answers = all(&mut advertiser);
    assert_eq!(answers.iter().filter(|answer| answer.to != ALL_NODES).count(), WAITING);
    assert!(answers.iter().any(|answer| answer.to == ALL_NODES));
}

proptest! {
    #[test]
    fn hostile_bytes_are_harmless(bytes in prop::collection::vec(any::<u8>(), 0..120), at_byte in 0usize..62) {
        let mut advertiser = advertising();
        all(&mut advertiser);
        let mut frame = solicitation("fe80::1", MAC);
        let end = frame.len().min(at_byte + bytes.len());
        frame[at_byte..end].copy_from_slice(&bytes[..end - at_byte]);
        advertiser.receive(at(4000), &device(), &bytes);
        advertiser.receive(at(4000), &device(), &frame);
        advertiser.tick(at(5000));
        let frames: Vec<_> = std::iter::from_fn(|| advertiser.transmit()).collect();
        prop_assert!(frames.len() <= 2);
        prop_assert!(frames.iter().all(|frame| frame.bytes.len() <= 1294));
    }
}
