//! Changes that undo themselves unless somebody confirms them in time. The return is written down before the change
//! begins, and a process of its own waits for its time; should that one die, too, whoever next changes the host finishes
//! the return first.

use std::{sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use viaduct_model::Source;
use viaduct_reconcile::{Outcome, Unconfirmed};

use super::{Caller, Operation, Remark, history};
use crate::{
    clock,
    failure::Failure,
    guard,
    host::{Host, is_over},
    situation::{Situation, loaded},
};

/// How the history calls a return that came by itself.
const RETURN: &str = "return, unconfirmed";

/// Keeps the change that waits for it.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Confirm {}

/// What `confirm` answers.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Confirmed {
    /// Whether there was something to confirm.
    pub(crate) confirmed: bool,
}

impl Operation for Confirm {
    const NAME: &'static str = "confirm";
    const WRITES: bool = true;
    type Report = Confirmed;

    fn perform(self, host: &mut Host, _: &mut Caller<'_>) -> Result<Confirmed, Failure> {
        match host.store.unconfirmed()? {
            Some(waiting) if !is_over(&waiting) => {
                host.store.disarm()?;
                return Ok(Confirmed { confirmed: true });
            }
            // It could not be written down yet that it went back, which is why it is still here.
            Some(_) => {
                return Err(Failure::failed(
                    "too late: nobody confirmed the change in time, and the host goes back to what was before",
                ));
            }
            None => {}
        }
        match host.store.history()?.last()?.filter(|last| last.action == RETURN) {
            Some(last) => Err(Failure::failed(format!(
                "too late: nobody confirmed the change in time, and at {} UTC the host went back to what was before",
                clock::calendar(last.time)
            ))
            .with("`viaduct history` has what was taken back; `viaduct rollback N` makes it again.")),
            None => Ok(Confirmed { confirmed: false }),
        }
    }
}

/// Returns to an earlier configuration.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Rollback {
    /// The revision to return to; without it, what was before the last change.
    #[serde(default)]
    pub(crate) revision: Option<u64>,
    /// Milliseconds until it is undone unless confirmed.
    #[serde(default)]
    pub(crate) confirm: Option<u64>,
}

/// What `rollback` answers.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct RolledBack {
    /// The revision that the host is at now; none when it is at none that is kept.
    pub(crate) revision: Option<u64>,
    /// What was done, a line each.
    pub(crate) done: Vec<String>,
    /// What is to be said about it.
    pub(crate) notices: Vec<Remark>,
}

impl Operation for Rollback {
    const NAME: &'static str = "rollback";
    const WRITES: bool = true;
    type Report = RolledBack;

    fn perform(self, host: &mut Host, caller: &mut Caller<'_>) -> Result<RolledBack, Failure> {
        if self.revision.is_none()
            && self.confirm.is_none()
            && let Some(waiting) = host.store.unconfirmed()?
        {
            let (outcome, mut notices) = go_back(host, waiting, Self::NAME, caller)?;
            notices.extend(Remark::all(&outcome.notices));
            return report(host, outcome.done, notices);
        }
        let before = host.situation()?;
        let revision = history::find(host, self.revision, before.sources())?;
        let after = situation(host, revision.sources)?;
        let action = format!("{} {}", Self::NAME, revision.number);
        let (outcome, notices) = make(host, Some(&before), &after, &action, self.confirm, caller)?;
        report(host, outcome.done, notices)
    }
}

fn report(host: &Host, done: Vec<String>, notices: Vec<Remark>) -> Result<RolledBack, Failure> {
    Ok(RolledBack { revision: host.store.last_revision()?, done, notices })
}

/// The host with another configuration, and the attachments that it has; with none, when there are no files.
fn situation(host: &mut Host, sources: Vec<Source>) -> Result<Situation, Failure> {
    let applied = if sources.is_empty() { None } else { Some(Arc::new(loaded(sources)?)) };
    Ok(Situation::new(applied, host.attachments()?, host.beyond()?))
}

/// Refuses what would mix with a change that waits to be confirmed.
pub(super) fn check_none_waits(host: &Host) -> Result<(), Failure> {
    let Some(left) = left(host)? else { return Ok(()) };
    Err(Failure::failed(format!("a change waits to be confirmed, for {left} s yet")).with(
        "`viaduct confirm` keeps it, `viaduct rollback` returns to what was before; `viaduct apply --confirm TIME` \
         goes on from here, and returns to the same.",
    ))
}

/// Seconds until the change that waits to be confirmed is undone; none when there is none.
pub(super) fn left(host: &Host) -> Result<Option<u64>, Failure> {
    let waiting = host.store.unconfirmed()?;
    Ok(waiting.and_then(|waiting| waiting.deadline.left(&clock::moment())).map(|left| left.div_ceil(1000)))
}

/// Makes a change of the whole configuration. With `confirm`, in milliseconds, it is undone by itself after that time.
/// `before` is none when it is not known.
pub(super) fn make(
    host: &mut Host,
    before: Option<&Situation>,
    after: &Situation,
    action: &str,
    confirm: Option<u64>,
    caller: &mut Caller<'_>,
) -> Result<(Outcome, Vec<Remark>), Failure> {
    let waiting = host.store.unconfirmed()?;
    let armed = match (confirm.map(Duration::from_millis), before) {
        (None, _) => None,
        (Some(_), None) => {
            return Err(Failure::failed(
                "what was applied before is not known, so that nothing could return to it: apply without --confirm",
            ));
        }
        (Some(limit), Some(now)) => {
            // Several unconfirmed changes in a row return to what was before the first.
            let before =
                waiting.as_ref().map_or_else(|| now.sources().to_vec(), |waiting| waiting.before.clone());
            host.store.arm(&Unconfirmed { deadline: clock::moment_after(limit), before: before.clone() })?;
            guard::start(host)?;
            Some((limit, before))
        }
    };
    let outcome = host.turn(before, after, caller).map_err(|not_made| {
        // What could not be undone now will be tried again when the time is over.
        let again = match (&armed, &waiting) {
            (Some(_), Some(waiting)) if not_made.as_before => host.store.arm(waiting),
            (Some(_), None) if not_made.as_before => host.store.disarm(),
            (Some(_) | None, _) => Ok(()),
        };
        match again {
            Ok(()) => not_made.failure,
            Err(error) => not_made.failure.with(format!("{error}")),
        }
    })?;
    let mut notices = Remark::all(&outcome.notices);
    match armed {
        // The time is for looking at what was made; making it does not count.
        Some((limit, before)) => {
            let again = host.store.arm(&Unconfirmed { deadline: clock::moment_after(limit), before });
            notices.extend(again.err().map(|error| {
                let error = Failure::from(error).line();
                Remark::warning(format!(
                    "the time to confirm counts from before the change was made: {error}"
                ))
            }));
        }
        None => host.store.disarm()?,
    }
    notices.extend(host.record(action, caller, after.sources()));
    Ok((outcome, notices))
}

/// Takes the change back that nobody confirmed in time, if there is one.
pub(super) fn settle(host: &mut Host, caller: &mut Caller<'_>) -> Result<(), Failure> {
    let Some(waiting) = host.store.unconfirmed()? else { return Ok(()) };
    if is_over(&waiting) {
        let (outcome, _) = go_back(host, waiting, RETURN, caller)?;
        tracing::warn!(steps = outcome.done.len(), "nobody confirmed the last change: it was taken back");
    }
    Ok(())
}

/// When the machine was started since: what nobody confirmed is not what was applied last, and no kernel has anything of
/// it. Says whether there was such a change.
pub(super) fn forget_unconfirmed(host: &Host, caller: &Caller<'_>) -> Result<bool, Failure> {
    let Some(waiting) = host.store.unconfirmed()? else { return Ok(false) };
    if waiting.deadline.boot == clock::moment().boot {
        return Ok(false);
    }
    if waiting.before.is_empty() {
        host.store.clear_applied()?;
    } else {
        host.store.set_applied(&waiting.before)?;
    }
    // That the history lacks it is no reason to trust what nobody confirmed.
    if let Some(remark) = host.record(RETURN, caller, &waiting.before) {
        tracing::warn!("{remark}");
    }
    host.store.disarm()?;
    Ok(true)
}

/// Back to what was before the unconfirmed change.
fn go_back(
    host: &mut Host,
    waiting: Unconfirmed,
    action: &str,
    caller: &mut Caller<'_>,
) -> Result<(Outcome, Vec<Remark>), Failure> {
    let after = situation(host, waiting.before)?;
    let outcome = host.become_at_last(&after, caller)?;
    host.store.disarm()?;
    let notices = host.record(action, caller, after.sources()).into_iter().collect();
    Ok((outcome, notices))
}
