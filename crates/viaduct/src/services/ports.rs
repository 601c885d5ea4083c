//! The sockets of the devices that are served.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::{BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};
use tracing::{debug, warn};
use viaduct_kernel::{Frames, Listen};
use viaduct_types::{IfName, MacAddr};

use super::AGAIN;

/// So many frames of one device are read before the others have their turn.
const BATCH: usize = 32;
/// The numbers of what is no port; ports count up from the next.
const DAEMON: u64 = 0;
const NAMES: u64 = 1;

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
}

pub(super) struct Ports {
    epoll: OwnedFd,
    open: BTreeMap<u64, Port>,
    /// What is to be open, with its number when it is.
    wanted: BTreeMap<(IfName, Listen), Option<u64>>,
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

    /// What a device is listened to for from now on.
    pub(super) fn serve(&mut self, device: &IfName, listen: &[Listen], now: Duration) {
        for kind in [Listen::Dhcp4, Listen::Arp, Listen::Neighbours, Listen::Ip6] {
            let key = (device.clone(), kind);
            if listen.contains(&kind) {
                self.wanted.entry(key).or_insert(None);
            } else if let Some(Some(number)) = self.wanted.remove(&key) {
                // Closing takes it out of what is waited for.
                self.open.remove(&number);
            }
        }
        self.again = Some(now);
        self.open_missing(now);
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
        for ((device, listen), number) in self.wanted.iter_mut().filter(|(_, number)| number.is_none()) {
            let listen = *listen;
            let opened = Frames::open(device, listen).and_then(|frames| {
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
                    if listen == Listen::Ip6 {
                        self.news.push_back(News::Opened(device.clone(), mac));
                    }
                    self.open.insert(self.next, Port { device: device.clone(), listen, frames });
                    *number = Some(self.next);
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
            number => Source::Port(number),
        };
        Ok(events.into_iter().map(source).collect())
    }

    /// Gives on what came in by a port.
    pub(super) fn read(
        &mut self,
        number: u64,
        now: Duration,
        mut frame: impl FnMut(&IfName, Listen, MacAddr, &[u8]),
    ) {
        let Some(port) = self.open.get(&number) else { return };
        let mut buffer = [0; 2048];
        for _ in 0..BATCH {
            let received = port.frames.receive(&mut buffer).and_then(|received| match received {
                Some(bytes) => Ok(Some((port.frames.mac()?, bytes))),
                None => Ok(None),
            });
            match received {
                Ok(Some((mac, bytes))) => frame(&port.device, port.listen, mac, bytes),
                Ok(None) => return,
                Err(error) => {
                    debug!("{}: {error}", port.device);
                    self.lost(number, now);
                    return;
                }
            }
        }
    }

    /// The device of a port went down, or is gone; one of the same name may come.
    fn lost(&mut self, number: u64, now: Duration) {
        let Some(port) = self.open.remove(&number) else { return };
        if port.listen == Listen::Ip6 {
            self.news.push_back(News::Closed(port.device.clone()));
        }
        if let Some(open) = self.wanted.get_mut(&(port.device, port.listen)) {
            *open = None;
            self.again = Some(now + AGAIN);
        }
    }

    pub(super) fn send(&mut self, device: &IfName, frame: &[u8]) {
        let kinds: &[Listen] = match frame.get(12..14) {
            Some(kind) if kind == IPV6 => &[Listen::Ip6, Listen::Neighbours],
            _ => &[Listen::Dhcp4],
        };
        let number = |kind: &Listen| self.wanted.get(&(device.clone(), *kind)).copied().flatten();
        let number = kinds.iter().find_map(number);
        if let Some(port) = number.and_then(|number| self.open.get(&number))
            && let Err(error) = port.frames.send(frame)
        {
            // The client asks again.
            debug!("{device}: an answer was not sent: {error}");
        }
    }
}
