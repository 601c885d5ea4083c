//! Virtual machines as guests: the example of a rented server, with machines under QEMU on taps, which know of the network
//! what they are told by DHCP, DHCPv6 and the router.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{fs, process::Child, time::Duration};

use support::{CONFIG, Daemon, World, host};
use viaduct_types::MacAddr;
use viaduct_vm::{Image, Machine, VmError};

/// Says who asks, one connection at a time, in both families.
const WHO: &str = r#"
import socket
server = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    client, (address, *_) = server.accept()
    client.settimeout(5)
    try:
        client.recv(4096)
        client.sendall(address.removeprefix("::ffff:").encode() + b"\n")
    except OSError:
        pass
    client.close()
"#;

/// What the example's host is connected to: the provider's router, with one more machine behind it in the same
/// namespace, that says who asks.
struct Provider(Child);

impl Provider {
    fn new(world: &World) -> Self {
        for line in [
            "ip address flush dev eth0 scope global",
            "ip -n outside address add 203.0.113.1/24 dev eth0",
            "ip -n outside address add fe80::1/64 dev eth0 nodad",
            "ip -n outside link set lo up",
            "ip -n outside address add 192.0.2.7/32 dev lo",
            "ip -n outside address add 2001:db8:ffff::7/128 dev lo",
            "ip -n outside route add 198.51.100.112/29 via 203.0.113.48",
            "ip -n outside route add 2001:db8:48::2/128 dev eth0",
            "ip -n outside route add 2001:db8:48:1::/64 via 2001:db8:48::2 dev eth0",
            "ip -n outside route add 2001:db8:48:8000::/49 via 2001:db8:48::2 dev eth0",
        ] {
            world.sh(line);
        }
        world.write("/run/who.py", WHO);
        let mut who = std::process::Command::new("ip");
        Self(who.args(["netns", "exec", "outside", "python3", "/run/who.py"]).spawn().unwrap())
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The example's host with its daemon; `fresh` is still to be connected. What is lent has both families, and prefixes.
fn rented(world: &World) -> (Provider, Daemon) {
    let provider = Provider::new(world);
    let example = include_str!("../../../examples/hetzner/viaduct.toml");
    let file = example.replace(
        "install-pool = \"172.30.0.0/16\"",
        "delegate-pool = [\"2001:db8:48:8000::/49\"]\ninstall-pool = [\"172.30.0.0/16\", \"fd00:30::/64\"]",
    );
    assert_ne!(file, example, "the example has changed");
    world.write(CONFIG, file);
    world.good("apply");
    (provider, world.daemon())
}

const FRESH: &str = "[[guests.fresh.nics]]\nnetwork = \"public\"\n";

/// The file gives `fresh` the IPv4 address of `db`, which gets others, and this one of IPv6.
fn install(world: &World, ipv6: &str) {
    let file = world.read(CONFIG);
    let of_db = r#"addresses = ["198.51.100.119", "2001:db8:48:1::119"]"#;
    let file = file.replace(of_db, r#"addresses = ["198.51.100.118", "2001:db8:48:1::118"]"#);
    assert!(file.contains(FRESH) && file.contains("118"), "the example has changed: {file}");
    let own = format!("addresses = [\"198.51.100.119\", \"{ipv6}\"]");
    world.write(CONFIG, file.replace(FRESH, &format!("{FRESH}{own}\n")));
    world.good("apply");
}

#[track_caller]
fn run(machine: &mut Machine, line: &str) -> String {
    let ran = machine.run(line).unwrap();
    assert_eq!(ran.status, 0, "{line}: {}\n{}\n{}", ran.output, World.log(), machine.console());
    ran.output
}

/// Until a command in the machine succeeds; the machine waits, as it knows best how fast its time is: longer than until a router's
/// next words come when the first were lost (16 s: RFC 4861, section 10, MAX_INITIAL_RTR_ADVERT_INTERVAL).
#[track_caller]
fn soon(machine: &mut Machine, line: &str) -> String {
    run(
        machine,
        &format!(
            "n=0; until {line}; do n=$((n+1)); [ $n -lt 100 ] || {{ tail -n 3 /run/errors; ip route; ip -6 route; ip neigh; exit 1; }}; sleep 0.3; done 2>/run/errors"
        ),
    )
}

/// How a machine finds out what it has, once it is up.
struct Client<'a> {
    renew: &'a str,
    /// The address of IPv6 that it is given.
    address: &'a str,
}

/// Up, reaches outside as the host, then gets its own addresses by an edit of the file, and serves from them.
fn lives(world: &World, machine: &mut Machine, client: &Client<'_>) {
    let Client { renew, address } = client;
    run(machine, "ip link set eth0 up");
    let asks = |whom| format!("{{ echo | nc -w 2 {whom} 80 | grep .; }}");
    let has =
        |what: &str| format!("ip -o -6 address show dev eth0 | grep 'inet6 {what}' | grep -qv tentative");
    soon(machine, "ip -o -4 address show dev eth0 | grep -q 'inet 172.30.'");
    assert_eq!(soon(machine, &asks("192.0.2.7")).trim(), "203.0.113.48");
    // The same by IPv6: it was told of the router.
    soon(machine, "ip -6 route show default | grep -q 'via fe80::1'");
    soon(machine, &has("fd00:30:"));
    assert_eq!(soon(machine, &asks("2001:db8:ffff::7")).trim(), "2001:db8:48::2");

    install(world, address);
    run(machine, renew);
    soon(machine, "ip -o -4 address show dev eth0 | grep -q 'inet 198.51.100.119/32'");
    let addresses = run(machine, "ip -o -4 address show dev eth0");
    assert!(!addresses.contains("172.30."), "{addresses}");
    assert_eq!(soon(machine, &asks("192.0.2.7")).trim(), "198.51.100.119");
    soon(machine, &has(address));
    // The /29's broadcast address, too.
    run(machine, "mkdir -p /srv && echo served >/srv/index.html && httpd -h /srv");
    assert_eq!(soon(machine, &asks("2001:db8:ffff::7")).trim(), *address);
    for address in ["198.51.100.119".to_owned(), format!("[{address}]")] {
        serves(world, &address, "served");
    }
}

/// A machine outside gets this of that address.
#[track_caller]
fn serves(world: &World, address: &str, what: &str) {
    let outside = "ip netns exec outside python3 -c 'import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=10).read())'";
    let got = world.sh(&format!("{outside} http://{address}/"));
    assert!(got.contains(what), "{address}: {got}");
}

#[test]
fn a_machine_on_a_tap_comes_up_with_busybox_udhcpc() {
    // Where this comes from, the host of the test cannot reach.
    viaduct_vm::Kernel::debian().unwrap();
    host(|world| {
        let (_provider, _daemon) = rented(world);
        let attached = world.good("attach fresh --tap --json").json();
        let network = attached["qemu"].as_str().unwrap().to_owned();
        let mut machine = viaduct_vm::guest(&network, None).unwrap();
        run(
            &mut machine,
            "udhcpc -f -i eth0 -T 1 -t 60 -O staticroutes -O mtu >/run/udhcpc 2>&1 & echo $! >/run/pid",
        );
        // Nothing in it asks for IPv6: it makes the address that the file gives it of its MAC, as the router tells it to.
        let status = world.good("status --json").json();
        let mac: MacAddr = status["guests"]["fresh"]["nics"][0]["mac"].as_str().unwrap().parse().unwrap();
        let address = mac.slaac("2001:db8:48:1::/64".parse().unwrap()).unwrap().to_string();
        // A renewal of what is no longer its own is refused, and it asks anew.
        let renew = "kill -USR1 $(cat /run/pid)";
        lives(world, &mut machine, &Client { renew, address: &address });
        world.good("detach fresh");
    });
}

/// dhcpcd as Debian has it, with its hooks.
fn dhcpcd(image: &mut Image) -> Result<(), VmError> {
    image.program("dhcpcd")?;
    for path in ["/usr/lib/dhcpcd", "/etc/dhcpcd.conf"] {
        let place = fs::canonicalize(path).unwrap();
        image.copy(&place)?;
    }
    image.text("/var/lib/dhcpcd/.keep", "", 0o644);
    Ok(())
}

#[test]
fn a_machine_on_a_device_of_somebody_elses_comes_up_with_dhcpcd() {
    viaduct_vm::Kernel::debian().unwrap();
    host(|world| {
        let (_provider, _daemon) = rented(world);
        world.sh("ip tuntap add vnet7 mode tap vnet_hdr");
        let mac = "52:54:00:12:34:77";
        world.write(CONFIG, world.read(CONFIG).replace(FRESH, &format!("{FRESH}mac = \"{mac}\"\n")));
        world.good("apply");
        world.good("attach fresh --device vnet7");
        let network = format!(
            "-netdev tap,id=net0,ifname=vnet7,script=no,downscript=no -device virtio-net-pci,netdev=net0,mac={mac}"
        );
        let mut machine = viaduct_vm::guest_with(&network, None, dhcpcd).unwrap();
        machine.patience(Duration::from_secs(90)).unwrap();
        run(&mut machine, "dhcpcd -A -b -t 0 eth0 >/run/said 2>&1 || { cat /run/said; false; }");
        // To any server: when it loses an address of IPv6, this one loses the socket, too, by which it would renew alone.
        let client = Client { renew: "dhcpcd -n eth0", address: "2001:db8:48:1::119" };
        lives(world, &mut machine, &client);
        world.good("detach fresh");
        world.sh("ip link show dev vnet7");
    });
}

/// A wire between two machines, of which one listens for the other.
fn wire(end: &str, mac: &str) -> String {
    format!(
        "-netdev stream,id=lan,server={end},addr.type=unix,addr.path=/run/lan -device virtio-net-pci,netdev=lan,mac={mac}"
    )
}

#[test]
fn a_machine_that_is_a_router_is_given_a_prefix_and_the_machine_behind_it_answers() {
    viaduct_vm::Kernel::debian().unwrap();
    host(|world| {
        let (_provider, _daemon) = rented(world);
        install(world, "2001:db8:48:1::119");
        let attached = world.good("attach fresh --tap --json").json();
        let network = format!("{} {}", attached["qemu"].as_str().unwrap(), wire("on", "52:54:00:00:00:01"));
        let mut router = viaduct_vm::guest_with(&network, None, dhcpcd).unwrap();
        let mut behind = viaduct_vm::guest(&wire("off", "52:54:00:00:00:02"), None).unwrap();
        router.patience(Duration::from_secs(90)).unwrap();
        run(
            &mut router,
            "sysctl -w net.ipv6.conf.all.forwarding=1 net.ipv6.conf.eth0.accept_ra=2; ip link set eth0 up; \
             ip link set eth1 up; \
             printf 'ipv6only\\nipv6rs\\nnoipv4\\nia_na 1\\nia_pd 2 eth1/0/64\\n' >/run/dhcpcd.conf; \
             dhcpcd -6 -b -t 0 -f /run/dhcpcd.conf eth0 || true",
        );
        soon(&mut router, "ip -o -6 address show dev eth0 | grep -q 'inet6 2001:db8:48:1::119/128'");
        // Its own one in the prefix that it was given.
        let own = soon(
            &mut router,
            "{ ip -o -6 address show dev eth1 | grep -v tentative | sed -n 's,.*inet6 \\(2001:db8:48:[^ /]*\\)/64.*,\\1,p' | grep .; }",
        );
        let own = own.trim();
        let prefix = own.trim_end_matches('1');
        assert!(prefix.ends_with("::"), "{own}");
        run(
            &mut behind,
            &format!(
                "ip link set eth0 up; ip -6 address add {prefix}7/64 dev eth0; ip -6 route add default via {own}; \
                 mkdir -p /srv && echo behind >/srv/index.html && httpd -h /srv"
            ),
        );
        let asks = "{ echo | nc -w 2 2001:db8:ffff::7 80 | grep .; }";
        assert_eq!(soon(&mut behind, asks).trim(), format!("{prefix}7"));
        serves(world, &format!("[{prefix}7]"), "behind");
        world.good("detach fresh");
    });
}
