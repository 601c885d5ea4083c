//! The kernel side: looks at links, addresses, routes, neighbours, sysctls and nft tables, changes them, and hears of
//! what others change.

mod address;
mod announce;
mod apply;
mod attr;
mod conntrack;
mod devices;
mod error;
mod facts;
mod frames;
mod inherited;
mod inner_sysctl;
mod link;
mod lives;
mod namespaces;
mod neighbour;
mod netns;
pub mod nft;
mod observe;
mod observe_part;
mod passed;
mod probe;
mod queue;
mod reaper;
mod route;
mod rule;
mod socket;
mod stacks;
mod sysctl;
mod tap;
mod vlan;
mod watch;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use netlink_sys::protocols::NETLINK_ROUTE;
use viaduct_plan::{Flow, Link};
use viaduct_types::{IfName, NamespaceName};

pub use address::addresses_of;
pub use announce::announce_arrival;
pub use error::{KernelError, NetnsReason, Refusal};
pub use frames::{Frames, Listen, Trouble};
pub use inherited::keep_open_files_here;
pub use lives::Lives;
pub use netns::{Netns, NetnsRef};
pub use watch::{By, Culprit, Event, Ports, Watch, What};

/// The kernel of one host, seen from the network namespace of the thread that opened it: its netlink sockets stay
/// there. Taps, announcements and everything under /proc/sys go by the namespace of the thread that observes or
/// applies, so that this has to be in the same one.
///
/// The sockets stay open as long as this lives: closing one after links were deleted waits for RCU.
pub struct Kernel {
    route: socket::Socket,
    conntrack: conntrack::Conntrack,
    nft: nft::Nft,
    sockets: netns::Sockets,
    namespaces: namespaces::Index,
    devices: devices::Devices,
    journal: sysctl::Journal,
    /// Of settings inside of shared namespaces.
    inner_journal: inner_sysctl::InnerJournal,
    announcer: announce::Announcer,
    reaper: reaper::Reaper,
    /// The stacks of namespaces.
    stacks: stacks::Stacks,
    /// Where to look for the next free ifindex.
    next_index: u32,
}

impl Kernel {
    /// Opens it. The directory keeps the journal of changed sysctls and the names of shared namespaces, and is made if
    /// it is missing.
    ///
    /// # Errors
    /// When a socket cannot be opened or the directory cannot be made.
    pub fn new(state_dir: &Path) -> Result<Self, KernelError> {
        Ok(Self {
            route: socket::Socket::open(NETLINK_ROUTE)
                .map_err(|e| KernelError::system("opening a netlink socket", e))?,
            conntrack: conntrack::Conntrack::open()?,
            nft: nft::Nft::open().map_err(|e| KernelError::Filter { source: Arc::new(e) })?,
            sockets: netns::Sockets::new(),
            namespaces: namespaces::Index::open(state_dir),
            devices: devices::Devices::open(state_dir),
            journal: sysctl::Journal::open(state_dir)?,
            inner_journal: inner_sysctl::InnerJournal::open(state_dir),
            announcer: announce::Announcer::default(),
            reaper: reaper::Reaper::new()
                .map_err(|e| KernelError::system("opening a netlink socket to hear of links", e))?,
            stacks: stacks::Stacks::open(state_dir),
            next_index: link::first_index(),
        })
    }

    /// The packet filter by itself, for its counters.
    pub fn nft(&mut self) -> &mut nft::Nft {
        &mut self.nft
    }

    /// The addresses of its sockets: those that a [`Watch`] is to leave out. Of those in namespaces, as far as they are
    /// shared ones.
    pub fn port_ids(&self) -> Ports {
        let mut within = self.sockets.ports();
        for (name, ports) in self.stacks.ports() {
            within.entry(name).or_default().extend(ports);
        }
        Ports { own: self.own_ports(), within }
    }

    fn own_ports(&self) -> Vec<u32> {
        let own = [self.route.port(), self.conntrack.port(), self.nft.port()];
        own.into_iter().chain(self.reaper.ports()).collect()
    }

    /// Does something with the stack of a namespace that is observed, on a thread in there.
    ///
    /// # Errors
    /// When there is no such namespace.
    pub fn within<T: Send>(
        &mut self,
        namespace: &NamespaceName,
        work: impl FnOnce(&mut Self) -> T + Send,
    ) -> Result<T, KernelError> {
        self.stacks.with(namespace, work)
    }

    /// The network devices alone.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn links(&mut self) -> Result<BTreeMap<IfName, Link>, KernelError> {
        link::list(&mut self.route).map_err(|refusal| KernelError::refused("listing links", refusal))
    }

    /// All tracked flows.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn flows(&mut self) -> Result<Vec<Flow>, KernelError> {
        self.conntrack.flows()
    }
}
