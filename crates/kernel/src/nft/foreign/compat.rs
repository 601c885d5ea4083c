//! Matches of x_tables in rules of nf_tables, as iptables-nft makes them, by the structures that they have in
//! include/uapi/linux/netfilter*.

use viaduct_doctor::filter::{Condition, Field, Range, Set, Test};

use super::Result;
use crate::nft::{
    attr::{be32, find, text},
    uapi::xt,
};

/// What a match asks; comments match always.
pub(super) fn conditions(body: &[u8]) -> Result<Vec<Condition>> {
    let name = text(find(body, xt::NAME)?.unwrap_or_default())?;
    let info = Info(find(body, xt::INFO)?.unwrap_or_default());
    let revision = find(body, xt::REVISION)?.map(be32).transpose()?.unwrap_or(0);
    let known = match name {
        "comment" => Some(Vec::new()),
        "conntrack" => conntrack(&info, revision),
        // struct xt_tcp: ports, an option, two bytes of flags, what is inverted.
        "tcp" => segment(&info, 11, (info.byte(8), info.byte(9))),
        // struct xt_udp
        "udp" => segment(&info, 8, (Some(0), Some(0))),
        "multiport" => multiport(&info, revision),
        "icmp" | "icmp6" => message(&info),
        "hl" => hop_limit(&info),
        "addrtype" => address_type(&info, revision),
        _ => None,
    };
    Ok(known.unwrap_or_else(|| vec![Condition { test: Test::Unknown, negated: false }]))
}

struct Info<'a>(&'a [u8]);

impl Info<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    fn short(&self, at: usize) -> Option<u16> {
        self.0.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
    }

    fn word(&self, at: usize) -> Option<u32> {
        self.0.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
    }
}

/// struct xt_conntrack_mtinfo2 and 3: eight addresses, two times, the protocol and four ports stand before the flags.
fn conntrack(info: &Info<'_>, revision: u32) -> Option<Vec<Condition>> {
    /// XT_CONNTRACK_STATE_DNAT
    const DNAT: u16 = 0x80;
    /// XT_CONNTRACK_STATE_UNTRACKED
    const UNTRACKED: u16 = 0x100;
    // XT_CONNTRACK_STATE and nothing else.
    let (2 | 3, 1) = (revision, info.short(146)?) else { return None };
    let negated = info.short(148)? & 1 != 0;
    let test = match info.short(150)? {
        DNAT => Test::Translated,
        state if state & !(0xf | UNTRACKED) != 0 => return None,
        state => Test::State(u32::from(state & 0xf) | if state & UNTRACKED != 0 { 64 } else { 0 }),
    };
    Some(vec![Condition { test, negated }])
}

/// Ports from and to, first and last; where it stands what is inverted, and what flags and which option have to be there.
fn segment(
    info: &Info<'_>,
    inverted: usize,
    (option, flags): (Option<u8>, Option<u8>),
) -> Option<Vec<Condition>> {
    let range = |at| Some((info.short(at)?, info.short(at + 2)?));
    let (source, destination, inverted) = (range(0)?, range(4)?, info.byte(inverted)?);
    let mut conditions = Vec::new();
    if source != (0, u16::MAX) || inverted & !2 != 0 || option? != 0 || flags? != 0 {
        conditions.push(Condition { test: Test::Unknown, negated: false });
    }
    if destination != (0, u16::MAX) || inverted & 2 != 0 {
        let test = Test::Among(Set::ports([destination]));
        conditions.push(Condition { test, negated: inverted & 2 != 0 });
    }
    Some(conditions)
}

/// struct xt_multiport_v1: what ports, how many, the ports, of which the first of a range, and whether it is inverted.
fn multiport(info: &Info<'_>, revision: u32) -> Option<Vec<Condition>> {
    /// XT_MULTIPORT_DESTINATION
    const DESTINATION: u8 = 1;
    const MOST: usize = 15;
    let count = usize::from(info.byte(1)?);
    if revision != 1 || info.byte(0)? != DESTINATION || count > MOST {
        return None;
    }
    let (mut ranges, mut at) = (Vec::new(), 0);
    while at < count {
        let first = info.short(2 + at * 2)?;
        let is_range = info.byte(2 + MOST * 2 + at)? != 0;
        at += usize::from(is_range);
        ranges.push((first, info.short(2 + at * 2)?));
        at += 1;
    }
    let negated = info.byte(2 + MOST * 3)? != 0;
    Some(vec![Condition { test: Test::Among(Set::ports(ranges)), negated }])
}

/// struct ipt_icmp and ip6t_icmp: the type, first and last code, whether it is inverted.
fn message(info: &Info<'_>) -> Option<Vec<Condition>> {
    // Codes other than 0 have none of the messages that are asked about.
    let (kind, code, negated) = (info.byte(0)?, info.byte(1)?, info.byte(3)? & 1 != 0);
    let kinds = match (kind, code) {
        // Of IPv4 it is any, and of IPv6 there is none.
        (u8::MAX, _) => Some((0, u8::MAX)),
        (_, 0) => Some((kind, kind)),
        _ => None,
    };
    Some(vec![Condition { test: Test::Among(Set::bytes(Field::Message, kinds)), negated }])
}

/// struct ip6t_hl_info: how it is compared, and with what.
fn hop_limit(info: &Info<'_>) -> Option<Vec<Condition>> {
    let (how @ (0 | 1), limit) = (info.byte(0)?, info.byte(1)?) else { return None };
    Some(vec![Condition {
        test: Test::Among(Set::bytes(Field::HopLimit, [(limit, limit)])),
        negated: how == 1,
    }])
}

/// struct xt_addrtype_info_v1: bits of kinds of source and destination, and what is inverted or limited to a device.
fn address_type(info: &Info<'_>, revision: u32) -> Option<Vec<Condition>> {
    /// XT_ADDRTYPE_INVERT_DEST
    const INVERTED: u32 = 2;
    let (source, destination, flags) = (info.short(0)?, info.short(2)?, info.word(4)?);
    if revision != 1 || source != 0 || flags & !INVERTED != 0 {
        return None;
    }
    let kinds = (0_u32..16).filter(|kind| destination & 1 << kind != 0);
    let range = |kind: u32| Range::new(&kind.to_ne_bytes(), &kind.to_ne_bytes());
    let test = Test::Among(Set::one(Field::Cast, kinds.map(range)));
    Some(vec![Condition { test, negated: flags & INVERTED != 0 }])
}
