//! Vnets and the hosts that share them: what there is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use viaduct_types::{HostKey, IfName, MacAddr, PeerName, VnetId, VnetName};
use viaduct_vnet_io::control::{self, Identity};

use super::{AllDrops, Caller, Drops, Operation, drops};
use crate::{failure::Failure, host::Host, situation::Situation, vnets};

const UNSEGMENTED: &str = "the kernel does not cut datagrams for it, so they are sent one by one";
const IN_TWO: &str = "its path carries less than IPv6 needs inside, so that long frames go in two datagrams; links with an MTU of 1348 bytes (1368 over IPv6) carry them whole";
const UNJOINED: &str =
    "The kernel does not join the datagrams that it receives (Linux before 5.0), so they come one by one.";
const UNCUT_UDP: &str =
    "the kernel does not give UDP in super-frames (Linux before 6.2), so it comes one by one";

/// Of more MACs than these a vnet's are told to who asks for all of them only: there are as many as guests make up.
pub(super) const MOST_MACS: usize = 1024;

/// Looks at the vnets.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Vnets {
    /// Whether all MACs are told, however many there are.
    #[serde(default)]
    pub(crate) all_macs: bool,
}

/// The vnets of a host, and the hosts that it shares them with.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct VnetsReport {
    /// This host's public key; none as long as it has not needed one.
    #[schemars(with = "Option<String>")]
    pub(crate) key: Option<HostKey>,
    /// The process that carries them; none when none does.
    pub(crate) engine: Option<u32>,
    /// By name.
    #[schemars(with = "BTreeMap<String, VnetView>")]
    pub(crate) vnets: BTreeMap<VnetName, VnetView>,
    /// By name.
    #[schemars(with = "BTreeMap<String, PeerView>")]
    pub(crate) peers: BTreeMap<PeerName, PeerView>,
    /// Keys that were refused, as nobody here knows them: each with where it came from, and how often.
    pub(crate) strangers: Vec<Stranger>,
    /// Datagrams that belong to nobody or did not get further, by what was wrong with them; `overflow` is what a socket could
    /// not hold.
    pub(crate) drops: BTreeMap<String, u64>,
    /// What else the process counts: datagrams by what they are, and calls.
    pub(crate) counters: BTreeMap<String, u64>,
    /// What does not work as fast as it could, for all peers.
    pub(crate) fallbacks: Vec<String>,
    /// Where is said and heard where hosts are; none where neither is.
    #[serde(default)]
    pub(crate) discovery: Option<DiscoveryView>,
    /// What was said and heard of where hosts are, by what it is.
    pub(crate) beacons: BTreeMap<String, u64>,
    /// What does not work of it.
    pub(crate) beacon_troubles: Vec<String>,
    /// What is passed on between peers that cannot reach each other.
    pub(crate) relayed: Vec<RelayedView>,
    /// Vnets that `vnet create` made and that do not count, as the configuration has one of their name or id.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(crate) unused_vnets: Vec<VnetName>,
    /// Peers that `peer add` made known and that do not count, as the configuration has one of their name or key.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(crate) unused_peers: Vec<PeerName>,
}

/// Where is said and heard where hosts are.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct DiscoveryView {
    #[schemars(with = "Vec<String>")]
    pub(crate) interfaces: Vec<IfName>,
    /// The multicast groups.
    pub(crate) groups: Vec<IpAddr>,
    /// The UDP port.
    pub(crate) port: u16,
}

impl From<&viaduct_model::Discovery> for DiscoveryView {
    fn from(discovery: &viaduct_model::Discovery) -> Self {
        let viaduct_model::Discovery { interfaces, groups, port, origin: _ } = discovery;
        Self { interfaces: interfaces.clone(), groups: groups.clone(), port: *port }
    }
}

/// What is passed on from one peer to another.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct RelayedView {
    #[schemars(with = "String")]
    pub(crate) from: PeerName,
    #[schemars(with = "String")]
    pub(crate) to: PeerName,
    pub(crate) datagrams: u64,
    pub(crate) bytes: u64,
    /// Datagrams that were more than may be sent.
    pub(crate) over_rate: u64,
    /// Datagrams that were not sent, as they are too large for where they go, or for another reason.
    pub(crate) send_failed: u64,
    /// What does not work as fast as it could.
    pub(crate) fallbacks: Vec<String>,
}

/// Somebody with a key that nobody here knows.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Stranger {
    #[schemars(with = "String")]
    pub(crate) key: HostKey,
    #[schemars(with = "String")]
    pub(crate) address: SocketAddr,
    pub(crate) refused: u64,
}

/// A vnet.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct VnetView {
    #[schemars(with = "String")]
    pub(crate) id: VnetId,
    #[schemars(with = "String")]
    pub(crate) bridge: IfName,
    #[schemars(with = "String")]
    pub(crate) interface: IfName,
    /// The one over IPv6, where the kernel carries frames (`none`).
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(crate) second_interface: Option<IfName>,
    /// `conf`, `auth` or `none`.
    pub(crate) security: String,
    /// Whether `vnet create` made it.
    pub(crate) created: bool,
    /// What gets through, in bytes of IP packets inside; none as long as nobody else was there.
    pub(crate) mtu: Option<u32>,
    /// The hosts that may belong to it.
    #[schemars(with = "BTreeMap<String, Member>")]
    pub(crate) peers: BTreeMap<PeerName, Member>,
    /// Where its NICs are. Of more than 1024 they are all there only where that is asked for; otherwise first those that several
    /// hosts claim, then those that are attached.
    #[schemars(with = "BTreeMap<String, Mac>")]
    pub(crate) macs: BTreeMap<MacAddr, Mac>,
    /// How many there are.
    pub(crate) mac_count: usize,
    /// Addresses of more than one MAC, with as many of these.
    #[schemars(with = "BTreeMap<String, Vec<String>>")]
    pub(crate) shared_addresses: BTreeMap<IpAddr, BTreeSet<MacAddr>>,
    /// Where it goes on outside.
    pub(crate) port: Option<PortView>,
    /// What does not work as fast as it could.
    pub(crate) fallbacks: Vec<String>,
    /// What was carried and dropped, by what it is.
    pub(crate) counters: BTreeMap<String, u64>,
    /// What does not work.
    pub(crate) trouble: Option<String>,
}

/// A host that may belong to a vnet.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Member {
    /// `in it`, `away` for a short while, `not in it`, or what keeps it out.
    pub(crate) state: String,
    /// In bytes of IP packets inside, in both directions.
    pub(crate) mtu: Option<u16>,
    /// What seals frames that go there; none when nothing does.
    pub(crate) cipher: Option<String>,
}

/// Where a MAC is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Mac {
    /// At which host; none: here.
    #[schemars(with = "Option<String>")]
    pub(crate) peer: Option<PeerName>,
    /// Raised whenever it arrives on a host.
    pub(crate) sequence: u64,
    /// For how many seconds this host has known it there.
    pub(crate) seconds: u64,
    #[schemars(with = "Vec<String>")]
    pub(crate) addresses: Vec<IpAddr>,
    /// Others who claim it with less right; null is this host.
    #[schemars(with = "Vec<Option<String>>")]
    pub(crate) also_claimed_by: Vec<Option<PeerName>>,
}

/// Another host.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct PeerView {
    pub(crate) key: String,
    pub(crate) endpoints: Vec<String>,
    /// Whether `peer add` made it known.
    pub(crate) created: bool,
    pub(crate) connected: bool,
    /// Where it is, when it is connected.
    #[schemars(with = "Option<String>")]
    pub(crate) address: Option<SocketAddr>,
    /// The peer that passes on what is sent there, when it cannot be reached otherwise.
    #[schemars(with = "Option<String>")]
    pub(crate) via: Option<PeerName>,
    /// Where it has lately said that it is.
    #[schemars(with = "Vec<String>")]
    pub(crate) found: Vec<SocketAddr>,
    /// For how many seconds it has been.
    pub(crate) seconds: Option<u64>,
    /// The longest IP packet that gets there, in bytes.
    pub(crate) path_mtu: Option<u16>,
    /// How often another key was seen in the place of its own, and which one last.
    pub(crate) refused: u64,
    #[schemars(with = "Option<String>")]
    pub(crate) seen_key: Option<HostKey>,
    /// Why it was not reached the last time.
    pub(crate) error: Option<String>,
    /// It is in no vnet of this host's, and not dialled as long as everybody else is reached.
    pub(crate) unneeded: bool,
    /// What does not work as fast as it could.
    pub(crate) fallbacks: Vec<String>,
    /// By which ports frames go and come.
    pub(crate) ports: PortsView,
    /// What was carried, by what it is.
    pub(crate) counters: BTreeMap<String, u64>,
}

/// A device by which a vnet goes on outside.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct PortView {
    #[schemars(with = "String")]
    pub(crate) device: IfName,
    /// What came by it and was dropped, by reason: storm is what was for everybody, and too much; held is what came before
    /// it was known who else bridges there.
    pub(crate) drops: Drops,
}

/// By which ports frames go to a peer and come from it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct PortsView {
    /// The peer's, to which frames go; none when it is not connected, or reached by way of another.
    pub(crate) to: Vec<u16>,
    /// Why one carries everything, if so.
    pub(crate) one: Option<String>,
    /// What has come from it, by this host's ports.
    pub(crate) received: Vec<ReceivedView>,
}

/// What has come from a peer at one port.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ReceivedView {
    /// This host's.
    pub(crate) port: u16,
    pub(crate) datagrams: u64,
}

impl Operation for Vnets {
    const NAME: &'static str = "vnets";
    const WRITES: bool = false;
    const QUERY: bool = true;
    type Report = VnetsReport;

    fn perform(self, host: &mut Host, _: &mut Caller<'_>) -> Result<VnetsReport, Failure> {
        let situation = host.situation()?;
        let Some(config) = situation.config() else { return Ok(VnetsReport::default()) };
        let drops = drops(host, config)?;
        let most_macs = if self.all_macs { usize::MAX } else { MOST_MACS };
        Ok(report(host, &situation, &drops, most_macs))
    }
}

/// What is configured, with what the process that carries it knows.
pub(super) fn report(host: &Host, situation: &Situation, drops: &AllDrops, most_macs: usize) -> VnetsReport {
    let (Some(applied), Some(config)) = (&situation.applied, situation.config()) else {
        return VnetsReport::default();
    };
    let (unused_vnets, unused_peers) = vnets::set_aside(&applied.config, &situation.known.created);
    let discovery = config.discovery.as_ref().map(DiscoveryView::from);
    if config.vnets.is_empty() && config.peers.is_empty() {
        return VnetsReport { discovery, ..VnetsReport::default() };
    }
    let carried = vnets::report(host.store.run_dir(), most_macs);
    let carried = carried.as_ref();
    let key = Identity::known(host.store.state_dir());
    // Hosts may share a file in which each of them stands.
    let own = key.as_ref().and_then(|key| vnets::named(config, key));
    let is_other = |name: &PeerName| own != Some(name);
    let vnet = |(name, vnet): (&VnetName, &viaduct_model::Vnet)| {
        let created = !applied.config.vnets.contains_key(name);
        let port = vnet.port.as_ref().map(|port| {
            let device = port.device().clone();
            let drops = drops.get(&(None, device.clone())).cloned().unwrap_or_default();
            PortView { device, drops }
        });
        let carried = carried.and_then(|carried| carried.vnets.get(&vnet.id));
        let peers = vnet.peers.iter().filter(|name| is_other(name));
        (name.clone(), vnet_view(vnet, peers, created, port, carried))
    };
    let peer = |(name, peer): (&PeerName, &viaduct_model::Peer)| {
        let created = !applied.config.peers.contains_key(name);
        (name.clone(), peer_view(peer, created, carried.and_then(|carried| carried.peers.get(name))))
    };
    let stranger = |stranger: &control::Stranger| Stranger {
        key: stranger.key,
        address: stranger.address,
        refused: stranger.refused,
    };
    VnetsReport {
        key,
        engine: carried.map(|carried| carried.pid),
        vnets: config.vnets.iter().map(vnet).collect(),
        peers: config.peers.iter().filter(|(name, _)| is_other(name)).map(peer).collect(),
        strangers: carried.into_iter().flat_map(|carried| &carried.strangers).map(stranger).collect(),
        drops: carried.map(|carried| carried.drops.clone()).unwrap_or_default(),
        counters: carried.map(|carried| carried.counters.clone()).unwrap_or_default(),
        fallbacks: fallbacks(carried.is_some_and(|carried| carried.unjoined), UNJOINED),
        discovery,
        beacons: carried.map(|carried| carried.beacons.clone()).unwrap_or_default(),
        beacon_troubles: carried.map(|carried| carried.beacon_troubles.clone()).unwrap_or_default(),
        relayed: carried.into_iter().flat_map(|carried| &carried.relayed).map(relayed_view).collect(),
        unused_vnets,
        unused_peers,
    }
}

fn relayed_view(relayed: &control::RelayedReport) -> RelayedView {
    let control::RelayedReport { from, to, datagrams, bytes, over_rate, send_failed, unsegmented } =
        relayed.clone();
    let fallbacks = fallbacks(unsegmented, UNSEGMENTED);
    RelayedView { from, to, datagrams, bytes, over_rate, send_failed, fallbacks }
}

fn fallbacks(is_so: bool, what: &str) -> Vec<String> {
    is_so.then(|| what.to_owned()).into_iter().collect()
}

fn vnet_view<'a>(
    vnet: &viaduct_model::Vnet,
    peers: impl Iterator<Item = &'a PeerName>,
    created: bool,
    port: Option<PortView>,
    carried: Option<&control::VnetReport>,
) -> VnetView {
    let member = |name: &PeerName| {
        let mismatched = carried.and_then(|carried| carried.mismatched.get(name));
        let member = carried.and_then(|carried| carried.members.get(name));
        let state = match (mismatched, member) {
            (Some(theirs), _) => format!("has it with {theirs}"),
            (None, Some(member)) if member.connected && member.speaks => "in it".to_owned(),
            (None, Some(_)) => "away".to_owned(),
            (None, None) => "not in it".to_owned(),
        };
        let cipher = member.and_then(|member| member.cipher).map(|cipher| cipher.to_string());
        (name.clone(), Member { state, mtu: member.and_then(|member| member.mtu), cipher })
    };
    let mac = |(mac, report): (&MacAddr, &control::MacReport)| {
        let report = report.clone();
        let view = Mac {
            peer: report.peer,
            sequence: report.sequence,
            seconds: report.seconds,
            addresses: report.addresses,
            also_claimed_by: report.also_claimed_by,
        };
        (*mac, view)
    };
    VnetView {
        id: vnet.id,
        bridge: vnet.bridge.clone(),
        interface: vnet.interface.clone(),
        second_interface: vnet.second_interface(),
        security: vnet.security.to_string(),
        created,
        mtu: vnet.mtu,
        peers: peers.map(member).collect(),
        macs: carried.into_iter().flat_map(|carried| &carried.macs).map(mac).collect(),
        mac_count: carried.map_or(0, |carried| carried.mac_count),
        shared_addresses: carried.map(|carried| carried.shared_addresses.clone()).unwrap_or_default(),
        port,
        fallbacks: fallbacks(carried.is_some_and(|carried| carried.uncut_udp), UNCUT_UDP),
        counters: carried.map(|carried| carried.counters.clone()).unwrap_or_default(),
        trouble: match carried {
            None => Some("no process carries it: is the daemon running?".to_owned()),
            Some(carried) => carried.trouble.clone(),
        },
    }
}

fn peer_view(peer: &viaduct_model::Peer, created: bool, carried: Option<&control::PeerReport>) -> PeerView {
    let carried = carried.cloned().unwrap_or_default();
    let control::PortsReport { to, one, received } = carried.ports;
    let received = received.into_iter().map(|(port, datagrams)| ReceivedView { port, datagrams }).collect();
    let ports = PortsView { to, one, received };
    PeerView {
        key: peer.key.clone(),
        endpoints: peer.endpoints.iter().map(ToString::to_string).collect(),
        created,
        connected: carried.connected,
        address: carried.address,
        via: carried.via,
        found: carried.found,
        seconds: carried.seconds,
        path_mtu: carried.path_mtu,
        refused: carried.refused,
        seen_key: carried.seen_key,
        error: carried.error,
        unneeded: carried.unneeded,
        fallbacks: [fallbacks(carried.unsegmented, UNSEGMENTED), fallbacks(carried.in_two, IN_TWO)].concat(),
        ports,
        counters: carried.counters,
    }
}
