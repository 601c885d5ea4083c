//! Two hosts of a vnet, of which one has a firewall of another program: what of it cuts guests off from each other is found
//! and mended, with packets before and after.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;
use support::{CONFIG, Daemon, World, doctor::of_kind, host};

/// The other host's way in and its files. Its processes are this test's: they end with it.
const OTHER: &str = "nsenter --net=/run/netns/outside /run/bin/viaduct --config /run/other/viaduct.toml \
                     --state-dir /run/other/state --run-dir /run/other/run";

struct Running {
    _daemon: Daemon,
    other: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.other.kill();
        let _ = self.other.wait();
    }
}

/// The file of a host with a guest in the vnet.
fn file(more: &str, vnet: &str, peer: &str, key: &str, guest: &str, number: u8) -> String {
    format!(
        "[host]\nname = \"host-of-{guest}\"\n[uplinks.wan]\ninterface = \"eth0\"\n{more}\n[peers.peer]\n{peer}\nkey = \"{key}\"\n\
         [vnets.red]\nid = \"97\"\npeers = [\"peer\"]\n{vnet}\n\
         [networks.red]\nmode = \"vnet\"\nvnet = \"red\"\nsubnets = [\"10.97.0.0/24\", \"fd97::/64\"]\n\
         [guests.{guest}]\n[[guests.{guest}.nics]]\nnetwork = \"red\"\naddresses = [\"10.97.0.{number}\", \"fd97::{number}\"]\n"
    )
}

/// Both hosts with their guests, and their daemons. What each knows of the other's place.
fn hosts(world: &World, more: &str, vnet: &str, [here, there]: [&str; 2]) -> Running {
    world.sh("mkdir -p /run/other");
    let key = |said: String| said.split_whitespace().next().unwrap().to_owned();
    let (own, other) = (key(world.good("identity").out), key(world.sh(&format!("{OTHER} identity"))));
    world.write(CONFIG, file(more, vnet, here, &other, "one", 1));
    world.write("/run/other/viaduct.toml", file(more, vnet, there, &own, "two", 2));
    for (guest, viaduct) in [("one", None), ("two", Some(OTHER))] {
        world.sh(&format!("ip netns add {guest}"));
        let run = |line: &str| match viaduct {
            Some(other) => world.sh(&format!("{other} {line}")),
            None => world.good(line).out,
        };
        run("apply");
        run(&format!("attach {guest} --netns {guest}"));
    }
    let mut words = OTHER.split_whitespace().chain(["daemon"]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
    let log = std::fs::File::create("/run/other.log").unwrap();
    let other = command.stderr(log).spawn().unwrap();
    Running { _daemon: world.daemon(), other }
}

/// Whether the guests reach each other, in both families.
fn meet(world: &World) -> bool {
    world.echoes("one", "10.97.0.2") && world.echoes("one", "fd97::2")
}

#[track_caller]
fn soon_meet(world: &World, when: &str) {
    world.within(Duration::from_secs(60), when, || meet(world));
}

/// They do not, also when it was tried again.
#[track_caller]
fn never_meet(world: &World, when: &str) {
    for _ in 0..3 {
        assert!(!world.echoes("one", "10.97.0.2") && !world.echoes("one", "fd97::2"), "{when}");
        thread::sleep(Duration::from_secs(1));
    }
}

fn found(world: &World) -> Vec<Value> {
    let report = world.viaduct("doctor --json").json();
    of_kind(&report, "foreign-input").into_iter().cloned().collect()
}

fn by_hand(world: &World, findings: &[Value]) {
    for finding in findings {
        for measure in finding["remedy"]["measures"].as_array().unwrap() {
            world.sh(measure["run"].as_str().unwrap());
        }
    }
}

fn has(finding: &Value, words: &str) -> bool {
    finding["why"].as_str().unwrap().contains(words)
}

fn prepared(world: &World) {
    world.own_place("/etc");
    world.connect_outside();
}

/// The other host dials; this one only listens.
const LISTENS: [&str; 2] = ["", "endpoint = \"203.0.113.2:1798\""];
const DIALS: [&str; 2] = ["endpoint = \"203.0.113.1:1798\"", ""];

const CONNECTIONS: &str = "connections of other hosts of vnets (UDP port 1798)";
const OWN_PORTS: &str = "frames of vnets at the ports of threads (UDP port";

const SIMPLE: &str = "table inet filter { chain input { type filter hook input priority filter; policy drop;
    ct state vmap { invalid : drop, established : accept, related : accept }
    iif lo accept; meta l4proto { icmp, ipv6-icmp } accept; tcp dport 22 accept; }; }";

fn simple(world: &World) {
    world.write("/run/simple.nft", SIMPLE);
    world.sh("nft -f /run/simple.nft");
}

#[test]
fn ufw_before_a_host_that_is_dialled() {
    host(|world| {
        prepared(world);
        world.sh("ufw --force enable");
        let _running = hosts(world, "", "", LISTENS);
        never_meet(world, "with ufw");
        let findings = found(world);
        // Nobody knows by which family the other host comes.
        assert_eq!(findings.len(), 2, "{findings:?}");
        for finding in &findings {
            assert!(finding["title"].as_str().unwrap().ends_with("the filter of ufw"), "{finding}");
            assert!(has(finding, CONNECTIONS) && has(finding, OWN_PORTS), "{finding}");
            assert!(!has(finding, "VXLAN") && !has(finding, "beacons") && !has(finding, "DNS"), "{finding}");
            assert_eq!(
                (&finding["gravity"], &finding["remedy"]["safe"]),
                (&"broken".into(), &true.into()),
                "{finding}"
            );
            assert_eq!(finding["suffers"], serde_json::json!(["network red: one"]));
        }
        world.good("doctor --fix");
        soon_meet(world, "mended");
        world.sh("ufw reload");
        assert!(meet(world), "reloaded");
        assert_eq!(found(world), Vec::<Value>::new());
    });
}

fn iptables(world: &World, suffix: &str) {
    for tool in ["iptables", "ip6tables"] {
        for rule in [
            "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A INPUT -p tcp --dport 22 -j ACCEPT",
            "-P INPUT DROP",
        ] {
            world.sh(&format!("{tool}{suffix} -w {rule}"));
        }
    }
}

#[test]
fn iptables_legacy_before_a_host_that_is_dialled() {
    host(|world| {
        prepared(world);
        iptables(world, "-legacy");
        let _running = hosts(world, "", "", LISTENS);
        never_meet(world, "with iptables-legacy");
        let findings = found(world);
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(
            findings.iter().all(|finding| finding["remedy"]["safe"] == false && has(finding, CONNECTIONS))
        );
        by_hand(world, &findings);
        soon_meet(world, "after what was shown");
        assert_eq!(world.viaduct("doctor").code(), 0);
    });
}

#[test]
fn nftables_before_a_host_that_is_dialled() {
    host(|world| {
        prepared(world);
        simple(world);
        let _running = hosts(world, "", "", LISTENS);
        never_meet(world, "with nftables");
        let findings = found(world);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(
            (&findings[0]["gravity"], &findings[0]["remedy"]["safe"]),
            (&"broken".into(), &false.into())
        );
        by_hand(world, &findings);
        soon_meet(world, "after what was shown");
        assert_eq!(world.viaduct("doctor").code(), 0);
    });
}

/// The same over IPv6, by a host whose address is known, which one of its rules is for.
#[test]
fn a_filter_of_ipv6_before_a_host_that_is_dialled() {
    host(|world| {
        prepared(world);
        let more = "meta l4proto ipv6-icmp accept; ip6 saddr 2001:db8:28::1 udp dport 1800-1807 accept; ct state established accept;";
        world.sh(&format!(
            "nft 'table ip6 filter {{ chain input {{ type filter hook input priority filter; policy drop; {more} }}; }}'"
        ));
        // It is in the file, and does not listen there.
        let here = "endpoint = \"[2001:db8:28::1]:9\"";
        let _running = hosts(world, "", "", [here, "endpoint = \"[2001:db8:28::2]:1798\""]);
        never_meet(world, "with a filter");
        let findings = found(world);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(has(&findings[0], CONNECTIONS) && !has(&findings[0], OWN_PORTS), "{findings:?}");
        assert!(
            has(&findings[0], "One of UDP port 1798 from 2001:db8:28::1 by eth0 ends there."),
            "{findings:?}"
        );
        by_hand(world, &findings);
        soon_meet(world, "after what was shown");
        assert_eq!(found(world), Vec::<Value>::new());
    });
}

/// A host that dials is answered through its own filter. That is no more than a risk.
#[test]
fn a_filter_before_a_host_that_dials() {
    host(|world| {
        prepared(world);
        simple(world);
        let _running = hosts(world, "", "", DIALS);
        soon_meet(world, "by what the host begins itself");
        let findings = found(world);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0]["gravity"], "risk");
        assert!(
            has(&findings[0], "as long as this host dials it") && has(&findings[0], "which is slower"),
            "{findings:?}"
        );
        // When only the threads' ports are shut, nothing is lost.
        world.sh("nft insert rule inet filter input udp dport 1798 accept");
        let ran = world.viaduct("doctor --json");
        let findings = of_kind(&ran.json(), "foreign-input").into_iter().cloned().collect::<Vec<_>>();
        assert_eq!((ran.code(), findings.len()), (0, 1), "{ran:?}");
        assert_eq!(findings[0]["gravity"], "note");
        by_hand(world, &findings);
        assert_eq!(found(world), Vec::<Value>::new());
        assert!(meet(world));
    });
}

/// What the kernel carries comes from any port, whoever has begun.
#[test]
fn a_filter_before_frames_without_protection() {
    host(|world| {
        prepared(world);
        simple(world);
        world.sh("nft insert rule inet filter input udp dport 1798 accept");
        world.sh("nft insert rule inet filter input udp dport 1800-1807 accept");
        let _running = hosts(world, "", "security = \"none\"", DIALS);
        never_meet(world, "with VXLAN shut out");
        let findings = found(world);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0]["gravity"], "broken");
        assert!(has(&findings[0], "VXLAN, UDP port 1799") && !has(&findings[0], CONNECTIONS), "{findings:?}");
        by_hand(world, &findings);
        soon_meet(world, "after what was shown");
        assert_eq!(world.viaduct("doctor").code(), 0);
    });
}

/// Nobody knows where the other is, and this one hears nothing of it.
#[test]
fn a_filter_before_beacons() {
    host(|world| {
        prepared(world);
        simple(world);
        let _running = hosts(world, "[discovery]\ninterfaces = [\"eth0\"]\nport = 1790\n", "", ["", ""]);
        never_meet(world, "with beacons shut out");
        let findings = found(world);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0]["gravity"], "broken");
        assert!(has(&findings[0], "beacons (UDP port 1790 to 224.10.0.1 on eth0)"), "{findings:?}");
        assert!(has(&findings[0], "beacons (UDP port 1790 to ff12::e00a:1 on eth0)"), "{findings:?}");
        by_hand(world, &findings);
        soon_meet(world, "after what was shown");
        assert_eq!(world.viaduct("doctor").code(), 0);
    });
}

#[test]
fn filters_that_let_other_hosts_in() {
    host(|world| {
        prepared(world);
        simple(world);
        world.sh("nft insert rule inet filter input udp dport { 1798, 1800-1807 } accept");
        let _running = hosts(world, "", "", LISTENS);
        soon_meet(world, "with ports open");
        assert_eq!(found(world), Vec::<Value>::new());
        // For the peer alone, and in words of iptables.
        world.sh("nft delete table inet filter");
        iptables(world, "-nft");
        for tool in ["iptables", "ip6tables"] {
            world.sh(&format!(
                "{tool}-nft -w -A INPUT -i eth0 -p udp -m multiport --dports 1798,1800:1807 -j ACCEPT"
            ));
        }
        assert_eq!(found(world), Vec::<Value>::new());
        // Without other hosts nobody is let in.
        world.sh("iptables-nft -w -F INPUT");
        assert_eq!(found(world).len(), 1);
        let alone = world.read(CONFIG).replace("peers = [\"peer\"]", "");
        world.write(CONFIG, alone);
        world.good("apply");
        assert_eq!(found(world), Vec::<Value>::new());
    });
}
