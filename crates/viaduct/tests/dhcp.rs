//! Guests that configure themselves: real DHCP clients, unmodified, against the daemon.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{fs, time::Duration};

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
pool = ["198.51.100.112/29"]
install-pool = "172.30.0.0/16"
dhcp = true
dns-servers = ["203.0.113.53"]
domain = "lan.example"
mtu = 1400

[networks.inside]
mode = "nat"
uplink = "wan"
subnets = ["10.0.0.0/29"]
dhcp = true
to-host = "allow"

[guests.shop]
[[guests.shop.nics]]
network = "public"
addresses = ["198.51.100.112"]

[guests.fresh]
[[guests.fresh.nics]]
network = "public"

[guests.app]
[[guests.app.nics]]
network = "inside"
addresses = ["10.0.0.2"]

[guests.new]
[[guests.new.nics]]
network = "inside"
"#;

/// A host with a daemon, and a place of its own for whatever clients write.
fn serving(world: &World) -> Daemon {
    world.own_places();
    world.write(CONFIG, FILE);
    world.good("apply");
    for guest in ["shop", "fresh", "app", "new"] {
        world.attach(guest);
    }
    world.daemon()
}

/// Takes away what Viaduct set inside of a guest, as if it were a machine of its own.
fn bare(world: &World, guest: &str) {
    world.sh(&format!("ip -n {guest} -4 address flush dev eth0; ip -n {guest} link set eth0 up mtu 1500"));
}

fn addresses(world: &World, guest: &str) -> String {
    world.sh(&format!("ip -n {guest} -o -4 address show dev eth0"))
}

fn leases(world: &World) -> Value {
    serde_json::from_str(&world.read(format!("{STATE}/leases.json"))).unwrap()
}

fn lease(world: &World, nic: &str) -> String {
    leases(world)["held"][nic]["address"].as_str().unwrap().to_owned()
}

const UDHCPC: &str = "udhcpc -i eth0 -n -q -T 1 -t 15 -O mtu -O staticroutes";

/// A container has the addresses of its file at once; a lent one, it has to ask for.
#[test]
fn attach_says_which_addresses_are_there() {
    host(|world| {
        world.write(CONFIG, FILE);
        world.good("apply");
        world.sh("ip netns add shop && ip netns add fresh");
        let said = world.viaduct("attach shop --netns shop").out;
        assert!(said.contains("with 198.51.100.112 and MAC") && said.contains(" there, "), "{said}");
        assert!(world.sh("ip -n shop -o address show dev eth0").contains("198.51.100.112/32"));
        let said = world.viaduct("attach fresh --netns fresh").out;
        assert!(said.contains("To be asked for (DHCP) or set up inside: 172.30."), "{said}");
        assert!(!world.sh("ip -n fresh -o address show dev eth0").contains("172.30."));
        for (guest, is_set_up) in [("shop", true), ("fresh", false)] {
            let told = world.viaduct(&format!("attach {guest} --netns {guest} --json")).json();
            assert_eq!(told["set_up"], is_set_up, "{told}");
        }
    });
}

#[test]
fn real_clients_take_a_routed_guests_own_address() {
    host(|world| {
        let _daemon = serving(world);
        for client in [
            UDHCPC,
            "timeout 20 dhclient -4 -1 -v -pf /run/dhclient.pid -lf /run/dhclient.leases eth0",
            "timeout 20 dhcpcd -4 -1 -A -t 15 eth0",
        ] {
            bare(world, "shop");
            world.sh(&format!("ip netns exec shop {client}"));
            let got = addresses(world, "shop");
            assert!(got.contains("inet 198.51.100.112/32"), "{client}: {got}");
            let routes = world.sh("ip -n shop route");
            assert!(routes.contains("default via 169.254.1.1 dev eth0"), "{client}: {routes}");
            world.sh("ip netns exec shop ping -c 1 -W 2 203.0.113.2");
            let link = world.sh("ip -n shop link show dev eth0");
            // dhcpcd leaves the device alone, and limits the routes.
            let told = link.contains("mtu 1400") || routes.contains("mtu 1400");
            assert!(told, "{client}: {link}{routes}");
            assert!(world.log().contains("shop.0 has taken its address 198.51.100.112"), "{}", world.log());
            world
                .sh("[ ! -e /run/dhclient.pid ] || { kill $(cat /run/dhclient.pid); rm /run/dhclient.pid; }");
            world.sh("ip netns pids shop | xargs -r kill; while [ -n \"$(ip netns pids shop)\" ]; do sleep 0.05; done");
        }
    });
}

#[test]
fn who_has_no_address_is_lent_one_and_renews_to_its_own() {
    host(|world| {
        let _daemon = serving(world);
        bare(world, "fresh");
        world.sh("ip netns exec fresh udhcpc -i eth0 -b -T 1 -t 15 -p /run/udhcpc.pid >/run/udhcpc.log 2>&1");
        let lent = lease(world, "fresh.0");
        assert!(lent.starts_with("172.30."), "{lent}");
        world.soon("the address is set", || addresses(world, "fresh").contains(&format!("inet {lent}/32")));
        // Its way back, and its permission to use it.
        world.sh("ip netns exec fresh ping -c 1 -W 2 203.0.113.2");
        world.settled();
        let status = world.good("status --json").json();
        assert_eq!(status["guests"]["fresh"]["nics"][0]["addresses"][0], format!("{lent}/32"));

        world.good("set fresh --address-add 198.51.100.119 --save");
        world.sh("kill -USR1 $(cat /run/udhcpc.pid)");
        world.soon("the new address is set", || addresses(world, "fresh").contains("inet 198.51.100.119/32"));
        assert!(!addresses(world, "fresh").contains("172.30."));
        assert_eq!(leases(world)["held"]["fresh.0"], Value::Null);
        // The client takes away and sets what `set` does, too: whoever came last, it is so in the end.
        world.soon("it goes out, and nothing is left to do", || {
            world.good("apply");
            let ping = world.sh("ip netns exec fresh ping -c 1 -W 2 203.0.113.2 || true");
            ping.contains("1 received") && world.viaduct("plan --exit-code").code() == 0
        });
    });
}

#[test]
fn what_a_guest_has_for_a_time_it_has() {
    host(|world| {
        world.write(CONFIG, FILE);
        world.good("apply");
        world.attach("app");
        // As some clients set it.
        world.sh("ip -n app address change 10.0.0.2/29 dev eth0 valid_lft 300 preferred_lft 200");
        world.settled();
        world.sh("ip -n app address del 10.0.0.2/29 dev eth0");
        assert!(world.good("plan").out.contains("+ app.0: address 10.0.0.2/29"));
    });
}

#[test]
fn leases_outlive_the_daemon_and_the_process_that_answers_is_started_again() {
    host(|world| {
        let daemon = serving(world);
        bare(world, "new");
        world.sh(&format!("ip netns exec new {UDHCPC}"));
        let lent = lease(world, "new.0");
        assert!(addresses(world, "new").contains(&format!("inet {lent}/29")), "{}", addresses(world, "new"));
        let of_daemon =
            |id: u32| world.sh(&format!("pgrep -P {id} -f answer-guests || true")).trim().to_owned();
        let first = of_daemon(daemon.id());
        assert!(!first.is_empty());
        // It has given up what it does not need.
        let status = fs::read_to_string(format!("/proc/{first}/status")).unwrap();
        assert!(
            status.contains("CapEff:\t0000000000002400") && status.contains("NoNewPrivs:\t1"),
            "{status}"
        );
        world.sh(&format!("kill -9 {first}"));
        world.soon("another answers", || !["", &first[..]].contains(&&of_daemon(daemon.id())[..]));
        bare(world, "new");
        world.sh(&format!("ip netns exec new {UDHCPC}"));
        assert!(addresses(world, "new").contains(&lent));

        let second = of_daemon(daemon.id());
        world.sh(&format!("kill -STOP {second}"));
        world.within(Duration::from_secs(60), "one that does nothing any more is replaced", || {
            !["", &second[..]].contains(&&of_daemon(daemon.id())[..])
        });
        bare(world, "new");
        world.sh(&format!("ip netns exec new {UDHCPC}"));
        assert!(addresses(world, "new").contains(&lent));

        let third = of_daemon(daemon.id());
        drop(daemon);
        world.soon("it ends with its daemon", || fs::metadata(format!("/proc/{third}")).is_err());
        let _daemon = world.daemon();
        bare(world, "new");
        world.sh(&format!("ip netns exec new {UDHCPC}"));
        assert!(addresses(world, "new").contains(&lent));
        world.settled();
    });
}

#[test]
fn an_address_that_somebody_uses_already_is_not_given_out() {
    host(|world| {
        let _daemon = serving(world);
        let lent = lease(world, "new.0");
        // A bridge's own anti-spoofing would hold back another guest's claim; this one is behind no NIC of ours.
        world.sh("ip netns add squat; ip link add squatter type veth peer name eth0 netns squat");
        world.sh(&format!(
            "ip link set squatter master br-inside up; ip -n squat link set eth0 up; \
             ip -n squat address add {lent}/29 dev eth0"
        ));
        // The bridge learns of the carrier when the kernel gets round to it, which a busy one does late: until then, who
        // has the address cannot hear that it is looked for.
        world.soon("it is heard on the bridge", || {
            world.sh("bridge link show dev squatter").contains("state forwarding")
        });
        bare(world, "new");
        world.sh(&format!("ip netns exec new {UDHCPC}"));
        let got = addresses(world, "new");
        assert!(!got.contains(&lent), "{got}");
        let other = lease(world, "new.0");
        assert_ne!(other, lent);
        assert!(got.contains(&format!("inet {other}/29")), "{got}");
        assert!(world.log().contains("is in use elsewhere"), "{}", world.log());
        world.sh("ip netns exec new ping -c 1 -W 2 10.0.0.1");
    });
}
