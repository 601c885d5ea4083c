use std::net::IpAddr;

use viaduct_types::{IfName, IpNet, NetworkName, VlanProtocol, VlanSet, VnetName};

use super::{Context, Use, UseKind, boot, copied, mtu, one_per_family, stack};
use crate::{
    Delegate, Family, Mode, Network, Policy, Subnet, UplinkVlan,
    claims::{DeviceUse, Holder, Segment},
    ipam, names,
    raw::{LONGEST_PART, MODE_KEYS, ModeKey, ModeWord, NetworkKeys},
    report::{At, Report, Span},
    shape::is_known,
    suggest::one_of,
};

/// A network with what its guests have to know of it.
pub(crate) struct Ground {
    /// None when too much of it is wrong.
    pub(crate) network: Option<Network>,
    /// Where the addresses of its NICs are answered for.
    pub(crate) stacks: Vec<Segment>,
    /// Where MACs of its NICs meet; none when they do not.
    pub(crate) segment: Option<Segment>,
    /// The uplink's device.
    pub(crate) interface: Option<IfName>,
    /// The segment that this is on, and that each VLAN of it is.
    pub(crate) outside: Option<Segment>,
    /// Its subnets or pool, with their places.
    pub(crate) prefixes: Vec<At<IpNet>>,
    /// Whether these are all that were written.
    pub(crate) is_whole: bool,
}

pub(crate) fn network(name: &NetworkName, span: Span, raw: &NetworkKeys, cx: &mut Context<'_, '_>) -> Ground {
    if let Some(uplink) = &raw.uplink.value {
        let known = cx.root.uplinks.get();
        is_known(uplink, "uplink", known.unwrap_or(&Default::default()), cx.report);
    }
    if let Some(vnet) = &raw.vnet.value
        && is_known(vnet, "vnet", cx.root.vnets.get().unwrap_or(&Default::default()), cx.report)
    {
        cx.claims.vnet_network(&vnet.value, vnet.span, cx.report);
    }
    if let Some(namespace) = &raw.namespace.value {
        let known = cx.root.namespaces.get();
        is_known(namespace, "namespace", known.unwrap_or(&Default::default()), cx.report);
    }
    let mut ground = Ground {
        network: None,
        stacks: Vec::new(),
        segment: None,
        interface: None,
        outside: None,
        prefixes: Vec::new(),
        is_whole: raw.pool.is_whole() && raw.subnets.is_whole(),
    };
    let Some(&word) = raw.mode.get() else { return ground };
    keys_of_mode(name, word, span, raw, cx.report);
    stack::network(word, raw, cx);

    let uplink = raw.uplink.get().filter(|_| word != ModeWord::Isolated && word != ModeWord::Vnet);
    ground.interface = uplink.and_then(|uplink| Some(cx.uplinks.get(uplink)?.interface.clone()));
    ground.prefixes = match word {
        ModeWord::Routed => raw.pool.items().map(|at| At { value: at.value.0, span: at.span }).collect(),
        ModeWord::Nat | ModeWord::Isolated | ModeWord::Vnet => {
            raw.subnets.items().map(|at| At { value: at.value.0, span: at.span }).collect()
        }
        ModeWord::Bridged => Vec::new(),
    };
    let tag = if word == ModeWord::Bridged { vlan(raw).flatten() } else { None };
    ground.outside = ground.interface.as_ref().map(|interface| match raw.namespace.get() {
        Some(namespace) => stack::segment(namespace, interface, tag, cx),
        None => Segment::Device(interface.clone(), tag),
    });
    segments(name, word, raw, &mut ground);
    let Some(mode) = mode(name, span, word, raw, &ground, cx) else { return ground };

    let with_ipv6 = ground.prefixes.iter().any(|at| Family::of(at.value.addr()) == Family::V6);
    let policy = |word: Option<&Policy>, open: bool| {
        word.copied().unwrap_or(if open { Policy::Allow } else { Policy::Deny })
    };
    unkept(word, raw, cx.report);
    let boot = raw.boot.key.zip(raw.boot.get()).map(|(key, boot)| {
        let place = boot::Place { key, dhcp: raw.dhcp.is_set(), ground: &ground, mode: &mode };
        boot::boot(boot, &place, cx.report)
    });
    ground.network = Some(Network {
        mode,
        uplink: uplink.cloned(),
        mtu: mtu(&raw.mtu, with_ipv6, cx.report),
        inbound: policy(
            raw.inbound.get(),
            matches!(word, ModeWord::Routed | ModeWord::Bridged | ModeWord::Vnet),
        ),
        between_guests: policy(raw.between_guests.get(), !matches!(word, ModeWord::Nat | ModeWord::Routed)),
        to_host: policy(raw.to_host.get(), word == ModeWord::Bridged),
        dhcp: raw.dhcp.is_set(),
        dns: raw.dns.is_set(),
        dns_servers: copied(&raw.dns_servers),
        domain: raw.domain.get().map(|domain| domain.0.clone()),
        delegate: delegate(word, raw, &ground, cx),
        boot,
        namespace: raw.namespace.get().cloned(),
        origin: cx.report.origin(span),
    });
    ground
}

/// Reports what this host's filter could not keep, as the flows do not pass it.
fn unkept(mode: ModeWord, raw: &NetworkKeys, report: &mut Report<'_>) {
    let (why, help, policies): (_, _, &[_]) = match mode {
        ModeWord::Bridged => (
            "on a bridged network, which is the uplink's own segment",
            "use a routed network, leave the filter to the guests, or remove the key",
            &[("inbound", &raw.inbound)],
        ),
        ModeWord::Vnet => (
            "in a vnet, whose guests are on one segment, on several hosts",
            "what only some may is written as allow-in of guests on a routed or nat network; remove the key",
            &[("inbound", &raw.inbound), ("between-guests", &raw.between_guests)],
        ),
        ModeWord::Nat | ModeWord::Routed | ModeWord::Isolated => return,
    };
    let denied = policies.iter().filter_map(|(key, slot)| Some((key, slot.value.as_ref()?)));
    for (key, at) in denied.filter(|(_, at)| at.value == Policy::Deny) {
        report
            .error(at.span, format!("`{key}` cannot be kept {why}: its flows do not pass this host's filter"))
            .help(help);
    }
}

/// Whether every key is there that the mode needs, and none that it does not have.
fn keys_of_mode(name: &NetworkName, mode: ModeWord, span: Span, raw: &NetworkKeys, report: &mut Report<'_>) {
    let mut written = [false; MODE_KEYS.len()];
    for (key, at) in raw.written() {
        let Some(index) = MODE_KEYS.iter().position(|k| k.key == key) else { continue };
        written[index] = true;
        if !MODE_KEYS[index].belongs_to(mode) {
            report
                .error(at, format!("`{key}` does not belong to a network of mode `{}`", mode.word()))
                .help(instead(&MODE_KEYS[index], mode));
        }
    }
    for (rule, _) in
        MODE_KEYS.iter().zip(written).filter(|(rule, written)| !written && rule.needed.contains(&mode))
    {
        let key = rule.key;
        report
            .absent(span, format!("network `{name}` of mode `{}` needs the key `{key}`", mode.word()))
            .help(match key {
                "uplink" => "name the way out: uplink = \"…\"",
                "subnets" => "write the guests' prefix, like subnets = [\"192.168.1.0/24\"]",
                "pool" => "write where guests' addresses come from, like pool = [\"198.51.100.112/29\"]",
                _ => "name the vnet that it lies on: vnet = \"…\"",
            });
    }
}

fn instead(rule: &ModeKey, mode: ModeWord) -> String {
    match (rule.key, mode) {
        ("subnets", ModeWord::Routed) => "routed networks take guests' addresses from `pool`".into(),
        ("pool", ModeWord::Nat | ModeWord::Isolated | ModeWord::Vnet) => {
            "its guests' addresses come from `subnets`; only `routed` networks have a pool".into()
        }
        ("bridge", ModeWord::Vnet) => "the bridge is the vnet's: write it in its table, [vnets.…]".into(),
        ("uplink", ModeWord::Isolated) => {
            "an isolated network has no way out: remove the key, or choose `nat`, `routed` or `bridged`"
                .into()
        }
        ("source-address", ModeWord::Routed | ModeWord::Bridged) => {
            format!(
                "guests keep their addresses in mode `{}`; only `nat` networks translate them",
                mode.word()
            )
        }
        _ => format!("networks of mode {} have it", one_of(rule.modes())),
    }
}

fn segments(name: &NetworkName, mode: ModeWord, raw: &NetworkKeys, ground: &mut Ground) {
    let stack = Segment::Stack(raw.namespace.get().cloned());
    let own = Segment::Network(name.clone());
    let device = || ground.outside.clone();
    let tagged = || vlan(raw).and_then(|_| device());
    let has_gateway = raw.gateways.items().next().is_some();
    let is_open = ground.prefixes.is_empty();
    (ground.stacks, ground.segment) = match mode {
        ModeWord::Nat => (vec![stack], Some(own)),
        // Routed guests have a link each, where no two MACs meet.
        ModeWord::Routed if raw.proxy.is_set() => {
            ([Some(stack), device()].into_iter().flatten().collect(), None)
        }
        ModeWord::Routed => (vec![stack], None),
        ModeWord::Bridged => (tagged().into_iter().collect(), tagged()),
        ModeWord::Isolated if is_open => (vec![own.clone()], Some(own)),
        ModeWord::Isolated => (vec![stack], Some(own)),
        // Without an address of the host's in it, it never meets the host's routes.
        ModeWord::Vnet if has_gateway => (vec![stack], Some(own)),
        ModeWord::Vnet => (vec![own.clone()], Some(own)),
    };
}

/// Who asks on the uplink has to answer there, too, or whoever comes after asks in vain.
fn probe(raw: &NetworkKeys, report: &mut Report<'_>) -> bool {
    let set = raw.probe.is_set();
    if set
        && !raw.proxy.is_set()
        && let Some(key) = raw.probe.key
    {
        report
            .error(key, "`probe` asks on the uplink, where these addresses are only with `proxy`")
            .help("write proxy = true, too, or leave probe out: what is routed here, nobody else has");
    }
    set
}

/// The VLAN, if any; none when one is written that could not be read.
fn vlan(raw: &NetworkKeys) -> Option<Option<u16>> {
    match (raw.vlan.key, raw.vlan.get()) {
        (Some(_), vlan) => Some(Some(u16::try_from(vlan?.0).ok()?)),
        (None, _) => Some(None),
    }
}

/// The device that takes the VLAN out of the uplink.
fn uplink_vlan(
    id: u16,
    raw: &NetworkKeys,
    interface: &IfName,
    cx: &mut Context<'_, '_>,
) -> Option<UplinkVlan> {
    let device = names::vlan(interface, id)?;
    cx.claims.device(raw.namespace.get(), &device, raw.vlan.key?, DeviceUse::MadeVlan, cx.report);
    let protocol = raw.protocol.get().copied().unwrap_or(VlanProtocol::Customer);
    Some(UplinkVlan { device, id, protocol })
}

/// The VLANs of a network that knows some; those of the uplink itself are nobody else's.
fn vlans(vlan: Option<u16>, raw: &NetworkKeys, ground: &Ground, cx: &mut Context<'_, '_>) -> Option<VlanSet> {
    let key = raw.vlans.key?;
    let vlans: VlanSet = raw.vlans.items().flat_map(|at| at.value.iter()).collect();
    if vlans.is_empty() && raw.vlans.is_whole() {
        cx.report
            .error(key, "`vlans` is empty, so that no NIC could be on any")
            .help("write them, like vlans = [2, 3, \"10-20\"], or remove the key");
    }
    if vlan.is_none() {
        for at in raw.vlans.items() {
            let Some(interface) = &ground.interface else { continue };
            for vlan in at.value.iter() {
                cx.claims.vlan(
                    raw.namespace.get(),
                    interface,
                    Some(vlan),
                    at.span,
                    "bridged network",
                    cx.report,
                );
            }
        }
        if vlans.lowest_free().is_none() {
            cx.report
                .error(key, "`vlans` has every number, and the bridge needs one for what comes without a tag")
                .help("leave one out");
        }
    }
    Some(vlans)
}

fn without_vlan(raw: &NetworkKeys, report: &mut Report<'_>) {
    if let Some(key) = raw.protocol.key {
        report
            .error(key, "`protocol` says whose tag a VLAN has, and this network is on none")
            .help("write its number, like vlan = 100, or remove the key");
    }
}

fn mode(
    name: &NetworkName,
    span: Span,
    word: ModeWord,
    raw: &NetworkKeys,
    ground: &Ground,
    cx: &mut Context<'_, '_>,
) -> Option<Mode> {
    let kind = if word == ModeWord::Routed { UseKind::Pool } else { UseKind::Subnet };
    if let Some(segment) = ground.stacks.first() {
        let uses = |at: &At<IpNet>, kind| (at.value, Use { span: at.span, segment: segment.clone(), kind });
        cx.prefixes.extend(ground.prefixes.iter().map(|at| uses(at, kind)));
        if word == ModeWord::Routed {
            let install = raw.install_pool.each().map(|at| At { value: at.value.0, span: at.span });
            cx.prefixes.extend(install.map(|at| uses(&at, UseKind::Subnet)));
        }
    }
    Some(match word {
        ModeWord::Nat => Mode::Nat {
            bridge: bridge(name, span, raw, cx)?,
            subnets: subnets(raw, ground, cx),
            source_address: source_address(raw, ground, cx.report),
        },
        ModeWord::Routed => Mode::Routed {
            pool: ground.prefixes.iter().map(|at| at.value).collect(),
            proxy: raw.proxy.is_set(),
            probe: probe(raw, cx.report),
            install_pool: raw.install_pool.each().map(|at| at.value.0).collect(),
        },
        ModeWord::Bridged => {
            let vlan = vlan(raw)?;
            if let Some(interface) = &ground.interface {
                cx.claims.vlan(raw.namespace.get(), interface, vlan, span, "bridged network", cx.report);
            }
            let vlans = vlans(vlan, raw, ground, cx);
            let vlan = match vlan {
                Some(id) => Some(uplink_vlan(id, raw, ground.interface.as_ref()?, cx)?),
                None => {
                    without_vlan(raw, cx.report);
                    None
                }
            };
            Mode::Bridged { bridge: bridge(name, span, raw, cx)?, vlan, vlans }
        }
        ModeWord::Isolated => {
            Mode::Isolated { bridge: bridge(name, span, raw, cx)?, subnets: subnets(raw, ground, cx) }
        }
        ModeWord::Vnet => Mode::Vnet {
            vnet: raw.vnet.get()?.clone(),
            bridge: vnet_bridge(raw.vnet.get()?, cx)?,
            subnets: ground.prefixes.iter().map(|at| at.value).collect(),
            gateways: gateways(raw, ground, cx).into_iter().map(|(_, at)| at.value).collect(),
        },
    })
}

/// What is given to guests that are routers.
fn delegate(
    mode: ModeWord,
    raw: &NetworkKeys,
    ground: &Ground,
    cx: &mut Context<'_, '_>,
) -> Option<Delegate> {
    if mode != ModeWord::Routed {
        return None;
    }
    let length = raw.delegate_length.get().and_then(|length| u8::try_from(length.0).ok()).unwrap_or(64);
    let mut pool = Vec::new();
    for at in raw.delegate_pool.items() {
        let IpNet::V6(prefix) = at.value.0 else {
            cx.report
                .error(at.span, format!("{} is IPv4, of which nothing can be delegated", at.value.0))
                .help("write an IPv6 prefix, like 2001:db8:48:8000::/49");
            continue;
        };
        if prefix.prefix_len() > length {
            cx.report.error(at.span, format!("{prefix} has no part as large as a /{length}")).help(
                match u32::from(prefix.prefix_len()) {
                    longer @ ..=LONGEST_PART => {
                        format!("write a wider prefix, or delegate-length = {longer}")
                    }
                    _ => format!("write a prefix of at most {LONGEST_PART} bits"),
                },
            );
            continue;
        }
        if let Some(segment) = ground.stacks.first() {
            let user = Use { span: at.span, segment: segment.clone(), kind: UseKind::Subnet };
            cx.prefixes.push((prefix.into(), user));
        }
        pool.push(prefix);
    }
    if let Some(key) = raw.delegate_pool.key.filter(|_| !raw.dhcp.is_set()) {
        cx.report
            .error(key, "prefixes are delegated by DHCPv6, which this network does not answer")
            .help("write dhcp = true, too");
    }
    (!pool.is_empty()).then_some(Delegate { pool, length })
}

fn bridge(name: &NetworkName, span: Span, raw: &NetworkKeys, cx: &mut Context<'_, '_>) -> Option<IfName> {
    let (bridge, at) = match &raw.bridge.value {
        Some(at) => (at.value.clone(), at.span),
        None => (names::bridge(name.as_str())?, span),
    };
    cx.claims.device(raw.namespace.get(), &bridge, at, DeviceUse::Made, cx.report);
    Some(bridge)
}

/// The bridge of the vnet that a network lies on.
fn vnet_bridge(vnet: &VnetName, cx: &Context<'_, '_>) -> Option<IfName> {
    let (_, raw) = cx.root.vnets.get()?.get(vnet)?;
    super::vnet::bridge(vnet, raw.as_ref()?)
}

/// The written gateways, each with the subnet it is in.
fn gateways(raw: &NetworkKeys, ground: &Ground, cx: &mut Context<'_, '_>) -> Vec<(IpNet, At<IpAddr>)> {
    let mut kept: Vec<(IpNet, At<IpAddr>)> = Vec::new();
    for at in raw.gateways.items() {
        let ip = at.value;
        let Some(subnet) = ground.prefixes.iter().find(|subnet| subnet.value.contains(&ip)) else {
            if !ground.is_whole {
                continue;
            }
            let problem =
                cx.report.error(at.span, format!("the gateway {ip} is outside the network's subnets"));
            match ground.prefixes.first() {
                Some(first) => problem
                    .help(format!("write an address of {}", one_of(ground.prefixes.iter().map(|p| p.value))))
                    .related(first.span, "the subnets"),
                None => problem.help("write `subnets`, too"),
            };
            continue;
        };
        if let Some(role) = ipam::role_on_segment(subnet.value, ip) {
            cx.report
                .error(at.span, format!("the gateway {ip} is the {role} of {}", subnet.value))
                .help(format!("the first usable address is {}", ipam::first_usable(subnet.value)));
        } else if let Some((_, first)) = kept.iter().find(|(prefix, _)| *prefix == subnet.value) {
            cx.report
                .error(at.span, format!("a second gateway for {}", subnet.value))
                .related(first.span, "the first one")
                .help("keep one gateway per subnet");
        } else {
            cx.claims.address(&ground.stacks, ip, at.span, Holder::Gateway, cx.report);
            kept.push((subnet.value, *at));
        }
    }
    kept
}

fn subnets(raw: &NetworkKeys, ground: &Ground, cx: &mut Context<'_, '_>) -> Vec<Subnet> {
    let gateways = gateways(raw, ground, cx);
    let mut subnets = Vec::new();
    for at in &ground.prefixes {
        let written = gateways.iter().find(|(prefix, _)| *prefix == at.value);
        let gateway = written.map_or_else(|| ipam::first_usable(at.value), |(_, gateway)| gateway.value);
        if written.is_none() {
            cx.claims.address(&ground.stacks, gateway, at.span, Holder::FirstOfSubnet, cx.report);
        }
        subnets.push(Subnet { prefix: at.value, gateway });
    }
    subnets
}

fn source_address(raw: &NetworkKeys, ground: &Ground, report: &mut Report<'_>) -> Vec<IpAddr> {
    for at in raw.source_address.each() {
        let family = Family::of(at.value);
        if ground.is_whole
            && !ground.prefixes.is_empty()
            && !ground.prefixes.iter().any(|p| Family::of(p.value.addr()) == family)
        {
            report
                .error(at.span, format!("an {family} source address, but the network has no {family} subnet"))
                .help(format!("remove it, or add an {family} prefix to `subnets`"));
        }
    }
    one_per_family(raw.source_address.each().copied(), "source address", report)
}
