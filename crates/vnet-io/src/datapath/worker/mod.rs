//! A worker: waits until a tap or a socket of its has something, and carries it through to the other side.

mod deliver;
mod inbound;
mod outbound;
mod outbox;
mod pace;
mod receive;
mod relay;
mod vnet;

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Instant,
};

use rustix::event::epoll;
use tokio::sync::mpsc;
use viaduct_vnet_proto::data::{Bucket, Lane, Spi};

use super::{
    Datagram, Event,
    api::{Association, Direction},
    cipher::{Keys, Scratch},
    counters::LiveHost,
    mailbox::{Command, Mailbox, Relays, Slot},
    socket::Socket,
};
pub use pace::go_first;

use deliver::Deliver;
use inbound::Inbound;
use outbox::{Outbox, Route, Routes};
use pace::{Load, Pace};
use receive::Receive;
use vnet::{Outbound, Vnet};

/// The longest frame that a tap gives: an IP packet of 64 KiB, with tags.
const LONGEST_FRAME: usize = 65_535 + 14 + 8;

// What epoll says is ready; vnets come after these, at their slots.
const MAILBOX: u64 = 0;
const FIRST: u64 = 1;
const OWN: u64 = 2;
const FIRST_VNET: u64 = 3;

/// Where a worker puts what is not for it.
#[derive(Clone, Debug)]
pub(super) struct Outlets {
    pub(super) events: mpsc::Sender<Event>,
    pub(super) datagrams: mpsc::Sender<Datagram>,
}

impl Outlets {
    fn tell(&self, event: Event, host: &LiveHost) {
        if self.events.try_send(event).is_err() {
            host.events_dropped.one();
        }
    }
}

/// Hashes a number that is nobody's choice but ours.
#[derive(Clone, Copy, Default)]
pub(super) struct NumberHasher(u64);

pub(super) type PeerHash = BuildHasherDefault<NumberHasher>;

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        // Knuth, The Art of Computer Programming 3, section 6.4: the golden ratio.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

/// See the module.
pub(super) struct Worker {
    index: usize,
    mailbox: Arc<Mailbox>,
    epoll: OwnedFd,
    outlets: Outlets,
    host: Arc<LiveHost>,
    vnets: Vec<Option<Vnet>>,
    routes: Routes,
    inbound: HashMap<Spi, Inbound, PeerHash>,
    relays: Arc<Relays>,
    /// How much more of each may be passed on.
    buckets: HashMap<Spi, Bucket>,
    start: Instant,
    outbox: Outbox,
    receive: Receive,
    deliver: Deliver,
    scratch: Scratch,
    /// What was read of a tap: what stands before the frame, and the frame.
    frame: Vec<u8>,
    /// Whether the last frame that a tap had was the only one.
    comes_alone: bool,
    is_stopped: bool,
}

impl Worker {
    pub(super) fn new(
        index: usize,
        first: Socket,
        mailbox: Arc<Mailbox>,
        outlets: Outlets,
    ) -> io::Result<Self> {
        let host: Arc<LiveHost> = Arc::default();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let readable = epoll::EventFlags::IN;
        epoll::add(&epoll, mailbox.wake(), epoll::EventData::new_u64(MAILBOX), readable)?;
        let outbox = Outbox::new(first, Arc::clone(&host), outlets.clone());
        if let Some(socket) = receives(index, &outbox, Lane::First) {
            epoll::add(&epoll, socket.as_fd(), epoll::EventData::new_u64(FIRST), readable)?;
        }
        Ok(Self {
            index,
            mailbox,
            epoll,
            host: Arc::clone(&host),
            vnets: Vec::new(),
            routes: Routes::default(),
            inbound: HashMap::default(),
            relays: Arc::default(),
            buckets: HashMap::new(),
            start: Instant::now(),
            outbox,
            outlets,
            receive: Receive::new(),
            deliver: Deliver::new(host),
            scratch: Scratch::with_capacity(2 * LONGEST_FRAME),
            frame: vec![0; viaduct_vnet_proto::data::OFFLOAD_HEADER + LONGEST_FRAME],
            comes_alone: true,
            is_stopped: false,
        })
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn counters(&self) -> Arc<LiveHost> {
        Arc::clone(&self.host)
    }

    /// Works until it is told to stop.
    pub(super) fn run(mut self) {
        pace::keep();
        let mut pace = Pace::default();
        let mut commands = Vec::new();
        let mut ready = Vec::with_capacity(64);
        while !self.is_stopped {
            ready.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut ready), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, worker = self.index, "a worker of the vnets cannot wait, and ends");
                    return;
                }
            }
            self.mailbox.take(&mut commands);
            for command in commands.drain(..) {
                self.apply(command);
            }
            let mut load = Load::default();
            for event in &ready {
                let (data, flags) = (event.data.u64(), event.flags);
                match data {
                    MAILBOX => {}
                    FIRST => load += self.hear(Lane::First, flags),
                    OWN => load += self.hear(Lane::Own, flags),
                    _ => {
                        let slot = usize::try_from(data - FIRST_VNET).unwrap_or(usize::MAX);
                        load += self.carry_out(slot, flags);
                    }
                }
            }
            if let Some(rest) = pace.rest_after(self.start.elapsed(), load) {
                std::thread::sleep(rest);
            }
        }
    }

    /// Takes what a socket has; says how much that was. Each that has something gets as many calls as the others, however much
    /// there is.
    fn hear(&mut self, lane: Lane, flags: epoll::EventFlags) -> Load {
        if flags.contains(epoll::EventFlags::ERR) {
            self.hear_errors(lane);
        }
        self.carry_in(lane)
    }

    fn hear_errors(&mut self, lane: Lane) {
        let Some(socket) = receives(self.index, &self.outbox, lane) else { return };
        while let Some((remote, largest_packet)) = socket.next_too_big() {
            self.outlets.tell(Event::PathTooBig { remote, largest_packet }, &self.host);
        }
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::AddVnet { slot, id, queue, others, cuts_udp, counters } => {
                if let Err(error) = self.watch(slot, queue.as_fd()) {
                    tracing::error!(%error, vnet = %id, "cannot wait for frames of a tap");
                }
                if self.vnets.len() <= slot {
                    self.vnets.resize_with(slot + 1, || None);
                }
                self.vnets[slot] = Some(Vnet::new(id, (queue, others), cuts_udp, counters));
            }
            Command::RemoveVnet(slot) => {
                // Closing the queue does not take it out of epoll, for the first worker may still have it.
                if let Some(vnet) = self.vnets.get_mut(slot).and_then(Option::take) {
                    let _ = epoll::delete(&self.epoll, &vnet.queue);
                }
                self.inbound.retain(|_, inbound| inbound.slot != slot);
            }
            Command::Install(slot, association) => self.install(slot, &association),
            Command::Retire(spi) => {
                self.inbound.remove(&spi);
            }
            Command::Silence(slot, peer) => {
                if let Some(vnet) = self.vnet(slot) {
                    vnet.outbound.remove(&peer);
                }
            }
            Command::Forwarding(slot, forwarding) => {
                if let Some(vnet) = self.vnet(slot) {
                    vnet.set_forwarding(forwarding);
                }
            }
            Command::Path(peer, path, counters) => {
                self.routes.insert(peer, Route::new(path, counters, self.index));
            }
            Command::RemovePath(peer) => {
                self.routes.remove(&peer);
            }
            Command::Relays(relays) => {
                self.buckets.retain(|spi, _| relays.contains_key(spi));
                self.outbox.set_relays(Arc::clone(&relays));
                self.relays = relays;
            }
            Command::OwnSocket(own) => self.own_socket(own),
            Command::Probe { peer, number, to } => self.probe(peer, number, to),
            Command::Deliver(slot, frame) => {
                if let Some(Some(vnet)) = self.vnets.get(slot) {
                    self.deliver.whole(vnet, &frame);
                }
            }
            Command::Send(slot, peer, frame) => self.send(slot, peer, frame),
            Command::Settle(settling) => settling.arrive(),
            Command::Stop => self.is_stopped = true,
        }
    }

    fn install(&mut self, slot: Slot, association: &Association) {
        let (spi, peer) = (association.spi, association.peer);
        let Ok(keys) = Keys::new(spi, association.cipher, &association.key) else {
            tracing::error!(%spi, "a key has not its cipher's length");
            return;
        };
        let Some(vnet) = self.vnet(slot) else { return };
        match association.direction {
            Direction::Outbound => {
                let lanes = vnet.outbound.entry(peer).or_default();
                let lane = match association.lane {
                    Lane::First => &mut lanes.first,
                    Lane::Own => &mut lanes.own,
                };
                *lane = Some(Outbound::new(spi, keys, association.rekey_after));
            }
            Direction::Inbound => {
                let from = (peer, association.lane);
                self.inbound.insert(spi, Inbound::new(keys, from, (slot, association.queue)));
            }
        }
    }

    fn own_socket(&mut self, own: Option<Socket>) {
        if let Some(before) = self.outbox.set_own(own) {
            let _ = epoll::delete(&self.epoll, before.as_fd());
        }
        if let Some(socket) = self.outbox.own() {
            let data = epoll::EventData::new_u64(OWN);
            if let Err(error) = epoll::add(&self.epoll, socket.as_fd(), data, epoll::EventFlags::IN) {
                tracing::error!(%error, worker = self.index, "cannot wait for datagrams of a worker's own port");
            }
        }
    }

    fn watch(&self, slot: Slot, queue: BorrowedFd<'_>) -> rustix::io::Result<()> {
        let data = epoll::EventData::new_u64(FIRST_VNET + slot as u64);
        epoll::add(&self.epoll, queue, data, epoll::EventFlags::IN)
    }

    fn vnet(&mut self, slot: Slot) -> Option<&mut Vnet> {
        self.vnets.get_mut(slot)?.as_mut()
    }
}

/// The socket that a worker receives from by these ports: from its own, if it has one, and the first worker from the first.
fn receives(index: usize, outbox: &Outbox, lane: Lane) -> Option<&Socket> {
    match lane {
        Lane::First => (index == 0).then(|| outbox.socket(Lane::First)),
        Lane::Own => outbox.own(),
    }
}
