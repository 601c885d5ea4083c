//! `viaduct doctor` finds what other programs and settings break for guests in vnets, with packets before and after.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use serde_json::Value;
use support::{
    CONFIG,
    doctor::{drop_like_docker, has_br_netfilter, made, of_kind},
    host,
};

const RED: &str = r#"
[vnets.red]
id = "97"

[networks.red]
mode = "vnet"
vnet = "red"
subnets = ["10.97.0.0/24", "fd97::/64"]

[guests.one]
[[guests.one.nics]]
network = "red"
addresses = ["10.97.0.1", "fd97::1"]

[guests.two]
[[guests.two.nics]]
network = "red"
addresses = ["10.97.0.2", "fd97::2"]
"#;

/// What Docker does: it drops what is forwarded, also between ports of a bridge where br_netfilter is on.
#[test]
fn a_drop_of_others_that_meets_frames_of_a_vnet() {
    host(|world| {
        if !has_br_netfilter() {
            return;
        }
        world.write(CONFIG, world.read(CONFIG) + RED);
        made(world);
        for (guest, number) in [("one", 1), ("two", 2)] {
            world.attach(guest);
            for address in [format!("10.97.0.{number}/24"), format!("fd97::{number}/64 nodad")] {
                world.sh(&format!("ip -n {guest} address replace {address} dev eth0"));
            }
            world.sh(&format!("ip -n {guest} link set eth0 up"));
        }
        for (tool, to) in [("iptables", "10.97.0.2"), ("ip6tables", "fd97::2")] {
            world.soon("the bridge forwards", || world.echoes("one", to));
            world.sh(&format!("echo 1 >/proc/sys/net/bridge/bridge-nf-call-{tool}"));
            drop_like_docker(world, tool);
            assert!(!world.echoes("one", to), "br_netfilter is not what it was");
            let report = world.viaduct("doctor --json").json();
            let found = of_kind(&report, "bridge-netfilter");
            assert_eq!(found.len(), 1, "{report}");
            assert_eq!(found[0]["suffers"], serde_json::json!(["network red: one, two"]), "{report}");
            let ran = world.viaduct("doctor --fix");
            assert!(world.echoes("one", to), "{ran:?}");
        }
    });
}

/// The same in a vnet that no network lies on, with machines that others put into its bridge.
#[test]
fn a_drop_of_others_that_meets_frames_of_a_vnet_without_a_network() {
    host(|world| {
        if !has_br_netfilter() {
            return;
        }
        world.write(CONFIG, world.read(CONFIG) + "\n[vnets.blue]\nid = \"98\"\nbridge = \"br-blue\"\n");
        made(world);
        for (name, number) in [("left", 1), ("right", 2)] {
            world.sh(&format!(
                "ip netns add {name} && ip link add to-{name} type veth peer name eth0 netns {name} && \
                 ip link set to-{name} master br-blue up && ip -n {name} link set eth0 up && \
                 ip -n {name} address add 10.98.0.{number}/24 dev eth0 && \
                 ip -n {name} address add fd98::{number}/64 dev eth0 nodad"
            ));
        }
        for (tool, to) in [("iptables", "10.98.0.2"), ("ip6tables", "fd98::2")] {
            world.soon("the bridge forwards", || world.echoes("left", to));
            world.sh(&format!("echo 1 >/proc/sys/net/bridge/bridge-nf-call-{tool}"));
            drop_like_docker(world, tool);
            assert!(!world.echoes("left", to), "br_netfilter is not what it was");
            let report = world.viaduct("doctor --json").json();
            let found = of_kind(&report, "bridge-netfilter");
            assert_eq!(found.len(), 1, "{report}");
            assert_eq!(found[0]["suffers"], serde_json::json!(["vnet blue"]), "{report}");
            let ran = world.viaduct("doctor --fix");
            assert!(world.echoes("left", to), "{ran:?}");
        }
        // A filter that is nobody's: what mends it is said, and is not done by itself.
        world.sh("nft 'table inet other { chain f { type filter hook forward priority 5; iifname br-blue drop; }; }'");
        let report = world.viaduct("doctor --json").json();
        let found = of_kind(&report, "bridge-netfilter");
        assert_eq!(found.len(), 1, "{report}");
        for measure in found[0]["remedy"]["measures"].as_array().unwrap() {
            assert!(!world.echoes("left", "10.98.0.2") || !world.echoes("left", "fd98::2"));
            world.sh(measure["run"].as_str().unwrap());
        }
        assert!(world.echoes("left", "10.98.0.2") && world.echoes("left", "fd98::2"), "{report}");
    });
}

/// Only where it costs something: with a vnet whose frames a process carries, and as long as others do not need it.
#[test]
fn frames_of_a_vnet_that_meet_iptables() {
    host(|world| {
        let switches =
            ["iptables", "ip6tables"].map(|of| format!("/proc/sys/net/bridge/bridge-nf-call-{of}"));
        if !has_br_netfilter() {
            return;
        }
        let set = |to: &str| switches.iter().for_each(|path| world.write(path, to));
        let found = || {
            let ran = world.viaduct("doctor --json");
            assert_eq!(ran.code(), 0, "a note is no failure: {ran:?}");
            of_kind(&ran.json(), "bridge-netfilter-vnets").into_iter().cloned().collect::<Vec<_>>()
        };
        set("1");
        made(world);
        let without = world.read(CONFIG);
        assert_eq!(found(), Vec::<Value>::new(), "no vnet");
        let plain = "\n[vnets.blue]\nid = \"98\"\nsecurity = \"none\"\n";
        world.write(CONFIG, format!("{without}{plain}"));
        world.good("apply");
        assert_eq!(found(), Vec::<Value>::new(), "the kernel carries it");
        world.write(CONFIG, format!("{without}{plain}{RED}"));
        world.good("apply");
        let note = found();
        assert_eq!(note.len(), 1, "{note:?}");
        assert_eq!(note[0]["suffers"], serde_json::json!(["network red: one, two"]));
        assert_eq!(note[0]["remedy"]["safe"], false, "others may need it: {note:?}");
        assert!(note[0]["remedy"]["remark"].as_str().unwrap().contains("Docker"), "{note:?}");
        world.good("doctor --fix");
        assert_eq!(found(), note, "it is left to whoever knows that nobody needs it");
        for measure in note[0]["remedy"]["measures"].as_array().unwrap() {
            world.sh(measure["run"].as_str().unwrap());
        }
        assert_eq!(found(), Vec::<Value>::new());
        // One of them is enough, and said to be the one.
        world.write(&switches[1], "1");
        let why = found()[0]["why"].to_string();
        assert!(why.contains("ip6tables is on") && !why.contains("call-iptables"), "{why}");
    });
}

#[test]
fn a_port_of_a_vnet_that_takes_less_than_the_vnet_carries() {
    host(|world| {
        let vnet = "[vnets.red]\nid = \"97\"\nbridge = \"br-red\"\nport = \"floor\"\n";
        world.write(CONFIG, format!("{}\n{vnet}", world.read(CONFIG)));
        world.sh(
            "ip netns add below && ip link add floor type veth peer name eth0 netns below && ip link set floor up && \
             ip -n below address add 10.97.0.50/24 dev eth0 && ip -n below link set eth0 up",
        );
        made(world);
        world.sh("ip netns add by-hand && ip link add by-hand type veth peer name eth0 netns by-hand && \
             ip link set by-hand master br-red up && \
             ip -n by-hand address add 10.97.0.3/24 dev eth0 && ip -n by-hand link set eth0 up");
        let long = || {
            world.sh("ip netns exec by-hand ping -n -c 3 -i 0.2 -W 1 -M do -s 1380 10.97.0.50 >/dev/null 2>&1 && echo yes || echo no")
        };
        world.soon("the bridge forwards", || long() == "yes\n");
        // What leads to other hosts, and what is outside, takes more: nobody is harmed by that.
        let report = world.viaduct("doctor --json").json();
        assert_eq!(of_kind(&report, "mtu").len(), 0, "{report}");
        world.sh("ip link set floor mtu 1300");
        assert_eq!(long(), "no\n");
        let report = world.viaduct("doctor --json").json();
        let found = of_kind(&report, "mtu");
        assert_eq!(found.len(), 1, "{report}");
        assert!(
            found[0]["title"].as_str().unwrap().starts_with("floor takes 1300 bytes, and vnet bridge"),
            "{report}"
        );
        assert_eq!(found[0]["suffers"], serde_json::json!(["vnet red"]));
        // What is behind it may carry no more: that is for who knows it.
        world.viaduct("doctor --fix");
        assert_eq!(long(), "no\n");
        world.sh(found[0]["remedy"]["measures"][0]["run"].as_str().unwrap());
        assert_eq!(long(), "yes\n");
    });
}

/// The kernel has frames of vnets carried by a process, and without it nobody reaches another host.
#[test]
fn frames_that_nobody_carries() {
    host(|world| {
        let peer = "[peers.b]\nkey = \"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\"\n";
        let red = RED.replace("id = \"97\"", "id = \"97\"\npeers = [\"b\"]");
        let alone = world.read(CONFIG);
        let found = || {
            let report = world.viaduct("doctor --json").json();
            of_kind(&report, "vnets-not-carried").first().map(|finding| (*finding).clone())
        };
        let engine = || world.good("status --json").json()["vnets"]["engine"].as_u64();
        world.write(CONFIG, format!("{alone}{RED}"));
        made(world);
        assert_eq!(found(), None, "it is shared with nobody");
        world.write(CONFIG, format!("{alone}{peer}{red}"));
        world.good("apply");
        let finding = found().unwrap();
        assert_eq!(finding["gravity"], "broken");
        assert_eq!(finding["suffers"], serde_json::json!(["network red: one, two"]));
        assert_eq!(finding["remedy"]["measures"][0]["run"], "systemctl start viaduct");
        assert_eq!(world.viaduct("doctor").code(), 1);
        let daemon = world.daemon();
        world.soon("frames are carried", || engine().is_some());
        assert_eq!(found(), None);
        let mended = world.viaduct("doctor --fix");
        assert!(!mended.out.contains("no process carries"), "{mended:?}");
        let carries = engine().unwrap();
        daemon.kill();
        assert_eq!(found(), None, "who carries frames outlives the daemon");
        world.sh(&format!("kill -9 {carries}"));
        world.soon("it has ended", || engine().is_none());
        assert_eq!(found(), Some(finding));
    });
}
