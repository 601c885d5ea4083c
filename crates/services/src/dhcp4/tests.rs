use proptest::prelude::*;
use viaduct_wire::BROADCAST;

use super::*;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0x64, 0]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0x65, 0]);
const OWN: MacAddr = MacAddr([0xfe, 0, 0, 0, 0x64, 0]);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn device() -> IfName {
    "vd100.0".parse().unwrap()
}

/// A routed guest with an address of its own.
fn client() -> Client {
    Client {
        nic: "shop".parse().unwrap(),
        mac: MAC,
        address: "198.51.100.112/32".parse().unwrap(),
        lent: false,
        shared: false,
        server: GATEWAY,
        router: Some(GATEWAY),
        dns: vec![Ipv4Addr::new(203, 0, 113, 53)],
        domain: Some("lan.example".to_owned()),
        mtu: 1500,
        boot: None,
    }
}

/// A guest of a bridge whose address was chosen for it.
fn borrower() -> Client {
    let router = Ipv4Addr::new(10, 0, 0, 1);
    let address = "10.0.0.7/24".parse().unwrap();
    Client { address, lent: true, shared: true, server: router, router: Some(router), ..client() }
}

fn server(client: Client) -> Server {
    let mut server = Server::default();
    serve(&mut server, Some(client));
    server
}

/// Serves this client and nobody else.
fn serve(server: &mut Server, client: Option<Client>) {
    let nic: NicId = "shop".parse().unwrap();
    let mut link = ServedLink::default();
    link.nics.extend(
        client.map(|client| {
            (nic.clone(), viaduct_plan::ServedNic { client: Some(client), ..Default::default() })
        }),
    );
    server.serve(&device(), &link, [&nic]);
}

/// What a client sends: its kind, its own address, its options.
#[derive(Clone)]
struct Says {
    kind: u8,
    ciaddr: Ipv4Addr,
    giaddr: Ipv4Addr,
    broadcast: bool,
    options: Vec<(u8, Vec<u8>)>,
    chaddr: MacAddr,
    from: MacAddr,
}

fn says(kind: u8) -> Says {
    Says { kind, ciaddr: NONE, giaddr: NONE, broadcast: false, options: Vec::new(), chaddr: MAC, from: MAC }
}

impl Says {
    fn option(mut self, number: u8, value: impl Into<Vec<u8>>) -> Self {
        self.options.push((number, value.into()));
        self
    }

    fn message(&self) -> Vec<u8> {
        let mut bytes = vec![0; 236];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[4..8].copy_from_slice(&[0xde, 0xad, 0xbe, 0xef]);
        bytes[10] = if self.broadcast { 0x80 } else { 0 };
        bytes[12..16].copy_from_slice(&self.ciaddr.octets());
        bytes[24..28].copy_from_slice(&self.giaddr.octets());
        bytes[28..34].copy_from_slice(&self.chaddr.0);
        bytes.extend([99, 130, 83, 99, option::TYPE, 1, self.kind]);
        for (number, value) in &self.options {
            bytes.extend([*number, u8::try_from(value.len()).unwrap()]);
            bytes.extend(value);
        }
        bytes.push(255);
        bytes
    }

    fn frame(&self) -> Vec<u8> {
        let way = Way {
            from_mac: self.from,
            to_mac: BROADCAST,
            from: self.ciaddr,
            to: Ipv4Addr::BROADCAST,
            from_port: 68,
            to_port: 67,
        };
        udp4::build(&way, &self.message()).unwrap()
    }
}

/// An answer, taken apart.
struct Answer {
    way: Way,
    kind: u8,
    yiaddr: Ipv4Addr,
    siaddr: [u8; 4],
    file: Vec<u8>,
    options: BTreeMap<u8, Vec<u8>>,
}

fn answer(server: &mut Server) -> Option<Answer> {
    let frame = server.transmit()?;
    assert_eq!(frame.device, device());
    let (way, payload) = udp4::parse(&frame.bytes).expect("a datagram");
    assert_eq!(
        (payload[0], &payload[4..8], &payload[28..34]),
        (2, &[0xde, 0xad, 0xbe, 0xef][..], &MAC.0[..])
    );
    let mut options = BTreeMap::new();
    let mut rest = &payload[240..];
    while let [number, length, more @ ..] = rest {
        if *number == 255 {
            break;
        }
        let (value, more) = more.split_at(usize::from(*length));
        options.entry(*number).or_insert_with(Vec::new).extend(value);
        rest = more;
    }
    let yiaddr = Ipv4Addr::new(payload[16], payload[17], payload[18], payload[19]);
    let siaddr = payload[20..24].try_into().unwrap();
    let file = payload[dhcp4::FILE].split(|byte| *byte == 0).next().unwrap().to_vec();
    Some(Answer { way, kind: options[&option::TYPE][0], yiaddr, siaddr, file, options })
}

fn ask(server: &mut Server, says: &Says) -> Option<Answer> {
    server.receive(Duration::ZERO, &device(), OWN, &says.frame());
    let first = answer(server);
    assert!(server.transmit().is_none(), "two answers");
    first
}

#[test]
fn a_routed_guest_is_given_its_own_address_with_the_routes_that_a_32_needs() {
    let mut server = server(client());
    let offer = ask(&mut server, &says(1)).unwrap();
    assert_eq!((offer.kind, offer.yiaddr), (2, Ipv4Addr::new(198, 51, 100, 112)));
    assert_eq!((offer.way.from_mac, offer.way.to_mac, offer.way.to), (OWN, MAC, offer.yiaddr));
    assert_eq!((offer.way.from, offer.way.from_port, offer.way.to_port), (GATEWAY, 67, 68));
    let told = |number: u8| &offer.options[&number][..];
    assert_eq!(told(option::MASK), [255; 4]);
    // 169.254.1.1/32 on the link, then everything by it.
    assert_eq!(told(option::ROUTES), [32, 169, 254, 1, 1, 0, 0, 0, 0, 0, 169, 254, 1, 1]);
    assert_eq!(told(option::ROUTER), [169, 254, 1, 1]);
    assert_eq!(told(option::DNS), [203, 0, 113, 53]);
    assert_eq!(told(option::MTU), [0x05, 0xdc]);
    assert_eq!(told(option::HOST_NAME), b"shop");
    assert_eq!(told(option::DOMAIN), b"lan.example");
    assert_eq!(told(option::SEARCH), b"\x03lan\x07example\x00");
    assert_eq!(told(option::SERVER), GATEWAY.octets());
    let take = says(3).option(option::SERVER, GATEWAY.octets()).option(50, [198, 51, 100, 112]);
    let ack = ask(&mut server, &take).unwrap();
    assert_eq!((ack.kind, ack.yiaddr), (5, offer.yiaddr));
    assert_eq!(ack.options[&option::LEASE], 3600u32.to_be_bytes());
    let event = Event::Configured { nic: "shop".parse().unwrap(), address: ack.yiaddr.into() };
    assert_eq!((server.event(), server.event()), (Some(event), None));
}

#[test]
fn a_gateway_within_the_prefix_needs_no_route_of_its_own() {
    let mut server = server(Client { lent: false, ..borrower() });
    let offer = ask(&mut server, &says(1)).unwrap();
    assert_eq!(offer.options[&option::MASK], [255, 255, 255, 0]);
    assert_eq!(offer.options[&option::ROUTES], [0, 10, 0, 0, 1]);
}

#[test]
fn a_network_without_a_way_out_tells_none() {
    let mut server = server(Client { router: None, dns: Vec::new(), domain: None, ..client() });
    let offer = ask(&mut server, &says(1)).unwrap();
    for number in [option::ROUTES, option::ROUTER, option::DNS, option::DOMAIN, option::SEARCH] {
        assert!(!offer.options.contains_key(&number), "{number}");
    }
}

/// Its message with an architecture, what vendor and user call it, and a wish for the options 66 and 67.
fn boots(architecture: u8, vendor: &[u8], user: &[u8]) -> Says {
    let says = says(1).option(option::WANTED, [1, 3, 66, 67]).option(option::ARCHITECTURE, [0, architecture]);
    let says = says.option(option::VENDOR_CLASS, vendor);
    if user.is_empty() { says } else { says.option(option::USER_CLASS, user) }
}

fn booted() -> Client {
    let files = [
        ("bios", "undionly.kpxe"),
        ("efi-x86_64", "efi64/ipxe.efi"),
        ("http-efi-x86_64", "http://192.0.2.1/shimx64.efi"),
        ("ipxe", "http://192.0.2.1/boot.ipxe"),
    ];
    let files = files.map(|(client, file)| (client.parse().unwrap(), file.to_owned())).into();
    let server = Some(Ipv4Addr::new(192, 0, 2, 1));
    Client { boot: Some(viaduct_plan::Boot { server, files }), ..client() }
}

#[test]
fn a_machine_that_boots_is_told_what_is_for_its_firmware() {
    let server_address = [192, 0, 2, 1];
    let cases: [(u8, &[u8], &[u8], &str); 4] = [
        (0, b"PXEClient:Arch:00000:UNDI:002001", b"", "undionly.kpxe"),
        (7, b"PXEClient:Arch:00007:UNDI:003016", b"", "efi64/ipxe.efi"),
        (16, b"HTTPClient:Arch:00016:UNDI:003001", b"", "http://192.0.2.1/shimx64.efi"),
        (0, b"PXEClient:Arch:00000:UNDI:002001", b"iPXE", "http://192.0.2.1/boot.ipxe"),
    ];
    for (architecture, vendor, user, file) in cases {
        let mut server = server(booted());
        let discover = boots(architecture, vendor, user);
        let request = Says { kind: 3, ..discover.clone() }
            .option(option::SERVER, GATEWAY.octets())
            .option(50, [198, 51, 100, 112]);
        let inform = Says { kind: 8, ciaddr: Ipv4Addr::new(198, 51, 100, 112), ..discover.clone() };
        for says in [discover, request, inform] {
            let answer = ask(&mut server, &says).unwrap();
            assert_eq!((answer.siaddr, &answer.file[..]), (server_address, file.as_bytes()), "{file}");
            assert_eq!(answer.options[&option::BOOT_FILE], file.as_bytes());
            assert_eq!(answer.options[&option::BOOT_SERVER], b"192.0.2.1");
            // UEFI takes what it boots by HTTP only of who says the same word.
            let told = answer.options.get(&option::VENDOR_CLASS).map(Vec::as_slice);
            assert_eq!(told, vendor.starts_with(b"HTTP").then_some(&b"HTTPClient"[..]));
        }
    }
}

#[test]
fn who_boots_otherwise_hears_nothing_of_it() {
    let nothing = ([0; 4], Vec::new());
    let quiet = |says: Says, client: Client| {
        let answer = ask(&mut server(client), &says).unwrap();
        let has_any = [option::BOOT_FILE, option::BOOT_SERVER, option::VENDOR_CLASS];
        assert!(!has_any.iter().any(|number| answer.options.contains_key(number)));
        assert_eq!((answer.siaddr, answer.file), nothing);
    };
    // A system that is there already; an architecture that there is nothing for; by HTTP, where there is only a name.
    quiet(says(1).option(option::VENDOR_CLASS, *b"MSFT 5.0"), booted());
    quiet(boots(11, b"PXEClient:Arch:00011:UNDI:003000", b""), booted());
    quiet(boots(0, b"HTTPClient:Arch:00000", b""), booted());
    quiet(boots(0, b"PXEClient:Arch:00000:UNDI:002001", b""), client());
}

#[test]
fn ipxe_on_a_link_of_its_own_is_told_a_mask_with_which_it_broadcasts_nothing() {
    let mask = |client: Client, user: &[u8]| {
        let offer = ask(&mut server(client), &boots(0, b"PXEClient", user)).unwrap();
        offer.options[&option::MASK].clone()
    };
    assert_eq!(mask(booted(), b"iPXE"), [255, 255, 255, 0]);
    assert_eq!(mask(client(), b"iPXE"), [255, 255, 255, 0]);
    assert_eq!(mask(booted(), b""), [255; 4]);
    let subnet = Client { address: "10.0.0.7/28".parse().unwrap(), lent: false, ..borrower() };
    assert_eq!(mask(subnet, b"iPXE"), [255, 255, 255, 240]);
}

#[test]
fn a_long_url_stands_in_an_option_whether_it_is_wanted_or_not() {
    let url = format!("http://192.0.2.1/{}", "x".repeat(200));
    let files = [("ipxe".parse().unwrap(), url.clone())].into();
    let mut server = server(Client { boot: Some(viaduct_plan::Boot { server: None, files }), ..client() });
    let answer = ask(&mut server, &says(1).option(option::USER_CLASS, *b"iPXE")).unwrap();
    assert_eq!((answer.siaddr, answer.file.len()), ([0; 4], 0));
    assert_eq!(answer.options[&option::BOOT_FILE], url.as_bytes());
}

#[test]
fn a_client_that_cannot_hear_otherwise_is_answered_by_broadcast() {
    let mut server = server(client());
    let offer = ask(&mut server, &Says { broadcast: true, ..says(1) }).unwrap();
    assert_eq!((offer.way.to, offer.way.to_mac), (Ipv4Addr::BROADCAST, MAC));
}

#[test]
fn each_state_of_a_client_is_answered() {
    let own = [198, 51, 100, 112];
    let ciaddr = Ipv4Addr::from(own);
    let elsewhere = Ipv4Addr::new(192, 0, 2, 9);
    let cases = [
        ("renewing", Says { ciaddr, ..says(3) }, Some((5, ciaddr))),
        ("renewing another's", Says { ciaddr: elsewhere, ..says(3) }, Some((6, Ipv4Addr::BROADCAST))),
        ("after a restart", says(3).option(50, own), Some((5, ciaddr))),
        ("after a restart elsewhere", says(3).option(50, elsewhere.octets()), Some((6, Ipv4Addr::BROADCAST))),
        ("chose another server", says(3).option(50, own).option(54, [192, 0, 2, 1]), None),
        ("a request for nothing", says(3), None),
        ("from elsewhere", Says { ciaddr: elsewhere, ..says(8) }, Some((5, elsewhere))),
        ("given back", Says { ciaddr, ..says(7) }, None),
        ("an offer by a guest", says(2), None),
    ];
    for (what, says, expected) in cases {
        let got = ask(&mut server(client()), &says);
        assert_eq!(got.map(|answer| (answer.kind, answer.way.to)), expected, "{what}");
    }
}

#[test]
fn who_only_wants_the_rest_gets_no_address_and_no_lease() {
    let inform = Says { ciaddr: Ipv4Addr::new(192, 0, 2, 9), ..says(8) };
    let ack = ask(&mut server(client()), &inform).unwrap();
    assert_eq!(ack.yiaddr, NONE);
    assert!(!ack.options.contains_key(&option::LEASE) && ack.options.contains_key(&option::DNS));
}

#[test]
fn a_relay_agent_gets_the_answer_with_what_it_added() {
    let relayed =
        Says { giaddr: Ipv4Addr::new(192, 0, 2, 99), ..says(1) }.option(option::RELAY, *b"\x01\x02ab");
    let offer = ask(&mut server(client()), &relayed).unwrap();
    assert_eq!((offer.way.to, offer.way.to_port), (Ipv4Addr::new(192, 0, 2, 99), 67));
    assert_eq!(offer.options[&option::RELAY], b"\x01\x02ab");
}

#[test]
fn strangers_hear_nothing() {
    let mut server = server(client());
    for says in [
        Says { from: OTHER, chaddr: OTHER, ..says(1) },
        Says { from: OTHER, ..says(1) },
        Says { chaddr: OTHER, ..says(1) },
    ] {
        assert!(ask(&mut server, &says).is_none());
    }
    let elsewhere: IfName = "vd101.0".parse().unwrap();
    server.receive(Duration::ZERO, &elsewhere, OWN, &says(1).frame());
    assert!(server.transmit().is_none());
    assert_eq!(server.counts(), Counts { unknown: 4, ..Counts::default() });
    serve(&mut server, None);
    assert!(ask(&mut server, &says(1)).is_none(), "served no longer");
}

#[test]
fn a_changed_address_is_refused_and_then_the_new_one_given() {
    let mut server = server(Client { address: "172.30.7.7/32".parse().unwrap(), lent: true, ..client() });
    let ack = ask(&mut server, &says(3).option(50, [172, 30, 7, 7])).unwrap();
    assert_eq!((ack.kind, &ack.options[&option::LEASE][..]), (5, &120u32.to_be_bytes()[..]));
    serve(&mut server, Some(client()));
    let renewing = Says { ciaddr: ack.yiaddr, ..says(3) };
    assert_eq!(ask(&mut server, &renewing).unwrap().kind, 6);
    assert_eq!(ask(&mut server, &says(1)).unwrap().yiaddr, Ipv4Addr::new(198, 51, 100, 112));
}

#[test]
fn a_lent_address_is_looked_for_before_it_is_offered() {
    let mut server = server(borrower());
    let at = Duration::from_millis;
    server.receive(at(0), &device(), OWN, &says(1).frame());
    for time in [200, 400] {
        let question = server.transmit().unwrap();
        let arp = arp::parse(&question.bytes).unwrap();
        assert_eq!((arp.sender, arp.target, arp.sender_mac), (NONE, Ipv4Addr::new(10, 0, 0, 7), OWN));
        assert_eq!(server.due(), Some(at(time)));
        server.tick(at(time - 1));
        assert!(server.transmit().is_none(), "before it is due");
        // Asking again in between changes nothing.
        server.receive(at(time - 1), &device(), OWN, &says(1).frame());
        assert!(server.transmit().is_none());
        server.tick(at(time));
    }
    assert_eq!(answer(&mut server).unwrap().yiaddr, Ipv4Addr::new(10, 0, 0, 7));
    assert_eq!(server.due(), None);
    // Known to be free from now on.
    assert_eq!(ask(&mut server, &says(1)).unwrap().kind, 2);
}

/// A frame in which somebody says in ARP that an address is its own.
fn claim(mac: MacAddr, address: [u8; 4]) -> Vec<u8> {
    let mut frame = arp::probe(mac, Ipv4Addr::new(10, 0, 0, 1));
    frame[21] = 2;
    frame[28..32].copy_from_slice(&address);
    frame
}

#[test]
fn an_address_that_somebody_has_is_not_offered() {
    let mut server = server(borrower());
    server.receive(Duration::ZERO, &device(), OWN, &says(1).frame());
    assert!(server.transmit().is_some());
    // The client's own word, and that of somebody with another address, are no conflict.
    server.receive(Duration::ZERO, &device(), OWN, &claim(MAC, [10, 0, 0, 7]));
    server.receive(Duration::ZERO, &device(), OWN, &claim(OTHER, [10, 0, 0, 8]));
    assert_eq!(server.event(), None);
    server.receive(Duration::ZERO, &device(), OWN, &claim(OTHER, [10, 0, 0, 7]));
    let address = Ipv4Addr::new(10, 0, 0, 7).into();
    let event = Event::InUse { nic: "shop".parse().unwrap(), address, holder: Some(OTHER) };
    assert_eq!(server.event(), Some(event));
    server.tick(Duration::from_secs(9));
    assert!(server.transmit().is_none());
}

#[test]
fn what_a_guest_declines_is_told() {
    let mut server = server(borrower());
    assert!(ask(&mut server, &says(4).option(50, [10, 0, 0, 7])).is_none());
    let address = Ipv4Addr::new(10, 0, 0, 7).into();
    let event = Event::InUse { nic: "shop".parse().unwrap(), address, holder: None };
    assert_eq!(server.event(), Some(event));
    assert!(ask(&mut server, &says(4).option(50, [10, 0, 0, 8])).is_none());
    assert_eq!(server.event(), None, "an address that was never its own");
}

proptest! {
    /// Whatever comes, at most one answer goes out, to the one who asked.
    #[test]
    fn hostile_bytes_are_harmless(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        at in 0usize..360,
        cut in 0usize..360,
        whole in any::<bool>(),
    ) {
        let mut server = server(borrower());
        let mut frame = says(1).option(50, [10, 0, 0, 7]).option(61, [1, 2, 3]).frame();
        if whole {
            frame = bytes;
        } else {
            let at = at.min(frame.len());
            let end = frame.len().min(at + bytes.len());
            frame[at..end].copy_from_slice(&bytes[..end - at]);
            frame.truncate(cut.max(at));
        }
        server.receive(Duration::ZERO, &device(), OWN, &frame);
        server.tick(Duration::from_secs(1));
        server.tick(Duration::from_secs(2));
        let mut sent = 0;
        while let Some(frame) = server.transmit() {
            sent += 1;
            prop_assert!(frame.bytes.len() <= 1514);
            prop_assert!(frame.bytes[..6] == MAC.0 || frame.bytes[..6] == BROADCAST.0);
        }
        prop_assert!(sent <= 3);
    }
}
