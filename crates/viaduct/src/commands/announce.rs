use std::{net::IpAddr, process::ExitCode};

use serde_json::json;
use viaduct_plan::{Apply, Op, Proxy};
use viaduct_reconcile::{Outlook, Wish, look};
use viaduct_types::{IfName, MacAddr};

use crate::{cli::Global, failure::Failure, host::Host, show::say};

pub(super) fn run(global: &Global, address: IpAddr) -> Result<ExitCode, Failure> {
    let mut host = Host::open(global)?;
    let situation = host.situation()?;
    let Some(applied) = &situation.applied else {
        return Err(Failure::failed("no configuration is applied yet: run `viaduct apply` first"));
    };
    let outlook = look(&mut host.kernel, Wish::Be(&applied.config, &situation.attachments))?;
    let Some((link, mac)) = place(&outlook, address) else {
        return Err(Failure::Usage(format!(
            "{address} is neither an address of this host nor answered for on an uplink (a guest's address on a \
             routed network with `proxy = true`): there is nobody to tell"
        )));
    };
    let op = Op::Announce { link: link.clone(), address, mac };
    let results = host.kernel.apply(std::slice::from_ref(&op), &|_| true, &mut |_| ());
    for result in results {
        result?;
    }
    if global.json {
        say!("{}", json!({ "address": address, "link": link, "mac": mac }));
    } else {
        say!("Told the neighbours on {link} that {address} is here.");
    }
    Ok(ExitCode::SUCCESS)
}

/// Where an address is to be announced, and with which MAC if not the device's own.
fn place(outlook: &Outlook, address: IpAddr) -> Option<(IfName, Option<MacAddr>)> {
    let spoken_for = outlook.desired.announced.iter().find(|(proxy, _)| proxy.address == address);
    if let Some((Proxy { link, .. }, mac)) = spoken_for {
        return Some((link.clone(), *mac));
    }
    let own =
        outlook.observed.addresses.keys().find(|a| a.address.addr() == address && a.link.as_str() != "lo");
    own.map(|a| (a.link.clone(), None))
}
