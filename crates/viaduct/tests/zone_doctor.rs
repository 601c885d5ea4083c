//! `viaduct doctor` looks into the stacks of namespaces, says in which something is wrong, and mends it there.
#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

mod support;

use serde_json::Value;
use support::{
    CONFIG, host,
    zones::{all_get_out, made},
};

/// The namespaces of the findings of a kind.
fn namespaces(report: &Value, kind: &str) -> Vec<String> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings.filter(|finding| finding["kind"] == kind).map(|f| f["namespace"].to_string()).collect()
}

#[test]
fn other_filters_and_settings_in_a_namespace() {
    host(|world| {
        world.own_place("/etc");
        made(world);
        all_get_out(world);
        let well = world.good("doctor --json").json();
        assert_eq!(namespaces(&well, "foreign-filter").len(), 0, "{well}");

        for tool in ["iptables-nft", "ip6tables-nft"] {
            for rule in ["-P FORWARD DROP", "-N DOCKER-USER", "-A FORWARD -j DOCKER-USER"] {
                world.sh(&format!("ip netns exec red {tool} -w {rule}"));
            }
        }
        world.sh("ip netns exec blue sysctl -qw net.ipv4.conf.br-blue.forwarding=0");
        for (guest, reaches) in [("one", false), ("two", false), ("three", true)] {
            assert_eq!(world.echoes(guest, "203.0.113.1"), reaches, "{guest}");
        }
        let before = world.kernel();
        let report = world.viaduct("doctor --json").json();
        assert_eq!(namespaces(&report, "foreign-filter"), ["\"red\"", "\"red\""], "{report}");
        assert_eq!(namespaces(&report, "forwarding"), ["\"blue\""], "{report}");
        assert_eq!(world.kernel(), before, "looking changes nothing");
        let shown = world.viaduct("doctor");
        for said in [
            "in namespace red: table ip filter, chain FORWARD",
            "in namespace blue: forwarding is off",
            "ip netns exec blue sh -c 'echo 1 >/proc/sys/net/ipv4/conf/br-blue/forwarding'",
            "network red: lent, one",
        ] {
            assert!(shown.out.contains(said), "nothing about {said:?}: {}", shown.out);
        }

        let left = world.good("doctor --fix --json").json();
        assert_eq!(left["findings"].as_array().unwrap().len(), 0, "{left}");
        all_get_out(world);
        // The host's own stack was let alone.
        assert!(!world.sh("nft list ruleset").contains("DOCKER"));
        assert_eq!(world.good("doctor --fix --json").json()["treated"], Value::Null);
    });
}

/// What guests ask of the stack that they are in.
#[test]
fn what_comes_to_a_namespace_itself() {
    host(|world| {
        world.own_place("/etc");
        made(world);
        let _daemon = world.daemon();
        let dig = "ip netns exec one dig +short +tries=1 +time=2 one.red.internal @10.0.0.1 || true";
        let answered = || world.sh(dig) == "10.0.0.5\n";
        world.soon("names are answered", answered);
        for name in ["red", "blue"] {
            world.sh(&format!(
                "ip netns exec {name} nft 'table inet own {{ chain input {{ type filter hook input priority 0; policy drop; \
                 ct state established accept; meta l4proto {{ icmp, ipv6-icmp }} accept; }}; }}'"
            ));
        }
        assert!(!answered());
        // The network of the other one answers no names.
        let report = world.viaduct("doctor --json").json();
        assert_eq!(namespaces(&report, "foreign-input"), ["\"red\""], "{report}");
        let measures = report["findings"][0]["remedy"]["measures"].as_array().unwrap();
        measures.iter().for_each(|measure| drop(world.sh(measure["run"].as_str().unwrap())));
        assert!(answered());
        assert_eq!(world.viaduct("doctor").code(), 0);
    });
}

/// What the doctor shows can be copied into a shell.
#[test]
fn the_lines_that_are_shown_mend_it_too() {
    host(|world| {
        world.own_place("/etc");
        made(world);
        for rule in ["-P FORWARD DROP", "-N DOCKER-USER", "-A FORWARD -j DOCKER-USER"] {
            world.sh(&format!("ip netns exec red iptables-nft -w {rule}"));
        }
        assert!(!world.echoes("one", "203.0.113.1"));
        let report = world.viaduct("doctor --json").json();
        let measures = report["findings"][0]["remedy"]["measures"].as_array().unwrap();
        measures.iter().for_each(|measure| drop(world.sh(measure["run"].as_str().unwrap())));
        assert!(world.echoes("one", "203.0.113.1"));
        assert_eq!(world.viaduct("doctor").code(), 0);
    });
}

/// Two ways out of a namespace, of which the uplink is not the one that packets come back by.
const TWO_WAYS: &str = r#"
[uplinks.wan]
interface = "eth0"
[uplinks.red]
interface = "out"
namespace = "red"
[namespaces.red]
sysctls = { "net.ipv4.conf.all.arp_ignore" = "1", "net.ipv4.conf.all.arp_announce" = "2" }
[[namespaces.red.interfaces]]
name = "out"
type = "macvlan"
parent = "wan"
addresses = ["203.0.113.10/24"]
[[namespaces.red.interfaces]]
name = "other"
type = "macvlan"
parent = "wan"
addresses = ["203.0.113.11/24"]
gateways = ["203.0.113.1"]
[networks.red]
namespace = "red"
mode = "nat"
uplink = "red"
subnets = ["10.0.0.0/24"]
"#;

#[test]
fn a_strict_reverse_path_filter_in_a_namespace() {
    host(|world| {
        world.own_place("/etc");
        world.connect_outside();
        world.sh("ip -n outside address add 198.51.100.1/32 dev lo");
        world.write(CONFIG, TWO_WAYS);
        world.good("apply");
        let comes_in = || {
            let ping = "ip netns exec outside ping -c1 -W1 -I 198.51.100.1 203.0.113.10 >/dev/null; echo $?";
            world.sh(ping) == "0\n"
        };
        world.soon("packets come in", comes_in);
        world.sh("ip netns exec red sysctl -qw net.ipv4.conf.out.rp_filter=1");
        assert!(!comes_in());
        let report = world.viaduct("doctor --json").json();
        assert_eq!(namespaces(&report, "rp-filter"), ["\"red\""], "{report}");
        let fixed = world.good("doctor --fix");
        assert!(fixed.out.contains("ip netns exec red sh -c"), "{fixed:?}");
        assert!(comes_in());
        // Nobody loads a file for a namespace.
        assert!(!world.sh("ls /etc/sysctl.d").contains("viaduct"));
    });
}
