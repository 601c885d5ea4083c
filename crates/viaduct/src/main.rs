//! The `viaduct` command.
#![forbid(unsafe_code)]

mod cli;
mod client;
mod clock;
mod commands;
mod daemon;
mod failure;
mod files;
mod guard;
mod hooks;
mod host;
mod lines;
mod membership;
mod operations;
mod original;
mod ourselves;
mod privileges;
mod sandbox;
mod services;
mod show;
mod situation;
mod user;
mod vnets;

use std::process::ExitCode;

use clap::Parser;
use serde_json::json;

use cli::{Cli, Command};
use show::{say, tell};

/// Gives memory back that a look at a large host needed for a moment; the C library's mostly keeps it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let code = match original::called_as(std::env::args_os().next()) {
        Some(tool) => as_original(tool),
        None => match Cli::try_parse() {
            Ok(cli) => run(&cli),
            Err(error) => misunderstood(&error),
        },
    };
    match show::finish() {
        None => code,
        Some(error) => {
            tell!("error: what was to be said could not be written: {error}");
            ExitCode::FAILURE
        }
    }
}

/// By a name that vnets' commands had in Xen.
fn as_original(tool: original::Tool) -> ExitCode {
    match original::run(tool) {
        Ok(code) => code,
        Err(failure) => {
            failure.show(false);
            failure.code()
        }
    }
}

fn run(cli: &Cli) -> ExitCode {
    start_log(cli);
    match commands::run(cli) {
        Ok(code) => code,
        Err(failure) => {
            failure.show(cli.global.json);
            failure.code()
        }
    }
}

/// Wrong usage; also help and version, which are no errors.
fn misunderstood(error: &clap::Error) -> ExitCode {
    let own_words = || std::env::args_os().take_while(|word| word != "--");
    if error.use_stderr() && own_words().any(|word| word == "--json") {
        let text = error.to_string();
        say!("{}", json!({ "error": text.trim_start_matches("error: ").trim_end() }));
    } else {
        // Nobody is there to be told otherwise.
        let _ = error.print();
    }
    if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

fn start_log(cli: &Cli) {
    // A daemon's log is all that people see of it.
    let level = match cli.global.verbose
        + u8::from(matches!(cli.command, Command::Daemon | Command::Services { .. } | Command::CarryVnets))
    {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("VIADUCT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .log_internal_errors(false)
        .init();
}
