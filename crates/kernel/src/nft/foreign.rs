//! Everybody else's tables with a filter at the forward hook. What is not understood of a rule is told as unknown.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use viaduct_doctor::filter::{Chain, Condition, Engine, Family, Hook, Rule, Table, Test, Verdict};
use viaduct_plan::nft::TABLE;

use super::{
    NftError,
    attr::{Malformed, Writer, attrs, be32, find, text},
    decode::{self, Data},
    socket::{Connection, Dump, Request},
    uapi::{
        NF_INET_FORWARD, POLICY_ACCEPT, REG_VERDICT, bitwise, chain, cmp, ct, data, elem, elem_list, hook,
        immediate, list, lookup, message, meta, payload, rule, xt,
    },
};

type Result<T> = std::result::Result<T, Malformed>;

/// The names of devices by their ifindex, for rules that have the number.
pub(super) type Names = BTreeMap<u32, String>;

/// The tables of other programs through which forwarded packets go.
pub(super) fn tables(
    connection: &mut Connection,
    names: &Names,
) -> std::result::Result<Vec<Table>, NftError> {
    let mut tables = Vec::new();
    let request = Request { what: "tables", kind: message::GET_TABLE, family: 0, dump: Dump::Yes };
    connection.request(&request, |_| {}, &mut |number, body| {
        let table = decode::table(body)?;
        let family = match number {
            1 => Family::Inet,
            2 => Family::Ip,
            10 => Family::Ip6,
            _ => return Ok(()),
        };
        if table.name != TABLE && !table.dormant {
            tables.push((
                number,
                Table { engine: Engine::Nft, family, name: table.name.to_owned(), chains: BTreeMap::new() },
            ));
        }
        Ok(())
    })?;
    let mut found = Vec::new();
    for (number, mut table) in tables {
        fill(connection, number, &mut table, names)?;
        if table.bases().next().is_some() {
            found.push(table);
        }
    }
    Ok(found)
}

fn fill(
    connection: &mut Connection,
    family: u8,
    table: &mut Table,
    names: &Names,
) -> std::result::Result<(), NftError> {
    let request = |what, kind| Request { what, kind, family, dump: Dump::Yes };
    connection.request(&request("chains", message::GET_CHAIN), |_| {}, &mut |_, body| {
        let (of, name, hook) = base(body)?;
        if of == table.name {
            table.chains.insert(name.to_owned(), Chain { hook, rules: Vec::new() });
        }
        Ok(())
    })?;
    if table.bases().next().is_none() {
        return Ok(());
    }
    let mut asked = Vec::new();
    let name = table.name.clone();
    connection.request(
        &request("rules", message::GET_RULE),
        |w| w.text(rule::TABLE, &name),
        &mut |_, body| {
            let of = text(find(body, rule::TABLE)?.unwrap_or_default())?;
            let chain = text(find(body, rule::CHAIN)?.unwrap_or_default())?;
            if of == table.name
                && let Some(place) = table.chains.get_mut(chain)
            {
                let (rule, sets) = read(find(body, rule::EXPRESSIONS)?.unwrap_or_default(), names)?;
                let index = place.rules.len();
                asked.extend(sets.into_iter().map(|(at, set)| (chain.to_owned(), index, at, set)));
                place.rules.push(rule);
            }
            Ok(())
        },
    )?;
    for (chain, index, at, set) in asked {
        let mut bits = 0;
        let of_set = |w: &mut Writer| {
            w.text(elem_list::TABLE, &table.name);
            w.text(elem_list::SET, &set);
        };
        connection.request(&request("elements", message::GET_SET_ELEM), of_set, &mut |_, body| {
            let Some(nest) = find(body, elem_list::ELEMENTS)? else { return Ok(()) };
            for element in attrs(nest) {
                let key = find(element?.1, elem::KEY)?.unwrap_or_default();
                bits |= number(find(key, data::VALUE)?.unwrap_or_default());
            }
            Ok(())
        })?;
        let place = table.chains.get_mut(&chain).and_then(|chain| chain.rules.get_mut(index));
        if let Some(condition) = place.and_then(|rule| rule.conditions.get_mut(at)) {
            condition.test = Test::State(bits);
        }
    }
    Ok(())
}

/// A chain's table, its name, and its place at the forward hook when it is a filter there.
fn base(body: &[u8]) -> Result<(&str, &str, Option<Hook>)> {
    let of = text(find(body, chain::TABLE)?.unwrap_or_default())?;
    let name = text(find(body, chain::NAME)?.unwrap_or_default())?;
    let Some(nest) = find(body, chain::HOOK)? else { return Ok((of, name, None)) };
    let kind = text(find(body, chain::TYPE)?.unwrap_or_default())?;
    let number = find(nest, hook::NUMBER)?.map(be32).transpose()?;
    if kind != "filter" || number != Some(NF_INET_FORWARD) {
        return Ok((of, name, None));
    }
    let priority = find(nest, hook::PRIORITY)?.map(be32).transpose()?.unwrap_or(0).cast_signed();
    let drops =
        find(body, chain::POLICY)?.map(be32).transpose()?.is_some_and(|policy| policy != POLICY_ACCEPT);
    Ok((of, name, Some(Hook { priority, drops })))
}

/// What a register holds.
#[derive(Clone)]
struct Loaded {
    field: Field,
    mask: Option<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    In,
    Out,
    InIndex,
    OutIndex,
    Family,
    Protocol,
    State,
    Status,
    Source { ipv4: bool },
    Destination { ipv4: bool },
}

/// A rule, and which of its conditions want the elements of which set.
fn read(exprs: &[u8], names: &Names) -> Result<(Rule, Vec<(usize, String)>)> {
    let mut registers = BTreeMap::<u32, Loaded>::new();
    let mut rule = Rule { conditions: Vec::new(), verdict: Verdict::Continue };
    let mut sets = Vec::new();
    for expr in attrs(exprs) {
        let (kind, nest) = expr?;
        if kind != list::ELEM {
            continue;
        }
        let (name, body) = decode::named(nest)?;
        let reg = |kind| -> Result<u32> { Ok(find(body, kind)?.map(be32).transpose()?.unwrap_or(0)) };
        let unknown = || Condition { test: Test::Unknown, negated: false };
        match name {
            "counter" | "log" | "notrack" | "last" | "objref" | "dynset" | "dup" => {}
            // They load something that is not understood; what compares it is unknown then.
            "rt" | "exthdr" | "fib" | "socket" | "numgen" | "hash" | "byteorder" | "osf" | "tunnel"
            | "xfrm" => {
                registers.clear();
            }
            "meta" | "ct" | "payload" => {
                let load = load(name, body)?;
                match load {
                    Some((to, Some(field))) => drop(registers.insert(to, Loaded { field, mask: None })),
                    Some((to, None)) => drop(registers.remove(&to)),
                    // It sets something.
                    None => {}
                }
            }
            "bitwise" => {
                let mask = find(body, bitwise::MASK)?.and_then(|nest| find(nest, data::VALUE).ok().flatten());
                let from = registers.get(&reg(bitwise::SREG)?).cloned();
                let to = reg(bitwise::DREG)?;
                match (from, mask) {
                    (Some(from), Some(mask)) => {
                        registers.insert(to, Loaded { mask: Some(mask.to_vec()), ..from });
                    }
                    _ => drop(registers.remove(&to)),
                }
            }
            "cmp" => {
                let negated = match reg(cmp::OP)? {
                    0 => Some(false),
                    1 => Some(true),
                    _ => None,
                };
                let value = find(body, cmp::DATA)?.map(decode::data).transpose()?;
                let condition = match (registers.get(&reg(cmp::SREG)?), value, negated) {
                    (Some(loaded), Some(Data::Value(value)), Some(negated)) => {
                        compare(loaded, value, negated, names)
                    }
                    _ => unknown(),
                };
                rule.conditions.push(condition);
            }
            "lookup" => {
                let is_map = find(body, lookup::DREG)?;
                if let Some(to) = is_map {
                    if be32(to)? == REG_VERDICT {
                        rule.verdict = Verdict::Unknown;
                    }
                    registers.remove(&be32(to)?);
                }
                let inverted =
                    find(body, lookup::FLAGS)?.map(be32).transpose()?.is_some_and(|flags| flags & 1 != 0);
                let state = registers
                    .get(&reg(lookup::SREG)?)
                    .is_some_and(|l| l.field == Field::State && l.mask.is_none());
                if state && is_map.is_none() {
                    sets.push((
                        rule.conditions.len(),
                        text(find(body, lookup::SET)?.unwrap_or_default())?.to_owned(),
                    ));
                }
                rule.conditions.push(Condition { test: Test::Unknown, negated: inverted });
            }
            "immediate" => {
                if reg(immediate::DREG)? == REG_VERDICT
                    && let Some(nest) = find(body, immediate::DATA)?
                    && let Data::Verdict(verdict) = decode::data(nest)?
                {
                    rule.verdict = own(verdict);
                }
            }
            "reject" | "synproxy" => rule.verdict = Verdict::Drop,
            "queue" | "fwd" | "tproxy" => rule.verdict = Verdict::Unknown,
            "match" => rule.conditions.extend(matched(body)?),
            "target" => match text(find(body, xt::NAME)?.unwrap_or_default())? {
                "REJECT" | "DROP" => rule.verdict = Verdict::Drop,
                "NFQUEUE" => rule.verdict = Verdict::Unknown,
                _ => {}
            },
            _ => rule.conditions.push(unknown()),
        }
    }
    Ok((rule, sets))
}

fn own(verdict: Option<viaduct_plan::nft::Verdict>) -> Verdict {
    use viaduct_plan::nft::Verdict as Nft;
    match verdict {
        Some(Nft::Accept) => Verdict::Accept,
        Some(Nft::Drop) => Verdict::Drop,
        Some(Nft::Return) => Verdict::Return,
        Some(Nft::Continue) => Verdict::Continue,
        Some(Nft::Jump(to)) => Verdict::Jump(to),
        Some(Nft::Goto(to)) => Verdict::Goto(to),
        None => Verdict::Unknown,
    }
}

/// The register that an expression loads, and with what; none when it sets something.
fn load(name: &str, body: &[u8]) -> Result<Option<(u32, Option<Field>)>> {
    // The register has the same number in all three.
    let Some(to) = find(body, meta::DREG)? else { return Ok(None) };
    let word = |kind| -> Result<u32> { Ok(find(body, kind)?.map(be32).transpose()?.unwrap_or(u32::MAX)) };
    let field = match name {
        // nft_meta_keys
        "meta" => match word(meta::KEY)? {
            4 => Some(Field::InIndex),
            5 => Some(Field::OutIndex),
            6 => Some(Field::In),
            7 => Some(Field::Out),
            15 => Some(Field::Family),
            16 => Some(Field::Protocol),
            _ => None,
        },
        // nft_ct_keys
        "ct" => match word(ct::KEY)? {
            0 => Some(Field::State),
            2 => Some(Field::Status),
            _ => None,
        },
        // Of the network header; the offsets are those of IPv4 and IPv6.
        _ => match (word(payload::BASE)?, word(payload::OFFSET)?, word(payload::LEN)?) {
            (1, 9, 1) => Some(Field::Protocol),
            (1, 12, 1..=4) => Some(Field::Source { ipv4: true }),
            (1, 16, 1..=4) => Some(Field::Destination { ipv4: true }),
            (1, 8, 2..=16) => Some(Field::Source { ipv4: false }),
            (1, 24, 1..=16) => Some(Field::Destination { ipv4: false }),
            _ => None,
        },
    };
    Ok(Some((be32(to)?, field)))
}

fn compare(loaded: &Loaded, value: &[u8], negated: bool, names: &Names) -> Condition {
    let named = || {
        let end = value.iter().position(|&b| b == 0);
        let name = String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned();
        // Without its NUL it is a beginning.
        if end.is_some() { name } else { format!("{name}*") }
    };
    let indexed = || names.get(&number(value)).cloned();
    let is_zero = value.iter().all(|&b| b == 0);
    let flagged = |mask: &Option<Vec<u8>>| mask.as_ref().map_or_else(|| number(value), |mask| number(mask));
    // `state & mask != 0` is the usual form.
    let flip = loaded.mask.is_some() && is_zero;
    let negated_flag = negated != flip;
    let (test, negated) = match loaded.field {
        Field::In => (Some(Test::In(named())), negated),
        Field::Out => (Some(Test::Out(named())), negated),
        Field::InIndex => (indexed().map(Test::In), negated),
        Field::OutIndex => (indexed().map(Test::Out), negated),
        Field::Family => match value.first() {
            Some(2) => (Some(Test::Ipv4), negated),
            Some(10) => (Some(Test::Ipv4), !negated),
            _ => (None, negated),
        },
        Field::Protocol => (value.first().map(|&number| Test::Protocol(number)), negated),
        Field::State => (Some(Test::State(flagged(&loaded.mask))), negated_flag),
        // IPS_DST_NAT
        Field::Status if flagged(&loaded.mask) == 0x20 => (Some(Test::Translated), negated_flag),
        Field::Status => (None, negated),
        Field::Source { ipv4 } => (net(value, loaded.mask.as_deref(), ipv4).map(Test::Source), negated),
        Field::Destination { ipv4 } => {
            (net(value, loaded.mask.as_deref(), ipv4).map(Test::Destination), negated)
        }
    };
    Condition { test: test.unwrap_or(Test::Unknown), negated }
}

/// A number in the host's byte order.
fn number(value: &[u8]) -> u32 {
    value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

fn net(value: &[u8], mask: Option<&[u8]>, ipv4: bool) -> Option<IpNet> {
    let len = match mask {
        Some(mask) => mask.iter().map(|byte| byte.count_ones()).sum::<u32>(),
        None => u32::try_from(value.len()).ok()? * 8,
    };
    let fill = |bytes: &mut [u8]| {
        let into = bytes.get_mut(..value.len())?;
        into.copy_from_slice(value);
        Some(())
    };
    let address: IpAddr = if ipv4 {
        let mut bytes = [0; 4];
        fill(&mut bytes)?;
        Ipv4Addr::from(bytes).into()
    } else {
        let mut bytes = [0; 16];
        fill(&mut bytes)?;
        Ipv6Addr::from(bytes).into()
    };
    IpNet::new(address, u8::try_from(len).ok()?).ok()
}

/// A match of x_tables; comments match always.
fn matched(body: &[u8]) -> Result<Option<Condition>> {
    let name = text(find(body, xt::NAME)?.unwrap_or_default())?;
    let unknown = Condition { test: Test::Unknown, negated: false };
    Ok(match name {
        "comment" => None,
        "conntrack" => {
            // struct xt_conntrack_mtinfo2 and 3 (include/uapi/linux/netfilter/xt_conntrack.h): eight addresses, two
            // times, the protocol and four ports stand before the flags.
            let info = find(body, xt::INFO)?.unwrap_or_default();
            let field = |at: usize| {
                info.get(at..).and_then(|rest| rest.first_chunk()).map(|b| u16::from_ne_bytes(*b))
            };
            let revision = find(body, xt::REVISION)?.map(be32).transpose()?;
            match (revision, field(146), field(148), field(150)) {
                (Some(2 | 3), Some(1), Some(inverted), Some(0x80)) => {
                    Some(Condition { test: Test::Translated, negated: inverted & 1 != 0 })
                }
                // XT_CONNTRACK_STATE and nothing else.
                (Some(2 | 3), Some(1), Some(inverted), Some(state)) => {
                    Some(Condition { test: Test::State(state.into()), negated: inverted & 1 != 0 })
                }
                _ => Some(unknown),
            }
        }
        _ => Some(unknown),
    })
}
