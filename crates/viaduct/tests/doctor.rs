//! `viaduct doctor`: what other programs and settings break for guests is found, named and mended, with packets before
//! and after.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use serde_json::Value;
use support::{
    CONFIG, World,
    doctor::{drop_like_docker, has_br_netfilter, made, of_kind},
    host,
};

/// A container as Docker 28 makes it, with Docker's rules, by one of the two iptables.
fn docker(world: &World, suffix: &str) {
    for line in [
        "ip netns add ct",
        "ip link add docker0 type bridge",
        "ip address add 172.17.0.1/16 dev docker0",
        "ip -6 address add fd00:d::1/64 dev docker0 nodad",
        "ip link set docker0 up",
        "ip link add vct type veth peer name eth0 netns ct",
        "ip link set vct master docker0 up",
        "ip -n ct address add 172.17.0.2/16 dev eth0",
        "ip -n ct -6 address add fd00:d::2/64 dev eth0 nodad",
        "ip -n ct link set eth0 up",
        "ip -n ct route add default via 172.17.0.1",
        "ip -n ct -6 route add default via fd00:d::1",
        "echo 1 >/proc/sys/net/ipv4/ip_forward",
    ] {
        world.sh(line);
    }
    for (tool, net) in [("iptables", "172.17.0.0/16"), ("ip6tables", "fd00:d::/64")] {
        for rule in [
            "-P FORWARD DROP",
            "-N DOCKER",
            "-N DOCKER-CT",
            "-N DOCKER-FORWARD",
            "-N DOCKER-USER",
            "-A FORWARD -j DOCKER-USER",
            "-A FORWARD -j DOCKER-FORWARD",
            "-A DOCKER-FORWARD -j DOCKER-CT",
            "-A DOCKER-FORWARD -o docker0 -j DOCKER",
            "-A DOCKER-FORWARD -i docker0 -j ACCEPT",
            "-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A DOCKER ! -i docker0 -o docker0 -j DROP",
            &format!("-t nat -A POSTROUTING -s {net} ! -o docker0 -j MASQUERADE"),
        ] {
            world.sh(&format!("{tool}{suffix} -w {rule}"));
        }
    }
}

fn container_works(world: &World) {
    assert!(world.echoes("ct", "203.0.113.1") && world.echoes("ct", "2001:db8:28::1"), "the container");
    assert!(!world.echoes("web", "172.17.0.2"), "a guest reaches a container past Docker's rules");
}

fn with_docker(world: &World, suffix: &str) {
    made(world);
    world.all_ways(true, "before Docker");
    assert_eq!(world.viaduct("doctor").code(), 0);
    docker(world, suffix);
    world.all_ways(false, "with Docker");
    container_works(world);

    let before = world.kernel();
    let ran = world.viaduct("doctor --json");
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert_eq!(world.kernel(), before, "looking changes nothing");
    let report = ran.json();
    let found = of_kind(&report, "foreign-filter");
    assert_eq!(found.len(), 2, "one for each family: {report}");
    for (finding, family) in found.iter().zip(["ip", "ip6"]) {
        let title = finding["title"].as_str().unwrap();
        assert!(
            title.contains(&format!("table {family} filter")) && title.contains("chain FORWARD"),
            "{title}"
        );
        assert!(title.contains("Docker"), "{title}");
        assert!(finding["why"].as_str().unwrap().contains("the policy drop"), "{finding}");
        assert!(
            finding["suffers"].to_string().contains("web") && finding["suffers"].to_string().contains("deb6")
        );
        assert_eq!(finding["remedy"]["safe"], true);
    }
    let shown = world.viaduct("doctor");
    assert!(shown.out.contains("-I DOCKER-USER -j VIADUCT"), "{shown:?}");

    let fixed = world.good("doctor --fix");
    assert!(fixed.out.contains("-I DOCKER-USER -j VIADUCT"), "{fixed:?}");
    world.all_ways(true, "mended");
    container_works(world);
    // Again: the same.
    let before = world.kernel();
    let again = world.good("doctor --fix --json").json();
    assert_eq!(again["treated"], Value::Null, "{again}");
    assert_eq!(world.kernel(), before);
}

#[test]
fn docker_s_drop_with_iptables_nft() {
    host(|world| with_docker(world, "-nft"));
}

#[test]
fn docker_s_drop_with_iptables_legacy() {
    host(|world| with_docker(world, "-legacy"));
}

#[test]
fn a_daemon_does_it_as_well() {
    host(|world| {
        made(world);
        docker(world, "-nft");
        let daemon = world.daemon();
        assert_eq!(world.viaduct("doctor").code(), 1);
        world.good("doctor --fix");
        world.all_ways(true, "mended");
        container_works(world);
        daemon.end();
    });
}

#[test]
fn both_kinds_of_iptables_are_told_apart() {
    host(|world| {
        made(world);
        world.sh("iptables-legacy -w -A FORWARD -i eth9 -j DROP");
        assert_eq!(world.viaduct("doctor").code(), 0, "one kind is no mixture");
        world.sh("iptables-nft -w -A FORWARD -i eth9 -j DROP");
        let report = world.viaduct("doctor --json").json();
        assert_eq!(of_kind(&report, "mixed-iptables").len(), 1, "{report}");
        assert_eq!(of_kind(&report, "foreign-filter").len(), 0, "{report}");
        world.all_ways(true, "rules for others");
    });
}

#[test]
fn frames_of_a_bridge_that_meet_iptables() {
    host(|world| {
        if !has_br_netfilter() {
            return;
        }
        let text = world.read(CONFIG);
        world.write(
            CONFIG,
            text.replace("[networks.services]", "[networks.services]\nbetween-guests = \"allow\""),
        );
        made(world);
        for on in ["iptables", "ip6tables"] {
            world.sh(&format!("echo 1 >/proc/sys/net/bridge/bridge-nf-call-{on}"));
        }
        assert!(world.echoes("web", "192.168.1.3"));
        drop_like_docker(world, "iptables");
        assert!(!world.echoes("web", "192.168.1.3"), "br_netfilter is not what it was");
        assert!(world.echoes("web", "203.0.113.1"));
        let report = world.viaduct("doctor --json").json();
        let found = of_kind(&report, "bridge-netfilter");
        assert_eq!(found.len(), 1, "{report}");
        assert!(found[0]["why"].as_str().unwrap().contains("bridge-nf-call-iptables"));
        world.good("doctor --fix");
        assert!(world.echoes("web", "192.168.1.3"));
    });
}

/// Whether a TCP connection to a port of somebody outside comes about.
fn connects(world: &World, from: &str, to: &str) -> bool {
    let script = format!("import socket; socket.create_connection((\"{to}\", 8080), 3)");
    world.sh(&format!("ip netns exec {from} python3 -c '{script}' 2>/dev/null && echo yes || echo no"))
        == "yes\n"
}

/// The real ufw, with its files in a copy of /etc.
#[test]
fn ufw_s_drop_and_its_reload() {
    host(|world| {
        made(world);
        let script = "import socket,threading
def serve(family):
    s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((\"\", 8080)); s.listen()
    while True: s.accept()[0].close()
threading.Thread(target=serve, args=(socket.AF_INET6,)).start(); serve(socket.AF_INET)";
        world.write("/run/server.py", script);
        let mut server = std::process::Command::new("ip")
            .args(["netns", "exec", "outside", "python3", "/run/server.py"])
            .spawn()
            .unwrap();
        world.soon("the server listens", || connects(world, "web", "203.0.113.1"));
        world.sh("ufw --force enable");
        let ways = || {
            [
                ("web", "203.0.113.1"),
                ("deb6", "203.0.113.1"),
                ("web", "2001:db8:28::1"),
                ("deb6", "2001:db8:28::1"),
            ]
            .map(|(from, to)| connects(world, from, to))
        };
        assert_eq!(ways(), [false; 4], "with ufw");
        let report = world.viaduct("doctor --json").json();
        let found = of_kind(&report, "foreign-filter");
        assert_eq!(found.len(), 2, "{report}");
        assert!(
            found.iter().all(|finding| finding["title"].as_str().unwrap().ends_with("the filter of ufw")),
            "{report}"
        );
        assert!(found.iter().all(|finding| finding["gravity"] == "broken"), "{report}");
        world.good("doctor --fix");
        assert_eq!(ways(), [true; 4], "mended");
        world.sh("ufw reload");
        assert_eq!(ways(), [true; 4], "reloaded");
        assert_eq!(world.viaduct("doctor").code(), 0);
        world.sh("ufw --force disable && ufw --force enable");
        assert_eq!(ways(), [true; 4], "enabled anew");
        let mode = world.sh("stat -c %a /etc/ufw/before.rules /etc/ufw/before6.rules");
        assert_eq!(mode, "640\n640\n");
        server.kill().unwrap();
        server.wait().unwrap();
    });
}

/// As firewalld 1.3 writes it with the default zone public, without what does not matter here.
const FIREWALLD: &str = "table inet firewalld {
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname \"lo\" accept
        ip6 daddr { ::/96, 2002:a00::/24 } reject with icmpv6 addr-unreachable
        jump filter_FORWARD_ZONES
        ct state invalid drop
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD_ZONES {
        goto filter_FWD_public
    }
    chain filter_FWD_public {
        jump filter_FWD_public_allow
        meta l4proto { icmp, ipv6-icmp } reject with icmpx admin-prohibited
    }
    chain filter_FWD_public_allow {
    }
}";

#[test]
fn firewalld_is_named_and_left_alone() {
    host(|world| {
        made(world);
        world.write("/run/firewalld.nft", FIREWALLD);
        world.sh("nft -f /run/firewalld.nft");
        assert!(!world.echoes("web", "203.0.113.1") && !world.echoes("outside", "203.0.113.100"));
        let before = world.kernel();
        let ran = world.viaduct("doctor --fix --json");
        assert_eq!((ran.code(), world.kernel()), (1, before), "{ran:?}");
        let report = ran.json();
        let found = of_kind(&report, "foreign-filter");
        assert_eq!(found.len(), 1, "{report}");
        let text = found[0].to_string();
        for words in [
            "inet firewalld",
            "filter_FORWARD",
            "priority 10",
            "a rule that drops",
            "--add-interface=br-services",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        // The published port of ldap is not lost: connections whose destination was translated pass.
        assert!(!text.contains("to published ports"), "{text}");
        assert_eq!((&found[0]["gravity"], &found[0]["remedy"]["safe"]), (&"broken".into(), &false.into()));
    });
}

#[test]
fn a_filter_of_nobody_known() {
    host(|world| {
        made(world);
        world.sh("nft add table inet filter && nft 'add chain inet filter forward { type filter hook forward priority 0; policy drop; }'");
        let report = world.viaduct("doctor --json").json();
        let found = of_kind(&report, "foreign-filter");
        assert_eq!(found.len(), 1, "{report}");
        // What is shown does what it says.
        for measure in found[0]["remedy"]["measures"].as_array().unwrap() {
            world.sh(measure["run"].as_str().unwrap());
        }
        world.all_ways(true, "after what was shown");
        assert_eq!(world.viaduct("doctor").code(), 0);
    });
}

/// A filter that lets a published port through by its number loses nothing of it; by another number, it does.
#[test]
fn published_ports_in_another_filter() {
    host(|world| {
        made(world);
        let serve = "import socket
s = socket.create_server((\"\", 389))
while True: s.accept()[0].close()";
        world.write("/run/serve.py", serve);
        let mut server = std::process::Command::new("ip")
            .args(["netns", "exec", "ldap", "python3", "/run/serve.py"])
            .spawn()
            .unwrap();
        let script = "import socket; socket.create_connection((\"203.0.113.2\", 389), 2)";
        let line = format!("ip netns exec outside python3 -c '{script}' 2>/dev/null && echo yes || echo no");
        let reached = || world.sh(&line) == "yes\n";
        world.soon("the server listens", reached);
        for (port, passes) in [(389, true), (390, false)] {
            world.sh(&format!(
                "nft 'table inet filter {{ chain forward {{ type filter hook forward priority 0; policy drop; \
                 ct state established,related accept; iifname {{ br-services, veth100.0 }} accept; \
                 oifname veth100.0 accept; ip daddr 192.168.1.3 tcp dport {port} accept; }}; }}'"
            ));
            assert_eq!(reached(), passes, "{port}");
            let report = world.viaduct("doctor --json").json();
            let found = of_kind(&report, "foreign-filter");
            let whys: Vec<&str> = found.iter().map(|finding| finding["why"].as_str().unwrap()).collect();
            assert_eq!(whys.len(), usize::from(!passes), "{report}");
            assert!(whys.iter().all(|why| why.contains("to published ports.")), "{report}");
            assert!(found.iter().all(|finding| finding["gravity"] == "broken"), "{report}");
            world.sh("nft delete table inet filter");
        }
        server.kill().unwrap();
        server.wait().unwrap();
    });
}

#[test]
fn a_strict_reverse_path_filter() {
    host(|world| {
        let text = world.read(CONFIG);
        world.write(
            CONFIG,
            text.replace(
                "[networks.services]",
                "[uplinks.second]\ninterface = \"eth1\"\n\n[networks.services]",
            )
            .replace("mode = \"routed\"\nuplink = \"wan\"", "mode = \"routed\"\nuplink = \"second\""),
        );
        for line in [
            "ip link add eth1 address 02:00:00:00:00:03 type veth peer name eth1 netns outside",
            "ip -n outside link set eth1 up",
            "ip link set eth1 up",
            "ip address add 198.51.100.2/24 dev eth1",
            "ip -n outside address add 198.51.100.1/24 dev eth1",
            // The filter drops questions by ARP from 192.0.2.1, too, and who asked in vain gives up for seconds.
            "ip -n outside neighbour add 198.51.100.2 lladdr 02:00:00:00:00:03 dev eth1",
            "ip -n outside address add 192.0.2.1/32 dev lo",
            "ip -n outside route add 203.0.113.100/31 via 198.51.100.2",
            "echo 1 >/proc/sys/net/ipv4/conf/eth1/rp_filter",
        ] {
            world.sh(line);
        }
        made(world);
        let comes_in = || world.echoes("outside", "-I 192.0.2.1 203.0.113.100");
        assert!(!comes_in(), "the filter is not strict");
        let report = world.viaduct("doctor --json").json();
        let found = of_kind(&report, "rp-filter");
        assert_eq!(found.len(), 1, "{report}");
        assert!(found[0]["suffers"].to_string().contains("deb6"), "{report}");
        world.good("doctor --fix");
        assert!(comes_in(), "{}", world.sh("grep . /proc/sys/net/ipv4/conf/*/rp_filter"));
        assert!(
            world
                .read("/etc/sysctl.d/80-viaduct-rp-filter-eth1.conf")
                .ends_with("net/ipv4/conf/eth1/rp_filter = 2\n")
        );
    });
}

#[test]
fn a_port_that_takes_less_than_its_bridge() {
    host(|world| {
        world.write(
            CONFIG,
            world
                .read(CONFIG)
                .replace("[networks.services]", "[networks.services]\nbetween-guests = \"allow\""),
        );
        made(world);
        let long = || {
            world.sh("ip netns exec ldap ping -n -c 3 -i 0.2 -W 1 -M do -s 1400 192.168.1.4 >/dev/null 2>&1 && echo yes || echo no")
        };
        assert_eq!(long(), "yes\n");
        world.sh("ip link set v-web.0 mtu 1300");
        assert_eq!(long(), "no\n");
        let report = world.viaduct("doctor --json").json();
        let found = of_kind(&report, "mtu");
        assert_eq!(found.len(), 1, "{report}");
        assert!(found[0]["title"].as_str().unwrap().starts_with("v-web.0 takes 1300 bytes"), "{report}");
        world.good("doctor --fix");
        assert_eq!(long(), "yes\n");
        world.settled();
    });
}

#[test]
fn forwarding_that_was_switched_off() {
    host(|world| {
        made(world);
        world.write("/etc/sysctl.d/99-hardening.conf", "net.ipv4.ip_forward = 0\n");
        // `ip_forward` switches all devices when it changes, and it has not been on.
        world.sh("for value in 1 0; do echo $value >/proc/sys/net/ipv4/ip_forward; done; \
             echo 0 >/proc/sys/net/ipv6/conf/all/forwarding");
        world.all_ways(false, "switched off");
        let report = world.viaduct("doctor --json").json();
        let found = of_kind(&report, "forwarding");
        assert_eq!(found.len(), 1, "{report}");
        assert!(found[0]["why"].as_str().unwrap().contains("/etc/sysctl.d/99-hardening.conf"), "{report}");
        world.good("doctor --fix");
        world.all_ways(true, "switched on");
    });
}

/// What stands between the words that announce lines to be pasted and those that follow them.
fn shown(said: &str) -> String {
    let mut lines = Vec::new();
    let mut rest = said.lines();
    while rest.any(|line| line.starts_with("  This mends it")) {
        lines.extend(rest.by_ref().take_while(|line| !line.starts_with("  ") || line.starts_with("    ")));
    }
    lines.join("\n")
}

#[test]
fn managers_that_take_ours_for_theirs() {
    host(|world| {
        made(world);
        assert_eq!(world.viaduct("doctor").code(), 0, "none of them runs");
        world.sh("mkdir -p /run/systemd/netif/links /run/NetworkManager /etc/systemd/network");
        world.write("/etc/systemd/network/50-all.network", "[Match]\nName=br-*\n[Network]\nDHCP=yes\n");
        let report = world.viaduct("doctor --json").json();
        for kind in ["networkd-foreign-routes", "networkd-links", "network-manager"] {
            assert_eq!(of_kind(&report, kind).len(), 1, "{kind}: {report}");
        }
        // By what it shows, pasted into a shell, and by itself: the same files.
        let files = || {
            world.sh("grep -r . /etc/systemd/networkd.conf.d /etc/systemd/network /etc/NetworkManager/conf.d 2>/dev/null || true")
        };
        let before = files();
        let shown = shown(&world.viaduct("doctor").out);
        world.sh(&format!("{shown}\ntrue"));
        let pasted = files();
        assert_ne!(pasted, before);
        world.sh("rm -rf /etc/systemd/networkd.conf.d /etc/systemd/network/05-viaduct.network \
             /etc/NetworkManager/conf.d/80-viaduct.conf");
        world.viaduct("doctor --fix");
        assert_eq!(files(), pasted);
        let report = world.viaduct("doctor --json").json();
        assert_eq!(report["findings"], serde_json::json!([]), "{report}");
        assert!(
            world.read("/etc/systemd/networkd.conf.d/80-viaduct.conf").contains("ManageForeignRoutes=no")
        );
        assert!(world.read("/etc/systemd/network/05-viaduct.network").contains("br-services"));
    });
}

#[test]
fn nothing_is_applied() {
    host(|world| {
        assert_eq!(world.viaduct("doctor").code(), 0);
        assert_eq!(world.good("doctor --json").json()["applied"], false);
    });
}

/// Asked as a program asks, without the command line.
#[test]
fn the_api_mends_as_well() {
    host(|world| {
        made(world);
        docker(world, "-nft");
        let daemon = world.daemon();
        let script = format!(
            "import socket
s = socket.socket(socket.AF_UNIX); s.connect('{}/api.sock')
s.sendall(b'POST /v1/mend HTTP/1.1\\r\\nHost: viaduct\\r\\nConnection: close\\r\\nContent-Length: 0\\r\\n\\r\\n')
text = b''
while part := s.recv(65536): text += part
head, body = text.split(b'\\r\\n\\r\\n', 1)
assert b' 200 ' in head.splitlines()[0], text
print(body.decode())",
            support::RUN
        );
        world.write("/run/mend.py", script);
        world.all_ways(false, "with Docker");
        let report: Value = serde_json::from_str(&world.sh("python3 /run/mend.py")).unwrap();
        let treated = report["treated"].as_array().unwrap();
        assert!(!treated.is_empty() && treated.iter().all(|one| one["error"].is_null()), "{report}");
        assert_eq!(report["findings"], serde_json::json!([]), "{report}");
        world.all_ways(true, "mended");
        container_works(world);
        daemon.end();
    });
}

/// The kernel has one table of connections for the whole machine, so that it is not filled here: what it says of
/// itself is put in its place.
#[test]
fn a_table_of_connections_that_is_nearly_full() {
    host(|world| {
        made(world);
        for (name, value) in [("count", "95"), ("max", "100")] {
            world.write(&format!("/run/{name}"), format!("{value}\n"));
            world.sh(&format!("mount --bind /run/{name} /proc/sys/net/netfilter/nf_conntrack_{name}"));
        }
        let ran = world.viaduct("doctor --json");
        assert_eq!(ran.code(), 1, "{ran:?}");
        let report = ran.json();
        let found = of_kind(&report, "conntrack");
        assert_eq!(found.len(), 1, "{report}");
        assert_eq!(found[0]["title"], "95 of at most 100 connections are tracked");
        assert_eq!(found[0]["gravity"], "broken");
        assert!(found[0]["remedy"]["measures"].to_string().contains("nf_conntrack_max = 200"), "{report}");
        // It is for people to decide.
        let fixed = world.viaduct("doctor --fix --json").json();
        assert_eq!(of_kind(&fixed, "conntrack").len(), 1, "{fixed}");
        world.write("/run/count", "89\n");
        assert_eq!(world.viaduct("doctor").code(), 0);
    });
}

#[test]
fn a_provider_that_knows_macs() {
    host(|world| {
        let bridged = "\n[networks.lan]\nmode = \"bridged\"\nuplink = \"wan\"\nbridge = \"br-lan\"\n";
        world.write(CONFIG, world.read(CONFIG) + bridged);
        made(world);
        assert_eq!(of_kind(&world.viaduct("doctor --json").json(), "mac-filter").len(), 0);
        world.sh("mount -t tmpfs none /sys/class && mkdir -p /sys/class/dmi/id && \
             echo Hetzner >/sys/class/dmi/id/sys_vendor");
        let ran = world.viaduct("doctor --json");
        let report = ran.json();
        let found = of_kind(&report, "mac-filter");
        assert_eq!(found.len(), 1, "{report}");
        assert_eq!(found[0]["gravity"], "note");
        assert_eq!(ran.code(), 0, "what cannot be known is no failure: {report}");
        assert!(found[0]["title"].as_str().unwrap().contains("network lan"), "{report}");
        assert!(found[0]["remedy"]["remark"].as_str().unwrap().contains("uplink-mac"), "{report}");
    });
}
