//! What only shows when configuration and host are seen together.

use viaduct_model::{
    CableEnd, InterfaceKind, Mode, NamespaceInterface, Network, Origin, Security, UplinkVlan, Vnet,
};
use viaduct_types::{HostKey, IfName, IpNet, NamespaceName, VnetName};

use super::{
    Notice, PORT, Severity,
    context::{Context, bridge_of, prefixes, uplink_bridge},
    devices::meant_twice,
    named,
    namespaces::{kind, made},
};
use crate::{
    inner::taken,
    op::InnerKind,
    state::{Kind, Link, RouteKind, Target, Whereabouts},
};

pub(super) fn notices(context: &Context<'_>) -> Vec<Notice> {
    let mut notices = Notices(Vec::new());
    not_carried(context, &mut notices);
    vnets(context, &mut notices);
    vnet_ports(context, &mut notices);
    missing_features(context, &mut notices);
    uplinks(context, &mut notices);
    namespaces(context, &mut notices);
    overlaps(context, &mut notices);
    bridged_vlans(context, &mut notices);
    foreign_links(context, &mut notices);
    notices.0.extend(meant_twice(context).into_iter().chain(super::vnets::shut(context)));
    stale(context, &mut notices);
    notices.0
}

struct Notices(Vec<Notice>);

impl Notices {
    fn error<'o>(&mut self, origin: impl Into<Option<&'o Origin>>, text: String) {
        let origin = origin.into().cloned();
        self.0.push(Notice { severity: Severity::Error, text, origin, vnet: None });
    }

    fn warn<'o>(&mut self, origin: impl Into<Option<&'o Origin>>, text: String) {
        let origin = origin.into().cloned();
        self.0.push(Notice { severity: Severity::Warning, text, origin, vnet: None });
    }

    /// Of what a vnet is, with what to do: in the file, or where a command made it.
    fn warn_of(&mut self, name: &VnetName, vnet: &Vnet, what: &str, [in_file, anew]: [&str; 2]) {
        let text = match &vnet.origin {
            Some(_) => format!("vnet {name}: {what}; {in_file}"),
            None => format!("vnet {name}: {what}; take it away (`viaduct vnet delete {name}`) and {anew}"),
        };
        let (severity, origin) = (Severity::Warning, vnet.origin.clone());
        self.0.push(Notice { severity, text, origin, vnet: Some(name.clone()) });
    }
}

fn not_carried(context: &Context<'_>, notices: &mut Notices) {
    let config = context.config;
    for (name, network) in &config.networks {
        if network.dns && named::places(network).is_empty() {
            notices.warn(
                &network.origin,
                format!(
                    "network {name}: guests are not answered names there, as the host has no address on it: leave out dns = true"
                ),
            );
        }
    }
}

/// What other hosts and vnets need.
fn vnets(context: &Context<'_>, notices: &mut Notices) {
    let config = context.config;
    for (name, peer) in &config.peers {
        if peer.key.parse::<HostKey>().is_err() {
            notices.error(
                peer.origin.as_ref(),
                format!(
                    "peer {name}: `{}` is no host's key; write what `viaduct identity` prints on that host",
                    peer.key
                ),
            );
        }
    }
    for (name, vnet) in &config.vnets {
        if !context.observed.features.tun && vnet.security != Security::None {
            notices.error(
                vnet.origin.as_ref(),
                format!(
                    "vnet {name}: this kernel has no taps (/dev/net/tun, CONFIG_TUN), and vnets need one each"
                ),
            );
        }
        if vnet.security != Security::None {
            continue;
        }
        if context.observed.features.vxlan {
            notices.warn_of(
                name,
                vnet,
                "with security \"none\" whoever is on the way between the hosts reads its frames and sends others in the \
                 name of its guests",
                [
                    "write \"conf\", unless that way is yours alone",
                    "make it with security conf, unless that way is yours alone",
                ],
            );
            if vnet.learning {
                notices.warn_of(
                    name,
                    vnet,
                    "with security \"none\" nothing notices when two hosts bridge the same segment into it, and frames go \
                     round in circles",
                    [
                        "write \"auth\" or \"conf\", or bridge it on one host only, or `learning = false` if nobody's \
                         machines but the file's are behind it",
                        "make it with security auth or conf, or bridge it on one host only",
                    ],
                );
            }
        } else {
            notices.error(
                vnet.origin.as_ref(),
                format!(
                    "vnet {name}: this kernel has no VXLAN (CONFIG_VXLAN, with IPv6), which carries vnets of security \
                     \"none\": write \"conf\" or \"auth\""
                ),
            );
        }
    }
}

/// Whether a device is no interface of the host's: ours, and not just a port of one of our bridges.
fn is_ours_alone(link: &Link) -> bool {
    link.is_ours() && !link.alias.starts_with(PORT)
}

/// What is to be a port of a vnet's bridge has to be there, and nobody else's.
fn vnet_ports(context: &Context<'_>, notices: &mut Notices) {
    let links = &context.observed.links;
    for (name, vnet) in &context.config.vnets {
        let Some(port) = &vnet.port else { continue };
        if !context.observed.features.nft_limit {
            notices.warn(
                vnet.origin.as_ref(),
                format!(
                    "vnet {name}: this kernel has no limits (CONFIG_NFT_LIMIT): what goes round in circles behind its port \
                     takes the room of all that is for everybody"
                ),
            );
        }
        let interface = &port.interface;
        let Some(link) = links.get(interface).filter(|link| !is_ours_alone(link)) else {
            let what = match links.get(interface) {
                Some(link) => format!("{interface} is a device that Viaduct made ({})", link.alias),
                None => {
                    let known = links.iter().filter(|(name, l)| !is_ours_alone(l) && name.as_str() != "lo");
                    let known: Vec<&str> = known.map(|(name, _)| name.as_str()).collect();
                    format!("this host has no device {interface}; it has {}", known.join(", "))
                }
            };
            notices.error(vnet.origin.as_ref(), format!("vnet {name}: {what}"));
            continue;
        };
        if let Some(vlan) = &port.vlan {
            let error = |text| notices.error(vnet.origin.as_ref(), text);
            vlan_device(context, &format!("vnet {name}"), (interface, link), vlan, error);
            continue;
        }
        // Once it is ours, what others do with it is put right.
        if link.is_ours() {
            continue;
        }
        if let Some(master) =
            link.master.as_ref().filter(|master| !links.get(*master).is_some_and(Link::is_ours))
        {
            notices.error(
                vnet.origin.as_ref(),
                format!(
                    "vnet {name}: {interface} is a port of {master} already, which is not ours: take it out of there \
                     (ip link set {interface} nomaster), or write another `port`"
                ),
            );
        }
        let mut addresses =
            context.observed.addresses.iter().filter(|(a, info)| a.link == *interface && info.scope == 0);
        if let Some((address, _)) = addresses.next() {
            notices.error(
                vnet.origin.as_ref(),
                format!(
                    "vnet {name}: this host has the address {} on {interface}, and would not be reached by it any more: \
                     remove the address, or write a VLAN of {interface}, like vlan = 20, or another `port`",
                    address.address
                ),
            );
        }
    }
}

/// What it takes to take a VLAN out of a device.
fn vlan_device(
    context: &Context<'_>,
    what: &str,
    (interface, parent): (&IfName, &Link),
    vlan: &UplinkVlan,
    mut error: impl FnMut(String),
) {
    if !context.observed.features.vlan {
        error(format!("this kernel has no 802.1Q VLANs (CONFIG_VLAN_8021Q), and {what} is on one"));
    }
    let same = Some((parent.index, vlan.id));
    let mut others = context.observed.links.iter();
    let other = others.find(|(device, link)| link.vlan == same && !link.is_ours() && **device != vlan.device);
    if let Some((device, _)) = other {
        error(format!(
            "{what}: {device} has VLAN {} of {interface} already and is not Viaduct's: remove it",
            vlan.id
        ));
    }
}

fn missing_features(context: &Context<'_>, notices: &mut Notices) {
    let features = context.observed.features;
    for network in context.config.networks.values() {
        let bridged = bridge_of(network).is_some();
        if bridged && !features.bridge {
            notices.error(
                &network.origin,
                "this kernel has no bridges (CONFIG_BRIDGE), and this network needs one".to_owned(),
            );
        }
        if bridged && !features.nft_bridge {
            notices.error(
                &network.origin,
                "this kernel cannot filter frames on bridges (CONFIG_NF_TABLES_BRIDGE): guests of this network could \
                 pretend to be each other"
                    .to_owned(),
            );
        }
        if matches!(network.mode, Mode::Routed { .. }) && !features.nft_arp {
            notices.warn(
                &network.origin,
                "this kernel cannot filter ARP (CONFIG_NF_TABLES_ARP): what guests say in ARP is not counted"
                    .to_owned(),
            );
        }
    }
    for vnet in context.config.vnets.values().filter(|vnet| vnet.held_port().is_some()) {
        if !features.nft_bridge {
            notices.error(
                vnet.origin.as_ref(),
                "this kernel cannot filter frames on bridges (CONFIG_NF_TABLES_BRIDGE): what comes by this vnet's port cannot be \
                 held back until it is known who else bridges the segment, and could go round; take `port` out"
                    .to_owned(),
            );
        }
    }
    for uplink in context.config.uplinks.values().filter(|_| !features.nft_egress) {
        notices.warn(
            &uplink.origin,
            "this kernel cannot look at what leaves an uplink (CONFIG_NETFILTER_EGRESS, Linux 5.16): foreign MACs are \
             not held back there, and no guest can have a MAC of its own on it"
                .to_owned(),
        );
    }
    for port in &context.ports {
        match port.target {
            Target::Netns { .. } if !features.veth => notices.error(
                &port.nic.origin,
                "this kernel has no veth pairs (CONFIG_VETH), and this NIC needs one".to_owned(),
            ),
            Target::Tap { .. } if !features.tun => notices.error(
                &port.nic.origin,
                "this kernel has no taps (/dev/net/tun, CONFIG_TUN), and this NIC needs one".to_owned(),
            ),
            Target::Netns { .. } | Target::Tap { .. } | Target::Device { .. } => {}
        }
    }
}

fn uplinks(context: &Context<'_>, notices: &mut Notices) {
    for (name, uplink) in &context.config.uplinks {
        let interface = &uplink.interface;
        match context.observed.links.get(interface) {
            None => {
                let known: Vec<&str> = context
                    .observed
                    .links
                    .iter()
                    .filter(|(name, link)| !link.is_ours() && name.as_str() != "lo")
                    .map(|(name, _)| name.as_str())
                    .collect();
                notices.error(
                    &uplink.origin,
                    format!(
                        "uplink {name}: this host has no device {interface}; it has {}",
                        known.join(", ")
                    ),
                );
            }
            Some(link) if is_ours_alone(link) => notices.error(
                &uplink.origin,
                format!("uplink {name}: {interface} is a device that Viaduct made ({})", link.alias),
            ),
            Some(link) => {
                let bridge = uplink_bridge(context.config, name);
                let foreign = link.master.as_ref().filter(|master| {
                    bridge.is_some() && !context.observed.links.get(*master).is_some_and(crate::Link::is_ours)
                });
                if let Some(master) = foreign {
                    notices.error(
                        &uplink.origin,
                        format!(
                            "uplink {name}: {interface} is a port of {master} already, which is not ours"
                        ),
                    );
                }
            }
        }
    }
}

fn namespaces(context: &Context<'_>, notices: &mut Notices) {
    let features = context.observed.features;
    for (name, namespace) in made(context.config) {
        for interface in &namespace.interfaces {
            let Some(kind) = kind(context.config, interface) else {
                cable(context, name, interface, notices);
                continue;
            };
            let (there, lacking) = match &kind {
                InnerKind::Vlan { .. } => (features.vlan, "802.1Q VLANs (CONFIG_VLAN_8021Q)"),
                InnerKind::Macvlan { .. } => (features.macvlan, "macvlan devices (CONFIG_MACVLAN)"),
                InnerKind::Ipvlan { .. } => (features.ipvlan, "ipvlan devices (CONFIG_IPVLAN)"),
                InnerKind::Device { device } => {
                    moved(context, name, interface, device, notices);
                    (true, "")
                }
            };
            if !there {
                let text = format!(
                    "this kernel has no {lacking}, and {} in namespace {name} is one",
                    interface.name
                );
                notices.error(&interface.origin, text);
            }
            let made = |network: &Network| bridge_of(network) == kind.parent();
            let missing = kind.parent().filter(|parent| !context.observed.links.contains_key(*parent));
            if let Some(parent) = missing.filter(|_| !context.config.networks.values().any(made)) {
                let text = format!(
                    "namespace {name}: this host has no device {parent} that {} could stand on",
                    interface.name
                );
                notices.error(&interface.origin, text);
            }
            if taken(context.observed, name, &interface.name).is_some() {
                let text = format!(
                    "the namespace {name} was there before and has a device {0} that is not Viaduct's: remove it, or \
                     write another name than {0}",
                    interface.name
                );
                notices.error(&interface.origin, text);
            }
        }
    }
}

/// A cable, whose other end needs something to join.
fn cable(context: &Context<'_>, name: &NamespaceName, interface: &NamespaceInterface, notices: &mut Notices) {
    if !context.observed.features.veth {
        let text = format!(
            "this kernel has no veth pairs (CONFIG_VETH), and {} in namespace {name} is one",
            interface.name
        );
        notices.error(&interface.origin, text);
    }
    let InterfaceKind::Veth { device, end } = &interface.kind else { return };
    if let CableEnd::Bridge(bridge) = end {
        let own = context.config.vnets.values().any(|vnet| vnet.bridge == *bridge);
        let what = match context.observed.links.get(bridge) {
            None if own => None,
            None => Some(format!("this host has no bridge {bridge}")),
            Some(link) if link.kind != Kind::Bridge => Some(format!("{bridge} is no bridge")),
            Some(_) => None,
        };
        if let Some(what) = what {
            let text = format!(
                "namespace {name}: {what}, which the cable {} is to join: make it, or write another",
                interface.name
            );
            notices.error(&interface.origin, text);
        }
        if context.observed.links.get(device).is_some_and(|link| !link.is_ours()) {
            let text = format!(
                "the device {device} exists and is not Viaduct's: remove it, or choose another name with `device`"
            );
            notices.error(&interface.origin, text);
        }
    }
    let inside = context.observed.namespaces.get(name).and_then(|seen| seen.devices.get(&interface.name));
    // The host's end may have another name so far.
    let ours = || context.observed.links.values().filter(|link| link.is_ours() && link.kind == Kind::Veth);
    if inside.is_some_and(|inside| !ours().any(|link| link.peer_index == inside.index)) {
        let text = format!(
            "the namespace {name} has a device {0} that is not Viaduct's: remove it, or write another name than {0}",
            interface.name
        );
        notices.error(&interface.origin, text);
    }
}

/// A device of the host's, which has to be there, and nobody else's.
fn moved(
    context: &Context<'_>,
    name: &NamespaceName,
    interface: &NamespaceInterface,
    device: &IfName,
    notices: &mut Notices,
) {
    let is_away = |place: &Whereabouts| !matches!(place, Whereabouts::Gone(_));
    if context.observed.moved.get(device).is_some_and(is_away) {
        return;
    }
    let why = match context.observed.links.get(device) {
        None => format!("this host has no device {device}"),
        Some(link) if is_ours_alone(link) => {
            format!("{device} is a device that Viaduct made ({})", link.alias)
        }
        Some(Link { master: Some(master), .. }) => {
            format!("{device} is a port of {master}: take it out of there first")
        }
        Some(_) => {
            if context
                .observed
                .routes
                .iter()
                .any(|r| r.destination.prefix_len() == 0 && r.link.as_ref() == Some(device))
            {
                let text = format!(
                    "namespace {name}: this host's way out is by {device}, which is about to move: have another one, or \
                     apply with --confirm"
                );
                notices.warn(&interface.origin, text);
            }
            return;
        }
    };
    notices.error(
        &interface.origin,
        format!("namespace {name}: {why}; {} is to be a device of the host that moves", interface.name),
    );
}

/// The prefixes of a network that this host has a way to: in a vnet those in which it has an address, as others' machines are none
/// of its business there.
fn reached(network: &Network) -> Vec<IpNet> {
    match &network.mode {
        Mode::Vnet { subnets, gateways, .. } => {
            let has_address = |subnet: &&IpNet| gateways.iter().any(|gateway| subnet.contains(gateway));
            subnets.iter().filter(has_address).copied().collect()
        }
        Mode::Nat { .. } | Mode::Routed { .. } | Mode::Isolated { .. } | Mode::Bridged { .. } => {
            prefixes(network)
        }
    }
}

/// Subnets that the host reaches elsewhere already.
fn overlaps(context: &Context<'_>, notices: &mut Notices) {
    let foreign = || {
        context.observed.routes.iter().filter(|route| {
            let link = route.link.as_ref();
            route.kind == RouteKind::Unicast
                && route.protocol != crate::PROTOCOL
                && route.destination.prefix_len() > 0
                && !(route.destination.addr().is_ipv6() && is_link_local(route.destination))
                && !link.is_some_and(|l| context.observed.links.get(l).is_some_and(crate::Link::is_ours))
        })
    };
    for (name, network) in &context.config.networks {
        let of_uplink = |route: &&crate::Route| {
            context.uplink(network).is_some_and(|(uplink, l3)| {
                route.link.as_ref().is_some_and(|l| l == l3 || *l == uplink.interface)
            })
        };
        for prefix in reached(network) {
            let overlapping = foreign().find(|route| {
                let touches = route.destination.contains(&prefix) || prefix.contains(&route.destination);
                // Routed addresses may well be on the uplink's own segment.
                touches && !(matches!(network.mode, Mode::Routed { .. }) && of_uplink(route))
            });
            if let Some(route) = overlapping {
                let text = format!(
                    "network {name}: {prefix} overlaps what this host reaches otherwise ({route}); choose another prefix"
                );
                match network.mode {
                    Mode::Routed { .. } => notices.warn(&network.origin, text),
                    Mode::Nat { .. } | Mode::Isolated { .. } | Mode::Bridged { .. } | Mode::Vnet { .. } => {
                        notices.error(&network.origin, text);
                    }
                }
            }
        }
    }
}

pub(crate) fn is_link_local(net: IpNet) -> bool {
    matches!(net, IpNet::V6(net) if net.addr().segments()[0] & 0xffc0 == 0xfe80)
}

/// What it takes to bridge a VLAN of an uplink.
fn bridged_vlans(context: &Context<'_>, notices: &mut Notices) {
    for (name, network) in &context.config.networks {
        let (Mode::Bridged { vlan: Some(vlan), .. }, Some((uplink, _))) =
            (&network.mode, context.uplink(network))
        else {
            continue;
        };
        let what = format!("network {name}");
        let error = |text| notices.error(&network.origin, text);
        let Some(parent) = context.observed.links.get(&uplink.interface) else { continue };
        vlan_device(context, &what, (&uplink.interface, parent), vlan, error);
        let carried = uplink.mtu.unwrap_or(parent.mtu);
        if context.mtu(network) > carried {
            notices.error(
                &network.origin,
                format!(
                    "network {name}: an MTU of {} is more than the {carried} of {}, which carries its VLAN",
                    context.mtu(network),
                    uplink.interface
                ),
            );
        }
    }
}

/// Devices of our names that are not ours; one of ours that serves otherwise is made anew.
fn foreign_links(context: &Context<'_>, notices: &mut Notices) {
    let mut check = |name: &IfName, origin: Option<&Origin>, key: &str| {
        if context.observed.links.get(name).is_some_and(|link| !link.is_ours()) {
            notices.error(
                origin,
                format!(
                    "the device {name} exists and is not Viaduct's: remove it, or choose another name with `{key}`"
                ),
            );
        }
    };
    for network in context.config.networks.values() {
        if let Some(bridge) = bridge_of(network) {
            check(bridge, Some(&network.origin), "bridge");
        }
        if let Mode::Bridged { vlan: Some(vlan), .. } = &network.mode {
            check(&vlan.device, Some(&network.origin), "vlan");
        }
    }
    for vnet in context.config.vnets.values() {
        check(&vnet.bridge, vnet.origin.as_ref(), "bridge");
        check(&vnet.interface, vnet.origin.as_ref(), "interface");
        if let Some(vlan) = vnet.port.as_ref().and_then(|port| port.vlan.as_ref()) {
            check(&vlan.device, vnet.origin.as_ref(), "vlan");
        }
        if let Some(second) = vnet.second_interface() {
            check(&second, vnet.origin.as_ref(), "interface");
        }
    }
    for port in context.ports.iter().filter(|p| !matches!(p.target, Target::Device { .. })) {
        check(port.device(), Some(&port.nic.origin), "device");
    }
}

/// Attachments whose namespace or device is gone.
fn stale(context: &Context<'_>, notices: &mut Notices) {
    for port in &context.stale {
        let what = match port.target {
            Target::Netns { path, .. } => format!("the namespace {path}"),
            Target::Tap { name, .. } | Target::Device { name } => format!("the device {name}"),
        };
        notices.warn(
            &port.nic.origin,
            format!("{what} that {} is attached as is gone: detach it, or attach it anew", port.id),
        );
    }
}
