//! Runs a guest's first process in its namespace, and what has to run before and after it.

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal},
    os::unix::process::ExitStatusExt,
    process::{Command, ExitCode, ExitStatus},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use viaduct_model::Hooks;
use viaduct_types::NicId;

use super::inside;
use crate::{
    cli::Global,
    failure::Failure,
    hooks::{self, Life, Owner, Phase},
    host::require_root,
    membership::{Company, Membership},
    show::tell,
};

pub(super) fn run(global: &Global, nic: &NicId, command: &[OsString]) -> Result<ExitCode, Failure> {
    require_root()?;
    let found = inside::find(global, nic)?;
    let (guest, namespace) = (nic.guest.as_str(), found.name.as_deref().unwrap_or_default());
    let devices = &found.devices;
    let none = Hooks::default();
    let shared = found.shared.as_ref().map(|(_, hooks)| hooks);
    let hooks_of_namespace = shared.unwrap_or(&none);
    let lives = Lives {
        guest: Life { owner: Owner::Guest, guest, namespace, hooks: &found.hooks, devices },
        namespace: Life { owner: Owner::Namespace, guest, namespace, hooks: hooks_of_namespace, devices },
        membership: None,
        first: false,
    };
    let lives = if shared.is_some() { lives.join(global)? } else { lives };
    if let Err(failure) = lives.guest.turn(Phase::Prepare) {
        // It was never there.
        drop(lives.leave());
        return Err(failure.with(NOT_STARTED));
    }
    Ok(ExitCode::from(code(lives.live(global, nic, command)?)))
}

const NOT_STARTED: &str = "The guest was not started.";

/// What the guest does not depend on any more is only told.
fn after(life: &Life<'_>, phase: Phase) {
    if let Err(failure) = life.turn(phase) {
        tell!("warning: {}", failure.line());
    }
}

/// A guest's life, and that of its namespace, which begins with its first guest and ends with its last.
struct Lives<'a> {
    guest: Life<'a>,
    namespace: Life<'a>,
    /// When it shares a namespace.
    membership: Option<Membership>,
    first: bool,
}

/// The last of a namespace's guests; when it is dropped, the namespace's life is over.
struct Last<'a, 'l> {
    lives: &'l Lives<'a>,
}

impl Drop for Last<'_, '_> {
    fn drop(&mut self) {
        after(&self.lives.namespace, Phase::Stopped);
    }
}

impl<'a> Lives<'a> {
    /// Takes part in the namespace's life. When this begins it, all that has to be there before the first guest is made;
    /// others that are about to start wait for that.
    fn join(mut self, global: &Global) -> Result<Self, Failure> {
        let name = self.namespace.namespace;
        let within = |key, value: &str| env::var(key).is_ok_and(|set| set == value);
        if within(hooks::HOOK, Owner::Namespace.word()) && within(hooks::NAMESPACE, name) {
            return Err(Failure::usage(format!(
                "a hook of the namespace {name} cannot start a guest in it: the guest would wait for the hook to end, and \
                 the hook for the guest"
            )));
        }
        let waiting =
            || tell!("Waiting for the namespace {name}: a hook of it runs, or its last guest is stopping.");
        let (membership, company) = Membership::join(&global.run_dir, name, waiting).map_err(|error| {
            Failure::failed(format!("cannot find out which guests of the namespace {name} run: {error}"))
        })?;
        self.first = company == Company::Alone;
        if self.first {
            self.namespace.turn(Phase::Prepare).map_err(|failure| failure.with(NOT_STARTED))?;
        }
        membership.open();
        self.membership = Some(membership);
        Ok(self)
    }

    /// The guest ends, or never began. What is given for the last one ends the namespace's life with it.
    fn leave(&self) -> Option<Last<'a, '_>> {
        let membership = self.membership.as_ref()?;
        match membership.leave() {
            Ok(Company::Alone) => Some(Last { lives: self }),
            Ok(Company::Others) => None,
            Err(error) => {
                tell!(
                    "warning: cannot find out whether other guests of {} run: {error}",
                    self.namespace.namespace
                );
                None
            }
        }
    }

    fn stopping(&self) -> Option<Last<'a, '_>> {
        after(&self.guest, Phase::Stopping);
        let last = self.leave();
        if last.is_some() {
            after(&self.namespace, Phase::Stopping);
        }
        last
    }

    /// From its start to its end.
    fn live(&self, global: &Global, nic: &NicId, command: &[OsString]) -> Result<ExitStatus, Failure> {
        let failed = |error: io::Error| Failure::failed(format!("cannot start {}: {error}", nic.guest));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        runtime.block_on(async {
            let mut hears = [
                (Signal::TERM, SignalKind::terminate()),
                (Signal::HUP, SignalKind::hangup()),
                (Signal::INT, SignalKind::interrupt()),
                (Signal::QUIT, SignalKind::quit()),
            ]
            .map(|(number, kind)| (number, signal(kind)));
            let spawned = executor(global, nic, command)
                .and_then(|command| tokio::process::Command::from(command).spawn());
            let mut child = match spawned {
                Ok(child) => child,
                Err(error) => {
                    after(&self.guest, Phase::Stopped);
                    drop(self.leave());
                    return Err(failed(error));
                }
            };
            if self.first {
                after(&self.namespace, Phase::Started);
            }
            after(&self.guest, Phase::Started);
            let mut last = None;
            let mut stopping = false;
            let ended = loop {
                let [(_, term), (_, hup), (_, int), (_, quit)] = &mut hears;
                let heard = tokio::select! {
                    ended = child.wait() => break ended,
                    () = next(term) => Signal::TERM,
                    () = next(hup) => Signal::HUP,
                    () = next(int) => Signal::INT,
                    () = next(quit) => Signal::QUIT,
                };
                if !stopping && heard != Signal::HUP {
                    stopping = true;
                    last = self.stopping();
                }
                // What is typed at a terminal, the guest hears by itself.
                let typed = matches!(heard, Signal::INT | Signal::QUIT) && io::stdin().is_terminal();
                let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
                if let Some(id) = id.filter(|_| !typed) {
                    let _ = kill_process(id, heard);
                }
            };
            if !stopping {
                last = self.stopping();
            }
            after(&self.guest, Phase::Stopped);
            drop(last);
            ended.map_err(failed)
        })
    }
}

async fn next(signal: &mut io::Result<tokio::signal::unix::Signal>) {
    match signal {
        Ok(signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    }
}

/// This program again, which becomes the guest's first process in the namespace.
fn executor(global: &Global, nic: &NicId, command: &[OsString]) -> io::Result<Command> {
    let mut executor = Command::new(env::current_exe()?);
    executor
        .args([OsString::from("--config"), global.config.clone().into()])
        .args([OsString::from("--state-dir"), global.state_dir.clone().into()])
        .args([OsString::from("--run-dir"), global.run_dir.clone().into()])
        .args(["exec", &nic.to_string(), "--"])
        .args(command);
    Ok(executor)
}

/// As shells have it: a process that a signal ended has 128 and its number.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}
