//! What the examples become, as text: the plan on a fresh host with every guest attached, and the filter.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{attach_all, config, converge, host, look};
use viaduct_plan::{Attachments, OPEN_GROUP, sim::Host};

fn golden(name: &str, text: &str, mut host: Host) {
    let config = config(text);
    let attachments = attach_all(&mut host, &config);
    let (_, desired, notices, plan) = look(&mut host, &config, &attachments);
    let notices: String = notices.iter().map(|n| format!("{n}\n")).collect();
    insta::assert_snapshot!(format!("{name}.plan"), format!("{notices}{plan}"));
    insta::assert_snapshot!(format!("{name}.nft"), desired.nft);
}

#[test]
fn openvz() {
    golden("openvz", include_str!("../../../examples/openvz/viaduct.toml"), host());
}

#[test]
fn hetzner() {
    let mut bare = Host::default();
    bare.hardware(&"eth0".parse().unwrap(), Some("52:54:00:12:34:56".parse().unwrap()));
    golden("hetzner", include_str!("../../../examples/hetzner/viaduct.toml"), bare);
}

#[test]
fn dedicated_xen() {
    golden("dedicated-xen", include_str!("../../../examples/dedicated-xen/viaduct.toml"), host());
}

/// A vnet goes on outside by an interface, another one by a VLAN of the uplink.
const OUTSIDE: &str = r#"
[host]
name = "iron"

[uplinks.wan]
interface = "eth0"

[peers.b]
endpoint = "192.0.2.2:1798"
key = "bHcXiYj4AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

[vnets.red]
id = "97"
port = "eth1"

[vnets.blue]
id = "98"
peers = ["b"]
port = "wan"
vlan = 20

[networks.blue]
mode = "vnet"
vnet = "blue"
subnets = ["10.98.0.0/24"]
"#;

#[test]
fn vnets_that_go_on_outside() {
    let mut host = host();
    host.hardware(&"eth1".parse().unwrap(), Some("52:54:00:12:34:58".parse().unwrap()));
    golden("vnet-ports", OUTSIDE, host);
}

#[test]
fn a_vnet_that_nothing_protects() {
    let text = r#"
[host]
name = "iron"

[uplinks.wan]
interface = "eth0"

[peers.b]
endpoint = "192.0.2.2:1798"
key = "bHcXiYj4AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

[vnets.red]
id = "97"
security = "none"
peers = ["b"]

[networks.red]
mode = "vnet"
vnet = "red"
subnets = ["10.97.0.0/24", "fd97::/64"]

[guests.g1]
[[guests.g1.nics]]
network = "red"
addresses = ["10.97.0.1", "fd97::1"]
"#;
    golden("vnet-plain", text, host());
}

#[test]
fn a_port_of_a_vnet_is_kept_and_given_back() {
    let mut host = host();
    let [eth1, bridge, vlan]: [viaduct_types::IfName; 3] =
        ["eth1", "br-red", "eth0.20"].map(|name| name.parse().unwrap());
    host.hardware(&eth1, Some("52:54:00:12:34:58".parse().unwrap()));
    let before = host.state.links[&eth1].clone();
    let none = Attachments::new();
    let with = config(OUTSIDE);
    converge(&mut host, &with, &none);
    assert_eq!(host.state.links[&eth1].master.as_ref(), Some(&bridge));
    // Neither the bridge nor what it says to guests is longer than what gets through; the tap takes what comes from outside.
    let mtu = |host: &Host, name: &str| host.state.links[name].mtu;
    assert_eq!([mtu(&host, "br-red"), mtu(&host, "vnet-red"), mtu(&host, "br-blue")], [1432, 65_521, 1432]);

    // What others do with it is put right, into whose bridge they may have put it.
    for master in [None, Some("theirs".parse().unwrap())] {
        host.state.links.get_mut(&eth1).unwrap().master = master;
        host.state.links.get_mut(&vlan).unwrap().master = None;
        converge(&mut host, &with, &none);
        assert_eq!(host.state.links[&eth1].master.as_ref(), Some(&bridge));
        assert!(host.state.links[&vlan].master.is_some());
    }

    // Whether frames go through it is for who carries the vnet to say; any other group is none of anybody's.
    let group = |host: &mut Host, group| {
        for name in [&eth1, &vlan] {
            host.state.links.get_mut(name).unwrap().group = group;
        }
        converge(host, &with, &none);
        [&eth1, &vlan].map(|name| host.state.links[name].group)
    };
    assert_eq!(group(&mut host, 7), [0, 0]);
    assert_eq!(group(&mut host, OPEN_GROUP), [OPEN_GROUP, OPEN_GROUP]);

    // It may become something else, also at once.
    for without in [
        OUTSIDE.replace("port = \"eth1\"", ""),
        OUTSIDE.replace("port = \"eth1\"", "").replace("\"eth0\"", "\"eth1\""),
        "[host]\nname = \"iron\"\n[uplinks.wan]\ninterface = \"eth0\"\n".to_owned(),
    ] {
        let without = config(&without);
        converge(&mut host, &without, &none);
        let after = &host.state.links[&eth1];
        assert_eq!((&after.master, &after.alias, after.group), (&None, &before.alias, before.group));
        converge(&mut host, &with, &none);
        assert_eq!(host.state.links[&eth1].master.as_ref(), Some(&bridge));
    }
}
