//! A change that is undone unless somebody confirms it in time. It is written down before the change begins, in the
//! directory that survives a reboot, so that whoever comes next can finish what its maker could not.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use viaduct_model::Source;

use super::{AppliedSource, Store, StoreError, read, remove, sources_of, write};

/// A point of time that clock settings do not move: on which boot of the machine, and when of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moment {
    /// /proc/sys/kernel/random/boot_id.
    pub boot: String,
    /// Milliseconds since that boot, sleep included (CLOCK_BOOTTIME).
    pub milliseconds: u64,
}

impl Moment {
    /// Milliseconds until it comes; none when it has come, or the machine was booted since.
    pub fn left(&self, now: &Self) -> Option<u64> {
        if self.boot != now.boot {
            return None;
        }
        self.milliseconds.checked_sub(now.milliseconds).filter(|&left| left > 0)
    }
}

/// A change that nobody has confirmed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unconfirmed {
    /// When it is undone.
    pub deadline: Moment,
    /// The configuration to return to; empty when none was applied.
    pub before: Vec<Source>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    deadline: Moment,
    before: Vec<AppliedSource>,
}

impl Store {
    /// The change that nobody has confirmed yet, if there is one.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn unconfirmed(&self) -> Result<Option<Unconfirmed>, StoreError> {
        let way_out =
            "Remove it to keep the network as it is; what was applied before is in `viaduct history`";
        let Some(Written { deadline, before }) = read(&self.unconfirmed_path(), way_out)? else {
            return Ok(None);
        };
        Ok(Some(Unconfirmed { deadline, before: sources_of(before) }))
    }

    /// Arms the return; to be done before the change begins.
    ///
    /// # Errors
    /// When the file cannot be written; then nothing is armed that was not before.
    pub fn arm(&self, unconfirmed: &Unconfirmed) -> Result<(), StoreError> {
        let Unconfirmed { deadline, before } = unconfirmed;
        let before = before.iter().map(AppliedSource::from).collect();
        write(&self.unconfirmed_path(), &Written { deadline: deadline.clone(), before })
    }

    /// Takes the arming away: the change is kept, or undone.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn disarm(&self) -> Result<(), StoreError> {
        remove(&self.unconfirmed_path())
    }

    fn unconfirmed_path(&self) -> PathBuf {
        self.state.join("unconfirmed.json")
    }
}
