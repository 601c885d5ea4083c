//! Guests that configure themselves for IPv6: real clients, unmodified, against the daemon.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use serde_json::Value;
use support::{CONFIG, Daemon, STATE, World, host};

const FILE: &str = r#"
[host]
name = "ve0"

[uplinks.wan]
interface = "eth0"

[networks.public]
mode = "routed"
uplink = "wan"
pool = ["198.51.100.112/29", "2001:db8:48:1::/64"]
install-pool = ["172.30.0.0/16", "fd00:30::/64"]
delegate-pool = ["2001:db8:48:8000::/49"]
dhcp = true
dns-servers = ["203.0.113.53", "2001:db8:28::53"]
domain = "lan.example"
mtu = 1400

[networks.inside]
mode = "nat"
uplink = "wan"
subnets = ["10.0.0.0/24", "fd00:10::/64"]
dhcp = true
to-host = "allow"

[guests.shop]
[[guests.shop.nics]]
network = "public"
addresses = ["198.51.100.112", "2001:db8:48:1::112"]

[guests.fresh]
[[guests.fresh.nics]]
network = "public"

[guests.closed]
allow-out = []
[[guests.closed.nics]]
network = "public"
addresses = ["2001:db8:48:1::113"]

[guests.app]
[[guests.app.nics]]
network = "inside"
addresses = ["10.0.0.2", "fd00:10::2"]

[guests.new]
[[guests.new.nics]]
network = "inside"
"#;

/// A host with a daemon, a place of its own for whatever clients write, and a router outside.
fn serving(world: &World) -> Daemon {
    serving_by(world, FILE)
}

fn serving_by(world: &World, file: &str) -> Daemon {
    world.own_places();
    world.sh("ip -n outside address add fe80::1/64 dev eth0 nodad; \
         ip -n outside address add 2001:db8:28::1/64 dev eth0 nodad; \
         ip -n outside route add 2001:db8:48::/48 via 2001:db8:28::2");
    world.write(CONFIG, file);
    world.good("apply");
    let status = world.good("status --json").json();
    for guest in ["shop", "fresh", "closed", "app", "new"] {
        // On a device of somebody else's, as a virtual machine is: nobody looks into it.
        let mac = status["guests"][guest]["nics"][0]["mac"].as_str().unwrap();
        world.sh(&format!(
            "ip netns add {guest}; ip link add x-{guest} type veth peer name eth0 address {mac} netns {guest}"
        ));
        world.good(&format!("attach {guest} --device x-{guest}"));
    }
    world.daemon()
}

/// A guest that has just been switched on.
fn bare(world: &World, guest: &str) {
    world.sh(&format!(
        "ip -n {guest} link set eth0 down; ip -n {guest} -6 address flush dev eth0; \
         ip netns exec {guest} sysctl -qw net.ipv6.conf.eth0.accept_ra=1 net.ipv6.conf.eth0.mtu=1500; \
         ip -n {guest} link set eth0 up"
    ));
}

fn addresses(world: &World, guest: &str) -> String {
    world.sh(&format!("ip -n {guest} -o -6 address show dev eth0 scope global"))
}

fn routes(world: &World, guest: &str) -> String {
    world.sh(&format!("ip -n {guest} -6 route show"))
}

fn lent(world: &World, list: &str, nic: &str) -> String {
    let leases: Value = serde_json::from_str(&world.read(format!("{STATE}/leases.json"))).unwrap();
    leases[list][nic]["address"].as_str().unwrap_or_default().to_owned()
}

fn end_clients(world: &World, guest: &str) {
    world.sh(&format!(
        "ip netns pids {guest} | xargs -r kill; while [ -n \"$(ip netns pids {guest})\" ]; do sleep 0.05; done"
    ));
}

const OUTSIDE: &str = "ping -6 -c 1 -W 3 2001:db8:28::1";

/// Waits for the kernel's own search for duplicates of the link-local address.
fn settled_link(world: &World, guest: &str) {
    world.soon("the guest has a link-local address", || {
        let all = world.sh(&format!("ip -n {guest} -6 address show dev eth0"));
        all.contains("inet6 fe80::") && !all.contains("tentative")
    });
}

#[test]
fn routers_are_advertised_as_the_file_says() {
    host(|world| {
        let _daemon = serving(world);
        bare(world, "shop");
        settled_link(world, "shop");
        let told = world.sh("ip netns exec shop rdisc6 -1 -r 5 -w 2000 eth0");
        for line in [
            "Stateful address conf.    :          Yes",
            "Stateful other conf.      :          Yes",
            "Router lifetime           :        65535",
            "MTU                      :         1400 bytes",
            "Recursive DNS server     : 2001:db8:28::53",
            "DNS search list          : lan.example",
            "from fe80::1",
        ] {
            assert!(told.contains(line), "nothing of {line:?}: {told}");
        }
        // No address but its own may be used, which is none that can be made of a prefix.
        assert!(!told.contains("Prefix"), "{told}");
        world.soon("the kernel takes it", || {
            routes(world, "shop").contains("default via fe80::1 dev eth0 proto ra")
        });
        assert_eq!(world.sh("ip netns exec shop cat /proc/sys/net/ipv6/conf/eth0/mtu"), "1400\n");

        // Guests of a bridge share what they are told, and hear no more than that.
        bare(world, "app");
        settled_link(world, "app");
        let told = world.sh("ip netns exec app rdisc6 -1 -r 5 -w 2000 eth0");
        assert!(told.contains("Prefix                   : fd00:10::/64"), "{told}");
        assert!(told.contains("On-link                 :          Yes"), "{told}");
        assert!(told.contains("Autonomous address conf.:           No"), "{told}");

        // Nothing of it is true any more.
        world.write(
            CONFIG,
            FILE.replace("dhcp = true\ndns", "dhcp = false\ndns").replace("delegate-pool", "#"),
        );
        world.good("apply");
        world.soon("the kernel hears of it", || {
            !routes(world, "shop").contains("default via fe80::1 dev eth0 proto ra")
        });
        world.settled();
    });
}

#[test]
fn a_guest_without_addresses_makes_the_one_that_it_is_lent() {
    host(|world| {
        // Without app nobody on the bridge has an address that is not made of its MAC.
        let file = FILE.replace("addresses = [\"10.0.0.2\", \"fd00:10::2\"]", "");
        let _daemon = serving(world);
        world.write(CONFIG, &file);
        world.good("apply");
        let lent = lent(world, "held6", "new.0");
        let mac: Value = world.good("status --json").json()["guests"]["new"]["nics"][0].clone();
        assert!(lent.starts_with("fd00:10::ff:fe"), "{lent} of {mac}");
        bare(world, "new");
        world
            .soon("the kernel has made it", || addresses(world, "new").contains(&format!("inet6 {lent}/64")));
        world.soon("it can be used", || !addresses(world, "new").contains("tentative"));
        world.sh(&format!("ip netns exec new {OUTSIDE}"));
        world.settled();
    });
}

#[test]
fn real_clients_take_their_own_addresses_by_dhcpv6() {
    host(|world| {
        let _daemon = serving(world);
        world.write(
            "/run/dhcpcd.conf",
            "ipv6only\nipv6rs\nnoipv4\nia_na 1\nslaac hwaddr\noption domain_name_servers\n",
        );
        for client in [
            "timeout 100 dhclient -6 -1 -v -pf /run/dhclient.pid -lf /run/dhclient.leases eth0",
            "timeout 100 dhcpcd -6 -1 -f /run/dhcpcd.conf -t 90 eth0",
        ] {
            for (guest, expected) in
                [("shop", "2001:db8:48:1::112/128".to_owned()), ("app", "fd00:10::2/".to_owned())]
            {
                bare(world, guest);
                settled_link(world, guest);
                world.sh(&format!("ip netns exec {guest} {client}"));
                world.soon("the address is set", || addresses(world, guest).contains(&expected));
                world.soon("a router is known", || routes(world, guest).contains("default via fe80::1"));
                world.soon("it can be used", || !addresses(world, guest).contains("tentative"));
                world.sh(&format!("ip netns exec {guest} {OUTSIDE}"));
                assert!(!addresses(world, guest).contains(if guest == "shop" { "fd00" } else { "2001" }));
                world.sh("rm -f /run/dhclient.pid /run/dhclient.leases");
                end_clients(world, guest);
            }
        }
        assert!(world.log().contains("shop.0 has taken its address 2001:db8:48:1::112"), "{}", world.log());
    });
}

/// On a segment whose guests may not talk to each other, nobody but the host answers a client, so nobody else is asked.
#[test]
fn other_guests_of_a_segment_do_not_hear_who_asks_for_an_address() {
    host(|world| {
        let _daemon = serving(world);
        bare(world, "app");
        bare(world, "new");
        // What is passed on from port to port, before anything of ours drops it.
        world.sh("nft add table bridge probe; nft add chain bridge probe f '{ type filter hook forward priority -500; }'; \
             nft add rule bridge probe f udp dport '{ 67, 547 }' counter; \
             nft add rule bridge probe f icmp type echo-request counter");
        settled_link(world, "app");
        world.sh("ip netns exec app udhcpc -i eth0 -n -q -T 1 -t 15 -s /bin/true");
        world.sh("ip netns exec app \
             timeout 100 dhclient -6 -1 -v -pf /run/dhclient.pid -lf /run/dhclient.leases eth0");
        end_clients(world, "app");
        world.sh("ip -n app address add 10.0.0.2/24 broadcast + dev eth0; \
             ip netns exec app ping -b -c 1 -W 1 10.0.0.255 || true");
        let counted = world.sh("nft list chain bridge probe f");
        assert!(counted.contains("{ 67, 547 } counter packets 0 "), "{counted}");
        // Other broadcasts are, and end there.
        assert!(!counted.contains("echo-request counter packets 0 "), "{counted}");
    });
}

#[test]
fn networkd_takes_a_guests_own_address_by_dhcpv6() {
    host(|world| {
        let _daemon = serving(world);
        world.write("/run/systemd/network/eth0.network", "[Match]\nName=eth0\n[Network]\nDHCP=ipv6\n");
        world.sh("mkdir -p /run/systemd/netif; chown -R systemd-network: /run/systemd/netif");
        for (guest, expected) in
            [("shop", "2001:db8:48:1::112/128".to_owned()), ("app", "fd00:10::2/128".to_owned())]
        {
            bare(world, guest);
            // With nothing to write in /sys it does not wait for udev, which the guest has not.
            world.sh(&format!(
                "ip netns exec {guest} sh -c 'mount -o remount,ro /sys && exec /lib/systemd/systemd-networkd' \
                 >/run/networkd.{guest} 2>&1 &"
            ));
            world.soon("the address is set", || addresses(world, guest).contains(&expected));
            world.soon("a router is known", || routes(world, guest).contains("default via fe80::1"));
            world.soon("it can be used", || !addresses(world, guest).contains("tentative"));
            world.sh(&format!("ip netns exec {guest} {OUTSIDE}"));
            let told = world.read(format!("/run/networkd.{guest}"));
            assert!(!told.contains("Failed"), "{told}");
            end_clients(world, guest);
        }
    });
}

#[test]
fn who_has_no_address_is_lent_one_of_ipv6_too_and_goes_out_with_the_hosts() {
    host(|world| {
        let daemon = serving(world);
        let address = lent(world, "held6", "fresh.0");
        assert!(address.starts_with("fd00:30::"), "{address}");
        bare(world, "fresh");
        settled_link(world, "fresh");
        let client = "timeout 100 dhclient -6 -1 -v -pf /run/dhclient.pid -lf /run/dhclient.leases eth0";
        world.sh(&format!("ip netns exec fresh {client}"));
        world.soon("it is set", || addresses(world, "fresh").contains(&format!("inet6 {address}/")));
        world.soon("a router is known", || routes(world, "fresh").contains("default via fe80::1"));
        world.soon("it can be used", || !addresses(world, "fresh").contains("tentative"));
        world.sh(&format!("ip netns exec fresh {OUTSIDE}"));
        // Another daemon lends the same.
        daemon.end();
        let _daemon = world.daemon();
        assert_eq!(lent(world, "held6", "fresh.0"), address);
        // Once the file gives it one, that is its own.
        world.good("set fresh --address-add 2001:db8:48:1::119 --save");
        assert_eq!(lent(world, "held6", "fresh.0"), "");
        world.sh(
            "ip netns exec fresh dhclient -6 -x -pf /run/dhclient.pid -lf /run/dhclient.leases eth0 || true",
        );
        world.sh("rm -f /run/dhclient.leases");
        world.sh(&format!("ip netns exec fresh {client}"));
        world.soon("its own is set", || addresses(world, "fresh").contains("inet6 2001:db8:48:1::119/"));
    });
}

#[test]
fn an_address_that_a_guest_has_for_a_time_it_has_whatever_the_prefix() {
    host(|world| {
        world.write(CONFIG, FILE);
        world.good("apply");
        world.attach("app");
        // As clients of DHCPv6 set it; the prefix's length is theirs to choose.
        let time = "dev eth0 valid_lft 300 preferred_lft 200";
        world.sh(&format!("ip -n app -6 address change fd00:10::2/64 {time}"));
        world.settled();
        world.sh(&format!(
            "ip -n app address del fd00:10::2/64 dev eth0; ip -n app address add fd00:10::2/128 {time}"
        ));
        world.settled();
        world.sh("ip -n app address del fd00:10::2/128 dev eth0");
        assert!(world.good("plan").out.contains("+ app.0: address fd00:10::2/64"));
    });
}

#[test]
fn a_guest_router_is_given_a_prefix_for_what_is_behind_it() {
    host(|world| {
        let daemon = serving(world);
        let prefix = lent(world, "delegated", "shop.0");
        assert!(prefix.starts_with("2001:db8:48:") && prefix.ends_with("/64"), "{prefix}");
        // What a guest's own lists say could be got round with a prefix behind it.
        assert_eq!(lent(world, "delegated", "closed.0"), "");
        let network = prefix.trim_end_matches("/64").to_owned();
        for client in [
            "timeout 100 dhclient -6 -1 -v -N -P -pf /run/dhclient.pid -lf /run/dhclient.leases eth0",
            "timeout 100 dhcpcd -6 -1 -f /run/dhcpcd.conf -t 90 eth0",
        ] {
            world.write("/run/dhcpcd.conf", "ipv6only\nipv6rs\nnoipv4\nia_na 1\nia_pd 2 lan/0/64\n");
            bare(world, "shop");
            settled_link(world, "shop");
            // A guest router, and another machine behind it.
            world.sh(
                "ip netns del behind 2>/dev/null; ip -n shop link del lan 2>/dev/null; ip netns add behind; \
                 ip -n shop link add lan type veth peer name eth0 netns behind; ip -n shop link set lan up; \
                 ip netns exec shop sysctl -qw net.ipv6.conf.eth0.accept_ra=2 net.ipv6.conf.all.forwarding=1; \
                 ip -n behind link set eth0 up",
            );
            world.sh(&format!("ip netns exec shop {client}"));
            world.soon("its own address is set", || addresses(world, "shop").contains("2001:db8:48:1::112"));
            if client.contains("dhclient") {
                let lease = world.read("/run/dhclient.leases");
                assert!(lease.contains(&format!("iaprefix {prefix}")), "{lease}");
            } else {
                let lan = || world.sh("ip -n shop -6 address show dev lan");
                world.soon("the prefix is used", || lan().contains(&format!("inet6 {network}")));
            }
            world.sh(&format!(
                "ip -n shop address replace {network}1/64 dev lan nodad; \
                 ip -n behind address replace {network}7/64 dev eth0 nodad; \
                 ip -n behind route replace default via {network}1"
            ));
            world.soon("a router is known", || routes(world, "shop").contains("default via fe80::1"));
            world.sh(&format!("ip netns exec behind {OUTSIDE}"));
            world.sh(&format!("ip netns exec outside ping -6 -c 1 -W 3 {network}7"));
            world.sh("rm -f /run/dhclient.pid /run/dhclient.leases");
            end_clients(world, "shop");
        }
        // Another's prefix it cannot speak with.
        world.sh("ip -n behind address add 2001:db8:48:ffff::7/64 dev eth0 nodad; \
             ! ip netns exec behind ping -6 -c 1 -W 1 -I 2001:db8:48:ffff::7 2001:db8:28::1");
        let drops = world.good("status --json").json();
        assert!(
            drops["guests"]["shop"]["nics"][0]["drops"]["address"]["packets"].as_u64() > Some(0),
            "{drops}"
        );
        // Nobody else outside speaks with it, and what is nobody's leads nowhere.
        let unreachable = "ip netns exec outside ping -6 -c 1 -W 2 2001:db8:48:ffff::7 || true";
        assert!(world.sh(unreachable).contains("nreachable"), "{}", world.sh(unreachable));
        // The next daemon gives the same; a guest that leaves takes its route with it.
        daemon.end();
        let _daemon = world.daemon();
        assert_eq!(lent(world, "delegated", "shop.0"), prefix);
        world.settled();
        assert!(world.sh("ip -6 route show").contains(&prefix));
        world.good("detach shop");
        assert!(!world.sh("ip -6 route show").contains(&prefix));
        assert_eq!(lent(world, "delegated", "shop.0"), prefix, "it may come back");
    });
}

#[test]
fn a_whole_prefix_is_answered_for_on_the_uplinks_own_segment() {
    host(|world| {
        let pool = "delegate-pool = [\"2001:db8:48:8000::/49\"]";
        assert!(FILE.contains(pool));
        let near = "delegate-pool = [\"2001:db8:28:0:8000::/65\"]\ndelegate-length = 80\nproxy = true";
        let _daemon = serving_by(world, &FILE.replace(pool, near));
        let prefix = lent(world, "delegated", "shop.0");
        let network = prefix.strip_suffix("/80").unwrap().to_owned();
        assert!(network.starts_with("2001:db8:28:0:"), "{prefix}");
        bare(world, "shop");
        settled_link(world, "shop");
        world.sh(&format!(
            "ip -n shop address add 2001:db8:48:1::112/128 dev eth0 nodad; \
             ip -n shop route replace default via fe80::1 dev eth0; \
             ip netns exec shop sysctl -qw net.ipv6.conf.all.forwarding=1; ip netns add behind; \
             ip -n shop link add lan type veth peer name eth0 netns behind; ip -n shop link set lan up; \
             ip -n behind link set eth0 up; ip -n shop address add {network}1/80 dev lan nodad; \
             ip -n behind address add {network}77:7/80 dev eth0 nodad; \
             ip -n behind route add default via {network}1"
        ));
        // A stranger on the segment takes it for a neighbour; ndisc6 hears no answers that come from link-local addresses.
        let ping = |address: &str| {
            let line = "ip -n outside neighbour flush dev eth0; ip netns exec outside ping -6 -c 1 -W 1";
            world.sh(&format!("{line} {address} || true")).contains("1 received")
        };
        let behind = format!("{network}77:7");
        world.soon("it is answered for", || ping(&behind));
        let near = world.sh(&format!("ip -n outside neighbour show {behind}"));
        assert!(near.contains("lladdr 02:00:00:00:00:02"), "{near}");
        // Whoever claims such an address hears that it is taken.
        world.sh(&format!("ip -n outside address add {behind}/64 dev eth0"));
        let claimed = || world.sh("ip -n outside address show dev eth0").contains("dadfailed");
        world.soon("the claim has failed", claimed);
        world.sh(&format!("ip -n outside address del {behind}/64 dev eth0"));
        // What is next to it is nobody's, and is not answered for.
        for nobody in ["2001:db8:28:0:7fff::7", "2001:db8:28:0:ffff:ffff::7"] {
            assert!(!nobody.starts_with(&network) && !ping(nobody), "{nobody}");
            let unknown = world.sh(&format!("ip -n outside neighbour show {nobody}"));
            assert!(!unknown.contains("lladdr"), "{unknown}");
        }
        world.sh(
            "sysctl -qw net.ipv6.conf.eth0.keep_addr_on_down=1; ip link set eth0 down; ip link set eth0 up",
        );
        world.soon("it is answered for when the link is back", || ping(&behind));
        world.good("detach shop");
        assert!(!ping(&behind));
    });
}
