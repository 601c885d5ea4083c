//! Sets and their elements for the kernel.

use viaduct_plan::nft::{Key, SetDef, TABLE, Type, Value, ValueType};

use super::expr::{write_data, write_verdict};
use crate::nft::{
    attr::Writer,
    uapi::{DATA_VERDICT, TYPE_BITS, elem, list, set, set_desc, set_flag},
};

/// A set's definition: NFT_MSG_NEWSET.
pub(super) fn write_set(w: &mut Writer, name: &str, id: u32, def: &SetDef) {
    w.text(set::TABLE, TABLE);
    w.text(set::NAME, name);
    w.be32(set::FLAGS, flags(def));
    w.be32(set::KEY_TYPE, type_number(&def.key));
    w.be32(set::KEY_LEN, byte_len(&def.key));
    match &def.value {
        None => {}
        Some(ValueType::Verdict) => {
            w.be32(set::DATA_TYPE, DATA_VERDICT);
            w.be32(set::DATA_LEN, 0);
        }
        Some(ValueType::Fields(types)) => {
            w.be32(set::DATA_TYPE, type_number(types));
            w.be32(set::DATA_LEN, byte_len(types));
        }
    }
    w.be32(set::ID, id);
    if def.interval || def.dynamic.is_some() {
        w.nest(set::DESC, |w| {
            if let Some(size) = def.dynamic {
                w.be32(set_desc::SIZE, size);
            }
            if def.interval {
                w.nest(set_desc::CONCAT, |w| {
                    for t in &def.key {
                        w.nest(list::ELEM, |w| w.be32(set_desc::FIELD_LEN, small(t.size())));
                    }
                });
            }
        });
    }
    w.attr(set::USERDATA, &userdata(def));
}

/// nft gives NFT_SET_CONCAT only together with NFT_SET_INTERVAL; a concatenation of single keys is one long key.
fn flags(def: &SetDef) -> u32 {
    let interval = if def.interval { set_flag::INTERVAL | set_flag::CONCAT } else { 0 };
    let map = if def.value.is_some() { set_flag::MAP } else { 0 };
    let dynamic = if def.dynamic.is_some() { set_flag::EVAL } else { 0 };
    interval | map | dynamic
}

/// A concatenation's type as nft counts it (`concat_subtype_add` in its include/datatype.h).
fn type_number(types: &[Type]) -> u32 {
    types.iter().fold(0, |number, t| number << TYPE_BITS | t.number())
}

/// A field alone has its own length, fields together take whole registers.
fn byte_len(types: &[Type]) -> u32 {
    match types {
        [one] => small(one.size()),
        several => small(several.iter().map(|t| t.padded_len()).sum()),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "lengths of a few fields")]
fn small(len: usize) -> u32 {
    len as u32
}

/// What nft keeps for itself with a set (libnftnl's include/libnftnl/udata.h): without the byte orders it would show
/// addresses and ports the wrong way round.
fn userdata(def: &SetDef) -> Vec<u8> {
    /// NFTNL_UDATA_SET_KEYBYTEORDER, NFTNL_UDATA_SET_DATABYTEORDER
    const KEY: u8 = 0;
    const DATA: u8 = 1;
    let mut bytes = Vec::with_capacity(12);
    let mut put = |kind: u8, types: &[Type]| {
        bytes.extend_from_slice(&[kind, 4]);
        bytes.extend_from_slice(&byte_order(types).to_ne_bytes());
    };
    put(KEY, &def.key);
    if let Some(ValueType::Fields(types)) = &def.value {
        put(DATA, types);
    }
    bytes
}

/// nft's `enum byteorder`: 0 for concatenations, 1 for host order, 2 for network order.
fn byte_order(types: &[Type]) -> u32 {
    match types {
        [Type::IfName] => 1,
        [Type::Ether | Type::Ipv4 | Type::Ipv6 | Type::Proto | Type::Port] => 2,
        _ => 0,
    }
}

/// One element of NFTA_SET_ELEM_LIST_ELEMENTS.
pub(super) fn write_element(w: &mut Writer, def: &SetDef, key: &Key, value: &Value) {
    w.nest(list::ELEM, |w| {
        write_data(w, elem::KEY, unpadded(&def.key, &key.first));
        // Also of a single key, for which the kernel needs none: where it is missing, nft takes the next element's key
        // for the end of this one's, and shows ranges that are not there.
        if def.interval {
            write_data(w, elem::KEY_END, &key.last);
        }
        match (value, &def.value) {
            (Value::Verdict(verdict), _) => write_verdict(w, elem::DATA, verdict),
            (Value::Fields(bytes), Some(ValueType::Fields(types))) => {
                write_data(w, elem::DATA, unpadded(types, bytes));
            }
            (Value::None | Value::Fields(_), _) => {}
        }
    });
}

/// The bytes of a field that stands alone, without its padding.
fn unpadded<'a>(types: &[Type], bytes: &'a [u8]) -> &'a [u8] {
    match types {
        [one] => bytes.get(..one.size()).unwrap_or(bytes),
        _ => bytes,
    }
}
