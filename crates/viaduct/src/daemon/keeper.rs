//! The keeper: looks at the host when something may be wrong with it, puts it right, and does what clients ask.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use tracing::{info, warn};
use viaduct_kernel::{By, Event as Change, Lives, Watch, What};
use viaduct_model::Config;
use viaduct_plan::{Attachments, Served, Target, Told, attached_otherwise};
use viaduct_reconcile::{ConvergeError, Keeper, converge_except};
use viaduct_types::NicId;

use super::{
    jobs::{Job, Queue},
    news::{Event, News},
    service::Service,
    services::Services,
    vnets::Vnets,
};
use crate::{
    clock,
    failure::Failure,
    host::{Host, is_over},
    operations::{self, AllDrops, Caller, Drops, Repair, drops},
    situation::{Applied, Situation},
    vnets::orders,
};

/// A namespace or device that is away for longer does not come back.
const GRACE: Duration = Duration::from_secs(2);
/// After a look that failed, the next comes by itself after this.
const AGAIN: Duration = Duration::from_secs(10);
/// Who waits for the network to be made waits no longer than this: an uplink that is not there may never come.
const PATIENCE: Duration = Duration::from_secs(20);
/// The kernel does not say of all changes whose they are; after a change of ours this makes sure.
const AFTER_OWN: Duration = Duration::from_secs(1);
/// How often listeners hear of dropped packets.
const DROPS: Duration = Duration::from_secs(1);
/// So many repairs are remembered.
const REPAIRS: usize = 20;
/// So many changes are remembered while something is in dispute.
const REMEMBERED: usize = 64;
/// So many changes are named in one repair.
const NAMED: usize = 8;

pub(super) struct Run {
    host: Host,
    watch: Watch,
    lives: Lives,
    /// The attachments and the configuration whose places are followed.
    followed: (Arc<Attachments>, Option<Arc<Applied>>),
    queue: Queue,
    news: News,
    service: Service,
    services: Services,
    vnets: Vnets,
    keeper: Keeper,
    start: Instant,
    /// What others changed since the last look.
    changes: Vec<Change>,
    /// Whether the host was as wanted once.
    kept: bool,
    /// Attachments that led nowhere at the last look, and since when.
    stale: BTreeMap<NicId, Duration>,
    counted: Option<(Duration, AllDrops)>,
}

impl Run {
    pub(super) fn new(
        host: Host,
        (watch, lives): (Watch, Lives),
        queue: Queue,
        news: News,
        (service, services, vnets): (Service, Services, Vnets),
    ) -> Self {
        Self {
            host,
            watch,
            lives,
            followed: (Arc::default(), None),
            queue,
            news,
            service,
            services,
            vnets,
            keeper: Keeper::new(Duration::ZERO),
            start: Instant::now(),
            changes: Vec::new(),
            kept: false,
            stale: BTreeMap::new(),
            counted: None,
        }
    }

    pub(super) fn run(mut self) -> Result<(), Failure> {
        let mut ready = false;
        loop {
            self.finish_return();
            if self.keeper.due() <= self.start.elapsed() {
                self.look();
            }
            for told in std::mem::take(&mut self.host.served) {
                self.services.serve(told);
            }
            if !ready && (self.host.daemon.trouble.is_none() || self.start.elapsed() >= PATIENCE) {
                ready = true;
                self.service.ready();
            }
            self.count_drops();
            self.service.alive();
            self.wait()?;
            self.queue.clear();
            let mut worked = false;
            while let Some(job) = self.queue.next() {
                match job {
                    Job::Do(job) => job(&mut self.host),
                    Job::End => {
                        self.service.stopping();
                        self.services.stop();
                        self.vnets.stop();
                        return Ok(());
                    }
                }
                worked = true;
            }
            if worked && let Ok(situation) = self.host.situation() {
                self.follow(&situation);
            }
            if std::mem::take(&mut self.host.wants_look) {
                self.look();
            }
            self.hear()?;
            if self.lives.changed() {
                self.keeper.disturbed(self.now());
            }
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Sleeps until something happens or is due.
    fn wait(&self) -> Result<(), Failure> {
        let now = self.now();
        let mut sleep = self.keeper.due().saturating_sub(now);
        if let Ok(Some(waiting)) = self.host.store.unconfirmed() {
            let left = waiting.deadline.left(&clock::moment()).map_or(AGAIN, Duration::from_millis);
            sleep = sleep.min(left);
        }
        if let Some(interval) = self.service.interval() {
            sleep = sleep.min(interval);
        }
        if self.news.anybody() {
            sleep = sleep.min(DROPS);
        }
        let mut sources = [
            PollFd::from_borrowed_fd(self.queue.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.watch.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.lives.as_fd(), PollFlags::IN),
        ];
        // Rounded up, so that what was waited for is due.
        let limit = Timespec::try_from(sleep + Duration::from_micros(100)).ok();
        match poll(&mut sources, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(Failure::failed(format!("cannot wait for events: {errno}"))),
        }
    }

    /// What others changed. After work of our own, what cannot be told apart from it is taken for it.
    fn hear(&mut self) -> Result<(), Failure> {
        let own = self.host.kernel.port_ids();
        let mut heard = self.watch.drain(&own)?;
        let now = self.now();
        if std::mem::take(&mut self.host.touched) {
            let before = heard.len();
            heard.retain(|change| change.by != By::Untold || change.what == What::Lost);
            if heard.len() < before {
                if self.host.is_known() {
                    self.keeper.reassure(now);
                } else {
                    self.keeper.look_by(now + AFTER_OWN);
                }
            }
        }
        if heard.iter().any(|change| change.what == What::Filter && change.ours) {
            self.keeper.opened(now);
        }
        if !heard.is_empty() {
            self.changes.extend(heard);
            self.keeper.disturbed(now);
        }
        Ok(())
    }

    /// Takes the change back that nobody confirmed in time.
    fn finish_return(&mut self) {
        let over = |host: &Host| host.store.unconfirmed().ok().flatten().as_ref().is_some_and(is_over);
        if !over(&self.host) {
            return;
        }
        let mut heart = self.service.heart();
        let mut progress = |_, _| heart.beat();
        let mut caller = Caller { by: "viaduct".to_owned(), progress: &mut progress, waiting: &|_| () };
        if let Err(failure) = operations::finish_return(&mut self.host, &mut caller) {
            self.failed(&failure);
        }
    }

    /// Looks at the host, and puts right what is not as it should be.
    fn look(&mut self) {
        let begun = self.now();
        // What is seen in a look was heard of before.
        if let Err(failure) = self.hear() {
            self.failed(&failure);
        }
        // What is kept by us could not be made anew.
        self.services.leave_what_is_gone();
        let changes = std::mem::take(&mut self.changes);
        let outcome = self.converge(begun);
        let (mut objects, mut stale) = (BTreeSet::new(), BTreeSet::new());
        match outcome {
            Ok(None) => self.host.served.push(Told::Whole(Served::default())),
            Ok(Some(outcome)) => {
                self.host.served.push(outcome.served);
                self.host.daemon.trouble = None;
                (objects, stale) = (outcome.objects, outcome.stale);
                self.host.touched = !objects.is_empty();
                self.report(&changes, outcome.done);
                self.kept = true;
            }
            Err(failure) => {
                self.host.touched = true;
                self.failed(&failure);
            }
        }
        let ended = self.now();
        for dispute in self.keeper.looked(begun, ended, &objects) {
            let seconds = dispute.until.saturating_sub(ended).as_secs();
            let object = dispute.object;
            warn!("another program keeps changing {object}; it is left as it is for {seconds} s");
            self.news.tell(Event::Disputed { object, seconds });
        }
        self.host.daemon.disputed =
            self.keeper.disputes(ended).into_iter().map(|dispute| dispute.object).collect();
        self.clean_up(stale);
        if self.host.daemon.trouble.is_some() {
            self.keeper.look_by(ended + AGAIN);
        }
        // What was left alone is put right later, and then it is of use to know who changed it.
        if !self.host.daemon.disputed.is_empty() {
            self.changes = changes;
            self.changes.sort_by_key(weight);
            self.changes.truncate(REMEMBERED);
        }
        // Of our own steps, too, the kernel does not say whose they were.
        if let Err(failure) = self.hear() {
            self.failed(&failure);
        }
    }

    /// After a change: listens for the end of what guests are attached as since, too, and of shared namespaces. To what
    /// they are no longer attached as, it listens until the next look.
    fn follow(&mut self, situation: &Situation) {
        self.hear_of(situation);
        let (attachments, applied) = &self.followed;
        if applied.as_ref().map(Arc::as_ptr) != situation.applied.as_ref().map(Arc::as_ptr) {
            self.follow_all(situation);
            return;
        }
        for target in attached_otherwise(attachments, &situation.attachments).into_values().flatten() {
            namespace_path(target).into_iter().for_each(|path| self.lives.follow_also(path));
        }
        self.followed.0 = Arc::clone(&situation.attachments);
    }

    fn hear_of(&mut self, situation: &Situation) {
        self.vnets.be(situation.config().and_then(|config| orders(config, situation.attached())));
        self.listen_within(situation);
    }

    fn follow_all(&mut self, situation: &Situation) {
        let shared = situation.config().into_iter().flat_map(|config| config.namespaces.keys());
        let shared: Vec<String> = shared.map(|name| format!("/run/netns/{name}")).collect();
        let attached = situation.attachments.values().filter_map(namespace_path);
        self.lives.follow(attached.chain(shared.iter().map(String::as_str)));
        self.followed = (Arc::clone(&situation.attachments), situation.applied.clone());
    }

    /// Hears what is changed in shared namespaces, those that have just been made as well.
    fn listen_within(&mut self, situation: &Situation) {
        let shared = situation.config().into_iter().flat_map(|config| config.namespaces.keys());
        if self.watch.follow(shared) {
            // What was changed before that, nobody heard.
            self.keeper.look_by(self.now() + AFTER_OWN);
        }
    }

    fn converge(&mut self, now: Duration) -> Result<Option<viaduct_reconcile::Outcome>, Failure> {
        let caller = Caller { by: String::new(), progress: &mut |_, _| (), waiting: &|_| () };
        let _lock = self.host.lock(&caller)?;
        let situation = self.host.situation()?;
        // The same are lent again, mostly; nothing that is wrong with the host has to wait for it.
        if let Err(error) = situation.remember_leases(&self.host.store) {
            warn!("which addresses are lent is not remembered: {}", Failure::from(error).line());
        }
        self.hear_of(&situation);
        self.follow_all(&situation);
        if situation.applied.is_none() {
            return Ok(None);
        }
        let left: BTreeSet<String> = self.keeper.disputes(now).into_iter().map(|d| d.object).collect();
        let leave = |op: &viaduct_plan::Op| left.contains(&op.object());
        self.host.is_not_as_made();
        let mut heart = self.service.heart();
        let mut progress = |_, _| heart.beat();
        let outcome = converge_except(&mut self.host.kernel, situation.wish(), &leave, &mut progress);
        self.listen_within(&situation);
        if let Err(ConvergeError::Unstable { objects, .. }) = &outcome {
            let ended = self.now();
            self.keeper.insisted(ended, objects);
        }
        let outcome = outcome?;
        if left.is_empty() {
            self.host.is_made(&situation, &outcome);
        }
        Ok(Some(outcome))
    }

    /// Tells of a repair, with who made it necessary.
    fn report(&mut self, changes: &[Change], done: Vec<String>) {
        if done.is_empty() {
            return;
        }
        if !self.kept {
            info!("made as configured, in {} steps", done.len());
            return;
        }
        let changed = told(changes);
        let repair = Repair { time: clock::calendar(clock::unix_seconds()), changed, done };
        for line in &repair.changed {
            warn!("{line}");
        }
        for line in &repair.done {
            warn!("put right: {line}");
        }
        let repairs = &mut self.host.daemon.repairs;
        repairs.push(repair.clone());
        let surplus = repairs.len().saturating_sub(REPAIRS);
        repairs.drain(..surplus);
        self.service.status(&format!("last repair at {} UTC", repair.time));
        self.news.tell(Event::Repaired(repair));
    }

    /// Attachments that lead nowhere for good are forgotten.
    fn clean_up(&mut self, stale: BTreeSet<NicId>) {
        let now = self.now();
        let since = |nic: &NicId| self.stale.get(nic).copied().unwrap_or(now);
        self.stale = stale.into_iter().map(|nic| (nic.clone(), since(&nic))).collect();
        let (gone, waiting): (Vec<_>, Vec<_>) =
            self.stale.iter().partition(|&(_, &since)| since + GRACE <= now);
        if !waiting.is_empty() {
            self.keeper.look_by(now + GRACE);
        }
        let gone: Vec<NicId> = gone.into_iter().map(|(nic, _)| nic.clone()).collect();
        if gone.is_empty() {
            return;
        }
        if let Err(failure) = forget(&self.host, &gone) {
            self.failed(&failure);
            return;
        }
        for nic in gone {
            info!("{nic} is no longer attached: its namespace or device is gone");
            self.news.tell(Event::Detached { nic: nic.to_string() });
            self.stale.remove(&nic);
        }
    }

    /// Says what is wrong, once.
    fn failed(&mut self, failure: &Failure) {
        let error = failure.line();
        if self.host.daemon.trouble.as_ref() != Some(&error) {
            warn!("{error}");
            self.news.tell(Event::Failed { error: error.clone() });
            self.host.daemon.trouble = Some(error);
        }
    }

    /// Tells listeners which packets were dropped.
    fn count_drops(&mut self) {
        let now = self.now();
        if !self.news.anybody() {
            self.counted = None;
            return;
        }
        if self.counted.as_ref().is_some_and(|(then, _)| *then + DROPS > now) {
            return;
        }
        let Ok(situation) = self.host.situation() else { return };
        let nothing = Config::default();
        let Ok(drops) = drops(&mut self.host, situation.config().unwrap_or(&nothing)) else { return };
        if let Some((_, before)) = &self.counted {
            for (place, drops) in &drops {
                let new = since(before.get(place), drops);
                if !new.is_empty() {
                    let (namespace, device) = place;
                    let namespace = namespace.as_ref().map(ToString::to_string);
                    self.news.tell(Event::Dropped { device: device.to_string(), namespace, drops: new });
                }
            }
        }
        self.counted = Some((now, drops));
    }
}

/// The namespace that a guest is in.
fn namespace_path(target: &Target) -> Option<&str> {
    match target {
        Target::Netns { path, .. } => Some(path),
        Target::Tap { .. } | Target::Device { .. } => None,
    }
}

fn forget(host: &Host, gone: &[NicId]) -> Result<(), Failure> {
    let caller = Caller { by: String::new(), progress: &mut |_, _| (), waiting: &|_| () };
    let _lock = host.lock(&caller)?;
    let mut attachments = host.store.attachments()?;
    attachments.retain(|nic, _| !gone.contains(nic));
    Ok(host.store.set_attachments(&attachments)?)
}

/// Changes for people: those of what is ours first, then those of which it is known who made them; of a table that went,
/// not all that went with it.
fn told(changes: &[Change]) -> Vec<String> {
    let gone: Vec<String> = changes
        .iter()
        .filter(|change| change.removed && change.object.starts_with("table "))
        .map(|change| format!(" in {}", change.object))
        .collect();
    let with_table = |change: &&Change| gone.iter().any(|table| change.object.ends_with(table.as_str()));
    let mut changes: Vec<&Change> = changes.iter().filter(|change| !with_table(change)).collect();
    changes.sort_by_key(|change| weight(change));
    let more = changes.len().saturating_sub(NAMED);
    let mut told: Vec<String> = changes.into_iter().take(NAMED).map(words).collect();
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    told
}

/// What is told first: what is ours, of it whole tables, and that of which it is known who did it.
fn weight(change: &Change) -> (bool, bool, bool) {
    let table = change.removed && change.object.starts_with("table ");
    (!change.ours, !table, !matches!(change.by, By::Process(_)))
}

/// Like `link vd-web was removed by ip (process 123, started by bash)`.
fn words(change: &Change) -> String {
    let verb = if change.object.starts_with("rules ") || change.object.starts_with("elements ") {
        "were"
    } else {
        "was"
    };
    let what = if change.removed { "removed" } else { "changed" };
    match &change.by {
        By::Process(culprit) => format!("{} {verb} {what} by {culprit}", change.object),
        By::Somebody | By::Untold => format!("{} {verb} {what}", change.object),
    }
}

/// What was dropped since; a counter that was reset begins anew.
fn since(before: Option<&Drops>, now: &Drops) -> Drops {
    let new = |(reason, count): (&String, &operations::Count)| {
        let before = before.and_then(|before| before.get(reason)).copied().unwrap_or_default();
        let new = count.since(before);
        (new.packets > 0).then(|| (reason.clone(), new))
    };
    now.iter().filter_map(new).collect()
}
