//! What guests and the host say to each other on a link: frames, checksums, DHCP, router and neighbour discovery. Bytes in,
//! values out, and back; pure.
//!
//! Whatever comes from a guest may be anything. Every reader here takes a slice and says either what is in it or
//! nothing; it never panics, and what it keeps is never larger than what it was given.
#![forbid(unsafe_code)]

pub mod arp;
pub mod boot;
mod checksum;
pub mod dhcp4;
pub mod dhcp6;
mod icmp6;
pub mod ip6;
mod names;
pub mod nd;
pub mod ra;
pub mod udp4;
pub mod udp6;

pub use checksum::checksum;
pub use names::dns_names;

use viaduct_types::MacAddr;

/// An Ethernet header without a tag.
const ETHERNET: usize = 14;
/// Ethernet's broadcast address.
pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

/// A frame's destination, source and type, and what it carries; none when it is too short. A tag is a type like any
/// other.
fn ethernet(frame: &[u8]) -> Option<(MacAddr, MacAddr, u16, &[u8])> {
    let (to, rest) = frame.split_first_chunk::<6>()?;
    let (from, rest) = rest.split_first_chunk::<6>()?;
    let (kind, payload) = rest.split_first_chunk::<2>()?;
    Some((MacAddr(*to), MacAddr(*from), u16::from_be_bytes(*kind), payload))
}

fn ethernet_header(to: MacAddr, from: MacAddr, kind: u16) -> [u8; ETHERNET] {
    let mut header = [0; ETHERNET];
    header[..6].copy_from_slice(&to.0);
    header[6..12].copy_from_slice(&from.0);
    header[12..].copy_from_slice(&kind.to_be_bytes());
    header
}
