//! Everybody else's tables with a filter at one of the hooks that guests' packets, or those to and from this host, meet. What
//! is not understood of a rule is told as unknown.

mod compat;
mod rules;
mod sets;

use std::collections::{BTreeMap, BTreeSet};

use viaduct_doctor::filter::{Chain, Engine, Family, Hook, Point, Table};
use viaduct_plan::nft::TABLE;

use super::{
    NftError,
    attr::{Malformed, be32, find, text},
    decode,
    socket::{Connection, Dump, Request},
    uapi::{NF_INET_FORWARD, NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT, POLICY_ACCEPT, chain, hook, message, rule},
};

type Result<T> = std::result::Result<T, Malformed>;

/// The names of devices by their ifindex, for rules that have the number.
pub(super) type Names = BTreeMap<u32, String>;

/// The tables of other programs through which packets go.
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
    let mut found = Vec::new();
    connection.request(
        &request("rules", message::GET_RULE),
        |w| w.text(rule::TABLE, &table.name),
        &mut |_, body| {
            let of = text(find(body, rule::TABLE)?.unwrap_or_default())?;
            let chain = text(find(body, rule::CHAIN)?.unwrap_or_default())?;
            if of == table.name && table.chains.contains_key(chain) {
                let exprs = find(body, rule::EXPRESSIONS)?.unwrap_or_default();
                found.push((chain.to_owned(), exprs.to_owned()));
            }
            Ok(())
        },
    )?;
    let malformed = |Malformed| NftError::Malformed { what: "rules" };
    let mut asked = BTreeSet::new();
    for (_, exprs) in &found {
        rules::sets_of(exprs, &mut asked).map_err(malformed)?;
    }
    let sets = sets::read(connection, family, &table.name, &asked)?;
    for (chain, exprs) in found {
        let rules = rules::read(&exprs, names, &sets).map_err(malformed)?;
        if let Some(chain) = table.chains.get_mut(&chain) {
            chain.rules.extend(rules);
        }
    }
    Ok(())
}

/// A chain's table, its name, and its place at a hook when it is a filter at one of ours.
fn base(body: &[u8]) -> Result<(&str, &str, Option<Hook>)> {
    let of = text(find(body, chain::TABLE)?.unwrap_or_default())?;
    let name = text(find(body, chain::NAME)?.unwrap_or_default())?;
    let Some(nest) = find(body, chain::HOOK)? else { return Ok((of, name, None)) };
    let kind = text(find(body, chain::TYPE)?.unwrap_or_default())?;
    let number = find(nest, hook::NUMBER)?.map(be32).transpose()?;
    let point = match number {
        Some(NF_INET_LOCAL_IN) => Point::Input,
        Some(NF_INET_FORWARD) => Point::Forward,
        Some(NF_INET_LOCAL_OUT) => Point::Output,
        _ => return Ok((of, name, None)),
    };
    // Chains of kind route, at the hook of what this host sends, drop as well.
    if kind != "filter" && kind != "route" {
        return Ok((of, name, None));
    }
    let priority = find(nest, hook::PRIORITY)?.map(be32).transpose()?.unwrap_or(0).cast_signed();
    let drops =
        find(body, chain::POLICY)?.map(be32).transpose()?.is_some_and(|policy| policy != POLICY_ACCEPT);
    Ok((of, name, Some(Hook { point, priority, drops })))
}
