//! The words in which the datapath is told what to do.

use std::{fmt, net::IpAddr, net::SocketAddr, net::UdpSocket, num::NonZeroUsize};

use viaduct_types::VnetId;
use viaduct_vnet_proto::data::{Lane, PeerId, Spi, esp::Cipher};
use zeroize::Zeroizing;

/// What the datapath is started with.
#[derive(Debug)]
pub struct Options {
    /// How many threads work. Each has its own queue of every tap.
    pub workers: NonZeroUsize,
    /// The first one, which QUIC shares: bound, not connected. The first worker receives from it for all of them, as long as
    /// they are [given none of their own](super::Handle::set_own_sockets), and what cannot go by those. Give it as an IPv6
    /// socket that takes IPv4 too where the host has IPv6.
    pub socket: UdpSocket,
}

/// Which way an association goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From us to the peer, who chose the SPI.
    Outbound,
    /// From the peer to us, who chose the SPI.
    Inbound,
}

/// Keys for one direction between two hosts in one vnet, for one worker.
#[derive(Debug)]
pub struct Association {
    /// Its name at the receiver.
    pub spi: Spi,
    /// The other host.
    pub peer: PeerId,
    /// Whose frames it carries.
    pub vnet: VnetId,
    /// Which way.
    pub direction: Direction,
    /// By which ports.
    pub lane: Lane,
    /// Outbound: the worker that sends with it. Inbound: the worker that receives, which is the one at whose socket the
    /// peer's datagrams arrive: the first, or, by own ports, the one that [`receiver`](super::receiver) says.
    pub worker: usize,
    /// Inbound: by which queue frames are given to taps, which the first worker has all of: that of the worker that is to send
    /// what answers them, for the kernel takes a flow to the queue that it comes from. Other workers give by their own.
    pub queue: usize,
    /// How frames are protected.
    pub cipher: Cipher,
    /// With what.
    pub key: KeyMaterial,
    /// Outbound: after so many datagrams, [`Event::RekeyNeeded`](super::Event::RekeyNeeded) says so, once.
    pub rekey_after: u64,
}

/// A key and its salt.
pub struct KeyMaterial {
    pub(super) key: Zeroizing<Vec<u8>>,
    pub(super) salt: [u8; Self::SALT],
}

impl KeyMaterial {
    /// Bytes of salt, for every cipher: the first bytes of each nonce (RFC 4106, section 4).
    pub const SALT: usize = 4;

    /// How many bytes a cipher needs, key and salt.
    pub const fn length(cipher: Cipher) -> usize {
        cipher.key_length() + Self::SALT
    }

    /// The key, followed by the salt, as key derivation gives them (RFC 4106, section 8.1); none when there are not
    /// exactly as many bytes as the cipher needs.
    pub fn new(cipher: Cipher, bytes: &[u8]) -> Option<Self> {
        let (key, salt) = bytes.split_at_checked(cipher.key_length())?;
        Some(Self { key: Zeroizing::new(key.to_vec()), salt: salt.try_into().ok()? })
    }
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyMaterial")
    }
}

/// How a peer is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Where its first socket is: all workers send there, from the first socket, what does not go by own ones.
    pub remote: SocketAddr,
    /// Where its workers' own sockets are: worker `w` sends to the `w`-th, counted round, from its own socket, but for a vnet
    /// that has no keys for that, and what goes by way of others.
    pub own: Vec<SocketAddr>,
    /// From which address of ours, if that matters.
    pub local: Option<IpAddr>,
    /// The largest datagram that gets there whole, in bytes: what UDP carries, without IP's and UDP's headers.
    pub largest_datagram: u16,
    /// The largest that may get there, for all that is known so far; at least that one. A frame that needs a longer datagram
    /// than the former, and none longer than this, goes in two. So does a packet of 1280 bytes in any case: IPv6 counts on these
    /// (RFC 8200, section 5).
    pub hoped: u16,
    /// Another host that passes on what is sent.
    pub via: Option<Via>,
}

/// A host that passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via {
    /// Where it receives.
    pub relay: SocketAddr,
    /// What it knows by where a datagram is to go: it stands before the datagram.
    pub spi: Spi,
}

impl Via {
    /// How many bytes it takes.
    pub const HEADER: usize = 4;
}

/// Datagrams of others that go on as they are but for what stands before them: whoever sent them and whoever gets them have
/// the keys, we have not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relay {
    /// What stands before them when they come.
    pub spi: Spi,
    /// From where they come.
    pub from: SocketAddr,
    /// Where they go.
    pub to: SocketAddr,
    /// What stands before them then.
    pub onward: Spi,
    /// How much of it goes on.
    pub bytes_per_second: u64,
}

/// Datagrams that another host passes on to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brought {
    /// What stands before them.
    pub spi: Spi,
    /// Who brings them.
    pub relay: SocketAddr,
    /// Where they are taken to come from.
    pub from: SocketAddr,
}
