//! Settings under /proc/sys, and the journal of what they were before we first changed them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Component, Path, PathBuf},
};

use serde::Serialize;
use viaduct_plan::Sysctl;

use crate::error::KernelError;

const ROOT: &str = "/proc/sys";

/// What a setting is; none when the kernel has no such setting, or its device is not there.
pub(crate) fn read(key: &Sysctl) -> Result<Option<String>, KernelError> {
    match file(key).and_then(fs::read_to_string) {
        Ok(value) => Ok(Some(value.trim_end().to_owned())),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(KernelError::system(format!("reading sysctl {key}"), e)),
    }
}

/// Changes a setting. That its device vanished is no error.
pub(crate) fn write(key: &Sysctl, value: &str, what: &str) -> Result<(), KernelError> {
    let outcome =
        file(key).and_then(|path| fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes()));
    match outcome {
        Ok(()) => Ok(()),
        Err(e) if is_absent(&e) && device_is_gone(key) => Ok(()),
        Err(e) => Err(KernelError::system(what, e)),
    }
}

fn device_is_gone(key: &Sysctl) -> bool {
    let Some(link) = key.link() else { return false };
    // Every device has both; where IPv6 is off only the first.
    !Path::new(ROOT).join("net/ipv4/conf").join(link).exists()
}

/// ENODEV: the setting was opened before its device went.
fn is_absent(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENOTDIR))
}

/// Keys come from a file, too: they must not lead out of /proc/sys.
fn file(key: &Sysctl) -> io::Result<PathBuf> {
    let path = Path::new(key.path());
    if path.components().all(|part| matches!(part, Component::Normal(_))) {
        Ok(Path::new(ROOT).join(path))
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no path under /proc/sys"))
    }
}

/// The journal: one JSON file, replaced whole and durably each time.
pub(crate) struct Journal {
    path: PathBuf,
}

impl Journal {
    const NAME: &str = "sysctl-journal.json";

    /// The one in a directory, which is made if it is missing.
    pub(crate) fn open(directory: &Path) -> Result<Self, KernelError> {
        fs::create_dir_all(directory).map_err(|e| {
            KernelError::system(format!("making the state directory {}", directory.display()), e)
        })?;
        Ok(Self { path: directory.join(Self::NAME) })
    }

    /// What settings were.
    pub(crate) fn read(&self) -> Result<BTreeMap<Sysctl, String>, KernelError> {
        let corrupt = |reason: String| KernelError::Journal { path: self.path.clone(), reason };
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(e) => return Err(corrupt(e.to_string())),
        };
        serde_json::from_slice(&bytes).map_err(|e| corrupt(e.to_string()))
    }

    /// Adds what the settings are, unless it is known already what they were, and gives all that is known when it is
    /// on disk. Settings that do not exist are not in it.
    pub(crate) fn record<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a Sysctl>,
    ) -> Result<BTreeMap<Sysctl, String>, KernelError> {
        let mut journal = self.read()?;
        let known = journal.len();
        for key in keys {
            if !journal.contains_key(key)
                && let Some(value) = read(key)?
            {
                journal.insert(key.clone(), value);
            }
        }
        if journal.len() > known {
            self.write(&journal)?;
        }
        Ok(journal)
    }

    /// Forgets settings that were given back what they had.
    pub(crate) fn forget<'a>(&self, keys: impl IntoIterator<Item = &'a Sysctl>) -> Result<(), KernelError> {
        let mut keys = keys.into_iter().peekable();
        if keys.peek().is_none() {
            return Ok(());
        }
        let mut journal = self.read()?;
        let known = journal.len();
        for key in keys {
            journal.remove(key);
        }
        if journal.len() == known { Ok(()) } else { self.write(&journal) }
    }

    fn write(&self, journal: &BTreeMap<Sysctl, String>) -> Result<(), KernelError> {
        replace(&self.path, journal)
            .map_err(|e| KernelError::system(format!("writing {}", self.path.display()), e))
    }
}

/// Writes a file of JSON, whole and durably.
pub(crate) fn replace(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    let temporary = path.with_extension("json.new");
    let mut file = File::create(&temporary)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    // The new name is only durable with its directory.
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_cannot_lead_out() {
        let key = |text: &str| serde_json::from_value::<Sysctl>(text.into()).unwrap();
        for bad in ["../etc/passwd", "/etc/passwd", "net/../../etc/passwd"] {
            assert!(file(&key(bad)).is_err(), "{bad}");
        }
        assert!(file(&key("net/ipv4/ip_forward")).is_ok());
    }
}
