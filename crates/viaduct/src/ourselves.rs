//! Processes of this same program, each with a part of the work.

use std::{os::unix::process::CommandExt, process::Command};

/// This program, to be started once more. It gets what it is given: a file that was open when this process was started,
/// like the lock that a script holds, stays here, for the new one may live much longer.
pub(crate) fn another() -> Command {
    keep_open_files_here();
    let mut command = Command::new("/proc/self/exe");
    command.arg0("viaduct");
    command
}

/// Files that were open when this process was started are not open in others that it starts.
pub(crate) fn keep_open_files_here() {
    if let Err(error) = viaduct_kernel::keep_open_files_here() {
        tracing::debug!(
            "what was open when this process was started is open in those that it starts: {error}"
        );
    }
}
