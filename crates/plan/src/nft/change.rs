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
    /// Put sets and chains into an existing table, with all that is in them.
    AddParts(Family, Table),
    /// Take sets and chains away from it, with all that is in them: nothing else names them by then.
    DeleteParts(Family, Table),
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

/// The changes that turn `observed` into `desired`; none when they are equal. What a table has already stays as it is, with
/// what it has counted. A table is replaced whole where a set or a chain of the same name is of another kind, and where it has
/// what we never make.
pub fn diff(observed: &Ruleset, desired: &Ruleset) -> Vec<Change> {
    let mut changes = Vec::new();
    for family in Family::ALL {
        match (observed.tables.get(&family), desired.tables.get(&family)) {
            (None, None) => {}
            (Some(_), None) => changes.push(Change::DeleteTable(family)),
            (None, Some(new)) => changes.push(Change::AddTable(family, new.clone())),
            (Some(old), Some(new)) if can_become(old, new) => diff_table(family, old, new, &mut changes),
            (Some(_), Some(new)) => {
                changes.push(Change::DeleteTable(family));
                changes.push(Change::AddTable(family, new.clone()));
            }
        }
    }
    changes
}

fn can_become(old: &Table, new: &Table) -> bool {
    // One that somebody has switched off is read as one without anything. Sets without fields are of a kind that we never make,
    // and what the kernel names itself goes with the rules that it belongs to (nf_tables_api.c, `nf_tables_set_alloc_name`).
    let is_empty = old.sets.is_empty() && old.chains.is_empty();
    let is_alien = old.sets.values().any(|set| set.def.key.is_empty());
    let is_of_rule = old.sets.keys().chain(old.chains.keys()).any(|name| name.starts_with("__"));
    !(is_empty || is_alien || is_of_rule)
        && new.sets.iter().all(|(name, set)| old.sets.get(name).is_none_or(|o| o.def == set.def))
        && new.chains.iter().all(|(name, chain)| old.chains.get(name).is_none_or(|o| o.base == chain.base))
}

/// The sets and chains that another table does not have.
fn parts_lacking(of: &Table, other: &Table) -> Option<Table> {
    let sets = of.sets.iter().filter(|(name, _)| !other.sets.contains_key(*name));
    let chains = of.chains.iter().filter(|(name, _)| !other.chains.contains_key(*name));
    let parts = Table {
        sets: sets.map(|(name, set)| (name.clone(), set.clone())).collect(),
        chains: chains.map(|(name, chain)| (name.clone(), chain.clone())).collect(),
    };
    (!parts.sets.is_empty() || !parts.chains.is_empty()).then_some(parts)
}

fn diff_table(family: Family, old: &Table, new: &Table, changes: &mut Vec<Change>) {
    changes.extend(parts_lacking(new, old).map(|come| Change::AddParts(family, come)));
    diff_parts(family, old, new, changes);
    changes.extend(parts_lacking(old, new).map(|gone| Change::DeleteParts(family, gone)));
}

/// What is different in sets and chains that both have.
fn diff_parts(family: Family, old: &Table, new: &Table, changes: &mut Vec<Change>) {
    for (name, chain) in &new.chains {
        if old.chains.get(name).is_some_and(|o| o.rules != chain.rules) {
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
            Self::AddTable(_, table) | Self::AddParts(_, table) | Self::DeleteParts(_, table) => {
                table.sets.values().map(|s| s.elements.len()).sum()
            }
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
            Self::AddParts(family, parts) => write_parts(f, '+', *family, parts),
            Self::DeleteParts(family, parts) => write_parts(f, '-', *family, parts),
            Self::ReplaceRules { family, name, chain } => {
                write!(f, "~ nft chain {} {name} ({} rules)", family.word(), chain.rules.len())
            }
            Self::DeleteElements { family, name, set } => elements(f, '-', family, name, set),
            Self::AddElements { family, name, set } => elements(f, '+', family, name, set),
        }
    }
}

fn write_parts(f: &mut fmt::Formatter<'_>, sign: char, family: Family, parts: &Table) -> fmt::Result {
    let word = family.word();
    let chain =
        |(name, chain): (&String, &Chain)| format!("chain {word} {name} ({} rules)", chain.rules.len());
    let set = |(name, set): (&String, &Set)| match set.def.dynamic {
        // What is in it is counted by the kernel.
        Some(_) => format!("set {word} {name}"),
        None => format!("set {word} {name} ({} elements)", set.elements.len()),
    };
    let lines = parts.sets.iter().map(set).chain(parts.chains.iter().map(chain));
    for (i, line) in lines.enumerate() {
        let newline = if i > 0 { "\n" } else { "" };
        write!(f, "{newline}{sign} nft {line}")?;
    }
    Ok(())
}
