//! The kernel's lists as values. What we can not express comes out as something that we never want, so that it is
//! seen as different and replaced: a chain without its hook, a set without key fields, an expression with nothing
//! but its name.

mod expr;
mod set;

use viaduct_plan::nft::{Base, ChainKind, Expr, Family, Hook};

pub(super) use self::expr::{Data, data, named};
pub(super) use self::set::{counted_elements, elements, set};
use super::{
    attr::{Malformed, attrs, be32, find, text},
    uapi::{POLICY_ACCEPT, TABLE_DORMANT, chain, chain_flag, generation, hook, rule, table},
};

type Result<T> = std::result::Result<T, Malformed>;

/// A table's name, and whether it sees packets.
pub(super) struct TableHead<'a> {
    pub(super) name: &'a str,
    pub(super) dormant: bool,
}

/// One object of NFT_MSG_GETTABLE.
pub(super) fn table(body: &[u8]) -> Result<TableHead<'_>> {
    let mut head = TableHead { name: "", dormant: false };
    for attr in attrs(body) {
        match attr? {
            (table::NAME, name) => head.name = text(name)?,
            (table::FLAGS, flags) => head.dormant = be32(flags)? & TABLE_DORMANT != 0,
            _ => {}
        }
    }
    Ok(head)
}

/// The answer to NFT_MSG_GETGEN.
pub(super) fn generation(body: &[u8]) -> Result<u32> {
    be32(find(body, generation::ID)?.ok_or(Malformed)?)
}

/// A chain without its rules.
pub(super) struct ChainHead<'a> {
    pub(super) table: &'a str,
    pub(super) name: &'a str,
    pub(super) base: Option<Base>,
}

/// One object of NFT_MSG_GETCHAIN.
pub(super) fn chain(family: Family, body: &[u8]) -> Result<ChainHead<'_>> {
    let mut head = ChainHead { table: "", name: "", base: None };
    let (mut hooked, mut kind, mut plain) = (None, None, true);
    for attr in attrs(body) {
        match attr? {
            (chain::TABLE, name) => head.table = text(name)?,
            (chain::NAME, name) => head.name = text(name)?,
            (chain::HOOK, nest) => hooked = Some(nest),
            (chain::TYPE, word) => {
                let word = text(word)?;
                kind = [ChainKind::Filter, ChainKind::Nat].into_iter().find(|k| k.word() == word);
            }
            (chain::POLICY, policy) => plain &= be32(policy)? == POLICY_ACCEPT,
            (chain::FLAGS, flags) => plain &= be32(flags)? & !chain_flag::BASE == 0,
            _ => {}
        }
    }
    if let (Some(nest), Some(kind), true) = (hooked, kind, plain) {
        head.base = base(family, kind, nest)?;
    }
    Ok(head)
}

fn base(family: Family, kind: ChainKind, nest: &[u8]) -> Result<Option<Base>> {
    let (mut number, mut priority, mut device) = (None, 0, None);
    let mut devices = 0;
    for attr in attrs(nest) {
        match attr? {
            (hook::NUMBER, n) => number = Some(be32(n)?),
            (hook::PRIORITY, p) => priority = be32(p)?.cast_signed(),
            (hook::DEVICES, nest) => {
                for attr in attrs(nest) {
                    let (kind, name) = attr?;
                    devices += 1;
                    // Another kind is a pattern of names.
                    device = if kind == hook::DEVICES_NAME { text(name)?.parse().ok() } else { None };
                }
            }
            _ => {}
        }
    }
    let hooks: &[Hook] = match family {
        Family::Inet | Family::Bridge => {
            &[Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting]
        }
        Family::Arp => &[Hook::Input, Hook::Output],
        Family::Netdev => &[Hook::Ingress, Hook::Egress],
    };
    let Some(&hook) = hooks.iter().find(|h| Some(h.number(family)) == number) else { return Ok(None) };
    let expected = usize::from(family == Family::Netdev);
    if devices != expected || device.is_some() != (expected == 1) {
        return Ok(None);
    }
    Ok(Some(Base { kind, hook, priority, device }))
}

/// A rule and where it stands.
pub(super) struct RuleHead<'a> {
    pub(super) table: &'a str,
    pub(super) chain: &'a str,
    pub(super) exprs: Vec<Expr>,
}

/// One object of NFT_MSG_GETRULE.
pub(super) fn rule(body: &[u8]) -> Result<RuleHead<'_>> {
    let mut head = RuleHead { table: "", chain: "", exprs: Vec::new() };
    for attr in attrs(body) {
        match attr? {
            (rule::TABLE, name) => head.table = text(name)?,
            (rule::CHAIN, name) => head.chain = text(name)?,
            (rule::EXPRESSIONS, nest) => head.exprs = expr::exprs(nest)?,
            _ => {}
        }
    }
    Ok(head)
}
