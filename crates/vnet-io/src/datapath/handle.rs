//! What the control side holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use viaduct_types::VnetId;
use viaduct_vnet_proto::data::{Forwarding, PeerId, Spi, receiver};

use super::{
    StartError,
    api::{Association, Brought, Path, Relay},
    counters::{Counters, LiveHost, LivePeer, LiveRelay, LiveVnet},
    ears::{self, Ears},
    mailbox::{Command, Mailbox, Relayed, Relays, Settling, Slot},
    socket::Socket,
    tap::Tap,
};

/// What workers are waited for at most; they are never in the middle of something for so long.
const SETTLE: Duration = Duration::from_secs(2);

/// What cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// There is no such vnet here.
    #[error("vnet {0} is not carried here")]
    UnknownVnet(VnetId),
    /// There is one already.
    #[error("vnet {0} is carried already")]
    KnownVnet(VnetId),
    /// A tap for another number of workers.
    #[error("the tap {name} has {queues} queues, and there are {workers} workers")]
    Queues {
        /// Which.
        name: String,
        /// How many it has.
        queues: usize,
        /// How many it needs.
        workers: usize,
    },
    /// The process may not have more files open.
    #[error("cannot have another descriptor of a tap's queue: {0}")]
    Descriptors(std::io::ErrorKind),
    /// There is no such worker.
    #[error("there is no worker {0}")]
    UnknownWorker(usize),
    /// The workers do not answer.
    #[error("the workers have not done what they were told")]
    Stuck,
}

/// Tells the workers what to do. Nothing here waits, except [`settle`](Self::settle).
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    mailboxes: Vec<Arc<Mailbox>>,
    host: Vec<Arc<LiveHost>>,
    /// Of each worker, the sockets that it has opened by itself.
    connected: Vec<Arc<Mutex<Ears>>>,
    registry: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    /// The first socket, and the workers' own, if they have any.
    ears: Ears,
    vnets: BTreeMap<VnetId, Vnet>,
    peers: BTreeMap<PeerId, Vec<Arc<LivePeer>>>,
    relays: BTreeMap<Spi, Vec<Arc<LiveRelay>>>,
}

#[derive(Debug)]
struct Vnet {
    slot: Slot,
    cuts_udp: bool,
    counters: Vec<Arc<LiveVnet>>,
}

impl Shared {
    /// With the first socket.
    pub(super) fn new(
        mailboxes: Vec<Arc<Mailbox>>,
        (host, connected): (Vec<Arc<LiveHost>>, Vec<Arc<Mutex<Ears>>>),
        first: Socket,
    ) -> Self {
        let mut registry = Registry::default();
        registry.ears.open(first);
        Self { mailboxes, host, connected, registry: Mutex::new(registry) }
    }
}

impl Handle {
    pub(super) fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.0.mailboxes.len()
    }

    /// Begins to carry a vnet, whose bridge the tap is a port of. Nothing is forwarded yet.
    ///
    /// # Errors
    /// When there is one of that id, the tap has not one queue for each worker, or too many files are open.
    pub fn add_vnet(&self, id: VnetId, tap: Tap) -> Result<(), HandleError> {
        let workers = self.workers();
        let mut registry = self.registry();
        if registry.vnets.contains_key(&id) {
            return Err(HandleError::KnownVnet(id));
        }
        let cuts_udp = tap.cuts_udp();
        let (name, queues) = tap.into_parts();
        if queues.len() != workers {
            return Err(HandleError::Queues { name: name.to_string(), queues: queues.len(), workers });
        }
        let used: Vec<Slot> = registry.vnets.values().map(|vnet| vnet.slot).collect();
        let slot = (0..).find(|slot| !used.contains(slot)).unwrap_or(used.len());
        let counters: Vec<Arc<LiveVnet>> = (0..workers).map(|_| Arc::default()).collect();
        let others = queues.iter().skip(1).map(OwnedFd::try_clone).collect::<Result<Vec<_>, _>>();
        let mut others = others.map_err(|error| HandleError::Descriptors(error.kind()))?;
        for ((mailbox, queue), counters) in self.0.mailboxes.iter().zip(queues).zip(&counters) {
            let (counters, others) = (Arc::clone(counters), std::mem::take(&mut others));
            mailbox.put(Command::AddVnet { slot, id, queue, others, cuts_udp, counters });
        }
        registry.vnets.insert(id, Vnet { slot, cuts_udp, counters });
        Ok(())
    }

    /// Carries it no longer, and forgets its associations.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove_vnet(&self, id: VnetId) -> Result<(), HandleError> {
        let mut registry = self.registry();
        let vnet = registry.vnets.remove(&id).ok_or(HandleError::UnknownVnet(id))?;
        self.all(|| Command::RemoveVnet(vnet.slot));
        Ok(())
    }

    /// Begins to use keys. An outbound association takes the place of the one before of its peer, vnet and worker at once; an
    /// inbound one is valid beside others until it is [retired](Self::retire).
    ///
    /// # Errors
    /// When its vnet is not carried or its worker does not exist.
    pub fn install(&self, association: Association) -> Result<(), HandleError> {
        let registry = self.registry();
        let slot = registry.slot(association.vnet)?;
        let worker = association.worker;
        let mailbox = self.0.mailboxes.get(worker).ok_or(HandleError::UnknownWorker(worker))?;
        mailbox.put(Command::Install(slot, Box::new(association)));
        Ok(())
    }

    /// Forgets an inbound association.
    pub fn retire(&self, spi: Spi) {
        self.all(|| Command::Retire(spi));
    }

    /// Forgets the outbound associations of a peer in a vnet: nothing is sent there any more.
    ///
    /// # Errors
    /// When the vnet is not carried.
    pub fn silence(&self, vnet: VnetId, peer: PeerId) -> Result<(), HandleError> {
        let slot = self.registry().slot(vnet)?;
        self.all(|| Command::Silence(slot, peer));
        Ok(())
    }

    /// Says where frames of a vnet go.
    ///
    /// # Errors
    /// When it is not carried.
    pub fn set_forwarding(&self, vnet: VnetId, forwarding: Forwarding) -> Result<(), HandleError> {
        let slot = self.registry().slot(vnet)?;
        let forwarding = Arc::new(forwarding);
        self.all(|| Command::Forwarding(slot, Arc::clone(&forwarding)));
        Ok(())
    }

    /// Says how a peer is reached. What was found out about the path before (that the kernel would not cut datagrams
    /// for it) is forgotten.
    pub fn set_path(&self, peer: PeerId, path: Path) {
        let path = Arc::new(path);
        let mut registry = self.registry();
        let workers = self.workers();
        let counters =
            registry.peers.entry(peer).or_insert_with(|| (0..workers).map(|_| Arc::default()).collect());
        for (mailbox, counters) in self.0.mailboxes.iter().zip(counters) {
            mailbox.put(Command::Path(peer, Arc::clone(&path), Arc::clone(counters)));
        }
    }

    /// Gives each worker a socket of its own, bound and not connected; or none, and closes those that they had. The first worker
    /// goes on receiving from the first socket, too.
    ///
    /// # Errors
    /// When they are too few or too many, or the kernel refuses what they need. Then nothing changes.
    pub fn set_own_sockets(&self, sockets: Vec<UdpSocket>) -> Result<(), StartError> {
        let workers = self.workers();
        if !sockets.is_empty() && sockets.len() != workers {
            return Err(StartError::Sockets { workers, sockets: sockets.len() });
        }
        let prepare = |(socket, index)| Socket::prepare(socket, index);
        let prepared = sockets.into_iter().zip(1..).map(prepare).collect::<Result<Vec<_>, _>>()?;
        let what = "another descriptor of a socket";
        let shared = prepared.iter().map(Socket::share).collect::<Result<Vec<_>, _>>();
        let shared = shared.map_err(|source| StartError::Resource { what, source })?;
        let mut registry = self.registry();
        registry.ears.keep(1);
        shared.into_iter().for_each(|socket| registry.ears.open(socket));
        let mut prepared = prepared.into_iter();
        for mailbox in &self.0.mailboxes {
            mailbox.put(Command::OwnSocket(prepared.next()));
        }
        Ok(())
    }

    /// Has each worker send a number by its own socket, to that of these addresses of the peer's workers' sockets to which its
    /// frames would go. The peer hears of those that arrive ([`Event::Probed`](super::Event::Probed)). Workers
    /// without a socket or keys of their own do nothing.
    pub fn probe(&self, peer: PeerId, number: u32, remotes: &[SocketAddr]) {
        for (worker, mailbox) in self.0.mailboxes.iter().enumerate() {
            if let Some(to) = remotes.get(receiver(worker, remotes.len())).copied() {
                mailbox.put(Command::Probe { peer, number, to });
            }
        }
    }

    /// Forgets how a peer is reached, and its counters.
    pub fn remove_path(&self, peer: PeerId) {
        self.registry().peers.remove(&peer);
        self.all(|| Command::RemovePath(peer));
    }

    /// Which datagrams of others go on to where, and which come by way of others; whole lists take the place of those before.
    pub fn set_relays(&self, relays: &[Relay], brought: &[Brought]) {
        let mut registry = self.registry();
        let workers = self.workers();
        let spis: BTreeSet<Spi> = relays.iter().map(|relay| relay.spi).collect();
        registry.relays.retain(|spi, _| spis.contains(spi));
        for (index, mailbox) in self.0.mailboxes.iter().enumerate() {
            let mut all: Relays =
                brought.iter().map(|brought| (brought.spi, Relayed::Brought(*brought))).collect();
            for relay in relays {
                let counters = registry
                    .relays
                    .entry(relay.spi)
                    .or_insert_with(|| (0..workers).map(|_| Arc::default()).collect());
                all.insert(relay.spi, Relayed::Onward(*relay, Arc::clone(&counters[index])));
            }
            mailbox.put(Command::Relays(Arc::new(all)));
        }
    }

    /// Gives a frame to this host's bridge: an answer to a question, say.
    ///
    /// # Errors
    /// When the vnet is not carried.
    pub fn deliver(&self, vnet: VnetId, frame: Vec<u8>) -> Result<(), HandleError> {
        let slot = self.registry().slot(vnet)?;
        self.0.mailboxes[0].put(Command::Deliver(slot, frame));
        Ok(())
    }

    /// Sends a frame to one peer, or to all that broadcasts go to.
    ///
    /// # Errors
    /// When the vnet is not carried.
    pub fn send(&self, vnet: VnetId, peer: Option<PeerId>, frame: Vec<u8>) -> Result<(), HandleError> {
        let slot = self.registry().slot(vnet)?;
        self.0.mailboxes[0].put(Command::Send(slot, peer, frame));
        Ok(())
    }

    /// Waits until every worker has done what it was told before: milliseconds at most, unless the machine is
    /// overloaded. So an inbound association is ready before the peer is told of it.
    ///
    /// # Errors
    /// When they do not get to it.
    pub fn settle(&self) -> Result<(), HandleError> {
        let settling = Arc::new(Settling::of(self.workers()));
        self.all(|| Command::Settle(Arc::clone(&settling)));
        if settling.wait(SETTLE) { Ok(()) } else { Err(HandleError::Stuck) }
    }

    /// What was carried and dropped.
    pub fn counters(&self) -> Counters {
        let mut registry = self.registry();
        let mut counters = Counters::default();
        for live in &self.0.host {
            counters.host += live.read();
        }
        let connected = self.0.connected.iter().map(|ears| ears::lock(ears).lost());
        counters.host.overflow = registry.ears.lost() + connected.sum::<u64>();
        for (id, vnet) in &registry.vnets {
            let sum = counters.vnets.entry(*id).or_default();
            for live in &vnet.counters {
                *sum += live.read();
            }
        }
        for (peer, all) in &registry.peers {
            let sum = counters.peers.entry(*peer).or_default();
            for live in all {
                *sum += live.read();
            }
            counters.workers.insert(*peer, all.iter().map(|live| live.read()).collect());
        }
        for (spi, all) in &registry.relays {
            let sum = counters.relays.entry(*spi).or_default();
            for live in all {
                *sum += live.read();
            }
        }
        counters
    }

    /// Whether the kernel joins what comes to the sockets (Linux 5.0 and newer).
    pub fn joins(&self) -> bool {
        self.registry().ears.join()
    }

    /// Whether UDP of a vnet comes from the bridge in super-frames (Linux 6.2 and newer); none when it is not carried.
    pub fn cuts_udp(&self, vnet: VnetId) -> Option<bool> {
        self.registry().vnets.get(&vnet).map(|vnet| vnet.cuts_udp)
    }

    /// Has a worker end as by a mistake of ours.
    #[cfg(test)]
    pub(crate) fn fail(&self, worker: usize) {
        self.0.mailboxes[worker].put(Command::Fail);
    }

    pub(super) fn stop(&self) {
        self.all(|| Command::Stop);
    }

    fn all(&self, command: impl Fn() -> Command) {
        for mailbox in &self.0.mailboxes {
            mailbox.put(command());
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    fn slot(&self, id: VnetId) -> Result<Slot, HandleError> {
        self.vnets.get(&id).map(|vnet| vnet.slot).ok_or(HandleError::UnknownVnet(id))
    }
}
