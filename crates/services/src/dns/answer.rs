//! Questions of guests, and what they are answered.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata},
};

/// What a datagram may have when the asker says nothing of it (RFC 1035, section 4.2.1).
const PLAIN: u16 = 512;
/// What a datagram has at most, so that it is never cut in fragments (RFC 9715).
pub(super) const DATAGRAM: u16 = 1232;
/// The bytes of a message's header.
const HEADER: usize = 12;

/// What a message of a guest is.
pub(super) enum Received {
    Question(Asked),
    /// It is answered with what is wrong about it.
    Wrong(Vec<u8>),
    /// There is nobody to answer.
    Nothing,
}

/// A question, and how it wants to be answered.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    id: u16,
    recursion_desired: bool,
    checking_disabled: bool,
    authentic_data: bool,
    query: Query,
    /// So many bytes fit into an answer.
    limit: u16,
    /// Whether it knows EDNS, and then whether it wants signatures.
    signatures: Option<bool>,
}

/// What an answer has that does not depend on who asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Content {
    pub(super) code: ResponseCode,
    pub(super) authoritative: bool,
    /// Whether the server that said so has verified it.
    pub(super) authentic: bool,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) additionals: Vec<Record>,
}

impl Content {
    pub(super) fn failure() -> Self {
        Self { code: ResponseCode::ServFail, ..Self::default() }
    }

    pub(super) fn refusal() -> Self {
        Self { code: ResponseCode::Refused, ..Self::default() }
    }

    /// Every record.
    pub(super) fn records_mut(&mut self) -> impl Iterator<Item = &mut Record> {
        self.answers.iter_mut().chain(&mut self.authorities).chain(&mut self.additionals)
    }

    /// What addresses a name of ours has, of the family that was asked for.
    pub(super) fn addresses(name: &Name, kind: RecordType, addresses: &[IpAddr], ttl: u32) -> Vec<Record> {
        let any = kind == RecordType::ANY;
        let data = addresses.iter().filter_map(|address| match address {
            IpAddr::V4(v4) if any || kind == RecordType::A => Some(RData::A(rdata::A(*v4))),
            IpAddr::V6(v6) if any || kind == RecordType::AAAA => Some(RData::AAAA(rdata::AAAA(*v6))),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        });
        data.map(|data| Record::from_rdata(name.clone(), ttl, data)).collect()
    }
}

impl Asked {
    /// Reads a message of a guest.
    pub(super) fn read(bytes: &[u8], stream: bool) -> Received {
        // Never answer an answer (RFC 1035, section 4.1.1): two servers would go on for ever.
        if bytes.len() < HEADER || bytes[2] & 0x80 != 0 {
            return Received::Nothing;
        }
        let id = u16::from_be_bytes([bytes[0], bytes[1]]);
        let op_code = OpCode::from_u8(bytes[2] >> 3 & 0xf);
        let wrong = |code| match Message::error_msg(id, op_code, code).to_vec() {
            Ok(answer) => Received::Wrong(answer),
            Err(_) => Received::Nothing,
        };
        if op_code != OpCode::Query {
            return wrong(ResponseCode::NotImp);
        }
        let Ok(message) = Message::from_vec(bytes) else { return wrong(ResponseCode::FormErr) };
        let [query] = message.queries.as_slice() else { return wrong(ResponseCode::FormErr) };
        let payload = message.edns.as_ref().map_or(PLAIN, |edns| edns.max_payload().clamp(PLAIN, DATAGRAM));
        let asked = Self {
            id,
            recursion_desired: message.metadata.recursion_desired,
            checking_disabled: message.metadata.checking_disabled,
            authentic_data: message.metadata.authentic_data,
            query: query.clone(),
            limit: if stream { u16::MAX } else { payload },
            signatures: message.edns.as_ref().map(|edns| edns.flags().dnssec_ok),
        };
        // RFC 6891, section 6.1.3.
        if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            let content = Content { code: ResponseCode::BADVERS, ..Content::default() };
            return Received::Wrong(asked.answer(&content));
        }
        Received::Question(asked)
    }

    pub(super) fn name(&self) -> &Name {
        &self.query.name
    }

    pub(super) fn kind(&self) -> RecordType {
        self.query.query_type
    }

    pub(super) fn class(&self) -> DNSClass {
        self.query.query_class
    }

    pub(super) fn recursion_desired(&self) -> bool {
        self.recursion_desired
    }

    pub(super) fn checking_disabled(&self) -> bool {
        self.checking_disabled
    }

    pub(super) fn wants_signatures(&self) -> bool {
        self.signatures.unwrap_or(false)
    }

    /// The whole message; when it does not fit, one that says so.
    pub(super) fn answer(&self, content: &Content) -> Vec<u8> {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.response_code = content.code;
        message.metadata.authoritative = content.authoritative;
        // To whom it means something (RFC 6840, section 5.7).
        message.metadata.authentic_data =
            content.authentic && (self.authentic_data || self.wants_signatures());
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.add_query(self.query.clone());
        if let Some(signatures) = self.signatures {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM).set_dnssec_ok(signatures);
            message.set_edns(edns);
        }
        let empty = message.clone();
        message.answers.clone_from(&content.answers);
        message.authorities.clone_from(&content.authorities);
        message.additionals.clone_from(&content.additionals);
        let fits = |bytes: &Vec<u8>| bytes.len() <= usize::from(self.limit) && !is_cut(bytes);
        message.to_vec().ok().filter(fits).unwrap_or_else(|| {
            let mut cut = empty;
            cut.metadata.truncation = true;
            // A question fits wherever it came from.
            cut.to_vec().unwrap_or_default()
        })
    }
}

/// Whether an encoded message says that it is not whole.
fn is_cut(bytes: &[u8]) -> bool {
    bytes.get(2).is_none_or(|flags| flags & 0x02 != 0)
}

/// A question for another server; its id is yet to be chosen.
pub(super) fn question(
    name: &Name,
    kind: RecordType,
    checking_disabled: bool,
    signatures: bool,
) -> Option<Vec<u8>> {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = checking_disabled;
    // That it was verified is worth knowing to some who ask.
    message.metadata.authentic_data = true;
    message.add_query(Query::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(DATAGRAM).set_dnssec_ok(signatures);
    message.set_edns(edns);
    message.to_vec().ok()
}
