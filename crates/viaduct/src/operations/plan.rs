use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use viaduct_model::Diagnostics;
use viaduct_plan::Severity;
use viaduct_reconcile::look;

use super::{Caller, File, Operation, Remark, sources};
use crate::{
    failure::Failure,
    host::Host,
    situation::{Applied, Situation},
    vnets,
};

/// Shows what a configuration would change.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Plan {
    /// The configuration's files, in their order.
    pub(crate) files: Vec<File>,
}

/// What would change.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Outlook {
    /// Each step.
    pub(crate) changes: Vec<String>,
    /// The steps for people: what belongs together in a line.
    pub(crate) lines: Vec<String>,
    /// What is to be said about the configuration on this host.
    pub(crate) notices: Vec<Remark>,
    /// What is to be said about the configuration by itself.
    #[schemars(with = "Vec<serde_json::Value>")]
    pub(crate) diagnostics: Diagnostics,
}

impl Operation for Plan {
    const NAME: &'static str = "plan";
    const WRITES: bool = false;
    type Report = Outlook;

    fn perform(self, host: &mut Host, _: &mut Caller<'_>) -> Result<Outlook, Failure> {
        let sources = sources(self.files);
        let loaded = viaduct_model::load_beside(&sources, &vnets::beside(&host.store)?)?;
        let applied = Arc::new(Applied::new(sources, loaded.config));
        let after = Situation::new(Some(applied), host.attachments()?, host.beyond()?);
        let outlook = look(&mut host.kernel, after.wish())?;
        let notices = Remark::all(&outlook.notices);
        if outlook.notices.iter().any(|notice| notice.severity == Severity::Error) {
            return Err(Failure::unfit(notices));
        }
        // What was applied cannot be read: then nothing is known of what would be different.
        let of_vnets = host.situation().map(|before| before.vnet_changes(&after)).unwrap_or_default();
        let (mut changes, mut lines) = (outlook.plan.steps(), outlook.plan.lines());
        changes.extend(of_vnets.iter().cloned());
        lines.extend(of_vnets);
        Ok(Outlook { changes, lines, notices, diagnostics: loaded.warnings })
    }
}
