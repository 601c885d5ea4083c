//! What comes first when a machine starts, before it has a network: the filter of what was applied last and was not
//! waiting to be confirmed; and nothing passes until the rest is made.

use serde::Serialize;
use viaduct_reconcile::{Closing, close};

use super::{Caller, confirm};
use crate::{failure::Failure, host::Host};

/// What was done at the start.
#[derive(Default, Serialize)]
pub(crate) struct Started {
    /// Whether a configuration was applied on this host before.
    pub(crate) applied: bool,
    /// Whether a change that nobody had confirmed was taken back.
    pub(crate) returned: bool,
    /// What was done, a line each; nothing when the host has a filter already.
    pub(crate) done: Vec<String>,
}

/// Does it. It is closed also when this fails, unless the kernel has no filter at all.
pub(crate) fn boot(host: &mut Host, caller: &mut Caller<'_>) -> Result<Started, Failure> {
    let _lock = host.lock(caller)?;
    let returned = confirm::forget_unconfirmed(host, caller);
    let applied = host.applied();
    // Somebody applied something here; what it was cannot be told.
    let unknown = returned.is_err() || applied.is_err();
    let config = applied.as_ref().ok().and_then(Option::as_ref).map(|applied| &applied.config);
    let mut started = Started { applied: config.is_some(), ..Started::default() };
    if config.is_some() || unknown {
        let Closing { done, trouble } = close(&mut host.kernel, config)?;
        started.done = done;
        if let Some(trouble) = trouble {
            return Err(
                Failure::from(trouble).with("Nothing passes through this host until `viaduct apply`.")
            );
        }
    }
    let outlook = if started.done.is_empty() {
        "What is in place already stays; nothing was changed."
    } else {
        "Until that is mended, nothing passes through this host."
    };
    let with_outlook = |failure: Failure| failure.with(outlook);
    started.returned = returned.map_err(with_outlook)?;
    applied.map_err(with_outlook)?;
    Ok(started)
}
