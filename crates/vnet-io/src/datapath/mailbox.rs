//! What a worker is told, and how it hears of it.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::event::{EventfdFlags, eventfd};
use viaduct_types::VnetId;
use viaduct_vnet_proto::data::{Forwarding, PeerId, Spi};

use super::{
    api::{Association, Brought, Path, Relay},
    counters::{LivePeer, LiveRelay, LiveVnet},
    socket::Socket,
};

/// Vnets have small numbers among workers, so that they are found without a search.
pub(super) type Slot = usize;

/// What is done with datagrams that begin with these numbers.
pub(super) type Relays = HashMap<Spi, Relayed>;

#[derive(Clone, Debug)]
pub(super) enum Relayed {
    /// They go on.
    Onward(Relay, Arc<LiveRelay>),
    /// They have come here by way of somebody.
    Brought(Brought),
}

#[derive(Debug)]
pub(super) enum Command {
    AddVnet {
        slot: Slot,
        id: VnetId,
        queue: OwnedFd,
        /// Those of the other workers, in their order; the first worker has them.
        others: Vec<OwnedFd>,
        cuts_udp: bool,
        counters: Arc<LiveVnet>,
    },
    RemoveVnet(Slot),
    Install(Slot, Box<Association>),
    Retire(Spi),
    Silence(Slot, PeerId),
    Forwarding(Slot, Arc<Forwarding>),
    Path(PeerId, Arc<Path>, Arc<LivePeer>),
    RemovePath(PeerId),
    Relays(Arc<Relays>),
    /// The worker's own socket from now on.
    OwnSocket(Option<Socket>),
    /// A number to send there by it, sealed for the peer.
    Probe {
        peer: PeerId,
        number: u32,
        to: SocketAddr,
    },
    /// A frame for the bridge.
    Deliver(Slot, Vec<u8>),
    /// A frame for peers: one, or all that broadcasts go to.
    Send(Slot, Option<PeerId>, Vec<u8>),
    Settle(Arc<Settling>),
    Stop,
    /// As a mistake of ours would.
    #[cfg(test)]
    Fail,
}

#[derive(Debug)]
pub(super) struct Mailbox {
    /// Looked at between batches; the lock is only taken when it is set.
    pending: AtomicBool,
    commands: Mutex<Vec<Command>>,
    wake: OwnedFd,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { pending: AtomicBool::new(false), commands: Mutex::default(), wake })
    }

    pub(super) fn put(&self, command: Command) {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        commands.push(command);
        if !self.pending.swap(true, Ordering::AcqRel) {
            // It fails only when the counter is full, and then the worker is awake.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }

    /// Swaps what has come with an empty list; leaves it, and says no, when nothing has.
    pub(super) fn take(&self, into: &mut Vec<Command>) -> bool {
        if !self.pending.load(Ordering::Acquire) {
            return false;
        }
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *commands, into);
        self.pending.store(false, Ordering::Release);
        // It fails when nobody has woken us yet; then it will be once more for nothing.
        let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
        true
    }

    pub(super) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// Waits for every worker to have come to a command.
#[derive(Debug)]
pub(super) struct Settling {
    left: Mutex<usize>,
    done: Condvar,
}

impl Settling {
    pub(super) fn of(workers: usize) -> Self {
        Self { left: Mutex::new(workers), done: Condvar::new() }
    }

    pub(super) fn arrive(&self) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.done.notify_all();
        }
    }

    /// Whether all came in time.
    pub(super) fn wait(&self, at_most: Duration) -> bool {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.done.wait_timeout_while(left, at_most, |left| *left > 0);
        waited.map_or_else(|poisoned| !poisoned.into_inner().1.timed_out(), |(_, result)| !result.timed_out())
    }
}
