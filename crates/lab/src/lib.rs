//! Labs: hosts, the wires between them, outside machines and guests, all in namespaces of this machine. [`run`] builds
//! a lab from its directory, runs the real program in each host, checks what the directory expects with real packets,
//! and leaves nothing behind; [`up`], [`exec`] and [`down`] let people look around in one.
//!
//! Each of them has to be called while the process has one thread, because it forks. The lab's own process is init of a
//! pid namespace, with mounts and a network of its own, so that everything in a lab ends with it: at its regular
//! end, with ctrl-C, or when somebody kills it.

mod check;
mod datagram;
mod director;
mod drawing;
mod error;
mod event;
pub mod file;
mod inventory;
mod packet;
mod record;
mod report;
mod responder;
mod sandbox;
mod scenery;
pub mod sentence;
mod suggest;
mod world;

use std::{
    ffi::OsStr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::Instant,
};

pub use drawing::{drawing, matrix};
pub use error::LabError;
pub use event::Event;
pub use file::Lab;
pub use report::{Outcome, Report, Verdict};

use director::Failure;
use event::{Message, Reporter, messages};
use record::{Claim, Record};
use sandbox::{Life, RELEASE, Sandbox};

/// How a lab is run.
pub struct Options<'o> {
    /// The program that hosts run as `viaduct`; an absolute path.
    pub binary: PathBuf,
    /// Check only expectations that contain this text; commands between them are run all the same.
    pub only: Option<String>,
    /// Leave the lab up after its expectations have been checked.
    pub keep: bool,
    /// Told what happens while it happens.
    pub progress: &'o mut dyn FnMut(&Event),
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { binary, only, keep, progress: _ } = self;
        f.debug_struct("Options").field("binary", binary).field("only", only).field("keep", keep).finish()
    }
}

/// Builds the lab of a directory, checks its expectations, and takes it away.
///
/// # Errors
/// When the lab is wrong or cannot be set up. Expectations that do not hold are in the report.
pub fn run(dir: &Path, options: &mut Options<'_>) -> Result<Report, LabError> {
    let lab = Lab::load(dir)?;
    if let Some(only) = &options.only
        && !lab.steps.iter().flat_map(|step| &step.expectations).any(|e| e.text.contains(only.as_str()))
    {
        return Err(LabError::NothingSelected(only.clone()));
    }
    let start = Instant::now();
    let claim = if options.keep { Some(Claim::new(&lab.name)?) } else { None };
    let life = if options.keep { Life::Stays } else { Life::Tied };
    let only = options.only.clone();
    let sandbox = start_lab(&lab, life, options, |lab, world, reporter| {
        let outcomes = director::perform(lab, world, only.as_deref(), reporter)?;
        reporter.say(&Message::Done(outcomes, director::since(start)));
        Ok(())
    });
    let (outcomes, milliseconds) = attend(&lab, sandbox, claim, options)?;
    Ok(Report { lab: lab.name.clone(), outcomes, milliseconds })
}

/// Builds the lab of a directory and leaves it up; gives its name.
///
/// # Errors
/// When the lab is wrong, cannot be set up, or is up already.
pub fn up(dir: &Path, options: &mut Options<'_>) -> Result<Lab, LabError> {
    let lab = Lab::load(dir)?;
    let claim = Some(Claim::new(&lab.name)?);
    let sandbox = start_lab(&lab, Life::Stays, options, |_, _, reporter| {
        reporter.say(&Message::Done(Vec::new(), 0));
        Ok(())
    });
    attend(&lab, sandbox, claim, options)?;
    Ok(lab)
}

/// Ends the lab of that name, or the only one that is up; gives its name.
///
/// # Errors
/// When there is none, or when there are several and no name was given.
pub fn down(name: Option<&str>) -> Result<String, LabError> {
    let (name, record) = record::find(name)?;
    record::end(&name, &record)?;
    Ok(name)
}

/// The names of the labs that are up, with their directories.
pub fn list() -> Vec<(String, PathBuf)> {
    record::all()
        .into_iter()
        .filter_map(|name| record::find(Some(&name)).ok())
        .map(|(name, record)| (name, record.dir))
        .collect()
}

/// Runs a command on a machine of a lab that is up, and waits for its end. `viaduct` is the host's own.
///
/// # Errors
/// When there is no such lab or machine, or no such command.
pub fn exec<S: AsRef<OsStr>>(
    name: Option<&str>,
    machine: &str,
    command: &[S],
) -> Result<ExitStatus, LabError> {
    let (lab, record) = record::find(name)?;
    let Some(handles) = record.machines.get(machine) else {
        let known = record.machines.keys().map(ToString::to_string).collect();
        return Err(LabError::NoMachine { lab, machine: machine.to_owned(), known });
    };
    world::exec(record.pid, handles, &record.dir, command)
        .map_err(|source| LabError::Sandbox { what: "run a command inside of the lab", source })
}

/// Forks; in the lab's process, builds it and does the work.
fn start_lab(
    lab: &Lab,
    life: Life,
    options: &Options<'_>,
    work: impl FnOnce(&Lab, &world::World, &Reporter) -> Result<(), Failure>,
) -> Result<Sandbox, LabError> {
    Sandbox::start(life, |reporter: Arc<Reporter>| {
        let result = director::build(lab, &options.binary, &reporter).and_then(|world| {
            reporter.say(&Message::Ready(director::handles(&world)));
            work(lab, &world, &reporter)?;
            Ok(world)
        });
        // Whoever has the world keeps it: its namespaces live as long as it is there.
        let _world = match result {
            Ok(world) => world,
            Err(failure) => return director::give_up(&reporter, failure),
        };
        if life == Life::Stays {
            sandbox::rest();
        }
    })
}

/// Listens to the lab until it is done, and lets it go if it shall stay.
fn attend(
    lab: &Lab,
    sandbox: Result<Sandbox, LabError>,
    claim: Option<Claim>,
    options: &mut Options<'_>,
) -> Result<(Vec<Outcome>, u64), LabError> {
    let mut claim = claim;
    let result = sandbox.and_then(|sandbox| {
        let result = listen(lab, &sandbox.stream, claim.as_mut(), options);
        sandbox.wait();
        result
    });
    if let (Err(_), Some(claim)) = (&result, claim) {
        claim.withdraw();
    }
    result
}

fn listen(
    lab: &Lab,
    stream: &UnixStream,
    mut claim: Option<&mut Claim>,
    options: &mut Options<'_>,
) -> Result<(Vec<Outcome>, u64), LabError> {
    let lost = |source| LabError::Sandbox { what: "speak with the lab's process", source };
    let mut pid = 0;
    for message in messages(stream.try_clone().map_err(lost)?) {
        match message.map_err(lost)? {
            Message::Init(init) => pid = init,
            Message::Event(event) => (options.progress)(&event),
            Message::Ready(machines) => {
                if let Some(claim) = &mut claim {
                    claim.write(&Record { dir: lab.dir.clone(), pid, machines })?;
                    std::io::Write::write_all(&mut &*stream, &[RELEASE]).map_err(lost)?;
                }
            }
            Message::Done(outcomes, milliseconds) => return Ok((outcomes, milliseconds)),
            Message::Failed { what, output } => return Err(LabError::Inside { what, output }),
        }
    }
    Err(LabError::Ended)
}
