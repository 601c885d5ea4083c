//! What to send to the kernel so that its tables become ours: one list, one transaction.

use std::fmt;

use super::{Chain, Elements, Family, Ruleset, Set, Table, text::Element};

/// One step of a transaction; all steps happen together or none does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Make a table with all that is in it.
    AddTable(Family, Table),
    /// Take a table away with all that is in it.
    DeleteTable(Family),
    /// Replace the rules of an existing chain.
    ReplaceRules {
        /// The table.
        family: Family,
        /// The chain's name.
        name: String,
        /// Its new rules.
        chain: Chain,
    },
    /// Take elements away.
    DeleteElements {
        /// The table.
        family: Family,
        /// The set's name.
        name: String,
        /// The set with only these elements.
        set: Set,
    },
    /// Put elements in.
    AddElements {
        /// The table.
        family: Family,
        /// The set's name.
        name: String,
        /// The set with only these elements.
        set: Set,
    },
}

/// The changes that turn `observed` into `desired`; none when they are equal. A table whose skeleton (sets, chains,
/// hooks) differs is replaced whole; otherwise only rules and elements are touched.
pub fn diff(observed: &Ruleset, desired: &Ruleset) -> Vec<Change> {
    let mut changes = Vec::new();
    for family in Family::ALL {
        match (observed.tables.get(&family), desired.tables.get(&family)) {
            (None, None) => {}
            (Some(_), None) => changes.push(Change::DeleteTable(family)),
            (None, Some(new)) => changes.push(Change::AddTable(family, new.clone())),
            (Some(old), Some(new)) if same_skeleton(old, new) => diff_table(family, old, new, &mut changes),
            (Some(_), Some(new)) => {
                changes.push(Change::DeleteTable(family));
                changes.push(Change::AddTable(family, new.clone()));
            }
        }
    }
    changes
}

fn same_skeleton(old: &Table, new: &Table) -> bool {
    old.sets.len() == new.sets.len()
        && old.chains.len() == new.chains.len()
        && new.sets.iter().all(|(name, set)| old.sets.get(name).is_some_and(|o| o.def == set.def))
        && new.chains.iter().all(|(name, chain)| old.chains.get(name).is_some_and(|o| o.base == chain.base))
}

fn diff_table(family: Family, old: &Table, new: &Table, changes: &mut Vec<Change>) {
    for (name, chain) in &new.chains {
        if old.chains.get(name).is_none_or(|o| o.rules != chain.rules) {
            changes.push(Change::ReplaceRules { family, name: name.clone(), chain: chain.clone() });
        }
    }
    for (name, set) in &new.sets {
        let Some(old) = old.sets.get(name).filter(|_| set.def.dynamic.is_none()) else { continue };
        // Nearly always so, and told by walking both once instead of looking each element up.
        if old.elements == set.elements {
            continue;
        }
        let lacking = |a: &Elements, b: &Elements| -> Elements {
            a.iter()
                .filter(|(key, value)| b.get(*key) != Some(*value))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        let gone = lacking(&old.elements, &set.elements);
        let come = lacking(&set.elements, &old.elements);
        let part = |elements| Set { def: set.def.clone(), elements };
        if !gone.is_empty() {
            changes.push(Change::DeleteElements { family, name: name.clone(), set: part(gone) });
        }
        if !come.is_empty() {
            changes.push(Change::AddElements { family, name: name.clone(), set: part(come) });
        }
    }
}

impl Change {
    /// How many elements and rules it touches; for the plan's summary.
    pub fn size(&self) -> usize {
        match self {
            Self::AddTable(_, table) => table.sets.values().map(|s| s.elements.len()).sum(),
            Self::DeleteTable(_) => 0,
            Self::ReplaceRules { chain, .. } => chain.rules.len(),
            Self::DeleteElements { set, .. } | Self::AddElements { set, .. } => set.elements.len(),
        }
    }
}

/// A line per thing that changes; long lists of elements are cut after a few.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elements = |f: &mut fmt::Formatter<'_>, sign: char, family: &Family, name: &str, set: &Set| {
            const SHOWN: usize = 12;
            for (i, (key, value)) in set.elements.iter().take(SHOWN).enumerate() {
                let newline = if i > 0 { "\n" } else { "" };
                let element = Element { def: &set.def, key, value };
                write!(f, "{newline}{sign} nft {} {name}: {element}", family.word())?;
            }
            match set.elements.len().checked_sub(SHOWN) {
                Some(more @ 1..) => write!(f, "\n{sign} nft {} {name}: … and {more} more", family.word()),
                _ => Ok(()),
            }
        };
        match self {
            Self::AddTable(family, table) => write!(
                f,
                "+ nft table {} viaduct ({} rules, {} elements)",
                family.word(),
                table.chains.values().map(|c| c.rules.len()).sum::<usize>(),
                self.size()
            ),
            Self::DeleteTable(family) => write!(f, "- nft table {} viaduct", family.word()),
            Self::ReplaceRules { family, name, chain } => {
                write!(f, "~ nft chain {} {name} ({} rules)", family.word(), chain.rules.len())
            }
            Self::DeleteElements { family, name, set } => elements(f, '-', family, name, set),
            Self::AddElements { family, name, set } => elements(f, '+', family, name, set),
        }
    }
}
