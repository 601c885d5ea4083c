//! Keeps the process running that carries vnets, tells it what to be, and hears what it finds. It is no child that ends
//! with the daemon: the next daemon finds it by its socket.

use std::{
    io::{self, BufRead, BufReader},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tracing::{info, warn};
use viaduct_vnet_io::control::{Answer, Findings, Orders, Request};

use super::jobs::{Job, Jobs};
use crate::{
    cli::Global,
    failure::Failure,
    host::{Ahead, Elsewhere, Host},
    lines::is_silence,
    operations::Caller,
    ourselves,
    vnets::{COMMAND, Client, ask, kill, names, orders, vnet_of},
};

/// A process that lived for so long carried frames, and the next is started at once.
const SETTLED: Duration = Duration::from_secs(1);
/// How long until the next is started, when it ends at once.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// The process itself waits for others no longer than half of this.
const PATIENCE: Duration = Duration::from_secs(1);
/// It reads at once what it is told. Who does not has stopped, and nobody who tells it something waits for longer.
const UNREAD: Duration = Duration::from_secs(5);

/// The process, whichever it is at the moment.
pub(super) struct Vnets {
    shared: Both,
    thread: Option<JoinHandle<()>>,
}

/// What both threads have, and by which the one hears of the other.
type Both = Arc<(Mutex<Shared>, Condvar)>;

#[derive(Default)]
struct Shared {
    /// None as long as nobody has said; inside none when no process is needed.
    wanted: Option<Option<Orders>>,
    /// To the process that runs.
    stream: Option<UnixStream>,
    /// The number of the last question whether the other hosts know what is here, and the highest that needs no answer any more.
    asked: u64,
    known: u64,
    /// What the process has found since the keeper last looked.
    found: Option<Findings>,
    ending: bool,
}

impl Shared {
    /// Tells the process what to be, if one runs; the next is told everything.
    fn say(&mut self, wanted: Option<Orders>) -> bool {
        let request = request(wanted.as_ref());
        self.wanted = Some(wanted);
        self.tell(&request)
    }

    /// Says something to the process, if one runs. What it has not read whole, nothing can follow: then another connection is made.
    fn tell(&mut self, request: &Request) -> bool {
        let Some(stream) = &self.stream else { return false };
        let told = ask(stream, request);
        if let Err(error) = &told {
            warn!("the process that carries vnets does not hear: {error}");
            let _ = stream.shutdown(Shutdown::Both);
            self.lost();
        }
        told.is_ok()
    }

    /// Asks whether the other hosts know what is here; the number of the question.
    fn ask_whether_known(&mut self) -> Option<u64> {
        self.asked += 1;
        let number = self.asked;
        self.tell(&Request::Known { number }).then_some(number)
    }

    /// The process has found this; says whether the keeper is to be told that there is something. What comes before it looks takes
    /// the place of what came earlier, for peers may have it change as often as they like; a guest that has spoken has spoken.
    fn has_found(&mut self, mut findings: Findings) -> bool {
        let Some(before) = self.found.take() else { return self.found.replace(findings).is_none() };
        for (vnet, macs) in before.arrived {
            findings.arrived.entry(vnet).or_default().extend(macs);
        }
        self.found = Some(findings);
        false
    }

    /// Nobody answers on this connection any more, and nobody waits for it.
    fn lost(&mut self) {
        self.stream = None;
        self.known = self.asked;
    }
}

impl Vnets {
    /// Starts a thread that keeps a process running as soon as there is something to carry.
    pub(super) fn start(global: &Global, jobs: Jobs) -> Result<Self, Failure> {
        let shared = Arc::new((Mutex::new(Shared::default()), Condvar::new()));
        let of_thread = Arc::clone(&shared);
        let place = Place { state_dir: global.state_dir.clone(), run_dir: global.run_dir.clone() };
        let thread = thread::Builder::new()
            .name("vnets".to_owned())
            .spawn(move || keep_running(&of_thread, &place, &jobs))
            .map_err(|e| Failure::failed(format!("cannot start a thread: {e}")))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Who tells the process of ports that a host is going to have: it has to listen to them before anything goes through.
    pub(super) fn ahead(&self) -> Ahead {
        let shared = Arc::clone(&self.shared);
        Box::new(move |after| {
            let mut shared = lock(&shared);
            let Some(config) = after.config() else { return };
            let Some(Some(mut orders)) = shared.wanted.clone() else { return };
            for vnet in config.vnets.values() {
                if let (Some(orders), Some(port)) = (orders.vnets.get_mut(&vnet.id), &vnet.port) {
                    orders.port = Some(port.device().clone());
                    orders.opens = vnet.held_port().map(|_| viaduct_plan::OPEN_GROUP);
                    orders.learning = true;
                }
            }
            if shared.wanted.as_ref() != Some(&Some(orders.clone())) {
                shared.say(Some(orders));
            }
        })
    }

    /// Who tells the process of what a host is by now, and waits until the other hosts know which NICs are here: what a guest
    /// sends sooner is of nobody there.
    pub(super) fn known(&self) -> Elsewhere {
        let shared = Arc::clone(&self.shared);
        Box::new(move |after| {
            let mut locked = lock(&shared);
            let wanted = after.config().and_then(|config| orders(config, after.attached()));
            // Whoever is only started is told everything.
            if wanted.is_none() || locked.stream.is_none() {
                return;
            }
            if locked.wanted.as_ref() != Some(&wanted) {
                locked.say(wanted);
            }
            let Some(number) = locked.ask_whether_known() else { return };
            let waits = |shared: &mut Shared| shared.known < number;
            let waited = shared.1.wait_timeout_while(locked, PATIENCE, waits);
            if waited.is_ok_and(|(_, waited)| waited.timed_out()) {
                warn!(
                    "the process that carries vnets does not say that the other hosts know of a NIC; it goes on without"
                );
            }
        })
    }

    /// What is to be carried from now on.
    pub(super) fn be(&self, orders: Option<Orders>) {
        let mut shared = lock(&self.shared);
        if shared.wanted.as_ref() == Some(&orders) {
            return;
        }
        if !shared.say(orders)
            && let Some(thread) = &self.thread
        {
            thread.thread().unpark();
        }
    }

    /// Lets the process be: it goes on.
    pub(super) fn stop(mut self) {
        let mut shared = lock(&self.shared);
        shared.ending = true;
        if let Some(stream) = shared.stream.take() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(shared);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

struct Place {
    state_dir: PathBuf,
    run_dir: PathBuf,
}

fn lock(shared: &Both) -> MutexGuard<'_, Shared> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_wanted(shared: &Both) -> bool {
    lock(shared).wanted.as_ref().is_some_and(Option::is_some)
}

fn request(orders: Option<&Orders>) -> Request {
    orders.map_or(Request::End, |orders| Request::Be(Box::new(orders.clone())))
}

fn keep_running(shared: &Both, place: &Place, jobs: &Jobs) {
    let [mut pause, longest] = PAUSES;
    let mut ended = false;
    loop {
        if lock(shared).ending {
            return;
        }
        let wanted = lock(shared).wanted.as_ref().map(Option::is_some);
        // Whoever is left of a daemon before this one is told to end when it is known that nobody needs it.
        let left_over = || wanted == Some(false) && !ended && Client::connect(&place.run_dir).is_ok();
        if wanted != Some(true) && !left_over() {
            thread::park();
            continue;
        }
        ended = wanted == Some(false);
        let started = Instant::now();
        match find_or_start(place) {
            Ok(client) => match attend(shared, client, place, jobs) {
                Ok(()) if lock(shared).ending || !is_wanted(shared) => continue,
                Ok(()) => warn!("the process that carries vnets ended; it is started again"),
                Err(error) => warn!("the process that carries vnets was lost: {error}"),
            },
            Err(error) => warn!("cannot start the process that carries vnets: {error}"),
        }
        if started.elapsed() > SETTLED {
            // Frames wait for it.
            pause = PAUSES[0];
            continue;
        }
        thread::park_timeout(pause);
        pause = (pause * 2).min(longest);
    }
}

/// The one that runs, if it is of this version; else another one.
fn find_or_start(place: &Place) -> io::Result<Client> {
    match Client::connect(&place.run_dir) {
        Ok(client) if client.version == env!("CARGO_PKG_VERSION") => return Ok(client),
        Ok(client) => {
            info!("vnets are carried by version {}, which makes room for this one", client.version);
            client.end()?;
        }
        Err(error) if is_silence(&error) => {
            warn!("the process that carries vnets does not answer; another one takes its place");
            kill(&place.run_dir)?;
        }
        // There is none.
        Err(_) => {}
    }
    start(place)?;
    Client::connect(&place.run_dir)
}

/// Starts it and waits until it listens.
fn start(place: &Place) -> io::Result<()> {
    let mut child = ourselves::another()
        .arg("--state-dir")
        .arg(&place.state_dir)
        .arg("--run-dir")
        .arg(&place.run_dir)
        .arg(COMMAND)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    if line.trim() == "ready" {
        // Its end is heard of by its socket; somebody has to be there for its status, though.
        thread::Builder::new().name("vnets-end".to_owned()).spawn(move || child.wait())?;
        return Ok(());
    }
    let _ = child.kill();
    let status = child.wait()?;
    Err(io::Error::other(format!("it ended at once ({status}); its own words are above")))
}

/// Tells it what to be, and listens to it until it ends.
fn attend(shared: &Both, mut client: Client, place: &Place, jobs: &Jobs) -> io::Result<()> {
    {
        let mut shared = lock(shared);
        if shared.ending {
            return Ok(());
        }
        let stream = client.writer()?;
        stream.set_write_timeout(Some(UNREAD))?;
        ask(&stream, &request(shared.wanted.as_ref().and_then(Option::as_ref)))?;
        shared.stream = Some(stream);
    }
    let result = listen(shared, &mut client, place, jobs);
    lock(shared).lost();
    shared.1.notify_all();
    result
}

fn listen(shared: &Both, client: &mut Client, place: &Place, jobs: &Jobs) -> io::Result<()> {
    while let Some(answer) = client.hear_while_alive()? {
        match answer {
            Answer::Done { troubles } => troubles.iter().for_each(|trouble| warn!("{trouble}")),
            Answer::Changed(findings) => {
                if findings.nameless
                    && let Err(error) = names::start_another(&place.run_dir)
                {
                    warn!(
                        "nobody looks up names of hosts for vnets: {error}; end the process that carries them, and it is started \
                           with somebody who does"
                    );
                }
                if lock(shared).has_found(findings) {
                    let shared = Arc::clone(shared);
                    jobs.send(Job::Do(Box::new(move |host| {
                        let findings = lock(&shared).found.take();
                        findings.into_iter().for_each(|findings| found(host, findings));
                    })));
                }
            }
            Answer::Known { number } => {
                let mut locked = lock(shared);
                locked.known = locked.known.max(number);
                shared.1.notify_all();
            }
            Answer::Here { .. } | Answer::Report(_) => {}
        }
    }
    Ok(())
}

/// What it found is taken into account at once. It is a change of what the host is to be, and not a repair: nobody else
/// has changed anything.
fn found(host: &mut Host, findings: Findings) {
    if let Err(failure) = take_into_account(host, findings) {
        warn!("{}", failure.line());
        // The next look goes on with it.
        host.is_not_as_made();
        host.wants_look = true;
    }
}

fn take_into_account(host: &mut Host, findings: Findings) -> Result<(), Failure> {
    let mut caller = Caller { by: "viaduct".to_owned(), progress: &mut |_, _| (), waiting: &|_| () };
    let _lock = host.lock(&caller)?;
    let mut found = host.store.found();
    let known = found.clone();
    found.mtus.extend(findings.mtus.into_iter().map(|(id, mtu)| (id, u32::from(mtu))));
    found.lost = findings.lost;
    found.reached = findings.reached;
    let before = host.situation()?;
    // Their guests have spoken: their ports are open from now on.
    found.prepared.retain(|nic| {
        let has_arrived = before.config().and_then(|config| {
            let (name, mac) = vnet_of(config, nic)?;
            Some(findings.arrived.get(&config.vnets.get(&name)?.id)?.contains(&mac))
        });
        has_arrived != Some(true)
    });
    if found == known {
        return Ok(());
    }
    host.store.set_found(&found)?;
    let after = host.situation()?;
    host.touched = true;
    // What guests are told is different, too.
    host.is_not_as_made();
    let outcome = host.turn(Some(&before), &after, &mut caller)?;
    outcome.done.iter().for_each(|line| info!("as found out: {line}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixListener};

    use super::*;
    use crate::daemon::jobs::queue;

    #[test]
    fn however_often_peers_have_findings_change_the_keeper_looks_once() {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("engine.sock")).unwrap();
        let vnet = "97".parse().unwrap();
        let arrived = "02:00:00:00:00:01".parse().unwrap();
        let process = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut say = |answer: &Answer| {
                stream.write_all(&serde_json::to_vec(answer).unwrap()).unwrap();
                stream.write_all(b"\n").unwrap();
            };
            say(&Answer::Here { version: String::new(), pid: 1 });
            for number in 0..1_000_u16 {
                let mut findings = Findings::default();
                findings.mtus.insert(vnet, 1_280 + number);
                if number == 10 {
                    findings.arrived.insert(vnet, [arrived].into());
                }
                say(&Answer::Changed(findings));
            }
        });
        let mut client = Client::connect(directory.path()).unwrap();
        let (jobs, work) = queue().unwrap();
        let (shared, run_dir) = (Both::default(), directory.path().to_owned());
        let place = Place { state_dir: run_dir.clone(), run_dir };
        listen(&shared, &mut client, &place, &jobs).unwrap();
        process.join().unwrap();
        assert_eq!(std::iter::from_fn(|| work.next()).count(), 1);
        let found = lock(&shared).found.take().unwrap();
        assert_eq!((found.mtus[&vnet], found.arrived[&vnet].len()), (1_280 + 999, 1));
    }
}
