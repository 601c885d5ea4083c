//! What is checked, tested, measured and generated in this workspace. The parts that its own tests need are here; the
//! command is in `main`.
#![forbid(unsafe_code)]

pub mod architecture;
pub mod reference;

use std::path::PathBuf;

/// The workspace's directory.
pub fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}
