use std::{path::PathBuf, process::ExitCode};

use serde::Serialize;
use viaduct_model::edit::Edit;

use super::{ask, say_done};
use crate::{
    cli::{self, Global},
    failure::Failure,
    files::{self, Staged},
    operations::{Set, WasSet, edit_all},
    show::{self, say},
};

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    set: WasSet,
    saved: Vec<PathBuf>,
}

/// Changes the applied configuration as one would edit its files, and with `--save` the files, too.
pub(super) fn run(global: &Global, arguments: &cli::Set) -> Result<ExitCode, Failure> {
    let cli::Set { nic, address_add, address_del, publish, unpublish, save } = arguments.clone();
    let set = Set { nic, address_add, address_del, publish, unpublish };
    // Written beside the files before anything else is changed: a full or read-only disk shows now.
    let _others_wait = save.then(|| files::lock(&global.config)).transpose()?;
    let staged = if save { stage(global, &set.edits())? } else { Vec::new() };
    let set = ask(global, set)?;
    let saved = staged.into_iter().map(Staged::replace).collect::<Result<_, _>>()?;
    let report = Report { set, saved };
    if global.json {
        show::say_json(&report);
        return Ok(ExitCode::SUCCESS);
    }
    let Report { set, saved } = report;
    set.unchanged.iter().for_each(|line| say!("{line}"));
    say_done(&set.done, &set.notices);
    for path in &saved {
        say!("Saved in {}.", path.display());
    }
    if !save && !set.done.is_empty() {
        say!("This lasts until the next `viaduct apply`; with --save it stays.");
    }
    Ok(ExitCode::SUCCESS)
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
