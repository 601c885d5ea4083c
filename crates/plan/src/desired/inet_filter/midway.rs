//! TCP connections that the connection tracking meets in their middle. The kernel takes such a packet for the first of
//! a new connection, in its own direction (nf_conntrack_tcp_loose). So a connection that was ended because a
//! permission went would come back with the next packet of the side that may still open connections. It is taken up
//! only where both sides may, as with a guest of an open network that has moved here with its connections.

use super::{
    super::elements::{Builder, words::*},
    families::{FAMILIES, FamilyWords, both},
};
use crate::nft::{Const, Selector as S, Statement as St};

/// A rule that sends what begins no connection through `chain`, which refuses it or gives it back.
pub(super) fn check(chain: &str) -> Vec<St> {
    // Of FIN, SYN, RST and ACK not just SYN (RFC 9293, 3.10.7.2).
    vec![tcp(), St::NotMasked(S::TcpFlags, Const::u8(0x17, "0x17"), Const::u8(0x02, "syn")), jump(chain)]
}

/// The chains that [`check`] names: `midway_from_guest` and `midway_from_outside`.
pub(super) fn add(table: &mut Builder) {
    // A list opens the one direction only.
    let listed = |f: &FamilyWords, end, chain| -> [Vec<St>; 2] {
        [both!(f, "listed_in4", "listed_in6"), both!(f, "listed_out4", "listed_out6")]
            .map(|set| vec![(f.is)(), St::In(vec![end], set), goto(chain)])
    };
    let mut from_guest = Vec::new();
    let mut from_outside = Vec::new();
    for f in &FAMILIES {
        from_guest.extend(listed(f, f.saddr, "refuse_out"));
        from_guest.extend(listed(f, f.daddr, "refuse_out"));
        from_outside.extend(listed(f, f.daddr, "refuse_in"));
    }
    for f in &FAMILIES {
        let between = |from, to| St::In(vec![from, to], both!(f, "between4", "between6"));
        from_guest.push(vec![(f.is)(), between(f.saddr, f.daddr), between(f.daddr, f.saddr), back()]);
        let inbound = St::In(vec![S::OifName, f.saddr], both!(f, "inbound4", "inbound6"));
        from_guest.push(vec![(f.is)(), inbound, back()]);
    }
    from_guest.push(vec![goto("refuse_out")]);
    table.chain("midway_from_guest", from_guest);
    table.chain("midway_from_outside", from_outside);
}
