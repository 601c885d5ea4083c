//! From one state of a host to another, or back.

use viaduct_plan::{Apply, Observe};

use crate::converge::{ConvergeError, Outcome, Wish, converge};

/// A change that was not made.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct ChangeError {
    /// Why.
    #[source]
    pub cause: ConvergeError,
    /// How the host is now.
    pub aftermath: Aftermath,
}

/// How a host is after a change that was not made.
#[derive(Debug)]
pub enum Aftermath {
    /// As it was: nothing was begun.
    Untouched,
    /// As it was: what had been done was undone.
    Undone,
    /// Part of the change is there: nobody knows what was before.
    Partial,
    /// Part of the change is there, for undoing it failed as well.
    Stuck(ConvergeError),
}

/// Makes a host what is wanted; when that fails, what it was to be before. `before` is none when that is not known.
/// `progress` hears how many steps are done of how many.
///
/// # Errors
/// When the new state does not fit the host, or steps fail.
pub fn change<K: Observe + Apply>(
    kernel: &mut K,
    before: Option<Wish<'_>>,
    after: Wish<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Outcome, ChangeError> {
    converge(kernel, after, progress).map_err(|cause| {
        let aftermath = match before {
            _ if !cause.began() => Aftermath::Untouched,
            None => Aftermath::Partial,
            Some(before) => match converge(kernel, before, progress) {
                Ok(_) => Aftermath::Undone,
                Err(error) => Aftermath::Stuck(error),
            },
        };
        ChangeError { cause, aftermath }
    })
}
