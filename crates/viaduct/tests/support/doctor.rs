//! What the doctor's tests have in common.

use serde_json::Value;

use super::World;

/// A nat and a routed network with a guest each that is attached, and somebody outside.
pub(crate) fn made(world: &World) {
    world.sh("cp -a /etc /run/private-etc && mount --bind /run/private-etc /etc");
    world.made();
}

/// The findings of a kind.
pub(crate) fn of_kind<'a>(report: &'a Value, kind: &str) -> Vec<&'a Value> {
    report["findings"].as_array().unwrap().iter().filter(|finding| finding["kind"] == kind).collect()
}
