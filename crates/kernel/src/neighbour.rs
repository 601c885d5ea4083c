//! Neighbour entries: addresses that the kernel answers for, and MACs that a device listens to.

use std::{collections::BTreeMap, net::IpAddr};

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage, NeighbourState},
    route::RouteProtocol,
};
use viaduct_plan::PROTOCOL;
use viaduct_types::MacAddr;

use crate::{
    address::family,
    attr::{self, find},
    error::Refusal,
    link,
    socket::{Request, Socket},
};

// include/uapi/linux/neighbour.h; only what is read.
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_PROTOCOL: u16 = 12;

/// Answers for an address on a device.
pub(crate) fn add_proxy(index: u32, address: IpAddr) -> Request {
    let mut message = proxy(index, address);
    // Others go when the device loses its carrier: a cable for a moment, the machine behind a tap at its restart
    // (net/core/neighbour.c, `pneigh_ifdown_and_unlock`; all of them before Linux 5.17).
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::from(PROTOCOL)));
    Request::change(&RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE)
}

/// And no longer.
pub(crate) fn delete_proxy(index: u32, address: IpAddr) -> Request {
    Request::change(&RouteNetlinkMessage::DelNeighbour(proxy(index, address)), 0)
}

fn proxy(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.header.flags = NeighbourFlags::Proxy;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}

/// Lets a device listen to one more MAC.
pub(crate) fn add_unicast(index: u32, mac: MacAddr) -> Request {
    Request::change(&RouteNetlinkMessage::NewNeighbour(unicast(index, mac)), NLM_F_CREATE)
}

/// And no longer.
pub(crate) fn delete_unicast(index: u32, mac: MacAddr) -> Request {
    Request::change(&RouteNetlinkMessage::DelNeighbour(unicast(index, mac)), 0)
}

fn unicast(index: u32, mac: MacAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header = NeighbourHeader {
        family: AddressFamily::Bridge,
        ifindex: index,
        state: NeighbourState::Permanent,
        flags: NeighbourFlags::Own,
        ..NeighbourHeader::default()
    };
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message
}

/// All addresses answered for, by ifindex, with the protocol number of who put them there.
pub(crate) fn proxies(socket: &mut Socket) -> Result<BTreeMap<(u32, IpAddr), u8>, Refusal> {
    let mut proxies = BTreeMap::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        message.header.flags = NeighbourFlags::Proxy;
        let request = Request::dump(&RouteNetlinkMessage::GetNeighbour(message));
        proxies.extend(socket.ask(&request, |_, body| read_proxy(body))?);
    }
    Ok(proxies)
}

/// Whether an address is answered for on a device, and who said so, by the protocol number.
pub(crate) fn proxy_of(socket: &mut Socket, index: u32, address: IpAddr) -> Result<Option<u8>, Refusal> {
    let request = Request::change(&RouteNetlinkMessage::GetNeighbour(proxy(index, address)), 0);
    match socket.ask(&request, |_, body| read_proxy(body)) {
        Ok(found) => {
            Ok(found.into_iter().find(|(of, _)| *of == (index, address)).map(|(_, protocol)| protocol))
        }
        Err(refusal) if matches!(refusal.errno, libc::ENOENT | libc::ENODEV) => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

fn read_proxy(body: &[u8]) -> Option<((u32, IpAddr), u8)> {
    let header = NeighbourHeader::parse(body).ok()?;
    let attributes = body.get(12..)?;
    let address = find(attributes, NDA_DST).and_then(attr::ip)?;
    let protocol = find(attributes, NDA_PROTOCOL).and_then(attr::u8).unwrap_or(0);
    header.flags.contains(NeighbourFlags::Proxy).then_some(((header.ifindex, address), protocol))
}

/// A permanent entry of some forwarding table.
pub(crate) struct Permanent {
    /// The device's ifindex.
    index: u32,
    pub(crate) mac: MacAddr,
    /// In the device's own table (NTF_SELF), not its bridge's. A bridge has only the latter kind.
    pub(crate) own: bool,
}

/// The permanent entries of unicast addresses that stand under a device, among them those that it has by birth. Never those of all
/// devices: for each port of a bridge the kernel goes through all that the bridge has learned, again with each piece of its answer
/// (net/bridge/br_fdb.c, `br_fdb_dump`), which takes minutes where guests have sent with ever new MACs.
pub(crate) fn permanent(socket: &mut Socket, index: u32) -> Result<Vec<Permanent>, Refusal> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    let request = Request::dump(&RouteNetlinkMessage::GetNeighbour(message));
    // Old kernels tell of all.
    let read = |body: &[u8]| read_unicast(body).filter(|entry| entry.index == index);
    socket.ask(&request, |_, body| read(body))
}

fn read_unicast(body: &[u8]) -> Option<Permanent> {
    let header = NeighbourHeader::parse(body).ok()?;
    let attributes = body.get(12..)?;
    let mac = find(attributes, NDA_LLADDR).and_then(attr::mac)?;
    // A tunnel's entries have a destination: they say where to send, not what to listen to.
    let remote = find(attributes, NDA_DST).is_some();
    let permanent = header.state == NeighbourState::Permanent;
    let own = header.flags.contains(NeighbourFlags::Own);
    (header.family == AddressFamily::Bridge && permanent && !remote && !mac.is_multicast() && !mac.is_zero())
        .then_some(Permanent { index: header.ifindex, mac, own })
}

/// Drops the packets that wait on devices of ours until a neighbour is found: the filter has let them through, some seconds ago at
/// most, and a guest that comes to such an address would still get them.
pub(crate) fn drop_waiting(socket: &mut Socket) -> Result<(), Refusal> {
    let mut doomed = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        let request = Request::dump(&RouteNetlinkMessage::GetNeighbour(message));
        for (index, address) in socket.ask(&request, |_, body| read_incomplete(body))? {
            let device = link::one(socket, link::Which::Index(index))?;
            if device.is_some_and(|device| device.is_ours()) {
                let mut message = NeighbourMessage::default();
                message.header.family = family;
                message.header.ifindex = index;
                message.attributes.push(NeighbourAttribute::Destination(address.into()));
                doomed.push(Request::change(&RouteNetlinkMessage::DelNeighbour(message), 0));
            }
        }
    }
    let gone = |refusal: &Refusal| matches!(refusal.errno, libc::ENOENT | libc::ENODEV);
    match socket.batch(&doomed).into_iter().filter_map(Result::err).find(|refusal| !gone(refusal)) {
        Some(refusal) => Err(refusal),
        None => Ok(()),
    }
}

fn read_incomplete(body: &[u8]) -> Option<(u32, IpAddr)> {
    let header = NeighbourHeader::parse(body).ok()?;
    let address = find(body.get(12..)?, NDA_DST).and_then(attr::ip)?;
    (header.state == NeighbourState::Incomplete).then_some((header.ifindex, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_bytes_are_nothing_and_no_panic() {
        for fill in [0_u8, 1, 7, 8, 0xff] {
            for len in 0..80 {
                assert!(read_proxy(&vec![fill; len]).is_none());
                assert!(read_unicast(&vec![fill; len]).is_none());
                assert!(read_incomplete(&vec![fill; len]).is_none());
            }
        }
    }
}
