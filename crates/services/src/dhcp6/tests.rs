use proptest::prelude::*;
use viaduct_plan::{LinkHead, LinkRouter, ServedNic};

use super::*;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0x64, 0]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0x65, 0]);
const OWN: MacAddr = MacAddr([0xfe, 0, 0, 0, 0x64, 0]);
const DUID: &[u8] = &[0, 3, 0, 1, 2, 0, 0, 0, 0x64, 0];
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

fn device() -> IfName {
    "vd100.0".parse().unwrap()
}

fn address() -> Ipv6Addr {
    "2001:db8:48:1::112".parse().unwrap()
}

fn prefix() -> Ipv6Net {
    "2001:db8:48:8007::/64".parse().unwrap()
}

fn link() -> ServedLink {
    let client6 = Client6 {
        nic: "shop".parse().unwrap(),
        mac: MAC,
        addresses: vec![address()],
        delegated: Some(prefix()),
        lent: false,
        boot: None,
    };
    ServedLink {
        head: LinkHead {
            router: Some(LinkRouter {
                address: GATEWAY,
                default: true,
                mtu: 1500,
                prefixes: Vec::new(),
                shared: false,
                stretched: false,
                routes: Vec::new(),
            }),
            dns6: vec!["2001:db8::53".parse().unwrap()],
            search: vec!["lan.example".to_owned()],
            names: None,
        },
        nics: BTreeMap::from([(
            client6.nic.clone(),
            ServedNic { client6: Some(client6), ..ServedNic::default() },
        )]),
    }
}

/// The one of a link.
fn client(link: &mut ServedLink) -> &mut Client6 {
    link.nics.values_mut().next().unwrap().client6.as_mut().unwrap()
}

fn server(link: &ServedLink) -> Server {
    let mut server = Server::default();
    server.serve(&device(), link, link.nics.keys());
    server
}

fn option(number: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap();
    [&number.to_be_bytes()[..], &length.to_be_bytes(), value].concat()
}

fn addresses(id: u8, members: &[Ipv6Addr]) -> Vec<u8> {
    let members = members.iter().flat_map(|address| option(5, &[&address.octets()[..], &[0; 8]].concat()));
    option(3, &[&[0, 0, 0, id][..], &[0; 8], &members.collect::<Vec<_>>()].concat())
}

fn prefixes(id: u8, members: &[Ipv6Net]) -> Vec<u8> {
    let members = members.iter().flat_map(|prefix| {
        option(26, &[&[0; 8][..], &[prefix.prefix_len()], &prefix.network().octets()].concat())
    });
    option(25, &[&[0, 0, 0, id][..], &[0; 8], &members.collect::<Vec<_>>()].concat())
}

fn me() -> Vec<u8> {
    option(1, DUID)
}

fn you() -> Vec<u8> {
    option(2, &duid_of(OWN))
}

fn frame(kind: u8, mac: MacAddr, options: &[Vec<u8>]) -> Vec<u8> {
    let way = Way {
        from_mac: mac,
        to_mac: viaduct_wire::ip6::multicast_mac(dhcp6::ALL_SERVERS),
        from: mac.link_local(),
        to: dhcp6::ALL_SERVERS,
        from_port: 546,
        to_port: 547,
    };
    udp6::build(&way, &[&[kind, 1, 2, 3][..], &options.concat()].concat()).unwrap()
}

/// An answer, taken apart: associations by number, what else there is by option.
#[derive(Debug, PartialEq)]
struct Answer {
    kind: u8,
    addresses: BTreeMap<u8, Vec<(Ipv6Addr, u32)>>,
    prefixes: BTreeMap<u8, Vec<(Ipv6Net, u32)>>,
    status: Option<u8>,
    options: BTreeMap<u16, Vec<u8>>,
}

fn options(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut all = Vec::new();
    while let [a, b, c, d, rest @ ..] = bytes {
        let (value, rest) = rest.split_at(usize::from(u16::from_be_bytes([*c, *d])));
        all.push((u16::from_be_bytes([*a, *b]), value));
        bytes = rest;
    }
    all
}

fn answer(server: &mut Server) -> Option<Answer> {
    let frame = server.transmit()?;
    let (way, payload) = udp6::parse(&frame.bytes).unwrap();
    assert_eq!(
        (way.from_mac, way.to_mac, way.to, way.from_port, way.to_port),
        (OWN, MAC, MAC.link_local(), 547, 546)
    );
    assert_eq!((frame.device, payload[1..4].to_vec()), (device(), vec![1, 2, 3]));
    let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let ip = |bytes: &[u8]| Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap());
    let mut answer = Answer {
        kind: payload[0],
        addresses: BTreeMap::new(),
        prefixes: BTreeMap::new(),
        status: None,
        options: BTreeMap::new(),
    };
    for (number, value) in options(&payload[4..]) {
        match number {
            3 => {
                let members = options(&value[12..]).into_iter().filter(|(number, _)| *number == 5);
                let members = members.map(|(_, m)| (ip(&m[..16]), word(&m[20..24]))).collect();
                answer.addresses.insert(value[3], members);
            }
            25 => {
                let members = options(&value[12..]).into_iter().filter(|(number, _)| *number == 26);
                let net = |m: &[u8]| Ipv6Net::new(ip(&m[9..25]), m[8]).unwrap();
                let members = members.map(|(_, m)| (net(m), word(&m[4..8]))).collect();
                answer.prefixes.insert(value[3], members);
            }
            13 => answer.status = Some(value[1]),
            _ => {
                answer.options.insert(number, value.to_vec());
            }
        }
    }
    Some(answer)
}

fn ask(server: &mut Server, kind: u8, options: &[Vec<u8>]) -> Option<Answer> {
    server.receive(&device(), OWN, &frame(kind, MAC, options));
    let first = answer(server);
    assert!(server.transmit().is_none(), "two answers");
    first
}

#[test]
fn a_guest_is_given_its_own_address_and_the_prefix_behind_it() {
    let mut server = server(&link());
    let wanted = [me(), addresses(1, &[]), prefixes(2, &[])];
    let offer = ask(&mut server, 1, &wanted).unwrap();
    assert_eq!((offer.kind, offer.status), (2, None));
    assert_eq!(offer.addresses, BTreeMap::from([(1, vec![(address(), 7200)])]));
    assert_eq!(offer.prefixes, BTreeMap::from([(2, vec![(prefix(), 7200)])]));
    assert_eq!(offer.options[&1], DUID);
    assert_eq!(offer.options[&2], duid_of(OWN));
    assert_eq!(offer.options[&7], [255]);
    assert_eq!(offer.options[&23], "2001:db8::53".parse::<Ipv6Addr>().unwrap().octets());
    assert_eq!(offer.options[&24], b"\x03lan\x07example\x00");
    assert_eq!(server.event(), None);
    let take = [me(), you(), addresses(1, &[address()]), prefixes(2, &[prefix()])];
    let reply = ask(&mut server, 3, &take).unwrap();
    assert_eq!((reply.kind, &reply.addresses), (7, &offer.addresses));
    let event = Event::Configured { nic: "shop".parse().unwrap(), address: address().into() };
    assert_eq!((server.event(), server.event()), (Some(event), None));
}

#[test]
fn two_messages_are_enough_for_who_wants_it_so() {
    let reply = ask(&mut server(&link()), 1, &[me(), option(14, &[]), addresses(1, &[])]).unwrap();
    assert_eq!((reply.kind, reply.options.get(&14)), (7, Some(&Vec::new())));
    assert_eq!(reply.addresses[&1], [(address(), 7200)]);
}

#[test]
fn each_state_of_a_client_is_answered() {
    let own = || addresses(1, &[address()]);
    let foreign: Ipv6Addr = "2001:db8::666".parse().unwrap();
    let other_server = || option(2, &duid_of(OTHER));
    // What is sent; the kind of the answer, its status, and how long its addresses are good.
    type Expected = Option<(u8, Option<u8>, Vec<u32>)>;
    let cases: Vec<(&str, u8, Vec<Vec<u8>>, Expected)> = vec![
        ("renewing", 5, vec![me(), you(), own()], Some((7, None, vec![7200]))),
        ("rebinding", 6, vec![me(), own()], Some((7, None, vec![7200]))),
        (
            "renewing another's",
            5,
            vec![me(), you(), addresses(1, &[foreign])],
            Some((7, None, vec![7200, 0])),
        ),
        ("confirming", 4, vec![me(), own()], Some((7, Some(0), vec![]))),
        ("confirming another's", 4, vec![me(), addresses(1, &[foreign])], Some((7, Some(4), vec![]))),
        ("confirming nothing", 4, vec![me(), addresses(1, &[])], None),
        ("releasing", 8, vec![me(), you(), own()], Some((7, Some(0), vec![]))),
        ("only the rest", 11, vec![], Some((7, None, vec![]))),
        ("only the rest, with an address", 11, vec![own()], None),
        ("another server's", 3, vec![me(), other_server(), own()], None),
        ("a request to nobody", 3, vec![me(), own()], None),
        ("a solicitation to one", 1, vec![me(), you(), own()], None),
        ("nobody's", 1, vec![own()], None),
        ("a server's own words", 2, vec![me(), you(), own()], None),
        ("a relay's", 12, vec![me()], None),
    ];
    for (what, kind, options, expected) in cases {
        let answer = ask(&mut server(&link()), kind, &options);
        let got = answer.map(|answer| {
            let times = answer.addresses.values().flatten().map(|(_, valid)| *valid).collect();
            (answer.kind, answer.status, times)
        });
        assert_eq!(got, expected, "{what}");
    }
}

#[test]
fn who_only_wants_the_rest_gets_no_address() {
    let reply = ask(&mut server(&link()), 11, &[]).unwrap();
    assert!(reply.addresses.is_empty() && reply.options.contains_key(&23) && reply.options.contains_key(&32));
}

#[test]
fn a_machine_that_boots_is_told_the_url_that_is_for_its_firmware() {
    let mut link = link();
    let files = [
        ("efi-x86_64", "tftp://[2001:db8::1]/ipxe.efi"),
        ("http-efi-x86_64", "http://[2001:db8::1]/shimx64.efi"),
        ("ipxe", "http://[2001:db8::1]/boot.ipxe"),
    ];
    let files = files.map(|(client, file)| (client.parse().unwrap(), file.to_owned()));
    client(&mut link).boot =
        Some(viaduct_plan::Boot6 { files: files.clone().into(), parameters: vec!["auto".to_owned()] });
    let mut server = server(&link);
    let vendor = |class: &str| {
        option(
            16,
            &[&343u32.to_be_bytes()[..], &[0, u8::try_from(class.len()).unwrap()], class.as_bytes()].concat(),
        )
    };
    let wants = || option(6, &[0, 59, 0, 60]);
    let http = vendor("HTTPClient");
    let cases = [
        (vec![option(61, &[0, 7]), vendor("PXEClient:Arch:00007:UNDI:003016")], &files[0].1, None),
        (
            vec![option(61, &[0, 16]), vendor("HTTPClient:Arch:00016:UNDI:003001")],
            &files[1].1,
            Some(&http[4..]),
        ),
        (vec![option(61, &[0, 7]), option(15, b"\x00\x04iPXE")], &files[2].1, None),
    ];
    for (firmware, url, class) in cases {
        for (kind, addressed) in [(1, false), (3, true), (11, false)] {
            let mut options = vec![me(), wants()];
            options.extend(firmware.clone());
            if kind != 11 {
                options.push(addresses(1, &[]));
            }
            if addressed {
                options.push(you());
            }
            let answer = ask(&mut server, kind, &options).unwrap();
            assert_eq!(answer.options[&59], url.as_bytes(), "{kind}");
            assert_eq!(answer.options[&60], b"\x00\x04auto");
            assert_eq!(answer.options.get(&16).map(Vec::as_slice), class, "{url}");
        }
    }
    // A system that is there already; an architecture that there is nothing for.
    let quiet = [vec![me(), addresses(1, &[])], vec![me(), wants(), option(61, &[0, 11]), addresses(1, &[])]];
    for options in quiet {
        let answer = ask(&mut server, 1, &options).unwrap();
        assert!(![59, 60, 16].iter().any(|number| answer.options.contains_key(number)), "{answer:?}");
    }
}

#[test]
fn who_has_nothing_hears_so() {
    let mut link = link();
    client(&mut link).delegated = None;
    let mut with_address = server(&link);
    let offer = ask(&mut with_address, 1, &[me(), addresses(1, &[]), prefixes(2, &[])]).unwrap();
    assert_eq!((offer.status, offer.addresses[&1].len(), offer.prefixes[&2].len()), (None, 1, 0));
    *client(&mut link) =
        Client6 { addresses: vec![], delegated: Some(prefix()), ..client(&mut link).clone() };
    let offer = ask(&mut server(&link), 1, &[me(), addresses(1, &[])]).unwrap();
    assert_eq!((offer.status, offer.addresses[&1].len()), (Some(2), 0));
}

#[test]
fn an_address_is_in_one_association_only() {
    let offer = ask(&mut server(&link()), 1, &[me(), addresses(1, &[]), addresses(2, &[])]).unwrap();
    assert_eq!((offer.addresses[&1].len(), offer.addresses[&2].len()), (1, 0));
}

#[test]
fn what_a_guest_declines_is_told() {
    let mut server = server(&link());
    let foreign = "2001:db8::666".parse().unwrap();
    ask(&mut server, 9, &[me(), you(), addresses(1, &[address(), foreign])]).unwrap();
    let event = Event::InUse { nic: "shop".parse().unwrap(), address: address().into(), holder: None };
    assert_eq!((server.event(), server.event()), (Some(event), None));
}

#[test]
fn what_is_lent_is_given_for_a_short_time() {
    let mut link = link();
    client(&mut link).lent = true;
    let offer = ask(&mut server(&link), 1, &[me(), addresses(1, &[]), prefixes(2, &[])]).unwrap();
    assert_eq!((offer.addresses[&1][0].1, offer.prefixes[&2][0].1), (240, 7200));
}

#[test]
fn strangers_hear_nothing() {
    let mut server = server(&link());
    server.receive(&device(), OWN, &frame(1, OTHER, &[me(), addresses(1, &[])]));
    server.receive(&"vd101.0".parse().unwrap(), OWN, &frame(1, MAC, &[me(), addresses(1, &[])]));
    assert!(server.transmit().is_none());
    assert_eq!(server.counts(), Counts { unknown: 2, ..Counts::default() });
    server.serve(&device(), &ServedLink::default(), link().nics.keys());
    assert!(ask(&mut server, 1, &[me(), addresses(1, &[])]).is_none(), "served no longer");
}

#[test]
fn without_a_router_the_server_speaks_with_an_address_made_of_its_mac() {
    let mut link = link();
    link.head.router = None;
    let mut server = server(&link);
    server.receive(&device(), OWN, &frame(1, MAC, &[me(), addresses(1, &[])]));
    let frame = server.transmit().unwrap();
    assert_eq!(udp6::parse(&frame.bytes).unwrap().0.from, OWN.link_local());
}

proptest! {
    /// Whatever comes, at most one answer goes out, to the one who asked.
    #[test]
    fn hostile_bytes_are_harmless(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        at in 0usize..160,
        cut in 0usize..160,
    ) {
        let mut server = server(&link());
        let mut damaged = frame(1, MAC, &[me(), addresses(1, &[address()]), prefixes(2, &[prefix()])]);
        let at = at.min(damaged.len());
        let end = damaged.len().min(at + bytes.len());
        damaged[at..end].copy_from_slice(&bytes[..end - at]);
        damaged.truncate(cut.max(at));
        let fuzzed = frame(1, MAC, &[me(), bytes.clone()]);
        for frame in [&bytes, &damaged, &fuzzed] {
            server.receive(&device(), OWN, frame);
            let answer = server.transmit();
            prop_assert!(answer.is_none_or(|answer| answer.bytes[..6] == MAC.0 && answer.bytes.len() <= 1514));
            prop_assert!(server.transmit().is_none());
        }
    }
}
