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
    }
    own in OWN {
        drift = "drift",
        flows = "flows",
        live = "live",
        mallory = "mallory",
        nics = "nics",
        policy = "policy",
        published = "published",
        spoofing = "spoofing",
        uplink_mac = "uplink-mac",
        uplinks = "uplinks",
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
