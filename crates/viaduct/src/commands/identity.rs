use std::{fs, process::ExitCode};

use serde_json::json;
use viaduct_vnet_io::control::Identity;

use crate::{cli::Global, failure::Failure, host::require_root, show, show::say};

/// The key is the first word; a configuration can be made with it.
pub(super) fn run(global: &Global) -> Result<ExitCode, Failure> {
    require_root()?;
    let failed = |error: std::io::Error| {
        Failure::failed(format!("cannot make the directory {}: {error}", global.state_dir.display()))
    };
    fs::create_dir_all(&global.state_dir).map_err(failed)?;
    let identity = Identity::open(&global.state_dir)
        .map_err(|error| Failure::failed(viaduct_reconcile::chain(&error)))?;
    let key = identity.public();
    if global.json {
        show::say_json(&json!({ "key": key }));
    } else {
        say!("{key}");
    }
    Ok(ExitCode::SUCCESS)
}
