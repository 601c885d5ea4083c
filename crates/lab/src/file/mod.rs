//! `lab.toml`: what a lab consists of and what is expected of it. The file's form is described in docs/lab.md.

mod load;
mod problems;
mod raw;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use viaduct_model::Config;
use viaduct_types::{GuestName, IfName, IpNet, MacAddr, NamespaceName, NicId, Proto};

use crate::sentence::Sentence;

pub use problems::Problems;

/// The name of a machine or a switch; machines' namespaces are called so.
pub type Name = NamespaceName;

/// The name of the file in a lab's directory.
pub const FILE: &str = "lab.toml";

/// A lab, as its directory describes it.
#[derive(Clone, Debug)]
pub struct Lab {
    /// The directory's name.
    pub name: String,
    /// The directory, as an absolute path.
    pub dir: PathBuf,
    /// Ethernet segments.
    pub switches: BTreeMap<Name, Switch>,
    /// Hosts, guests and outside machines.
    pub machines: BTreeMap<Name, Machine>,
    /// The hosts' configurations.
    pub configs: BTreeMap<Name, Config>,
    /// What is done and expected, in order.
    pub steps: Vec<Step>,
}

/// An Ethernet segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Switch {
    /// MTU in bytes of everything that is plugged into it.
    pub mtu: Option<u32>,
    /// What each frame waits in each of its ports.
    pub delay: Option<Duration>,
    /// How many of a hundred frames each of its ports loses.
    pub loss_percent: Option<f64>,
}

/// A namespace that takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// What it is.
    pub role: Role,
    /// Its network cards; a guest has those that its host gives it.
    pub interfaces: BTreeMap<IfName, Interface>,
    /// Routes beyond those that follow from addresses and gateways.
    pub routes: Vec<Route>,
    /// Whether it forwards packets.
    pub forwarding: bool,
    /// Ports that are answered on.
    pub listen: BTreeSet<(u16, Proto)>,
}

/// What a machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A machine of the outside world.
    Outside,
    /// A host that Viaduct runs on.
    Host {
        /// Its configuration, a file or a directory.
        config: PathBuf,
    },
    /// A guest.
    Guest {
        /// The host it runs on.
        host: Name,
        /// Its name in the host's configuration.
        guest: GuestName,
        /// Its NICs that are attached before the first step.
        attach: Vec<NicId>,
    },
}

/// A network card, set up as a system does before Viaduct runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// What it is plugged into.
    pub switch: Name,
    /// With prefix length.
    pub addresses: Vec<IpNet>,
    /// Default gateways, on-link even outside every prefix.
    pub gateways: Vec<IpAddr>,
    /// None: the kernel's choice.
    pub mac: Option<MacAddr>,
    /// The VLAN that the switch's port is in: the machine's frames have no tag. None: a trunk, where there are VLANs.
    pub vlan: Option<u16>,
}

/// `PREFIX via ADDRESS` or `PREFIX dev INTERFACE`, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub to: IpNet,
    /// The next hop.
    pub via: Option<IpAddr>,
    /// The interface.
    pub dev: Option<IfName>,
}

/// Something done, then something expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Prose: what the step shows.
    pub because: String,
    /// In order.
    pub commands: Vec<Do>,
    /// Checked together, after the commands.
    pub expectations: Vec<Expectation>,
}

/// `MACHINE: COMMAND`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Do {
    /// As written.
    pub text: String,
    /// Where it is run.
    pub machine: Name,
    /// A line for `sh`; `viaduct` is the host's own.
    pub command: String,
    /// Where it was written, counted from 1.
    pub line: usize,
}

/// A sentence that must be true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// As written.
    pub text: String,
    /// What it says.
    pub sentence: Sentence,
    /// Where it was written, counted from 1.
    pub line: usize,
}

impl Lab {
    /// The hosts with their configurations.
    pub fn hosts(&self) -> impl Iterator<Item = (&Name, &PathBuf)> {
        self.machines.iter().filter_map(|(name, machine)| match &machine.role {
            Role::Host { config } => Some((name, config)),
            Role::Outside | Role::Guest { .. } => None,
        })
    }

    /// A host's guests, with the NICs that are attached at the start.
    pub fn guests_of<'l>(&'l self, of: &'l Name) -> impl Iterator<Item = (&'l Name, &'l [NicId])> {
        self.machines.iter().filter_map(move |(name, machine)| match &machine.role {
            Role::Guest { host, attach, .. } if host == of => Some((name, attach.as_slice())),
            Role::Guest { .. } | Role::Outside | Role::Host { .. } => None,
        })
    }

    /// The host that a guest runs on.
    pub fn host_of(&self, machine: &Name) -> Option<&Name> {
        match &self.machines.get(machine)?.role {
            Role::Guest { host, .. } => Some(host),
            Role::Outside | Role::Host { .. } => None,
        }
    }

    /// Whether a switch has ports in VLANs.
    pub fn has_vlans(&self, switch: &Name) -> bool {
        let mut cards = self.machines.values().flat_map(|machine| machine.interfaces.values());
        cards.any(|card| card.switch == *switch && card.vlan.is_some())
    }

    /// Whether one of the machine's own network cards is plugged into the switch.
    pub fn is_on(&self, machine: &Name, switch: &Name) -> bool {
        self.machines.get(machine).is_some_and(|m| m.interfaces.values().any(|i| i.switch == *switch))
    }
}
