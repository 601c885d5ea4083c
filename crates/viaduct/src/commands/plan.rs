use std::process::ExitCode;

use super::{ask, files_of, load};
use crate::{
    cli::Global,
    failure::Failure,
    files,
    operations::Plan,
    show::{self, say, tell},
};

pub(super) fn run(global: &Global, exit_code: bool) -> Result<ExitCode, Failure> {
    let sources = files::read(&global.config)?;
    let loaded = load(global, &sources)?;
    let report = ask(global, Plan { files: files_of(&sources) })?;
    if global.json {
        show::say_json(&report);
    } else {
        show::tell_text(&loaded.warnings.render(show::color_on_stderr()));
        report.notices.iter().for_each(|notice| tell!("{notice}"));
        report.lines.iter().for_each(|line| say!("{line}"));
        if report.lines.is_empty() {
            say!("Nothing to do.");
        }
    }
    let changes = exit_code && !report.changes.is_empty();
    Ok(if changes { ExitCode::from(3) } else { ExitCode::SUCCESS })
}
