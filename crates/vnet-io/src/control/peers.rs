//! The other hosts as the engine knows them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use tokio::task::JoinHandle;
use viaduct_types::{HostKey, PeerName};
use viaduct_vnet_proto::{control::SessionId, data::PeerId};

use super::{PeerReport, Stranger};
use crate::datapath::Path;

/// So many strangers are remembered.
const MOST_STRANGERS: usize = 32;
/// For so long a new connection is given time to find out what its path carries; until then what the host's own link
/// carries, or what was found the last time, is taken for it.
pub(super) const SEARCHING: Duration = Duration::from_secs(3);

/// What every path carries for QUIC (RFC 9000, section 14): what is taken for it when longer datagrams do not arrive, until
/// it has been searched anew.
pub(super) const LEAST: u16 = 1200;

/// IP and UDP.
pub(super) const fn headers(v6: bool) -> u16 {
    if v6 { 48 } else { 28 }
}

/// Another host.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: PeerName,
    pub(super) id: PeerId,
    pub(super) endpoints: Vec<String>,
    pub(super) dialling: Option<JoinHandle<()>>,
    pub(super) session: Option<SessionId>,
    pub(super) path: Option<Path>,
    pub(super) refused: u64,
    pub(super) seen_key: Option<HostKey>,
    pub(super) error: Option<String>,
    /// Connections in a row that ended as soon as they stood.
    pub(super) ended_at_once: u32,
    /// What a router said that the path carries, in bytes of datagrams, and when it did.
    pub(super) hint: Option<(u16, Duration)>,
    /// Datagrams that it was sent when it was last asked what its path carries, and when that was.
    pub(super) probed: (u64, Duration),
}

impl Peer {
    pub(super) fn new(name: PeerName, id: PeerId, endpoints: Vec<String>) -> Self {
        Self {
            name,
            id,
            endpoints,
            dialling: None,
            session: None,
            path: None,
            refused: 0,
            seen_key: None,
            error: None,
            ended_at_once: 0,
            hint: None,
            probed: (0, Duration::ZERO),
        }
    }

    pub(super) fn stop_dialling(&mut self) {
        if let Some(task) = self.dialling.take() {
            task.abort();
        }
    }

    pub(super) fn report(&self) -> PeerReport {
        PeerReport {
            connected: self.session.is_some(),
            refused: self.refused,
            seen_key: self.seen_key,
            error: self.error.clone().filter(|_| self.session.is_none()),
            ..PeerReport::default()
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop_dialling();
    }
}

/// Those with keys that nobody knows.
#[derive(Debug, Default)]
pub(super) struct Strangers(BTreeMap<HostKey, Stranger>);

impl Strangers {
    pub(super) fn add(&mut self, key: HostKey, address: SocketAddr) {
        if !self.0.contains_key(&key) && self.0.len() >= MOST_STRANGERS {
            self.0.pop_first();
        }
        let stranger = self.0.entry(key).or_insert(Stranger { key, address, refused: 0 });
        stranger.address = address;
        stranger.refused += 1;
    }

    /// Whoever is known by now is none.
    pub(super) fn remove(&mut self, key: HostKey) {
        self.0.remove(&key);
    }

    pub(super) fn list(&self) -> Vec<Stranger> {
        self.0.values().cloned().collect()
    }
}

/// The largest datagram that the host's own link towards an address carries, by the kernel's word (ip(7), IP_MTU).
pub(super) fn largest_of_link(remote: SocketAddr) -> Option<u16> {
    let any = match remote.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(remote).ok()?;
    let mtu = match remote.ip() {
        IpAddr::V4(_) => integer_option(&socket, libc::IPPROTO_IP, libc::IP_MTU),
        IpAddr::V6(_) => integer_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU),
    }?;
    u16::try_from(mtu.min(u32::from(u16::MAX))).ok()?.checked_sub(headers(remote.is_ipv6()))
}

fn integer_option(socket: &UdpSocket, level: libc::c_int, name: libc::c_int) -> Option<u32> {
    use std::os::fd::AsRawFd;
    let mut value: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of::<libc::c_int>()).ok()?;
    // SAFETY: the kernel writes at most `length` bytes to `value`, and the number of bytes to `length`; both live until
    // the call returns.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length)
    };
    if result == 0 { u32::try_from(value).ok() } else { None }
}
