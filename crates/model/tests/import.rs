//! The files that people had before become configurations that load; what is not carried over is listed.

use viaduct_model::{
    Diagnostics, Source,
    import::{Format, Imported, import},
    load,
};

macro_rules! by_hand {
    ($example:literal, $($file:literal),* $(,)?) => {
        [$(($file, include_str!(concat!("../../../examples/", $example, "/by-hand/", $file)))),*]
    };
}

fn imported(format: Format, files: &[(&str, &str)]) -> Imported {
    let source =
        |(name, text): &(&str, &str)| Source { name: format!("/etc/{name}"), text: (*text).to_owned() };
    import(format, &files.iter().map(source).collect::<Vec<_>>())
}

fn one(format: Format, name: &str, text: &str) -> Imported {
    import(format, &[Source { name: name.to_owned(), text: text.to_owned() }])
}

#[track_caller]
fn loads(imported: &Imported) {
    let source = Source { name: "viaduct.toml".to_owned(), text: imported.toml.clone() };
    match load(&[source]) {
        Ok(loaded) => {
            assert_eq!(loaded.warnings, Diagnostics::default(), "{}\n{}", loaded.warnings, imported.toml)
        }
        Err(diagnostics) => panic!("{diagnostics}\n{}", imported.toml),
    }
}

#[test]
fn what_was_done_by_hand_loads() {
    let openvz = by_hand!(
        "openvz",
        "100.conf",
        "1000.conf",
        "103.conf",
        "104.conf",
        "105.conf",
        "firewall.sh",
        "start.sh",
        "vz.conf",
    );
    let hetzner = by_hand!("hetzner", "dhcpd.conf", "firewall.sh", "interfaces");
    let xen = by_hand!("dedicated-xen", "firewall.sh", "siteclient", "wwwinfo16", "xend-config.sxp");
    let vserver = by_hand!(
        "vserver",
        "vservers/dmz/context",
        "vservers/dmz/interfaces/0/dev",
        "vservers/dmz/interfaces/0/ip",
        "vservers/dmz/interfaces/0/prefix",
        "vservers/dmz/interfaces/1/dev",
        "vservers/dmz/interfaces/1/ip",
        "vservers/dmz/interfaces/1/prefix",
        "vservers/dmz/scripts/prepre-start.d/net",
        "vservers/dmz/spaces/net",
        "vservers/office/context",
        "vservers/office/interfaces/0/dev",
        "vservers/office/interfaces/0/ip",
        "vservers/office/interfaces/0/prefix",
        "vservers/office/scripts/prepre-start.d/net",
        "vservers/office/spaces/net",
        "vservers/www/context",
        "vservers/www/spaces/net",
    );
    for (example, imported) in [
        ("openvz", imported(Format::Openvz, &openvz)),
        ("hetzner", imported(Format::Ifupdown, &hetzner)),
        ("dedicated-xen", imported(Format::Xen, &xen)),
        ("vserver", imported(Format::Vserver, &vserver)),
    ] {
        insta::assert_snapshot!(format!("import-{example}"), imported.toml);
        loads(&imported);
        // What is listed stands in the file, too.
        for left in &imported.left_out {
            assert!(imported.toml.contains(&format!("#   {left}")), "{left}");
            assert!(left.line > 0 && !left.file.is_empty(), "{left:?}");
        }
    }
}

/// Vnets' files, and domains in both ways of writing; who the other hosts are, nobody says.
#[test]
fn vnets_of_xen_load() {
    let daemon = ("xend-config.sxp", "(network-script network-vnet)\n(vif-script vif-bridge)\n");
    let vnet = (
        "vnet97.sxp",
        "# ours\n(vnet (id 97) (bridge vnet97) (vnetif vnif97)\n      (security none))\n(vnet (id 98))\n",
    );
    let domains = [
        ("one", "name=\"one\"\nvif=[\"mac=aa:00:00:01:02:03,bridge=vnet97\"]\n"),
        ("two", "name=\"two\"\nvif=\"bridge=vnet98\"\n"),
        (
            "three.sxp",
            "(vm (name three)\n (memory 64)\n (device (vif (mac aa:00:00:01:02:04) (bridge vnet97))))\n",
        ),
        // As xend itself breaks its lines.
        (
            "four.sxp",
            "(vm\n (name four)\n (device\n  (vif\n   (mac aa:00:00:01:02:05)\n   (bridge 'vnet98')\n  )\n )\n)\n",
        ),
    ];
    let imported = imported(Format::Xen, &[&[daemon, vnet][..], &domains[..]].concat());
    loads(&imported);
    let told: Vec<String> = imported.left_out.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("/etc/three.sxp:2: ") && told[0].contains("memory"), "{told:?}");
    let text = &imported.toml;
    for said in [
        "[vnets.vnet97]\nid = \"97\"\nbridge = \"vnet97\"\nsecurity = \"none\"",
        "[vnets.vnet98]\nid = \"98\"\nbridge = \"vnet98\"\nsecurity = \"conf\"",
        "[networks.vnet97]\nmode = \"vnet\"",
        "[[guests.one.nics]]\nnetwork = \"vnet97\"\nmac = \"aa:00:00:01:02:03\"",
        "[[guests.two.nics]]\nnetwork = \"vnet98\"",
        "[[guests.three.nics]]\nnetwork = \"vnet97\"\nmac = \"aa:00:00:01:02:04\"",
        "[[guests.four.nics]]\nnetwork = \"vnet98\"\nmac = \"aa:00:00:01:02:05\"",
        "peers = []",
    ] {
        assert!(text.contains(said), "nothing about {said:?}:\n{text}");
    }
    // Without their files, that there are some is told.
    let imported = self::imported(Format::Xen, &[daemon]);
    assert!(imported.left_out[0].to_string().contains("xm vnet-create"), "{:?}", imported.left_out);
    // What is wrong in one is told with its line, and nothing else is lost.
    let imported = self::imported(Format::Xen, &[("bad.sxp", "(vnet (id 97)\n (bridge a b))\n"), domains[0]]);
    assert!(imported.left_out[0].to_string().starts_with("/etc/bad.sxp:2: "), "{:?}", imported.left_out);
    assert!(imported.toml.contains("[guests.one]"));
    let imported =
        self::imported(Format::Xen, &[("bad.sxp", "(vm (name x)\n (device (vif (mac a))\n"), domains[0]]);
    assert!(imported.left_out[0].to_string().starts_with("/etc/bad.sxp:2: "), "{:?}", imported.left_out);
    assert!(imported.toml.contains("[guests.one]"));
}

#[test]
fn what_is_no_address_is_listed_with_its_line() {
    let script = "#!/bin/sh\n\n\
        iptables -t nat -A POSTROUTING -s 192.168.1.0/24 -o eth0 -j MASQUERADE\n\
        iptables -A PREROUTING -t nat -i eth0 -p tcp -d 195.113.aaa.bbb --dport 389 -j DNAT --to 192.168.1.3:389\n\
        iptables -A INPUT -m recent --name x -j DROP\n\
        ip route add 195.113.aaa.bbb dev veth1000.0\n\
        shutdown -h now # indeed\n";
    let imported = one(Format::Openvz, "/etc/rc.local.sh", script);
    let told: Vec<String> = imported.left_out.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].starts_with("/etc/rc.local.sh:4: ") && told[0].contains("195.113.aaa.bbb"), "{told:?}");
    assert!(told[1].starts_with("/etc/rc.local.sh:5: "), "{told:?}");
    assert!(told[2].starts_with("/etc/rc.local.sh:6-7: "), "{told:?}");
    loads(&imported);
}

#[test]
fn saved_rules_say_the_same_as_a_script() {
    let saved = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -d 203.0.113.14/32 -i eth0 -p tcp -m tcp --dport 80 -j DNAT \
        --to-destination 192.168.1.7:8080\n-A POSTROUTING -s 192.168.1.0/24 -o eth0 -j MASQUERADE\nCOMMIT\n";
    let imported = one(Format::Ifupdown, "rules.v4", saved);
    assert!(imported.left_out.is_empty(), "{:?}", imported.left_out);
    assert!(imported.toml.contains("publish = [\"203.0.113.14:80:8080/tcp\"]"), "{}", imported.toml);
    loads(&imported);
}

#[test]
fn odd_files_are_listed_and_never_a_panic() {
    let odd = [
        "for x in $y; do\nfor z in $x; do\n",
        "iptables -t\niptables\n$\n${\n$iptables -A -A -A\n",
        "iface\nbr0 iface\niface x inet static\naddress 1.2.3.4/99\nnetmask 255.0.255.0\nmtu x\n",
        "(vnet (id\n(vnet (((\n(vm (device (vif (mac) (ip 1.2.3) x)\n(device ()vif(\n",
        "vif=[ 'mac=', 'ip=1.2.3.4.5,x'\nname=\"\u{7}\"\n",
        "(vif-script\n(\n)(\n",
        "*nat\n:\n-A\nCOMMIT\n",
        "NETIF=\"ifname=;;,,=\"\nIP_ADDRESS=\"x\"\n",
        "\u{0}\u{1}=\n",
    ];
    for text in odd {
        for format in [Format::Vserver, Format::Openvz, Format::Xen, Format::Ifupdown] {
            for name in
                ["interfaces", "x.sh", "7.conf", "x.sxp", "dom", "dhcpd.conf", "/vservers/a/interfaces/9/ip"]
            {
                let imported = one(format, name, text);
                assert!(!imported.toml.is_empty());
            }
        }
    }
    // A line that nobody understands is never lost.
    let imported = one(Format::Ifupdown, "notes", "hello\nworld\n");
    assert_eq!((imported.left_out[0].line, imported.left_out[0].last), (1, 2));
}
