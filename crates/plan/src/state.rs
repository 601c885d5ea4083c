//! Kernel state as values. [`Observed`] is what one host has; the desired state is what it should have. Names are
//! the kernel's: a link is a network device, its master the bridge it is a port of.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use serde::{Deserialize, Serialize};
use viaduct_types::{IfName, IpNet, MacAddr, NamespaceName, NicId, RoutingRule, VlanSet};

use crate::{desired::CARRIER, nft};

pub use viaduct_types::PROTOCOL;

/// The device group of every link that is ours; the filter drops what comes from such a link and is not known to it.
pub const GROUP: u32 = 0x5649_4144;

/// The device group of a vnet's port through which frames go: whoever carries the vnet puts it there, when it is known who else
/// bridges the segment. Until then the filter holds back what comes and goes by it.
pub const OPEN_GROUP: u32 = 0x5649_4145;

/// What link aliases of ours begin with.
pub const ALIAS_PREFIX: &str = "viaduct:";

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// ifindex.
    pub index: u32,
    /// What it is.
    pub kind: Kind,
    /// Its MAC; none for devices without one.
    pub mac: Option<MacAddr>,
    /// In bytes.
    pub mtu: u32,
    /// Administratively up (IFF_UP).
    pub up: bool,
    /// The bridge it is a port of.
    pub master: Option<IfName>,
    /// IFLA_IFALIAS; empty when none.
    pub alias: String,
    /// IFLA_GROUP.
    pub group: u32,
    /// A bridge port that other isolated ports cannot reach (IFLA_BRPORT_ISOLATED).
    pub isolated: bool,
    /// A bridge port that frames may leave by which came in by it (IFLA_BRPORT_MODE).
    pub hairpin: bool,
    /// Makes no link-local address by itself (IN6_ADDR_GEN_MODE_NONE).
    pub addrgen_none: bool,
    /// For a veth: the other end's ifindex in its namespace (IFLA_LINK); 0 when not known.
    pub peer_index: u32,
    /// A bridge that lets frames through only where their VLANs are (IFLA_BR_VLAN_FILTERING).
    pub filters_vlans: bool,
    /// On a bridge that filters by VLAN, as its port or as itself.
    pub vlans: PortVlans,
    /// For a VLAN of a device: that one's ifindex, and the number (IFLA_VLAN_ID).
    pub vlan: Option<(u32, u16)>,
}

impl Link {
    /// A device of somebody's that is up and has nothing particular.
    pub(crate) fn plain(index: u32) -> Self {
        Self {
            index,
            kind: Kind::Other(String::new()),
            mac: None,
            mtu: 1500,
            up: true,
            master: None,
            alias: String::new(),
            group: 0,
            isolated: false,
            hairpin: false,
            addrgen_none: false,
            peer_index: 0,
            filters_vlans: false,
            vlans: PortVlans::default(),
            vlan: None,
        }
    }

    /// Whether its alias says that it is ours. What only carries something of ours is not.
    pub fn is_ours(&self) -> bool {
        self.alias.starts_with(ALIAS_PREFIX) && self.alias != CARRIER
    }
}

/// The VLANs of a bridge that a port of it, or the host by the bridge itself, is on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortVlans {
    /// Where frames without a tag belong, and whose frames leave without one.
    pub untagged: Option<u16>,
    /// Whose frames have a tag.
    pub tagged: VlanSet,
    /// On which it is otherwise, as nobody wants it: without tags one way only.
    pub other: VlanSet,
}

impl PortVlans {
    /// All of them.
    pub fn all(&self) -> VlanSet {
        self.untagged.into_iter().chain(self.tagged.iter()).chain(self.other.iter()).collect()
    }
}

/// What a device is (IFLA_INFO_KIND).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A bridge.
    Bridge,
    /// One end of a pair.
    Veth,
    /// A persistent tap.
    Tap,
    /// Anything else, by the kernel's word; empty for hardware.
    Other(String),
}

/// An address on a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The device.
    pub link: IfName,
    /// With host bits.
    pub address: IpNet,
}

/// What else the kernel says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressInfo {
    /// IFA_PROTO; 86 when we put it there. Kernels before 5.18 give 0.
    pub protocol: u8,
    /// RT_SCOPE_*: 0 global, 253 link, 254 host.
    pub scope: u8,
    /// Not given for ever (by DHCP or a router): IFA_F_PERMANENT is missing.
    pub dynamic: bool,
    /// Its place in the kernel's list; of a device's, the first of a family is spoken from.
    pub place: usize,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where to; `0.0.0.0/0` or `::/0` for a default route.
    pub destination: IpNet,
    /// What becomes of packets.
    pub kind: RouteKind,
    /// Out of which device; none for unreachable routes.
    pub link: Option<IfName>,
    /// By which gateway.
    pub via: Option<IpAddr>,
    /// The gateway is on-link though no prefix says so (RTNH_F_ONLINK).
    pub onlink: bool,
    /// Preferred source address (RTA_PREFSRC).
    pub source: Option<IpAddr>,
    /// RTA_PRIORITY; 0 when none was given (for IPv6 the kernel turns 0 into 1024).
    pub metric: u32,
    /// rtm_protocol: who made it; 86 is us, 2 the kernel, 9 a router advertisement.
    pub protocol: u8,
}

/// rtm_type, as far as we make or mind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// To a neighbour or gateway.
    Unicast,
    /// To this host itself; stands in table local.
    Local,
    /// Answered with "unreachable".
    Unreachable,
}

/// An address that the kernel answers for on a device (NTF_PROXY).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proxy {
    /// Where.
    pub link: IfName,
    /// For whom.
    pub address: IpAddr,
}

/// A sysctl by its path under /proc/sys, with slashes: `net/ipv4/conf/veth100.0/proxy_arp`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sysctl(String);

impl Sysctl {
    /// A setting by its path under /proc/sys.
    pub fn from_path(path: String) -> Self {
        Self(path)
    }

    /// A device's IPv4 setting.
    pub fn ipv4(link: &IfName, key: &str) -> Self {
        Self(format!("net/ipv4/conf/{link}/{key}"))
    }

    /// A device's IPv6 setting.
    pub fn ipv6(link: &IfName, key: &str) -> Self {
        Self(format!("net/ipv6/conf/{link}/{key}"))
    }

    /// A device's neighbour setting; `family` is `ipv4` or `ipv6`.
    pub fn neigh(family: &str, link: &IfName, key: &str) -> Self {
        Self(format!("net/{family}/neigh/{link}/{key}"))
    }

    /// A setting of all devices.
    pub fn all(family: &str, key: &str) -> Self {
        Self(format!("net/{family}/conf/all/{key}"))
    }

    /// The path under /proc/sys.
    pub fn path(&self) -> &str {
        &self.0
    }

    /// The device whose setting it is, if it is a device's.
    pub fn link(&self) -> Option<&str> {
        let mut parts = self.0.split('/');
        let (Some("net"), Some(_), Some("conf" | "neigh"), Some(link)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        (link != "all" && link != "default").then_some(link)
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the kernel can do, found by trying or asking, not by its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Features {
    /// Tables of family netdev with the egress hook (5.16).
    pub nft_egress: bool,
    /// Tables of family bridge.
    pub nft_bridge: bool,
    /// Tables of family arp.
    pub nft_arp: bool,
    /// Limits of how many frames pass on bridges (CONFIG_NFT_LIMIT).
    pub nft_limit: bool,
    /// Labels of tracked connections (CONFIG_NF_CONNTRACK_LABELS).
    pub ct_labels: bool,
    /// Devices of type bridge.
    pub bridge: bool,
    /// Devices of type veth.
    pub veth: bool,
    /// /dev/net/tun.
    pub tun: bool,
    /// 802.1Q VLAN devices.
    pub vlan: bool,
    /// Devices of type vxlan, over both families.
    pub vxlan: bool,
    /// Devices of type macvlan.
    pub macvlan: bool,
    /// Devices of type ipvlan.
    pub ipvlan: bool,
}

/// What to look at beyond what is always looked at: links, addresses, routes, proxies, our nft tables, and devices that these have
/// listen to further MACs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Settings whose values matter.
    pub sysctls: BTreeSet<Sysctl>,
    /// Settings of every link, by their path with `*` for the link's name.
    pub link_sysctls: BTreeSet<String>,
    /// Devices that are to listen to further MACs.
    pub listening: BTreeSet<IfName>,
    /// Where attached guests are.
    pub guests: BTreeMap<NicId, Inside>,
    /// Shared namespaces that are wanted, with the settings in them whose values matter. Those that we made are looked at,
    /// too, wanted or not.
    pub namespaces: BTreeMap<NamespaceName, BTreeSet<Sysctl>>,
    /// The namespaces that have stacks of their own, with what to look at there. Those in which something of ours is are
    /// looked at, too, wanted or not.
    pub stacks: BTreeMap<NamespaceName, Self>,
}

/// A device inside a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// The namespace's path.
    pub path: String,
    /// The namespace's inode number when it has to be this one and no other that came to stand at the path.
    pub inode: Option<u64>,
    /// The device's name there.
    pub device: IfName,
}

/// What a host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// By name.
    pub links: BTreeMap<IfName, Link>,
    /// On every device, not only ours.
    pub addresses: BTreeMap<Address, AddressInfo>,
    /// Tables main and, of ours, local; everybody's.
    pub routes: BTreeSet<Route>,
    /// With the protocol number of who put it there.
    pub proxies: BTreeMap<Proxy, u8>,
    /// Extra unicast addresses that a device listens to (`bridge fdb … self`).
    pub unicast: BTreeSet<(IfName, MacAddr)>,
    /// The settings asked for, as far as they exist.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// What settings were before we first changed them.
    pub journal: BTreeMap<Sysctl, String>,
    /// Our tables as they are.
    pub nft: nft::Ruleset,
    /// The guests asked for whose namespace exists.
    pub guests: BTreeMap<NicId, ObservedGuest>,
    /// The shared namespaces that exist.
    pub namespaces: BTreeMap<NamespaceName, ObservedNamespace>,
    /// The devices of the host that moved into namespaces and were not given back yet, by the names that they had.
    pub moved: BTreeMap<IfName, Whereabouts>,
    /// The stacks of namespaces that networks are in, or were; where there is no such namespace, with the guests alone.
    pub stacks: BTreeMap<NamespaceName, Self>,
    /// What the kernel can do.
    pub features: Features,
}

/// What a guest's namespace has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedGuest {
    /// The NIC's device, if it is there.
    pub link: Option<GuestLink>,
    /// Its addresses, without link-local ones.
    pub addresses: BTreeSet<IpNet>,
    /// Those that it has for a time only, as DHCP or a router told it.
    pub told: BTreeSet<IpNet>,
    /// Routes through it, without the kernel's own.
    pub routes: BTreeSet<GuestRoute>,
    /// Whether lo is up.
    pub lo_up: bool,
}

/// What a shared namespace has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedNamespace {
    /// Whether we made it: its loopback device has our alias.
    pub ours: bool,
    /// Whether lo is up.
    pub lo_up: bool,
    /// The devices in it, but for lo.
    pub devices: BTreeMap<IfName, InnerDevice>,
    /// The routing rules of ours.
    pub rules: BTreeSet<RoutingRule>,
    /// The settings asked for, as far as they exist.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// What settings were before we first changed them in it.
    pub journal: BTreeMap<Sysctl, String>,
}

/// Where a device is that moved away from the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// Where it moved to.
    Inside {
        /// The namespace.
        namespace: NamespaceName,
        /// Its name there.
        name: IfName,
    },
    /// On its way, in either direction; or in a namespace that has lost its name.
    Between(NamespaceName),
    /// Nowhere: somebody else took it away.
    Gone(NamespaceName),
}

impl Whereabouts {
    /// The namespace that it moved to.
    pub fn namespace(&self) -> &NamespaceName {
        match self {
            Self::Inside { namespace, .. } | Self::Between(namespace) | Self::Gone(namespace) => namespace,
        }
    }
}

/// A device inside a shared namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InnerDevice {
    /// ifindex there.
    pub index: u32,
    /// IFLA_IFALIAS; empty when none.
    pub alias: String,
    /// Its MAC.
    pub mac: Option<MacAddr>,
    /// In bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Its addresses, without link-local ones and those that came by DHCP or from a router.
    pub addresses: BTreeSet<IpNet>,
    /// Routes of ours through it.
    pub routes: BTreeSet<GuestRoute>,
}

/// A NIC's device inside a guest's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestLink {
    /// ifindex there.
    pub index: u32,
    /// The other end's ifindex on the host.
    pub peer_index: u32,
    /// Its MAC.
    pub mac: Option<MacAddr>,
    /// In bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
}

/// A route inside a guest's namespace, through its NIC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestRoute {
    /// In which table.
    pub table: u32,
    /// Where to.
    pub destination: IpNet,
    /// By which gateway.
    pub via: Option<IpAddr>,
}

/// Where an attached NIC is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// In a network namespace: a veth pair.
    Netns {
        /// /run/netns/NAME, another path, or /proc/PID/ns/net.
        path: String,
        /// The namespace's inode number. A name under /run/netns stands for whatever has it; a process id may come to
        /// be another process's, so there the number has to be the same.
        inode: u64,
    },
    /// A persistent tap of ours.
    Tap {
        /// Its name.
        name: IfName,
        /// User id that may open it without privileges.
        owner: Option<u32>,
    },
    /// A device that somebody else made.
    Device {
        /// Its name.
        name: IfName,
    },
}

/// The attachments: which NIC exists as what.
pub type Attachments = BTreeMap<NicId, Target>;

/// Which NICs are attached otherwise than before: where, or not any more.
pub fn attached_otherwise<'a>(
    before: &'a Attachments,
    after: &'a Attachments,
) -> BTreeMap<&'a NicId, Option<&'a Target>> {
    if std::ptr::eq(before, after) {
        return BTreeMap::new();
    }
    differing(before, after, |one, other| one == other).map(|nic| (nic, after.get(nic))).collect()
}

/// The keys of what is in one of them only, or not the same in both. It walks them once, without looking each up.
pub(crate) fn differing<'a, K: Ord, V>(
    one: &'a BTreeMap<K, V>,
    other: &'a BTreeMap<K, V>,
    same: impl Fn(&V, &V) -> bool,
) -> impl Iterator<Item = &'a K> {
    let (mut left, mut right) = (one.iter().peekable(), other.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            match order {
                Ordering::Less => return left.next().map(|(key, _)| key),
                Ordering::Greater => return right.next().map(|(key, _)| key),
                Ordering::Equal => {
                    let pair = left.next().zip(right.next());
                    if let Some(((key, a), (_, b))) = pair
                        && !same(a, b)
                    {
                        return Some(key);
                    }
                }
            }
        }
    })
}

/// A tracked flow (conntrack entry) as it was opened and as answers come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// As opened, before any translation.
    pub original: Tuple,
    /// As answers come, before they are translated back.
    pub reply: Tuple,
}

/// One direction of a flow. Ports are 0 for protocols without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// From.
    pub source: IpAddr,
    /// To.
    pub destination: IpAddr,
    /// From.
    pub source_port: u16,
    /// To.
    pub destination_port: u16,
}
