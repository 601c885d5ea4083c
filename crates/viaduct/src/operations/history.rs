//! The configurations that this host was given, and what each changed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use similar::{ChangeTag, TextDiff};
use viaduct_model::Source;
use viaduct_reconcile as store;

use super::{Caller, Operation, Remark};
use crate::{clock, failure::Failure, host::Host};

/// Lists the last revisions, or shows one.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct History {
    /// Which; all when none is named.
    #[serde(default)]
    pub(crate) revision: Option<u64>,
}

/// The revisions that were asked for.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Revisions {
    /// Oldest first.
    pub(crate) revisions: Vec<Revision>,
    /// Which others there are that cannot be read.
    #[serde(default)]
    pub(crate) notices: Vec<Remark>,
}

/// A configuration that the host was given.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Revision {
    /// Counts up from 1.
    pub(crate) number: u64,
    /// When, UTC.
    pub(crate) time: String,
    /// By which command.
    pub(crate) action: String,
    /// By which user.
    pub(crate) by: String,
    /// Its files.
    pub(crate) files: Vec<String>,
    /// How many lines are new in it.
    pub(crate) added: usize,
    /// How many lines of the one before are not in it.
    pub(crate) removed: usize,
    /// What changed, as a unified diff.
    pub(crate) diff: String,
}

impl Operation for History {
    const NAME: &'static str = "history";
    const WRITES: bool = false;
    const QUERY: bool = true;
    type Report = Revisions;

    fn perform(self, host: &mut Host, _: &mut Caller<'_>) -> Result<Revisions, Failure> {
        let store::History { revisions: all, mut damaged } = host.store.history()?;
        let positions = match self.revision {
            Some(number) => {
                if let Some(error) = damaged.remove(&number) {
                    return Err(error.into());
                }
                let position = all.iter().position(|revision| revision.number == number);
                let position = position.ok_or_else(|| unknown(number, &all))?;
                position..position + 1
            }
            None => 0..all.len(),
        };
        let revisions = positions.map(|position| view(&all, position)).collect();
        let warning = |error| Remark::warning(Failure::from(error).line());
        Ok(Revisions { revisions, notices: damaged.into_values().map(warning).collect() })
    }
}

/// The revision with a number; without one, the last that says something else than what is applied.
pub(super) fn find(host: &Host, number: Option<u64>, applied: &[Source]) -> Result<store::Revision, Failure> {
    let store::History { revisions: mut all, mut damaged } = host.store.history()?;
    let position = match number {
        Some(number) => all.iter().position(|revision| revision.number == number),
        None => all.iter().rposition(|revision| revision.sources != applied),
    };
    // Without a number, one that cannot be read may be the one that is meant, unless it is older.
    let found = position.and_then(|position| all.get(position)).map(|revision| revision.number);
    let in_the_way = match number {
        Some(number) => damaged.remove(&number),
        None => damaged.pop_last().filter(|(last, _)| Some(*last) > found).map(|(_, error)| error),
    };
    if let Some(error) = in_the_way {
        return Err(Failure::from(error)
            .with("`viaduct history` has the others, and `viaduct rollback N` returns to one of them."));
    }
    match (position, number) {
        (Some(position), _) => Ok(all.swap_remove(position)),
        (None, Some(number)) => Err(unknown(number, &all)),
        (None, None) => Err(Failure::failed("there is no earlier revision to return to")),
    }
}

fn unknown(number: u64, all: &[store::Revision]) -> Failure {
    Failure::usage(match (all.first(), all.last()) {
        (Some(first), Some(last)) => {
            format!("there is no revision {number}; kept are {} to {}", first.number, last.number)
        }
        _ => format!("there is no revision {number}: nothing was applied yet"),
    })
}

fn view(all: &[store::Revision], position: usize) -> Revision {
    let revision = &all[position];
    let before = position.checked_sub(1).map_or(&[][..], |previous| &all[previous].sources);
    let (diff, added, removed) = diff(before, &revision.sources);
    Revision {
        number: revision.number,
        time: clock::calendar(revision.time),
        action: revision.action.clone(),
        by: revision.by.clone(),
        files: revision.sources.iter().map(|source| source.name.clone()).collect(),
        added,
        removed,
        diff,
    }
}

/// What changed from some files to others, and how many lines came and went.
fn diff(before: &[Source], after: &[Source]) -> (String, usize, usize) {
    let text = |sources: &[Source], name: &str| {
        sources.iter().find(|source| source.name == name).map_or_else(String::new, |s| s.text.clone())
    };
    let mut names: Vec<&str> = before.iter().chain(after).map(|source| source.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let (mut whole, mut added, mut removed) = (String::new(), 0, 0);
    for name in names {
        let (old, new) = (text(before, name), text(after, name));
        let changes = TextDiff::from_lines(&old, &new);
        for change in changes.iter_all_changes() {
            match change.tag() {
                ChangeTag::Insert => added += 1,
                ChangeTag::Delete => removed += 1,
                ChangeTag::Equal => {}
            }
        }
        whole.push_str(&changes.unified_diff().header(name, name).to_string());
    }
    (whole, added, removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_names_its_files_and_counts_its_lines() {
        let source = |name: &str, text: &str| Source { name: name.to_owned(), text: text.to_owned() };
        let before = [source("a.toml", "x = 1\ny = 2\n"), source("b.toml", "z = 3\n")];
        let after = [source("a.toml", "x = 1\ny = 4\n"), source("c.toml", "w = 5\n")];
        let (text, added, removed) = diff(&before, &after);
        assert_eq!((added, removed), (2, 2));
        for line in ["--- a.toml", "-y = 2", "+y = 4", "-z = 3", "+++ c.toml", "+w = 5"] {
            assert!(text.lines().any(|l| l == line), "no {line} in:\n{text}");
        }
        assert_eq!(diff(&before, &before), (String::new(), 0, 0));
    }
}
