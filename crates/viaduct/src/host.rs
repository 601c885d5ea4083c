//! One host as operations see it: what is remembered of it, its kernel, and the lock under which both are changed.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Child,
    sync::Arc,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use viaduct_kernel::Kernel;
use viaduct_model::{Leases, Source};
use viaduct_plan::{Attachments, Served, Told};
use viaduct_reconcile::{
    Aftermath, Known, Lock, Outcome, Store, StoreError, Unconfirmed, Wish, change, change_part, converge,
};

use crate::{
    cli::Global,
    failure::Failure,
    guard::Guards,
    operations::{Caller, Daemon, Remark},
    situation::{Applied, Beyond, Situation, loaded},
};

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
    /// Whether something was found out that the host has to be made anew for.
    pub(crate) wants_look: bool,
    /// What guests are to be told from now on, one after the other, when that may have changed.
    pub(crate) served: Vec<Told>,
    /// What was applied, with the file that says so.
    known: Option<(Identity, Arc<Applied>)>,
    /// What is attached, with the file that says so.
    known_attachments: Option<(Identity, Arc<Attachments>)>,
    /// What the host was like when it was looked at and nothing was left to do, or changed in part since; none when
    /// it has to be looked at as a whole.
    made: Option<(Situation, Known)>,
    guards: Guards,
    /// Who has to know what the host is going to be before it is.
    pub(crate) ahead: Option<Ahead>,
    /// Who tells other hosts which NICs are here, and waits until they know.
    pub(crate) known_elsewhere: Option<Elsewhere>,
}

/// Hears what a host is going to be.
pub(crate) type Ahead = Box<dyn Fn(&Situation) + Send>;

/// Hears what a host is by now, and returns when others know of it.
pub(crate) type Elsewhere = Box<dyn Fn(&Situation) + Send>;

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
            wants_look: false,
            served: Vec::new(),
            known: None,
            known_attachments: None,
            made: None,
            guards: Guards::default(),
            ahead: None,
            known_elsewhere: None,
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
        let attachments = self.attachments()?;
        let (applied, known) = (self.applied()?, self.beyond()?);
        Ok(match &self.made {
            Some((made, _)) => Situation::like(made, applied, attachments, known),
            None => Situation::new(applied, attachments, known),
        })
    }

    /// What is known beyond configuration and attachments.
    pub(crate) fn beyond(&self) -> Result<Beyond, Failure> {
        // When that is not known, addresses are lent anew, to the same NICs mostly.
        let leases = self.store.leases().unwrap_or_else(|error| {
            tracing::warn!("{}", Failure::from(error).line());
            Leases::default()
        });
        Ok(Beyond { leases, created: self.store.created()?, found: self.store.found() })
    }

    /// The configuration that was applied last; none when none was. A change that nobody confirmed in time does not
    /// count, also when that could not be written down yet.
    pub(crate) fn applied(&mut self) -> Result<Option<Arc<Applied>>, Failure> {
        if let Some(waiting) = self.store.unconfirmed().ok().flatten().filter(is_over) {
            let before = Some(waiting.before).filter(|before| !before.is_empty());
            return before.map(|before| loaded(before).map(Arc::new)).transpose();
        }
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

    /// What is attached.
    pub(crate) fn attachments(&mut self) -> Result<Arc<Attachments>, Failure> {
        let identity = Identity::of(&self.store.attachments_path());
        if let Some((known, attachments)) = &self.known_attachments
            && Some(known) == identity.as_ref()
        {
            return Ok(Arc::clone(attachments));
        }
        let attachments = Arc::new(self.store.attachments()?);
        self.known_attachments = identity.map(|identity| (identity, Arc::clone(&attachments)));
        Ok(attachments)
    }

    /// The whole host was looked at and is like this, with nothing left to do.
    pub(crate) fn is_made(&mut self, situation: &Situation, outcome: &Outcome) {
        self.made = Known::after(&mut self.kernel, situation.config(), outcome)
            .map(|known| (situation.clone(), known));
    }

    /// Whether it is known what the host is like.
    pub(crate) fn is_known(&self) -> bool {
        self.made.is_some()
    }

    /// It is no longer known what the host is like.
    pub(crate) fn is_not_as_made(&mut self) {
        self.made = None;
    }

    /// Makes the change by itself, when the rest of the host is known to be as it should be.
    fn turn_part(
        &mut self,
        before: &Situation,
        after: &Situation,
        caller: &mut Caller<'_>,
    ) -> Option<Outcome> {
        let (made, known) = self.made.take()?;
        // Those that led nowhere may be forgotten since: nothing is there of them.
        let lead = |situation: &Situation| -> Vec<_> {
            let lead = |nic: &&_| !known.is_stale(nic);
            situation.attachments.keys().filter(lead).cloned().collect()
        };
        let same = Arc::ptr_eq(&made.attachments, &before.attachments)
            || made.attachments == before.attachments
            || lead(&made) == lead(before);
        if !same || !made.is_applied_as(before) || made.known != before.known {
            return None;
        }
        let (outcome, known) =
            change_part(&mut self.kernel, &known, before.side()?, after.side()?, caller.progress)?;
        self.made = known.map(|known| (after.clone(), known));
        self.served.push(outcome.served.clone());
        Some(outcome)
    }

    /// Makes the host what it is to be, and remembers that. When it fails, host and memory are as they were before,
    /// which is none when it is not known.
    pub(crate) fn turn(
        &mut self,
        before: Option<&Situation>,
        after: &Situation,
        caller: &mut Caller<'_>,
    ) -> Result<Outcome, NotMade> {
        self.go_ahead(after);
        // Remembered first: whoever finds a half-done change finishes it.
        let written = after.remember(&self.store, before);
        let written = written.map_err(|error| self.not_written(before, after, error))?;
        if let (Some(applied), Some(identity)) = (&after.applied, Identity::of(&self.store.applied_path())) {
            self.known = Some((identity, Arc::clone(applied)));
        }
        self.known_attachments = Identity::of(&self.store.attachments_path())
            .map(|identity| (identity, Arc::clone(&after.attachments)));
        let vnet_changes = before.map(|before| before.vnet_changes(after)).unwrap_or_default();
        if let Some(mut outcome) = before.and_then(|before| self.turn_part(before, after, caller)) {
            outcome.done.extend(vnet_changes);
            return Ok(outcome);
        }
        self.made = None;
        // The journal of settings is kept beside it: that nothing can be written there is known before the first step.
        if !written {
            let again = self.store.set_attachments(&after.attachments);
            again.map_err(|error| self.not_written(before, after, error))?;
            self.known_attachments = Identity::of(&self.store.attachments_path())
                .map(|identity| (identity, Arc::clone(&after.attachments)));
        }
        match change(&mut self.kernel, before.map(Situation::wish), after.wish(), caller.progress) {
            Ok(mut outcome) => {
                self.is_made(after, &outcome);
                self.served.push(outcome.served.clone());
                outcome.done.extend(vnet_changes);
                Ok(outcome)
            }
            Err(error) => {
                let as_before = matches!(error.aftermath, Aftermath::Untouched | Aftermath::Undone);
                Err(NotMade { failure: self.remember_again(before, after, error.into()), as_before })
            }
        }
    }

    /// Waits until the hosts that share a vnet with this one know which NICs are here.
    pub(crate) fn make_known(&self, after: &Situation) {
        self.known_elsewhere.iter().for_each(|tell| tell(after));
    }

    fn go_ahead(&self, after: &Situation) {
        self.ahead.iter().for_each(|tell| tell(after));
    }

    /// Makes the host what it should be already, unless it is known to be that.
    pub(crate) fn make_sure(
        &mut self,
        situation: &Situation,
        caller: &mut Caller<'_>,
    ) -> Result<Outcome, NotMade> {
        let is_made = self.made.as_ref().is_some_and(|(made, _)| {
            made.is_applied_as(situation) && made.attachments == situation.attachments
        });
        if is_made { Ok(Outcome::default()) } else { self.turn(Some(situation), situation, caller) }
    }

    /// Makes the host what it is to be, as far as possible, and remembers that; there is no way back. It is made so also
    /// when that cannot be written down, which is an error then.
    pub(crate) fn become_at_last(
        &mut self,
        after: &Situation,
        caller: &mut Caller<'_>,
    ) -> Result<Outcome, Failure> {
        self.made = None;
        self.go_ahead(after);
        // A full disk must not keep the host cut off.
        let written = after.remember(&self.store, None);
        let outcome = converge(&mut self.kernel, after.wish(), caller.progress)?;
        self.served.push(outcome.served.clone());
        written.map_err(|error| {
            Failure::from(error)
                .with("The network is made as it is to be; that it is will be written down when it can be.")
        })?;
        Ok(outcome)
    }

    /// Takes everything of ours away, and forgets it.
    pub(crate) fn become_nothing(&mut self, caller: &mut Caller<'_>) -> Result<Outcome, Failure> {
        self.made = None;
        let outcome = converge(&mut self.kernel, Wish::Nothing, caller.progress).map_err(|error| {
            Failure::from(error)
                .with("The rest was taken away. What was applied is still known: `viaduct down` goes on.")
        })?;
        self.store.set_attachments(&Attachments::default())?;
        self.store.clear_applied()?;
        self.served.push(Told::Whole(Served::default()));
        Ok(outcome)
    }

    fn not_written(&self, before: Option<&Situation>, after: &Situation, error: StoreError) -> NotMade {
        let failure = Failure::from(error).with("Nothing was changed.");
        NotMade { failure: self.remember_again(before, after, failure), as_before: true }
    }

    /// Writes down again what was so before, of what is not so `after`.
    fn remember_again(&self, before: Option<&Situation>, after: &Situation, failure: Failure) -> Failure {
        match before.map(|before| before.remember(&self.store, Some(after))) {
            None | Some(Ok(_)) => failure,
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

/// Whether nobody confirmed the change in time.
pub(crate) fn is_over(waiting: &Unconfirmed) -> bool {
    waiting.deadline.left(&crate::clock::moment()).is_none()
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
