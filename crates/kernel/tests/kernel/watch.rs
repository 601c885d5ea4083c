use std::{
    fmt::Write as _,
    io::Write,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, poll};
use viaduct_kernel::{By, Event, Ports, Watch, What};
use viaduct_plan::{Op, PROTOCOL, Route, RouteKind, Sysctl, nft};

use crate::world::{Guest, World, address, bridge, isolated, mac, name, net, up, veth};

/// The machine may be slow, the kernel is not.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than the kernel waits before it tells that a carrier came (`linkwatch_schedule_work`).
const QUIET: Duration = Duration::from_millis(1500);

fn is_ready(watch: &Watch, patience: Duration) -> bool {
    let mut fds = [PollFd::new(watch, PollFlags::IN)];
    poll(&mut fds, Some(&patience.try_into().unwrap())).unwrap() > 0
}

/// Everything up to the event about this object.
#[track_caller]
fn hear(watch: &mut Watch, own: &Ports, object: &str) -> Vec<Event> {
    let (begin, mut heard) = (Instant::now(), Vec::new());
    while begin.elapsed() < PATIENCE {
        is_ready(watch, PATIENCE);
        heard.extend(watch.drain(own).unwrap());
        if heard.iter().any(|event: &Event| event.object == object) {
            return heard;
        }
    }
    panic!("nothing of {object}: {heard:#?}");
}

/// The event about this object.
#[track_caller]
fn hear_of(watch: &mut Watch, object: &str) -> Event {
    hear(watch, &Ports::default(), object).into_iter().rfind(|event| event.object == object).unwrap()
}

/// Until there was nothing for a while.
fn settle(watch: &mut Watch) {
    while is_ready(watch, QUIET) {
        watch.drain(&Ports::default()).unwrap();
    }
}

#[track_caller]
fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command}");
}

/// A program that reads commands, and lives until its input ends.
fn start(command: &[&str], input: &str) -> Child {
    let mut child = Command::new(command[0]).args(&command[1..]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(input.as_bytes()).unwrap();
    child
}

#[track_caller]
fn end(mut child: Child) {
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

fn route(destination: &str, link: &str) -> Op {
    Op::AddRoute(Route {
        destination: net(destination),
        kind: RouteKind::Unicast,
        link: Some(name(link)),
        via: None,
        onlink: false,
        source: None,
        metric: 0,
        protocol: PROTOCOL,
    })
}

fn table() -> Op {
    Op::Nft(vec![nft::Change::AddTable(nft::Family::Inet, nft::Table::default())])
}

#[test]
fn each_kind_of_change_is_heard_of() {
    isolated(|| {
        let mut watch = Watch::open().unwrap();
        assert!(watch.blind_to_settings().is_none());
        for (command, what, removed, object) in [
            ("ip link add vd0 type veth peer name vd1", What::Link, false, "link vd0"),
            ("ip link add br0 type bridge", What::Link, false, "link br0"),
            ("ip link set vd0 master br0", What::Link, false, "bridge port vd0"),
            ("ip link set vd1 up", What::Link, false, "link vd1"),
            ("ip link set br0 up", What::Link, false, "link br0"),
            ("bridge link set dev vd0 isolated on", What::Link, false, "bridge port vd0"),
            ("ip link set br0 mtu 1400", What::Link, false, "link br0"),
            ("ip address add 192.0.2.1/24 dev br0", What::Address, false, "address 192.0.2.1/24 on br0"),
            ("ip address add 2001:db8::1/64 dev br0", What::Address, false, "address 2001:db8::1/64 on br0"),
            ("ip route add 198.51.100.7 dev br0", What::Route, false, "route 198.51.100.7 → br0"),
            ("ip route del 198.51.100.7 dev br0", What::Route, true, "route 198.51.100.7 → br0"),
            (
                "ip -6 route add 2001:db8:5::/64 via 2001:db8::9 dev br0 table 7",
                What::Route,
                false,
                "route 2001:db8:5::/64 → 2001:db8::9 on br0 in table 7",
            ),
            // One that the kernel made.
            ("ip route del 192.0.2.0/24 dev br0", What::Route, true, "route 192.0.2.0/24 → br0"),
            ("ip route add unreachable 10.0.0.0/8", What::Route, false, "route 10.0.0.0/8 → unreachable"),
            ("ip rule add from 10.0.0.0/8 priority 9 table 7", What::Rule, false, "routing rule 9 of ipv4"),
            ("ip -6 rule del priority 32766 table main", What::Rule, true, "routing rule 32766 of ipv6"),
            (
                "ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev br0 nud permanent",
                What::Neighbour,
                false,
                "neighbour 192.0.2.9 on br0",
            ),
            ("ip neigh del 192.0.2.9 dev br0", What::Neighbour, true, "neighbour 192.0.2.9 on br0"),
            (
                "bridge fdb add 02:00:00:00:00:77 dev vd1 self permanent",
                What::Neighbour,
                false,
                "forwarding entry 02:00:00:00:00:77 on vd1",
            ),
            (
                "bridge fdb del 02:00:00:00:00:77 dev vd1 self permanent",
                What::Neighbour,
                true,
                "forwarding entry 02:00:00:00:00:77 on vd1",
            ),
            ("nft add table inet t", What::Filter, false, "table inet t"),
            ("nft add chain inet t c", What::Filter, false, "chain c in table inet t"),
            ("nft add rule inet t c accept", What::Filter, false, "rules of chain c in table inet t"),
            ("nft add set inet t s { type ipv4_addr ; }", What::Filter, false, "set s in table inet t"),
            (
                "nft add element inet t s { 192.0.2.1 }",
                What::Filter,
                false,
                "elements of set s in table inet t",
            ),
            ("nft flush set inet t s", What::Filter, true, "elements of set s in table inet t"),
            ("nft flush chain inet t c", What::Filter, true, "rules of chain c in table inet t"),
            ("nft delete table inet t", What::Filter, true, "table inet t"),
            ("sysctl -w net.ipv4.ip_forward=1", What::Sysctl, false, "sysctl net/ipv4/conf/br0/forwarding"),
            (
                "sysctl -w net.ipv4.conf.br0.proxy_arp=1",
                What::Sysctl,
                false,
                "sysctl net/ipv4/conf/br0/proxy_arp",
            ),
            (
                "sysctl -w net.ipv6.neigh.br0.proxy_delay=0",
                What::Sysctl,
                false,
                "sysctl net/ipv6/neigh/br0/proxy_delay",
            ),
            ("ip link set vd0 nomaster", What::Link, true, "bridge port vd0"),
            // Old kernels rename no link that is up.
            ("ip link set vd1 down", What::Link, false, "link vd1"),
            ("ip link set vd1 name vd9", What::Link, false, "link vd9"),
            ("ip link del vd9", What::Link, true, "link vd9"),
        ] {
            run(command);
            let event = hear_of(&mut watch, object);
            assert_eq!((event.what, event.removed), (what, removed), "{command}: {event:?}");
            assert!(!event.ours, "{command}: {event:?}");
            // The program has ended, but nf_tables tells its name.
            match event.by {
                By::Process(culprit) => assert_eq!((what, culprit.program.as_str()), (What::Filter, "nft")),
                By::Somebody => assert!(command.starts_with("ip ") || what == What::Sysctl, "{command}"),
                By::Untold => {
                    let untold = [What::Link, What::Neighbour].contains(&what) || object.contains("2001:");
                    assert!(untold, "{command}");
                }
            }
        }
    });
}

#[test]
fn a_program_that_still_runs_is_named_with_its_parent() {
    isolated(|| {
        let mut watch = Watch::open().unwrap();
        run("ip link set lo up");
        let parent = std::fs::read_to_string("/proc/self/comm").unwrap();
        for (command, input, object) in [
            (&["ip", "-batch", "-"][..], "route add 198.51.100.0/24 dev lo\n", "route 198.51.100.0/24 → lo"),
            (&["nft", "-i"], "add table ip t\n", "table ip t"),
            (
                &["sh"],
                "echo 0 >/proc/sys/net/ipv4/conf/lo/send_redirects\n",
                "sysctl net/ipv4/conf/lo/send_redirects",
            ),
        ] {
            let child = start(command, input);
            let By::Process(culprit) = hear_of(&mut watch, object).by else { panic!("{object}") };
            assert_eq!((culprit.pid, culprit.program.as_str()), (child.id(), command[0]));
            assert_eq!(culprit.parent.as_deref(), Some(parent.trim_end()));
            end(child);
        }
    });
}

#[test]
fn who_only_has_the_same_number_is_not_blamed() {
    isolated(|| {
        let mut watch = Watch::open().unwrap();
        run("ip link set lo up");
        // In a container it is the first process, as on the machine the one that started it is.
        let command = ["unshare", "--pid", "--fork", "ip", "-batch", "-"];
        let container = start(&command, "route add 198.51.100.0/24 dev lo\n");
        assert_eq!(hear_of(&mut watch, "route 198.51.100.0/24 → lo").by, By::Somebody);
        end(container);
    });
}

#[test]
fn marks_are_seen() {
    isolated(|| {
        let (mut world, mut watch) = (World::new(), Watch::open().unwrap());
        world.apply(&[bridge("br0"), up("br0"), address("br0", "192.0.2.1/24")]);
        world.apply(&[route("198.51.100.0/24", "br0"), route("2001:db8:9::/64", "br0"), table()]);
        let heard = hear(&mut watch, &Ports::default(), "table inet viaduct");
        for object in [
            "link br0",
            "address 192.0.2.1/24 on br0",
            "route 198.51.100.0/24 → br0",
            "route 2001:db8:9::/64 → br0",
            "table inet viaduct",
        ] {
            let event = heard.iter().find(|event| event.object == object);
            assert!(event.is_some_and(|event| event.ours), "{object}: {heard:#?}");
        }
    });
}

#[test]
fn our_own_doing_is_left_out() {
    isolated(|| {
        let (mut world, mut watch) = (World::new(), Watch::open().unwrap());
        let own = world.kernel.port_ids();
        let forwarding = Sysctl::all("ipv6", "forwarding");
        let sysctl = |key: &Sysctl| Op::SetSysctl { key: key.clone(), value: "1".to_owned(), journal: false };
        world.apply(&[
            bridge("br0"),
            up("br0"),
            address("br0", "192.0.2.1/24"),
            route("198.51.100.0/24", "br0"),
            route("2001:db8:9::/64", "br0"),
            table(),
            sysctl(&forwarding),
            sysctl(&Sysctl::ipv4(&name("br0"), "proxy_arp")),
        ]);
        run("nft add table inet last");
        let heard = hear(&mut watch, &own, "table inet last");
        let others: Vec<_> = heard.iter().filter(|event| event.by != By::Untold).collect();
        assert_eq!(others.iter().map(|event| event.object.as_str()).collect::<Vec<_>>(), ["table inet last"]);
        // Of these the kernel does not tell.
        let untold = heard.iter().filter(|event| event.by == By::Untold);
        for event in untold {
            let what = [What::Link, What::Address, What::Neighbour].contains(&event.what);
            assert!(what && event.object != "address 192.0.2.1/24 on br0", "{event:?}");
        }
    });
}

#[test]
fn another_namespace_is_not_heard() {
    isolated(|| {
        let (mut watch, guest) = (Watch::open().unwrap(), Guest::new());
        guest.run(|| run("sysctl -w net.ipv4.conf.lo.send_redirects=0"));
        run("sysctl -w net.ipv4.conf.lo.accept_redirects=0");
        let heard = hear(&mut watch, &Ports::default(), "sysctl net/ipv4/conf/lo/accept_redirects");
        assert!(heard.iter().all(|event| !event.object.ends_with("send_redirects")), "{heard:#?}");
        // The same setting in this one, through another mount and under another path.
        let mount = "mount --bind /proc /mnt && echo 1 >/mnt/sys/net/ipv4/conf/lo/send_redirects";
        let status = Command::new("unshare").args(["--mount", "sh", "-c", mount]).status().unwrap();
        assert!(status.success());
        hear_of(&mut watch, "sysctl net/ipv4/conf/lo/send_redirects");
        // Of what goes through another instance of procfs only rtnetlink tells.
        let mount = "mount -t proc proc /mnt && echo 2 >/mnt/sys/net/ipv4/conf/lo/rp_filter";
        let status = Command::new("unshare").args(["--mount", "sh", "-c", mount]).status().unwrap();
        assert!(status.success());
        assert_eq!(hear_of(&mut watch, "sysctl net/ipv4/conf/lo/rp_filter").by, By::Untold);
    });
}

#[test]
fn only_the_kernel_is_believed() {
    isolated(|| {
        let mut watch = Watch::open().unwrap();
        let mut liar = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE).unwrap();
        liar.bind_auto().unwrap();
        // RTM_NEWADDR, of IPv4, 24 bits, on the first device; IFA_LOCAL.
        let [length, device] = [32_u32, 1].map(u32::to_ne_bytes);
        let [kind, attribute, local] = [20_u16, 8, 2].map(u16::to_ne_bytes);
        let address = [192, 0, 2, 66];
        let forged =
            [&length[..], &kind, &[0; 10], &[2, 24, 0, 0], &device, &attribute, &local, &address].concat();
        // To RTNLGRP_IPV4_IFADDR.
        let group = netlink_sys::SocketAddr::new(0, 1 << 4);
        assert_eq!(liar.send_to(&forged, &group, 0).unwrap(), forged.len());
        assert_ne!(waiting(), ["0"]);
        run("ip address add 192.0.2.1/24 dev lo");
        let heard = hear(&mut watch, &Ports::default(), "address 192.0.2.1/24 on lo");
        assert_eq!(heard.len(), 1, "{heard:#?}");
    });
}

/// What waits in the sockets of this namespace that listen to rtnetlink.
fn waiting() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    let fields = table.lines().skip(1).map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    fields.filter(|f| f[1] == "0" && f[3] != "00000000").map(|f| f[4].to_owned()).collect()
}

#[test]
fn what_packets_teach_a_bridge_does_not_wake_anybody() {
    isolated(|| {
        let (mut world, guest) = (World::new(), Guest::new());
        // It would look for duplicates of its addresses, and tell when there were none.
        run("sysctl -w net.ipv6.conf.default.disable_ipv6=1");
        world.apply(&[bridge("br0"), veth("vd0", &guest)]);
        run("ip link set vd0 master br0");
        world.apply(&[up("br0"), up("vd0")]);
        guest.run(|| run("ip link set eth0 up"));
        let mut watch = Watch::open().unwrap();
        settle(&mut watch);
        let stranger = mac(99);
        let announce =
            Op::Announce { link: name("eth0"), address: "192.0.2.7".parse().unwrap(), mac: Some(stranger) };
        guest.run(|| World::new().apply(&[announce]));
        let learned = || {
            let output = Command::new("bridge").args(["fdb", "show", "br", "br0"]).output().unwrap();
            String::from_utf8(output.stdout).unwrap().contains(&stranger.to_string())
        };
        let begin = Instant::now();
        while !learned() {
            assert!(begin.elapsed() < PATIENCE, "the bridge learned nothing");
        }
        assert_eq!(waiting(), ["0"]);
        run(&format!("bridge fdb replace {stranger} dev vd0 master static"));
        run(&format!("bridge fdb replace {stranger} dev br0 self local"));
        hear_of(&mut watch, &format!("forwarding entry {stranger} on br0"));
    });
}

#[test]
fn a_storm_is_drained_at_once_and_in_few_words() {
    const STORM: u32 = 10_000;
    isolated(|| {
        let mut watch = Watch::open().unwrap();
        run("ip link set lo up");
        let (mut one, mut many) = (String::new(), String::new());
        for i in 0..STORM {
            writeln!(one, "link set lo mtu {}", 1300 + i % 2).unwrap();
            writeln!(many, "route add 10.{}.{}.0/24 dev lo", i / 250, i % 250).unwrap();
        }
        // Half of it at a time: all of it would not fit into the socket.
        let (first, second) = one.split_at(one.len() / 2);
        end(start(&["ip", "-batch", "-"], first));
        let mut heard = watch.drain(&Ports::default()).unwrap();
        end(start(&["ip", "-batch", "-"], second));
        heard.extend(watch.drain(&Ports::default()).unwrap());
        let links: Vec<_> = heard.iter().filter(|event| event.object == "link lo").collect();
        assert_eq!(links.len(), 2, "{heard:#?}");
        assert!(heard.iter().all(|event| event.what != What::Lost), "{heard:#?}");

        end(start(&["ip", "-batch", "-"], &many));
        let begin = Instant::now();
        let heard = watch.drain(&Ports::default()).unwrap();
        println!("{STORM} routes drained in {:?}", begin.elapsed());
        assert!(heard.len() < 1100, "{}", heard.len());
        assert_eq!(heard.last().unwrap().what, What::Lost);
        // Nothing is left of it.
        assert!(watch.drain(&Ports::default()).unwrap().is_empty());
    });
}

#[test]
fn an_overrun_is_told_once_and_hearing_goes_on() {
    isolated(|| {
        let mut watch = Watch::open().unwrap();
        run("ip link set lo up");
        let storm: String = (0..30_000).map(|i| format!("link set lo mtu {}\n", 1300 + i % 2)).collect();
        end(start(&["ip", "-batch", "-"], &storm));
        let heard = watch.drain(&Ports::default()).unwrap();
        let lost = heard.iter().filter(|event| event.what == What::Lost);
        assert_eq!(lost.count(), 1, "{heard:#?}");
        run("ip route add 198.51.100.0/24 dev lo");
        let heard = hear(&mut watch, &Ports::default(), "route 198.51.100.0/24 → lo");
        assert!(heard.iter().all(|event| event.what != What::Lost), "{heard:#?}");
    });
}
