//! Who is served on a device.

use std::collections::BTreeMap;

use viaduct_types::{MacAddr, NicId};

/// NICs with what each is given, by what they are known by.
#[derive(Debug)]
pub(crate) struct Clients<C> {
    by_mac: BTreeMap<MacAddr, Served<C>>,
    macs: BTreeMap<NicId, MacAddr>,
}

#[derive(Debug)]
struct Served<C> {
    nic: NicId,
    given: C,
    /// Whether it has it, and that was told.
    is_configured: bool,
}

impl<C> Default for Clients<C> {
    fn default() -> Self {
        Self { by_mac: BTreeMap::new(), macs: BTreeMap::new() }
    }
}

impl<C> Clients<C> {
    /// What a NIC is given from now on, and the MAC that it has; none: nothing any more.
    pub(crate) fn set(&mut self, nic: &NicId, given: Option<(MacAddr, C)>) {
        // By its MAC there may be another NIC already.
        if let Some(mac) = self.macs.remove(nic)
            && self.by_mac.get(&mac).is_some_and(|served| served.nic == *nic)
        {
            self.by_mac.remove(&mac);
        }
        if let Some((mac, client)) = given {
            self.macs.insert(nic.clone(), mac);
            self.by_mac.insert(mac, Served { nic: nic.clone(), given: client, is_configured: false });
        }
    }

    pub(crate) fn get(&self, mac: MacAddr) -> Option<&C> {
        self.by_mac.get(&mac).map(|served| &served.given)
    }

    /// Who is known by a MAC has what it is given. Whether that is news: a client that renews says it again and again.
    pub(crate) fn configured(&mut self, mac: MacAddr) -> bool {
        self.by_mac.get_mut(&mac).is_some_and(|served| !std::mem::replace(&mut served.is_configured, true))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_mac.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_goes_from_one_to_another_in_either_order() {
        let [one, two] = ["one", "two"].map(|name| name.parse::<NicId>().unwrap());
        let (mac, other) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let mut clients = Clients::default();
        clients.set(&one, Some((mac, 1)));
        clients.set(&two, Some((mac, 2)));
        clients.set(&one, Some((other, 1)));
        assert_eq!((clients.get(mac), clients.get(other)), (Some(&2), Some(&1)));
        assert_eq!(
            [clients.configured(mac), clients.configured(mac), clients.configured(other)],
            [true, false, true]
        );
        // It is given something else.
        clients.set(&two, Some((mac, 3)));
        assert!(clients.configured(mac));
        clients.set(&two, None);
        clients.set(&one, None);
        assert!(clients.is_empty());
    }
}
