//! The commands that vnets had in Xen: `xm vnet-create`, `vnet-delete` and `vnet-list`, and the tool `vn`. This program
//! answers to them when it is called by one of these names, by links that nobody finds without asking for them, and
//! says what is there in the original's forms.

mod devices;
mod forms;
mod vn;
mod xm;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, CommandFactory};

use crate::{
    cli::Global,
    failure::Failure,
    operations::{Changed, VnetView, VnetsReport},
    show::tell,
};

/// By which name this was called, if it is one of the original's.
pub(crate) fn called_as(first: Option<OsString>) -> Option<Tool> {
    let first = first?;
    match Path::new(&first).file_name()?.to_str()? {
        "xm" => Some(Tool::Xm),
        "vn" => Some(Tool::Vn),
        _ => None,
    }
}

/// One of the original's programs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tool {
    Xm,
    Vn,
}

/// What they take, for whoever describes it: their pages have names of their own, for others are called as they are.
pub(crate) fn commands() -> [clap::Command; 2] {
    [xm::Xm::command().display_name("viaduct-xm"), vn::Vn::command().display_name("viaduct-vn")]
}

/// Where the host's Viaduct keeps what it keeps.
#[derive(Debug, Args)]
struct Place {
    /// The configuration
    #[arg(long, global = true, default_value = "/etc/viaduct", env = "VIADUCT_CONFIG", hide = true)]
    config: PathBuf,
    /// What survives a reboot
    #[arg(long, global = true, default_value = "/var/lib/viaduct", hide = true)]
    state_dir: PathBuf,
    /// What does not
    #[arg(long, global = true, default_value = "/run/viaduct", hide = true)]
    run_dir: PathBuf,
}

impl From<Place> for Global {
    fn from(place: Place) -> Self {
        let Place { config, state_dir, run_dir } = place;
        Self { config, state_dir, run_dir, json: false, verbose: 0 }
    }
}

/// Does what was asked of one of them.
pub(crate) fn run(tool: Tool) -> Result<ExitCode, Failure> {
    match tool {
        Tool::Xm => xm::run(),
        Tool::Vn => vn::run(),
    }
}

/// One that is named by its id or its interface.
fn find<'r>(report: &'r VnetsReport, name: &str) -> Result<&'r VnetView, Failure> {
    let id = viaduct_model::sxp::vnet_id(name).ok();
    let found = report.vnets.values().find(|vnet| Some(vnet.id) == id || vnet.interface.as_str() == name);
    found.ok_or_else(|| {
        Failure::usage(format!(
            "{}: there is no such vnet; `viaduct vnet list` shows them",
            name.escape_debug()
        ))
    })
}

/// All, by their ids, or those that are named, in this order; what is wrong with a name is told, and the others go on.
fn chosen<'r>(report: &'r VnetsReport, names: &[String]) -> (Vec<&'r VnetView>, ExitCode) {
    if names.is_empty() {
        return (by_id(report.vnets.values().collect()), ExitCode::SUCCESS);
    }
    let (mut vnets, mut code) = (Vec::new(), ExitCode::SUCCESS);
    for name in names {
        match find(report, name) {
            Ok(vnet) => vnets.push(vnet),
            Err(failure) => {
                failure.show(false);
                code = failure.code();
            }
        }
    }
    (vnets, code)
}

fn by_id(mut vnets: Vec<&VnetView>) -> Vec<&VnetView> {
    vnets.sort_by_key(|vnet| vnet.id);
    vnets
}

/// The original said nothing of what it had done.
fn done(changed: &Changed) -> ExitCode {
    changed.notices.iter().for_each(|notice| tell!("{notice}"));
    ExitCode::SUCCESS
}
