//! Devices that this machine's kernel may not have: VLANs with one tag and with two, priorities, ipvlan. With Debian's
//! kernel, by `cargo xtask test`, or: cargo xtask vm test --package viaduct --test vlans -- --ignored

mod support;

use support::{CONFIG, World, host};

const GROUPS: &str = r#"
[host]
name = "iron"

[uplinks.trunk]
interface = "eth0"

[namespaces.dmz]
id = 42
[[namespaces.dmz.interfaces]]
name = "fw-vlan2"
type = "vlan"
parent = "trunk"
vlan = 2
egress-qos = ["0:3", "6:5"]
ingress-qos = ["5:6"]
addresses = ["10.2.0.5/24", "2001:db8:2::5/64"]
gateways = ["10.2.0.1"]
routes = ["10.9.0.0/16 via 10.2.0.7", "2001:db8:9::/48 via 2001:db8:2::7", "10.8.0.0/16"]

[namespaces.carrier]
[[namespaces.carrier.interfaces]]
name = "s100"
type = "vlan"
parent = "trunk"
vlan = 100
protocol = "802.1ad"
addresses = ["10.100.0.5/24"]

[namespaces.behind]
[[namespaces.behind.interfaces]]
name = "ip0"
type = "ipvlan"
parent = "trunk"
addresses = ["203.0.113.9/24", "2001:db8:28::9/64"]

[guests.mail]
namespace = "dmz"
"#;

#[test]
#[ignore = "needs 802.1Q: cargo xtask vm test --package viaduct --test vlans -- --ignored"]
fn many_namespaces_with_a_vlan_each() {
    const COUNT: u32 = 200;
    host(|world| {
        let before = all(world);
        let namespace = |n: u32| {
            format!(
                "[[namespaces.n{n}.interfaces]]\nname = \"v\"\ntype = \"vlan\"\nparent = \"trunk\"\nvlan = {}\n\
                 addresses = [\"10.{n}.0.5/24\"]\ngateways = [\"10.{n}.0.1\"]\n",
                n + 2
            )
        };
        let text: String = (0..COUNT).map(namespace).collect();
        world.write(CONFIG, format!("[uplinks.trunk]\ninterface = \"eth0\"\n{text}"));
        for _ in 0..2 {
            let begin = std::time::Instant::now();
            world.good("apply");
            eprintln!("{COUNT} namespaces with a VLAN each are made in {:?}", begin.elapsed());
            world.settled();
            for n in [0, COUNT / 2, COUNT - 1] {
                let id = n + 2;
                world.sh(&format!(
                    "ip -n outside link add link eth0 name v{id} type vlan id {id}; ip -n outside link set v{id} up; \
                     ip -n outside address add 10.{n}.0.1/24 dev v{id}; ip netns exec n{n} ping -c1 -W5 10.{n}.0.1; \
                     ip -n outside link del v{id}"
                ));
            }
            let begin = std::time::Instant::now();
            world.good("down");
            eprintln!("and taken away in {:?}", begin.elapsed());
            assert_eq!(before, all(world));
        }
    });
}

/// Everything that the kernel has, in all namespaces with a name.
fn all(world: &World) -> String {
    let settings = world.sh(
        "cd /proc/sys/net && find ipv4 ipv6 -type f -not -path '*/route/flush' -not -name stable_secret | sort | xargs grep -H '' 2> /dev/null; \
         ip rule; ip -6 rule; ls /run/netns",
    );
    world.kernel() + &settings
}

/// The machine outside has the other ends.
fn outside(world: &World) {
    for line in [
        "ip -n outside address add 203.0.113.1/24 dev eth0",
        "ip -n outside address add 2001:db8:28::1/64 dev eth0 nodad",
        "ip -n outside link add link eth0 name v2 type vlan id 2",
        "ip -n outside link set v2 up",
        "ip -n outside address add 10.2.0.1/24 dev v2",
        "ip -n outside address add 2001:db8:2::1/64 dev v2 nodad",
        "ip -n outside link add link eth0 name s100 type vlan protocol 802.1ad id 100",
        "ip -n outside link set s100 up",
        "ip -n outside address add 10.100.0.1/24 dev s100",
    ] {
        world.sh(line);
    }
}

#[test]
#[ignore = "needs 802.1Q and ipvlan: cargo xtask vm test --package viaduct --test vlans -- --ignored"]
fn every_kind_carries_packets_and_leaves_nothing_behind() {
    host(|world| {
        outside(world);
        let before = all(world);
        world.write(CONFIG, GROUPS);
        world.good("apply");
        world.settled();
        for (inside, said) in [
            ("ip -n dmz -d link show fw-vlan2", "protocol 802.1Q id 2"),
            ("ip -n dmz -d link show fw-vlan2", "02:00:02:00:2a:00"),
            ("ip -n dmz -d link show fw-vlan2", "ingress-qos-map { 5:6 }"),
            ("ip -n dmz -d link show fw-vlan2", "egress-qos-map { 0:3 6:5 }"),
            ("ip -n dmz route", "10.9.0.0/16 via 10.2.0.7"),
            ("ip -n dmz route", "10.8.0.0/16 dev fw-vlan2"),
            ("ip -n dmz -6 route", "2001:db8:9::/48 via 2001:db8:2::7"),
            ("ip -n carrier -d link show s100", "protocol 802.1ad id 100"),
            ("ip -n behind -d link show ip0", "ipvlan  mode l2"),
            ("ip -n behind link show ip0", "02:00:00:00:00:02"),
        ] {
            let shown = world.sh(inside);
            assert!(shown.contains(said), "{inside}: {said}: {shown}");
        }
        for ping in [
            "ip netns exec outside ping -c1 -W5 10.2.0.5",
            "ip netns exec outside ping -c1 -W5 2001:db8:2::5",
            "ip netns exec outside ping -c1 -W5 10.100.0.5",
            "ip netns exec outside ping -c1 -W5 203.0.113.9",
            "ip netns exec outside ping -c1 -W5 2001:db8:28::9",
            "ip netns exec behind ping -c1 -W5 203.0.113.1",
        ] {
            world.sh(ping);
        }
        // One stack does not know the other.
        let crossing = "ip netns exec carrier ping -c1 -W1 10.2.0.5 > /dev/null && echo in || echo out";
        assert_eq!(world.sh(crossing), "out\n");
        // Another mode of the same device is another device.
        world.write(CONFIG, GROUPS.replace("type = \"ipvlan\"", "type = \"ipvlan\"\nmode = \"l3s\""));
        world.good("apply");
        world.settled();
        assert!(world.sh("ip -n behind -d link show ip0").contains("mode l3s"));

        world.good("down");
        let after = all(world);
        let gone: Vec<&str> = before.lines().filter(|line| !after.contains(*line)).collect();
        let new: Vec<&str> = after.lines().filter(|line| !before.contains(*line)).collect();
        assert_eq!((gone, new), (Vec::new(), Vec::new()));
        assert_eq!(before, after);
    });
}
