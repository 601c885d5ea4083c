//! Work for the keeper, from other threads. A file descriptor wakes it.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, mpsc},
};

use rustix::event::{EventfdFlags, eventfd};

use crate::{failure::Failure, host::Host};

/// What the keeper is asked to do.
pub(super) enum Job {
    /// Something with the host.
    Do(Box<dyn FnOnce(&mut Host) + Send>),
    /// To end.
    End,
}

/// Where work is sent to.
#[derive(Clone)]
pub(super) struct Jobs {
    sender: mpsc::Sender<Job>,
    wake: Arc<OwnedFd>,
}

/// Where it comes out.
pub(super) struct Queue {
    receiver: mpsc::Receiver<Job>,
    wake: Arc<OwnedFd>,
}

pub(super) fn queue() -> Result<(Jobs, Queue), Failure> {
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|errno| Failure::failed(format!("cannot make an eventfd: {errno}")))?;
    let wake = Arc::new(wake);
    let (sender, receiver) = mpsc::channel();
    Ok((Jobs { sender, wake: Arc::clone(&wake) }, Queue { receiver, wake }))
}

impl Jobs {
    /// Says whether there is still somebody to do it.
    pub(super) fn send(&self, job: Job) -> bool {
        // It cannot fail but when it is full of wake-ups, and then somebody wakes.
        let sent = self.sender.send(job).is_ok();
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        sent
    }
}

impl Queue {
    /// The next piece of work, if there is one.
    pub(super) fn next(&self) -> Option<Job> {
        self.receiver.try_recv().ok()
    }

    /// Before looking for work: sleeps again after that.
    pub(super) fn clear(&self) {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
