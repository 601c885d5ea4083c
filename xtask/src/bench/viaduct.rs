//! Viaduct, asked in each of its ways.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    guests::Guest,
    sandbox::{Machine, Sandbox, output},
};

/// How long a daemon may take to begin and to look at everything.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program on a host.
#[derive(Debug)]
pub(super) struct Viaduct<'a> {
    program: &'a Path,
    host: &'a Machine,
    configuration: PathBuf,
    kept: PathBuf,
}

impl<'a> Viaduct<'a> {
    pub(super) fn new(sandbox: &'a Sandbox, host: &'a Machine, configuration: &str) -> Result<Self, String> {
        Ok(Self {
            program: &sandbox.program,
            host,
            configuration: sandbox.file(&format!("{}.toml", host.name), configuration)?,
            kept: sandbox.path(&format!("{}-state", host.name)),
        })
    }

    /// A command of the program, ready to be run.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.enter(self.program);
        command.arg("--config").arg(&self.configuration);
        command.arg("--state-dir").arg(&self.kept).arg("--run-dir").arg(&self.kept);
        command.args(arguments);
        command
    }

    /// Runs a command of the program.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<(), String> {
        output(&mut self.command(arguments)).map(|_| ())
    }

    /// Takes everything away, also what is remembered.
    pub(super) fn forget(&self) -> Result<(), String> {
        self.run(&["down"])?;
        std::fs::remove_dir_all(&self.kept).map_err(|error| format!("{}: {error}", self.kept.display()))
    }

    /// The file that says what is attached.
    fn attachments(&self) -> PathBuf {
        self.kept.join("attachments.json")
    }

    /// What is attached, to be attached again after it was taken away.
    pub(super) fn remembered(&self) -> Result<Vec<u8>, String> {
        let path = self.attachments();
        std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// As if all these had been attached before anything was applied.
    pub(super) fn remember(&self, attachments: &[u8]) -> Result<(), String> {
        let path = self.attachments();
        std::fs::create_dir_all(&self.kept).map_err(|error| format!("{}: {error}", self.kept.display()))?;
        std::fs::write(&path, attachments).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Starts a daemon, and waits until it has looked at the host.
    pub(super) fn daemon(&self) -> Result<Daemon, String> {
        let child = self
            .command(&["daemon"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start the daemon: {error}"))?;
        let mut daemon = Daemon { child, socket: self.kept.join("api.sock") };
        let start = Instant::now();
        loop {
            // Jobs are done after the first look.
            if let Ok(status) = daemon.client().and_then(|mut client| client.look("status")) {
                // Of an earlier one, the socket may still be there.
                if status["daemon"]["pid"].as_u64() == Some(daemon.process().into()) {
                    return Ok(daemon);
                }
            }
            if start.elapsed() > PATIENCE {
                return Err("the daemon does not answer".to_owned());
            }
            if let Ok(Some(status)) = daemon.child.try_wait() {
                return Err(format!("the daemon ended ({status})"));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A daemon that ends with its owner.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    /// Its number: the program takes the place of what enters the namespace.
    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// A connection to its API.
    pub(super) fn client(&self) -> Result<Client, String> {
        let stream =
            UnixStream::connect(&self.socket).map_err(|error| format!("the daemon's API: {error}"))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| format!("the daemon's API: {error}"))?;
        Ok(Client(BufReader::new(stream)))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that stays connected to the daemon.
#[derive(Debug)]
pub(super) struct Client(BufReader<UnixStream>);

impl Client {
    /// Connects a guest that is in the namespace of its name.
    pub(super) fn attach(&mut self, guest: Guest) -> Result<(), String> {
        let name = guest.name();
        self.ask("POST", "attach", &format!(r#"{{"nic":"{name}","place":{{"netns":"{name}"}}}}"#)).map(|_| ())
    }

    pub(super) fn detach(&mut self, guest: Guest) -> Result<(), String> {
        self.ask("POST", "detach", &format!(r#"{{"nic":"{}"}}"#, guest.name())).map(|_| ())
    }

    /// Changes a guest: `publish` a further port of it, or `unpublish` that.
    pub(super) fn set(&mut self, guest: Guest, what: &str) -> Result<(), String> {
        let body = format!(r#"{{"nic":"{}","{what}":["{}"]}}"#, guest.name(), guest.further_port());
        self.ask("POST", "set", &body).map(|_| ())
    }

    fn look(&mut self, path: &str) -> Result<Value, String> {
        let text = self.ask("GET", path, "")?;
        serde_json::from_str(&text).map_err(|error| format!("the daemon's answer: {error}"))
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<String, String> {
        let failed = |error| format!("the daemon's API, {path}: {error}");
        let length = body.len();
        let request = format!(
            "{method} /v1/{path} HTTP/1.1\r\nHost: viaduct\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        self.0.get_mut().write_all(request.as_bytes()).map_err(failed)?;
        let mut line = String::new();
        self.0.read_line(&mut line).map_err(failed)?;
        let good = line.split(' ').nth(1) == Some("200");
        let mut length = 0;
        loop {
            let mut header = String::new();
            self.0.read_line(&mut header).map_err(failed)?;
            let Some((name, value)) = header.trim().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut answer = vec![0; length];
        self.0.read_exact(&mut answer).map_err(failed)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        if good { Ok(answer) } else { Err(format!("the daemon's API, {path}: {}: {answer}", line.trim())) }
    }
}
