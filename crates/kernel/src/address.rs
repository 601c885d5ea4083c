//! Addresses of devices.

use std::{collections::BTreeMap, io, net::IpAddr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeader, AddressMessage, AddressProtocol},
};
use netlink_sys::protocols::NETLINK_ROUTE;
use viaduct_plan::AddressInfo;
use viaduct_types::{IfName, IpNet};

use crate::{
    attr::{self, find},
    error::Refusal,
    link,
    socket::{Request, Socket},
};

// include/uapi/linux/if_addr.h; only what is read.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
const IFA_F_PERMANENT: u32 = 0x80;

/// Whether the kernel asks on the link if somebody else has the address already (IPv6).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dad {
    Ask,
    Skip,
}

/// Puts an address on the device with this ifindex. The kernel adds the route to its prefix.
pub(crate) fn add(index: u32, address: IpNet, scope: u8, protocol: u8, dad: Dad) -> Request {
    let mut message = about(index, address);
    message.header.scope = scope.into();
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::from(protocol)));
    if dad == Dad::Skip && address.addr().is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    Request::change(&RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Takes it away.
pub(crate) fn delete(index: u32, address: IpNet) -> Request {
    Request::change(&RouteNetlinkMessage::DelAddress(about(index, address)), 0)
}

fn about(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header = AddressHeader {
        family: family(address.addr()),
        prefix_len: address.prefix_len(),
        index,
        ..AddressHeader::default()
    };
    message.attributes =
        vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    message
}

pub(crate) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// The addresses of one device, or with index 0 of all, by ifindex.
pub(crate) fn list(socket: &mut Socket, index: u32) -> Result<BTreeMap<(u32, IpNet), AddressInfo>, Refusal> {
    let mut message = AddressMessage::default();
    message.header.index = index;
    let found = match socket.ask(&Request::dump(&RouteNetlinkMessage::GetAddress(message)), read) {
        // The device went meanwhile.
        Err(refusal) if refusal.errno == libc::ENODEV => Vec::new(),
        found => found?,
    };
    // A kernel without strict checking tells of all devices.
    let found = found.into_iter().filter(|((of, _), _)| index == 0 || *of == index);
    Ok(found.enumerate().map(|(place, (key, info))| (key, AddressInfo { place, ..info })).collect())
}

/// The addresses of a device, for whoever shows them; those of IPv4 first.
///
/// # Errors
/// When there is no such device (ENODEV), or the kernel refuses.
pub fn addresses_of(name: &IfName) -> io::Result<Vec<IpNet>> {
    let mut socket = Socket::open(NETLINK_ROUTE)?;
    let refused = |refusal: Refusal| io::Error::from_raw_os_error(refusal.errno);
    let device = link::one(&mut socket, link::Which::Name(name)).map_err(refused)?;
    let index = device.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?.index;
    let found = list(&mut socket, index).map_err(refused)?;
    Ok(found.into_keys().map(|(_, address)| address).collect())
}

/// One address with its device's ifindex; its place is known to who asks for all.
pub(crate) fn read(_kind: u16, body: &[u8]) -> Option<((u32, IpNet), AddressInfo)> {
    let header = AddressHeader::parse(body).ok()?;
    let attributes = body.get(8..)?;
    let get = |kind| find(attributes, kind);
    // On point-to-point links IFA_ADDRESS is the other end's; IPv6 has IFA_LOCAL only there.
    let address = get(IFA_LOCAL).or_else(|| get(IFA_ADDRESS)).and_then(attr::ip)?;
    let flags = get(IFA_FLAGS).and_then(attr::u32).unwrap_or_else(|| header.flags.bits().into());
    let info = AddressInfo {
        protocol: get(IFA_PROTO).and_then(attr::u8).unwrap_or(0),
        scope: header.scope.into(),
        dynamic: flags & IFA_F_PERMANENT == 0,
        place: 0,
    };
    Some(((header.index, IpNet::new(address, header.prefix_len).ok()?), info))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_bytes_are_no_address_and_no_panic() {
        for fill in [0_u8, 1, 4, 8, 0xff] {
            for len in 0..80 {
                assert!(read(20, &vec![fill; len]).is_none(), "{len} × {fill}");
            }
        }
        // A prefix longer than the address.
        let mut body = vec![2, 33, 0, 0, 1, 0, 0, 0];
        attr::put(&mut body, IFA_LOCAL, &[192, 0, 2, 1]);
        assert!(read(20, &body).is_none());
    }
}
