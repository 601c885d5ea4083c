//! The daemon: keeps the host as it was made, and performs operations for its clients.
//!
//! One thread has the host, so that there is one order of things: the keeper. Another one speaks HTTP; it sends the
//! keeper work, and hears how it goes.

mod api;
mod jobs;
mod keeper;
mod news;
mod openapi;
mod service;

use std::{fs::File, process};

use rustix::{fs::FlockOperation, io::Errno};
use tracing::info;
use viaduct_kernel::{Lives, Watch};

use crate::{cli::Global, failure::Failure, host::Host, operations::Daemon};

pub(crate) use api::{LINES, Line, SOCKET, path};
pub(crate) use news::Event;
pub(crate) use openapi::document;

/// Runs until it is told to end.
pub(crate) fn run(global: &Global) -> Result<(), Failure> {
    let mut host = Host::open(global)?;
    let _alone = alone(&host)?;
    host.daemon = Daemon { pid: Some(process::id()), ..Daemon::default() };
    // First listen, then look: nothing happens unseen in between.
    let watch = Watch::open()?;
    let lives = Lives::open()?;
    if let Some(why) = watch.blind_to_settings() {
        tracing::warn!("changes of most sysctls are seen late: {}", viaduct_reconcile::chain(why));
    }
    let (jobs, queue) = jobs::queue()?;
    let news = news::News::default();
    let service = service::Service::from_environment();
    let api = api::start(host.store.run_dir(), jobs, news.clone())?;
    info!("viaduct {} keeps this host", env!("CARGO_PKG_VERSION"));
    let result = keeper::Run::new(host, (watch, lives), queue, news, service).run();
    api.stop();
    info!("ended; the network stays as it is");
    result
}

/// Two daemons would keep the same host twice.
fn alone(host: &Host) -> Result<File, Failure> {
    let path = host.store.run_dir().join("daemon.lock");
    let failed = |error: std::io::Error| Failure::failed(format!("cannot lock {}: {error}", path.display()));
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(Failure::failed(
            "a daemon runs already for this host; `viaduct status` says with which process",
        )),
        Err(errno) => Err(failed(errno.into())),
    }
}
