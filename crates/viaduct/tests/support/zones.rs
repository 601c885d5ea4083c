//! Several stacks on one host, with a guest each.

use super::{CONFIG, World};

/// Two stacks with the same prefixes, each with a way out of its own, and a network of the host's.
pub(crate) const ZONES: &str = r#"
[host]
name = "fort"

[uplinks.wan]
interface = "eth0"
[uplinks.red]
interface = "out"
namespace = "red"
[uplinks.blue]
interface = "out"
namespace = "blue"

[[namespaces.red.interfaces]]
name = "out"
type = "macvlan"
parent = "wan"
addresses = ["203.0.113.10/24", "2001:db8:28::10/64"]
gateways = ["203.0.113.1", "2001:db8:28::1"]
[[namespaces.blue.interfaces]]
name = "out"
type = "macvlan"
parent = "wan"
addresses = ["203.0.113.11/24", "2001:db8:28::11/64"]
gateways = ["203.0.113.1", "2001:db8:28::1"]

[networks.red]
namespace = "red"
mode = "nat"
uplink = "red"
subnets = ["10.0.0.0/24", "fd00::/64"]
dhcp = true
dns = true
[networks.blue]
namespace = "blue"
mode = "nat"
uplink = "blue"
subnets = ["10.0.0.0/24", "fd00::/64"]
dhcp = true
[networks.lan]
mode = "nat"
uplink = "wan"
subnets = ["10.0.0.0/24", "fd00::/64"]

[guests.one]
publish = ["5000:5000/udp"]
[[guests.one.nics]]
network = "red"
addresses = ["10.0.0.5", "fd00::5"]
[guests.two]
[[guests.two.nics]]
network = "blue"
addresses = ["10.0.0.5", "fd00::5"]
[guests.three]
[[guests.three.nics]]
network = "lan"
addresses = ["10.0.0.5", "fd00::5"]
[guests.lent]
[[guests.lent.nics]]
network = "red"
"#;

pub(crate) const GUESTS: [&str; 3] = ["one", "two", "three"];

pub(crate) fn made(world: &World) {
    world.connect_outside();
    world.write(CONFIG, ZONES);
    world.good("apply");
    GUESTS.iter().for_each(|guest| world.attach(guest));
    world.settled();
}

/// Each guest gets out by its own stack, in both families.
#[track_caller]
pub(crate) fn all_get_out(world: &World) {
    for guest in GUESTS {
        for outside in ["203.0.113.1", "2001:db8:28::1"] {
            world.soon(&format!("{guest} reaches {outside}"), || world.echoes(guest, outside));
        }
    }
}
