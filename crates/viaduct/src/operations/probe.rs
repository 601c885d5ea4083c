//! Looks on the uplinks whether addresses are free that guests are about to get, where the file wants it (`probe`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use viaduct_kernel::{Kernel, KernelError};
use viaduct_plan::{Proxy, probed};
use viaduct_types::{IfName, NamespaceName, NicId};

use crate::{failure::Failure, host::Host, situation::Situation};

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
    wanted.retain(|place, _| !known.contains_key(place));
    let mut by_stack = BTreeMap::<Option<NamespaceName>, ByLink>::new();
    for ((stack, Proxy { link, address }), nic) in wanted {
        by_stack.entry(stack).or_default().entry(link).or_default().insert(address, nic);
    }
    let mut taken = Vec::new();
    for (stack, by_link) in by_stack {
        match stack {
            None => taken.extend(ask(&mut host.kernel, &by_link)?),
            // A namespace that is not there yet has no neighbours.
            Some(stack) => {
                if let Ok(asked) = host.kernel.within(&stack, |kernel| ask(kernel, &by_link)) {
                    taken.extend(asked?);
                }
            }
        }
    }
    let Some((first, others)) = taken.split_first() else { return Ok(()) };
    let failure = others.iter().fold(Failure::failed(first), |failure, other| failure.with(other));
    Err(failure.with("Nothing was changed. Take the address away there, or give the guest another one."))
}

/// Addresses of NICs by the device to ask on.
type ByLink = BTreeMap<IfName, BTreeMap<IpAddr, NicId>>;

/// A line for each that is in use. Where there is no device, the change says so itself, or makes it; then nobody is on it
/// yet.
fn ask(kernel: &mut Kernel, by_link: &ByLink) -> Result<Vec<String>, KernelError> {
    let links = kernel.links()?;
    let mut taken = Vec::new();
    for (link, addresses) in by_link.iter().filter(|(link, _)| links.contains_key(*link)) {
        let asked: BTreeSet<IpAddr> = addresses.keys().copied().collect();
        for (address, mac) in kernel.probe(link, &asked)? {
            let nic = addresses.get(&address).map(NicId::to_string).unwrap_or_default();
            taken.push(format!("{address} of {nic} is in use elsewhere: {mac} on {link} has it"));
        }
    }
    Ok(taken)
}
