//! The changes of the filter as transactions, and when flows are ended.

use crate::{
    debt,
    nft::{self, Change, Family, Ruleset},
    op::Op,
};

/// The steps of the filter: those that come before anything is made, and those that come when everything is taken away.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    pub(crate) early: Vec<Op>,
    pub(crate) late: Vec<Op>,
}

impl Transactions {
    pub(crate) fn new(observed: &Ruleset, desired: &Ruleset) -> Self {
        let changes = nft::diff(observed, desired).into_iter().filter(|change| !debt::is_note(change));
        let (late, early): (Vec<Change>, Vec<Change>) = changes
            .partition(|change| matches!(change, Change::DeleteTable(f) if !desired.tables.contains_key(f)));
        let left = debt::held(observed);
        Self { early: early_steps(observed, desired, early, left), late: late_steps(late) }
    }
}

fn early_steps(observed: &Ruleset, desired: &Ruleset, changes: Vec<Change>, left: Option<Change>) -> Vec<Op> {
    let settled = left.as_ref().and_then(debt::settle);
    let note = match desired.tables.get(&Family::Inet) {
        Some(after) if changes.iter().any(may_end_flows) => match left {
            // Two changes make no note of one.
            Some(_) => Some(debt::note_unknown()),
            None => debt::note(observed.tables.get(&Family::Inet), after),
        },
        Some(_) | None => None,
    };
    let Some(note) = note else {
        let left = settled
            .filter(|_| desired.tables.contains_key(&Family::Inet))
            .map(|settled| Op::EndFlows { then: vec![settled] });
        let changes = (!changes.is_empty()).then_some(Op::Nft(changes));
        return left.into_iter().chain(changes).collect();
    };
    let replaced = changes.contains(&Change::DeleteTable(Family::Inet));
    let settled = settled.filter(|_| !replaced);
    let (senders, changes): (Vec<_>, Vec<_>) = changes.into_iter().partition(adds_senders);
    let (narrowing, others): (Vec<_>, Vec<_>) = changes.into_iter().partition(narrows_ranges);
    let mut transactions = if narrowing.is_empty() || others.is_empty() {
        vec![[narrowing, others].concat()]
    } else {
        vec![narrowing, others]
    };
    if let Some(first) = transactions.first_mut() {
        first.extend(settled);
        first.push(note.clone());
    }
    let end = Op::EndFlows { then: debt::settle(&note).into_iter().collect() };
    let senders = (!senders.is_empty()).then_some(Op::Nft(senders));
    transactions.into_iter().map(Op::Nft).chain([end]).chain(senders).collect()
}

/// The flows that a filter let through end while it is still there to say which those are. By then guests have left.
fn late_steps(changes: Vec<Change>) -> Vec<Op> {
    if changes.contains(&Change::DeleteTable(Family::Inet)) {
        vec![Op::EndFlows { then: changes }]
    } else if changes.is_empty() {
        Vec::new()
    } else {
        vec![Op::Nft(changes)]
    }
}

/// Whether it takes ranges away that let something through.
///
/// The kernel keeps ranges in another way than single keys (nft_set_pipapo): a lookup finds the old ones until late in
/// the commit, while rules and single keys are the new ones already. A guest whose own list goes in the same transaction
/// as what its network lets in would be open in between. What is let through less of goes first, then, by itself.
fn narrows_ranges(change: &Change) -> bool {
    const RANGES: [&str; 6] =
        ["between", "inbound", "in_ports", "in_protocols", "out_ports", "out_protocols"];
    let Change::DeleteElements { family: Family::Inet, name, .. } = change else { return false };
    name.strip_suffix(['4', '6']).is_some_and(|name| RANGES.contains(&name))
}

/// Whether it lets guests send from more addresses.
///
/// An address that comes to a guest may have flows from an earlier time, which the guest's lists do not allow: they end
/// before it may be used.
fn adds_senders(change: &Change) -> bool {
    matches!(change, Change::AddElements { name, .. } if name == "source4" || name == "source6")
}

/// Whether a change of the filter can forbid what was allowed.
fn may_end_flows(change: &Change) -> bool {
    match change {
        // A list that comes into being narrows, and a published port may lead elsewhere.
        Change::AddElements { family: Family::Inet, name, .. } => {
            name.starts_with("listed_") || name.starts_with("publish")
        }
        Change::DeleteElements { family, .. } | Change::ReplaceRules { family, .. } => {
            *family == Family::Inet
        }
        Change::DeleteTable(family) | Change::AddParts(family, _) | Change::DeleteParts(family, _) => {
            *family == Family::Inet
        }
        // With guests that are here already: the filter was taken away, or is made anew.
        Change::AddTable(family, table) => {
            let attached = |name| table.sets.get(name).is_some_and(|set| !set.elements.is_empty());
            *family == Family::Inet && (attached("attached4") || attached("attached6"))
        }
        Change::AddElements { .. } => false,
    }
}
