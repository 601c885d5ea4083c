use std::process::ExitCode;

use serde_json::json;
use viaduct_model::{Config, Nic};
use viaduct_plan::Target;
use viaduct_types::{IfName, NicId};

use super::{names, target};
use crate::{
    cli::{Attach, Global},
    failure::Failure,
    files,
    host::{Host, Situation},
    show::{self, say},
};

pub(super) fn attach(global: &Global, arguments: &Attach) -> Result<ExitCode, Failure> {
    let mut host = Host::open(global)?;
    let id = &arguments.nic;
    let before = host.situation()?;
    let applied = before.applied.as_ref().map(|applied| &applied.config);
    let Some((config, nic)) = applied.and_then(|config| Some((config, config.nic(id)?))) else {
        return attach_later(global, arguments, &host, before);
    };
    let target = target::find(arguments, config, &before.attachments)?;
    target::check_there(&mut host, &target)?;
    let mut after = before.clone();
    let old = after.attachments.insert(id.clone(), target.clone());
    let outcome = host.turn(Some(&before), &after)?;
    let view = View { id, nic, target: &target };
    if global.json {
        say!(
            "{}",
            json!({
                "nic": id,
                "attached": true,
                "pending": false,
                "target": target,
                "device": view.device(),
                "mac": nic.mac,
                "addresses": nic.addresses,
                "qemu": view.qemu(config),
                "libvirt": view.libvirt(config),
                "done": outcome.done,
                "notices": show::notices_json(&outcome.notices),
            })
        );
        return Ok(ExitCode::SUCCESS);
    }
    if outcome.done.is_empty() {
        say!("{id} is attached already. Nothing to do.");
    } else {
        if let Some(old) = old.filter(|old| *old != target) {
            say!("{id} is no longer {}.", target::words(&old));
        }
        view.print();
    }
    if let (Some(qemu), Some(libvirt)) = (view.qemu(config), view.libvirt(config)) {
        say!("\nFor QEMU:\n  {qemu}\nFor libvirt:\n{libvirt}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Not applied yet; if it is in the files, the attachment is kept for that.
fn attach_later(
    global: &Global,
    arguments: &Attach,
    host: &Host,
    before: Situation,
) -> Result<ExitCode, Failure> {
    let id = &arguments.nic;
    let loaded = viaduct_model::load(&files::read(&global.config)?)?;
    let mut attachments = before.attachments;
    let target = target::find(arguments, &loaded.config, &attachments)?;
    attachments.insert(id.clone(), target.clone());
    host.store.set_attachments(&attachments)?;
    if global.json {
        say!("{}", json!({ "nic": id, "attached": false, "pending": true, "target": target }));
    } else {
        say!("{id} is not applied yet. `viaduct apply` will attach it: {}.", target::words(&target));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn detach(global: &Global, id: &NicId) -> Result<ExitCode, Failure> {
    let mut host = Host::open(global)?;
    let before = host.situation()?;
    let mut after = before.clone();
    let Some(old) = after.attachments.remove(id) else {
        let config = before.applied.as_ref().map(|applied| &applied.config);
        if config.is_none_or(|config| config.nic(id).is_none()) {
            return Err(config.map_or_else(
                || Failure::Usage(format!("{id} is not attached, and no configuration is applied yet")),
                |config| names::unknown(id, config),
            ));
        }
        if global.json {
            say!("{}", json!({ "nic": id, "done": [], "notices": [] }));
        } else {
            say!("{id} is not attached. Nothing to do.");
        }
        return Ok(ExitCode::SUCCESS);
    };
    let outcome = host.turn(Some(&before), &after)?;
    if global.json {
        let notices = show::notices_json(&outcome.notices);
        say!("{}", json!({ "nic": id, "done": outcome.done, "notices": notices }));
    } else {
        say!("{id} is no longer {}.", target::words(&old));
    }
    Ok(ExitCode::SUCCESS)
}

/// A NIC that is attached.
struct View<'a> {
    id: &'a NicId,
    nic: &'a Nic,
    target: &'a Target,
}

impl View<'_> {
    fn device(&self) -> &IfName {
        match self.target {
            Target::Netns { .. } => &self.nic.device,
            Target::Tap { name, .. } | Target::Device { name } => name,
        }
    }

    fn print(&self) {
        let addresses: Vec<String> = self.nic.addresses.iter().map(|a| a.addr().to_string()).collect();
        let addresses = if addresses.is_empty() { "no addresses".to_owned() } else { addresses.join(", ") };
        let mac = self.nic.mac;
        match self.target {
            Target::Netns { .. } => say!(
                "{} is {}: {} with {addresses} and MAC {mac} there, {} here.",
                self.id,
                target::words(self.target),
                self.nic.name,
                self.device(),
            ),
            Target::Tap { .. } | Target::Device { .. } => say!(
                "{} is {}. To be set up inside: {addresses}, MAC {mac}.",
                self.id,
                target::words(self.target),
            ),
        }
    }

    /// What QEMU is to be told, of a tap.
    fn qemu(&self, config: &Config) -> Option<String> {
        let Target::Tap { name, .. } = self.target else { return None };
        let net = format!("net{}", self.id.index);
        let mtu = self.mtu(config).map(|mtu| format!(",host_mtu={mtu}")).unwrap_or_default();
        Some(format!(
            "-netdev tap,id={net},ifname={name},script=no,downscript=no,vhost=on \
             -device virtio-net-pci,netdev={net},mac={}{mtu}",
            self.nic.mac
        ))
    }

    /// The same for libvirt. The tap is there and stays (`managed='no'`).
    fn libvirt(&self, config: &Config) -> Option<String> {
        let Target::Tap { name, .. } = self.target else { return None };
        let mtu = self.mtu(config).map(|mtu| format!("\n    <mtu size='{mtu}'/>")).unwrap_or_default();
        Some(format!(
            "  <interface type='ethernet'>\n    <mac address='{}'/>\n    <target dev='{name}' managed='no'/>\n    \
             <model type='virtio'/>{mtu}\n  </interface>",
            self.nic.mac
        ))
    }

    /// Only what is written: whatever else it is, guests take for granted.
    fn mtu(&self, config: &Config) -> Option<u32> {
        self.nic.mtu.or_else(|| config.networks.get(&self.nic.network)?.mtu)
    }
}
