//! What nf_tables tells all listeners of a transaction: each change, and then its end with who made it.

use super::{
    attr::be32,
    uapi::{chain, elem_list, generation, message, object, rule, set, table},
};
use crate::attr::{find, text};

/// A notification.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Something came, changed or went.
    Change {
        /// In nft's words.
        object: String,
        removed: bool,
        /// The name of the table it is in.
        table: String,
    },
    /// The transaction is over: the thread that made it, and the thread's name.
    End(Option<(u32, String)>),
}

/// Reads one; none for what is neither.
pub(crate) fn notice(kind: u16, body: &[u8]) -> Option<Notice> {
    let (&family, attributes) = (body.first()?, body.get(4..)?);
    let name = |kind| find(attributes, kind).map(text);
    let (what, named) = match kind {
        message::NEW_GENERATION => {
            let thread = find(attributes, generation::PROC_PID).and_then(|pid| be32(pid).ok());
            return Some(Notice::End(thread.zip(name(generation::PROC_NAME))));
        }
        message::NEW_TABLE | message::DELETE_TABLE => ("", None),
        message::NEW_CHAIN | message::DELETE_CHAIN => ("chain ", Some(chain::NAME)),
        message::NEW_RULE | message::DELETE_RULE => ("rules of chain ", Some(rule::CHAIN)),
        message::NEW_SET | message::DELETE_SET => ("set ", Some(set::NAME)),
        message::NEW_SET_ELEM | message::DELETE_SET_ELEM => ("elements of set ", Some(elem_list::SET)),
        message::NEW_OBJECT | message::DELETE_OBJECT => ("object ", Some(object::NAME)),
        message::NEW_FLOWTABLE | message::DELETE_FLOWTABLE => ("flowtable ", Some(object::NAME)),
        _ => return None,
    };
    let removed = matches!(
        kind,
        message::DELETE_TABLE
            | message::DELETE_CHAIN
            | message::DELETE_RULE
            | message::DELETE_SET
            | message::DELETE_SET_ELEM
            | message::DELETE_OBJECT
            | message::DELETE_FLOWTABLE
    );
    // The table's name has the same number in all of them.
    let table = name(table::NAME)?;
    let of_table = format!("table {} {table}", word(family));
    let object = match named {
        None => of_table,
        Some(kind) => format!("{what}{} in {of_table}", name(kind)?),
    };
    Some(Notice::Change { object, removed, table })
}

/// nft's word for a family (NFPROTO_*, include/uapi/linux/netfilter.h); also for those that we have no tables of.
fn word(family: u8) -> &'static str {
    match family {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "of an unknown family",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::put;

    #[test]
    fn objects_are_named_as_nft_names_them() {
        let mut body = vec![7, 0, 0, 0];
        put(&mut body, table::NAME, b"viaduct\0");
        let told = |kind, body: &[u8]| match notice(kind, body) {
            Some(Notice::Change { object, removed, .. }) => Some((object, removed)),
            Some(Notice::End(_)) | None => None,
        };
        let table = Some(("table bridge viaduct".to_owned(), false));
        assert_eq!(told(message::NEW_TABLE, &body), table);
        // A rule without its chain's name is none.
        assert_eq!(told(message::DELETE_RULE, &body), None);
        put(&mut body, rule::CHAIN, b"ports\0");
        let rules = Some(("rules of chain ports in table bridge viaduct".to_owned(), true));
        assert_eq!(told(message::DELETE_RULE, &body), rules);
    }

    #[test]
    fn odd_bytes_are_no_panic() {
        for kind in message::NEW_TABLE..message::NEW_TABLE + 40 {
            for fill in [0_u8, 1, 4, 8, 0xff] {
                for len in 0..80 {
                    let _ = notice(kind, &vec![fill; len]);
                }
            }
        }
    }
}
