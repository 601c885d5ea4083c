//! Programs that are run at the turns of a guest's life.

use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{failure::Failure, show::tell};

/// How long a program may take unless it is written.
const TIMEOUT: Duration = Duration::from_secs(30);
/// So much of what a program says is kept.
const KEPT: u64 = 64 << 10;

/// A turn.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Phase {
    Prepare,
    Started,
    Stopping,
    Stopped,
}

impl Phase {
    fn word(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Started => "started",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

/// Whose hooks they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Guest,
    Namespace,
}

impl Owner {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Namespace => "namespace",
        }
    }
}

/// What says to a program that a hook runs whose.
pub(crate) const HOOK: &str = "VIADUCT_HOOK";
/// And in which namespace.
pub(crate) const NAMESPACE: &str = "VIADUCT_NAMESPACE";

/// What tells the processes of one run of a program from all others.
const RUN: &str = "VIADUCT_HOOK_RUN";

/// Ends what a program started, too, wherever it has gone. It may start more meanwhile.
fn end_all(run: &str) {
    let mark = format!("{RUN}={run}");
    let is_of_it = |process: &Path| {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    for _ in 0..10 {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
        let ids = processes
            .filter(|process| is_of_it(process))
            .filter_map(|process| process.file_name()?.to_str()?.parse().ok().and_then(Pid::from_raw));
        if ids.map(|id| kill_process(id, Signal::KILL)).filter(Result::is_ok).count() == 0 {
            return;
        }
    }
}

/// Whose life it is.
pub(crate) struct Life<'a> {
    pub(crate) owner: Owner,
    /// Of a namespace's: the one that starts first, or stops last.
    pub(crate) guest: &'a str,
    /// Empty when it has no name.
    pub(crate) namespace: &'a str,
    pub(crate) hooks: &'a viaduct_model::Hooks,
    pub(crate) devices: &'a Value,
}

impl Life<'_> {
    /// Runs the program of a turn, if there is one, and shows what it says. It gets the turn, the guest and the
    /// namespace in its environment, and the devices as JSON on its standard input.
    pub(crate) fn turn(&self, phase: Phase) -> Result<(), Failure> {
        let program = match phase {
            Phase::Prepare => &self.hooks.prepare,
            Phase::Started => &self.hooks.started,
            Phase::Stopping => &self.hooks.stopping,
            Phase::Stopped => &self.hooks.stopped,
        };
        let Some(program) = program else { return Ok(()) };
        let said = self.run(program, phase).map_err(|why| {
            Failure::failed(format!(
                "the hook `{}` of {} {}, {}, {why}",
                phase.word(),
                self.owner.word(),
                self.name(),
                program.display()
            ))
        })?;
        for line in said.lines() {
            tell!("{} {}: {line}", self.name(), phase.word());
        }
        Ok(())
    }

    fn name(&self) -> &str {
        match self.owner {
            Owner::Guest => self.guest,
            Owner::Namespace => self.namespace,
        }
    }

    fn run(&self, program: &Path, phase: Phase) -> Result<String, String> {
        let input = serde_json::json!({
            "phase": phase.word(), "hook": self.owner.word(), "guest": self.guest, "namespace": self.namespace, "devices": self.devices,
        });
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let run = format!("{}.{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
        let (reader, writer) = std::io::pipe().map_err(|error| format!("has no pipe: {error}"))?;
        let both = writer.try_clone().map_err(|error| format!("has no pipe: {error}"))?;
        let mut command = Command::new(program);
        command
            .env("VIADUCT_PHASE", phase.word())
            .env("VIADUCT_GUEST", self.guest)
            .env(NAMESPACE, self.namespace)
            .env(HOOK, self.owner.word())
            .env(RUN, &run)
            .stdin(Stdio::piped())
            .stdout(writer)
            .stderr(both);
        let mut child = command.spawn().map_err(|error| format!("cannot be run: {error}"))?;
        // Its ends of the pipe are the child's alone from here on.
        drop(command);
        if let Some(mut stdin) = child.stdin.take() {
            // Who does not read it does not want it; it may be more than a pipe holds.
            thread::spawn(move || stdin.write_all(input.to_string().as_bytes()));
        }
        // What it says is read while it runs; what it leaves running may keep the pipe open for ever.
        let (sender, said) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let mut text = Vec::new();
            let mut reader = reader.take(KEPT);
            let _ = reader.read_to_end(&mut text);
            let _ = sender.send(text);
            // Who says more does not end by that.
            let _ = io::copy(&mut reader.into_inner(), &mut io::sink());
        });
        let limit = self.hooks.timeout.unwrap_or(TIMEOUT);
        let begin = Instant::now();
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if begin.elapsed() >= limit => {
                    let _ = child.kill();
                    let _ = child.wait();
                    end_all(&run);
                    return Err(format!(
                        "took longer than {limit:?} and was killed (`timeout` allows for more)"
                    ));
                }
                Ok(None) => thread::sleep(Duration::from_millis(5)),
                Err(error) => return Err(format!("cannot be waited for: {error}")),
            }
        };
        let said = said.recv_timeout(Duration::from_millis(200)).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).trim_end().to_owned();
        if status.success() { Ok(said) } else { Err(format!("failed ({status}): {said}")) }
    }
}
