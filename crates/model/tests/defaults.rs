//! What holds when nothing is written. Derived names and addresses are pinned: guests keep them for ever.

#![expect(clippy::unwrap_used, reason = "in tests; the lint's own exception does not reach their helpers")]

mod common;

use common::load_text;
use viaduct_model::{Config, GuestId, Mode, Policy, Security, Spoofing};

const TEXT: &str = r#"
[uplinks.wan]
interface = "eth0"
[vnets.blue]
id = "97"
[networks.nat]
mode = "nat"
uplink = "wan"
subnets = ["192.168.1.0/24", "2001:db8:1::/64"]
[networks.routed]
mode = "routed"
uplink = "wan"
pool = ["198.51.100.0/24"]
[networks.bridged]
mode = "bridged"
uplink = "wan"
vlan = 7
[networks.isolated-with-a-long-name]
mode = "isolated"
[networks.vnet]
mode = "vnet"
vnet = "blue"
subnets = ["10.0.0.0/24"]
[guests.web]
[[guests.web.nics]]
network = "nat"
addresses = ["192.168.1.5", "2001:db8:1::5/64"]
[[guests.web.nics]]
network = "routed"
addresses = ["198.51.100.0", "198.51.100.255/32"]
[[guests.web.nics]]
network = "bridged"
[guests.a-guest-with-a-long-name]
[[guests.a-guest-with-a-long-name.nics]]
network = "vnet"
addresses = ["10.0.0.1"]
[guests.numbered]
id = 70000
[[guests.numbered.nics]]
network = "bridged"
"#;

fn config() -> Config {
    load_text(TEXT).unwrap().config
}

#[test]
fn policies_follow_the_mode() {
    use Policy::{Allow, Deny};
    let config = config();
    for (network, inbound, between_guests, to_host) in [
        ("nat", Deny, Deny, Deny),
        ("routed", Allow, Deny, Deny),
        ("bridged", Allow, Allow, Allow),
        ("isolated-with-a-long-name", Deny, Allow, Deny),
        ("vnet", Allow, Allow, Deny),
    ] {
        let n = &config.networks[network];
        assert_eq!((n.inbound, n.between_guests, n.to_host), (inbound, between_guests, to_host), "{network}");
        assert!(!n.dhcp && !n.dns && n.mtu.is_none(), "{network}");
    }
    assert_eq!(config.host, "host");
    assert_eq!((config.vnets["blue"].security, config.vnets["blue"].cipher), (Security::Conf, None));
    assert_eq!(config.guests["web"].nics[0].spoofing, Spoofing::None);
    assert_eq!((&config.guests["web"].allow_in, &config.guests["web"].allow_out), (&None, &None));
}

#[test]
fn the_gateway_is_the_first_address_except_on_vnets() {
    let config = config();
    let Mode::Nat { subnets, .. } = &config.networks["nat"].mode else { panic!() };
    let gateways: Vec<String> = subnets.iter().map(|subnet| subnet.gateway.to_string()).collect();
    assert_eq!(gateways, ["192.168.1.1", "2001:db8:1::1"]);
    let Mode::Vnet { gateways, .. } = &config.networks["vnet"].mode else { panic!() };
    assert!(gateways.is_empty());
}

#[test]
fn addresses_get_the_prefix_length_of_their_network() {
    let config = config();
    let addresses = |index: usize| -> Vec<String> {
        config.guests["web"].nics[index].addresses.iter().map(ToString::to_string).collect()
    };
    assert_eq!(addresses(0), ["192.168.1.5/24", "2001:db8:1::5/64"]);
    assert_eq!(addresses(1), ["198.51.100.0/32", "198.51.100.255/32"]);
}

#[test]
fn derived_names_and_addresses_never_change() {
    let config = config();
    let nics: Vec<String> =
        config.nics().map(|(id, nic)| format!("{id}: {} in {} {}", nic.device, nic.name, nic.mac)).collect();
    assert_eq!(
        nics,
        [
            "a-guest-with-a-long-name.0: v-a-guerwyof2.0 in eth0 02:00:00:77:64:00",
            "numbered.0: veth70000.0 in eth0 02:00:07:11:70:00",
            "web.0: v-web.0 in eth0 02:00:00:e9:3a:00",
            "web.1: v-web.1 in eth1 02:00:00:e9:3a:01",
            "web.2: v-web.2 in eth2 02:00:07:e9:3a:02",
        ]
    );
    let bridges: Vec<String> = config
        .networks
        .values()
        .filter_map(|network| match &network.mode {
            Mode::Nat { bridge, .. } | Mode::Bridged { bridge, .. } | Mode::Isolated { bridge, .. } => {
                Some(bridge.to_string())
            }
            Mode::Routed { .. } | Mode::Vnet { .. } => None,
        })
        .collect();
    assert_eq!(bridges, ["br-bridged", "br-isolatupojxv", "br-nat"]);
    assert_eq!(config.vnets["blue"].bridge.as_str(), "br-blue");
    assert_eq!(config.guests["numbered"].id, GuestId::Given(70_000));
}

#[test]
fn beacons_have_the_groups_that_are_written() {
    let beacons = |more: &str| {
        let config =
            load_text(&format!("{TEXT}[discovery]\ninterfaces = [\"eth0\"]\n{more}")).unwrap().config;
        let discovery = config.discovery.unwrap();
        let groups: Vec<String> = discovery.groups.iter().map(ToString::to_string).collect();
        (groups.join(" "), discovery.port)
    };
    assert_eq!(beacons(""), ("224.10.0.1 ff12::e00a:1".to_owned(), 1798));
    let written = "groups = [\"239.9.8.7\", \"ff12::9:8:7\"]\nport = 4711\n";
    assert_eq!(beacons(written), ("239.9.8.7 ff12::9:8:7".to_owned(), 4711));
    assert_eq!(beacons("groups = [\"239.9.8.7\"]\n"), ("239.9.8.7".to_owned(), 1798));
}
