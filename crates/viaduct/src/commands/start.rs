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
use viaduct_types::NicId;

use super::inside;
use crate::{
    cli::Global,
    failure::Failure,
    hooks::{Life, Phase},
    host::require_root,
    show::tell,
};

pub(super) fn run(global: &Global, nic: &NicId, command: &[OsString]) -> Result<ExitCode, Failure> {
    require_root()?;
    let found = inside::find(global, nic)?;
    let life = Life {
        guest: nic.guest.as_str(),
        namespace: found.name.as_deref().unwrap_or_default(),
        hooks: &found.hooks,
        devices: &found.devices,
    };
    life.turn(Phase::Prepare).map_err(|failure| failure.with("The guest was not started."))?;
    let status = guest(global, nic, command, &life)?;
    after(&life, Phase::Stopped);
    Ok(ExitCode::from(code(status)))
}

/// What the guest does not depend on any more is only told.
fn after(life: &Life<'_>, phase: Phase) {
    if let Err(failure) = life.turn(phase) {
        tell!("warning: {}", failure.line());
    }
}

/// From its start to its end.
fn guest(global: &Global, nic: &NicId, command: &[OsString], life: &Life<'_>) -> Result<ExitStatus, Failure> {
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
        let mut child = tokio::process::Command::from(executor(global, nic, command).map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        after(life, Phase::Started);
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
                after(life, Phase::Stopping);
            }
            // What is typed at a terminal, the guest hears by itself.
            let typed = matches!(heard, Signal::INT | Signal::QUIT) && io::stdin().is_terminal();
            let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
            if let Some(id) = id.filter(|_| !typed) {
                let _ = kill_process(id, heard);
            }
        };
        if !stopping {
            after(life, Phase::Stopping);
        }
        ended.map_err(failed)
    })
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
