//! What a host is made and what is remembered of it, as one value.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use viaduct_model::{Config, Family, Leases, Loaded, Source, lends, written_addresses};
use viaduct_plan::{Attachments, attached_namespaces, attached_otherwise, part::Side};
use viaduct_reconcile::{Created, Found, Store, StoreError, Wish};
use viaduct_types::{NicId, VnetId};

use crate::{
    failure::Failure,
    vnets::{changes, with_created},
};

/// A configuration as it was applied.
pub(crate) struct Applied {
    pub(crate) sources: Vec<Source>,
    pub(crate) config: Config,
    /// Every address that it gives to somebody, where others are lent.
    written: BTreeSet<IpAddr>,
}

impl Applied {
    pub(crate) fn new(sources: Vec<Source>, config: Config) -> Self {
        let written = if lends(&config) { written_addresses(&config) } else { BTreeSet::new() };
        Self { sources, config, written }
    }
}

/// What a host was made, and what is remembered of it.
#[derive(Clone)]
pub(crate) struct Situation {
    pub(crate) applied: Option<Arc<Applied>>,
    pub(crate) attachments: Arc<Attachments>,
    /// What is known beyond that.
    pub(crate) known: Beyond,
    /// The configuration with it, when there is any.
    lent: Option<Arc<Config>>,
    /// The attachments with those of the configuration's own namespaces, when it has such.
    whole: Option<Arc<Attachments>>,
}

/// What of a host is known beyond configuration and attachments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beyond {
    /// Addresses for NICs that the file gives none.
    pub(crate) leases: Leases,
    /// Vnets and peers that commands made.
    pub(crate) created: Created,
    /// What was found out about vnets.
    pub(crate) found: Found,
}

impl Situation {
    pub(crate) fn new(applied: Option<Arc<Applied>>, attachments: Arc<Attachments>, known: Beyond) -> Self {
        Self { applied, attachments, known, lent: None, whole: None }.with_namespaces().with_leases(None)
    }

    /// The same, which shares the configuration with `other` when the two have the same: with what is lent, it is a copy of
    /// all that was applied, and whoever compares them has nothing to compare then.
    pub(crate) fn like(
        other: &Self,
        applied: Option<Arc<Applied>>,
        attachments: Arc<Attachments>,
        known: Beyond,
    ) -> Self {
        Self { applied, attachments, known, lent: None, whole: None }
            .with_namespaces()
            .with_leases(Some(other))
    }

    /// With other attachments.
    pub(crate) fn with_attachments(&self, attachments: Arc<Attachments>) -> Self {
        Self::like(self, self.applied.clone(), attachments, self.known.clone())
    }

    /// With another configuration.
    pub(crate) fn with_applied(&self, applied: Option<Arc<Applied>>) -> Self {
        Self::like(self, applied, Arc::clone(&self.attachments), self.known.clone())
    }

    /// Attaches the namespaces that are on networks.
    fn with_namespaces(mut self) -> Self {
        let own = self.applied.as_ref().map(|applied| attached_namespaces(&applied.config));
        if let Some(mut whole) = own.filter(|own| !own.is_empty()) {
            // What is attached by hand under the same name is of another configuration.
            let others = self.attachments.iter().filter(|(nic, _)| !whole.contains_key(*nic));
            let others: Vec<_> = others.map(|(nic, target)| (nic.clone(), target.clone())).collect();
            whole.extend(others);
            self.whole = Some(Arc::new(whole));
        }
        self
    }

    /// What is attached, by commands and by the configuration.
    pub(crate) fn attached(&self) -> &Arc<Attachments> {
        self.whole.as_ref().unwrap_or(&self.attachments)
    }

    /// Lends addresses to whom the file gives none. When they are those of `other`, so is the configuration.
    fn with_leases(mut self, other: Option<&Self>) -> Self {
        self.lent = None;
        // What is avoided for a time may be lent again by now.
        let same = other.filter(|other| {
            self.is_applied_as(other)
                && Arc::ptr_eq(self.attached(), other.attached())
                && self.known == other.known
                && self.known.leases.avoided.is_empty()
        });
        if let Some(other) = same {
            self.lent.clone_from(&other.lent);
        } else if let Some(applied) = &self.applied {
            let made = with_created(&applied.config, &self.known.created, &self.known.found);
            let config = made.as_ref().unwrap_or(&applied.config);
            let attached = self.whole.as_ref().unwrap_or(&self.attachments);
            let leases = &mut self.known.leases;
            let without =
                leases.renew(config, &applied.written, attached.keys(), crate::clock::unix_seconds());
            for nic in without {
                tracing::warn!("nothing is left to lend to {nic}: its network has lent all that it has");
            }
            let same = other.filter(|other| self.is_applied_as(other) && self.known == other.known);
            self.lent = match same {
                Some(other) => other.lent.clone(),
                None => self.known.leases.lend(config).or(made).map(Arc::new),
            };
        }
        self
    }

    /// Whether a NIC waits, silent, for its guest to arrive.
    pub(crate) fn is_prepared(&self, nic: &NicId) -> bool {
        self.known.found.prepared.contains(nic)
    }

    /// With a NIC that waits, silent, or does not any more.
    pub(crate) fn with_prepared(&self, nic: &NicId, prepared: bool) -> Self {
        if self.is_prepared(nic) == prepared {
            return self.clone();
        }
        let mut known = self.known.clone();
        if prepared {
            known.found.prepared.insert(nic.clone());
        } else {
            known.found.prepared.remove(nic);
        }
        Self::like(self, self.applied.clone(), Arc::clone(&self.attachments), known)
    }

    /// The address of a family that a NIC is lent.
    pub(crate) fn lent_to(&self, nic: &NicId, family: Family) -> Option<IpAddr> {
        self.known.leases.lent(nic, family)
    }

    /// With another address for whom this one is lent to, as it is in use elsewhere.
    pub(crate) fn without(&self, address: IpAddr) -> Self {
        let mut known = self.known.clone();
        known.leases.avoid(address, crate::clock::unix_seconds());
        Self::new(self.applied.clone(), Arc::clone(&self.attachments), known)
    }

    pub(crate) fn wish(&self) -> Wish<'_> {
        match self.config() {
            Some(config) => Wish::Be(config, self.attached()),
            None => Wish::Nothing,
        }
    }

    /// What was applied, with the addresses that are lent.
    pub(crate) fn config(&self) -> Option<&Config> {
        self.lent.as_deref().or_else(|| self.applied.as_ref().map(|applied| &applied.config))
    }

    /// Whether the same configuration is applied, and is not merely equal.
    pub(crate) fn is_applied_as(&self, other: &Self) -> bool {
        match (&self.applied, &other.applied) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// What is different about vnets and peers, which the kernel knows nothing of: a line each.
    pub(crate) fn vnet_changes(&self, after: &Self) -> Vec<String> {
        if self.is_applied_as(after) && self.known.created == after.known.created {
            return Vec::new();
        }
        changes(self.config(), after.config())
    }

    pub(crate) fn side(&self) -> Option<Side<'_>> {
        Some(Side { config: self.config()?, attachments: self.attached() })
    }

    /// Its files; none when nothing is applied.
    pub(crate) fn sources(&self) -> &[Source] {
        self.applied.as_ref().map_or(&[], |applied| &applied.sources)
    }

    /// Writes down what is not as it was `before`. Says whether all attachments were written.
    pub(crate) fn remember(&self, store: &Store, before: Option<&Self>) -> Result<bool, StoreError> {
        let whole = match before {
            Some(before) => {
                let changes = attached_otherwise(&before.attachments, &self.attachments);
                !changes.is_empty() && store.change_attachments(&self.attachments, &changes)?
            }
            None => {
                store.set_attachments(&self.attachments)?;
                true
            }
        };
        self.remember_leases(store)?;
        let prepared = &self.known.found.prepared;
        let is_gone = |id: &VnetId| {
            let has = |situation: &Self| {
                situation.config().map(|config| config.vnets.values().any(|v| v.id == *id))
            };
            before.and_then(has) == Some(true) && has(self) == Some(false)
        };
        let is_any_gone = self.known.found.mtus.keys().any(is_gone);
        if is_any_gone || before.is_some_and(|before| before.known.found.prepared != *prepared) {
            let mut found = Found { prepared: prepared.clone(), ..store.found() };
            // The next vnet of that id may be of another level of security, and have other members.
            found.mtus.retain(|id, _| !is_gone(id));
            store.set_found(&found)?;
        }
        if before.is_some_and(|before| before.is_applied_as(self)) {
            return Ok(whole);
        }
        match &self.applied {
            Some(applied) => store.set_applied(&applied.sources)?,
            None => store.clear_applied()?,
        }
        Ok(whole)
    }

    /// Writes down what is lent, unless that is known.
    pub(crate) fn remember_leases(&self, store: &Store) -> Result<(), StoreError> {
        // What cannot be read is replaced: the addresses are the same again, mostly.
        if store.leases().is_ok_and(|known| known == self.known.leases) {
            return Ok(());
        }
        store.set_leases(&self.known.leases)
    }
}

/// A configuration that was right when it was applied; an update of this program may see it otherwise.
pub(crate) fn loaded(sources: Vec<Source>) -> Result<Applied, Failure> {
    match viaduct_model::load(&sources) {
        Ok(Loaded { config, .. }) => Ok(Applied::new(sources, config)),
        Err(diagnostics) => {
            let failure = Failure::failed(
                "this version of viaduct finds fault with the configuration that was applied, and leaves the host as \
                 it is. Correct it, and run `viaduct apply`",
            );
            Err(diagnostics.render(false).lines().fold(failure, Failure::with))
        }
    }
}

#[cfg(test)]
mod tests {
    use viaduct_plan::Target;

    use super::*;

    /// Three guests that are lent addresses when they are attached.
    fn applied() -> Arc<Applied> {
        let text = "[host]\nname = \"h\"\n[networks.n]\nmode = \"isolated\"\nsubnets = [\"10.0.0.0/24\"]\ndhcp = true\n\
                    [guests.a]\n[[guests.a.nics]]\nnetwork = \"n\"\n[guests.b]\n[[guests.b.nics]]\nnetwork = \"n\"\n";
        let sources = vec![Source { name: "t.toml".to_owned(), text: text.to_owned() }];
        Arc::new(loaded(sources).unwrap_or_else(|failure| panic!("{}", failure.line())))
    }

    fn attached(names: &[&str]) -> Arc<Attachments> {
        let target = |name: &str| Target::Netns { path: format!("/run/netns/{name}"), inode: 1 };
        Arc::new(names.iter().map(|name| (format!("{name}.0").parse().unwrap(), target(name))).collect())
    }

    #[test]
    fn what_is_lent_is_copied_only_when_it_changes() {
        let one = Situation::new(Some(applied()), attached(&["a"]), Beyond::default());
        let shares = |other: &Situation| std::ptr::eq(one.config().unwrap(), other.config().unwrap());
        let address = |of: &Situation, nic: &str| {
            of.config().unwrap().nic(&nic.parse().unwrap()).unwrap().addresses.clone()
        };
        assert_eq!(address(&one, "a.0").len(), 1);
        // It keeps what it was lent, also when it is not attached.
        let none = one.with_attachments(attached(&[]));
        assert!(shares(&none));
        assert!(shares(&none.with_attachments(attached(&["a"]))));
        // One more is lent one.
        let both = one.with_attachments(attached(&["a", "b"]));
        assert!(!shares(&both));
        assert_eq!(address(&both, "b.0").len(), 1);
        assert_eq!(address(&both, "a.0"), address(&one, "a.0"));
        // Another address, and another configuration that says the same.
        let lent = one.lent_to(&"a.0".parse().unwrap(), Family::V4).unwrap();
        assert!(!shares(&one.without(lent)));
        assert_ne!(address(&one.without(lent), "a.0"), address(&one, "a.0"));
        assert!(!shares(&one.with_applied(Some(applied()))));
    }
}
