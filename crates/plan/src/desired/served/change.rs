//! What is different about what is served.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};
use viaduct_types::{GuestName, IfName, NamespaceName, NetworkName, NicId};

use super::{
    super::named::ZoneHead,
    values::{LinkHead, Served, ServedLink, ServedNic, Zone},
};

/// What guests are told from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// This, and nothing else.
    Whole(Served),
    /// As before, but for this, in the stack of a namespace or the host's.
    Part(Option<NamespaceName>, ServedChange),
}

impl Default for Told {
    fn default() -> Self {
        Self::Part(None, ServedChange::default())
    }
}

/// From what is served to what is served next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServedChange {
    /// By device.
    pub links: BTreeMap<IfName, ServedLinkChange>,
    /// By network.
    pub zones: BTreeMap<NetworkName, ZoneChange>,
}

/// What is different on a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServedLinkChange {
    /// What is so for all of it from now on, when that is something else.
    pub head: Option<LinkHead>,
    /// The NICs that are served something else, or nothing any more.
    pub nics: BTreeMap<NicId, Option<ServedNic>>,
}

/// What is different in the names of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneChange {
    /// What they have in common from now on; none when the network has no names any more.
    pub head: Option<ZoneHead>,
    /// The addresses of these guests; without any, they have no name.
    pub guests: BTreeMap<GuestName, BTreeSet<IpAddr>>,
}

impl Served {
    /// What is different in another one, of the host's own. Of two that leave out the same guests and the same networks, it is the
    /// difference of the whole ones, too.
    pub fn change_to(&self, after: &Self) -> ServedChange {
        let none = ServedLink::default();
        let links = keys(&self.links, &after.links).filter_map(|device| {
            let [old, new] = [self, after].map(|served| served.links.get(device).unwrap_or(&none));
            Some((device.clone(), old.change_to(new)?))
        });
        let zones = keys(&self.zones, &after.zones).filter_map(|network| {
            Some((network.clone(), zone(self.zones.get(network), after.zones.get(network))?))
        });
        ServedChange { links: links.collect(), zones: zones.collect() }
    }

    /// Makes it what the change leads to.
    pub fn change(&mut self, change: &ServedChange) {
        for (device, change) in &change.links {
            let link = self.links.entry(device.clone()).or_default();
            link.change(change);
            if !link.is_served() {
                self.links.remove(device);
            }
        }
        for (network, ZoneChange { head, guests }) in &change.zones {
            let Some(head) = head else {
                self.zones.remove(network);
                continue;
            };
            let new = || Zone { head: head.clone(), guests: BTreeMap::new() };
            let zone = self.zones.entry(network.clone()).or_insert_with(new);
            zone.head.clone_from(head);
            for (guest, addresses) in guests {
                if addresses.is_empty() {
                    zone.guests.remove(guest);
                } else {
                    zone.guests.insert(guest.clone(), addresses.clone());
                }
            }
        }
    }
}

impl ServedLink {
    fn change_to(&self, after: &Self) -> Option<ServedLinkChange> {
        let differs = |nic: &&NicId| self.nics.get(*nic) != after.nics.get(*nic);
        let nics: BTreeMap<_, _> = keys(&self.nics, &after.nics)
            .filter(differs)
            .map(|nic| (nic.clone(), after.nics.get(nic).cloned()))
            .collect();
        let head = match (self.is_served(), after.is_served()) {
            (true, true) => self.head != after.head,
            (false, is_served) => is_served,
            // A link that nobody is left on says nothing of those that may be there beside, unless it was served without anybody.
            (true, false) => self.head.names.as_ref().is_some_and(|names| names.stretched),
        };
        let head = head.then(|| after.head.clone());
        let is_same = head.is_none() && nics.is_empty();
        (!is_same).then_some(ServedLinkChange { head, nics })
    }

    /// Makes it what the change leads to.
    pub fn change(&mut self, change: &ServedLinkChange) {
        if let Some(head) = &change.head {
            self.head.clone_from(head);
        }
        for (nic, served) in &change.nics {
            match served {
                Some(served) => self.nics.insert(nic.clone(), served.clone()),
                None => self.nics.remove(nic),
            };
        }
    }
}

fn zone(before: Option<&Zone>, after: Option<&Zone>) -> Option<ZoneChange> {
    let none = BTreeMap::new();
    let Some(after) = after else {
        return before.map(|_| ZoneChange { head: None, guests: none });
    };
    let known = before.map_or(&none, |zone| &zone.guests);
    let guests: BTreeMap<GuestName, BTreeSet<IpAddr>> = keys(known, &after.guests)
        .filter(|guest| known.get(*guest) != after.guests.get(*guest))
        .map(|guest| (guest.clone(), after.guests.get(guest).cloned().unwrap_or_default()))
        .collect();
    let is_same = guests.is_empty() && before.is_some_and(|before| before.head == after.head);
    (!is_same).then(|| ZoneChange { head: Some(after.head.clone()), guests })
}

fn keys<'a, K: Ord, V>(one: &'a BTreeMap<K, V>, other: &'a BTreeMap<K, V>) -> impl Iterator<Item = &'a K> {
    one.keys().chain(other.keys().filter(|key| !one.contains_key(*key)))
}
