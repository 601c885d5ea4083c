//! The process that answers guests. The daemon starts it, tells it on its standard input what to serve, a line of JSON
//! for each device that changes, and hears from it on its standard output. It ends when its input does.

mod framed;
mod names;
mod ports;

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::SocketAddr,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    thread::CapabilitySet,
};
use serde::{Deserialize, Serialize};
use viaduct_kernel::{Listen, Netns, NetnsRef};
use viaduct_plan::{ServedLink, ServedLinkChange, ZoneChange};
use viaduct_services::{Event, Frame, dhcp4, dhcp6, neighbours, ra};
use viaduct_types::{IfName, NamespaceName, NetworkName};

use crate::{
    failure::Failure,
    privileges,
    sandbox::{self, Calls, Places},
};
use names::Names;
use ports::{News, Ports, Source};

/// How it is called on the command line, where only we call it.
pub(crate) const COMMAND: &str = "answer-guests";

/// What the daemon says.
#[derive(Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Order {
    /// What is different on a device.
    Link { device: IfName, change: ServedLinkChange },
    /// What is different in the names of a network.
    Zone { network: NetworkName, change: ZoneChange },
    /// The name servers that the host itself asks; none: the same as before.
    Servers { servers: Option<Vec<SocketAddr>> },
    /// It is to say that it lives.
    Answer,
}

/// What the daemon hears.
#[derive(Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Report {
    /// Something happened.
    Event { event: Event },
    /// It lives.
    Lives,
    /// Guests ask, and the host's name servers may be others than before: this process reads no files.
    AsksForServers,
}

/// What it does until its input ends: in a namespace, if one is named, as `ip netns exec` would have it there.
pub(crate) fn run(namespace: Option<&NamespaceName>) -> Result<(), Failure> {
    let failed =
        |what: &str, error: io::Error| Failure::failed(format!("guests are not answered: {what}: {error}"));
    // A ctrl-C in the daemon's terminal is for the daemon, which ends this.
    let _ = rustix::process::setsid();
    if let Some(namespace) = namespace {
        Netns::find(&NetnsRef::Name(namespace.clone()))?.become_inside()?;
    }
    // Only what packet sockets and the port of name servers need.
    let needed = CapabilitySet::NET_RAW | CapabilitySet::NET_BIND_SERVICE;
    privileges::keep_only(needed).map_err(|e| failed("cannot give up privileges", e))?;
    let mut ports = Ports::new().map_err(|e| failed("cannot wait for frames", e))?;
    ports
        .listen_to(Source::Daemon, io::stdin().as_fd())
        .map_err(|e| failed("cannot listen to the daemon", e))?;
    let names = Names::new().map_err(|e| failed("cannot wait for questions", e))?;
    ports.listen_to(Source::Names, names.as_fd()).map_err(|e| failed("cannot wait for questions", e))?;
    let seed = seed().map_err(|e| failed("there is no randomness", e))?;
    let places = Places { files: Vec::new(), ports: vec![viaduct_services::dns::PORT] };
    sandbox::enter("the process that answers guests", &places, Calls::Answering)
        .map_err(|e| failed("cannot be confined", e))?;
    let run = Run {
        served: BTreeMap::new(),
        dhcp4: dhcp4::Server::default(),
        dhcp6: dhcp6::Server::default(),
        responder: neighbours::Responder::default(),
        advertiser: ra::Advertiser::new(seed),
        ports,
        names,
        start: Instant::now(),
        knows_servers: false,
        orders: Vec::new(),
        frames: Vec::new(),
    };
    run.run().map_err(|e| failed("cannot go on", e))
}

fn seed() -> io::Result<u64> {
    let mut seed = [0; 8];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(seed))
}

struct Run {
    served: BTreeMap<IfName, ServedLink>,
    dhcp4: dhcp4::Server,
    dhcp6: dhcp6::Server,
    responder: neighbours::Responder,
    advertiser: ra::Advertiser,
    ports: Ports,
    names: Names,
    start: Instant,
    /// Whether the daemon has said which name servers the host asks, since it was asked.
    knows_servers: bool,
    /// What came of the next order so far.
    orders: Vec<u8>,
    /// What is sent next; room for it.
    frames: Vec<Frame>,
}

impl Run {
    fn run(mut self) -> io::Result<()> {
        loop {
            let now = self.start.elapsed();
            let due = [self.dhcp4.due(), self.advertiser.due(), self.ports.due(), self.names.due()];
            let due = due.into_iter().flatten().min();
            for source in self.ports.wait(due.map(|due| due.saturating_sub(now)))? {
                match source {
                    Source::Daemon => {
                        if !self.hear()? {
                            return Ok(());
                        }
                    }
                    Source::Names => {
                        if !self.ask_for_servers()? {
                            return Ok(());
                        }
                        self.names.read(self.start.elapsed())?;
                    }
                    Source::Port(port) => drop(self.read(port)),
                }
                self.send();
            }
            let now = self.start.elapsed();
            self.ports.open_missing(now);
            self.look_at_ports();
            if self.dhcp4.due().is_some_and(|due| due <= now) {
                // Who answered in time is not to be taken for nobody, however long this process did not run.
                self.ports.all(Listen::Arp).into_iter().for_each(|port| self.read_all(port));
            }
            self.dhcp4.tick(now);
            self.advertiser.tick(now);
            self.names.tick(now);
            self.send();
            while let Some(event) = self.dhcp4.event().or_else(|| self.dhcp6.event()) {
                tell(&Report::Event { event })?;
            }
        }
    }

    /// Asks the daemon which name servers the host asks, if it is time to, before anybody is asked. Whether there is
    /// still a daemon.
    fn ask_for_servers(&mut self) -> io::Result<bool> {
        let begun = self.start.elapsed();
        if !self.names.is_time_to_ask_for_servers(begun) {
            return Ok(true);
        }
        self.knows_servers = false;
        tell(&Report::AsksForServers)?;
        while !self.knows_servers {
            let left = (begun + PATIENCE).saturating_sub(self.start.elapsed());
            let stdin = io::stdin();
            let mut daemon = [PollFd::new(&stdin, PollFlags::IN)];
            match poll(&mut daemon, Timespec::try_from(left).ok().as_ref()) {
                // A daemon that is busy says it later.
                Ok(0) => break,
                Ok(_) => {
                    if !self.hear()? {
                        return Ok(false);
                    }
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }

    /// Reads some of what waits; says whether there may be more.
    fn read(&mut self, port: u64) -> bool {
        let now = self.start.elapsed();
        let Self { dhcp4, dhcp6, responder, advertiser, ports, .. } = self;
        ports.read(port, now, |device, listen, mac, frame| match listen {
            Listen::Dhcp4 | Listen::Arp => dhcp4.receive(now, device, mac, frame),
            Listen::Ip6 => {
                dhcp6.receive(device, mac, frame);
                advertiser.receive(now, device, frame);
            }
            Listen::Neighbours => responder.receive(device, mac, frame),
        })
    }

    /// Reads what waits, as long as that is not without end.
    fn read_all(&mut self, port: u64) {
        let mut turns = 0..TURNS;
        while self.read(port) && turns.next().is_some() {
            self.send();
        }
    }

    fn look_at_ports(&mut self) {
        let now = self.start.elapsed();
        while let Some(news) = self.ports.news() {
            match news {
                News::Opened(device, mac) => {
                    self.advertiser.opened(now, &device, mac);
                    self.names.opened(now, &device);
                }
                News::Closed(device) => {
                    self.advertiser.closed(&device);
                    self.names.closed(&device);
                }
            }
            // Of many devices at once, it would be more than is kept.
            self.send();
        }
    }

    fn obey(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::Answer => tell(&Report::Lives)?,
            Order::Link { device, change } => {
                let mut link = self.served.remove(&device).unwrap_or_default();
                link.change(&change);
                self.serve(&device, &link, &change);
                if link.is_served() {
                    self.served.insert(device, link);
                }
            }
            Order::Zone { network, change: ZoneChange { head, guests } } => {
                let server = &mut self.names.server;
                for (guest, addresses) in guests {
                    server.name(&network, guest, addresses);
                }
                server.zone(network, head);
            }
            Order::Servers { servers } => {
                self.knows_servers = true;
                servers.into_iter().for_each(|servers| self.names.server.host_servers(servers));
            }
        }
        Ok(())
    }

    /// Serves a device as the change has left it.
    fn serve(&mut self, device: &IfName, link: &ServedLink, change: &ServedLinkChange) {
        let now = self.start.elapsed();
        let is_served = link.is_served();
        let router = link.router();
        let answers = link.head.names.as_ref().filter(|_| is_served);
        let has_clients6 = link.clients6().next().is_some();
        // All of a link may begin at the same moment, and each says two things before it waits for an answer.
        let waiting = link.nics.len() * 2;
        let listen: BTreeMap<Listen, usize> = [
            (Listen::Dhcp4, link.clients().next().is_some()),
            (Listen::Arp, link.clients().any(|client| client.lent && client.shared)),
            (Listen::Neighbours, link.nics.values().any(|nic| nic.neighbours.is_some())),
            // By this socket it is known, too, whether the device is there.
            (Listen::Ip6, has_clients6 || router.is_some() || answers.is_some()),
        ]
        .into_iter()
        .filter_map(|(listen, wanted)| wanted.then_some((listen, waiting)))
        .collect();
        // What ends is taken back while there is still a socket for it.
        self.advertiser.serve(now, device, router);
        self.send();
        self.ports.serve(device, &listen, now);
        while let Some(port) = self.ports.outgrown() {
            self.read_all(port);
            self.ports.close(port);
        }
        if !listen.contains_key(&Listen::Ip6) {
            self.advertiser.closed(device);
            self.names.closed(device);
        }
        self.names.server.serve(device.clone(), answers.map(|answers| answers.network.clone()));
        self.names.serve(now, device, answers.map(|answers| answers.addresses.clone()).unwrap_or_default());
        self.dhcp4.serve(device, link, change.nics.keys());
        self.dhcp6.serve(device, link, change.nics.keys());
        self.responder.serve(device, link, change.nics.keys());
    }

    /// Whether there is still a daemon.
    fn hear(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 65_536];
        let length = match io::stdin().lock().read(&mut bytes) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
        self.orders.extend(&bytes[..length]);
        if let Some(end) = self.orders.iter().rposition(|&byte| byte == b'\n') {
            let rest = self.orders.split_off(end + 1);
            let lines = std::mem::replace(&mut self.orders, rest);
            for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
                self.obey(serde_json::from_slice(line)?)?;
            }
        }
        Ok(length > 0)
    }

    fn send(&mut self) {
        let Self { dhcp4, dhcp6, responder, advertiser, ports, frames, .. } = self;
        frames.extend(std::iter::from_fn(|| {
            let frame = dhcp4.transmit().or_else(|| dhcp6.transmit());
            frame.or_else(|| responder.transmit()).or_else(|| advertiser.transmit())
        }));
        ports.send(frames);
        frames.clear();
    }
}

fn tell(report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

/// So often a port is read before the others have their turn, when all that waits in it is to be read.
const TURNS: usize = 1024;
/// So long the daemon is waited for.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long until a device that is not there is looked for again.
const AGAIN: Duration = Duration::from_millis(250);
