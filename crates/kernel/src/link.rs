//! Network devices: made, changed, taken away, listed.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    net::Ipv6Addr,
    os::fd::RawFd,
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage, link as message,
    link::{
        AfSpecInet6, AfSpecUnspec, BridgeBooleanOptionFlags, BridgeBooleanOptions, BridgeStpState,
        In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoIpVlan, InfoKind, InfoMacVlan,
        InfoPortData, InfoPortKind, InfoVeth, InfoVlan, InfoVxlan, IpVlanMode, LinkAttribute, LinkExtentMask,
        LinkFlags, LinkHeader, LinkInfo, LinkMessage, MacVlanMode, VlanQosMapping, VxlanDf,
    },
};
use rustix::net::netdevice;
use viaduct_plan::{GROUP, Kind, Link, PortVlans, Underlay};
use viaduct_types::{IfName, IpvlanMode, MacAddr, MacvlanMode, Priorities, VlanProtocol, Vni};

use crate::{
    attr::{self, find},
    error::Refusal,
    socket::{Request, Socket},
};

// include/uapi/linux/if_link.h; only what is read.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFF_TAP: u8 = 2;
const AF_INET6: u16 = 10;
const IFLA_INET6_CONF: u16 = 2;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
/// Where addr_gen_mode stands in the array IFLA_INET6_CONF (include/uapi/linux/ipv6.h).
const DEVCONF_ADDR_GEN_MODE: usize = 47;
const ADDR_GEN_NONE: u32 = 1;

/// So many MACs a bridge of ours learns, as many as large switches do; what is for further ones goes to all of its ports.
const MOST_LEARNED: u32 = 16_384;

/// The loopback device is always the first of its namespace (LOOPBACK_IFINDEX).
pub(crate) const LOOPBACK: Which<'static> = Which::Index(1);

/// Which link a message is about.
#[derive(Clone, Copy)]
pub(crate) enum Which<'a> {
    Index(u32),
    Name(&'a IfName),
}

/// What a link is to have; what is none stays as it is.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) up: Option<bool>,
    pub(crate) mtu: Option<u32>,
    pub(crate) mac: Option<MacAddr>,
    /// The bridge's ifindex, 0 for none.
    pub(crate) master: Option<u32>,
    pub(crate) alias: Option<String>,
    pub(crate) group: Option<u32>,
    pub(crate) addrgen_none: Option<bool>,
}

/// Changes a link that exists. RTM_SETLINK, never RTM_NEWLINK: the latter, about a name that nobody has and with a
/// group, would change every link of that group (`rtnl_group_changelink` in net/core/rtnetlink.c).
pub(crate) fn set(which: Which<'_>, settings: &Settings) -> Request {
    Request::change(&RouteNetlinkMessage::SetLink(settings_message(which, settings)), 0)
}

/// The same, answered only when it fails.
pub(crate) fn set_quietly(which: Which<'_>, settings: &Settings) -> Request {
    Request::quiet(&RouteNetlinkMessage::SetLink(settings_message(which, settings)))
}

fn settings_message(which: Which<'_>, settings: &Settings) -> LinkMessage {
    let mut message = about(which);
    if let Some(up) = settings.up {
        message.header.flags.set(LinkFlags::Up, up);
        message.header.change_mask = LinkFlags::Up;
    }
    let attributes = &mut message.attributes;
    attributes.extend(settings.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    attributes.extend(settings.mtu.map(LinkAttribute::Mtu));
    attributes.extend(settings.master.map(LinkAttribute::Controller));
    attributes.extend(settings.group.map(LinkAttribute::Group));
    attributes.extend(settings.alias.clone().map(LinkAttribute::IfAlias));
    attributes.extend(settings.addrgen_none.map(|none| {
        let mode = if none { In6AddrGenMode::None } else { In6AddrGenMode::Eui64 };
        LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)])])
    }));
    message
}

/// Moves a link into another namespace, by another name there. The name must be free on both sides.
pub(crate) fn move_to(index: u32, netns: RawFd, name: &IfName) -> Request {
    let mut message = about(Which::Index(index));
    message.attributes = vec![LinkAttribute::IfName(name.to_string()), LinkAttribute::NetNsFd(netns)];
    Request::change(&RouteNetlinkMessage::SetLink(message), 0)
}

/// Changes a link's name; it has to be down.
pub(crate) fn rename(index: u32, name: &IfName) -> Request {
    let mut message = about(Which::Index(index));
    message.attributes = vec![LinkAttribute::IfName(name.to_string())];
    Request::change(&RouteNetlinkMessage::SetLink(message), 0)
}

/// Changes a setting of a bridge's port.
pub(crate) fn set_port(which: Which<'_>, setting: InfoBridgePort) -> Request {
    let mut message = about(which);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![setting])),
    ]));
    // Port settings are taken from RTM_NEWLINK only; without a group it is about this one or nothing.
    Request::change(&RouteNetlinkMessage::NewLink(message), 0)
}

/// Has a bridge look at VLANs, where a new port is on none, or not, where it is on the usual one.
pub(crate) fn set_filters_vlans(which: Which<'_>, filters: bool) -> Request {
    let mut message = about(which);
    let own = u16::from(!filters);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(vec![
            InfoBridge::VlanDefaultPvid(own),
            InfoBridge::VlanFiltering(filters),
        ])),
    ]));
    Request::change(&RouteNetlinkMessage::NewLink(message), 0)
}

/// What to make.
pub(crate) enum Make<'a> {
    Bridge,
    Veth { netns: RawFd, peer: &'a IfName, peer_mac: MacAddr },
    Vxlan { vni: Vni, port: u16, underlay: Underlay },
    Vlan { lower: u32, id: u16, protocol: VlanProtocol, priorities: &'a Priorities },
    Macvlan { lower: u32, mode: MacvlanMode },
    Ipvlan { lower: u32, mode: IpvlanMode },
}

/// Makes a link, down, with the ifindex that the caller chose, so that what follows in the same batch is about this
/// link or, if it could not be made, about none: never about a stranger of the same name.
pub(crate) fn make(
    index: u32,
    name: &IfName,
    make: &Make<'_>,
    mac: Option<MacAddr>,
    mtu: Option<u32>,
) -> Request {
    let mut message = new_link(index, name, make, mac, mtu);
    message.attributes.push(LinkAttribute::Group(GROUP));
    Request::change(&RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Makes a link in another namespace, down, with an ifindex of the kernel's choice. What it stands on is in this one. It
/// has no group: there it is no guest's.
pub(crate) fn make_inside(
    netns: RawFd,
    name: &IfName,
    make: &Make<'_>,
    mac: Option<MacAddr>,
    mtu: Option<u32>,
) -> Request {
    let mut message = new_link(0, name, make, mac, mtu);
    message.attributes.push(LinkAttribute::NetNsFd(netns));
    Request::change(&RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

fn new_link(
    index: u32,
    name: &IfName,
    make: &Make<'_>,
    mac: Option<MacAddr>,
    mtu: Option<u32>,
) -> LinkMessage {
    let mut message = about(Which::Index(index));
    let attributes = &mut message.attributes;
    attributes.push(LinkAttribute::IfName(name.to_string()));
    attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    attributes.extend(mtu.map(LinkAttribute::Mtu));
    let info = match make {
        Make::Bridge => vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![
                InfoBridge::ForwardDelay(0),
                InfoBridge::StpState(BridgeStpState::Disabled),
                InfoBridge::MulticastSnooping(false),
                // Whoever sends with ever new MACs takes no more of the kernel's memory (Linux 6.7; older ones pass over it).
                InfoBridge::FdbMaxLearned(MOST_LEARNED),
                // Frames to 01:80:c2:00:00:0X go past the filter at prerouting, so that a bridge which learned from
                // them would send a guest's frames to whoever claims its MAC (net/bridge/br_input.c,
                // `br_handle_frame`).
                InfoBridge::MultiBoolOpt(BridgeBooleanOptions {
                    value: BridgeBooleanOptionFlags::NoLinkLocalLearn,
                    mask: BridgeBooleanOptionFlags::NoLinkLocalLearn,
                }),
            ])),
        ],
        Make::Veth { netns, peer, peer_mac } => {
            // Down: with IFF_UP here the kernel answers ENOTCONN, the first end does not exist yet.
            let mut far = LinkMessage::default();
            far.attributes = vec![
                LinkAttribute::IfName(peer.to_string()),
                LinkAttribute::Address(peer_mac.0.to_vec()),
                LinkAttribute::NetNsFd(*netns),
            ];
            far.attributes.extend(mtu.map(LinkAttribute::Mtu));
            vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far)))]
        }
        Make::Vxlan { vni, port, underlay } => {
            let mut data = vec![
                InfoVxlan::Id(vni.number()),
                InfoVxlan::Learning(false),
                InfoVxlan::Port(*port),
                InfoVxlan::Df(VxlanDf::Set),
            ];
            // Its own address, which is any, says which family it is of.
            data.extend((*underlay == Underlay::V6).then_some(InfoVxlan::Local6(Ipv6Addr::UNSPECIFIED)));
            vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))]
        }
        Make::Vlan { lower, id, protocol, priorities } => {
            attributes.push(LinkAttribute::Link(*lower));
            let mut data = vec![InfoVlan::Id(*id)];
            if *protocol == VlanProtocol::Service {
                data.push(InfoVlan::Protocol(message::VlanProtocol::Ieee8021Ad));
            }
            let pairs = |pairs: &[(u32, u32)]| {
                pairs.iter().map(|(from, to)| VlanQosMapping::Mapping(*from, *to)).collect::<Vec<_>>()
            };
            if !priorities.ingress.is_empty() {
                data.push(InfoVlan::IngressQos(pairs(&priorities.ingress)));
            }
            if !priorities.egress.is_empty() {
                data.push(InfoVlan::EgressQos(pairs(&priorities.egress)));
            }
            vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(InfoData::Vlan(data))]
        }
        Make::Macvlan { lower, mode } => {
            attributes.push(LinkAttribute::Link(*lower));
            let mode = InfoMacVlan::Mode(match mode {
                MacvlanMode::Bridge => MacVlanMode::Bridge,
                MacvlanMode::Private => MacVlanMode::Private,
                MacvlanMode::Vepa => MacVlanMode::Vepa,
                MacvlanMode::Passthru => MacVlanMode::Passthrough,
            });
            vec![LinkInfo::Kind(InfoKind::MacVlan), LinkInfo::Data(InfoData::MacVlan(vec![mode]))]
        }
        Make::Ipvlan { lower, mode } => {
            attributes.push(LinkAttribute::Link(*lower));
            let mode = InfoIpVlan::Mode(match mode {
                IpvlanMode::L2 => IpVlanMode::L2,
                IpvlanMode::L3 => IpVlanMode::L3,
                IpvlanMode::L3s => IpVlanMode::L3S,
            });
            vec![LinkInfo::Kind(InfoKind::IpVlan), LinkInfo::Data(InfoData::IpVlan(vec![mode]))]
        }
    };
    attributes.push(LinkAttribute::LinkInfo(info));
    message
}

/// Ifindexes that we choose: far above those that the kernel counts up from 1, so that nobody else's device gets
/// one between the choice and the making.
const INDEXES: std::ops::Range<u32> = 1 << 20..1 << 21;

/// Where to begin to look for a free one; each process elsewhere.
pub(crate) fn first_index() -> u32 {
    let random = RandomState::new().build_hasher().finish();
    let offset = random % u64::from(INDEXES.end - INDEXES.start);
    INDEXES.start + u32::try_from(offset).unwrap_or(0)
}

/// An ifindex that no device has, the next after `from`, which moves on.
pub(crate) fn free_index(socket: &Socket, from: &mut u32) -> u32 {
    for _ in INDEXES {
        let index = *from;
        *from = if INDEXES.contains(&(index + 1)) { index + 1 } else { INDEXES.start };
        if netdevice::index_to_name_inlined(socket, index).is_err() {
            return index;
        }
    }
    // A million links: let the kernel refuse.
    *from
}

/// A group number that nobody has used: people's are small, ours is [`GROUP`], and each deletion takes another one,
/// so that links which an earlier one left behind in its group are not this one's to delete.
pub(crate) fn fresh_group(socket: &Socket, from: &mut u32) -> u32 {
    const FAR: u32 = 1 << 31;
    FAR + free_index(socket, from)
}

/// The ifindex of a name, if a device has it.
pub(crate) fn index_of(socket: &Socket, name: &IfName) -> io::Result<Option<u32>> {
    // The ioctl goes by the socket's namespace, whatever the thread's is.
    match netdevice::name_to_index(socket, name.as_str()) {
        Ok(index) => Ok(Some(index)),
        Err(e) if e == rustix::io::Errno::NODEV => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Takes one link away.
pub(crate) fn delete(index: u32) -> Request {
    Request::change(&RouteNetlinkMessage::DelLink(about(Which::Index(index))), 0)
}

/// Takes all links of a group away, with one wait for RCU instead of one per link.
pub(crate) fn delete_group(group: u32) -> Request {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Group(group));
    Request::change(&RouteNetlinkMessage::DelLink(message), 0)
}

fn about(which: Which<'_>) -> LinkMessage {
    let mut message = LinkMessage::default();
    match which {
        Which::Index(index) => message.header = LinkHeader { index, ..LinkHeader::default() },
        Which::Name(name) => message.attributes.push(LinkAttribute::IfName(name.to_string())),
    }
    message
}

/// All links of the socket's namespace, by name. Names that [`IfName`] does not take are left out: nothing in a
/// configuration can mean them.
pub(crate) fn list(socket: &mut Socket) -> Result<BTreeMap<IfName, Link>, Refusal> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let found = socket.ask(&Request::dump(&RouteNetlinkMessage::GetLink(message)), read)?;
    let names: BTreeMap<u32, IfName> = found.iter().map(|f| (f.link.index, f.name.clone())).collect();
    Ok(found
        .into_iter()
        .map(|Found { name, mut link, master }| {
            link.master = names.get(&master).cloned();
            (name, link)
        })
        .collect())
}

/// One link, without its master's name.
pub(crate) fn one(socket: &mut Socket, which: Which<'_>) -> Result<Option<Link>, Refusal> {
    Ok(found(socket, which)?.map(|found| found.link))
}

/// One link, with its master's ifindex.
pub(crate) fn found(socket: &mut Socket, which: Which<'_>) -> Result<Option<Found>, Refusal> {
    let mut message = about(which);
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    match socket.ask(&Request::change(&RouteNetlinkMessage::GetLink(message), 0), read) {
        Ok(found) => Ok(found.into_iter().next()),
        Err(refusal) if refusal.errno == libc::ENODEV => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// A link in a few words, for people.
pub(crate) fn describe(link: &Link) -> String {
    let kind = match &link.kind {
        Kind::Bridge => "a bridge",
        Kind::Veth => "a veth",
        Kind::Tap => "a tap",
        Kind::Other(kind) if kind.is_empty() => "a network card",
        Kind::Other(kind) => return format!("a device of kind {kind}"),
    };
    match link.alias.as_str() {
        "" => format!("{kind} that is not ours"),
        alias => format!("{kind} with alias {alias:?}"),
    }
}

/// A link as the kernel tells it.
pub(crate) struct Found {
    pub(crate) name: IfName,
    pub(crate) link: Link,
    /// ifindex, 0 for none.
    pub(crate) master: u32,
}

pub(crate) fn read(_kind: u16, body: &[u8]) -> Option<Found> {
    let header = LinkHeader::parse(body).ok()?;
    let attributes = body.get(16..)?;
    let get = |kind| find(attributes, kind);
    let name = get(IFLA_IFNAME).map(attr::text)?;
    let Ok(name) = name.parse::<IfName>() else {
        tracing::debug!(name, "a device whose name no configuration can hold is left out");
        return None;
    };
    let info = get(IFLA_LINKINFO).unwrap_or_default();
    let kind = find(info, IFLA_INFO_KIND).map(attr::text).unwrap_or_default();
    let kind = match kind.as_str() {
        "bridge" => Kind::Bridge,
        "veth" => Kind::Veth,
        "tun" if find(info, IFLA_INFO_DATA).and_then(|d| find(d, IFLA_TUN_TYPE)) == Some(&[IFF_TAP]) => {
            Kind::Tap
        }
        _ => Kind::Other(kind),
    };
    let filters_vlans = kind == Kind::Bridge
        && find(info, IFLA_INFO_DATA).and_then(|d| find(d, IFLA_BR_VLAN_FILTERING)).and_then(attr::u8)
            == Some(1);
    let vlan = (kind == Kind::Other("vlan".to_owned()))
        .then(|| find(info, IFLA_INFO_DATA).and_then(|data| find(data, IFLA_VLAN_ID)).and_then(attr::u16))
        .flatten();
    let port = find(info, IFLA_INFO_SLAVE_KIND).map(attr::text).is_some_and(|kind| kind == "bridge");
    let settings = port.then(|| find(info, IFLA_INFO_SLAVE_DATA)).flatten().unwrap_or_default();
    let is_set = |setting| find(settings, setting).and_then(attr::u8) == Some(1);
    let link = Link {
        index: header.index,
        // A veth's other end; for others IFLA_LINK is what they stand on.
        peer_index: get(IFLA_LINK).filter(|_| kind == Kind::Veth).and_then(attr::u32).unwrap_or(0),
        vlan: get(IFLA_LINK).and_then(attr::u32).zip(vlan),
        filters_vlans,
        vlans: PortVlans::default(),
        kind,
        mac: get(IFLA_ADDRESS).and_then(attr::mac).filter(|mac| !mac.is_zero()),
        mtu: get(IFLA_MTU).and_then(attr::u32).unwrap_or(0),
        up: header.flags.contains(LinkFlags::Up),
        master: None,
        alias: get(IFLA_IFALIAS).map(attr::text).unwrap_or_default(),
        group: get(IFLA_GROUP).and_then(attr::u32).unwrap_or(0),
        isolated: is_set(IFLA_BRPORT_ISOLATED),
        hairpin: is_set(IFLA_BRPORT_MODE),
        addrgen_none: addrgen_none(get(IFLA_AF_SPEC).unwrap_or_default()),
    };
    Some(Found { name, link, master: get(IFLA_MASTER).and_then(attr::u32).unwrap_or(0) })
}

/// A device without IPv6 makes no link-local address either. The kernel leaves IFLA_INET6_ADDR_GEN_MODE out together
/// with the statistics (`inet6_fill_ifla6_attrs`), but tells it in the settings, too.
fn addrgen_none(spec: &[u8]) -> bool {
    let Some(inet6) = find(spec, AF_INET6) else { return true };
    if let Some(mode) = find(inet6, IFLA_INET6_ADDR_GEN_MODE).and_then(attr::u8) {
        return u32::from(mode) == ADDR_GEN_NONE;
    }
    let settings = find(inet6, IFLA_INET6_CONF).unwrap_or_default();
    let mode = settings.chunks_exact(4).nth(DEVCONF_ADDR_GEN_MODE).and_then(attr::u32);
    mode == Some(ADDR_GEN_NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_bytes_are_no_link_and_no_panic() {
        assert!(read(16, &[]).is_none());
        assert!(read(16, &[0; 16]).is_none());
        for fill in [0_u8, 1, 4, 0xff] {
            for len in 0..200 {
                let _ = read(16, &vec![fill; len]);
            }
        }
        let mut body = vec![0; 16];
        attr::put(&mut body, IFLA_IFNAME, b"eth0\0");
        attr::put(&mut body, IFLA_MTU, &[1]);
        attr::put(&mut body, IFLA_ADDRESS, &[1, 2, 3]);
        attr::put(&mut body, IFLA_LINKINFO, &[0xff; 7]);
        let found = read(16, &body).unwrap();
        assert_eq!((found.name.as_str(), found.link.mtu, found.link.mac), ("eth0", 0, None));
    }
}
