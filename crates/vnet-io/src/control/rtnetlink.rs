//! What the kernel is asked of devices and of where MACs are, and what it says (rtnetlink(7)).
//!
//! Kernels say more of a device with each version, and not always in the form that is known here: only what is needed is read, and
//! what cannot be read is as if it had not been said.

use std::{io, time::Duration};

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NlasIterator, ParseableParametrized,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkHeader, LinkMessage},
    neighbour::NeighbourMessage,
    route::{RouteAttribute, RouteHeader, RouteLwEnCapType, RouteMessage},
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use rustix::net::sockopt;

/// The kernel answers at once, or, where devices come and go by the thousand, soon.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the pieces are in which the kernel tells all of something, at most: as long as whoever hears them has shown to take
/// (net/netlink/af_netlink.c, `netlink_dump`). For each one it goes through all that it has told before.
const PIECE: usize = 32 << 10;
/// Of a device's head (linux/rtnetlink.h, `struct ifinfomsg`).
const LINK_HEAD: usize = 16;
/// What is needed of a device.
const NEEDED: [u16; 7] = [
    libc::IFLA_LINKINFO,
    libc::IFLA_ADDRESS,
    libc::IFLA_IFNAME,
    libc::IFLA_MTU,
    libc::IFLA_MASTER,
    libc::IFLA_STATS64,
    libc::IFLA_GROUP,
];

/// Of a route's head (linux/rtnetlink.h, `struct rtmsg`).
const ROUTE_HEAD: usize = 12;
/// What is needed of a route.
const NEEDED_OF_ROUTE: [u16; 7] = [
    libc::RTA_DST,
    libc::RTA_OIF,
    libc::RTA_GATEWAY,
    libc::RTA_VIA,
    libc::RTA_PREFSRC,
    libc::RTA_METRICS,
    libc::RTA_TABLE,
];

/// What it says.
#[derive(Debug)]
pub(super) enum Told {
    /// A device is there.
    Link(LinkMessage),
    /// A device is there no longer.
    NoLink(LinkMessage),
    /// Where a MAC is.
    Neighbour(NeighbourMessage),
    /// Where packets go.
    Route(RouteMessage),
    /// It means nothing here.
    Other,
}

impl NetlinkDeserializable for Told {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(match header.message_type {
            libc::RTM_NEWLINK => link(payload).map_or(Self::Other, Self::Link),
            libc::RTM_DELLINK => link(payload).map_or(Self::Other, Self::NoLink),
            libc::RTM_NEWNEIGH => match RouteNetlinkMessage::deserialize(header, payload) {
                Ok(RouteNetlinkMessage::NewNeighbour(neighbour)) => Self::Neighbour(neighbour),
                Ok(_) | Err(_) => Self::Other,
            },
            libc::RTM_NEWROUTE => route(payload).map_or(Self::Other, Self::Route),
            _ => Self::Other,
        })
    }
}

fn link(bytes: &[u8]) -> Option<LinkMessage> {
    let mut link = LinkMessage::default();
    link.header = LinkHeader::parse(bytes).ok()?;
    let attributes = NlasIterator::new(bytes.get(LINK_HEAD..)?).map_while(Result::ok);
    let needed = attributes.filter(|attribute| NEEDED.contains(&attribute.kind()));
    let read = |attribute| LinkAttribute::parse_with_param(&attribute, AddressFamily::Unspec).ok();
    link.attributes = needed.filter_map(read).collect();
    Some(link)
}

fn route(bytes: &[u8]) -> Option<RouteMessage> {
    let mut route = RouteMessage::default();
    route.header = RouteHeader::parse(bytes).ok()?;
    let how = (route.header.address_family, route.header.kind, RouteLwEnCapType::None);
    let attributes = NlasIterator::new(bytes.get(ROUTE_HEAD..)?).map_while(Result::ok);
    let needed = attributes.filter(|attribute| NEEDED_OF_ROUTE.contains(&attribute.kind()));
    route.attributes =
        needed.filter_map(|attribute| RouteAttribute::parse_with_param(&attribute, how).ok()).collect();
    Some(route)
}

/// What stands in these bytes, one after the other; what is no message at all is the last.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Result<NetlinkPayload<Told>, DecodeError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let message = NetlinkMessage::<Told>::deserialize(bytes);
        let length = message.as_ref().ok().and_then(|message| usize::try_from(message.header.length).ok());
        bytes = length.and_then(|length| bytes.get(length.next_multiple_of(4)..)).unwrap_or_default();
        Some(message.map(|message| message.payload))
    })
}

/// The bytes of a question, or of what is to be done.
pub(super) fn question(message: RouteNetlinkMessage, how: u16) -> Vec<u8> {
    let mut question = NetlinkMessage::from(message);
    question.header.flags = NLM_F_REQUEST | how;
    question.finalize();
    let mut bytes = vec![0; question.buffer_len()];
    question.serialize(&mut bytes);
    bytes
}

/// Asks the kernel, and hears all that it answers.
pub(super) fn ask(message: RouteNetlinkMessage, how: u16, mut hear: impl FnMut(Told)) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    // Everything else waits for whoever asks.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    // What a dump is to tell is looked at only then; before Linux 4.20 it tells all.
    let _ = socket.set_netlink_get_strict_chk(true);
    socket.send(&question(message, how), 0)?;
    if how & NLM_F_DUMP == NLM_F_DUMP {
        socket.recv_from(&mut Vec::with_capacity(PIECE), libc::MSG_PEEK)?;
    }
    loop {
        let (answers, _) = socket.recv_from_full()?;
        for answer in messages(&answers) {
            match answer.map_err(io::Error::other)? {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Error(_) => return Ok(()),
                NetlinkPayload::InnerMessage(told) => hear(told),
                NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | _ => {}
            }
        }
        // One question, one answer.
        if how & (NLM_F_DUMP | NLM_F_ACK) == 0 {
            return Ok(());
        }
    }
}

/// Has something done.
pub(super) fn change(message: RouteNetlinkMessage, how: u16) -> io::Result<()> {
    ask(message, NLM_F_ACK | how, |_| ())
}

#[cfg(test)]
pub(super) mod tests {
    use netlink_packet_core::NLM_F_DUMP;

    use super::*;

    /// What the kernel says of a device.
    pub(crate) fn message(kind: u16, index: u32, flags: i32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut link = vec![0; LINK_HEAD];
        link[4..8].copy_from_slice(&index.to_ne_bytes());
        link[8..12].copy_from_slice(&flags.to_ne_bytes());
        for (kind, value) in attributes {
            link.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            link.extend(kind.to_ne_bytes());
            link.extend(*value);
            link.resize(link.len().next_multiple_of(4), 0);
        }
        let mut bytes = vec![0; 16];
        bytes[..4].copy_from_slice(&u32::try_from(16 + link.len()).unwrap().to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend(link);
        bytes
    }

    fn links(bytes: &[u8]) -> Vec<(u32, Vec<LinkAttribute>)> {
        let of = |message: Result<_, _>| {
            let Ok(NetlinkPayload::InnerMessage(Told::Link(link))) = message else { return None };
            Some((link.header.index, link.attributes))
        };
        messages(bytes).filter_map(of).collect()
    }

    #[test]
    fn what_is_not_known_or_not_as_it_is_known_is_passed_over() {
        let name: &[u8] = b"eth1\0";
        // A number that is too short, what nobody knows, and a list of virtual functions that is none.
        let attributes = [
            (libc::IFLA_MASTER, &[1, 2][..]),
            (999, &[7; 9]),
            (22, &[255]),
            (libc::IFLA_IFNAME, name),
            (27, &[0; 3]),
        ];
        let bytes = message(libc::RTM_NEWLINK, 3, 0, &attributes);
        let read = [(3, vec![LinkAttribute::IfName("eth1".to_owned())])];
        assert_eq!(links(&bytes), read);
        // The one behind it, too.
        let other = message(libc::RTM_NEWLINK, 4, 0, &[(libc::IFLA_GROUP, &7u32.to_ne_bytes())]);
        let both = [&bytes[..], &other].concat();
        assert_eq!(links(&both)[1], (4, vec![LinkAttribute::Group(7)]));
    }

    #[test]
    fn any_bytes_are_read() {
        let whole = message(
            libc::RTM_NEWLINK,
            3,
            0,
            &[(libc::IFLA_IFNAME, b"eth1\0"), (libc::IFLA_STATS64, &[1; 200])],
        );
        for length in 0..whole.len() {
            let _ = links(&whole[..length]);
        }
        let kinds = [libc::RTM_NEWLINK, libc::RTM_DELLINK, libc::RTM_NEWNEIGH, libc::RTM_NEWROUTE, 2, 3];
        for kind in kinds {
            for at in (0..whole.len()).filter(|at| !(4..6).contains(at)) {
                for value in [0, 1, 3, 255] {
                    let mut other = whole.clone();
                    other[4..6].copy_from_slice(&kind.to_ne_bytes());
                    other[at] = value;
                    assert!(messages(&other).count() < 100);
                }
            }
        }
    }

    #[test]
    fn the_kernel_says_what_is_needed_of_a_device() {
        let mut told = Vec::new();
        ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP, |answer| {
            if let Told::Link(link) = answer {
                told.push(link);
            }
        })
        .unwrap();
        let is_loopback =
            |link: &&LinkMessage| link.attributes.contains(&LinkAttribute::IfName("lo".to_owned()));
        let attributes = &told.iter().find(is_loopback).unwrap().attributes;
        assert!(attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::Stats64(_))));
        assert!(attributes.contains(&LinkAttribute::Group(0)));
        assert!(attributes.contains(&LinkAttribute::Address(vec![0; 6])));
    }
}
