//! What the lab's own process does: builds the lab, brings its hosts up, and goes through the steps.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{
    check::Scene,
    event::{Event, Handles, Message, Reporter},
    file::{Do, Expectation, Lab, Name, Step},
    inventory::Inventory,
    report::{Outcome, Verdict},
    responder, scenery,
    world::{Finished, World},
};

/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(120);

/// Checks mostly wait, but each forks or has sockets of its own.
const TOGETHER: usize = 24;

/// Why a lab could not be set up.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) what: String,
    pub(crate) output: String,
}

impl Failure {
    fn because(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |e| Self { what: format!("cannot {what}"), output: e.to_string() }
    }
}

/// Builds the lab and brings its hosts up.
pub(crate) fn build(lab: &Lab, binary: &Path, reporter: &Reporter) -> Result<World, Failure> {
    let stage = |text: &str| reporter.event(Event::Stage(text.to_owned()));
    stage("building");
    let world = World::new(lab, binary).map_err(Failure::because("make the machines' namespaces"))?;
    scenery::build(lab, &world).map_err(Failure::because("build the switches and wires"))?;
    for (name, machine) in &lab.machines {
        responder::start(name, machine, world.machines[name].net.as_fd())
            .map_err(Failure::because("answer on the machines' ports"))?;
    }
    exchange_keys(lab, &world, reporter)?;
    stage("applying");
    thread::scope(|scope| {
        let hosts: Vec<_> =
            lab.hosts().map(|(host, _)| scope.spawn(|| bring_up(lab, &world, host, reporter))).collect();
        let panicked = || Failure { what: "a thread panicked".to_owned(), output: String::new() };
        hosts.into_iter().try_for_each(|host| host.join().unwrap_or_else(|_| Err(panicked())))
    })?;
    Ok(world)
}

/// How others enter the machines.
pub(crate) fn handles(world: &World) -> BTreeMap<Name, Handles> {
    let handles = |place: &crate::world::Place| Handles {
        net: place.net.as_raw_fd(),
        mounts: place.mounts.as_raw_fd(),
        viaduct: place.viaduct.clone(),
    };
    world.machines.iter().map(|(name, place)| (name.clone(), handles(place))).collect()
}

/// Goes through the steps; the outcomes are in the order of the file.
pub(crate) fn perform(
    lab: &Lab,
    world: &World,
    only: Option<&str>,
    reporter: &Reporter,
) -> Result<Vec<Outcome>, Failure> {
    reporter.event(Event::Stage("checking".to_owned()));
    let mut outcomes = Vec::new();
    let mut steps: VecDeque<&Step> = lab.steps.iter().collect();
    while let Some(step) = steps.pop_front() {
        for command in &step.commands {
            let outcome = perform_one(world, step, command, reporter);
            reporter.event(Event::Checked(outcome.clone()));
            outcomes.push(outcome);
        }
        // Up to the next command nothing changes, so everything that is expected until then can be checked at once.
        let mut together: Vec<(&Step, &Expectation)> = step.expectations.iter().map(|e| (step, e)).collect();
        while let Some(next) = steps.pop_front_if(|next| next.commands.is_empty()) {
            together.extend(next.expectations.iter().map(|e| (next, e)));
        }
        together.retain(|(_, e)| only.is_none_or(|only| e.text.contains(only)));
        if together.is_empty() {
            continue;
        }
        let inventory =
            Inventory::take(lab, world).map_err(Failure::because("ask the machines for their addresses"))?;
        let scene = Scene { lab, world, inventory: &inventory };
        outcomes.extend(check_together(scene, &together, reporter));
    }
    Ok(outcomes)
}

/// Writes the hosts' keys, which they make now, where configurations have a word in their place.
fn exchange_keys(lab: &Lab, world: &World, reporter: &Reporter) -> Result<(), Failure> {
    let mut keys = BTreeMap::new();
    for (host, _) in lab.hosts() {
        let word = placeholder(host);
        if lab.configs.values().any(|config| config.peers.values().any(|peer| peer.key == word)) {
            reporter.event(Event::Stage(format!("asking {host} for its key")));
            let finished = world
                .viaduct(host, &["identity"], COMMAND)
                .map_err(Failure::because(format!("ask {host} for its key")))?;
            let (ended, output) = told(finished);
            let key = output.split_whitespace().next().map(str::to_owned);
            match (ended, key) {
                (Ok(()), Some(key)) => keys.insert(word, key),
                (Ok(()), None) => {
                    return Err(Failure { what: format!("{host} says no key"), output });
                }
                (Err(how), _) => {
                    return Err(Failure { what: format!("`viaduct identity` on {host} {how}"), output });
                }
            };
        }
    }
    if keys.is_empty() {
        return Ok(());
    }
    for (host, config) in lab.hosts() {
        // The host's private copy.
        let place = if config.is_dir() { config.as_path() } else { config.parent().unwrap_or(config) };
        let replaced: String = keys.iter().map(|(word, key)| format!(" -e 's|{word}|{key}|g'")).collect();
        let line = format!("find '{}' -name '*.toml' -exec sed -i{replaced} {{}} +", place.display());
        let finished = world
            .shell(host, &line, COMMAND)
            .map_err(Failure::because("write keys into the hosts' files"))?;
        let (ended, output) = told(finished);
        ended.map_err(|how| Failure {
            what: format!("writing keys into the files of {host} {how}"),
            output,
        })?;
    }
    Ok(())
}

/// What stands for a host's key until it has one.
fn placeholder(host: &Name) -> String {
    format!("REPLACED-BY-{host}-viaduct-identity")
}

fn bring_up(lab: &Lab, world: &World, host: &Name, reporter: &Reporter) -> Result<(), Failure> {
    viaduct(world, host, &["apply"], reporter)?;
    for (name, nics) in lab.guests_of(host) {
        for nic in nics {
            viaduct(world, host, &["attach", &nic.to_string(), "--netns", name.as_str()], reporter)?;
        }
    }
    Ok(())
}

fn viaduct(world: &World, host: &Name, arguments: &[&str], reporter: &Reporter) -> Result<(), Failure> {
    let start = Instant::now();
    let command = format!("viaduct {}", arguments.join(" "));
    let finished = world.viaduct(host, arguments, COMMAND).map_err(Failure::because(format!(
        "run `{command}` on {host} ({})",
        world.machines[host].viaduct[0]
    )))?;
    let (ended, output) = told(finished);
    reporter.event(Event::Ran {
        machine: host.clone(),
        command: command.clone(),
        output: output.clone(),
        milliseconds: since(start),
    });
    match ended {
        Ok(()) => Ok(()),
        Err(how) => Err(Failure { what: format!("`{command}` on {host} {how}"), output }),
    }
}

fn perform_one(world: &World, step: &Step, command: &Do, reporter: &Reporter) -> Outcome {
    let start = Instant::now();
    let (result, detail) = match world.shell(&command.machine, &command.command, COMMAND).map(told) {
        Ok((Ok(()), output)) => {
            reporter.event(Event::Ran {
                machine: command.machine.clone(),
                command: command.command.clone(),
                output,
                milliseconds: since(start),
            });
            (Verdict::Holds, String::new())
        }
        Ok((Err(how), output)) => (Verdict::Fails, format!("{how}\n{output}").trim_end().to_owned()),
        Err(e) => (Verdict::Unclear, e.to_string()),
    };
    Outcome {
        because: step.because.clone(),
        sentence: command.text.clone(),
        line: command.line,
        result,
        detail,
        milliseconds: since(start),
    }
}

/// What does not mislead others first, then the rest.
fn check_together(scene: Scene<'_>, together: &[(&Step, &Expectation)], reporter: &Reporter) -> Vec<Outcome> {
    let mut outcomes: Vec<Option<Outcome>> = together.iter().map(|_| None).collect();
    for forging in [false, true] {
        let indices = together.iter().enumerate().filter(|(_, (_, e))| e.sentence.forges() == forging);
        let queue: Mutex<VecDeque<usize>> = Mutex::new(indices.map(|(index, _)| index).collect());
        let results = Mutex::new(&mut outcomes);
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        thread::scope(|scope| {
            for _ in 0..TOGETHER.min(together.len()) {
                scope.spawn(|| {
                    while let Some(index) = next() {
                        let (step, expectation) = together[index];
                        let outcome = check_one(scene, step, expectation);
                        reporter.event(Event::Checked(outcome.clone()));
                        results.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(outcome);
                    }
                });
            }
        });
    }
    outcomes.into_iter().flatten().collect()
}

fn check_one(scene: Scene<'_>, step: &Step, expectation: &Expectation) -> Outcome {
    let start = Instant::now();
    let (result, detail) = match scene.check(&expectation.sentence) {
        Ok(finding) if finding.holds => (Verdict::Holds, finding.detail),
        Ok(finding) => (Verdict::Fails, finding.detail),
        Err(e) => (Verdict::Unclear, e.to_string()),
    };
    Outcome {
        because: step.because.clone(),
        sentence: expectation.text.clone(),
        line: expectation.line,
        result,
        detail,
        milliseconds: since(start),
    }
}

fn told(finished: Finished) -> (Result<(), String>, String) {
    let ended = match finished.status {
        None => Err(format!("did not end in {} s", COMMAND.as_secs())),
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("failed ({status})")),
    };
    (ended, finished.output)
}

pub(crate) fn since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Tells the other process why there is no lab.
pub(crate) fn give_up(reporter: &Reporter, failure: Failure) {
    reporter.say(&Message::Failed { what: failure.what, output: failure.output });
}
