//! Changing a host, step by step: consecutive netlink requests wait in a queue and go together; everything else, and
//! everything that has to know what those did, sends the queue first.

mod conflict;
mod device;
mod guest;
mod links;
mod namespace;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use viaduct_plan::{
    Address, Apply, Keep, NamespaceChange, Op, PROTOCOL, Route, RouteKind, Sysctl, Unmade, side_by_side,
};
use viaduct_types::{IfName, NamespaceName};

use crate::{
    Kernel,
    address::{self, Dad},
    error::KernelError,
    inner_sysctl::Known,
    link, neighbour,
    queue::{Place, Queue, Step},
    route,
    socket::Request,
    sysctl,
};

/// Refusals that mean that what was to go had gone.
const GONE: &[i32] = &[libc::ENODEV, libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL];
const NOTHING: &[i32] = &[];

impl Apply for Kernel {
    type Error = KernelError;

    /// `progress` hears how many steps are done.
    fn apply(
        &mut self,
        ops: &[Op],
        keep: &Keep<'_>,
        progress: &mut dyn FnMut(usize),
    ) -> Vec<Result<(), KernelError>> {
        let mut results = Vec::with_capacity(ops.len());
        for pieces in side_by_side(ops) {
            let before = results.len();
            let mut progress = |done| progress(before + done);
            // The host's is by itself.
            if let [here] = pieces[..]
                && here.first().is_some_and(|op| op.place().0.is_none())
            {
                results.extend(self.apply_here(here, keep, &mut progress));
                // Without the host's own filter nothing more is done, wherever it is.
                if let Some(source) = failed_filter(here, &results[before..]) {
                    results
                        .resize_with(ops.len(), || Err(KernelError::NotDone { source: Arc::clone(&source) }));
                    break;
                }
            } else {
                results.extend(self.apply_within(&pieces, keep, &mut progress));
            }
        }
        results
    }
}

fn failed_filter(
    ops: &[Op],
    results: &[Result<(), KernelError>],
) -> Option<Arc<dyn std::error::Error + Send + Sync>> {
    ops.iter().zip(results).find_map(|(op, result)| match (op, result) {
        (Op::Nft(_), Err(KernelError::Filter { source })) => Some(Arc::clone(source)),
        _ => None,
    })
}

impl Kernel {
    /// Does steps in the namespace of this kernel.
    fn apply_here(
        &mut self,
        ops: &[Op],
        keep: &Keep<'_>,
        progress: &mut dyn FnMut(usize),
    ) -> Vec<Result<(), KernelError>> {
        let journal = self.record_sysctls(ops);
        let mut run = Run {
            kernel: self,
            ops,
            journal,
            queue: Queue::default(),
            doomed: Vec::new(),
            failed: BTreeMap::new(),
            made: BTreeMap::new(),
            unmade: Unmade::default(),
            promoted: BTreeMap::new(),
            restored: Vec::new(),
            inner: Known::default(),
            recorded: 0,
            restored_inner: Vec::new(),
        };
        for (number, op) in ops.iter().enumerate() {
            if let Err(error) = run.step(Doing { number, op }, keep) {
                run.fail(number, error);
                if let Op::Nft(_) = op {
                    run.give_up(number);
                    break;
                }
            }
            if run.queue.is_full() {
                run.send();
            }
            if run.queue.is_empty() {
                progress(number + 1);
            }
        }
        run.finish();
        progress(ops.len());
        let mut failed = run.failed;
        (0..ops.len()).map(|number| failed.remove(&number).map_or(Ok(()), Err)).collect()
    }
}

impl Kernel {
    /// One durable write for all settings that will be changed, before the first one is.
    fn record_sysctls(&self, ops: &[Op]) -> Result<BTreeMap<Sysctl, String>, KernelError> {
        let keys: Vec<&Sysctl> = ops
            .iter()
            .filter_map(|op| if let Op::SetSysctl { key, journal: true, .. } = op { Some(key) } else { None })
            .collect();
        if keys.is_empty() { Ok(BTreeMap::new()) } else { self.journal.record(keys) }
    }
}

/// The step that is being done.
#[derive(Clone, Copy)]
struct Doing<'a> {
    /// Its place in the plan.
    number: usize,
    op: &'a Op,
}

impl Doing<'_> {
    /// What it tries, for errors.
    fn what(self) -> String {
        self.op.to_string()
    }

    fn no_device(self, name: &IfName) -> KernelError {
        KernelError::NoDevice { what: self.what(), name: name.clone() }
    }
}

/// One call of [`Apply::apply`].
struct Run<'k> {
    kernel: &'k mut Kernel,
    ops: &'k [Op],
    /// What the journal holds.
    journal: Result<BTreeMap<Sysctl, String>, KernelError>,
    queue: Queue,
    /// Namespaces that are to go, and by which step.
    doomed: Vec<(usize, NamespaceName)>,
    /// By the step's place.
    failed: BTreeMap<usize, KernelError>,
    /// The numbers of the links that it was to make.
    made: BTreeMap<IfName, u32>,
    unmade: Unmade,
    /// The settings that have to be as they were when the queue is sent, and for which step they were changed.
    promoted: BTreeMap<Sysctl, usize>,
    /// What was given back what it had, by which step.
    restored: Vec<(usize, Sysctl)>,
    /// What the journal of settings in namespaces holds, and before which step's settings that was read.
    inner: Known,
    recorded: usize,
    /// The same in namespaces.
    restored_inner: Vec<(usize, NamespaceName, Sysctl)>,
}

impl Run<'_> {
    /// Does a step, or puts it into the queue.
    fn step(&mut self, doing: Doing<'_>, keep: &Keep<'_>) -> Result<(), KernelError> {
        self.check_made(doing)?;
        if !matches!(doing.op, Op::Namespace { change: NamespaceChange::Delete, .. }) {
            self.delete_doomed();
        }
        match doing.op {
            Op::Nft(changes) => {
                self.send();
                let start = Instant::now();
                let done = self.kernel.nft.commit(changes);
                let elapsed_us = start.elapsed().as_micros();
                tracing::debug!(changes = changes.len(), elapsed_us, "filter's transaction");
                done.map_err(|e| KernelError::Filter { source: Arc::new(e) })
            }
            Op::SetSysctl { key, value, journal } => {
                self.send();
                self.check_made(doing)?;
                if *journal {
                    self.journalled(key)?;
                }
                sysctl::write(key, value, &doing.what())
            }
            Op::RestoreSysctl { key, value } => {
                self.send();
                sysctl::write(key, value, &doing.what())?;
                self.restored.push((doing.number, key.clone()));
                Ok(())
            }
            Op::AddLink { name, link, alias, mac, mtu } => {
                self.add_link(doing, name, link, alias, *mac, *mtu)
            }
            Op::SetLink { name, change } => self.set_link(doing, name, change),
            Op::DeleteLinks(names) => {
                self.send();
                self.delete_links(doing, names)
            }
            Op::AddAddress { address: Address { link, address }, scope, protocol } => {
                // On our devices, and for what we say is ours, nobody is asked.
                let dad = if *protocol == PROTOCOL { Dad::Skip } else { Dad::Ask };
                let index = self.existing(doing, &Place::Host, link)?;
                self.put(doing, Place::Host, address::add(index, *address, *scope, *protocol, dad), NOTHING);
                Ok(())
            }
            Op::DeleteAddress(address) => self.delete_address(doing, address),
            Op::AddRoute(route) => {
                let index = self.route_device(doing, route)?;
                self.put(doing, Place::Host, route::add(route, index.unwrap_or(0)), NOTHING);
                Ok(())
            }
            Op::DeleteRoute(route) => {
                // A route goes with its device.
                let index = match self.route_device(doing, route) {
                    Err(KernelError::NoDevice { .. }) => return Ok(()),
                    index => index?,
                };
                self.put(doing, Place::Host, route::delete(route, index.unwrap_or(0)), GONE);
                Ok(())
            }
            Op::AddProxy(proxy) => {
                let index = self.existing(doing, &Place::Host, &proxy.link)?;
                self.put(doing, Place::Host, neighbour::add_proxy(index, proxy.address), NOTHING);
                Ok(())
            }
            Op::DeleteProxy(proxy) => {
                if let Some(index) = self.device(doing, &Place::Host, &proxy.link)? {
                    self.put(doing, Place::Host, neighbour::delete_proxy(index, proxy.address), GONE);
                }
                Ok(())
            }
            Op::AddUnicast(link, mac) => {
                let index = self.existing(doing, &Place::Host, link)?;
                self.put(doing, Place::Host, neighbour::add_unicast(index, *mac), &[libc::EEXIST]);
                Ok(())
            }
            Op::DeleteUnicast(link, mac) => {
                if let Some(index) = self.device(doing, &Place::Host, link)? {
                    self.put(doing, Place::Host, neighbour::delete_unicast(index, *mac), GONE);
                }
                Ok(())
            }
            Op::Guest { netns, device, change, .. } => self.change_guest(doing, netns, device, change),
            Op::Namespace { name, change } => self.change_namespace(doing, name, change),
            Op::EndFlows { then } => {
                self.send();
                let ended = self.kernel.conntrack.end(&|flow| keep(None, flow), &doing.what())?;
                tracing::debug!(ended, "flows ended");
                neighbour::drop_waiting(&mut self.kernel.route)
                    .map_err(|refusal| KernelError::refused(doing.what(), refusal))?;
                self.kernel.nft.commit(then).map_err(|e| KernelError::Filter { source: Arc::new(e) })
            }
            Op::Announce { link, address, mac } => {
                self.send();
                let Kernel { announcer, route, .. } = &mut *self.kernel;
                announcer.announce(route, link, *address, *mac, &doing.what())
            }
            // Those are done elsewhere.
            Op::Within { .. } => Ok(()),
        }
    }

    fn put(&mut self, doing: Doing<'_>, place: Place, request: Request, fine: &'static [i32]) {
        if self.queue.is_elsewhere(&place) {
            self.send();
        }
        self.queue.put(place, Step { op: doing.number, request, fine, undo: None });
    }

    /// Sends what waits.
    fn send(&mut self) {
        self.send_queue();
        for (key, number) in std::mem::take(&mut self.promoted) {
            let what = self.ops.get(number).map(Op::to_string).unwrap_or_default();
            if let Err(error) = sysctl::write(&key, "0", &what) {
                self.fail(number, error);
            }
        }
    }

    fn send_queue(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        let Kernel { route, sockets, .. } = &mut *self.kernel;
        let refused = match self.queue.send(route, sockets) {
            Ok(refused) => refused,
            Err((error, numbers)) => {
                numbers.into_iter().for_each(|number| self.fail(number, error.clone()));
                return;
            }
        };
        for outcome in refused {
            // Of a step's several refusals the first counts: the others follow from it.
            if self.failed.contains_key(&outcome.op) {
                continue;
            }
            if let Some(index) = outcome.undo {
                let _ = self.kernel.route.batch(&[link::delete(index)]);
            }
            let Some(op) = self.ops.get(outcome.op) else { continue };
            if let Err(error) = self.judge(Doing { number: outcome.op, op }, outcome.refusal) {
                self.fail(outcome.op, error);
            }
        }
    }

    fn fail(&mut self, number: usize, error: KernelError) {
        tracing::debug!(number, %error, "step failed");
        if let Some(op) = self.ops.get(number) {
            self.unmade.failed(op);
        }
        self.failed.entry(number).or_insert(error);
    }

    /// No packet may flow past a filter that is not there: what follows its failure is not done.
    fn give_up(&mut self, failed: usize) {
        if let Some(KernelError::Filter { source }) = self.failed.get(&failed) {
            let not_done = KernelError::NotDone { source: Arc::clone(source) };
            self.failed.extend((failed + 1..self.ops.len()).map(|number| (number, not_done.clone())));
        }
    }

    fn finish(&mut self) {
        self.send();
        self.delete_doomed();
        let restored = std::mem::take(&mut self.restored);
        // Killed before this they stand in the journal still, and are given back what they have.
        if let Err(error) = self.kernel.journal.forget(restored.iter().map(|(_, key)| key)) {
            restored.into_iter().for_each(|(number, _)| self.fail(number, error.clone()));
        }
        let restored = std::mem::take(&mut self.restored_inner);
        let settings = restored.iter().map(|(_, name, key)| (name, key));
        if let Err(error) = self.kernel.inner_journal.forget_settings(settings) {
            restored.into_iter().for_each(|(number, ..)| self.fail(number, error.clone()));
        }
    }

    /// The ifindex of a device, after the queue was sent if it is to make it.
    fn device(&mut self, doing: Doing<'_>, place: &Place, name: &IfName) -> Result<Option<u32>, KernelError> {
        if self.queue.is_making(name) || self.queue.is_elsewhere(place) {
            self.send();
            self.check_made(doing)?;
        }
        let Kernel { route, sockets, .. } = &mut *self.kernel;
        let index = match place {
            Place::Host => link::index_of(route, name),
            Place::Guest(path) => sockets.with(path, |socket| link::index_of(socket, name))?,
        };
        index.map_err(|e| KernelError::system(doing.what(), e))
    }

    /// Nothing is done to what has the name of a link that could not be made.
    fn check_made(&self, doing: Doing<'_>) -> Result<(), KernelError> {
        self.unmade.needed(doing.op).map_or(Ok(()), |name| Err(doing.no_device(&name)))
    }

    fn existing(&mut self, doing: Doing<'_>, place: &Place, name: &IfName) -> Result<u32, KernelError> {
        self.device(doing, place, name)?.ok_or_else(|| doing.no_device(name))
    }

    fn route_device(&mut self, doing: Doing<'_>, route: &Route) -> Result<Option<u32>, KernelError> {
        let lo = match route.kind {
            RouteKind::Local => "lo".parse().ok(),
            RouteKind::Unicast | RouteKind::Unreachable => None,
        };
        match route.link.as_ref().or(lo.as_ref()) {
            Some(link) => self.existing(doing, &Place::Host, link).map(Some),
            None => Ok(None),
        }
    }

    fn journalled(&mut self, key: &Sysctl) -> Result<(), KernelError> {
        let known = self.journal.as_mut().map_err(|error| error.clone())?;
        if !known.contains_key(key) {
            // It did not exist when the steps began.
            *known = self.kernel.journal.record([key])?;
        }
        Ok(())
    }

    /// By default, the kernel takes with an IPv4 address all others of its subnet on the device, as secondary to it
    /// (`__inet_del_ifa`), whoever put them there; with promote_secondaries it does not.
    fn delete_address(&mut self, doing: Doing<'_>, address: &Address) -> Result<(), KernelError> {
        let Address { link, address } = address;
        let Some(index) = self.device(doing, &Place::Host, link)? else { return Ok(()) };
        let request = address::delete(index, *address);
        let promote = Sysctl::ipv4(link, "promote_secondaries");
        let is_off = |key: &Sysctl| sysctl::read(key).map(|value| value.as_deref() == Some("0"));
        if address.addr().is_ipv6()
            || !is_off(&promote)?
            || !is_off(&Sysctl::all("ipv4", "promote_secondaries"))?
        {
            self.put(doing, Place::Host, request, GONE);
            return Ok(());
        }
        // What waits goes together with it: stopped in between, a device could have lost its cable and kept its routes.
        sysctl::write(&promote, "1", &doing.what())?;
        self.promoted.insert(promote, doing.number);
        self.put(doing, Place::Host, request, GONE);
        Ok(())
    }
}
