//! What real clients send, as it was captured; the same frames are the seeds of the fuzzer.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{collections::BTreeMap, path::Path, time::Duration};

use viaduct_plan::Client;
use viaduct_services::dhcp4::{Counts, Server};
use viaduct_types::MacAddr;
use viaduct_wire::{
    dhcp4::{Kind, Request, option},
    udp4,
};

/// The MAC of all the clients.
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0x64, 0]);

#[expect(clippy::disallowed_methods, reason = "a test reads what was captured")]
fn captured() -> BTreeMap<String, Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/dhcp4");
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect()
}

#[test]
fn the_first_words_of_each_client_are_understood_and_answered() {
    let captured = captured();
    for client in ["dhclient", "dhcpcd", "udhcpc"] {
        let frame = &captured[client];
        let (way, payload) = udp4::parse(frame).unwrap();
        let request = Request::parse(payload).unwrap();
        assert_eq!((way.from_mac, way.to_port, request.chaddr, request.kind), (MAC, 67, MAC, Kind::Discover));
        // All of them ask for routes that a /32 needs, or do with the router.
        let wanted = &request.options[&55];
        assert!(wanted.contains(&option::MASK) && wanted.contains(&option::ROUTER), "{client}: {wanted:?}");

        let device: viaduct_types::IfName = "vd1.0".parse().unwrap();
        let mut server = Server::default();
        let served = Client {
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
        };
        server.serve(BTreeMap::from([(device.clone(), vec![served])]));
        server.receive(Duration::ZERO, &device, MacAddr([0xfe, 0, 0, 0, 0x64, 0]), frame);
        assert_eq!(server.counts(), Counts { offers: 1, ..Counts::default() }, "{client}");
        let answer = server.transmit().unwrap();
        let (_, answer) = udp4::parse(&answer.bytes).unwrap();
        assert_eq!(answer[4..8], payload[4..8], "{client}: the transaction");
    }
}
