//! What comes from definitions: schema, completions, man pages.

use std::{fs, io, path::Path, process::ExitCode};

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::{
    cli::Cli,
    daemon,
    failure::Failure,
    original,
    show::{self, say},
};

pub(super) fn schema(api: bool) -> Result<ExitCode, Failure> {
    let schema = if api { daemon::document() } else { viaduct_model::schema() };
    let text = serde_json::to_string_pretty(&schema)
        .map_err(|error| Failure::failed(format!("cannot print the schema: {error}")))?;
    say!("{text}");
    Ok(ExitCode::SUCCESS)
}

pub(super) fn completions(shell: Shell) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut shown(), "viaduct", &mut script);
    show::say_text(&String::from_utf8_lossy(&script));
    Ok(ExitCode::SUCCESS)
}

/// All that people type: scripts would offer hidden commands as well, by which parts of the program start each other.
fn shown() -> Command {
    let all = Cli::command();
    Command::new("viaduct")
        .version(env!("CARGO_PKG_VERSION"))
        .args(all.get_arguments())
        .subcommands(all.get_subcommands().filter(|command| !command.is_hide_set()))
}

pub(super) fn man(directory: &Path) -> Result<ExitCode, Failure> {
    let go = || -> io::Result<()> {
        fs::create_dir_all(directory)?;
        clap_mangen::generate_to(Cli::command(), directory)?;
        original::commands().into_iter().try_for_each(|command| clap_mangen::generate_to(command, directory))
    };
    go().map_err(|error| {
        Failure::failed(format!("cannot write man pages to {}: {error}", directory.display()))
    })?;
    Ok(ExitCode::SUCCESS)
}
