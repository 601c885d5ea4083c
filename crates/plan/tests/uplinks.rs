//! Several uplinks on one host.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{config, look};
use viaduct_plan::{Attachments, sim::Host};

#[test]
fn each_uplink_has_its_default_route_and_the_first_is_preferred() {
    let mut host = Host::default();
    for (device, mac) in [("eth0", "52:54:00:00:00:01"), ("eth1", "52:54:00:00:00:02")] {
        host.hardware(&device.parse().unwrap(), Some(mac.parse().unwrap()));
    }
    let config = config(
        "[host]\nname = \"h\"\n[uplinks.a]\ninterface = \"eth1\"\naddresses = [\"203.0.113.2/24\"]\n\
         gateways = [\"203.0.113.1\"]\n[uplinks.b]\ninterface = \"eth0\"\naddresses = [\"192.0.2.2/24\"]\n\
         gateways = [\"192.0.2.1\"]\n",
    );
    let (_, desired, ..) = look(&mut host, &config, &Attachments::new());
    let ways: Vec<(String, u32)> = desired
        .routes
        .iter()
        .filter(|r| r.via.is_some())
        .map(|r| (r.link.as_ref().unwrap().to_string(), r.metric))
        .collect();
    assert_eq!(ways.len(), 2);
    assert!(ways.contains(&("eth1".to_owned(), 0)) && ways.contains(&("eth0".to_owned(), 1)), "{ways:?}");
}
