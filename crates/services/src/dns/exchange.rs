//! A question that other servers are asked, one after the other.

use std::{cmp::Ordering, net::SocketAddr, time::Duration};

use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{DNSClass, Name, RecordType},
};
use viaduct_types::NetworkName;

use super::{
    Asker,
    answer::{Asked, Content, question},
};

/// How long a server has for an answer in a datagram, and by a connection.
const PATIENCE: [Duration; 2] = [Duration::from_millis(1200), Duration::from_millis(2500)];
/// So many times somebody is asked: together less than those wait who ask us.
const TRIES: usize = 4;

/// What is asked, as far as answers differ by it.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// Whose servers are asked; none: the host's.
    pub(super) network: Option<NetworkName>,
    pub(super) name: Name,
    pub(super) kind: RecordType,
    pub(super) checking_disabled: bool,
    pub(super) signatures: bool,
}

impl Question {
    pub(super) fn new(network: Option<NetworkName>, asked: &Asked) -> Self {
        Self {
            network,
            name: asked.name().to_lowercase(),
            kind: asked.kind(),
            checking_disabled: asked.checking_disabled(),
            signatures: asked.wants_signatures(),
        }
    }

    fn key(&self) -> (u16, bool, bool, &Option<NetworkName>, &Name) {
        (self.kind.into(), self.checking_disabled, self.signatures, &self.network, &self.name)
    }
}

impl PartialEq for Question {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Question {}

impl PartialOrd for Question {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Question {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

pub(super) struct Exchange {
    pub(super) question: Question,
    pub(super) waiting: Vec<(Asker, Asked)>,
    servers: Vec<SocketAddr>,
    /// How many times somebody was asked before.
    tries: usize,
    pub(super) stream: bool,
    /// When nobody waits for this server any longer.
    pub(super) due: Duration,
}

/// What a server's message is.
pub(super) enum Heard {
    /// No answer to what was asked.
    Nothing,
    /// An answer of which the rest is to be had by a connection.
    Cut,
    /// The server has none.
    Failure,
    Answer(Content),
}

impl Exchange {
    pub(super) fn new(now: Duration, question: Question, servers: Vec<SocketAddr>) -> Self {
        let [patience, _] = PATIENCE;
        Self { question, waiting: Vec::new(), servers, tries: 0, stream: false, due: now + patience }
    }

    pub(super) fn wait(&mut self, asker: Asker, asked: Asked) {
        self.waiting.push((asker, asked));
    }

    /// Who is asked.
    pub(super) fn server(&self) -> SocketAddr {
        self.servers[self.tries % self.servers.len()]
    }

    /// Whether nobody else is to be asked.
    pub(super) fn is_last(&self) -> bool {
        self.tries + 1 >= TRIES
    }

    /// The same server is asked once more, by a connection.
    pub(super) fn by_stream(&mut self, now: Duration) {
        let [_, patience] = PATIENCE;
        self.stream = true;
        self.due = now + patience;
    }

    /// The next server is asked, or the same again.
    pub(super) fn by_next(&mut self, now: Duration) {
        let [patience, _] = PATIENCE;
        self.tries += 1;
        self.stream = false;
        self.due = now + patience;
    }

    pub(super) fn message(&self) -> Option<Vec<u8>> {
        let Question { name, kind, checking_disabled, signatures, .. } = &self.question;
        question(name, *kind, *checking_disabled, *signatures)
    }

    /// Reads what came back.
    pub(super) fn read(&self, bytes: &[u8]) -> Heard {
        let Ok(message) = Message::from_vec(bytes) else { return Heard::Nothing };
        let [query] = message.queries.as_slice() else { return Heard::Nothing };
        let is_ours = message.metadata.message_type == MessageType::Response
            && query.name == self.question.name
            && query.query_type == self.question.kind
            && query.query_class == DNSClass::IN;
        if !is_ours {
            return Heard::Nothing;
        }
        if message.metadata.truncation {
            return if self.stream { Heard::Failure } else { Heard::Cut };
        }
        let code = message.metadata.response_code;
        if code != ResponseCode::NoError && code != ResponseCode::NXDomain {
            return Heard::Failure;
        }
        Heard::Answer(Content {
            code,
            authoritative: false,
            authentic: message.metadata.authentic_data,
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
        })
    }
}
