//! Looking up the names of hosts for the process that carries vnets, which may open no files but its own.
//!
//! Each is looked up by a process of its own: it finds the files that say how names are looked up, whoever has replaced
//! them meanwhile, and what a name server answers is read by somebody who may do nothing else.

use std::{
    io::{self, BufRead, Write},
    net::{SocketAddr, ToSocketAddrs},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use rustix::thread::CapabilitySet;
use viaduct_vnet_io::control::{Found, Request};

use super::client::{Client, ask};
use crate::{
    failure::Failure,
    ourselves, privileges,
    sandbox::{self, Calls, Places, Use},
};

/// How who has names looked up is called on the command line, where only we call it.
pub(crate) const COMMAND: &str = "look-up-names";
/// And who looks up one.
pub(crate) const ONE: &str = "look-up-name";

/// So many at once: a name server that does not answer holds up one of them for half a minute.
const AT_ONCE: usize = 8;
/// What the C library reads for it (getaddrinfo(3)).
const FILES: [&str; 5] =
    ["/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf"];
/// Of DNS, for what is longer than a datagram.
const DNS: u16 = 53;

/// Starts who has names looked up. The line to it is what it lives for.
pub(super) fn start() -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    at(theirs)?;
    Ok(ours)
}

/// The same for the process that carries vnets and has lost who did: by then it may start nobody.
pub(crate) fn start_another(run_dir: &Path) -> io::Result<()> {
    let line = Client::connect(run_dir)?.into_line()?;
    ask(&line, &Request::Names)?;
    let mut child = at(line)?;
    // It lives as long as the line; somebody has to be there for its status, though.
    thread::Builder::new().name("names-end".to_owned()).spawn(move || child.wait())?;
    Ok(())
}

fn at(line: UnixStream) -> io::Result<Child> {
    let input = OwnedFd::from(line.try_clone()?);
    ourselves::another().arg(COMMAND).stdin(input).stdout(OwnedFd::from(line)).spawn()
}

/// Has each name looked up that stands in a line of standard input, until that ends.
pub(crate) fn serve() -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::failed(format!("names of hosts are not looked up: {error}"));
    privileges::keep_only(CapabilitySet::empty()).map_err(failed)?;
    let (names, queue) = mpsc::channel::<String>();
    let queue = Arc::new(Mutex::new(queue));
    for _ in 0..AT_ONCE {
        let queue = Arc::clone(&queue);
        thread::Builder::new()
            .name("names".to_owned())
            .spawn(move || {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(name) = next else { return };
                    let result = elsewhere(&name);
                    let Ok(mut line) = serde_json::to_vec(&Found { name, result }) else { return };
                    line.push(b'\n');
                    let mut out = io::stdout().lock();
                    // Who asked may have ended.
                    let _ = out.write_all(&line).and_then(|()| out.flush());
                }
            })
            .map_err(failed)?;
    }
    for name in io::stdin().lock().lines().map_while(Result::ok) {
        let _ = names.send(name);
    }
    Ok(())
}

/// In a process of its own.
fn elsewhere(name: &str) -> Result<Vec<SocketAddr>, String> {
    let run = ourselves::another()
        .args([ONE, "--", name])
        // What the kernel lacks is said once, by those who live longer.
        .env("VIADUCT_LOG", "error")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    match serde_json::from_slice(&run.stdout) {
        Ok(Found { result, .. }) => result,
        Err(_) => Err(format!("looking it up ended early ({})", run.status)),
    }
}

/// Looks up one, and nothing else.
pub(crate) fn one(name: &str) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::failed(format!("{name} is not looked up: {error}"));
    let files = FILES.map(|file| (PathBuf::from(file), Use::Read)).into();
    sandbox::enter("looking up a name", &Places { files, ports: vec![DNS] }, Calls::LookingUp)
        .map_err(failed)?;
    let result = name.to_socket_addrs().map(Iterator::collect).map_err(|error| error.to_string());
    let line = serde_json::to_string(&Found { name: name.to_owned(), result });
    let line = line.map_err(|error| failed(error.into()))?;
    io::stdout().write_all(line.as_bytes()).and_then(|()| io::stdout().flush()).map_err(failed)
}
