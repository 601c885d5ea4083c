//! Where published ports lead.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::IpAddr;

use common::{config, look};
use viaduct_plan::{
    Attachments, Route, RouteKind,
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

/// An address that a guest has is the guest's, but for the ports that others publish there; who has none in the pool of a network
/// with `proxy` is answered for.
#[test]
fn an_address_of_a_guest_is_not_taken_from_it() {
    let mut host = Host::default();
    host.hardware(&"eth0".parse().unwrap(), Some("52:54:00:00:00:01".parse().unwrap()));
    let text = |address: &str| {
        format!(
            "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\naddresses = [\"203.0.113.2/24\"]\n\
             [networks.pub]\nmode = \"routed\"\nuplink = \"wan\"\npool = [\"203.0.113.96/29\", \"198.51.100.28/31\"]\nproxy = true\n\
             [networks.lan]\nmode = \"nat\"\nuplink = \"wan\"\nsubnets = [\"192.168.1.0/24\"]\n\
             [guests.own]\n[[guests.own.nics]]\nnetwork = \"pub\"\naddresses = [\"203.0.113.100\", \"198.51.100.28\"]\n\
             [guests.web]\npublish = [\"{address}:8080:80/tcp\"]\n\
             [[guests.web.nics]]\nnetwork = \"lan\"\naddresses = [\"192.168.1.8\"]\n"
        )
    };
    let mut is_taken = |address: &str| {
        let (_, desired, ..) = look(&mut host, &config(&text(address)), &Attachments::new());
        let ours = |route: &&Route| route.kind == RouteKind::Local;
        let address: IpAddr = address.parse().unwrap();
        let taken = desired.routes.iter().filter(ours).any(|route| route.destination.addr() == address);
        assert_eq!(taken, desired.announced.keys().any(|proxy| proxy.address == address), "{address}");
        taken
    };
    for (address, taken) in [
        ("203.0.113.100", false),
        ("198.51.100.28", false),
        ("203.0.113.10", true),
        ("198.51.100.29", true),
        ("198.51.100.30", false),
    ] {
        assert_eq!(is_taken(address), taken, "{address}");
    }
}
