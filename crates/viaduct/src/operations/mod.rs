//! What can be asked of a host. The command line performs an operation itself, or sends it to the daemon, which
//! performs the same; either way under the host's one lock.

mod announce;
mod apply;
mod attach;
mod boot;
mod confirm;
mod created;
mod doctor;
mod history;
mod lend;
mod names;
mod plan;
mod probe;
mod set;
mod status;
pub(crate) mod target;
mod vnets;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use viaduct_model::Source;
use viaduct_plan::{Notice, Severity};
use viaduct_types::VnetName;

pub(crate) use announce::Announce;
pub(crate) use apply::{Apply, Changed, Down};
pub(crate) use attach::{Activate, Attach, Attached, Detach};
pub(crate) use boot::boot;
pub(crate) use confirm::{Confirm, Rollback};
pub(crate) use created::{PeerAdd, PeerDelete, VnetAsked, VnetCreate, VnetDelete};
pub(crate) use doctor::{Ailment, Diagnosis, Doctor, Measure, Mend, Treated, quoted};
pub(crate) use history::{History, Revision};
pub(crate) use lend::lend_another;
pub(crate) use names::unknown;
pub(crate) use plan::Plan;
pub(crate) use set::{Set, WasSet, edit_all};
pub(crate) use status::{
    AllDrops, Count, Daemon, Drops, Made, NicStatus, Repair, Status, StatusReport, drops,
};

pub(crate) use vnets::{DiscoveryView, Mac, PeerView, VnetView, Vnets, VnetsReport};

use crate::{failure::Failure, host::Host, situation::Situation};

/// Something that can be asked of a host.
pub(crate) trait Operation: Serialize + DeserializeOwned + JsonSchema + Send + 'static {
    /// Its name: in the API, and in the history.
    const NAME: &'static str;
    /// Whether it changes the host.
    const WRITES: bool;
    /// Whether it can also be asked for by a query, without a body.
    const QUERY: bool = false;
    /// What it answers.
    type Report: Serialize + DeserializeOwned + JsonSchema + Send + 'static;

    /// Does it. Those that change the host are called under its lock.
    fn perform(self, host: &mut Host, caller: &mut Caller<'_>) -> Result<Self::Report, Failure>;
}

/// Sees each operation there is.
pub(crate) trait Visit {
    fn visit<O: Operation>(&mut self);
}

/// Shows all operations.
pub(crate) fn visit(visitor: &mut impl Visit) {
    visitor.visit::<Apply>();
    visitor.visit::<Confirm>();
    visitor.visit::<Rollback>();
    visitor.visit::<History>();
    visitor.visit::<Plan>();
    visitor.visit::<Status>();
    visitor.visit::<Doctor>();
    visitor.visit::<Mend>();
    visitor.visit::<Attach>();
    visitor.visit::<Activate>();
    visitor.visit::<Detach>();
    visitor.visit::<Set>();
    visitor.visit::<Announce>();
    visitor.visit::<Down>();
    visitor.visit::<Vnets>();
    visitor.visit::<VnetCreate>();
    visitor.visit::<VnetDelete>();
    visitor.visit::<PeerAdd>();
    visitor.visit::<PeerDelete>();
}

/// Who asks, and how they are told what happens meanwhile.
pub(crate) struct Caller<'a> {
    /// The user's name.
    pub(crate) by: String,
    /// Hears how many steps are done of how many.
    pub(crate) progress: &'a mut dyn FnMut(usize, usize),
    /// Hears why nothing happens yet.
    pub(crate) waiting: &'a dyn Fn(&str),
}

impl Caller<'_> {
    pub(crate) fn wait(&self, why: &str) {
        (self.waiting)(why);
    }
}

/// Performs an operation: one that changes the host under the lock, and after what an unconfirmed change left to do.
pub(crate) fn perform<O: Operation>(
    host: &mut Host,
    operation: O,
    caller: &mut Caller<'_>,
) -> Result<O::Report, Failure> {
    if !O::WRITES {
        return operation.perform(host, caller);
    }
    let _lock = host.lock(caller)?;
    host.touched = true;
    if let Err(failure) = confirm::settle(host, caller) {
        tracing::error!("the change that nobody confirmed could not be taken back: {}", failure.line());
    }
    let begun = std::time::Instant::now();
    let result = operation.perform(host, caller);
    tracing::debug!(elapsed_us = begun.elapsed().as_micros(), "performed {}", O::NAME);
    result
}

/// Takes the change back that nobody confirmed in time, if there is one.
pub(crate) fn finish_return(host: &mut Host, caller: &mut Caller<'_>) -> Result<(), Failure> {
    let _lock = host.lock(caller)?;
    host.touched = true;
    confirm::settle(host, caller)
}

/// Something to be said about the configuration on this host.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Remark {
    /// How grave.
    pub(crate) severity: Gravity,
    /// What is the matter, and what to do.
    pub(crate) message: String,
    /// The file that it is about.
    pub(crate) file: Option<String>,
    /// And the line in it.
    pub(crate) line: Option<usize>,
}

/// How grave a remark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Gravity {
    /// It stops us.
    Error,
    /// It does not.
    Warning,
}

impl Remark {
    pub(crate) fn warning(message: impl Into<String>) -> Self {
        Self { severity: Gravity::Warning, message: message.into(), file: None, line: None }
    }

    pub(crate) fn all(notices: &[Notice]) -> Vec<Self> {
        notices.iter().map(Self::from).collect()
    }

    /// Those about a change: what is so of a vnet that is as it was is said by who looks at all of the configuration.
    pub(crate) fn of_change(notices: &[Notice], before: &Situation, after: &Situation) -> Vec<Self> {
        let what = |situation: &Situation, name: &VnetName| {
            let vnet = situation.config()?.vnets.get(name)?;
            Some((vnet.security, vnet.learning))
        };
        let is_new = |notice: &&Notice| {
            notice.vnet.as_ref().is_none_or(|name| what(before, name) != what(after, name))
        };
        notices.iter().filter(is_new).map(Self::from).collect()
    }
}

impl From<&Notice> for Remark {
    fn from(notice: &Notice) -> Self {
        Self {
            severity: match notice.severity {
                Severity::Error => Gravity::Error,
                Severity::Warning => Gravity::Warning,
            },
            message: notice.text.clone(),
            file: notice.origin.as_ref().map(|origin| origin.file.to_string()),
            line: notice.origin.as_ref().map(|origin| origin.line),
        }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.severity {
            Gravity::Error => "error: ",
            Gravity::Warning => "warning: ",
        })?;
        if let (Some(file), Some(line)) = (&self.file, self.line) {
            write!(f, "{file}:{line}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// A file of a configuration.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct File {
    /// As people are to be told where it is.
    pub(crate) name: String,
    /// What is in it.
    pub(crate) text: String,
}

impl From<Source> for File {
    fn from(source: Source) -> Self {
        Self { name: source.name, text: source.text }
    }
}

/// As the model takes them.
fn sources(files: Vec<File>) -> Vec<Source> {
    files.into_iter().map(|file| Source { name: file.name, text: file.text }).collect()
}
