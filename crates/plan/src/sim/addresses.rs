//! Addresses in the order in which the kernel lists them: of a device's, the oldest of IPv4 first, of IPv6 the newest.

use std::collections::BTreeMap;

use crate::state::{Address, AddressInfo};

type Addresses = BTreeMap<Address, AddressInfo>;

fn alike<'a>(all: &'a mut Addresses, to: &'a Address) -> impl Iterator<Item = &'a mut AddressInfo> {
    let is_alike =
        |a: &Address| a.link == to.link && a.address.addr().is_ipv6() == to.address.addr().is_ipv6();
    all.iter_mut().filter(move |(a, _)| is_alike(a)).map(|(_, info)| info)
}

pub(super) fn add(all: &mut Addresses, address: Address, scope: u8, protocol: u8) {
    remove(all, &address);
    let place = if address.address.addr().is_ipv6() {
        alike(all, &address).for_each(|info| info.place += 1);
        0
    } else {
        alike(all, &address).count()
    };
    all.insert(address, AddressInfo { protocol, scope, dynamic: false, place });
}

pub(super) fn remove(all: &mut Addresses, address: &Address) {
    if let Some(gone) = all.remove(address) {
        alike(all, address).filter(|info| info.place > gone.place).for_each(|info| info.place -= 1);
    }
}
