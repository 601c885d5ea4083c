//! One netlink socket, blocking: batches of requests whose answers are told apart by sequence number, and dumps that
//! are started again when what they read changed meanwhile.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::net::sockopt;

use crate::{attr, error::Refusal};

const HEADER: usize = 16;

// include/uapi/linux/netlink.h
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Requests with answers per system call: their answers wait in the receive buffer, about 1 KiB of kernel memory
/// each, until the whole batch is done.
const BATCH_ANSWERS: usize = 256;

/// What the buffers are raised to; by default a batch of some hundred messages ends with EMSGSIZE.
const BUFFER: usize = 4 << 20;

/// The kernel answers at once; this is for a kernel that does not answer at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a dump is started again when tables change under it.
const DUMP_TRIES: u32 = 12;

/// One message to the kernel, without its netlink header.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Request {
    /// A request of any protocol; NLM_F_REQUEST is added.
    pub(crate) fn new(kind: u16, flags: u16, body: Vec<u8>) -> Self {
        Self { kind, flags: flags | NLM_F_REQUEST, body }
    }

    /// A change that is answered.
    pub(crate) fn change(message: &RouteNetlinkMessage, flags: u16) -> Self {
        Self::route(message, flags | NLM_F_ACK)
    }

    /// A change that is answered only when it fails.
    pub(crate) fn quiet(message: &RouteNetlinkMessage) -> Self {
        Self::route(message, 0)
    }

    /// A question with many answers.
    pub(crate) fn dump(message: &RouteNetlinkMessage) -> Self {
        Self::route(message, NLM_F_DUMP)
    }

    fn route(message: &RouteNetlinkMessage, flags: u16) -> Self {
        let mut body = vec![0; message.buffer_len()];
        message.serialize(&mut body);
        Self::new(message.message_type(), flags, body)
    }

    fn is_answered(&self) -> bool {
        self.flags & NLM_F_ACK != 0
    }

    fn write(&self, to: &mut Vec<u8>, sequence: u32) {
        let length = HEADER + self.body.len();
        // A request is a few hundred bytes.
        to.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        to.extend_from_slice(&self.kind.to_ne_bytes());
        to.extend_from_slice(&self.flags.to_ne_bytes());
        to.extend_from_slice(&sequence.to_ne_bytes());
        to.extend_from_slice(&0_u32.to_ne_bytes());
        to.extend_from_slice(&self.body);
        to.resize(to.len().next_multiple_of(4), 0);
    }
}

/// A netlink socket. It belongs to the network namespace that its thread was in when it was opened, for ever.
pub(crate) struct Socket {
    inner: netlink_sys::Socket,
    port: u32,
    sequence: u32,
    /// What one send may hold.
    room: usize,
    /// What one receive may hold. The buffer is not kept: there may be a socket for each of thousands of guests.
    capacity: usize,
}

impl Socket {
    /// Opens a socket of a protocol of [`netlink_sys::protocols`] in the calling thread's namespace.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut inner = netlink_sys::Socket::new(protocol)?;
        let port = inner.bind_auto()?.port_number();
        inner.set_ext_ack(true)?;
        // Answers need not carry the request back.
        inner.set_cap_ack(true)?;
        // Without it, old kernels ignore the filters in dump requests; what they then tell too much is skipped.
        let _ = inner.set_netlink_get_strict_chk(true);
        // Without CAP_NET_ADMIN the default sizes stay; then nothing is changed anyway.
        let _ = sockopt::set_socket_send_buffer_size_force(&inner, BUFFER);
        let _ = sockopt::set_socket_recv_buffer_size_force(&inner, BUFFER);
        sockopt::set_socket_timeout(&inner, sockopt::Timeout::Recv, Some(PATIENCE))?;
        let room = sockopt::socket_send_buffer_size(&inner)? / 2;
        Ok(Self { inner, port, sequence: 1, room, capacity: 64 << 10 })
    }

    /// Its address: what the kernel tells others as the sender of its requests.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends the requests in order, as many per system call as fit, and gives each one's answer. A request that asks
    /// for none counts as done unless the kernel says otherwise.
    pub(crate) fn batch(&mut self, requests: &[Request]) -> Vec<Result<(), Refusal>> {
        let mut answers = Vec::with_capacity(requests.len());
        let mut rest = requests;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.fitting(rest));
            answers.extend(self.send(now));
            rest = later;
        }
        answers
    }

    fn fitting(&self, requests: &[Request]) -> usize {
        let (mut bytes, mut answers) = (0, 0);
        let fitting = requests.iter().take_while(|request| {
            bytes += (HEADER + request.body.len()).next_multiple_of(4);
            answers += usize::from(request.is_answered());
            bytes <= self.room && answers <= BATCH_ANSWERS
        });
        fitting.count().max(1)
    }

    fn send(&mut self, requests: &[Request]) -> Vec<Result<(), Refusal>> {
        let first = self.sequence;
        let mut bytes = Vec::new();
        for request in requests {
            request.write(&mut bytes, self.sequence);
            self.sequence = self.sequence.wrapping_add(1);
        }
        if let Err(e) = self.inner.send(&bytes, 0) {
            // Nothing of it was done.
            return vec![Err(Refusal::new(e.raw_os_error().unwrap_or(libc::EIO))); requests.len()];
        }
        let mut answers: Vec<_> =
            requests.iter().map(|r| if r.is_answered() { None } else { Some(Ok(())) }).collect();
        let mut missing = answers.iter().filter(|a| a.is_none()).count();
        let mut received = Vec::new();
        while missing > 0 {
            if let Err(e) = self.receive(&mut received) {
                return answers.into_iter().map(|a| a.unwrap_or_else(|| Err(Refusal::lost(&e)))).collect();
            }
            for message in Messages(&received) {
                let index = usize::try_from(message.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                // An answer to something older, given up.
                let Some(slot) = answers.get_mut(index) else { continue };
                if message.kind == NLMSG_ERROR {
                    missing -= usize::from(slot.is_none());
                    *slot = Some(message.outcome());
                }
            }
        }
        answers.into_iter().flatten().collect()
    }

    /// Asks, and gives what `read` makes of each answer (by message type and body). Starts anew when the kernel says
    /// that what it read changed meanwhile.
    pub(crate) fn ask<T>(
        &mut self,
        request: &Request,
        mut read: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        for attempt in 0..DUMP_TRIES {
            // The first ones at once, then longer and longer: somebody is making hundreds of links.
            std::thread::sleep(Duration::from_millis(u64::from(attempt.saturating_sub(2)) * 10));
            match self.ask_once(request, &mut read) {
                Ok(Some(answers)) => return Ok(answers),
                Ok(None) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Err(Refusal {
            errno: libc::EAGAIN,
            message: Some(
                "it kept changing while it was read; try again when the host is quieter".to_owned(),
            ),
        })
    }

    /// None: interrupted or overrun, to be asked again.
    fn ask_once<T>(
        &mut self,
        request: &Request,
        read: &mut impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Refusal> {
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        request.write(&mut bytes, sequence);
        self.inner.send(&bytes, 0).map_err(|e| Refusal::new(e.raw_os_error().unwrap_or(libc::EIO)))?;
        let (mut answers, mut received, mut interrupted) = (Vec::new(), Vec::new(), false);
        loop {
            match self.receive(&mut received) {
                Ok(()) => {}
                // The kernel dropped answers for lack of memory; what is still queued has an old sequence number.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return Ok(None),
                Err(e) => return Err(Refusal::lost(&e)),
            }
            for message in Messages(&received).filter(|m| m.sequence == sequence) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        return message.outcome().map(|()| (!interrupted).then_some(answers));
                    }
                    kind => answers.extend(read(kind, message.body)),
                }
            }
        }
    }

    fn receive(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        loop {
            into.clear();
            into.reserve(self.capacity);
            match self.inner.recv(into, libc::MSG_TRUNC) {
                Ok(length) if length > into.len() => {
                    // The kernel fills at most what it saw us receive, so that this is one message that does not
                    // fit. Have it told again.
                    self.capacity = length;
                    return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
                }
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    flags: u16,
    sequence: u32,
    /// Of a notification: the port of the socket whose request it is about; 0 when the kernel does not say.
    pub(crate) port: u32,
    pub(crate) body: &'a [u8],
}

impl Message<'_> {
    /// Of NLMSG_ERROR and NLMSG_DONE: the error number comes first; after it, unless it was left out, the request;
    /// then, if the flag says so, attributes.
    fn outcome(&self) -> Result<(), Refusal> {
        let Some((code, rest)) = self.body.split_first_chunk() else { return Ok(()) };
        let errno = i32::from_ne_bytes(*code).saturating_neg();
        if errno <= 0 {
            return Ok(());
        }
        let attributes = match (self.kind, rest.first_chunk()) {
            (NLMSG_ERROR, Some(_)) if self.flags & NLM_F_CAPPED != 0 => rest.get(HEADER..),
            (NLMSG_ERROR, Some(length)) => usize::try_from(u32::from_ne_bytes(*length))
                .ok()
                .and_then(|l| rest.get(l.next_multiple_of(4)..)),
            _ => Some(rest),
        };
        let message = attributes
            .filter(|_| self.flags & NLM_F_ACK_TLVS != 0)
            .and_then(|a| attr::find(a, NLMSGERR_ATTR_MSG))
            .map(attr::text);
        Err(Refusal { errno, message })
    }
}

/// The messages of one datagram; ends at the first that does not fit.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&h, _) = self.0.split_first_chunk::<HEADER>()?;
        let length = usize::try_from(u32::from_ne_bytes([h[0], h[1], h[2], h[3]])).ok()?;
        let body = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([h[4], h[5]]),
            flags: u16::from_ne_bytes([h[6], h[7]]),
            sequence: u32::from_ne_bytes([h[8], h[9], h[10], h[11]]),
            port: u32::from_ne_bytes([h[12], h[13], h[14], h[15]]),
            body,
        })
    }
}
