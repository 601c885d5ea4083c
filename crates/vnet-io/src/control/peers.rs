//! The other hosts as the engine knows them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use tokio::task::JoinHandle;
use viaduct_types::{HostKey, MacAddr, PeerName, VnetId};
use viaduct_vnet_proto::{control::SessionId, data::PeerId};

use super::{PeerReport, Stranger, reach::NewWays, search::LONGEST_SEARCH, spare::Spare};
use crate::{
    datapath::{Handle, Path},
    socket_options,
};

/// So many strangers are remembered.
const MOST_STRANGERS: usize = 32;
/// In such a time so many lines of the log are others' doing.
const LINES: Duration = Duration::from_secs(10);
/// So many reasons why a peer is not reached are told until it is.
const MOST_TOLD: usize = 16;
/// For so long a new connection is given time to find out what its path carries; until then what the host's own link
/// carries, or what was found the last time, is taken for it.
pub(super) const SEARCHING: Duration = Duration::from_secs(3);

/// For so long more has to be found before it is believed: longer than one step of a search takes.
const SETTLED: Duration = Duration::from_secs(2);

/// What every path carries for QUIC (RFC 9000, section 14): what is taken for it when longer datagrams do not arrive, until
/// it has been searched anew.
pub(super) const LEAST: u16 = 1200;

/// IP and UDP.
pub(super) const fn headers(v6: bool) -> u16 {
    if v6 { 48 } else { 28 }
}

/// What stands before a datagram that another host passes on.
pub(super) const DETOUR: u16 = 4;

/// Another host.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: PeerName,
    pub(super) id: PeerId,
    pub(super) endpoints: Vec<String>,
    /// When it is dialled, of those who are only to pass on.
    pub(super) spare: Option<Spare>,
    pub(super) dialling: Option<JoinHandle<()>>,
    pub(super) session: Option<SessionId>,
    pub(super) path: Option<Path>,
    pub(super) refused: u64,
    pub(super) seen_key: Option<HostKey>,
    pub(super) error: Option<String>,
    /// What has kept it away since it was last there, and was told.
    told: BTreeSet<String>,
    /// Connections in a row that ended as soon as they stood.
    pub(super) ended_at_once: u32,
    /// What a router said that the path carries, in bytes of datagrams, and when it did.
    pub(super) hint: Option<(u16, Duration)>,
    /// What the path was found to carry beyond what is taken for it, and since when.
    pub(super) rise: Option<(u16, Duration)>,
    /// Datagrams that it was sent when it was last asked what its path carries, and when that was.
    pub(super) probed: (u64, Duration),
    /// When the path was last asked because somebody said that it carries less.
    pub(super) doubted: Option<Duration>,
    /// Datagrams that it was sent when its ports were last looked at.
    pub(super) sent: u64,
    /// Since when there is no connection, as far as that was noticed.
    pub(super) unreached: Option<Duration>,
    /// When it was last said that it sends frames of MACs that are not its own.
    pub(super) accused: Option<Duration>,
    /// Where and of which it seems to, and since when.
    pub(super) suspected: Option<(Duration, VnetId, MacAddr)>,
    /// Where it said that it is, and until when that holds.
    pub(super) found: BTreeMap<SocketAddr, Duration>,
    /// Whether it has said of a place that it had not said of before, and has not been dialled since.
    pub(super) is_found_anew: bool,
    pub(super) new_ways: NewWays,
    /// What of its doing is in the log: it may come into many vnets at once.
    pub(super) lines: Lines<100>,
}

/// Counts lines of the log that others can have this host write as often as they like: so many may be.
#[derive(Debug, Default)]
pub(super) struct Lines<const MOST: u32> {
    since: Duration,
    count: u32,
}

impl<const MOST: u32> Lines<MOST> {
    /// Whether there is room for one more.
    pub(super) fn has_room(&mut self, now: Duration) -> bool {
        if now.saturating_sub(self.since) >= LINES {
            *self = Self { since: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= MOST
    }
}

impl Peer {
    pub(super) fn new(name: PeerName, id: PeerId, endpoints: Vec<String>) -> Self {
        Self {
            name,
            id,
            endpoints,
            spare: None,
            dialling: None,
            session: None,
            path: None,
            refused: 0,
            seen_key: None,
            error: None,
            told: BTreeSet::new(),
            ended_at_once: 0,
            hint: None,
            rise: None,
            probed: (0, Duration::ZERO),
            doubted: None,
            sent: 0,
            unreached: None,
            accused: None,
            suspected: None,
            found: BTreeMap::new(),
            is_found_anew: false,
            new_ways: NewWays::default(),
            lines: Lines::default(),
        }
    }

    /// Where it is dialled.
    pub(super) fn names(&self) -> Vec<String> {
        self.endpoints.iter().cloned().chain(self.found.keys().map(ToString::to_string)).collect()
    }

    /// What the path carries is searched anew, since `begun`. Where no router says what that is, what the other end has found on its
    /// way here, in bytes of IP packets, is the best that is known.
    pub(super) fn find_anew(
        &mut self,
        (now, begun): (Duration, Duration),
        known: Option<u16>,
        way_back: Option<u16>,
    ) {
        let (Some(known), Some(path)) = (known, &self.path) else { return };
        let back = way_back.and_then(|packet| packet.checked_sub(headers(path.remote.is_ipv6())));
        let is_told = self.hint.is_some_and(|(_, then)| then >= begun.saturating_sub(LONGEST_SEARCH));
        if let Some(back) = back.filter(|back| *back > LEAST && *back < known && !is_told) {
            self.hint = Some((back, now));
        }
    }

    /// What the path is taken to carry from now on, in bytes of datagrams, when it was `known` to carry so much and so much
    /// is `found`.
    ///
    /// Guests, bridges and ports follow it, so it does not follow each step of a search: less is believed at once, more
    /// when it has been found for a while. While QUIC begins its search anew, what a router said is.
    pub(super) fn carries(&mut self, now: Duration, known: Option<u16>, found: u16) -> u16 {
        let hint =
            self.hint.filter(|(said, then)| now.saturating_sub(*then) < LONGEST_SEARCH || found >= *said);
        let candidate = hint.map_or(found, |(said, _)| said.max(found));
        let Some(known) = known.filter(|known| candidate > *known) else {
            self.rise = None;
            return candidate;
        };
        match self.rise {
            Some((rise, since)) if rise == candidate => {
                if now.saturating_sub(since) < SETTLED {
                    return known;
                }
                self.rise = None;
                candidate
            }
            Some(_) | None => {
                self.rise = Some((candidate, now));
                known
            }
        }
    }

    /// There is a connection. What kept it from that before is over, whoever was seen in its place.
    pub(super) fn reached(&mut self, session: SessionId) {
        self.stop_dialling();
        self.session = Some(session);
        (self.error, self.seen_key) = (None, None);
        self.told.clear();
    }

    /// Why an attempt to reach it did not, and with which key in the place of its own, if so; says whether that is news.
    pub(super) fn not_reached(&mut self, why: String, seen: Option<HostKey>) -> bool {
        self.refused += u64::from(seen.is_some());
        self.seen_key = seen.or(self.seen_key);
        self.error = Some(why.clone());
        self.told.len() < MOST_TOLD && self.told.insert(why)
    }

    /// Nobody says any more whether what goes to its further ports arrives.
    pub(super) fn go_by_first(&mut self, handle: &Handle) {
        let Some(path) = self.path.as_mut().filter(|path| !path.own.is_empty()) else { return };
        path.own.clear();
        handle.set_path(self.id, path.clone());
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
            found: self.found.keys().copied().collect(),
            error: self.error.clone().filter(|_| self.session.is_none()),
            unneeded: self.spare.is_some() && self.session.is_none() && self.dialling.is_none(),
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
pub(super) struct Strangers {
    /// Each with when it was last refused.
    known: BTreeMap<HostKey, (Duration, Stranger)>,
    lines: Lines<20>,
}

impl Strangers {
    /// Says whether it is to be named in the log, too: anybody can come with any number of keys.
    pub(super) fn add(&mut self, now: Duration, key: HostKey, address: SocketAddr) -> bool {
        if !self.known.contains_key(&key) && self.known.len() >= MOST_STRANGERS {
            // Who was not seen for longest makes room.
            let oldest = self.known.iter().min_by_key(|(_, (last, _))| *last).map(|(key, _)| *key);
            oldest.map(|key| self.known.remove(&key));
        }
        let (last, stranger) = self.known.entry(key).or_insert((now, Stranger { key, address, refused: 0 }));
        *last = now;
        stranger.address = address;
        stranger.refused += 1;
        self.lines.has_room(now)
    }

    /// Whoever is known by now is none.
    pub(super) fn remove(&mut self, key: HostKey) {
        self.known.remove(&key);
    }

    pub(super) fn list(&self) -> Vec<Stranger> {
        self.known.values().map(|(_, stranger)| stranger.clone()).collect()
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
        IpAddr::V4(_) => socket_options::get(&socket, libc::IPPROTO_IP, libc::IP_MTU),
        IpAddr::V6(_) => socket_options::get(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    u16::try_from(mtu.ok()?.min(u16::MAX.into())).ok()?.checked_sub(headers(remote.is_ipv6()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_with_ever_new_keys_fill_neither_list_nor_log() {
        let mut strangers = Strangers::default();
        let address = "192.0.2.1:5".parse().unwrap();
        let named = (0..=255).filter(|n| strangers.add(Duration::from_secs(1), HostKey([*n; 32]), address));
        assert_eq!(named.count(), 20);
        assert_eq!(strangers.list().len(), MOST_STRANGERS);
        assert!(strangers.add(Duration::from_secs(12), HostKey([9; 32]), address));
    }

    #[test]
    fn the_stranger_that_was_not_seen_for_longest_makes_room() {
        let mut strangers = Strangers::default();
        let address = "192.0.2.1:5".parse().unwrap();
        let at = Duration::from_secs;
        let key = |n: u8| HostKey([n; 32]);
        let most = u8::try_from(MOST_STRANGERS).unwrap();
        // The lowest key comes last.
        for n in (1..=most).rev() {
            strangers.add(at(u64::from(most - n)), key(n), address);
        }
        // The one that came first comes again.
        strangers.add(at(100), key(most), address);
        strangers.add(at(101), key(200), address);
        let listed = |strangers: &Strangers| -> Vec<_> {
            strangers.list().iter().map(|stranger| (stranger.key.0[0], stranger.refused)).collect()
        };
        let others = (1..most - 1).map(|n| (n, 1));
        let expected: Vec<_> = others.chain([(most, 2), (200, 1)]).collect();
        assert_eq!(listed(&strangers), expected);
        strangers.remove(key(1));
        strangers.add(at(102), key(201), address);
        assert_eq!(listed(&strangers).len(), MOST_STRANGERS);
        assert!(listed(&strangers).contains(&(most - 2, 1)), "there was room");
    }

    #[test]
    fn a_wrong_key_is_spoken_of_until_the_right_one_is_there() {
        let mut peer = Peer::new("b".parse().unwrap(), PeerId(1), Vec::new());
        let other = HostKey([7; 32]);
        let nobody = || "192.0.2.1:1798: nobody answers".to_owned();
        assert!(peer.not_reached("another key".to_owned(), Some(other)));
        // Somebody else may be at one of its addresses, and nobody at the others.
        assert!(peer.not_reached(nobody(), None) && !peer.not_reached(nobody(), None));
        // Each of its addresses has a reason of its own, every time.
        assert!(!peer.not_reached("another key".to_owned(), None) && !peer.not_reached(nobody(), None));
        let report = peer.report();
        assert_eq!((report.seen_key, report.refused, report.error), (Some(other), 1, Some(nobody())));
        peer.reached(SessionId(1));
        assert_eq!((peer.report().seen_key, peer.report().refused), (None, 1));
        // What keeps it away another time is something else.
        peer.session = None;
        assert!(peer.not_reached(nobody(), None));
        assert_eq!((peer.report().seen_key, peer.report().error), (None, Some(nobody())));
    }

    #[test]
    fn each_reason_why_a_peer_is_not_reached_is_news_once() {
        let mut peer = Peer::new("b".parse().unwrap(), PeerId(1), Vec::new());
        let at = |number: usize| format!("192.0.2.{number}:1798: nobody answers");
        // It is tried at both of its endpoints, and again.
        let news = |peer: &mut Peer| [1, 2].map(|number| peer.not_reached(at(number), None));
        assert_eq!([news(&mut peer), news(&mut peer)], [[true, true], [false, false]]);
        assert_eq!(peer.report().error, Some(at(2)), "the last one is shown");
        peer.reached(SessionId(1));
        assert_eq!(news(&mut peer), [true, true]);
        // Some of it may be others' words, which are ever new.
        assert!((0..1_000).filter(|number| peer.not_reached(at(*number), None)).count() < 20);
    }

    #[test]
    fn a_search_that_begins_anew_is_not_followed_step_by_step() {
        let mut peer = Peer::new("b".parse().unwrap(), PeerId(1), Vec::new());
        let at = Duration::from_millis;
        let mut known = 1472;
        let mut seen = vec![known];
        peer.hint = Some((1372, at(0)));
        // A router has said what the path carries; QUIC finds it by halves.
        for (time, found) in [
            (0, 1472),
            (100, 1200),
            (2_000, 1200),
            (4_000, 1285),
            (4_500, 1328),
            (6_000, 1369),
            (7_000, 1372),
            (11_000, 1372),
            (60_000, 1372),
        ] {
            known = peer.carries(at(time), Some(known), if time == 0 { 1200 } else { found });
            if seen.last() != Some(&known) {
                seen.push(known);
            }
        }
        assert_eq!(seen, [1472, 1372]);
    }

    #[test]
    fn less_is_believed_at_once_and_more_when_it_lasts() {
        let mut peer = Peer::new("b".parse().unwrap(), PeerId(1), Vec::new());
        let at = Duration::from_millis;
        assert_eq!(peer.carries(at(0), Some(1472), 1200), 1200);
        assert_eq!(peer.carries(at(1_000), Some(1200), 1300), 1200);
        assert_eq!(peer.carries(at(2_500), Some(1200), 1340), 1200);
        assert_eq!(peer.carries(at(4_000), Some(1200), 1340), 1200);
        assert_eq!(peer.carries(at(4_600), Some(1200), 1340), 1340);
        assert_eq!(peer.carries(at(5_000), None, 1400), 1400);
    }

    #[test]
    fn what_a_router_says_is_believed_no_longer_than_a_search_takes() {
        let mut peer = Peer::new("b".parse().unwrap(), PeerId(1), Vec::new());
        peer.hint = Some((1400, Duration::ZERO));
        assert_eq!(peer.carries(Duration::from_secs(1), Some(1472), 1200), 1400);
        assert_eq!(peer.carries(Duration::from_secs(11), Some(1400), 1200), 1200);
    }
}
