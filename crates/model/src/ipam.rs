//! Arithmetic on addresses and prefixes.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use viaduct_types::{IpNet, Ipv4Net, Ipv6Net};

/// One of the two IP protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The address's.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The prefix that holds this address alone: /32 or /128.
pub fn host(ip: IpAddr) -> IpNet {
    IpNet::from(ip)
}

/// Addresses as numbers, so that both families compare and sort alike; within one family only.
pub(crate) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

/// The first address of a prefix that a machine can have: not the network address, where there is one.
pub fn first_usable(prefix: IpNet) -> IpAddr {
    match prefix {
        IpNet::V4(p) if p.prefix_len() >= 31 => p.network().into(),
        IpNet::V4(p) => Ipv4Addr::from(u32::from(p.network()) + 1).into(),
        IpNet::V6(p) if p.prefix_len() >= 127 => p.network().into(),
        IpNet::V6(p) => Ipv6Addr::from(u128::from(p.network()) + 1).into(),
    }
}

/// What the address is to a shared segment with that prefix, when no machine on it can have it.
pub fn role_on_segment(prefix: IpNet, ip: IpAddr) -> Option<&'static str> {
    match (prefix, ip) {
        (IpNet::V4(p), IpAddr::V4(a)) if p.prefix_len() < 31 => {
            if a == p.network() {
                Some("network address")
            } else if a == p.broadcast() {
                Some("broadcast address")
            } else {
                None
            }
        }
        // RFC 4291, section 2.6.1; not used on links of two (RFC 6164).
        (IpNet::V6(p), IpAddr::V6(a)) if p.prefix_len() < 127 && a == p.network() => {
            Some("subnet-router anycast address")
        }
        _ => None,
    }
}

/// Why no machine can have this address as its own, if so.
pub fn no_host_address(ip: IpAddr) -> Option<&'static str> {
    if ip.is_unspecified() {
        Some("the unspecified address")
    } else if ip.is_loopback() {
        Some("a loopback address")
    } else if ip.is_multicast() {
        Some("a multicast address")
    } else {
        match ip {
            IpAddr::V4(a) if a.is_broadcast() => Some("the broadcast address"),
            IpAddr::V4(a) if a.octets()[0] == 0 => Some("an address of \"this network\" (RFC 1122)"),
            IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => Some("an IPv4 address written as IPv6"),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }
}

/// Why guests' addresses cannot come from this prefix, if so.
pub fn no_guest_prefix(prefix: IpNet) -> Option<&'static str> {
    const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    const MULTICAST: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4);
    const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
    const MULTICAST6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);
    match prefix {
        IpNet::V4(p) if p.prefix_len() < 8 => Some("a large part of all IPv4 addresses"),
        IpNet::V6(p) if p.prefix_len() < 16 => Some("a large part of all IPv6 addresses"),
        IpNet::V4(p) if LOOPBACK.contains(&p) => Some("the loopback network"),
        IpNet::V4(p) if MULTICAST.contains(&p) => Some("a range of multicast addresses"),
        IpNet::V4(p) if p.network().octets()[0] == 0 => Some("\"this network\" (RFC 1122)"),
        IpNet::V6(p) if MAPPED.contains(&p) => Some("a range of IPv4 addresses written as IPv6"),
        IpNet::V6(p) if MULTICAST6.contains(&p) => Some("a range of multicast addresses"),
        IpNet::V6(p) if p.prefix_len() == 128 => no_host_address(p.addr().into()),
        IpNet::V4(_) | IpNet::V6(_) => None,
    }
}

/// Prefixes nest or are disjoint; this finds, for each that shares an address with an earlier one (in order of
/// address, wider first), the narrowest such that `matters`. Takes n log n steps.
pub(crate) fn overlaps<T>(
    prefixes: &mut [(IpNet, T)],
    matters: impl Fn(&T, &T) -> bool,
    mut found: impl FnMut(&(IpNet, T), &(IpNet, T)),
) {
    prefixes.sort_by_key(|(prefix, _)| {
        (Family::of(prefix.addr()), number(prefix.network()), prefix.prefix_len())
    });
    let mut around: Vec<usize> = Vec::new();
    for index in 0..prefixes.len() {
        let this = &prefixes[index];
        while around.last().is_some_and(|&outer| !prefixes[outer].0.contains(&this.0)) {
            around.pop();
        }
        if let Some(&outer) = around.iter().rev().find(|&&outer| matters(&prefixes[outer].1, &this.1)) {
            found(&prefixes[outer], this);
        }
        // One of many equal ones is enough to compare with: it keeps the stack as short as prefixes are long.
        if around.last().is_none_or(|&outer| prefixes[outer].0 != this.0) {
            around.push(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(s: &str) -> IpNet {
        s.parse().unwrap()
    }

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    #[test]
    fn first_usable_skips_the_network_address_where_there_is_one() {
        for (prefix, first) in [
            ("192.168.1.0/24", "192.168.1.1"),
            ("192.0.2.0/31", "192.0.2.0"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("2001:db8::/64", "2001:db8::1"),
            ("2001:db8::2/127", "2001:db8::2"),
        ] {
            assert_eq!(first_usable(net(prefix)), ip(first), "{prefix}");
        }
    }

    #[test]
    fn roles() {
        assert_eq!(role_on_segment(net("10.0.0.0/24"), ip("10.0.0.0")), Some("network address"));
        assert_eq!(role_on_segment(net("10.0.0.0/24"), ip("10.0.0.255")), Some("broadcast address"));
        assert_eq!(role_on_segment(net("10.0.0.0/24"), ip("10.0.0.1")), None);
        assert_eq!(role_on_segment(net("10.0.0.0/31"), ip("10.0.0.0")), None);
        assert!(role_on_segment(net("2001:db8::/64"), ip("2001:db8::")).is_some());
    }

    #[test]
    fn overlaps_are_found_across_nesting() {
        let mut prefixes: Vec<_> =
            ["10.0.1.0/24", "10.0.0.0/8", "11.0.0.0/8", "10.0.1.4/32", "2001:db8::/32", "10.2.0.0/16"]
                .map(|p| (net(p), p))
                .into();
        let mut pairs = Vec::new();
        overlaps(&mut prefixes, |_, _| true, |a, b| pairs.push((a.1, b.1)));
        assert_eq!(
            pairs,
            [("10.0.0.0/8", "10.0.1.0/24"), ("10.0.1.0/24", "10.0.1.4/32"), ("10.0.0.0/8", "10.2.0.0/16")]
        );
    }
}
