use std::process::ExitCode;

use serde_json::json;
use viaduct_kernel::{Netns, NetnsRef};
use viaduct_model::Config;
use viaduct_plan::{Attachments, Target};
use viaduct_types::{IfName, NicId};

use super::apply::{report, undo};
use crate::{
    cli::{Attach, Global},
    failure::Failure,
    files,
    host::{Host, applied},
};

pub(super) fn attach(global: &Global, arguments: &Attach) -> Result<ExitCode, Failure> {
    let mut host = Host::open(global)?;
    let nic = &arguments.nic;
    let current = applied(&host.store)?;
    let config = current.as_ref().map(|(_, config)| config);
    let Some(config) = config.filter(|config| config.nic(nic).is_some()) else {
        // Not applied yet; if it is in the files, the attachment is kept for that.
        let loaded = viaduct_model::load(&files::read(&global.config)?)?;
        let target = target(arguments, &loaded.config)?;
        let mut attachments = host.store.attachments()?;
        check_free(&attachments, nic, &target)?;
        attachments.insert(nic.clone(), target);
        host.store.set_attachments(&attachments)?;
        let text = format!("{nic} is not applied yet: it will be attached by `viaduct apply`");
        if global.json {
            println!("{}", json!({ "nic": nic, "attached": false, "pending": true }));
        } else {
            println!("{text}");
        }
        return Ok(ExitCode::SUCCESS);
    };
    let target = target(arguments, config)?;
    if let Target::Device { name } = &target {
        check_there(&mut host, name)?;
    }
    let before = host.store.attachments()?;
    check_free(&before, nic, &target)?;
    let mut attachments = before.clone();
    attachments.insert(nic.clone(), target.clone());
    host.store.set_attachments(&attachments)?;
    match host.become_as(config, &attachments) {
        Ok(outcome) => {
            report(global, &outcome);
            if let (Target::Tap { name, .. }, false) = (&target, global.json) {
                let mac = config.nic(nic).map(|n| n.mac.to_string()).unwrap_or_default();
                println!(
                    "\nFor QEMU: -netdev tap,id={nic},ifname={name},script=no,downscript=no,vhost=on \
                     -device virtio-net-pci,netdev={nic},mac={mac}"
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            host.store.set_attachments(&before)?;
            Err(undo(&mut host, error, |host| host.go_back(Some(config), &before)))
        }
    }
}

pub(super) fn detach(global: &Global, nic: &NicId) -> Result<ExitCode, Failure> {
    let mut host = Host::open(global)?;
    let mut attachments = host.store.attachments()?;
    if attachments.remove(nic).is_none() {
        let known = applied(&host.store)?.is_some_and(|(_, config)| config.nic(nic).is_some());
        if !known {
            return Err(Failure::Usage(format!("{nic} is neither attached nor in the configuration")));
        }
        if global.json {
            println!("{}", json!({ "done": [], "notices": [] }));
        } else {
            println!("{nic} is not attached. Nothing to do.");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let current = applied(&host.store)?;
    host.store.set_attachments(&attachments)?;
    if let Some((_, config)) = current {
        let outcome = host.become_as(&config, &attachments)?;
        report(global, &outcome);
    }
    Ok(ExitCode::SUCCESS)
}

/// What the command line names, checked to exist.
fn target(arguments: &Attach, config: &Config) -> Result<Target, Failure> {
    let id = &arguments.nic;
    let Some(nic) = config.nic(id) else { return Err(unknown(id, config)) };
    if let Some(name) = &arguments.netns {
        let reference = match name.parse() {
            Ok(name) => NetnsRef::Name(name),
            Err(_) => NetnsRef::Path(name.clone()),
        };
        return netns(&reference);
    }
    if let Some(pid) = arguments.pid {
        return netns(&NetnsRef::Process(pid));
    }
    if let Some(name) = &arguments.tap {
        let name = name.clone().unwrap_or_else(|| nic.device.clone());
        return Ok(Target::Tap { name, owner: arguments.owner.as_deref().map(user).transpose()? });
    }
    match &arguments.device {
        Some(name) => Ok(Target::Device { name: name.clone() }),
        None => Err(Failure::Usage("say where the NIC is: --netns, --pid, --tap or --device".to_owned())),
    }
}

fn netns(reference: &NetnsRef) -> Result<Target, Failure> {
    let found = Netns::find(reference).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(Target::Netns { path: found.path().to_owned(), inode: found.inode() })
}

/// A user's number, from the number itself or from /etc/passwd.
fn user(name: &str) -> Result<u32, Failure> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    });
    number.ok_or_else(|| Failure::Usage(format!("there is no user {name} on this host")))
}

/// A device to adopt has to be there.
fn check_there(host: &mut Host, name: &IfName) -> Result<(), Failure> {
    let links = host.kernel.links()?;
    match links.get(name) {
        Some(link) if link.is_ours() && !link.alias.starts_with("viaduct:adopted:") => Err(Failure::Usage(
            format!("{name} is a device that Viaduct made ({}); it cannot be a guest's", link.alias),
        )),
        Some(_) => Ok(()),
        None => {
            let names: Vec<&str> = links
                .iter()
                .filter(|(_, l)| !l.is_ours())
                .map(|(n, _)| n.as_str())
                .filter(|n| *n != "lo")
                .collect();
            Err(Failure::Usage(format!("this host has no device {name}; it has {}", names.join(", "))))
        }
    }
}

/// One device or one name in a namespace is one NIC's.
fn check_free(attachments: &Attachments, nic: &NicId, target: &Target) -> Result<(), Failure> {
    let device = |target: &Target| match target {
        Target::Tap { name, .. } | Target::Device { name } => Some(name.clone()),
        Target::Netns { .. } => None,
    };
    let taken = attachments
        .iter()
        .find(|(other, t)| *other != nic && device(t).is_some() && device(t) == device(target));
    match taken {
        Some((other, _)) => Err(Failure::Usage(format!(
            "{} is attached as {other} already: `viaduct detach {other}` first",
            device(target).map(|d| d.to_string()).unwrap_or_default()
        ))),
        None => Ok(()),
    }
}

/// No such guest or NIC, and what there is.
pub(super) fn unknown(id: &NicId, config: &Config) -> Failure {
    match config.guests.get(&id.guest) {
        Some(guest) if guest.nics.is_empty() => {
            Failure::Usage(format!("the guest {} has no NICs of its own", id.guest))
        }
        Some(guest) => Failure::Usage(format!(
            "the guest {} has {} NICs, {}.0 to {}.{}; there is no {id}",
            id.guest,
            guest.nics.len(),
            id.guest,
            id.guest,
            guest.nics.len() - 1
        )),
        None => {
            const SHOWN: usize = 10;
            let names: Vec<&str> = config.guests.keys().take(SHOWN).map(|g| g.as_str()).collect();
            let more = if config.guests.len() > SHOWN { ", …" } else { "" };
            Failure::Usage(format!(
                "there is no guest {} in the configuration; there are {}{more}",
                id.guest,
                names.join(", ")
            ))
        }
    }
}
