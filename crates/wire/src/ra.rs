//! Router advertisements and solicitations (RFC 4861), with the options that tell of more: routes (RFC 4191), name
//! servers and domains to search (RFC 8106).

use std::net::Ipv6Addr;

use viaduct_types::{Ipv6Net, MacAddr};

use crate::{
    dns_names,
    icmp6::{self, SOURCE_LINK_LAYER},
};

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// What every link carries (RFC 8200, section 5), without the IP header.
const LARGEST: usize = 1280 - 40;

const PREFIX: u8 = 3;
const MTU: u8 = 5;
const ROUTE: u8 = 24;
const DNS: u8 = 25;
const SEARCH: u8 = 31;

/// Somebody looks for routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// Who.
    pub mac: MacAddr,
    /// With which address; the unspecified one when it has none yet.
    pub from: Ipv6Addr,
}

/// Reads a frame; none when it is no solicitation, or is one that must be ignored (RFC 4861, section 6.1.1).
pub fn parse_solicitation(frame: &[u8]) -> Option<Solicitation> {
    let (header, message) = icmp6::parse(frame)?;
    let [SOLICITATION, 0, _, _, _, _, _, _, options @ ..] = message else { return None };
    let is_address = header.from.is_unspecified() || header.from.is_unicast_link_local();
    (icmp6::has_right_options(header.from, options) && is_address)
        .then_some(Solicitation { mac: header.from_mac, from: header.from })
}

/// A prefix of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Which.
    pub prefix: Ipv6Net,
    /// Whether its addresses are neighbours.
    pub on_link: bool,
    /// Whether addresses may be made of it.
    pub autonomous: bool,
    /// Seconds that both hold.
    pub lifetime: u32,
}

/// What a router says. Lists go out in the order of their importance: what fits no packet of 1,280 bytes is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advertisement {
    /// Seconds that it is a default router; 0: it is none.
    pub lifetime: u16,
    /// Whether addresses are given by DHCPv6.
    pub managed: bool,
    /// Whether the rest is told by DHCPv6.
    pub other: bool,
    /// In bytes.
    pub mtu: Option<u32>,
    /// The link's.
    pub prefixes: Vec<Prefix>,
    /// What is reached by this router, for so many seconds.
    pub routes: Vec<(Ipv6Net, u32)>,
    /// Name servers, for so many seconds.
    pub dns: Vec<(Vec<Ipv6Addr>, u32)>,
    /// Domains to search names in, for so many seconds.
    pub search: Vec<(Vec<String>, u32)>,
}

impl Advertisement {
    /// The frame that says it, from a router with a link-local address to whom it is for.
    pub fn frame(&self, from_mac: MacAddr, from: Ipv6Addr, to_mac: MacAddr, to: Ipv6Addr) -> Option<Vec<u8>> {
        icmp6::build((from_mac, from), (to_mac, to), self.message(from_mac))
    }

    fn message(&self, from_mac: MacAddr) -> Vec<u8> {
        let flags = u8::from(self.managed) << 7 | u8::from(self.other) << 6;
        // 64 hops, as IANA assigned it; times of neighbour discovery are left to the guest.
        let mut message = vec![ADVERTISEMENT, 0, 0, 0, 64, flags];
        message.extend(self.lifetime.to_be_bytes());
        message.extend([0; 8]);
        let mut add = |kind: u8, body: &[u8]| {
            let length = (2 + body.len()).div_ceil(8);
            if let Ok(units) = u8::try_from(length)
                && message.len() + length * 8 <= LARGEST
            {
                let end = message.len() + length * 8;
                message.extend([kind, units]);
                message.extend(body);
                message.resize(end, 0);
            }
        };
        add(SOURCE_LINK_LAYER, &from_mac.0);
        if let Some(mtu) = self.mtu {
            add(MTU, &[&[0, 0], &mtu.to_be_bytes()[..]].concat());
        }
        for prefix in &self.prefixes {
            let flags = u8::from(prefix.on_link) << 7 | u8::from(prefix.autonomous) << 6;
            let lifetime = prefix.lifetime.to_be_bytes();
            let mut body = vec![prefix.prefix.prefix_len(), flags];
            body.extend([lifetime, lifetime].concat());
            body.extend([0; 4]);
            body.extend(prefix.prefix.network().octets());
            add(PREFIX, &body);
        }
        for (servers, lifetime) in self.dns.iter().filter(|(servers, _)| !servers.is_empty()) {
            let mut body = vec![0, 0];
            body.extend(lifetime.to_be_bytes());
            body.extend(servers.iter().flat_map(Ipv6Addr::octets));
            add(DNS, &body);
        }
        for (to, lifetime) in &self.routes {
            let mut body = vec![to.prefix_len(), 0];
            body.extend(lifetime.to_be_bytes());
            // As much of it as counts, in units of eight bytes (RFC 4191, section 2.3).
            body.extend(&to.network().octets()[..usize::from(to.prefix_len().div_ceil(64)) * 8]);
            add(ROUTE, &body);
        }
        for (domains, lifetime) in &self.search {
            let names = dns_names(domains.iter().map(String::as_str));
            if !names.is_empty() {
                let mut body = vec![0, 0];
                body.extend(lifetime.to_be_bytes());
                body.extend(names);
                add(SEARCH, &body);
            }
        }
        message
    }
}

#[cfg(test)]
mod tests;
