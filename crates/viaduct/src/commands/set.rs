use std::process::ExitCode;

use viaduct_model::{
    Source,
    edit::{self, Edit, EditError, EditOutcome},
};

use super::apply::{report, undo};
use crate::{
    cli::{Global, Set},
    failure::Failure,
    files,
    host::{Host, applied},
};

/// Changes the applied configuration as one would edit its files, and with `--save` the files, too.
pub(super) fn run(global: &Global, arguments: &Set) -> Result<ExitCode, Failure> {
    let mut host = Host::open(global)?;
    let Some((before, old)) = applied(&host.store)? else {
        return Err(Failure::failed("no configuration is applied yet: run `viaduct apply` first"));
    };
    if old.nic(&arguments.nic).is_none() {
        return Err(super::attach::unknown(&arguments.nic, &old));
    }
    let edits = edits(arguments);
    let mut sources = before.clone();
    let idle = edit_all(&mut sources, &edits)?;
    let loaded = viaduct_model::load(&sources)?;
    let saved = if arguments.save { Some(edited_files(global, &edits)?) } else { None };
    let attachments = host.store.attachments()?;
    host.store.set_applied(&sources)?;
    let outcome = match host.become_as(&loaded.config, &attachments) {
        Ok(outcome) => outcome,
        Err(error) => {
            host.store.set_applied(&before)?;
            return Err(undo(&mut host, error, |host| host.go_back(Some(&old), &attachments)));
        }
    };
    for file in saved.iter().flatten() {
        files::replace(file)?;
    }
    if !global.json {
        idle.iter().for_each(|line| println!("{line}"));
    }
    report(global, &outcome);
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
            other => Failure::Usage(other.to_string()),
        })?;
        let what = || match edit {
            Edit::AddAddress { nic, address } | Edit::RemoveAddress { nic, address } => format!("{address} of {nic}"),
            Edit::Publish { guest, publish } | Edit::Unpublish { guest, publish } => format!("{publish} of {guest}"),
        };
        match outcome {
            EditOutcome::Changed { .. } => {}
            EditOutcome::AlreadyThere => idle.push(format!("{} is there already.", what())),
            EditOutcome::NotThere => idle.push(format!("{} is not there.", what())),
        }
    }
    Ok(idle)
}

/// The files that the edits change, as they will be; checked before anything is done.
fn edited_files(global: &Global, edits: &[Edit]) -> Result<Vec<Source>, Failure> {
    let before = files::read(&global.config)?;
    let mut after = before.clone();
    edit_all(&mut after, edits)?;
    viaduct_model::load(&after)?;
    Ok(after.into_iter().zip(before).filter(|(new, old)| new != old).map(|(new, _)| new).collect())
}
