//! Where MACs are, as the kernel's bridges and VXLAN devices have it (rtnetlink(7)).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{
        InfoBridge, InfoBridgePort, InfoData, InfoPortData, InfoPortKind, LinkAttribute, LinkInfo,
        LinkMessage,
    },
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage,
        NeighbourState,
    },
};
use rustix::net::{SocketType, netdevice, socket};
use viaduct_types::{IfName, MacAddr, Vni};

use super::rtnetlink::{Told, ask, change};

/// Where frames for everybody go: VXLAN has them under this.
pub(super) const EVERYBODY: MacAddr = MacAddr([0; 6]);

/// Where a host takes VXLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Remote {
    pub(super) ip: IpAddr,
    /// The number of the link that a link-local address is on: each link has these, and one of them the kernel would take.
    pub(super) link: Option<u32>,
}

impl From<SocketAddr> for Remote {
    fn from(address: SocketAddr) -> Self {
        let link = match address {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => Some(v6.scope_id()),
            SocketAddr::V4(_) | SocketAddr::V6(_) => None,
        };
        Self { ip: address.ip(), link: link.filter(|link| *link != 0) }
    }
}

/// Where a VXLAN device sends what is for a MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Far {
    pub(super) mac: MacAddr,
    pub(super) to: Remote,
    pub(super) vni: Vni,
}

/// A MAC behind a port of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Near {
    /// The port's number.
    pub(super) port: u32,
    pub(super) mac: MacAddr,
}

/// The device's number; none when it is not there.
pub(super) fn index(device: &IfName) -> Option<u32> {
    let any = socket(rustix::net::AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
    netdevice::name_to_index(&any, device.as_str()).ok()
}

/// How many frames a device has sent; none when it is not there.
pub(super) fn frames_out(device: u32) -> Option<u64> {
    attribute(device, |attribute| {
        let LinkAttribute::Stats64(counters) = attribute else { return None };
        Some(counters.tx_packets)
    })
}

/// A device's own MAC.
pub(super) fn own_mac(device: u32) -> Option<MacAddr> {
    attribute(device, |attribute| {
        let LinkAttribute::Address(bytes) = attribute else { return None };
        bytes.as_slice().try_into().ok().map(MacAddr)
    })
}

/// How long the packets are that a device takes.
pub(super) fn mtu(device: u32) -> Option<u32> {
    attribute(device, |attribute| {
        let LinkAttribute::Mtu(mtu) = attribute else { return None };
        Some(*mtu)
    })
}

/// The group that a device is in.
pub(super) fn group(device: u32) -> Option<u32> {
    attribute(device, |attribute| {
        let LinkAttribute::Group(group) = attribute else { return None };
        Some(*group)
    })
}

/// Puts it into another one.
pub(super) fn set_group(device: u32, group: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = device;
    message.attributes.push(LinkAttribute::Group(group));
    change(RouteNetlinkMessage::SetLink(message), 0)
}

/// The bridge whose port a device is.
pub(super) fn bridge_of(port: u32) -> Option<u32> {
    attribute(port, |attribute| {
        let LinkAttribute::Controller(bridge) = attribute else { return None };
        Some(*bridge)
    })
}

/// For how long a bridge knows of a MAC that is not heard.
pub(super) fn ageing(bridge: u32) -> Option<Duration> {
    attribute(bridge, |attribute| {
        let LinkAttribute::LinkInfo(infos) = attribute else { return None };
        infos.iter().find_map(|info| {
            let LinkInfo::Data(InfoData::Bridge(settings)) = info else { return None };
            settings.iter().find_map(|setting| {
                let InfoBridge::AgeingTime(ticks) = setting else { return None };
                Some(of_ticks(*ticks))
            })
        })
    })
}

/// The kernel counts hundredths of a second (USER_HZ).
fn of_ticks(ticks: u32) -> Duration {
    Duration::from_millis(u64::from(ticks) * 10)
}

fn attribute<T>(device: u32, find: impl Fn(&LinkAttribute) -> Option<T>) -> Option<T> {
    let mut message = LinkMessage::default();
    message.header.index = device;
    let mut found = None;
    ask(RouteNetlinkMessage::GetLink(message), 0, |answer| {
        if let Told::Link(link) = answer {
            found = link.attributes.iter().find_map(&find);
        }
    })
    .ok()?;
    found
}

/// A port of a bridge lets in only what comes from MACs that it was told are there, and learns of no others.
pub(super) fn lock(port: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = port;
    let settings = vec![InfoBridgePort::Learning(false), InfoBridgePort::Locked(true)];
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(settings)),
    ]));
    change(RouteNetlinkMessage::NewLink(message), 0)
}

/// Whether a device is a bridge's port that learns, as one that has left its bridge does when it is put there again.
pub(super) fn learns(port: u32) -> bool {
    let learns = attribute(port, |attribute| {
        let LinkAttribute::LinkInfo(infos) = attribute else { return None };
        infos.iter().find_map(|info| {
            let LinkInfo::PortData(InfoPortData::BridgePort(settings)) = info else { return None };
            settings.iter().find_map(|setting| {
                let InfoBridgePort::Learning(learns) = setting else { return None };
                Some(*learns)
            })
        })
    });
    learns == Some(true)
}

/// What is for a MAC goes there, whatever was said before; for everybody: there, too.
pub(super) fn send_to(device: u32, far: Far) -> io::Result<()> {
    let how = if far.mac == EVERYBODY { NLM_F_APPEND } else { NLM_F_REPLACE };
    change(RouteNetlinkMessage::NewNeighbour(of_device(device, far)), NLM_F_CREATE | how)
}

/// It does not go there.
pub(super) fn send_no_more(device: u32, far: Far) -> io::Result<()> {
    fine(change(RouteNetlinkMessage::DelNeighbour(of_device(device, far)), 0))
}

fn of_device(device: u32, far: Far) -> NeighbourMessage {
    let state = u16::from(NeighbourState::Noarp) | u16::from(NeighbourState::Permanent);
    let mut message = neighbour(device, NeighbourState::Other(state), NeighbourFlags::Own, far.mac);
    let attributes =
        [NeighbourAttribute::Destination(far.to.ip.into()), NeighbourAttribute::Vni(far.vni.number())];
    message.attributes.extend(attributes);
    message.attributes.extend(far.to.link.map(NeighbourAttribute::IfIndex));
    message
}

/// A MAC is behind a port as if it had just been heard there.
pub(super) fn hear(near: Near) -> io::Result<()> {
    put(neighbour(near.port, NeighbourState::Reachable, NeighbourFlags::Controller, near.mac))
}

/// A MAC is behind a port; with `stays` also when it is heard elsewhere. It does not age.
pub(super) fn lead(near: Near, stays: bool) -> io::Result<()> {
    let mut flags = NeighbourFlags::Controller;
    flags.set(NeighbourFlags::Sticky, stays);
    put(neighbour(near.port, NeighbourState::Noarp, flags, near.mac))
}

/// It is not; where it is, shows.
pub(super) fn lead_no_more(near: Near) -> io::Result<()> {
    let message = neighbour(near.port, NeighbourState::Noarp, NeighbourFlags::Controller, near.mac);
    fine(change(RouteNetlinkMessage::DelNeighbour(message), 0))
}

fn put(message: NeighbourMessage) -> io::Result<()> {
    change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
}

fn fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        // Nothing was known of it.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// What a bridge and its ports know.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// MACs behind ports.
    pub(super) nears: Vec<Near>,
    /// Where VXLAN sends what is for which MAC, each with the number of its device.
    pub(super) fars: Vec<(u32, Far)>,
}

/// All of it, where VXLAN devices take frames by `own` number: where they send to others by the same, the kernel does not say so.
pub(super) fn known(bridge: u32, own: Vni) -> io::Result<Known> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.attributes.push(NeighbourAttribute::Controller(bridge));
    let mut known = Known::default();
    ask(RouteNetlinkMessage::GetNeighbour(message), NLM_F_DUMP, |answer| {
        if let Told::Neighbour(entry) = answer {
            known.nears.extend(near(&entry));
            known.fars.extend(far(&entry, own));
        }
    })?;
    Ok(known)
}

/// Behind which of its ports a bridge knows a MAC, and for how long it has not been heard there; what does not age has always just
/// been. None when it does not. (Linux 5.0, net/bridge/br_fdb.c, `br_fdb_get`.)
pub(super) fn heard(bridge: u32, mac: MacAddr) -> io::Result<Option<(Near, Duration)>> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.attributes =
        vec![NeighbourAttribute::Controller(bridge), NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
    let mut found = None;
    let asked = ask(RouteNetlinkMessage::GetNeighbour(message), 0, |answer| {
        let Told::Neighbour(entry) = answer else { return };
        let Some(near) = near(&entry) else { return };
        let quiet = entry.attributes.iter().find_map(|attribute| {
            let NeighbourAttribute::CacheInfo(info) = attribute else { return None };
            Some(of_ticks(info.updated))
        });
        let ages = entry.header.state != NeighbourState::Noarp;
        found = Some((near, quiet.filter(|_| ages).unwrap_or_default()));
    });
    fine(asked)?;
    Ok(found)
}

/// None for what is a VXLAN device's, or the kernel's own: permanent are the MACs of the ports themselves.
fn near(entry: &NeighbourMessage) -> Option<Near> {
    let NeighbourHeader { ifindex: port, state, flags, .. } = entry.header;
    let is_permanent = u16::from(state) & u16::from(NeighbourState::Permanent) != 0;
    if is_permanent || flags.contains(NeighbourFlags::Own) {
        return None;
    }
    Some(Near { port, mac: mac(entry)? })
}

/// None for what is no VXLAN device's. Where no number is told, it is the device's own.
fn far(entry: &NeighbourMessage, own: Vni) -> Option<(u32, Far)> {
    let NeighbourHeader { ifindex: device, flags, .. } = entry.header;
    let (mut to, mut link, mut vni) = (None, None, own);
    for attribute in &entry.attributes {
        if let NeighbourAttribute::Destination(address) = attribute {
            to = ip(address);
        } else if let NeighbourAttribute::IfIndex(number) = attribute {
            link = Some(*number);
        } else if let NeighbourAttribute::Vni(number) = attribute {
            vni = Vni::new(*number)?;
        }
    }
    let is_far = flags.contains(NeighbourFlags::Own);
    let far = Far { mac: mac(entry)?, to: Remote { ip: to?, link }, vni };
    is_far.then_some((device, far))
}

fn mac(entry: &NeighbourMessage) -> Option<MacAddr> {
    entry.attributes.iter().find_map(|attribute| {
        let NeighbourAttribute::LinkLayerAddress(bytes) = attribute else { return None };
        bytes.as_slice().try_into().ok().map(MacAddr)
    })
}

fn ip(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(v4) => Some((*v4).into()),
        NeighbourAddress::Inet6(v6) => Some((*v6).into()),
        // The entries' own family is that of bridges, so that only the length tells.
        NeighbourAddress::Other(bytes) => match bytes.len() {
            4 => bytes.as_slice().try_into().ok().map(|v4: [u8; 4]| Ipv4Addr::from(v4).into()),
            _ => bytes.as_slice().try_into().ok().map(|v6: [u8; 16]| Ipv6Addr::from(v6).into()),
        },
        _ => None,
    }
}

fn neighbour(device: u32, state: NeighbourState, flags: NeighbourFlags, mac: MacAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header =
        NeighbourHeader { family: AddressFamily::Bridge, ifindex: device, state, flags, ..message.header };
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message
}
