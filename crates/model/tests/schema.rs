//! The JSON Schema and the loader agree on shape: what the one refuses, the other refuses, too.

#![expect(clippy::unwrap_used, reason = "in tests; the lint's own exception does not reach their helpers")]

mod common;

use common::{EXAMPLES, load_text};
use jsonschema::Validator;
use serde_json::Value as Json;

fn validator() -> Validator {
    jsonschema::draft202012::new(&viaduct_model::schema()).unwrap()
}

fn json(text: &str) -> Json {
    serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap()
}

#[test]
fn the_schema_is_a_schema() {
    assert!(jsonschema::draft202012::meta::is_valid(&viaduct_model::schema()));
}

#[test]
fn the_examples_have_the_right_shape() {
    let validator = validator();
    for (name, text) in EXAMPLES {
        let errors: Vec<_> =
            validator.iter_errors(&json(text)).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{name}: {errors:#?}");
    }
}

#[test]
fn every_key_has_a_description() {
    fn walk(path: &str, schema: &Json, bare: &mut Vec<String>) {
        for (key, property) in schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
            let path = format!("{path}.{key}");
            if property.get("description").and_then(Json::as_str).is_none_or(str::is_empty) {
                bare.push(path.clone());
            }
            walk(&path, property, bare);
            for inner in ["items", "additionalProperties"] {
                walk(&path, property.get(inner).unwrap_or(&Json::Null), bare);
            }
        }
    }
    let mut bare = Vec::new();
    walk("", &viaduct_model::schema(), &mut bare);
    assert_eq!(bare, [""; 0]);
}

/// Refused by both.
const WRONG: &[&str] = &[
    "colour = 1",
    "[host]\nname = 5",
    "[host]\nname = \"a b\"",
    "[uplinks.wan]",
    "[uplinks.wan]\ninterface = \"a-name-that-is-too-long\"",
    "[uplinks.wan]\ninterface = \"all\"",
    "[uplinks.wan]\ninterface = \"a/b\"",
    "[uplinks.\"a b\"]\ninterface = \"eth0\"",
    "[uplinks.wan]\ninterface = \"eth0\"\nmtu = 67",
    "[uplinks.wan]\ninterface = \"eth0\"\nmtu = \"1500\"",
    "[uplinks.wan]\ninterface = \"eth0\"\naddresses = [\"192.0.2.1\"]",
    "[uplinks.wan]\ninterface = \"eth0\"\naddresses = [\"192.0.2.1/33\"]",
    "[uplinks.wan]\ninterface = \"eth0\"\naddresses = \"192.0.2.1/24\"",
    "[uplinks.wan]\ninterface = \"eth0\"\ngateways = [\"192.0.2.256\"]",
    "[uplinks.wan]\ninterface = \"eth0\"\ngateways = [\"2001:db8\"]",
    "[networks.x]",
    "[networks.x]\nmode = \"rooted\"",
    "[networks.x]\nmode = \"nat\"",
    "[networks.x]\nmode = \"routed\"\nuplink = \"wan\"\n[uplinks.wan]\ninterface = \"eth0\"",
    "[networks.x]\nmode = \"isolated\"\npool = []",
    "[networks.x]\nmode = \"isolated\"\nvlan = 2",
    "[networks.x]\nmode = \"isolated\"\nsubnets = [\"10.0.0.0\"]",
    "[networks.x]\nmode = \"isolated\"\ndhcp = \"yes\"",
    "[networks.x]\nmode = \"isolated\"\ninbound = \"maybe\"",
    "[networks.x]\nmode = \"isolated\"\ndomain = \"-x\"",
    "[networks.x]\nmode = \"bridged\"\nuplink = \"wan\"\nvlan = 4095\n[uplinks.wan]\ninterface = \"eth0\"",
    "[networks.x]\nmode = \"vnet\"",
    "[networks.x]\nmode = \"isolated\"\ndhcp = true\n[networks.x.boot.files]\nefi64 = \"http://192.0.2.1/a\"",
    "[networks.x]\nmode = \"isolated\"\ndhcp = true\n[networks.x.boot]\nserver = \"boot.example\"",
    "[networks.x]\nmode = \"isolated\"\ndhcp = true\n[networks.x.boot.files]\nipxe = \"http://192.0.2.1/a b\"",
    "[guests.x]\nid = 0",
    "[guests.x]\nid = 1000000000",
    "[guests.x]\npublish = [\"80\"]",
    "[guests.x]\npublish = [\"65536:80\"]",
    "[guests.x]\npublish = [\"0:80\"]",
    "[guests.x]\npublish = [\"2001:db8::1:80:80\"]",
    "[guests.x]\npublish = [\"80:80/icmp\"]",
    "[guests.x]\npublish = \"80:80\"",
    "[guests.x]\nallow-in = [{ ports = [\"80\"] }]",
    "[guests.x]\nallow-in = [{ to = \"any\" }]",
    "[guests.x]\nallow-in = [{ from = \"everybody\" }]",
    "[guests.x]\nallow-in = [{ from = \"guest:-\" }]",
    "[guests.x]\nallow-out = [{ to = \"any\", ports = [\"http\"] }]",
    "[guests.x]\nallow-out = [{ to = \"any\", ports = [\"80/gre\"] }]",
    "[guests.x]\nallow-out = [{ to = \"any\", protocols = [\"256\"] }]",
    "[guests.x]\nallow-out = [{ to = \"any\", icmp = 1 }]",
    "[guests.x.hooks]\nprepare = \"log\"",
    "[guests.x.hooks]\ntimeout = 0",
    "[guests.x.hooks]\ntimeout = \"1 s\"",
    "[guests.x.hooks]\nrunning = \"/bin/true\"",
    "[[guests.x.nics]]",
    "[guests.x.nics]\nnetwork = \"lan\"",
    "[[guests.x.nics]]\nnetwork = \"x\"\nmac = \"00-16-3e-00-00-01\"\n[networks.x]\nmode = \"isolated\"",
    "[[guests.x.nics]]\nnetwork = \"x\"\nspoofing = \"all\"\n[networks.x]\nmode = \"isolated\"",
    "[[guests.x.nics]]\nnetwork = \"x\"\ndevice = \"a b\"\n[networks.x]\nmode = \"isolated\"",
    "[[guests.x.nics]]\nnetwork = \"x\"\nuplink_mac = true\n[networks.x]\nmode = \"isolated\"",
    "[[namespaces.x.interfaces]]\nname = \"x0\"\ntype = \"vlan\"\nparent = \"eth0\"",
    "[[namespaces.x.interfaces]]\nname = \"x0\"\ntype = \"macvlan\"\nparent = \"eth0\"\nvlan = 2",
    "[[namespaces.x.interfaces]]\nname = \"x0\"\ntype = \"veth\"\nparent = \"eth0\"",
    "[[namespaces.x.interfaces]]\nname = \"x0\"\ntype = \"macvlan\"\nparent = \"a b\"",
    "[[namespaces.x.interfaces]]\nname = \"x0\"\ntype = \"macvlan\"\nparent = \"eth0\"\naddresses = [\"10.0.0.5\"]",
    "[[namespaces.x.interfaces]]\nname = \"x0\"\ntype = \"macvlan\"",
    "[[namespaces.x.interfaces]]\nname = \"x0\"\ntype = \"veth\"\nnetwork = \"a\"\nbridge = \"b\"\n[networks.a]\nmode = \"isolated\"",
    "[[namespaces.x.interfaces]]\nname = \"x0\"\ntype = \"device\"",
    "[[namespaces.x.interfaces]]\nname = \"x0\"\ntype = \"device\"\ndevice = \"eth1\"\nspoofing = \"ip\"",
    "[namespaces.x]\nrules = [\"from 10.0.0.0/8\"]",
    "[namespaces.x]\nrules = [\"from 10.0.0.0/8 table local\"]",
    "[namespaces.x]\nrules = \"table 7\"",
    "[namespaces.x.sysctls]\n\"kernel.panic\" = 1",
    "[namespaces.x.sysctls]\n\"net.ipv4.ip_forward\" = true",
    "[namespaces.x.sysctls]\n\"net.ipv4.ip_forward\" = \" \"",
    "[namespaces.x.hooks]\nprepare = \"log\"",
    "[peers.x]",
    "[peers.x]\nkey = \"a b\"",
    "[peers.x]\nkey = \"\"",
    "[peers.x]\nkey = \"k\"\nendpoint = \"10.0.0.1\"",
    "[peers.x]\nkey = \"k\"\nendpoint = \"2001:db8::1:1798\"",
    "[peers.x]\nkey = \"k\"\nendpoint = \"host:0\"",
    "[vnets.x]",
    "[vnets.x]\nid = \"12345\"",
    "[vnets.x]\nid = 97",
    "[vnets.x]\nid = \"97\"\nsecurity = \"strong\"",
    "[vnets.x]\nid = \"97\"\ncipher = \"rc4\"",
];

#[test]
fn wrong_shapes_are_refused_by_both() {
    let validator = validator();
    for text in WRONG {
        assert!(load_text(text).is_err(), "load accepts:\n{text}");
        assert!(!validator.is_valid(&json(text)), "the schema accepts:\n{text}");
    }
}

/// Unusual, but right.
const RIGHT: &[&str] = &[
    "",
    "[uplinks.wan]\ninterface = \"eth0.2\"\naddresses = [\"2001:db8::1/64\", \"64:ff9b::192.0.2.1/96\"]\ngateways = [\"fe80::1\"]",
    "[networks.x]\nmode = \"isolated\"\nsubnets = [\"10.0.0.0/31\", \"2001:db8::/127\"]\ndomain = \"lan.example.\"",
    "[networks.x]\nmode = \"isolated\"\nsubnets = [\"10.0.0.0/24\"]\n[[guests.a.nics]]\nnetwork = \"x\"\naddresses = [\"10.0.0.2\"]\n[guests.a]\npublish = [\"080:80\", \"8000-8010:9000-9010/sctp\"]\nallow-out = []\nallow-in = [{ from = [\"any\", \"2001:db8::/32\", \"guest:a\", \"network:x\"], ports = [\"icmp\", \"53\", \"1-65535/udp\"], protocols = [\"47\", \"esp\"], icmp = true }]",
    "[networks.x]\nmode = \"isolated\"\ndhcp = true\n[networks.x.boot]\nserver = \"fd00::1\"\nparameters = [\"a\"]\nfiles = { bios = \"pxelinux.0\", http-efi-arm64 = \"HTTP://a.example:80/b\", other = [\"nfs://u@192.0.2.1/a?b\", \"tftp://[fe80::1]:69/a\"] }",
    "[guests.a]\nnamespace = \"n\"\n[namespaces.n]\n[guests.a.hooks]\ntimeout = \"2m\"\nprepare = \"/bin/true\"",
    "[[namespaces.x.interfaces]]\nname = \"x0\"\ntype = \"veth\"\nnetwork = \"a\"\nspoofing = \"ip\"\naddresses = [\"10.0.0.2\"]\n[networks.a]\nmode = \"isolated\"\nsubnets = [\"10.0.0.0/24\"]",
    "[[namespaces.x.interfaces]]\nname = \"x0\"\ntype = \"veth\"\nbridge = \"br0\"\n[[namespaces.x.interfaces]]\nname = \"x1\"\ntype = \"device\"\ndevice = \"eth1\"\naddresses = [\"10.0.0.2/24\"]",
    "[namespaces.x]\nrules = [\"from 10.0.0.0/8 to 10.1.2.3 table 4294967295 priority 32765\", \"to ::/0 table main\", \"table 7\", \"from all table 8\"]\nsysctls = { \"net.ipv4.ip_forward\" = 1, \"net/ipv4/conf/eth0.2/rp_filter\" = \"2\", \"net.ipv4.tcp_rmem\" = \"1 2 3\" }\n[namespaces.x.hooks]\nprepare = \"/bin/true\"",
    "[[namespaces.x.interfaces]]\nname = \"x0\"\ntype = \"macvlan\"\nparent = \"eth0\"\nroutes = [\"10.0.0.0/8\", \"0.0.0.0/0 via 10.0.0.1 table 100\", \"10.1.0.0/16 table main\", \"default via 10.0.0.2\", \"default via 2001:db8::1 table 100\"]",
    "[peers.a]\nkey = \"k\"\nendpoint = [\"[2001:db8::1]:1798\", \"a.example.:1798\", \"10.0.0.1:1\"]",
];

#[test]
fn right_shapes_are_accepted_by_both() {
    let validator = validator();
    for text in RIGHT {
        if let Err(diagnostics) = load_text(text) {
            panic!("load refuses:\n{text}\n{diagnostics}");
        }
        assert!(validator.is_valid(&json(text)), "the schema refuses:\n{text}");
    }
}
