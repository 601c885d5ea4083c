//! What the kernel's bridge is told of where MACs are, by the names of its ports.

use std::io;

use viaduct_types::{IfName, MacAddr};

use super::fdb::{self, Near};

/// The MAC is behind this port until something else is heard.
pub(super) fn lead(port: &IfName, mac: MacAddr) -> io::Result<()> {
    fdb::hear(near(port, mac)?)
}

/// The MAC is behind this port, whatever is heard from another one.
pub(super) fn pin(port: &IfName, mac: MacAddr) -> io::Result<()> {
    fdb::lead(near(port, mac)?, true)
}

/// The MAC is behind this port no longer; where it is, shows.
pub(super) fn forget(port: &IfName, mac: MacAddr) -> io::Result<()> {
    fdb::lead_no_more(near(port, mac)?)
}

/// Whether the MAC is of the bridge itself, and the host behind none of its ports.
pub(super) fn is_own(port: &IfName, mac: MacAddr) -> bool {
    fdb::index(port).and_then(fdb::bridge_of).and_then(fdb::own_mac) == Some(mac)
}

fn near(port: &IfName, mac: MacAddr) -> io::Result<Near> {
    let port = fdb::index(port).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
    Ok(Near { port, mac })
}
