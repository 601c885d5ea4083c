//! The netlink socket: requests with their answers, and batches with what the kernel has against them.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::{
    io::{Errno, retry_on_intr},
    net::{RecvFlags, SendFlags, recv, send, sockopt},
};

use super::{
    NftError,
    attr::{Header, Malformed, Message, Writer, attrs, messages, ne32, text},
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
/// The error's text and the place of what is wrong follow (NETLINK_EXT_ACK).
const NLM_F_ACK_TLVS: u16 = 0x200;
/// nlmsgerr_attrs
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;
/// Bytes of nlmsgerr: the error, and the header of the message that it is about (NETLINK_CAP_ACK).
const ERROR_LEN: usize = 20;

/// The kernel never sends more at once (`netlink_recvmsg` in net/netlink/af_netlink.c).
const DATAGRAM_MAX: usize = 64 * 1024;
/// Room for the errors of a batch in which every message fails; each takes the kernel less than a kilobyte.
const RECEIVE_BUFFER: usize = 16 * 1024 * 1024;

/// A request for a list.
pub(super) struct Request {
    /// For the one who reads an error.
    pub(super) what: &'static str,
    /// nf_tables_msg_types, with the subsystem.
    pub(super) kind: u16,
    /// NFPROTO_*
    pub(super) family: u8,
    /// Whether the answer is a list.
    pub(super) dump: Dump,
}

/// Whether the answer is a list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dump {
    No,
    Yes,
}

/// Takes one object of a list: its family and its attributes.
pub(super) type Each<'a> = dyn FnMut(u8, &[u8]) -> Result<(), Malformed> + 'a;

/// One error of a batch.
pub(super) struct Refusal {
    /// Of which message.
    pub(super) seq: u32,
    /// The kernel's error.
    pub(super) error: io::Error,
    /// The kernel's words.
    pub(super) message: Option<String>,
    /// Where in the message the wrong attribute stands.
    pub(super) offset: Option<u32>,
}

/// What came back for a batch.
#[derive(Default)]
pub(super) struct Outcome {
    /// The first error.
    pub(super) refusal: Option<Refusal>,
    /// Whether an answer without error came.
    pub(super) acknowledged: bool,
}

/// A netlink socket to netfilter in one network namespace.
pub(super) struct Connection {
    socket: Socket,
    port: u32,
    buffer: Vec<u8>,
    seq: u32,
}

impl Connection {
    /// In the network namespace of the calling thread, for good.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let port = socket.bind_auto()?.port_number();
        // To the kernel, so that nobody else is heard.
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        if sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
        }
        Ok(Self { socket, port, buffer: vec![0; DATAGRAM_MAX], seq: 1 })
    }

    /// Its address: what the kernel tells others as the sender of its transactions.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// The sequence number of the next message.
    pub(super) fn next_seq(&self) -> u32 {
        self.seq
    }

    /// Sends a request and hands each object of the answer over.
    ///
    /// # Errors
    /// [`NftError::Unsettled`] when objects changed meanwhile, so that the list is not one of a single moment.
    pub(super) fn request(
        &mut self,
        request: &Request,
        fill: impl FnOnce(&mut Writer),
        each: &mut Each<'_>,
    ) -> Result<(), NftError> {
        let what = request.what;
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        let flags = match request.dump {
            Dump::Yes => NLM_F_DUMP,
            Dump::No => NLM_F_ACK,
        };
        let header = Header { kind: request.kind, flags, seq, family: request.family, resource: 0 };
        let mut writer = Writer::default();
        writer.message(&header, fill);
        self.send(writer.bytes())?;

        // The list is read to its end even when it is of no use: an unfinished one would stop the next request.
        let mut result = Ok(());
        loop {
            let datagram = match receive(&self.socket, &mut self.buffer, RecvFlags::empty()) {
                Ok(datagram) => datagram,
                Err(source) => return Err(NftError::Receive { what, source }),
            };
            for message in messages(datagram) {
                let Ok(message) = message else { return Err(NftError::Malformed { what }) };
                if message.seq != seq {
                    continue;
                }
                if message.flags & NLM_F_DUMP_INTR != 0 {
                    result = Err(NftError::Unsettled { attempts: 1 });
                }
                if matches!(message.kind, NLMSG_ERROR | NLMSG_DONE) {
                    return finish(what, &message).and(result);
                }
                if result.is_ok() && message.body().and_then(|(family, body)| each(family, body)).is_err() {
                    result = Err(NftError::Malformed { what });
                }
            }
        }
    }

    /// Sends a batch in one go and collects what the kernel says, which it has said when the sending returns. The
    /// messages have the next sequence numbers in order.
    pub(super) fn batch(&mut self, batch: &[u8], messages_len: u32) -> Result<Outcome, NftError> {
        let first = self.seq;
        self.seq = first.wrapping_add(messages_len);
        // A netlink message must fit into the send buffer whole.
        if sockopt::set_socket_send_buffer_size_force(&self.socket, batch.len() + 4096).is_err() {
            // Without the right to force it the limit of the host holds, and sending says so.
            let _ = sockopt::set_socket_send_buffer_size(&self.socket, batch.len() + 4096);
        }
        self.send(batch)?;
        let mut outcome = Outcome::default();
        loop {
            let datagram = match receive(&self.socket, &mut self.buffer, RecvFlags::DONTWAIT) {
                Ok(datagram) => datagram,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(outcome),
                // More errors than fit; the first ones were kept.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => continue,
                Err(source) => return Err(NftError::Receive { what: "the result of a transaction", source }),
            };
            for message in messages(datagram) {
                let Ok(message) = message else {
                    return Err(NftError::Malformed { what: "errors" });
                };
                if message.kind != NLMSG_ERROR || message.seq.wrapping_sub(first) >= messages_len {
                    continue;
                }
                match refusal(&message) {
                    Err(Malformed) => return Err(NftError::Malformed { what: "errors" }),
                    Ok(None) => outcome.acknowledged = true,
                    Ok(Some(refusal)) => {
                        outcome.refusal.get_or_insert(refusal);
                    }
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NftError> {
        match retry_on_intr(|| send(&self.socket, bytes, SendFlags::empty())) {
            Ok(_) => Ok(()),
            Err(source) => Err(NftError::Send { bytes: bytes.len(), source: source.into() }),
        }
    }
}

fn receive<'a>(socket: &Socket, buffer: &'a mut [u8], flags: RecvFlags) -> io::Result<&'a [u8]> {
    let (kept, sent) = retry_on_intr(|| recv(socket, &mut *buffer, flags | RecvFlags::TRUNC))?;
    if sent > kept {
        return Err(Errno::MSGSIZE.into());
    }
    Ok(buffer.get(..kept).unwrap_or_default())
}

/// The end of an answer: the error of a request, or the last message of a list, which has one, too.
fn finish(what: &'static str, message: &Message<'_>) -> Result<(), NftError> {
    match ne32(message.payload, 0).map(|e| e.cast_signed()) {
        Ok(0) => Ok(()),
        // What the list is of has gone since it was named, or the kernel gave the list up.
        Ok(e) if matches!(-e, libc::ENOENT | libc::EINTR | libc::EAGAIN) => {
            Err(NftError::Unsettled { attempts: 1 })
        }
        Ok(e) => Err(NftError::Receive { what, source: io::Error::from_raw_os_error(e.wrapping_neg()) }),
        Err(Malformed) => Err(NftError::Malformed { what }),
    }
}

fn refusal(message: &Message<'_>) -> Result<Option<Refusal>, Malformed> {
    let error = ne32(message.payload, 0)?.cast_signed();
    if error == 0 {
        return Ok(None);
    }
    let error = io::Error::from_raw_os_error(error.wrapping_neg());
    let mut refusal = Refusal { seq: message.seq, error, message: None, offset: None };
    if message.flags & NLM_F_ACK_TLVS != 0 {
        for attr in attrs(message.payload.get(ERROR_LEN..).ok_or(Malformed)?) {
            match attr? {
                (NLMSGERR_ATTR_MSG, words) => refusal.message = Some(text(words)?.to_owned()),
                (NLMSGERR_ATTR_OFFS, offset) => refusal.offset = Some(ne32(offset, 0)?),
                _ => {}
            }
        }
    }
    Ok(Some(refusal))
}
