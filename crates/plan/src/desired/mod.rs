//! Desired state: what the configuration and the attachments ask of the kernel, given what the host has.

mod bridge_filter;
mod checks;
mod context;
mod devices;
mod disjoint;
mod elements;
mod inet_filter;
mod links;
mod named;
mod namespaces;
mod probed;
mod served;
mod services;
mod uplink_filter;
mod uplinks;
mod vnets;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use viaduct_model::{Config, Origin};
use viaduct_types::{IfName, IpNet, MacAddr, NamespaceName, NicId, RoutingRule, VnetName};

use crate::{
    lent::mark_carriers,
    nft::Ruleset,
    op::{InnerKind, NewLink},
    stacks::supposed,
    state::{Address, Ask, Attachments, GuestRoute, Inside, Observed, PortVlans, Proxy, Route, Sysctl},
};
pub(crate) use checks::is_link_local;
use context::Context;
pub(crate) use context::{decided_by_one, namespace_of};
pub use named::{Answers, HostName, ZoneHead, host_addresses};
pub use namespaces::attached_namespaces;
pub use probed::probed;
pub use served::{
    Boot, Boot6, Client, Client6, LinkHead, LinkPrefix, LinkRouter, Neighbours, Router, Served, ServedChange,
    ServedLink, ServedLinkChange, ServedNic, Told, Zone, ZoneChange,
};
pub use vnets::{Claims, vnet_claims, vnet_ports, vnis};

/// What the aliases of NICs' links of ours begin with.
pub(crate) const NIC: &str = "viaduct:nic:";
/// Of a NIC's device that somebody else made.
pub(crate) const ADOPTED: &str = "viaduct:adopted:";
/// Of a network's bridge.
pub(crate) const BRIDGE: &str = "viaduct:bridge:";
/// Of the device that leads to the other hosts of a vnet.
pub(crate) const VNET: &str = "viaduct:vnet:";
/// Of an interface of the host's that is a port of a vnet's bridge; the vnet's name follows.
pub(crate) const PORT: &str = "viaduct:port:";
/// Of an interface of the host's that was down and had to be up for what stands on it, a VLAN or the like.
pub(crate) const CARRIER: &str = "viaduct:carrier:down";
/// Of an uplink's bridge.
pub(crate) const UPLINK: &str = "viaduct:uplink:";
/// Of a VLAN of an uplink that a bridge has for a port; what it is follows.
pub(crate) const VLAN: &str = "viaduct:vlan:";
/// Of a device in a shared namespace; what it is follows.
pub const INNER: &str = "viaduct:inner:";
/// Of the host's end of a cable between a shared namespace and a bridge that is not ours.
pub(crate) const CABLE: &str = "viaduct:cable:";
/// Of a device of the host's while it is in a shared namespace; the name that it had follows.
pub const MOVED: &str = "viaduct:moved:";

/// What a host should have. Whatever is ours and not in here goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// By name.
    pub links: BTreeMap<IfName, DesiredLink>,
    /// On which bridge the addresses of which uplink interface live.
    pub moves: BTreeMap<IfName, IfName>,
    /// Ours, with their scope (RT_SCOPE_*).
    pub addresses: BTreeMap<Address, OwnAddress>,
    /// Ours.
    pub routes: BTreeSet<Route>,
    /// Ours.
    pub proxies: BTreeSet<Proxy>,
    /// Ours.
    pub unicast: BTreeSet<(IfName, MacAddr)>,
    /// Value, and when it has to be set.
    pub sysctls: BTreeMap<Sysctl, DesiredSysctl>,
    /// Inside the namespaces of attached guests.
    pub guests: BTreeMap<NicId, DesiredGuest>,
    /// The shared namespaces.
    pub namespaces: BTreeMap<NamespaceName, DesiredNamespace>,
    /// Our tables.
    pub nft: Ruleset,
    /// Addresses that outside neighbours are told about when they come: on which link, with which MAC if not the
    /// link's own.
    pub announced: BTreeMap<Proxy, Option<MacAddr>>,
    /// What guests are told when they ask for their configuration.
    pub served: Served,
    /// Attachments whose namespace or device is gone.
    pub stale: BTreeSet<NicId>,
    /// What the stacks of namespaces should have, in the order in which they are made; what is served and what is gone
    /// stands with the host's.
    pub stacks: Vec<(NamespaceName, Self)>,
}

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredLink {
    /// How to make it; none: it is there already (an uplink, an adopted device).
    pub make: Option<NewLink>,
    /// Its alias when it is ours, made or adopted.
    pub alias: Option<String>,
    /// None: as it is.
    pub mac: Option<MacAddr>,
    /// None: as it is.
    pub mtu: Option<u32>,
    /// The bridge it is a port of; none: of no bridge of ours.
    pub master: Option<IfName>,
    /// As a bridge port: cut off from other isolated ports.
    pub isolated: bool,
    /// As a bridge port: may send back what came in by it.
    pub hairpin: bool,
    /// Of a bridge: looks at frames' VLANs.
    pub filters_vlans: bool,
    /// On a bridge that does, as its port or as itself; none: on one that does not.
    pub vlans: Option<PortVlans>,
    /// None: as it is.
    pub addrgen_none: Option<bool>,
    /// Of a bridge: the host's own addresses that others give it there stay.
    pub keeps_addresses: bool,
    /// Whether to bring it up; one that is up is never taken down.
    pub up: bool,
}

/// A sysctl's value, and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredSysctl {
    /// As written to the file.
    pub value: String,
    /// Restored when no longer wanted; not for links that we make.
    pub journal: bool,
    /// When in a plan.
    pub when: When,
}

/// When in a plan a sysctl is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// Before links are touched.
    First,
    /// When its link exists, before it comes up.
    WithLink,
    /// When everything else is in place: forwarding.
    Last,
}

/// An address of the host's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// RT_SCOPE_*: 0 global, 253 link, 254 host.
    pub scope: u8,
    /// Its place among its device's, in the file's order; 0 is spoken from.
    pub place: usize,
}

impl OwnAddress {
    /// The only one of its family and scope on its device.
    pub(crate) fn alone(scope: u8) -> Self {
        Self { scope, place: 0 }
    }
}

/// The inside of an attached guest's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredGuest {
    /// The namespace's path.
    pub netns: String,
    /// The device's name inside.
    pub device: IfName,
    /// The host's end.
    pub host_device: IfName,
    /// Its MAC.
    pub mac: MacAddr,
    /// In bytes.
    pub mtu: u32,
    /// With prefix length; what the guest opens comes from the first of a family.
    pub addresses: Vec<IpNet>,
    /// Whether others can be on the link, so that duplicates have to be looked for.
    pub dad: bool,
    /// Through this NIC.
    pub routes: BTreeSet<GuestRoute>,
    /// Whether the guest sets addresses and routes itself, as it is told: those are left alone.
    pub by_itself: bool,
}

/// A shared namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredNamespace {
    /// The devices in it that are made or moved there; ends of cables are guests'.
    pub devices: BTreeMap<IfName, DesiredDevice>,
    /// Ours.
    pub rules: BTreeSet<RoutingRule>,
    /// Settings with their values.
    pub sysctls: BTreeMap<Sysctl, String>,
}

/// A device inside a shared namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredDevice {
    /// How to make it.
    pub kind: InnerKind,
    /// Its alias, which says how it was made.
    pub alias: String,
    /// Its MAC; none: its parent's.
    pub mac: Option<MacAddr>,
    /// In bytes; none: as it is.
    pub mtu: Option<u32>,
    /// With prefix length; what is opened by it comes from the first of a family.
    pub addresses: Vec<IpNet>,
    /// Through it.
    pub routes: BTreeSet<GuestRoute>,
}

/// How grave a notice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The plan must not be carried out.
    Error,
    /// It can, but somebody should know.
    Warning,
}

/// Something that only shows when configuration and host are seen together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How grave.
    pub severity: Severity,
    /// What is the matter, and what to do.
    pub text: String,
    /// The line of the file that it is about.
    pub origin: Option<Origin>,
    /// The vnet that it is so of for as long as that is as it is: who changes something else need not hear it again.
    pub vnet: Option<VnetName>,
}

impl Notice {
    /// About the stack of a namespace.
    fn within(self, namespace: &NamespaceName) -> Self {
        Self { text: format!("in namespace {namespace}: {}", self.text), ..self }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.severity {
            Severity::Error => f.write_str("error: ")?,
            Severity::Warning => f.write_str("warning: ")?,
        }
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        f.write_str(&self.text)
    }
}

/// What to look at before [`desired`] can say what is wanted.
pub fn ask(config: &Config, attachments: &Attachments) -> Ask {
    let mut ask = ask_one(&config.of_host(), attachments);
    for name in config.stacks() {
        ask.stacks.insert(name.clone(), ask_one(&config.of_stack(name), attachments));
    }
    ask
}

pub(crate) fn ask_one(config: &Config, attachments: &Attachments) -> Ask {
    let mut ask =
        Ask { sysctls: uplinks::asked(config), link_sysctls: uplinks::asked_of_links(), ..Ask::default() };
    for (name, namespace) in namespaces::made(config) {
        let settings = namespace.sysctls.keys().map(|path| Sysctl::from_path(path.clone()));
        ask.namespaces.insert(name.clone(), settings.collect());
    }
    for port in context::ports(config, attachments) {
        ask.sysctls.extend(links::port_sysctls(&port, true).into_keys());
        let uplink = port.network.uplink.as_ref().filter(|_| port.nic.uplink_mac);
        if let Some((name, uplink)) = uplink.and_then(|name| config.uplinks.get_key_value(name)) {
            ask.listening
                .extend([&uplink.interface, context::layer3(config, name, uplink)].map(Clone::clone));
        }
        if let Some(netns) = port.netns() {
            let inode = port.inode().filter(|_| netns.starts_with("/proc/"));
            let inside = Inside { path: netns.to_owned(), inode, device: port.nic.name.clone() };
            ask.guests.insert(port.id.clone(), inside);
        }
    }
    ask.guests.extend(namespaces::ends(config));
    for (bridge, _, network) in context::bridges(config) {
        ask.sysctls.extend(links::bridge_sysctls(bridge, network, true).into_keys());
    }
    ask
}

/// What the host should have, and what is to be said about it. With an error among the notices the rest must not be
/// used.
pub fn desired(config: &Config, attachments: &Attachments, observed: &Observed) -> (Desired, Vec<Notice>) {
    let (mut wanted, mut notices) = one(&config.of_host(), config, attachments, observed);
    for name in config.stacks() {
        let ground = supposed(observed, name, &wanted);
        let (mut stack, said) = one(&config.of_stack(name), config, attachments, &ground);
        // What the file says of the namespace's settings is the last word.
        let written = config.namespaces.get(name).map(|namespace| &namespace.sysctls);
        stack.sysctls.retain(|key, _| !written.is_some_and(|written| written.contains_key(key.path())));
        notices.extend(said.into_iter().map(|notice| notice.within(name)));
        wanted.stale.append(&mut stack.stale);
        let served = std::mem::take(&mut stack.served);
        if served != Served::default() {
            wanted.served.stacks.insert(name.clone(), served);
        }
        wanted.stacks.push((name.clone(), stack));
    }
    sort(&mut notices);
    (wanted, notices)
}

/// The same of one stack, by a configuration that is about nothing else.
pub(crate) fn of_one(
    config: &Config,
    attachments: &Attachments,
    observed: &Observed,
) -> (Desired, Vec<Notice>) {
    let (wanted, mut notices) = one(config, config, attachments, observed);
    if let Some(name) = &config.stack {
        notices = notices.into_iter().map(|notice| notice.within(name)).collect();
    }
    sort(&mut notices);
    (wanted, notices)
}

/// Those of one stack; `whole` has the others, too.
fn one(
    config: &Config,
    whole: &Config,
    attachments: &Attachments,
    observed: &Observed,
) -> (Desired, Vec<Notice>) {
    let context = Context::new(config, whole, attachments, observed);
    let mut notices = checks::notices(&context);
    let mut wanted = Desired::default();
    let claimed = uplinks::add(&context, &mut wanted, &mut notices);
    links::add(&context, &mut wanted);
    vnets::add(&context, &mut wanted);
    namespaces::add(&context, &mut wanted);
    mark_carriers(config, observed, &mut wanted);
    wanted.served = served::served(&context);
    wanted.stale = context.stale.iter().map(|port| port.id.clone()).collect();
    wanted.nft.tables = [
        inet_filter::table(&context, &claimed),
        bridge_filter::table(&context),
        inet_filter::arp_table(&context),
        uplink_filter::table(&context),
    ]
    .into_iter()
    .flatten()
    .collect();
    (wanted, notices)
}

/// In the order in which they are said, each once.
pub(crate) fn sort(notices: &mut Vec<Notice>) {
    notices.sort_by(|a, b| (a.severity, &a.origin, &a.text).cmp(&(b.severity, &b.origin, &b.text)));
    notices.dedup();
}
