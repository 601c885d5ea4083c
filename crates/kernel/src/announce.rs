//! Telling the neighbours that an address is here.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use viaduct_plan::Sysctl;
use viaduct_types::{IfName, MacAddr};

use crate::{
    error::{KernelError, Refusal},
    link,
    socket::Socket,
    sysctl,
};

const BROADCAST: MacAddr = MacAddr([0xff; 6]);
/// Where ff02::1 goes on Ethernet (RFC 2464, section 7).
const ALL_NODES: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
pub(crate) const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
pub(crate) const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Ethernet, IPv4, lengths of their addresses.
pub(crate) const ARP_KIND: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
const FLAG_ROUTER: u8 = 0x80;
const FLAG_OVERRIDE: u8 = 0x20;

/// Sends announcements. Its socket is opened when first needed and stays open: closing a packet socket waits for
/// RCU, some 20 ms for each of a thousand addresses.
#[derive(Default)]
pub(crate) struct Announcer {
    socket: Option<OwnedFd>,
}

impl Announcer {
    /// Announces `address` out of `name`, with its own MAC or another. `route` knows the devices.
    pub(crate) fn announce(
        &mut self,
        route: &mut Socket,
        name: &IfName,
        address: IpAddr,
        mac: Option<MacAddr>,
        what: &str,
    ) -> Result<(), KernelError> {
        let device = link::one(route, link::Which::Name(name))
            .map_err(|refusal| KernelError::refused(what, refusal))?
            .ok_or_else(|| KernelError::NoDevice { what: what.to_owned(), name: name.clone() })?;
        let Some(with) = mac.or(device.mac) else {
            let message = Some(format!("{name} has no MAC to tell"));
            return Err(KernelError::refused(what, Refusal { errno: libc::EADDRNOTAVAIL, message }));
        };
        let frames = match address {
            // Both forms: some systems take note only of replies (RFC 5227, section 3).
            IpAddr::V4(address) => vec![arp(with, address, Arp::Request), arp(with, address, Arp::Reply)],
            IpAddr::V6(address) => {
                // A router that says it is none is dropped from its neighbours' lists of routers (RFC 4861, 7.2.5).
                // Of an address that is announced with another's MAC nobody here knows whether it is a router's.
                let router = mac.is_none()
                    && sysctl::read(&Sysctl::ipv6(name, "forwarding"))?.is_some_and(|value| value != "0");
                vec![advertisement(with, address, router)]
            }
        };
        self.send(device.index, &frames).map_err(|e| KernelError::system(what, e))
    }

    fn send(&mut self, index: u32, frames: &[Vec<u8>]) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => open()?,
        };
        let outcome = frames.iter().try_for_each(|frame| send(&socket, index, frame));
        self.socket = Some(socket);
        outcome
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Arp {
    Request,
    Reply,
}

/// An ARP announcement (RFC 5227, section 1.1): sender and target are the announced address.
fn arp(mac: MacAddr, address: Ipv4Addr, form: Arp) -> Vec<u8> {
    arp_frame(mac, address, address, form)
}

/// ARP to everybody.
pub(crate) fn arp_frame(mac: MacAddr, sender: Ipv4Addr, target: Ipv4Addr, form: Arp) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, ETHERTYPE_ARP);
    frame.extend(ARP_KIND);
    frame.extend(match form {
        Arp::Request => [0, 1],
        Arp::Reply => [0, 2],
    });
    frame.extend(mac.0);
    frame.extend(sender.octets());
    frame.extend(match form {
        Arp::Request => [0; 6],
        Arp::Reply => BROADCAST.0,
    });
    frame.extend(target.octets());
    frame
}

/// An unsolicited neighbour advertisement (RFC 4861, sections 4.4 and 7.2.6).
fn advertisement(mac: MacAddr, address: Ipv6Addr, router: bool) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0];
    message.extend([FLAG_OVERRIDE | if router { FLAG_ROUTER } else { 0 }, 0, 0, 0]);
    message.extend(address.octets());
    // Option: target link-layer address, one unit of eight bytes.
    message.extend([2, 1]);
    message.extend(mac.0);
    icmpv6_frame(ALL_NODES, mac, address, all_nodes, message)
}

/// The frame with a message of ICMPv6 for this link alone; its sum is put in.
pub(crate) fn icmpv6_frame(
    to_mac: MacAddr,
    from_mac: MacAddr,
    from: Ipv6Addr,
    to: Ipv6Addr,
    mut message: Vec<u8>,
) -> Vec<u8> {
    let sum = icmpv6_sum(from, to, &message).to_be_bytes();
    message.splice(2..4, sum);
    let [high, low] = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut frame = ethernet(to_mac, from_mac, ETHERTYPE_IPV6);
    // Version 6; hop limit 255 proves that no router passed it on.
    frame.extend([0x60, 0, 0, 0, high, low, ICMPV6, 255]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    frame.extend(message);
    frame
}

/// The checksum of a message with its pseudo header (RFC 8200, section 8.1); zero when the message has the right one.
pub(crate) fn icmpv6_sum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let mut pseudo = Vec::new();
    pseudo.extend(from.octets());
    pseudo.extend(to.octets());
    pseudo.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    pseudo.extend([0, 0, 0, ICMPV6]);
    pseudo.extend(message);
    if pseudo.len() % 2 == 1 {
        pseudo.push(0);
    }
    checksum(&pseudo)
}

fn ethernet(to: MacAddr, from: MacAddr, ethertype: [u8; 2]) -> Vec<u8> {
    [&to.0[..], &from.0, &ethertype].concat()
}

/// RFC 1071; of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum = bytes.as_chunks::<2>().0.iter().fold(0_u16, |sum, pair| {
        let (sum, carry) = sum.overflowing_add(u16::from_be_bytes(*pair));
        sum + u16::from(carry)
    });
    !sum
}

fn open() -> io::Result<OwnedFd> {
    // Protocol 0: this socket receives nothing.
    // SAFETY: socket() takes numbers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn send(socket: &OwnedFd, index: u32, frame: &[u8]) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain data, for which all zeroes are valid.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    to.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    to.sll_halen = 6;
    let size = libc::socklen_t::try_from(size_of_val(&to)).map_err(io::Error::other)?;
    // SAFETY: frame and address are valid for the lengths given with them.
    let sent = unsafe {
        libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, (&raw const to).cast(), size)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);

    #[test]
    fn arp_tells_the_address_twice() {
        let frame = arp(MAC, Ipv4Addr::new(192, 0, 2, 7), Arp::Request);
        assert_eq!(frame.len(), 42);
        assert_eq!(frame[..14], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 1, 0, 8, 6]);
        assert_eq!(frame[20..22], [0, 1]);
        assert_eq!((&frame[28..32], &frame[38..42]), (&[192, 0, 2, 7][..], &[192, 0, 2, 7][..]));
    }

    #[test]
    fn an_advertisement_sums_to_zero() {
        for router in [true, false] {
            let frame = advertisement(MAC, "2001:db8::7".parse().unwrap(), router);
            assert_eq!(frame.len(), 14 + 40 + 32);
            let mut pseudo = frame[22..54].to_vec();
            pseudo.extend([0, 0, 0, 32, 0, 0, 0, ICMPV6]);
            pseudo.extend(&frame[54..]);
            assert_eq!(checksum(&pseudo), 0);
        }
    }
}
