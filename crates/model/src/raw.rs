//! What a configuration can say: every key with its type and its description. The reader, the suggestions for
//! misspelt keys and the JSON Schema all come from here.

mod vnets;

use std::net::IpAddr;

use serde_json::{Value as Json, json};
use viaduct_types::{
    BootClient, GuestName, IfName, IpvlanMode, MacAddr, MacvlanMode, NamespaceName, NetworkName, PeerName,
    Publish, UplinkName, VlanProtocol, VnetName,
};

use crate::{
    Cipher, Policy, Security, Spoofing,
    report::Report,
    shape::{
        Address, AllowEnd, BootFile, BootParameter, DomainName, HookPath, HostNet, Integer, List, Named,
        OneOrMany, Parent, PoolPrefix, PortSpec, PriorityPair, ProtocolSpec, Read, RuleSpec, SettingValue,
        StaticRoute, SubnetPrefix, SysctlName, Timeout, VlanRange, table, words,
    },
    tree::Node,
};

pub(crate) use vnets::{Discovery, Peer, Relay, Vnet};

/// 68 is the least that IPv4 allows (RFC 791).
pub(crate) type Mtu = Integer<68, 65535>;
/// 0 and 4095 are reserved (IEEE 802.1Q).
pub(crate) type Vlan = Integer<1, 4094>;
/// The smallest part that is delegated, in bits of its prefix.
pub(crate) const LONGEST_PART: u32 = 96;
/// In bits.
pub(crate) type DelegateLength = Integer<32, LONGEST_PART>;
pub(crate) type Id = Integer<1, 999_999_999>;
pub(crate) type Port = Integer<1, 65535>;
/// In Mbit/s.
pub(crate) type Rate = Integer<1, 1_000_000>;

table! {
    /// The network of a virtualization host.
    Root {
        /// This host.
        "host" => host: Host,
        /// Interfaces of the host to the outside, by name.
        "uplinks" => uplinks: Named<UplinkName, Uplink>,
        /// What guests' interfaces join, by name.
        "networks" => networks: Named<NetworkName, Network>,
        /// Virtual machines and containers, by name.
        "guests" => guests: Named<GuestName, Guest>,
        /// Linux network namespaces that several guests share, by name.
        "namespaces" => namespaces: Named<NamespaceName, Namespace>,
        /// Other hosts in our vnets, by name.
        "peers" => peers: Named<PeerName, Peer>,
        /// Ethernet segments that span hosts, by name.
        "vnets" => vnets: Named<VnetName, Vnet>,
        /// What this host passes on for peers that cannot reach each other.
        "relay" => relay: Relay,
        /// Peers are found by what they say on a multicast group. Without the section nothing is said or heard.
        "discovery" => discovery: Discovery,
    }
}

table! {
    /// This host.
    Host {
        /// Its name, as other hosts call it; "host" unless written.
        "name" => name: PeerName,
        /// Of vnets: one UDP port carries everything, to and from all peers. Otherwise each thread that carries frames has one
        /// of its own, used with peers that are reached at theirs.
        "single-port" => single_port: bool,
    }
}

table! {
    /// An interface of the host to the outside.
    Uplink {
        /// The device, like eth0; with namespace, the name of an interface of that.
        required "interface" => interface: IfName,
        /// The namespace whose interface it is: the way out of networks in that namespace. Its addresses and gateways are
        /// written at the interface.
        "namespace" => namespace: NamespaceName,
        /// Addresses with prefix length to set up, of each family the one that the host speaks from first; without the key they stay as the
        /// system set them up.
        "addresses" => addresses: List<HostNet>,
        /// Default gateways, at most one per family; may be outside every prefix. Without the key they stay as they are.
        "gateways" => gateways: List<IpAddr>,
        /// MTU in bytes to set.
        "mtu" => mtu: Mtu,
    }
}

/// The word that chooses a network's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModeWord {
    Nat,
    Routed,
    Bridged,
    Isolated,
    Vnet,
}

impl ModeWord {
    pub(crate) const ALL: [(&'static str, Self); 5] = [
        ("nat", Self::Nat),
        ("routed", Self::Routed),
        ("bridged", Self::Bridged),
        ("isolated", Self::Isolated),
        ("vnet", Self::Vnet),
    ];

    pub(crate) fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, mode)| *mode == self).map_or("", |(word, _)| word)
    }
}

words!(
    ModeWord, "a network's mode",
    "nat" => Self::Nat, "routed" => Self::Routed, "bridged" => Self::Bridged, "isolated" => Self::Isolated,
    "vnet" => Self::Vnet,
);
words!(Policy, "a policy", "allow" => Self::Allow, "deny" => Self::Deny);
words!(Spoofing, "what a NIC may send", "none" => Self::None, "ip" => Self::Ip, "mac" => Self::Mac);
words!(Security, "a vnet's security", "conf" => Self::Conf, "auth" => Self::Auth, "none" => Self::None);
words!(
    Cipher, "a cipher of vnets",
    "aes-128-gcm" => Self::Aes128Gcm, "aes-256-gcm" => Self::Aes256Gcm,
    "chacha20-poly1305" => Self::ChaCha20Poly1305,
    "aes-128-gmac" => Self::Aes128Gmac, "aes-256-gmac" => Self::Aes256Gmac,
);

table! {
    /// What guests' interfaces join.
    NetworkKeys {
        /// nat: a bridge, translated on the way out. routed: a link of its own per NIC, public addresses kept. bridged:
        /// on the uplink's own segment. isolated: a bridge with no way out. vnet: a bridge that spans hosts.
        required "mode" => mode: ModeWord,
        /// The way out.
        "uplink" => uplink: UplinkName,
        /// The vnet that the network lies on.
        "vnet" => vnet: VnetName,
        /// Prefixes of the guests' segment.
        "subnets" => subnets: List<SubnetPrefix>,
        /// The host's own addresses, at most one per subnet; the first usable of each subnet unless written (in mode
        /// vnet: none unless written).
        "gateways" => gateways: List<IpAddr>,
        /// The bridge's name; made from the network's name unless written.
        "bridge" => bridge: IfName,
        /// Outgoing connections get this source address, at most one per family; the uplink's own unless written.
        "source-address" => source_address: OneOrMany<IpAddr>,
        /// Prefixes and addresses that guests' addresses come from.
        "pool" => pool: List<PoolPrefix>,
        /// Answer ARP and ND for guests' addresses on the uplink, since they are on its own segment.
        "proxy" => proxy: bool,
        /// Before a guest gets an address, ask on the uplink whether somebody has it already: then it does not.
        "probe" => probe: bool,
        /// NICs without addresses get one of these, translated on the way out.
        "install-pool" => install_pool: OneOrMany<PoolPrefix>,
        /// IPv6 prefixes that parts are given of, by DHCPv6, to guests that are routers, for what is behind them: one to
        /// each NIC whose guest has no allow-in or allow-out of its own. The host routes it to the NIC.
        "delegate-pool" => delegate_pool: List<PoolPrefix>,
        /// How long these parts are, in bits; 64 unless written.
        "delegate-length" => delegate_length: DelegateLength,
        /// VLAN of the uplink that the guests are on; the uplink's untagged segment unless written.
        "vlan" => vlan: Vlan,
        /// Whose tag `vlan` is: 802.1Q unless written; 802.1ad for a service provider's.
        "protocol" => protocol: VlanProtocol,
        /// VLANs that NICs of this network may be on, like [2, 3, "10-20"]: each says which, by `vlan` or `trunk`. They are
        /// VLANs of the uplink; with `vlan`, they lie inside of that one (QinQ).
        "vlans" => vlans: List<VlanRange>,
        /// New flows from outside, and from other networks with an uplink, to guests without an allow-in of their own;
        /// deny unless written (in modes routed, bridged and vnet: allow).
        "inbound" => inbound: Policy,
        /// New flows from guest to guest; deny unless written (in modes bridged, isolated and vnet: allow).
        "between-guests" => between_guests: Policy,
        /// New flows from guests to the host itself; deny unless written (in mode bridged: allow).
        "to-host" => to_host: Policy,
        /// Answer DHCP and send router advertisements on guests' ports.
        "dhcp" => dhcp: bool,
        /// Answer guests for names, at the host's address on their link: those of the network's guests, and everything
        /// else by asking other servers.
        "dns" => dns: bool,
        /// Name servers told to guests; with dns = true those that the host asks for them, instead of its own.
        "dns-servers" => dns_servers: List<IpAddr>,
        /// DNS domain told to guests; with dns = true their names end with it, and it is NETWORK.internal unless written.
        "domain" => domain: DomainName,
        /// MTU in bytes of the network's devices; the uplink's unless written.
        "mtu" => mtu: Mtu,
        /// What its guests load when they boot by the network, instead of from a disk; needs dhcp = true.
        "boot" => boot: Boot,
        /// A namespace that the network lives in, with a filter, connections and forwarding of its own, instead of the
        /// host's own. Not in mode vnet. Its uplink is one of the same namespace.
        "namespace" => namespace: NamespaceName,
    }
}

/// A key that only some modes have.
pub(crate) struct ModeKey {
    pub(crate) key: &'static str,
    /// Where it has to be there.
    pub(crate) needed: &'static [ModeWord],
    /// Where it may be there.
    pub(crate) allowed: &'static [ModeWord],
}

/// Which keys belong to which modes; keys that are not listed belong to all.
pub(crate) const MODE_KEYS: [ModeKey; 15] = {
    use ModeWord::{Bridged, Isolated, Nat, Routed, Vnet};
    [
        ModeKey { key: "uplink", needed: &[Nat, Routed, Bridged], allowed: &[] },
        ModeKey { key: "vnet", needed: &[Vnet], allowed: &[] },
        ModeKey { key: "subnets", needed: &[Nat], allowed: &[Isolated, Vnet] },
        ModeKey { key: "gateways", needed: &[], allowed: &[Nat, Isolated, Vnet] },
        ModeKey { key: "bridge", needed: &[], allowed: &[Nat, Bridged, Isolated] },
        ModeKey { key: "source-address", needed: &[], allowed: &[Nat] },
        ModeKey { key: "pool", needed: &[Routed], allowed: &[] },
        ModeKey { key: "proxy", needed: &[], allowed: &[Routed] },
        ModeKey { key: "probe", needed: &[], allowed: &[Routed] },
        ModeKey { key: "install-pool", needed: &[], allowed: &[Routed] },
        ModeKey { key: "delegate-pool", needed: &[], allowed: &[Routed] },
        ModeKey { key: "delegate-length", needed: &[], allowed: &[Routed] },
        ModeKey { key: "vlan", needed: &[], allowed: &[Bridged] },
        ModeKey { key: "protocol", needed: &[], allowed: &[Bridged] },
        ModeKey { key: "vlans", needed: &[], allowed: &[Bridged] },
    ]
};

impl ModeKey {
    pub(crate) fn belongs_to(&self, mode: ModeWord) -> bool {
        self.needed.contains(&mode) || self.allowed.contains(&mode)
    }

    pub(crate) fn modes(&self) -> impl Iterator<Item = &'static str> {
        self.needed.iter().chain(self.allowed).map(|mode| mode.word())
    }
}

/// [`NetworkKeys`] with, in the schema, which of them belong to which mode.
#[derive(Debug)]
pub(crate) struct Network(pub(crate) NetworkKeys);

impl Read for Network {
    fn read(node: &Node<'_>, report: &mut Report<'_>) -> Option<Self> {
        NetworkKeys::read(node, report).map(Self)
    }

    fn schema() -> Json {
        let rule = |(word, mode): (&str, ModeWord)| {
            let needed: Vec<&str> =
                MODE_KEYS.iter().filter(|k| k.needed.contains(&mode)).map(|k| k.key).collect();
            let foreign: serde_json::Map<String, Json> = MODE_KEYS
                .iter()
                .filter(|k| !k.belongs_to(mode))
                .map(|k| (k.key.to_owned(), Json::Bool(false)))
                .collect();
            json!({
                "if": { "properties": { "mode": { "const": word } }, "required": ["mode"] },
                "then": { "required": needed, "properties": foreign },
            })
        };
        let mut schema = NetworkKeys::schema();
        schema["allOf"] = ModeWord::ALL.into_iter().map(rule).collect();
        schema
    }
}

table! {
    /// What machines load that boot by the network (PXE, iPXE, UEFI HTTP boot): told by DHCP and DHCPv6, to those only
    /// that ask for it.
    Boot {
        /// The machine whose files are loaded by TFTP where no URL is written, at most one per family.
        "server" => server: OneOrMany<IpAddr>,
        /// What is loaded, by who asks: bios, efi-x86_64, efi-arm64, …, the same with http- for firmware that boots by HTTP,
        /// ipxe for iPXE of every architecture, other for all others. A file of the server, or a URL; two where those of
        /// IPv4 and IPv6 differ.
        "files" => files: Named<BootClient, OneOrMany<BootFile>>,
        /// What is told to what is loaded, by DHCPv6 alone (RFC 5970).
        "parameters" => parameters: List<BootParameter>,
    }
}

table! {
    /// A virtual machine or container.
    Guest {
        /// A number of its own, which goes into derived MACs and device names.
        "id" => id: Id,
        /// Its interfaces.
        "nics" => nics: List<Nic>,
        /// Ports made reachable, to everybody, whatever allow-in says: [ADDRESS:]HOST-PORT:GUEST-PORT[/PROTO], like 203.0.113.10:8443:443/tcp.
        "publish" => publish: List<Publish>,
        /// Who may open flows to this guest; what its networks say unless written. An empty list: nobody.
        "allow-in" => allow_in: List<AllowIn>,
        /// Where this guest may open flows to; anywhere unless written. An empty list: nowhere.
        "allow-out" => allow_out: List<AllowOut>,
        /// The shared namespace it lives in; then it has no interfaces of its own.
        "namespace" => namespace: NamespaceName,
        /// Programs run at its life's turns.
        "hooks" => hooks: Hooks,
    }
}

table! {
    /// One interface of a guest.
    Nic {
        /// The network it joins.
        required "network" => network: NetworkName,
        /// The device's name inside the guest; eth0, eth1, … unless written.
        "name" => name: IfName,
        /// The device's name on the host; made from the guest's id or name unless written.
        "device" => device: IfName,
        /// Its MAC address; derived from VLAN, guest id and index unless written.
        "mac" => mac: MacAddr,
        /// Its addresses, of each family the one that a container speaks from first; on bridged networks with their prefix
        /// length. One of IPv6 that comes to a NIC that is attached is spoken from until it is attached anew.
        "addresses" => addresses: List<Address>,
        /// The gateway that the guest is told, at most one per family; the network's own unless written.
        "gateway" => gateway: OneOrMany<IpAddr>,
        /// What it may send. none: its own MAC and addresses only. ip: any address. mac: anything.
        "spoofing" => spoofing: Spoofing,
        /// Speaks with its own MAC on the uplink, too (a provider's virtual MAC); on routed networks with proxy.
        "uplink-mac" => uplink_mac: bool,
        /// MTU in bytes; the network's unless written.
        "mtu" => mtu: Mtu,
        /// What it loads when it boots by the network; instead of all that the network says of it.
        "boot" => boot: Boot,
        /// On a network with `vlans`: the one that it is on without tags.
        "vlan" => vlan: Vlan,
        /// On a network with `vlans`: those that it is on with tags, like [2, "10-20"].
        "trunk" => trunk: List<VlanRange>,
    }
}

table! {
    /// Permission for others to open flows to a guest. Without ports, protocols and icmp: flows of every kind.
    AllowIn {
        /// The other end: any, an address, a prefix, guest:NAME or network:NAME.
        required "from" => end: OneOrMany<AllowEnd>,
        /// Ports of the guest, like 443/tcp or 8000-8100/udp; tcp unless written. Or icmp.
        "ports" => ports: List<PortSpec>,
        /// Whole protocols, by name or number.
        "protocols" => protocols: List<ProtocolSpec>,
        /// ICMP and ICMPv6.
        "icmp" => icmp: bool,
    }
}

table! {
    /// Permission for a guest to open flows. Without ports, protocols and icmp: flows of every kind.
    AllowOut {
        /// The other end: any, an address, a prefix, guest:NAME or network:NAME.
        required "to" => end: OneOrMany<AllowEnd>,
        /// Ports of the other end, like 443/tcp or 8000-8100/udp; tcp unless written. Or icmp.
        "ports" => ports: List<PortSpec>,
        /// Whole protocols, by name or number.
        "protocols" => protocols: List<ProtocolSpec>,
        /// ICMP and ICMPv6.
        "icmp" => icmp: bool,
    }
}

table! {
    /// Programs run at the turns of a guest's life; of a namespace's, of that of all of its guests together.
    Hooks {
        /// Namespace and devices exist; the guest has not started, and does not start when this fails.
        "prepare" => prepare: HookPath,
        /// The guest runs.
        "started" => started: HookPath,
        /// The guest is about to stop.
        "stopping" => stopping: HookPath,
        /// The guest has stopped.
        "stopped" => stopped: HookPath,
        /// How long each may take: seconds, or a text like "10s".
        "timeout" => timeout: Timeout,
    }
}

table! {
    /// A Linux network namespace that several guests share.
    Namespace {
        /// A number of its own, which goes into derived MACs.
        "id" => id: Id,
        /// Its interfaces.
        "interfaces" => interfaces: List<Interface>,
        /// Routing rules: from PREFIX to PREFIX table NUMBER priority NUMBER; from, to and priority may be left out. Without
        /// priorities they are asked in this order, from 1000 on.
        "rules" => rules: List<RuleSpec>,
        /// Settings of net.* inside, like net.ipv4.ip_forward, with what they are set to.
        "sysctls" => sysctls: Named<SysctlName, SettingValue>,
        /// Programs run when the first of its guests starts and the last one stops.
        "hooks" => hooks: Hooks,
    }
}

/// What an interface of a namespace is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InterfaceWord {
    Vlan,
    Macvlan,
    Ipvlan,
    Veth,
    Device,
}

impl InterfaceWord {
    pub(crate) const ALL: [(&'static str, Self); 5] = [
        ("vlan", Self::Vlan),
        ("macvlan", Self::Macvlan),
        ("ipvlan", Self::Ipvlan),
        ("veth", Self::Veth),
        ("device", Self::Device),
    ];

    pub(crate) fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }
}

/// How a device shares its parent with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InterfaceMode {
    Macvlan(MacvlanMode),
    Ipvlan(IpvlanMode),
}

words!(
    InterfaceWord, "an interface's type",
    "vlan" => Self::Vlan, "macvlan" => Self::Macvlan, "ipvlan" => Self::Ipvlan, "veth" => Self::Veth,
    "device" => Self::Device,
);
words!(
    InterfaceMode, "an interface's mode",
    "bridge" => Self::Macvlan(MacvlanMode::Bridge), "private" => Self::Macvlan(MacvlanMode::Private),
    "vepa" => Self::Macvlan(MacvlanMode::Vepa), "passthru" => Self::Macvlan(MacvlanMode::Passthru),
    "l2" => Self::Ipvlan(IpvlanMode::L2), "l3" => Self::Ipvlan(IpvlanMode::L3), "l3s" => Self::Ipvlan(IpvlanMode::L3s),
);
words!(
    VlanProtocol, "a VLAN's protocol",
    "802.1Q" => Self::Customer, "802.1ad" => Self::Service,
);

table! {
    /// One interface of a shared namespace.
    InterfaceKeys {
        /// Its name inside.
        required "name" => name: IfName,
        /// vlan: a VLAN of the parent. macvlan: a second network card in the parent's segment. ipvlan: a second stack behind
        /// the parent's MAC. veth: a cable to a network, as guests have it, or to a bridge of the host. device: a device of
        /// the host, moved into the namespace, and given back with its name and addresses.
        required "type" => kind: InterfaceWord,
        /// An uplink's name, or a device's.
        "parent" => parent: Parent,
        /// The network that the other end of the cable joins, guarded and filtered as a guest's interface.
        "network" => network: NetworkName,
        /// The bridge of the host that the other end of the cable joins, not one of Viaduct's networks.
        "bridge" => bridge: IfName,
        /// The device's name on the host. Of a cable: its other end's; made from the namespace's name unless written.
        "device" => device: IfName,
        /// VLAN of the parent; of a cable, that of a network with `vlans` that it is on.
        "vlan" => vlan: Vlan,
        /// 802.1Q unless written; 802.1ad for a service provider's VLAN.
        "protocol" => protocol: VlanProtocol,
        /// Priorities of frames that come in and what packets get, like "5:3"; 0 unless written.
        "ingress-qos" => ingress: List<PriorityPair>,
        /// Priorities of packets that go out and what frames get, like "3:5"; 0 unless written.
        "egress-qos" => egress: List<PriorityPair>,
        /// Of a macvlan: bridge unless written, private, vepa or passthru. Of an ipvlan: l2 unless written, l3 or l3s.
        "mode" => mode: InterfaceMode,
        /// Its MAC address; derived from VLAN, namespace id and index unless written. An ipvlan has its parent's.
        "mac" => mac: MacAddr,
        /// Its addresses with prefix length, which a network with subnets or a pool knows by itself; of each family the one that is
        /// spoken from first.
        "addresses" => addresses: List<Address>,
        /// Its gateways, at most one per family. On a network, the network's own unless written here or at another interface.
        "gateways" => gateways: List<IpAddr>,
        /// What it may send, on a network. none: its own MAC and addresses only. ip: any address. mac: anything.
        "spoofing" => spoofing: Spoofing,
        /// Further routes through it: PREFIX via ADDRESS, or PREFIX for one that is on-link; in another table than main with
        /// table NUMBER behind it.
        "routes" => routes: List<StaticRoute>,
        /// MTU in bytes; the parent's or the network's unless written.
        "mtu" => mtu: Mtu,
    }
}

/// Which keys belong to which types; keys that are not listed belong to all.
pub(crate) const INTERFACE_KEYS: [(&str, &[InterfaceWord]); 11] = {
    use InterfaceWord::{Device, Ipvlan, Macvlan, Veth, Vlan};
    [
        ("parent", &[Vlan, Macvlan, Ipvlan]),
        ("network", &[Veth]),
        ("bridge", &[Veth]),
        ("device", &[Veth, Device]),
        ("spoofing", &[Veth]),
        ("vlan", &[Vlan, Veth]),
        ("protocol", &[Vlan]),
        ("ingress-qos", &[Vlan]),
        ("egress-qos", &[Vlan]),
        ("mode", &[Macvlan, Ipvlan]),
        ("mac", &[Vlan, Macvlan, Veth, Device]),
    ]
};

impl InterfaceWord {
    /// The keys that it cannot do without.
    pub(crate) fn needed(self) -> &'static [&'static str] {
        match self {
            Self::Vlan => &["parent", "vlan"],
            Self::Macvlan | Self::Ipvlan => &["parent"],
            // One of `network` and `bridge`.
            Self::Veth => &[],
            Self::Device => &["device"],
        }
    }
}

/// [`InterfaceKeys`] with, in the schema, which of them belong to which type.
#[derive(Debug)]
pub(crate) struct Interface(pub(crate) InterfaceKeys);

impl Read for Interface {
    fn read(node: &Node<'_>, report: &mut Report<'_>) -> Option<Self> {
        InterfaceKeys::read(node, report).map(Self)
    }

    fn schema() -> Json {
        let rule = |(word, kind): (&str, InterfaceWord)| {
            let foreign: serde_json::Map<String, Json> = INTERFACE_KEYS
                .iter()
                .filter(|(_, kinds)| !kinds.contains(&kind))
                .map(|(key, _)| ((*key).to_owned(), Json::Bool(false)))
                .collect();
            let mut then = json!({ "required": kind.needed(), "properties": foreign });
            if kind == InterfaceWord::Veth {
                then["oneOf"] = json!([{ "required": ["network"] }, { "required": ["bridge"] }]);
            } else {
                then["properties"]["addresses"] = List::<HostNet>::schema();
            }
            json!({
                "if": { "properties": { "type": { "const": word } }, "required": ["type"] },
                "then": then,
            })
        };
        let mut schema = InterfaceKeys::schema();
        schema["allOf"] = InterfaceWord::ALL.into_iter().map(rule).collect();
        schema
    }
}
