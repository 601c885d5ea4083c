//! The commands, one file each.

mod announce;
mod apply;
mod attach;
mod check;
mod exec;
mod generate;
mod lab;
mod names;
mod plan;
mod set;
mod status;
mod target;

use std::process::ExitCode;

use crate::{
    cli::{Cli, Command},
    failure::Failure,
};

pub(crate) fn run(cli: &Cli) -> Result<ExitCode, Failure> {
    let global = &cli.global;
    match &cli.command {
        Command::Check { files } => check::run(global, files),
        Command::Plan { exit_code } => plan::run(global, *exit_code),
        Command::Apply => apply::run(global),
        Command::Down => apply::down(global),
        Command::Status => status::run(global),
        Command::Attach(arguments) => attach::attach(global, arguments),
        Command::Detach { nic } => attach::detach(global, nic),
        Command::Set(arguments) => set::run(global, arguments),
        Command::Announce { address } => announce::run(global, *address),
        Command::Exec { nic, command } => exec::run(global, nic, command),
        Command::Lab(command) => lab::run(global, command),
        Command::Schema => generate::schema(),
        Command::Completions { shell } => generate::completions(*shell),
        Command::Man { directory } => generate::man(directory),
    }
}
