//! Netlink messages and attributes (include/uapi/linux/netlink.h), written and read.

/// Bytes of nlmsghdr.
const HEADER: usize = 16;
/// Bytes of nfgenmsg, which follows it in every message of netfilter.
const FAMILY_HEADER: usize = 4;
/// Bytes of nlattr.
const ATTR_HEADER: usize = 4;
/// NLM_F_REQUEST
const NLM_F_REQUEST: u16 = 1;
/// NLA_F_NESTED
const NESTED: u16 = 1 << 15;
/// NLA_TYPE_MASK
const KIND: u16 = 0x3fff;

/// Writes messages one after the other.
#[derive(Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    overlong: bool,
}

/// A message's header.
pub(super) struct Header {
    /// nlmsg_type
    pub(super) kind: u16,
    /// NLM_F_*, without NLM_F_REQUEST, which is always set.
    pub(super) flags: u16,
    /// nlmsg_seq
    pub(super) seq: u32,
    /// nfgen_family
    pub(super) family: u8,
    /// res_id
    pub(super) resource: u16,
}

impl Writer {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), overlong: false }
    }

    /// What was written so far.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether an attribute was longer than its 16-bit length can say; then the bytes are not to be sent.
    pub(super) fn overlong(&self) -> bool {
        self.overlong
    }

    /// A whole message.
    pub(super) fn message(&mut self, header: &Header, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&header.kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(header.flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&header.seq.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[header.family, 0]);
        self.bytes.extend_from_slice(&header.resource.to_be_bytes());
        fill(self);
        match u32::try_from(self.bytes.len() - start) {
            Ok(len) => self.patch(start, &len.to_ne_bytes()),
            Err(_) => self.overlong = true,
        }
    }

    /// More flags for the message that starts at an offset.
    pub(super) fn add_flags(&mut self, message: usize, more: u16) {
        if let Ok(flags) = ne16(&self.bytes, message + 6) {
            self.patch(message + 6, &(flags | more).to_ne_bytes());
        }
    }

    /// An attribute of bytes.
    pub(super) fn attr(&mut self, kind: u16, payload: &[u8]) {
        let start = self.begin(kind);
        self.bytes.extend_from_slice(payload);
        self.end(start);
    }

    /// An attribute of one byte.
    pub(super) fn u8(&mut self, kind: u16, value: u8) {
        self.attr(kind, &[value]);
    }

    /// An attribute of four bytes in network byte order, as nf_tables has its numbers.
    pub(super) fn be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub(super) fn be64(&mut self, kind: u16, value: u64) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// A text with its NUL.
    pub(super) fn text(&mut self, kind: u16, text: &str) {
        let start = self.begin(kind);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.end(start);
    }

    /// An attribute of attributes.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.begin(kind | NESTED);
        fill(self);
        self.end(start);
    }

    fn begin(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn end(&mut self, start: usize) {
        match u16::try_from(self.bytes.len() - start) {
            Ok(len) => self.patch(start, &len.to_ne_bytes()),
            Err(_) => self.overlong = true,
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn patch(&mut self, at: usize, with: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + with.len()) {
            place.copy_from_slice(with);
        }
    }
}

/// Bytes that are not what their lengths say, or not what the kernel's header files say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// A message as received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    /// nlmsg_type
    pub(super) kind: u16,
    /// NLM_F_*
    pub(super) flags: u16,
    /// nlmsg_seq
    pub(super) seq: u32,
    /// What follows the header.
    pub(super) payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Bytes with header.
    pub(super) fn len(&self) -> usize {
        HEADER + self.payload.len()
    }

    /// The family of a netfilter message, and its attributes.
    pub(super) fn body(&self) -> Result<(u8, &'a [u8]), Malformed> {
        let (header, attributes) = self.payload.split_at_checked(FAMILY_HEADER).ok_or(Malformed)?;
        Ok((*header.first().ok_or(Malformed)?, attributes))
    }
}

/// The messages of a datagram.
pub(super) fn messages(bytes: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Malformed>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = split_message(rest);
        rest = message.as_ref().map_or(&[], |(_, rest)| rest);
        Some(message.map(|(message, _)| message))
    })
}

fn split_message(bytes: &[u8]) -> Result<(Message<'_>, &[u8]), Malformed> {
    let len = usize::try_from(ne32(bytes, 0)?).map_err(|_| Malformed)?;
    let message = Message {
        kind: ne16(bytes, 4)?,
        flags: ne16(bytes, 6)?,
        seq: ne32(bytes, 8)?,
        payload: bytes.get(HEADER..len).ok_or(Malformed)?,
    };
    let next = len.checked_next_multiple_of(4).ok_or(Malformed)?;
    Ok((message, bytes.get(next..).unwrap_or_default()))
}

/// Attributes one after the other: number without flags, and payload.
pub(super) fn attrs(bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let attr = split_attr(rest);
        rest = attr.as_ref().map_or(&[], |(_, rest)| rest);
        Some(attr.map(|(attr, _)| attr))
    })
}

type Attr<'a> = (u16, &'a [u8]);

fn split_attr(bytes: &[u8]) -> Result<(Attr<'_>, &[u8]), Malformed> {
    let len = usize::from(ne16(bytes, 0)?);
    let kind = ne16(bytes, 2)? & KIND;
    let payload = bytes.get(ATTR_HEADER..len).ok_or(Malformed)?;
    Ok(((kind, payload), bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// The payload of the first attribute with a number.
pub(super) fn find(bytes: &[u8], kind: u16) -> Result<Option<&[u8]>, Malformed> {
    for attr in attrs(bytes) {
        let (number, payload) = attr?;
        if number == kind {
            return Ok(Some(payload));
        }
    }
    Ok(None)
}

/// A number in network byte order.
pub(super) fn be32(payload: &[u8]) -> Result<u32, Malformed> {
    payload.try_into().map(u32::from_be_bytes).map_err(|_| Malformed)
}

/// A number in network byte order.
pub(super) fn be64(payload: &[u8]) -> Result<u64, Malformed> {
    payload.try_into().map(u64::from_be_bytes).map_err(|_| Malformed)
}

/// A number of one byte.
pub(super) fn byte(payload: &[u8]) -> Result<u8, Malformed> {
    payload.first().copied().ok_or(Malformed)
}

/// A text, with or without its NUL.
pub(super) fn text(payload: &[u8]) -> Result<&str, Malformed> {
    let end = payload.iter().position(|&b| b == 0).unwrap_or(payload.len());
    payload.get(..end).and_then(|text| str::from_utf8(text).ok()).ok_or(Malformed)
}

/// A number in host byte order somewhere in a header.
pub(super) fn ne32(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Malformed)?;
    Ok(u32::from_ne_bytes(*field))
}

fn ne16(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Malformed)?;
    Ok(u16::from_ne_bytes(*field))
}
