use std::{
    process::Command,
    time::{Duration, Instant},
};

use viaduct_plan::{Ask, Observe, Op, PROTOCOL, Proxy, Route, RouteKind};
use viaduct_types::MacAddr;

use crate::world::{Guest, World, address, at, bridge, isolated, mac, name, net, up, veth};

fn route(destination: &str, link: Option<&str>, via: Option<&str>) -> Route {
    Route {
        destination: net(destination),
        kind: RouteKind::Unicast,
        link: link.map(name),
        via: via.map(|via| via.parse().unwrap()),
        onlink: false,
        source: None,
        metric: 0,
        protocol: PROTOCOL,
    }
}

#[test]
fn addresses_come_and_go() {
    isolated(|| {
        let mut world = World::new();
        world.apply(&[
            bridge("br0"),
            up("br0"),
            address("br0", "192.0.2.1/24"),
            address("br0", "2001:db8::1/64"),
            address("br0", "fe80::1/64"),
            Op::AddAddress { address: at("br0", "198.51.100.7/32"), scope: 253, protocol: 0 },
        ]);
        let addresses = world.addresses("br0");
        assert_eq!(addresses.len(), 4);
        assert_eq!(addresses[&net("192.0.2.1/24")].protocol, PROTOCOL);
        assert_eq!(addresses[&net("2001:db8::1/64")].protocol, PROTOCOL);
        assert_eq!(addresses[&net("198.51.100.7/32")].scope, 253);
        assert_eq!(addresses[&net("198.51.100.7/32")].protocol, 0);
        assert!(addresses.values().all(|info| !info.dynamic));

        // The same again is no error; the same with another prefix length is.
        world.apply(&[address("br0", "192.0.2.1/24"), address("br0", "2001:db8::1/64")]);
        let text = world.refuse(address("br0", "2001:db8::1/48"));
        assert!(text.contains("there is already 2001:db8::1/64 on br0"), "{text}");

        let delete = |a| Op::DeleteAddress(at("br0", a));
        let gone = ["192.0.2.1/24", "2001:db8::1/64", "fe80::1/64", "198.51.100.7/32"];
        world.apply(&gone.map(delete));
        assert!(world.addresses("br0").is_empty());
        world.apply(&gone.map(delete));
        world.apply(&[Op::DeleteAddress(at("gone", "192.0.2.1/24"))]);
    });
}

#[test]
fn an_ipv6_address_of_ours_can_be_used_at_once() {
    isolated(|| {
        let (mut world, guest) = (World::new(), Guest::new());
        world.apply(&[veth("v0", &guest), up("v0"), address("v0", "2001:db8::1/64")]);
        // Duplicate address detection would hold it back: binding to it would fail.
        std::net::UdpSocket::bind("[2001:db8::1]:0").unwrap();
    });
}

#[test]
fn an_address_moves_to_another_device() {
    isolated(|| {
        let mut world = World::new();
        world.apply(&[bridge("br0"), bridge("br1"), up("br0"), up("br1"), address("br0", "192.0.2.1/24")]);
        world.apply(&[Op::DeleteAddress(at("br0", "192.0.2.1/24")), address("br1", "192.0.2.1/24")]);
        assert!(world.addresses("br0").is_empty());
        assert_eq!(world.addresses("br1").len(), 1);
        let kernels = route("192.0.2.0/24", Some("br1"), None);
        let found =
            world.observe().routes.into_iter().find(|r| r.destination == kernels.destination).unwrap();
        assert_eq!((found.link, found.protocol), (Some(name("br1")), 2));
    });
}

#[test]
fn the_other_addresses_of_a_subnet_stay() {
    isolated(|| {
        let mut world = World::new();
        world.apply(&[bridge("br0"), up("br0")]);
        for key in ["all", "br0"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{key}/promote_secondaries"), "0").unwrap();
        }
        world.apply(&[
            address("br0", "192.0.2.1/24"),
            address("br0", "192.0.2.2/24"),
            address("br0", "192.0.2.3/24"),
        ]);
        world.apply(&[Op::DeleteAddress(at("br0", "192.0.2.1/24"))]);
        assert_eq!(
            world.addresses("br0").into_keys().collect::<Vec<_>>(),
            [net("192.0.2.2/24"), net("192.0.2.3/24")]
        );
        let setting = std::fs::read_to_string("/proc/sys/net/ipv4/conf/br0/promote_secondaries").unwrap();
        assert_eq!(setting.trim(), "0");
    });
}

#[test]
fn routes_of_each_kind_are_seen_as_they_were_made() {
    isolated(|| {
        let mut world = World::new();
        world.apply(&[up("lo"), bridge("br0"), up("br0")]);
        world.apply(&[address("br0", "192.0.2.1/24"), address("br0", "2001:db8::1/64")]);
        let routes = [
            route("203.0.113.7/32", Some("br0"), None),
            route("198.51.100.0/24", Some("br0"), Some("192.0.2.254")),
            Route {
                metric: 50,
                source: Some("192.0.2.1".parse().unwrap()),
                ..route("0.0.0.0/0", Some("br0"), Some("192.0.2.254"))
            },
            Route { onlink: true, ..route("198.18.0.0/15", Some("br0"), Some("169.254.1.1")) },
            route("198.51.101.0/24", Some("br0"), Some("2001:db8::fe")),
            Route { kind: RouteKind::Unreachable, ..route("203.0.113.0/24", None, None) },
            Route { kind: RouteKind::Local, ..route("203.0.113.200/32", Some("lo"), None) },
            Route { metric: 1024, ..route("2001:db8:1::7/128", Some("br0"), None) },
            Route { metric: 1024, ..route("2001:db8:2::/48", Some("br0"), Some("2001:db8::fe")) },
            Route { metric: 9, ..route("::/0", Some("br0"), Some("2001:db8::fe")) },
            Route {
                metric: 1024,
                onlink: true,
                ..route("2001:db8:5::/48", Some("br0"), Some("2001:db8:9::1"))
            },
            Route { metric: 1024, kind: RouteKind::Unreachable, ..route("2001:db8:3::/48", None, None) },
            Route { metric: 1024, kind: RouteKind::Local, ..route("2001:db8:4::1/128", Some("lo"), None) },
        ];
        let add: Vec<_> = routes.iter().cloned().map(Op::AddRoute).collect();
        world.apply(&add);
        let observed = world.observe().routes;
        for route in &routes {
            assert!(observed.contains(route), "{route:?} is not among\n{observed:#?}");
        }
        let ours = observed.iter().filter(|r| r.protocol == PROTOCOL).count();
        assert_eq!(ours, routes.len());

        // Again: the same routes.
        world.apply(&add);
        let delete: Vec<_> = routes.iter().cloned().map(Op::DeleteRoute).collect();
        world.apply(&delete);
        assert_eq!(world.observe().routes.iter().filter(|r| r.protocol == PROTOCOL).count(), 0);
        world.apply(&delete);
        world.apply(&[Op::DeleteRoute(route("198.51.100.0/24", Some("gone"), None))]);
    });
}

#[test]
fn another_ones_route_is_neither_replaced_nor_deleted() {
    isolated(|| {
        let mut world = World::new();
        world.apply(&[bridge("br0"), bridge("br1"), up("br0"), up("br1")]);
        let theirs = Route { protocol: 4, ..route("198.51.100.0/24", Some("br0"), None) };
        world.apply(&[Op::AddRoute(theirs.clone())]);
        let text = world.refuse(Op::AddRoute(route("198.51.100.0/24", Some("br1"), None)));
        assert!(text.contains("there is already route 198.51.100.0/24 → br0 (protocol 4)"), "{text}");
        world.apply(&[Op::DeleteRoute(route("198.51.100.0/24", Some("br0"), None))]);
        assert!(world.observe().routes.contains(&theirs));
    });
}

#[test]
fn what_is_answered_for_outlives_the_carrier() {
    isolated(|| {
        let (mut world, guest) = (World::new(), Guest::new());
        world.apply(&[veth("v0", &guest), up("v0")]);
        let ip = |line: &str| {
            let output = Command::new("ip").args(line.split(' ')).output().unwrap();
            assert!(output.status.success(), "ip {line}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let becomes = |up: bool| {
            let begin = Instant::now();
            while ip("-oneline link show dev v0").contains("state UP") != up {
                assert!(
                    begin.elapsed() < Duration::from_secs(10),
                    "not up: {up}: {}",
                    ip("link show dev v0")
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        guest.run(|| ip("link set eth0 up"));
        becomes(true);
        let proxies =
            ["192.0.2.7", "2001:db8::7"].map(|a| Proxy { link: name("v0"), address: a.parse().unwrap() });
        world.apply(&proxies.clone().map(Op::AddProxy));
        // By then the kernel has forgotten what goes with a carrier.
        guest.run(|| ip("link set eth0 down"));
        becomes(false);
        assert_eq!(world.observe().proxies, proxies.map(|proxy| (proxy, PROTOCOL)).into());
    });
}

#[test]
fn addresses_are_answered_for() {
    isolated(|| {
        let (mut world, guest) = (World::new(), Guest::new());
        world.apply(&[veth("v0", &guest), up("v0")]);
        let proxies =
            ["192.0.2.7", "2001:db8::7"].map(|a| Proxy { link: name("v0"), address: a.parse().unwrap() });
        world.apply(&proxies.clone().map(Op::AddProxy));
        let observed = world.observe().proxies;
        assert_eq!(observed, proxies.clone().map(|proxy| (proxy, PROTOCOL)).into());
        world.apply(&proxies.clone().map(Op::AddProxy));
        world.apply(&proxies.clone().map(Op::DeleteProxy));
        assert!(world.observe().proxies.is_empty());
        world.apply(&proxies.map(Op::DeleteProxy));
    });
}

#[test]
fn a_device_listens_to_further_macs() {
    isolated(|| {
        let (mut world, guest) = (World::new(), Guest::new());
        world.apply(&[veth("v0", &guest), up("v0"), bridge("br0"), up("br0")]);
        let ask = Ask { listening: [name("v0"), name("br0"), name("none")].into(), ..Ask::default() };
        let unicast = |world: &mut World| world.kernel.observe(&ask).unwrap().unicast;
        // Being up it listens to its own and to multicast; neither is extra.
        assert!(unicast(&mut world).is_empty());
        let extra = MacAddr([0, 0x50, 0x56, 0, 1, 2]);
        for link in ["v0", "br0"] {
            world.apply(&[Op::AddUnicast(name(link), extra), Op::AddUnicast(name(link), mac(5))]);
            world.apply(&[Op::AddUnicast(name(link), extra)]);
            assert_eq!(unicast(&mut world), [(name(link), extra), (name(link), mac(5))].into());
            // Whoever is not asked for may have a bridge that has learned any number.
            assert!(world.observe().unicast.is_empty());
            world.apply(&[Op::DeleteUnicast(name(link), extra), Op::DeleteUnicast(name(link), mac(5))]);
            world.apply(&[Op::DeleteUnicast(name(link), extra)]);
            assert!(unicast(&mut world).is_empty());
        }
    });
}

#[test]
fn what_others_made_is_seen() {
    isolated(|| {
        let mut world = World::new();
        world.apply(&[
            bridge("br0"),
            up("br0"),
            address("br0", "192.0.2.1/24"),
            address("br0", "2001:db8::1/64"),
        ]);
        let theirs = [
            "route add 198.51.100.0/24 nexthop via 192.0.2.7 nexthop via 192.0.2.8",
            "route add 2001:db8:7::/48 nexthop via 2001:db8::7 nexthop via 2001:db8::8",
            "route add blackhole 203.0.113.0/24",
            "route add 198.18.0.0/15 dev br0 table 77",
            "address add 192.0.2.9/24 dev br0 valid_lft 3600 preferred_lft 3600",
        ];
        for arguments in theirs {
            let status = std::process::Command::new("ip").args(arguments.split(' ')).status().unwrap();
            assert!(status.success(), "ip {arguments}");
        }
        let observed = world.observe();
        let via = |destination: &str| {
            let found: Vec<_> =
                observed.routes.iter().filter(|r| r.destination == net(destination)).collect();
            found.first().and_then(|r| r.via).map(|via| via.to_string())
        };
        assert_eq!(via("198.51.100.0/24").as_deref(), Some("192.0.2.7"));
        assert_eq!(via("2001:db8:7::/48").as_deref(), Some("2001:db8::7"));
        assert!(
            observed
                .routes
                .iter()
                .all(|r| ![net("203.0.113.0/24"), net("198.18.0.0/15")].contains(&r.destination))
        );
        assert!(observed.addresses[&at("br0", "192.0.2.9/24")].dynamic);
    });
}
