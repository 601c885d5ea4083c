//! Another address for a NIC whose lent one is in use elsewhere.

use std::net::IpAddr;

use viaduct_model::Family;
use viaduct_types::NicId;

use super::Caller;
use crate::{failure::Failure, host::Host};

/// Lends another address, and gives it; none when the address is not, or no longer, lent to that NIC.
pub(crate) fn lend_another(host: &mut Host, nic: &NicId, address: IpAddr) -> Result<Option<IpAddr>, Failure> {
    let mut caller = Caller { by: "viaduct".to_owned(), progress: &mut |_, _| (), waiting: &|_| () };
    let _lock = host.lock(&caller)?;
    let before = host.situation()?;
    if before.lent_to(nic, Family::of(address)) != Some(address) {
        return Ok(None);
    }
    let after = before.without(address);
    host.turn(Some(&before), &after, &mut caller)?;
    Ok(after.lent_to(nic, Family::of(address)))
}
