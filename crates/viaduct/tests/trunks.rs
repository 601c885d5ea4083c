//! One bridge with many VLANs: who is on which, with tags and without, and that nobody gets into another one, whatever
//! frames somebody makes. With Debian's kernel, by `cargo xtask test`, or:
//! cargo xtask vm test --package viaduct --test trunks -- --ignored
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{collections::BTreeMap, fs, os::fd::AsFd, thread};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use support::{CONFIG, World, host};
use viaduct_kernel::{Frames, Listen};

const TRUNK: &str = r#"
[host]
name = "iron"

[uplinks.trunk]
interface = "eth0"

[networks.lan]
mode = "bridged"
uplink = "trunk"
vlans = [2, 3, "10-20"]

[networks.carrier]
mode = "bridged"
uplink = "trunk"
vlan = 100
protocol = "802.1ad"
vlans = [2, 3]

[guests.one]
id = 1
[[guests.one.nics]]
network = "lan"
vlan = 2
addresses = ["10.2.0.5/24", "2001:db8:2::5/64"]

[guests.two]
id = 2
[[guests.two.nics]]
network = "lan"
vlan = 2
addresses = ["10.2.0.6/24"]

[guests.three]
id = 3
[[guests.three.nics]]
network = "lan"
vlan = 3
addresses = ["10.3.0.5/24", "2001:db8:3::5/64"]

[guests.router]
id = 4
[[guests.router.nics]]
network = "lan"
trunk = [2, "10-11"]
addresses = ["10.2.0.9/24", "10.10.0.9/24", "2001:db8:2::9/64"]

[guests.free]
id = 5
[[guests.free.nics]]
network = "lan"
vlan = 3
trunk = [2]
spoofing = "mac"

[guests.loose]
id = 6
[[guests.loose.nics]]
network = "lan"
vlan = 3
spoofing = "mac"

[guests.customer]
id = 7
[[guests.customer.nics]]
network = "carrier"
vlan = 2
trunk = [3]
addresses = ["10.102.0.5/24", "10.103.0.5/24"]
"#;

const GUESTS: [&str; 7] = ["one", "two", "three", "router", "free", "loose", "customer"];

/// The machine outside has every VLAN.
fn outside(world: &World) {
    for line in [
        "ip -n outside address add 203.0.113.1/24 dev eth0",
        "ip -n outside address add 2001:db8:28::1/64 dev eth0 nodad",
        "ip -n outside link add link eth0 name s100 type vlan protocol 802.1ad id 100",
        "ip -n outside link set s100 up",
        "ip -n outside link add link s100 name q2 type vlan id 2",
        "ip -n outside link add link s100 name q3 type vlan id 3",
        "ip -n outside link set q2 up",
        "ip -n outside link set q3 up",
        "ip -n outside address add 10.102.0.1/24 dev q2",
        "ip -n outside address add 10.103.0.1/24 dev q3",
    ] {
        world.sh(line);
    }
    for vlan in [1, 2, 3, 10] {
        world.sh(&format!(
            "ip -n outside link add link eth0 name v{vlan} type vlan id {vlan} && ip -n outside link set v{vlan} up && \
             ip -n outside address add 10.{vlan}.0.1/24 dev v{vlan} && \
             ip -n outside address add 2001:db8:{vlan}::1/64 dev v{vlan} nodad"
        ));
    }
}

fn works(world: &World, line: &str) -> bool {
    world.sh(&format!("{line} >/dev/null 2>&1 && echo yes || echo no")) == "yes\n"
}

#[track_caller]
fn all_work(world: &World, lines: &[&str]) {
    for line in lines {
        assert!(
            works(world, line),
            "{line}\n{}",
            world.sh("bridge vlan; bridge -d link; nft list table bridge viaduct")
        );
    }
}

const WAYS: [&str; 8] = [
    "ip netns exec one ping -c1 -W5 10.2.0.1",
    "ip netns exec one ping -c1 -W5 2001:db8:2::1",
    "ip netns exec one ping -c1 -W5 10.2.0.6",
    "ip netns exec three ping -c1 -W5 10.3.0.1",
    "ip netns exec three ping -c1 -W5 2001:db8:3::1",
    "ip netns exec outside ping -c1 -W5 10.2.0.5",
    "ip netns exec outside ping -c1 -W5 203.0.113.2",
    "ip netns exec outside ping -c1 -W5 2001:db8:28::2",
];

fn set_up(world: &World) {
    outside(world);
    world.write(CONFIG, TRUNK);
    world.good("apply");
    for guest in GUESTS {
        world.attach(guest);
    }
    world.settled();
    world.reachable();
}

/// Waits until something is so, which takes an emulated processor its time.
#[track_caller]
fn soon(world: &World, what: &str, is_so: impl FnMut() -> bool) {
    world.within(std::time::Duration::from_secs(120), what, is_so);
}

#[test]
#[ignore = "needs VLANs of bridges: cargo xtask vm test --package viaduct --test trunks -- --ignored"]
fn guests_are_on_their_vlans_with_tags_and_without() {
    host(|world| {
        set_up(world);
        all_work(world, &WAYS);
        // A router makes devices of its own, and has its addresses on them.
        for (vlan, address) in [(2, "10.2.0.9/24"), (2, "2001:db8:2::9/64"), (10, "10.10.0.9/24")] {
            world.sh(&format!(
                "ip -n router link add link eth0 name v{vlan} type vlan id {vlan} 2>/dev/null; \
                 ip -n router link set v{vlan} up; ip -n router address add {address} dev v{vlan}"
            ));
        }
        world.sh(
            "ip -n customer address add 10.102.0.5/24 dev eth0; ip -n customer link add link eth0 name v3 type vlan id 3; \
             ip -n customer link set v3 up; ip -n customer address add 10.103.0.5/24 dev v3",
        );
        world.settled();
        all_work(
            world,
            &[
                "ip netns exec router ping -c1 -W5 10.2.0.1",
                "ip netns exec router ping -c1 -W5 10.2.0.5",
                "ip netns exec one ping -c1 -W5 2001:db8:2::9",
                "ip netns exec router ping -c1 -W5 10.10.0.1",
                // Two tags on the wire, the outer one the service provider's.
                "ip netns exec customer ping -c1 -W5 10.102.0.1",
                "ip netns exec customer ping -c1 -W5 10.103.0.1",
            ],
        );
        // Whoever is on another one, is not there, by whatever address.
        world.sh("ip -n three address add 10.2.0.7/24 dev eth0; ip -n one address add 10.3.0.7/24 dev eth0");
        world.sh(
            "ip -n outside address add 203.0.113.7/24 dev v1; ip -n one route add 203.0.113.0/24 dev eth0",
        );
        for crossing in [
            "ip netns exec three ping -c1 -W1 -I 10.3.0.5 10.2.0.5",
            "ip netns exec one ping -c1 -W1 -I 10.2.0.5 10.3.0.5",
            "ip netns exec one ping -c1 -W1 203.0.113.2",
            // Not with the number either that the bridge has for what comes without a tag.
            "ip netns exec outside ping -c1 -W1 -I v1 203.0.113.2",
        ] {
            assert!(!works(world, crossing), "{crossing}");
        }
        let status = world.good("status --json").json();
        assert_eq!(status["networks"]["lan"]["vlans"], "2-3, 10-20");
        assert_eq!(status["guests"]["router"]["nics"][0]["trunk"], "2, 10-11");
        assert_eq!(status["guests"]["one"]["nics"][0]["vlan"], 2);
        let shown = world.good("status").out;
        assert!(shown.contains("lan, VLAN 2") && shown.contains("lan, trunk 2, 10-11"), "{shown}");
    });
}

#[test]
#[ignore = "needs VLANs of bridges: cargo xtask vm test --package viaduct --test trunks -- --ignored"]
fn what_drifts_comes_back_and_what_changes_is_changed() {
    host(|world| {
        set_up(world);
        let device = |guest: &str| {
            world.good("status --json").json()["guests"][guest]["nics"][0]["device"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let (one, three) = (device("one"), device("three"));
        let before = world.sh("bridge vlan");
        for drift in [
            format!("bridge vlan del dev {one} vid 2"),
            format!("bridge vlan add dev {one} vid 3"),
            format!("bridge vlan add dev {three} vid 2 pvid untagged"),
            format!("bridge vlan add dev {three} vid 10 untagged"),
            "bridge vlan del dev eth0 vid 2".to_owned(),
            "bridge vlan add dev eth0 vid 30".to_owned(),
            "bridge vlan add dev br-lan vid 2 self".to_owned(),
            "ip link set br-lan type bridge vlan_filtering 0".to_owned(),
            "ip link set eth0 nomaster".to_owned(),
        ] {
            world.sh(&drift);
            assert_eq!(world.viaduct("plan --exit-code").code(), 3, "{drift}");
            world.good("apply");
            world.settled();
            assert_eq!(world.sh("bridge vlan"), before, "{drift}");
        }
        all_work(world, &WAYS);
        let daemon = world.daemon();
        world.sh(&format!("bridge vlan del dev {one} vid 2"));
        soon(world, "the port is back on its VLAN", || world.sh("bridge vlan") == before);
        // One guest more, and one that goes.
        world.good("detach two");
        world.good("attach two --netns two");
        assert_eq!(world.sh("bridge vlan show | sort"), before_sorted(&before));
        daemon.end();

        // From one VLAN to another, and to no VLANs at all.
        world.write(
            CONFIG,
            TRUNK.replacen(
                "vlan = 2\naddresses = [\"10.2.0.5/24\"",
                "vlan = 3\naddresses = [\"10.2.0.5/24\"",
                1,
            ),
        );
        world.good("apply");
        world.settled();
        assert!(!works(world, WAYS[0]));
        let plain = TRUNK
            .replace("vlans = [2, 3, \"10-20\"]\n", "")
            .replace("vlans = [2, 3]\n", "")
            .lines()
            .filter(|line| !line.starts_with("trunk =") && !["vlan = 2", "vlan = 3"].contains(line))
            .collect::<Vec<_>>()
            .join("\n");
        world.write(CONFIG, &plain);
        world.good("apply");
        world.settled();
        world.sh("ip -n one address add 203.0.113.20/24 dev eth0");
        assert!(works(world, "ip netns exec outside ping -c1 -W5 203.0.113.2"));
        world.write(CONFIG, TRUNK);
        world.good("apply");
        world.settled();
        all_work(world, &WAYS);
        world.good("down");
        world.reachable();
        assert!(!world.sh("ip link").contains("br-"));
    });
}

fn before_sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n") + "\n"
}

/// Who hears which frames, by the MAC that each of them is sent to, and for outside with the tag, or 0.
type Heard = BTreeMap<u8, Vec<String>>;

/// Listens on a guest's device, or outside.
fn listen(world: &World, place: &str) {
    let table = "table netdev ear {
        set heard { type ether_addr; flags dynamic; size 1000; }
        set tagged { typeof ether daddr . vlan id; flags dynamic; size 1000; }
        set provider { type ether_addr; flags dynamic; size 1000; }
        chain in {
            type filter hook ingress device eth0 priority 0;
            ether daddr & ff:ff:00:00:00:00 != 02:ee:00:00:00:00 return
            update @heard { ether daddr }
            update @tagged { ether daddr . vlan id }
            ether type 8021ad update @provider { ether daddr }
        }
    }";
    world.write(&format!("/run/ear-{place}.nft"), table);
    world.sh(&format!("ip netns exec {place} nft -f /run/ear-{place}.nft"));
}

fn heard(world: &World) -> Heard {
    let mut all = Heard::new();
    for place in GUESTS.into_iter().chain(["outside"]) {
        let heard = world.sh(&format!("ip netns exec {place} nft list set netdev ear heard"));
        let tagged = world.sh(&format!("ip netns exec {place} nft list set netdev ear tagged"));
        let provider = world.sh(&format!("ip netns exec {place} nft list set netdev ear provider"));
        for number in 0..=u8::MAX {
            let mac = format!("02:ee:00:00:00:{number:02x}");
            if heard.contains(&mac) {
                let tag = tagged
                    .split(&format!("{mac} . "))
                    .nth(1)
                    .map(|after| after.chars().take_while(char::is_ascii_digit).collect::<String>());
                let tag = tag.or_else(|| provider.contains(&mac).then(|| "802.1ad".to_owned()));
                let tag = tag.map(|tag| format!(" {tag}")).unwrap_or_default();
                all.entry(number).or_default().push(format!("{place}{tag}"));
            }
        }
    }
    all
}

/// Ethernet's header: to the frame's own MAC, from a MAC, with tags (their type and number), and the type of what follows.
fn ethernet(number: u8, from: [u8; 6], tags: &[(u16, u16)], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0xee, 0, 0, 0, number];
    frame.extend(from);
    for (kind, vlan) in tags {
        frame.extend(kind.to_be_bytes());
        // With the highest priority, which is no number.
        frame.extend((0xe000 | vlan).to_be_bytes());
    }
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

fn ipv4(from: [u8; 4], source_port: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(from);
    packet.extend([10, 2, 0, 77]);
    let words = packet.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let checksum = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    packet[10..12].copy_from_slice(&(!checksum).to_be_bytes());
    packet.extend(source_port.to_be_bytes());
    packet.extend([0, 9, 0, 12, 0, 0, 1, 2, 3, 4]);
    packet
}

/// With a message of ICMPv6: its type, and the target that it names.
fn ipv6(from: &str, kind: u8, target: &str) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut packet = vec![0x60, 0, 0, 0, 0, 24, 58, 255];
    packet.extend(octets(from));
    packet.extend(octets("2001:db8:2::77"));
    packet.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
    packet.extend(octets(target));
    packet
}

fn arp(mac: [u8; 6], address: [u8; 4]) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4, 0, 2];
    message.extend(mac);
    message.extend(address);
    message.extend([0xff; 6]);
    message.extend([10, 2, 0, 1]);
    message
}

fn send(guest: &str, frames: Vec<Vec<u8>>) {
    let namespace = fs::File::open(format!("/run/netns/{guest}")).unwrap();
    thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let wire = Frames::open(&"eth0".parse().unwrap(), Listen::Arp, 0).unwrap();
        for frame in frames {
            wire.send([&frame[..]]).unwrap();
        }
    })
    .join()
    .unwrap();
}

const Q: u16 = 0x8100;
const AD: u16 = 0x88a8;
const IP: u16 = 0x0800;
const IP6: u16 = 0x86dd;
const ARP: u16 = 0x0806;

#[test]
#[ignore = "needs VLANs of bridges: cargo xtask vm test --package viaduct --test trunks -- --ignored"]
fn no_frame_gets_into_a_vlan_that_its_sender_is_not_on() {
    host(|world| {
        set_up(world);
        for place in GUESTS.into_iter().chain(["outside"]) {
            listen(world, place);
        }
        let mac = |id: u8, vlan: u8| [2, 0, vlan, 0, id, 0];
        let mut expected = Heard::new();
        let mut number = 0;
        // Each frame is sent to a MAC of its own, and floods its VLAN; whoever has to hear it says so.
        let mut attempt =
            |guest: &str, from: [u8; 6], tags: &[(u16, u16)], kind: u16, payload: &[u8], places: &[&str]| {
                send(guest, vec![ethernet(number, from, tags, kind, payload)]);
                if !places.is_empty() {
                    expected.insert(number, places.iter().map(|place| (*place).to_owned()).collect());
                }
                number += 1;
            };

        // A router, on 2 and 10 and 11 with tags, and on none without.
        let router = mac(4, 0);
        let own = ipv4([10, 2, 0, 9], 5);
        let two = ["one", "two", "free 2", "outside 2"];
        attempt("router", router, &[(Q, 2)], IP, &own, &two);
        attempt("router", router, &[(Q, 10)], IP, &own, &["outside 10"]);
        attempt("router", router, &[(Q, 2)], IP6, &ipv6("2001:db8:2::9", 128, "::"), &two);
        attempt("router", router, &[(Q, 2)], ARP, &arp(router, [10, 2, 0, 9]), &two);
        for tags in [
            &[][..],
            &[(Q, 0)],
            &[(Q, 1)],
            &[(Q, 3)],
            &[(Q, 12)],
            &[(Q, 30)],
            &[(Q, 4095)],
            &[(Q, 2), (Q, 3)],
            &[(Q, 2), (Q, 2)],
            &[(Q, 0), (Q, 2)],
            &[(Q, 2), (Q, 0)],
            &[(Q, 2), (AD, 3)],
            &[(Q, 2), (Q, 10), (Q, 3)],
            &[(Q, 2), (0x9100, 3)],
            &[(AD, 2)],
            &[(AD, 2), (Q, 2)],
            &[(0x9100, 2)],
            &[(0x9200, 2)],
        ] {
            attempt("router", router, tags, IP, &own, &[]);
        }
        // Behind a tag it speaks for itself only, too.
        let tag = &[(Q, 2)][..];
        attempt("router", router, tag, IP, &ipv4([10, 2, 0, 5], 5), &[]);
        attempt("router", router, tag, IP, &ipv4([10, 2, 0, 9], 67), &[]);
        attempt("router", mac(1, 2), tag, IP, &own, &[]);
        attempt("router", router, tag, ARP, &arp(router, [10, 2, 0, 5]), &[]);
        attempt("router", router, tag, ARP, &arp(mac(1, 2), [10, 2, 0, 9]), &[]);
        attempt("router", router, tag, IP6, &ipv6("2001:db8:2::5", 128, "::"), &[]);
        attempt("router", router, tag, IP6, &ipv6("2001:db8:2::9", 136, "2001:db8:2::5"), &[]);
        attempt("router", router, tag, IP6, &ipv6("fe80::9", 134, "::"), &[]);
        attempt("router", router, tag, IP6, &ipv6("fe80::1", 128, "::"), &[]);
        attempt("router", router, tag, 0x88cc, &own, &[]);

        // One that is on 2 without tags.
        let one = mac(1, 2);
        let own = ipv4([10, 2, 0, 5], 5);
        attempt("one", one, &[], IP, &own, &["two", "router 2", "free 2", "outside 2"]);
        for tags in [
            &[(Q, 0)][..],
            &[(Q, 1)],
            &[(Q, 2)],
            &[(Q, 3)],
            &[(Q, 0), (Q, 3)],
            &[(Q, 2), (Q, 3)],
            &[(AD, 2)],
            &[(AD, 100), (Q, 2)],
        ] {
            attempt("one", one, tags, IP, &own, &[]);
        }
        // What may send anything is kept to its VLANs as well.
        let foreign = [2, 0x77, 0, 0, 0, 1];
        let strange = ipv4([192, 0, 2, 1], 67);
        attempt("free", foreign, &[], IP, &strange, &["three", "loose", "outside 3"]);
        attempt("free", foreign, &[(Q, 2)], 0x88cc, &strange, &["one", "two", "router 2", "outside 2"]);
        // With the number of the VLAN that it is on without, it is where it is.
        attempt("free", foreign, &[(Q, 3)], IP, &strange, &["three", "loose", "outside 3"]);
        attempt("loose", foreign, &[], 0x88cc, &strange, &["three", "free", "outside 3"]);
        for tags in [&[(Q, 0)][..], &[(Q, 1)], &[(Q, 10)], &[(Q, 2), (Q, 3)], &[(AD, 2)], &[(0x9100, 2)]] {
            attempt("free", foreign, tags, IP, &strange, &[]);
        }
        for tags in [&[(Q, 0)][..], &[(Q, 2)], &[(Q, 3)], &[(Q, 0), (Q, 2)], &[(AD, 3)], &[(0x9200, 2)]] {
            attempt("loose", foreign, tags, IP, &strange, &[]);
        }
        // In a service provider's VLAN, a customer's.
        let customer = mac(7, 2);
        let own = ipv4([10, 102, 0, 5], 5);
        attempt("customer", customer, &[], IP, &own, &["outside 802.1ad"]);
        attempt("customer", customer, &[(Q, 3)], IP, &own, &["outside 802.1ad"]);
        attempt("customer", customer, &[(Q, 2)], IP, &own, &["outside 802.1ad"]);
        for tags in [&[(Q, 0)][..], &[(Q, 4)], &[(AD, 100)], &[(AD, 100), (Q, 3)], &[(Q, 3), (Q, 2)]] {
            attempt("customer", customer, tags, IP, &own, &[]);
        }
        assert_eq!(heard(world), expected);
        // All of it is counted.
        let status = world.good("status --json").json();
        for (guest, reasons) in [
            ("router", &["vlan", "address", "arp", "mac", "nd", "ra", "dhcp", "type"][..]),
            ("one", &["vlan"]),
            ("free", &["vlan"]),
            ("loose", &["vlan"]),
            ("customer", &["vlan"]),
        ] {
            let drops = &status["guests"][guest]["nics"][0]["drops"];
            for reason in reasons {
                assert!(drops[reason]["packets"].as_u64().unwrap_or(0) > 0, "{guest}, {reason}: {drops}");
            }
        }
    });
}
