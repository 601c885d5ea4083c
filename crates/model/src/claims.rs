//! What only one can have: device names, addresses, MACs, VLANs of a device, ids. Whoever claims something second is
//! reported with both places.

use std::{
    collections::{HashMap, hash_map},
    hash::Hash,
    net::IpAddr,
};

use viaduct_types::{HostKey, IfName, MacAddr, NamespaceName, NetworkName, VnetId, VnetName};

use crate::report::{Problem, Report, Span};

/// Where an address or MAC is answered for: the same one may be used in two places that never meet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Segment {
    /// The routing table of the host, or of a namespace.
    Stack(Option<NamespaceName>),
    /// The segment that a device (or a VLAN of it) is on.
    Device(IfName, Option<u16>),
    /// The segment that a device of a namespace (or a VLAN of it) is on.
    Inner(NamespaceName, IfName, Option<u16>),
    /// The bridge of one network.
    Network(NetworkName),
}

/// Who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A machine, by its own configuration.
    Machine,
    /// The host, as a network's gateway by a written `gateways`.
    Gateway,
    /// The host, as a network's gateway because nothing else is written.
    FirstOfSubnet,
    /// The router behind an uplink or an interface.
    Router,
}

impl Holder {
    fn reason(self) -> &'static str {
        match self {
            Self::Machine => "first used here",
            Self::Gateway => "the network's gateway",
            Self::FirstOfSubnet => "the first address of this subnet is the network's gateway",
            Self::Router => "the router outside",
        }
    }
}

/// Whether a MAC address was chosen by somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MacOrigin {
    Written,
    Derived,
}

/// What a device is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceUse {
    /// An uplink's, which is there.
    Uplink,
    /// Ours to make.
    Made,
    /// Ours to make, and a VLAN of another one, for a bridge of ours.
    MadeVlan,
    /// Somebody's that moves into a namespace.
    Moved,
}

/// A macvlan that has its parent for itself.
pub(crate) const PASSTHRU: &str = "macvlan (passthru)";

#[derive(Debug, Default)]
pub(crate) struct Claims {
    devices: Map<(Option<NamespaceName>, IfName), DeviceUse>,
    addresses: Map<(Segment, IpAddr), Holder>,
    written_macs: Map<MacAddr, MacOrigin>,
    macs: Map<(Segment, MacAddr), MacOrigin>,
    vlans: Map<(Option<NamespaceName>, IfName, Option<u16>), &'static str>,
    stacked: Map<IfName, &'static str>,
    guest_ids: Map<u32, ()>,
    namespace_ids: Map<u32, ()>,
    vnet_ids: Map<VnetId, ()>,
    vnets: Map<VnetName, ()>,
    host_keys: Map<HostKey, ()>,
}

type Map<K, T> = HashMap<K, (Span, T)>;

/// The earlier claim on the same thing, if there is one; the earlier in the files stays.
fn claim<K: Hash + Eq, T: Copy>(map: &mut Map<K, T>, key: K, span: Span, how: T) -> Option<(Span, T)> {
    match map.entry(key) {
        hash_map::Entry::Vacant(vacant) => {
            vacant.insert((span, how));
            None
        }
        hash_map::Entry::Occupied(mut occupied) => {
            let earlier = *occupied.get();
            if span < earlier.0 {
                occupied.insert((span, how));
            }
            Some(earlier)
        }
    }
}

/// Reports at the place that comes second in the files.
fn twice<'r>(report: &'r mut Report<'_>, one: Span, other: Span, message: String) -> &'r mut Problem {
    report.error(one.max(other), message).label("here again").related(one.min(other), "first used here")
}

impl Claims {
    pub(crate) fn device(
        &mut self,
        stack: Option<&NamespaceName>,
        device: &IfName,
        span: Span,
        how: DeviceUse,
        report: &mut Report<'_>,
    ) {
        let Some((earlier, by)) = claim(&mut self.devices, (stack.cloned(), device.clone()), span, how)
        else {
            return;
        };
        if how == DeviceUse::Uplink && by == DeviceUse::Uplink {
            twice(report, earlier, span, format!("two uplinks have the interface `{device}`"))
                .help("make them one uplink, or give one of them another `interface`");
        } else if how == DeviceUse::Moved || by == DeviceUse::Moved {
            let both = if how == by { "twice" } else { "and is needed on the host, too" };
            twice(report, earlier, span, format!("`{device}` moves into a namespace {both}"))
                .help("a device is in one place: write another one here, or remove one of the two");
        } else {
            twice(report, earlier, span, format!("two devices are called `{device}`"))
                .help("give one of them another name");
        }
    }

    /// Where a device of the host, and of no namespace, is claimed.
    pub(crate) fn device_at(&self, device: &IfName) -> Option<Span> {
        self.devices.get(&(None, device.clone())).map(|(at, _)| *at)
    }

    /// A vnet's port to the outside is a device that others made, of whom there is nothing in the files. To be asked when
    /// everything is claimed.
    pub(crate) fn vnet_port(&self, device: &IfName, is_tagged: bool, span: Span, report: &mut Report<'_>) {
        let Some(&(made, how)) = self.devices.get(&(None, device.clone())) else { return };
        match how {
            DeviceUse::Made => report
                .error(
                    span,
                    format!("{device} is made here, and is no interface that a segment outside is at"),
                )
                .related(made, "it is made for this")
                .help("write the interface that the segment outside is at, like port = \"eth1\""),
            DeviceUse::MadeVlan if is_tagged => report
                .error(
                    span,
                    format!("{device} is made here for another bridge, and a VLAN within a VLAN needs one that is there"),
                )
                .related(made, "it is made for this")
                .help(format!(
                    "write another interface; where {device} is on no uplink, the host's own network configuration can make it, \
                     and it is written there as the `port`, without `vlan`"
                )),
            DeviceUse::MadeVlan => report
                .error(span, format!("{device} is made here for another bridge, and a device is in one"))
                .related(made, "it is made for this")
                .help("write another interface, or another VLAN of one, like port = \"eth1\" and vlan = 20"),
            // An uplink's may be a port by its VLANs; one that moves is nobody's port, as is said where it does.
            DeviceUse::Uplink | DeviceUse::Moved => return,
        };
    }

    /// Claims the address wherever it is answered for; reports once, whatever number of these it is taken in.
    pub(crate) fn address<'a>(
        &mut self,
        segments: impl IntoIterator<Item = &'a Segment>,
        ip: IpAddr,
        span: Span,
        holder: Holder,
        report: &mut Report<'_>,
    ) {
        let mut reported = false;
        for segment in segments {
            let Some((earlier, by)) = claim(&mut self.addresses, (segment.clone(), ip), span, holder) else {
                continue;
            };
            let is_no_clash = match holder {
                // Several routers may share an address (VRRP), and one may serve several uplinks.
                Holder::Router => by == Holder::Router,
                // Then the subnets overlap, which is reported as such.
                Holder::FirstOfSubnet => by == Holder::FirstOfSubnet,
                Holder::Machine | Holder::Gateway => false,
            };
            if reported || is_no_clash {
                continue;
            }
            reported = true;
            if by == holder {
                twice(report, earlier, span, format!("the address {ip} is used twice"))
                    .help("give one of them another address");
            } else {
                report
                    .error(span, format!("the address {ip} is taken"))
                    .related(earlier, by.reason())
                    .help("use another address here, or write another one as the gateway");
            }
        }
    }

    /// A MAC that somebody chose has to be the only one; derived ones must not meet on a segment.
    pub(crate) fn mac<'a>(
        &mut self,
        segments: impl IntoIterator<Item = &'a Segment>,
        mac: MacAddr,
        span: Span,
        origin: MacOrigin,
        report: &mut Report<'_>,
    ) {
        let mut on_segment = None;
        for segment in segments {
            on_segment = on_segment.or(claim(&mut self.macs, (segment.clone(), mac), span, origin));
        }
        let anywhere = match origin {
            MacOrigin::Written => claim(&mut self.written_macs, mac, span, origin),
            MacOrigin::Derived => None,
        };
        let Some((earlier, by)) = on_segment.or(anywhere) else { return };
        if by == MacOrigin::Derived && origin == MacOrigin::Derived {
            twice(
                report,
                earlier,
                span,
                format!("two NICs on one segment get the same derived MAC address {mac}"),
            )
            .help("give one of the guests an `id` of its own, or write a `mac`");
        } else {
            twice(report, earlier, span, format!("the MAC address {mac} is used twice"))
                .help("give one of them another MAC address, or leave it out to have one derived");
        }
    }

    /// A VLAN of a device can be taken out of it once only; the untagged rest, too.
    pub(crate) fn vlan(
        &mut self,
        stack: Option<&NamespaceName>,
        device: &IfName,
        vlan: Option<u16>,
        span: Span,
        what: &'static str,
        report: &mut Report<'_>,
    ) {
        let key = (stack.cloned(), device.clone(), vlan);
        let Some((earlier, by)) = claim(&mut self.vlans, key, span, what) else { return };
        let of = match vlan {
            Some(vlan) => format!("VLAN {vlan} of {device}"),
            None => format!("the untagged segment of {device}"),
        };
        let both = if by == what { format!("two {what}s") } else { format!("a {by} and a {what}") };
        twice(report, earlier, span, format!("{both} are made of {of}"))
            .help("give one of them another `vlan`, or put their guests together on one");
    }

    /// A device is shared by MAC or by address, and in one way; in passthru mode, by nobody.
    pub(crate) fn stacked(
        &mut self,
        device: &IfName,
        how: &'static str,
        span: Span,
        report: &mut Report<'_>,
    ) {
        let Some((earlier, by)) = claim(&mut self.stacked, device.clone(), span, how) else { return };
        if by != how || how == PASSTHRU {
            twice(report, earlier, span, format!("{device} cannot carry a {by} and a {how} device"))
                .help("give one of them another parent, or make them alike");
        }
    }

    pub(crate) fn guest_id(&mut self, id: u32, span: Span, report: &mut Report<'_>) -> bool {
        unique(&mut self.guest_ids, id, span, "two guests have the id", report)
    }

    pub(crate) fn namespace_id(&mut self, id: u32, span: Span, report: &mut Report<'_>) -> bool {
        unique(&mut self.namespace_ids, id, span, "two namespaces have the id", report)
    }

    pub(crate) fn vnet_id(&mut self, id: VnetId, span: Span, report: &mut Report<'_>) -> bool {
        unique(&mut self.vnet_ids, id, span, "two vnets have the id", report)
    }

    /// Who has it is one host, which has all its endpoints by one name.
    pub(crate) fn host_key(&mut self, key: HostKey, span: Span, report: &mut Report<'_>) {
        if let Some((earlier, ())) = claim(&mut self.host_keys, key, span, ()) {
            twice(report, earlier, span, format!("two peers have the key {key}")).help(
                "a host has one key and is one peer, with all its endpoints; write here what `viaduct identity` says on \
                 the other host, or remove one of the two",
            );
        }
    }

    pub(crate) fn vnet_network(&mut self, vnet: &VnetName, span: Span, report: &mut Report<'_>) {
        if let Some((earlier, ())) = claim(&mut self.vnets, vnet.clone(), span, ()) {
            twice(report, earlier, span, format!("two networks lie on the vnet `{vnet}`"))
                .help("make it one network; it may have several subnets");
        }
    }
}

fn unique<K: Hash + Eq + Copy + std::fmt::Display>(
    map: &mut Map<K, ()>,
    id: K,
    span: Span,
    what: &str,
    report: &mut Report<'_>,
) -> bool {
    let Some((earlier, ())) = claim(map, id, span, ()) else { return true };
    twice(report, earlier, span, format!("{what} {id}")).help("give one of them another");
    false
}
