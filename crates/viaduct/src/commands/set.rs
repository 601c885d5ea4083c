use std::{path::PathBuf, process::ExitCode};

use serde_json::json;
use viaduct_model::{
    Loaded, Source,
    edit::{self, Edit, EditError, EditOutcome},
};

use super::{apply::say_done, names};
use crate::{
    cli::{Global, Set},
    failure::Failure,
    files::{self, Staged},
    host::{Applied, Host, Situation},
    show::{self, say},
};

/// Changes the applied configuration as one would edit its files, and with `--save` the files, too.
pub(super) fn run(global: &Global, arguments: &Set) -> Result<ExitCode, Failure> {
    let mut host = Host::open(global)?;
    let before = host.situation()?;
    let Some(applied) = &before.applied else {
        return Err(Failure::failed("no configuration is applied yet: run `viaduct apply` first"));
    };
    if applied.config.nic(&arguments.nic).is_none() {
        return Err(names::unknown(&arguments.nic, &applied.config));
    }
    let edits = edits(arguments);
    let mut sources = applied.sources.clone();
    let idle = edit_all(&mut sources, &edits)?;
    let Loaded { config, .. } = viaduct_model::load(&sources)?;
    // Written beside the files before anything else is changed: a full or read-only disk shows now.
    let staged = if arguments.save { stage(global, &edits)? } else { Vec::new() };
    let after =
        Situation { applied: Some(Applied { sources, config }), attachments: before.attachments.clone() };
    let outcome = host.turn(Some(&before), &after)?;
    let saved: Vec<PathBuf> = staged.into_iter().map(Staged::replace).collect::<Result<_, _>>()?;
    if global.json {
        say!(
            "{}",
            json!({
                "done": outcome.done,
                "unchanged": idle,
                "saved": saved,
                "notices": show::notices_json(&outcome.notices),
            })
        );
        return Ok(ExitCode::SUCCESS);
    }
    idle.iter().for_each(|line| say!("{line}"));
    say_done(&outcome);
    for path in &saved {
        say!("Saved in {}.", path.display());
    }
    if !arguments.save && !outcome.done.is_empty() {
        say!("This lasts until the next `viaduct apply`; with --save it stays.");
    }
    Ok(ExitCode::SUCCESS)
}

fn edits(arguments: &Set) -> Vec<Edit> {
    let nic = || arguments.nic.clone();
    let guest = || arguments.nic.guest.clone();
    let remove = arguments.address_del.iter().map(|a| Edit::RemoveAddress { nic: nic(), address: *a });
    let add = arguments.address_add.iter().map(|a| Edit::AddAddress { nic: nic(), address: *a });
    let unpublish = arguments.unpublish.iter().map(|p| Edit::Unpublish { guest: guest(), publish: *p });
    let publish = arguments.publish.iter().map(|p| Edit::Publish { guest: guest(), publish: *p });
    remove.chain(add).chain(unpublish).chain(publish).collect()
}

/// Makes the edits, and says of those that changed nothing why.
fn edit_all(sources: &mut [Source], edits: &[Edit]) -> Result<Vec<String>, Failure> {
    let mut idle = Vec::new();
    for edit in edits {
        let outcome = edit::apply(sources, edit).map_err(|error| match error {
            EditError::Refused(diagnostics) => Failure::Configuration(Box::new(diagnostics)),
            EditError::UnknownGuest { .. } | EditError::UnknownNic { .. } | EditError::Broken { .. } => {
                Failure::Usage(error.to_string())
            }
        })?;
        let what = || match edit {
            Edit::AddAddress { nic, address } | Edit::RemoveAddress { nic, address } => {
                format!("{address} of {nic}")
            }
            Edit::Publish { guest, publish } | Edit::Unpublish { guest, publish } => {
                format!("{publish} of {guest}")
            }
        };
        match outcome {
            EditOutcome::Changed { .. } => {}
            EditOutcome::AlreadyThere => idle.push(format!("{} is there already.", what())),
            EditOutcome::NotThere => idle.push(format!("{} is not there.", what())),
        }
    }
    Ok(idle)
}

/// The files that the edits change, as they will be.
fn stage(global: &Global, edits: &[Edit]) -> Result<Vec<Staged>, Failure> {
    let before = files::read(&global.config)?;
    viaduct_model::load(&before)?;
    let mut after = before.clone();
    edit_all(&mut after, edits)?;
    viaduct_model::load(&after)?;
    after.iter().zip(&before).filter(|(new, old)| new != old).map(|(new, _)| Staged::new(new)).collect()
}
