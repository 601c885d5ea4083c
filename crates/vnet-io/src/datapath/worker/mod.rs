//! A worker: waits until a tap or a socket of its has something, and carries it through to the other side.

mod connected;
mod deliver;
mod fetch;
#[cfg(any(test, fuzzing))]
mod hostile;
mod inbound;
mod outbound;
mod outbox;
mod pace;
mod receive;
mod relay;
mod turns;
mod vnet;
mod wait;

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::event::epoll;
use tokio::sync::mpsc;
use viaduct_vnet_proto::data::{Bucket, Lane, Spi, Storm};

use super::{
    Datagram, Event,
    api::{Association, Direction},
    cipher::Keys,
    counters::LiveHost,
    ears::Ears,
    mailbox::{Command, Mailbox, Relays, Slot},
    socket::Socket,
};
#[cfg(fuzzing)]
pub use hostile::hostile;
pub use turns::go_first;

use deliver::Deliver;
use inbound::Inbound;
use outbox::{Outbox, Route, Routes};
use pace::{Load, Pace};
use receive::Receive;
use turns::Turns;
use vnet::{Outbound, Vnet};
use wait::{By, Ready};

/// The longest frame that a tap gives: an IP packet of 64 KiB, with tags.
const LONGEST_FRAME: usize = 65_535 + 14 + 8;

/// What comes after so long a wait comes alone. Less than half of what two who only answer each other need.
const ALONE: Duration = Duration::from_micros(50);

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
    /// What was read of a tap: what stands before the frame, and the frame.
    frame: Vec<u8>,
    /// How much of what the network says about paths is told: anybody may say so.
    errors: Storm<100>,
    /// Whether it waited for so long that what woke it came alone: that is carried at once, and whether more has come is seen
    /// afterwards.
    is_alone: bool,
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
        let outbox = Outbox::new(first, Arc::clone(&host), outlets.clone());
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
            frame: vec![0; viaduct_vnet_proto::data::OFFLOAD_HEADER + LONGEST_FRAME],
            errors: Storm::default(),
            is_alone: false,
            is_stopped: false,
        })
    }

    pub(super) fn counters(&self) -> Arc<LiveHost> {
        Arc::clone(&self.host)
    }

    pub(super) fn ears(&self) -> Arc<Mutex<Ears>> {
        self.outbox.connected.ears()
    }

    /// Works until it is told to stop.
    #[unsafe(link_section = "frame_path")]
    pub(super) fn run(mut self) {
        let mut turns = Turns::begin();
        let mut pace = Pace::default();
        let mut commands = Vec::new();
        let mut ready = Ready::default();
        let mut waits_since = None;
        while !self.is_stopped {
            // Whether it waits for a processor is looked at when it has nothing else to do.
            let patience = waits_since.and_then(|since| turns.patience(since));
            let until = patience.map(|patience| self.start.elapsed() + patience);
            if let Err(error) = self.wait(&mut ready, patience) {
                tracing::error!(%error, worker = self.index, "a worker of the vnets cannot wait, and ends");
                return;
            }
            let woken = self.start.elapsed();
            self.outbox.connected.woken(woken);
            self.is_alone = waits_since.is_some_and(|since| woken.saturating_sub(since) >= ALONE);
            if self.mailbox.take(&mut commands) {
                commands.drain(..).for_each(|command| self.apply(command));
            }
            if let Some(until) = until.filter(|_| ready.is_empty())
                && let Some(late) = woken.checked_sub(until)
            {
                turns.waited(late, woken);
                waits_since = Some(woken);
                continue;
            }
            let load = self.take(&ready);
            // Who is next often waits for this processor.
            if self.is_alone && load.is_little() && !turns.is_ahead() && !pace.rests() {
                turns.carried(load, woken, woken);
                waits_since = Some(woken);
                continue;
            }
            let now = self.start.elapsed();
            turns.carried(load, woken, now);
            waits_since = Some(now);
            if let Some(rest) = pace.rest_after(now, load) {
                std::thread::sleep(rest);
                waits_since = None;
            }
        }
    }

    /// Carries what there is; says how much that was. Each socket that has something gets as many calls as the others, however
    /// much there is.
    fn take(&mut self, ready: &Ready) -> Load {
        let mut load = Load::default();
        for (by, has_errors) in &ready.sockets {
            if *has_errors {
                self.hear_errors(*by);
            }
            load += self.carry_in(*by);
        }
        for (slot, has_errors) in &ready.taps {
            load += self.carry_out(*slot, *has_errors);
        }
        load
    }

    #[cold]
    #[inline(never)]
    fn hear_errors(&mut self, by: By) {
        while let Some((remote, largest_packet)) = self.socket(by).and_then(Socket::next_too_big) {
            if self.errors.lets_through(self.start.elapsed()) {
                self.outlets.tell(Event::PathTooBig { remote, largest_packet }, &self.host);
            }
        }
    }

    #[cold]
    #[inline(never)]
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
                if let Some(vnet) = self.vnets.get_mut(slot).and_then(Option::take) {
                    Self::pass_over(&self.epoll, slot, vnet.queue.as_fd());
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
            Command::OwnSocket(own) => self.outbox.set_own(own),
            Command::Probe { peer, number, to } => self.probe(peer, number, to),
            Command::Deliver(slot, frame) => {
                if let Some(Some(vnet)) = self.vnets.get(slot) {
                    self.deliver.whole(vnet, &frame);
                }
            }
            Command::Send(slot, peer, frame) => self.send(slot, peer, frame),
            Command::Settle(settling) => settling.arrive(),
            Command::Stop => self.is_stopped = true,
            #[cfg(test)]
            Command::Fail => panic!("a test has it fail"),
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

    /// One that is received from. The first worker has the first one, too.
    fn socket(&self, by: By) -> Option<&Socket> {
        match by {
            By::First => (self.index == 0).then(|| self.outbox.socket(By::First)),
            By::Own => self.outbox.own(),
            By::Connected(index) => self.outbox.connected.socket(index),
        }
    }

    fn vnet(&mut self, slot: Slot) -> Option<&mut Vnet> {
        self.vnets.get_mut(slot)?.as_mut()
    }
}

/// Puts this thread, which has no sockets yet, into a network namespace of its own, which has nothing but `lo`.
#[cfg(any(test, fuzzing))]
#[expect(clippy::unwrap_used, clippy::expect_used, reason = "what a test stands on either works or ends it")]
fn enter_a_namespace() {
    // SAFETY: only this thread is in another namespace then.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
        .expect("this makes a network namespace and needs root");
    assert!(std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
}

/// Does something in such a namespace.
#[cfg(test)]
pub(crate) fn in_a_namespace(what: impl FnOnce() + Send + 'static) {
    let inside = move || {
        enter_a_namespace();
        what();
    };
    std::thread::spawn(inside).join().unwrap();
}
