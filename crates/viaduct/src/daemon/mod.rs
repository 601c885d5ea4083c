//! The daemon: keeps the host as it was made, and performs operations for its clients.
//!
//! One thread has the host, so that there is one order of things: the keeper. Another one speaks HTTP; it sends the
//! keeper work, and hears how it goes.

mod api;
mod jobs;
mod keeper;
mod news;
mod openapi;
mod resolvers;
mod service;
mod services;
mod vnets;

use std::{
    env,
    fs::File,
    os::unix::process::CommandExt,
    process::{self, Command},
};

use rustix::{fs::FlockOperation, io::Errno};
use tracing::info;
use viaduct_kernel::{Lives, Watch};

use crate::{cli::Global, failure::Failure, host::Host, operations::Daemon, ourselves};

pub(crate) use api::{LINES, Line, SOCKET, path};
pub(crate) use news::Event;
pub(crate) use openapi::document;

/// The allocator gives memory back when it was free for so many milliseconds, but looks only when some is asked for.
const PURGE_DELAY: &str = "MIMALLOC_PURGE_DELAY";

/// Runs until it is told to end.
pub(crate) fn run(global: &Global) -> Result<(), Failure> {
    give_memory_back_at_once();
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
    let services = services::Services::start(jobs.clone())?;
    let vnets = vnets::Vnets::start(global, jobs.clone())?;
    host.ahead = Some(vnets.ahead());
    host.known_elsewhere = Some(vnets.known());
    let api = api::start(host.store.run_dir(), jobs, news.clone(), service)?;
    info!("viaduct {} keeps this host", env!("CARGO_PKG_VERSION"));
    let result = keeper::Run::new(host, (watch, lives), queue, news, (service, services, vnets)).run();
    api.stop();
    info!("ended; the network stays as it is");
    result
}

/// A daemon sleeps most of the time: what a look at a large host needed, it would keep until somebody wants something.
/// The allocator reads its options before anything of ours runs, so that the program begins anew, as the same process;
/// without what its starter had open.
fn give_memory_back_at_once() {
    if env::var_os(PURGE_DELAY).is_some() {
        return;
    }
    ourselves::keep_open_files_here();
    let again = env::current_exe()
        .map(|program| Command::new(program).args(env::args_os().skip(1)).env(PURGE_DELAY, "0").exec());
    // It goes on with more memory than it needs.
    let (Ok(error) | Err(error)) = again;
    tracing::warn!("more memory is kept than is needed: cannot begin anew: {error}");
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
