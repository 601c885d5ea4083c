//! The real firewalld beside us: what it does to guests, what the doctor shows against that, and that its reloads and
//! ours mind their own business.

use serde_json::Value;

use super::{
    CONFIG, install,
    machine::{Machine, OUTSIDE, sh, world},
    make, set_up, still_attached, traffic,
};

fn repairs(machine: &Machine<'_>) -> usize {
    machine.status()["daemon"]["repairs"].as_array().unwrap().len()
}

/// Whether a datagram from a namespace to a port of the machine's gets past firewalld.
fn comes(machine: &Machine<'_>, netns: &str, to: &str, port: u16) -> bool {
    machine.sh(&format!(
        "nft 'table inet seen {{ chain input {{ type filter hook input priority 20; udp dport {port} udp sport 9 counter; }}; }}'"
    ));
    let send = format!(
        "import socket; to = socket.getaddrinfo(\"{to}\", {port}, 0, socket.SOCK_DGRAM)[0]; \
         s = socket.socket(to[0], socket.SOCK_DGRAM); s.bind((\"\", 9)); s.sendto(b\"?\", to[4])"
    );
    sh(&format!("nsenter --net={netns} python3 -c '{send}'"));
    let came = machine.sh("sleep 0.2; nft list table inet seen; nft delete table inet seen");
    !came.contains("packets 0 ")
}

/// Whether it lets in another host of vnets, and questions for names of a guest on a bridge and of one that is not.
fn lets_in(machine: &Machine<'_>) -> [bool; 3] {
    [
        comes(machine, OUTSIDE, "203.0.113.2", 1798),
        comes(machine, &machine.netns("echo"), "192.168.1.1", 53),
        comes(machine, &machine.netns("six"), "fe80::1%eth0", 53),
    ]
}

/// A second network, and names in both.
fn configuration() -> String {
    let subnets = "subnets = [\"192.168.1.0/24\"]";
    let more = "[networks.public]\nmode = \"routed\"\nuplink = \"wan\"\npool = [\"2001:db8:28:1::/64\"]\ndns = true\n\
                [guests.six]\n[[guests.six.nics]]\nnetwork = \"public\"\naddresses = [\"2001:db8:28:1::6\"]\n";
    format!("{}\n{more}", CONFIG.replace(subnets, &format!("{subnets}\ndns = true")))
}

#[test]
fn firewalld_reloads_beside_us() {
    world(|world| {
        make(&world.path("/root/viaduct.deb"));
        install(world);
        // Theirs begins with taking everybody's away; this machine has another filter.
        world.inside("systemctl disable nftables; systemctl disable note libvirtd");
        let mut machine = world.boot();
        world.plug_in();
        machine.soon("it is up", |machine| machine.does("systemctl is-active viaduct"));
        set_up(world, &mut machine);
        let out = "ip netns exec echo ping -n -c 3 -i 0.2 -W 2 203.0.113.1";
        assert!(machine.does(out), "guests reach nobody before firewalld is there");
        world.write("/etc/viaduct/viaduct.toml", &configuration());
        machine.sh("viaduct apply && ip netns add six && viaduct attach six --netns six");
        assert_eq!(lets_in(&machine), [true; 3], "before firewalld");

        let stream = traffic();
        machine.sh("systemctl start firewalld");
        machine.soon("firewalld runs", |machine| machine.does("firewall-cmd --state"));
        stream.lost_nothing();
        assert!(!machine.does(out), "firewalld lets guests out, so that there is nothing to be found");
        let (_, report, _) = machine.run("viaduct doctor --json");
        let report: Value = serde_json::from_str(&report).unwrap();
        let found = report["findings"].as_array().unwrap().iter().find(|f| f["kind"] == "foreign-filter");
        let found = found.unwrap_or_else(|| panic!("the doctor overlooks firewalld: {report}"));
        assert!(found["title"].as_str().unwrap().contains("inet firewalld"), "{report}");
        for measure in found["remedy"]["measures"].as_array().unwrap() {
            machine.sh(measure["run"].as_str().unwrap());
        }
        assert!(machine.does(out), "what the doctor showed does not help");
        let (_, report, _) = machine.run("viaduct doctor --json");
        assert!(!report.contains("foreign-filter"), "{report}");

        // The zone of guests lets those on a bridge ask for names. The others' link-local addresses are in none, and neither is the peer.
        assert_eq!(lets_in(&machine), [false, true, false]);
        let report: Value = serde_json::from_str(&report).unwrap();
        let found = report["findings"].as_array().unwrap().iter().find(|f| f["kind"] == "foreign-input");
        let found =
            found.unwrap_or_else(|| panic!("the doctor overlooks what firewalld drops of vnets: {report}"));
        let why = found["why"].as_str().unwrap();
        assert!(
            why.contains("UDP port 1798") && why.contains("DNS (UDP port 53) of network public"),
            "{report}"
        );
        assert!(!why.contains("of network services"), "{report}");
        for measure in found["remedy"]["measures"].as_array().unwrap() {
            machine.sh(measure["run"].as_str().unwrap());
        }
        assert_eq!(lets_in(&machine), [true; 3], "what the doctor showed does not help");
        let (_, report, _) = machine.run("viaduct doctor --json");
        assert!(!report.contains("foreign-input"), "{report}");

        // A change of its own, loaded anew in each of its ways, under traffic.
        machine.soon("all is quiet", |machine| machine.sh("viaduct plan") == "Nothing to do.\n");
        let before = repairs(&machine);
        let stream = traffic();
        for round in 0..4 {
            machine.sh(&format!("firewall-cmd --permanent --add-port={}/tcp", 9000 + round));
            machine.sh("firewall-cmd --reload");
        }
        machine.sh("firewall-cmd --complete-reload");
        machine.sh("systemctl restart firewalld");
        machine.soon("firewalld runs", |machine| machine.does("firewall-cmd --state"));
        stream.lost_nothing();
        assert!(machine.does(out), "guests reach nobody after a reload");
        assert_eq!(repairs(&machine), before, "{:#}", machine.status()["daemon"]);
        assert_eq!(machine.status()["daemon"]["disputed"], serde_json::json!([]));
        assert_eq!(machine.property("NRestarts"), "0");

        // And ours beside it.
        machine.sh("nft list table inet firewalld >/theirs; viaduct apply; systemctl restart viaduct");
        machine.sh("nft delete table inet viaduct");
        machine.soon("ours is back", |machine| machine.does("nft list table inet viaduct"));
        machine.sh("nft list table inet firewalld | diff /theirs -");
        still_attached(&machine);
        machine.sh("systemctl stop firewalld");
        assert!(machine.does(out));
        still_attached(&machine);
        machine.shut_down();
    });
}
