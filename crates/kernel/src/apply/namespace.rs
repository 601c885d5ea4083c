//! The steps about namespaces that guests share.

use std::{
    collections::BTreeMap,
    fs,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use viaduct_plan::{InnerKind, MOVED, NamespaceChange, Op};
use viaduct_types::{IfName, MacAddr, NamespaceName};

use super::{Doing, GONE, NOTHING, Run};
use crate::{
    Kernel,
    error::{KernelError, Refusal},
    inner_sysctl,
    link::{self, Make, Settings, Which},
    namespaces,
    netns::Netns,
    queue::Place,
    rule,
    socket::Socket,
};

/// Tries again while what a namespace that is just going had is in the way: its VLANs and MACs stay taken until the
/// kernel has cleaned up after it, in its own time.
fn patiently(mut attempt: impl FnMut() -> Vec<Result<(), Refusal>>) -> Result<(), Refusal> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let begin = Instant::now();
    loop {
        match attempt().into_iter().find_map(Result::err) {
            Some(refusal) if !is_taken(&refusal) || begin.elapsed() > PATIENCE => return Err(refusal),
            Some(_) => thread::sleep(Duration::from_millis(10)),
            None => return Ok(()),
        }
    }
}

fn is_taken(refusal: &Refusal) -> bool {
    matches!(refusal.errno, libc::EEXIST | libc::EADDRINUSE)
}

impl Run<'_> {
    /// A device could not come up: its MAC may be taken still.
    pub(super) fn up_again(
        &mut self,
        doing: Doing<'_>,
        name: &NamespaceName,
        device: &IfName,
        refusal: Refusal,
    ) -> Result<(), KernelError> {
        let outcome = if is_taken(&refusal) {
            let up = link::set(Which::Name(device), &Settings { up: Some(true), ..Settings::default() });
            let Kernel { sockets, .. } = &mut *self.kernel;
            sockets.with(&namespaces::path(name), |socket| {
                patiently(|| socket.batch(std::slice::from_ref(&up)))
            })?
        } else {
            Err(refusal)
        };
        outcome.map_err(|refusal| KernelError::refused(doing.what(), refusal))
    }

    pub(super) fn change_namespace(
        &mut self,
        doing: Doing<'_>,
        name: &NamespaceName,
        change: &NamespaceChange,
    ) -> Result<(), KernelError> {
        match change {
            NamespaceChange::Make => {
                self.send();
                self.kernel.namespaces.remember(name)?;
                let socket = namespaces::make(name, &doing.what())?;
                let path = namespaces::path(name);
                if let Ok(data) = fs::metadata(&path) {
                    self.kernel.sockets.put(path, data.ino(), socket);
                }
                Ok(())
            }
            NamespaceChange::Delete => {
                self.send();
                self.kernel.stacks.forget(name);
                self.doomed.push((doing.number, name.clone()));
                Ok(())
            }
            NamespaceChange::AddDevice { device, kind, alias, mac, mtu } => {
                self.kernel.namespaces.remember(name)?;
                self.add_device(doing, name, (device, kind), alias, *mac, *mtu)
            }
            NamespaceChange::AddRule(rule) => {
                self.put(doing, Place::Guest(namespaces::path(name)), rule::add(rule), NOTHING);
                Ok(())
            }
            NamespaceChange::DeleteRule(rule) => {
                self.put(doing, Place::Guest(namespaces::path(name)), rule::delete(rule), GONE);
                Ok(())
            }
            NamespaceChange::SetSysctl { key, value } => {
                self.send();
                self.record_inner(doing.number)?;
                self.kernel.inner_journal.set(name, key, value, &self.inner, &doing.what())
            }
            NamespaceChange::RestoreSysctl { key, value } => {
                self.send();
                inner_sysctl::restore(name, key, value, &doing.what())?;
                self.restored_inner.push((doing.number, name.clone(), key.clone()));
                Ok(())
            }
            NamespaceChange::GiveBack(device) => {
                self.send();
                self.give_back(doing, name, device)
            }
            NamespaceChange::DeleteDevice(device) => {
                let place = Place::Guest(namespaces::path(name));
                if let Some(index) = self.device(doing, &place, device)? {
                    self.put(doing, place, link::delete(index), GONE);
                }
                Ok(())
            }
            NamespaceChange::Device { device, change } => {
                self.change_guest(doing, &namespaces::path(name), device, change)
            }
        }
    }

    /// One durable write for the settings that this step and those right after it change, before the first one is.
    fn record_inner(&mut self, number: usize) -> Result<(), KernelError> {
        if number < self.recorded {
            return Ok(());
        }
        let mut wanted: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for op in self.ops.iter().skip(number) {
            let Op::Namespace { name, change: NamespaceChange::SetSysctl { key, .. } } = op else { break };
            wanted.entry(name).or_default().push(key);
        }
        self.recorded = number + wanted.values().map(Vec::len).sum::<usize>();
        self.inner = self.kernel.inner_journal.record(&wanted)?;
        Ok(())
    }

    /// Made right where it belongs: nobody sees it on the host. What it is called by its alias comes after, for the
    /// kernel takes none in the message that makes a link.
    fn add_device(
        &mut self,
        doing: Doing<'_>,
        name: &NamespaceName,
        (device, kind): (&IfName, &InnerKind),
        alias: &str,
        mac: Option<MacAddr>,
        mtu: Option<u32>,
    ) -> Result<(), KernelError> {
        self.send();
        let parent = match kind {
            InnerKind::Device { device: on_host } => {
                return self.take_in(doing, name, (device, on_host), alias, mac, mtu);
            }
            InnerKind::Vlan { parent, .. }
            | InnerKind::Macvlan { parent, .. }
            | InnerKind::Ipvlan { parent, .. } => parent,
        };
        let lower = self.existing(doing, &Place::Host, parent)?;
        let netns = Netns::open(&namespaces::path(name))?;
        let make = match kind {
            InnerKind::Vlan { id, protocol, priorities, .. } => {
                Make::Vlan { lower, id: *id, protocol: *protocol, priorities }
            }
            InnerKind::Macvlan { mode, .. } => Make::Macvlan { lower, mode: *mode },
            InnerKind::Ipvlan { mode, .. } => Make::Ipvlan { lower, mode: *mode },
            InnerKind::Device { .. } => return Ok(()),
        };
        let request = link::make_inside(netns.file().as_raw_fd(), device, &make, mac, mtu);
        let Kernel { route, .. } = &mut *self.kernel;
        patiently(|| route.batch(std::slice::from_ref(&request)))
            .map_err(|refusal| KernelError::refused(doing.what(), refusal))?;
        let ours = Settings { alias: Some(alias.to_owned()), ..Settings::default() };
        let place = Place::Guest(namespaces::path(name));
        self.put(doing, place, link::set(Which::Name(device), &ours), NOTHING);
        Ok(())
    }

    /// Takes the namespaces away that wait for it. Their devices go first: a process that is still in one would keep them,
    /// and a VLAN can be made only once. The kernel waits for each of them until nobody uses it; many threads wait together,
    /// which takes hardly longer than one.
    pub(super) fn delete_doomed(&mut self) {
        if self.doomed.is_empty() {
            return;
        }
        let mut jobs = Vec::new();
        for (number, name) in std::mem::take(&mut self.doomed) {
            match self.kernel.sockets.take(&namespaces::path(&name)) {
                Ok(socket) => jobs.push(Job { number, name, socket: Some(socket), outcome: Ok(()) }),
                Err(KernelError::Netns { reason, .. }) if reason.is_none() => {
                    jobs.push(Job { number, name, socket: None, outcome: Ok(()) });
                }
                Err(error) => self.fail(number, error),
            }
        }
        let share = jobs.len().div_ceil(THREADS).max(1);
        thread::scope(|scope| {
            for part in jobs.chunks_mut(share) {
                let ops = self.ops;
                let empty = |part: &mut [Job]| part.iter_mut().for_each(|job| job.empty(ops));
                let builder = thread::Builder::new().stack_size(STACK);
                // Where no more threads can be had, this one does it.
                let (sender, receiver) = mpsc::channel();
                let started = builder.spawn_scoped(scope, move || {
                    if let Ok(part) = receiver.recv() {
                        empty(part);
                    }
                });
                match started {
                    Ok(_) => drop(sender.send(part)),
                    Err(_) => empty(part),
                }
            }
        });
        let mut gone = Vec::new();
        for Job { number, name, outcome, .. } in jobs {
            match outcome.and_then(|()| self.delete_namespace(number, &name)) {
                Ok(()) => gone.push((number, name)),
                Err(error) => self.fail(number, error),
            }
        }
        if let Err(error) = self.kernel.inner_journal.forget(gone.iter().map(|(_, name)| name)) {
            gone.into_iter().for_each(|(number, _)| self.fail(number, error.clone()));
        }
    }

    fn delete_namespace(&mut self, number: usize, name: &NamespaceName) -> Result<(), KernelError> {
        let what = self.ops.get(number).map(ToString::to_string).unwrap_or_default();
        namespaces::delete(name, &what)?;
        let Kernel { sockets, namespaces: index, .. } = &mut *self.kernel;
        sockets.close(&index.held(name));
        index.release(name);
        index.forget(name);
        Ok(())
    }
}

/// So many deletions at once.
const THREADS: usize = 256;
/// They do next to nothing.
const STACK: usize = 256 << 10;

/// A namespace to be emptied.
struct Job {
    number: usize,
    name: NamespaceName,
    /// In it; none when there is none.
    socket: Option<Socket>,
    outcome: Result<(), KernelError>,
}

impl Job {
    /// Deletes what we made in it. The socket is closed with that: an open one would keep the namespace alive, and
    /// closing it waits, too.
    fn empty(&mut self, ops: &[Op]) {
        let Some(mut socket) = self.socket.take() else { return };
        let what = || ops.get(self.number).map(ToString::to_string).unwrap_or_default();
        self.outcome = match empty(&mut socket) {
            Ok(None) => Ok(()),
            Ok(Some(device)) => Err(KernelError::InTheWay { what: what(), device }),
            Err(refusal) if GONE.contains(&refusal.errno) => Ok(()),
            Err(refusal) => Err(KernelError::refused(what(), refusal)),
        };
    }
}

/// Deletes our devices in a namespace, unless one of the host's is there, which is told.
fn empty(socket: &mut Socket) -> Result<Option<IfName>, Refusal> {
    let devices = link::list(socket)?;
    if let Some((name, _)) = devices.iter().find(|(_, device)| device.alias.starts_with(MOVED)) {
        return Ok(Some(name.clone()));
    }
    let ours = devices.values().filter(|device| device.alias.starts_with(namespaces::INNER));
    let requests: Vec<_> = ours.map(|device| link::delete(device.index)).collect();
    socket.batch(&requests).into_iter().find_map(Result::err).map_or(Ok(None), Err)
}
