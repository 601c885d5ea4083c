//! The commands that vnets had in Xen: `xm vnet-create`, `vnet-delete` and `vnet-list`, and the tool `vn`. This program
//! answers to them when it is called by one of these names, by links that the package does not make by itself, and
//! says what is there in the original's forms.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use viaduct_types::{IfName, PeerName};

use crate::{
    cli::{Global, Peer, Vnet, VnetCreate},
    commands,
    failure::Failure,
    operations::{PeerView, VnetView, VnetsReport},
    show::say,
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

/// Vnets, as Xen's xm had them.
#[derive(Debug, Parser)]
#[command(name = "xm", version)]
struct Xm {
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

/// Vnets, as Xen's vn had them.
#[derive(Debug, Parser)]
#[command(name = "vn", version)]
struct Vn {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: VnCommand,
}

#[derive(Debug, Subcommand)]
enum VnCommand {
    /// Show vnets
    Vnets {
        /// Also the MACs that are here and elsewhere
        #[arg(short, long)]
        all: bool,
        /// Also the bridge
        #[arg(short, long)]
        long: bool,
        /// Only these, by id or interface
        vnets: Vec<String>,
    },
    /// Show the MACs that are on this host
    Vifs,
    /// Show where the MACs of other hosts are
    Varp,
    /// Show the other hosts
    Peers,
    /// Show the bridges of vnets
    Bridges,
    /// Make a vnet
    VnetCreate(VnVnetCreate),
    /// Take a vnet away, with its bridge
    VnetDelete {
        /// With its bridge, which it always is
        #[arg(short, long)]
        bridge: bool,
        /// Its id or interface
        vnet: String,
    },
    /// A host has to be known by its key: `viaduct peer add`
    PeerAdd {
        /// Its port
        #[arg(short, long)]
        port: Option<u16>,
        /// Its address
        addr: String,
    },
    /// Forget a host
    PeerDelete {
        /// Its address, or its name
        addr: String,
    },
}

#[derive(Debug, Args)]
struct VnVnetCreate {
    /// none, auth or conf
    #[arg(short, long, default_value = "conf", value_parser = ["none", "auth", "conf"])]
    security: String,
    /// The bridge
    #[arg(short, long)]
    bridge: Option<IfName>,
    /// The vnet's interface
    #[arg(short, long)]
    vnetif: Option<IfName>,
    /// The id
    vnet: String,
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
        Tool::Xm => {
            let Xm { place, command } = Xm::parse();
            xm(&place.into(), command)
        }
        Tool::Vn => {
            let Vn { place, command } = Vn::parse();
            vn(&place.into(), command)
        }
    }
}

fn xm(global: &Global, command: XmCommand) -> Result<ExitCode, Failure> {
    match command {
        XmCommand::Create { config } => create(global, config),
        XmCommand::Delete { vnet } => commands::vnet(global, &Vnet::Delete { vnet }),
        XmCommand::List { long, ids } => {
            let report = commands::vnets(global)?;
            let chosen = chosen(&report, &ids)?;
            for vnet in chosen {
                if long || !ids.is_empty() {
                    say!("{}", config_of(vnet));
                } else {
                    say!("{}", vnet.id);
                }
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn vn(global: &Global, command: VnCommand) -> Result<ExitCode, Failure> {
    let report = || commands::vnets(global);
    match command {
        VnCommand::VnetCreate(wanted) => {
            let VnVnetCreate { security, bridge, vnetif, vnet } = wanted;
            let arguments = VnetCreate {
                file: None,
                id: Some(vnet),
                bridge,
                interface: vnetif,
                security: Some(security),
            };
            return commands::vnet(global, &Vnet::Create(arguments));
        }
        VnCommand::VnetDelete { bridge: _, vnet } => {
            let report = report()?;
            let by_interface = report.vnets.values().find(|known| known.interface.as_str() == vnet);
            let vnet = by_interface.map_or(vnet, |known| known.id.to_string());
            return commands::vnet(global, &Vnet::Delete { vnet });
        }
        VnCommand::PeerAdd { port, addr } => {
            let port = port.unwrap_or(viaduct_vnet_io::control::PORT);
            return Err(Failure::usage(format!(
                "a host is known by its key: run `viaduct peer add NAME --endpoint {addr}:{port} --key KEY`, with what \
                 `viaduct identity` prints there"
            )));
        }
        VnCommand::PeerDelete { addr } => {
            let report = report()?;
            let at = |peer: &PeerView| {
                peer.endpoints
                    .iter()
                    .any(|known| known.rsplit_once(':').is_some_and(|(host, _)| host == addr))
            };
            let name = report.peers.iter().find(|(name, peer)| name.as_str() == addr || at(peer));
            let name: PeerName = name
                .map(|(name, _)| name.clone())
                .ok_or_else(|| Failure::usage(format!("there is no peer at {addr}")))?;
            return commands::peer(global, &Peer::Delete { name });
        }
        VnCommand::Vnets { all, long, vnets } => {
            let report = report()?;
            for vnet in chosen(&report, &vnets)? {
                say!("{}", module_form(vnet));
                if long {
                    say!("    Bridge: {}", vnet.bridge);
                }
                if all {
                    vifs(vnet);
                    varp(&report, vnet);
                }
            }
        }
        VnCommand::Vifs => report()?.vnets.values().for_each(vifs),
        VnCommand::Varp => {
            let report = report()?;
            say!("(varp (port {}) (encapsulation esp_in_udp))", viaduct_vnet_io::control::PORT);
            report.vnets.values().for_each(|vnet| varp(&report, vnet));
        }
        VnCommand::Peers => {
            for (name, peer) in &report()?.peers {
                let count = |key| peer.counters.get(key).copied().unwrap_or(0);
                let (addr, port) = match peer.address {
                    Some(address) => (address.ip().to_string(), address.port().to_string()),
                    None => (name.to_string(), viaduct_vnet_io::control::PORT.to_string()),
                };
                say!(
                    "(vnet_peer (addr {addr}) (port {port}) (tx_packets {}) (rx_packets {}))",
                    count("datagrams_out"),
                    count("datagrams_in")
                );
            }
        }
        VnCommand::Bridges => {
            for vnet in report()?.vnets.values() {
                say!("{} : {}", vnet.bridge, vnet.interface);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn create(global: &Global, file: PathBuf) -> Result<ExitCode, Failure> {
    let arguments = VnetCreate { file: Some(file), id: None, bridge: None, interface: None, security: None };
    commands::vnet(global, &Vnet::Create(arguments))
}

/// All, or those that are named by id or interface.
fn chosen<'r>(report: &'r VnetsReport, names: &[String]) -> Result<Vec<&'r VnetView>, Failure> {
    if names.is_empty() {
        return Ok(report.vnets.values().collect());
    }
    let find = |name: &String| {
        let id = viaduct_model::sxp::vnet_id(name).ok();
        let found = report.vnets.values().find(|vnet| Some(vnet.id) == id || vnet.interface.as_str() == name);
        found.ok_or_else(|| Failure::usage(format!("{name}: there is no vnet of that id")))
    };
    names.iter().map(find).collect()
}

/// As xend kept it.
fn config_of(vnet: &VnetView) -> String {
    format!(
        "(vnet (id {}) (bridge {}) (vnetif {}) (security {}))",
        vnet.id, vnet.bridge, vnet.interface, vnet.security
    )
}

/// As the kernel module printed it; the header is what it costs.
fn module_form(vnet: &VnetView) -> String {
    let header = match vnet.security.as_str() {
        "none" => 50,
        "auth" => 76,
        _ => 68,
    };
    format!(
        "(vnet (id {}) (vnetif {}) (security {}) (header {header}))",
        vnet.id, vnet.interface, vnet.security
    )
}

fn vifs(vnet: &VnetView) {
    for (mac, _) in vnet.macs.iter().filter(|(_, view)| view.peer.is_none()) {
        say!("(vif (vnet {}) (vmac {mac}) (age 0))", vnet.id);
    }
}

fn varp(report: &VnetsReport, vnet: &VnetView) {
    for (mac, view) in &vnet.macs {
        let Some(name) = &view.peer else { continue };
        let peer = report.peers.get(name);
        let addr =
            peer.and_then(|peer| peer.address).map_or_else(|| name.to_string(), |at| at.ip().to_string());
        let state = if peer.is_some_and(|peer| peer.connected) { "reachable" } else { "failed" };
        say!(
            "(ventry (ref 1) (state {state}) (flags -) (addr {addr}) (queue 0) (age 0) (vmac {mac}) (vnet {}))",
            vnet.id
        );
    }
}
