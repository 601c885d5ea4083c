//! A thousand guests that boot at the same moment.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use support::{CONFIG, RUN, World, host};

const GUESTS: usize = 1_000;
/// Seconds that all of it may take on a busy machine, and after which a client would ask again: who did has lost
/// something.
const LIMIT: &str = "100";
const AGAIN: &str = "60";

const NETWORKS: &str = r#"
[host]
name = "ve0"

[uplinks.wan]
interface = "eth0"

[networks.public]
mode = "routed"
uplink = "wan"
pool = ["198.18.0.0/16", "2001:db8:1::/64"]
dhcp = true

[networks.inside]
mode = "nat"
uplink = "wan"
subnets = ["10.64.0.0/16", "fd00:64::/64"]
dhcp = true
"#;

/// Half of them have a link of their own, half share a bridge, and half of those have no address but one that is lent.
fn addresses(guest: usize) -> Option<[String; 2]> {
    let number = guest + 512;
    let (high, low) = (number / 256, number % 256);
    match guest % 4 {
        0 | 2 => Some([format!("198.18.{high}.{low}"), format!("2001:db8:1::{number:x}")]),
        1 => Some([format!("10.64.{high}.{low}"), format!("fd00:64::{number:x}")]),
        _ => None,
    }
}

fn mac(guest: usize) -> String {
    format!("02:10:00:00:{:02x}:{:02x}", guest / 256, guest % 256)
}

/// The devices of machines whose other ends are all in one place, and the file of a host that has them as guests.
fn connect(world: &World) {
    world.sh("ip netns add guests; ip netns exec guests sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
    let (mut file, mut links, mut up) = (NETWORKS.to_owned(), String::new(), String::new());
    let mut attachments = serde_json::Map::new();
    for guest in 0..GUESTS {
        let (mac, network) = (mac(guest), if guest % 2 == 0 { "public" } else { "inside" });
        writeln!(links, "link add x{guest} type veth peer name c{guest} address {mac} netns guests").unwrap();
        writeln!(up, "link set c{guest} up").unwrap();
        write!(
            file,
            "[guests.g{guest}]\n[[guests.g{guest}.nics]]\nnetwork = \"{network}\"\nmac = \"{mac}\"\n"
        )
        .unwrap();
        if let Some(addresses) = addresses(guest) {
            writeln!(file, "addresses = {addresses:?}").unwrap();
        }
        attachments.insert(format!("g{guest}.0"), json!({"device": {"name": format!("x{guest}")}}));
    }
    world.write("/run/links", links);
    world.write("/run/up", up);
    world.sh("ip -batch /run/links; ip -n guests -batch /run/up");
    world.write(CONFIG, file);
    // As if each of them had been attached.
    world.write(&format!("{RUN}/attachments.json"), Value::Object(attachments).to_string());
}

/// All of them begin at once.
fn boot() -> Value {
    let mut clients = Command::new("ip")
        .args(["netns", "exec", "guests", "python3", "-c", include_str!("support/clients.py"), LIMIT, AGAIN])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: String = (0..GUESTS).map(|guest| format!("c{guest} {}\n", mac(guest))).collect();
    clients.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = clients.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_thousand_guests_that_boot_at_once_are_all_configured_and_nothing_is_lost() {
    host(|world| {
        connect(world);
        world.good("apply");
        let _daemon = world.daemon();
        // Two on each routed NIC's link, three on the bridge.
        world.soon("all are listened to", || {
            world.sh("wc -l </proc/self/net/packet").trim().parse::<usize>().unwrap() > GUESTS + 3
        });
        // Twice: what was looked for is known then, and everything comes at once.
        for _ in 0..2 {
            let told = boot();
            assert_eq!(told["resent"], json!([]), "{}", world.log());
            assert_eq!(told["configured"], GUESTS, "{}", world.log());
            let mut lent = BTreeSet::new();
            for guest in 0..GUESTS {
                let got = [0, 1].map(|family| {
                    told["addresses"][format!("c{guest}")][family].as_str().unwrap().to_owned()
                });
                match addresses(guest) {
                    Some(own) => assert_eq!(got, own, "g{guest}"),
                    None => {
                        assert!(got[0].starts_with("10.64.") && got[1].starts_with("fd00:64::"), "{got:?}");
                        assert!(lent.insert(got), "an address is lent twice");
                    }
                }
            }
            assert_eq!(lent.len(), GUESTS / 4);
        }
        world.settled();
    });
}
