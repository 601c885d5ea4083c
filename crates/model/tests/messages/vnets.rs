//! What is said about vnets and the hosts in them.

use std::collections::BTreeMap;

use viaduct_model::{Beside, MadeVnet, Security, load_beside};

use super::{
    BASE,
    common::{said, source},
    told, told_bare,
};

#[test]
fn keys_of_peers() {
    assert_told!(told_bare(&[
        "[peers.b]\nkey = \"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA\"\n",
        "[peers.b]\nkey = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"\n",
        "[peers.b]\nkey = \"REPLACED-BY-b-viaduct-identity\"\n",
        "[peers.b]\nkey = \"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\"\n",
    ]));
}

#[test]
fn ports_of_vnets() {
    let red = |keys: &str| format!("[vnets.red]\nid = \"97\"\n{keys}");
    let blue = |keys: &str| format!("[vnets.blue]\nid = \"98\"\n{keys}");
    assert_eq!(said(&format!("{BASE}{}", red("port = \"eth1\"\n"))), "nothing is wrong\n");
    assert_eq!(said(&format!("{BASE}{}", red("port = \"wan\"\nvlan = 20\n"))), "nothing is wrong\n");
    let outer = format!("{}{}", red("port = \"eth1.20\"\n"), blue("port = \"eth1.20\"\nvlan = 5\n"));
    assert_eq!(said(&format!("{BASE}{outer}")), "nothing is wrong\n");
    // What has the name of a device here, but only where it cannot meet it.
    let second = format!("{}{}", red("port = \"vnet-blue-6\"\n"), blue(""));
    assert_eq!(said(&format!("{BASE}{second}")), "nothing is wrong\n");
    let cases = [
        red("port = \"wan\"\n"),
        red("port = \"eth0\"\nlearning = false\n"),
        red("vlan = 20\n"),
        red("port = \"eth1\"\nprotocol = \"802.1ad\"\n"),
        format!("{}{}", red("port = \"eth1\"\n"), blue("port = \"eth1\"\n")),
        format!("{}{}", red("port = \"eth1\"\nvlan = 20\n"), blue("port = \"eth1\"\nvlan = 20\n")),
        format!(
            "{}[networks.x]\nmode = \"bridged\"\nuplink = \"wan\"\nvlan = 20\n",
            red("port = \"wan\"\nvlan = 20\n")
        ),
        format!(
            "{}[[namespaces.n.interfaces]]\nname = \"eth1\"\ntype = \"device\"\ndevice = \"eth1\"\n",
            red("port = \"eth1\"\n")
        ),
        red("bridge = \"br0\"\nport = \"br0\"\n"),
        red("port = \"vnet-red\"\nvlan = 5\n"),
        red("port = \"vnet-red-6\"\nsecurity = \"none\"\n"),
        // Devices of others in the files, before the vnet and after it.
        format!("{}{}", blue("port = \"vnet-red\"\n"), red("port = \"br-blue\"\n")),
        format!("{}{}", red("port = \"lead-6\"\n"), blue("security = \"none\"\ninterface = \"lead\"\n")),
        red("port = \"br-wire\"\nvlan = 20\n"),
        format!("{}[[guests.web.nics]]\nnetwork = \"lan\"\n", red("port = \"v-web.0\"\n")),
        format!(
            "{}[[namespaces.n.interfaces]]\nname = \"x0\"\ntype = \"veth\"\nbridge = \"other\"\ndevice = \"to-n\"\n",
            red("port = \"to-n\"\n")
        ),
        format!("{}{}", red("port = \"eth1\"\nvlan = 20\n"), blue("port = \"eth1.20\"\n")),
        format!("{}{}", red("port = \"wan\"\nvlan = 20\n"), blue("port = \"eth0.20\"\nvlan = 5\n")),
    ];
    assert_told!(told(&cases.iter().map(String::as_str).collect::<Vec<_>>()));
}

/// A host on which commands made a vnet, with protection, and one without.
#[test]
fn devices_of_vnets_that_commands_made() {
    let made = |id: &str, security| MadeVnet {
        id: id.parse().unwrap(),
        bridge: format!("vnet{id}").parse().unwrap(),
        interface: format!("vnif{id}").parse().unwrap(),
        security,
    };
    let vnets = BTreeMap::from([
        ("vnet8".parse().unwrap(), made("8", Security::Conf)),
        ("vnet9".parse().unwrap(), made("9", Security::None)),
    ]);
    let beside = Beside { vnets, ..Beside::default() };
    let said = |case: &str| match load_beside(&[source("viaduct.toml", &format!("{BASE}{case}"))], &beside) {
        Ok(loaded) if loaded.warnings.is_empty() => "nothing is wrong\n".to_owned(),
        Ok(loaded) => loaded.warnings.render(false),
        Err(diagnostics) => diagnostics.render(false),
    };
    let red = |keys: &str| format!("[vnets.red]\nid = \"97\"\n{keys}");
    // What has another name.
    assert_eq!(said(&red("port = \"eth1\"\n")), "nothing is wrong\n");
    assert_eq!(said(&red("port = \"vnif8-6\"\n")), "nothing is wrong\n");
    let cases = [
        // Taken over, by its id, by its name, by both.
        "[vnets.red]\nid = \"8\"\nbridge = \"vnet8\"\n".to_owned(),
        "[vnets.vnet8]\nid = \"97\"\nbridge = \"vnet8\"\n".to_owned(),
        "[vnets.vnet8]\nid = \"8\"\nbridge = \"vnet8\"\n".to_owned(),
        red("port = \"vnet8\"\n"),
        red("port = \"vnet8\"\nvlan = 20\n"),
        red("port = \"vnif9-6\"\n"),
        red("bridge = \"vnet9\"\n"),
        red("interface = \"vnif8\"\n"),
        "[uplinks.inner]\ninterface = \"vnet8\"\n".to_owned(),
        "[networks.x]\nmode = \"isolated\"\nsubnets = [\"10.9.0.0/24\"]\nbridge = \"vnet8\"\n".to_owned(),
        "[[namespaces.n.interfaces]]\nname = \"x0\"\ntype = \"device\"\ndevice = \"vnet8\"\n".to_owned(),
        "[uplinks.inner]\ninterface = \"vnet8\"\n[networks.x]\nmode = \"bridged\"\nuplink = \"inner\"\n"
            .to_owned(),
    ];
    let told: Vec<String> = cases.iter().map(|case| format!("{case}\n{}", said(case))).collect();
    assert_told!(told.join("————\n"));
}

/// A host on which a command made a peer known.
#[test]
fn peers_that_commands_made() {
    let keys =
        ["AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=", "AgIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="];
    let peers = BTreeMap::from([("hostb".parse().unwrap(), keys[0].parse().unwrap())]);
    let beside = Beside { peers, ..Beside::default() };
    let said = |case: &str| match load_beside(&[source("viaduct.toml", &format!("{BASE}{case}"))], &beside) {
        Ok(loaded) if loaded.warnings.is_empty() => "nothing is wrong\n".to_owned(),
        Ok(loaded) => loaded.warnings.render(false),
        Err(diagnostics) => diagnostics.render(false),
    };
    let peer = |name: &str, key: &str| format!("[peers.{name}]\nkey = \"{key}\"\n");
    assert_eq!(said(&peer("hostc", keys[1])), "nothing is wrong\n");
    // Taken over, by its name, by its key, by both; before the key is known, too.
    let cases = [
        peer("hostb", keys[1]),
        peer("hostc", keys[0]),
        peer("hostb", keys[0]),
        peer("hostb", "REPLACED-BY-hostb-viaduct-identity"),
    ];
    let told: Vec<String> = cases.iter().map(|case| format!("{case}\n{}", said(case))).collect();
    assert_told!(told.join("————\n"));
}

#[test]
fn a_host_that_is_called_like_others_of_a_vnet() {
    let red = "[vnets.red]\nid = \"97\"\n[networks.red]\nmode = \"vnet\"\nvnet = \"red\"\nsubnets = [\"10.97.0.0/24\"]\n";
    let there = "gateways = [\"10.97.0.251\"]\n";
    // Without an address there, the host has no part in it.
    assert_eq!(said(red), "nothing is wrong\n");
    assert_eq!(said(&format!("[host]\nname = \"h\"\n{red}{there}")), "nothing is wrong\n");
    assert_told!(said(&format!("{red}{there}")));
}
