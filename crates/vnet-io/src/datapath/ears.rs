//! The sockets that workers receive from, to ask them what they have lost.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::socket::Socket;

/// Those that are open, and what was lost at all that ever were.
#[derive(Debug, Default)]
pub(super) struct Ears {
    open: Vec<Ear>,
    lost: u64,
}

#[derive(Debug)]
struct Ear {
    socket: Socket,
    /// What it had lost when it was last asked.
    lost: u32,
}

/// Those of a worker, which it changes while others ask.
pub(super) fn lock(ears: &Mutex<Ears>) -> MutexGuard<'_, Ears> {
    ears.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ears {
    pub(super) fn open(&mut self, socket: Socket) {
        self.open.push(Ear { lost: socket.lost(), socket });
    }

    /// Of those that are open, only the first ones stay.
    pub(super) fn keep(&mut self, count: usize) {
        self.lost();
        self.open.truncate(count);
    }

    /// The last one takes the place of this one.
    pub(super) fn close(&mut self, index: usize) {
        self.lost();
        if index < self.open.len() {
            self.open.swap_remove(index);
        }
    }

    /// What was lost up to now.
    pub(super) fn lost(&mut self) -> u64 {
        for ear in &mut self.open {
            let before = std::mem::replace(&mut ear.lost, ear.socket.lost());
            self.lost += u64::from(ear.lost.wrapping_sub(before));
        }
        self.lost
    }

    /// Whether the kernel joins what comes to them.
    pub(super) fn join(&self) -> bool {
        self.open.iter().all(|ear| ear.socket.joins())
    }
}
