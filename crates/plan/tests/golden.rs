//! What the examples become, as text: the plan on a fresh host with every guest attached, and the filter.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{attach_all, config, host, look};
use viaduct_plan::sim::Host;

fn golden(name: &str, text: &str, mut host: Host) {
    let config = config(text);
    let attachments = attach_all(&mut host, &config);
    let (_, desired, notices, plan) = look(&mut host, &config, &attachments);
    let notices: String = notices.iter().map(|n| format!("{n}\n")).collect();
    insta::assert_snapshot!(format!("{name}.plan"), format!("{notices}{plan}"));
    insta::assert_snapshot!(format!("{name}.nft"), desired.nft);
}

#[test]
fn openvz() {
    golden("openvz", include_str!("../../../examples/openvz/viaduct.toml"), host());
}

#[test]
fn hetzner() {
    let mut bare = Host::default();
    bare.hardware(&"eth0".parse().unwrap(), Some("52:54:00:12:34:56".parse().unwrap()));
    golden("hetzner", include_str!("../../../examples/hetzner/viaduct.toml"), bare);
}

#[test]
fn dedicated_xen() {
    golden("dedicated-xen", include_str!("../../../examples/dedicated-xen/viaduct.toml"), host());
}
