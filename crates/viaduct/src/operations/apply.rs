use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use viaduct_model::{Diagnostics, Loaded};

use super::{Caller, File, Operation, Remark, confirm, probe, sources, vnets::MOST_MACS};
use crate::{
    failure::Failure,
    host::Host,
    situation::{Applied, Situation},
    vnets,
};

/// Makes the host what a configuration says.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Apply {
    /// The configuration's files, in their order.
    pub(crate) files: Vec<File>,
    /// Milliseconds until it is undone unless confirmed.
    #[serde(default)]
    pub(crate) confirm: Option<u64>,
}

/// What was changed.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Changed {
    /// What was done, a line each.
    pub(crate) done: Vec<String>,
    /// What is to be said about the configuration on this host.
    pub(crate) notices: Vec<Remark>,
    /// What is to be said about the configuration by itself.
    #[serde(default)]
    #[schemars(with = "Vec<serde_json::Value>")]
    pub(crate) diagnostics: Diagnostics,
}

impl Operation for Apply {
    const NAME: &'static str = "apply";
    const WRITES: bool = true;
    type Report = Changed;

    fn perform(self, host: &mut Host, caller: &mut Caller<'_>) -> Result<Changed, Failure> {
        if self.confirm.is_none() {
            confirm::check_none_waits(host)?;
        }
        let sources = sources(self.files);
        let beside = vnets::beside(&host.store)?;
        let Loaded { config, warnings } = viaduct_model::load_beside(&sources, &beside)?;
        let attachments = host.attachments()?;
        let (before, lost) = match host.applied() {
            Ok(applied) => (Some(Situation::new(applied, Arc::clone(&attachments), host.beyond()?)), None),
            // Not worth stopping for: this is what writes it anew.
            Err(failure) => {
                let lost =
                    format!("what was applied before is not known and is replaced: {}", failure.line());
                (None, Some(Remark::warning(lost)))
            }
        };
        let applied = Some(Arc::new(Applied::new(sources, config)));
        let after = Situation::new(applied, attachments, host.beyond()?);
        probe::are_free(host, before.as_ref(), &after)?;
        let (outcome, mut notices) =
            confirm::make(host, before.as_ref(), &after, Self::NAME, self.confirm, caller)?;
        notices.extend(lost);
        notices.extend(elsewhere(host, &after));
        Ok(Changed { done: outcome.done, notices, diagnostics: warnings })
    }
}

/// What other hosts of its vnets have of what this one has, as far as that is known.
fn elsewhere(host: &Host, after: &Situation) -> Vec<Remark> {
    let Some(config) = after.config().filter(|config| !config.vnets.is_empty()) else { return Vec::new() };
    let Some(report) = vnets::report(host.store.run_dir(), MOST_MACS) else { return Vec::new() };
    vnets::elsewhere(config, after.attached(), &report).into_iter().map(Remark::warning).collect()
}

/// Takes everything of ours away.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Down {}

impl Operation for Down {
    const NAME: &'static str = "down";
    const WRITES: bool = true;
    type Report = Changed;

    fn perform(self, host: &mut Host, caller: &mut Caller<'_>) -> Result<Changed, Failure> {
        let outcome = host.become_nothing(caller)?;
        host.store.disarm()?;
        let mut notices = Remark::all(&outcome.notices);
        // A host that was never given anything has no history of that.
        if host.store.last_revision()?.is_some() {
            notices.extend(host.record(Self::NAME, caller, &[]));
        }
        Ok(Changed { done: outcome.done, notices, diagnostics: Diagnostics::default() })
    }
}
