use std::{
    io::{self, Read},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use viaduct_types::Proto;

use super::{AGAIN, Finding, PATIENCE, SILENCE, Scene};
use crate::{
    datagram::{IcmpError, icmp_error, keep_icmp_errors},
    file::Name,
    responder::read_answer,
    sentence::{Reach, Target},
};

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// An answer.
    Yes {
        /// Who gave it, as far as that shows.
        by: Option<String>,
        /// The client's address as the answering side saw it.
        seen_as: Option<IpAddr>,
    },
    /// The request arrived, but no answer came back.
    OneWay {
        /// The client's address as the other side saw it.
        seen_as: IpAddr,
    },
    /// An error came back.
    Refused(String),
    /// Nothing.
    Nothing,
}

impl Scene<'_> {
    pub(super) fn reach(self, reach: &Reach) -> io::Result<Finding> {
        let targets = match (reach.at, &reach.to) {
            (Some(at), _) => vec![at],
            (None, Some(to)) => self.first_addresses(reach, to)?,
            (None, None) => return Err(io::Error::other("nothing to reach")),
        };
        let mut findings = Vec::new();
        for target in targets {
            findings.push(judge(reach, target, &self.try_to_reach(reach, target)?));
        }
        let holds = findings.iter().all(|finding| finding.holds);
        let told =
            findings.into_iter().filter(|finding| finding.holds == holds).map(|finding| finding.detail);
        Ok(Finding { holds, detail: told.collect::<Vec<_>>().join("\n") })
    }

    /// One address for each family that both ends have.
    fn first_addresses(self, reach: &Reach, to: &Name) -> io::Result<Vec<Target>> {
        let families = [true, false].into_iter().filter(|&v4| match reach.source {
            Some(source) => source.is_ipv4() == v4,
            None => self.inventory.first_address(&reach.from, v4).is_some(),
        });
        let targets: Vec<Target> = families
            .filter_map(|v4| self.inventory.first_address(to, v4))
            .map(|address| Target { address, service: None })
            .collect();
        if targets.is_empty() {
            let message = format!("{} and {to} have no addresses of one family", reach.from);
            return Err(io::Error::other(message));
        }
        Ok(targets)
    }

    fn try_to_reach(self, reach: &Reach, target: Target) -> io::Result<Answer> {
        let deadline = Instant::now() + if reach.reaches { PATIENCE } else { SILENCE };
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let answer = match target.service {
                None => self.ping(reach, target.address, left)?,
                Some((port, proto)) => {
                    let to = SocketAddr::new(target.address, port);
                    self.inside(&reach.from, || match proto {
                        Proto::Tcp => connect(reach.source, to, left),
                        Proto::Udp | Proto::Sctp => exchange(reach.source, to, left),
                    })?
                }
            };
            // Right after a change, a neighbour may still be asked for or an old flow be ended.
            let settled = matches!(answer, Answer::Yes { .. }) || !reach.reaches;
            if settled || Instant::now() + AGAIN > deadline {
                return Ok(answer);
            }
            thread::sleep(AGAIN);
        }
    }
}

fn judge(reach: &Reach, target: Target, answer: &Answer) -> Finding {
    let at = target.address;
    let right = |by: &Option<String>, seen_as: &Option<IpAddr>| {
        reach.to.as_ref().is_none_or(|to| by.as_ref().is_none_or(|by| by == to.as_str()))
            && reach.seen_as.is_none_or(|expected| *seen_as == Some(expected))
    };
    match answer {
        Answer::Yes { by, seen_as } => {
            let by = by.as_deref().unwrap_or("somebody");
            let seen = seen_as.map_or_else(String::new, |seen| format!(", seeing {seen}"));
            let detail = format!("{by} answered at {at}{seen}");
            Finding {
                holds: reach.reaches && right(&Some(by.to_owned()).filter(|by| by != "somebody"), seen_as),
                detail,
            }
        }
        Answer::OneWay { seen_as } => Finding::fails(match &reach.to {
            Some(to) => format!("{to} got it from {seen_as} at {at}, but no answer came back"),
            None => format!("it arrived from {seen_as} at {at}, but no answer came back"),
        }),
        Answer::Refused(why) => Finding { holds: !reach.reaches, detail: format!("{at}: {why}") },
        Answer::Nothing => Finding { holds: !reach.reaches, detail: format!("no answer from {at}") },
    }
}

fn connect(source: Option<IpAddr>, to: SocketAddr, timeout: Duration) -> io::Result<Answer> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    keep_icmp_errors(socket.as_raw_fd(), to.is_ipv6())?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    if let Err(e) = socket.connect_timeout(&to.into(), timeout) {
        return refusal(&e, icmp_error(socket.as_raw_fd()), "a TCP reset");
    }
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(timeout))?;
    let mut text = Vec::new();
    match stream.read_to_end(&mut text) {
        Err(e) if text.is_empty() => {
            refusal(&e, icmp_error(stream.as_raw_fd()), "a TCP reset after connecting")
        }
        _ => Ok(yes(&text)),
    }
}

fn exchange(source: Option<IpAddr>, to: SocketAddr, timeout: Duration) -> io::Result<Answer> {
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
    keep_icmp_errors(socket.as_raw_fd(), to.is_ipv6())?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    if let Err(e) = socket.connect(&to.into()) {
        return refusal(&e, None, "");
    }
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(AGAIN))?;
    let deadline = Instant::now() + timeout;
    let mut buffer = [0; 512];
    loop {
        let result = socket.send(b"who is there?").and_then(|_| socket.recv(&mut buffer));
        match result {
            Ok(length) => return Ok(yes(&buffer[..length])),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return refusal(&e, icmp_error(socket.as_raw_fd()), "refused"),
        }
        if Instant::now() > deadline {
            return Ok(Answer::Nothing);
        }
    }
}

fn yes(text: &[u8]) -> Answer {
    match read_answer(text) {
        Some((by, seen_as)) => Answer::Yes { by: Some(by), seen_as: Some(seen_as) },
        None => Answer::Yes { by: Some("a stranger".to_owned()), seen_as: None },
    }
}

/// Sorts what the kernel says into what came from the network and what is our own fault.
fn refusal(error: &io::Error, icmp: Option<IcmpError>, reset: &str) -> io::Result<Answer> {
    if let Some(icmp) = icmp {
        return Ok(Answer::Refused(icmp.to_string()));
    }
    let kind = error.kind();
    if [io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock].contains(&kind) {
        return Ok(Answer::Nothing);
    }
    let known = [
        (io::ErrorKind::ConnectionRefused, reset),
        (io::ErrorKind::ConnectionReset, reset),
        (io::ErrorKind::NetworkUnreachable, "there is no route to it"),
        (io::ErrorKind::HostUnreachable, "nobody there answers ARP or ND"),
        (io::ErrorKind::PermissionDenied, "the own machine forbids it"),
    ];
    match known.into_iter().find(|&(k, _)| k == kind) {
        Some((_, why)) => Ok(Answer::Refused(why.to_owned())),
        None => Err(io::Error::new(kind, error.to_string())),
    }
}

impl std::fmt::Display for IcmpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // RFC 792, RFC 1812, RFC 4443: destination unreachable is type 3 and type 1.
        let what = match (self.v6, self.kind, self.code) {
            (false, 3, 0) => "network unreachable",
            (false, 3, 1) | (true, 1, 3) => "host unreachable",
            (false, 3, 3) | (true, 1, 4) => "port unreachable",
            (false, 3, 9 | 10 | 13) | (true, 1, 1) => "administratively prohibited",
            (true, 1, 0) => "no route",
            (true, 1, 5) => "source address refused",
            _ => "an error",
        };
        let name = if self.v6 { "ICMPv6" } else { "ICMP" };
        write!(f, "{what} ({name} {}/{} from {})", self.kind, self.code, self.sender)
    }
}
