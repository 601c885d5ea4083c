use std::{path::PathBuf, process::ExitCode};

use serde_json::json;

use crate::{cli::Global, failure::Failure, files, show};

pub(super) fn run(global: &Global, named: &[PathBuf]) -> Result<ExitCode, Failure> {
    let sources = if named.is_empty() {
        files::read(&global.config)?
    } else {
        let read: Result<Vec<_>, _> = named.iter().map(|path| files::read(path)).collect();
        read?.concat()
    };
    let loaded = viaduct_model::load(&sources)?;
    let config = &loaded.config;
    if global.json {
        println!(
            "{}",
            json!({
                "host": config.host,
                "files": sources.iter().map(|s| &s.name).collect::<Vec<_>>(),
                "networks": config.networks.len(),
                "guests": config.guests.len(),
                "diagnostics": loaded.warnings,
            })
        );
    } else {
        eprint!("{}", loaded.warnings.render(show::color_on_stderr()));
        println!(
            "{} is right: {} uplinks, {} networks, {} guests in {}",
            config.host,
            config.uplinks.len(),
            config.networks.len(),
            config.guests.len(),
            sources.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", "),
        );
    }
    Ok(ExitCode::SUCCESS)
}
