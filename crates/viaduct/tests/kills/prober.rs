//! Tries everything all the time, with real packets, from every place at once, and watches every place for what arrives.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, eth, ipproto, recv, sendto,
        socket_with, sockopt,
    },
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    packet::{Kind, Token, answer, is_echo_reply, opening},
    policy::{GUESTS, HOST, OUTSIDE, Place, Probe, Service},
    random::Random,
};

/// How long anything may take on a busy machine. A guest that moved to another network looks for its IPv6 gateway anew
/// when what it remembers of the old one is no longer fresh, which takes over half a minute (RFC 4861, 7.3.3).
const PATIENCE: Duration = Duration::from_secs(90);
/// Probes between two looks at what has arrived.
const BATCH: usize = 48;
/// The network may rest for so long after everything was tried once.
const PAUSE: Duration = Duration::from_millis(2);

/// Does something in a named namespace.
pub(crate) fn inside<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = fs::File::open(format!("/run/netns/{name}")).unwrap();
    let thread = thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    });
    thread.join().unwrap()
}

pub(crate) fn namespace(place: Place) -> String {
    match place {
        Place::Outside => "outside".to_owned(),
        Place::Guest(guest) => format!("g{guest}"),
    }
}

/// What is expected for some time.
struct Epoch {
    /// Of each probe, whether it may arrive.
    may_arrive: Vec<bool>,
    /// Of each probe, whether its answer could not begin a flow by itself.
    may_answer: Vec<bool>,
}

struct Shared {
    probes: Vec<Probe>,
    epoch: AtomicU32,
    epochs: Mutex<Vec<Arc<Epoch>>>,
    /// The last epoch from which a probe has arrived.
    seen: Vec<AtomicU32>,
    rounds: AtomicU32,
    /// The number of the last ping that was sent, and of the last ones that were answered.
    sent: AtomicU32,
    answered: [AtomicU32; 2],
    wrong: Mutex<Vec<String>>,
    ended: AtomicBool,
}

/// The thread that tries, and what it has found.
pub(crate) struct Prober {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Prober {
    /// Begins, when nothing is expected yet of anybody.
    pub(crate) fn new(probes: Vec<Probe>, random: Random) -> Self {
        let seen = probes.iter().map(|_| AtomicU32::new(0)).collect();
        let all = probes.iter().map(|_| true).collect::<Vec<_>>();
        let first = Epoch { may_arrive: all, may_answer: probes.iter().map(|_| false).collect() };
        let shared = Arc::new(Shared {
            probes,
            epoch: AtomicU32::new(0),
            epochs: Mutex::new(vec![Arc::new(first)]),
            seen,
            rounds: AtomicU32::new(0),
            sent: AtomicU32::new(0),
            answered: [AtomicU32::new(0), AtomicU32::new(0)],
            wrong: Mutex::new(Vec::new()),
            ended: AtomicBool::new(false),
        });
        let places: Vec<Sockets> = [Place::Outside]
            .into_iter()
            .chain((0..GUESTS).map(Place::Guest))
            .map(|place| inside(&namespace(place), move || Sockets::new(place)))
            .collect();
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || Work { shared, places, random, buffer: vec![0; 2048] }.run()
        });
        Self { shared, thread: Some(thread) }
    }

    pub(crate) fn probes(&self) -> &[Probe] {
        &self.shared.probes
    }

    /// From now on, this may arrive.
    pub(crate) fn expect(&self, may_arrive: Vec<bool>, may_answer: Vec<bool>) -> u32 {
        let mut epochs = self.shared.epochs.lock().unwrap();
        epochs.push(Arc::new(Epoch { may_arrive, may_answer }));
        let epoch = u32::try_from(epochs.len() - 1).unwrap();
        self.shared.epoch.store(epoch, Ordering::SeqCst);
        epoch
    }

    /// Waits until everything was tried, all of it since now, and says what was wrong up to then.
    pub(crate) fn try_all(&self) -> Result<(), String> {
        let rounds = self.shared.rounds.load(Ordering::SeqCst);
        self.wait("everything was tried", || self.shared.rounds.load(Ordering::SeqCst) >= rounds + 2)?;
        self.wrong()
    }

    /// The host is reached from outside, by what is sent from now on.
    pub(crate) fn reaches_host(&self) -> Result<(), String> {
        let now = self.shared.sent.load(Ordering::SeqCst);
        self.wait("the host is reached from outside", || {
            self.shared.answered.iter().all(|answered| answered.load(Ordering::SeqCst) > now)
        })
    }

    /// Waits until those that must arrive have arrived from this epoch.
    pub(crate) fn arrive(&self, epoch: u32, must: &[bool]) -> Result<(), String> {
        let lacking = || -> Vec<&Probe> {
            let probes = self.shared.probes.iter().zip(must).zip(&self.shared.seen);
            let lacks = |((_, must), seen): &((&Probe, &bool), &AtomicU32)| {
                **must && seen.load(Ordering::SeqCst) < epoch
            };
            probes.filter(lacks).map(|((probe, _), _)| probe).collect()
        };
        self.wait("what is open arrives", || lacking().is_empty()).map_err(|error| {
            format!("{error}: {} do not, such as {:?}", lacking().len(), lacking().first())
        })?;
        self.wrong()
    }

    pub(crate) fn wrong(&self) -> Result<(), String> {
        let wrong = self.shared.wrong.lock().unwrap();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }

    fn wait(&self, what: &str, is_so: impl Fn() -> bool) -> Result<(), String> {
        let begin = Instant::now();
        while !is_so() {
            if begin.elapsed() > PATIENCE {
                self.wrong()?;
                return Err(format!("not so within {PATIENCE:?}: {what}"));
            }
            assert!(!self.thread.as_ref().unwrap().is_finished(), "the prober ended");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Those of one place.
struct Sockets {
    place: Place,
    /// They take whole packets.
    senders: [OwnedFd; 2],
    /// It hears all that comes.
    ear: OwnedFd,
}

impl Sockets {
    fn new(place: Place) -> Self {
        let open = |family, protocol| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let kind = if family == AddressFamily::PACKET { SocketType::DGRAM } else { SocketType::RAW };
            socket_with(family, kind, flags, Some(protocol)).unwrap()
        };
        let ear = open(AddressFamily::PACKET, eth::ALL);
        sockopt::set_socket_recv_buffer_size_force(&ear, 8 << 20).unwrap();
        let senders = [AddressFamily::INET, AddressFamily::INET6].map(|family| open(family, ipproto::RAW));
        Self { place, senders, ear }
    }

    fn send(&self, destination: IpAddr, packet: &[u8]) {
        let sender = &self.senders[usize::from(destination.is_ipv6())];
        // Who has no link or no way sends nothing.
        let _ = sendto(sender, packet, SendFlags::empty(), &SocketAddr::new(destination, 0));
    }
}

struct Work {
    shared: Arc<Shared>,
    places: Vec<Sockets>,
    random: Random,
    buffer: Vec<u8>,
}

impl Work {
    fn run(mut self) {
        let mut order: Vec<usize> = (0..self.shared.probes.len()).collect();
        while !self.shared.ended.load(Ordering::Relaxed) {
            self.random.shuffle(&mut order);
            for batch in order.chunks(BATCH) {
                for &number in batch {
                    self.probe(number);
                }
                self.ping();
                self.listen();
            }
            self.shared.rounds.fetch_add(1, Ordering::SeqCst);
            thread::sleep(PAUSE);
        }
    }

    fn place(&self, place: Place) -> &Sockets {
        self.places.iter().find(|sockets| sockets.place == place).unwrap()
    }

    fn probe(&self, number: usize) {
        let Probe { from, source, destination, service, .. } = self.shared.probes[number];
        let epoch = self.shared.epoch.load(Ordering::SeqCst);
        let token = Token { kind: Kind::Probe, number: u32::try_from(number).unwrap(), epoch };
        self.place(from).send(destination, &opening(source, destination, service, token));
    }

    /// As an operator would look whether the host is there.
    fn ping(&self) {
        let number = self.shared.sent.fetch_add(1, Ordering::SeqCst) + 1;
        for (source, destination) in OUTSIDE.into_iter().zip(HOST) {
            let token = Token { kind: Kind::Ping, number, epoch: 0 };
            self.place(Place::Outside).send(destination, &opening(source, destination, Service::Icmp, token));
        }
    }

    fn listen(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for sockets in &self.places {
            while let Ok((len, _)) = recv(&sockets.ear, &mut buffer[..], RecvFlags::DONTWAIT) {
                if let Some(token) = Token::find(&buffer[..len]) {
                    self.heard(sockets, token, &buffer[..len]);
                }
            }
        }
        self.buffer = buffer;
    }

    fn heard(&self, at: &Sockets, token: Token, packet: &[u8]) {
        match token.kind {
            Kind::Answer => {}
            Kind::Ping => {
                if at.place == Place::Outside && is_echo_reply(packet) {
                    let family = usize::from(packet[0] >> 4 == 6);
                    self.shared.answered[family].fetch_max(token.number, Ordering::SeqCst);
                }
            }
            Kind::Probe => self.arrived(at, token, packet),
        }
    }

    fn arrived(&self, at: &Sockets, token: Token, packet: &[u8]) {
        let number = token.number as usize;
        let probe = &self.shared.probes[number];
        // What comes back to its sender says that it did not arrive.
        if at.place != probe.to {
            return;
        }
        self.shared.seen[number].fetch_max(token.epoch, Ordering::SeqCst);
        let epochs = self.shared.epochs.lock().unwrap();
        let since = &epochs[token.epoch as usize..];
        if !since.iter().any(|epoch| epoch.may_arrive[number]) {
            let mut wrong = self.shared.wrong.lock().unwrap();
            if wrong.len() < 5 {
                wrong.push(format!(
                    "open in epoch {} to {}: {probe:?}: {packet:02x?}",
                    token.epoch,
                    epochs.len() - 1
                ));
            }
        }
        let answers = epochs.last().is_some_and(|epoch| epoch.may_answer[number]);
        drop(epochs);
        if answers && let Some((destination, packet)) = answer(packet, token) {
            at.send(destination, &packet);
        }
    }
}
