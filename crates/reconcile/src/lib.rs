//! The loop that makes a host what its configuration and attachments say: observe, plan, act, verify. Over the
//! traits of the plan, so that it runs on a kernel and on a simulation of one. Also what has to be remembered between
//! runs: the applied configuration and the attachments.
#![forbid(unsafe_code)]

mod change;
mod close;
mod converge;
mod keeper;
mod part;
mod store;

pub use change::{Aftermath, ChangeError, change};
pub use close::{Closing, close};
pub use converge::{ConvergeError, Failure, Outcome, Outlook, Wish, chain, converge, converge_except, look};
pub use keeper::{Dispute, Keeper};
pub use part::{Known, change_part};
pub use store::{
    Created, CreatedPeer, CreatedVnet, Found, History, KEPT, Lock, Moment, Revision, Store, StoreError,
    Unconfirmed,
};
