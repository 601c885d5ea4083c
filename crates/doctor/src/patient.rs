//! The host that is looked at: its configuration, who is attached, and the ways of its guests' packets.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use viaduct_model::{Config, Mode, Network, Nic, Policy, Uplink, Vnet};
use viaduct_plan::{Attachments, Desired, Notice, Observed, Target};
use viaduct_types::{IfName, IpNet, NamespaceName, NetworkName, NicId, UplinkName, VnetName};

use crate::{
    Facts,
    filter::{Cast, Load, Packet, State, TCP},
};

/// Stand for the world: name servers that are well known, so that no filter takes them for forged.
const OUTSIDE: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(9, 9, 9, 9), Ipv6Addr::new(0x2620, 0xfe, 0, 0, 0, 0, 0, 0xfe));

/// Stand for machines in a vnet that no network lies on: nobody knows their addresses.
const INSIDE: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 255, 255, 254), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xfe));

/// The stack of a host, or of a namespace with networks in it, with what it should be and what it is.
#[derive(Clone, Copy, Debug)]
pub struct Patient<'a> {
    /// Whose stack it is; none: the host's own.
    pub namespace: Option<&'a NamespaceName>,
    /// What was applied, as far as it is about this stack.
    pub config: &'a Config,
    /// Which NIC exists as what.
    pub attachments: &'a Attachments,
    /// What the kernel has of networks and of us.
    pub observed: &'a Observed,
    /// What it should have.
    pub desired: &'a Desired,
    /// What there is to be said about the configuration on this host.
    pub notices: &'a [Notice],
}

/// Whose guests suffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place<'a> {
    Network(&'a NetworkName),
    /// One that no network lies on.
    Vnet(&'a VnetName),
}

/// A way that packets of a network, or of a vnet that has none, take through the host.
pub(crate) struct Way<'a> {
    pub(crate) place: Place<'a>,
    /// As people say it.
    pub(crate) what: &'static str,
    pub(crate) packet: Packet,
}

impl<'a> Patient<'a> {
    /// The settings that have to be known.
    pub fn sysctls(&self) -> BTreeSet<String> {
        let mut paths: BTreeSet<String> = [
            "net/ipv4/conf/all/rp_filter",
            BRIDGE_NF[0],
            BRIDGE_NF[1],
            "net/netfilter/nf_conntrack_count",
            "net/netfilter/nf_conntrack_max",
        ]
        .map(str::to_owned)
        .into();
        for (_, uplink) in self.uplinks() {
            paths.insert(rp_filter(self.layer3(uplink)));
        }
        paths
    }

    /// Uplinks that networks use.
    pub(crate) fn uplinks(&self) -> impl Iterator<Item = (&'a UplinkName, &'a Uplink)> {
        let config = self.config;
        config
            .uplinks
            .iter()
            .filter(|(name, _)| config.networks.values().any(|n| n.uplink.as_ref() == Some(name)))
    }

    /// The device with an uplink's addresses: its bridge when it has one.
    pub(crate) fn layer3(&self, uplink: &'a Uplink) -> &'a IfName {
        self.desired.moves.get(&uplink.interface).unwrap_or(&uplink.interface)
    }

    /// The device by which a network's packets leave.
    pub(crate) fn way_out(&self, network: &'a Network) -> Option<&'a IfName> {
        Some(self.layer3(self.config.uplinks.get(network.uplink.as_ref()?)?))
    }

    /// The NICs of a network.
    pub(crate) fn nics(&self, network: &NetworkName) -> impl Iterator<Item = (NicId, &'a Nic)> {
        self.config.nics().filter(move |(_, nic)| nic.network == *network)
    }

    /// The host's device for a NIC.
    pub(crate) fn device(&self, id: &NicId, nic: &'a Nic) -> &'a IfName {
        match self.attachments.get(id) {
            Some(Target::Tap { name, .. } | Target::Device { name }) => name,
            Some(Target::Netns { .. }) | None => &nic.device,
        }
    }

    /// The network that lies on a vnet.
    pub(crate) fn network_on(&self, vnet: &VnetName) -> Option<&'a NetworkName> {
        let lies_on = |network: &Network| matches!(&network.mode, Mode::Vnet { vnet: on, .. } if on == vnet);
        self.config.networks.iter().find(|(_, network)| lies_on(network)).map(|(name, _)| name)
    }

    /// Vnets that no network lies on, as commands make them.
    pub(crate) fn bare_vnets(&self) -> impl Iterator<Item = (&'a VnetName, &'a Vnet)> {
        self.config.vnets.iter().filter(|(name, _)| self.network_on(name).is_none())
    }

    /// The bridges of networks, and of vnets that have none.
    pub(crate) fn bridges(&self) -> impl Iterator<Item = &'a IfName> {
        self.config
            .networks
            .values()
            .filter_map(bridge)
            .chain(self.bare_vnets().map(|(_, vnet)| &vnet.bridge))
    }

    /// Everything that this stack has.
    pub(crate) fn everything(&self) -> BTreeSet<Place<'a>> {
        let networks = self.config.networks.keys().map(Place::Network);
        networks.chain(self.bare_vnets().map(|(name, _)| Place::Vnet(name))).collect()
    }

    /// Networks with their guests, and vnets, for people.
    pub(crate) fn sufferers<'p>(&self, places: impl IntoIterator<Item = Place<'p>>) -> Vec<String> {
        /// So many guests are named; of more only the number is told.
        const NAMED: usize = 6;
        let words = |place| {
            let network = match place {
                Place::Network(network) => network,
                Place::Vnet(vnet) => return format!("vnet {vnet}"),
            };
            let mut guests: Vec<String> = self.nics(network).map(|(id, _)| id.guest.to_string()).collect();
            guests.dedup();
            let more = guests.len().saturating_sub(NAMED);
            guests.truncate(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            if guests.is_empty() {
                format!("network {network}, which has no guests yet")
            } else {
                format!("network {network}: {}{more}", guests.join(", "))
            }
        };
        places.into_iter().map(words).collect()
    }

    /// The ways of guests' packets through the forward hook.
    pub(crate) fn ways(&self, facts: &Facts) -> Vec<Way<'a>> {
        let mut ways = Vec::new();
        for (name, network) in &self.config.networks {
            let mut seen = BTreeSet::new();
            for (id, nic) in self.nics(name) {
                self.add_published(&mut ways, name, network, (&id, nic));
                let input = bridge(network).unwrap_or_else(|| self.device(&id, nic));
                for address in nic.addresses.iter().map(|net| net.addr()) {
                    // On a bridge one guest is like the other.
                    if seen.insert((input, address.is_ipv4())) {
                        self.add(&mut ways, facts, name, network, input, address);
                    }
                }
            }
        }
        for (name, vnet) in self.bare_vnets() {
            let machines: [(IpAddr, IpAddr); 2] =
                [(INSIDE.0.into(), OUTSIDE.0.into()), (INSIDE.1.into(), OUTSIDE.1.into())];
            for (source, destination) in machines.into_iter().filter(|(source, _)| is_called(facts, *source))
            {
                let packet = forwarded(&vnet.bridge, &vnet.bridge, source, destination);
                ways.push(Way { place: Place::Vnet(name), what: BETWEEN, packet });
            }
        }
        ways
    }

    fn add(
        &self,
        ways: &mut Vec<Way<'a>>,
        facts: &Facts,
        name: &'a NetworkName,
        network: &'a Network,
        device: &IfName,
        guest: IpAddr,
    ) {
        let outside: IpAddr = if guest.is_ipv4() { OUTSIDE.0.into() } else { OUTSIDE.1.into() };
        let mut add = |what, packet| ways.push(Way { place: Place::Network(name), what, packet });
        if let (Some(out), Mode::Nat { .. } | Mode::Routed { .. }) = (self.way_out(network), &network.mode) {
            add("to the outside", forwarded(device, out, guest, outside));
            let answer = forwarded(out, device, outside, guest);
            add("answers from outside", Packet { state: State::Established, ..answer });
            let routed = matches!(network.mode, Mode::Routed { .. });
            if routed && network.inbound == Policy::Allow {
                add("from outside", forwarded(out, device, outside, guest));
            }
        }
        let meets = match &network.mode {
            Mode::Bridged { .. } | Mode::Vnet { .. } => true,
            Mode::Nat { .. } | Mode::Isolated { .. } => {
                network.between_guests == Policy::Allow && self.nics(name).nth(1).is_some()
            }
            Mode::Routed { .. } => false,
        };
        if meets && is_called(facts, guest) {
            add(BETWEEN, forwarded(device, device, guest, outside));
        }
    }

    /// The ways to the published ports of a guest by one of its NICs.
    fn add_published(
        &self,
        ways: &mut Vec<Way<'a>>,
        name: &'a NetworkName,
        network: &'a Network,
        (id, nic): (&NicId, &'a Nic),
    ) {
        let (Mode::Nat { .. } | Mode::Routed { .. }) = network.mode else { return };
        let Some(out) = self.way_out(network) else { return };
        let device = bridge(network).unwrap_or_else(|| self.device(id, nic));
        let mut seen = BTreeSet::new();
        for publish in self.config.guests[&id.guest].publish.iter().map(|published| &published.publish) {
            let of_family = |guest: &IpAddr| publish.address.is_none_or(|a| a.is_ipv4() == guest.is_ipv4());
            let address = |guest: IpAddr| if guest.is_ipv4() { OUTSIDE.0.into() } else { OUTSIDE.1.into() };
            for guest in nic.addresses.iter().map(|net| net.addr()).filter(of_family) {
                let (protocol, port) = (publish.proto.number(), publish.guest.first());
                if seen.insert((guest, protocol, port)) {
                    let load = Load::To { protocol, port: Some(port) };
                    let packet = forwarded(out, device, address(guest), guest);
                    let packet = Packet { load, translated: true, ..packet };
                    ways.push(Way { place: Place::Network(name), what: "to published ports", packet });
                }
            }
        }
    }
}

/// The first of a connection by TCP through this host.
fn forwarded(from: &IfName, to: &IfName, source: IpAddr, destination: IpAddr) -> Packet {
    Packet {
        input: Some(from.to_string()),
        output: Some(to.to_string()),
        ipv4: source.is_ipv4(),
        source: Some(source),
        destination: Some(destination),
        cast: Cast::Unicast,
        load: Load::To { protocol: TCP, port: None },
        state: State::New,
        translated: false,
    }
}

/// Whether frames that a bridge only passes on are shown to the filter of IPv4, and of IPv6.
pub(crate) const BRIDGE_NF: [&str; 2] =
    ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"];

/// Whether it is so for the family of an address.
fn is_called(facts: &Facts, address: IpAddr) -> bool {
    facts.number(BRIDGE_NF[usize::from(address.is_ipv6())]) == Some(1)
}

/// The way of frames that a bridge only passes on.
pub(crate) const BETWEEN: &str = "between ports of its bridge";

/// The bridge of a network that has one.
pub(crate) fn bridge(network: &Network) -> Option<&IfName> {
    match &network.mode {
        Mode::Nat { bridge, .. }
        | Mode::Bridged { bridge, .. }
        | Mode::Isolated { bridge, .. }
        | Mode::Vnet { bridge, .. } => Some(bridge),
        Mode::Routed { .. } => None,
    }
}

/// The prefixes of a network's guests, of one family.
pub(crate) fn prefixes(network: &Network, ipv4: bool) -> Vec<IpNet> {
    let all: Vec<IpNet> = match &network.mode {
        Mode::Nat { subnets, .. } | Mode::Isolated { subnets, .. } => {
            subnets.iter().map(|s| s.prefix).collect()
        }
        Mode::Routed { pool, .. } => pool.clone(),
        Mode::Bridged { .. } | Mode::Vnet { .. } => Vec::new(),
    };
    all.into_iter().filter(|net| net.addr().is_ipv4() == ipv4).collect()
}

/// The path of a device's reverse path filter.
pub(crate) fn rp_filter(device: &IfName) -> String {
    format!("net/ipv4/conf/{device}/rp_filter")
}
