//! What is said when configuration and host do not fit together: with the line of the file, and what to do.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{attach_all, config, host, look};
use viaduct_model::Config;
use viaduct_plan::{Features, Kind, Route, RouteKind, Severity, sim::Host};

const BASE: &str = r#"[host]
name = "h"
[uplinks.wan]
interface = "eth0"
[networks.inside]
mode = "nat"
uplink = "wan"
subnets = ["192.168.1.0/24"]
[networks.public]
mode = "routed"
uplink = "wan"
pool = ["198.51.100.0/28"]
[guests.web]
publish = ["203.0.113.2:80:80"]
nics = [{ network = "inside", addresses = ["192.168.1.10"] }]
[guests.own]
nics = [{ network = "public", addresses = ["198.51.100.3"] }]
"#;

/// Every notice as it is shown, sorted as they are shown.
fn notices(host: &mut Host, config: &Config) -> Vec<String> {
    let attachments = attach_all(host, config);
    look(host, config, &attachments).2.iter().map(ToString::to_string).collect()
}

fn assert_says(notices: &[String], words: &[&str]) {
    assert!(notices.iter().any(|n| words.iter().all(|w| n.contains(w))), "{words:?} not in {notices:#?}");
}

#[test]
fn nothing_when_all_fits() {
    assert_eq!(notices(&mut host(), &config(BASE)), Vec::<String>::new());
}

#[test]
fn a_missing_uplink_is_named_with_what_there_is() {
    let text = BASE.replace("\"eth0\"", "\"eht0\"");
    let said = notices(&mut host(), &config(&text));
    assert_says(&said, &["error: viaduct.toml:3:", "no device eht0", "it has card1, eth0, theirs"]);
}

#[test]
fn guests_whose_uplink_is_not_the_default_routes_are_warned_of() {
    let said = notices(&mut host(), &config(&BASE.replace("\"eth0\"", "\"card1\"")));
    assert_says(&said, &["warning: viaduct.toml:5:", "inside", "card1 only", "IPv4", "out of eth0"]);
    assert_says(&said, &["warning: viaduct.toml:9:", "public"]);
    // It may have more than one.
    let both = BASE.replace("\"eth0\"", "\"card1\"\ngateways = [\"192.0.2.1\"]");
    assert!(!notices(&mut host(), &config(&both)).iter().any(|notice| notice.contains("only")));
}

#[test]
fn missing_kernel_features_are_named_with_the_line_that_needs_them() {
    let none = Features {
        nft_egress: false,
        nft_bridge: false,
        nft_arp: false,
        nft_limit: false,
        ct_labels: false,
        bridge: false,
        veth: false,
        tun: false,
        vlan: false,
        vxlan: false,
        macvlan: false,
        ipvlan: false,
    };
    let mut host = host();
    host.state.features = none;
    let said = notices(&mut host, &config(BASE));
    assert_says(&said, &["error: viaduct.toml:5:", "CONFIG_BRIDGE"]);
    assert_says(&said, &["error: viaduct.toml:5:", "CONFIG_NF_TABLES_BRIDGE"]);
    assert_says(&said, &["warning: viaduct.toml:9:", "CONFIG_NF_TABLES_ARP"]);
    assert_says(&said, &["warning: viaduct.toml:3:", "CONFIG_NETFILTER_EGRESS"]);
    assert_says(&said, &["error: viaduct.toml:15:", "CONFIG_VETH"]);
}

#[test]
fn a_vnet_that_nothing_protects_is_told_of_and_needs_vxlan() {
    let text = format!("{BASE}[vnets.blue]\nid = \"97\"\nsecurity = \"none\"\n");
    let mut host = host();
    // It needs no taps.
    host.state.features.tun = false;
    let said = notices(&mut host, &config(&text));
    assert_says(&said, &["warning: ", "vnet blue", "reads its frames", "write \"conf\""]);
    // Nobody's network lies on it, so that anything may be behind it.
    assert_says(&said, &["warning: ", "vnet blue", "in circles", "`learning = false`"]);
    let file_only = config(&format!("{text}learning = false\n"));
    assert!(!notices(&mut host, &file_only).iter().any(|line| line.contains("in circles")));
    assert!(!said.iter().any(|line| line.starts_with("error")), "{said:?}");
    host.state.features.vxlan = false;
    let said = notices(&mut host, &config(&text));
    assert_says(&said, &["error: ", "vnet blue", "CONFIG_VXLAN"]);
}

#[test]
fn a_subnet_that_the_host_reaches_otherwise_is_refused() {
    let mut host = host();
    host.hardware(&"eth1".parse().unwrap(), Some("52:54:00:00:00:01".parse().unwrap()));
    host.state.routes.insert(Route {
        destination: "192.168.0.0/16".parse().unwrap(),
        kind: RouteKind::Unicast,
        link: Some("eth1".parse().unwrap()),
        via: None,
        onlink: false,
        source: None,
        metric: 0,
        protocol: 2,
    });
    let said = notices(&mut host, &config(BASE));
    assert_says(&said, &["error: viaduct.toml:5:", "192.168.1.0/24 overlaps", "192.168.0.0/16"]);
    // In a vnet it is reached only where the host has an address.
    let vnet = |gateways: &str| {
        format!(
            "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n[vnets.red]\nid = \"97\"\n[networks.red]\nmode = \"vnet\"\n\
             vnet = \"red\"\nsubnets = [\"192.168.1.0/24\", \"10.97.0.0/24\"]\n{gateways}"
        )
    };
    for gateways in ["", "gateways = [\"10.97.0.1\"]\n"] {
        assert_eq!(notices(&mut host, &config(&vnet(gateways))), Vec::<String>::new());
    }
    let said = notices(&mut host, &config(&vnet("gateways = [\"10.97.0.1\", \"192.168.1.1\"]\n")));
    assert_says(&said, &["error: viaduct.toml:7:", "192.168.1.0/24 overlaps", "192.168.0.0/16"]);
}

#[test]
fn a_device_of_somebody_else_is_not_taken() {
    let mut host = host();
    host.hardware(&"br-inside".parse().unwrap(), None);
    host.state.links.get_mut("br-inside").unwrap().kind = Kind::Bridge;
    let said = notices(&mut host, &config(BASE));
    assert_says(&said, &["error: viaduct.toml:5:", "br-inside exists and is not Viaduct's", "`bridge`"]);
}

#[test]
fn an_address_that_the_host_lacks_is_told() {
    let elsewhere = BASE.replace("203.0.113.2:80:80", "192.0.2.9:80:80");
    let said = notices(&mut host(), &config(&elsewhere));
    assert_says(&said, &["warning: viaduct.toml:14:", "192.0.2.9 is not on this host", "routed here"]);
    let beside = BASE.replace("203.0.113.2:80:80", "203.0.113.9:80:80");
    let said = notices(&mut host(), &config(&beside));
    assert_says(&said, &["warning: viaduct.toml:14:", "203.0.113.9 is not on this host", "answered for"]);
}

#[test]
fn errors_come_before_warnings() {
    let text = BASE.replace("\"eth0\"", "\"eht0\"").replace("203.0.113.2:80:80", "192.0.2.9:80:80");
    let config = config(&text);
    let mut host = host();
    let attachments = attach_all(&mut host, &config);
    let severities: Vec<Severity> =
        look(&mut host, &config, &attachments).2.iter().map(|n| n.severity).collect();
    assert!(severities.is_sorted() && severities.len() > 1, "{severities:?}");
}

/// A guest on a VLAN of the uplink.
const VLAN: &str = r#"[host]
name = "h"
[uplinks.wan]
interface = "eth0"
[networks.lan]
mode = "bridged"
uplink = "wan"
vlan = 5
mtu = 1500
[guests.web]
nics = [{ network = "lan", addresses = ["10.5.0.5/24"] }]
"#;

#[test]
fn what_a_vlan_needs_is_told() {
    assert_eq!(notices(&mut host(), &config(VLAN)), Vec::<String>::new());
    let mut without = host();
    without.state.features.vlan = false;
    assert_says(&notices(&mut without, &config(VLAN)), &["error: viaduct.toml:5:", "802.1Q", "lan"]);
    let jumbo = config(&VLAN.replace("1500", "9000"));
    assert_says(&notices(&mut host(), &jumbo), &["error: viaduct.toml:5:", "9000", "1500 of eth0"]);
    // Somebody else's device has it: by its name, and by its number.
    for name in ["eth0.5", "other"] {
        let mut taken = host();
        let device = name.parse().unwrap();
        taken.hardware(&device, None);
        let parent = taken.state.links["eth0"].index;
        taken.state.links.get_mut(&device).unwrap().vlan = Some((parent, 5));
        assert_says(&notices(&mut taken, &config(VLAN)), &["error: viaduct.toml:5:", name, "not Viaduct's"]);
    }
}

#[test]
fn a_device_is_not_two_vnets_nor_a_vnet_s_and_a_network_s() {
    let mut config = config(&format!(
        "{BASE}[vnets.red]\nid = \"97\"\nsecurity = \"none\"\ninterface = \"if\"\n[vnets.blue]\nid = \"98\"\n"
    ));
    let mut said = |bridge: &str, interface: &str| {
        // As a command makes one, which no file knows.
        let blue = config.vnets.get_mut("blue").unwrap();
        (blue.bridge, blue.interface) = (bridge.parse().unwrap(), interface.parse().unwrap());
        let notices = look(&mut host(), &config, &Default::default()).2;
        let errors = notices.into_iter().filter(|notice| notice.severity == Severity::Error);
        errors.map(|notice| notice.text).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(said("br-blue", "vnet-blue"), "");
    assert!(
        said("br-inside", "vnet-blue").contains("br-inside is a device of network inside and of vnet blue")
    );
    for taken in ["if", "if-6"] {
        let text = said("br-blue", taken);
        assert!(text.contains(&format!("{taken} is a device of vnet blue and of vnet red")), "{text}");
    }
}

#[test]
fn a_port_of_a_vnet_is_there_and_free() {
    let text = |keys: &str| format!("{BASE}[vnets.red]\nid = \"97\"\n{keys}");
    let mut host = host();
    for (keys, words) in [
        ("port = \"eth7\"", &["vnet red", "no device eth7", "card1"][..]),
        // It has an address of the host's.
        ("port = \"card1\"", &["vnet red", "192.0.2.2/24 on card1", "remove the address", "vlan = 20"]),
    ] {
        assert_says(&notices(&mut host, &config(&text(keys))), words);
    }
    // In a file that is refused when it is read, but bridges of vnets that commands made are not known then.
    let mut ours = config(&text("port = \"card2\""));
    let port = ours.vnets.values_mut().find_map(|vnet| vnet.port.as_mut()).unwrap();
    port.interface = "br-inside".parse().unwrap();
    assert_says(&notices(&mut host, &ours), &["vnet red", "no device br-inside"]);
    let card = "card2".parse().unwrap();
    host.hardware(&card, Some("52:54:00:12:34:58".parse().unwrap()));
    let free = config(&text("port = \"card2\""));
    assert_eq!(notices(&mut host, &free), Vec::<String>::new());
    host.state.links.get_mut(&card).unwrap().master = Some("theirs".parse().unwrap());
    assert_says(&notices(&mut host, &free), &["vnet red", "card2 is a port of theirs", "nomaster"]);
    // A VLAN that the host itself has: of an uplink nobody's MAC leaves by it, and of another interface it is as any.
    host.state.links.get_mut(&card).unwrap().master = None;
    let of =
        |host: &Host, device: &str| host.state.links[&device.parse::<viaduct_types::IfName>().unwrap()].index;
    let (eth0, card1) = (of(&host, "eth0"), of(&host, "card1"));
    let within = config(&text("port = \"card2\"\nvlan = 7"));
    for file in [&free, &within] {
        host.state.links.get_mut(&card).unwrap().vlan = Some((eth0, 5));
        assert_says(
            &notices(&mut host, file),
            &["error", "vnet red", "VLAN 5 of eth0", "port = \"wan\"", "vlan = 5"],
        );
        host.state.links.get_mut(&card).unwrap().vlan = Some((card1, 5));
        assert_eq!(notices(&mut host, file), Vec::<String>::new());
    }
    let tagged = config(&text("port = \"card1\"\nvlan = 20"));
    assert_eq!(notices(&mut host, &tagged), Vec::<String>::new());
    host.state.features.vlan = false;
    assert_says(&notices(&mut host, &tagged), &["vnet red", "CONFIG_VLAN_8021Q"]);
    host.state.features.nft_limit = false;
    assert_says(&notices(&mut host, &tagged), &["warning", "vnet red", "CONFIG_NFT_LIMIT"]);
}
