//! The commands, one file each.

mod announce;
mod apply;
mod attach;
mod boot;
mod check;
mod confirm;
mod doctor;
mod events;
mod exec;
mod generate;
mod history;
mod identity;
mod import;
mod inside;
mod lab;
mod peer;
mod plan;
mod set;
mod start;
mod status;
mod vnet;

use std::process::ExitCode;

use viaduct_model::{Loaded, Source};
use viaduct_reconcile::Store;
use viaduct_types::{HostKey, PeerName};

use crate::{
    cli::{Cli, Command, Global, VnetCreate},
    client, daemon,
    failure::Failure,
    guard,
    host::Host,
    operations::{self, Caller, Changed, File, Operation, Remark},
    services,
    show::{self, Progress, say, tell},
    user, vnets,
};

pub(crate) fn run(cli: &Cli) -> Result<ExitCode, Failure> {
    let global = &cli.global;
    match &cli.command {
        Command::Check { files } => check::run(global, files),
        Command::Plan { exit_code } => plan::run(global, *exit_code),
        Command::Apply { confirm } => apply::run(global, *confirm),
        Command::Confirm => confirm::confirm(global),
        Command::Rollback { revision, confirm } => confirm::rollback(global, *revision, *confirm),
        Command::History { revision } => history::run(global, *revision),
        Command::ReturnUnconfirmed => guard::run(global).map(|()| ExitCode::SUCCESS),
        Command::Services { namespace } => services::run(namespace.as_ref()).map(|()| ExitCode::SUCCESS),
        Command::CarryVnets => vnets::run(global).map(|()| ExitCode::SUCCESS),
        Command::LookUpNames => vnets::names::serve().map(|()| ExitCode::SUCCESS),
        Command::LookUpName { name } => vnets::names::one(name).map(|()| ExitCode::SUCCESS),
        Command::Identity => identity::run(global),
        Command::Vnet(command) => vnet::run(global, command),
        Command::Peer(command) => peer::run(global, command),
        Command::Down => apply::down(global),
        Command::Boot => boot::run(global),
        Command::Status => status::run(global),
        Command::Doctor { fix } => doctor::run(global, *fix),
        Command::Attach(arguments) => attach::attach(global, arguments),
        Command::Activate { nic } => attach::activate(global, nic),
        Command::Detach { nic } => attach::detach(global, nic),
        Command::Set(arguments) => set::run(global, arguments),
        Command::Announce { address } => announce::run(global, *address),
        Command::Exec { nic, command } => exec::run(global, nic, command),
        Command::Start { nic, command } => start::run(global, nic, command),
        Command::Lab(command) => lab::run(global, command),
        Command::Daemon => daemon::run(global).map(|()| ExitCode::SUCCESS),
        Command::Events => events::run(global),
        Command::Import { system, paths } => import::run(global, *system, paths),
        Command::Schema { api } => generate::schema(*api),
        Command::Completions { shell } => generate::completions(*shell),
        Command::Man { directory } => generate::man(directory),
    }
}

/// As `viaduct vnet create` does it.
pub(crate) fn create_vnets(global: &Global, arguments: &VnetCreate) -> Result<Changed, Failure> {
    vnet::create(global, arguments)
}

/// As `viaduct vnet delete` does it.
pub(crate) fn delete_vnet(global: &Global, vnet: &str) -> Result<Changed, Failure> {
    vnet::delete(global, vnet)
}

/// As `viaduct peer add` does it.
pub(crate) fn add_peer(
    global: &Global,
    name: PeerName,
    endpoints: Vec<String>,
    key: HostKey,
) -> Result<Changed, Failure> {
    peer::add(global, name, endpoints, key)
}

/// As `viaduct peer delete` does it.
pub(crate) fn delete_peer(global: &Global, name: PeerName) -> Result<Changed, Failure> {
    peer::delete(global, name)
}

/// The vnets of this host, with all MACs.
pub(crate) fn vnets(global: &Global) -> Result<operations::VnetsReport, Failure> {
    ask(global, operations::Vnets { all_macs: true })
}

/// Has an operation performed: by the daemon, when there is one.
fn ask<O: Operation>(global: &Global, operation: O) -> Result<O::Report, Failure> {
    Ok(ask_whom(global, operation)?.0)
}

/// Who performed an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The daemon.
    Daemon,
    /// This process, as there was none.
    Us,
}

/// The same, and who did it.
fn ask_whom<O: Operation>(global: &Global, operation: O) -> Result<(O::Report, By), Failure> {
    let mut bar = Progress::new();
    let mut progress = |done, total| bar.at(done, total);
    let waiting = |why: &str| tell!("{why}");
    let mut caller = Caller { by: user::who(), progress: &mut progress, waiting: &waiting };
    if let Some(report) = client::ask(&global.run_dir, &operation, &mut caller)? {
        return Ok((report, By::Daemon));
    }
    Ok((operations::perform(&mut Host::open(global)?, operation, &mut caller)?, By::Us))
}

/// Performs an operation in this process, also when there is a daemon, whose unit lets it write few files.
fn do_here<O: Operation>(global: &Global, operation: O) -> Result<O::Report, Failure> {
    let waiting = |why: &str| tell!("{why}");
    let mut caller = Caller { by: user::who(), progress: &mut |_, _| {}, waiting: &waiting };
    operations::perform(&mut Host::open(global)?, operation, &mut caller)
}

/// The host's configuration, with what is known of the host beside it. Who may not look at that has the files by themselves.
fn load(global: &Global, sources: &[Source]) -> Result<Loaded, Failure> {
    let store = Store::read_only(&global.state_dir, &global.run_dir);
    let beside = vnets::beside(&store).unwrap_or_default();
    Ok(viaduct_model::load_beside(sources, &beside)?)
}

/// The configuration's files, to be sent with an operation.
fn files_of(sources: &[Source]) -> Vec<File> {
    sources.iter().map(|source| File::from(source.clone())).collect()
}

/// What was done, as it was asked to be said.
fn say_changed(global: &Global, changed: &Changed) {
    if global.json {
        show::say_json(changed);
    } else {
        say_done(&changed.done, &changed.notices);
    }
}

/// What was done and what is to be said about it, for people.
fn say_done(done: &[String], notices: &[Remark]) {
    notices.iter().for_each(|notice| tell!("{notice}"));
    done.iter().for_each(|line| say!("{line}"));
    if done.is_empty() {
        say!("Nothing to do.");
    }
}
