//! What the datapath tells the control side.

use std::net::{IpAddr, SocketAddr};

use viaduct_types::{MacAddr, VnetId};
use viaduct_vnet_proto::data::{Interest, PeerId, Spi};

/// Something that is not for workers to decide. When the control side does not keep up, events are dropped and counted;
/// none is needed for frames to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A frame from this host's bridge for the control side to look at.
    Frame {
        /// Where.
        vnet: VnetId,
        /// Why.
        reason: Interest,
        /// All of it.
        frame: Vec<u8>,
    },
    /// A frame from this host's bridge whose source nobody claimed here: it is unknown, or a peer's. Each address is told once
    /// until forwarding changes.
    UnknownSource {
        /// Where.
        vnet: VnetId,
        /// Whose.
        mac: MacAddr,
    },
    /// A peer sent frames with a source that is not its own; they were dropped. Each address is told once until forwarding
    /// changes.
    ForeignSource {
        /// Where.
        vnet: VnetId,
        /// Who.
        peer: PeerId,
        /// Whose address.
        mac: MacAddr,
    },
    /// A frame from this host's bridge was longer than what gets to the peer, and was dropped.
    TooBig {
        /// Where.
        vnet: VnetId,
        /// To whom.
        peer: PeerId,
        /// How long a frame may be, in bytes.
        largest_frame: usize,
        /// Its beginning: enough for an answer by ICMP.
        head: Vec<u8>,
    },
    /// The network said that a datagram was too large for it. Anyone may have said so: ask the path.
    PathTooBig {
        /// Where the datagram went.
        remote: SocketAddr,
        /// The largest IP packet that it takes, in bytes, if it said that.
        largest_packet: Option<u32>,
    },
    /// An outbound association has sent as much as it was told to, and goes on.
    RekeyNeeded {
        /// Whose frames.
        vnet: VnetId,
        /// To whom.
        peer: PeerId,
        /// Its name at the peer.
        spi: Spi,
    },
    /// An outbound association may not send any more; frames to its peer are dropped.
    Exhausted {
        /// Whose frames.
        vnet: VnetId,
        /// To whom.
        peer: PeerId,
        /// Its name at the peer.
        spi: Spi,
    },
    /// An authentic datagram came from another address than the peer is known to be at.
    Roamed {
        /// Who.
        peer: PeerId,
        /// From where.
        from: SocketAddr,
    },
    /// What a peer's worker sent by own ports to find out whether it arrives ([`Handle::probe`](super::Handle::probe)) has.
    Probed {
        /// Whose.
        peer: PeerId,
        /// Which of its workers.
        worker: u8,
        /// By which it is told from others.
        number: u32,
    },
    /// A tap does not give frames any more: somebody deleted it.
    TapGone {
        /// Which vnet's.
        vnet: VnetId,
    },
}

/// A datagram of QUIC, which shares the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it.
    pub from: SocketAddr,
    /// To which address of ours.
    pub to: Option<IpAddr>,
    /// What UDP carried.
    pub bytes: Vec<u8>,
}
