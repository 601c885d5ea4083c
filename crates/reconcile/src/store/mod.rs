//! What is remembered between runs, as JSON files that a person can read: the applied configuration (state directory,
//! survives a reboot) with its history, a change that waits to be confirmed, and the attachments (run directory, as
//! short-lived as what they name).

mod attachments;
mod history;
mod leases;
mod unconfirmed;
mod vnets;

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use viaduct_model::Source;

pub use history::{History, KEPT, Revision};
pub use unconfirmed::{Moment, Unconfirmed};
pub use vnets::{Created, CreatedPeer, CreatedVnet, Found};

/// The two directories.
#[derive(Clone, Debug)]
pub struct Store {
    state: PathBuf,
    run: PathBuf,
}

/// Held while the host is changed; released when dropped, or when its holder dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why something could not be remembered, or recalled.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// A file of ours that is not as we write it.
    #[error("{} is damaged ({reason}); the network goes on as it is. {way_out}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        way_out: &'static str,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Applied {
    sources: Vec<AppliedSource>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AppliedSource {
    name: String,
    text: String,
}

impl From<&Source> for AppliedSource {
    fn from(source: &Source) -> Self {
        Self { name: source.name.clone(), text: source.text.clone() }
    }
}

fn sources_of(written: Vec<AppliedSource>) -> Vec<Source> {
    written.into_iter().map(|s| Source { name: s.name, text: s.text }).collect()
}

impl Store {
    /// Uses two directories, made when they do not exist.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn open(state: &Path, run: &Path) -> Result<Self, StoreError> {
        for path in [state, run] {
            fs::create_dir_all(path).map_err(|source| io_error("create the directory", path, source))?;
        }
        Ok(Self { state: state.to_owned(), run: run.to_owned() })
    }

    /// Uses two directories for reading; what is not there is as if empty.
    pub fn read_only(state: &Path, run: &Path) -> Self {
        Self { state: state.to_owned(), run: run.to_owned() }
    }

    /// Waits until nobody else changes the host, and keeps others waiting. `waiting` is called when it has to wait.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    pub fn lock(&self, waiting: impl FnOnce()) -> Result<Lock, StoreError> {
        let path = self.run.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| io_error("open", &path, source))?;
        let mut waiting = Some(waiting);
        loop {
            let operation = match waiting {
                Some(_) => FlockOperation::NonBlockingLockExclusive,
                None => FlockOperation::LockExclusive,
            };
            match flock(&file, operation) {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => {
                    if let Some(tell) = waiting.take() {
                        tell();
                    }
                }
                Err(errno) => return Err(io_error("lock", &path, errno.into())),
            }
        }
    }

    /// The configuration that was applied last; none when none was.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn applied(&self) -> Result<Option<Vec<Source>>, StoreError> {
        let way_out = "Run `viaduct apply`, which writes it anew";
        let path = self.applied_path();
        let Some(Applied { sources }) = read(&path, way_out)? else { return Ok(None) };
        if sources.is_empty() {
            return Err(StoreError::Damaged { path, reason: "no file is in it".to_owned(), way_out });
        }
        Ok(Some(sources_of(sources)))
    }

    /// Remembers a configuration as applied.
    ///
    /// # Errors
    /// When the file cannot be written; then the old one is still there.
    pub fn set_applied(&self, sources: &[Source]) -> Result<(), StoreError> {
        write(&self.applied_path(), &Applied { sources: sources.iter().map(AppliedSource::from).collect() })
    }

    /// Forgets the applied configuration.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn clear_applied(&self) -> Result<(), StoreError> {
        remove(&self.applied_path())
    }

    /// The directory that survives a reboot.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// The directory that does not.
    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// The file with the configuration that was applied last.
    pub fn applied_path(&self) -> PathBuf {
        self.state.join("applied.json")
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { action, path: path.to_owned(), source }
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path, source)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn read<T: DeserializeOwned>(path: &Path, way_out: &'static str) -> Result<Option<T>, StoreError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("read", path, source)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(path, error.to_string(), way_out))
}

fn damaged(path: &Path, reason: String, way_out: &'static str) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), reason, way_out }
}

/// As a person can read it.
fn text<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), StoreError> {
    write_text(path, &text(value).map_err(|source| io_error("write", path, source))?)
}

/// Writes beside and renames over, so that a crash leaves the old file or the new one.
fn write_text(path: &Path, text: &[u8]) -> Result<(), StoreError> {
    let beside = path.with_extension("new");
    let go = || -> io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    };
    go().map_err(|source| {
        // A half-written file beside helps nobody; the one in place is untouched.
        let _ = fs::remove_file(&beside);
        io_error("write", path, source)
    })
}
