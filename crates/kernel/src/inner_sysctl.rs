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

/// What is on disk.
#[derive(Default)]
pub(crate) struct Known(BTreeMap<NamespaceName, Former>);

impl Known {
    /// What the settings of this namespace were, of whatever namespaces have had the name.
    pub(crate) fn of(&self, name: &NamespaceName, inode: u64) -> &BTreeMap<Sysctl, String> {
        static NOTHING: BTreeMap<Sysctl, String> = BTreeMap::new();
        self.0.get(name).filter(|former| former.inode == inode).map_or(&NOTHING, |former| &former.settings)
    }
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

    /// What settings were.
    pub(crate) fn known(&self) -> Result<Known, KernelError> {
        Ok(Known(self.read()?))
    }

    /// One durable write for what all these settings are, unless it is known already what they were. What cannot be read is
    /// left to [`Self::set`].
    pub(crate) fn record(
        &self,
        wanted: &BTreeMap<&NamespaceName, Vec<&Sysctl>>,
    ) -> Result<Known, KernelError> {
        let mut all = self.read()?;
        let mut is_new = false;
        for (name, keys) in wanted {
            let Ok(netns) = Netns::open(&namespaces::path(name)) else { continue };
            let mut former = all.remove(*name).filter(|former| former.inode == netns.inode());
            let unknown: Vec<&Sysctl> = keys
                .iter()
                .copied()
                .filter(|key| !former.as_ref().is_some_and(|former| former.settings.contains_key(*key)))
                .collect();
            let value = |key: &Sysctl| Some((key.clone(), sysctl::read(key).ok().flatten()?));
            let values = || unknown.into_iter().filter_map(value).collect::<Vec<_>>();
            let values = netns.run(values)?;
            is_new |= !values.is_empty();
            let former = former.get_or_insert_default();
            former.inode = netns.inode();
            former.settings.extend(values);
            if !former.settings.is_empty() {
                all.insert((*name).clone(), former.clone());
            }
        }
        if is_new {
            self.write(&all)?;
        }
        Ok(Known(all))
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

    /// Forgets those that are gone.
    pub(crate) fn forget<'a>(
        &self,
        names: impl IntoIterator<Item = &'a NamespaceName>,
    ) -> Result<(), KernelError> {
        let mut all = self.read()?;
        let before = all.len();
        names.into_iter().for_each(|name| drop(all.remove(name)));
        if all.len() == before { Ok(()) } else { self.write(&all) }
    }

    /// Forgets settings that were given back what they had.
    pub(crate) fn forget_settings<'a>(
        &self,
        settings: impl IntoIterator<Item = (&'a NamespaceName, &'a Sysctl)>,
    ) -> Result<(), KernelError> {
        let mut settings = settings.into_iter().peekable();
        if settings.peek().is_none() {
            return Ok(());
        }
        let mut all = self.read()?;
        for (name, key) in settings {
            if let Some(former) = all.get_mut(name) {
                former.settings.remove(key);
            }
        }
        all.retain(|_, former| !former.settings.is_empty());
        self.write(&all)
    }

    /// Sets a setting, after what it was is on disk.
    pub(crate) fn set(
        &self,
        name: &NamespaceName,
        key: &Sysctl,
        value: &str,
        known: &Known,
        what: &str,
    ) -> Result<(), KernelError> {
        let netns = Netns::open(&namespaces::path(name))?;
        if !known.of(name, netns.inode()).contains_key(key) {
            let was = netns.run(|| sysctl::read(key))??;
            let Some(was) = was else { return Err(KernelError::NoSetting { what: what.to_owned() }) };
            self.change(name, netns.inode(), |known| {
                known.entry(key.clone()).or_insert(was);
            })?;
        }
        netns.run(|| sysctl::write(key, value, what))?
    }
}

/// Gives a setting back what it had.
pub(crate) fn restore(
    name: &NamespaceName,
    key: &Sysctl,
    value: &str,
    what: &str,
) -> Result<(), KernelError> {
    // It may have gone with its device.
    Netns::open(&namespaces::path(name))?.run(|| match sysctl::read(key)? {
        Some(_) => sysctl::write(key, value, what),
        None => Ok(()),
    })?
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
