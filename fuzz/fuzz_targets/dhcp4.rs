//! What guests say to the DHCP server: a frame is answered by few frames, which go to that guest or ask all for its
//! address, and fit any link.
#![no_main]

#[path = "../src/boot.rs"]
mod boot;

use std::time::Duration;

use viaduct_plan::{Boot, Client, ServedLink, ServedNic};
use viaduct_services::dhcp4::Server;
use viaduct_types::{IfName, Ipv4Net, MacAddr, NicId};
use viaduct_wire::BROADCAST;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mac = MacAddr([2, 0, 0, 0, 0x64, 0]);
    let (Ok(device), Ok(nic)) = ("vd1.0".parse::<IfName>(), "shop".parse::<NicId>()) else { return };
    let client = Client {
        nic: nic.clone(),
        mac,
        address: Ipv4Net::new_assert([10, 0, 0, 7].into(), 24),
        lent: true,
        shared: true,
        server: [10, 0, 0, 1].into(),
        router: Some([10, 0, 0, 1].into()),
        dns: vec![[10, 0, 0, 53].into(); 20],
        domain: Some("lan.example".to_owned()),
        mtu: 1500,
        boot: Some(Boot { server: Some([10, 0, 0, 1].into()), files: boot::files() }),
    };
    let mut server = Server::default();
    let mut link = ServedLink::default();
    link.nics.insert(nic, ServedNic { client: Some(client), ..ServedNic::default() });
    server.serve(&device, &link, link.nics.keys());
    server.receive(Duration::ZERO, &device, MacAddr([0xfe, 0, 0, 0, 0x64, 0]), bytes);
    (1..4).for_each(|second| server.tick(Duration::from_secs(second)));
    let mut sent = 0;
    while let Some(frame) = server.transmit() {
        sent += 1;
        assert!(frame.bytes.len() <= 1514 && (frame.bytes[..6] == mac.0 || frame.bytes[..6] == BROADCAST.0));
    }
    assert!(sent <= 3 && server.due().is_none());
});
