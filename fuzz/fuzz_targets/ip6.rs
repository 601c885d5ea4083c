//! What guests say to routers and DHCPv6 servers: a frame is answered by few frames, which go to that guest or to all of
//! its link, and fit any link.
#![no_main]

#[path = "../src/boot.rs"]
mod boot;

use std::time::Duration;

use viaduct_plan::{Boot6, Client6, LinkHead, LinkRouter, ServedLink, ServedNic};
use viaduct_services::{dhcp6::Server, ra::Advertiser};
use viaduct_types::{IfName, MacAddr, NicId};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mac = MacAddr([2, 0, 0, 0, 0x64, 0]);
    let own = MacAddr([0xfe, 0, 0, 0, 0x64, 0]);
    let (Ok(device), Ok(nic)) = ("vd1.0".parse::<IfName>(), "shop".parse::<NicId>()) else { return };
    let (Ok(address), Ok(prefix)) = ("2001:db8::7".parse(), "2001:db8:1::/64".parse()) else { return };
    let boot = Some(Boot6 { files: boot::files(), parameters: vec!["auto".to_owned(); 4] });
    let client =
        Client6 { nic: nic.clone(), mac, addresses: vec![address], delegated: Some(prefix), lent: true, boot };
    let router = LinkRouter {
        address: mac.link_local(),
        default: true,
        mtu: 1500,
        prefixes: Vec::new(),
        shared: false,
        stretched: false,
        routes: vec![prefix],
    };
    let link = ServedLink {
        head: LinkHead {
            router: Some(router),
            dns6: vec![address; 4],
            search: vec!["lan.example".to_owned()],
            names: None,
        },
        nics: [(nic, ServedNic { client6: Some(client), ..ServedNic::default() })].into(),
    };
    let mut server = Server::default();
    server.serve(&device, &link, link.nics.keys());
    server.receive(&device, own, bytes);
    let answers: Vec<_> = std::iter::from_fn(|| server.transmit()).collect();
    assert!(answers.len() <= 1 && answers.iter().all(|frame| frame.bytes[..6] == mac.0));

    let mut advertiser = Advertiser::new(1);
    advertiser.serve(Duration::ZERO, &device, link.router());
    advertiser.opened(Duration::ZERO, &device, own);
    while advertiser.transmit().is_some() {}
    advertiser.receive(Duration::from_secs(1), &device, bytes);
    advertiser.tick(Duration::from_millis(1500));
    let advertisements: Vec<_> = std::iter::from_fn(|| advertiser.transmit()).collect();
    assert!(advertisements.len() <= 1);
    assert!(answers.iter().chain(&advertisements).all(|frame| frame.bytes.len() <= 1514));
});
