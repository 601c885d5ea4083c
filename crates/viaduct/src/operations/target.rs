//! What `attach` names: found, and checked to be nobody else's.

use std::{borrow::Cow, fs, os::unix::fs::MetadataExt};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use viaduct_kernel::{Netns, NetnsRef};
use viaduct_model::{Config, Mode};
use viaduct_plan::Attachments;
pub(crate) use viaduct_plan::Target;
use viaduct_types::{IfName, NicId};

use super::names;
use crate::{failure::Failure, host::Host};

/// Where a NIC is, as `attach` is told.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Place {
    /// In a network namespace, by its name under /run/netns or its path.
    Netns(String),
    /// In the network namespace of a process.
    Pid(u32),
    /// A persistent tap, made for the purpose.
    Tap {
        /// Named like the guest's link unless a name is given.
        #[schemars(with = "Option<String>")]
        name: Option<IfName>,
        /// The user who may open it, by name or number.
        owner: Option<String>,
    },
    /// A device that exists.
    Device(#[schemars(with = "String")] IfName),
}

/// What is named, checked to exist and to be free for this NIC.
pub(super) fn find(
    id: &NicId,
    place: &Place,
    config: &Config,
    attachments: &Attachments,
) -> Result<Target, Failure> {
    let Some(nic) = config.nic(id) else { return Err(names::unknown(id, config)) };
    let target = match place {
        Place::Netns(name) => netns(&match name.parse() {
            Ok(name) => NetnsRef::Name(name),
            Err(_) => NetnsRef::Path(name.clone()),
        })?,
        Place::Pid(process) => netns(&NetnsRef::Process(*process))?,
        Place::Tap { name, owner } => Target::Tap {
            name: name.clone().unwrap_or_else(|| nic.device.clone()),
            owner: owner.as_deref().map(user).transpose()?,
        },
        Place::Device(name) => Target::Device { name: name.clone() },
    };
    check_stack(id, &target, config)?;
    check_free(config, attachments, id, &target)?;
    Ok(target)
}

/// Like `attached as tap NAME`.
pub(crate) fn words(target: &Target) -> String {
    match target {
        Target::Netns { .. } => format!("attached to {}", short(target)),
        Target::Tap { name, .. } => format!("attached as tap {name}"),
        Target::Device { name } => format!("attached as device {name}"),
    }
}

/// Like `netns NAME`.
pub(crate) fn short(target: &Target) -> String {
    match target {
        Target::Netns { path, .. } => {
            let process = || path.strip_prefix("/proc/")?.strip_suffix("/ns/net");
            match (path.strip_prefix("/run/netns/"), process()) {
                (Some(name), _) => format!("netns {name}"),
                (None, Some(pid)) => format!("process {pid}"),
                (None, None) => path.clone(),
            }
        }
        Target::Tap { .. } => "tap".to_owned(),
        Target::Device { .. } => "device".to_owned(),
    }
}

fn netns(reference: &NetnsRef) -> Result<Target, Failure> {
    let found = Netns::find(reference).map_err(|error| Failure::usage(error.to_string()))?;
    Ok(Target::Netns { path: found.path().to_owned(), inode: found.inode() })
}

/// A user's number, from the number itself or by name.
fn user(name: &str) -> Result<u32, Failure> {
    let number = name.parse().ok().or_else(|| crate::user::number(name));
    number.ok_or_else(|| Failure::usage(format!("there is no user {name} on this host")))
}

/// The file alone says where a namespace is on a network.
pub(super) fn check_not_namespace(id: &NicId, config: &Config) -> Result<(), Failure> {
    match config.guests.get(&id.guest) {
        Some(guest) if guest.is_namespace => Err(Failure::usage(format!(
            "{id} is an interface of the namespace {}: it is attached as long as the configuration has it",
            id.guest
        ))),
        Some(_) | None => Ok(()),
    }
}

/// Devices that somebody made are on the host, and stay there.
fn check_stack(id: &NicId, target: &Target, config: &Config) -> Result<(), Failure> {
    match (target, config.stack_of_id(id)) {
        (Target::Device { name }, Some(namespace)) => Err(Failure::usage(format!(
            "{id} is on a network in the namespace {namespace}, where a device of the host like {name} is none of its \
             ports: attach a namespace (--netns, --pid), or a tap (--tap), which is made in there and is to be opened there"
        ))),
        (Target::Device { .. } | Target::Netns { .. } | Target::Tap { .. }, _) => Ok(()),
    }
}

/// A device to adopt has to be there.
pub(super) fn check_there(host: &mut Host, target: &Target) -> Result<(), Failure> {
    let Target::Device { name } = target else { return Ok(()) };
    let links = host.kernel.links()?;
    match links.get(name) {
        Some(link) if link.is_ours() && !link.alias.starts_with("viaduct:adopted:") => Err(Failure::usage(
            format!("{name} is a device that Viaduct made ({}); it cannot be a guest's", link.alias),
        )),
        Some(_) => Ok(()),
        None => {
            let names = links.iter().filter(|(name, l)| !l.is_ours() && name.as_str() != "lo");
            let names: Vec<&str> = names.map(|(name, _)| name.as_str()).collect();
            let has = if names.is_empty() { "no other".to_owned() } else { names.join(", ") };
            Err(Failure::usage(format!("this host has no device {name}; it has {has}")))
        }
    }
}

/// One device, or one name in a namespace, is one NIC's; and never the host's own.
fn check_free(
    config: &Config,
    attachments: &Attachments,
    id: &NicId,
    target: &Target,
) -> Result<(), Failure> {
    let holder = match target {
        Target::Netns { path, inode } => same_inside(config, attachments, id, (path, *inode)),
        Target::Tap { name, .. } | Target::Device { name } => {
            let stack = config.stack_of_id(id);
            let part = stack.map_or_else(|| config.of_host(), |stack| Cow::Owned(config.of_stack(stack)));
            holder(config, &part, attachments, id, name).map(|what| format!("{name} is {what}"))
        }
    };
    holder.map_or(Ok(()), |text| Err(Failure::usage(text)))
}

/// What a device's name stands for already, if not for this NIC.
fn holder(
    whole: &Config,
    config: &Config,
    attachments: &Attachments,
    id: &NicId,
    name: &IfName,
) -> Option<String> {
    if name.as_str() == "lo" {
        return Some("this host's loopback device; it cannot be a guest's".to_owned());
    }
    if let Some((uplink, _)) = config.uplinks.iter().find(|(_, uplink)| uplink.interface == *name) {
        return Some(format!("the device of uplink {uplink}; it cannot be a guest's"));
    }
    let bridge = config.networks.iter().find(|(_, network)| match &network.mode {
        Mode::Nat { bridge, .. } | Mode::Bridged { bridge, .. } | Mode::Isolated { bridge, .. } => {
            bridge == name
        }
        Mode::Routed { .. } | Mode::Vnet { .. } => false,
    });
    if let Some((network, _)) = bridge {
        return Some(format!("the bridge of network {network}; it cannot be a guest's"));
    }
    let vlan = config.networks.iter().find(|(_, network)| match &network.mode {
        Mode::Bridged { vlan: Some(vlan), .. } => vlan.device == *name,
        Mode::Nat { .. }
        | Mode::Routed { .. }
        | Mode::Bridged { .. }
        | Mode::Isolated { .. }
        | Mode::Vnet { .. } => false,
    });
    if let Some((network, _)) = vlan {
        return Some(format!("the VLAN of network {network}; it cannot be a guest's"));
    }
    // Those of other stacks may have the same name.
    let is_here = |other: &NicId| whole.stack_of_id(other) == config.stack.as_ref();
    let here = attachments.iter().filter(|(other, _)| is_here(other));
    let attached = here.into_iter().find(|(other, target)| match target {
        Target::Tap { name: other_name, .. } | Target::Device { name: other_name } => {
            *other != id && other_name == name
        }
        Target::Netns { .. } => false,
    });
    if let Some((other, _)) = attached {
        return Some(format!("attached as {other} already: `viaduct detach {other}` first"));
    }
    let (other, _) = config.nics().find(|(other, nic)| other != id && nic.device == *name)?;
    Some(format!("the name of the link of {other}; choose another"))
}

/// Another NIC that has the same name inside the same namespace.
fn same_inside(
    config: &Config,
    attachments: &Attachments,
    id: &NicId,
    (path, inode): (&str, u64),
) -> Option<String> {
    let name = &config.nic(id)?.name;
    let same_name = |other: &NicId| other != id && config.nic(other).is_some_and(|nic| nic.name == *name);
    // The kernel gives a number anew as soon as its namespace is gone: what counts is what is there. A name stands for
    // whatever has it.
    let is_there = |path: &str, known: u64| {
        let now = fs::metadata(path).map(|data| data.ino());
        now.is_ok_and(|now| now == inode && (!path.starts_with("/proc/") || now == known))
    };
    // To look at all is worth it only where the name is taken.
    let open = Netns::open(path).and_then(|netns| netns.has_link(name));
    let is_taken = open.unwrap_or(true);
    let (other, target) = attachments.iter().find(|(other, target)| match target {
        Target::Netns { path: other_path, inode: known } => {
            (is_taken || *known == inode || other_path == path)
                && same_name(other)
                && is_there(other_path, *known)
        }
        Target::Tap { .. } | Target::Device { .. } => false,
    })?;
    Some(format!(
        "{other} is {0} already and is called {name} there, as {id} would be: give one of them another `name`, or \
         `viaduct detach {other}` first",
        words(target),
    ))
}
