//! The tool `vn`.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, ToSocketAddrs},
    process::ExitCode,
    str::FromStr,
};

use clap::{Args, CommandFactory, Parser, Subcommand};
use viaduct_kernel::{addresses_of, announce_arrival};
use viaduct_types::{HostKey, IfName, IpNet, MacAddr, PeerName, VNET_PORT, VnetId};

use super::{
    Place, by_id, chosen, devices, done, find,
    forms::{self, Form},
};
use crate::{
    cli::{Global, VnetCreate},
    commands,
    failure::Failure,
    operations::{PeerView, VnetsReport},
    show::{say, tell},
    vnets,
};

/// Vnets, as Xen's vn had them.
#[derive(Debug, Parser)]
#[command(name = "vn", version, disable_help_subcommand = true, infer_long_args = true)]
pub(super) struct Vn {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Option<VnCommand>,
}

#[derive(Debug, Subcommand)]
enum VnCommand {
    /// Say which commands there are
    Help {
        /// And what their options mean
        #[arg(short, long)]
        long: bool,
    },
    /// Show vnets
    Vnets {
        /// Also the MACs that are here and elsewhere
        #[arg(short, long)]
        all: bool,
        /// Also their devices, their bridges and what else is in these
        #[arg(short, long)]
        long: bool,
        /// Only these, by id or interface
        vnets: Vec<String>,
    },
    /// Show the devices of vnets, their bridges and what else is in these
    Vnifs {
        /// Only these, by id or interface
        vnets: Vec<String>,
    },
    /// Show the MACs that are on this host
    Vifs,
    /// Show where the MACs of other hosts are
    Varp,
    /// Forget where they are; but they are told, not guessed, and stay
    VarpFlush,
    /// Show the other hosts
    Peers,
    /// Show the bridges of this host, whoever made them, and what is in them
    Bridges {
        /// As devices
        #[arg(short, long)]
        long: bool,
    },
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
    /// Say to all hosts of a vnet that a MAC is here, before it has said so itself
    VifAdd(Vif),
    /// Say to all hosts of a vnet that a MAC is not here, until it is heard again
    VifDelete(Vif),
    /// Make another host known
    PeerAdd {
        /// Its port
        #[arg(short, long, default_value_t = VNET_PORT)]
        port: u16,
        /// Its public key, as `viaduct identity` prints it there; the original knew hosts by nothing but their addresses
        #[arg(short, long)]
        key: Option<HostKey>,
        /// Its address, or its name
        addr: String,
    },
    /// Load what is needed into the kernel, which is nothing
    Insmod {
        /// What the original's module was told
        parameters: Vec<String>,
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
    /// The bridge; `vnet` and the id otherwise
    #[arg(short, long)]
    bridge: Option<IfName>,
    /// The vnet's interface; `vnif` and the last four digits of the id otherwise
    #[arg(short, long)]
    vnetif: Option<IfName>,
    /// The id
    vnet: String,
}

#[derive(Debug, Args)]
struct Vif {
    /// The MAC is that of an interface
    #[arg(short, long)]
    interface: bool,
    /// The id or the interface of the vnet
    vnet: String,
    /// The MAC, or the interface
    vmac: String,
}

pub(super) fn run() -> Result<ExitCode, Failure> {
    let Vn { place, command } = Vn::parse();
    let global = &place.into();
    let report = || commands::vnets(global);
    match command.unwrap_or(VnCommand::Help { long: false }) {
        VnCommand::Help { long } => {
            let mut command = Vn::command();
            let help = if long { command.render_long_help() } else { command.render_help() };
            say!("{help}");
            if long {
                for command in command.get_subcommands_mut() {
                    say!("{}", command.render_help());
                }
            }
        }
        VnCommand::Vnets { all, long, vnets } => {
            let report = report()?;
            let (vnets, code) = chosen(&report, &vnets);
            let vnets = by_id(vnets);
            for vnet in &vnets {
                say!("{}\n", forms::vnet(vnet).pretty(forms::NARROW));
                if long {
                    devices::show_vnif(vnet)?;
                }
            }
            if all {
                show_all(vnets.into_iter().flat_map(forms::vifs));
                show_varp(&report);
            }
            return Ok(code);
        }
        VnCommand::Vnifs { vnets } => {
            let report = report()?;
            let (vnets, code) = chosen(&report, &vnets);
            by_id(vnets).into_iter().try_for_each(devices::show_vnif)?;
            return Ok(code);
        }
        VnCommand::Vifs => {
            let report = report()?;
            show_all([forms::vif_table()]);
            show_all(report.vnets.values().flat_map(forms::vifs));
        }
        VnCommand::Varp => show_varp(&report()?),
        VnCommand::VarpFlush => {
            report()?;
            tell!(
                "nothing to forget: where a MAC is, is told by the host that has it, and is never out of date"
            );
        }
        VnCommand::Peers => {
            show_all(report()?.peers.iter().map(|(name, peer)| forms::peer(name.as_str(), peer, VNET_PORT)));
        }
        VnCommand::Bridges { long: false } => {
            devices::bridges().iter().for_each(|bridge| say!("{}", devices::bridge_line(bridge)));
        }
        VnCommand::Bridges { long: true } => devices::bridges().iter().try_for_each(devices::show_bridge)?,
        VnCommand::VnetCreate(wanted) => {
            return Ok(done(&commands::create_vnets(global, &wanted.into_arguments()?)?));
        }
        VnCommand::VnetDelete { bridge: _, vnet } => {
            let vnet = find(&report()?, &vnet)?.id.to_string();
            return Ok(done(&commands::delete_vnet(global, &vnet)?));
        }
        VnCommand::VifAdd(vif) => add_vif(global, &report()?, &vif)?,
        VnCommand::VifDelete(vif) => {
            let (vnet, mac) = (find(&report()?, &vif.vnet)?.id, vif.mac()?);
            say_machine(global, vnet, mac, false)?;
        }
        VnCommand::PeerAdd { port, key, addr } => return add_peer(global, &addr, port, key),
        VnCommand::PeerDelete { addr } => {
            let name = peer_at(&report()?, &addr)?;
            return Ok(done(&commands::delete_peer(global, name)?));
        }
        VnCommand::Insmod { parameters } => {
            tell!("nothing to load: frames are carried by the daemon's own process");
            for parameter in parameters {
                tell!("{parameter}: {}", in_place_of(&parameter));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What does here what a parameter of the original's module did.
fn in_place_of(parameter: &str) -> &'static str {
    match parameter.split_once('=').map_or(parameter, |(name, _)| name) {
        "varp_mcaddr" => {
            "groups by which hosts find each other are `groups` of [discovery] in the configuration"
        }
        "varp_device" => {
            "the devices at which hosts find each other are `interfaces` of [discovery] in the configuration"
        }
        "vnet_encaps" => {
            "there is nothing to choose: by what frames are carried follows from `security` of each vnet, ESP in UDP with \
             `conf` or `auth`, VXLAN with `none`"
        }
        _ => "the original's module had no such parameter; it had varp_mcaddr, varp_device and vnet_encaps",
    }
}

fn show_all(forms: impl IntoIterator<Item = Form>) {
    forms.into_iter().for_each(|form| say!("{}\n", form.pretty(forms::WIDE)));
}

fn show_varp(report: &VnetsReport) {
    let discovery = report.discovery.as_ref();
    let device = discovery.and_then(|discovery| discovery.interfaces.first());
    // One that is not there has none.
    let own = device.and_then(|device| addresses_of(device).ok()).unwrap_or_default();
    let own: Vec<IpAddr> = own.iter().map(IpNet::addr).collect();
    show_all([forms::varp(discovery, &own, VNET_PORT)]);
    show_all(report.vnets.values().flat_map(|vnet| forms::ventries(report, vnet)));
}

impl VnVnetCreate {
    fn into_arguments(self) -> Result<VnetCreate, Failure> {
        let Self { security, bridge, vnetif, vnet } = self;
        let id = viaduct_model::sxp::vnet_id(&vnet).map_err(Failure::usage)?;
        let [.., high, low] = id.to_bytes();
        let name = format!("vnif{:04x}", u16::from_be_bytes([high, low]));
        let name: IfName = name.parse().map_err(|error| Failure::usage(format!("{name}: {error}")))?;
        // The original's manual gives addresses to the device of this name; they belong to the bridge, which may have it.
        let interface = vnetif.or_else(|| Some(name).filter(|name| bridge.as_ref() != Some(name)));
        Ok(VnetCreate { file: None, id: Some(vnet), bridge, interface, security: Some(security) })
    }
}

impl Vif {
    fn mac(&self) -> Result<MacAddr, Failure> {
        let text = if self.interface {
            let place = format!("/sys/class/net/{}/address", self.vmac);
            // What is no name of an interface is none of its parts.
            let name = IfName::from_str(&self.vmac)
                .map_err(|error| Failure::usage(format!("{}: {error}", self.vmac)))?;
            fs::read_to_string(&place).map_err(|error| Failure::usage(format!("{name}: {error}")))?
        } else {
            self.vmac.clone()
        };
        text.trim().parse().map_err(|error| Failure::usage(format!("{}: {error}", self.vmac)))
    }
}

/// The hosts are told, and then the switches behind their bridges, as the hypervisor of a machine does that has arrived.
fn add_vif(global: &Global, report: &VnetsReport, vif: &Vif) -> Result<(), Failure> {
    let (vnet, mac) = (find(report, &vif.vnet)?, vif.mac()?);
    say_machine(global, vnet.id, mac, true)?;
    if vnet.security == "none" {
        // Frames of it are let in where it is known to be here, which this one would not wait for.
        return Ok(());
    }
    announce_arrival(&vnet.interface, mac)
        .map_err(|error| Failure::failed(format!("{}: {error}", vnet.interface)))
}

fn say_machine(global: &Global, vnet: VnetId, mac: MacAddr, here: bool) -> Result<(), Failure> {
    let troubles = vnets::machine(&global.run_dir, vnet, mac, here).map_err(|error| {
        Failure::failed(format!(
            "the process that carries vnets does not answer: {error}; is the daemon running?"
        ))
    })?;
    match troubles.first() {
        None => Ok(()),
        Some(trouble) => Err(Failure::usage(format!("vnet {vnet}: {trouble}"))),
    }
}

/// The original knew hosts by addresses alone; without a key, nobody is one.
fn add_peer(global: &Global, addr: &str, port: u16, key: Option<HostKey>) -> Result<ExitCode, Failure> {
    // Names of peers have no dots or colons.
    let name: String = addr.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let host = if addr.contains(':') { format!("[{addr}]") } else { addr.to_owned() };
    let key = key.ok_or_else(|| {
        Failure::usage(format!(
            "a host is known by its key: add `--key KEY`, with what `viaduct identity` prints there, or run `viaduct peer add \
             NAME --endpoint {host}:{port} --key KEY`"
        ))
    })?;
    let name: PeerName = name.parse().map_err(|error| Failure::usage(format!("{addr}: {error}")))?;
    Ok(done(&commands::add_peer(global, name, vec![format!("{host}:{port}")], key)?))
}

/// The name of the peer that has this name, is looked for at this address, or is there; the original knew hosts by the addresses that
/// their names have.
fn peer_at(report: &VnetsReport, addr: &str) -> Result<PeerName, Failure> {
    let hosts = |peer: &PeerView| -> Vec<String> {
        let written = peer.endpoints.iter().filter_map(|known| Some(known.rsplit_once(':')?.0));
        written.map(|host| host.trim_matches(['[', ']']).to_owned()).collect()
    };
    let is_there =
        |peer: &PeerView| peer.address.iter().chain(&peer.found).any(|at| at.ip().to_string() == addr);
    let find = |is: &dyn Fn(&PeerView) -> bool| -> Vec<&PeerName> {
        report.peers.iter().filter(|(_, peer)| is(peer)).map(|(name, _)| name).collect()
    };
    if let Some((name, _)) = report.peers.iter().find(|(name, _)| name.as_str() == addr) {
        return Ok(name.clone());
    }
    let mut found = find(&|peer| hosts(peer).iter().any(|host| host == addr));
    if found.is_empty() {
        found = find(&is_there);
    }
    // Names are looked up only where nobody is called so.
    if found.is_empty() {
        let asked = addresses(addr);
        found = find(&|peer| hosts(peer).iter().any(|host| !addresses(host).is_disjoint(&asked)));
    }
    match found.as_slice() {
        [name] => Ok((*name).clone()),
        [] => Err(Failure::usage(format!("there is no peer at {}", addr.escape_debug()))),
        several => {
            let names: Vec<&str> = several.iter().map(|name| name.as_str()).collect();
            Err(Failure::usage(format!("several peers are at {addr}: say which, {}", names.join(" or "))))
        }
    }
}

/// Of a name or an address; none when it has none.
fn addresses(host: &str) -> BTreeSet<IpAddr> {
    (host, VNET_PORT).to_socket_addrs().into_iter().flatten().map(|at| at.ip()).collect()
}
