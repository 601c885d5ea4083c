use std::process::ExitCode;

use crate::{
    cli::Global,
    failure::Failure,
    host::Host,
    operations::{self, Caller},
    show::{self, say, tell},
};

/// Never asks a daemon: this is what comes before it.
pub(super) fn run(global: &Global) -> Result<ExitCode, Failure> {
    let waiting = |why: &str| tell!("{why}");
    let mut caller = Caller { by: "viaduct".to_owned(), progress: &mut |_, _| (), waiting: &waiting };
    let started = operations::boot(&mut Host::open(global)?, &mut caller)?;
    if global.json {
        show::say_json(&started);
        return Ok(ExitCode::SUCCESS);
    }
    if started.returned {
        tell!("Nobody confirmed the last change before the machine went down: it was taken back.");
    }
    started.done.iter().for_each(|line| say!("{line}"));
    match (started.applied, started.done.is_empty()) {
        (false, _) => say!("Nothing is applied on this host."),
        (true, true) => say!("The filter is in place already; nothing was changed."),
        (true, false) => say!("Nothing passes through this host until the rest is made, as the daemon does."),
    }
    Ok(ExitCode::SUCCESS)
}
