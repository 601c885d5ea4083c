use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    process::ExitCode,
};

use viaduct_model::sxp;
use viaduct_types::{IfName, MacAddr, PeerName, VnetId, VnetName};

use super::{ask, say_changed, status::new_table};
use crate::{
    cli::{Global, Vnet, VnetCreate as Create},
    failure::Failure,
    operations::{Changed, VnetAsked, VnetCreate, VnetDelete, VnetView, Vnets, VnetsReport},
    show::{self, say, tell},
};

/// Far beyond what a file of vnets has.
const LARGEST: u64 = 1 << 20;

pub(super) fn run(global: &Global, command: &Vnet) -> Result<ExitCode, Failure> {
    match command {
        Vnet::Create(arguments) => say_changed(global, &create(global, arguments)?),
        Vnet::Delete { vnet } => say_changed(global, &delete(global, vnet)?),
        Vnet::List { long, vnets } => {
            let mut report = ask(global, Vnets { all_macs: false })?;
            if !vnets.is_empty() {
                let wanted =
                    vnets.iter().map(|vnet| name_of(&report, vnet)).collect::<Result<Vec<_>, _>>()?;
                report.vnets.retain(|name, _| wanted.contains(name));
            }
            if !global.json {
                report.unused_vnets.iter().for_each(|name| unused("vnet", name, "id"));
            }
            if global.json {
                show::say_json(&report.vnets);
            } else if *long {
                report.vnets.iter().for_each(|(name, vnet)| long_form(name, vnet));
            } else {
                list(&report);
            }
        }
        Vnet::Show { vnet } => {
            let report = ask(global, Vnets { all_macs: false })?;
            let name = name_of(&report, vnet)?;
            let vnet = &report.vnets[&name];
            if global.json {
                show::say_json(vnet);
            } else {
                long_form(&name, vnet);
            }
        }
        Vnet::Macs { vnet } => {
            let report = ask(global, Vnets { all_macs: true })?;
            let vnet = &report.vnets[&name_of(&report, vnet)?];
            if global.json {
                show::say_json(&vnet.macs);
            } else {
                macs(vnet);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn create(global: &Global, arguments: &Create) -> Result<Changed, Failure> {
    let vnets = match (&arguments.file, &arguments.id) {
        (Some(file), _) => of_file(file)?,
        (None, Some(id)) => vec![of_arguments(id, arguments)?],
        (None, None) => Vec::new(),
    };
    ask(global, VnetCreate { vnets })
}

pub(super) fn delete(global: &Global, vnet: &str) -> Result<Changed, Failure> {
    ask(global, VnetDelete { vnet: vnet.to_owned() })
}

/// By id or name.
fn name_of(report: &VnetsReport, text: &str) -> Result<VnetName, Failure> {
    let id = sxp::vnet_id(text).ok();
    let found = report.vnets.iter().find(|(name, vnet)| name.as_str() == text || Some(vnet.id) == id);
    found.map(|(name, _)| name.clone()).ok_or_else(|| {
        let known: Vec<&str> = report.vnets.keys().map(VnetName::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Failure::usage(format!("there is no vnet {}; there is {known}", text.escape_debug()))
    })
}

/// What is in a file; a device or a wrong file must not fill the memory.
fn text_of(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::other("it is larger than any file of vnets"));
    }
    Ok(text)
}

/// The vnets of one of Xen's files.
pub(super) fn of_file(file: &Path) -> Result<Vec<VnetAsked>, Failure> {
    let shown = file.display();
    let text =
        text_of(file).map_err(|error| Failure::unreadable(vec![format!("cannot read {shown}: {error}")]))?;
    let read = sxp::read(&text)
        .map_err(|error| Failure::usage(format!("{shown}:{}: {}", error.line, error.message)))?;
    for (line, hint) in &read.hints {
        tell!("warning: {shown}:{line}: {hint}");
    }
    read.vnets
        .into_iter()
        .map(|vnet| {
            let security = match vnet.security {
                Some(security) => security.word(),
                None => {
                    tell!(
                        "{shown}: vnet {} says nothing of security, and so it is conf: encrypted and authenticated",
                        vnet.id_text
                    );
                    "conf"
                }
            };
            let device = |written: Option<_>, start: &str| match written {
                Some(device) => Ok(device),
                None => derived(start, &vnet.id_text, vnet.id),
            };
            Ok(VnetAsked {
                id: vnet.id,
                bridge: device(vnet.bridge, "vnet")?,
                interface: device(vnet.vnetif, "vnif")?,
                security: security.to_owned(),
            })
        })
        .collect()
}

fn of_arguments(id: &str, arguments: &Create) -> Result<VnetAsked, Failure> {
    let known = sxp::vnet_id(id).map_err(Failure::usage)?;
    let device = |written: &Option<_>, start| written.clone().map_or_else(|| derived(start, id, known), Ok);
    Ok(VnetAsked {
        id: known,
        bridge: device(&arguments.bridge, "vnet")?,
        interface: device(&arguments.interface, "vnif")?,
        security: arguments.security.clone().unwrap_or_else(|| "conf".to_owned()),
    })
}

fn derived(start: &str, written: &str, id: VnetId) -> Result<IfName, Failure> {
    sxp::device(start, written, id).ok_or_else(|| {
        Failure::usage(format!("there is no name for a device of the vnet {written}: name it"))
    })
}

fn list(report: &VnetsReport) {
    if report.vnets.is_empty() {
        say!("No vnets.");
        return;
    }
    let mut table = new_table(["vnet", "id", "security", "bridge", "mtu", "in it", "not in it"]);
    for (name, vnet) in &report.vnets {
        let with = |wanted: bool| {
            let names = vnet.peers.iter().filter(|(_, member)| (member.state == "in it") == wanted);
            names.map(|(name, _)| name.to_string()).collect::<Vec<_>>().join(" ")
        };
        table.add_row([
            name.to_string(),
            vnet.id.to_string(),
            vnet.security.clone(),
            vnet.bridge.to_string(),
            vnet.mtu.map(|mtu| mtu.to_string()).unwrap_or_default(),
            with(true),
            with(false),
        ]);
    }
    say!("{}", table.trim_fmt());
}

/// Says that something which a command made does not count, and how to forget it.
pub(super) fn unused(kind: &str, name: &impl std::fmt::Display, identity: &str) {
    tell!(
        "warning: the {kind} {name}, which a command made, does not count: the configuration has one of its name or its {identity}; \
         `viaduct {kind} delete {name}` forgets it"
    );
}

fn long_form(name: &VnetName, vnet: &VnetView) {
    say!("vnet {name}, id {}, security {}", vnet.id, vnet.security);
    say!("  bridge {}, port {}", vnet.bridge, vnet.interface);
    if let Some(port) = &vnet.port {
        let drops = port.drops.iter().map(|(reason, count)| format!(", {reason} {}", count.packets));
        say!("  goes on outside by {}{}", port.device, drops.collect::<String>());
    }
    if let Some(mtu) = vnet.mtu {
        say!("  carries packets of {mtu} bytes");
    }
    for (peer, member) in &vnet.peers {
        let mtu = member.mtu.map(|mtu| format!(", packets of {mtu} bytes")).unwrap_or_default();
        let cipher = member.cipher.as_ref().map(|cipher| format!(", {cipher}")).unwrap_or_default();
        say!("  peer {peer}: {}{mtu}{cipher}", member.state);
    }
    say!("  {} MACs", vnet.mac_count);
    shared(vnet).for_each(|line| say!("  {line}"));
    let counters: Vec<String> = vnet
        .counters
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{} {count}", name.replace('_', " ")))
        .collect();
    if !counters.is_empty() {
        say!("  {}", counters.join(", "));
    }
    for trouble in vnet.trouble.iter().chain(&vnet.fallbacks) {
        say!("  {trouble}");
    }
}

/// Addresses that several machines have, each with where these are.
pub(super) fn shared(vnet: &VnetView) -> impl Iterator<Item = String> {
    let at = |mac: &MacAddr| match vnet.macs.get(mac) {
        Some(view) => format!("{mac} ({})", place(&view.peer)),
        None => mac.to_string(),
    };
    vnet.shared_addresses.iter().map(move |(address, macs)| {
        let macs: Vec<String> = macs.iter().map(at).collect();
        format!("{address} is claimed with {}", macs.join(" and "))
    })
}

/// Which host it is at.
pub(super) fn place(peer: &Option<PeerName>) -> String {
    peer.as_ref().map_or("here", |peer| peer.as_str()).to_owned()
}

fn macs(vnet: &VnetView) {
    let mut table = new_table(["mac", "where", "addresses", "also claimed by"]);
    for (mac, view) in &vnet.macs {
        let addresses: Vec<String> = view.addresses.iter().map(ToString::to_string).collect();
        let others: Vec<String> = view.also_claimed_by.iter().map(place).collect();
        table.add_row([mac.to_string(), place(&view.peer), addresses.join("\n"), others.join(" ")]);
    }
    if table.row_count() > 0 {
        say!("{}", table.trim_fmt());
    }
}
