use std::{path::absolute, process::ExitCode};

use viaduct_types::{IfName, NicId};

use super::ask;
use crate::{
    cli::{self, Global, NicArgument},
    failure::Failure,
    operations::{
        Activate, Attach, Attached, Detach,
        target::{self, Place},
    },
    show::{self, say, tell},
};

pub(super) fn attach(global: &Global, arguments: &cli::Attach) -> Result<ExitCode, Failure> {
    let report = ask(global, attached(arguments)?)?;
    if global.json {
        show::say_json(&report);
    } else {
        print(&report);
        if arguments.nic.is_guest && !report.others.is_empty() {
            tell!("Not attached: {}. Each of a guest's NICs is attached by itself.", list(&report.others));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(nics: &[NicId]) -> String {
    nics.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn attached(arguments: &cli::Attach) -> Result<Attach, Failure> {
    Ok(Attach { nic: arguments.nic.id.clone(), place: place(arguments)?, prepare: arguments.prepare })
}

fn place(arguments: &cli::Attach) -> Result<Place, Failure> {
    // The parser does not ask for what the option requires when that conflicts with another one.
    if arguments.owner.is_some() && arguments.tap.is_none() {
        return Err(Failure::usage("--owner is for taps: it needs --tap"));
    }
    if let Some(name) = &arguments.netns {
        // A path means the same wherever it is read.
        let path = if name.contains('/') { absolute(name).ok() } else { None };
        return Ok(Place::Netns(path.map_or_else(|| name.clone(), |path| path.display().to_string())));
    }
    let tap = |name: &Option<IfName>| Place::Tap { name: name.clone(), owner: arguments.owner.clone() };
    let device = || arguments.device.clone().map(Place::Device);
    let place = arguments.pid.map(Place::Pid).or_else(|| arguments.tap.as_ref().map(tap)).or_else(device);
    place.ok_or_else(|| Failure::usage("say where the NIC is: --netns, --pid, --tap or --device"))
}

fn print(report: &Attached) {
    let Attached { nic: id, target, .. } = report;
    let Some(there) = &report.connected else {
        say!("{id} is not applied yet. `viaduct apply` will attach it: {}.", target::words(target));
        return;
    };
    there.notices.iter().for_each(|notice| tell!("{notice}"));
    if report.prepared {
        say!("{id} is silent until `viaduct activate {id}`, or until its guest says that it has arrived.");
    }
    if there.done.is_empty() {
        say!("{id} is attached already. Nothing to do.");
    } else {
        if let Some(old) = &report.formerly {
            say!("{id} is no longer {}.", target::words(old));
        }
        let addresses: Vec<String> = there.addresses.iter().map(|a| a.addr().to_string()).collect();
        let addresses = if addresses.is_empty() { "no addresses".to_owned() } else { addresses.join(", ") };
        let words = target::words(target);
        let mac = there.mac;
        match target {
            target::Target::Netns { .. } if !there.set_up && !there.addresses.is_empty() => say!(
                "{id} is {words}: {} with MAC {mac} there, {} here. To be asked for (DHCP) or set up inside: {addresses}.",
                there.name,
                there.device
            ),
            target::Target::Netns { .. } => say!(
                "{id} is {words}: {} with {addresses} and MAC {mac} there, {} here.",
                there.name,
                there.device
            ),
            target::Target::Tap { .. } | target::Target::Device { .. } => {
                say!("{id} is {words}. To be set up inside: {addresses}, MAC {mac}.");
            }
        }
    }
    if let (Some(qemu), Some(libvirt)) = (&there.qemu, &there.libvirt) {
        say!("\nFor QEMU:\n  {qemu}\nFor libvirt:\n{libvirt}");
    }
}

pub(super) fn activate(global: &Global, nic: &NicId) -> Result<ExitCode, Failure> {
    let report = ask(global, Activate { nic: nic.clone() })?;
    if global.json {
        show::say_json(&report);
        return Ok(ExitCode::SUCCESS);
    }
    report.notices.iter().for_each(|notice| tell!("{notice}"));
    if report.waited {
        say!("{nic} speaks from now on.");
    } else {
        say!("{nic} does not wait to be activated. Nothing to do.");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn detach(global: &Global, nic: &NicArgument) -> Result<ExitCode, Failure> {
    let id = &nic.id;
    let report = ask(global, Detach { nic: id.clone() })?;
    if global.json {
        show::say_json(&report);
        return Ok(ExitCode::SUCCESS);
    }
    report.notices.iter().for_each(|notice| tell!("{notice}"));
    match &report.target {
        Some(old) => say!("{id} is no longer {}.", target::words(old)),
        None if report.done.is_empty() => say!("{id} is not attached. Nothing to do."),
        None => say!("{id} is not attached. What was left of it is gone."),
    }
    if nic.is_guest && !report.others.is_empty() {
        tell!("Still attached: {}. Each of a guest's NICs is detached by itself.", list(&report.others));
    }
    Ok(ExitCode::SUCCESS)
}
