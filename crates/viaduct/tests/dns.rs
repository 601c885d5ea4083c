//! Names for guests: asked with dig, by UDP and TCP, over both families, of the daemon's own process.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::process::{Child, Command};

use support::{CONFIG, Daemon, World, host};

const FILE: &str = r#"
[host]
name = "ve0"

[uplinks.wan]
interface = "eth0"

[networks.inside]
mode = "nat"
uplink = "wan"
subnets = ["10.0.0.0/24", "fd00:10::/64"]
dhcp = true
dns = true
domain = "lan"

[networks.other]
mode = "isolated"
subnets = ["10.1.0.0/24", "fd00:11::/64"]
dns = true

[networks.public]
mode = "routed"
uplink = "wan"
pool = ["198.51.100.112/29", "2001:db8:48:1::/64"]
dhcp = true
dns = true
dns-servers = ["203.0.113.54"]
domain = "example.com"

[networks.quiet]
mode = "nat"
uplink = "wan"
subnets = ["10.2.0.0/24"]
dhcp = true
dns = false
dns-servers = ["203.0.113.54"]

[guests.web]
[[guests.web.nics]]
network = "inside"
addresses = ["10.0.0.2", "fd00:10::2"]

[guests.db]
[[guests.db.nics]]
network = "other"
addresses = ["10.1.0.2", "fd00:11::2"]

[guests.shop]
[[guests.shop.nics]]
network = "public"
addresses = ["198.51.100.112", "2001:db8:48:1::112"]

[guests.mute]
[[guests.mute.nics]]
network = "quiet"
addresses = ["10.2.0.2"]
"#;

/// Two name servers outside, that say who asked what: one knows names of example.org, the other of example.com.
const OUTSIDE: &str = r#"
import socket, struct, sys, threading

def name_of(message):
    labels, place = [], 12
    while message[place]:
        labels.append(message[place + 1:place + 1 + message[place]].decode().lower())
        place += 1 + message[place]
    return ".".join(labels), message[12:place + 5], struct.unpack("!H", message[place + 1:place + 3])[0]

def record(kind, ttl, data):
    return b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data

def answer(message, domain, stream):
    name, question, kind = name_of(message)
    print(domain, name, "tcp" if stream else "udp", flush=True)
    def reply(flags, answers=(), authorities=()):
        counts = struct.pack("!HHHH", 1, len(answers), len(authorities), 0)
        return message[:2] + struct.pack("!H", flags) + counts + question + b"".join(answers) + b"".join(authorities)
    if name == "silent." + domain:
        return None
    if name == "many." + domain:
        if not stream:
            return reply(0x8380)
        return reply(0x8180, [record(1, 60, bytes([192, 0, 2, n])) for n in range(200)])
    if name.endswith("." + domain) and not name.startswith("nobody."):
        return reply(0x8180, [record(1, 60, bytes([192, 0, 2, 80]))] if kind == 1 else [])
    start = b"\0\0" + struct.pack("!IIIII", 1, 60, 60, 60, 60)
    return reply(0x8183, (), [record(6, 60, start)])

def datagrams(address, domain):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 53))
    while True:
        message, peer = server.recvfrom(4096)
        said = answer(message, domain, False)
        if said:
            server.sendto(said, peer)

def connections(address, domain):
    server = socket.create_server((address, 53))
    while True:
        client, _ = server.accept()
        length = struct.unpack("!H", client.recv(2))[0]
        said = answer(client.recv(length), domain, True)
        if said:
            client.sendall(struct.pack("!H", len(said)) + said)
        client.close()

for address, domain in [("203.0.113.1", "example.org"), ("203.0.113.54", "example.com")]:
    for serve in (datagrams, connections):
        threading.Thread(target=serve, args=(address, domain)).start()
print("ready", flush=True)
"#;

struct Outside(Child);

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const ASKED: &str = "/run/asked";

fn serving(world: &World) -> (Outside, Daemon) {
    world.own_place("/etc");
    world.write("/etc/resolv.conf", "nameserver 203.0.113.1\n");
    world.sh("ip -n outside address add 203.0.113.1/24 dev eth0; ip -n outside address add 203.0.113.54/24 dev eth0; \
         ip -n outside address add fe80::1/64 dev eth0 nodad; \
         ip -n outside route add 10.0.0.0/8 via 203.0.113.2; ip -n outside route add fd00::/8 via 2001:db8:28::2 dev eth0 onlink; \
         ip -n outside address add 2001:db8:28::1/64 dev eth0 nodad");
    world.write("/run/outside.py", OUTSIDE);
    world.write(ASKED, "");
    let script = format!("exec python3 /run/outside.py >{ASKED}");
    let outside = Command::new("ip").args(["netns", "exec", "outside", "sh", "-c", &script]).spawn().unwrap();
    let outside = Outside(outside);
    world.soon("the servers outside are ready", || world.read(ASKED).contains("ready"));
    world.write(CONFIG, FILE);
    world.good("apply");
    for guest in ["web", "db", "shop", "mute"] {
        world.sh(&format!("ip netns add {guest}"));
        world.good(&format!("attach {guest} --netns {guest}"));
    }
    let daemon = world.daemon();
    for (guest, question) in [("web", "web.lan @10.0.0.1"), ("db", "db.other.internal @10.1.0.1")] {
        world.soon("names are answered", || !dig(world, guest, question).is_empty());
    }
    world.soon("names are answered", || !dig(world, "shop", "shop.example.com @169.254.1.1").is_empty());
    (outside, daemon)
}

/// What a guest is answered, sorted; nothing when it is not.
fn dig(world: &World, guest: &str, question: &str) -> Vec<String> {
    let all = world.sh(&format!("ip netns exec {guest} dig +short +tries=1 +time=6 {question} || true"));
    let mut lines: Vec<String> =
        all.lines().filter(|line| !line.starts_with(';')).map(str::to_owned).collect();
    lines.sort();
    lines
}

/// All that dig says.
fn status(world: &World, guest: &str, question: &str) -> String {
    world.sh(&format!("ip netns exec {guest} dig +tries=1 +time=6 {question} || true"))
}

/// How often somebody outside was asked.
fn asked(world: &World, what: &str) -> usize {
    world.read(ASKED).lines().filter(|line| line.contains(what)).count()
}

#[test]
fn guests_find_each_other_by_name_over_udp_and_tcp_in_both_families() {
    host(|world| {
        let _running = serving(world);
        for (guest, servers, name, v4, v6) in [
            ("web", ["10.0.0.1", "fd00:10::1", "fe80::1%eth0"], "web.lan", "10.0.0.2", "fd00:10::2"),
            ("db", ["10.1.0.1", "fd00:11::1", "fe80::1%eth0"], "db.other.internal", "10.1.0.2", "fd00:11::2"),
            (
                "shop",
                ["169.254.1.1", "fe80::1%eth0", "fe80::1%eth0"],
                "shop.example.com",
                "198.51.100.112",
                "2001:db8:48:1::112",
            ),
        ] {
            for server in servers {
                for by in ["+notcp", "+tcp", "+tcp +noedns"] {
                    let ask = |what: &str| dig(world, guest, &format!("@{server} {by} {what}"));
                    assert_eq!(ask(&format!("{name} A")), [v4], "{guest} {server} {by}");
                    assert_eq!(ask(&format!("{name} AAAA")), [v6], "{guest} {server} {by}");
                    assert_eq!(ask(&format!("-x {v4}")), [format!("{name}.")], "{guest} {server} {by}");
                    assert_eq!(ask(&format!("-x {v6}")), [format!("{name}.")], "{guest} {server} {by}");
                }
            }
        }
        world.settled();
    });
}

#[test]
fn each_network_has_its_own_names_and_nobody_else_is_answered() {
    host(|world| {
        let _running = serving(world);
        // Others' names are nobody's, and no server outside hears of them.
        for (guest, server, name) in [
            ("web", "10.0.0.1", "db.other.internal"),
            ("db", "10.1.0.1", "web.lan"),
            ("shop", "169.254.1.1", "web.lan"),
            ("shop", "169.254.1.1", "-x 10.0.0.2"),
            ("web", "10.0.0.1", "nobody.lan"),
        ] {
            let said = status(world, guest, &format!("@{server} {name}"));
            assert!(said.contains("status: NXDOMAIN") && said.contains("SOA"), "{said}");
        }
        assert_eq!(asked(world, "lan") + asked(world, "internal") + asked(world, "arpa"), 0);
        // The same name from inside and from elsewhere.
        assert_eq!(dig(world, "shop", "shop.example.com @169.254.1.1"), ["198.51.100.112"]);
        assert_eq!(dig(world, "shop", "www.example.com @169.254.1.1"), ["192.0.2.80"]);
        // Neither from outside nor from another network is anybody answered, and nobody by another's server.
        for (from, server) in [
            ("outside", "203.0.113.2"),
            ("outside", "10.0.0.1"),
            ("outside", "fd00:10::1"),
            ("outside", "2001:db8:28::2"),
            ("db", "10.0.0.1"),
            ("web", "10.1.0.1"),
            ("shop", "10.0.0.1"),
            ("shop", "203.0.113.2"),
            ("mute", "10.2.0.1"),
        ] {
            for by in ["+notcp", "+tcp"] {
                let question = format!("@{server} {by} +time=1 +tries=1 +short web.lan");
                let said = world.sh(&format!("ip netns exec {from} dig {question} || true"));
                assert!(!said.contains("10.0.0.2"), "{from} {server} {by}: {said}");
                assert!(said.is_empty() || said.contains(";;"), "{from} {server} {by}: {said}");
            }
        }
        world.settled();
    });
}

#[test]
fn everything_else_is_asked_for_outside_and_kept() {
    host(|world| {
        let _running = serving(world);
        for _ in 0..3 {
            assert_eq!(dig(world, "web", "www.example.org @10.0.0.1"), ["192.0.2.80"]);
            assert_eq!(dig(world, "web", "www.example.org @fd00:10::1 +tcp"), ["192.0.2.80"]);
        }
        assert_eq!(asked(world, "www.example.org"), 1, "{}", world.read(ASKED));
        // Networks without servers of their own share what the host's say.
        assert_eq!(dig(world, "db", "www.example.org @10.1.0.1"), ["192.0.2.80"]);
        assert_eq!(asked(world, "www.example.org"), 1);
        // That there is nothing is known, too.
        for _ in 0..3 {
            assert!(status(world, "web", "nobody.example.org @10.0.0.1").contains("status: NXDOMAIN"));
            assert!(status(world, "web", "www.example.org AAAA @10.0.0.1").contains("status: NOERROR"));
        }
        assert_eq!(asked(world, "nobody.example.org"), 1);
        // What does not fit is fetched by a connection, and given on by one.
        assert_eq!(dig(world, "web", "many.example.org @10.0.0.1").len(), 200);
        let cut = status(world, "web", "many.example.org @10.0.0.1 +ignore +noedns");
        assert!(cut.contains("flags: qr tc rd ra") && cut.contains("ANSWER: 0"), "{cut}");
        assert_eq!(asked(world, "many.example.org"), 2, "{}", world.read(ASKED));
        // Nobody outside answers: the guest is told in time.
        assert!(status(world, "web", "silent.example.org @10.0.0.1").contains("status: SERVFAIL"));
        // The host asks somebody else now; networks with servers of their own do not.
        world.write("/etc/resolv.conf", "nameserver 203.0.113.54\n");
        world.soon("the other is asked", || dig(world, "web", "new.example.com @10.0.0.1") == ["192.0.2.80"]);
        world.settled();
    });
}

#[test]
fn guests_are_told_whom_to_ask() {
    host(|world| {
        let _running = serving(world);
        world.write(
            "/run/print.sh",
            "#!/bin/sh\n[ \"$1\" != bound ] || echo \"dns=$dns domain=$domain search=$search\"\n",
        );
        world.sh("chmod +x /run/print.sh");
        for (guest, told) in [
            ("web", "dns=10.0.0.1 domain=lan search=lan"),
            ("shop", "dns=169.254.1.1 domain=example.com search=example.com"),
            ("mute", "dns=203.0.113.54 domain= search="),
        ] {
            let client = "udhcpc -f -q -n -i eth0 -T 1 -t 15 -O search -s /run/print.sh 2>&1";
            let said = world.sh(&format!("ip netns exec {guest} {client}"));
            assert!(said.lines().any(|line| line.trim_end() == told), "{guest}: {said}");
        }
        for (guest, server, domain) in [("web", "fd00:10::1", "lan"), ("shop", "fe80::1", "example.com")] {
            let said = world.sh(&format!("ip netns exec {guest} rdisc6 -1 -r 5 -w 2000 eth0"));
            assert!(said.contains(&format!("Recursive DNS server     : {server}")), "{said}");
            assert!(said.contains(&format!("DNS search list          : {domain}")), "{said}");
            world.sh(&format!(
                "ip netns exec {guest} timeout 100 dhclient -6 -1 -sf /bin/true -pf /run/dhclient.pid -lf /run/dhclient.leases eth0; \
                 ip netns pids {guest} | xargs -r kill; while [ -n \"$(ip netns pids {guest})\" ]; do sleep 0.05; done"
            ));
            let lease = world.read("/run/dhclient.leases");
            assert!(lease.contains(&format!("dhcp6.name-servers {server}")), "{lease}");
            world.sh("rm -f /run/dhclient.leases");
        }
    });
}

#[test]
fn names_follow_what_becomes_of_guests_and_of_the_process() {
    host(|world| {
        let (_outside, daemon) = serving(world);
        world.good("set web --address-add 10.0.0.9");
        world.soon("both are told", || dig(world, "web", "web.lan @10.0.0.1") == ["10.0.0.2", "10.0.0.9"]);
        assert_eq!(dig(world, "web", "-x 10.0.0.9 @10.0.0.1"), ["web.lan."]);
        // The device is another one.
        world.good("detach shop");
        world.good("attach shop --netns shop");
        world.soon("names are answered again", || {
            dig(world, "shop", "shop.example.com @169.254.1.1 +time=1") == ["198.51.100.112"]
                && dig(world, "shop", "shop.example.com @fe80::1%eth0 +tcp +time=1") == ["198.51.100.112"]
        });
        world.sh("ip link del br-inside");
        world.soon("the bridge is there again", || dig(world, "web", "web.lan @10.0.0.1 +time=1").len() == 2);
        // The process ends.
        world.sh(&format!("pkill -KILL -P {} -f answer-guests", daemon.id()));
        world.soon("another one answers", || dig(world, "web", "web.lan @10.0.0.1 +time=1").len() == 2);
        // It may do what it needs, and no more.
        let id = world.sh(&format!("pgrep -P {} -f answer-guests", daemon.id()));
        let status = world.read(format!("/proc/{}/status", id.trim()));
        assert!(status.contains("CapEff:\t0000000000002400"), "{status}");
        // No names any more: the port is closed.
        world.write(CONFIG, FILE.replace("dns = true\ndomain = \"lan\"", "domain = \"lan\""));
        world.good("apply");
        world.soon("nobody answers", || dig(world, "web", "web.lan @10.0.0.1 +time=1").is_empty());
        world.settled();
    });
}

#[test]
fn a_name_server_of_the_hosts_own_is_told_of_and_the_rest_goes_on() {
    host(|world| {
        world.write(CONFIG, FILE);
        world.good("apply");
        world.sh("ip netns add web");
        world.good("attach web --netns web");
        let script = "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('', 53))\ntime.sleep(60)";
        let mut other = Command::new("python3").args(["-c", script]).spawn().unwrap();
        world.soon("it listens", || world.sh("ss -lnu").contains("0.0.0.0:53"));
        let _daemon = world.daemon();
        world.soon("it is told of", || {
            world.log().contains("guests' names are not answered on br-inside at 10.0.0.1 by UDP")
                && world.log().contains("Another name server of this host has port 53")
        });
        world
            .soon("by IPv6 all is well", || dig(world, "web", "web.lan @fd00:10::1 +time=1") == ["10.0.0.2"]);
        other.kill().unwrap();
        other.wait().unwrap();
        world.soon("now it is answered", || dig(world, "web", "web.lan @10.0.0.1 +time=1") == ["10.0.0.2"]);
    });
}
