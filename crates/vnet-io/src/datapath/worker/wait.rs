//! Waiting until there is something to do.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use arrayvec::ArrayVec;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use viaduct_vnet_proto::data::Lane;

use super::{Worker, connected, fetch};
use crate::datapath::mailbox::Slot;

/// By which of a worker's sockets something comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// The first one, which is everybody's.
    First,
    /// The worker's own.
    Own,
    /// The one of this index for somebody who sends much to its own port.
    Connected(usize),
}

impl By {
    pub(super) const fn lane(self) -> Lane {
        match self {
            Self::First => Lane::First,
            Self::Own | Self::Connected(_) => Lane::Own,
        }
    }
}

/// What there is to do.
#[derive(Default)]
pub(super) struct Ready {
    /// The sockets that have something, and whether it is an error.
    pub(super) sockets: Vec<(By, bool)>,
    /// The vnets whose taps have something, and whether it is an error.
    pub(super) taps: Vec<(Slot, bool)>,
    events: Vec<epoll::Event>,
}

impl Ready {
    /// Whether there is nothing, as after a wait that was too long.
    pub(super) fn is_empty(&self) -> bool {
        self.sockets.is_empty() && self.taps.is_empty()
    }
}

/// What is asked.
#[derive(Clone, Copy)]
enum Asked {
    Mailbox,
    /// The instance of epoll.
    Others,
    Socket(By),
    Tap(Slot),
}

/// At once.
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// The taps of so many vnets are asked by themselves: an instance of epoll between costs a lone frame some microseconds.
const DIRECT: usize = 8;
/// How many of the other taps are told of at once.
const OTHERS: usize = 64;
const MOST: usize = 2 + 2 + connected::MOST + DIRECT;

impl Worker {
    /// Waits until there is something, or for so long. Of taps there may be many, so all but a few are in an epoll instance. Sockets are not: whoever
    /// is registered there is called with each datagram that comes or has left, also while the worker is busy.
    ///
    /// # Errors
    /// When the kernel will not wait: it has no memory.
    pub(super) fn wait(&self, ready: &mut Ready, patience: Option<Duration>) -> rustix::io::Result<()> {
        let Ready { sockets, taps, events } = ready;
        sockets.clear();
        taps.clear();
        let readable = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut polled = ArrayVec::<PollFd<'_>, MOST>::new();
        let mut which = ArrayVec::<Asked, MOST>::new();
        let mut ask = |fd, asked| {
            polled.push(readable(fd));
            which.push(asked);
        };
        ask(self.mailbox.wake(), Asked::Mailbox);
        if self.vnets.len() > DIRECT {
            ask(self.epoll.as_fd(), Asked::Others);
        }
        for by in
            [By::First, By::Own].into_iter().chain((0..self.outbox.connected.count()).map(By::Connected))
        {
            if let Some(socket) = self.socket(by) {
                ask(socket.as_fd(), Asked::Socket(by));
            }
        }
        for (slot, vnet) in self.vnets.iter().take(DIRECT).enumerate() {
            if let Some(vnet) = vnet.as_ref().filter(|vnet| !vnet.is_gone) {
                ask(vnet.queue.as_fd(), Asked::Tap(slot));
            }
        }
        let patience = patience.and_then(|patience| patience.try_into().ok());
        let result = poll(&mut polled, patience.as_ref());
        // What came alone the last time has probably come after as long a sleep.
        if self.is_alone {
            fetch::code();
            fetch::value(self);
        }
        match result {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error),
        }
        for (polled, asked) in polled.iter().zip(which) {
            let there = polled.revents();
            if there.is_empty() {
                continue;
            }
            let is_error = there.intersects(PollFlags::ERR | PollFlags::HUP);
            match asked {
                Asked::Socket(by) => sockets.push((by, is_error)),
                Asked::Tap(slot) => taps.push((slot, is_error)),
                // It is opened in any case.
                Asked::Mailbox => {}
                Asked::Others => self.others(taps, events)?,
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn others(&self, taps: &mut Vec<(Slot, bool)>, events: &mut Vec<epoll::Event>) -> rustix::io::Result<()> {
        events.clear();
        events.reserve(OTHERS);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&NOW)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let errors = epoll::EventFlags::ERR | epoll::EventFlags::HUP;
        for epoll::Event { flags, data } in events.iter().copied() {
            taps.push((usize::try_from(data.u64()).unwrap_or(usize::MAX), flags.intersects(errors)));
        }
        Ok(())
    }

    /// Lets [`wait`](Self::wait) tell of this tap.
    pub(super) fn watch(&self, slot: Slot, queue: BorrowedFd<'_>) -> rustix::io::Result<()> {
        if slot < DIRECT {
            return Ok(());
        }
        epoll::add(&self.epoll, queue, epoll::EventData::new_u64(slot as u64), epoll::EventFlags::IN)
    }

    /// No longer. Closing a queue would not do it, for the first worker may still have it.
    pub(super) fn pass_over(epoll: &OwnedFd, slot: Slot, queue: BorrowedFd<'_>) {
        if slot >= DIRECT {
            let _ = epoll::delete(epoll, queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::unix::net::UnixStream, sync::Arc};

    use tokio::sync::mpsc;

    use super::*;
    use crate::datapath::{
        Datagram,
        mailbox::{Command, Mailbox},
        socket::Socket,
        worker::Outlets,
    };

    /// More than a worker takes at once of what comes one by one.
    const MUCH_AT_ONCE: usize = 400;

    /// With nothing but a first socket.
    fn worker(first: UdpSocket) -> (Worker, mpsc::Receiver<Datagram>) {
        let (events, _) = mpsc::channel(1);
        let (datagrams, received) = mpsc::channel(4 * MUCH_AT_ONCE);
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let first = Socket::prepare(first, 0).unwrap();
        (Worker::new(0, first, mailbox, Outlets { events, datagrams }).unwrap(), received)
    }

    #[test]
    fn each_tap_is_told_of_however_many_there_are() {
        const TAPS: usize = DIRECT + 4;
        let (mut worker, _) = worker(UdpSocket::bind("127.0.0.1:0").unwrap());
        let ends: Vec<_> = (0..TAPS)
            .map(|slot| {
                let (ours, queue) = UnixStream::pair().unwrap();
                let (queue, others) = (queue.into(), Vec::new());
                let id = format!("{:x}", slot + 2).parse().unwrap();
                worker.apply(Command::AddVnet {
                    slot,
                    id,
                    queue,
                    others,
                    cuts_udp: false,
                    counters: Arc::default(),
                });
                ours
            })
            .collect();
        let mut ready = Ready::default();
        let mut told = |worker: &Worker| {
            worker.wait(&mut ready, None).unwrap();
            let mut slots: Vec<_> = ready.taps.iter().map(|(slot, _)| *slot).collect();
            slots.sort_unstable();
            slots
        };
        for (slot, end) in ends.iter().enumerate() {
            assert_eq!(rustix::io::write(end, b"frame"), Ok(5));
            assert_eq!(told(&worker), (0..=slot).collect::<Vec<_>>());
        }
        for removed in [0, DIRECT] {
            worker.apply(Command::RemoveVnet(removed));
            assert!(!told(&worker).contains(&removed));
        }
        assert_eq!(told(&worker).len(), TAPS - 2);
    }

    #[test]
    fn a_socket_with_much_does_not_keep_a_worker_from_its_other_one() {
        let [first, own] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let at = [&first, &own].map(|socket| socket.local_addr().unwrap());
        let (mut worker, mut received) = worker(first);
        worker.outbox.set_own(Some(Socket::prepare(own, 0).unwrap()));
        let senders = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        for (much, little) in [(0, 1), (1, 0)] {
            let send = |from: usize, count: usize| {
                (0..count)
                    .for_each(|_| assert_eq!(senders[from].send_to(&[0x40; 10], at[from]).unwrap(), 10));
            };
            send(much, MUCH_AT_ONCE);
            send(little, 10);
            let mut ready = Ready::default();
            let mut turn = || {
                worker.wait(&mut ready, None).unwrap();
                worker.take(&ready);
                let mut heard = [0; 2];
                while let Ok(Datagram { from, .. }) = received.try_recv() {
                    let is_from = |sender: &UdpSocket| sender.local_addr().unwrap() == from;
                    heard[senders.iter().position(is_from).unwrap()] += 1;
                }
                heard
            };
            let heard = turn();
            assert!(heard[much] > 0 && heard[much] < MUCH_AT_ONCE / 2, "{heard:?}");
            assert_eq!(heard[little], 10);
            // The rest comes, too.
            let mut rest = MUCH_AT_ONCE - heard[much];
            while rest > 0 {
                let heard = turn();
                assert_eq!(heard[little], 0);
                rest -= heard[much];
            }
        }
    }
}
