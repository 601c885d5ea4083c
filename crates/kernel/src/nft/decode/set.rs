//! Sets and elements of the kernel, the way back of [`crate::nft::encode`].

use viaduct_plan::nft::{Key, SetDef, Type, Value, ValueType};

use super::{
    Result,
    expr::{Data, data, named},
};
use crate::nft::{
    attr::{Malformed, attrs, be32, be64, find, text},
    uapi::{DATA_VERDICT, TYPE_BITS, counter, elem, elem_list, list, set, set_desc, set_flag},
};

/// A set without its elements.
pub(in crate::nft) struct SetHead<'a> {
    pub(in crate::nft) table: &'a str,
    pub(in crate::nft) name: &'a str,
    pub(in crate::nft) def: SetDef,
}

/// One object of NFT_MSG_GETSET. Sets of a kind that we never make come out without key fields.
pub(in crate::nft) fn set(body: &[u8]) -> Result<SetHead<'_>> {
    let mut head = SetHead { table: "", name: "", def: SetDef::set(&[]) };
    let (mut flags, mut key_type, mut data_type, mut size) = (0, 0, None, 0);
    let (mut key_len, mut data_len) = (0, 0);
    for attr in attrs(body) {
        match attr? {
            (set::TABLE, name) => head.table = text(name)?,
            (set::NAME, name) => head.name = text(name)?,
            (set::FLAGS, number) => flags = be32(number)?,
            (set::KEY_TYPE, number) => key_type = be32(number)?,
            (set::KEY_LEN, number) => key_len = be32(number)?,
            (set::DATA_TYPE, number) => data_type = Some(be32(number)?),
            (set::DATA_LEN, number) => data_len = be32(number)?,
            (set::DESC, nest) => {
                if let Some(number) = find(nest, set_desc::SIZE)? {
                    size = be32(number)?;
                }
            }
            _ => {}
        }
    }
    let known = set_flag::INTERVAL | set_flag::CONCAT | set_flag::MAP | set_flag::EVAL;
    let dynamic = (flags & set_flag::EVAL != 0).then_some(size);
    // Ranges of single fields are kept in another way by the kernel.
    let ranges = flags & (set_flag::INTERVAL | set_flag::CONCAT);
    let ours = flags & !known == 0 && ranges != set_flag::INTERVAL && (size == 0 || dynamic.is_some());
    let key = types(key_type, key_len);
    let value = match data_type {
        None => Some(None),
        Some(DATA_VERDICT) => Some(Some(ValueType::Verdict)),
        Some(number) => types(number, data_len).map(|types| Some(ValueType::Fields(types))),
    };
    if let (true, Some(key), Some(value)) = (ours, key, value) {
        head.def = SetDef { key, value, interval: flags & set_flag::INTERVAL != 0, dynamic };
    }
    Ok(head)
}

/// The fields of a type number, when they have the length.
fn types(number: u32, len: u32) -> Option<Vec<Type>> {
    const ALL: [Type; 6] = [Type::IfName, Type::Ether, Type::Ipv4, Type::Ipv6, Type::Proto, Type::Port];
    let mut rest = number;
    let mut types = Vec::new();
    while rest != 0 {
        let last = rest & ((1 << TYPE_BITS) - 1);
        types.push(*ALL.iter().find(|t| t.number() == last)?);
        rest >>= TYPE_BITS;
    }
    types.reverse();
    let expected = match types.as_slice() {
        [] => return None,
        [one] => one.size(),
        several => several.iter().map(|t| t.padded_len()).sum(),
    };
    (usize::try_from(len) == Ok(expected)).then_some(types)
}

/// An element as we have them, or nothing for one that we never make.
pub(in crate::nft) type SetElement = Option<(Key, Value)>;

/// One message of NFT_MSG_GETSETELEM.
pub(in crate::nft) fn elements(body: &[u8], def: &SetDef, out: &mut Vec<SetElement>) -> Result<()> {
    each(body, &mut |nest| {
        out.push(element(nest, def)?);
        Ok(())
    })
}

fn each(body: &[u8], take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let Some(nest) = find(body, elem_list::ELEMENTS)? else { return Ok(()) };
    for attr in attrs(nest) {
        let (kind, nest) = attr?;
        if kind == list::ELEM {
            take(nest)?;
        }
    }
    Ok(())
}

fn element(nest: &[u8], def: &SetDef) -> Result<SetElement> {
    let (mut first, mut last, mut value) = (None, None, Value::None);
    for attr in attrs(nest) {
        match attr? {
            (elem::KEY, nest) => first = Some(field_bytes(nest)?),
            (elem::KEY_END, nest) => last = Some(field_bytes(nest)?),
            (elem::DATA, nest) => {
                value = match data(nest)? {
                    Data::Value(bytes) => Value::Fields(padded(bytes)),
                    Data::Verdict(Some(verdict)) => Value::Verdict(verdict),
                    Data::Verdict(None) => return Ok(None),
                };
            }
            // Ends of intervals as red-black trees have them, and the element that stands for all others.
            (elem::FLAGS, flags) if be32(flags)? != 0 => return Ok(None),
            _ => {}
        }
    }
    let Some(first) = first else { return Ok(None) };
    let last = last.unwrap_or_else(|| first.clone());
    let fits = first.len() == def.key_len() && last.len() == first.len();
    Ok(fits.then_some((Key { first, last }, value)))
}

fn field_bytes(nest: &[u8]) -> Result<Vec<u8>> {
    match data(nest)? {
        Data::Value(bytes) => Ok(padded(bytes)),
        Data::Verdict(_) => Err(Malformed),
    }
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut padded = Vec::with_capacity(bytes.len().next_multiple_of(4));
    padded.extend_from_slice(bytes);
    padded.resize(bytes.len().next_multiple_of(4), 0);
    padded
}

/// The key of an element, and its packets and bytes.
pub(in crate::nft) type Counted = (Vec<u8>, (u64, u64));

/// One message of NFT_MSG_GETSETELEM of a dynamic set.
pub(in crate::nft) fn counted_elements(body: &[u8], out: &mut Vec<Counted>) -> Result<()> {
    each(body, &mut |nest| {
        let Some(key) = find(nest, elem::KEY)? else { return Ok(()) };
        let mut counts = (0, 0);
        for attr in attrs(nest) {
            match attr? {
                (elem::EXPR, nest) => counted(nest, &mut counts)?,
                (elem::EXPRESSIONS, nest) => {
                    for attr in attrs(nest) {
                        counted(attr?.1, &mut counts)?;
                    }
                }
                _ => {}
            }
        }
        out.push((field_bytes(key)?, counts));
        Ok(())
    })
}

fn counted(nest: &[u8], counts: &mut (u64, u64)) -> Result<()> {
    let ("counter", attributes) = named(nest)? else { return Ok(()) };
    for attr in attrs(attributes) {
        match attr? {
            (counter::PACKETS, number) => counts.0 = be64(number)?,
            (counter::BYTES, number) => counts.1 = be64(number)?,
            _ => {}
        }
    }
    Ok(())
}
