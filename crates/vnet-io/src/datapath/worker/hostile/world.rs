//! A worker whose taps are queues of the test's, whose datagrams are given to it, and whose sockets are real ones, in a network
//! namespace of this thread's own.

use std::{
    collections::{BTreeSet, HashMap},
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    os::unix::net::UnixDatagram,
    process,
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;
use viaduct_vnet_proto::data::{
    Cut, Forwarding, Lane, LocalSource, OFFLOAD_HEADER, Offload, PeerId, Port, Segments, Spi,
    UnknownDestination, esp::Cipher,
};

use super::{
    frames::{ARRIVED, GONE, HERE, OF, SILENT, alike, partial},
    guests::{ANSWERED, GROUP, IN_ALL, IN_GROUP, PATHS, VIA, outgoing},
    model::{AFTERWARDS, BROUGHT, Expected, KEYS, Keys, Model, ONWARD, Places, SLOWLY},
    sealing::Material,
};
use crate::datapath::{
    Event,
    api::{Association, Brought, Direction, KeyMaterial, Path, Relay, Via},
    counters::{LivePeer, LiveRelay, LiveVnet, PeerCounters},
    mailbox::{Command, Mailbox, Relayed, Relays},
    socket::Socket,
    worker::{Datagram, Outlets, Worker, enter_a_namespace, receive::Given, wait::By},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// What queues hold for sure.
const MOST_BYTES: usize = 48 << 10;
const MOST_DATAGRAMS: usize = 128;

/// The sockets of others, which many worlds use one after another.
pub(super) struct Ends {
    first: UdpSocket,
    own: UdpSocket,
    /// Of hosts 1 and 2, and of the relay, by way of which host 3 is reached.
    hosts: [UdpSocket; 3],
    /// Of the one that datagrams of others go to.
    afterwards: UdpSocket,
    places: Places,
    /// Nowhere, and of each vnet.
    forwarding: [Arc<Forwarding>; 3],
}

impl Ends {
    /// Puts this thread into a network namespace of its own.
    pub(super) fn open() -> Self {
        enter_a_namespace();
        // How many frames a queue has at most: taps have more, too.
        std::fs::write("/proc/sys/net/unix/max_dgram_qlen", "1000").unwrap();
        let [first, own] = [(); 2].map(|()| UdpSocket::bind("[::]:0").unwrap());
        let (one, relay) = ("192.0.2.1:1798", "[2001:db8::4]:1798");
        for address in [&["192.0.2.1/32"][..], &["2001:db8::4/128", "nodad"]] {
            let added =
                process::Command::new("ip").args(["address", "add", "dev", "lo"]).args(address).status();
            assert!(added.unwrap().success());
        }
        let [one, two, relay, afterwards] = [one, "127.0.0.1:0", relay, "127.0.0.1:0"].map(|place| {
            let host = UdpSocket::bind(place).unwrap();
            host.set_read_timeout(Some(PATIENCE)).unwrap();
            host
        });
        let at = |host: &UdpSocket| host.local_addr().unwrap();
        let nowhere = |place: &str| place.parse().unwrap();
        let places = [nowhere("192.0.2.9:9"), at(&one), at(&two), nowhere("[100::3]:1")];
        let places = Places { hosts: places, relay: at(&relay) };
        let forwarding = [Forwarding::new(20), forwarding(0), forwarding(1)].map(Arc::new);
        Self { first, own, hosts: [one, two, relay], afterwards, places, forwarding }
    }

    /// Where what is sent to a host arrives first.
    pub(super) fn of_host(&self, peer: u32) -> &UdpSocket {
        &self.hosts[peer as usize - 1]
    }

    /// Who sends, by half a byte.
    pub(super) fn sender(&self, which: u8) -> (SocketAddr, By) {
        let Places { hosts, relay } = self.places;
        let other_port = |mut place: SocketAddr| {
            place.set_port(2_798);
            place
        };
        let from = match which & 7 {
            0 => hosts[1],
            1 => other_port(hosts[1]),
            2 => hosts[2],
            3 => relay,
            4 => "198.51.100.7:1".parse().unwrap(),
            5 => hosts[3],
            6 => other_port(relay),
            _ => other_port(hosts[2]),
        };
        (from, if which & 8 == 0 { By::First } else { By::Own })
    }
}

/// Where frames of a vnet go.
fn forwarding(slot: usize) -> Forwarding {
    let mut forwarding = Forwarding::new(20);
    let peers = (1..=3).map(|number: u32| (OF[number as usize], Port::Peer(PeerId(number))));
    let others =
        [(HERE, Port::Local), (ARRIVED, Port::Local), (SILENT, Port::Muted), (GONE, Port::Moved(PeerId(2)))];
    for (mac, port) in peers.chain(others) {
        forwarding.macs.claim(mac, port).unwrap();
    }
    let all = |peers: &[u32]| peers.iter().map(|peer| PeerId(*peer)).collect();
    forwarding.arrived = Arc::new([(ARRIVED, PeerId(2))].into());
    forwarding.flood = all(&[1, 2, 3]);
    forwarding.groups = Arc::new([(GROUP, all(&IN_GROUP))].into());
    forwarding.ungrouped = all(&IN_ALL);
    forwarding.answered = ANSWERED.into_iter().collect();
    if slot == 1 {
        forwarding.local_source = LocalSource::Learned;
        forwarding.learning_peers = [PeerId(1)].into();
        forwarding.unknown_destination = UnknownDestination::Flooded;
    }
    forwarding
}

/// See the module.
pub(super) struct World<'a> {
    pub(super) ends: &'a Ends,
    pub(super) worker: Worker,
    pub(super) taps: [UnixDatagram; 2],
    events: mpsc::Receiver<Event>,
    datagrams: mpsc::Receiver<Datagram>,
    vnets: [Arc<LiveVnet>; 2],
    pub(super) peers: [Arc<LivePeer>; 4],
    relays: HashMap<u32, Arc<LiveRelay>>,
    pub(super) cipher: Cipher,
    /// Which vnets are.
    pub(super) carried: [bool; 2],
    pub(super) model: Model,
    by: By,
    batch: Vec<Given>,
    /// How many datagrams and bytes are in it.
    load: (usize, usize),
    /// Numbers of what was sent, of each host and vnet, and the first halves.
    pub(super) numbers: [[u64; 2]; 4],
    pub(super) halves: [[Vec<u8>; 2]; 4],
    /// What the worker takes the time to be.
    now: Duration,
    pub(super) bytes: Vec<u8>,
}

impl<'a> World<'a> {
    pub(super) fn new(ends: &'a Ends, cipher: Cipher, cuts_udp: bool) -> Self {
        let (events, told) = mpsc::channel(1_024);
        let (datagrams, received) = mpsc::channel(1_024);
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let socket = |socket: &UdpSocket, index| Socket::prepare(socket.try_clone().unwrap(), index).unwrap();
        let outlets = Outlets { events, datagrams };
        let worker = Worker::new(0, socket(&ends.first, 0), mailbox, outlets).unwrap();
        let pairs = [(); 2].map(|()| UnixDatagram::pair().unwrap());
        let queues = pairs.each_ref().map(|(_, queue)| queue.try_clone().unwrap());
        let taps = pairs.map(|(tap, _)| tap);
        for end in taps.iter().chain(&queues) {
            end.set_nonblocking(true).unwrap();
        }
        let mut world = Self {
            ends,
            worker,
            taps,
            events: told,
            datagrams: received,
            vnets: Default::default(),
            peers: Default::default(),
            relays: HashMap::new(),
            cipher,
            carried: [true; 2],
            model: Model::new(cipher, ends.places),
            by: By::First,
            batch: Vec::new(),
            load: (0, 0),
            numbers: Default::default(),
            halves: Default::default(),
            now: Duration::ZERO,
            bytes: vec![0; 70_000],
        };
        for (slot, queue) in queues.into_iter().enumerate() {
            let (id, counters) = (["97", "98"][slot].parse().unwrap(), Arc::clone(&world.vnets[slot]));
            let (queue, others) = (queue.into(), Vec::new());
            world.worker.apply(Command::AddVnet { slot, id, queue, others, cuts_udp, counters });
            world.forward(slot, true);
            for peer in 1..=3 {
                let spi = outgoing(peer, slot);
                let lane = if slot == 1 && peer != 3 { Lane::Own } else { Lane::First };
                let association = Association {
                    direction: Direction::Outbound,
                    rekey_after: u64::MAX,
                    ..world.association(Keys { spi, peer, lane, slot }, Material::of(cipher, spi))
                };
                world.worker.apply(Command::Install(slot, Box::new(association)));
            }
        }
        world.renew();
        for (number, remote) in (0..4).zip(ends.places.hosts).skip(1) {
            let (largest_datagram, hoped) = PATHS[number as usize];
            let via = (number == 3).then(|| Via { relay: ends.places.relay, spi: Spi::new(VIA).unwrap() });
            let own = vec![remote];
            let path = Path { remote, own, local: None, largest_datagram, hoped, via };
            let counters = Arc::clone(&world.peers[number as usize]);
            world.worker.apply(Command::Path(PeerId(number), Arc::new(path), counters));
        }
        KEYS[..7].iter().for_each(|keys| world.install(*keys));
        world.pass(true);
        world
    }

    /// Its own socket is given to it anew: none that is for one peer is left.
    pub(super) fn renew(&mut self) {
        let own = Socket::prepare(self.ends.own.try_clone().unwrap(), 1).unwrap();
        self.worker.apply(Command::OwnSocket(Some(own)));
    }

    /// Time passes.
    pub(super) fn wait(&mut self, passed: Duration) {
        self.now += passed;
        self.worker.outbox.connected.woken(self.now);
    }

    fn association(&self, keys: Keys, material: Material) -> Association {
        Association {
            spi: Spi::new(keys.spi).unwrap(),
            peer: PeerId(keys.peer),
            vnet: ["97", "98"][keys.slot].parse().unwrap(),
            direction: Direction::Inbound,
            lane: keys.lane,
            worker: 0,
            queue: 0,
            cipher: self.cipher,
            key: KeyMaterial::new(self.cipher, material.bytes()).unwrap(),
            rekey_after: 0,
        }
    }

    /// New keys with an SPI; those that had it before are gone. Of a vnet that is not carried there are none.
    pub(super) fn install(&mut self, keys: Keys) {
        let material = self.model.install(keys);
        let association = self.association(keys, material);
        self.worker.apply(Command::Install(keys.slot, Box::new(association)));
        if !self.carried[keys.slot] {
            self.model.in_use.remove(&keys.spi);
        }
    }

    /// This vnet is not carried any more.
    pub(super) fn remove(&mut self, slot: usize) {
        self.carried[slot] = false;
        self.model.in_use.retain(|_, in_use| in_use.keys.slot != slot);
        self.worker.apply(Command::RemoveVnet(slot));
    }

    pub(super) fn retire(&mut self, keys: Keys) {
        self.model.in_use.remove(&keys.spi);
        self.worker.apply(Command::Retire(Spi::new(keys.spi).unwrap()));
    }

    /// Whether anything of this vnet goes anywhere.
    pub(super) fn forward(&mut self, slot: usize, forwards: bool) {
        self.model.forwards[slot] = forwards;
        let forwarding = &self.ends.forwarding[if forwards { 1 + slot } else { 0 }];
        self.worker.apply(Command::Forwarding(slot, Arc::clone(forwarding)));
    }

    /// Whether anything of others goes on, or is brought.
    pub(super) fn pass(&mut self, passes: bool) {
        self.model.pass(passes);
        let (from, to) = (self.ends.places.relay, self.ends.afterwards.local_addr().unwrap());
        let spi = |number| Spi::new(number).unwrap();
        let mut all = Relays::default();
        if passes {
            for (number, bytes_per_second) in [(ONWARD, 1 << 40), (SLOWLY, 0)] {
                let relay = Relay { spi: spi(number), from, to, onward: spi(AFTERWARDS), bytes_per_second };
                let counters = Arc::clone(self.relays.entry(number).or_default());
                all.insert(spi(number), Relayed::Onward(relay, counters));
            }
            let brought = Brought { spi: spi(BROUGHT), relay: from, from: self.ends.places.hosts[3] };
            all.insert(brought.spi, Relayed::Brought(brought));
        }
        self.worker.apply(Command::Relays(Arc::new(all)));
    }

    /// A datagram comes: by itself, or, if it may, in one message with those before, as the kernel joins them.
    pub(super) fn give(&mut self, (from, by): (SocketAddr, By), bytes: Vec<u8>, joins: bool) {
        self.make_room((from, by), 1, bytes.len());
        if joins
            && let Some(Given { from: last_from, segment: Some(segment), bytes: run }) = self.batch.last_mut()
            && *last_from == from
            && let Ok(each) = usize::try_from(*segment)
            && each > 0
            && !bytes.is_empty()
            && bytes.len() <= each
            && run.len().is_multiple_of(each)
            && run.len() + bytes.len() < 65_000
            && run.len() / each < 64
        {
            run.extend(bytes);
            return;
        }
        let segment = joins.then(|| i32::try_from(bytes.len()).unwrap());
        self.batch.push(Given { from, segment, bytes });
    }

    /// A message comes, with datagrams of this length.
    pub(super) fn give_run(&mut self, (from, by): (SocketAddr, By), segment: i32, bytes: Vec<u8>) {
        let each = usize::try_from(segment).unwrap_or(0);
        let datagrams = if each == 0 { 1 } else { bytes.len().div_ceil(each) };
        self.make_room((from, by), datagrams, bytes.len());
        self.batch.push(Given { from, segment: Some(segment), bytes });
    }

    fn make_room(&mut self, (from, by): (SocketAddr, By), datagrams: usize, bytes: usize) {
        let (all_datagrams, all_bytes) = (self.load.0 + datagrams, self.load.1 + bytes);
        if self.heard_by(from, by) != self.by
            || all_datagrams > MOST_DATAGRAMS
            || all_bytes > MOST_BYTES
            || self.batch.len() == 16
        {
            self.carry();
        }
        // Which there are may be others now.
        self.by = self.heard_by(from, by);
        self.load = (self.load.0 + datagrams, self.load.1 + bytes);
    }

    /// Whoever has a socket of the worker's for itself is heard by no other.
    fn heard_by(&self, from: SocketAddr, by: By) -> By {
        let connected = &self.worker.outbox.connected;
        connected.of(from).filter(|_| by == By::Own).map_or(by, By::Connected)
    }

    /// Lets the worker carry what has come, and compares what it did with what it has to do.
    pub(super) fn carry(&mut self) {
        self.load = (0, 0);
        let batch = std::mem::take(&mut self.batch);
        for given in &batch {
            self.model.message(given.from, self.by.lane(), given.segment, &given.bytes);
        }
        let before = self.sent();
        let count = self.worker.receive.give(self.by, &batch);
        assert_eq!(count, batch.len());
        let load = self.worker.carry_received(count);
        self.worker.has_carried_in(self.by, load);
        self.compare(before);
    }

    /// Compares what the worker did with what it had to do, having sent so much before.
    pub(super) fn compare(&mut self, before: [u64; 4]) {
        self.compare_outgoing(before);
        self.compare_counters();
        self.compare_taps();
        self.compare_told();
        let passed_on = std::mem::take(&mut self.model.expected.passed_on);
        for expected in passed_on {
            let length = self.ends.afterwards.recv(&mut self.bytes).expect("what is passed on arrives");
            assert!(self.bytes[..length] == expected, "what is passed on is changed");
        }
    }

    fn compare_counters(&self) {
        let Expected { host, vnets, peers, relays, .. } = &self.model.expected;
        let mut seen = self.worker.host.read();
        (seen.receive_calls, seen.send_calls, seen.tap_reads, seen.tap_writes) = (0, 0, 0, 0);
        assert_eq!(seen, *host);
        for (live, expected) in self.vnets.iter().zip(vnets) {
            let seen = live.read();
            assert_eq!(seen, *expected);
        }
        for (live, expected) in self.peers.iter().zip(peers) {
            let seen = live.read();
            assert_eq!([seen.send_failed, seen.too_big], [0; 2]);
            let of = |counters: &PeerCounters| {
                [counters.datagrams_in, counters.bytes_in, counters.datagrams_in_first]
            };
            assert_eq!(of(&seen), of(expected), "{seen:?}");
        }
        for (spi, live) in &self.relays {
            assert_eq!(live.read(), relays.get(spi).copied().unwrap_or_default());
        }
    }

    /// What came to the taps, as it would be on a wire.
    fn compare_taps(&mut self) {
        for (slot, tap) in self.taps.iter().enumerate() {
            let mut expected = std::mem::take(&mut self.model.expected.frames[slot]).into_iter();
            loop {
                let length = match tap.recv(&mut self.bytes) {
                    Ok(length) => length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                };
                let (header, frame) = self.bytes[..length].split_first_chunk_mut::<OFFLOAD_HEADER>().unwrap();
                let offload = Offload::read(header);
                let is_one = offload.segments == Segments::None;
                let cut = (!is_one).then(|| Cut::plan(&offload, frame, usize::MAX).unwrap());
                let Some(cut) = cut else {
                    let wanted = expected.next().expect("nothing more is to be delivered");
                    assert!(*frame == wanted, "{frame:x?} is not {wanted:x?}");
                    // That a checksum is to be completed is said of what looks so.
                    assert!(offload.partial.is_none() || offload.partial == partial(frame), "{offload:?}");
                    continue;
                };
                for index in 0..cut.count() {
                    let wanted = expected.next().expect("nothing more is to be delivered");
                    cut.with_frame(index, frame, |piece| {
                        assert!(alike(piece) == alike(&wanted), "{index}: {piece:x?} is not {wanted:x?}");
                    });
                }
            }
            assert_eq!(expected.next(), None, "it is not delivered");
        }
    }

    /// What the control side is told.
    fn compare_told(&mut self) {
        let Expected { quic, roamed, roaming, foreign, probes, unknown, shown, .. } =
            &mut self.model.expected;
        for (from, bytes) in quic.drain(..) {
            let told = self.datagrams.try_recv().expect("QUIC");
            assert_eq!((told.from, &told.bytes), (from, &bytes));
        }
        assert!(self.datagrams.try_recv().is_err());
        let mut told = BTreeSet::new();
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Roamed { peer, from } => {
                    assert!(roaming.contains(&(peer.0, from)), "{from}");
                    told.insert((peer.0, from));
                }
                Event::ForeignSource { peer, mac, .. } => assert!(foreign.contains(&(peer.0, mac)), "{mac}"),
                Event::Probed { peer, worker, number } => {
                    assert!(probes.contains(&(peer.0, worker, number)), "{number}");
                }
                Event::TooBig { peer, largest_frame, .. } => {
                    assert!(largest_frame < usize::from(PATHS[peer.0 as usize].1));
                }
                Event::UnknownSource { mac, .. } => assert!(unknown.contains(&mac), "{mac}"),
                Event::Frame { vnet, reason, frame } => {
                    let slot = usize::from(vnet == "98".parse().unwrap());
                    assert_eq!(Some((slot, reason, frame)), shown.pop_front());
                }
                event @ (Event::PathTooBig { .. }
                | Event::RekeyNeeded { .. }
                | Event::Exhausted { .. }
                | Event::TapGone { .. }) => panic!("{event:?}"),
            }
        }
        assert!(roamed.drain(..).all(|first| told.contains(&first)));
        assert_eq!(shown.pop_front(), None, "it is not shown");
    }
}
