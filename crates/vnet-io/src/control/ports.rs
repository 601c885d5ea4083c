//! The workers' own ports, and which of a peer's are used.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, SocketAddrV6, UdpSocket},
    time::Duration,
};

use tracing::{info, warn};
use viaduct_types::{HostKey, VNET_PORT, WORKER_PORT};
use viaduct_vnet_proto::control::Further;

use super::{PortsReport, engine::Engine, link::Link, peers::Peer, reach::relay_of, socket};
use crate::datapath::Counters;

/// Who has been told that there is one port from now on does so, and what is on the way arrives, in this time.
const LEAVE: Duration = Duration::from_secs(2);
/// Between the first port and the workers' lies that of VXLAN.
const FROM_FIRST: u16 = WORKER_PORT - VNET_PORT;

/// This host's own.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// Those that the workers have, beside the first one.
    open: Vec<u16>,
    /// Whether peers are to send there.
    is_told: bool,
    /// When they are closed.
    closes: Option<Duration>,
    trouble: Option<String>,
}

impl Ports {
    /// Where peers are to send, beside the first port.
    pub(super) fn told(&self) -> &[u16] {
        if self.is_told { &self.open } else { &[] }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.open.len()
    }

    /// Why there are none, though they were wanted.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

/// The same host at another port.
pub(super) fn at_port(remote: SocketAddr, port: u16) -> SocketAddr {
    match remote {
        SocketAddr::V4(v4) => SocketAddr::new((*v4.ip()).into(), port),
        SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), port, v6.flowinfo(), v6.scope_id()).into(),
    }
}

/// The ports that follow the first, so that a firewall can name them; none where there are no numbers left.
fn following(first: u16, count: usize) -> impl Iterator<Item = Option<u16>> {
    let from = first.checked_add(FROM_FIRST);
    (0..count).map(move |index| from?.checked_add(u16::try_from(index).ok()?))
}

/// Where somebody else has a port, the kernel chooses another: peers are told, in any case.
fn open(first: u16, count: usize) -> io::Result<Vec<UdpSocket>> {
    let one = |port: Option<u16>| match port.map(socket::open) {
        Some(Ok(opened)) => Ok(opened),
        Some(Err(_)) | None => socket::open(0),
    };
    following(first, count).map(one).collect()
}

impl Engine {
    /// Opens the workers' own ports if they are wanted; otherwise nobody is told of them any more.
    pub(super) fn open_ports(&mut self) {
        self.ports.trouble = None;
        if self.orders.single_port {
            if std::mem::take(&mut self.ports.is_told) {
                self.ports.closes = Some(self.now().saturating_add(LEAVE));
            }
            return;
        }
        if self.ports.open.is_empty() {
            match self.give_ports() {
                Ok(ports) => {
                    let list: Vec<String> = ports.iter().map(u16::to_string).collect();
                    info!("vnets: frames are taken at UDP port {} and at {}", self.port, list.join(" "));
                    self.ports.open = ports;
                }
                Err(trouble) => {
                    warn!("one port carries everything: {trouble}");
                    self.ports.trouble = Some(trouble);
                    return;
                }
            }
        }
        self.ports.is_told = true;
        self.ports.closes = None;
    }

    fn give_ports(&self) -> Result<Vec<u16>, String> {
        let count = self.handle.workers();
        let ports = if count == 1 { "another UDP port" } else { "more UDP ports" };
        let failed = |error: io::Error| format!("cannot open {ports} for vnets: {error}");
        let sockets = open(self.port, count).map_err(failed)?;
        let port = |socket: &UdpSocket| Ok(socket.local_addr()?.port());
        let ports = sockets.iter().map(port).collect::<io::Result<_>>().map_err(failed)?;
        self.handle.set_own_sockets(sockets).map_err(|error| error.to_string())?;
        Ok(ports)
    }

    /// Closes what nobody sends to any more.
    pub(super) fn close_ports(&mut self) {
        if self.ports.closes.is_none_or(|then| then > self.now()) {
            return;
        }
        self.ports.closes = None;
        self.ports.open.clear();
        if let Err(error) = self.handle.set_own_sockets(Vec::new()) {
            warn!("{error}");
        }
    }

    /// Asks whether what goes to a peer's further ports arrives, when it is time.
    pub(super) fn probe_ports(&mut self, key: HostKey, sent: u64) {
        let now = self.now();
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let has_traffic = std::mem::replace(&mut peer.sent, sent) != sent;
        let Some(link) = peer.session.and_then(|session| self.links.get(&session)) else { return };
        let at = Some(link.remote()).filter(|remote| relay_of(*remote).is_none());
        let number = self.node.probe_ports(now, key, at, has_traffic);
        if let (Some(number), Some(remote)) = (number, at) {
            let told = self.node.told_ports(key).iter().map(|port| at_port(remote, *port));
            self.handle.probe(peer.id, number, &told.collect::<Vec<_>>());
        }
    }

    /// Whether what is sent to the other end of a connection goes to this address, too.
    pub(super) fn goes_by_own(&self, link: &Link, remote: SocketAddr) -> bool {
        let path = self.peers.get(&link.key).and_then(|peer| peer.path.as_ref());
        path.is_some_and(|path| path.own.contains(&remote))
    }

    pub(super) fn ports_report(&self, peer: &Peer, counters: &Counters) -> PortsReport {
        let of_workers = counters.workers.get(&peer.id).into_iter().flatten();
        let first = of_workers.clone().map(|of| of.datagrams_in_first).sum();
        let by_own = of_workers.map(|of| of.datagrams_in.saturating_sub(of.datagrams_in_first));
        let own = self.ports.open.iter().copied().zip(by_own);
        let received: BTreeMap<u16, u64> = std::iter::once((self.port, first)).chain(own).collect();
        let Some(link) = peer.session.and_then(|session| self.links.get(&session)) else {
            return PortsReport { received, ..PortsReport::default() };
        };
        let path = peer.path.as_ref();
        let own: Vec<u16> = path.into_iter().flat_map(|path| &path.own).map(SocketAddr::port).collect();
        let (to, one) = if own.is_empty() {
            (path.map(|path| path.remote.port()).into_iter().collect(), Some(self.why_one(link)))
        } else {
            (own, None)
        };
        match link.via() {
            // Where it itself is, nobody here knows.
            Some(_) => PortsReport { to: Vec::new(), one, received },
            None => PortsReport { to, one, received },
        }
    }

    fn why_one(&self, link: &Link) -> String {
        let why = if self.orders.single_port {
            "single-port is set here"
        } else if let Some(trouble) = self.ports.trouble() {
            trouble
        } else if link.via().is_some() {
            "it is reached by way of another"
        } else {
            match self.node.further_ports(link.key, link.remote()) {
                Further::None => "it has one port",
                Further::Idle => "no vnet has keys for others",
                Further::Tried | Further::Used(_) => "its others are being tried",
                Further::Silent => "its others are not reached",
            }
        };
        why.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_the_same_at_another_port() {
        let v4 = "192.0.2.1:1798".parse().unwrap();
        assert_eq!(at_port(v4, 1800), "192.0.2.1:1800".parse().unwrap());
        let link = SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 1798, 0, 3));
        assert_eq!(
            at_port(link, 1801),
            SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 1801, 0, 3))
        );
    }

    #[test]
    fn no_more_ports_are_named_than_there_are() {
        assert_eq!(following(1798, 2).collect::<Vec<_>>(), [Some(1800), Some(1801)]);
        assert_eq!(following(u16::MAX - 2, 2).collect::<Vec<_>>(), [Some(u16::MAX), None]);
        assert_eq!(following(u16::MAX, 2).collect::<Vec<_>>(), [None, None]);
    }
}
