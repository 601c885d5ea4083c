//! Where published ports lead.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{collections::BTreeSet, net::IpAddr};

use common::{config, look};
use viaduct_plan::{
    Attachments, Route, RouteKind,
    nft::{Family, Key, Value},
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

/// Who has another way out than the network that a port leads to, or none, is asked with the host's own address there.
#[test]
fn a_port_leads_with_the_hosts_address_to_who_answers_elsewhere() {
    let mut host = Host::default();
    for (device, mac) in [("eth0", "52:54:00:00:00:01"), ("eth1", "52:54:00:00:00:02")] {
        host.hardware(&device.parse().unwrap(), Some(mac.parse().unwrap()));
    }
    let text = "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\naddresses = [\"203.0.113.2/24\"]\n\
         [networks.flat]\nmode = \"bridged\"\nuplink = \"wan\"\n\
         [networks.pub]\nmode = \"routed\"\nuplink = \"wan\"\npool = [\"198.51.100.0/28\"]\n\
         [networks.lan]\nmode = \"nat\"\nuplink = \"wan\"\nsubnets = [\"10.0.0.0/24\", \"fd00::/64\"]\n\
         [networks.island]\nmode = \"isolated\"\nsubnets = [\"10.1.0.0/24\"]\n\
         [namespaces.web]\n[[namespaces.web.interfaces]]\nname = \"m0\"\ntype = \"macvlan\"\nparent = \"eth1\"\n\
         addresses = [\"192.0.2.9/24\"]\ngateways = [\"192.0.2.1\"]\n\
         [[namespaces.web.interfaces]]\nname = \"c0\"\ntype = \"veth\"\nnetwork = \"lan\"\naddresses = [\"10.0.0.2\", \"fd00::2\"]\n\
         [guests.in-web]\nnamespace = \"web\"\npublish = [\"80:80\"]\n\
         [guests.plain]\npublish = [\"81:80\"]\n\
         [[guests.plain.nics]]\nnetwork = \"lan\"\naddresses = [\"10.0.0.3\", \"fd00::3\"]\n\
         [guests.turned]\npublish = [\"82:80\"]\n\
         [[guests.turned.nics]]\nnetwork = \"lan\"\naddresses = [\"10.0.0.4\", \"fd00::4\"]\ngateway = \"10.0.0.3\"\n\
         [guests.outside]\npublish = [\"83:80\"]\n\
         [[guests.outside.nics]]\nnetwork = \"flat\"\naddresses = [\"203.0.113.5/24\"]\ngateway = \"203.0.113.1\"\n\
         [[guests.outside.nics]]\nnetwork = \"lan\"\naddresses = [\"10.0.0.5\"]\n\
         [guests.alone]\npublish = [\"84:80\"]\n\
         [[guests.alone.nics]]\nnetwork = \"island\"\naddresses = [\"10.1.0.6\"]\n\
         [guests.own]\npublish = [\"85:80\"]\n\
         [[guests.own.nics]]\nnetwork = \"pub\"\naddresses = [\"198.51.100.7\"]\n\
         [[guests.own.nics]]\nnetwork = \"lan\"\naddresses = [\"10.0.0.7\", \"fd00::7\"]\n\
         [guests.silent]\n[[guests.silent.nics]]\nnetwork = \"island\"\naddresses = [\"10.1.0.8\"]\n";
    let (_, desired, ..) = look(&mut host, &config(text), &Attachments::new());
    let inet = &desired.nft.tables[&Family::Inet];
    let away = |set: &str| inet.sets[set].elements.keys().cloned().collect::<BTreeSet<Key>>();
    let keys = |addresses: &[&str]| {
        addresses.iter().map(|a| Key::new().ip(a.parse().unwrap())).collect::<BTreeSet<Key>>()
    };
    assert_eq!(away("away4"), keys(&["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.1.0.6"]));
    assert_eq!(away("away6"), keys(&[]));
    assert!(inet.sets["away_on_link4"].elements.is_empty() && inet.sets["away_on_link6"].elements.is_empty());
}

/// On a link of its own, that is an address to which the namespace has a way there, and none by which the world knows the host.
#[test]
fn a_port_leads_by_a_link_with_an_address_that_is_answered_there() {
    let mut host = Host::default();
    for (device, mac) in [("eth0", "52:54:00:00:00:01"), ("eth1", "52:54:00:00:00:02")] {
        host.hardware(&device.parse().unwrap(), Some(mac.parse().unwrap()));
    }
    let text = |gateways: &str, routes: &str| {
        format!(
            "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\naddresses = [\"203.0.113.2/24\"]\n\
             [networks.pub]\nmode = \"routed\"\nuplink = \"wan\"\npool = [\"198.51.100.0/28\", \"2001:db8:1::/64\"]\n\
             [namespaces.web]\n[[namespaces.web.interfaces]]\nname = \"m0\"\ntype = \"macvlan\"\nparent = \"eth1\"\n\
             addresses = [\"192.0.2.9/24\", \"2001:db8:2::9/64\"]\ngateways = [{gateways}]\n\
             [[namespaces.web.interfaces]]\nname = \"c0\"\ntype = \"veth\"\nnetwork = \"pub\"\n\
             addresses = [\"198.51.100.2\", \"198.51.100.3\", \"2001:db8:1::2\"]\n{routes}\
             [guests.in-web]\nnamespace = \"web\"\npublish = [\"80:80\"]\n"
        )
    };
    let mut asked = |gateways: &str, routes: &str| {
        let config = config(&text(gateways, routes));
        let (_, desired, ..) = look(&mut host, &config, &viaduct_plan::attached_namespaces(&config));
        let inet = &desired.nft.tables[&Family::Inet];
        let by: Vec<(Key, Value)> = ["away_on_link4", "away_on_link6"]
            .iter()
            .flat_map(|map| inet.sets[*map].elements.clone())
            .collect();
        let guest = desired.guests.into_values().find(|guest| guest.device.as_str() == "c0").unwrap();
        let routes = guest.routes.into_iter().map(|route| {
            format!("{} {}", route.destination, route.via.map(|via| via.to_string()).unwrap_or_default())
        });
        (by, routes.collect::<Vec<_>>())
    };
    let key = |address: &str| Key::new().ip(address.parse().unwrap());
    let pair = |from: &str, to: &str| (key(from), Value::Fields(key(to).first));
    let (v4, v6) = (pair("198.51.100.2", "169.254.1.1"), pair("2001:db8:1::2", "64:ff9b:1::a9fe:101"));
    let (to4, to6) = ("169.254.1.1/32 ".to_owned(), "64:ff9b:1::a9fe:101/128 fe80::1".to_owned());
    let (out4, out6) = ("0.0.0.0/0 169.254.1.1".to_owned(), "::/0 fe80::1".to_owned());
    let both = "\"192.0.2.1\", \"2001:db8:2::1\"";
    assert_eq!(asked(both, ""), (vec![v4.clone(), v6.clone()], vec![to4.clone(), to6.clone()]));
    assert_eq!(asked("\"192.0.2.1\"", ""), (vec![v4.clone()], vec![to4.clone(), out6.clone()]));
    // Who leaves by the link sees who asks.
    assert_eq!(asked("", ""), (vec![], vec![out4, out6]));
    // What is written stays.
    let written = "routes = [\"169.254.1.1 via 169.254.1.1\"]\n";
    assert_eq!(asked(both, written), (vec![v4, v6], vec!["169.254.1.1/32 169.254.1.1".to_owned(), to6]));
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
