//! Looks whether somebody on a link has an address already: ARP probes (RFC 5227, section 2.1) and neighbour
//! solicitations as for duplicate address detection (RFC 4862, section 5.4). Neither claims anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use viaduct_types::{IfName, MacAddr};

use crate::{
    Kernel,
    announce::{self, Arp, ETHERTYPE_ARP, ETHERTYPE_IPV6, ICMPV6, NEIGHBOUR_ADVERTISEMENT},
    error::KernelError,
    frames::{Frames, Listen},
    link,
};

/// So often it is asked, as one frame may be lost ...
const QUESTIONS: u32 = 3;
/// ... and this long an answer is waited for, each time. RFC 5227 asks for seconds, for links that come up slowly; this
/// one is up, and somebody waits.
const PATIENCE: Duration = Duration::from_millis(250);

const NEIGHBOUR_SOLICITATION: u8 = 135;

impl Kernel {
    /// Asks on a link who has these addresses, for most of a second; those that somebody has, or looks for at the same
    /// time, with the MAC that says so. On a link that is down nobody can be asked.
    ///
    /// # Errors
    /// When there is no such link, or the kernel refuses.
    pub fn probe(
        &mut self,
        name: &IfName,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<BTreeMap<IpAddr, MacAddr>, KernelError> {
        let what = format!("asking who has an address on {name}");
        let device = link::one(&mut self.route, link::Which::Name(name))
            .map_err(|refusal| KernelError::refused(&*what, refusal))?
            .ok_or_else(|| KernelError::NoDevice { what: what.clone(), name: name.clone() })?;
        let Some(own) = device.mac.filter(|_| device.up) else { return Ok(BTreeMap::new()) };
        match ask(name, own, addresses) {
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => Ok(BTreeMap::new()),
            asked => asked.map_err(|error| KernelError::system(what, error)),
        }
    }
}

fn ask(name: &IfName, own: MacAddr, addresses: &BTreeSet<IpAddr>) -> io::Result<BTreeMap<IpAddr, MacAddr>> {
    let waiting = addresses.len();
    let open = |listen| Frames::open(name, listen, waiting);
    let mut sockets = [open(Listen::Arp)?, open(Listen::Neighbours)?];
    let mut found = BTreeMap::new();
    let mut buffer = [0; 2048];
    for _ in 0..QUESTIONS {
        for address in addresses.iter().filter(|address| !found.contains_key(*address)) {
            match address {
                IpAddr::V4(address) => sockets[0].send(&arp_probe(own, *address))?,
                IpAddr::V6(address) => sockets[1].send(&solicitation(own, *address))?,
            }
        }
        let end = Instant::now() + PATIENCE;
        while found.len() < addresses.len() {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(limit) = Timespec::try_from(left) else { break };
            let mut waiting = sockets.each_ref().map(|socket| PollFd::new(socket, PollFlags::IN));
            match poll(&mut waiting, Some(&limit)) {
                Ok(0) => break,
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            for socket in &mut sockets {
                while let Some(frame) = socket.receive(&mut buffer)? {
                    if let Some((address, mac)) = claim(frame)
                        && mac != own
                        && addresses.contains(&address)
                    {
                        found.insert(address, mac);
                    }
                }
            }
        }
    }
    Ok(found)
}

/// Which address a frame's sender says that it has, or is about to take, and the sender's MAC.
fn claim(frame: &[u8]) -> Option<(IpAddr, MacAddr)> {
    let array = |at: usize| frame.get(at..)?.first_chunk::<6>().map(|octets| MacAddr(*octets));
    let v4 = |at: usize| frame.get(at..)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets));
    let v6 = |at: usize| frame.get(at..)?.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets));
    if frame.get(12..14)? == ETHERTYPE_ARP {
        if frame.get(14..20)? != announce::ARP_KIND {
            return None;
        }
        let (mac, sender, target) = (array(22)?, v4(28)?, v4(38)?);
        let address = if sender.is_unspecified() { target } else { sender };
        return Some((address.into(), mac));
    }
    // Neighbour discovery has no extension headers, and comes from the link itself (RFC 4861, sections 7.1.1, 7.1.2).
    let (length, protocol, hops) = (frame.get(18..20)?, *frame.get(20)?, *frame.get(21)?);
    let message = frame.get(54..54 + usize::from(u16::from_be_bytes([length[0], length[1]])))?;
    let is_nd = frame.get(12..14)? == ETHERTYPE_IPV6 && (protocol, hops) == (ICMPV6, 255);
    let (from, to, target) = (v6(22)?, v6(38)?, v6(62)?);
    let [kind, 0, _, _, ..] = *message else { return None };
    let claims = match kind {
        NEIGHBOUR_ADVERTISEMENT => true,
        NEIGHBOUR_SOLICITATION => from.is_unspecified(),
        _ => false,
    };
    let is_whole = message.len() >= 24 && announce::icmpv6_sum(from, to, message) == 0;
    (is_nd && claims && is_whole).then_some((target.into(), array(6)?))
}

fn arp_probe(own: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    announce::arp_frame(own, Ipv4Addr::UNSPECIFIED, address, Arp::Request)
}

/// Asks who has an address, of nobody in particular and as nobody.
fn solicitation(own: MacAddr, target: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    // The group of all whose addresses end so (RFC 4291, section 2.7.1).
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let mut message = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    announce::icmpv6_frame(MacAddr([0x33, 0x33, 0xff, a, b, c]), own, Ipv6Addr::UNSPECIFIED, group, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);

    #[test]
    fn a_question_of_ours_is_what_another_who_takes_the_address_would_ask() {
        let (v4, v6) = (Ipv4Addr::new(192, 0, 2, 7), "2001:db8::12:3456".parse().unwrap());
        assert_eq!(claim(&arp_probe(MAC, v4)), Some((v4.into(), MAC)));
        let frame = solicitation(MAC, v6);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        assert_eq!(frame[38..54], "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(claim(&frame), Some((v6.into(), MAC)));
    }

    #[test]
    fn what_is_cut_short_or_wrong_claims_nothing() {
        let v6 = "2001:db8::7".parse().unwrap();
        for frame in [arp_probe(MAC, Ipv4Addr::new(192, 0, 2, 7)), solicitation(MAC, v6)] {
            for length in 0..frame.len() {
                assert_eq!(claim(&frame[..length]), None);
            }
        }
        // Passed on by a router, with a code, with another sum.
        for at in [21, 55, 56] {
            let mut frame = solicitation(MAC, v6);
            frame[at] ^= 1;
            assert_eq!(claim(&frame), None, "{at}");
        }
    }
}
