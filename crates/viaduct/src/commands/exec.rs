use std::{ffi::OsString, os::unix::process::CommandExt, process::Command, process::ExitCode};

use viaduct_types::NicId;

use super::inside::{self, Inside};
use crate::{cli::Global, failure::Failure, host::require_root};

pub(super) fn run(global: &Global, nic: &NicId, command: &[OsString]) -> Result<ExitCode, Failure> {
    require_root()?;
    let Inside { netns, .. } = inside::find(global, nic)?;
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::usage("say which command to run".to_owned()));
    };
    netns.become_inside()?;
    // Only returns when it fails.
    let error = Command::new(program).args(arguments).exec();
    Err(Failure::failed(format!(
        "cannot run {} in the namespace {}: {error}",
        program.to_string_lossy(),
        netns.path()
    )))
}
