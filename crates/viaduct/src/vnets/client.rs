//! Talking to the process that carries vnets.

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use rustix::{
    net::sockopt::socket_peercred,
    process::{Signal, kill_process},
};
use viaduct_types::{MacAddr, VXLAN_PORT, VnetId};
use viaduct_vnet_io::control::{Answer, Report, Request, widen};

use crate::lines::{Lines, is_silence};

/// The socket in the run directory.
const SOCKET: &str = "engine.sock";
/// So long the kernel may take to end it.
const END: Duration = Duration::from_secs(5);

/// A connection to it.
pub(crate) struct Client {
    stream: UnixStream,
    lines: Lines,
    /// The version that the other end is of.
    pub(crate) version: String,
}

impl Client {
    /// Connects; an error when it does not run.
    pub(crate) fn connect(run_dir: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(run_dir.join(SOCKET))?;
        let lines = Lines::new(stream.try_clone()?);
        let mut client = Self { stream, lines, version: String::new() };
        match client.hear()? {
            Some(Answer::Here { version, pid: _ }) => client.version = version,
            Some(_) | None => return Err(io::Error::other("it does not say who it is")),
        }
        Ok(client)
    }

    /// Another handle, to write while somebody reads.
    pub(crate) fn writer(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }

    /// The connection, for somebody who waits on it for ever.
    pub(super) fn into_line(self) -> io::Result<UnixStream> {
        self.stream.set_read_timeout(None)?;
        Ok(self.stream)
    }

    /// The next thing it says, however long that takes; none when it ended. An error when it does not even answer.
    pub(crate) fn hear_while_alive(&mut self) -> io::Result<Option<Answer>> {
        let ask = || ask(&self.stream, &Request::Report { most_macs: 0 });
        parsed(self.lines.next_while_alive(ask)?.as_deref())
    }

    /// Ends it, and waits until it has.
    pub(crate) fn end(mut self) -> io::Result<()> {
        ask(&self.stream, &Request::End)?;
        while self.hear()?.is_some() {}
        Ok(())
    }

    /// The next thing it says; none when it ended.
    pub(crate) fn hear(&mut self) -> io::Result<Option<Answer>> {
        parsed(self.lines.next()?.as_deref())
    }
}

fn parsed(line: Option<&[u8]>) -> io::Result<Option<Answer>> {
    Ok(line.map(serde_json::from_slice).transpose()?)
}

/// Kills one that does not answer, which would not end by itself, and waits until it has. What it carried is not carried until there is another.
pub(crate) fn kill(run_dir: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(run_dir.join(SOCKET))?;
    let who = socket_peercred(&stream)?.pid;
    kill_process(who, Signal::KILL)?;
    stream.set_read_timeout(Some(END))?;
    match io::copy(&mut stream, &mut io::sink()) {
        Err(error) if is_silence(&error) => Err(error),
        // It was in the midst of something.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Says something to it.
pub(crate) fn ask(mut stream: &UnixStream, request: &Request) -> io::Result<()> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Says that a machine that no orders know is behind a vnet's bridge, or is not until it is heard there; why it is not so,
/// if it is not. An error when nobody carries vnets.
pub(crate) fn machine(run_dir: &Path, vnet: VnetId, mac: MacAddr, here: bool) -> io::Result<Vec<String>> {
    let mut client = Client::connect(run_dir)?;
    ask(&client.writer()?, &Request::Machine { vnet, mac, here })?;
    while let Some(answer) = client.hear()? {
        if let Answer::Done { troubles } = answer {
            return Ok(troubles);
        }
    }
    Err(io::Error::other("it does not know of this, as it is of another version"))
}

/// Ends it, if it runs, and waits until it has. Of one that was killed, what it told the kernel is taken back.
pub(crate) fn end(run_dir: &Path) {
    let end = || Client::connect(run_dir)?.end();
    if let Err(error) = end() {
        tracing::debug!("no process that carries vnets was ended: {error}");
        if let Err(error) = widen() {
            tracing::warn!("routes and rules of VXLAN stay, in table {VXLAN_PORT}: {error}");
        }
    }
}

/// How things are, with so many MACs of each vnet at most; none when nobody carries vnets.
pub(crate) fn report(run_dir: &Path, most_macs: usize) -> Option<Report> {
    let ask = || -> io::Result<Option<Report>> {
        let mut client = Client::connect(run_dir)?;
        ask(&client.writer()?, &Request::Report { most_macs })?;
        while let Some(answer) = client.hear()? {
            if let Answer::Report(report) = answer {
                return Ok(Some(*report));
            }
        }
        Ok(None)
    };
    ask().unwrap_or_else(|error| {
        tracing::debug!("the process that carries vnets does not answer: {error}");
        None
    })
}
