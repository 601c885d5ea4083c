//! One host as the commands see it: its stored state, its kernel, and the lock under which both are changed.

use viaduct_kernel::Kernel;
use viaduct_model::{Config, Loaded, Source};
use viaduct_plan::Attachments;
use viaduct_reconcile::{ConvergeError, Lock, Outcome, Store, Wish, converge};

use crate::{cli::Global, failure::Failure, show::Progress};

/// A host that may be changed: root, locked.
pub(crate) struct Host {
    pub(crate) store: Store,
    pub(crate) kernel: Kernel,
    _lock: Lock,
}

impl Host {
    pub(crate) fn open(global: &Global) -> Result<Self, Failure> {
        require_root()?;
        let store = Store::open(&global.state_dir, &global.run_dir)?;
        let lock = store.lock()?;
        let kernel = Kernel::new(&global.run_dir)?;
        Ok(Self { store, kernel, _lock: lock })
    }

    /// Makes the host what a configuration and attachments say.
    pub(crate) fn become_as(
        &mut self,
        config: &Config,
        attachments: &Attachments,
    ) -> Result<Outcome, ConvergeError> {
        let mut progress = Progress::new();
        converge(&mut self.kernel, Wish::Be(config, attachments), &mut |done, total| progress.at(done, total))
    }

    /// Takes everything of ours away.
    pub(crate) fn become_nothing(&mut self) -> Result<Outcome, ConvergeError> {
        let mut progress = Progress::new();
        converge(&mut self.kernel, Wish::Nothing, &mut |done, total| progress.at(done, total))
    }

    /// After a change failed: back to what was applied before.
    pub(crate) fn go_back(&mut self, before: Option<&Config>, attachments: &Attachments) -> &'static str {
        let back = match before {
            Some(config) => self.become_as(config, attachments),
            None => self.become_nothing(),
        };
        match back {
            Ok(_) => "everything is as it was before",
            Err(_) => "going back to what was before failed, too: `viaduct plan` shows what is left to do",
        }
    }
}

/// The configuration that was applied last, with its files.
pub(crate) fn applied(store: &Store) -> Result<Option<(Vec<Source>, Config)>, Failure> {
    let Some(sources) = store.applied()? else { return Ok(None) };
    // It was right when it was applied; an update of this program may see it otherwise.
    let Loaded { config, .. } = viaduct_model::load(&sources)?;
    Ok(Some((sources, config)))
}

/// Only root may look at and change the packet filter.
pub(crate) fn require_root() -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        Ok(())
    } else {
        Err(Failure::failed(
            "this needs root, as it looks at or changes the host's network: try again with sudo",
        ))
    }
}
