//! Starts the process that answers guests, starts it again when it ends, and passes on what it says.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::IpAddr,
    os::{
        fd::OwnedFd,
        unix::{fs::MetadataExt, net::UnixStream},
    },
    process::{Child, ChildStdin, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};
use viaduct_model::Family;
use viaduct_plan::{Served, ServedChange, Told};
use viaduct_services::Event;
use viaduct_types::{MacAddr, NamespaceName, NicId};

use super::{
    jobs::{Job, Jobs},
    resolvers::Resolvers,
};
use crate::{
    failure::Failure,
    host::Host,
    lines::{Lines, is_silence},
    operations, ourselves,
    services::{COMMAND, Order, Report},
};

/// A process that lived for so long ended for another reason than the one before it.
const SETTLED: Duration = Duration::from_secs(10);
/// How long until the next is started, when it ends at once.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// A process for the guests of each stack, as it hears and speaks by the sockets of one.
pub(super) struct Services {
    jobs: Jobs,
    host: Answering,
    /// With the inode numbers of the namespaces: another of the same name is another.
    within: BTreeMap<NamespaceName, (u64, Answering)>,
}

impl Services {
    /// Starts a thread that keeps a process running as soon as there is something to serve.
    pub(super) fn start(jobs: Jobs) -> Result<Self, Failure> {
        let host = Answering::start(None, jobs.clone())?;
        Ok(Self { jobs, host, within: BTreeMap::new() })
    }

    /// What is to be served from now on.
    pub(super) fn serve(&mut self, told: Told) {
        let mut served = match told {
            Told::Whole(served) => served,
            Told::Part(None, change) => return self.host.serve(Told::Part(None, change)),
            Told::Part(Some(name), change) => return self.serve_within(name, Told::Part(None, change)),
        };
        let mut stacks = std::mem::take(&mut served.stacks);
        self.host.serve(Told::Whole(served));
        self.keep(|name, inode| stacks.contains_key(name) && inode_of(name) == Some(inode));
        stacks.retain(|name, _| inode_of(name).is_some());
        for (name, served) in stacks {
            self.serve_within(name, Told::Whole(served));
        }
    }

    fn serve_within(&mut self, name: NamespaceName, told: Told) {
        let Some(inode) = inode_of(&name) else { return };
        if let Some((_, answering)) = self.within.get(&name).filter(|(known, _)| *known == inode) {
            return answering.serve(told);
        }
        if let Some((_, gone)) = self.within.remove(&name) {
            gone.stop();
        }
        match Answering::start(Some(name.clone()), self.jobs.clone()) {
            Ok(answering) => {
                answering.serve(told);
                self.within.insert(name, (inode, answering));
            }
            Err(failure) => warn!("guests in namespace {name} are not answered: {}", failure.line()),
        }
    }

    /// Ends the processes in namespaces that have lost their names: they would keep them alive.
    pub(super) fn leave_what_is_gone(&mut self) {
        self.keep(|name, inode| inode_of(name) == Some(inode));
    }

    fn keep(&mut self, stays: impl Fn(&NamespaceName, u64) -> bool) {
        for (name, (inode, answering)) in std::mem::take(&mut self.within) {
            if stays(&name, inode) {
                self.within.insert(name, (inode, answering));
            } else {
                answering.stop();
            }
        }
    }

    /// Ends the processes.
    pub(super) fn stop(self) {
        self.host.stop();
        self.within.into_values().for_each(|(_, answering)| answering.stop());
    }
}

fn inode_of(namespace: &NamespaceName) -> Option<u64> {
    Some(std::fs::metadata(format!("/run/netns/{namespace}")).ok()?.ino())
}

/// The process of one stack, whichever it is at the moment.
struct Answering {
    shared: Arc<Mutex<Shared>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    served: Served,
    /// To the process that runs; a thread of its own writes, so that nobody waits for it.
    orders: Option<Sender<String>>,
    ending: bool,
}

impl Answering {
    /// Starts a thread that keeps a process running as soon as there is something to serve.
    fn start(namespace: Option<NamespaceName>, jobs: Jobs) -> Result<Self, Failure> {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("services".to_owned())
            .spawn(move || keep_running(&of_thread, namespace.as_ref(), &jobs))
            .map_err(|e| Failure::failed(format!("cannot start a thread: {e}")))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What is to be served from now on.
    fn serve(&self, told: Told) {
        let mut shared = lock(&self.shared);
        let change = match told {
            Told::Whole(served) => shared.served.change_to(&served),
            Told::Part(_, change) => change,
        };
        shared.served.change(&change);
        if let Some(sender) = &shared.orders {
            // It fails when the process has just ended; the next is told everything.
            let _ = orders(change).try_for_each(|order| sender.send(order));
        } else if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// Ends the process.
    fn stop(mut self) {
        let mut shared = lock(&self.shared);
        shared.ending = true;
        // Its input ends with the thread that writes it.
        shared.orders = None;
        drop(shared);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One order for each device where something else is served, and for each network with other names.
fn orders(change: ServedChange) -> impl Iterator<Item = String> {
    let links = change.links.into_iter().map(|(device, change)| Order::Link { device, change });
    let zones = change.zones.into_iter().map(|(network, change)| Order::Zone { network, change });
    links.chain(zones).filter_map(|order| line(&order))
}

fn line(order: &Order) -> Option<String> {
    let mut line = serde_json::to_string(order).ok()?;
    line.push('\n');
    Some(line)
}

fn keep_running(shared: &Mutex<Shared>, namespace: Option<&NamespaceName>, jobs: &Jobs) {
    let [mut pause, longest] = PAUSES;
    let mut known = BTreeMap::new();
    loop {
        if lock(shared).ending {
            return;
        }
        if lock(shared).served.links.is_empty() {
            thread::park();
            continue;
        }
        let started = Instant::now();
        match start(namespace) {
            Ok((mut child, input, said)) => {
                if let Err(error) = attend(shared, input, said, namespace, jobs, &mut known) {
                    if is_silence(&error) {
                        warn!("the process that answers guests does not answer; another one takes its place");
                    } else {
                        warn!("the process that answers guests was lost: {error}");
                    }
                }
                // Whatever ended its output, it is of no use any more.
                let _ = child.kill();
                let status = child.wait();
                if lock(shared).ending {
                    return;
                }
                match status {
                    Ok(status) => {
                        warn!("the process that answers guests ended ({status}); it is started again")
                    }
                    Err(error) => warn!("the process that answers guests was lost: {error}"),
                }
            }
            Err(error) => warn!("cannot start the process that answers guests: {error}"),
        }
        pause = if started.elapsed() > SETTLED { PAUSES[0] } else { (pause * 2).min(longest) };
        thread::park_timeout(pause);
    }
}

fn start(namespace: Option<&NamespaceName>) -> io::Result<(Child, ChildStdin, Lines)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut child = ourselves::another()
        .arg(COMMAND)
        .args(namespace.map(NamespaceName::as_str))
        .stdin(Stdio::piped())
        .stdout(OwnedFd::from(theirs))
        .spawn()?;
    let input = child.stdin.take().ok_or_else(|| io::Error::other("it has no input"))?;
    Ok((child, input, Lines::new(ours)))
}

/// Tells a process what to serve, and listens to it until it ends.
fn attend(
    shared: &Mutex<Shared>,
    mut input: ChildStdin,
    mut said: Lines,
    namespace: Option<&NamespaceName>,
    jobs: &Jobs,
    known: &mut BTreeMap<(NicId, Family), IpAddr>,
) -> io::Result<()> {
    let (sender, queue) = mpsc::channel::<String>();
    thread::Builder::new().name("orders".to_owned()).spawn(move || {
        // It ends with the process, or when there is nobody left to give orders.
        for order in queue {
            if input.write_all(order.as_bytes()).is_err() {
                return;
            }
        }
    })?;
    let mut resolvers = Resolvers::new(namespace);
    {
        let mut shared = lock(shared);
        if shared.ending {
            return Ok(());
        }
        let _ = servers(&mut resolvers).map(|order| sender.send(order));
        let all = Served::default().change_to(&shared.served);
        let _ = orders(all).try_for_each(|order| sender.send(order));
        shared.orders = Some(sender);
    }
    let result = listen(shared, &mut said, &mut resolvers, jobs, known);
    lock(shared).orders = None;
    result
}

fn listen(
    shared: &Mutex<Shared>,
    said: &mut Lines,
    resolvers: &mut Resolvers,
    jobs: &Jobs,
    known: &mut BTreeMap<(NicId, Family), IpAddr>,
) -> io::Result<()> {
    let order = |order: Option<String>| {
        if let (Some(order), Some(orders)) = (order, &lock(shared).orders) {
            // It fails when the process has just ended.
            let _ = orders.send(order);
        }
    };
    let ask = || {
        order(line(&Order::Answer));
        Ok(())
    };
    while let Some(report) = said.next_while_alive(ask)? {
        match serde_json::from_slice(&report)? {
            Report::Event { event } => hear(event, jobs, known),
            Report::AsksForServers => order(servers(resolvers)),
            Report::Lives => {}
        }
    }
    Ok(())
}

/// Which name servers the host asks, if they may be others than before.
fn servers(resolvers: &mut Resolvers) -> Option<String> {
    let servers = resolvers.look();
    if let Some(servers) = &servers {
        debug!("the host's name servers: {servers:?}");
    }
    line(&Order::Servers { servers })
}

fn hear(event: Event, jobs: &Jobs, known: &mut BTreeMap<(NicId, Family), IpAddr>) {
    match event {
        Event::Configured { nic, address } => {
            // Also told when a guest only renews.
            if known.insert((nic.clone(), Family::of(address)), address) != Some(address) {
                info!("{nic} has taken its address {address}");
            }
        }
        Event::InUse { nic, address, holder } => {
            jobs.send(Job::Do(Box::new(move |host| in_use(host, &nic, address, holder))));
        }
    }
}

/// Somebody else has a guest's address: it is lent another one. One that the file gives it stays.
fn in_use(host: &mut Host, nic: &NicId, address: IpAddr, holder: Option<MacAddr>) {
    let by = holder.map(|mac| format!(" by {mac}")).unwrap_or_default();
    warn!("{nic}: its address {address} is in use elsewhere{by}");
    match operations::lend_another(host, nic, address) {
        Ok(Some(other)) => info!("{nic} is lent {other} instead"),
        Ok(None) => {}
        Err(failure) => warn!("{nic} is lent no other address: {}", failure.line()),
    }
}
