//! The fuzzers' seeds, without the fuzzers.
#![allow(missing_docs, unreachable_pub, reason = "of the fuzzers' crate")]
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "the seeds are files, as many as there are"
)]

#[path = "../../../fuzz/src/vnets.rs"]
mod checks;

use std::{fs, path::Path};

fn replay(seeds: &str, check: impl Fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(seeds);
    let mut count = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        check(&bytes);
        // What a fuzzer does first.
        for end in 0..bytes.len().min(600) {
            check(&bytes[..end]);
            let mut changed = bytes.clone();
            changed[end] ^= 1 << (end % 7);
            check(&changed);
        }
        count += 1;
    }
    assert!(count > 0, "there are no seeds for {seeds}");
}

#[test]
fn what_hosts_say() {
    replay("vnet_control", checks::control);
}

#[test]
fn beacons() {
    replay("vnet_beacons", checks::beacon);
}

#[test]
fn listeners() {
    replay("vnet_listeners", checks::listeners);
}

#[test]
fn around_frames() {
    replay("vnet_esp", checks::esp);
}

#[test]
fn frames() {
    replay("vnet_frames", checks::frames);
}
