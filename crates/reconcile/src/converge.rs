use std::collections::{BTreeMap, BTreeSet};

use tracing::debug;
use viaduct_model::Config;
use viaduct_plan::{
    Apply, Ask, Attachments, Desired, Flow, Flows, LinkChange, Notice, Observe, Observed, Op, PROTOCOL, Plan,
    Severity, Told, ask, desired, nft::Ruleset, plan,
};
use viaduct_types::{NamespaceName, NicId};

/// Passes until a host must have become what was wanted. The second pass verifies; a third is for what moved meanwhile.
const PASSES: usize = 4;

/// What a host is to become.
#[derive(Clone, Copy, Debug)]
pub enum Wish<'a> {
    /// What a configuration and attachments say.
    Be(&'a Config, &'a Attachments),
    /// As if we had never been there.
    Nothing,
}

/// A look at a host: what it is, what it should be, and the difference.
#[derive(Clone, Debug)]
pub struct Outlook {
    /// As it is.
    pub observed: Observed,
    /// As it should be.
    pub desired: Desired,
    /// What is to be said about it.
    pub notices: Vec<Notice>,
    /// What is to do.
    pub plan: Plan,
}

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The steps that were done, as lines for people.
    pub done: Vec<String>,
    /// What they were about, each once.
    pub objects: BTreeSet<String>,
    /// What is to be said about the configuration on this host.
    pub notices: Vec<Notice>,
    /// Attachments whose namespace or device is gone.
    pub stale: BTreeSet<NicId>,
    /// What guests are told from now on when they ask for their configuration.
    pub served: Told,
}

/// A step that failed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was tried.
    pub step: String,
    /// The whole chain of causes.
    pub cause: String,
}

/// Why a host could not be made as wanted.
#[derive(Debug, thiserror::Error)]
pub enum ConvergeError {
    /// The kernel did not tell its state.
    #[error("cannot read this host's network state")]
    Observe(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Configuration and host do not fit together; nothing was changed.
    #[error("this configuration cannot be applied on this host")]
    Unfit(Vec<Notice>),
    /// Some of it was done; then what happened meanwhile on the host was in the way.
    #[error("the host changed while it was being changed")]
    Interrupted {
        /// What was in the way.
        #[source]
        cause: Box<Self>,
        /// The steps that were done before.
        done: Vec<String>,
    },
    /// Steps failed, also when tried again.
    #[error("{}", count(failures.len()))]
    Failed {
        /// Each step that failed.
        failures: Vec<Failure>,
        /// The steps that were done before and besides.
        done: Vec<String>,
    },
    /// Every step succeeds, and yet something remains to do: somebody else keeps changing it back.
    #[error("another program keeps undoing what was done; what remains to do:")]
    Unstable {
        /// What remains.
        remaining: Vec<String>,
        /// What it is about, as [`Op::object`] says it.
        objects: BTreeSet<String>,
    },
}

impl ConvergeError {
    /// What it is when this many passes were done before it.
    fn after(self, passes: usize, outcome: &Outcome) -> Self {
        if passes == 0 {
            return self;
        }
        Self::Interrupted { cause: Box::new(self), done: outcome.done.clone() }
    }

    /// Whether steps were tried, so that the host may have changed.
    pub fn began(&self) -> bool {
        match self {
            Self::Observe(_) | Self::Unfit(_) => false,
            Self::Interrupted { .. } | Self::Failed { .. } | Self::Unstable { .. } => true,
        }
    }
}

fn count(failures: usize) -> String {
    match failures {
        1 => "a step failed, also when tried again".to_owned(),
        n => format!("{n} steps failed, also when tried again"),
    }
}

/// Looks at a host without changing it.
///
/// # Errors
/// When the kernel does not tell.
pub fn look<K: Observe>(kernel: &mut K, wish: Wish<'_>) -> Result<Outlook, ConvergeError> {
    let asked = match wish {
        Wish::Be(config, attachments) => ask(config, attachments),
        Wish::Nothing => Ask::default(),
    };
    let observed = kernel.observe(&asked).map_err(|error| ConvergeError::Observe(Box::new(error)))?;
    let (desired, notices) = match wish {
        Wish::Be(config, attachments) => desired(config, attachments, &observed),
        Wish::Nothing => (Desired::default(), Vec::new()),
    };
    let plan = plan(&observed, &desired);
    Ok(Outlook { observed, desired, notices, plan })
}

/// Makes a host what is wanted; `progress` hears how many steps are done of how many.
///
/// # Errors
/// When the configuration does not fit the host (then nothing was changed), or steps fail.
pub fn converge<K: Observe + Apply>(
    kernel: &mut K,
    wish: Wish<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Outcome, ConvergeError> {
    converge_except(kernel, wish, &|_| false, progress)
}

/// Puts a host right that should be as wanted already, but for the steps that are to be left alone for now.
///
/// # Errors
/// As [`converge`].
pub fn converge_except<K: Observe + Apply>(
    kernel: &mut K,
    wish: Wish<'_>,
    leave: &dyn Fn(&Op) -> bool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Outcome, ConvergeError> {
    let mut outcome = Outcome::default();
    let mut failures = Vec::new();
    for pass in 0..PASSES {
        let mut outlook = look_fit(kernel, wish).map_err(|error| error.after(pass, &outcome))?;
        outlook.plan.ops.retain(|op| !leave(op));
        let Outlook { observed, mut desired, notices, plan } = outlook;
        if pass == 0 {
            outcome.notices = notices;
            outcome.served = Told::Whole(std::mem::take(&mut desired.served));
        }
        outcome.stale.clone_from(&desired.stale);
        debug!(pass, steps = plan.ops.len(), "planned");
        if plan.is_empty() {
            return Ok(outcome);
        }
        let total = plan.ops.len();
        let flows = flows(&observed, &desired);
        // A stack that nobody asked for has no flows to end.
        let keep = |stack: Option<&NamespaceName>, flow: &Flow| {
            flows.get(&stack).is_none_or(|flows| flows.keeps(flow))
        };
        let before = std::mem::take(&mut failures);
        let mut done = Plan::default();
        let mut tried = 0;
        for part in parts(&plan.ops, &observed) {
            let results = kernel.apply(part, &keep, &mut |done| progress(tried + done, total));
            tried += part.len();
            let mut stands_in_the_way = false;
            for (op, result) in part.iter().zip(results) {
                // Nothing depends on it that flows have ended.
                stands_in_the_way |= result.is_err() && !matches!(op.place().1, Op::EndFlows { .. });
                match result {
                    Ok(()) => {
                        outcome.objects.insert(op.object());
                        done.ops.push(op.clone());
                    }
                    Err(error) => failures.push(Failure { step: op.to_string(), cause: chain(&error) }),
                }
            }
            if stands_in_the_way {
                break;
            }
        }
        outcome.done.extend(done.lines());
        // What failed twice in the same way will not succeed the third time.
        if !failures.is_empty() && failures == before {
            break;
        }
    }
    if failures.is_empty() {
        // The last pass did something without an error; only a look tells whether it holds.
        let mut remaining = look_fit(kernel, wish).map_err(|error| error.after(PASSES, &outcome))?.plan;
        remaining.ops.retain(|op| !leave(op));
        if remaining.is_empty() {
            return Ok(outcome);
        }
        return Err(ConvergeError::Unstable {
            objects: remaining.ops.iter().map(Op::object).collect(),
            remaining: remaining.to_string().lines().map(str::to_owned).collect(),
        });
    }
    Err(ConvergeError::Failed { failures, done: outcome.done })
}

/// What becomes of flows, in each stack.
fn flows<'a>(observed: &'a Observed, desired: &'a Desired) -> BTreeMap<Option<&'a NamespaceName>, Flows<'a>> {
    static NOTHING: Ruleset = Ruleset { tables: BTreeMap::new() };
    let names = observed.stacks.keys().chain(desired.stacks.iter().map(|(name, _)| name));
    let of_stack = |name| {
        let now = observed.stacks.get(name).map_or(&NOTHING, |stack| &stack.nft);
        (Some(name), Flows::new(now, desired.stack(name).map_or(&NOTHING, |stack| &stack.nft)))
    };
    std::iter::once((None, Flows::new(&observed.nft, &desired.nft))).chain(names.map(of_stack)).collect()
}

/// The steps up to the first one that takes away what is not ours, and those from there on. An uplink's address and
/// way out go to its bridge; they leave the uplink only when all is well with the bridge. That an uplink leaves its
/// bridge belongs to those that follow: stopped between them, the way out would be by a bridge that leads nowhere.
fn parts<'a>(ops: &'a [Op], observed: &Observed) -> impl Iterator<Item = &'a [Op]> {
    let releases = |op: &Op| match op.place() {
        (stack, Op::SetLink { name, change: LinkChange::Master(None) }) => {
            let there = stack.map_or(Some(observed), |stack| observed.stacks.get(stack));
            there.and_then(|there| there.links.get(name)).is_some_and(|link| !link.is_ours())
        }
        _ => false,
    };
    let takes = |op: &Op| takes_foreign(op, observed) || releases(op);
    let (first, rest) = ops.split_at(ops.iter().position(takes).unwrap_or(ops.len()));
    [first, rest].into_iter().filter(|part| !part.is_empty())
}

/// Whether a step takes away what is not ours.
pub(crate) fn takes_foreign(op: &Op, observed: &Observed) -> bool {
    match op {
        Op::DeleteAddress(address) => {
            observed.addresses.get(address).is_some_and(|info| info.protocol != PROTOCOL)
        }
        Op::DeleteRoute(route) => route.protocol != PROTOCOL,
        Op::Nft(_)
        | Op::SetSysctl { .. }
        | Op::RestoreSysctl { .. }
        | Op::AddLink { .. }
        | Op::SetLink { .. }
        | Op::DeleteLinks(_)
        | Op::AddAddress { .. }
        | Op::AddRoute(_)
        | Op::AddProxy(_)
        | Op::DeleteProxy(_)
        | Op::AddUnicast(..)
        | Op::DeleteUnicast(..)
        | Op::Guest { .. }
        | Op::Namespace { .. }
        | Op::EndFlows { .. }
        | Op::Announce { .. } => false,
        Op::Within { namespace, op } => {
            observed.stacks.get(namespace).is_some_and(|stack| takes_foreign(op, stack))
        }
    }
}

/// Looks at a host that the configuration fits.
fn look_fit<K: Observe>(kernel: &mut K, wish: Wish<'_>) -> Result<Outlook, ConvergeError> {
    let outlook = look(kernel, wish)?;
    if outlook.notices.iter().any(|n| n.severity == Severity::Error) {
        return Err(ConvergeError::Unfit(outlook.notices));
    }
    Ok(outlook)
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
