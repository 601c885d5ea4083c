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

/// Nothing that [`all`] showed is gone, and nothing is new.
#[track_caller]
fn as_before(world: &World, before: &str) {
    let after = all(world);
    let gone: Vec<&str> = before.lines().filter(|line| !after.contains(*line)).collect();
    let new: Vec<&str> = after.lines().filter(|line| !before.contains(*line)).collect();
    assert_eq!((gone, new), (Vec::new(), Vec::new()));
}

fn outside_with_vlan_5(world: &World) {
    outside(world);
    for line in [
        "ip -n outside link add link eth0 name v5 type vlan id 5",
        "ip -n outside link set v5 up",
        "ip -n outside address add 10.5.0.1/24 dev v5",
        "ip -n outside address add 2001:db8:5::1/64 dev v5 nodad",
    ] {
        world.sh(line);
    }
}

/// A machine that somebody else puts into a bridge, with a MAC that no file knows.
fn stranger(world: &World, bridge: &str, address: &str) {
    for line in [
        "ip netns add stranger",
        "ip link add stranger type veth peer name eth0 netns stranger address 02:00:00:00:77:01",
        &format!("ip link set stranger master {bridge} up"),
        "ip -n stranger link set eth0 up",
        &format!("ip -n stranger address add {address} dev eth0"),
    ] {
        world.sh(line);
    }
}

/// Waits until something is so, which takes an emulated processor its time.
#[track_caller]
fn soon(world: &World, what: &str, is_so: impl FnMut() -> bool) {
    world.within(std::time::Duration::from_secs(120), what, is_so);
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
        as_before(world, &before);
        assert_eq!(before, all(world));
    });
}

/// Guests on the uplink's own segment, on a VLAN of it, and on a service provider's.
const BRIDGED: &str = r#"
[host]
name = "iron"

[uplinks.trunk]
interface = "eth0"

[networks.plain]
mode = "bridged"
uplink = "trunk"

[networks.lan]
mode = "bridged"
uplink = "trunk"
vlan = 5

[networks.carrier]
mode = "bridged"
uplink = "trunk"
vlan = 100
protocol = "802.1ad"

[guests.near]
[[guests.near.nics]]
network = "plain"
addresses = ["203.0.113.9/24", "2001:db8:28::9/64"]

[guests.web]
id = 1
[[guests.web.nics]]
network = "lan"
addresses = ["10.5.0.5/24", "2001:db8:5::5/64"]

[guests.free]
id = 2
[[guests.free.nics]]
network = "lan"
addresses = ["10.5.0.6/24"]
spoofing = "mac"

[guests.far]
[[guests.far.nics]]
network = "carrier"
addresses = ["10.100.0.5/24"]
"#;

/// What comes in by a device outside, counted: by sender, and by sender and VLAN; and what has more than one tag.
const EAR: &str = "
table netdev ear {
    set any { type ether_addr; flags dynamic; size 1000; }
    set tagged { typeof ether saddr . vlan id; flags dynamic; size 1000; }
    set twice { type ether_addr; flags dynamic; size 1000; }
    chain in {
        type filter hook ingress device eth0 priority 0;
        update @any { ether saddr counter }
        update @tagged { ether saddr . vlan id counter }
        @ll,96,16 { 0x8100, 0x88a8 } @ll,128,16 { 0x8100, 0x88a8 } update @twice { ether saddr counter }
    }
}";

/// Listens outside.
fn listen(world: &World) {
    world.write("/run/ear.nft", EAR);
    world.sh("ip netns exec outside nft -f /run/ear.nft");
}

/// What a set outside has heard.
fn heard(world: &World, set: &str) -> String {
    world.sh(&format!("ip netns exec outside nft list set netdev ear {set}"))
}

#[test]
#[ignore = "needs 802.1Q: cargo xtask vm test --package viaduct --test vlans -- --ignored"]
fn guests_are_bridged_to_a_vlan_of_the_uplink_and_to_nothing_else() {
    host(|world| {
        outside_with_vlan_5(world);
        listen(world);
        let before = all(world);
        world.write(CONFIG, BRIDGED);
        world.good("apply");
        world.settled();
        for guest in ["near", "web", "free", "far"] {
            world.attach(guest);
        }
        world.settled();
        world.reachable();
        assert_eq!(world.good("status --json").json()["networks"]["lan"]["vlan"], 5);
        assert!(world.good("status").out.contains("trunk, VLAN 5"));
        let works =
            |line: &str| world.sh(&format!("{line} >/dev/null 2>&1 && echo yes || echo no")) == "yes\n";
        for ping in [
            "ip netns exec web ping -c1 -W5 10.5.0.1",
            "ip netns exec web ping -c1 -W5 2001:db8:5::1",
            "ip netns exec outside ping -c1 -W5 10.5.0.5",
            "ip netns exec web ping -c1 -W5 10.5.0.6",
            "ip netns exec far ping -c1 -W5 10.100.0.1",
            "ip netns exec near ping -c1 -W5 203.0.113.1",
            "ip netns exec near ping -c1 -W5 2001:db8:28::1",
            "ip netns exec outside ping -c1 -W5 203.0.113.2",
        ] {
            assert!(works(ping), "{ping}");
        }
        // Its frames have its tag, and never none.
        let tagged = heard(world, "tagged");
        assert!(tagged.contains("02:00:05:00:01:00 . 5"), "{tagged}");
        // Segments do not meet, and the host is in none of the guests' VLANs.
        world.sh("ip -n web route add 203.0.113.0/24 dev eth0; ip -n near route add 10.5.0.0/24 dev eth0");
        for crossing in [
            "ip netns exec web ping -c1 -W1 203.0.113.2",
            "ip netns exec web ping -c1 -W1 203.0.113.9",
            "ip netns exec near ping -c1 -W1 10.5.0.5",
        ] {
            assert!(!works(crossing), "{crossing}");
        }

        // Tags of its own get a guest nowhere, also one that may send anything.
        for (guest, vlan) in [("web", 7), ("free", 7), ("near", 5)] {
            world.sh(&format!(
                "ip -n {guest} link add link eth0 name x type vlan id {vlan} && ip -n {guest} link set x up && \
                 ip -n {guest} address add 10.7.0.9/24 dev x"
            ));
            assert!(!works(&format!("ip netns exec {guest} ping -c1 -W1 10.7.0.1")));
            let drops = world.good("status --json").json()["guests"][guest]["nics"][0]["drops"].clone();
            assert!(drops["vlan"]["packets"].as_u64().unwrap() > 0, "{guest}: {drops}");
        }
        assert_eq!(heard(world, "twice").matches("counter").count(), 0, "{}", heard(world, "twice"));
        let tagged = heard(world, "tagged");
        assert!(!tagged.contains(" . 7"), "{tagged}");

        // What others change comes back.
        let daemon = world.daemon();
        for drift in [
            "ip link del eth0.5",
            "ip link set eth0.5 nomaster",
            "ip link set eth0.5 down",
            "ip link del br-lan",
        ] {
            world.sh(drift);
            soon(world, drift, || works("ip netns exec web ping -c1 -W1 10.5.0.1"));
        }
        daemon.end();
        world.settled();
        // Another number is another device.
        world.write(CONFIG, BRIDGED.replace("vlan = 5", "vlan = 6"));
        world.good("apply");
        world.settled();
        assert!(!works("ip netns exec web ping -c1 -W1 10.5.0.1"));
        assert!(!world.sh("ip link").contains("eth0.5"));

        world.good("down");
        for guest in ["near", "web", "free", "far"] {
            world.sh(&format!("ip netns del {guest}"));
        }
        as_before(world, &before);

        // One that somebody else has made is not taken.
        world.sh("ip link add link eth0 name other type vlan id 5");
        world.write(CONFIG, BRIDGED);
        world.viaduct("apply").refused(2, &["other", "not Viaduct's", "viaduct.toml"]);
    });
}

/// A vnet that goes on outside by a VLAN of the uplink. Its other hosts are not there.
const VNET: &str = r#"
[host]
name = "iron"

[uplinks.trunk]
interface = "eth0"

[vnets.red]
id = "97"
port = "trunk"
vlan = 5

[networks.red]
mode = "vnet"
vnet = "red"
subnets = ["10.5.0.0/24"]
gateways = ["10.5.0.254"]

[guests.web]
id = 1
[[guests.web.nics]]
network = "red"
addresses = ["10.5.0.5"]
"#;

#[test]
#[ignore = "needs 802.1Q: cargo xtask vm test --package viaduct --test vlans -- --ignored"]
fn a_vnet_goes_on_outside_by_a_vlan_of_the_uplink() {
    host(|world| {
        outside_with_vlan_5(world);
        listen(world);
        let before = all(world);
        world.write(CONFIG, VNET);
        world.good("apply");
        world.settled();
        world.attach("web");
        // A machine that no file knows, put into the bridge by somebody else, with a MAC of its own.
        stranger(world, "br-red", "10.5.0.77/24");
        let works =
            |line: &str| world.sh(&format!("{line} >/dev/null 2>&1 && echo yes || echo no")) == "yes\n";
        for ping in [
            "ip netns exec stranger ping -c1 -W5 10.5.0.1",
            "ip netns exec web ping -c1 -W5 10.5.0.1",
            "ip netns exec outside ping -c1 -W5 10.5.0.5",
            "ping -c1 -W5 -I 10.5.0.254 10.5.0.1",
        ] {
            assert!(works(ping), "{ping}");
        }
        // With the tag of its VLAN only; without one nobody's MAC but the host's leaves.
        let tagged = heard(world, "tagged");
        assert!(tagged.contains("02:00:00:00:77:01 . 5"), "{tagged}");
        world.sh("ip link add link eth0 name leak type macvlan mode bridge && ip link set leak address 02:00:00:00:77:02 up");
        world.sh("ip address add 203.0.113.7/24 dev leak; ping -c1 -W1 -I leak 203.0.113.1 > /dev/null || true; ip link del leak");
        let any = heard(world, "any");
        assert!(any.contains("02:00:00:00:77:01") && !any.contains("02:00:00:00:77:02"), "{any}");

        // What others change comes back.
        let daemon = world.daemon();
        for drift in ["ip link del eth0.5", "ip link set eth0.5 nomaster", "ip link set eth0.5 down"] {
            world.sh(drift);
            soon(world, drift, || works("ip netns exec stranger ping -c1 -W1 10.5.0.1"));
        }
        daemon.end();
        world.settled();
        world.sh("ip netns del stranger");
        world.good("down");
        world.sh("ip netns del web");
        as_before(world, &before);
    });
}

/// A vnet that goes on outside by a VLAN that is somebody else's, and one that does by a VLAN within it.
const WITHIN: &str = r#"
[vnets.blue]
id = "98"
port = "s20"

[networks.blue]
mode = "vnet"
vnet = "blue"
subnets = ["10.7.0.0/24", "2001:db8:7::/64"]

[vnets.green]
id = "99"
port = "s20"
vlan = 9

[networks.green]
mode = "vnet"
vnet = "green"
subnets = ["10.9.0.0/24", "2001:db8:9::/64"]

[[guests.web.nics]]
network = "blue"
addresses = ["10.7.0.5", "2001:db8:7::5"]

[[guests.web.nics]]
network = "green"
addresses = ["10.9.0.5", "2001:db8:9::5"]
"#;

#[test]
#[ignore = "needs 802.1Q: cargo xtask vm test --package viaduct --test vlans -- --ignored"]
fn vnets_go_on_outside_by_a_vlan_and_by_one_within_it() {
    host(|world| {
        outside_with_vlan_5(world);
        for line in [
            "ip link add annex type veth peer name far netns outside",
            "ip link set annex up",
            "ip link add link annex name s20 type vlan protocol 802.1ad id 20",
            "ip link set s20 up",
            "ip -n outside link set far up",
            "ip -n outside link add link far name s20 type vlan protocol 802.1ad id 20",
            "ip -n outside link set s20 up",
            "ip -n outside address add 10.7.0.1/24 dev s20",
            "ip -n outside address add 2001:db8:7::1/64 dev s20 nodad",
            "ip -n outside link add link s20 name s20.9 type vlan id 9",
            "ip -n outside link set s20.9 up",
            "ip -n outside address add 10.9.0.1/24 dev s20.9",
            "ip -n outside address add 2001:db8:9::1/64 dev s20.9 nodad",
        ] {
            world.sh(line);
        }
        let before = all(world);
        world.write(CONFIG, format!("{VNET}{WITHIN}"));
        world.good("apply");
        world.settled();
        world.attach("web");
        world.good("attach web.1 --netns web");
        world.good("attach web.2 --netns web");
        // Until then it would speak with another address of its own.
        soon(world, "addresses", || world.sh("ip -n web -6 address show tentative").is_empty());
        let works =
            |line: &str| world.sh(&format!("{line} >/dev/null 2>&1 && echo yes || echo no")) == "yes\n";
        for (near, far) in [
            ("10.5.0.5", "10.5.0.1"),
            ("10.7.0.5", "10.7.0.1"),
            ("2001:db8:7::5", "2001:db8:7::1"),
            ("10.9.0.5", "10.9.0.1"),
            ("2001:db8:9::5", "2001:db8:9::1"),
        ] {
            assert!(works(&format!("ip netns exec web ping -c1 -W5 {far}")), "to {far}");
            assert!(works(&format!("ip netns exec outside ping -c1 -W5 {near}")), "to {near}");
        }
        // A machine that no file knows has its own MAC there, too.
        stranger(world, "br-green", "10.9.0.77/24");
        assert!(works("ip netns exec stranger ping -c1 -W5 10.9.0.1"));
        assert!(world.sh("ip -n outside neighbour show dev s20.9").contains("02:00:00:00:77:01"));
        assert!(!world.sh("ip -n outside neighbour show dev s20").contains("02:00:00:00:77:01"));
        // The one within is made anew when somebody takes it away.
        let daemon = world.daemon();
        world.sh("ip link del s20.9");
        soon(world, "s20.9", || works("ip netns exec web ping -c1 -W1 10.9.0.1"));
        daemon.end();
        world.settled();
        world.sh("ip netns del stranger");
        world.good("down");
        world.sh("ip netns del web");
        as_before(world, &before);
        // One that Viaduct makes itself is there for its own bridge alone.
        world.write(CONFIG, format!("{VNET}{}", WITHIN.replace("\"s20\"", "\"eth0.5\"")));
        world.viaduct("apply").refused(2, &["eth0.5", "VLAN within a VLAN", "viaduct.toml:36:"]);
    });
}

#[test]
#[ignore = "needs 802.1Q: cargo xtask vm test --package viaduct --test vlans -- --ignored"]
fn an_interface_that_was_down_is_down_again_when_no_vlan_stands_on_it() {
    host(|world| {
        world.sh("ip link add annex type veth peer name far netns outside && ip -n outside link set far up");
        // The kernel gives it a queue when it comes up first.
        world.sh("ip link set annex up && ip link set annex down");
        let before = all(world);
        world.write(CONFIG, GROUPS.replace("\"eth0\"", "\"annex\""));
        world.good("apply");
        world.settled();
        assert!(world.sh("ip link show annex").contains(",UP"));
        world.good("down");
        assert_eq!(before, all(world));
    });
}
