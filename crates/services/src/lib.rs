//! What the host answers its guests, as objects without sockets or clocks.
#![forbid(unsafe_code)]

mod clients;
pub mod dhcp4;
pub mod dhcp6;
pub mod dns;
pub mod neighbours;
mod queue;
pub mod ra;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use viaduct_types::{IfName, MacAddr, NicId};

/// A frame to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Out of which device.
    pub device: IfName,
    /// From the destination's MAC on.
    pub bytes: Vec<u8>,
}

/// Something that others have to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// An address is used by somebody else.
    InUse {
        /// Whose it should be.
        nic: NicId,
        /// Which.
        address: IpAddr,
        /// Who has it; none when the guest found out and did not say.
        holder: Option<MacAddr>,
    },
    /// A guest has its address now.
    Configured {
        /// Which.
        nic: NicId,
        /// The address.
        address: IpAddr,
    },
}
