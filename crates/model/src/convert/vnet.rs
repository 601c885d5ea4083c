use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use viaduct_types::{HostKey, IfName, ParseHostKeyError, PeerName, VNET_PORT, VlanProtocol, VnetName};

use super::{Context, namespace::parent};
use crate::{
    Cipher, Discovery, Peer, Relay, Security, UplinkVlan, Vnet, VnetPort,
    claims::DeviceUse,
    names, raw,
    report::{At, Report, Span},
    shape::{List, Slot, is_known},
};

/// What stands for a key that is not known yet begins with this, as labs and examples have it.
const PLACEHOLDER: &str = "REPLACED-BY-";

pub(crate) fn peer(name: &PeerName, span: Span, raw: &raw::Peer, cx: &mut Context<'_, '_>) -> Option<Peer> {
    let endpoints = raw.endpoint.each().map(|at| at.value.clone()).collect();
    let key = raw.key.value.as_ref()?;
    let parsed = key.value.0.parse::<HostKey>();
    match parsed {
        Ok(parsed) => cx.claims.host_key(parsed, key.span, cx.report),
        // No error: files are written and looked at before the other host's key is known, and say so.
        Err(_) if key.value.0.starts_with(PLACEHOLDER) => {}
        Err(ParseHostKeyError::Anybodys) => {
            cx.report
                .warning(
                    key.span,
                    "anybody can say that this key is theirs, and nothing can be applied with it",
                )
                .help("write what `viaduct identity` prints on that host");
        }
        Err(ParseHostKeyError::Form) => {
            cx.report
                .warning(key.span, "this is no host's key, and nothing can be applied with it")
                .help("write what `viaduct identity` prints on that host: 32 bytes in base64, 44 characters");
        }
    }
    let parsed = parsed.ok();
    if cx.beside.key.is_some() && parsed == cx.beside.key {
        cx.report.warning(key.span, "this is the key of this host itself, which is not its own peer").help(
            "nothing is to be done where hosts share this file; otherwise write what `viaduct identity` says on that host",
        );
    }
    for (made, its_key) in &cx.beside.peers {
        taken_over("peer", (made, made == name), ("key", Some(*its_key) == parsed), key.span, cx.report);
    }
    Some(Peer { endpoints, key: key.value.0.clone(), origin: Some(cx.report.origin(span)) })
}

/// How much a host passes on from one peer to another, in Mbit/s, unless written.
const RATE: u32 = 100;

pub(crate) fn relay(raw: &raw::Relay, cx: &mut Context<'_, '_>) -> Option<Relay> {
    let peers = known_peers(&raw.peers, cx);
    let list = raw.peers.value.as_ref()?;
    if raw.peers.items().count() < 2 {
        cx.report
            .error(list.span, "nothing is passed on between fewer than two peers")
            .help("list the peers that cannot reach each other, or remove [relay]");
    }
    let origin = cx.report.origin(list.span);
    Some(Relay { peers, rate: raw.rate.get().map_or(RATE, |rate| rate.0), origin })
}

/// The group of the original vnets, and one of IPv6 that nobody has been assigned (RFC 4291, section 2.7: transient, of the
/// link).
const GROUPS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(224, 10, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0xe00a, 1))];

pub(crate) fn discovery(raw: &raw::Discovery, cx: &mut Context<'_, '_>) -> Option<Discovery> {
    let list = raw.interfaces.value.as_ref()?;
    if raw.interfaces.items().next().is_none() {
        cx.report
            .error(list.span, "nobody is found without an interface")
            .help("list the interfaces behind which peers are, or remove [discovery]");
    }
    let given = raw.groups.items().map(|at| At { value: at.value.0, span: at.span });
    let given = super::one_per_family(given, "group", cx.report);
    let groups = if raw.groups.value.is_some() { given } else { GROUPS.to_vec() };
    let port = raw.port.get().and_then(|port| u16::try_from(port.0).ok()).unwrap_or(VNET_PORT);
    let interfaces = raw.interfaces.items().map(|at| at.value.clone()).collect();
    Some(Discovery { interfaces, groups, port, origin: cx.report.origin(list.span) })
}

fn known_peers(list: &Slot<List<PeerName>>, cx: &mut Context<'_, '_>) -> Vec<PeerName> {
    let mut peers = Vec::new();
    for at in list.items() {
        let known = cx.root.peers.get();
        if !is_known(at, "peer", known.unwrap_or(&Default::default()), cx.report) {
            continue;
        }
        if peers.contains(&at.value) {
            cx.report
                .error(at.span, format!("the peer `{}` is listed twice", at.value))
                .help("remove one of them");
        } else {
            peers.push(at.value.clone());
        }
    }
    peers
}

pub(crate) fn vnet(name: &VnetName, span: Span, raw: &raw::Vnet, cx: &mut Context<'_, '_>) -> Option<Vnet> {
    let peers = known_peers(&raw.peers, cx);
    let at = raw.bridge.value.as_ref().map_or(span, |at| at.span);
    let bridge = bridge(name, raw)?;
    cx.claims.device(None, &bridge, at, DeviceUse::Made, cx.report);
    let (interface, at) = match &raw.interface.value {
        Some(at) => (at.value.clone(), at.span),
        None => (names::vnet(name.as_str())?, span),
    };
    cx.claims.device(None, &interface, at, DeviceUse::Made, cx.report);
    let networks = cx.root.networks.get().into_iter().flat_map(|networks| networks.values());
    let is_used = networks.filter_map(|(_, network)| network.as_ref()).any(|n| n.0.vnet.get() == Some(name));
    let port = port(raw, cx);
    let security = raw.security.get().copied().unwrap_or(Security::Conf);
    let second = names::second(&interface).filter(|_| security == Security::None);
    if let Some(second) = &second {
        cx.claims.device(None, second, at, DeviceUse::Made, cx.report);
    }
    if let (Some(port), Some(written)) = (&port, &raw.port.value) {
        if [Some(&bridge), Some(&interface), second.as_ref()].contains(&Some(&port.interface)) {
            cx.report
                .error(
                    written.span,
                    format!("{} is the vnet's own device, and leads to nobody outside", port.interface),
                )
                .help("write the interface that the segment outside is at, like port = \"eth1\"");
        } else {
            cx.ports.push((port.interface.clone(), port.vlan.is_some(), written.span));
        }
    }
    let learning = raw.learning.get().copied().unwrap_or(!is_used || raw.port.key.is_some());
    let id = raw.id.value.as_ref()?;
    cx.claims.vnet_id(id.value, id.span, cx.report);
    for (made, vnet) in &cx.beside.vnets {
        taken_over("vnet", (made, made == name), ("id", vnet.id == id.value), id.span, cx.report);
    }
    let cipher = cipher(raw, security, cx);
    let origin = Some(cx.report.origin(span));
    Some(Vnet {
        id: id.value,
        bridge,
        interface,
        learning,
        port,
        mtu: None,
        lost: BTreeSet::new(),
        prepared: BTreeSet::new(),
        reached: BTreeSet::new(),
        security,
        cipher,
        peers,
        origin,
    })
}

/// A cipher of another level than the vnet's would be a vnet of that level.
fn cipher(raw: &raw::Vnet, security: Security, cx: &mut Context<'_, '_>) -> Option<Cipher> {
    let written = raw.cipher.value.as_ref()?;
    let (cipher, gives) = (written.value, written.value.security());
    if gives == security {
        return Some(cipher);
    }
    let diagnostic = cx.report.error(
        written.span,
        format!("the cipher {cipher} gives security {gives}, and this vnet has {security}"),
    );
    let diagnostic = match &raw.security.value {
        Some(at) => diagnostic.related(at.span, "the vnet's security"),
        None => diagnostic,
    };
    diagnostic.help(match security {
        Security::Conf => "write aes-128-gcm, aes-256-gcm or chacha20-poly1305, or remove the key",
        Security::Auth => "write aes-128-gmac or aes-256-gmac, or remove the key",
        Security::None => "remove one of the two keys: with security \"none\", nothing seals frames",
    });
    None
}

/// What is outside of the vnet's hosts, which only those reach who reckon with machines that no file knows.
fn port(raw: &raw::Vnet, cx: &mut Context<'_, '_>) -> Option<VnetPort> {
    if let Some(protocol) = raw.protocol.key.filter(|_| raw.vlan.key.is_none()) {
        cx.report
            .error(protocol, "`protocol` says whose tag a VLAN has, and this vnet is on none")
            .help("write its number, like vlan = 100, or remove the key");
    }
    let Some(key) = raw.port.key else {
        if let Some(vlan) = raw.vlan.key {
            cx.report
                .error(vlan, "`vlan` is a VLAN of `port`, which is missing")
                .help("write whose VLAN it is, like port = \"eth1\", or remove the key");
        }
        return None;
    };
    if let Some(learning) = raw.learning.value.as_ref().filter(|learning| !learning.value) {
        cx.report
            .error(learning.span, "without `learning` nobody reaches the machines behind `port`")
            .related(key, "the port")
            .help("write learning = true, or leave it out; or remove `port`");
    }
    let written = raw.port.value.as_ref()?;
    let interface = parent(written, cx)?;
    cx.parents.push((interface.clone(), written.span));
    let Some(at) = raw.vlan.key else {
        cx.claims.vlan(None, &interface, None, written.span, "vnet port", cx.report);
        let mut uplinks = cx.uplinks.iter().filter(|(_, uplink)| uplink.namespace.is_none());
        if let Some((name, _)) = uplinks.find(|(_, uplink)| uplink.interface == interface) {
            cx.report
                .error(
                    written.span,
                    format!("{interface} is the interface of the uplink `{name}`, by which this host itself is reached"),
                )
                .help("write a VLAN of it, like vlan = 20, or another interface");
        }
        return Some(VnetPort { interface, vlan: None });
    };
    let id = u16::try_from(raw.vlan.get()?.0).ok()?;
    cx.claims.vlan(None, &interface, Some(id), at, "vnet port", cx.report);
    let device = names::vlan(&interface, id)?;
    cx.claims.device(None, &device, at, DeviceUse::MadeVlan, cx.report);
    let protocol = raw.protocol.get().copied().unwrap_or(VlanProtocol::Customer);
    Some(VnetPort { interface, vlan: Some(UplinkVlan { device, id, protocol }) })
}

/// Says that what a command made does not count any more when the file has its name, or what it is known by everywhere.
fn taken_over(
    kind: &str,
    (made, has_name): (&impl Display, bool),
    (identity, has_it): (&str, bool),
    at: Span,
    report: &mut Report<'_>,
) {
    let same = match (has_name, has_it) {
        (false, false) => return,
        (true, false) => "name",
        (_, true) => identity,
    };
    report
        .warning(
            at,
            format!("the {kind} `{made}`, which a command made, has this {same}: what stands here counts"),
        )
        .help(format!("`viaduct {kind} delete {made}` forgets the other one"));
}

/// Reports ports that are devices of ours, of whichever section.
pub(crate) fn ports(cx: &mut Context<'_, '_>) {
    for (interface, is_tagged, at) in &cx.ports {
        cx.claims.vnet_port(interface, *is_tagged, *at, cx.report);
    }
}

/// Reports what would be, or would lead through, a device of a vnet that a command made.
pub(crate) fn beside(vnets: &BTreeMap<VnetName, Vnet>, cx: &mut Context<'_, '_>) {
    let is_of_files =
        |name: &VnetName, id| vnets.contains_key(name) || vnets.values().any(|vnet| vnet.id == id);
    for (name, vnet) in cx.beside.vnets.iter().filter(|(name, vnet)| !is_of_files(name, vnet.id)) {
        let second = names::second(&vnet.interface).filter(|_| vnet.security == Security::None);
        let devices = [Some(&vnet.bridge), Some(&vnet.interface), second.as_ref()].into_iter().flatten();
        for device in devices {
            let ports = cx.ports.iter().filter(|(port, ..)| port == device);
            let ports = ports
                .map(|(.., at)| (*at, "the interface that the segment outside is at, like port = \"eth1\""));
            let others = cx.claims.device_at(device).map(|at| (at, "another one here"));
            for (at, instead) in ports.chain(others).collect::<Vec<_>>() {
                cx.report
                    .error(at, format!("{device} is a device of the vnet `{name}`, which a command made"))
                    .help(format!(
                        "write {instead}; or take that vnet away first, by `viaduct vnet delete {name}`"
                    ));
            }
        }
    }
}

/// The bridge of a vnet.
pub(crate) fn bridge(name: &VnetName, raw: &raw::Vnet) -> Option<IfName> {
    raw.bridge.get().cloned().or_else(|| names::bridge(name.as_str()))
}
