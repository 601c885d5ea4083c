//! The sockets of the devices that are served.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    os::fd::{BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};
use tracing::{debug, warn};
use viaduct_kernel::{Frames, Listen, Trouble};
use viaduct_services::Frame;
use viaduct_types::{IfName, MacAddr};

use super::AGAIN;

/// So many frames of one device are read before the others have their turn.
const BATCH: usize = 32;
/// The numbers of what is no port; ports count up from the next.
const DAEMON: u64 = 0;
const NAMES: u64 = 1;

/// How long a device's MAC is taken to be the same.
const FRESH: Duration = Duration::from_secs(1);

/// The Ethernet type of IPv6, as it stands in a frame.
const IPV6: [u8; 2] = [0x86, 0xdd];

/// Where something waits.
pub(super) enum Source {
    Daemon,
    /// The sockets by which names are asked for.
    Names,
    Port(u64),
}

/// What became of a socket for IPv6.
pub(super) enum News {
    /// It is open, on a device with this MAC.
    Opened(IfName, MacAddr),
    /// It is not any more.
    Closed(IfName),
}

struct Port {
    device: IfName,
    listen: Listen,
    frames: Frames,
    trouble: Trouble,
    /// The device's MAC, and when it was looked at.
    mac: (MacAddr, Duration),
}

impl Port {
    /// The device's MAC, which may become another one, as a bridge's does: it is not looked at for each frame.
    fn mac(&mut self, now: Duration) -> io::Result<MacAddr> {
        if self.mac.1 + FRESH < now {
            self.mac = (self.frames.mac()?, now);
        }
        Ok(self.mac.0)
    }
}

/// What is to be open.
#[derive(Default)]
struct Wanted {
    /// Its number, when it is.
    open: Option<u64>,
    /// So many frames may wait in it.
    waiting: usize,
    /// Whether it is known that it is open.
    is_known: bool,
}

pub(super) struct Ports {
    epoll: OwnedFd,
    open: BTreeMap<u64, Port>,
    wanted: BTreeMap<(IfName, Listen), Wanted>,
    /// Which of them are not.
    missing: BTreeSet<(IfName, Listen)>,
    /// Those that others have taken the place of; in them, something may wait.
    outgrown: Vec<u64>,
    news: VecDeque<News>,
    next: u64,
    /// When what is not open is tried again.
    again: Option<Duration>,
}

impl Ports {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self {
            epoll,
            open: BTreeMap::new(),
            wanted: BTreeMap::new(),
            missing: BTreeSet::new(),
            outgrown: Vec::new(),
            news: VecDeque::new(),
            next: NAMES + 1,
            again: None,
        })
    }

    pub(super) fn listen_to(&mut self, source: Source, at: BorrowedFd<'_>) -> io::Result<()> {
        let number = match source {
            Source::Daemon => DAEMON,
            Source::Names => NAMES,
            Source::Port(number) => number,
        };
        Ok(epoll::add(&self.epoll, at, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?)
    }

    /// What a device is listened to for from now on, and how many frames may wait of each.
    pub(super) fn serve(&mut self, device: &IfName, listen: &BTreeMap<Listen, usize>, now: Duration) {
        for kind in [Listen::Dhcp4, Listen::Arp, Listen::Neighbours, Listen::Ip6] {
            let key = (device.clone(), kind);
            if let Some(&waiting) = listen.get(&kind) {
                let wanted = self.wanted.entry(key.clone()).or_default();
                wanted.waiting = waiting;
                let port = wanted.open.and_then(|number| self.open.get(&number));
                if port.is_some_and(|port| port.frames.is_too_small_for(waiting)) {
                    self.outgrown.extend(wanted.open.take());
                }
                if wanted.open.is_none() {
                    self.missing.insert(key);
                }
            } else if let Some(wanted) = self.wanted.remove(&key) {
                self.missing.remove(&key);
                // Closing takes it out of what is waited for.
                wanted.open.and_then(|number| self.open.remove(&number));
            }
        }
        self.again = Some(now);
        self.open_missing(now);
    }

    /// The next port that a larger one has taken the place of: it is to be read to its end ([`Ports::read`]), and
    /// closed.
    pub(super) fn outgrown(&mut self) -> Option<u64> {
        self.outgrown.pop()
    }

    /// Closes what nobody needs any more.
    pub(super) fn close(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// Everything that is listened to in a way.
    pub(super) fn all(&self, listen: Listen) -> Vec<u64> {
        self.open.iter().filter(|(_, port)| port.listen == listen).map(|(number, _)| *number).collect()
    }

    /// What became of sockets for IPv6, in its order.
    pub(super) fn news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// When something is to be tried again.
    pub(super) fn due(&self) -> Option<Duration> {
        self.again
    }

    /// Opens what is not open, if it is time to try.
    pub(super) fn open_missing(&mut self, now: Duration) {
        if self.again.is_none_or(|again| again > now) {
            return;
        }
        self.again = None;
        for key in std::mem::take(&mut self.missing) {
            let (device, listen) = (&key.0, key.1);
            let Some(wanted) = self.wanted.get_mut(&key) else { continue };
            let opened = open(device, listen, wanted.waiting).and_then(|frames| {
                let data = epoll::EventData::new_u64(self.next);
                epoll::add(&self.epoll, &frames, data, epoll::EventFlags::IN)?;
                if listen == Listen::Neighbours {
                    // Each address is looked for in a group of its own.
                    frames.hear_all_groups()?;
                }
                let mac = frames.mac()?;
                Ok((frames, mac))
            });
            match opened {
                Ok((frames, mac)) => {
                    debug!("guests are answered on {device}");
                    if listen == Listen::Ip6 && !wanted.is_known {
                        self.news.push_back(News::Opened(device.clone(), mac));
                    }
                    wanted.is_known = true;
                    wanted.open = Some(self.next);
                    let (device, trouble) = (device.clone(), Trouble::Possible);
                    self.open.insert(self.next, Port { device, listen, frames, trouble, mac: (mac, now) });
                    self.next += 1;
                }
                Err(error) => {
                    // It is about to come, or about to be taken away.
                    if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) {
                        debug!("{device} is not there yet");
                    } else {
                        warn!("cannot listen on {device}: {error}");
                    }
                    self.again = Some(now + AGAIN);
                    self.missing.insert(key);
                }
            }
        }
    }

    /// Sleeps until something waits, or for so long.
    pub(super) fn wait(&mut self, limit: Option<Duration>) -> io::Result<Vec<Source>> {
        let mut events = Vec::with_capacity(64);
        // Rounded up, so that what was waited for is due.
        let limit = limit.and_then(|limit| Timespec::try_from(limit + Duration::from_micros(100)).ok());
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let source = |event: epoll::Event| match event.data.u64() {
            DAEMON => Source::Daemon,
            NAMES => Source::Names,
            number => {
                let flags = event.flags;
                if flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP)
                    && let Some(port) = self.open.get_mut(&number)
                {
                    port.trouble = Trouble::Possible;
                }
                Source::Port(number)
            }
        };
        Ok(events.into_iter().map(source).collect())
    }

    /// Gives on what came in by a port; says whether there may be more.
    pub(super) fn read(
        &mut self,
        number: u64,
        now: Duration,
        mut frame: impl FnMut(&IfName, Listen, MacAddr, &[u8]),
    ) -> bool {
        let Some(port) = self.open.get_mut(&number) else { return false };
        let mut buffer = [0; 2048];
        for _ in 0..BATCH {
            let received = match port.frames.receive(&mut buffer, port.trouble) {
                Ok(Some(bytes)) => port.mac(now).map(|mac| (mac, bytes)),
                Ok(None) => {
                    port.trouble = Trouble::None;
                    return false;
                }
                Err(error) => Err(error),
            };
            match received {
                Ok((mac, bytes)) => frame(&port.device, port.listen, mac, bytes),
                Err(error) => {
                    debug!("{}: {error}", port.device);
                    self.lost(number, now);
                    return false;
                }
            }
        }
        true
    }

    /// The device of a port went down, or is gone; one of the same name may come.
    fn lost(&mut self, number: u64, now: Duration) {
        let Some(port) = self.open.remove(&number) else { return };
        let key = (port.device, port.listen);
        let Some(wanted) = self.wanted.get_mut(&key).filter(|wanted| wanted.open == Some(number)) else {
            return;
        };
        if port.listen == Listen::Ip6 {
            self.news.push_back(News::Closed(key.0.clone()));
        }
        (wanted.open, wanted.is_known) = (None, false);
        self.missing.insert(key);
        self.again = Some(now + AGAIN);
    }

    /// Sends frames. Those that follow each other on one device go together.
    pub(super) fn send(&self, frames: &[Frame]) {
        for frames in frames.chunk_by(|one, next| one.device == next.device && is_ip6(one) == is_ip6(next)) {
            let Some(first) = frames.first() else { continue };
            let kinds: &[Listen] =
                if is_ip6(first) { &[Listen::Ip6, Listen::Neighbours] } else { &[Listen::Dhcp4] };
            let device = &first.device;
            let number =
                |kind: &Listen| self.wanted.get(&(device.clone(), *kind)).and_then(|wanted| wanted.open);
            let number = kinds.iter().find_map(number);
            if let Some(port) = number.and_then(|number| self.open.get(&number))
                && let Err(error) = port.frames.send(frames.iter().map(|frame| &frame.bytes[..]))
            {
                // The client asks again.
                debug!("{device}: an answer was not sent: {error}");
            }
        }
    }
}

fn is_ip6(frame: &Frame) -> bool {
    frame.bytes.get(12..14).is_some_and(|kind| kind == IPV6)
}

/// Without memory for so many frames, with a queue for few.
fn open(device: &IfName, listen: Listen, waiting: usize) -> io::Result<Frames> {
    Frames::open(device, listen, waiting).or_else(|error| {
        debug!("{device}: no room for {waiting} frames: {error}");
        Frames::open(device, listen, 0)
    })
}
