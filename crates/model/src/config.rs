//! The validated configuration: what the rest of Viaduct works with. Values of these types cannot be wrong; whatever
//! could be is refused, with its place, on the way here.

mod boot;
mod vnets;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use viaduct_types::{
    GuestName, IfName, IpNet, Ipv6Net, IpvlanMode, MacAddr, MacvlanMode, NamespaceName, NetworkName, NicId,
    PeerName, PortRange, Priorities, Proto, Publish, RoutingRule, UplinkName, VlanProtocol, VlanSet,
    VnetName,
};

pub use boot::{Boot, BootFile};
pub use vnets::*;

use crate::Family;

/// Where in the files something was written; shown as `FILE:LINE`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The file as it was named to us.
    pub file: Arc<str>,
    /// Counted from 1.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One host's whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// This host's name.
    pub host: String,
    /// Whether one UDP port carries everything of vnets.
    pub single_port: bool,
    /// Of a part, whose stack it is ([`Config::of_stack`]); none: the host's, or all of them.
    pub stack: Option<NamespaceName>,
    /// Interfaces to the outside.
    pub uplinks: BTreeMap<UplinkName, Uplink>,
    /// What NICs join.
    pub networks: BTreeMap<NetworkName, Network>,
    /// Virtual machines and containers; and for each namespace that has cables to networks, one of its name that has
    /// these as its NICs ([`Guest::is_namespace`]).
    pub guests: BTreeMap<GuestName, Guest>,
    /// Network namespaces that several guests share.
    pub namespaces: BTreeMap<NamespaceName, Namespace>,
    /// Other hosts in our vnets.
    pub peers: BTreeMap<PeerName, Peer>,
    /// Ethernet segments that span hosts.
    pub vnets: BTreeMap<VnetName, Vnet>,
    /// What this host passes on for peers that cannot reach each other.
    pub relay: Option<Relay>,
    /// How peers are found whose places no file says.
    pub discovery: Option<Discovery>,
}

impl Config {
    /// Gives back what lists have room for beyond what they have; with many guests that is most of the memory.
    pub(crate) fn shrink_to_fit(&mut self) {
        for guest in self.guests.values_mut() {
            guest.nics.shrink_to_fit();
            guest.publish.shrink_to_fit();
            for nic in &mut guest.nics {
                nic.addresses.shrink_to_fit();
                nic.gateways.shrink_to_fit();
            }
            for allow in guest.allow_in.iter_mut().chain(&mut guest.allow_out) {
                allow.shrink_to_fit();
                allow.iter_mut().for_each(|allow| allow.services.shrink_to_fit());
            }
        }
    }

    /// The NICs by which a guest is reached: its own, or those of the namespace that it lives in.
    pub fn nics_of<'a>(&'a self, guest: &'a Guest) -> &'a [Nic] {
        let shared = guest.namespace.as_ref().and_then(|name| self.guests.get(name.as_str()));
        &shared.filter(|shared| shared.is_namespace).unwrap_or(guest).nics
    }

    /// The namespaces that are on networks, each with the NICs that it has there.
    pub fn namespaces_on_networks(&self) -> impl Iterator<Item = (&GuestName, &Guest)> {
        self.guests.iter().filter(|(_, guest)| guest.is_namespace)
    }

    /// The NIC of that id, if the file has it.
    pub fn nic(&self, id: &NicId) -> Option<&Nic> {
        self.guests.get(&id.guest)?.nics.get(usize::from(id.index))
    }

    /// Every NIC with its id, in order of guest name and index.
    pub fn nics(&self) -> impl Iterator<Item = (NicId, &Nic)> {
        self.guests.iter().flat_map(|(guest, g)| {
            g.nics.iter().zip(0u8..).map(|(nic, index)| (NicId { guest: guest.clone(), index }, nic))
        })
    }
}

/// An interface of the host to the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The device; stays the one with the cable when a bridge takes over its addresses.
    pub interface: IfName,
    /// The namespace whose interface it is; none: the host's.
    pub namespace: Option<NamespaceName>,
    /// Addresses with prefix length to set up; empty: left as the system set them up.
    pub addresses: Vec<IpNet>,
    /// Default gateways, at most one per family, on-link even outside every prefix; empty: left alone.
    pub gateways: Vec<IpAddr>,
    /// MTU in bytes to set; none: left alone.
    pub mtu: Option<u32>,
    /// Where it was written.
    pub origin: Origin,
}

/// What NICs join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// What kind, with what only that kind has.
    pub mode: Mode,
    /// The way out; always there for nat, routed and bridged networks.
    pub uplink: Option<UplinkName>,
    /// MTU in bytes of our devices and of guests; none: the uplink's, or 1500.
    pub mtu: Option<u32>,
    /// New flows from outside (by the uplink, and from our other networks that have one) to guests without an
    /// `allow-in` of their own.
    pub inbound: Policy,
    /// New flows from guest to guest of this network, for receivers without an `allow-in` of their own.
    pub between_guests: Policy,
    /// New flows from guests to the host itself, beyond what the network's services and ICMP need.
    pub to_host: Policy,
    /// Answer DHCP and send router advertisements on guests' ports.
    pub dhcp: bool,
    /// Answer DNS for guests.
    pub dns: bool,
    /// Name servers told to guests.
    pub dns_servers: Vec<IpAddr>,
    /// DNS domain told to guests.
    pub domain: Option<String>,
    /// Prefixes for what is behind guests that are routers; only on routed networks.
    pub delegate: Option<Delegate>,
    /// What its guests load that boot by the network; only where DHCP is answered.
    pub boot: Option<Boot>,
    /// A namespace the network lives in instead of the host's own.
    pub namespace: Option<NamespaceName>,
    /// Where it was written.
    pub origin: Origin,
}

/// Prefixes that guests are given for what is behind them (RFC 8415, section 6.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegate {
    /// Where they come from; host bits zero.
    pub pool: Vec<Ipv6Net>,
    /// How long each is, in bits; at least as long as those of the pool.
    pub length: u8,
}

/// Whether something that nothing else decides is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Let through.
    Allow,
    /// Dropped.
    Deny,
}

/// The kinds of networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A bridge with the gateway's addresses; translated on the way out.
    Nat {
        /// The bridge's name.
        bridge: IfName,
        /// At least one.
        subnets: Vec<Subnet>,
        /// Outgoing connections get this source, at most one per family; the uplink's own otherwise.
        source_address: Vec<IpAddr>,
    },
    /// A link of its own per NIC, no shared layer 2, public addresses kept.
    Routed {
        /// Prefixes that guests' addresses come from (network addresses; host bits zero).
        pool: Vec<IpNet>,
        /// Answer ARP and ND for guests' addresses on the uplink.
        proxy: bool,
        /// Ask on the uplink whether somebody has an address before a guest gets it; only with `proxy`.
        probe: bool,
        /// NICs without addresses get one of these, translated on the way out.
        install_pool: Vec<IpNet>,
    },
    /// The guests' NICs and the uplink in one bridge, on the uplink's own segment.
    Bridged {
        /// The bridge's name.
        bridge: IfName,
        /// The VLAN of the uplink that it is on; none: the untagged segment.
        vlan: Option<UplinkVlan>,
        /// The VLANs that NICs may be on, of the uplink or inside of `vlan`; none: the bridge knows no VLANs.
        vlans: Option<VlanSet>,
    },
    /// A bridge with no way out.
    Isolated {
        /// The bridge's name.
        bridge: IfName,
        /// May be empty: then guests have to know their addresses themselves.
        subnets: Vec<Subnet>,
    },
    /// A bridge whose far ports are other hosts.
    Vnet {
        /// Which one.
        vnet: VnetName,
        /// The bridge's name.
        bridge: IfName,
        /// Addresses in it; the host itself has the gateway only where one is written.
        subnets: Vec<IpNet>,
        /// The host's own addresses in it, at most one per subnet.
        gateways: Vec<IpAddr>,
    },
}

impl Mode {
    /// The word in the file.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Nat { .. } => "nat",
            Self::Routed { .. } => "routed",
            Self::Bridged { .. } => "bridged",
            Self::Isolated { .. } => "isolated",
            Self::Vnet { .. } => "vnet",
        }
    }

    /// Whether this host itself sends to addresses of a family that guests have there: it has one, or a route to each.
    pub fn is_reached(&self, family: Family) -> bool {
        match self {
            Self::Nat { subnets, .. } | Self::Isolated { subnets, .. } => {
                subnets.iter().any(|subnet| Family::of(subnet.gateway) == family)
            }
            Self::Routed { .. } => true,
            Self::Bridged { .. } => false,
            Self::Vnet { gateways, .. } => gateways.iter().any(|gateway| Family::of(*gateway) == family),
        }
    }
}

/// A VLAN of an interface that a bridge has for a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkVlan {
    /// The device that takes it out of the interface.
    pub device: IfName,
    /// 1 to 4094.
    pub id: u16,
    /// Whose tag it has.
    pub protocol: VlanProtocol,
}

/// One prefix of a nat or isolated network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Network address; host bits zero.
    pub prefix: IpNet,
    /// The host's own address in it, the guests' gateway: the first usable one unless written.
    pub gateway: IpAddr,
}

/// A virtual machine or container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// As written, or derived from the name.
    pub id: GuestId,
    /// In the order of the file; empty for guests of a shared namespace.
    pub nics: Vec<Nic>,
    /// Ports made reachable.
    pub publish: Vec<Published>,
    /// Who may open flows to this guest; none: what the network says. Empty: nobody.
    pub allow_in: Option<Vec<Allow>>,
    /// Where this guest may open flows to; none: anywhere its networks go. Empty: nowhere.
    pub allow_out: Option<Vec<Allow>>,
    /// The shared namespace it lives in.
    pub namespace: Option<NamespaceName>,
    /// Whether it is the shared namespace itself, as the networks see it that it has cables to.
    pub is_namespace: bool,
    /// Programs run at its life's turns.
    pub hooks: Hooks,
    /// Where it was written.
    pub origin: Origin,
}

/// A guest's number in derived MACs and device names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestId {
    /// As written in the file, 1 to 999,999,999.
    Given(u32),
    /// A hash of the name: the same for ever, whatever other guests there are.
    Derived(u16),
}

impl GuestId {
    /// The 16 bits that stand in derived MACs.
    pub fn mac_bits(self) -> u16 {
        match self {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the low 16 bits are what a MAC has room for"
            )]
            Self::Given(id) => id as u16,
            Self::Derived(id) => id,
        }
    }
}

/// A published port with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// What is published.
    pub publish: Publish,
    /// Where it was written.
    pub origin: Origin,
}

/// One interface of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// What it joins.
    pub network: NetworkName,
    /// The device's name inside the guest: eth0, eth1, … unless written.
    pub name: IfName,
    /// The device's name on the host unless an attachment brings its own.
    pub device: IfName,
    /// As written, or derived.
    pub mac: MacAddr,
    /// Whether its addresses are lent to it until the file gives it some ([`crate::Leases`]): then the guest sets them
    /// itself, as it is told.
    pub lent: bool,
    /// Host addresses with their prefix length: full length on routed networks, the subnet's on nat, isolated and
    /// vnet networks, as written on bridged ones.
    pub addresses: Vec<IpNet>,
    /// The prefix of what is behind it, which is lent to it ([`crate::Leases`]).
    pub delegated: Option<Ipv6Net>,
    /// The gateway that the guest is told, at most one per family; none: the network's own.
    pub gateways: Vec<IpAddr>,
    /// What it may send.
    pub spoofing: Spoofing,
    /// Speaks with its own MAC on the uplink, too (a provider's virtual MAC); only on routed networks with proxy.
    pub uplink_mac: bool,
    /// MTU in bytes; none: the network's.
    pub mtu: Option<u32>,
    /// What it loads when it boots by the network; none: what the network says.
    pub boot: Option<Boot>,
    /// On a network with VLANs, the one that it is on without tags.
    pub vlan: Option<u16>,
    /// On a network with VLANs, those that it is on with tags.
    pub trunk: VlanSet,
    /// Where it was written.
    pub origin: Origin,
}

impl Nic {
    /// Whether the guest sets its addresses up by itself: when they are lent, it is told them; which of several VLANs each is on,
    /// only the guest knows, which makes devices for them; and who may have any, and has none written, has those that it likes.
    pub fn is_by_itself(&self) -> bool {
        self.lent || !self.trunk.is_empty() || (self.addresses.is_empty() && self.spoofing != Spoofing::None)
    }
}

/// What a NIC may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoofing {
    /// Its own MAC and addresses only.
    None,
    /// Any address, its own MAC.
    Ip,
    /// Anything.
    Mac,
}

/// One permission of `allow-in` or `allow-out`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// The other end.
    pub peer: AllowPeer,
    /// What to; empty: everything.
    pub services: Vec<Service>,
    /// Where it was written.
    pub origin: Origin,
}

/// The other end of a permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowPeer {
    /// Everybody, in both families.
    Any,
    /// A prefix (host bits zero).
    Prefix(IpNet),
    /// All addresses of a guest.
    Guest(GuestName),
    /// All prefixes of a network.
    Network(NetworkName),
}

/// A kind of flow that a permission covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// Ports of a transport protocol.
    Ports(Proto, PortRange),
    /// A whole protocol by its number, ports or not (IANA protocol numbers).
    Protocol(u8),
    /// ICMP to IPv4 ends, ICMPv6 to IPv6 ends.
    Icmp,
}

/// Programs run at the turns of a guest's life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Namespace and devices exist; the guest has not started.
    pub prepare: Option<PathBuf>,
    /// The guest runs.
    pub started: Option<PathBuf>,
    /// The guest is about to stop.
    pub stopping: Option<PathBuf>,
    /// The guest has stopped.
    pub stopped: Option<PathBuf>,
    /// How long each may take.
    pub timeout: Option<Duration>,
}

/// A network namespace that several guests share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// As written, or derived from the name.
    pub id: GuestId,
    /// In the order of the file.
    pub interfaces: Vec<NamespaceInterface>,
    /// Routing rules.
    pub rules: BTreeSet<RoutingRule>,
    /// Settings inside, by their paths under /proc/sys, with their values.
    pub sysctls: BTreeMap<String, String>,
    /// Programs run when the first of its guests starts and the last one stops.
    pub hooks: Hooks,
    /// Where it was written.
    pub origin: Origin,
}

/// One interface of a shared namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceInterface {
    /// Its name inside.
    pub name: IfName,
    /// What it is.
    pub kind: InterfaceKind,
    /// As written, or derived; none: the parent's, as kinds have it that share one.
    pub mac: Option<MacAddr>,
    /// Host addresses with prefix length.
    pub addresses: Vec<IpNet>,
    /// At most one per family.
    pub gateways: Vec<IpAddr>,
    /// Further routes through it.
    pub routes: Vec<InterfaceRoute>,
    /// MTU in bytes; none: the parent's.
    pub mtu: Option<u32>,
    /// Where it was written.
    pub origin: Origin,
}

/// A route through an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceRoute {
    /// Where to; host bits zero.
    pub to: IpNet,
    /// By which gateway; none: on-link.
    pub via: Option<IpAddr>,
    /// In which table.
    pub table: u32,
}

/// What an interface of a shared namespace is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceKind {
    /// A VLAN of the parent.
    Vlan {
        /// A device; an uplink's name stands for its interface.
        parent: IfName,
        /// 1 to 4094.
        vlan: u16,
        /// Whose tag it has.
        protocol: VlanProtocol,
        /// How priorities become each other.
        priorities: Priorities,
    },
    /// A second network card in the parent's segment.
    Macvlan {
        /// A device; an uplink's name stands for its interface.
        parent: IfName,
        /// Whom it reaches.
        mode: MacvlanMode,
    },
    /// A second stack behind the parent's MAC.
    Ipvlan {
        /// A device; an uplink's name stands for its interface.
        parent: IfName,
        /// On which layer.
        mode: IpvlanMode,
    },
    /// A cable to the host.
    Veth {
        /// The other end's name on the host.
        device: IfName,
        /// What the other end joins.
        end: CableEnd,
    },
    /// A device of the host's, moved in.
    Device {
        /// Its name on the host.
        device: IfName,
    },
}

/// What the host's end of a cable joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CableEnd {
    /// A network, as a guest's interface does: the namespace's [`Config::guests`] entry has it as a NIC.
    Network(NetworkName),
    /// A bridge that is none of ours.
    Bridge(IfName),
}

impl InterfaceKind {
    /// The device of the host that it stands on, if it stands on one.
    pub fn parent(&self) -> Option<&IfName> {
        match self {
            Self::Vlan { parent, .. } | Self::Macvlan { parent, .. } | Self::Ipvlan { parent, .. } => {
                Some(parent)
            }
            Self::Veth { .. } | Self::Device { .. } => None,
        }
    }
}
