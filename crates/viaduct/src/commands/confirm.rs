use std::{process::ExitCode, time::Duration};

use super::{ask, say_done};
use crate::{
    cli::Global,
    failure::Failure,
    operations::{Confirm, Rollback},
    show::{self, say},
};

pub(super) fn confirm(global: &Global) -> Result<ExitCode, Failure> {
    let report = ask(global, Confirm {})?;
    if global.json {
        show::say_json(&report);
    } else if report.confirmed {
        say!("Confirmed: it stays.");
    } else {
        say!("Nothing waits to be confirmed.");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn rollback(
    global: &Global,
    revision: Option<u64>,
    limit: Option<Duration>,
) -> Result<ExitCode, Failure> {
    let report = ask(global, Rollback { revision, confirm: limit.map(milliseconds) })?;
    if global.json {
        show::say_json(&report);
        return Ok(ExitCode::SUCCESS);
    }
    say_done(&report.done, &report.notices);
    if limit.is_some() {
        say_limit(limit);
    } else {
        say!("The configuration's files are as they were: `viaduct plan` shows what they would change.");
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells that something is still to be done.
pub(super) fn say_limit(limit: Option<Duration>) {
    if let Some(limit) = limit {
        say!(
            "Unless `viaduct confirm` comes within {}, all of this is taken back.",
            humantime::format_duration(limit)
        );
    }
}

pub(super) fn milliseconds(limit: Duration) -> u64 {
    u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)
}
