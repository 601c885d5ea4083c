//! What is left to our own processes that others' bytes reach: the system calls that they need (seccomp), and of files
//! and TCP what they need (Landlock). Where the kernel has one of them not, that is said, and the rest holds.

mod calls;
mod places;

use std::io;

use tracing::{info, warn};

pub(crate) use calls::Calls;
pub(crate) use places::{Places, Use};

/// From now on, for this thread and those that it makes, nothing but this is possible; there is no way back. It is called
/// when the process has one thread.
///
/// # Errors
/// When the kernel has the means, and yet refuses.
pub(crate) fn enter(what: &str, places: &Places, calls: Calls) -> io::Result<()> {
    match places.confine()? {
        places::Confined::Wholly => {}
        places::Confined::InPart => {
            info!(
                "{what}: this kernel's Landlock is older than what is asked of it, and does a part of that"
            );
        }
        places::Confined::Not => {
            warn!(
                "{what}: this kernel has no Landlock, or it is off: files are guarded by system calls and rights alone"
            );
        }
    }
    if calls.confine()? {
        return Ok(());
    }
    warn!("{what}: this kernel has no seccomp, or not for this processor: system calls are not limited");
    Ok(())
}

#[cfg(test)]
mod tests;
