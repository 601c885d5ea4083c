//! While workers carry frames they do not allocate, log or tell: a counting allocator sees each thread's allocations, so
//! that this is a program of its own. In network namespaces, as the datapath's other tests are.

#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

#[path = "../datapath/pair.rs"]
#[expect(dead_code, reason = "the other tests of the datapath use the rest")]
mod pair;
#[path = "../datapath/world.rs"]
#[expect(dead_code, reason = "the other tests of the datapath use the rest")]
mod world;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use viaduct_vnet_io::datapath::Counters;
use viaduct_vnet_proto::data::esp::Cipher;

use pair::Pair;
use world::PATIENCE;

/// So many datagrams go each way in a round, and so many bytes.
const DATAGRAMS: usize = 10_000;
const STREAM: usize = 16 << 20;
/// In one of so many rounds nothing happens that does not happen for each frame.
const ROUNDS: usize = 5;

/// Whether it is counted.
static COUNTS: AtomicBool = AtomicBool::new(false);
/// What workers have allocated meanwhile: how often, and the last one's length.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LAST: AtomicUsize = AtomicUsize::new(0);
/// How often they would have logged something.
static LOGGED: AtomicU64 = AtomicU64::new(0);

/// Whether this thread is called as workers are.
fn is_worker() -> bool {
    let mut name = [0_u8; 16];
    // SAFETY: the kernel writes 16 bytes at most, with the zero that ends them.
    let result = unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    result == 0 && name.starts_with(b"vnet-")
}

struct Counting;

impl Counting {
    fn count(length: usize) {
        if COUNTS.load(Ordering::Relaxed) && is_worker() {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
            LAST.store(length, Ordering::Relaxed);
        }
    }
}

// SAFETY: the system's allocator does what is asked for; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, length: usize) -> *mut u8 {
        Self::count(length);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, length) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Wants every line of every level.
struct Log;

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        self.count();
        tracing::span::Id::from_u64(1)
    }

    fn event(&self, _: &tracing::Event<'_>) {
        self.count();
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

impl Log {
    fn count(&self) {
        if COUNTS.load(Ordering::Relaxed) && is_worker() {
            LOGGED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What workers have done while something was done: allocations, the length of the last one, lines of the log.
fn counted(what: impl FnOnce()) -> (u64, usize, u64) {
    ALLOCATIONS.store(0, Ordering::Relaxed);
    LOGGED.store(0, Ordering::Relaxed);
    COUNTS.store(true, Ordering::SeqCst);
    what();
    COUNTS.store(false, Ordering::SeqCst);
    (ALLOCATIONS.load(Ordering::Relaxed), LAST.load(Ordering::Relaxed), LOGGED.load(Ordering::Relaxed))
}

/// Two guests with connections that stand, and know where the other is: nothing is asked on the way.
struct Talk {
    pair: Pair,
    datagrams: [UdpSocket; 2],
    streams: [TcpStream; 2],
}

impl Talk {
    fn new(cipher: Cipher, has_own: bool) -> Self {
        let pair = Pair::new(["192.0.2.1", "192.0.2.2"], cipher, [1, 1], [has_own; 2]);
        // What kernels say by themselves of groups and addresses is for the control side, which is told.
        for room in pair.rooms.iter().chain(&pair.guests) {
            room.command("nft add table ip6 quiet");
            room.command("nft add chain ip6 quiet out { type filter hook output priority 0 ; }");
            room.command("nft add rule ip6 quiet out meta l4proto ipv6-icmp drop");
        }
        for (side, other) in [(0, 2), (1, 1)] {
            let guest = &pair.guests[side];
            for address in [format!("10.9.0.{other}"), format!("fd09::{other}")] {
                let entry = format!("{address} lladdr 02:00:00:00:00:0{other} dev eth0 nud permanent");
                guest.ip(&format!("neigh replace {entry}"));
            }
        }
        let listener = pair.guests[1].run(|| TcpListener::bind("[fd09::2]:5000").unwrap());
        let near = pair.guests[0].run(|| TcpStream::connect("[fd09::2]:5000").unwrap());
        let (far, _) = listener.accept().unwrap();
        let socket = |side: usize, own: &'static str, other: &'static str| {
            pair.guests[side].run(move || {
                let socket = UdpSocket::bind((own, 6_000)).unwrap();
                socket.connect((other, 6_000)).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket
            })
        };
        let datagrams = [socket(0, "10.9.0.1", "10.9.0.2"), socket(1, "10.9.0.2", "10.9.0.1")];
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
        }
        Self { pair, datagrams, streams: [near, far] }
    }

    /// So many datagrams each way, small ones and those that fill a frame; what is there is read after a few, so that none
    /// waits for long.
    fn datagrams(&self, count: usize) {
        let largest = 1_432 - 28 - 8;
        let mut bytes = [0; 2_000];
        for batch in 0..count / 8 {
            let length = if batch % 2 == 0 { 1 } else { largest };
            for [from, to] in [[0, 1], [1, 0]] {
                for _ in 0..8 {
                    self.datagrams[from].send(&bytes[..length]).unwrap();
                }
                for _ in 0..8 {
                    assert_eq!(self.datagrams[to].recv(&mut bytes).unwrap(), length);
                }
            }
        }
    }

    /// So many bytes each way, in super-frames.
    fn streams(&self, length: usize) {
        for [from, to] in [[0, 1], [1, 0]] {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let chunk = vec![7; 65_536];
                    for _ in 0..length / chunk.len() {
                        (&self.streams[from]).write_all(&chunk).unwrap();
                    }
                });
                let mut chunk = vec![0; 65_536];
                for _ in 0..length / chunk.len() {
                    (&self.streams[to]).read_exact(&mut chunk).unwrap();
                }
            });
        }
    }

    fn all(&self) {
        self.datagrams(DATAGRAMS);
        self.streams(STREAM);
    }

    /// Since then as many frames have been carried as belong to that, and by fewer calls: in super-frames.
    fn carried(&self, before: &[Counters; 2]) {
        for (before, after) in before.iter().zip(self.pair.counters()) {
            let frames = |counters: &Counters| counters.vnets.values().next().unwrap().frames_out;
            let frames = frames(&after) - frames(before);
            let calls = after.host.send_calls - before.host.send_calls;
            assert!(
                frames > (DATAGRAMS + STREAM / 1_432) as u64 && calls < frames,
                "{frames} by {calls} calls"
            );
        }
    }

    /// What the workers have told, all of it.
    fn told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        for host in &mut self.pair.hosts {
            while let Ok(event) = host.inbox.events.try_recv() {
                told.push(format!("{event:?}"));
            }
            while let Ok(datagram) = host.inbox.datagrams.try_recv() {
                told.push(format!("{datagram:?}"));
            }
        }
        told
    }
}

#[test]
fn workers_do_not_allocate_log_or_tell_for_a_frame() {
    tracing::subscriber::set_global_default(Log).unwrap();
    // It would be seen.
    let sees = || {
        let worker = std::thread::Builder::new().name("vnet-9".to_owned());
        let work = || {
            tracing::trace!("a line");
            std::hint::black_box(Box::new(7));
        };
        worker.spawn(work).unwrap().join().unwrap();
    };
    let (allocations, _, lines) = counted(sees);
    assert!(allocations > 0 && lines == 1, "{allocations} {lines}");

    for (cipher, has_own) in [
        (Cipher::Aes128Gcm, false),
        (Cipher::Aes128Gcm, true),
        (Cipher::ChaCha20Poly1305, true),
        (Cipher::Aes128Gmac, true),
    ] {
        let mut talk = Talk::new(cipher, has_own);
        // Buffers grow to what they are to be, and sockets are opened for who sends much. What is done for frames is done in
        // every round; what a kernel says by itself in between, in one.
        let is_quiet = |(allocations, _, lines): (u64, usize, u64), told: &[String]| {
            allocations == 0 && lines == 0 && told.is_empty()
        };
        let mut found = Vec::new();
        while !found.last().is_some_and(|(counted, told): &(_, Vec<String>)| is_quiet(*counted, told)) {
            let now = "(allocations, bytes of the last, lines of the log), what was told, in each round";
            assert!(found.len() < ROUNDS, "{cipher}, own ports: {has_own}: {now}: {found:?}");
            let before = talk.pair.counters();
            let counted = counted(|| talk.all());
            talk.carried(&before);
            found.push((counted, talk.told()));
        }
    }
}
