//! A change of a few guests, planned without a look at the whole host.
//!
//! What a guest asks of a host is a few names and elements, and what others ask does not differ by it. So the desired
//! state is computed for those guests alone, as they were and as they will be: what both have in common stays as it
//! is, what differs is the part of the host to look at, and the steps come of the same difference as ever. Nothing is
//! remembered of the kernel for that. It has to be known, though, that the filter is as it was made when the host was
//! looked at last, since its elements are not read again.
//!
//! Whatever is more than elements, links and what stands on them (a rule that changes, another network, something that
//! the host lacks) has no partial plan: it goes the whole way.

mod flows;
mod reduced;
mod section;

use std::collections::{BTreeMap, BTreeSet};

use viaduct_model::Config;
use viaduct_types::{IfName, MacAddr, NicId};

use crate::state::{Address, Attachments, Inside, Proxy, Route, Sysctl};
pub use flows::Judge;
pub use reduced::Reduced;
pub use section::Section;

/// A configuration with what is attached.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// What is attached.
    pub attachments: &'a Attachments,
}

/// What to look at when only a part of a host matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AskPart {
    /// These links, with their addresses.
    pub links: BTreeSet<IfName>,
    /// Whether it matters which VLANs these links are on.
    pub vlans: bool,
    /// Which of these addresses there are.
    pub addresses: BTreeSet<Address>,
    /// All addresses of these links.
    pub addresses_of: BTreeSet<IfName>,
    /// The addresses of every link.
    pub all_addresses: bool,
    /// Our routes with the destination and the link of one of these.
    pub routes: BTreeSet<Route>,
    /// Which of these addresses are answered for.
    pub proxies: BTreeSet<Proxy>,
    /// Which of these MACs devices listen to.
    pub unicast: BTreeSet<(IfName, MacAddr)>,
    /// The values of these settings.
    pub sysctls: BTreeSet<Sysctl>,
    /// What these settings were before we changed them.
    pub journal: BTreeSet<Sysctl>,
    /// The inside of guests.
    pub guests: BTreeMap<NicId, Inside>,
}
