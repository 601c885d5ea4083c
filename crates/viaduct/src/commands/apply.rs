use std::process::ExitCode;

use serde_json::json;
use viaduct_reconcile::Outcome;

use crate::{
    cli::Global,
    failure::Failure,
    files,
    host::{Applied, Host, Situation, applied},
    show::{self, say, tell},
};

pub(super) fn run(global: &Global) -> Result<ExitCode, Failure> {
    let sources = files::read(&global.config)?;
    let loaded = viaduct_model::load(&sources)?;
    let mut host = Host::open(global)?;
    let attachments = host.store.attachments()?;
    let before = match applied(&host.store) {
        Ok(applied) => Some(Situation { applied, attachments: attachments.clone() }),
        // Not worth stopping for: this is what writes it anew.
        Err(failure) => {
            if !global.json {
                tell!("warning: what was applied before is not known, as the following says; it is replaced");
                failure.show(false);
            }
            None
        }
    };
    let after = Situation { applied: Some(Applied { sources, config: loaded.config }), attachments };
    let outcome = host.turn(before.as_ref(), &after)?;
    if global.json {
        say!(
            "{}",
            json!({
                "done": outcome.done,
                "notices": show::notices_json(&outcome.notices),
                "diagnostics": loaded.warnings,
            })
        );
    } else {
        show::tell_text(&loaded.warnings.render(show::color_on_stderr()));
        outcome.notices.iter().for_each(|notice| tell!("{notice}"));
        say_done(&outcome);
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn down(global: &Global) -> Result<ExitCode, Failure> {
    let mut host = Host::open(global)?;
    let outcome = host.become_nothing().map_err(|error| {
        Failure::from(error)
            .with("The rest was taken away. What was applied is still known: `viaduct down` goes on.")
    })?;
    host.store.set_attachments(&Default::default())?;
    host.store.clear_applied()?;
    if global.json {
        say!("{}", json!({ "done": outcome.done, "notices": [] }));
    } else {
        say_done(&outcome);
    }
    Ok(ExitCode::SUCCESS)
}

/// What was done, for people.
pub(super) fn say_done(outcome: &Outcome) {
    outcome.done.iter().for_each(|line| say!("{line}"));
    if outcome.done.is_empty() {
        say!("Nothing to do.");
    }
}
