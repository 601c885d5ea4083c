//! What comes to this host itself, and what it sends, so that its guests have a network: what they ask of it, and what the
//! hosts of vnets send each other. What is answered from packet sockets (DHCP, DHCPv6, router solicitations) passes no
//! filter of IP's on its way to this host.

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use viaduct_model::{Config, Discovery, Endpoint, Mode, Network, Peer, Security};
use viaduct_plan::{RouteKind, host_addresses};
use viaduct_types::{IfName, MOST_WORKERS, NetworkName, PeerName, VNET_PORT, VXLAN_PORT, WORKER_PORT};

use crate::{
    Facts, Gravity, Patient,
    filter::{Cast, Load, Packet, Point, State, TCP, UDP},
    patient::{Place, bridge},
};

/// Types of ICMP and ICMPv6 (RFC 792, RFC 4443, RFC 4861).
pub(crate) const ECHO: u8 = 8;
pub(crate) const ECHO6: u8 = 128;
pub(crate) const SOLICITATION: u8 = 135;
pub(crate) const ADVERTISEMENT: u8 = 136;
/// Where name servers are asked.
pub(crate) const DNS: u16 = 53;
/// Stands for a router: they speak with link-local addresses.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// What needs that something passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// This host's own guests.
    Guests,
    /// Vnets.
    Vnets,
}

/// A way to this host, or from it.
pub(crate) struct HostWay<'a> {
    pub(crate) places: BTreeSet<Place<'a>>,
    pub(crate) need: Need,
    /// As people say it.
    pub(crate) what: String,
    pub(crate) packet: Packet,
    /// How bad it is when it is lost.
    pub(crate) if_lost: Gravity,
}

/// The ports at which threads take frames of vnets, as many as there are.
pub(crate) fn workers(facts: &Facts) -> std::ops::RangeInclusive<u16> {
    let count = u16::try_from(facts.processors).unwrap_or(u16::MAX).clamp(1, MOST_WORKERS);
    WORKER_PORT..=WORKER_PORT + (count - 1)
}

/// Whether there is a vnet that nothing protects.
pub(crate) fn has_plain(config: &Config) -> bool {
    config.vnets.values().any(|vnet| vnet.security == Security::None)
}

/// The ports at which peers take connections, by what the file says.
pub(crate) fn dialled(config: &Config) -> BTreeSet<u16> {
    let endpoints = config.peers.values().flat_map(|peer| &peer.endpoints);
    let port = |endpoint: &Endpoint| match endpoint {
        Endpoint::Address(address) => address.port(),
        Endpoint::Name(_, port) => *port,
    };
    endpoints.map(port).chain([VNET_PORT]).collect()
}

/// The hosts of a vnet, or somebody of them.
struct End {
    address: Option<IpAddr>,
    ipv4: bool,
    port: u16,
}

/// The first of a connection, of which neither the other end nor anything that is in it is known.
fn packet(point: Point, device: Option<String>, ipv4: bool, load: Load) -> Packet {
    let (input, output, cast) = match point {
        Point::Output => (Some(String::new()), device, Cast::Unicast),
        Point::Input | Point::Forward => (device, Some(String::new()), Cast::Local),
    };
    let (source, destination, state) = (None, None, State::New);
    Packet { input, output, ipv4, source, destination, cast, load, state, translated: false }
}

/// The group in which a neighbour is looked for (RFC 4291, section 2.7.1).
fn solicited(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | high & 0xff, low)
}

impl<'a> Patient<'a> {
    /// The ways to this host, or from it.
    pub(crate) fn host_ways(&self, point: Point, facts: &Facts) -> Vec<HostWay<'a>> {
        let mut ways = Vec::new();
        for (name, network) in &self.config.networks {
            let own = host_addresses(network);
            let mut seen = BTreeSet::new();
            for (id, nic) in self.nics(name) {
                let device = bridge(network).unwrap_or_else(|| self.device(&id, nic));
                for guest in nic.addresses.iter().map(|net| net.addr()) {
                    // On a bridge one guest is like the other.
                    if seen.insert((device, guest.is_ipv4())) {
                        let gateway = own.iter().find(|own| own.is_ipv4() == guest.is_ipv4());
                        let speaks_as = match gateway {
                            // To a link-local address guests speak with theirs (RFC 6724, rule 2).
                            Some(IpAddr::V6(own)) if own.is_unicast_link_local() => {
                                nic.mac.link_local().into()
                            }
                            Some(_) | None => guest,
                        };
                        add_guest(&mut ways, point, (name, network), device, speaks_as, gateway.copied());
                        self.add_router(&mut ways, point, name, network, guest);
                    }
                }
            }
        }
        // The hosts of vnets reach each other by the host's own stack.
        if self.namespace.is_none() && !self.config.vnets.is_empty() {
            for (name, peer) in &self.config.peers {
                self.add_peer(&mut ways, point, facts, name, peer);
            }
            if let Some(discovery) = &self.config.discovery {
                self.add_beacons(&mut ways, point, discovery);
            }
        }
        ways
    }

    /// What the host and the routers outside have to ask each other, for whoever gets out by them.
    fn add_router(
        &self,
        ways: &mut Vec<HostWay<'a>>,
        point: Point,
        name: &'a NetworkName,
        network: &'a Network,
        guest: IpAddr,
    ) {
        let (Mode::Nat { .. } | Mode::Routed { .. }) = network.mode else { return };
        let (Some(out), IpAddr::V6(guest)) = (self.way_out(network), guest) else { return };
        let what = format!("neighbour discovery (ICMPv6 types 135 and 136) on {out}");
        add_discovery(ways, point, name, &what, out, ROUTER, guest);
    }

    fn add_peer(
        &self,
        ways: &mut Vec<HostWay<'a>>,
        point: Point,
        facts: &Facts,
        name: &PeerName,
        peer: &Peer,
    ) {
        let config = self.config;
        let shared = config.vnets.iter().filter(|(_, vnet)| vnet.peers.contains(name));
        let places: BTreeSet<Place<'a>> = shared.clone().map(|(name, _)| self.place_of(name)).collect();
        let plain: BTreeSet<Place<'a>> = shared
            .filter(|(_, vnet)| vnet.security == Security::None)
            .map(|(name, _)| self.place_of(name))
            .collect();
        let is_relayed = config.relay.as_ref().is_some_and(|relay| relay.peers.contains(name));
        if places.is_empty() && !is_relayed {
            return;
        }
        let places = if places.is_empty() { self.vnet_places() } else { places };
        let is_dialled = !peer.endpoints.is_empty() || config.discovery.is_some();
        for end in self.ends(peer) {
            let device = self.toward(end.address, end.ipv4);
            let own = device.as_deref().and_then(|device| self.own_address(device, end.ipv4));
            let mut add = |places: &BTreeSet<Place<'a>>, what: String, port, state, if_lost| {
                let load = Load::To { protocol: UDP, port: Some(port) };
                let packet = packet(point, device.clone(), end.ipv4, load);
                let (source, destination) =
                    if point == Point::Output { (own, end.address) } else { (end.address, own) };
                let packet = Packet { source, destination, state, ..packet };
                let places = places.clone();
                ways.push(HostWay { places, need: Need::Vnets, what, packet, if_lost });
            };
            // What this host begins itself is answered through whoever's filter.
            let if_lost = if is_dialled { Gravity::Risk } else { Gravity::Broken };
            match point {
                Point::Output if is_dialled => {
                    let what = format!("connections to other hosts of vnets (UDP port {})", end.port);
                    add(&places, what, end.port, State::New, Gravity::Risk);
                }
                Point::Output => {}
                Point::Input | Point::Forward => {
                    let what = format!("connections of other hosts of vnets (UDP port {VNET_PORT})");
                    add(&places, what, VNET_PORT, State::New, if_lost);
                }
            }
            if !config.single_port {
                let ports = workers(facts);
                let (first, last) = (ports.start(), ports.end());
                let word =
                    if first == last { format!("port {first}") } else { format!("ports {first} to {last}") };
                let what = format!("frames of vnets at the ports of threads (UDP {word})");
                for port in ports {
                    add(&places, what.clone(), port, State::Untracked, Gravity::Note);
                }
            }
            if !plain.is_empty() {
                let what = format!("frames of vnets without protection (VXLAN, UDP port {VXLAN_PORT})");
                add(&plain, what, VXLAN_PORT, State::New, Gravity::Broken);
            }
        }
    }

    fn add_beacons(&self, ways: &mut Vec<HostWay<'a>>, point: Point, discovery: &Discovery) {
        // Others are known by the file as well.
        let is_found = self.config.peers.values().any(|peer| peer.endpoints.is_empty());
        for device in &discovery.interfaces {
            for group in &discovery.groups {
                let load = Load::To { protocol: UDP, port: Some(discovery.port) };
                let packet = packet(point, Some(device.to_string()), group.is_ipv4(), load);
                ways.push(HostWay {
                    places: self.vnet_places(),
                    need: Need::Vnets,
                    what: format!("beacons (UDP port {} to {group} on {device})", discovery.port),
                    packet: Packet { destination: Some(*group), cast: Cast::Multicast, ..packet },
                    if_lost: if is_found { Gravity::Broken } else { Gravity::Risk },
                });
            }
        }
    }

    /// Where a peer may be. Of one that is not known it is told by the families that this host has outside.
    fn ends(&self, peer: &Peer) -> Vec<End> {
        let anywhere = |port| {
            let families = [true, false].into_iter().filter(|ipv4| self.is_outside(*ipv4));
            families.map(move |ipv4| End { address: None, ipv4, port })
        };
        let mut ends = Vec::new();
        for endpoint in &peer.endpoints {
            match endpoint {
                Endpoint::Address(at) => {
                    ends.push(End { address: Some(at.ip()), ipv4: at.is_ipv4(), port: at.port() });
                }
                Endpoint::Name(_, port) => ends.extend(anywhere(*port)),
            }
        }
        if peer.endpoints.is_empty() {
            ends.extend(anywhere(VNET_PORT));
        }
        ends
    }

    /// Whether this host has an address of a family that is none of those that we give it for its guests.
    fn is_outside(&self, ipv4: bool) -> bool {
        let ours = |link: &IfName| self.desired.links.get(link).is_some_and(|link| link.make.is_some());
        let is_uplink = |link: &IfName| self.desired.moves.values().any(|bridge| bridge == link);
        self.observed.addresses.iter().any(|(address, info)| {
            address.address.addr().is_ipv4() == ipv4
                && info.scope == 0
                && (!ours(&address.link) || is_uplink(&address.link))
        })
    }

    /// The device by which an address is reached, or whatever is outside.
    fn toward(&self, address: Option<IpAddr>, ipv4: bool) -> Option<String> {
        let leads = |route: &&viaduct_plan::Route| {
            route.kind == RouteKind::Unicast
                && route.destination.addr().is_ipv4() == ipv4
                && match address {
                    Some(address) => route.destination.contains(&address),
                    None => route.destination.prefix_len() == 0,
                }
        };
        let best = |route: &&viaduct_plan::Route| (route.destination.prefix_len(), Reverse(route.metric));
        let route = self.observed.routes.iter().filter(leads).max_by_key(best)?;
        route.link.as_ref().map(ToString::to_string)
    }

    /// The only address of a family that this host has on a device.
    fn own_address(&self, device: &str, ipv4: bool) -> Option<IpAddr> {
        let on_it = self.observed.addresses.iter().filter(|(address, info)| {
            address.link.as_str() == device && address.address.addr().is_ipv4() == ipv4 && info.scope == 0
        });
        let mut all = on_it.map(|(address, _)| address.address.addr());
        all.next().filter(|_| all.next().is_none())
    }

    fn place_of(&self, vnet: &'a viaduct_types::VnetName) -> Place<'a> {
        self.network_on(vnet).map_or(Place::Vnet(vnet), Place::Network)
    }

    fn vnet_places(&self) -> BTreeSet<Place<'a>> {
        self.config.vnets.keys().map(|name| self.place_of(name)).collect()
    }
}

/// What a guest asks of the host that is its gateway, and has to be asked itself.
fn add_guest<'a>(
    ways: &mut Vec<HostWay<'a>>,
    point: Point,
    (name, network): (&'a NetworkName, &'a Network),
    device: &IfName,
    guest: IpAddr,
    gateway: Option<IpAddr>,
) {
    let Some(gateway) = gateway else { return };
    let on = bridge(network).map_or_else(String::new, |bridge| format!(" on {bridge}"));
    if let (IpAddr::V6(guest), IpAddr::V6(gateway)) = (guest, gateway) {
        let what = format!("neighbour discovery (ICMPv6 types 135 and 136) of network {name}{on}");
        add_discovery(ways, point, name, &what, device, guest, gateway);
    }
    if point == Point::Output {
        // Answers belong to connections that are known.
        return;
    }
    let mut add = |what: String, load| {
        let packet = packet(point, Some(device.to_string()), guest.is_ipv4(), load);
        let packet = Packet { source: Some(guest), destination: Some(gateway), ..packet };
        let places = [Place::Network(name)].into();
        ways.push(HostWay { places, need: Need::Guests, what, packet, if_lost: Gravity::Broken });
    };
    if network.dns {
        for (protocol, word) in [(UDP, "UDP"), (TCP, "TCP")] {
            let what = format!("DNS ({word} port {DNS}) of network {name}{on}");
            add(what, Load::To { protocol, port: Some(DNS) });
        }
    }
    let echo = if guest.is_ipv4() { ECHO } else { ECHO6 };
    add(format!("pings of the gateway by network {name}{on}"), Load::Message(echo));
}

/// Both ends look for each other, and answer. No connection is made of that (net/netfilter/nf_conntrack_proto_icmpv6.c).
fn add_discovery<'a>(
    ways: &mut Vec<HostWay<'a>>,
    point: Point,
    name: &'a NetworkName,
    what: &str,
    device: &IfName,
    other: Ipv6Addr,
    own: Ipv6Addr,
) {
    let sought = if point == Point::Output { other } else { own };
    // An answer goes to the link-local address or to another one.
    let messages =
        [(SOLICITATION, Some(solicited(sought)), Cast::Multicast), (ADVERTISEMENT, None, Cast::Local)];
    for (message, destination, cast) in messages {
        let packet = packet(point, Some(device.to_string()), false, Load::Message(message));
        let cast = if cast == Cast::Local { packet.cast } else { cast };
        let source = (point != Point::Output).then_some(IpAddr::V6(other));
        let destination = destination.map(IpAddr::V6);
        ways.push(HostWay {
            places: [Place::Network(name)].into(),
            need: Need::Guests,
            what: what.to_owned(),
            packet: Packet { source, destination, cast, state: State::Untracked, ..packet },
            if_lost: Gravity::Broken,
        });
    }
}
