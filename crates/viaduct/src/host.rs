//! One host as the commands see it: what is remembered of it, its kernel, and the lock under which both are changed.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use viaduct_kernel::Kernel;
use viaduct_model::{Config, Loaded, Source};
use viaduct_plan::Attachments;
use viaduct_reconcile::{ConvergeError, Lock, Outcome, Store, StoreError, Wish, change, converge};

use crate::{
    cli::Global,
    failure::Failure,
    show::{Progress, tell},
};

/// A configuration as it was applied.
#[derive(Clone)]
pub(crate) struct Applied {
    pub(crate) sources: Vec<Source>,
    pub(crate) config: Config,
}

/// What a host was made, and what is remembered of it.
#[derive(Clone)]
pub(crate) struct Situation {
    pub(crate) applied: Option<Applied>,
    pub(crate) attachments: Attachments,
}

impl Situation {
    fn wish(&self) -> Wish<'_> {
        match &self.applied {
            Some(applied) => Wish::Be(&applied.config, &self.attachments),
            None => Wish::Nothing,
        }
    }

    fn remember(&self, store: &Store) -> Result<(), StoreError> {
        store.set_attachments(&self.attachments)?;
        match &self.applied {
            Some(applied) => store.set_applied(&applied.sources),
            None => store.clear_applied(),
        }
    }
}

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
        let lock = store.lock(|| tell!("Another viaduct is changing this host; waiting for it."))?;
        let kernel = kernel(global)?;
        Ok(Self { store, kernel, _lock: lock })
    }

    /// What was applied and attached.
    pub(crate) fn situation(&self) -> Result<Situation, Failure> {
        Ok(Situation { applied: applied(&self.store)?, attachments: self.store.attachments()? })
    }

    /// Makes the host what it is to be, and remembers that. When it fails, host and memory are as they were before,
    /// which is none when it is not known.
    pub(crate) fn turn(&mut self, before: Option<&Situation>, after: &Situation) -> Result<Outcome, Failure> {
        // Remembered first: whoever finds a half-done change finishes it.
        if let Err(error) = after.remember(&self.store) {
            let failure = Failure::from(error).with("Nothing was changed.");
            return Err(self.remember_again(before, failure));
        }
        let mut progress = Progress::new();
        let changed =
            change(&mut self.kernel, before.map(Situation::wish), after.wish(), &mut |done, total| {
                progress.at(done, total);
            });
        drop(progress);
        changed.map_err(|error| self.remember_again(before, error.into()))
    }

    fn remember_again(&self, before: Option<&Situation>, failure: Failure) -> Failure {
        match before.map(|before| before.remember(&self.store)) {
            None | Some(Ok(())) => failure,
            Some(Err(error)) => failure.with(format!(
                "That it is not applied could not be written down either ({error}); run `viaduct apply` when it can."
            )),
        }
    }

    /// Takes everything of ours away.
    pub(crate) fn become_nothing(&mut self) -> Result<Outcome, ConvergeError> {
        let mut progress = Progress::new();
        converge(&mut self.kernel, Wish::Nothing, &mut |done, total| progress.at(done, total))
    }
}

/// The configuration that was applied last; none when none was.
pub(crate) fn applied(store: &Store) -> Result<Option<Applied>, Failure> {
    let Some(sources) = store.applied()? else { return Ok(None) };
    match viaduct_model::load(&sources) {
        Ok(Loaded { config, .. }) => Ok(Some(Applied { sources, config })),
        // It was right when it was applied; an update of this program sees it otherwise.
        Err(diagnostics) => Err(Failure::Failed {
            message: "this version of viaduct finds fault with the configuration that was applied; the network goes on \
                      as it is. Correct it, and run `viaduct apply`"
                .to_owned(),
            details: diagnostics.render(false).lines().map(str::to_owned).collect(),
        }),
    }
}

/// Opens the kernel. A socket stays open in each guest's namespace, which may be more than a shell's soft limit
/// allows; the limit that the administrator meant is the hard one. Programs that `exec` runs keep their own.
pub(crate) fn kernel(global: &Global) -> Result<Kernel, Failure> {
    let limit = getrlimit(Resource::Nofile);
    // It can only be refused where it is not needed: never above the hard limit.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    Ok(Kernel::new(&global.run_dir)?)
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
