//! The tasks of one connection: what comes in is read, what goes out is written.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use viaduct_types::HostKey;

use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::{mpsc, oneshot};
use viaduct_vnet_proto::{
    control::{Exporter, Message, SessionId},
    data::PeerId,
};

use super::{
    engine::Input,
    peers::{SEARCHING, headers, largest_of_link},
    reach::relay_of,
    search::Search,
    socket::unmapped,
};

/// Where so many bytes wait to be written, nothing more is added: who reads nothing for so long is let go.
const WAITING: usize = 32 << 20;
/// So many messages the engine is given at once.
const MESSAGES: usize = 256;
/// No longer is what is shown of why a connection ended.
const LONGEST_REASON: usize = 200;
/// How often it is looked whether the host's own link carries more than it did.
const LOOK: Duration = Duration::from_secs(5);

/// Why a connection is ended, as the other end is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Farewell {
    /// This host ends.
    Ending = 0,
    /// There is another connection already.
    Duplicate = 1,
    /// The key is not known here.
    Stranger = 2,
    /// It does not keep to the protocol, or does not read.
    Protocol = 3,
    /// Longer datagrams may get there than this connection looks for, and this host does not dial.
    Outgrown = 4,
}

impl Farewell {
    pub(super) fn end(self, connection: &Connection, why: &str) {
        connection.close(VarInt::from_u32(self as u32), why.as_bytes());
    }
}

/// A connection with its tasks; they end with it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) key: HostKey,
    pub(super) connection: Connection,
    pub(super) since: Duration,
    /// Whether it is still searched what gets there.
    pub(super) search: Search,
    /// The longest datagram that is looked for.
    longest: u16,
    /// When it was last looked whether there may be longer ones by now.
    looked: Duration,
    /// When the other end was last told at which number this host is.
    pub(super) told: Option<Duration>,
    out: mpsc::UnboundedSender<Vec<u8>>,
    /// How many bytes wait there.
    waiting: Arc<AtomicUsize>,
}

impl Link {
    pub(super) fn start(
        id: SessionId,
        key: HostKey,
        (connection, longest): (Connection, u16),
        since: Duration,
        inputs: &mpsc::Sender<Input>,
    ) -> Self {
        let (out, queue) = mpsc::unbounded_channel();
        let waiting = Arc::<AtomicUsize>::default();
        tokio::spawn(write(connection.clone(), queue, Arc::clone(&waiting)));
        tokio::spawn(read(id, connection.clone(), inputs.clone()));
        let search = Search::new(since);
        Self { key, connection, since, search, longest, looked: since, told: None, out, waiting }
    }

    pub(super) fn send(&self, bytes: Vec<u8>) {
        // One piece may be of any length: whoever comes into a vnet is told of all NICs.
        if self.waiting.load(Ordering::Relaxed) >= WAITING {
            return Farewell::Protocol.end(&self.connection, "nothing is read");
        }
        self.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
        // It fails when the connection has ended.
        let _ = self.out.send(bytes);
    }

    pub(super) fn remote(&self) -> SocketAddr {
        unmapped(self.connection.remote_address())
    }

    /// Who passes on what is sent there, if somebody does.
    pub(super) fn via(&self) -> Option<PeerId> {
        relay_of(self.remote())
    }

    /// The largest datagram that gets there.
    pub(super) fn largest_datagram(&self) -> u16 {
        self.connection.stats().path.current_mtu
    }

    /// Whether it is too young to take what was found for what gets there.
    pub(super) fn is_new(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) < SEARCHING
    }

    /// Whether the host's own link carries more by now than this connection looks for, when it is time to look.
    pub(super) fn is_outgrown(&mut self, now: Duration) -> bool {
        if self.via().is_some() || now.saturating_sub(self.looked) < LOOK {
            return false;
        }
        self.looked = now;
        longest(self.remote()) > self.longest
    }
}

/// The secrets of a connection.
pub(super) struct Secrets(pub(super) Connection);

impl Exporter for Secrets {
    fn export(&self, label: &[u8], context: &[u8]) -> Option<[u8; 16]> {
        let mut secret = [0; 16];
        self.0.export_keying_material(&mut secret, label, context).ok()?;
        Some(secret)
    }
}

async fn write(
    connection: Connection,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
) {
    let Ok(mut stream): Result<SendStream, _> = connection.open_uni().await else { return };
    while let Some(bytes) = queue.recv().await {
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
        waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
    }
}

async fn read(id: SessionId, connection: Connection, inputs: mpsc::Sender<Input>) {
    let why = match read_all(id, &connection, &inputs).await {
        Ok(()) => reason(&connection.closed().await),
        Err(why) => {
            Farewell::Protocol.end(&connection, &why);
            why
        }
    };
    let _ = inputs.send(Input::Closed { session: id, why }).await;
}

/// Until the connection ends.
async fn read_all(
    id: SessionId,
    connection: &Connection,
    inputs: &mpsc::Sender<Input>,
) -> Result<(), String> {
    let Ok(mut stream): Result<RecvStream, _> = connection.accept_uni().await else { return Ok(()) };
    let mut waiting = Vec::new();
    while let Ok(Some(chunk)) = stream.read_chunk(65_536, true).await {
        waiting.extend_from_slice(&chunk.bytes);
        let mut taken = 0;
        loop {
            let mut messages = VecDeque::new();
            while messages.len() < MESSAGES
                && let Some((message, length)) =
                    Message::read(&waiting[taken..]).map_err(|error| error.to_string())?
            {
                messages.extend(message);
                taken += length;
            }
            if messages.is_empty() {
                break;
            }
            // Whoever says much waits for its next turn, and nobody for more than one of it.
            let (done, is_done) = oneshot::channel();
            if inputs.send(Input::Messages { session: id, messages, done }).await.is_err() {
                return Ok(());
            }
            let _ = is_done.await;
        }
        waiting.drain(..taken);
    }
    Ok(())
}

/// Why a connection ended, for people. A part of it may be the other end's words, who has not always shown a key before: nothing of
/// these does anything to a terminal, or looks like lines of ours.
pub(super) fn reason(error: &quinn::ConnectionError) -> String {
    let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    error.to_string().chars().map(plain).take(LONGEST_REASON).collect()
}

/// The longest datagram that is looked for, in bytes: what Ethernet has with large frames.
pub(super) const LONGEST: u16 = 9_000 - 28;

/// By QUIC's own datagrams peers ask what a path carries, and nobody reads them: so much is kept of them, which one of them needs.
const UNREAD: usize = LONGEST as usize + 64;

/// The longest datagram that is looked for on the way to somebody. What the host's own link does not carry is not, as each length takes
/// its time; as Ethernet carries, for that may come while the connection stands.
fn longest(remote: SocketAddr) -> u16 {
    let remote = unmapped(remote);
    let ethernet = 1_500 - headers(remote.is_ipv6());
    largest_of_link(remote).map_or(ethernet, |of_link| of_link.clamp(ethernet, LONGEST))
}

/// How connections to somebody there are, with the longest datagram that is looked for.
pub(super) fn transport(remote: SocketAddr) -> (Arc<quinn::TransportConfig>, u16) {
    let mut config = quinn::TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(1))
        .stream_receive_window(VarInt::from_u32(256 * 1024))
        .receive_window(VarInt::from_u32(256 * 1024))
        .datagram_receive_buffer_size(Some(UNREAD))
        // What is lost of a handshake is sent again soon: hosts are started one after the other.
        .initial_rtt(Duration::from_millis(100))
        .max_idle_timeout(Some(VarInt::from_u32(6_000).into()))
        .keep_alive_interval(Some(Duration::from_secs(2)));
    // Found out by itself, to the byte; the data channel takes what is found.
    let longest = longest(remote);
    let mut search = quinn::MtuDiscoveryConfig::default();
    search
        .upper_bound(longest)
        .minimum_change(1)
        .interval(Duration::from_secs(30))
        .black_hole_cooldown(Duration::from_secs(1));
    config.mtu_discovery_config(Some(search));
    (Arc::new(config), longest)
}

#[cfg(test)]
mod tests {
    use quinn::{ApplicationClose, ConnectionClose, ConnectionError, TransportErrorCode};

    use super::*;

    #[test]
    fn words_of_others_do_nothing_to_a_terminal() {
        const WORDS: &str = "gone\u{1b}[2J\r\nRefused: nobody \u{202e}\u{9b}1m\u{7f}";
        let long = "x".repeat(1_000);
        for words in [WORDS, &long] {
            let bytes = || words.as_bytes().to_vec().into();
            let by_peer = ApplicationClose { error_code: VarInt::from_u32(0), reason: bytes() };
            let by_anybody = ConnectionClose {
                error_code: TransportErrorCode::NO_ERROR,
                frame_type: None,
                reason: bytes(),
            };
            for error in
                [ConnectionError::ApplicationClosed(by_peer), ConnectionError::ConnectionClosed(by_anybody)]
            {
                let said = reason(&error);
                assert!(said.chars().all(|c| c.is_ascii_graphic() || c == ' '), "{said:?}");
                assert!(said.len() <= LONGEST_REASON, "{}", said.len());
                assert!(said.contains(if words == WORDS { "gone?[2J??Refused" } else { "xxx" }), "{said}");
            }
        }
    }
}
