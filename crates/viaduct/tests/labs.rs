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
    }
}

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

#[test]
fn every_lab_is_run() {
    let labs: BTreeSet<PathBuf> = [EXAMPLES, OWN]
        .iter()
        .flat_map(|place| fs::read_dir(place).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|directory| directory.join("lab.toml").exists())
        .collect();
    assert_eq!(labs, tested());
}
