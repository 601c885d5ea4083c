//! A name server for guests (RFC 1034, 1035, 2308, 6891): it answers for the names of a network's guests to that
//! network's guests, and asks other servers for everything else.

mod answer;
mod cache;
mod exchange;
mod names;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use viaduct_plan::ZoneHead;
use viaduct_types::{GuestName, IfName, NetworkName};

use crate::queue::Queue;
use answer::{Asked, Content, Received};
use cache::Cache;
use exchange::{Exchange, Question};
use names::{Known, Names};

/// Where name servers listen.
pub const PORT: u16 = 53;
/// So many questions are on their way to other servers at most ...
const EXCHANGES: usize = 1024;
/// ... and so many guests' questions of one device wait for answers, so that no guest keeps all others waiting.
const WAITING: usize = 128;
/// A server that did not answer is asked last for so long.
const SLOW: Duration = Duration::from_secs(30);

/// Who asked, as the one who has the sockets knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// By which device the question came.
    pub device: IfName,
    /// From where.
    pub peer: SocketAddr,
    /// By which of its sockets, which is to answer, too.
    pub socket: u64,
    /// By a connection instead of a datagram.
    pub stream: bool,
}

/// Something to be done with a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// An answer for a guest.
    Answer {
        /// Whose.
        asker: Asker,
        /// The message.
        bytes: Vec<u8>,
    },
    /// A question for another server, from a socket of its own. The first two bytes, the message's id, are to be
    /// filled in with random ones, and an answer counts only when it has the same.
    Ask {
        /// What it belongs to; the socket that the exchange had before is of no use any more.
        exchange: u64,
        /// Whom to ask.
        server: SocketAddr,
        /// By a connection instead of a datagram.
        stream: bool,
        /// The message.
        bytes: Vec<u8>,
    },
    /// The socket of an exchange is of no use any more.
    Over {
        /// Which.
        exchange: u64,
    },
}

/// The server. It is told what is to be answered ([`Server::serve`], [`Server::zone`], [`Server::name`],
/// [`Server::host_servers`]), what was received from guests ([`Server::receive`]) and from other servers
/// ([`Server::heard`], [`Server::failed`]); after each, and when [`Server::due`] has come ([`Server::tick`]), it has
/// something to do ([`Server::output`]). Times are since any moment that stays the same.
#[derive(Default)]
pub struct Server {
    links: BTreeMap<IfName, NetworkName>,
    zones: BTreeMap<NetworkName, Names>,
    host_servers: Vec<SocketAddr>,
    cache: Cache,
    exchanges: BTreeMap<u64, Exchange>,
    /// The exchange of a question that is on its way already.
    asking: BTreeMap<Question, u64>,
    timers: BTreeSet<(Duration, u64)>,
    /// How many questions of a device wait for answers.
    waiting: BTreeMap<IfName, usize>,
    next: u64,
    /// Which servers did not answer, and until when they are asked last.
    slow: BTreeMap<SocketAddr, Duration>,
    outputs: Queue<Output>,
    counts: Counts,
}

/// What was answered, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// From what is known of guests.
    pub own: u64,
    /// From the cache.
    pub cached: u64,
    /// Questions to other servers.
    pub asked: u64,
    /// Answers of other servers.
    pub heard: u64,
    /// Questions that are not answered by anybody here, or that too many wait for.
    pub refused: u64,
    /// What is no question.
    pub malformed: u64,
}

impl Server {
    /// The network whose guests ask by a device; none: nobody is answered there any more.
    pub fn serve(&mut self, device: IfName, network: Option<NetworkName>) {
        match network {
            Some(network) => self.links.insert(device, network),
            None => self.links.remove(&device),
        };
    }

    /// What a network's names have in common; none when the network has none any more.
    pub fn zone(&mut self, network: NetworkName, head: Option<ZoneHead>) {
        match head {
            Some(head) => self.zones.entry(network).or_default().set_head(head),
            None => drop(self.zones.remove(&network)),
        }
    }

    /// The addresses of a guest's name in a network's domain; with none, there is no such name any more.
    pub fn name(&mut self, network: &NetworkName, guest: GuestName, addresses: BTreeSet<IpAddr>) {
        self.zones.entry(network.clone()).or_default().set(guest, addresses);
    }

    /// The servers that the host itself asks.
    pub fn host_servers(&mut self, servers: Vec<SocketAddr>) {
        self.host_servers = servers;
    }

    /// A message came from a guest.
    pub fn receive(&mut self, now: Duration, asker: Asker, bytes: &[u8]) {
        let asked = match Asked::read(bytes, asker.stream) {
            Received::Question(asked) => asked,
            Received::Wrong(answer) => {
                self.counts.malformed += 1;
                self.outputs.push(Output::Answer { asker, bytes: answer });
                return;
            }
            Received::Nothing => {
                self.counts.malformed += 1;
                return;
            }
        };
        let Some(network) = self.links.get(&asker.device) else { return };
        let known = self.known(network, &asked);
        match known {
            Known::Answer(content) => {
                self.counts.own += 1;
                self.answer(asker, &asked, &content);
            }
            Known::Refused => self.refuse(asker, &asked),
            // Whoever does not want somebody else to be asked is told nothing of what others asked (RFC 1034, 4.3.1).
            Known::Nothing if !asked.recursion_desired() => self.refuse(asker, &asked),
            Known::Nothing => {
                let own = self.zones.get(network).is_some_and(|names| !names.servers().is_empty());
                let question = Question::new(own.then(|| network.clone()), &asked);
                if let Some(content) = self.cache.find(now, &question) {
                    self.counts.cached += 1;
                    self.answer(asker, &asked, &content);
                } else {
                    self.forward(now, question, asker, asked);
                }
            }
        }
    }

    /// An answer came for an exchange, from the socket that its last question went by.
    pub fn heard(&mut self, now: Duration, exchange: u64, bytes: &[u8]) {
        let Some(going) = self.exchanges.get(&exchange) else { return };
        match going.read(bytes) {
            exchange::Heard::Nothing => {}
            exchange::Heard::Cut => {
                self.retime(exchange, |going| going.by_stream(now));
                self.ask(exchange);
            }
            exchange::Heard::Failure => self.failed(now, exchange),
            exchange::Heard::Answer(content) => {
                self.counts.heard += 1;
                self.slow.remove(&going.server());
                self.cache.keep(now, &going.question, &content, bytes.len());
                self.finish(exchange, &content);
            }
        }
    }

    /// The socket of an exchange cannot be used, or its server cannot be reached.
    pub fn failed(&mut self, now: Duration, exchange: u64) {
        let Some(going) = self.exchanges.get(&exchange) else { return };
        self.slow.insert(going.server(), now + SLOW);
        if going.is_last() {
            let nothing = Content::failure();
            self.cache.keep(now, &going.question, &nothing, 0);
            self.finish(exchange, &nothing);
        } else {
            self.retime(exchange, |going| going.by_next(now));
            self.ask(exchange);
        }
    }

    /// When something is to be done without being told.
    pub fn due(&self) -> Option<Duration> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Duration) {
        while let Some(&(due, exchange)) = self.timers.first()
            && due <= now
        {
            self.failed(now, exchange);
        }
        self.slow.retain(|_, until| *until > now);
    }

    /// The next thing to do.
    pub fn output(&mut self) -> Option<Output> {
        self.outputs.pop()
    }

    /// What was answered since the beginning.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What is known of a name by the network that asks.
    fn known(&self, network: &NetworkName, asked: &Asked) -> Known {
        if names::is_refused(asked) {
            return Known::Refused;
        }
        let own = self.zones.get(network).map_or(Known::Nothing, |names| names.find(asked));
        if !matches!(own, Known::Nothing) {
            return own;
        }
        let everywhere = names::everywhere(asked);
        if !matches!(everywhere, Known::Nothing) {
            return everywhere;
        }
        // Nobody outside is told which names another network has, nor asked for them.
        let hidden = self.zones.iter().filter(|(name, _)| *name != network);
        let hidden = hidden.map(|(_, names)| names.hide(asked));
        hidden.into_iter().find(|known| !matches!(known, Known::Nothing)).unwrap_or(Known::Nothing)
    }

    fn answer(&mut self, asker: Asker, asked: &Asked, content: &Content) {
        self.outputs.push(Output::Answer { asker, bytes: asked.answer(content) });
    }

    fn refuse(&mut self, asker: Asker, asked: &Asked) {
        self.counts.refused += 1;
        self.answer(asker, asked, &Content::refusal());
    }

    fn forward(&mut self, now: Duration, question: Question, asker: Asker, asked: Asked) {
        if self.waiting.get(&asker.device).is_some_and(|waiting| *waiting >= WAITING) {
            self.refuse_for_now(asker, &asked);
            return;
        }
        if let Some(going) = self.asking.get(&question).and_then(|number| self.exchanges.get_mut(number)) {
            *self.waiting.entry(asker.device.clone()).or_default() += 1;
            going.wait(asker, asked);
            return;
        }
        let own = question.network.as_ref().and_then(|network| self.zones.get(network));
        let mut servers = own.map_or_else(|| self.host_servers.clone(), |names| names.servers().to_vec());
        // Those that did not answer come last; the rest stays in its order.
        servers.sort_by_key(|server| self.slow.contains_key(server));
        if servers.is_empty() || self.exchanges.len() >= EXCHANGES {
            self.refuse_for_now(asker, &asked);
            return;
        }
        let exchange = self.next;
        self.next += 1;
        *self.waiting.entry(asker.device.clone()).or_default() += 1;
        let mut going = Exchange::new(now, question.clone(), servers);
        going.wait(asker, asked);
        self.timers.insert((going.due, exchange));
        self.asking.insert(question, exchange);
        self.exchanges.insert(exchange, going);
        self.ask(exchange);
    }

    fn refuse_for_now(&mut self, asker: Asker, asked: &Asked) {
        self.counts.refused += 1;
        self.answer(asker, asked, &Content::failure());
    }

    fn ask(&mut self, exchange: u64) {
        let Some(going) = self.exchanges.get(&exchange) else { return };
        let (server, stream) = (going.server(), going.stream);
        if let Some(bytes) = going.message() {
            self.counts.asked += 1;
            self.outputs.push(Output::Ask { exchange, server, stream, bytes });
        }
    }

    /// Changes an exchange, and when it is due.
    fn retime(&mut self, exchange: u64, change: impl FnOnce(&mut Exchange)) {
        if let Some(going) = self.exchanges.get_mut(&exchange) {
            self.timers.remove(&(going.due, exchange));
            change(going);
            self.timers.insert((going.due, exchange));
        }
    }

    /// Answers all who wait for an exchange.
    fn finish(&mut self, exchange: u64, content: &Content) {
        let Some(going) = self.exchanges.remove(&exchange) else { return };
        self.timers.remove(&(going.due, exchange));
        self.asking.remove(&going.question);
        self.outputs.push(Output::Over { exchange });
        for (asker, asked) in going.waiting {
            if let Some(waiting) = self.waiting.get_mut(&asker.device) {
                *waiting -= 1;
                if *waiting == 0 {
                    self.waiting.remove(&asker.device);
                }
            }
            self.answer(asker, &asked, content);
        }
    }
}
