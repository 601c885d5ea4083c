use std::{
    collections::BTreeMap,
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use viaduct_plan::{
    Apply, GuestChange, GuestRoute, Op, Sysctl,
    nft::{
        Base, Chain, ChainKind, Const, Family, Hook, Rule, Ruleset, Selector, Statement, Table, Verdict, diff,
    },
};

use crate::world::{Guest, World, address, isolated, name, net, up, veth};

/// Two guests with a router between them that tracks what passes.
fn routed(world: &mut World, guests: &[Guest; 2]) {
    let mut ops = Vec::new();
    for (i, guest) in guests.iter().enumerate() {
        let link = format!("v{i}");
        let inside = |change| Op::Guest {
            nic: format!("g{i}.0").parse().unwrap(),
            netns: guest.path(),
            device: name("eth0"),
            change,
        };
        // Without a link-local address the kernel asks for no neighbour on behalf of others (`ndisc_send_ns`).
        ops.extend([veth(&link, guest), up(&link), address(&link, "fe80::1/64")]);
        for (own, all, via) in [
            (format!("10.9.{i}.2/24"), "0.0.0.0/0", format!("10.9.{i}.1")),
            (format!("fd09:{i}::2/64"), "::/0", format!("fd09:{i}::1")),
        ] {
            ops.push(address(&link, &own.replace("2/", "1/")));
            let route = GuestRoute { table: 254, destination: net(all), via: Some(via.parse().unwrap()) };
            ops.extend([
                inside(GuestChange::Up),
                inside(GuestChange::AddAddress { address: net(&own), dad: false }),
                inside(GuestChange::AddRoute(route)),
            ]);
        }
    }
    for family in ["ipv4", "ipv6"] {
        let key = Sysctl::all(family, "forwarding");
        ops.push(Op::SetSysctl { key, value: "1".to_owned(), journal: true });
    }
    world.apply(&ops);
    let rules = "table inet t { chain c { type filter hook forward priority 0; ct state new accept; }; }";
    let status =
        std::process::Command::new("nft").arg(rules).status().expect("nft is needed to switch tracking on");
    assert!(status.success());
}

/// Sends from the first guest to the second and waits until it is there.
fn exchange(guests: &[Guest; 2], family: usize, port: u16) {
    let (any, from, to) =
        [("0.0.0.0", "10.9.0.2", "10.9.1.2"), ("[::]", "[fd09:0::2]", "[fd09:1::2]")][family];
    let receiver = guests[1].run(|| UdpSocket::bind(format!("{any}:{port}")).unwrap());
    receiver.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let sender = guests[0].run(|| UdpSocket::bind(format!("{from}:{}", port + 1000)).unwrap());
    sender.send_to(b"x", format!("{to}:{port}")).unwrap();
    receiver.recv(&mut [0; 8]).unwrap_or_else(|e| panic!("family {family} port {port}: {e}"));
}

#[test]
fn exactly_the_unwanted_flow_ends() {
    isolated(|| {
        let (mut world, guests) = (World::new(), [Guest::new(), Guest::new()]);
        routed(&mut world, &guests);
        for (family, port) in [(0, 5001), (0, 5002), (1, 5001), (1, 5002)] {
            exchange(&guests, family, port);
        }
        let mut flows = world.kernel.flows().unwrap();
        flows.retain(|flow| flow.protocol == 17);
        assert_eq!(flows.len(), 4, "{flows:#?}");
        let flow = flows
            .iter()
            .find(|f| f.original.destination_port == 5001 && f.original.source.is_ipv4())
            .unwrap();
        assert_eq!((flow.original.source, flow.original.source_port), ("10.9.0.2".parse().unwrap(), 6001));
        assert_eq!(flow.reply.source, flow.original.destination);

        let keep = |flow: &viaduct_plan::Flow| flow.original.destination_port != 5001 || flow.protocol != 17;
        world
            .kernel
            .apply(&[Op::EndFlows { then: Vec::new() }], &|_, flow| keep(flow), &mut |_| {})
            .pop()
            .unwrap()
            .unwrap();
        let mut left = world.kernel.flows().unwrap();
        left.retain(|flow| flow.protocol == 17);
        assert_eq!(left.len(), 2, "{left:#?}");
        assert!(left.iter().all(|flow| flow.original.destination_port == 5002));
    });
}

/// What was let through to an address that nobody has waits for whoever comes to it; when flows have ended, it does not.
#[test]
fn packets_that_wait_for_a_neighbour_end_with_their_flows() {
    isolated(|| {
        let (mut world, guests) = (World::new(), [Guest::new(), Guest::new()]);
        routed(&mut world, &guests);
        // The kernel asks for a neighbour three times, a second apart.
        for (ends, patience) in [(false, Duration::from_secs(5)), (true, Duration::from_millis(2_500))] {
            for (any, from, to, length) in
                [("0.0.0.0", "10.9.0.2", "10.9.1", 24), ("[::]", "[fd09:0::2]", "fd09:1:", 64)]
            {
                let last = if ends { 4 } else { 3 };
                let is_ipv6 = to.contains(':');
                let to = if is_ipv6 { format!("{to}:{last}") } else { format!("{to}.{last}") };
                let there = if is_ipv6 { format!("[{to}]:5001") } else { format!("{to}:5001") };
                let receiver = guests[1].run(|| UdpSocket::bind(format!("{any}:5001")).unwrap());
                receiver.set_read_timeout(Some(patience)).unwrap();
                let sender = guests[0].run(|| UdpSocket::bind(format!("{from}:6001")).unwrap());
                sender.send_to(b"x", there).unwrap();
                if ends {
                    world.apply(&[Op::EndFlows { then: Vec::new() }]);
                }
                world.apply(&[Op::Guest {
                    nic: "g1.0".parse().unwrap(),
                    netns: guests[1].path(),
                    device: name("eth0"),
                    change: GuestChange::AddAddress { address: net(&format!("{to}/{length}")), dad: false },
                }]);
                assert_eq!(receiver.recv(&mut [0; 8]).is_ok(), !ends, "{to}");
            }
        }
    });
}

/// A packet that the old filter has let through, and that is on its way while the new one comes, makes a flow.
#[test]
fn no_flow_comes_up_behind_those_who_end_them() {
    isolated(|| {
        let (mut world, guests) = (World::new(), [Guest::new(), Guest::new()]);
        routed(&mut world, &guests);
        exchange(&guests, 0, 5001);
        let filter = |rules: &[Rule]| {
            let base = Base { kind: ChainKind::Filter, hook: Hook::Forward, priority: 1, device: None };
            let chain = Chain { base: Some(base), rules: rules.to_vec() };
            let table = Table { chains: BTreeMap::from([("c".to_owned(), chain)]), ..Table::default() };
            Ruleset { tables: BTreeMap::from([(Family::Inet, table)]) }
        };
        let refused = Statement::Is(Selector::ThDport, Const::be16(7000, "7000"));
        let (open, shut) =
            (filter(&[]), filter(&[Rule::new(vec![refused, Statement::Verdict(Verdict::Drop)])]));
        world.apply(&[Op::Nft(diff(&Ruleset::default(), &open))]);
        // Between the hook that lets a packet through and the tracking of its flow its way is long.
        let (long, longer) = ("ip daddr 192.0.2.1 counter; ".repeat(1000), "jump l; ".repeat(50));
        let rules = format!(
            "table inet l {{ chain l {{ {long} }}; chain p {{ type filter hook postrouting priority 0; {longer} }}; }}"
        );
        let mut nft = std::process::Command::new("nft")
            .args(["-f", "-"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut nft.stdin.take().unwrap(), rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success());
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                guests[0].run(|| {
                    // Each packet is a flow of its own.
                    let sockets: Vec<_> = (0..400).map(|_| UdpSocket::bind("10.9.0.2:0").unwrap()).collect();
                    while !ended.load(Ordering::Relaxed) {
                        for socket in &sockets {
                            let _ = socket.send_to(b"x", "10.9.1.2:7000");
                        }
                    }
                });
            });
            let (mut flows, mut late) = (0, 0);
            // A machine may be slow: until there were flows enough to end.
            let begin = Instant::now();
            for round in 0.. {
                if round >= 60 && (flows > 100 || begin.elapsed() > Duration::from_secs(60)) {
                    break;
                }
                thread::sleep(Duration::from_millis(5));
                let ours = |flow: &viaduct_plan::Flow| flow.original.destination_port != 7000;
                flows += world.kernel.flows().unwrap().iter().filter(|flow| !ours(flow)).count();
                let steps = [Op::Nft(diff(&open, &shut)), Op::EndFlows { then: Vec::new() }];
                let results = world.kernel.apply(&steps, &|_, flow| ours(flow), &mut |_| {});
                results.into_iter().for_each(|result| result.unwrap());
                late += world.kernel.flows().unwrap().iter().filter(|flow| !ours(flow)).count();
                world.apply(&[Op::Nft(diff(&shut, &open))]);
            }
            ended.store(true, Ordering::Relaxed);
            assert!(flows > 100, "{flows}");
            assert_eq!(late, 0, "flows that nobody let through");
        });
    });
}

#[test]
fn a_network_that_nobody_tracks_has_no_flows() {
    isolated(|| {
        let mut world = World::new();
        assert!(world.kernel.flows().unwrap().is_empty());
        world.apply(&[Op::EndFlows { then: Vec::new() }]);
    });
}
