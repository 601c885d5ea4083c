//! What to do: desired state, observed state, and the plan that turns one into the other. Pure.
#![forbid(unsafe_code)]

mod closed;
mod debt;
mod desired;
mod diff;
mod flows;
mod inner;
mod lent;
pub mod nft;
mod op;
mod order;
pub mod part;
mod port;
mod shown;
mod side_by_side;
#[cfg(feature = "sim")]
pub mod sim;
mod stacks;
mod state;
mod transactions;
mod unmade;

pub use closed::{closed, has_filter};
pub use desired::{
    Answers, Boot, Boot6, Claims, Client, Client6, Desired, DesiredDevice, DesiredGuest, DesiredLink,
    DesiredNamespace, DesiredSysctl, HostName, INNER, LinkHead, LinkPrefix, LinkRouter, MOVED, Neighbours,
    Notice, OwnAddress, Router, Served, ServedChange, ServedLink, ServedLinkChange, ServedNic, Severity,
    Told, When, Zone, ZoneChange, ZoneHead, ask, attached_namespaces, desired, host_addresses, probed,
    vnet_claims, vnet_ports, vnis,
};
pub use diff::{listened, plan};
pub use flows::{Flows, ends, lets_through};
pub use op::{GuestChange, InnerKind, LinkChange, NamespaceChange, NewLink, Op, Underlay};
pub use port::{Apply, Keep, Observe, ObservePart};
pub use shown::Plan;
pub use side_by_side::side_by_side;
pub use stacks::is_bare;
pub use state::*;
pub use unmade::Unmade;
