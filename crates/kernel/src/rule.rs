//! Routing rules of ours.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use viaduct_plan::PROTOCOL;
use viaduct_types::{IpNet, RoutingRule};

use crate::{
    attr::{self, find},
    error::Refusal,
    socket::{Request, Socket},
};

// include/uapi/linux/fib_rules.h; only what is read.
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FRA_PROTOCOL: u16 = 21;
/// struct fib_rule_hdr
const HEADER: usize = 12;

/// Makes one; fails with EEXIST when it stands.
pub(crate) fn add(rule: &RoutingRule) -> Request {
    Request::change(&RouteNetlinkMessage::NewRule(about(rule)), NLM_F_CREATE | NLM_F_EXCL)
}

/// Takes exactly this one away.
pub(crate) fn delete(rule: &RoutingRule) -> Request {
    Request::change(&RouteNetlinkMessage::DelRule(about(rule)), 0)
}

fn about(rule: &RoutingRule) -> RuleMessage {
    let RoutingRule { priority, v6, from, to, table } = *rule;
    let mut message = RuleMessage::default();
    message.header.family = family(v6);
    message.header.action = RuleAction::ToTable;
    // Larger numbers stand in the attribute only.
    message.header.table = u8::try_from(table).unwrap_or(0);
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Table(table));
    attributes.push(RuleAttribute::Priority(priority));
    attributes.push(RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)));
    if let Some(net) = from {
        message.header.src_len = net.prefix_len();
        attributes.push(RuleAttribute::Source(net.network()));
    }
    if let Some(net) = to {
        message.header.dst_len = net.prefix_len();
        attributes.push(RuleAttribute::Destination(net.network()));
    }
    message
}

fn family(v6: bool) -> AddressFamily {
    if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

/// All of ours in the socket's namespace.
pub(crate) fn list(socket: &mut Socket) -> Result<Vec<RoutingRule>, Refusal> {
    let mut rules = Vec::new();
    for v6 in [false, true] {
        let mut message = RuleMessage::default();
        message.header.family = family(v6);
        let found =
            socket.ask(&Request::dump(&RouteNetlinkMessage::GetRule(message)), |_, body| read(v6, body));
        match found {
            Ok(found) => rules.extend(found),
            // A kernel without rules for this family.
            Err(refusal) if matches!(refusal.errno, libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => {}
            Err(refusal) => return Err(refusal),
        }
    }
    Ok(rules)
}

/// One of ours, if it is one that we could have made.
fn read(v6: bool, body: &[u8]) -> Option<RoutingRule> {
    // Family, lengths of destination and source, type of service, table, two unused, action, flags.
    let &[_, to_len, from_len, _, table, ..] = body.first_chunk::<HEADER>()?;
    let attributes = body.get(HEADER..)?;
    let get = |kind| find(attributes, kind);
    if get(FRA_PROTOCOL).and_then(attr::u8) != Some(PROTOCOL) {
        return None;
    }
    let net = |kind, len| {
        let net = IpNet::new(get(kind).and_then(attr::ip)?, len).ok()?;
        (net.addr().is_ipv6() == v6).then_some(net)
    };
    Some(RoutingRule {
        priority: get(FRA_PRIORITY).and_then(attr::u32).unwrap_or(0),
        v6,
        from: net(FRA_SRC, from_len),
        to: net(FRA_DST, to_len),
        table: get(FRA_TABLE).and_then(attr::u32).unwrap_or_else(|| table.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_bytes_are_no_rule_and_no_panic() {
        for fill in [0_u8, 1, 4, 8, 86, 0xff] {
            for len in 0..80 {
                assert!(read(true, &vec![fill; len]).is_none(), "{len} × {fill}");
            }
        }
        let mut body = vec![2, 33, 24, 0, 100, 0, 0, 1, 0, 0, 0, 0];
        attr::put(&mut body, FRA_SRC, &[10, 2, 0, 0]);
        attr::put(&mut body, FRA_DST, &[10, 3, 0, 0]);
        assert!(read(false, &body).is_none(), "somebody else's");
        attr::put(&mut body, FRA_PROTOCOL, &[PROTOCOL]);
        let rule = read(false, &body).unwrap();
        assert_eq!((rule.from, rule.to, rule.table), ("10.2.0.0/24".parse().ok(), None, 100));
    }
}
