//! One host as operations see it: what is remembered of it, its kernel, and the lock under which both are changed.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Child,
    sync::Arc,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use viaduct_kernel::Kernel;
use viaduct_model::{Config, Loaded, Source};
use viaduct_plan::Attachments;
use viaduct_reconcile::{Aftermath, Lock, Outcome, Store, StoreError, Wish, change, converge};

use crate::{
    cli::Global,
    failure::Failure,
    guard::Guards,
    operations::{Caller, Daemon, Remark},
};

/// A configuration as it was applied.
pub(crate) struct Applied {
    pub(crate) sources: Vec<Source>,
    pub(crate) config: Config,
}

/// What a host was made, and what is remembered of it.
#[derive(Clone)]
pub(crate) struct Situation {
    pub(crate) applied: Option<Arc<Applied>>,
    pub(crate) attachments: Attachments,
}

impl Situation {
    pub(crate) fn wish(&self) -> Wish<'_> {
        match &self.applied {
            Some(applied) => Wish::Be(&applied.config, &self.attachments),
            None => Wish::Nothing,
        }
    }

    pub(crate) fn config(&self) -> Option<&Config> {
        self.applied.as_ref().map(|applied| &applied.config)
    }

    /// Its files; none when nothing is applied.
    pub(crate) fn sources(&self) -> &[Source] {
        self.applied.as_ref().map_or(&[], |applied| &applied.sources)
    }

    fn remember(&self, store: &Store) -> Result<(), StoreError> {
        store.set_attachments(&self.attachments)?;
        match &self.applied {
            Some(applied) => store.set_applied(&applied.sources),
            None => store.clear_applied(),
        }
    }
}

/// A change that was not made.
pub(crate) struct NotMade {
    /// Why.
    pub(crate) failure: Failure,
    /// Whether the host is as it was before.
    pub(crate) as_before: bool,
}

impl From<NotMade> for Failure {
    fn from(not_made: NotMade) -> Self {
        not_made.failure
    }
}

/// A host that may be looked at and, under its lock, changed: by root.
pub(crate) struct Host {
    pub(crate) store: Store,
    pub(crate) kernel: Kernel,
    /// Where the configuration is.
    pub(crate) config: PathBuf,
    /// Who keeps this host as it is.
    pub(crate) daemon: Daemon,
    /// Whether something was done with the kernel since the keeper last heard of changes.
    pub(crate) touched: bool,
    /// What was applied, with the file that says so.
    known: Option<(Identity, Arc<Applied>)>,
    guards: Guards,
}

/// A file as it was when it was read.
#[derive(Clone, PartialEq, Eq)]
struct Identity {
    inode: u64,
    changed: (i64, i64),
    size: u64,
}

impl Identity {
    fn of(path: &Path) -> Option<Self> {
        let data = path.metadata().ok()?;
        Some(Self { inode: data.ino(), changed: (data.ctime(), data.ctime_nsec()), size: data.size() })
    }
}

impl Host {
    pub(crate) fn open(global: &Global) -> Result<Self, Failure> {
        require_root()?;
        let store = Store::open(&global.state_dir, &global.run_dir)?;
        Ok(Self {
            store,
            kernel: kernel(&global.run_dir)?,
            config: global.config.clone(),
            daemon: Daemon::default(),
            touched: false,
            known: None,
            guards: Guards::default(),
        })
    }

    /// Keeps hold of a process that waits for an unconfirmed change, and lets go of those that ended.
    pub(crate) fn keep(&mut self, guard: Child) {
        self.guards.reap();
        self.guards.add(guard);
    }

    /// Nobody else changes this host while the lock is held.
    pub(crate) fn lock(&self, caller: &Caller<'_>) -> Result<Lock, Failure> {
        Ok(self.store.lock(|| caller.wait("Another viaduct is changing this host; waiting for it."))?)
    }

    /// What was applied and attached.
    pub(crate) fn situation(&mut self) -> Result<Situation, Failure> {
        Ok(Situation { applied: self.applied()?, attachments: self.store.attachments()? })
    }

    /// The configuration that was applied last; none when none was.
    pub(crate) fn applied(&mut self) -> Result<Option<Arc<Applied>>, Failure> {
        let identity = Identity::of(&self.store.applied_path());
        if let Some((known, applied)) = &self.known
            && Some(known) == identity.as_ref()
        {
            return Ok(Some(Arc::clone(applied)));
        }
        self.known = None;
        let Some(sources) = self.store.applied()? else { return Ok(None) };
        let applied = Arc::new(loaded(sources)?);
        self.known = identity.map(|identity| (identity, Arc::clone(&applied)));
        Ok(Some(applied))
    }

    /// Makes the host what it is to be, and remembers that. When it fails, host and memory are as they were before,
    /// which is none when it is not known.
    pub(crate) fn turn(
        &mut self,
        before: Option<&Situation>,
        after: &Situation,
        caller: &mut Caller<'_>,
    ) -> Result<Outcome, NotMade> {
        // Remembered first: whoever finds a half-done change finishes it.
        if let Err(error) = after.remember(&self.store) {
            let failure = Failure::from(error).with("Nothing was changed.");
            return Err(NotMade { failure: self.remember_again(before, failure), as_before: true });
        }
        if let (Some(applied), Some(identity)) = (&after.applied, Identity::of(&self.store.applied_path())) {
            self.known = Some((identity, Arc::clone(applied)));
        }
        change(&mut self.kernel, before.map(Situation::wish), after.wish(), caller.progress).map_err(
            |error| {
                let as_before = matches!(error.aftermath, Aftermath::Untouched | Aftermath::Undone);
                NotMade { failure: self.remember_again(before, error.into()), as_before }
            },
        )
    }

    /// Makes the host what it is to be, as far as possible, and remembers that; there is no way back.
    pub(crate) fn become_at_last(
        &mut self,
        after: &Situation,
        caller: &mut Caller<'_>,
    ) -> Result<Outcome, Failure> {
        after.remember(&self.store)?;
        Ok(converge(&mut self.kernel, after.wish(), caller.progress)?)
    }

    /// Takes everything of ours away, and forgets it.
    pub(crate) fn become_nothing(&mut self, caller: &mut Caller<'_>) -> Result<Outcome, Failure> {
        let outcome = converge(&mut self.kernel, Wish::Nothing, caller.progress).map_err(|error| {
            Failure::from(error)
                .with("The rest was taken away. What was applied is still known: `viaduct down` goes on.")
        })?;
        self.store.set_attachments(&Attachments::default())?;
        self.store.clear_applied()?;
        Ok(outcome)
    }

    fn remember_again(&self, before: Option<&Situation>, failure: Failure) -> Failure {
        match before.map(|before| before.remember(&self.store)) {
            None | Some(Ok(())) => failure,
            Some(Err(error)) => failure.with(format!(
                "That it is not applied could not be written down either ({error}); run `viaduct apply` when it can."
            )),
        }
    }

    /// Adds to the history; that the change was made is no less true when this fails.
    pub(crate) fn record(&self, action: &str, caller: &Caller<'_>, sources: &[Source]) -> Option<Remark> {
        let failed = self.store.record(crate::clock::unix_seconds(), action, &caller.by, sources).err()?;
        let failure = Failure::from(failed);
        Some(Remark::warning(format!("this change is not in the history: {}", failure.line())))
    }
}

/// A configuration that was right when it was applied; an update of this program may see it otherwise.
pub(crate) fn loaded(sources: Vec<Source>) -> Result<Applied, Failure> {
    match viaduct_model::load(&sources) {
        Ok(Loaded { config, .. }) => Ok(Applied { sources, config }),
        Err(diagnostics) => {
            let failure = Failure::failed(
                "this version of viaduct finds fault with the configuration that was applied; the network goes on as \
                 it is. Correct it, and run `viaduct apply`",
            );
            Err(diagnostics.render(false).lines().fold(failure, Failure::with))
        }
    }
}

/// Opens the kernel. A socket stays open in each guest's namespace, which may be more than a shell's soft limit
/// allows; the limit that the administrator meant is the hard one. Programs that `exec` runs keep their own.
pub(crate) fn kernel(run_dir: &Path) -> Result<Kernel, Failure> {
    let limit = getrlimit(Resource::Nofile);
    // It can only be refused where it is not needed: never above the hard limit.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    Ok(Kernel::new(run_dir)?)
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
