//! A guest on a routed link that somebody configured by hand finds the host by any gateway, in both families.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use support::{CONFIG, World, host};

const FILE: &str = r#"
[host]
name = "ve0"

[uplinks.wan]
interface = "eth0"

[networks.public]
mode = "routed"
uplink = "wan"
pool = ["198.51.100.112/29", "2001:db8:48:1::/64"]

[guests.web]
[[guests.web.nics]]
network = "public"
mac = "02:00:00:28:01:12"
addresses = ["198.51.100.112", "2001:db8:48:1::112"]
"#;

fn goes_out_by(world: &World, gateway: &str, to: &str) -> bool {
    let family = if gateway.contains(':') { "-6" } else { "-4" };
    world.sh(&format!(
        "ip -n web {family} route flush default; ip -n web neighbour flush all; \
         ip -n web {family} route replace default via {gateway} dev eth0 onlink"
    ));
    let ping = world.sh(&format!("ip netns exec web ping -c 1 -W 2 {to} || true"));
    ping.contains("1 received")
}

#[test]
fn whatever_gateway_a_guest_was_told() {
    host(|world| {
        world.own_places();
        world.write(CONFIG, FILE);
        world.good("apply");
        let daemon = world.daemon();
        // A device as hypervisors make them: what is inside is its owner's, who knows its addresses and nothing of
        // the link.
        world.sh(
            "ip netns add web && ip link add vif1.0 type veth peer eth0 netns web address 02:00:00:28:01:12 && \
             ip -n web link set eth0 up && ip -n web address add 198.51.100.112/32 dev eth0 && \
             ip -n web address add 2001:db8:48:1::112/128 dev eth0 nodad",
        );
        world.good("attach web --device vif1.0");
        for (gateway, to) in [
            ("198.51.100.1", "203.0.113.2"),
            ("10.9.8.7", "203.0.113.2"),
            ("2001:db8:48:1::1", "2001:db8:28::2"),
            ("2001:db8:ffff::abcd", "2001:db8:28::2"),
            ("fe80::1", "2001:db8:28::2"),
            ("fe80::99", "2001:db8:28::2"),
        ] {
            world.soon(&format!("{gateway} leads to {to}"), || goes_out_by(world, gateway, to));
        }
        // A further address is free for it: nobody else has it on its link.
        world.sh("ip -n web address add 2001:db8:48:1::113/128 dev eth0");
        world.soon("the further address is its own", || {
            let address = world.sh("ip -n web -6 address show dev eth0 to 2001:db8:48:1::113");
            assert!(address.contains("::113/128") && !address.contains("dadfailed"), "{address}");
            !address.contains("tentative")
        });
        world.sh("ip -n web address del 2001:db8:48:1::113/128 dev eth0");
        // What the kernel answers for goes on when the daemon, and whoever answers for it, are away.
        daemon.kill();
        assert!(goes_out_by(world, "fe80::1", "2001:db8:28::2"));
        world.soon("nobody answers for the others", || {
            !goes_out_by(world, "2001:db8:48:1::1", "2001:db8:28::2")
        });
    });
}
