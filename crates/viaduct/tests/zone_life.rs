//! What guests of the host's own networks have, guests of networks in namespaces have as well: the way back from a change,
//! announcements, looks for who has an address, taps, prefixes, and the name servers of their own stack. With packets.
#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

mod support;

use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::{CONFIG, STATE, World, host};

const FILE: &str = r#"
[host]
name = "fort"

[uplinks.wan]
interface = "eth0"
[uplinks.red]
interface = "out"
namespace = "red"

[[namespaces.red.interfaces]]
name = "out"
type = "macvlan"
parent = "wan"
addresses = ["203.0.113.10/24", "2001:db8:28::10/64"]
gateways = ["203.0.113.1", "2001:db8:28::1"]

[networks.red]
namespace = "red"
mode = "nat"
uplink = "red"
subnets = ["10.0.0.0/24", "fd00::/64"]
dns = true

[networks.ways]
namespace = "red"
mode = "routed"
uplink = "red"
pool = ["203.0.113.64/28", "2001:db8:28::/64"]
delegate-pool = ["2001:db8:48:8000::/49"]
dhcp = true
proxy = true
probe = true

[networks.lan]
mode = "nat"
uplink = "wan"
subnets = ["10.0.0.0/24"]
dns = true

[guests.one]
publish = ["203.0.113.10:5000:5000/udp"]
[[guests.one.nics]]
network = "red"
addresses = ["10.0.0.5", "fd00::5"]
[guests.tapped]
[[guests.tapped.nics]]
network = "red"
addresses = ["10.0.0.6", "fd00::6"]
[guests.shop]
[[guests.shop.nics]]
network = "ways"
addresses = ["203.0.113.65", "2001:db8:28::65"]
[guests.three]
[[guests.three.nics]]
network = "lan"
addresses = ["10.0.0.5"]
"#;

fn made(world: &World) {
    world.connect_outside();
    world.write(CONFIG, FILE);
    world.good("apply");
}

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a script in a namespace until it is dropped; what it says is in a file.
fn python(world: &World, namespace: &str, name: &str, script: &str, arguments: &[&str]) -> (Process, String) {
    let (script_file, said) = (format!("/run/{name}.py"), format!("/run/{name}.said"));
    world.write(&script_file, script);
    world.write(&said, "");
    let child = Command::new("ip")
        .args(["netns", "exec", namespace, "python3", "-u", &script_file])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let process = Process(child);
    world.soon(&format!("{name} is ready"), || world.read(&said).starts_with("ready"));
    (process, said)
}

const ECHO: &str = r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 5000))
print("ready")
while True:
    data, peer = s.recvfrom(100)
    s.sendto(data, peer)
"#;

/// Whether a published port answers somebody outside.
fn answers(world: &World, at: &str) -> bool {
    let (address, port) = at.split_once(':').unwrap();
    let ask = format!(
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(0.5); \
         s.connect((\"{address}\", {port})); s.send(b\"x\"); s.recv(9)"
    );
    world.sh(&format!("ip netns exec outside python3 -c '{ask}' 2>/dev/null && echo yes || echo no"))
        == "yes\n"
}

/// Another address of the namespace, and another port at it.
fn other() -> String {
    let text = FILE.replace("203.0.113.10:5000:5000", "203.0.113.12:5001:5000");
    text.replace("203.0.113.10/24", "203.0.113.12/24")
}

#[test]
fn a_change_of_a_stack_is_taken_back_or_kept() {
    host(|world| {
        made(world);
        world.attach("one");
        let _echo = python(world, "one", "echo", ECHO, &[]);
        let (first, second) = ("203.0.113.10:5000", "203.0.113.12:5001");
        world.soon("the port answers", || answers(world, first));
        // Whether an address is still looked for elsewhere is a matter of time.
        let inside = || {
            world.sh(
                "ip netns exec red nft --stateless list ruleset; ip -n red -o address | sed 's/ tentative//'",
            )
        };
        let before = inside();
        for daemon in [false, true] {
            let daemon = daemon.then(|| world.daemon());
            world.write(CONFIG, other());
            world.good("apply --confirm 8s");
            world.soon("the other port answers", || answers(world, second));
            assert!(!answers(world, first));
            world.soon("it is taken back", || answers(world, first));
            assert!(!answers(world, second));
            assert_eq!(inside(), before);
            world.soon("it gets out", || world.echoes("one", "2001:db8:28::1"));

            world.good("apply --confirm 60s");
            world.good("confirm");
            world.settled();
            world.soon("it is kept", || answers(world, second) && world.echoes("one", "203.0.113.1"));
            world.good("rollback");
            world.soon("it is as before", || answers(world, first));
            assert!(!answers(world, second));
            assert_eq!(inside(), before);
            drop(daemon);
        }
    });
}

/// What cannot be in a stack keeps the whole change from being made, on the host, too.
#[test]
fn a_change_that_cannot_be_made_in_a_stack_changes_nothing() {
    host(|world| {
        made(world);
        world.attach("one");
        let before = world.kernel();
        // Somebody's device has the name that the new network's bridge is to have.
        world.sh("ip -n red link add br-more type dummy || ip -n red link add br-more type bridge");
        let more = "[networks.host2]\nmode = \"isolated\"\nsubnets = [\"10.9.0.0/24\"]\n\
                    [networks.more]\nnamespace = \"red\"\nmode = \"isolated\"\nsubnets = [\"10.8.0.0/24\"]\n";
        world.write(CONFIG, format!("{FILE}{more}"));
        let ran = world.viaduct("apply");
        assert_ne!(ran.code(), 0, "{ran:?}");
        assert!(ran.err.contains("br-more") && ran.err.contains("red"), "{ran:?}");
        assert_eq!(world.kernel(), before);
        for outside in ["203.0.113.1", "2001:db8:28::1"] {
            world.soon(&format!("it reaches {outside}"), || world.echoes("one", outside));
        }
    });
}

/// Who says on the segment that an address is at a MAC: of ARP the sender, of neighbour discovery the target.
const LISTEN: &str = r#"
import ipaddress, socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(("eth0", 3))
print("ready")
while True:
    frame, address = s.recvfrom(2048)
    if address[2] == 4:
        continue
    if frame[12:14] == b"\x08\x06":
        print(ipaddress.ip_address(frame[28:32]), frame[6:12].hex(":"), frame[22:28].hex(":"))
    if frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 136:
        print(ipaddress.ip_address(frame[62:78]), frame[6:12].hex(":"), frame[80:86].hex(":"))
"#;

#[test]
fn addresses_in_a_stack_are_announced_from_there() {
    host(|world| {
        made(world);
        world.attach("shop");
        world.soon("it reaches the outside", || world.echoes("shop", "203.0.113.1"));
        let (_listener, said) = python(world, "outside", "listen", LISTEN, &[]);
        let link: Value = serde_json::from_str(&world.sh("ip -n red -json link show dev out")).unwrap();
        let mac = link[0]["address"].as_str().unwrap();
        for address in ["203.0.113.65", "2001:db8:28::65", "203.0.113.10", "2001:db8:28::10"] {
            let heard = || world.read(&said).matches(&format!("{address} {mac} {mac}\n")).count();
            let before = heard();
            assert_eq!(world.good(&format!("announce {address} --json")).json()["link"], "out");
            world.soon(&format!("{address} is heard of"), || heard() > before);
        }
        // A guest that comes is made known by itself.
        world.good("detach shop");
        let heard = || world.read(&said).matches(&format!("203.0.113.65 {mac} {mac}\n")).count();
        let before = heard();
        world.good("attach shop --netns shop");
        world.soon("it is heard of", || heard() > before);
    });
}

#[test]
fn an_address_that_somebody_has_is_not_taken_in_a_stack() {
    host(|world| {
        made(world);
        world.sh("ip netns add shop");
        for address in ["203.0.113.65/24", "2001:db8:28::65/64"] {
            world.sh(&format!("ip -n outside address add {address} dev eth0 nodad"));
            let before = world.kernel();
            let said = format!("{} of shop.0 is in use elsewhere", address.split('/').next().unwrap());
            world.viaduct("attach shop --netns shop").refused(1, &[&said, "on out has it"]);
            assert_eq!(world.kernel(), before);
            world.sh(&format!("ip -n outside address del {address} dev eth0"));
        }
        world.good("attach shop --netns shop");
        assert!(world.echoes("outside", "203.0.113.65") && world.echoes("outside", "2001:db8:28::65"));
        world.settled();
    });
}

/// What runs a machine: frames go from its tap to a card in another namespace, and back.
const MACHINE: &str = r#"
import ctypes, fcntl, os, select, socket, struct, sys
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454ca, struct.pack("16sH22x", sys.argv[1].encode(), 0x1002))
inside = os.open("/run/netns/tapped", os.O_RDONLY)
if ctypes.CDLL(None).setns(inside, 0x40000000):
    raise OSError("setns")
card = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
card.bind(("wire", 3))
print("ready")
while True:
    for ready in select.select([tap, card], [], [])[0]:
        if ready == tap:
            card.send(os.read(tap, 2048))
        else:
            frame, address = card.recvfrom(2048)
            if address[2] != 4:
                os.write(tap, frame)
"#;

#[test]
fn a_machine_has_a_tap_in_a_stack() {
    host(|world| {
        made(world);
        world.attach("one");
        for kept in [false, true] {
            let _daemon = kept.then(|| world.daemon());
            let attached = world.good("attach tapped --tap --json").json();
            let tap = attached["device"].as_str().unwrap().to_owned();
            assert!(world.sh("ip -o link").lines().all(|line| !line.contains(&tap)), "it is on the host");
            let status = world.good("status --json").json();
            let mac = status["guests"]["tapped"]["nics"][0]["mac"].as_str().unwrap().to_owned();
            for line in [
                "ip netns add tapped",
                "ip -n tapped link add wire type veth peer name eth0 address MAC",
                "ip netns exec tapped sysctl -qw net.ipv6.conf.wire.disable_ipv6=1 net.ipv6.conf.eth0.accept_dad=0",
                "ip -n tapped link set wire up; ip -n tapped link set eth0 up",
                "ip -n tapped address add 10.0.0.6/24 dev eth0; ip -n tapped address add fd00::6/64 dev eth0 nodad",
                "ip -n tapped route add default via 10.0.0.1; ip -n tapped -6 route add default via fe80::1 dev eth0",
            ] {
                world.sh(&line.replace("MAC", &mac));
            }
            let machine = python(world, "red", "machine", MACHINE, &[&tap]);
            for to in ["203.0.113.1", "2001:db8:28::1", "10.0.0.1"] {
                world.soon(&format!("the machine reaches {to}"), || world.echoes("tapped", to));
            }
            world.settled();
            // Another's address it cannot speak with.
            world.sh("ip -n tapped address add 10.0.0.77/24 dev eth0");
            let forged = "ip netns exec tapped ping -c1 -W1 -I 10.0.0.77 10.0.0.1 >/dev/null; echo $?";
            assert_eq!(world.sh(forged), "1\n");
            world.good("detach tapped");
            assert!(!world.echoes("tapped", "203.0.113.1"));
            drop(machine);
            world.sh("ip netns del tapped");
            world.settled();
            assert!(!world.sh("ip -n red -o link").contains(&tap));
        }
    });
}

#[test]
fn a_guest_router_in_a_stack_is_given_a_prefix() {
    host(|world| {
        made(world);
        world.own_places();
        world.sh("ip -n outside -6 route add 2001:db8:48:8000::/49 via 2001:db8:28::10");
        let daemon = world.daemon();
        world.attach("shop");
        let leases = || serde_json::from_str::<Value>(&world.read(format!("{STATE}/leases.json"))).unwrap();
        let prefix = leases()["delegated"]["shop.0"]["address"].as_str().unwrap().to_owned();
        let network = prefix.strip_suffix("/64").unwrap().to_owned();
        let client = "ip netns exec shop timeout 60 dhclient -6 -1 -v -P -pf /run/dhclient.pid -lf /run/dhclient.leases eth0";
        world.sh(
            "ip netns exec shop sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.conf.eth0.accept_ra=2",
        );
        world.soon("the prefix is given", || {
            world.sh(&format!("{client} 2>&1 || true"));
            std::fs::read_to_string("/run/dhclient.leases")
                .is_ok_and(|leases| leases.contains(&format!("iaprefix {prefix}")))
        });
        assert!(world.sh("ip -n red -6 route show").contains(&prefix), "its way is in the stack");
        assert!(!world.sh("ip -6 route show").contains(&prefix), "its way is on the host");
        // A machine behind the guest.
        for line in [
            "ip netns add behind",
            "ip -n shop link add lan type veth peer name eth0 netns behind",
            "ip -n shop link set lan up; ip -n behind link set eth0 up",
            "ip -n shop address add NET1/64 dev lan nodad; ip -n behind address add NET7/64 dev eth0 nodad",
            "ip -n behind route add default via NET1",
        ] {
            world.sh(&line.replace("NET", &network));
        }
        world.soon("who is behind it gets out", || world.echoes("behind", "2001:db8:28::1"));
        assert!(world.echoes("outside", &format!("{network}7")));
        world.sh("ip netns pids shop | xargs -r kill");
        world.good("detach shop");
        assert!(!world.sh("ip -n red -6 route show").contains(&prefix));
        daemon.end();
    });
}

/// A name server that answers every question for an address with its own last number.
const NAMES: &str = r#"
import select, socket, struct
servers = {}
for number in (1, 54):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((f"203.0.113.{number}", 53))
    servers[s] = number
print("ready")
while True:
    for s in select.select(list(servers), [], [])[0]:
        message, peer = s.recvfrom(4096)
        end = 12
        while message[end]:
            end += 1 + message[end]
        question = message[12:end + 5]
        record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + bytes([192, 0, 2, servers[s]])
        s.sendto(message[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0) + question + record, peer)
"#;

#[test]
fn names_are_asked_where_a_namespace_asks() {
    host(|world| {
        world.own_place("/etc");
        world.write("/etc/resolv.conf", "nameserver 203.0.113.1\n");
        world.write("/etc/netns/red/resolv.conf", "nameserver 203.0.113.54\n");
        made(world);
        world.sh("ip -n outside address add 203.0.113.54/24 dev eth0");
        let _names = python(world, "outside", "names", NAMES, &[]);
        world.attach("one");
        world.attach("three");
        let daemon = world.daemon();
        let dig = |guest: &str, name: &str| {
            world.sh(&format!(
                "ip netns exec {guest} dig +short +time=1 +tries=1 @10.0.0.1 {name} 2>/dev/null || true"
            ))
        };
        let mut number = 0;
        let mut asks = |guest: &str, server: &str| {
            // What was answered before is kept.
            number += 1;
            dig(guest, &format!("n{number}.example.org")) == format!("192.0.2.{server}\n")
        };
        world.soon("the namespace's own is asked", || asks("one", "54"));
        world.soon("the host's own is asked", || asks("three", "1"));
        // As soon as it says something else.
        world.write("/etc/netns/red/resolv.conf", "nameserver 203.0.113.1\n");
        world.soon("another one is asked", || asks("one", "1"));
        world.write("/etc/netns/red/resolv.conf", "nameserver 203.0.113.54\n");
        world.soon("the first one is asked again", || asks("one", "54"));
        std::fs::remove_file("/etc/netns/red/resolv.conf").unwrap();
        world.soon("without one, the host's is asked", || asks("one", "1"));
        daemon.end();
    });
}
