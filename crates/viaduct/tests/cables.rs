//! What namespaces have from the host itself: cables to networks, where they are guarded and filtered as guests are, and
//! to bridges of others; and devices of the host that move in, and come back as they were.
#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

mod support;

use std::{fs, net::UdpSocket, os::fd::AsFd, thread, time::Duration};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use support::{CONFIG, RUN, World, host};

/// A namespace on a network behind the host, on one with public addresses, and on a bridge that is somebody else's.
const CABLES: &str = r#"
[host]
name = "iron"

[uplinks.wan]
interface = "eth0"

[networks.lan]
mode = "nat"
uplink = "wan"
subnets = ["192.168.5.0/24", "fd00:5::/64"]

[networks.public]
mode = "routed"
uplink = "wan"
pool = ["203.0.113.100/31", "2001:db8:28:1::/64"]
proxy = true

[namespaces.dmz]
id = 42
[[namespaces.dmz.interfaces]]
name = "lan0"
type = "veth"
network = "lan"
addresses = ["192.168.5.9", "fd00:5::9"]

[[namespaces.dmz.interfaces]]
name = "side0"
type = "veth"
bridge = "br9"
device = "dmz-side"
addresses = ["10.99.0.2/24", "2001:db8:99::2/64"]
routes = ["10.98.0.0/16 via 10.99.0.1"]

[namespaces.front]
[[namespaces.front.interfaces]]
name = "pub0"
type = "veth"
network = "public"
addresses = ["203.0.113.100", "2001:db8:28:1::100"]

[guests.mail]
namespace = "dmz"
publish = ["203.0.113.2:2525:25/udp"]

[guests.www]
namespace = "dmz"

[guests.peer]
allow-in = [{ from = "guest:dmz" }]
[[guests.peer.nics]]
network = "lan"
addresses = ["192.168.5.10", "fd00:5::10"]

[guests.closed]
[[guests.closed.nics]]
network = "lan"
addresses = ["192.168.5.11"]
"#;

fn bridge(world: &World) {
    for line in [
        "ip link add br9 address 02:00:00:00:09:09 type bridge && ip link set br9 addrgenmode none up",
        "ip address add 10.99.0.1/24 dev br9; ip address add 2001:db8:99::1/64 dev br9 nodad",
    ] {
        world.sh(line);
    }
}

/// As soon as nobody else has said that the address is theirs.
#[track_caller]
fn reaches(world: &World, from: &str, to: &str) {
    world.soon(&format!("{from} reaches {to}"), || world.echoes(from, to));
}

/// Only what differs is shown.
#[track_caller]
fn same(before: &str, after: &str) {
    let lines = |text: &str, other: &str| -> Vec<String> {
        text.lines().filter(|line| !other.lines().any(|other| other == *line)).map(str::to_owned).collect()
    };
    let (gone, new) = (lines(before, after), lines(after, before));
    assert!(before == after, "{gone:#?} became {new:#?}");
}

/// Does something in a namespace.
fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    let file = fs::File::open(format!("/run/netns/{name}")).unwrap();
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        inside.join().unwrap()
    })
}

#[test]
fn a_cable_to_a_network_is_a_guests() {
    host(|world| {
        world.connect_outside();
        bridge(world);
        let before = world.kernel();
        world.write(CONFIG, CABLES);
        world.good("apply");
        world.settled();
        for guest in ["peer", "closed"] {
            world.attach(guest);
        }
        world.settled();
        // By the networks' own gateways, translated and not.
        for to in
            ["203.0.113.1", "2001:db8:28::1", "192.168.5.10", "fd00:5::10", "10.99.0.1", "2001:db8:99::1"]
        {
            reaches(world, "dmz", to);
        }
        for to in ["203.0.113.1", "2001:db8:28::1"] {
            reaches(world, "front", to);
        }
        for to in ["203.0.113.100", "2001:db8:28:1::100"] {
            reaches(world, "outside", to);
        }
        // Who may, may; who may not, may not.
        assert!(!world.echoes("dmz", "192.168.5.11"), "between-guests is denied");
        assert!(world.sh("ip -n dmz route get 10.98.0.9").contains("via 10.99.0.1 dev side0"));
        // A published port of a guest in the namespace.
        let server = within("dmz", || UdpSocket::bind("0.0.0.0:25").unwrap());
        let client = within("outside", || UdpSocket::bind("203.0.113.1:0").unwrap());
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        client.send_to(b"hello", "203.0.113.2:2525").unwrap();
        let mut said = [0; 5];
        let (_, from) = server.recv_from(&mut said).unwrap();
        server.send_to(b"world", from).unwrap();
        let (_, from) = client.recv_from(&mut said).unwrap();
        assert_eq!((&said, from.to_string().as_str()), (b"world", "203.0.113.2:2525"));
        // Nobody's address but its own.
        world.sh("ip -n dmz address add 192.168.5.77/24 dev lan0");
        let forged = "ip netns exec dmz ping -c2 -i0.2 -W1 -I 192.168.5.77 203.0.113.1 >/dev/null && echo out || echo held back";
        assert_eq!(world.sh(forged), "held back\n");
        let status = world.good("status --json").json();
        let nic = &status["guests"]["dmz"]["nics"][0];
        assert!(nic["drops"]["address"]["packets"].as_u64().unwrap() > 0, "{nic}");
        assert_eq!(nic["state"], "up");
        assert_eq!(status["namespaces"]["dmz"]["guests"], serde_json::json!(["mail", "www"]));
        let text = world.good("status").out;
        assert!(text.contains("veth to network lan") && text.contains("veth to bridge br9"), "{text}");
        // What was added by hand is drift.
        world.good("apply");
        assert!(!world.sh("ip -n dmz -oneline address").contains("192.168.5.77"));

        world.viaduct("attach dmz.0 --netns peer").refused(2, &["namespace dmz"]);
        world.viaduct("detach dmz.0").refused(2, &["namespace dmz"]);
        world.good("down");
        world.sh("ip netns del peer; ip netns del closed");
        assert_eq!(world.sh("ip netns list | sed 's/ .*//'"), "outside\n");
        same(&before, &world.kernel());
    });
}

/// A namespace with a way out of its own, where this host is not, and a cable to public addresses.
const ASIDE: &str = r#"
[uplinks.wan]
interface = "eth0"

[networks.public]
mode = "routed"
uplink = "wan"
pool = ["203.0.113.100/31", "2001:db8:28:1::/64"]
proxy = true

[namespaces.front]
[[namespaces.front.interfaces]]
name = "side0"
type = "veth"
bridge = "br9"
addresses = ["10.99.0.3/24", "2001:db8:99::3/64"]
gateways = ["10.99.0.254", "2001:db8:99::254"]

[[namespaces.front.interfaces]]
name = "pub0"
type = "veth"
network = "public"
addresses = ["203.0.113.100", "2001:db8:28:1::100"]

[guests.names]
namespace = "front"
publish = ["203.0.113.2:5353:53/udp", "[2001:db8:28::2]:5353:53/udp"]
"#;

#[test]
fn a_port_leads_by_a_cable_into_a_namespace_with_its_own_way_out() {
    host(|world| {
        world.connect_outside();
        bridge(world);
        world.write(CONFIG, ASIDE);
        world.good("apply");
        world.settled();
        // Whoever serves need not know by which address it is asked.
        let server = within("front", || UdpSocket::bind("[::]:53").unwrap());
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let asks = |client: &UdpSocket, port: &str, by: &str| {
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            client.send_to(b"hello", port).unwrap();
            let mut said = [0; 5];
            let (_, from) = server.recv_from(&mut said).unwrap();
            assert_eq!(from.ip().to_canonical().to_string(), by);
            server.send_to(b"world", from).unwrap();
            let (_, from) = client.recv_from(&mut said).unwrap();
            assert_eq!((&said, from.to_string().as_str()), (b"world", port));
        };
        for (own, port, by) in [
            ("203.0.113.1:0", "203.0.113.2:5353", "169.254.1.1"),
            ("[2001:db8:28::1]:0", "[2001:db8:28::2]:5353", "64:ff9b:1::a9fe:101"),
        ] {
            asks(&within("outside", || UdpSocket::bind(own).unwrap()), port, by);
            let any = if port.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
            asks(&UdpSocket::bind(any).unwrap(), port, by);
        }
        assert!(world.good("apply").out.contains("Nothing to do."));
    });
}

#[test]
fn cables_come_back_and_follow_the_file() {
    host(|world| {
        world.connect_outside();
        bridge(world);
        world.write(CONFIG, CABLES);
        world.good("apply");
        let daemon = world.daemon();
        for drift in [
            "ip netns del dmz",
            "ip link del v-dmz.0",
            "ip link del dmz-side",
            "ip link set dmz-side nomaster",
            "ip -n dmz link set lan0 down",
            "ip -n dmz address del 192.168.5.9/24 dev lan0",
            "ip link set v-dmz.0 down",
        ] {
            world.sh(drift);
            world.soon(drift, || {
                let inside = |to| format!("ip netns exec dmz ping -c1 -W1 {to} >/dev/null 2>&1");
                let both =
                    format!("{} && {} && echo yes || echo no", inside("203.0.113.1"), inside("10.99.0.1"));
                world.sh(&both) == "yes\n" || {
                    // What happens inside of a namespace is looked at now and then only.
                    world.good("apply");
                    false
                }
            });
            world.soon("nothing is left to do", || world.viaduct("plan --exit-code").code() == 0);
        }
        // Other addresses, another network.
        world.write(
            CONFIG,
            CABLES.replace("192.168.5.9\"", "192.168.5.19\"").replace("device = \"dmz-side\"\n", ""),
        );
        world.good("apply");
        world.settled();
        reaches(world, "dmz", "203.0.113.1");
        reaches(world, "dmz", "10.99.0.1");
        assert!(!world.sh("ip -oneline link").contains("dmz-side"));
        daemon.end();
        world.good("down");
    });
}

#[test]
fn what_cannot_be_plugged_in_is_said() {
    host(|world| {
        world.write(CONFIG, CABLES);
        world.viaduct("apply").refused(2, &["no bridge br9", "viaduct.toml"]);
        world.sh("ip link add br9 type veth peer name other");
        world.viaduct("apply").refused(2, &["br9 is no bridge"]);
        world.sh("ip link del br9");
        bridge(world);
        world.sh("ip netns add dmz; ip -n dmz link add lan0 type veth peer name other");
        world.viaduct("apply").refused(2, &["dmz", "lan0", "not Viaduct's"]);
        assert!(!world.sh("ip netns list").contains("front"), "half of it was made");
        // A way out by another interface goes before a network's.
        let other = CABLES.replace(
            "addresses = [\"10.99.0.2/24\", \"2001:db8:99::2/64\"]",
            "addresses = [\"10.99.0.2/24\"]\ngateways = [\"10.99.0.1\"]",
        );
        world.sh("ip netns del dmz");
        world.write(CONFIG, other);
        world.good("apply");
        world.settled();
        let (v4, v6) =
            (world.sh("ip -n dmz route show default"), world.sh("ip -n dmz -6 route show default"));
        assert!(v4.contains("via 10.99.0.1") && !v4.contains("lan0"), "{v4}");
        assert!(v6.contains("dev lan0"), "{v6}");
    });
}

/// A device of the host, with what an administrator gave it, and its other end outside.
fn card(world: &World) {
    for line in [
        "ip link add card1 address 02:00:00:00:01:01 mtu 1400 type veth peer name card1 netns outside",
        "ip -n outside link set card1 up mtu 1400 && ip -n outside address add 198.51.100.1/24 dev card1",
        "ip -n outside address add 2001:db8:51::1/64 dev card1 nodad",
        "ip link set card1 up alias 'the second card'",
        "ip address add 198.51.100.2/24 dev card1 && ip address add 2001:db8:51::2/64 dev card1",
        "ip route add 192.0.2.0/24 via 198.51.100.1 proto static",
        "ip -6 route add 2001:db8:52::/48 via 2001:db8:51::1 proto static",
    ] {
        world.sh(line);
    }
}

const MOVED: &str = r#"
[host]
name = "iron"

[uplinks.wan]
interface = "eth0"

[namespaces.dmz]
[[namespaces.dmz.interfaces]]
name = "wan0"
type = "device"
device = "card1"
mac = "02:00:00:00:01:77"
mtu = 1300
addresses = ["198.51.100.9/24", "2001:db8:51::9/64"]
gateways = ["198.51.100.1", "2001:db8:51::1"]

[guests.mail]
namespace = "dmz"
"#;

fn inside(world: &World) {
    for to in ["198.51.100.1", "2001:db8:51::1"] {
        reaches(world, "dmz", to);
    }
    assert!(!world.sh("ip -oneline link").contains("card1"), "it is in two places");
}

#[test]
fn a_device_moves_in_and_comes_back_as_it_was() {
    host(|world| {
        world.connect_outside();
        card(world);
        let before = world.kernel();
        world.write(CONFIG, MOVED);
        world.good("apply");
        world.settled();
        inside(world);
        let seen = world.sh("ip -n dmz -oneline link show wan0");
        assert!(seen.contains("02:00:00:00:01:77") && seen.contains("mtu 1300"), "{seen}");
        let status = world.good("status --json").json();
        assert_eq!(status["namespaces"]["dmz"]["interfaces"][0]["state"], "up");
        assert!(world.good("status").out.contains("device card1 of the host"));
        // By another name, then in another namespace.
        world.write(CONFIG, MOVED.replace("\"wan0\"", "\"out0\""));
        world.good("apply");
        world.settled();
        inside(world);
        world.write(CONFIG, MOVED.replace("dmz", "far"));
        world.good("apply");
        world.settled();
        reaches(world, "far", "198.51.100.1");
        assert!(!world.sh("ip netns list").contains("dmz"));
        // No longer in the file.
        world.write(CONFIG, "[uplinks.wan]\ninterface = \"eth0\"\n");
        world.good("apply");
        world.settled();
        same(&before, &world.kernel());
        reaches(world, "outside", "198.51.100.2");
        reaches(world, "outside", "2001:db8:51::2");
        world.write(CONFIG, MOVED);
        world.good("apply");
        inside(world);
        world.good("down");
        same(&before, &world.kernel());
        let left: Vec<_> = fs::read_dir(format!("{RUN}/namespaces")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(!world.sh("cat /proc/self/mountinfo").contains("viaduct/namespaces"));
    });
}

#[test]
fn a_device_is_found_whatever_becomes_of_its_namespace() {
    host(|world| {
        world.connect_outside();
        card(world);
        let before = world.kernel();
        world.write(CONFIG, MOVED);
        world.good("apply");
        // Nobody is there to see it.
        world.sh("ip netns del dmz");
        assert_eq!(world.viaduct("plan --exit-code").code(), 3);
        world.good("apply");
        world.settled();
        inside(world);
        world.sh("ip netns del dmz");
        world.good("down");
        same(&before, &world.kernel());
        // Another one has the name.
        world.good("apply");
        world.sh("ip netns del dmz; ip netns add dmz");
        world.good("apply");
        world.settled();
        inside(world);
        // Somebody gave it back by hand, or by half.
        world.sh("ip -n dmz link set wan0 netns /proc/$$/ns/net");
        world.good("apply");
        world.settled();
        inside(world);
        // Gone for good.
        world.sh("ip -n dmz link del wan0");
        world.viaduct("apply").refused(2, &["no device card1"]);
        world.good("down");
        card(world);
        world.good("apply");
        world.settled();
        inside(world);
        world.good("down");
        assert!(world.sh("ip -oneline link show card1").contains("the second card"));
    });
}

#[test]
fn a_device_moves_back_by_itself_while_the_daemon_runs() {
    host(|world| {
        world.connect_outside();
        card(world);
        world.write(CONFIG, MOVED);
        world.good("apply");
        let daemon = world.daemon();
        world.sh("ip netns del dmz");
        world.soon("it is back", || world.echoes("dmz", "198.51.100.1"));
        daemon.end();
        world.good("down");
    });
}

#[test]
fn a_run_that_is_killed_leaves_nothing_that_the_next_one_does_not_find() {
    host(|world| {
        world.connect_outside();
        card(world);
        let before = world.kernel();
        world.write(CONFIG, MOVED);
        // The kill comes at another moment each time; whole runs take some hundredths of a second.
        for (number, command) in (0..9).flat_map(|n| [(n, "apply"), (n, "down")]) {
            let mut child = world.command(&[command]).spawn().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(13 * number));
            child.kill().unwrap();
            child.wait().unwrap();
            match command {
                "apply" if number % 3 == 0 => {
                    world.sh("ip netns del dmz 2>/dev/null || true");
                    world.good("apply");
                    world.settled();
                    inside(world);
                }
                _ => {
                    world.good("down");
                    same(&before, &world.kernel());
                }
            }
        }
    });
}

#[test]
fn what_cannot_move_is_said() {
    host(|world| {
        world.write(CONFIG, MOVED);
        world.viaduct("apply").refused(2, &["no device card1", "viaduct.toml"]);
        world.write(CONFIG, MOVED.replace("\"card1\"", "\"eth0\""));
        world.viaduct("check").refused(2, &["eth0", "moves into a namespace"]);
        card(world);
        world.sh("ip link add br9 type bridge && ip link set card1 master br9");
        world.write(CONFIG, MOVED);
        world.viaduct("apply").refused(2, &["port of br9"]);
        world.sh("ip link set card1 nomaster");
        world.good("apply");
        // Its name is somebody else's when it is to come back: it stays, and its namespace with it.
        world.sh("ip link add card1 type veth peer name other");
        world.viaduct("down").refused(1, &["card1", "taken", "still in it"]);
        assert!(world.echoes("outside", "198.51.100.9"));
        world.sh("ip link del card1");
        world.good("down");
        assert!(world.sh("ip -oneline link show card1").contains("the second card"));
    });
}
