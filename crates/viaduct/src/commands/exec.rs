use std::{ffi::OsString, os::unix::process::CommandExt, process::ExitCode};

use viaduct_kernel::command_in;
use viaduct_plan::Target;
use viaduct_reconcile::Store;
use viaduct_types::NicId;

use crate::{
    cli::Global,
    failure::Failure,
    host::{loaded, require_root},
    operations::unknown,
};

pub(super) fn run(global: &Global, nic: &NicId, command: &[OsString]) -> Result<ExitCode, Failure> {
    require_root()?;
    let store = Store::read_only(&global.state_dir, &global.run_dir);
    let path = match store.attachments()?.get(nic) {
        Some(Target::Netns { path, .. }) => path.clone(),
        Some(Target::Tap { name, .. } | Target::Device { name }) => {
            return Err(Failure::usage(format!(
                "{nic} is attached as the device {name}, so its network is inside a virtual machine: log in there"
            )));
        }
        None => {
            // Of use for what it says only; without it the other message does.
            let known = store.applied().ok().flatten().and_then(|sources| loaded(sources).ok());
            if let Some(applied) = known.filter(|applied| applied.config.nic(nic).is_none()) {
                return Err(unknown(nic, &applied.config));
            }
            return Err(Failure::usage(format!(
                "{nic} is not attached, so it has no namespace: `viaduct attach {nic} --netns NAME` first"
            )));
        }
    };
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::usage("say which command to run".to_owned()));
    };
    // Only returns when it fails.
    let error = command_in(&path, program)?.args(arguments).exec();
    Err(Failure::failed(format!(
        "cannot run {} in the namespace of {nic}: {error}",
        program.to_string_lossy()
    )))
}
