use std::process::ExitCode;

use serde_json::json;
use viaduct_reconcile::{ConvergeError, Outcome};

use crate::{
    cli::Global,
    failure::Failure,
    files,
    host::{Host, applied},
    show,
};

pub(super) fn run(global: &Global) -> Result<ExitCode, Failure> {
    let sources = files::read(&global.config)?;
    let loaded = viaduct_model::load(&sources)?;
    let mut host = Host::open(global)?;
    let attachments = host.store.attachments()?;
    let before = applied(&host.store);
    // Remembered first: whoever finds a half-done change finishes it.
    host.store.set_applied(&sources)?;
    let outcome = match host.become_as(&loaded.config, &attachments) {
        Ok(outcome) => outcome,
        Err(error) => {
            match before.as_ref().ok().and_then(Option::as_ref) {
                Some((old, _)) => host.store.set_applied(old)?,
                None => host.store.clear_applied()?,
            }
            return Err(undo(&mut host, error, |host| {
                let config = before.as_ref().ok().and_then(Option::as_ref).map(|(_, config)| config);
                host.go_back(config, &attachments)
            }));
        }
    };
    if !global.json {
        eprint!("{}", loaded.warnings.render(show::color_on_stderr()));
        outcome.notices.iter().for_each(|notice| eprintln!("{notice}"));
    }
    report(global, &outcome);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn down(global: &Global) -> Result<ExitCode, Failure> {
    let mut host = Host::open(global)?;
    let outcome = host.become_nothing()?;
    host.store.set_attachments(&Default::default())?;
    host.store.clear_applied()?;
    report(global, &outcome);
    Ok(ExitCode::SUCCESS)
}

/// Goes back after a failed change and tells how that went; what never began needs no going back.
pub(super) fn undo(
    host: &mut Host,
    error: ConvergeError,
    back: impl FnOnce(&mut Host) -> &'static str,
) -> Failure {
    let began = !matches!(error, ConvergeError::Unfit(_) | ConvergeError::Observe(_));
    let mut failure = Failure::from(error);
    if began {
        let how = back(host);
        if let Failure::Failed { details, .. } = &mut failure {
            details.push(how.to_owned());
        }
    }
    failure
}

/// What was done.
pub(super) fn report(global: &Global, outcome: &Outcome) {
    if global.json {
        println!(
            "{}",
            json!({
                "done": outcome.done,
                "notices": outcome.notices.iter().map(show::notice_json).collect::<Vec<_>>(),
            })
        );
        return;
    }
    outcome.done.iter().for_each(|line| println!("{line}"));
    if outcome.done.is_empty() {
        println!("Nothing to do.");
    }
}
