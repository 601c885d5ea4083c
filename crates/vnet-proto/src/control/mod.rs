//! What the hosts of vnets agree on, without sockets, clocks or ciphers.
//!
//! A [`Node`] is one host. It is told what is configured ([`Node::configure`]), which connections there are and what came
//! in by them, and how long packets may be on the way. What it wants to say is taken from it with
//! [`Node::poll_transmit`], what is to be done with [`Node::poll_action`], in their order and after every call, and
//! [`Node::poll_timeout`] says when [`Node::handle_timeout`] is to be called at the latest. Times are since any moment
//! that is the same for all calls.

mod answer;
mod beacon;
mod claims;
mod configure;
mod heed;
mod keys;
mod learning;
mod listening;
mod member;
mod message;
mod mtu;
mod node;
mod ports;
mod relay;
mod report;
mod session;
mod spread;
mod suite;
mod timeouts;

pub use answer::{answer, too_big};
pub use beacon::{BEACON_CONTEXT, BEACON_INTERVAL, Beacon, Heard, Ignored, MOST_BEACON_ADDRESSES};
pub use claims::{Claim, MOST_CLAIMS, Owner};
pub use message::{
    Channel, LONGEST, MOST_ADDRESSES, MOST_PORTS, MOST_WORKERS, Message, MessageError, Security, VERSION,
};
pub use node::{Node, Refused};
pub use ports::Further;
pub use relay::{Detour, Pass};
pub use report::{MemberReport, VnetReport};
pub use session::{Exporter, ProtocolError, SessionId};
pub use suite::Protection;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use viaduct_types::{HostKey, MacAddr, VnetId, Vni};

use crate::data::{
    Lane, Spi,
    esp::{self, Cipher},
};

/// What is configured of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many workers send.
    pub workers: u8,
    /// The workers' own ports, beside the first one; none: one port carries everything.
    pub ports: Vec<u16>,
    /// Whether the processor has instructions for AES.
    pub fast_aes: bool,
    /// How long keys are used.
    pub rekey: Duration,
    /// The vnets that this host has.
    pub vnets: BTreeMap<VnetId, VnetSettings>,
    /// The peers between which this host passes on what they cannot send each other.
    pub relay: BTreeSet<HostKey>,
}

/// What is configured of a vnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VnetSettings {
    /// What protects its frames.
    pub security: Security,
    /// By which cipher, which gives that level, whatever both ends do best.
    pub cipher: Option<Cipher>,
    /// Where nothing does, the number by which this host takes them.
    pub vni: Option<Vni>,
    /// Whether machines are behind it that nobody has told of.
    pub learning: bool,
    /// The longest IP packet that this host's ports take, in bytes, where that is said; otherwise what gets through.
    pub mtu: Option<u16>,
    /// The hosts that may belong to it.
    pub peers: BTreeSet<HostKey>,
    /// The NICs that are here, each with its addresses.
    pub nics: BTreeMap<MacAddr, Vec<IpAddr>>,
}

impl VnetSettings {
    fn protection(&self) -> Protection {
        Protection { security: self.security, cipher: self.cipher }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// End a connection that is not needed, or not wanted.
    Close {
        /// Which.
        session: SessionId,
    },
    /// A peer is in a vnet: what is for all goes to it, too, as soon as there are keys. Also when it says something else of
    /// itself than before.
    Join {
        /// Who.
        peer: HostKey,
        /// In which.
        vnet: VnetId,
        /// Whether machines are behind it that nobody has told of.
        learning: bool,
    },
    /// It is not any more. Keys and MACs of it have been taken back before.
    Leave {
        /// Who.
        peer: HostKey,
        /// Not in which.
        vnet: VnetId,
    },
    /// Take frames that are sealed so.
    Receive(Association),
    /// Seal frames so from now on.
    Transmit(Association),
    /// Send frames as VXLAN from now on, to where the peer's connection leads.
    Plain {
        /// To whom.
        peer: HostKey,
        /// Of which vnet.
        vnet: VnetId,
        /// With this number, which the receiver chose.
        vni: Vni,
    },
    /// Take frames that were sealed so no longer.
    Forget {
        /// The inbound associations.
        spis: Vec<Spi>,
    },
    /// Send the peer nothing any more.
    Mute {
        /// Whom.
        peer: HostKey,
        /// In which vnet.
        vnet: VnetId,
    },
    /// A MAC is somewhere else now, or has other addresses.
    Route {
        /// In which vnet.
        vnet: VnetId,
        /// Which.
        mac: MacAddr,
        /// Whose; nobody's: none.
        owner: Option<Owner>,
        /// Its addresses.
        addresses: Vec<IpAddr>,
        /// Whether it was here and has moved to a peer: what still comes for it goes there.
        moved: bool,
    },
    /// Longer packets do not get through a vnet, to at least one of its members.
    Mtu {
        /// Which.
        vnet: VnetId,
        /// In bytes, of IP packets inside; none when nobody else is in it.
        mtu: Option<u16>,
    },
    /// [`Node::listening`] of a vnet is another than before.
    Listening {
        /// Of which.
        vnet: VnetId,
    },
    /// [`Node::further_ports`] of a peer may be others than before.
    Ports {
        /// Whose.
        peer: HostKey,
    },
    /// [`Node::passes`] or [`Node::detours`] are others than before.
    Reach,
    /// What came before is in effect before anything is sent: somebody waits until it is.
    Settle,
    /// The other end of a connection has done what it was told before [`Node::ask_to_heed`] gave this number.
    Heeded {
        /// Which connection.
        session: SessionId,
        /// Which number.
        number: u32,
    },
}

/// Keys of one direction between two hosts in one vnet, for all workers of the sender that use these ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Association {
    /// The connection that the keys come from.
    pub session: SessionId,
    /// The other host.
    pub peer: HostKey,
    /// The vnet.
    pub vnet: VnetId,
    /// Whether the sender of the frames is who dialled.
    pub sender_dialled: bool,
    /// Counts up.
    pub epoch: u32,
    /// What seals.
    pub cipher: Cipher,
    /// By which ports the frames come.
    pub lane: Lane,
    /// One for each worker of the sender, chosen by the receiver.
    pub spis: Vec<Spi>,
}

impl Association {
    /// The label of the TLS exporter (RFC 8446, section 7.5) that keys of the data channel come from.
    pub const LABEL: &'static [u8] = b"EXPORTER-viaduct-data";

    /// In the worker's place in the context: its own ports.
    const OWN: u8 = 0x80;

    /// The sender's workers, with the SPI of each.
    pub fn workers(&self) -> impl Iterator<Item = (u8, Spi)> {
        (0..Self::OWN).zip(self.spis.iter().copied())
    }

    /// The exporter's context for one worker's key: nothing that is not the same can have the same key.
    pub fn context(&self, worker: u8) -> [u8; 22] {
        let mut context = [0; 22];
        context[..16].copy_from_slice(&self.vnet.to_bytes());
        context[16] = u8::from(self.sender_dialled);
        context[17..21].copy_from_slice(&self.epoch.to_be_bytes());
        context[21] = match self.lane {
            Lane::First => worker,
            Lane::Own => worker | Self::OWN,
        };
        context
    }
}

/// No host can say that less gets through: hosts find each other by datagrams of 1200 bytes (RFC 9000, section 14).
const fn least_inner_mtu(security: Security) -> u16 {
    match security {
        // VXLAN's header and Ethernet's.
        Security::None => 1200 - 8 - 14,
        // Frames that the path does not take go in two, so that it is at least what IPv6 counts on (RFC 8200, section 5).
        Security::Auth | Security::Conf => 1280,
    }
}

/// The longest IP packet inside, when packets of so many bytes get through outside: ESP in UDP around an Ethernet frame,
/// or VXLAN (RFC 7348).
pub fn inner_mtu(path: u16, outer_v6: bool, security: Security) -> u16 {
    const ETHERNET: usize = 14;
    const VXLAN: usize = 8;
    let datagram = usize::from(path.saturating_sub(if outer_v6 { 48 } else { 28 }));
    let frame = match security {
        Security::None => datagram.checked_sub(VXLAN),
        Security::Auth => esp::largest_frame(Cipher::Aes128Gmac, datagram),
        Security::Conf => esp::largest_frame(Cipher::Aes128Gcm, datagram),
    };
    let packet = frame.and_then(|frame| frame.checked_sub(ETHERNET));
    let packet = packet.and_then(|packet| u16::try_from(packet).ok()).unwrap_or(0);
    packet.max(least_inner_mtu(security))
}
