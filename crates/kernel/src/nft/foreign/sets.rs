//! Sets of others, in which their rules look.

use std::collections::{BTreeMap, BTreeSet};

use viaduct_doctor::filter::Verdict;

use super::{Result, rules::own};
use crate::nft::{
    NftError,
    attr::{Writer, attrs, be32, find, text},
    decode::{self, Data},
    socket::{Connection, Dump, Request},
    uapi::{elem, elem_flag, elem_list, list, message, set, set_flag},
};

/// By name.
pub(super) type Sets = BTreeMap<String, Known>;

/// A set or a map, with what is in it.
pub(super) struct Known {
    /// In bytes.
    pub(super) key_len: usize,
    pub(super) elements: Vec<Element>,
    /// That there is an element for everything else; the verdict in a map of verdicts.
    pub(super) otherwise: Option<Option<Verdict>>,
    interval: bool,
}

/// An element: all keys from one to another, field by field.
pub(super) struct Element {
    pub(super) first: Vec<u8>,
    pub(super) last: Vec<u8>,
    /// In a map of verdicts.
    pub(super) verdict: Option<Verdict>,
}

/// The sets of these names. Those that packets fill are left out: nobody knows what will be in them.
pub(super) fn read(
    connection: &mut Connection,
    family: u8,
    table: &str,
    names: &BTreeSet<String>,
) -> std::result::Result<Sets, NftError> {
    let mut sets = Sets::new();
    if names.is_empty() {
        return Ok(sets);
    }
    let request = |what, kind| Request { what, kind, family, dump: Dump::Yes };
    connection.request(
        &request("sets", message::GET_SET),
        |w| w.text(set::TABLE, table),
        &mut |_, body| {
            let of = text(find(body, set::TABLE)?.unwrap_or_default())?;
            let name = text(find(body, set::NAME)?.unwrap_or_default())?;
            let word = |kind| -> Result<u32> { Ok(find(body, kind)?.map(be32).transpose()?.unwrap_or(0)) };
            let flags = word(set::FLAGS)?;
            if of == table && names.contains(name) && flags & set_flag::EVAL == 0 {
                // Ranges of single fields are kept in another way: each end is an element.
                let interval = flags & (set_flag::INTERVAL | set_flag::CONCAT) == set_flag::INTERVAL;
                let key_len = usize::try_from(word(set::KEY_LEN)?).unwrap_or(0);
                sets.insert(
                    name.to_owned(),
                    Known { key_len, elements: Vec::new(), otherwise: None, interval },
                );
            }
            Ok(())
        },
    )?;
    for (name, known) in &mut sets {
        let mut ends = Vec::new();
        let of_set = |w: &mut Writer| {
            w.text(elem_list::TABLE, table);
            w.text(elem_list::SET, name);
        };
        connection.request(&request("elements", message::GET_SET_ELEM), of_set, &mut |_, body| {
            let Some(nest) = find(body, elem_list::ELEMENTS)? else { return Ok(()) };
            for attr in attrs(nest) {
                let (kind, nest) = attr?;
                if kind == list::ELEM {
                    known.add(nest, &mut ends)?;
                }
            }
            Ok(())
        })?;
        if known.interval {
            known.elements = between(ends, known.key_len);
        } else if known.has_one_twice() {
            // It was told while it changed its place in the kernel: see `WALKS` in [`crate::nft::read`].
            return Err(NftError::Unsettled { attempts: 1 });
        }
    }
    Ok(sets)
}

/// An end of an interval: the key, whether the interval begins there, and its verdict.
type End = (Vec<u8>, bool, Option<Verdict>);

impl Known {
    fn has_one_twice(&self) -> bool {
        let mut seen = BTreeSet::new();
        !self.elements.iter().all(|element| seen.insert((&element.first, &element.last)))
    }

    fn add(&mut self, nest: &[u8], ends: &mut Vec<End>) -> Result<()> {
        let value = |kind| -> Result<Option<Vec<u8>>> {
            Ok(match find(nest, kind)?.map(decode::data).transpose()? {
                Some(Data::Value(bytes)) => Some(bytes.to_vec()),
                Some(Data::Verdict(_)) | None => None,
            })
        };
        let flags = find(nest, elem::FLAGS)?.map(be32).transpose()?.unwrap_or(0);
        let verdict = match find(nest, elem::DATA)?.map(decode::data).transpose()? {
            Some(Data::Verdict(verdict)) => Some(own(verdict)),
            Some(Data::Value(_)) | None => None,
        };
        if flags & elem_flag::CATCHALL != 0 {
            self.otherwise = Some(verdict);
            return Ok(());
        }
        let Some(first) = value(elem::KEY)? else { return Ok(()) };
        if self.interval {
            ends.push((first, flags & elem_flag::INTERVAL_END == 0, verdict));
        } else {
            let last = value(elem::KEY_END)?.unwrap_or_else(|| first.clone());
            self.elements.push(Element { first, last, verdict });
        }
        Ok(())
    }
}

/// The intervals between their ends: where one ends is no part of it, and the last may have no end.
fn between(mut ends: Vec<End>, len: usize) -> Vec<Element> {
    // Where one ends and the next begins, the end comes first.
    ends.sort_by(|(one, begins, _), (other, also, _)| (one, begins).cmp(&(other, also)));
    let (mut elements, mut open) = (Vec::new(), None);
    for (key, begins, verdict) in ends {
        if let Some((first, verdict)) = open.take() {
            elements.push(Element { first, last: before(&key), verdict });
        }
        if begins {
            open = Some((key, verdict));
        }
    }
    if let Some((first, verdict)) = open {
        elements.push(Element { first, last: vec![u8::MAX; len], verdict });
    }
    elements
}

/// The key before.
fn before(key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    for byte in key.iter_mut().rev() {
        let (less, borrowed) = byte.overflowing_sub(1);
        *byte = less;
        if !borrowed {
            break;
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_lie_between_their_ends() {
        let key = |port: u16| port.to_be_bytes().to_vec();
        // As the kernel tells them, the largest first, with the one that stands for what is before the first.
        let ends = vec![
            (key(60_000), true, None),
            (key(0x0600), false, None),
            (key(0x0500), true, None),
            (key(0x0500), false, None),
            (key(53), true, None),
            (key(0), false, None),
        ];
        let found: Vec<_> =
            between(ends, 2).into_iter().map(|element| (element.first, element.last)).collect();
        assert_eq!(found, [(key(53), key(0x04ff)), (key(0x0500), key(0x05ff)), (key(60_000), key(u16::MAX))]);
    }
}
