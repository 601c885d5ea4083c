//! The process that returns an unconfirmed change when its time is over, whatever became of who made it.

use std::{
    io::Read,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use crate::{
    cli::Global,
    clock,
    failure::Failure,
    host::Host,
    operations::{self, Caller},
    ourselves,
    show::{self, say},
};

/// How it is called on the command line, where only we call it.
pub(crate) const COMMAND: &str = "return-unconfirmed";

/// How long at most until it sees that the deadline was moved, or the change confirmed.
const GLANCE: Duration = Duration::from_millis(500);

/// After a failed return, how long at most until the next.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts it for what is armed, and waits until nothing that ends this process ends it.
pub(crate) fn start(host: &mut Host) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::failed(format!("cannot start the process that would undo the change: {error}"))
            .with("Nothing was changed.")
    };
    let mut child = command(host).spawn().map_err(failed)?;
    let mut said = [0];
    let pipe = child.stdout.take();
    let ready = pipe.map_or(Ok(()), |mut pipe| pipe.read_exact(&mut said));
    ready.map_err(failed)?;
    host.keep(child);
    Ok(())
}

fn command(host: &Host) -> Command {
    let mut command = ourselves::another();
    command
        .arg("--config")
        .arg(&host.config)
        .arg("--state-dir")
        .arg(host.store.state_dir())
        .arg("--run-dir")
        .arg(host.store.run_dir())
        .arg(COMMAND)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// What it does: waits, and returns.
pub(crate) fn run(global: &Global) -> Result<(), Failure> {
    // Neither the terminal's end nor a ctrl-C in it is for this process. It fails for a leader of a group, which has no
    // terminal that it shares.
    let _ = rustix::process::setsid();
    say!("r");
    show::finish();
    let mut host = Host::open(global)?;
    let mut pause = GLANCE;
    while let Some(waiting) = host.store.unconfirmed()? {
        match waiting.deadline.left(&clock::moment()) {
            Some(left) => thread::sleep(Duration::from_millis(left).min(GLANCE)),
            None => {
                let mut caller =
                    Caller { by: "viaduct".to_owned(), progress: &mut |_, _| (), waiting: &|_| () };
                if operations::finish_return(&mut host, &mut caller).is_err() {
                    thread::sleep(pause);
                    pause = (pause * 2).min(PATIENCE);
                }
            }
        }
    }
    Ok(())
}

/// Those that were started here and have not ended.
#[derive(Default)]
pub(crate) struct Guards(Vec<Child>);

impl Guards {
    pub(crate) fn add(&mut self, child: Child) {
        self.0.push(child);
    }

    /// Lets go of those that ended.
    pub(crate) fn reap(&mut self) {
        self.0.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}
