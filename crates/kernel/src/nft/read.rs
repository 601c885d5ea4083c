//! Our tables as lists that the kernel gives one after the other.

use std::{collections::BTreeMap, thread, time::Duration};

use viaduct_plan::nft::{Chain, Elements, Family, Rule, Ruleset, Set, SetDef, TABLE, Table};

use super::{
    DynamicCounter, NftError,
    attr::{Malformed, Writer},
    decode,
    socket::{Connection, Dump, Each, Request},
    uapi::{elem_list, message, rule, set},
};

/// A hash table of the kernel grows and shrinks in the background, for some milliseconds after a transaction. A list
/// that is told in pieces meanwhile (each piece skips as many elements as were told before, in an order which is not
/// the same any more) has some elements twice and lacks as many others, and nothing else says so: neither
/// NLM_F_DUMP_INTR nor the generation (`nft_rhash_walk` in net/netfilter/nft_set_hash.c). So a list with an element
/// twice is asked for again, this often.
const WALKS: u32 = 50;
/// See [`WALKS`].
const PAUSE: Duration = Duration::from_millis(2);

/// Everything of ours.
pub(super) fn ruleset(connection: &mut Connection) -> Result<Ruleset, NftError> {
    let mut tables = BTreeMap::new();
    for (family, dormant) in our_tables(connection)? {
        // One that sees no packets is as good as empty, whatever is in it.
        let table = if dormant { Table::default() } else { table(connection, family)? };
        tables.insert(family, table);
    }
    Ok(Ruleset { tables })
}

/// The counters of dynamic sets.
pub(super) fn counters(connection: &mut Connection) -> Result<Vec<DynamicCounter>, NftError> {
    let mut counters = Vec::new();
    for (family, _) in our_tables(connection)? {
        let dynamic = |(name, def): (String, SetDef)| def.dynamic.is_some().then_some(name);
        for name in sets(connection, family)?.into_iter().filter_map(dynamic) {
            let elements = counted_elements(connection, family, &name)?;
            counters.extend(elements.into_iter().map(|(key, (packets, bytes))| DynamicCounter {
                family,
                set: name.clone(),
                key,
                packets,
                bytes,
            }));
        }
    }
    Ok(counters)
}

/// Packets change these sets all the time, so the last list has to do.
fn counted_elements(
    connection: &mut Connection,
    family: Family,
    name: &str,
) -> Result<BTreeMap<Vec<u8>, (u64, u64)>, NftError> {
    let mut elements = BTreeMap::new();
    for _ in 0..WALKS {
        let mut found = Vec::new();
        dump_elements(connection, family, name, &mut |_, body| decode::counted_elements(body, &mut found))?;
        let told = found.len();
        elements = found.into_iter().collect();
        if elements.len() == told {
            break;
        }
        thread::sleep(PAUSE);
    }
    Ok(elements)
}

/// See [`super::Nft::generation`].
pub(super) fn generation(connection: &mut Connection) -> Result<u32, NftError> {
    let what = "generation";
    let mut generation = None;
    let request = Request { what, kind: message::GET_GENERATION, family: 0, dump: Dump::No };
    connection.request(&request, |_| {}, &mut |_, body| {
        generation = Some(decode::generation(body)?);
        Ok(())
    })?;
    generation.ok_or(NftError::Malformed { what })
}

/// The families that have a table of ours, and whether it is dormant.
fn our_tables(connection: &mut Connection) -> Result<Vec<(Family, bool)>, NftError> {
    let mut found = Vec::new();
    // NFPROTO_UNSPEC: of all families.
    let request = Request { what: "tables", kind: message::GET_TABLE, family: 0, dump: Dump::Yes };
    connection.request(&request, |_| {}, &mut |number, body| {
        let table = decode::table(body)?;
        if let Some(family) = Family::ALL.into_iter().find(|f| f.number() == number && table.name == TABLE) {
            found.push((family, table.dormant));
        }
        Ok(())
    })?;
    Ok(found)
}

fn table(connection: &mut Connection, family: Family) -> Result<Table, NftError> {
    let mut table = Table::default();
    for (name, def) in sets(connection, family)? {
        let set = set_with_elements(connection, family, &name, def)?;
        table.sets.insert(name, set);
    }
    let request = |what, kind| Request { what, kind, family: family.number(), dump: Dump::Yes };
    connection.request(&request("chains", message::GET_CHAIN), |_| {}, &mut |_, body| {
        let chain = decode::chain(family, body)?;
        // The kernel tells the chains of all tables of the family.
        if chain.table == TABLE {
            table.chains.insert(chain.name.to_owned(), Chain { base: chain.base, rules: Vec::new() });
        }
        Ok(())
    })?;
    let of_table = |w: &mut Writer| w.text(rule::TABLE, TABLE);
    connection.request(&request("rules", message::GET_RULE), of_table, &mut |_, body| {
        let rule = decode::rule(body)?;
        if rule.table == TABLE {
            let chain = table.chains.get_mut(rule.chain).ok_or(Malformed)?;
            chain.rules.push(Rule { exprs: rule.exprs, text: String::new() });
        }
        Ok(())
    })?;
    Ok(table)
}

fn sets(connection: &mut Connection, family: Family) -> Result<Vec<(String, SetDef)>, NftError> {
    let mut sets = Vec::new();
    let request = Request { what: "sets", kind: message::GET_SET, family: family.number(), dump: Dump::Yes };
    connection.request(&request, |w| w.text(set::TABLE, TABLE), &mut |_, body| {
        let set = decode::set(body)?;
        if set.table == TABLE {
            sets.push((set.name.to_owned(), set.def));
        }
        Ok(())
    })?;
    Ok(sets)
}

fn set_with_elements(
    connection: &mut Connection,
    family: Family,
    name: &str,
    def: SetDef,
) -> Result<Set, NftError> {
    let none = Elements::new();
    if def.dynamic.is_some() || def.key.is_empty() {
        return Ok(Set { def, elements: none });
    }
    for _ in 0..WALKS {
        let mut found = Vec::new();
        dump_elements(connection, family, name, &mut |_, body| decode::elements(body, &def, &mut found))?;
        let told = found.len();
        // With an element that we never make it is no set of ours any more.
        let Some(elements) = found.into_iter().collect::<Option<Elements>>() else {
            return Ok(Set { def: SetDef::set(&[]), elements: none });
        };
        if elements.len() == told {
            return Ok(Set { def, elements });
        }
        thread::sleep(PAUSE);
    }
    Err(NftError::Unsettled { attempts: WALKS })
}

fn dump_elements(
    connection: &mut Connection,
    family: Family,
    name: &str,
    each: &mut Each<'_>,
) -> Result<(), NftError> {
    let request =
        Request { what: "elements", kind: message::GET_SET_ELEM, family: family.number(), dump: Dump::Yes };
    let of_set = |w: &mut Writer| {
        w.text(elem_list::TABLE, TABLE);
        w.text(elem_list::SET, name);
    };
    connection.request(&request, of_set, each)
}
