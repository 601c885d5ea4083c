use std::net::IpAddr;

use viaduct_types::{GuestName, IpNet, MacAddr, NetworkName, VlanSet};

use super::{Context, boot, mtu, network::Ground, one_per_family};
use crate::{
    Family, GuestId, Mode, Nic, Spoofing,
    claims::{DeviceUse, Holder, MacOrigin, Segment},
    ipam, names, raw,
    report::{At, Report, Span},
    shape::{Address, is_known},
    suggest::one_of,
};

pub(crate) fn nic(
    guest: &GuestName,
    id: GuestId,
    index: u8,
    span: Span,
    raw: &raw::Nic,
    cx: &mut Context<'_, '_>,
) -> Option<Nic> {
    let network = raw.network.value.as_ref()?;
    if !is_known(network, "network", cx.root.networks.get().unwrap_or(&Default::default()), cx.report) {
        return None;
    }
    let ground = cx.networks.get(&network.value)?;
    let mode = &ground.network.as_ref()?.mode;
    let stack = ground.network.as_ref().and_then(|network| network.namespace.as_ref());

    let (device, at) = match &raw.device.value {
        Some(at) => (at.value.clone(), at.span),
        None => (names::device(guest.as_str(), id, index)?, span),
    };
    cx.claims.device(stack, &device, at, DeviceUse::Made, cx.report);

    let uplink_segment = uplink_mac(raw, mode, cx.report).then(|| ground.outside.clone()).flatten();
    let (vlan, trunk) = vlans(&network.value, mode, span, raw, cx.report);
    let segments = match mode {
        Mode::Bridged { vlan: outer, vlans: Some(_), .. } => {
            let device = outer.as_ref().map(|outer| &outer.device).or(ground.interface.as_ref());
            let on = |vlan| {
                let device = device?.clone();
                Some(match stack {
                    Some(stack) => Segment::Inner(stack.clone(), device, Some(vlan)),
                    None => Segment::Device(device, Some(vlan)),
                })
            };
            Some(vlan.into_iter().chain(trunk.iter()).filter_map(on).collect::<Vec<_>>())
        }
        Mode::Nat { .. }
        | Mode::Routed { .. }
        | Mode::Bridged { .. }
        | Mode::Isolated { .. }
        | Mode::Vnet { .. } => None,
    };
    let in_mac = match mode {
        Mode::Bridged { vlan: outer, vlans, .. } if vlans.is_none() => outer.as_ref().map(|outer| outer.id),
        Mode::Nat { .. }
        | Mode::Routed { .. }
        | Mode::Bridged { .. }
        | Mode::Isolated { .. }
        | Mode::Vnet { .. } => vlan,
    };
    let (mac, at, origin) = match &raw.mac.value {
        Some(mac) => (mac.value, mac.span, MacOrigin::Written),
        None => (MacAddr::derived(in_mac.unwrap_or(0), id.mac_bits(), index), span, MacOrigin::Derived),
    };
    let own = ground.segment.as_ref().or(uplink_segment.as_ref()).into_iter();
    match &segments {
        Some(segments) => cx.claims.mac(segments, mac, at, origin, cx.report),
        None => cx.claims.mac(own, mac, at, origin, cx.report),
    }

    let mut addresses = Vec::new();
    for at in raw.addresses.items() {
        if let Some(net) = address(at, &network.value, mode, ground, cx.report) {
            cx.claims.address(
                segments.as_ref().unwrap_or(&ground.stacks),
                net.addr(),
                at.span,
                Holder::Machine,
                cx.report,
            );
            addresses.push(net);
        }
    }
    for at in raw.gateway.each() {
        gateway(at, mode, ground, &addresses, cx.report);
    }
    let boot = raw.boot.key.zip(raw.boot.get()).map(|(key, boot)| {
        let dhcp = ground.network.as_ref().is_some_and(|network| network.dhcp);
        boot::boot(boot, &boot::Place { key, dhcp, ground, mode }, cx.report)
    });
    let with_ipv6 = addresses.iter().any(|net| Family::of(net.addr()) == Family::V6);
    Some(Nic {
        network: network.value.clone(),
        name: match raw.name.get() {
            Some(name) => name.clone(),
            None => format!("eth{index}").parse().ok()?,
        },
        device,
        mac,
        lent: false,
        addresses,
        delegated: None,
        gateways: one_per_family(raw.gateway.each().copied(), "gateway", cx.report),
        spoofing: raw.spoofing.get().copied().unwrap_or(Spoofing::None),
        uplink_mac: raw.uplink_mac.is_set(),
        mtu: mtu(&raw.mtu, with_ipv6, cx.report),
        boot,
        vlan,
        trunk,
        origin: cx.report.origin(span),
    })
}

/// The VLAN that the NIC is on without tags, and those with: of the network's, and at least one where there are any.
fn vlans(
    name: &NetworkName,
    mode: &Mode,
    span: Span,
    raw: &raw::Nic,
    report: &mut Report<'_>,
) -> (Option<u16>, VlanSet) {
    let Mode::Bridged { vlans: Some(vlans), .. } = mode else {
        let keys = [("vlan", raw.vlan.key), ("trunk", raw.trunk.key)];
        for (key, at) in keys.into_iter().filter_map(|(key, at)| Some((key, at?))) {
            report
                .error(at, format!("`{key}` of a NIC needs a network with `vlans`, and `{name}` has none"))
                .help(match mode {
                    Mode::Bridged { .. } => {
                        "write them into the network, like vlans = [2, \"10-20\"], or remove the key"
                    }
                    Mode::Nat { .. } | Mode::Routed { .. } | Mode::Isolated { .. } | Mode::Vnet { .. } => {
                        "put the NIC on a network with mode = \"bridged\" and vlans = […], or remove the key"
                    }
                });
        }
        return (None, VlanSet::default());
    };
    if raw.vlan.key.is_none() && raw.trunk.key.is_none() {
        report
            .absent(span, format!("a NIC of network `{name}` has to say on which of its VLANs it is"))
            .help(format!("write vlan = N, or trunk = […] for tagged frames, of {vlans}"));
    }
    let mut known = |vlan: u16, at: Span| {
        let known = vlans.contains(vlan);
        if !known && !vlans.is_empty() {
            report
                .error(at, format!("VLAN {vlan} is none of network `{name}`"))
                .help(format!("use one of {vlans}, or add it to the network's `vlans`"));
        }
        known
    };
    let untagged = raw.vlan.value.as_ref().and_then(|at| {
        let vlan = u16::try_from(at.value.0).ok()?;
        known(vlan, at.span).then_some(vlan)
    });
    let mut trunk = Vec::new();
    for at in raw.trunk.items() {
        // Of a range, one is enough to be told.
        trunk.extend(at.value.iter().take_while(|vlan| known(*vlan, at.span)));
    }
    let trunk: VlanSet = trunk.into_iter().collect();
    if let (Some(vlan), Some(key)) = (untagged.filter(|vlan| trunk.contains(*vlan)), raw.trunk.key) {
        report
            .error(key, format!("VLAN {vlan} is on this NIC with tags and without"))
            .help("leave it out of `trunk`, or remove `vlan`");
    }
    if let (Some(key), None, true) = (raw.trunk.key, raw.vlan.key, trunk.is_empty() && raw.trunk.is_whole()) {
        report.error(key, "`trunk` is empty, so that the NIC is on no VLAN").help("write VLANs, or `vlan`");
    }
    (untagged, trunk)
}

/// Whether the NIC speaks with its own MAC on the uplink, and may.
fn uplink_mac(raw: &raw::Nic, mode: &Mode, report: &mut Report<'_>) -> bool {
    let Some(key) = raw.uplink_mac.key.filter(|_| raw.uplink_mac.is_set()) else { return false };
    let help = match mode {
        Mode::Routed { proxy: true, .. } => return true,
        Mode::Routed { proxy: false, .. } => "write proxy = true in the network",
        Mode::Bridged { .. } => "NICs of bridged networks speak with their own MAC anyway: remove the key",
        Mode::Nat { .. } | Mode::Isolated { .. } | Mode::Vnet { .. } => {
            "put the NIC on a network with mode = \"routed\" and proxy = true"
        }
    };
    report.error(key, "`uplink-mac` needs a routed network with `proxy`").help(help);
    false
}

/// The address with the prefix length that it has on this network.
fn address(
    at: &At<Address>,
    name: &viaduct_types::NetworkName,
    mode: &Mode,
    ground: &Ground,
    report: &mut Report<'_>,
) -> Option<IpNet> {
    let Address { ip, length } = at.value;
    let family = Family::of(ip);
    if !ground.is_whole && !ground.prefixes.iter().any(|prefix| prefix.value.contains(&ip)) {
        // It may be in a prefix that could not be read, which has been reported.
        return None;
    }
    let open = match mode {
        Mode::Bridged { .. } => true,
        Mode::Isolated { subnets, .. } => subnets.is_empty(),
        Mode::Vnet { subnets, .. } => subnets.is_empty(),
        Mode::Nat { .. } | Mode::Routed { .. } => false,
    };
    if open {
        return with_written_length(at, name, mode, report);
    }
    let Some(prefix) = ground.prefixes.iter().find(|prefix| prefix.value.contains(&ip)) else {
        if ground.prefixes.is_empty() {
            // A nat or routed network without any: that has been reported.
            return None;
        }
        let word = if matches!(mode, Mode::Routed { .. }) { "pool" } else { "subnets" };
        let same: Vec<IpNet> =
            ground.prefixes.iter().map(|p| p.value).filter(|p| Family::of(p.addr()) == family).collect();
        let (message, help) = if same.is_empty() {
            (
                format!("{ip} is an {family} address, but network `{name}` has no {family} {word}"),
                format!("add an {family} prefix to its `{word}`, or remove the address"),
            )
        } else {
            (
                format!("{ip} is outside the {word} of network `{name}`"),
                format!("use an address of {}, or add its prefix to the network's `{word}`", one_of(same)),
            )
        };
        let problem = report.error(at.span, message).help(help);
        if let Some(first) = ground.prefixes.first() {
            problem.related(first.span, format!("the {word} of `{name}`"));
        }
        return None;
    };
    let full = prefix.value.max_prefix_len();
    if matches!(mode, Mode::Routed { .. }) {
        if let Some(length) = length.filter(|&length| length != full) {
            report
                .error(at.span, format!("the prefix length /{length} has no meaning on a routed network"))
                .help(format!("write {ip}: every guest has a link of its own there"));
        }
        return Some(ipam::host(ip));
    }
    if let Some(length) = length.filter(|&length| length != prefix.value.prefix_len()) {
        report
            .error(at.span, format!("the prefix length /{length} is not that of the subnet"))
            .related(prefix.span, "the subnet")
            .help(format!("write {ip}: it gets the subnet's prefix length"));
    }
    if let Some(role) = ipam::role_on_segment(prefix.value, ip) {
        report
            .error(at.span, format!("{ip} is the {role} of {} and cannot be a guest's", prefix.value))
            .related(prefix.span, "the subnet")
            .help("use another address of the subnet; on a routed network every address can be used");
        return None;
    }
    IpNet::new(ip, prefix.value.prefix_len()).ok()
}

/// Where the network does not know its prefixes, the NIC has to.
fn with_written_length(
    at: &At<Address>,
    name: &viaduct_types::NetworkName,
    mode: &Mode,
    report: &mut Report<'_>,
) -> Option<IpNet> {
    let Address { ip, length } = at.value;
    let Some(length) = length else {
        let like = if ip.is_ipv4() { 24 } else { 64 };
        let why = match mode {
            Mode::Bridged { .. } => "network `{}` is bridged and does not know its prefix",
            Mode::Nat { .. } | Mode::Routed { .. } | Mode::Isolated { .. } | Mode::Vnet { .. } => {
                "network `{}` has no `subnets`"
            }
        };
        report
            .error(at.span, format!("{ip} needs a prefix length: {}", why.replace("{}", name.as_str())))
            .help(format!("write it after the address, like {ip}/{like}"));
        return None;
    };
    let net = IpNet::new(ip, length).ok()?;
    if let Some(role) = ipam::role_on_segment(net, ip) {
        report
            .error(at.span, format!("{ip} is the {role} of {} and cannot be a guest's", net.trunc()))
            .help("use another address, or check the prefix length");
        return None;
    }
    Some(net)
}

fn gateway(at: &At<IpAddr>, mode: &Mode, ground: &Ground, addresses: &[IpNet], report: &mut Report<'_>) {
    let open = match mode {
        // Any gateway works where the host answers for all of them.
        Mode::Routed { .. } => {
            own_family(at, addresses, report);
            return;
        }
        Mode::Bridged { .. } => true,
        Mode::Nat { .. } | Mode::Isolated { .. } | Mode::Vnet { .. } => ground.prefixes.is_empty(),
    };
    if open || !addresses.is_empty() {
        gateway_on_segment(at, addresses, report);
    } else if ground.is_whole && !ground.prefixes.iter().any(|prefix| prefix.value.contains(&at.value)) {
        report
            .error(at.span, format!("the gateway {} is outside the network's subnets", at.value))
            .help(format!("use an address of {}", one_of(ground.prefixes.iter().map(|p| p.value))));
    }
}

/// A gateway on a shared segment is reached directly: it has to be inside a prefix of one of the addresses.
pub(crate) fn gateway_on_segment(at: &At<IpAddr>, addresses: &[IpNet], report: &mut Report<'_>) {
    let ip = at.value;
    if addresses.is_empty() || !own_family(at, addresses, report) {
        return;
    }
    let same = || addresses.iter().filter(|net| Family::of(net.addr()) == Family::of(ip));
    // With a full-length address everything is beyond the prefix, and the gateway is told as on-link.
    let on_link = same().any(|net| net.contains(&ip) || net.prefix_len() == net.max_prefix_len());
    let link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if !on_link && !link_local {
        report
            .error(at.span, format!("the gateway {ip} is outside the subnet of every address here"))
            .help(format!("use an address of {}", one_of(same().map(IpNet::trunc))));
    }
}

fn own_family(at: &At<IpAddr>, addresses: &[IpNet], report: &mut Report<'_>) -> bool {
    let (ip, family) = (at.value, Family::of(at.value));
    if addresses.iter().any(|net| net.addr() == ip) {
        report
            .error(at.span, format!("the gateway {ip} is the machine's own address"))
            .help("write the router's address, or leave the key out");
        return false;
    }
    if !addresses.is_empty() && !addresses.iter().any(|net| Family::of(net.addr()) == family) {
        let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
        report
            .error(at.span, format!("an {family} gateway, but the addresses here are all {other}"))
            .help(format!("write an {other} gateway, or add an {family} address"));
        return false;
    }
    true
}
