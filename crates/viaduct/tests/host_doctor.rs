//! `viaduct doctor` finds what other programs drop of what guests ask of this host itself, with packets before and after.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use serde_json::Value;
use support::{CONFIG, Daemon, World, doctor::of_kind, host};

const SERVED: &str = r#"
[host]
name = "ve0"

[uplinks.wan]
interface = "eth0"

[networks.services]
mode = "nat"
uplink = "wan"
subnets = ["192.168.1.0/24", "fd00:1::/64"]
dhcp = true
dns = true
domain = "lan"

[networks.public]
mode = "routed"
uplink = "wan"
pool = ["203.0.113.100/31", "2001:db8:28:1::/64"]
proxy = true
dns = true

[guests.web]
[[guests.web.nics]]
network = "services"
addresses = ["192.168.1.4", "fd00:1::4"]

[guests.deb6]
id = 100
[[guests.deb6.nics]]
network = "public"
addresses = ["203.0.113.100", "2001:db8:28:1::100"]
"#;

/// A host that answers its guests' questions.
fn served(world: &World) -> Daemon {
    world.own_place("/etc");
    world.connect_outside();
    world.write(CONFIG, SERVED);
    world.good("apply");
    world.attach("web");
    world.attach("deb6");
    let daemon = world.daemon();
    world.soon("all is answered", || works(world).iter().all(|(_, works)| *works));
    assert_eq!(world.viaduct("doctor").code(), 0);
    daemon
}

/// Whether a guest is answered, asked anew who has the server's address.
fn answered(world: &World, guest: &str, by: &str, question: &str) -> bool {
    world.sh(&format!("ip -n {guest} neighbour flush all"));
    let line = format!("ip netns exec {guest} dig +short +tries=1 +time=2 {by} {question} 2>&1 || true");
    let said = world.sh(&line);
    ["192.168.1.4\n", "203.0.113.100\n"].contains(&said.as_str())
}

/// What guests need of the host, each with its name.
fn works(world: &World) -> Vec<(&'static str, bool)> {
    let web = |by, server| answered(world, "web", by, &format!("web.lan @{server}"));
    let deb6 = |by, server| answered(world, "deb6", by, &format!("deb6.public.internal @{server}"));
    vec![
        ("DNS", web("+notcp", "192.168.1.1")),
        ("DNS by TCP", web("+tcp", "192.168.1.1")),
        ("DNS over IPv6", web("+notcp", "fd00:1::1")),
        ("DNS by TCP over IPv6", web("+tcp", "fd00:1::1")),
        ("DNS of a routed guest", deb6("+notcp", "169.254.1.1")),
        ("DNS of a routed guest over IPv6", deb6("+tcp", "fe80::1%eth0")),
    ]
}

#[track_caller]
fn all_works(world: &World, work: bool, when: &str) {
    let found = works(world);
    assert!(found.iter().all(|(_, works)| *works == work), "{when}: {found:?}");
}

/// DHCP is answered from a packet socket, which no filter of IP's stands before.
#[track_caller]
fn dhcp_works(world: &World) {
    world.sh("ip netns exec web udhcpc -f -q -n -i eth0 -T 1 -t 15 -s /bin/true 2>&1");
}

/// What the doctor finds of a kind.
#[track_caller]
fn found(world: &World, kind: &str) -> Vec<Value> {
    let report = world.viaduct("doctor --json").json();
    of_kind(&report, kind).into_iter().cloned().collect()
}

/// What is shown of all findings of a kind is done, line by line.
fn by_hand(world: &World, kind: &str) {
    for finding in found(world, kind) {
        for measure in finding["remedy"]["measures"].as_array().unwrap() {
            world.sh(measure["run"].as_str().unwrap());
        }
    }
}

fn has(finding: &Value, words: &str) -> bool {
    finding["why"].as_str().unwrap().contains(words)
}

/// The real ufw, which lets in nothing that nobody asked for but pings and neighbour discovery.
#[test]
fn what_ufw_drops_of_guests_questions() {
    host(|world| {
        let _daemon = served(world);
        world.sh("ufw --force enable");
        all_works(world, false, "with ufw");
        assert!(world.echoes("web", "192.168.1.1") && world.echoes("web", "fd00:1::1"));
        dhcp_works(world);

        let before = world.kernel();
        let findings = found(world, "foreign-input");
        assert_eq!(world.kernel(), before, "looking changes nothing");
        assert_eq!(findings.len(), 2, "{findings:?}");
        for (finding, family) in findings.iter().zip(["ip", "ip6"]) {
            let title = finding["title"].as_str().unwrap();
            let begin = format!("table {family} filter, chain INPUT, priority 0, loses");
            assert!(title.starts_with(&begin) && title.ends_with("the filter of ufw"), "{title}");
            for words in [
                "DNS (UDP port 53) of network services on br-services",
                "DNS (TCP port 53) of network public",
            ] {
                assert!(has(finding, words), "{words}: {finding}");
            }
            for words in ["pings", "neighbour", "DHCP", "vnets"] {
                assert!(!has(finding, words), "{words}: {finding}");
            }
            assert_eq!((&finding["gravity"], &finding["remedy"]["safe"]), (&"broken".into(), &true.into()));
            assert_eq!(
                finding["suffers"],
                serde_json::json!(["network public: deb6", "network services: web"])
            );
        }

        world.good("doctor --fix");
        all_works(world, true, "mended");
        world.sh("ufw reload");
        all_works(world, true, "reloaded");
        assert_eq!(world.viaduct("doctor").code(), 0);
        // Both parts of what ufw reads are there once, however often.
        let files = ["/etc/ufw/before.rules", "/etc/ufw/before6.rules"].map(|path| world.read(path));
        for call in ["before-input -j VIADUCT-IN\n", "before-forward -j VIADUCT\n", "BEGIN viaduct"] {
            assert!(files.iter().all(|file| file.matches(call).count() == 1), "{call}: {files:?}");
        }
        // From outside nobody is let in that was not before.
        assert!(!answered(world, "outside", "+notcp", "web.lan @203.0.113.2"));
    });
}

/// Only what is lost is let through: what ufw has to say of forwarded packets stays as it is.
#[test]
fn ufw_that_lets_forwarded_packets_through_itself() {
    host(|world| {
        let _daemon = served(world);
        world
            .sh("sed -i s/DEFAULT_FORWARD_POLICY=.*/DEFAULT_FORWARD_POLICY=\\\"ACCEPT\\\"/ /etc/default/ufw");
        world.sh("ufw --force enable");
        assert_eq!(found(world, "foreign-filter"), Vec::<Value>::new());
        world.good("doctor --fix");
        all_works(world, true, "mended");
        let file = world.read("/etc/ufw/before.rules");
        assert!(file.contains("VIADUCT-IN") && !file.contains("VIADUCT-TO"), "{file}");
        // A file with a part of ours keeps it when there is more to be written.
        world.sh("ufw default deny routed && ufw reload");
        assert_eq!(found(world, "foreign-filter").len(), 2);
        world.good("doctor --fix");
        world.sh("ufw reload");
        all_works(world, true, "with both");
        assert!(world.echoes("web", "203.0.113.1"));
        assert_eq!(world.viaduct("doctor").code(), 0);
    });
}

/// What an administrator has let in with ufw's own words is not complained of.
#[test]
fn ufw_with_ports_that_are_open() {
    host(|world| {
        let _daemon = served(world);
        for rule in ["in on br-services to any port 53", "from 203.0.113.100 to any port 53", "53/tcp"] {
            world.sh(&format!("ufw allow {rule}"));
        }
        world.sh("ufw allow in on veth100.0 to any port 53 proto udp");
        world.sh("ufw --force enable");
        all_works(world, true, "with ports open");
        let findings = found(world, "foreign-input");
        assert_eq!(findings, Vec::<Value>::new());
    });
}

/// Everything is dropped that is no answer, but for some services of the host's.
fn drop_input(world: &World, suffix: &str) {
    for tool in ["iptables", "ip6tables"] {
        for rule in [
            "-A INPUT -i lo -j ACCEPT",
            "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A INPUT -p tcp -m multiport --dports 22,80,8000:8100 -j ACCEPT",
            "-A INPUT -p udp --dport 54 -j ACCEPT",
            "-P INPUT DROP",
        ] {
            world.sh(&format!("{tool}{suffix} -w {rule}"));
        }
    }
}

fn dropped_by_iptables(world: &World, suffix: &str, by: &str) {
    let _daemon = served(world);
    drop_input(world, suffix);
    all_works(world, false, "with iptables");
    assert!(!world.echoes("web", "192.168.1.1") && !world.echoes("web", "fd00:1::1"));
    dhcp_works(world);
    let findings = found(world, "foreign-input");
    assert_eq!(findings.len(), 2, "{findings:?}");
    for (finding, family) in findings.iter().zip(["ip", "ip6"]) {
        let title = finding["title"].as_str().unwrap();
        assert!(
            title.starts_with(&format!("table {family} filter{by}, chain INPUT, priority 0,")),
            "{title}"
        );
        assert!(has(finding, "the policy drop") && has(finding, "pings of the gateway by network services"));
        assert_eq!(has(finding, "neighbour discovery (ICMPv6 types 135 and 136) on eth0"), family == "ip6");
        // It is nobody's that is known, so that somebody has to look at it first.
        assert_eq!((&finding["gravity"], &finding["remedy"]["safe"]), (&"broken".into(), &false.into()));
    }
    world.viaduct("doctor --fix");
    all_works(world, false, "left alone");
    by_hand(world, "foreign-input");
    all_works(world, true, "after what was shown");
    assert!(world.echoes("web", "192.168.1.1") && world.echoes("web", "fd00:1::1"));
    assert_eq!(world.viaduct("doctor").code(), 0);
}

#[test]
fn an_input_chain_of_iptables_legacy() {
    host(|world| dropped_by_iptables(world, "-legacy", " (iptables-legacy)"));
}

#[test]
fn an_input_chain_of_iptables_nft() {
    host(|world| dropped_by_iptables(world, "-nft", ""));
}

/// As manuals of nftables show it.
const SIMPLE: &str = "table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state vmap { invalid : drop, established : accept, related : accept }
        iif lo accept
        icmp type echo-request accept
        tcp dport { ssh, http, https } accept
    }
}";

#[test]
fn a_simple_input_chain_of_nftables() {
    host(|world| {
        let _daemon = served(world);
        world.write("/run/simple.nft", SIMPLE);
        world.sh("nft -f /run/simple.nft");
        all_works(world, false, "with nftables");
        // Nobody is asked by the kernel's own words for that any more: neighbours of IPv6 are not found.
        world.sh("ip -n web neighbour flush all");
        assert!(world.echoes("web", "192.168.1.1") && !world.echoes("web", "fd00:1::1"));
        dhcp_works(world);
        let findings = found(world, "foreign-input");
        assert_eq!(findings.len(), 1, "{findings:?}");
        let finding = &findings[0];
        assert!(has(
            finding,
            "neighbour discovery (ICMPv6 types 135 and 136) of network services on br-services"
        ));
        assert!(has(finding, "pings of the gateway"), "those over IPv6: {finding}");
        assert_eq!((&finding["gravity"], &finding["remedy"]["safe"]), (&"broken".into(), &false.into()));
        by_hand(world, "foreign-input");
        all_works(world, true, "after what was shown");
        assert!(world.echoes("web", "fd00:1::1"));
        assert_eq!(world.viaduct("doctor").code(), 0);
    });
}

/// The same things said in other ways.
const OPEN: [&str; 4] = [
    "table inet filter {
        set known { type inet_proto . inet_service; flags interval; elements = { tcp . 53, udp . 53-54 } }
        chain input {
            type filter hook input priority filter; policy drop;
            ct state { established, related } accept
            iif lo accept
            icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, echo-request } accept
            ip protocol icmp accept
            meta l4proto . th dport @known accept
        }
    }",
    "table inet filter {
        chain guests { udp dport vmap { 53 : accept, 67 : accept }
            tcp dport 50-60 accept
        }
        chain input {
            type filter hook input priority filter; policy drop;
            ct state vmap { established : accept, related : accept, invalid : drop }
            meta l4proto { icmp, ipv6-icmp } accept
            iifname vmap { lo : accept, br-services : jump guests, veth100.0 : jump guests }
        }
    }",
    "table ip filter {
        chain input {
            type filter hook input priority filter; policy drop;
            ct state established accept
            meta l4proto icmp accept
            fib daddr type != local drop
            th dport { 22, 53, 80 } accept
        }
    }
    table ip6 filter {
        chain input {
            type filter hook input priority filter; policy accept;
            tcp dport != 53 tcp flags syn reject with tcp reset
            udp dport < 53 drop
            udp dport > 53 drop
        }
    }",
    "table inet filter {
        set banned { type ipv4_addr; flags interval; elements = { 192.168.1.128/25, 203.0.113.200-203.0.113.220 } }
        chain input {
            type filter hook input priority filter; policy accept;
            ip saddr @banned drop
            ip6 nexthdr icmpv6 icmpv6 type != { 128, 135, 136 } drop
            iifname { br-services, \"veth*\" } accept
            ct state new udp dport 53 drop
        }
    }",
];

#[test]
fn filters_that_let_guests_questions_pass() {
    host(|world| {
        let _daemon = served(world);
        for (number, filter) in OPEN.into_iter().enumerate() {
            world.write("/run/open.nft", filter);
            world.sh("nft -f /run/open.nft");
            all_works(world, true, &format!("with filter {number}"));
            let findings = found(world, "foreign-input");
            assert_eq!(findings, Vec::<Value>::new(), "filter {number}");
            world.sh(
                "nft delete table inet filter; nft delete table ip filter; nft delete table ip6 filter; true",
            );
        }
        // The same by iptables, with its own words.
        for suffix in ["-nft", "-legacy"] {
            drop_input(world, suffix);
            for (tool, icmp) in [("iptables", "icmp"), ("ip6tables", "icmpv6")] {
                world.sh(&format!("{tool}{suffix} -w -A INPUT -p {icmp} -j ACCEPT"));
                world.sh(&format!("{tool}{suffix} -w -A INPUT -p udp -m multiport --dports 53,67 -j ACCEPT"));
                world.sh(&format!("{tool}{suffix} -w -A INPUT -p tcp ! --dport 54:60000 -m addrtype --dst-type LOCAL -j ACCEPT"));
            }
            all_works(world, true, suffix);
            let findings = found(world, "foreign-input");
            assert_eq!(findings, Vec::<Value>::new(), "{suffix}");
            for tool in ["iptables", "ip6tables"] {
                world.sh(&format!("{tool}{suffix} -w -P INPUT ACCEPT && {tool}{suffix} -w -F INPUT"));
            }
        }
    });
}

#[test]
fn a_filter_that_may_let_them_pass_is_a_risk() {
    host(|world| {
        let _daemon = served(world);
        world.write(
            "/run/limited.nft",
            "table inet filter { chain input { type filter hook input priority filter; policy drop;
                ct state established,related accept; meta l4proto { icmp, ipv6-icmp } accept
                th dport 53 limit rate 1000/second accept; }; }",
        );
        world.sh("nft -f /run/limited.nft");
        all_works(world, true, "below the limit");
        let findings = found(world, "foreign-input");
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0]["gravity"], "risk");
        assert!(has(&findings[0], "rules that are not understood here"), "{findings:?}");
    });
}

/// As firewalld 1.3 writes it with the default zone public, without what does not matter here.
const FIREWALLD: &str = "table inet firewalld {
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname \"lo\" accept
        jump filter_INPUT_ZONES
        ct state invalid drop
        reject with icmpx admin-prohibited
    }
    chain filter_INPUT_ZONES {
        iifname \"eth0\" goto filter_IN_public
        goto filter_IN_public
    }
    chain filter_IN_public {
        jump filter_IN_public_allow
        meta l4proto { icmp, ipv6-icmp } accept
        reject with icmpx admin-prohibited
    }
    chain filter_IN_public_allow {
        tcp dport 22 accept
        ip6 daddr fe80::/64 udp dport 546 accept
    }
}";

/// What it takes is shown as its own commands; the real one does them where whole machines boot.
#[test]
fn what_firewalld_drops_of_guests_questions() {
    host(|world| {
        let _daemon = served(world);
        world.write("/run/firewalld.nft", FIREWALLD);
        world.sh("nft -f /run/firewalld.nft");
        all_works(world, false, "with firewalld");
        assert!(world.echoes("web", "192.168.1.1") && world.echoes("web", "fd00:1::1"));
        let before = world.kernel();
        assert_eq!(world.viaduct("doctor --fix").code(), 1);
        assert_eq!(world.kernel(), before, "it is left alone");
        let findings = found(world, "foreign-input");
        assert_eq!(findings.len(), 1, "{findings:?}");
        let text = findings[0].to_string();
        for words in [
            "inet firewalld, chain filter_INPUT, priority 10",
            "the filter of firewalld",
            "a rule that drops",
            "DNS (UDP port 53) of network services on br-services",
            "--zone=viaduct --add-interface=br-services",
            "--zone=viaduct --add-source=203.0.113.100/31",
            "destination address=",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(
            !text.contains("pings") && !text.contains("neighbour") && !text.contains("add-port"),
            "{text}"
        );
        // What the zone of these commands comes to.
        world.sh("nft insert rule inet firewalld filter_INPUT_ZONES iifname br-services accept");
        world.sh("nft insert rule inet firewalld filter_INPUT_ZONES ip saddr 203.0.113.100/31 accept");
        world.sh("nft insert rule inet firewalld filter_INPUT_ZONES ip6 saddr 2001:db8:28:1::/64 accept");
        // And what its rich rule comes to.
        assert_eq!(found(world, "foreign-input").len(), 1);
        for protocol in ["udp", "tcp"] {
            world.sh(&format!(
                "nft insert rule inet firewalld filter_IN_public_allow ip6 saddr fe80::/10 ip6 daddr fe80::1 {protocol} dport 53 accept"
            ));
        }
        all_works(world, true, "with a zone of guests");
        let findings = found(world, "foreign-input");
        assert_eq!(findings, Vec::<Value>::new());
    });
}

/// What the host itself says: without it nobody finds its address of IPv6.
#[test]
fn an_output_chain_that_drops() {
    host(|world| {
        let _daemon = served(world);
        world.sh("nft 'table inet strict { chain out { type filter hook output priority 0; policy drop; \
             ct state established,related accept; oif lo accept; }; }'");
        let at = |address: &str| {
            world.sh("ip -n web neighbour flush all");
            world.echoes("web", address)
        };
        assert!(at("192.168.1.1") && !at("fd00:1::1"));
        let findings = found(world, "foreign-output");
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(has(&findings[0], "neighbour discovery (ICMPv6 types 135 and 136) of network services"));
        assert!(!has(&findings[0], "DNS"), "answers get through: {findings:?}");
        by_hand(world, "foreign-output");
        assert!(at("fd00:1::1"));
        all_works(world, true, "after what was shown");
        assert_eq!(world.viaduct("doctor").code(), 0);
    });
}
