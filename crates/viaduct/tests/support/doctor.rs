//! What the doctor's tests have in common.

use serde_json::Value;

use super::World;

/// A nat and a routed network with a guest each that is attached, and somebody outside.
pub(crate) fn made(world: &World) {
    world.own_place("/etc");
    world.made();
}

/// The findings of a kind.
pub(crate) fn of_kind<'a>(report: &'a Value, kind: &str) -> Vec<&'a Value> {
    report["findings"].as_array().unwrap().iter().filter(|finding| finding["kind"] == kind).collect()
}

/// Whether this kernel has br_netfilter.
pub(crate) fn has_br_netfilter() -> bool {
    std::path::Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists()
}

/// What Docker does: everything that is forwarded is dropped but what comes from the uplink or goes there. By one of iptables
/// and ip6tables.
pub(crate) fn drop_like_docker(world: &World, tool: &str) {
    for rule in [
        "-P FORWARD DROP",
        "-N DOCKER-USER",
        "-A FORWARD -j DOCKER-USER",
        "-A FORWARD -i eth0 -j ACCEPT",
        "-A FORWARD -o eth0 -j ACCEPT",
    ] {
        world.sh(&format!("{tool}-nft -w {rule}"));
    }
}
