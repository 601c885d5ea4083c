//! Sockets for some peers: for those who send much, and for a few others.
//!
//! To a socket that is everybody's, the kernel finds the way anew for each datagram: it looks up whether its destination is an address
//! of this host, and which socket takes it. With a connected socket it finds both at once (net/ipv4/udp.c, "early demux"), and for
//! what is sent there, it remembers the route.

use std::{
    io,
    net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

use crate::datapath::{
    ears::{self, Ears},
    socket::Socket,
};

/// How many there are at most: each costs a little with each waiting.
pub(super) const MOST: usize = 8;
/// How many places are for whoever sends anything.
const FIRST: usize = 4;
/// Who sends so many datagrams in so long sends much.
const MUCH: u32 = 4_096;
const WITHIN: Duration = Duration::from_secs(1);
/// Who has not sent for so long gives its place to one who sends much. Nor is anything sent to it by that socket: the address that it
/// sends from may not be this host's any more.
const QUIET: Duration = Duration::from_secs(1);
/// And after so long, to anybody.
const GONE: Duration = Duration::from_secs(10);
/// No more often is one opened for somebody who does not send much.
const APART: Duration = Duration::from_secs(1);
/// When there was no place or the kernel would not, it is tried again after so long.
const RETRY: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Connected {
    sockets: Vec<One>,
    /// The same, in this order.
    ears: Arc<Mutex<Ears>>,
    /// Who is to have one, from where and to which address of ours.
    wanted: Option<(Wish, SocketAddr, IpAddr)>,
    /// When the worker was last woken.
    now: Duration,
    /// When one was last opened, or tried to be, for somebody who does not send much.
    tried: Option<Duration>,
}

/// Why somebody is to have a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Little,
    Much,
}

#[derive(Debug)]
struct One {
    socket: Socket,
    from: SocketAddr,
    to: IpAddr,
    /// When something came there.
    heard: Duration,
    /// Whether the kernel did not send by it.
    is_refused: bool,
}

/// What came with some keys to a socket that is everybody's.
#[derive(Debug, Default)]
pub(super) struct Amount {
    count: u32,
    since: Duration,
    tried: Option<Duration>,
}

impl Amount {
    /// One more; says whether that is much.
    pub(super) fn is_much(&mut self, now: impl FnOnce() -> Duration) -> bool {
        self.count += 1;
        if self.count < MUCH {
            return false;
        }
        let now = now();
        let passed = now.saturating_sub(std::mem::replace(&mut self.since, now));
        self.count = 0;
        let is_much = passed <= WITHIN && self.tried.is_none_or(|tried| now.saturating_sub(tried) >= RETRY);
        if is_much {
            self.tried = Some(now);
        }
        is_much
    }
}

impl Connected {
    pub(super) fn new() -> Self {
        Self {
            sockets: Vec::with_capacity(MOST),
            ears: Arc::default(),
            wanted: None,
            now: Duration::ZERO,
            tried: None,
        }
    }

    pub(super) fn woken(&mut self, now: Duration) {
        self.now = now;
    }

    pub(super) fn ears(&self) -> Arc<Mutex<Ears>> {
        Arc::clone(&self.ears)
    }

    pub(super) fn count(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn socket(&self, index: usize) -> Option<&Socket> {
        self.sockets.get(index).map(|one| &one.socket)
    }

    /// Something came by this one.
    pub(super) fn heard(&mut self, index: usize) {
        if let Some(one) = self.sockets.get_mut(index) {
            (one.heard, one.is_refused) = (self.now, false);
        }
    }

    /// Which one is for whoever sends from there.
    #[cfg(any(test, fuzzing))]
    pub(super) fn of(&self, from: SocketAddr) -> Option<usize> {
        self.sockets.iter().position(|one| one.from == from)
    }

    /// By which one something is sent to there, and from that address of ours, if it is to be a certain one.
    #[unsafe(link_section = "frame_path")]
    pub(super) fn toward(&self, remote: SocketAddr, local: Option<IpAddr>) -> Option<usize> {
        self.sockets.iter().position(|one| {
            one.from == remote
                && local.is_none_or(|local| local == one.to)
                && !one.is_refused
                && self.now.saturating_sub(one.heard) < QUIET
        })
    }

    /// The kernel does not send by it: nothing is sent by it until something comes there again.
    pub(super) fn refused(&mut self, index: usize) {
        if let Some(one) = self.sockets.get_mut(index) {
            one.is_refused = true;
        }
    }

    /// Whether one would be opened for somebody who does not send much.
    pub(super) fn has_room(&self) -> bool {
        self.wanted.is_none()
            && self.tried.is_none_or(|tried| self.now.saturating_sub(tried) >= APART)
            && (self.sockets.len() < FIRST || self.quietest(GONE).is_some())
    }

    /// Which was heard least recently, if that is so long ago.
    fn quietest(&self, quiet: Duration) -> Option<usize> {
        let quietest = self.sockets.iter().enumerate().min_by_key(|(_, one)| one.heard);
        let is_quiet = |one: &One| self.now.saturating_sub(one.heard) >= quiet;
        quietest.filter(|(_, one)| is_quiet(one)).map(|(index, _)| index)
    }

    pub(super) fn want(&mut self, wish: Wish, from: SocketAddr, to: Option<IpAddr>) {
        self.wanted = to.map(|to| (wish, from, to));
    }

    /// Opens one beside the worker's own socket, if one is wanted and there is a place.
    pub(super) fn open(&mut self, own: Option<&Socket>) {
        let (Some((wish, from, to)), Some(own)) = (self.wanted.take(), own) else { return };
        let (most, quiet) = match wish {
            Wish::Much => (MOST, QUIET),
            Wish::Little => {
                self.tried = Some(self.now);
                (FIRST, GONE)
            }
        };
        if self.sockets.iter().any(|one| (one.from, one.to) == (from, to)) {
            return;
        }
        if self.sockets.len() >= most {
            let Some(index) = self.quietest(quiet) else { return };
            ears::lock(&self.ears).close(index);
            self.sockets.swap_remove(index);
        }
        let others = self.sockets.iter().map(|one| &one.socket).chain([own]);
        let opened = own
            .port()
            .and_then(|port| beside(port, others, from, to))
            .and_then(|socket| Ok((socket.share()?, socket)));
        match opened {
            Ok((shared, socket)) => {
                ears::lock(&self.ears).open(shared);
                self.sockets.push(One { socket, from, to, heard: self.now, is_refused: false });
            }
            // All of it goes on by the socket that is everybody's.
            Err(error) => tracing::debug!(%error, %from, "no socket for one peer"),
        }
    }

    pub(super) fn close_all(&mut self) {
        self.tried = None;
        ears::lock(&self.ears).keep(0);
        self.sockets.clear();
    }
}

/// A socket with the port that these others have, which only hears what comes from there. Until it
/// is connected it may get what is for the others: whatever it has got is read.
fn beside<'a>(
    port: u16,
    others: impl Iterator<Item = &'a Socket> + Clone,
    from: SocketAddr,
    to: IpAddr,
) -> io::Result<Socket> {
    let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: UdpSocket = socket_with(family, SocketType::DGRAM, flags, None)?.into();
    let socket = Socket::prepare(socket, 0).map_err(io::Error::other)?;
    let local = match (to, from) {
        (IpAddr::V6(to), SocketAddr::V6(from)) => SocketAddrV6::new(to, port, 0, from.scope_id()).into(),
        (to, _) => SocketAddr::new(to, port),
    };
    // All with the port have to let it in, and do not let in anybody at any other time.
    let share = |new: &Socket, is_shared| -> io::Result<()> {
        sockopt::set_socket_reuseport(new.as_fd(), is_shared)?;
        others.clone().try_for_each(|socket| Ok(sockopt::set_socket_reuseport(socket.as_fd(), is_shared)?))
    };
    let bound = share(&socket, true).and_then(|()| Ok(bind(socket.as_fd(), &local)?));
    share(&socket, false)?;
    bound?;
    connect(socket.as_fd(), &from)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::worker::in_a_namespace;

    #[test]
    fn who_sends_much_at_once_is_told_from_who_does_in_a_day() {
        let mut amount = Amount::default();
        let mut after =
            |count: u32, at: u64| (0..count).filter(|_| amount.is_much(|| Duration::from_millis(at))).count();
        assert_eq!(after(MUCH, 10_000), 0, "nobody knows since when");
        assert_eq!(after(MUCH - 1, 10_500), 0);
        assert_eq!(after(1, 10_900), 1);
        assert_eq!(after(10 * MUCH, 11_000), 0, "it was tried");
        assert_eq!(after(MUCH, 40_000), 0, "slowly");
        assert_eq!(after(MUCH, 40_900), 1);
    }

    #[test]
    fn who_is_quiet_gives_its_place_to_another() {
        in_a_namespace(|| {
            for (any, host) in [("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "127.0.0.1"), ("[::]:0", "::1")] {
                let host: IpAddr = host.parse().unwrap();
                let own = Socket::prepare(UdpSocket::bind(any).unwrap(), 1).unwrap();
                let at = SocketAddr::new(host, own.port().unwrap());
                let senders: Vec<UdpSocket> =
                    (0..=MOST).map(|_| UdpSocket::bind((host, 0)).unwrap()).collect();
                let mut connected = Connected::new();
                let second = Duration::from_secs(1);
                let begin = |connected: &mut Connected, wish, index: usize, now| {
                    connected.woken(now);
                    if wish == Wish::Much || connected.has_room() {
                        connected.want(wish, senders[index].local_addr().unwrap(), Some(host));
                    }
                    connected.open(Some(&own));
                };
                let open = |connected: &mut Connected, index, now| begin(connected, Wish::Much, index, now);
                // Which sockets have something, the worker's own last, when all have said something.
                let heard = |connected: &Connected| -> Vec<usize> {
                    for sender in &senders {
                        assert_eq!(sender.send_to(&[7; 4], at).unwrap(), 4);
                    }
                    let sockets = (0..MOST).map(|index| connected.socket(index)).chain([Some(&own)]);
                    let count = |socket: Option<&Socket>| {
                        let read = |socket: &Socket| rustix::io::read(socket.as_fd(), &mut [0; 8]).is_ok();
                        socket.map_or(0, |socket| {
                            std::iter::repeat_with(|| read(socket)).take_while(|read| *read).count()
                        })
                    };
                    sockets.map(count).collect()
                };
                assert_eq!(heard(&connected), [0, 0, 0, 0, 0, 0, 0, 0, 9]);
                begin(&mut connected, Wish::Little, 0, second / 8);
                begin(&mut connected, Wish::Little, 1, second / 4);
                assert_eq!(connected.count(), 1, "not so soon");
                connected.close_all();
                assert!(connected.has_room());
                connected.want(Wish::Much, senders[0].local_addr().unwrap(), Some(host));
                assert!(!connected.has_room(), "who sends much comes first");
                connected.wanted = None;
                (0..MOST).for_each(|index| open(&mut connected, index, second));
                open(&mut connected, 0, second);
                assert_eq!(connected.count(), MOST);
                assert_eq!(heard(&connected), [1; MOST + 1]);
                // There is no place.
                open(&mut connected, MOST, second + QUIET / 2);
                assert_eq!(heard(&connected), [1; MOST + 1]);
                // All but one have said something meanwhile.
                connected.woken(second + QUIET / 2);
                (0..MOST).filter(|index| *index != 3).for_each(|index| connected.heard(index));
                open(&mut connected, MOST, second + QUIET);
                assert_eq!(heard(&connected), [1; MOST + 1]);
                assert!(connected.sockets.iter().all(|one| one.from != senders[3].local_addr().unwrap()));
                // Nobody else gets the port.
                let other: UdpSocket =
                    socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                        .unwrap()
                        .into();
                sockopt::set_socket_reuseport(&other, true).unwrap();
                let free = bind(&other, &SocketAddr::from(([127, 0, 0, 1], at.port())));
                assert!(free.is_err());
                connected.close_all();
                assert_eq!(heard(&connected), [0, 0, 0, 0, 0, 0, 0, 0, 9]);
            }
        });
    }
}
