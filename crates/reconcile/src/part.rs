//! A change of a few guests on a host that is otherwise as wanted: only what the change is about is looked at.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use tracing::debug;
use viaduct_model::Config;
use viaduct_plan::{
    Apply, Flow, Notice, Observe, ObservePart, Told,
    part::{Judge, Reduced, Side},
};
use viaduct_types::{NamespaceName, NicId};

use crate::converge::{Outcome, chain, takes_foreign};

/// What is known of a host since it was looked at and found to be as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Attachments that led nowhere.
    stale: BTreeSet<NicId>,
    /// What was to be said.
    notices: Vec<Notice>,
    /// The state of each stack's filter then, the host's under no name.
    filters: BTreeMap<Option<NamespaceName>, u32>,
}

impl Known {
    /// What is known after a run that ended with a look at the whole host, with nothing left to do.
    pub fn after<K: ObservePart>(kernel: &mut K, config: Option<&Config>, outcome: &Outcome) -> Option<Self> {
        let stacks = config.map(Config::stacks).unwrap_or_default();
        let mut filters = BTreeMap::new();
        for stack in std::iter::once(None).chain(stacks.into_iter().map(Some)) {
            let filter = kernel.filter_state(stack).ok().flatten();
            filters.extend(filter.map(|filter| (stack.cloned(), filter)));
        }
        Some(Self { stale: outcome.stale.clone(), notices: outcome.notices.clone(), filters })
    }

    /// Whether this attachment led nowhere.
    pub fn is_stale(&self, nic: &NicId) -> bool {
        self.stale.contains(nic)
    }
}

/// Makes a host that is like `before` like `after`, if that is a matter of a few guests. Steps that fail leave it to a
/// look at the whole host to put things right. None when it goes the whole way.
pub fn change_part<K: ObservePart + Apply>(
    kernel: &mut K,
    known: &Known,
    before: Side<'_>,
    after: Side<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Option<(Outcome, Option<Known>)> {
    let begun = Instant::now();
    let reduced = Reduced::new(before, after, &known.stale)?;
    let stack = reduced.stack();
    let filter = kernel.filter_state(stack).ok().flatten();
    if filter.is_none() || filter.as_ref() != known.filters.get(&stack.cloned()) {
        debug!("somebody changed the packet filter: the whole host is looked at");
        return None;
    }
    let decided = begun.elapsed();
    let look = |error: &<K as Observe>::Error| debug!("the part cannot be looked at: {}", chain(error));
    let ground = kernel.observe_part(stack, &reduced.ground()).inspect_err(look).ok()?;
    let grounded = begun.elapsed();
    let Some(section) = reduced.section(&ground) else {
        debug!("the change is about more than a few guests: the whole host is looked at");
        return None;
    };
    let rendered = begun.elapsed();
    let observed = kernel.observe_part(stack, section.ask()).inspect_err(look).ok()?;
    let looked = begun.elapsed();
    let plan = section
        .plan(observed.clone())
        .filter(|plan| !plan.ops.iter().any(|op| takes_foreign(op.place().1, &observed)));
    let Some(plan) = plan else {
        debug!("rules change: the whole host is looked at");
        return None;
    };
    let planned = begun.elapsed();
    // Whoever asks, asks from one thread.
    let judge = Mutex::new(Judge::new(&reduced, &ground));
    let total = plan.ops.len();
    let keep = |_: Option<&NamespaceName>, flow: &Flow| {
        judge.lock().unwrap_or_else(PoisonError::into_inner).keeps(flow)
    };
    let results = kernel.apply(&plan.ops, &keep, &mut |done| progress(done, total));
    let done = begun.elapsed();
    let failed = plan.ops.iter().zip(&results).find_map(|(op, result)| Some((op, result.as_ref().err()?)));
    if let Some((op, error)) = failed {
        debug!("a step failed, so that the whole host is looked at: {op}: {}", chain(error));
        return None;
    }
    debug!(
        steps = total,
        decided_us = decided.as_micros(),
        grounded_us = (grounded - decided).as_micros(),
        rendered_us = (rendered - grounded).as_micros(),
        looked_us = (looked - rendered).as_micros(),
        planned_us = (planned - looked).as_micros(),
        done_us = (done - planned).as_micros(),
        "changed in part"
    );
    let mut stale = known.stale.clone();
    stale.retain(|nic| !reduced.is_changed(nic));
    let filter = kernel.filter_state(stack).ok().flatten();
    let outcome = Outcome {
        done: plan.lines(),
        objects: plan.ops.iter().map(viaduct_plan::Op::object).collect(),
        notices: section.notices(&known.notices),
        stale: BTreeSet::new(),
        served: Told::Part(stack.cloned(), section.served().clone()),
    };
    // When somebody else has come in between, what was done holds, but the filter has to be read again.
    let notices = outcome.notices.clone();
    let mut filters = known.filters.clone();
    Some((
        outcome,
        filter.map(|filter| {
            filters.insert(stack.cloned(), filter);
            Known { stale, notices, filters }
        }),
    ))
}
