use std::process::ExitCode;

use super::ask;
use crate::{
    cli::Global,
    failure::Failure,
    operations::{History, Revision},
    show::{self, say, tell},
};

pub(super) fn run(global: &Global, revision: Option<u64>) -> Result<ExitCode, Failure> {
    let report = ask(global, History { revision })?;
    if global.json {
        show::say_json(&report);
        return Ok(ExitCode::SUCCESS);
    }
    report.notices.iter().for_each(|notice| tell!("{notice}"));
    if report.revisions.is_empty() && report.notices.is_empty() {
        say!("Nothing was applied yet.");
    }
    for shown in &report.revisions {
        say!("{}", line(shown));
        if revision.is_some() {
            show::say_text(&shown.diff);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn line(revision: &Revision) -> String {
    let Revision { number, time, action, by, added, removed, .. } = revision;
    format!("{number:>4}  {time} UTC  {action} by {by}  (+{added} -{removed} lines)")
}
