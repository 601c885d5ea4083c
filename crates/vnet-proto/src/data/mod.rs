//! The data side: frames of a vnet as ESP in UDP between two hosts.
//!
//! A datagram is ESP (RFC 4303) in UDP (RFC 3948): SPI, the low half of a 64-bit sequence number, one whole Ethernet
//! frame (next header 143, RFC 8986), padding, and the check value. The SPI says which association it belongs to,
//! and so the peer, the vnet and the worker. Each datagram stands alone.

mod addresses;
mod bucket;
pub(crate) mod checksum;
mod cut;
pub mod esp;
mod forwarding;
mod fragment;
mod groups;
mod interest;
mod join;
mod layout;
mod mac_table;
mod mss;
mod offload;
mod replay;
mod segment;
mod storm;

pub use addresses::Addresses;
pub use bucket::Bucket;
pub use cut::{Cut, CutError};
pub use esp::Spi;
pub use forwarding::{
    DropReason, Forwarding, FromBridge, FromPeer, LocalSource, To, UnknownDestination, source,
};
pub use fragment::fragments;
pub use groups::{Listeners, MOST_GROUPS, is_for_all, questions};
pub use interest::Interest;
pub use join::{Joins, Run};
pub use mac_table::{MacTable, Port, TableFull};
pub use mss::clamp_mss;
pub use offload::{OFFLOAD_HEADER, Offload, Segments};
pub use replay::{ReplayWindow, Replayed};
pub use segment::{APART, Count, Doubt, NEAR, Numbers, SEGMENT_CONTEXT, Segment, TOLD};
pub use storm::Storm;

/// Another host, by a number that this host's control side gave it. It means nothing elsewhere and is not on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// By which ports datagrams go from one host to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// From the first socket to the peer's first one, where QUIC is, too: so there always is a way. The first worker opens them.
    First,
    /// From the sending worker's own socket to the one of the peer's that [`receiver`] says, and to the worker that has it.
    Own,
}

/// At which of a peer's sockets of workers a worker's datagrams arrive, and so which of its workers opens them: workers are
/// counted round the sockets. A flow stays with one worker at either end, so that its frames stay in order: the kernel gives a flow
/// always to the same queue of a tap, and each queue has one worker.
pub const fn receiver(worker: usize, sockets: usize) -> usize {
    if sockets == 0 { 0 } else { worker % sockets }
}
