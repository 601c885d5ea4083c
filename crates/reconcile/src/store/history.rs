//! The revisions of a host's configuration: the last ones that were made, oldest first, a file each.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use serde::{Deserialize, Serialize};
use viaduct_model::Source;

use super::{AppliedSource, Store, StoreError, io_error, read, sources_of, text, write_text};

/// How many revisions are kept.
pub const KEPT: usize = 20;

/// One state of the configuration that a host was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Counts up from 1.
    pub number: u64,
    /// When, in seconds since 1970 (UTC).
    pub time: u64,
    /// By which command.
    pub action: String,
    /// By which user.
    pub by: String,
    /// The files' text; empty when everything was taken away.
    pub sources: Vec<Source>,
}

/// The revisions that are kept.
#[derive(Debug, Default)]
pub struct History {
    /// Those that can be read, oldest first.
    pub revisions: Vec<Revision>,
    /// Why the others cannot, by their numbers.
    pub damaged: BTreeMap<u64, StoreError>,
}

impl History {
    /// The last one; none when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn last(mut self) -> Result<Option<Revision>, StoreError> {
        let last = self.revisions.pop();
        match self.damaged.pop_last() {
            Some((number, error)) if last.as_ref().is_none_or(|last| last.number < number) => Err(error),
            Some(_) | None => Ok(last),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    time: u64,
    action: String,
    by: String,
    sources: Vec<AppliedSource>,
}

const WAY_OUT: &str = "Remove it: only this revision is lost";

impl Store {
    /// The revisions that are kept. One that cannot be read is in nobody's way.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn history(&self) -> Result<History, StoreError> {
        let mut history = History::default();
        for number in self.numbers()? {
            match read::<Written>(&self.revision_path(number), WAY_OUT) {
                Ok(Some(Written { time, action, by, sources })) => {
                    let sources = sources_of(sources);
                    history.revisions.push(Revision { number, time, action, by, sources });
                }
                Ok(None) => {}
                Err(error) => drop(history.damaged.insert(number, error)),
            }
        }
        Ok(history)
    }

    /// The number of the last revision, which need not be readable; none when there is none.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn last_revision(&self) -> Result<Option<u64>, StoreError> {
        Ok(self.numbers()?.last().copied())
    }

    /// Adds a revision with the next number, unless it says what the last one says; the oldest go when there are
    /// more than [`KEPT`]. Gives the number of the last one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn record(&self, time: u64, action: &str, by: &str, sources: &[Source]) -> Result<u64, StoreError> {
        let mut numbers = self.numbers()?;
        let last = numbers.last().copied();
        let sources = sources.iter().map(AppliedSource::from).collect();
        let written = Written { time, action: action.to_owned(), by: by.to_owned(), sources };
        let text = text(&written).map_err(|e| io_error("write", &self.history_path(), e))?;
        if let Some(number) = last
            && let Ok(old) = fs::read(self.revision_path(number))
            && sources_in(&old) == sources_in(&text)
        {
            return Ok(number);
        }
        let directory = self.history_path();
        fs::create_dir_all(&directory).map_err(|e| io_error("create the directory", &directory, e))?;
        let number = last.unwrap_or(0) + 1;
        write_text(&self.revision_path(number), &text)?;
        numbers.push(number);
        for old in numbers.iter().rev().skip(KEPT) {
            let path = self.revision_path(*old);
            fs::remove_file(&path).map_err(|e| io_error("remove", &path, e))?;
        }
        Ok(number)
    }

    /// The numbers of the revisions that are kept, in order.
    fn numbers(&self) -> Result<Vec<u64>, StoreError> {
        let directory = self.history_path();
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error("list", &directory, error)),
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| io_error("list", &directory, e))?.file_name();
            let number: Option<u64> = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn history_path(&self) -> PathBuf {
        self.state.join("history")
    }

    fn revision_path(&self, number: u64) -> PathBuf {
        self.history_path().join(format!("{number}.json"))
    }
}

/// What a revision's file says of the configuration: all from there on. A string in it has no line break, so that nothing
/// else looks like this. Large configurations are compared faster so than read.
fn sources_in(text: &[u8]) -> Option<&[u8]> {
    const START: &[u8] = b"\n  \"sources\": ";
    let at = text.windows(START.len()).position(|window| window == START)?;
    text.get(at..)
}
