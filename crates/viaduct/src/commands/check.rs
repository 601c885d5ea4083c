use std::{path::PathBuf, process::ExitCode, slice};

use serde_json::json;

use super::load;
use crate::{
    cli::Global,
    failure::Failure,
    files,
    show::{self, count, say},
};

pub(super) fn run(global: &Global, named: &[PathBuf]) -> Result<ExitCode, Failure> {
    let paths = if named.is_empty() { slice::from_ref(&global.config) } else { named };
    let sources = files::read_all(paths)?;
    // Another file may be for another host.
    let is_own = paths.iter().all(|path| *path == global.config);
    let loaded = if is_own { load(global, &sources)? } else { viaduct_model::load(&sources)? };
    let config = &loaded.config;
    if global.json {
        say!(
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
        show::tell_text(&loaded.warnings.render(show::color_on_stderr()));
        say!(
            "{} is right: {}, {}, {} in {}",
            config.host,
            count(config.uplinks.len(), "uplink"),
            count(config.networks.len(), "network"),
            count(config.guests.len(), "guest"),
            sources.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", "),
        );
    }
    Ok(ExitCode::SUCCESS)
}
