//! The `viaduct` command.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is what talks to people")]

mod cli;
mod commands;
mod failure;
mod files;
mod host;
mod show;

use std::process::ExitCode;

use clap::Parser;

use cli::Cli;

fn main() -> ExitCode {
    // A reader that leaves early, like `head`, is no error of ours.
    show::end_quietly_on_closed_pipe();
    let cli = Cli::parse();
    start_log(cli.global.verbose);
    match commands::run(&cli) {
        Ok(code) => code,
        Err(failure) => {
            failure.show(cli.global.json);
            failure.code()
        }
    }
}

fn start_log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("VIADUCT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
}
