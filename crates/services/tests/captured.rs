//! What real clients send, as it was captured; the same frames are the seeds of the fuzzer.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{collections::BTreeMap, net::Ipv6Addr, path::Path, time::Duration};

use viaduct_plan::{Boot, Boot6, Client, Client6, LinkHead, LinkRouter, ServedLink, ServedNic, ZoneHead};
use viaduct_services::{
    dhcp4::{Counts, Server},
    dns, ra,
};
use viaduct_types::MacAddr;
use viaduct_wire::{
    dhcp4::{Kind, Request, option},
    dhcp6, udp4, udp6,
};

/// The MAC of all the clients.
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0x64, 0]);

#[expect(clippy::disallowed_methods, reason = "a test reads what was captured")]
fn captured(what: &str) -> BTreeMap<String, Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(what);
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect()
}

#[test]
fn questions_as_dig_asks_them_are_answered_or_passed_on() {
    let captured = captured("dns");
    let network: viaduct_types::NetworkName = "lan".parse().unwrap();
    let device: viaduct_types::IfName = "br-lan".parse().unwrap();
    let mut server = dns::Server::default();
    let prefixes = vec!["10.0.0.0/24".parse().unwrap()];
    let head = ZoneHead { domain: "lan".to_owned(), alone: true, prefixes, servers: Vec::new(), host: None };
    server.zone(network.clone(), Some(head));
    let web = ["10.0.0.7", "fd00::7"].map(|address| address.parse().unwrap());
    server.name(&network, "web".parse().unwrap(), web.into());
    server.serve(device.clone(), Some(network));
    server.host_servers(vec!["127.0.0.53:53".parse().unwrap()]);
    let peer = "10.0.0.9:4000".parse().unwrap();
    for (name, message) in &captured {
        let asker = dns::Asker { device: device.clone(), peer, socket: 1, stream: false };
        server.receive(Duration::ZERO, asker, message);
        match server.output().unwrap() {
            dns::Output::Answer { bytes, .. } => {
                assert_eq!((&bytes[..2], &bytes[6..8]), (&message[..2], &[0, 1][..]), "{name}: one answer");
            }
            dns::Output::Ask { bytes, .. } => {
                assert!(["dig-do", "dig-subnet"].contains(&name.as_str()), "{name}");
                // What a guest says of itself is not told to others.
                assert!(bytes.len() <= message.len() && !bytes.windows(3).any(|part| part == [192, 0, 2]));
            }
            dns::Output::Over { .. } => panic!("{name}"),
        }
        assert_eq!(server.output(), None, "{name}");
    }
    assert_eq!(captured.len(), 5);
}

#[test]
fn the_first_words_of_each_client_are_understood_and_answered() {
    let captured = captured("dhcp4");
    for name in ["dhclient", "dhcpcd", "udhcpc"] {
        let frame = &captured[name];
        let (way, payload) = udp4::parse(frame).unwrap();
        let request = Request::parse(payload).unwrap();
        assert_eq!((way.from_mac, way.to_port, request.chaddr, request.kind), (MAC, 67, MAC, Kind::Discover));
        // All of them ask for routes that a /32 needs, or do with the router.
        let wanted = &request.options[&55];
        assert!(wanted.contains(&option::MASK) && wanted.contains(&option::ROUTER), "{name}: {wanted:?}");

        let device: viaduct_types::IfName = "vd1.0".parse().unwrap();
        let mut server = Server::default();
        let link = link(ServedNic { client: Some(client(None)), ..ServedNic::default() });
        server.serve(&device, &link, link.nics.keys());
        server.receive(Duration::ZERO, &device, MacAddr([0xfe, 0, 0, 0, 0x64, 0]), frame);
        assert_eq!(server.counts(), Counts { offers: 1, ..Counts::default() }, "{name}");
        let answer = server.transmit().unwrap();
        let (_, answer) = udp4::parse(&answer.bytes).unwrap();
        assert_eq!(answer[4..8], payload[4..8], "{name}: the transaction");
    }
}

/// A guest with an address of its own.
fn client(boot: Option<Boot>) -> Client {
    Client {
        nic: "shop".parse().unwrap(),
        mac: MAC,
        address: "198.51.100.112/32".parse().unwrap(),
        lent: false,
        shared: false,
        server: "169.254.1.1".parse().unwrap(),
        router: None,
        dns: Vec::new(),
        domain: None,
        mtu: 1500,
        boot,
    }
}

/// A link of a router with one guest.
fn link(served: ServedNic) -> ServedLink {
    let router = LinkRouter {
        address: "fe80::1".parse().unwrap(),
        default: true,
        mtu: 1500,
        prefixes: Vec::new(),
        shared: false,
        stretched: false,
        routes: Vec::new(),
    };
    ServedLink {
        head: LinkHead { router: Some(router), ..LinkHead::default() },
        nics: BTreeMap::from([("shop".parse().unwrap(), served)]),
    }
}

/// What is in QEMU's network cards, in both families: it hears what to boot, as firmware and as iPXE.
#[test]
fn what_ipxe_asks_for_is_answered_with_what_it_boots() {
    let device: viaduct_types::IfName = "vd1.0".parse().unwrap();
    let own = MacAddr([0xfe, 0, 0, 0, 0x64, 0]);
    for (name, file) in [("bios", "undionly.kpxe"), ("ipxe", "http://boot.example/install")] {
        let files: BTreeMap<_, _> = [(name.parse().unwrap(), file.to_owned())].into();
        let boot = Boot { server: Some("192.0.2.1".parse().unwrap()), files: files.clone() };
        let mut link = link6();
        let nic = link.nics.values_mut().next().unwrap();
        nic.client = Some(client(Some(boot)));
        nic.client6.as_mut().unwrap().boot = Some(Boot6 { files, parameters: Vec::new() });
        let mut server = Server::default();
        server.serve(&device, &link, link.nics.keys());
        server.receive(Duration::ZERO, &device, own, &captured("dhcp4")["ipxe"]);
        let answer = server.transmit().unwrap();
        let (_, answer) = udp4::parse(&answer.bytes).unwrap();
        assert_eq!((&answer[20..24], &answer[108..108 + file.len()]), (&[192, 0, 2, 1][..], file.as_bytes()));
        let mut server = viaduct_services::dhcp6::Server::default();
        server.serve(&device, &link, link.nics.keys());
        server.receive(&device, own, &captured("ip6")["ipxe-solicit"]);
        let answer = server.transmit().unwrap();
        let url =
            [&59u16.to_be_bytes()[..], &[0, u8::try_from(file.len()).unwrap()], file.as_bytes()].concat();
        assert!(answer.bytes.windows(url.len()).any(|part| part == url), "{name}");
    }
}

const ADDRESS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);

fn link6() -> ServedLink {
    let client6 = Client6 {
        nic: "shop".parse().unwrap(),
        mac: MAC,
        addresses: vec![ADDRESS],
        delegated: Some("2001:db8:1::/64".parse().unwrap()),
        lent: false,
        boot: None,
    };
    link(ServedNic { client6: Some(client6), ..ServedNic::default() })
}

#[test]
fn the_first_words_of_each_client_of_ipv6_are_understood_and_answered() {
    let (device, own): (viaduct_types::IfName, _) =
        ("vd1.0".parse().unwrap(), MacAddr([0xfe, 0, 0, 0, 0x64, 0]));
    let captured = captured("ip6");
    for client in ["dhclient", "dhcpcd"] {
        let frame = &captured[&format!("{client}-solicit")];
        let (way, payload) = udp6::parse(frame).unwrap();
        let request = dhcp6::Request::parse(payload).unwrap();
        assert_eq!((way.from_mac, way.to, request.kind), (MAC, dhcp6::ALL_SERVERS, dhcp6::Kind::Solicit));
        assert_eq!((request.addresses.len(), request.prefixes.len()), (1, 1), "{client}");
        let mut server = viaduct_services::dhcp6::Server::default();
        let link = link6();
        server.serve(&device, &link, link.nics.keys());
        server.receive(&device, own, frame);
        let (_, answer) =
            udp6::parse(&server.transmit().unwrap().bytes).map(|(w, p)| (w, p.to_vec())).unwrap();
        assert_eq!(answer[1..4], request.transaction, "{client}");
        assert!(answer.windows(16).any(|part| part == ADDRESS.octets()), "{client}");
    }
    for client in ["dhclient", "dhcpcd", "rdisc6"] {
        let mut advertiser = ra::Advertiser::new(1);
        advertiser.serve(Duration::ZERO, &device, link6().router());
        advertiser.opened(Duration::ZERO, &device, own);
        advertiser.receive(Duration::from_secs(1), &device, &captured[&format!("{client}-solicitation")]);
        advertiser.tick(Duration::from_secs(2));
        assert_eq!(advertiser.counts().answered, 1, "{client}");
    }
}
