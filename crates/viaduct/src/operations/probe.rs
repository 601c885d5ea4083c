//! Looks on the uplinks whether addresses are free that guests are about to get, where the file wants it (`probe`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use viaduct_plan::{Proxy, probed};
use viaduct_types::{IfName, NicId};

use crate::{
    failure::Failure,
    host::{Host, Situation},
};

/// Nothing has been changed when it fails.
pub(super) fn are_free(
    host: &mut Host,
    before: Option<&Situation>,
    after: &Situation,
) -> Result<(), Failure> {
    let all = |situation: &Situation| {
        situation.config().map(|config| probed(config, situation.attached())).unwrap_or_default()
    };
    let (known, mut wanted) = (before.map(all).unwrap_or_default(), all(after));
    // Who has an address already would hear itself called a stranger's.
    wanted.retain(|proxy, _| !known.contains_key(proxy));
    let mut by_link = BTreeMap::<IfName, BTreeMap<IpAddr, NicId>>::new();
    for (Proxy { link, address }, nic) in wanted {
        by_link.entry(link).or_default().insert(address, nic);
    }
    let links = if by_link.is_empty() { BTreeMap::new() } else { host.kernel.links()? };
    let mut taken = Vec::new();
    // Where there is no device, the change says so itself, or makes it; then nobody is on it yet.
    for (link, addresses) in by_link.iter().filter(|(link, _)| links.contains_key(*link)) {
        let asked: BTreeSet<IpAddr> = addresses.keys().copied().collect();
        for (address, mac) in host.kernel.probe(link, &asked)? {
            let nic = addresses.get(&address).map(NicId::to_string).unwrap_or_default();
            taken.push(format!("{address} of {nic} is in use elsewhere: {mac} on {link} has it"));
        }
    }
    let Some((first, others)) = taken.split_first() else { return Ok(()) };
    let failure = others.iter().fold(Failure::failed(first), |failure, other| failure.with(other));
    Err(failure.with("Nothing was changed. Take the address away there, or give the guest another one."))
}
