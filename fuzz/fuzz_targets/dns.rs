//! What guests and other name servers say: a message is answered by one at most, which fits where it goes, and by one
//! question for somebody else at most.
#![no_main]

use std::time::Duration;

use viaduct_plan::ZoneHead;
use viaduct_services::dns::{Asker, Output, Server};
use viaduct_types::{IfName, NetworkName};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (Ok(device), Ok(network)) = ("br-lan".parse::<IfName>(), "lan".parse::<NetworkName>()) else { return };
    let (Ok(prefix), Ok(v4), Ok(v6)) = ("10.0.0.0/24".parse(), "10.0.0.7".parse(), "fd00::7".parse()) else { return };
    let (Ok(peer), Ok(elsewhere)) = ("10.0.0.7:4000".parse(), "127.0.0.53:53".parse()) else { return };
    let Ok(web) = "web".parse() else { return };
    let mut server = Server::default();
    let head = ZoneHead { domain: "lan".to_owned(), alone: true, prefixes: vec![prefix], servers: Vec::new(), host: None };
    server.zone(network.clone(), Some(head));
    server.name(&network, web, [v4, v6].into());
    server.serve(device.clone(), Some(network));
    server.host_servers(vec![elsewhere]);
    let now = Duration::from_secs(1);
    let asker = Asker { device, peer, socket: 1, stream: false };
    server.receive(now, asker.clone(), bytes);
    let outputs: Vec<Output> = std::iter::from_fn(|| server.output()).collect();
    assert!(outputs.len() <= 1);
    for output in outputs {
        match output {
            Output::Answer { bytes, .. } => assert!(bytes.len() <= 1232),
            // The question comes back as if it were the answer, and as it was put together here.
            Output::Ask { exchange, bytes: mut question, .. } => {
                server.heard(now, exchange, bytes);
                question[2] |= 0x80;
                server.heard(now, exchange, &question);
            }
            Output::Over { .. } => unreachable!(),
        }
    }
    // The same from the cache.
    server.receive(now, asker, bytes);
    while server.output().is_some() {}
});
