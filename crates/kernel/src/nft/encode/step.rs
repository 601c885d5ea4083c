//! What each message of a batch does, for the one who reads an error.

use viaduct_plan::nft::{Family, Set, TABLE};

use crate::nft::{
    attr::{attrs, messages},
    uapi::elem_list,
};

/// What a message does.
#[derive(Clone, Copy)]
pub(super) enum Step<'a> {
    /// Head and end of the batch.
    Frame,
    MakeTable(Family),
    DropTable(Family),
    MakeSet(Family, &'a str),
    MakeChain(Family, &'a str),
    EmptyChain(Family, &'a str),
    DropChain(Family, &'a str),
    DropSet(Family, &'a str),
    /// Into a chain, a rule with a text.
    AddRule(Family, &'a str, &'a str),
    /// Elements from this one on, in the set's order.
    Elements {
        family: Family,
        name: &'a str,
        set: &'a Set,
        from: usize,
        verb: Verb,
    },
}

/// Which way elements go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Delete,
}

impl Step<'_> {
    /// In words that follow "cannot"; `nth` is which of its elements it is about.
    pub(super) fn describe(&self, nth: Option<usize>) -> String {
        let object = |verb: &str, what: &str, family: Family, name: &str| {
            format!("{verb} {what} {} {TABLE} {name}", family.word())
        };
        match *self {
            Self::Frame => "change nftables".to_owned(),
            Self::MakeTable(family) => format!("make table {} {TABLE}", family.word()),
            Self::DropTable(family) => format!("delete table {} {TABLE}", family.word()),
            Self::MakeSet(family, name) => object("make", "set", family, name),
            Self::MakeChain(family, name) => object("make", "chain", family, name),
            Self::EmptyChain(family, name) => object("empty", "chain", family, name),
            Self::DropChain(family, name) => object("delete", "chain", family, name),
            Self::DropSet(family, name) => object("delete", "set", family, name),
            Self::AddRule(family, name, text) => object("add to", "chain", family, name) + ": " + text,
            Self::Elements { family, name, set, from, verb } => {
                let verb = match verb {
                    Verb::Add => "add to",
                    Verb::Delete => "delete from",
                };
                let one = nth.or((set.elements.len() == 1).then_some(0)).map(|nth| from + nth);
                let element = match one.and_then(|n| set.elements.iter().nth(n)) {
                    Some((key, value)) => format!("element {}", set.def.element_text(key, value)),
                    None => format!("one of {} elements", set.elements.len()),
                };
                object(verb, "set", family, name) + ": " + &element
            }
        }
    }
}

/// Which element of a batch's nth message has the attribute at an offset of the message.
pub(super) fn element_at(batch: &[u8], nth: usize, offset: usize) -> Option<usize> {
    let message = messages(batch).nth(nth)?.ok()?;
    let (_, body) = message.body().ok()?;
    let elements = attrs(body).find_map(|attr| match attr {
        Ok((elem_list::ELEMENTS, elements)) => Some(elements),
        Ok(_) | Err(_) => None,
    })?;
    // The elements are the last attribute, so they end where the message ends.
    let mut at = message.len().checked_sub(elements.len())?;
    for (n, element) in attrs(elements).enumerate() {
        let (_, payload) = element.ok()?;
        at += (4 + payload.len()).next_multiple_of(4);
        if offset < at {
            return Some(n);
        }
    }
    None
}
