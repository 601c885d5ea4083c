//! The steps of a plan: each is one thing that the kernel is told, and one line that a person understands.

use std::fmt;

use viaduct_types::{
    IfName, IpNet, IpvlanMode, MAIN_TABLE, MacAddr, MacvlanMode, NamespaceName, NicId, Priorities,
    RoutingRule, VlanProtocol, VlanSet, Vni, write_table,
};

use crate::{
    debt, nft,
    state::{Address, GuestRoute, Kind, PortVlans, Proxy, Route, RouteKind, Sysctl},
};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// All changes of the packet filter, as one transaction.
    Nft(Vec<nft::Change>),
    /// Set a sysctl; the first time, what it was is kept in the journal. A setting of a device that vanished is no
    /// error.
    SetSysctl {
        /// Which.
        key: Sysctl,
        /// To what.
        value: String,
        /// Whether it has to be restored one day: not for devices of our own.
        journal: bool,
    },
    /// Give a sysctl back what it had, and forget it.
    RestoreSysctl {
        /// Which.
        key: Sysctl,
        /// What it had.
        value: String,
    },
    /// Make a link, down, with alias and group of ours, and no link-local address.
    AddLink {
        /// Its name.
        name: IfName,
        /// What to make.
        link: NewLink,
        /// Its alias.
        alias: String,
        /// Its MAC; none: the kernel's choice.
        mac: Option<MacAddr>,
        /// In bytes.
        mtu: Option<u32>,
    },
    /// Change a link.
    SetLink {
        /// Its name.
        name: IfName,
        /// How.
        change: LinkChange,
    },
    /// Take links of ours away, all at once (one wait for the kernel, not one per link).
    DeleteLinks(Vec<IfName>),
    /// Put an address on a device.
    AddAddress {
        /// Which, where.
        address: Address,
        /// RT_SCOPE_*.
        scope: u8,
        /// Who answers for it: 86 for ours, 0 for one that we move for the system.
        protocol: u8,
    },
    /// Take an address away.
    DeleteAddress(Address),
    /// Make a route (NLM_F_REPLACE is not used: others' routes stay).
    AddRoute(Route),
    /// Take a route away.
    DeleteRoute(Route),
    /// Answer for an address.
    AddProxy(Proxy),
    /// Answer no longer.
    DeleteProxy(Proxy),
    /// Let a device listen to one more unicast MAC.
    AddUnicast(IfName, MacAddr),
    /// And no longer.
    DeleteUnicast(IfName, MacAddr),
    /// Change something inside a guest's namespace.
    Guest {
        /// Whose.
        nic: NicId,
        /// The namespace.
        netns: String,
        /// The device's name inside.
        device: IfName,
        /// How.
        change: GuestChange,
    },
    /// Make, change or take away a namespace that guests share.
    Namespace {
        /// Its name under /run/netns.
        name: NamespaceName,
        /// How.
        change: NamespaceChange,
    },
    /// End the flows that the new filter would not let through, those that were left to end by an earlier run among
    /// them; when that is done, and not otherwise, change the filter further.
    EndFlows {
        /// What is to be done when they have ended: the note that they are to be ended goes.
        then: Vec<nft::Change>,
    },
    /// Tell the neighbours on a device that an address is here (gratuitous ARP, unsolicited NA).
    Announce {
        /// On which device.
        link: IfName,
        /// Which address.
        address: std::net::IpAddr,
        /// With which MAC; none: the device's own.
        mac: Option<MacAddr>,
    },
    /// Do it in the stack of a namespace.
    Within {
        /// Whose.
        namespace: NamespaceName,
        /// What; never this one again.
        op: Box<Self>,
    },
}

/// A link to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewLink {
    /// Without spanning tree, without multicast snooping.
    Bridge,
    /// A pair; the far end is made in a namespace, down.
    Veth {
        /// The namespace's path.
        netns: String,
        /// The far end's name there.
        peer: IfName,
        /// The far end's MAC.
        peer_mac: MacAddr,
    },
    /// A persistent tap with vnet_hdr.
    Tap {
        /// User id that may open it.
        owner: Option<u32>,
    },
    /// A persistent tap with vnet_hdr and several queues, for what carries vnets.
    VnetTap,
    /// A segment of VXLAN that learns nothing, and is never carried in fragments.
    Vxlan {
        /// By which number it takes frames.
        vni: Vni,
        /// On which UDP port.
        port: u16,
        /// Between which addresses.
        underlay: Underlay,
    },
    /// What takes a VLAN out of a device of the host.
    Vlan {
        /// The host's device.
        parent: IfName,
        /// 1 to 4094.
        id: u16,
        /// Whose tag it has.
        protocol: VlanProtocol,
    },
}

impl NewLink {
    /// The kernel's word for it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Bridge => Kind::Bridge,
            Self::Veth { .. } => Kind::Veth,
            Self::Tap { .. } | Self::VnetTap => Kind::Tap,
            Self::Vxlan { .. } => Kind::Other("vxlan".to_owned()),
            Self::Vlan { .. } => Kind::Other("vlan".to_owned()),
        }
    }
}

/// The family of the addresses that a tunnel is between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underlay {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Underlay {
    /// Its version.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

/// A change of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// IFF_UP or not.
    Up(bool),
    /// In bytes.
    Mtu(u32),
    /// Its MAC.
    Mac(MacAddr),
    /// A port of this bridge, or of none.
    Master(Option<IfName>),
    /// Other isolated ports of its bridge cannot reach it.
    Isolated(bool),
    /// Frames may leave by the port they came in by.
    Hairpin(bool),
    /// IFLA_IFALIAS; empty takes it away.
    Alias(String),
    /// IFLA_GROUP.
    Group(u32),
    /// Makes no link-local address by itself, or does again.
    AddrgenNone(bool),
    /// A bridge looks at frames' VLANs: a port that is on none lets nothing through.
    FiltersVlans(bool),
    /// A port, or the host by the bridge itself, is on these VLANs so, beside others.
    Vlans(PortVlans),
    /// And on these no longer.
    VlansGone(VlanSet),
}

/// A change of a namespace that guests share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceChange {
    /// Make it, with our alias on its loopback device.
    Make,
    /// Take it away, with the devices that we made in it.
    Delete,
    /// Make a device in it, down.
    AddDevice {
        /// Its name there.
        device: IfName,
        /// What to make.
        kind: InnerKind,
        /// Its alias.
        alias: String,
        /// Its MAC; none: the parent's.
        mac: Option<MacAddr>,
        /// In bytes; none: the parent's.
        mtu: Option<u32>,
    },
    /// Take a device of ours away.
    DeleteDevice(IfName),
    /// Give the host a device back that it had under this name, as it was.
    GiveBack(IfName),
    /// Make a routing rule.
    AddRule(RoutingRule),
    /// Take a routing rule of ours away.
    DeleteRule(RoutingRule),
    /// Set a setting in it; the first time, what it was is kept.
    SetSysctl {
        /// Which.
        key: Sysctl,
        /// To what.
        value: String,
    },
    /// Give a setting in it back what it had, and forget it.
    RestoreSysctl {
        /// Which.
        key: Sysctl,
        /// What it had.
        value: String,
    },
    /// Change a device in it.
    Device {
        /// Its name there.
        device: IfName,
        /// How.
        change: GuestChange,
    },
}

/// A device inside a shared namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InnerKind {
    /// A VLAN of a device of the host.
    Vlan {
        /// The host's device.
        parent: IfName,
        /// 1 to 4094.
        id: u16,
        /// Whose tag it has.
        protocol: VlanProtocol,
        /// How priorities become each other.
        priorities: Priorities,
    },
    /// A second network card in the segment of a device of the host.
    Macvlan {
        /// The host's device.
        parent: IfName,
        /// Whom it reaches.
        mode: MacvlanMode,
    },
    /// A second stack behind the MAC of a device of the host.
    Ipvlan {
        /// The host's device.
        parent: IfName,
        /// On which layer.
        mode: IpvlanMode,
    },
    /// A device of the host's, moved in.
    Device {
        /// Its name on the host.
        device: IfName,
    },
}

impl InnerKind {
    /// The host's device that it stands on, if it stands on one.
    pub fn parent(&self) -> Option<&IfName> {
        match self {
            Self::Vlan { parent, .. } | Self::Macvlan { parent, .. } | Self::Ipvlan { parent, .. } => {
                Some(parent)
            }
            Self::Device { .. } => None,
        }
    }
}

impl fmt::Display for InnerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vlan { parent, id, protocol, priorities } => {
                write!(f, "vlan {id} ")?;
                if *protocol != VlanProtocol::Customer {
                    write!(f, "({protocol}) ")?;
                }
                if !priorities.is_empty() {
                    write!(f, "(priorities {priorities}) ")?;
                }
                write!(f, "of {parent}")
            }
            Self::Macvlan { parent, mode: MacvlanMode::Bridge } => write!(f, "macvlan of {parent}"),
            Self::Macvlan { parent, mode } => write!(f, "macvlan ({mode}) of {parent}"),
            Self::Ipvlan { parent, mode } => write!(f, "ipvlan ({mode}) of {parent}"),
            Self::Device { device } => write!(f, "device {device} of the host"),
        }
    }
}

/// A change inside a guest's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestChange {
    /// The loopback device up.
    LoopbackUp,
    /// In bytes.
    Mtu(u32),
    /// Its MAC.
    Mac(MacAddr),
    /// Up.
    Up,
    /// Put an address on the NIC; `dad` false when nobody else can be on the link.
    AddAddress {
        /// With prefix length.
        address: IpNet,
        /// Whether to look for duplicates first (IPv6).
        dad: bool,
    },
    /// Take an address away.
    DeleteAddress(IpNet),
    /// Make or replace a route; a gateway is taken as on-link.
    AddRoute(GuestRoute),
    /// Take a route away.
    DeleteRoute(GuestRoute),
}

impl Op {
    /// The namespace in whose stack it is done, and what is done there.
    pub fn place(&self) -> (Option<&NamespaceName>, &Self) {
        match self {
            Self::Within { namespace, op } => (Some(namespace), op),
            Self::Nft(_)
            | Self::SetSysctl { .. }
            | Self::RestoreSysctl { .. }
            | Self::AddLink { .. }
            | Self::SetLink { .. }
            | Self::DeleteLinks(_)
            | Self::AddAddress { .. }
            | Self::DeleteAddress(_)
            | Self::AddRoute(_)
            | Self::DeleteRoute(_)
            | Self::AddProxy(_)
            | Self::DeleteProxy(_)
            | Self::AddUnicast(..)
            | Self::DeleteUnicast(..)
            | Self::Guest { .. }
            | Self::Namespace { .. }
            | Self::EndFlows { .. }
            | Self::Announce { .. } => (None, self),
        }
    }

    /// What it is about, as people call it. Steps about the same thing have the same.
    pub fn object(&self) -> String {
        match self {
            Self::Nft(_) | Self::EndFlows { .. } => "the packet filter".to_owned(),
            Self::SetSysctl { key, .. } | Self::RestoreSysctl { key, .. } => format!("sysctl {key}"),
            Self::AddLink { name, .. } | Self::SetLink { name, .. } => format!("link {name}"),
            Self::DeleteLinks(names) => {
                names.iter().map(|name| format!("link {name}")).collect::<Vec<_>>().join(", ")
            }
            Self::AddAddress { address, .. } | Self::DeleteAddress(address) => {
                format!("address {} on {}", address.address, address.link)
            }
            Self::AddRoute(route) | Self::DeleteRoute(route) => route.to_string(),
            Self::AddProxy(proxy) | Self::DeleteProxy(proxy) => {
                format!("answering for {} on {}", proxy.address, proxy.link)
            }
            Self::AddUnicast(link, mac) | Self::DeleteUnicast(link, mac) => {
                format!("listening to {mac} on {link}")
            }
            Self::Guest { nic, .. } => format!("{nic} inside of its guest"),
            Self::Namespace { name, .. } => format!("namespace {name}"),
            Self::Announce { link, address, .. } => format!("the announcement of {address} on {link}"),
            Self::Within { namespace, op } => format!("{} in namespace {namespace}", op.object()),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nft(changes) => {
                let shown = changes.iter().filter(|change| !debt::is_note(change));
                for (i, change) in shown.enumerate() {
                    write!(f, "{}{change}", if i > 0 { "\n" } else { "" })?;
                }
                Ok(())
            }
            Self::SetSysctl { key, value, .. } => write!(f, "~ sysctl {key} = {value}"),
            Self::RestoreSysctl { key, value } => write!(f, "~ sysctl {key} = {value} (as it was)"),
            Self::AddLink { name, link, mac, mtu, .. } => {
                match link {
                    NewLink::Bridge => write!(f, "+ bridge {name}")?,
                    NewLink::Veth { netns, peer, .. } => write!(f, "+ link {name} ⇄ {peer} in {netns}")?,
                    NewLink::VnetTap => write!(f, "+ tap {name} for a vnet")?,
                    NewLink::Vxlan { vni, underlay, .. } => {
                        write!(f, "+ VXLAN {name} number {vni} over IPv{}", underlay.number())?;
                    }
                    NewLink::Vlan { parent, id, protocol: VlanProtocol::Customer } => {
                        write!(f, "+ link {name}, VLAN {id} of {parent}")?;
                    }
                    NewLink::Vlan { parent, id, protocol } => {
                        write!(f, "+ link {name}, VLAN {id} ({protocol}) of {parent}")?;
                    }
                    NewLink::Tap { owner: None } => write!(f, "+ tap {name}")?,
                    NewLink::Tap { owner: Some(uid) } => write!(f, "+ tap {name} of user {uid}")?,
                }
                if let Some(mac) = mac {
                    write!(f, " mac {mac}")?;
                }
                match mtu {
                    Some(mtu) => write!(f, " mtu {mtu}"),
                    None => Ok(()),
                }
            }
            Self::SetLink { name, change } => match change {
                LinkChange::Up(true) => write!(f, "~ link {name} up"),
                LinkChange::Up(false) => write!(f, "~ link {name} down"),
                LinkChange::Mtu(mtu) => write!(f, "~ link {name} mtu {mtu}"),
                LinkChange::Mac(mac) => write!(f, "~ link {name} mac {mac}"),
                LinkChange::Master(Some(master)) => write!(f, "~ link {name} → port of {master}"),
                LinkChange::Master(None) => write!(f, "~ link {name} → port of no bridge"),
                LinkChange::Isolated(true) => write!(f, "~ link {name} isolated from other ports"),
                LinkChange::Isolated(false) => write!(f, "~ link {name} not isolated from other ports"),
                LinkChange::Hairpin(true) => write!(f, "~ link {name} sends back what came in by it"),
                LinkChange::Hairpin(false) => write!(f, "~ link {name} sends nothing back"),
                LinkChange::Alias(alias) => write!(f, "~ link {name} alias {alias:?}"),
                LinkChange::Group(group) => write!(f, "~ link {name} group {group}"),
                LinkChange::AddrgenNone(true) => write!(f, "~ link {name} makes no link-local address"),
                LinkChange::AddrgenNone(false) => write!(f, "~ link {name} makes a link-local address"),
                LinkChange::FiltersVlans(true) => write!(f, "~ bridge {name} filters by VLAN"),
                LinkChange::FiltersVlans(false) => write!(f, "~ bridge {name} does not look at VLANs"),
                LinkChange::Vlans(PortVlans { untagged, tagged, .. }) => {
                    write!(f, "~ link {name} on")?;
                    if let Some(vlan) = untagged {
                        write!(f, " VLAN {vlan} without tags")?;
                    }
                    let and = if untagged.is_some() { " and" } else { "" };
                    if tagged.is_empty() { Ok(()) } else { write!(f, "{and} VLANs {tagged} with tags") }
                }
                LinkChange::VlansGone(vlans) => write!(f, "~ link {name} no longer on VLANs {vlans}"),
            },
            Self::DeleteLinks(names) => {
                for (i, name) in names.iter().enumerate() {
                    write!(f, "{}- link {name}", if i > 0 { "\n" } else { "" })?;
                }
                Ok(())
            }
            Self::AddAddress { address, .. } => {
                write!(f, "+ address {} on {}", address.address, address.link)
            }
            Self::DeleteAddress(address) => write!(f, "- address {} on {}", address.address, address.link),
            Self::AddRoute(route) => write!(f, "+ {route}"),
            Self::DeleteRoute(route) => write!(f, "- {route}"),
            Self::AddProxy(proxy) => write!(f, "+ answer for {} on {}", proxy.address, proxy.link),
            Self::DeleteProxy(proxy) => write!(f, "- answer for {} on {}", proxy.address, proxy.link),
            Self::AddUnicast(link, mac) => write!(f, "+ listen to {mac} on {link}"),
            Self::DeleteUnicast(link, mac) => write!(f, "- listen to {mac} on {link}"),
            Self::Guest { nic, device, change, .. } => inside(f, nic, device, change),
            Self::Namespace { name, change } => match change {
                NamespaceChange::Make => write!(f, "+ namespace {name}"),
                NamespaceChange::Delete => write!(f, "- namespace {name}"),
                NamespaceChange::AddDevice { device, kind, mac, mtu, .. } => {
                    write!(f, "+ {name}: {device}, {kind}")?;
                    mac.map_or(Ok(()), |mac| write!(f, ", mac {mac}"))?;
                    mtu.map_or(Ok(()), |mtu| write!(f, " mtu {mtu}"))
                }
                NamespaceChange::DeleteDevice(device) => write!(f, "- {name}: {device}"),
                NamespaceChange::GiveBack(device) => {
                    write!(f, "- {name}: device {device} of the host (given back as it was)")
                }
                NamespaceChange::AddRule(rule) => write!(f, "+ {name}: {rule}"),
                NamespaceChange::DeleteRule(rule) => write!(f, "- {name}: {rule}"),
                NamespaceChange::SetSysctl { key, value } => write!(f, "~ {name}: sysctl {key} = {value}"),
                NamespaceChange::RestoreSysctl { key, value } => {
                    write!(f, "~ {name}: sysctl {key} = {value} (as it was)")
                }
                NamespaceChange::Device { device, change } => inside(f, name, device, change),
            },
            Self::EndFlows { then } => {
                f.write_str("- flows that are no longer allowed")?;
                let shown = then.iter().filter(|change| !debt::is_note(change));
                shown.into_iter().try_for_each(|change| write!(f, "\n{change}"))
            }
            Self::Announce { link, address, .. } => write!(f, "! announce {address} on {link}"),
            Self::Within { namespace, op } => {
                for (i, line) in op.to_string().lines().enumerate() {
                    write!(f, "{}in {namespace}: {line}", if i > 0 { "\n" } else { "" })?;
                }
                Ok(())
            }
        }
    }
}

/// A change inside a namespace, of which `whose` is what people call it.
fn inside(
    f: &mut fmt::Formatter<'_>,
    whose: &dyn fmt::Display,
    device: &IfName,
    change: &GuestChange,
) -> fmt::Result {
    match change {
        GuestChange::LoopbackUp => write!(f, "~ {whose}: lo up"),
        GuestChange::Mtu(mtu) => write!(f, "~ {whose}: {device} mtu {mtu}"),
        GuestChange::Mac(mac) => write!(f, "~ {whose}: {device} mac {mac}"),
        GuestChange::Up => write!(f, "~ {whose}: {device} up"),
        GuestChange::AddAddress { address, .. } => write!(f, "+ {whose}: address {address} on {device}"),
        GuestChange::DeleteAddress(address) => write!(f, "- {whose}: address {address} on {device}"),
        GuestChange::AddRoute(route) => write!(f, "+ {whose}: {route}"),
        GuestChange::DeleteRoute(route) => write!(f, "- {whose}: {route}"),
    }
}

fn destination(net: IpNet) -> String {
    if net.prefix_len() == 0 {
        "default".to_owned()
    } else if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {} → ", destination(self.destination))?;
        match (self.kind, &self.link, self.via) {
            (RouteKind::Local, ..) => f.write_str("this host"),
            (RouteKind::Unreachable, ..) => f.write_str("unreachable"),
            (RouteKind::Unicast, Some(link), Some(via)) => write!(f, "{via} on {link}"),
            (RouteKind::Unicast, Some(link), None) => write!(f, "{link}"),
            (RouteKind::Unicast, None, via) => write!(f, "{via:?}"),
        }
    }
}

impl fmt::Display for GuestRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {} → ", destination(self.destination))?;
        match self.via {
            Some(via) => write!(f, "{via}")?,
            None => f.write_str("on-link")?,
        }
        if self.table == MAIN_TABLE {
            return Ok(());
        }
        f.write_str(" in ")?;
        write_table(self.table, f)
    }
}
