//! Permissions of `allow-in` and `allow-out` as elements of interval sets: one set for whole protocols, one for ports.

use viaduct_model::{Allow, Service};
use viaduct_types::{IpNet, PortRange, Proto};

use super::{context::Context, disjoint::disjoint};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// What one guest address may exchange with whom, cut so that nothing overlaps.
#[derive(Default)]
pub(super) struct Permissions {
    /// Peer prefix and protocol numbers, first and last.
    pub(super) protocols: Vec<(IpNet, (u8, u8))>,
    /// Peer prefix, protocol, ports at the opened side.
    pub(super) ports: Vec<(IpNet, Proto, PortRange)>,
}

/// The permissions of a list that concern one family.
pub(super) fn permissions(context: &Context<'_>, list: &[Allow], v6: bool) -> Permissions {
    let mut protocols = Vec::new();
    let mut ports: [Vec<(IpNet, (u16, u16))>; 3] = Default::default();
    for allow in list {
        let peers = context.peer_prefixes(&allow.peer);
        for peer in peers.into_iter().filter(|p| p.addr().is_ipv6() == v6) {
            if allow.services.is_empty() {
                protocols.push((peer, (0, 255)));
            }
            for service in &allow.services {
                match *service {
                    Service::Icmp => {
                        let number = u16::from(if v6 { ICMPV6 } else { ICMP });
                        protocols.push((peer, (number, number)));
                    }
                    Service::Protocol(number) => protocols.push((peer, (number.into(), number.into()))),
                    Service::Ports(proto, range) => {
                        for (list, _) in ports.iter_mut().zip(Proto::ALL).filter(|(_, p)| *p == proto) {
                            list.push((peer, (range.first(), range.last())));
                        }
                    }
                }
            }
        }
    }
    let byte = |n: u16| u8::try_from(n).unwrap_or(u8::MAX);
    let protocols =
        disjoint(protocols).into_iter().map(|(peer, (a, b))| (peer, (byte(a), byte(b)))).collect();
    let ports = Proto::ALL
        .into_iter()
        .zip(ports)
        .flat_map(|(proto, list)| disjoint(list).into_iter().map(move |(peer, range)| (peer, proto, range)))
        .filter_map(|(peer, proto, (first, last))| Some((peer, proto, PortRange::new(first, last).ok()?)))
        .collect();
    Permissions { protocols, ports }
}
