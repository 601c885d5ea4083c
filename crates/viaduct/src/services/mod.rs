//! The process that answers guests. The daemon starts it, tells it on its standard input what to serve, a line of JSON
//! for each device that changes, and hears from it on its standard output. It ends when its input does.

mod ports;

use std::{
    io::{self, Read, Write},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};
use viaduct_plan::Client;
use viaduct_services::dhcp4::{Event, Server};
use viaduct_types::IfName;

use crate::{failure::Failure, privileges};
use ports::{Ports, Source};

/// How it is called on the command line, where only we call it.
pub(crate) const COMMAND: &str = "answer-guests";

/// What is to be served on a device from now on.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    pub(crate) device: IfName,
    /// Nobody: nothing any more.
    pub(crate) clients: Vec<Client>,
}

/// What it does until its input ends.
pub(crate) fn run() -> Result<(), Failure> {
    let failed =
        |what: &str, error: io::Error| Failure::failed(format!("guests are not answered: {what}: {error}"));
    // A ctrl-C in the daemon's terminal is for the daemon, which ends this.
    let _ = rustix::process::setsid();
    // Only what packet sockets need.
    privileges::keep_only(CapabilitySet::NET_RAW).map_err(|e| failed("cannot give up privileges", e))?;
    let mut ports = Ports::new().map_err(|e| failed("cannot wait for frames", e))?;
    ports.listen_to(io::stdin().as_fd()).map_err(|e| failed("cannot listen to the daemon", e))?;
    Run { server: Server::default(), ports, start: Instant::now(), orders: Vec::new() }
        .run()
        .map_err(|e| failed("cannot go on", e))
}

struct Run {
    server: Server,
    ports: Ports,
    start: Instant,
    /// What came of the next order so far.
    orders: Vec<u8>,
}

impl Run {
    fn run(mut self) -> io::Result<()> {
        loop {
            let now = self.start.elapsed();
            let due = self.server.due().into_iter().chain(self.ports.due()).min();
            for source in self.ports.wait(due.map(|due| due.saturating_sub(now)))? {
                match source {
                    Source::Daemon => {
                        if !self.hear()? {
                            return Ok(());
                        }
                    }
                    Source::Port(port) => {
                        let now = self.start.elapsed();
                        let server = &mut self.server;
                        self.ports
                            .read(port, now, |device, mac, frame| server.receive(now, device, mac, frame));
                    }
                }
                self.send();
            }
            let now = self.start.elapsed();
            self.ports.open_missing(now);
            self.server.tick(now);
            self.send();
            while let Some(event) = self.server.event() {
                tell(&event)?;
            }
        }
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
                let order: Order = serde_json::from_slice(line)?;
                let looks = order.clients.iter().any(|client| client.lent && client.shared);
                self.ports.serve(&order.device, !order.clients.is_empty(), looks, self.start.elapsed());
                self.server.serve_on(order.device, order.clients);
            }
        }
        Ok(length > 0)
    }

    fn send(&mut self) {
        while let Some(frame) = self.server.transmit() {
            self.ports.send(&frame.device, &frame.bytes);
        }
    }
}

fn tell(event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

/// How long until a device that is not there is looked for again.
const AGAIN: Duration = Duration::from_millis(250);
