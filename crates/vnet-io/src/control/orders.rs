//! What the engine is told, and what it answers: lines of JSON on a unix socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};
use viaduct_types::{HostKey, IfName, MacAddr, PeerName, VnetId, VnetName, Vni};
use viaduct_vnet_proto::{
    control::{Protection, Security},
    data::esp::Cipher,
};

/// What is asked of the engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// This is to be so from now on. Whoever says so hears of changes on the same connection.
    Be(Box<Orders>),
    /// Say [`Answer::Known`] when what was to be has been done by the workers, and the other hosts know which NICs are here.
    Known {
        /// Comes back.
        number: u64,
    },
    /// A machine that no orders know is behind a vnet's bridge, or is not until it is heard there; done without a trouble
    /// when it is so.
    Machine {
        /// The vnet.
        vnet: VnetId,
        /// The machine's.
        mac: MacAddr,
        /// Whether it is there.
        here: bool,
    },
    /// On this connection names of hosts are looked up from now on: a line with a name each goes there, and one with a
    /// [`Found`](super::Found) comes back.
    Names,
    /// How are things?
    Report {
        /// So many MACs of each vnet are told at most.
        most_macs: usize,
    },
    /// End.
    End,
}

/// What it says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// The first line on each connection.
    Here {
        /// The version of the program.
        version: String,
        /// The process.
        pid: u32,
    },
    /// What was to be, is, as far as it goes: what does not is said here.
    Done {
        /// A line each.
        troubles: Vec<String>,
    },
    /// It is known what was to be when [`Request::Known`] was said. Hosts that do not say so within some time are not waited
    /// for, nor are they again until they have.
    Known {
        /// That of the request.
        number: u64,
    },
    /// How things are.
    Report(Box<Report>),
    /// Something has changed that others have to do something about.
    Changed(Findings),
}

/// What is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Orders {
    /// The other hosts.
    pub peers: BTreeMap<PeerName, PeerOrders>,
    /// The vnets.
    pub vnets: BTreeMap<VnetId, VnetOrders>,
    /// The peers between which this host passes on what they cannot send each other.
    #[serde(default)]
    pub relay: BTreeSet<PeerName>,
    /// How much of it, from one to another one, in bytes a second.
    #[serde(default)]
    pub relay_rate: u64,
    /// How peers are found whose places nobody told.
    #[serde(default)]
    pub discovery: Option<DiscoveryOrders>,
    /// Whether one port carries everything, to and from all peers.
    #[serde(default)]
    pub single_port: bool,
    /// What hosts are called here, also those that share no vnet with this one.
    #[serde(default)]
    pub names: BTreeMap<PeerName, HostKey>,
}

impl Orders {
    /// What a host is called.
    pub(super) fn name_of(&self, key: &HostKey) -> Option<String> {
        self.names.iter().find(|(_, known)| *known == key).map(|(name, _)| name.to_string())
    }
}

/// How peers are found whose places nobody told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscoveryOrders {
    /// On which interfaces is said and heard where hosts are.
    pub interfaces: Vec<IfName>,
    /// On which multicast groups.
    pub groups: Vec<IpAddr>,
    /// The UDP port.
    pub port: u16,
}

/// Another host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerOrders {
    /// Who it is.
    pub key: HostKey,
    /// Where it may be, as ADDRESS:PORT or NAME:PORT; none: it dials.
    pub endpoints: Vec<String>,
    /// No vnet here has it, and this host passes nothing on for it: it is dialled when somebody is needed who passes on.
    #[serde(default)]
    pub spare: bool,
}

/// A vnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VnetOrders {
    /// What it is called here.
    pub name: VnetName,
    /// The device that is a port of its bridge: a tap, or VXLAN over IPv4 where nothing protects frames.
    pub tap: IfName,
    /// What protects its frames.
    pub security: Security,
    /// By which cipher, whatever both ends do best.
    #[serde(default)]
    pub cipher: Option<Cipher>,
    /// How they are carried where nothing does.
    #[serde(default)]
    pub plain: Option<PlainOrders>,
    /// Whether machines are behind its bridge that nobody has told of.
    #[serde(default)]
    pub learning: bool,
    /// Where its bridge goes on into a segment outside.
    #[serde(default)]
    pub port: Option<IfName>,
    /// Where the filter holds back what comes and goes by that port, but for what hosts say of who bridges there: the device group
    /// in which it does not. None: nobody else can bridge the segment into the vnet.
    #[serde(default)]
    pub opens: Option<u32>,
    /// What its ports take, in bytes of IP packets, where a file says so; otherwise what gets through it.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Who may be in it.
    pub peers: BTreeSet<PeerName>,
    /// The NICs that are here.
    pub nics: BTreeMap<MacAddr, NicOrders>,
}

/// How frames are carried that nothing protects: by the kernel, which is told where to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlainOrders {
    /// By which number this host takes them.
    pub vni: Vni,
    /// The port of the bridge that is VXLAN over IPv6.
    pub second: Option<IfName>,
    /// The bridge.
    pub bridge: IfName,
}

/// A NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NicOrders {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// It waits for its guest to arrive, and is silent until then.
    #[serde(default)]
    pub prepared: bool,
    /// The port of the bridge that leads to it; none for the host itself.
    #[serde(default)]
    pub device: Option<IfName>,
}

/// What others have to do something about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// What gets through, in bytes of IP packets inside.
    pub mtus: BTreeMap<VnetId, u16>,
    /// NICs of this host that another one claims with more right: their ports have to be silent.
    pub lost: BTreeMap<VnetId, BTreeSet<MacAddr>>,
    /// Where the hosts are who are in vnets that nothing protects: nobody else may send frames of them.
    #[serde(default)]
    pub reached: BTreeMap<VnetId, BTreeSet<IpAddr>>,
    /// Nobody looks up names of hosts: whoever started who did is to start another one.
    #[serde(default)]
    pub nameless: bool,
    /// Prepared NICs whose guest has arrived.
    pub arrived: BTreeMap<VnetId, BTreeSet<MacAddr>>,
}

/// How things are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The process.
    pub pid: u32,
    /// Who this host is.
    pub key: HostKey,
    /// Its port.
    pub port: u16,
    /// The other hosts.
    pub peers: BTreeMap<PeerName, PeerReport>,
    /// Keys that nobody here knows, lately.
    pub strangers: Vec<Stranger>,
    /// The vnets.
    pub vnets: BTreeMap<VnetId, VnetReport>,
    /// Datagrams that belong to nobody or did not get further, by what was wrong with them.
    pub drops: BTreeMap<String, u64>,
    /// What else is counted: datagrams by what they are, and calls.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
    /// Datagrams come one by one: the kernel would not join them.
    #[serde(default)]
    pub unjoined: bool,
    /// What was said and heard of where hosts are, by what it is.
    #[serde(default)]
    pub beacons: BTreeMap<String, u64>,
    /// What does not work of it.
    #[serde(default)]
    pub beacon_troubles: Vec<String>,
    /// What is passed on.
    #[serde(default)]
    pub relayed: Vec<RelayedReport>,
}

/// What is passed on from one host to another one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RelayedReport {
    /// Who sends.
    pub from: PeerName,
    /// Who gets it.
    pub to: PeerName,
    /// How many datagrams.
    pub datagrams: u64,
    /// How many bytes.
    pub bytes: u64,
    /// How many datagrams were more than may be sent.
    pub over_rate: u64,
    /// How many were not sent, as they are too large for where they go, or for another reason.
    #[serde(default)]
    pub send_failed: u64,
    /// They are sent one by one: the kernel would not cut them.
    #[serde(default)]
    pub unsegmented: bool,
}

/// How another host is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PeerReport {
    /// Whether there is a connection.
    pub connected: bool,
    /// Where it is, if so.
    pub address: Option<SocketAddr>,
    /// Who passes on what is sent there, if somebody does.
    #[serde(default)]
    pub via: Option<PeerName>,
    /// Where it has lately said that it is.
    #[serde(default)]
    pub found: Vec<SocketAddr>,
    /// For how many seconds there has been a connection.
    pub seconds: Option<u64>,
    /// The longest IP packet that gets there, in bytes.
    pub path_mtu: Option<u16>,
    /// How often another key was seen in place of its own.
    pub refused: u64,
    /// Which one, last.
    pub seen_key: Option<HostKey>,
    /// Why it was not reached the last time.
    pub error: Option<String>,
    /// No vnet here has it, and nobody is looked for who passes on: it is not dialled.
    #[serde(default)]
    pub unneeded: bool,
    /// Datagrams are sent to it one by one: the kernel would not cut them.
    pub unsegmented: bool,
    /// The path carries less than what IPv6 needs inside: long frames go in two.
    #[serde(default)]
    pub in_two: bool,
    /// By which ports frames go and come.
    #[serde(default)]
    pub ports: PortsReport,
    /// What was carried, by what it is.
    pub counters: BTreeMap<String, u64>,
}

/// By which ports frames go to a peer and come from it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PortsReport {
    /// The peer's, to which they go; none when there is no connection.
    pub to: Vec<u16>,
    /// Why one carries everything, if so.
    pub one: Option<String>,
    /// How many datagrams have come from it, by this host's port at which they did.
    pub received: BTreeMap<u16, u64>,
}

/// Somebody with a key that nobody here knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stranger {
    /// Which.
    pub key: HostKey,
    /// From where, last.
    pub address: SocketAddr,
    /// How often.
    pub refused: u64,
}

/// How a vnet is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VnetReport {
    /// What it is called here.
    pub name: VnetName,
    /// What protects its frames.
    pub security: Security,
    /// What gets through, in bytes of IP packets inside; none as long as nobody else was there.
    pub mtu: Option<u16>,
    /// Those who are in it, or were until shortly.
    pub members: BTreeMap<PeerName, MemberReport>,
    /// Peers that have it with another security, or cipher.
    pub mismatched: BTreeMap<PeerName, Protection>,
    /// The NICs, wherever they are, as many as were asked for: of more, first those that several hosts claim, then those that are
    /// attached, then those that are merely heard behind a bridge.
    pub macs: BTreeMap<MacAddr, MacReport>,
    /// How many there are.
    pub mac_count: usize,
    /// Addresses of more than one MAC, as many as were asked for.
    pub shared_addresses: BTreeMap<IpAddr, BTreeSet<MacAddr>>,
    /// UDP comes from the bridge one by one: the kernel would not give it in super-frames.
    #[serde(default)]
    pub uncut_udp: bool,
    /// What was carried and dropped, by what it is.
    pub counters: BTreeMap<String, u64>,
    /// What does not work.
    pub trouble: Option<String>,
}

/// How a member is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemberReport {
    /// Whether there is a connection to it.
    pub connected: bool,
    /// Whether frames can be sent to it.
    pub speaks: bool,
    /// What gets through, in bytes of IP packets inside, in both directions.
    pub mtu: Option<u16>,
    /// What seals the frames that go to it.
    #[serde(default)]
    pub cipher: Option<Cipher>,
}

/// Where a MAC is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MacReport {
    /// At which host; none: here.
    pub peer: Option<PeerName>,
    /// Of the claim.
    pub sequence: u64,
    /// For so long it has been known there.
    #[serde(default)]
    pub seconds: u64,
    /// Of the NIC.
    pub addresses: Vec<IpAddr>,
    /// Others who claim it, with less right; none in the place of a name: this host.
    pub also_claimed_by: Vec<Option<PeerName>>,
}
