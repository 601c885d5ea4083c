use std::{
    io,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    AGAIN, Scene,
    packets::{Token, token},
    reach::Answer,
};
use crate::{datagram::IcmpError, sentence::Reach};

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const UNREACHABLE: u8 = 3;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
const UNREACHABLE_V6: u8 = 1;

impl Scene<'_> {
    /// Sends echo requests; where the other side is known, looks there, too, whether they arrive and from whom.
    pub(super) fn ping(self, reach: &Reach, to: IpAddr, timeout: Duration) -> io::Result<Answer> {
        let ear = match &reach.to {
            Some(machine) => Some((machine, self.inside(machine, || open(to))?)),
            None => None,
        };
        let token = token()?;
        let answer = self.inside(&reach.from, || {
            let socket = open(to)?;
            if let Some(source) = reach.source {
                socket.bind(&SocketAddr::new(source, 0).into())?;
            }
            ask(&socket, to, &token, timeout)
        })?;
        let Some((machine, ear)) = ear else { return Ok(answer) };
        let kind = if to.is_ipv4() { ECHO_REQUEST } else { ECHO_REQUEST_V6 };
        let seen_as =
            next(&ear, |from, icmp| (icmp.first() == Some(&kind) && ends_with(icmp, &token)).then_some(from));
        Ok(match (answer, seen_as) {
            (Answer::Yes { .. }, Some(seen_as)) => {
                Answer::Yes { by: Some(machine.to_string()), seen_as: Some(seen_as) }
            }
            (Answer::Yes { .. }, None) => {
                Answer::Yes { by: Some("another machine".to_owned()), seen_as: None }
            }
            (Answer::OneWay { .. } | Answer::Refused(_) | Answer::Nothing, Some(seen_as)) => {
                Answer::OneWay { seen_as }
            }
            (other, None) => other,
        })
    }
}

fn open(to: IpAddr) -> io::Result<Socket> {
    let (domain, protocol) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn ask(socket: &Socket, to: IpAddr, token: &Token, timeout: Duration) -> io::Result<Answer> {
    let deadline = Instant::now() + timeout;
    for seq in 0.. {
        let echo = IcmpEchoHeader { id: u16::from_be_bytes([token[0], token[1]]), seq };
        match socket.send_to(&request(to, echo, token), &SocketAddr::new(to, 0).into()) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NetworkUnreachable => {
                return Ok(Answer::Refused("there is no route to it".to_owned()));
            }
            Err(e) if e.kind() == io::ErrorKind::HostUnreachable => {}
            Err(e) => return Err(e),
        }
        let again = (Instant::now() + AGAIN).min(deadline);
        loop {
            match next(socket, |from, icmp| reply(from, icmp, to, echo.id, token)) {
                Some(answer) => return Ok(answer),
                None if Instant::now() >= again => break,
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        if Instant::now() >= deadline {
            break;
        }
    }
    Ok(Answer::Nothing)
}

/// What an ICMP message says about the request, if it is about it.
fn reply(from: IpAddr, icmp: &[u8], to: IpAddr, id: u16, token: &Token) -> Option<Answer> {
    let (&kind, &code) = (icmp.first()?, icmp.get(1)?);
    let is_reply = kind == if to.is_ipv4() { ECHO_REPLY } else { ECHO_REPLY_V6 };
    if is_reply && from == to && ends_with(icmp, token) {
        return Some(Answer::Yes { by: None, seen_as: None });
    }
    // The error carries the request: an IP header, without options as we send it, and the echo header with our id.
    let (unreachable, ip_header) = if to.is_ipv4() { (UNREACHABLE, 20) } else { (UNREACHABLE_V6, 40) };
    let theirs = icmp.get(8 + ip_header + 4..8 + ip_header + 6)?;
    (kind == unreachable && theirs == id.to_be_bytes())
        .then(|| Answer::Refused(IcmpError { v6: to.is_ipv6(), kind, code, sender: from }.to_string()))
}

fn request(to: IpAddr, echo: IcmpEchoHeader, token: &Token) -> Vec<u8> {
    let mut bytes = match to {
        IpAddr::V4(_) => {
            Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), token).to_bytes().to_vec()
        }
        // The kernel fills the checksum in, which covers addresses that only it knows (RFC 3542, section 3.1).
        IpAddr::V6(_) => Icmpv6Header::new(Icmpv6Type::EchoRequest(echo)).to_bytes().to_vec(),
    };
    bytes.extend_from_slice(token);
    bytes
}

/// Reads what has arrived until the closure makes something of it.
fn next<T>(socket: &Socket, read: impl Fn(IpAddr, &[u8]) -> Option<T>) -> Option<T> {
    let mut buffer = [MaybeUninit::uninit(); 2048];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).ok()?;
        // SAFETY: the kernel has filled that many bytes.
        let bytes = unsafe { buffer[..length].assume_init_ref() };
        let from = from.as_socket()?.ip();
        // Only IPv4 raw sockets show the IP header (raw(7)).
        let header = if from.is_ipv4() { usize::from(bytes.first().map_or(0, |b| b & 0x0f)) * 4 } else { 0 };
        if let Some(found) = bytes.get(header..).and_then(|icmp| read(from, icmp)) {
            return Some(found);
        }
    }
}

fn ends_with(icmp: &[u8], token: &Token) -> bool {
    icmp.get(8..).is_some_and(|payload| payload == token)
}
