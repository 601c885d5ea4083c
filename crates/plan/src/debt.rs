//! Flows that are still to be ended, as the filter itself remembers them.
//!
//! Flows are ended after the filter changed: with the old one in place they would come back. A run that is stopped
//! between the two, or that fails to end them, would leave nobody who knows what the old filter let through. So the
//! transaction that takes a permission away also notes what it takes and what it puts in, of all that decides about
//! flows, and the note goes when the flows are ended. Whoever comes next reads from it what the filter was before.

use std::collections::BTreeMap;

use crate::nft::{Change, Elements, Family, Key, Ruleset, Set, SetDef, Table, Type, Value, ValueType};

/// The set with the note.
pub(crate) const SET: &str = "flows_to_end";
/// A longer note says only that there was a change; flows are judged by what the new filter allows, then.
const MOST: usize = 4096;
/// In place of a set's number: nothing is known of what was before.
const UNKNOWN: u8 = u8::MAX;

/// The sets that decide about flows; each has one for IPv4 and one for IPv6.
const JUDGED: [&str; 16] = [
    "attached",
    "own",
    "listed_in",
    "listed_out",
    "in_service",
    "in_ports",
    "in_protocols",
    "out_service",
    "out_ports",
    "out_protocols",
    "between",
    "inbound",
    "publish",
    "publish_all",
    "publish_range",
    "publish_all_range",
];

/// Whether an element went or came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    Gone = 0,
    Come = 1,
}

/// Bytes of a register.
const REGISTER: usize = 4;
/// Room for an element's key: two IPv6 addresses, a protocol and a port.
const KEY: usize = 40;
/// Room for its value: an IPv6 address and a port.
const VALUE: usize = 24;

/// The number of the set with the sign, and the element's first key, lead to its last key and its value. Of the types
/// only the sizes matter.
pub(crate) fn definition() -> SetDef {
    let key = [Type::Proto, Type::Ipv6, Type::Ipv6, Type::Ipv4, Type::Ipv4];
    SetDef::map(&key, ValueType::Fields(vec![Type::Ipv6; (KEY + VALUE) / Type::Ipv6.size()]))
}

/// The change that notes what a change of table inet does; none when that is nothing that flows depend on.
pub(crate) fn note(before: Option<&Table>, after: &Table) -> Option<Change> {
    let elements = before.map_or_else(unknown, |before| difference(before, after));
    (!elements.is_empty()).then(|| add(elements))
}

/// The change that only says that there was one.
pub(crate) fn note_unknown() -> Change {
    add(unknown())
}

/// The change that takes a note away.
pub(crate) fn settle(note: &Change) -> Option<Change> {
    let Change::AddElements { family, name, set } = note else { return None };
    Some(Change::DeleteElements { family: *family, name: name.clone(), set: set.clone() })
}

/// The note that a filter holds, as the change that made it.
pub(crate) fn held(filter: &Ruleset) -> Option<Change> {
    let set = filter.tables.get(&Family::Inet)?.sets.get(SET)?;
    (!set.elements.is_empty()).then(|| add(set.elements.clone()))
}

/// Whether it is about a note.
pub(crate) fn is_note(change: &Change) -> bool {
    match change {
        Change::AddElements { name, .. } | Change::DeleteElements { name, .. } => name == SET,
        Change::AddTable(..)
        | Change::DeleteTable(_)
        | Change::AddParts(..)
        | Change::DeleteParts(..)
        | Change::ReplaceRules { .. } => false,
    }
}

/// The filter as it was before the change whose flows are still to be ended, as far as it decides about flows; empty
/// when that is not known. None when nothing is to be ended.
pub(crate) fn before(filter: &Ruleset) -> Option<Ruleset> {
    let table = filter.tables.get(&Family::Inet)?;
    let note = table.sets.get(SET).filter(|set| !set.elements.is_empty())?;
    if note.elements.keys().any(|key| key.first.first() == Some(&UNKNOWN)) {
        return Some(Ruleset::default());
    }
    let mut was = Table::default();
    for (number, name) in judged() {
        let Some(mut set) = table.sets.get(&name).cloned() else { continue };
        // What came goes first: a key may have come with another value.
        for sign in [Sign::Come, Sign::Gone] {
            let noted = note.elements.iter().filter(|(key, _)| key.first.first() == Some(&tag(number, sign)));
            for (key, value) in noted.filter_map(|(key, value)| read(&set.def, key, value)) {
                match sign {
                    Sign::Come => drop(set.elements.remove(&key)),
                    Sign::Gone => drop(set.elements.insert(key, value)),
                }
            }
        }
        was.sets.insert(name, set);
    }
    Some(Ruleset { tables: BTreeMap::from([(Family::Inet, was)]) })
}

fn judged() -> impl Iterator<Item = (u8, String)> {
    let names = JUDGED.iter().flat_map(|name| [format!("{name}4"), format!("{name}6")]);
    (0..).zip(names)
}

fn tag(number: u8, sign: Sign) -> u8 {
    2 * number + sign as u8
}

fn add(elements: Elements) -> Change {
    Change::AddElements {
        family: Family::Inet,
        name: SET.to_owned(),
        set: Set { def: definition(), elements },
    }
}

fn unknown() -> Elements {
    Elements::from([entry(UNKNOWN, &Key::new(), &Value::None)])
}

fn difference(before: &Table, after: &Table) -> Elements {
    let none = Elements::new();
    let mut note = Elements::new();
    for (number, name) in judged() {
        let old = before.sets.get(&name).map_or(&none, |set| &set.elements);
        let new = after.sets.get(&name).map_or(&none, |set| &set.elements);
        if old == new {
            continue;
        }
        for (sign, from, to) in [(Sign::Gone, old, new), (Sign::Come, new, old)] {
            let differing = from.iter().filter(|(key, value)| to.get(*key) != Some(*value));
            note.extend(differing.map(|(key, value)| entry(tag(number, sign), key, value)));
        }
        if note.len() > MOST {
            return unknown();
        }
    }
    note
}

fn entry(tag: u8, key: &Key, value: &Value) -> (Key, Value) {
    let mut first = vec![0; REGISTER + KEY];
    first[0] = tag;
    copy(&mut first[REGISTER..], &key.first);
    let mut rest = vec![0; KEY + VALUE];
    copy(&mut rest[..KEY], &key.last);
    match value {
        Value::Fields(bytes) => copy(&mut rest[KEY..], bytes),
        Value::None | Value::Verdict(_) => {}
    }
    (Key { last: first.clone(), first }, Value::Fields(rest))
}

fn copy(room: &mut [u8], bytes: &[u8]) {
    debug_assert!(bytes.len() <= room.len(), "no room for {bytes:?}");
    room.iter_mut().zip(bytes).for_each(|(room, byte)| *room = *byte);
}

/// The element of a set that an entry is about.
fn read(def: &SetDef, entry: &Key, rest: &Value) -> Option<(Key, Value)> {
    let Value::Fields(rest) = rest else { return None };
    let first = entry.first.get(REGISTER..)?.get(..def.key_len())?.to_vec();
    let last = rest.get(..def.key_len())?.to_vec();
    let value = match &def.value {
        Some(ValueType::Fields(types)) => {
            let len = types.iter().map(|t| t.padded_len()).sum();
            Value::Fields(rest.get(KEY..)?.get(..len)?.to_vec())
        }
        Some(ValueType::Verdict) | None => Value::None,
    };
    Some((Key { first, last }, value))
}
