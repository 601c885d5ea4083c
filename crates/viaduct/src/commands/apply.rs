use std::{process::ExitCode, time::Duration};

use super::{By, ask, ask_whom, confirm, files_of, load, say_done};
use crate::{
    cli::Global,
    failure::Failure,
    files,
    operations::{Apply, Changed, Down},
    show, vnets,
};

pub(super) fn run(global: &Global, limit: Option<Duration>) -> Result<ExitCode, Failure> {
    let sources = files::read(&global.config)?;
    let loaded = load(global, &sources)?;
    let report = ask(global, Apply { files: files_of(&sources), confirm: limit.map(confirm::milliseconds) })?;
    if global.json {
        show::say_json(&report);
    } else {
        show::tell_text(&loaded.warnings.render(show::color_on_stderr()));
        say_done(&report.done, &report.notices);
        confirm::say_limit(limit);
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn down(global: &Global) -> Result<ExitCode, Failure> {
    let (report, by): (Changed, By) = ask_whom(global, Down {})?;
    // It outlives the daemon, and nobody else tells it that there is nothing left to carry.
    if by == By::Us {
        vnets::end(&global.run_dir);
    }
    if global.json {
        show::say_json(&report);
    } else {
        say_done(&report.done, &report.notices);
    }
    Ok(ExitCode::SUCCESS)
}
