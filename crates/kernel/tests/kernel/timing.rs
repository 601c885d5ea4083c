use std::time::{Duration, Instant};

use viaduct_plan::{
    Ask, GuestChange, GuestRoute, Inside, LinkChange, NewLink, Observe, Op, PROTOCOL, Route, RouteKind,
    Sysctl,
};

use crate::world::{Guest, World, isolated, mac, name, net, set, up, veth};

/// Printed, not judged: machines differ.
#[test]
fn a_thousand_routed_guests() {
    const GUESTS: u32 = 1000;
    isolated(|| {
        let (mut world, guest) = (World::new(), Guest::new());
        let mut stages: [Vec<Op>; 4] = Default::default();
        let (mut names, mut guests) = (Vec::new(), std::collections::BTreeMap::new());
        for i in 0..GUESTS {
            let (link, peer) = (name(&format!("veth{i}.0")), name(&format!("eth{i}")));
            let address = net(&format!("10.{}.{}.2/32", i / 250, i % 250));
            stages[0].push(Op::AddLink {
                name: link.clone(),
                link: NewLink::Veth { netns: guest.path(), peer: peer.clone(), peer_mac: mac(1) },
                alias: format!("viaduct:nic:g{i}.0"),
                mac: None,
                mtu: Some(1500),
            });
            stages[1].push(Op::SetSysctl {
                key: Sysctl::ipv4(&link, "proxy_arp"),
                value: "1".to_owned(),
                journal: false,
            });
            stages[1].push(up(link.as_str()));
            stages[2].push(Op::AddRoute(Route {
                destination: address,
                kind: RouteKind::Unicast,
                link: Some(link.clone()),
                via: None,
                onlink: false,
                source: None,
                metric: 0,
                protocol: PROTOCOL,
            }));
            let nic: viaduct_types::NicId = format!("g{i}.0").parse().unwrap();
            let inside =
                |change| Op::Guest { nic: nic.clone(), netns: guest.path(), device: peer.clone(), change };
            stages[3].extend([
                inside(GuestChange::Up),
                inside(GuestChange::AddAddress { address, dad: false }),
                inside(GuestChange::AddRoute(GuestRoute {
                    table: 254,
                    destination: net(&format!("10.200.{}.{}/32", i / 250, i % 250)),
                    via: None,
                })),
            ]);
            guests.insert(nic.clone(), Inside { path: guest.path(), inode: None, device: peer.clone() });
            names.push(link);
        }
        for (stage, ops) in ["links", "sysctls and up", "routes", "inside"].iter().zip(&stages) {
            println!("{GUESTS} guests, {stage}: {:?}", time(|| world.apply(ops)));
        }
        println!("{GUESTS} links observed: {:?}", time(|| drop(world.observe())));
        let ask = Ask { guests, ..Ask::default() };
        println!("{GUESTS} guests observed: {:?}", time(|| drop(world.kernel.observe(&ask).unwrap())));
        println!("{GUESTS} links away: {:?}", time(|| world.apply(&[Op::DeleteLinks(names.clone())])));

        let all: Vec<Op> = stages.into_iter().flatten().collect();
        println!("{GUESTS} guests in one apply: {:?}", time(|| world.apply(&all)));
        world.apply(&[set("veth0.0", LinkChange::Up(false))]);
        println!("{GUESTS} links away again: {:?}", time(|| world.apply(&[Op::DeleteLinks(names.clone())])));
    });
}

/// Each in a namespace of its own; the first look opens a socket in every one.
#[test]
fn guests_in_namespaces_of_their_own() {
    isolated(|| {
        let mut world = World::new();
        let guests: Vec<_> = (0..100).map(|_| Guest::new()).collect();
        let links: Vec<_> =
            guests.iter().enumerate().map(|(i, guest)| veth(&format!("v{i}"), guest)).collect();
        println!("{} namespaces, links: {:?}", guests.len(), time(|| world.apply(&links)));
        let asked = |(i, guest): (usize, &Guest)| {
            (
                format!("g{i}.0").parse().unwrap(),
                Inside { path: guest.path(), inode: None, device: name("eth0") },
            )
        };
        let ask = Ask { guests: guests.iter().enumerate().map(asked).collect(), ..Ask::default() };
        for look in ["first", "second"] {
            let took = time(|| {
                let seen = world.kernel.observe(&ask).unwrap().guests;
                assert!(seen.len() == guests.len() && seen.values().all(|guest| guest.link.is_some()));
            });
            println!("{} namespaces, {look} look: {took:?}", guests.len());
        }
        println!("sockets closed: {:?}", time(|| drop(world.observe())));
    });
}

fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}
