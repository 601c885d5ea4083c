//! Vnets: the process that carries them, what it is told, and what of them is in no file.

mod changes;
mod client;
mod created;
mod elsewhere;
mod environment;
pub(crate) mod names;
mod orders;

use std::{
    fs::File,
    io::{self, Write},
    num::NonZeroUsize,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use rustix::{fs::FlockOperation, io::Errno, thread::CapabilitySet};
use viaduct_types::{MOST_WORKERS, VNET_PORT};
use viaduct_vnet_io::control::{self, Options};

use crate::{
    cli::Global,
    failure::Failure,
    privileges,
    sandbox::{self, Calls, Places, Use},
};

use environment::Number;

pub(crate) use changes::changes;
pub(crate) use client::{Client, ask, end, kill, machine, report};
pub(crate) use created::{beside, named, set_aside, vnet_of, with_created};
pub(crate) use elsewhere::elsewhere;
pub(crate) use orders::orders;

/// How it is called on the command line, where only we call it.
pub(crate) const COMMAND: &str = "carry-vnets";

/// How long the lock of one that was killed is waited for: its socket is closed, of which its end is heard, while the kernel
/// still takes down the rest of it. Frames wait for the next one.
const UNTIL_GONE: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(2);

/// How many threads carry frames, where it is not to be one for each processor.
const WORKERS: Number = Number { name: "VIADUCT_VNET_WORKERS", most: MOST_WORKERS as u64 };
/// How long keys are used, in milliseconds, for tests: nobody waits an hour.
const REKEY: Number = Number { name: "VIADUCT_VNET_REKEY_MS", most: 60 * 60 * 1000 };

/// What it does until it is told to end. Who started it hears a line when it listens.
pub(crate) fn run(global: &Global) -> Result<(), Failure> {
    let failed =
        |what: &str, error: io::Error| Failure::failed(format!("vnets are not carried: {what}: {error}"));
    // It outlives the daemon, and a ctrl-C in the daemon's terminal.
    let _ = rustix::process::setsid();
    let _alone = alone(global)?;
    let names = names::start().map_err(|error| failed("cannot have names looked up", error))?;
    // What is given up next may be needed for it. Its threads have it from this one.
    let _ = viaduct_vnet_io::datapath::go_first();
    // Without the second, a limit may allow the same (RLIMIT_RTPRIO).
    let kept = privileges::had(CapabilitySet::SYS_NICE).map(|nice| CapabilitySet::NET_ADMIN | nice);
    kept.and_then(privileges::keep_only).map_err(|e| failed("cannot give up privileges", e))?;
    // Made here when there is none, so that it can only be read from then on.
    let wrong = |error: control::IdentityError| Failure::failed(viaduct_reconcile::chain(&error));
    let key = control::Identity::path(&global.state_dir);
    drop(control::Identity::open(&global.state_dir).map_err(wrong)?);
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let workers = usize::try_from(WORKERS.read(processors as u64)).ok().and_then(NonZeroUsize::new);
    let options = Options {
        state_dir: global.state_dir.clone(),
        run_dir: global.run_dir.clone(),
        port: VNET_PORT,
        workers: workers.unwrap_or(NonZeroUsize::MIN),
        rekey: Duration::from_millis(REKEY.read(REKEY.most)),
    };
    let files = vec![
        (key, Use::Read),
        (global.run_dir.clone(), Use::Keep),
        (PathBuf::from("/dev/net/tun"), Use::Device),
    ];
    sandbox::enter("the process that carries vnets", &Places { files, ports: Vec::new() }, Calls::Carrying)
        .map_err(|e| failed("cannot be confined", e))?;
    control::run(&options, names, || {
        // Nobody may listen any more; that changes nothing.
        let _ = io::stdout().write_all(b"ready\n").and_then(|()| io::stdout().flush());
    })
    .map_err(|error| Failure::failed(viaduct_reconcile::chain(&error)))
}

/// Two of them would carry the same frames twice.
fn alone(global: &Global) -> Result<File, Failure> {
    let path = global.run_dir.join("engine.lock");
    let failed = |error: io::Error| Failure::failed(format!("cannot lock {}: {error}", path.display()));
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if begun.elapsed() < UNTIL_GONE => thread::sleep(AGAIN),
            Err(Errno::WOULDBLOCK) => {
                return Err(Failure::failed("another process carries vnets on this host already"));
            }
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}
