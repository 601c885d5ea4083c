//! What to do: desired state, observed state, and the plan that turns one into the other. Pure.
#![forbid(unsafe_code)]

pub mod nft;
mod op;
mod port;
mod state;

pub use op::{GuestChange, LinkChange, NewLink, Op};
pub use port::{Apply, Observe};
pub use state::*;
