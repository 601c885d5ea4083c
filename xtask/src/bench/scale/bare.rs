//! What the kernel alone needs for the links of so many routed guests: a veth each into the guest's namespace, with
//! the addresses and routes that Viaduct gives it, as netlink messages in batches. No filter, no settings, no look.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd},
    thread,
    time::{Duration, Instant},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags,
        LinkInfo, LinkMessage,
    },
    route::{RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::super::guests::Guest;

/// Ifindexes on the host: far above what the kernel counts up from 1.
const FIRST: u32 = 1 << 21;
/// The links' group, so that all of them can be taken away at once.
const GROUP: u32 = 4_242;
/// Messages per system call, with as many answers to keep.
const BATCH: usize = 256;
/// `RT_TABLE_MAIN`
const MAIN: u8 = 254;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// How links are taken away.
#[derive(Clone, Copy, Debug)]
pub(super) enum Away {
    /// A message for each.
    One,
    /// One message for their group.
    Group,
}

/// Makes the links of guests whose namespaces exist; how long it took.
pub(super) fn make(host: &str, guests: &[Guest]) -> Result<Duration, String> {
    elsewhere(host, || {
        let start = Instant::now();
        let mut links = Vec::new();
        let mut files = Vec::new();
        for guest in guests {
            let file = netns(&guest.name())?;
            links.push(new(veth(*guest, &file)));
            links.push(RouteNetlinkMessage::SetLink(up(*guest)));
            links.extend(host_side(*guest));
            files.push(file);
        }
        let mut socket = open()?;
        send(&mut socket, links)?;
        for (guest, file) in guests.iter().zip(&files) {
            // The socket stays where it was opened.
            enter(file)?;
            let mut socket = open()?;
            let index = index(&socket)?;
            send(&mut socket, guest_side(*guest, index))?;
        }
        Ok(start.elapsed())
    })
}

/// Takes the links away; how long it took.
pub(super) fn away(host: &str, guests: &[Guest], how: Away) -> Result<Duration, String> {
    elsewhere(host, || {
        let start = Instant::now();
        let messages = match how {
            Away::One => guests.iter().map(|guest| RouteNetlinkMessage::DelLink(about(*guest))).collect(),
            Away::Group => {
                let mut message = LinkMessage::default();
                message.attributes.push(LinkAttribute::Group(GROUP));
                vec![RouteNetlinkMessage::DelLink(message)]
            }
        };
        send(&mut open()?, messages)?;
        Ok(start.elapsed())
    })
}

fn index_of(guest: Guest) -> u32 {
    FIRST + guest.number
}

fn about(guest: Guest) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index_of(guest);
    message
}

fn new(message: LinkMessage) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewLink(message)
}

fn veth(guest: Guest, netns: &File) -> LinkMessage {
    let mut message = about(guest);
    let mut far = LinkMessage::default();
    far.attributes =
        vec![LinkAttribute::IfName("eth0".to_owned()), LinkAttribute::NetNsFd(netns.as_raw_fd())];
    message.attributes = vec![
        LinkAttribute::IfName(format!("bare{}", guest.number)),
        LinkAttribute::Group(GROUP),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far))),
        ]),
    ];
    message
}

fn up(guest: Guest) -> LinkMessage {
    let mut message = about(guest);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    let silent = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![silent])]));
    message
}

fn host_side(guest: Guest) -> [RouteNetlinkMessage; 3] {
    let index = index_of(guest);
    [
        address(index, GATEWAY6.into(), 64),
        route(index, Some(guest.address().into()), None),
        route(index, Some(guest.address6().into()), None),
    ]
}

fn guest_side(guest: Guest, index: u32) -> Vec<RouteNetlinkMessage> {
    let up = |index| {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        RouteNetlinkMessage::SetLink(message)
    };
    vec![
        up(1),
        up(index),
        address(index, guest.address().into(), 32),
        address(index, guest.address6().into(), 128),
        route(index, None, Some(GATEWAY.into())),
        route(index, None, Some(GATEWAY6.into())),
    ]
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

pub(super) fn address(index: u32, address: IpAddr, length: u8) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = length;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    if address.is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    RouteNetlinkMessage::NewAddress(message)
}

/// To one address, or by a gateway to everything.
pub(super) fn route(index: u32, to: Option<IpAddr>, via: Option<IpAddr>) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    let any = to.or(via).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    message.header.address_family = family(any);
    message.header.table = MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(index));
    if let Some(to) = to {
        message.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(to.into()));
        message.header.scope = if to.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    }
    if let Some(via) = via {
        message.header.flags = RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::Gateway(via.into()));
    }
    RouteNetlinkMessage::NewRoute(message)
}

fn netns(name: &str) -> Result<File, String> {
    let path = format!("/run/netns/{name}");
    File::open(&path).map_err(|error| format!("{path}: {error}"))
}

fn enter(netns: &File) -> Result<(), String> {
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| format!("entering a namespace: {error}"))
}

/// Does something on a thread of its own in a machine's namespace.
pub(super) fn elsewhere<T: Send>(
    name: &str,
    work: impl FnOnce() -> Result<T, String> + Send,
) -> Result<T, String> {
    let netns = netns(name)?;
    let run = || enter(&netns).and_then(|()| work());
    thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

pub(super) fn open() -> Result<Socket, String> {
    let failed = |error| format!("netlink: {error}");
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
    socket.bind_auto().map_err(failed)?;
    socket.set_cap_ack(true).map_err(failed)?;
    // By default, not even these batches fit.
    let size = |result: rustix::io::Result<()>| result.map_err(|error| format!("netlink's buffers: {error}"));
    size(rustix::net::sockopt::set_socket_send_buffer_size_force(&socket, 4 << 20))?;
    size(rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20))?;
    Ok(socket)
}

/// The guest's device, where the socket is.
fn index(socket: &Socket) -> Result<u32, String> {
    index_named(socket, "eth0")
}

/// A device, where the socket is.
pub(super) fn index_named(socket: &Socket, name: &str) -> Result<u32, String> {
    rustix::net::netdevice::name_to_index(socket, name).map_err(|error| format!("a guest's {name}: {error}"))
}

pub(super) fn send(socket: &mut Socket, messages: Vec<RouteNetlinkMessage>) -> Result<(), String> {
    let mut rest = messages.into_iter().peekable();
    while rest.peek().is_some() {
        let mut bytes = Vec::new();
        let mut missing = 0_usize;
        for message in rest.by_ref().take(BATCH) {
            let adds = matches!(
                message,
                RouteNetlinkMessage::NewLink(_)
                    | RouteNetlinkMessage::NewAddress(_)
                    | RouteNetlinkMessage::NewRoute(_)
            );
            let mut message = NetlinkMessage::from(message);
            message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
            message.header.flags |= if adds { NLM_F_CREATE | NLM_F_EXCL } else { 0 };
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..]);
            missing += 1;
        }
        socket.send(&bytes, 0).map_err(|error| format!("netlink: {error}"))?;
        while missing > 0 {
            let (answer, _) = socket.recv_from_full().map_err(|error| format!("netlink: {error}"))?;
            missing -= answers(&answer)?;
        }
    }
    Ok(())
}

/// How many answers there are; the first one that is an error.
fn answers(mut bytes: &[u8]) -> Result<usize, String> {
    let mut count = 0;
    while bytes.len() >= 16 {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
            .map_err(|error| format!("netlink's answer: {error}"))?;
        if let NetlinkPayload::Error(error) = &message.payload {
            if error.code.is_some() {
                return Err(format!("a bare netlink message was refused: {error}"));
            }
            count += 1;
        }
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Ok(count)
}
