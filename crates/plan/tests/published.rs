//! Where published ports lead.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{config, look};
use viaduct_plan::{
    Attachments,
    nft::{Key, Value},
    sim::Host,
};

/// The guest leaves by a vnet in which another machine is its gateway, and this host has no address.
#[test]
fn a_port_leads_to_an_address_that_this_host_reaches() {
    let mut host = Host::default();
    host.hardware(&"eth0".parse().unwrap(), Some("52:54:00:00:00:01".parse().unwrap()));
    let text = |gateways: &str| {
        format!(
            "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\naddresses = [\"203.0.113.2/24\"]\n\
             [vnets.red]\nid = \"97\"\n\
             [networks.red]\nmode = \"vnet\"\nvnet = \"red\"\nsubnets = [\"10.97.0.0/24\"]\n{gateways}\n\
             [networks.lan]\nmode = \"nat\"\nuplink = \"wan\"\nsubnets = [\"192.168.1.0/24\"]\n\
             [guests.web]\npublish = [\"8080:80/tcp\"]\n\
             [[guests.web.nics]]\nnetwork = \"red\"\naddresses = [\"10.97.0.8\"]\ngateway = \"10.97.0.1\"\n\
             [[guests.web.nics]]\nnetwork = \"lan\"\naddresses = [\"192.168.1.8\"]\n"
        )
    };
    let mut leads = |gateways: &str| {
        let (_, desired, ..) = look(&mut host, &config(&text(gateways)), &Attachments::new());
        let mut tables = desired.nft.tables.into_values();
        let elements =
            tables.find_map(|mut table| Some(table.sets.remove("publish_all4")?.elements)).unwrap();
        elements.into_values().collect::<Vec<_>>()
    };
    let to = |address: &str| vec![Value::Fields(Key::new().ip(address.parse().unwrap()).port(80).first)];
    assert_eq!(leads("gateways = [\"10.97.0.251\"]"), to("10.97.0.8"));
    assert_eq!(leads(""), to("192.168.1.8"));
}
