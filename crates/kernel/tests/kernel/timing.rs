use std::time::{Duration, Instant};

use viaduct_plan::{
    Ask, GuestChange, GuestRoute, LinkChange, NewLink, Observe, Op, PROTOCOL, Route, RouteKind, Sysctl,
};

use crate::world::{Guest, World, isolated, mac, name, net, set, up};

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
                    destination: net(&format!("10.200.{}.{}/32", i / 250, i % 250)),
                    via: None,
                })),
            ]);
            guests.insert(nic.clone(), (guest.path(), peer.clone()));
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

fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}
