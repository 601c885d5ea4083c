use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use viaduct_plan::{Apply, Op};
use viaduct_reconcile::{Outlook, look};
use viaduct_types::{IfName, MacAddr, NamespaceName};

use super::{Caller, Operation};
use crate::{failure::Failure, host::Host};

/// Tells the neighbours where an address is.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Announce {
    /// An address of a guest or of this host.
    pub(crate) address: IpAddr,
}

/// What the neighbours were told.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Announced {
    pub(crate) address: IpAddr,
    /// On which device.
    #[schemars(with = "String")]
    pub(crate) link: IfName,
    /// With which MAC, if not the device's own.
    #[schemars(with = "Option<String>")]
    pub(crate) mac: Option<MacAddr>,
}

impl Operation for Announce {
    const NAME: &'static str = "announce";
    const WRITES: bool = true;
    type Report = Announced;

    fn perform(self, host: &mut Host, _: &mut Caller<'_>) -> Result<Announced, Failure> {
        let address = self.address;
        let situation = host.situation()?;
        if situation.applied.is_none() {
            return Err(Failure::failed("no configuration is applied yet: run `viaduct apply` first"));
        }
        let outlook = look(&mut host.kernel, situation.wish())?;
        let Some((namespace, link, mac)) = place(&outlook, address) else {
            return Err(Failure::usage(format!(
                "{address} is neither an address of this host nor answered for on an uplink (a guest's address on a \
                 routed network with `proxy = true`): there is nobody to tell"
            )));
        };
        let op = Op::Announce { link: link.clone(), address, mac };
        let op = match namespace {
            Some(namespace) => Op::Within { namespace, op: Box::new(op) },
            None => op,
        };
        let results = host.kernel.apply(std::slice::from_ref(&op), &|_, _| true, &mut |_| ());
        for result in results {
            result?;
        }
        Ok(Announced { address, link, mac })
    }
}

/// Where an address is to be announced, and with which MAC if not the device's own: on the host before in a namespace.
fn place(outlook: &Outlook, address: IpAddr) -> Option<(Option<NamespaceName>, IfName, Option<MacAddr>)> {
    if let Some((namespace, link, mac)) = outlook.desired.announced_at(address) {
        return Some((namespace.cloned(), link.clone(), mac));
    }
    let observed = &outlook.observed;
    let stacks = observed.stacks.iter().map(|(name, stack)| (Some(name), stack));
    std::iter::once((None, observed)).chain(stacks).find_map(|(namespace, stack)| {
        let own = stack.addresses.keys().find(|a| a.address.addr() == address && a.link.as_str() != "lo")?;
        Some((namespace.cloned(), own.link.clone(), None))
    })
}
