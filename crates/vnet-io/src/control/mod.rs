//! The control side of vnets: connections to the other hosts, and what follows from them for the workers.
//!
//! The engine is a process of its own, so that frames go on while the daemon is away. It is told what to be on a unix
//! socket ([`Request`]), by whoever keeps the host, and tells on the same what others have to do something about.

mod accept;
mod act;
mod bridge;
mod carry;
mod dial;
mod discovery;
mod engine;
mod enslaved;
mod fdb;
mod flips;
mod handshakes;
mod heeded;
mod identity;
mod learned;
mod link;
mod machines;
mod memory;
mod names;
mod narrow;
mod orders;
mod peers;
mod plain;
mod ports;
mod prompt;
mod reach;
mod report;
mod rtnetlink;
mod search;
mod segment;
mod server;
mod socket;
mod spare;
mod start;
mod tables;
#[cfg(test)]
mod tests;
mod tls;
mod unheard;
mod watch;

pub use identity::{Identity, IdentityError};
pub use names::Found;
pub use narrow::widen;
pub use orders::{
    Answer, DiscoveryOrders, Findings, MacReport, MemberReport, NicOrders, Orders, PeerOrders, PeerReport,
    PlainOrders, PortsReport, RelayedReport, Report, Request, Stranger, VnetOrders, VnetReport,
};
pub use start::{EngineError, NamesLine, Options, run};
