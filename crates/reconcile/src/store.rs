//! What is remembered between runs, as JSON files that a person can read: the applied configuration (state directory,
//! survives a reboot) and the attachments (run directory, as short-lived as what they name).

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use viaduct_model::Source;
use viaduct_plan::Attachments;

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
    #[error(
        "{} is damaged ({reason}); the network goes on as it is. Move the file away and run `viaduct apply` \
         (and attach the guests again if it is the list of attachments)",
        path.display()
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
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

    /// Waits until nobody else changes the host, and keeps others waiting.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    pub fn lock(&self) -> Result<Lock, StoreError> {
        let path = self.run.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| io_error("open", &path, source))?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(io_error("lock", &path, errno.into())),
            }
        }
    }

    /// The configuration that was applied last; none when none was.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn applied(&self) -> Result<Option<Vec<Source>>, StoreError> {
        let applied: Option<Applied> = read(&self.applied_path())?;
        Ok(applied.map(|a| a.sources.into_iter().map(|s| Source { name: s.name, text: s.text }).collect()))
    }

    /// Remembers a configuration as applied.
    ///
    /// # Errors
    /// When the file cannot be written; then the old one is still there.
    pub fn set_applied(&self, sources: &[Source]) -> Result<(), StoreError> {
        let sources = sources.iter().map(|s| AppliedSource { name: s.name.clone(), text: s.text.clone() });
        write(&self.applied_path(), &Applied { sources: sources.collect() })
    }

    /// Forgets the applied configuration.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn clear_applied(&self) -> Result<(), StoreError> {
        let path = self.applied_path();
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path, source)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The attachments.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn attachments(&self) -> Result<Attachments, StoreError> {
        Ok(read(&self.attachments_path())?.unwrap_or_default())
    }

    /// Remembers the attachments.
    ///
    /// # Errors
    /// When the file cannot be written; then the old one is still there.
    pub fn set_attachments(&self, attachments: &Attachments) -> Result<(), StoreError> {
        write(&self.attachments_path(), attachments)
    }

    fn applied_path(&self) -> PathBuf {
        self.state.join("applied.json")
    }

    fn attachments_path(&self) -> PathBuf {
        self.run.join("attachments.json")
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { action, path: path.to_owned(), source }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("read", path, source)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| StoreError::Damaged { path: path.to_owned(), reason: error.to_string() })
}

/// Writes beside and renames over, so that a crash leaves the old file or the new one.
fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), StoreError> {
    let beside = path.with_extension("new");
    let go = || -> io::Result<()> {
        let mut file = File::create(&beside)?;
        serde_json::to_writer_pretty(&mut file, value)?;
        file.write_all(b"\n")?;
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
