use std::{path::Path, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use viaduct_model::{Config, Nic};
use viaduct_plan::{Attachments, Target};
use viaduct_types::{IfName, IpNet, MacAddr, NicId};

use super::{
    Caller, Operation, Remark, names, probe,
    target::{self, Place},
};
use crate::{failure::Failure, files, host::Host, situation::Situation, vnets::vnet_of};

/// Connects a guest's NIC that now exists.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Attach {
    /// The guest's first NIC, GUEST, or any of them, GUEST.N.
    #[schemars(with = "String")]
    pub(crate) nic: NicId,
    /// Where it is.
    pub(crate) place: Place,
    /// Whether it waits, silent, for its guest to arrive from another host: until `activate`, or until the guest says so
    /// (RARP, gratuitous ARP, unsolicited neighbour advertisement). In vnets only.
    #[serde(default)]
    pub(crate) prepare: bool,
}

/// A NIC that is attached.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Attached {
    /// Which.
    #[schemars(with = "String")]
    pub(crate) nic: NicId,
    /// Whether it is connected now.
    pub(crate) attached: bool,
    /// Whether it waits for the configuration to be applied.
    pub(crate) pending: bool,
    /// Whether it waits, silent, for its guest to arrive.
    #[serde(default)]
    pub(crate) prepared: bool,
    /// Where it is.
    #[schemars(with = "serde_json::Value")]
    pub(crate) target: Target,
    /// Where it was until now, if elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub(crate) formerly: Option<Target>,
    /// The guest's other NICs that are not attached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub(crate) others: Vec<NicId>,
    /// What is there of it, unless it waits.
    #[serde(flatten)]
    pub(crate) connected: Option<Connected>,
}

/// What there is of a NIC that is connected.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Connected {
    /// The host's device for it.
    #[schemars(with = "String")]
    pub(crate) device: IfName,
    /// Its name for the guest.
    #[schemars(with = "String")]
    pub(crate) name: IfName,
    #[schemars(with = "String")]
    pub(crate) mac: MacAddr,
    #[schemars(with = "Vec<String>")]
    pub(crate) addresses: Vec<IpNet>,
    /// Whether these are set up inside: not when the guest asks for them (DHCP), nor where it sets them up by itself.
    pub(crate) set_up: bool,
    /// What QEMU is to be told, of a tap.
    pub(crate) qemu: Option<String>,
    /// The same for libvirt.
    pub(crate) libvirt: Option<String>,
    /// What was done, a line each.
    pub(crate) done: Vec<String>,
    /// What is to be said about it.
    pub(crate) notices: Vec<Remark>,
}

/// What `detach` answers.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Detached {
    /// Which.
    #[schemars(with = "String")]
    pub(crate) nic: NicId,
    /// Where it was; none when it was not attached.
    #[schemars(with = "Option<serde_json::Value>")]
    pub(crate) target: Option<Target>,
    /// The guest's other NICs that are attached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub(crate) others: Vec<NicId>,
    /// What was done, a line each.
    pub(crate) done: Vec<String>,
    /// What is to be said about it.
    pub(crate) notices: Vec<Remark>,
}

impl Operation for Attach {
    const NAME: &'static str = "attach";
    const WRITES: bool = true;
    type Report = Attached;

    fn perform(self, host: &mut Host, caller: &mut Caller<'_>) -> Result<Attached, Failure> {
        let id = &self.nic;
        let before = host.situation()?;
        let Some((config, nic)) = before.config().and_then(|config| Some((config, config.nic(id)?))) else {
            return self.later(host, before);
        };
        target::check_not_namespace(id, config)?;
        let target = target::find(id, &self.place, config, before.attached())?;
        target::check_there(host, &target)?;
        let mut attachments = Arc::clone(&before.attachments);
        let old = Arc::make_mut(&mut attachments).insert(id.clone(), target.clone());
        if self.prepare && vnet_of(config, id).is_none() {
            return Err(Failure::usage(format!(
                "{id} is in no vnet, so that it cannot come from another host: attach it without --prepare"
            )));
        }
        if self.prepare && old.is_some() && !before.is_prepared(id) && !is_elsewhere(config, id) {
            return Err(Failure::usage(format!(
                "{id} is attached here, and its guest would fall silent: prepare it on the host that the guest goes to; within this \
                 host, attach it without --prepare"
            )));
        }
        let after = before.with_attachments(attachments).with_prepared(id, self.prepare);
        probe::are_free(host, Some(&before), &after)?;
        let outcome = host.turn(Some(&before), &after, caller)?;
        if vnet_of(config, id).is_some() {
            host.make_known(&after);
        }
        let made = after.config().and_then(|config| config.nic(id)).unwrap_or(nic);
        Ok(Attached {
            attached: true,
            pending: false,
            prepared: self.prepare,
            formerly: old.filter(|old| *old != target),
            others: others(id, config, after.attached(), false),
            connected: Some(Connected {
                device: device(nic, &target).clone(),
                name: nic.name.clone(),
                mac: nic.mac,
                addresses: made.addresses.clone(),
                set_up: matches!(target, Target::Netns { .. }) && !made.is_by_itself(),
                qemu: qemu(id, nic, &target, config),
                libvirt: libvirt(nic, &target, config),
                done: outcome.done,
                notices: Remark::of_change(&outcome.notices, &before, &after),
            }),
            nic: self.nic,
            target,
        })
    }
}

/// The other NICs of a NIC's guest that are attached, or are not.
fn others(id: &NicId, config: &Config, attached: &Attachments, are_attached: bool) -> Vec<NicId> {
    let nics = config.guests.get(&id.guest).map_or(0, |guest| guest.nics.len());
    let all =
        (0..u8::try_from(nics).unwrap_or(u8::MAX)).map(|index| NicId { guest: id.guest.clone(), index });
    all.filter(|other| other != id && attached.contains_key(other) == are_attached).collect()
}

/// Whether the guest of a NIC has arrived at another host since, as far as is known here.
fn is_elsewhere(config: &Config, id: &NicId) -> bool {
    let vnet = vnet_of(config, id).and_then(|(name, mac)| Some((config.vnets.get(&name)?, mac)));
    vnet.is_some_and(|(vnet, mac)| vnet.lost.contains(&mac))
}

impl Attach {
    /// Not applied yet; if it is in the files, the attachment is kept for that.
    fn later(self, host: &Host, before: Situation) -> Result<Attached, Failure> {
        if self.prepare {
            return Err(Failure::usage(format!("{} is not applied yet: it cannot be prepared", self.nic)));
        }
        let loaded = viaduct_model::load(&files::read(&host.config)?)?;
        let mut attachments = Arc::unwrap_or_clone(before.attachments);
        let target = target::find(&self.nic, &self.place, &loaded.config, &attachments)?;
        attachments.insert(self.nic.clone(), target.clone());
        host.store.set_attachments(&attachments)?;
        Ok(Attached {
            others: others(&self.nic, &loaded.config, &attachments, false),
            nic: self.nic,
            attached: false,
            pending: true,
            prepared: false,
            target,
            formerly: None,
            connected: None,
        })
    }
}

/// Lets a NIC speak that waits for its guest: it has arrived.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Activate {
    /// The guest's first NIC, GUEST, or any of them, GUEST.N.
    #[schemars(with = "String")]
    pub(crate) nic: NicId,
}

/// What `activate` answers.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Activated {
    /// Which.
    #[schemars(with = "String")]
    pub(crate) nic: NicId,
    /// Whether it waited until now.
    pub(crate) waited: bool,
    /// What was done, a line each.
    pub(crate) done: Vec<String>,
    /// What is to be said about it.
    pub(crate) notices: Vec<Remark>,
}

impl Operation for Activate {
    const NAME: &'static str = "activate";
    const WRITES: bool = true;
    type Report = Activated;

    fn perform(self, host: &mut Host, caller: &mut Caller<'_>) -> Result<Activated, Failure> {
        let id = &self.nic;
        let before = host.situation()?;
        if !before.attachments.contains_key(id) {
            return Err(match before.config() {
                Some(config) if config.nic(id).is_none() => names::unknown(id, config),
                Some(_) | None => Failure::usage(format!("{id} is not attached: `viaduct attach` does that")),
            });
        }
        let waited = before.is_prepared(id);
        let after = before.with_prepared(id, false);
        let outcome = host.turn(Some(&before), &after, caller)?;
        host.make_known(&after);
        let notices = Remark::of_change(&outcome.notices, &before, &after);
        Ok(Activated { nic: self.nic, waited, done: outcome.done, notices })
    }
}

/// Disconnects a guest's NIC.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Detach {
    /// The guest's first NIC, GUEST, or any of them, GUEST.N.
    #[schemars(with = "String")]
    pub(crate) nic: NicId,
}

impl Operation for Detach {
    const NAME: &'static str = "detach";
    const WRITES: bool = true;
    type Report = Detached;

    fn perform(self, host: &mut Host, caller: &mut Caller<'_>) -> Result<Detached, Failure> {
        let id = &self.nic;
        let before = host.situation()?;
        let mut attachments = Arc::clone(&before.attachments);
        let Some(old) = Arc::make_mut(&mut attachments).remove(id) else {
            let config = before.config();
            if config.is_none_or(|config| config.nic(id).is_none()) {
                return Err(config.map_or_else(
                    || Failure::usage(format!("{id} is not attached, and no configuration is applied yet")),
                    |config| names::unknown(id, config),
                ));
            }
            if let Some(config) = config {
                target::check_not_namespace(id, config)?;
            }
            // Somebody may have been stopped on the way.
            let outcome = host.make_sure(&before, caller)?;
            let notices = Remark::of_change(&outcome.notices, &before, &before);
            let others = config.map_or_else(Vec::new, |config| others(id, config, before.attached(), true));
            return Ok(Detached { nic: self.nic, target: None, others, done: outcome.done, notices });
        };
        let after = before.with_attachments(attachments).with_prepared(id, false);
        let outcome = host.turn(Some(&before), &after, caller)?;
        let notices = Remark::of_change(&outcome.notices, &before, &after);
        let others =
            after.config().map_or_else(Vec::new, |config| others(id, config, after.attached(), true));
        Ok(Detached { nic: self.nic, target: Some(old), others, done: outcome.done, notices })
    }
}

/// The host's device for a NIC.
pub(super) fn device<'a>(nic: &'a Nic, target: &'a Target) -> &'a IfName {
    match target {
        Target::Netns { .. } => &nic.device,
        Target::Tap { name, .. } | Target::Device { name } => name,
    }
}

/// Lets the kernel move a tap's packets between it and the machine. Where it is not, QEMU told to use it does not start
/// (7.2 aborts after its warning).
const VHOST: &str = "/dev/vhost-net";

/// What QEMU is to be told, of a tap.
fn qemu(id: &NicId, nic: &Nic, target: &Target, config: &Config) -> Option<String> {
    let Target::Tap { name, .. } = target else { return None };
    let net = format!("net{}", id.index);
    let mtu = mtu(nic, config).map(|mtu| format!(",host_mtu={mtu}")).unwrap_or_default();
    let vhost = if Path::new(VHOST).exists() { ",vhost=on" } else { "" };
    Some(format!(
        "-netdev tap,id={net},ifname={name},script=no,downscript=no{vhost} \
         -device virtio-net-pci,netdev={net},mac={}{mtu}",
        nic.mac
    ))
}

/// The same for libvirt. The tap is there and stays (`managed='no'`).
fn libvirt(nic: &Nic, target: &Target, config: &Config) -> Option<String> {
    let Target::Tap { name, .. } = target else { return None };
    let mtu = mtu(nic, config).map(|mtu| format!("\n    <mtu size='{mtu}'/>")).unwrap_or_default();
    Some(format!(
        "  <interface type='ethernet'>\n    <mac address='{}'/>\n    <target dev='{name}' managed='no'/>\n    \
         <model type='virtio'/>{mtu}\n  </interface>",
        nic.mac
    ))
}

/// Only what is written: whatever else it is, guests take for granted.
fn mtu(nic: &Nic, config: &Config) -> Option<u32> {
    nic.mtu.or_else(|| config.networks.get(&nic.network)?.mtu)
}
