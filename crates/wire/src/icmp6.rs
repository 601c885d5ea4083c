//! What router and neighbour discovery have in common (RFC 4861): ICMPv6 that comes from the link itself, with options.

use std::net::Ipv6Addr;

use viaduct_types::MacAddr;

use crate::ip6::{self, Header};

pub(crate) const ICMP: u8 = 58;
/// What no router has passed on (RFC 4861, sections 6.1 and 7.1).
pub(crate) const HOPS: u8 = 255;

/// The option with the sender's MAC.
pub(crate) const SOURCE_LINK_LAYER: u8 = 1;

/// Reads a frame; none when it is no such message, or one that a router has passed on or that is damaged.
pub(crate) fn parse(frame: &[u8]) -> Option<(Header, &[u8])> {
    let (header, message) = ip6::parse(frame)?;
    let is_right = header.protocol == ICMP && header.hops == HOPS && ip6::sum(&header, message) == 0;
    is_right.then_some((header, message))
}

/// Whether a solicitation has whole options, and no MAC of a sender without an address.
pub(crate) fn has_right_options(from: Ipv6Addr, mut options: &[u8]) -> bool {
    while let [kind, length, ..] = *options {
        if length == 0 || from.is_unspecified() && kind == SOURCE_LINK_LAYER {
            return false;
        }
        let Some(rest) = options.get(usize::from(length) * 8..) else { return false };
        options = rest;
    }
    options.is_empty()
}

/// The frame that carries a message, whose checksum is still to be set; none when it is longer than a packet can be.
pub(crate) fn build(
    (from_mac, from): (MacAddr, Ipv6Addr),
    (to_mac, to): (MacAddr, Ipv6Addr),
    mut message: Vec<u8>,
) -> Option<Vec<u8>> {
    let header = Header { from_mac, to_mac, from, to, protocol: ICMP, hops: HOPS };
    let sum = ip6::sum(&header, &message);
    message.get_mut(2..4)?.copy_from_slice(&sum.to_be_bytes());
    ip6::build(&header, &message)
}
