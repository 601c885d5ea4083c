//! Settings inside of shared namespaces, and the journal of what they were before we first changed them. A namespace that
//! goes takes its settings with it; one of the same name is another.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use viaduct_plan::Sysctl;
use viaduct_types::NamespaceName;

use crate::{
    error::KernelError,
    namespaces,
    netns::Netns,
    sysctl::{self, replace},
};

/// What settings of one namespace were.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Former {
    /// Which namespace.
    inode: u64,
    settings: BTreeMap<Sysctl, String>,
}

/// One JSON file beside the host's journal, replaced whole and durably each time.
pub(crate) struct InnerJournal {
    path: PathBuf,
}

impl InnerJournal {
    pub(crate) fn open(run_dir: &Path) -> Self {
        Self { path: run_dir.join("namespaces-sysctl-journal.json") }
    }

    fn read(&self) -> Result<BTreeMap<NamespaceName, Former>, KernelError> {
        let corrupt = |reason: String| KernelError::Journal { path: self.path.clone(), reason };
        match fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| corrupt(e.to_string())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(e) => Err(corrupt(e.to_string())),
        }
    }

    fn write(&self, all: &BTreeMap<NamespaceName, Former>) -> Result<(), KernelError> {
        replace(&self.path, all)
            .map_err(|e| KernelError::system(format!("writing {}", self.path.display()), e))
    }

    /// What the settings of this one were, of whatever namespaces there are.
    pub(crate) fn of(
        &self,
        name: &NamespaceName,
        inode: u64,
    ) -> Result<BTreeMap<Sysctl, String>, KernelError> {
        let former = self.read()?.remove(name).filter(|former| former.inode == inode);
        Ok(former.map(|former| former.settings).unwrap_or_default())
    }

    fn change(
        &self,
        name: &NamespaceName,
        inode: u64,
        change: impl FnOnce(&mut BTreeMap<Sysctl, String>),
    ) -> Result<(), KernelError> {
        let mut all = self.read()?;
        let mut former = all.remove(name).filter(|former| former.inode == inode).unwrap_or_default();
        former.inode = inode;
        let before = former.settings.clone();
        change(&mut former.settings);
        if former.settings == before {
            return Ok(());
        }
        if !former.settings.is_empty() {
            all.insert(name.clone(), former);
        }
        self.write(&all)
    }

    /// Forgets one that is gone.
    pub(crate) fn forget(&self, name: &NamespaceName) -> Result<(), KernelError> {
        let mut all = self.read()?;
        if all.remove(name).is_some() { self.write(&all) } else { Ok(()) }
    }

    /// Sets a setting, after what it was is on disk.
    pub(crate) fn set(
        &self,
        name: &NamespaceName,
        key: &Sysctl,
        value: &str,
        what: &str,
    ) -> Result<(), KernelError> {
        let netns = Netns::open(&namespaces::path(name))?;
        let was = netns.run(|| sysctl::read(key))??;
        let Some(was) = was else { return Err(KernelError::NoSetting { what: what.to_owned() }) };
        self.change(name, netns.inode(), |known| {
            known.entry(key.clone()).or_insert(was);
        })?;
        netns.run(|| sysctl::write(key, value, what))?
    }

    /// Gives a setting back what it had, and forgets it.
    pub(crate) fn restore(
        &self,
        name: &NamespaceName,
        key: &Sysctl,
        value: &str,
        what: &str,
    ) -> Result<(), KernelError> {
        let netns = Netns::open(&namespaces::path(name))?;
        // It may have gone with its device.
        netns.run(|| match sysctl::read(key)? {
            Some(_) => sysctl::write(key, value, what),
            None => Ok(()),
        })??;
        self.change(name, netns.inode(), |known| {
            known.remove(key);
        })
    }
}

/// What settings of a namespace are, as far as they exist.
pub(crate) fn look(
    name: &NamespaceName,
    keys: &BTreeSet<Sysctl>,
) -> Result<BTreeMap<Sysctl, String>, KernelError> {
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    let read = |key: &Sysctl| Ok(sysctl::read(key)?.map(|value| (key.clone(), value)));
    let all = || keys.iter().filter_map(|key| read(key).transpose()).collect();
    Netns::open(&namespaces::path(name))?.run(all)?
}
