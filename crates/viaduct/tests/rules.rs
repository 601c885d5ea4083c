//! What a namespace's stack decides for itself: routing rules with tables of their own, and settings.

mod support;

use std::fs;

use support::{CONFIG, RUN, World, host};

/// Two ways out, and who takes which.
const RULES: &str = r#"
[host]
name = "iron"

[uplinks.trunk]
interface = "eth0"

[namespaces.dmz]
rules = [
  "from 10.99.0.2 table 100 priority 500",
  "from 2001:db8:99::2 table 100 priority 500",
  "to 198.51.100.0/24 table 70000",
]
[namespaces.dmz.sysctls]
"net.ipv4.ip_forward" = 1
"net.ipv6.conf.all.forwarding" = 1
"net/ipv4/conf/mac0/rp_filter" = 2
"net.ipv4.tcp_rmem" = "4096 65536 1048576"

[[namespaces.dmz.interfaces]]
name = "mac0"
type = "macvlan"
parent = "trunk"
addresses = ["203.0.113.9/24", "2001:db8:28::9/64"]
gateways = ["203.0.113.1", "2001:db8:28::1"]

[[namespaces.dmz.interfaces]]
name = "side0"
type = "veth"
bridge = "br9"
addresses = ["10.99.0.2/24", "2001:db8:99::2/64"]
routes = [
  "0.0.0.0/0 via 10.99.0.1 table 100",
  "::/0 via 2001:db8:99::1 table 100",
  "198.51.100.0/24 via 10.99.0.1 table 70000",
]

[guests.mail]
namespace = "dmz"
"#;

fn surroundings(world: &World) {
    world.connect_outside();
    for line in [
        "ip link add br9 address 02:00:00:00:09:09 type bridge && ip link set br9 addrgenmode none up",
        "ip address add 10.99.0.1/24 dev br9; ip address add 2001:db8:99::1/64 dev br9 nodad",
        // What only the host has, and what only the outside has.
        "ip address add 192.0.2.7/32 dev br9; ip address add 2001:db8:7::7/128 dev br9 nodad",
        "ip address add 198.51.100.7/32 dev br9",
        "ip -n outside address add 192.0.2.9/32 dev lo; ip -n outside link set lo up",
        "ip -n outside route add 10.99.0.0/24 via 203.0.113.9",
        "ip route add 192.0.2.9/32 via 10.99.0.2",
    ] {
        world.sh(line);
    }
}

fn echoes_from(world: &World, source: &str, to: &str) -> bool {
    let line = format!(
        "ip netns exec dmz ping -n -c 2 -i 0.2 -W 1 -I {source} {to} >/dev/null 2>&1 && echo yes || echo no"
    );
    world.sh(&line) == "yes\n"
}

fn decides(world: &World) {
    for (source, to) in
        [("10.99.0.2", "192.0.2.7"), ("2001:db8:99::2", "2001:db8:7::7"), ("203.0.113.9", "192.0.2.9")]
    {
        world.soon(&format!("{to} from {source}"), || echoes_from(world, source, to));
    }
    // By the other table they lead elsewhere.
    assert!(!echoes_from(world, "203.0.113.9", "192.0.2.7"));
    // Whatever the source: it is of the way that the rule leads to.
    assert!(world.echoes("dmz", "198.51.100.7"));
    // It passes on what others send.
    let forwarded = "ping -n -c 3 -i 0.2 -W 2 -I 10.99.0.1 192.0.2.9 >/dev/null && echo yes || echo no";
    assert_eq!(world.sh(forwarded), "yes\n");
}

fn setting(world: &World, key: &str) -> String {
    world.sh(&format!("ip netns exec dmz cat /proc/sys/net/{key}")).trim_end().to_owned()
}

#[test]
fn rules_and_settings_are_made_kept_and_taken_back() {
    host(|world| {
        surroundings(world);
        let before = world.kernel();
        world.write(CONFIG, RULES);
        world.good("apply");
        world.settled();
        decides(world);
        assert_eq!(setting(world, "ipv4/conf/mac0/rp_filter"), "2");
        let status = world.good("status --json").json();
        let dmz = &status["namespaces"]["dmz"];
        assert_eq!(dmz["rules"].as_array().unwrap().len(), 3, "{dmz}");
        assert_eq!(dmz["sysctls"]["net/ipv4/ip_forward"], "1");
        assert!(world.good("status").out.contains("rule 500: from 10.99.0.2/32 → table 100"));
        for drift in [
            "ip -n dmz rule del priority 500",
            "ip -n dmz -6 rule del priority 500",
            "ip -n dmz rule add from 10.1.0.0/16 table 7 priority 9 protocol 86",
            "ip -n dmz route flush table 100",
            "ip -n dmz route del 198.51.100.0/24 table 70000",
            "ip netns exec dmz sh -c 'echo 0 > /proc/sys/net/ipv4/ip_forward'",
            "ip netns exec dmz sh -c 'echo 0 > /proc/sys/net/ipv4/conf/mac0/rp_filter'",
            "ip -n dmz link del mac0",
            "ip netns del dmz",
        ] {
            world.sh(drift);
            assert_eq!(world.viaduct("plan --exit-code").code(), 3, "{drift}");
            world.good("apply");
            world.settled();
        }
        decides(world);
        // One less of each; the rest stays.
        let less = RULES
            .replace("  \"to 198.51.100.0/24 table 70000\",\n", "")
            .replace("\"net/ipv4/conf/mac0/rp_filter\" = 2\n", "");
        world.write(CONFIG, less);
        world.good("apply");
        world.settled();
        assert!(!world.sh("ip -n dmz rule").contains("70000"));
        assert_ne!(setting(world, "ipv4/conf/mac0/rp_filter"), "2");
        world.good("down");
        assert_eq!(world.sh("ip netns list | sed 's/ .*//'"), "outside\n");
        assert_eq!(world.kernel(), before);
    });
}

#[test]
fn what_was_there_gets_its_own_back() {
    host(|world| {
        surroundings(world);
        world.sh("ip netns add dmz && ip -n dmz rule add from 10.7.0.0/16 table 7 priority 700");
        world.sh("ip netns exec dmz sh -c 'echo 3 > /proc/sys/net/ipv4/tcp_syn_retries'");
        let all = |world: &World| {
            world.sh("ip -n dmz rule; ip -n dmz -6 rule; ip netns exec dmz cat /proc/sys/net/ipv4/ip_forward \
                      /proc/sys/net/ipv4/tcp_rmem /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/ipv4/tcp_syn_retries")
        };
        let before = all(world);
        let text = RULES.replace(
            "[namespaces.dmz.sysctls]",
            "[namespaces.dmz.sysctls]\n\"net.ipv4.tcp_syn_retries\" = 5",
        );
        world.write(CONFIG, text);
        world.good("apply");
        world.settled();
        decides(world);
        assert_eq!(setting(world, "ipv4/tcp_syn_retries"), "5");
        world.good("down");
        assert_eq!(all(world), before);
        let journal = fs::read_to_string(format!("{RUN}/namespaces-sysctl-journal.json")).unwrap();
        assert!(!journal.contains("tcp_syn_retries"), "{journal}");
    });
}

#[test]
fn what_no_namespace_has_is_said() {
    host(|world| {
        surroundings(world);
        for (setting, said) in [
            ("\"net.ipv4.no_such_thing\" = 1", "no such setting"),
            ("\"net.core.wmem_max\" = 1000000", "net.core.wmem_max"),
            ("\"net.ipv4.ip_forward\" = \"perhaps\"", "net.ipv4.ip_forward"),
        ] {
            world.write(CONFIG, RULES.replace("\"net.ipv4.ip_forward\" = 1", setting));
            let ran = world.viaduct("apply");
            let said = said.replace('.', if said.contains("net.") { "/" } else { "." });
            ran.refused(1, &[&said]);
            // Nothing of it stays.
            assert!(!world.sh("ip netns list").contains("dmz"), "{setting}");
        }
        for (rule, said) in [
            ("from 10.0.0.0/8 to ::/0 table 7", "different families"),
            ("from 10.0.0.0/8", "which table"),
            ("from 10.0.0.0/8 table 255", "no routing table"),
            ("from 10.0.0.0/8 table 7 priority 0", "no priority"),
            ("from 10.99.0.2 table 101 priority 500", "same packets"),
        ] {
            world.write(CONFIG, RULES.replace("\"to 198.51.100.0/24 table 70000\"", &format!("\"{rule}\"")));
            world.viaduct("check").refused(2, &[said, "viaduct.toml"]);
        }
        world.write(CONFIG, RULES.replace("net.ipv4.tcp_rmem", "kernel.panic"));
        world.viaduct("check").refused(2, &["setting of a network namespace"]);
    });
}
