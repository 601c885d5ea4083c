use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use viaduct_model::{
    Address, Config, Loaded, Source,
    edit::{self, Edit, EditError, EditOutcome, Edited},
};
use viaduct_types::{NicId, Publish};

use super::{Caller, Operation, Remark, confirm, names, probe};
use crate::{failure::Failure, host::Host, situation::Applied};

/// Changes a guest's addresses and published ports.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Set {
    /// The guest; addresses are those of its first NIC, or as GUEST.N of any of them.
    #[schemars(with = "String")]
    pub(crate) nic: NicId,
    /// One more address for it, as IP or IP/LENGTH.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(crate) address_add: Vec<Address>,
    /// One address less.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(crate) address_del: Vec<Address>,
    /// One more published port, as [ADDRESS:]HOST-PORT:GUEST-PORT[/PROTO].
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(crate) publish: Vec<Publish>,
    /// One published port less.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(crate) unpublish: Vec<Publish>,
}

/// What `set` changed.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct WasSet {
    /// What was done, a line each.
    pub(crate) done: Vec<String>,
    /// What was so already.
    pub(crate) unchanged: Vec<String>,
    /// What is to be said about it.
    pub(crate) notices: Vec<Remark>,
}

impl Operation for Set {
    const NAME: &'static str = "set";
    const WRITES: bool = true;
    type Report = WasSet;

    /// Changes the applied configuration as one would edit its files.
    fn perform(self, host: &mut Host, caller: &mut Caller<'_>) -> Result<WasSet, Failure> {
        let before = host.situation()?;
        let Some(config) = before.config() else {
            return Err(Failure::failed("no configuration is applied yet: run `viaduct apply` first"));
        };
        if config.nic(&self.nic).is_none() {
            return Err(names::unknown(&self.nic, config));
        }
        confirm::check_none_waits(host)?;
        let Some(applied) = &before.applied else {
            return Err(Failure::failed("no configuration is applied yet: run `viaduct apply` first"));
        };
        // Not with the addresses that are lent: those are not of the file.
        let (applied, unchanged) = edited(before.sources(), &applied.config, &self.edits())?;
        let after = before.with_applied(Some(Arc::new(applied)));
        probe::are_free(host, Some(&before), &after)?;
        let outcome = host.turn(Some(&before), &after, caller)?;
        let mut notices = Remark::of_change(&outcome.notices, &before, &after);
        notices.extend(host.record(&format!("{} {}", Self::NAME, self.nic), caller, after.sources()));
        Ok(WasSet { done: outcome.done, unchanged, notices })
    }
}

impl Set {
    /// It as edits of the files.
    pub(crate) fn edits(&self) -> Vec<Edit> {
        let nic = || self.nic.clone();
        let guest = || self.nic.guest.clone();
        let remove = self.address_del.iter().map(|a| Edit::RemoveAddress { nic: nic(), address: *a });
        let add = self.address_add.iter().map(|a| Edit::AddAddress { nic: nic(), address: *a });
        let unpublish = self.unpublish.iter().map(|p| Edit::Unpublish { guest: guest(), publish: *p });
        let publish = self.publish.iter().map(|p| Edit::Publish { guest: guest(), publish: *p });
        remove.chain(add).chain(unpublish).chain(publish).collect()
    }
}

/// The configuration with the edits made, read anew as far as needed, and what of them was so already.
fn edited(sources: &[Source], config: &Config, edits: &[Edit]) -> Result<(Applied, Vec<String>), Failure> {
    if let Some(Edited { sources, config, outcomes }) = edit::apply_to_loaded(sources, config, edits) {
        let idle = edits.iter().zip(outcomes).filter_map(|(edit, outcome)| idle(edit, outcome)).collect();
        return Ok((Applied::new(sources, config), idle));
    }
    let mut sources = sources.to_vec();
    let unchanged = edit_all(&mut sources, edits)?;
    let Loaded { config, .. } = viaduct_model::load(&sources)?;
    Ok((Applied::new(sources, config), unchanged))
}

/// Makes the edits, and says of those that changed nothing why.
pub(crate) fn edit_all(sources: &mut [Source], edits: &[Edit]) -> Result<Vec<String>, Failure> {
    let mut said = Vec::new();
    for edit in edits {
        let outcome = edit::apply(sources, edit).map_err(|error| match error {
            EditError::Refused(diagnostics) => Failure::from(diagnostics),
            EditError::UnknownGuest { .. } | EditError::UnknownNic { .. } | EditError::Broken { .. } => {
                Failure::usage(error.to_string())
            }
        })?;
        said.extend(idle(edit, outcome));
    }
    Ok(said)
}

/// Why an edit changed nothing, if it did not.
fn idle(edit: &Edit, outcome: EditOutcome) -> Option<String> {
    let what = || match edit {
        Edit::AddAddress { nic, address } | Edit::RemoveAddress { nic, address } => {
            format!("{address} of {nic}")
        }
        Edit::Publish { guest, publish } | Edit::Unpublish { guest, publish } => {
            format!("{publish} of {guest}")
        }
    };
    match outcome {
        EditOutcome::Changed { .. } => None,
        EditOutcome::AlreadyThere => Some(format!("{} is there already.", what())),
        EditOutcome::NotThere => Some(format!("{} is not there.", what())),
    }
}
