//! Waiting until there is something to do.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use viaduct_vnet_proto::data::Lane;

use super::{Worker, connected};

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
    /// The mailbox and taps.
    pub(super) others: Vec<epoll::Event>,
}

/// At once.
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// How many taps are told of at once.
const OTHERS: usize = 64;
const MOST: usize = 2 + connected::MOST;

impl Worker {
    /// Waits until there is something. Of taps there may be many, so they are in an epoll instance. Sockets are not: whoever is
    /// registered there is called with each datagram that comes or has left, also while the worker is busy.
    ///
    /// # Errors
    /// When the kernel will not wait: it has no memory.
    pub(super) fn wait(&self, ready: &mut Ready) -> rustix::io::Result<()> {
        ready.sockets.clear();
        ready.others.clear();
        let mut polled: [PollFd<'_>; 1 + MOST] =
            std::array::from_fn(|_| PollFd::from_borrowed_fd(self.epoll.as_fd(), PollFlags::IN));
        let mut which = [By::First; MOST];
        let mut count = 0;
        for by in [By::First, By::Own].into_iter().chain((0..self.connected.count()).map(By::Connected)) {
            if let Some(socket) = self.socket(by) {
                which[count] = by;
                count += 1;
                polled[count] = PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN);
            }
        }
        match poll(&mut polled[..=count], None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error),
        }
        for (polled, by) in polled[1..=count].iter().zip(which) {
            let there = polled.revents();
            if !there.is_empty() {
                ready.sockets.push((by, there.contains(PollFlags::ERR)));
            }
        }
        if !polled[0].revents().is_empty() {
            ready.others.reserve(OTHERS);
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut ready.others), Some(&NOW)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, sync::Arc};

    use tokio::sync::mpsc;

    use super::*;
    use crate::datapath::{Datagram, mailbox::Mailbox, socket::Socket, worker::Outlets};

    /// More than a worker takes at once of what comes one by one.
    const MUCH_AT_ONCE: usize = 400;

    #[test]
    fn a_socket_with_much_does_not_keep_a_worker_from_its_other_one() {
        let [first, own] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let at = [&first, &own].map(|socket| socket.local_addr().unwrap());
        let (events, _events) = mpsc::channel(1);
        let (datagrams, mut received) = mpsc::channel(4 * MUCH_AT_ONCE);
        let outlets = Outlets { events, datagrams };
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let mut worker = Worker::new(0, Socket::prepare(first, 0).unwrap(), mailbox, outlets).unwrap();
        worker.own_socket(Some(Socket::prepare(own, 0).unwrap()));
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
                worker.wait(&mut ready).unwrap();
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
