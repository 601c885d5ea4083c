//! Deletes links, and waits no longer than until nobody can see them any more.
//!
//! The kernel takes a link's names and routes away and tells so (`unregister_netdevice_many_notify`) within a
//! millisecond. The system call that asked for it returns some twenty milliseconds later, when nothing in the kernel
//! uses its memory any more (`netdev_run_todo`); nobody else has to wait for that. So a thread asks, and who wants the
//! links gone listens for the news.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, mpsc},
    thread,
};

use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::{
    error::{KernelError, Refusal},
    socket::{Messages, Request, Socket},
};

/// So many deletions at once; who asks for more waits for the first of them.
const WORKERS: usize = 16;
/// They do next to nothing.
const STACK: usize = 256 << 10;
/// `struct ifinfomsg` (include/uapi/linux/rtnetlink.h): the family in the first byte, the index in the second word.
const INDEX_AT: usize = 4;

type Answers = Vec<Result<(), Refusal>>;

/// Threads that delete links.
pub(crate) struct Reaper {
    news: netlink_sys::Socket,
    workers: Vec<Worker>,
    finished: mpsc::Receiver<(usize, Answers)>,
    finish: mpsc::Sender<(usize, Answers)>,
    wake: Arc<OwnedFd>,
}

struct Worker {
    port: u32,
    work: mpsc::Sender<Vec<Request>>,
    busy: bool,
}

/// How far it came.
pub(crate) enum Reaped {
    /// The links are gone for everybody.
    Gone,
    /// The kernel answered before that was told.
    Answered(Answers),
}

impl Reaper {
    pub(crate) fn new() -> io::Result<Self> {
        let mut news = netlink_sys::Socket::new(NETLINK_ROUTE)?;
        news.bind_auto()?;
        news.set_non_blocking(true)?;
        let (finish, finished) = mpsc::channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok(Self { news, workers: Vec::new(), finished, finish, wake })
    }

    /// The addresses of its sockets.
    pub(crate) fn ports(&self) -> impl Iterator<Item = u32> {
        self.workers.iter().map(|worker| worker.port)
    }

    /// Sends requests that delete the links with these indexes, in the namespace of the calling thread.
    pub(crate) fn delete(
        &mut self,
        requests: Vec<Request>,
        mut indexes: BTreeSet<u32>,
    ) -> Result<Reaped, KernelError> {
        let failed = |error: io::Error| KernelError::system("deleting links", error);
        let chosen = self.free_worker().map_err(failed)?;
        self.news.add_membership(libc::RTNLGRP_LINK).map_err(failed)?;
        let sent = match self.workers.get_mut(chosen) {
            Some(worker) => {
                worker.busy = worker.work.send(requests).is_ok();
                worker.busy
            }
            None => false,
        };
        let reaped = if sent {
            self.wait(chosen, &mut indexes)
        } else {
            Err(io::Error::other("a thread for it has ended"))
        };
        // What is still told is read and passed over the next time.
        let _ = self.news.drop_membership(libc::RTNLGRP_LINK);
        let mut rest = BTreeSet::new();
        while let Ok(News::Some) = hear(&self.news, &mut rest) {}
        reaped.map_err(failed)
    }

    /// One that has nothing to do, made if need be.
    fn free_worker(&mut self) -> io::Result<usize> {
        while let Ok((number, _)) = self.finished.try_recv() {
            self.is_free(number);
        }
        loop {
            if let Some(number) = self.workers.iter().position(|worker| !worker.busy) {
                return Ok(number);
            }
            if self.workers.len() < WORKERS {
                self.start()?;
                continue;
            }
            match self.finished.recv() {
                Ok((number, _)) => self.is_free(number),
                Err(_) => return Err(io::Error::other("all threads for it have ended")),
            }
        }
    }

    fn is_free(&mut self, number: usize) {
        if let Some(worker) = self.workers.get_mut(number) {
            worker.busy = false;
        }
    }

    fn start(&mut self) -> io::Result<()> {
        let mut socket = Socket::open(NETLINK_ROUTE)?;
        let (port, number) = (socket.port(), self.workers.len());
        let (work, waiting) = mpsc::channel::<Vec<Request>>();
        let (finish, wake) = (self.finish.clone(), Arc::clone(&self.wake));
        thread::Builder::new().name("reaper".to_owned()).stack_size(STACK).spawn(move || {
            for requests in waiting {
                if finish.send((number, socket.batch(&requests))).is_err() {
                    return;
                }
                let _ = rustix::io::write(&wake, &1_u64.to_ne_bytes());
            }
        })?;
        self.workers.push(Worker { port, work, busy: false });
        Ok(())
    }

    fn wait(&mut self, chosen: usize, indexes: &mut BTreeSet<u32>) -> io::Result<Reaped> {
        let mut listening = true;
        loop {
            let mut sources = vec![PollFd::new(&self.wake, PollFlags::IN)];
            if listening {
                sources.push(PollFd::from_borrowed_fd(self.news.as_fd(), PollFlags::IN));
            }
            match poll(&mut sources, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
            while let Ok((number, answers)) = self.finished.try_recv() {
                self.is_free(number);
                if number == chosen {
                    return Ok(Reaped::Answered(answers));
                }
            }
            while listening {
                match hear(&self.news, indexes)? {
                    News::Some => {}
                    News::None => break,
                    News::Lost => listening = false,
                }
                if indexes.is_empty() {
                    return Ok(Reaped::Gone);
                }
            }
        }
    }
}

enum News {
    Some,
    None,
    Lost,
}

/// Reads what is told of links, and strikes out those that are gone.
fn hear(socket: &netlink_sys::Socket, indexes: &mut BTreeSet<u32>) -> io::Result<News> {
    let mut bytes = Vec::with_capacity(32 << 10);
    match socket.recv(&mut bytes, 0) {
        Ok(_) => {}
        Err(error) => {
            return match error.raw_os_error() {
                Some(libc::EAGAIN) => Ok(News::None),
                Some(libc::EINTR) => Ok(News::Some),
                Some(libc::ENOBUFS) => Ok(News::Lost),
                _ => Err(error),
            };
        }
    }
    for message in Messages(&bytes).filter(|message| message.kind == libc::RTM_DELLINK) {
        // A bridge tells of its ports by the same message with a family of its own.
        if message.body.first() != Some(&0) {
            continue;
        }
        if let Some(index) = message.body.get(INDEX_AT..).and_then(|rest| rest.first_chunk()) {
            indexes.remove(&u32::from_ne_bytes(*index));
        }
    }
    Ok(News::Some)
}
