//! Frames between this host's bridges and its peers: from a tap into datagrams, and back.
//!
//! Each worker is a thread with a queue of every tap and a socket of its own, and does everything from reading to sending by
//! itself: no packet goes from thread to thread. A super-frame (what the kernel would hand to a network card that cuts by
//! itself) is read once, cut, sealed and given to the kernel in one call; what the kernel received as a run is opened and
//! joined again into one write. Per packet there is no allocation, no lock, no log and no channel.
//!
//! The control side holds a [`Handle`]. What it changes reaches each worker between two batches. Changes are applied in
//! the order in which they are made; [`Handle::settle`] waits until they are.
//!
//! ```text
//!                                   ┌── first socket (shared with QUIC) ── peers
//! bridge ── tap queue 0 ── worker 0 ┴── own socket 0 ─────────────────────┤
//!        └─ tap queue 1 ── worker 1 ─── own socket 1 ─────────────────────┘
//! ```
//!
//! Not every way lets every port through. So there are two sets of keys between two hosts: with those of one, everything goes
//! from the first socket to the first socket; with those of the other, each worker uses its own ([`Lane`]). Who sends takes
//! the one or the other with any frame, and whoever opens them never has to ask another worker, nor to see a number twice. For
//! some of the peers that send to its own socket a worker opens connected ones beside it, by itself, at the same port.

mod api;
mod cipher;
mod counters;
mod ears;
mod event;
mod handle;
mod mailbox;
mod socket;
mod tap;
mod worker;

use std::{io, net::UdpSocket, sync::Arc, thread};

use tokio::sync::{Notify, mpsc};

pub use api::{Association, Brought, Direction, KeyMaterial, Options, Path, Relay, Via};
pub use counters::{Counters, HostCounters, PeerCounters, RelayCounters, VnetCounters};
pub use event::{Datagram, Event};
pub use handle::{Handle, HandleError};
pub use tap::{Tap, TapError};
pub use viaduct_vnet_proto::data::{Lane, receiver};
pub use worker::go_first;
#[cfg(fuzzing)]
pub use worker::hostile;
#[cfg(test)]
pub(crate) use worker::in_a_namespace;

use handle::Shared;
use mailbox::Mailbox;

/// How many events may wait for the control side.
const EVENTS: usize = 1_024;
/// How many datagrams of QUIC may.
const DATAGRAMS: usize = 512;

/// Why the datapath did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Neither none nor one for each worker.
    #[error("{workers} workers need {workers} sockets of their own or none, not {sockets}")]
    Sockets {
        /// How many workers.
        workers: usize,
        /// How many sockets.
        sockets: usize,
    },
    /// The kernel refused something of a socket.
    #[error("cannot set {what} of the vnets' UDP socket {index}")]
    Socket {
        /// What was to be set.
        what: &'static str,
        /// Which one.
        index: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused what a thread needs.
    #[error("cannot make {what} for the vnets' workers")]
    Resource {
        /// What.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The workers. They end when this is dropped; taps that are persistent stay.
#[derive(Debug)]
pub struct Datapath {
    handle: Handle,
    threads: Vec<thread::JoinHandle<()>>,
}

/// What the workers have for the control side.
#[derive(Debug)]
pub struct Inbox {
    /// What happened.
    pub events: mpsc::Receiver<Event>,
    /// QUIC's datagrams from the first socket (and from others, should any come there).
    pub datagrams: mpsc::Receiver<Datagram>,
    /// To send QUIC's datagrams from the first socket. It does not wait; do not receive from it.
    pub socket: UdpSocket,
    /// Told when a worker has ended: what was its to carry goes nowhere, and nobody else takes its place.
    pub ended: Arc<Notify>,
}

/// Tells of the end of its thread, whatever came of that.
struct Ends(Arc<Notify>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Datapath {
    /// Starts the workers, who have nothing to do yet.
    ///
    /// # Errors
    /// When the kernel refuses what they need.
    pub fn start(options: Options) -> Result<(Self, Inbox), StartError> {
        let workers = options.workers.get();
        let resource = |what| move |source| StartError::Resource { what, source };
        let control =
            options.socket.try_clone().map_err(resource("another descriptor of the first socket"))?;
        let (events, event_receiver) = mpsc::channel(EVENTS);
        let (datagrams, datagram_receiver) = mpsc::channel(DATAGRAMS);

        let first = socket::Socket::prepare(options.socket, 0)?;
        let mut mailboxes = Vec::new();
        let mut parts = Vec::new();
        let another = || resource("another descriptor of a socket");
        for index in 0..workers {
            let mailbox = Arc::new(Mailbox::new().map_err(resource("an eventfd"))?);
            let first = first.share().map_err(another())?;
            let outlets = worker::Outlets { events: events.clone(), datagrams: datagrams.clone() };
            let worker = worker::Worker::new(index, first, Arc::clone(&mailbox), outlets)
                .map_err(resource("an epoll instance"))?;
            mailboxes.push(mailbox);
            parts.push(worker);
        }
        let counters = parts.iter().map(worker::Worker::counters).collect();
        let ears = parts.iter().map(worker::Worker::ears).collect();
        let handle = Handle::new(Shared::new(mailboxes, (counters, ears), first));
        let mut datapath = Self { handle, threads: Vec::new() };
        let ended = Arc::<Notify>::default();
        for worker in parts {
            let ends = Ends(Arc::clone(&ended));
            let work = move || {
                let _ends = ends;
                worker.run();
            };
            // Should one not start, dropping the others ends them.
            let thread = thread::Builder::new()
                .name(format!("vnet-{}", datapath.threads.len()))
                .spawn(work)
                .map_err(resource("a thread"))?;
            datapath.threads.push(thread);
        }
        let (events, datagrams) = (event_receiver, datagram_receiver);
        Ok((datapath, Inbox { events, datagrams, socket: control, ended }))
    }

    /// To tell the workers what to do; cheap to clone.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        self.handle.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker of the vnets had panicked");
            }
        }
    }
}
