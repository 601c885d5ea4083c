//! Labs, each a test: real packets, seen from users' and attackers' machines. Those of `examples/` are what the
//! documentation shows; those beside this file try one subject each as far as it goes. `viaduct lab run DIR` runs one
//! by itself.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
const OWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/labs");

macro_rules! labs {
    ($($module:ident in $place:ident { $($test:ident = $directory:literal,)* })*) => {
        $(mod $module {
            $(#[test]
            fn $test() {
                super::run(super::$place, $directory);
            })*
        })*

        fn tested() -> BTreeSet<PathBuf> {
            BTreeSet::from([$($(Path::new($place).join($directory)),*),*])
        }
    };
}

labs! {
    examples in EXAMPLES {
        attacker = "attacker",
        dedicated_xen = "dedicated-xen",
        hetzner = "hetzner",
        isolated = "isolated",
        openvz = "openvz",
        xen_vnet = "xen-vnet",
        zones = "zones",
    }
    own in OWN {
        drift = "drift",
        first_address = "first-address",
        first_published = "first-published",
        flows = "flows",
        live = "live",
        mallory = "mallory",
        nics = "nics",
        policy = "policy",
        published = "published",
        served_live = "served-live",
        spoofing = "spoofing",
        uplink_mac = "uplink-mac",
        uplinks = "uplinks",
        vnet_arrivals = "vnet-arrivals",
        vnet_at_once = "vnet-at-once",
        vnet_beacons = "vnet-beacons",
        vnet_bridged = "vnet-bridged",
        vnet_clock = "vnet-clock",
        vnet_comes_and_goes = "vnet-comes-and-goes",
        vnet_created = "vnet-created",
        vnet_fallbacks = "vnet-fallbacks",
        vnet_groups = "vnet-groups",
        vnet_handshakes = "vnet-handshakes",
        vnet_learning = "vnet-learning",
        vnet_discovery = "vnet-discovery",
        vnet_hostile = "vnet-hostile",
        vnet_loss = "vnet-loss",
        vnet_moves = "vnet-moves",
        vnet_large = "vnet-large",
        vnet_least = "vnet-least",
        vnet_mtu = "vnet-mtu",
        vnet_narrow = "vnet-narrow",
        vnet_nat = "vnet-nat",
        vnet_original = "vnet-original",
        vnet_plain = "vnet-plain",
        vnet_plain_local = "vnet-plain-local",
        vnet_plain_mtu = "vnet-plain-mtu",
        vnet_plain_silent = "vnet-plain-silent",
        vnet_port_down = "vnet-port-down",
        vnet_ports = "vnet-ports",
        vnet_published = "vnet-published",
        vnet_raised = "vnet-raised",
        vnet_reboot = "vnet-reboot",
        vnet_rekey = "vnet-rekey",
        vnet_renumbered = "vnet-renumbered",
        vnet_served = "vnet-served",
        vnet_relay_chain = "vnet-relay-chain",
        vnet_relays = "vnet-relays",
        vnet_spoofing = "vnet-spoofing",
        vnet_takeover = "vnet-takeover",
        vnet_workers = "vnet-workers",
        vnet_written_mtu = "vnet-written-mtu",
        vnets = "vnets",
    }
}

/// Those that need what this machine's kernel may lack are run by `cargo xtask test` in one with Debian's.
const IN_A_MACHINE: [&str; 1] = ["vserver"];

fn run(place: &str, directory: &str) {
    assert!(rustix::process::geteuid().is_root(), "labs need root: try again with sudo");
    let output = Command::new(env!("CARGO_BIN_EXE_viaduct"))
        .args(["lab", "run"])
        .arg(Path::new(place).join(directory))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{directory}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Live changes once more, made by a daemon: it looks at nothing but what they are about.
mod with_daemon {
    #[test]
    fn flows() {
        super::run_with_daemon("flows", 2, &[]);
    }

    #[test]
    fn live() {
        // The daemon forgets an attachment that leads nowhere.
        super::run_with_daemon("live", 10, &["    've0 runs \"viaduct status 2>&1\" and sees \"gone\"',\n"]);
    }
}

/// A lab whose host has a daemon, which makes at least so many changes in part.
fn run_with_daemon(directory: &str, parts: usize, without: &[&str]) {
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join(directory);
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(Path::new(OWN).join(directory)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    let mut lab = fs::read_to_string(copy.join("lab.toml")).unwrap();
    for line in without {
        assert!(lab.contains(line), "{line}");
        lab = lab.replace(line, "");
    }
    let daemon = "[[steps]]\nbecause = \"a daemon keeps the host\"\ndo = [\n\
        \x20   \"ve0: VIADUCT_LOG=viaduct_reconcile=debug viaduct daemon 2> daemon.log &\",\n\
        \x20   \"ve0: for i in $(seq 100); do viaduct status --json | grep -q 'pid.: [0-9]' && break; sleep 0.1; done\",\n\
        ]\n\n";
    let first = lab.find("[[steps]]").unwrap();
    lab.insert_str(first, daemon);
    let count = format!(
        "\n[[steps]]\nbecause = \"changes were made in part\"\n\
         do = \"ve0: test $(grep -c 'changed in part' daemon.log) -ge {parts} || ! cat daemon.log\"\n"
    );
    lab.push_str(&count);
    fs::write(copy.join("lab.toml"), lab).unwrap();
    run(place.path().to_str().unwrap(), directory);
}

/// What `viaduct import` makes of the files that an example replaces passes the example's own lab, but for what those
/// files do not say.
mod imported {
    #[test]
    fn dedicated_xen() {
        let names = [("mail", "guest-192-168-1-2"), ("wwwinfo16", "guest-192-168-1-1")];
        // Which address is which domain's, no file of Xen's says.
        super::run_imported("dedicated-xen", "xen", &names, &["ip link show eth0"], &[]);
    }

    #[test]
    fn hetzner() {
        let names = [("shop", "br112"), ("db", "br119"), ("fresh", "br211")];
        let without = [
            // All of it is about IPv4 there, and guests may reach each other.
            "2001:db8",
            "fe80::1",
            "shop cannot reach db",
            "admin cannot reach db",
            "stranger cannot reach db",
            "db cannot reach shop",
            "and sees \"via 203.0.113.48\"",
            // Each guest has its address already.
            "viaduct set fresh",
            "172.30.",
            "fresh reaches admin at 192.0.2.7:80/tcp as 203.0.113.48",
            "fresh reaches stranger",
            "dhclient -6",
        ];
        super::run_imported("hetzner", "ifupdown", &names, &without, &[]);
    }

    #[test]
    fn openvz() {
        // Its address was answered for by the host, which is not the segment that the example gives it.
        // Masquerading takes the uplink's address.
        let replaced = [
            ("80/tcp as 203.0.113.10\"", "80/tcp as 203.0.113.2\""),
            ("53/udp as 203.0.113.10\"", "53/udp as 203.0.113.2\""),
            ("198.51.100.7 as 203.0.113.10\"", "198.51.100.7 as 203.0.113.2\""),
        ];
        super::run_imported("openvz", "openvz", &[], &["probe", "203.0.113.77"], &replaced);
    }

    #[test]
    fn xen_vnet() {
        super::run_imported_vnet();
    }
}

/// Both hosts of the vnet from files of Xen's. Which prefix domains use, and who the other host is, those do not say.
fn run_imported_vnet() {
    let from = Path::new(EXAMPLES).join("xen-vnet");
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("xen-vnet");
    fs::create_dir(&copy).unwrap();
    for (host, other, endpoint) in
        [("hosta", "hostb", "10.11.0.100:1798"), ("hostb", "hosta", "10.10.0.100:1798")]
    {
        let files = from.join("by-hand").join(host);
        let output =
            Command::new(env!("CARGO_BIN_EXE_viaduct")).args(["import", "xen"]).arg(files).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("security = \"none\"") && text.contains("peers = []"), "{text}");
        let text = text
            .replace("security = \"none\"", "security = \"conf\"")
            .replace("peers = []", &format!("peers = [\"{other}\"]"))
            .replace("vnet = \"vnet97\"", "vnet = \"vnet97\"\nsubnets = [\"10.97.0.0/24\"]");
        let peer = format!(
            "\n[host]\nname = \"{host}\"\n[peers.{other}]\nendpoint = \"{endpoint}\"\n\
             key = \"REPLACED-BY-{other}-viaduct-identity\"\n"
        );
        fs::write(copy.join(format!("{host}.toml")), text + &peer).unwrap();
    }
    let lab = fs::read_to_string(from.join("lab.toml")).unwrap();
    // The vnet is called after its bridge.
    let lab = lab.replace("vnet-blue", "vnet-vnet97").replace("blue", "vnet97");
    fs::write(copy.join("lab.toml"), lab).unwrap();
    run(place.path().to_str().unwrap(), "xen-vnet");
}

/// The same with Debian's kernel.
mod with_vlans {
    #[test]
    #[ignore = "needs 802.1Q: cargo xtask vm test --package viaduct --test labs -- --ignored"]
    fn imported_vserver() {
        let without = [
            // Two groups with IPv4, whose gateways are set inside of them.
            "2001:db8",
            "via 10.2.0.1",
            "lab",
            "mac0",
            "10.1.0.9",
            "mail",
            "files",
            "dhcpd",
            "hooks.log",
            "operstate",
            "/etc/viaduct/hooks",
            "booting",
        ];
        let replaced = [
            ("guest = \"mail\"", "guest = \"dmz\""),
            ("guest = \"files\"", "guest = \"office\""),
            // From the context 44.
            ("02:00:03:92:f1:00", "02:00:03:00:2c:00"),
        ];
        super::run_imported("vserver", "vserver", &[], &without, &replaced);
    }
}

/// The example's lab with a configuration that was made of its directory `by-hand`: guests have other names, expectations
/// with some words are left out, others replaced. Each of these must be there.
fn run_imported(
    example: &str,
    system: &str,
    names: &[(&str, &str)],
    without: &[&str],
    replaced: &[(&str, &str)],
) {
    let from = Path::new(EXAMPLES).join(example);
    let output = Command::new(env!("CARGO_BIN_EXE_viaduct"))
        .args(["import", system])
        .arg(from.join("by-hand"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join(example);
    fs::create_dir(&copy).unwrap();
    fs::write(copy.join("viaduct.toml"), output.stdout).unwrap();
    let mut lab = fs::read_to_string(from.join("lab.toml")).unwrap();
    for (machine, guest) in names {
        let table = format!("[guests.{machine}]");
        assert!(lab.contains(&table), "{table}");
        // A comment may follow in the line.
        lab = lab.replace(&table, &format!("[guests.{machine}]\nguest = \"{guest}\"\n#"));
    }
    for (from, to) in replaced {
        assert!(lab.contains(from), "{from}");
        lab = lab.replace(from, to);
    }
    let is_listed = |line: &str| line.starts_with("    \"") || line.starts_with("    '");
    let kept = |line: &&str| !is_listed(line) || !without.iter().any(|words| line.contains(words));
    for words in without {
        assert!(lab.lines().any(|line| is_listed(line) && line.contains(words)), "{words}");
    }
    let lab: Vec<&str> = lab.lines().filter(kept).collect();
    fs::write(copy.join("lab.toml"), lab.join("\n")).unwrap();
    run(place.path().to_str().unwrap(), example);
}

#[test]
fn every_lab_is_run() {
    let labs: BTreeSet<PathBuf> = [EXAMPLES, OWN]
        .iter()
        .flat_map(|place| fs::read_dir(place).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|directory| directory.join("lab.toml").exists())
        .collect();
    let elsewhere = IN_A_MACHINE.iter().map(|directory| Path::new(EXAMPLES).join(directory));
    assert_eq!(labs, tested().into_iter().chain(elsewhere).collect());
}
