//! Programs that are run at the turns of a guest's life.

use std::{
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

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
        let (reader, writer) = std::io::pipe().map_err(|error| format!("has no pipe: {error}"))?;
        let both = writer.try_clone().map_err(|error| format!("has no pipe: {error}"))?;
        let mut command = Command::new(program);
        command
            .env("VIADUCT_PHASE", phase.word())
            .env("VIADUCT_GUEST", self.guest)
            .env(NAMESPACE, self.namespace)
            .env(HOOK, self.owner.word())
            .stdin(Stdio::piped())
            .stdout(writer)
            .stderr(both);
        let mut child = command.spawn().map_err(|error| format!("cannot be run: {error}"))?;
        // Its ends of the pipe are the child's alone from here on.
        drop(command);
        if let Some(mut stdin) = child.stdin.take() {
            // Who does not read it does not want it.
            let _ = stdin.write_all(input.to_string().as_bytes());
        }
        // What it says is read while it runs; what it leaves running may keep the pipe open for ever.
        let (sender, said) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let mut text = Vec::new();
            let _ = reader.take(KEPT).read_to_end(&mut text);
            let _ = sender.send(text);
        });
        let limit = self.hooks.timeout.unwrap_or(TIMEOUT);
        let begin = Instant::now();
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if begin.elapsed() >= limit => {
                    let _ = child.kill();
                    let _ = child.wait();
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
