//! What moves the packets of vnets: taps, sockets, encryption, and the threads that work on them.
//!
//! [`datapath`] carries frames between this host's bridges and its peers. It knows keys, addresses and where each MAC
//! address is; how these come about is not its business.

pub mod control;
pub mod datapath;
mod socket_options;
