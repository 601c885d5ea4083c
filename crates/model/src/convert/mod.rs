//! From what was read, key by key, to a [`Config`]: defaults, derived names, and whether it all fits together.

mod allow;
mod boot;
mod guest;
mod namespace;
mod network;
mod nic;
mod publish;
mod stack;
mod uplink;
mod vnet;

use std::{collections::BTreeMap, net::IpAddr};

use viaduct_types::{GuestName, IfName, IpNet, NamespaceName, NetworkName, UplinkName};

use crate::{
    Beside, Config, Family, Mode, Nic, Uplink,
    claims::{Claims, Segment},
    ipam,
    raw::{Mtu, Root},
    report::{At, Report, Span},
    shape::{List, Named, Slot},
};

/// Everything that sections need to know of each other.
pub(crate) struct Context<'a, 's> {
    pub(crate) root: &'a Root,
    pub(crate) beside: &'a Beside,
    pub(crate) report: &'a mut Report<'s>,
    pub(crate) claims: Claims,
    pub(crate) prefixes: Vec<(IpNet, Use)>,
    pub(crate) published: Vec<(GuestName, At<viaduct_types::Publish>)>,
    pub(crate) uplinks: BTreeMap<UplinkName, Uplink>,
    pub(crate) networks: BTreeMap<NetworkName, network::Ground>,
    /// The NICs that namespaces have on networks, with the place of the first.
    pub(crate) cables: BTreeMap<NamespaceName, (Span, Vec<Nic>)>,
    /// Devices of the host that move into namespaces.
    pub(crate) moved: Vec<(IfName, Span)>,
    /// Devices of the host that interfaces of namespaces stand on.
    pub(crate) parents: Vec<(IfName, Span)>,
    /// Ports of vnets: the device, whether it is one of its VLANs, the place.
    pub(crate) ports: Vec<(IfName, bool, Span)>,
}

/// What a prefix is used for.
pub(crate) struct Use {
    pub(crate) span: Span,
    pub(crate) segment: Segment,
    pub(crate) kind: UseKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UseKind {
    /// An uplink's own segment; routed guests may have addresses of it.
    Uplink,
    /// Guests' addresses, routed one by one.
    Pool,
    /// A segment of ours.
    Subnet,
}

/// The configuration; of no use when anything was reported as an error.
pub(crate) fn convert(root: &Root, beside: &Beside, report: &mut Report<'_>) -> Config {
    let mut cx = Context {
        root,
        beside,
        report,
        claims: Claims::default(),
        prefixes: Vec::new(),
        published: Vec::new(),
        uplinks: BTreeMap::new(),
        networks: BTreeMap::new(),
        cables: BTreeMap::new(),
        moved: Vec::new(),
        parents: Vec::new(),
        ports: Vec::new(),
    };
    cx.uplinks = section(&root.uplinks, |name, span, raw| uplink::uplink(name, span, raw, &mut cx));
    let peers = section(&root.peers, |name, span, raw| vnet::peer(name, span, raw, &mut cx));
    let vnets = section(&root.vnets, |name, span, raw| vnet::vnet(name, span, raw, &mut cx));
    let relay = root.relay.get().and_then(|raw| vnet::relay(raw, &mut cx));
    let discovery = root.discovery.get().and_then(|raw| vnet::discovery(raw, &mut cx));
    cx.networks =
        section(&root.networks, |name, span, raw| Some(network::network(name, span, &raw.0, &mut cx)));
    let namespaces =
        section(&root.namespaces, |name, span, raw| namespace::namespace(name, span, raw, &mut cx));
    namespace::standing_on_moved(&mut cx);
    let mut guests = section(&root.guests, |name: &GuestName, span, raw| {
        guest::guest(name, span, raw, &namespaces, &mut cx)
    });
    vnet::ports(&mut cx);
    vnet::beside(&vnets, &mut cx);
    namespace::on_networks(&namespaces, &mut guests, &mut cx);
    overlapping(&mut cx);
    let stacks = stack::check(&guests, &mut cx);
    publish::overlapping(&stacks, &mut cx);
    publish::at_neighbours(&guests, &stacks, &mut cx);
    publish::answered_elsewhere(&guests, &mut cx);

    let host = root.host.get().and_then(|host| host.name.get());
    if host.is_none() {
        alike(root, &mut cx);
    }
    let host = host.map_or("host", |name| name.as_str());
    let networks =
        cx.networks.into_iter().filter_map(|(name, ground)| Some((name, ground.network?))).collect();
    Config {
        host: host.to_owned(),
        single_port: root.host.get().and_then(|host| host.single_port.get()).copied().unwrap_or(false),
        stack: None,
        uplinks: cx.uplinks,
        networks,
        guests,
        namespaces,
        peers,
        vnets,
        relay,
        discovery,
    }
}

fn section<K: Ord + Clone, Raw, T>(
    slot: &Slot<Named<K, Raw>>,
    mut convert: impl FnMut(&K, Span, &Raw) -> Option<T>,
) -> BTreeMap<K, T> {
    let named = slot.get().into_iter().flatten();
    named
        .filter_map(|(name, (span, raw))| Some((name.clone(), convert(name, *span, raw.as_ref()?)?)))
        .collect()
}

/// Reports that this host is called as others of a vnet may be, on which it has an address.
fn alike(root: &Root, cx: &mut Context<'_, '_>) {
    let is_there = |name: &NetworkName| {
        let network = cx.networks.get(name).and_then(|ground| ground.network.as_ref());
        network.is_some_and(|n| matches!(&n.mode, Mode::Vnet { gateways, .. } if !gateways.is_empty()))
    };
    let mut networks = root.networks.get().into_iter().flatten();
    if let Some((_, (span, _))) = networks.find(|(name, _)| is_there(name)) {
        cx.report
            .warning(*span, "this host has no name, by which it differs from the others in the vnet")
            .help("write `name` in [host]: the MAC that it has in its vnets is made of it");
    }
}

/// Reports prefixes that share addresses though they need their own.
fn overlapping(cx: &mut Context<'_, '_>) {
    let matters = |a: &Use, b: &Use| {
        a.segment == b.segment
            && !matches!(
                (a.kind, b.kind),
                (UseKind::Uplink, UseKind::Uplink | UseKind::Pool) | (UseKind::Pool, UseKind::Uplink)
            )
    };
    let report = &mut *cx.report;
    ipam::overlaps(&mut cx.prefixes, matters, |(a, a_use), (b, b_use)| {
        let (first, second) =
            if a_use.span < b_use.span { ((a, a_use), (b, b_use)) } else { ((b, b_use), (a, a_use)) };
        let message = if a == b {
            format!("the prefix {a} is used twice")
        } else {
            format!("{} overlaps {}", second.0, first.0)
        };
        report
            .error(second.1.span, message)
            .related(first.1.span, "first used here")
            .help("every prefix can be in one place only: change one of them");
    });
}

/// At most one address per family.
fn one_per_family(
    addresses: impl IntoIterator<Item = At<IpAddr>>,
    what: &str,
    report: &mut Report<'_>,
) -> Vec<IpAddr> {
    let mut kept: Vec<At<IpAddr>> = Vec::new();
    for at in addresses {
        let family = Family::of(at.value);
        match kept.iter().find(|k| Family::of(k.value) == family) {
            None => kept.push(at),
            Some(first) => {
                report
                    .error(at.span, format!("a second {family} {what}"))
                    .related(first.span, "the first one")
                    .help(format!("keep one {family} {what}; one IPv4 and one IPv6 are allowed"));
            }
        }
    }
    kept.into_iter().map(|at| at.value).collect()
}

/// The MTU, if it is enough for the addresses that use it.
fn mtu(slot: &Slot<Mtu>, with_ipv6: bool, report: &mut Report<'_>) -> Option<u32> {
    let at = slot.value.as_ref()?;
    if with_ipv6 && at.value.0 < 1280 {
        report
            .error(at.span, format!("an MTU of {} is too small for the IPv6 addresses here", at.value.0))
            .help("IPv6 needs at least 1280 (RFC 8200)");
    }
    Some(at.value.0)
}

fn copied<T: Copy>(slot: &Slot<List<T>>) -> Vec<T> {
    slot.items().map(|at| at.value).collect()
}
