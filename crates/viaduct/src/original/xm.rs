//! `xm vnet-create`, `vnet-delete` and `vnet-list`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use super::{Place, chosen, done, forms};
use crate::{cli::VnetCreate, commands, failure::Failure, show::say};

/// Vnets, as Xen's xm had them.
#[derive(Debug, Parser)]
#[command(name = "xm", version)]
pub(super) struct Xm {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: XmCommand,
}

#[derive(Debug, Subcommand)]
enum XmCommand {
    /// Make the vnets of a file; they stay until vnet-delete
    #[command(name = "vnet-create")]
    Create {
        /// The file
        config: PathBuf,
    },
    /// Take a vnet away
    #[command(name = "vnet-delete")]
    Delete {
        /// Its id
        vnet: String,
    },
    /// List the ids of vnets, or show some
    #[command(name = "vnet-list")]
    List {
        /// Show them whole
        #[arg(short, long)]
        long: bool,
        /// Only these
        ids: Vec<String>,
    },
}

pub(super) fn run() -> Result<ExitCode, Failure> {
    let Xm { place, command } = Xm::parse();
    let global = place.into();
    match command {
        XmCommand::Create { config } => {
            let file = Some(config);
            let arguments = VnetCreate { file, id: None, bridge: None, interface: None, security: None };
            Ok(done(&commands::create_vnets(&global, &arguments)?))
        }
        XmCommand::Delete { vnet } => Ok(done(&commands::delete_vnet(&global, &vnet)?)),
        XmCommand::List { long, ids } => {
            let report = commands::vnets(&global)?;
            let (vnets, code) = chosen(&report, &ids);
            for vnet in vnets {
                if long || !ids.is_empty() {
                    say!("{}", forms::config(vnet).pretty(forms::WIDE));
                } else {
                    say!("{}", forms::id(vnet.id));
                }
            }
            Ok(code)
        }
    }
}
