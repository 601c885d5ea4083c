//! Changing a host, step by step: consecutive netlink requests wait in a queue and go together; everything else, and
//! everything that has to know what those did, sends the queue first.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsRawFd,
    sync::Arc,
};

use viaduct_plan::{
    Address, Apply, Flow, GROUP, GuestChange, LinkChange, NewLink, Op, PROTOCOL, Route, RouteKind, Sysctl,
};
use viaduct_types::{IfName, IpNet, MacAddr};

use crate::{
    Kernel,
    address::{self, Dad},
    error::{KernelError, Refusal},
    link::{self, Make, Settings, Which},
    neighbour,
    netns::Netns,
    queue::{Place, Queue, Step},
    route,
    socket::Request,
    sysctl, tap,
};

/// Refusals that mean that what was to go had gone.
const GONE: &[i32] = &[libc::ENODEV, libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL];
/// The device, or the kernel, has no IPv6: it makes no address.
const NO_IPV6: &[i32] = &[libc::EAFNOSUPPORT];
const NOTHING: &[i32] = &[];

impl Apply for Kernel {
    type Error = KernelError;

    fn apply(
        &mut self,
        ops: &[Op],
        keep: &dyn Fn(&Flow) -> bool,
        progress: &mut dyn FnMut(usize),
    ) -> Vec<Result<(), KernelError>> {
        let journal = self.record_sysctls(ops);
        let mut run = Run {
            kernel: self,
            ops,
            journal,
            queue: Queue::default(),
            failed: BTreeMap::new(),
            restored: Vec::new(),
        };
        for (i, op) in ops.iter().enumerate() {
            if let Err(error) = run.step(i, op, keep) {
                run.fail(i, error);
                if let (Op::Nft(_), Some(KernelError::Filter { source })) = (op, run.failed.get(&i)) {
                    let source = Arc::clone(source);
                    run.failed.extend(
                        (i + 1..ops.len()).map(|i| (i, KernelError::NotDone { source: Arc::clone(&source) })),
                    );
                    break;
                }
            }
            if run.queue.is_full() {
                run.send();
            }
            if run.queue.is_empty() {
                progress(i + 1);
            }
        }
        run.finish();
        progress(ops.len());
        let mut failed = run.failed;
        (0..ops.len()).map(|i| failed.remove(&i).map_or(Ok(()), Err)).collect()
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

/// One call of [`Apply::apply`].
struct Run<'k> {
    kernel: &'k mut Kernel,
    ops: &'k [Op],
    /// What the journal holds.
    journal: Result<BTreeMap<Sysctl, String>, KernelError>,
    queue: Queue,
    failed: BTreeMap<usize, KernelError>,
    /// Steps that gave a setting back what it had.
    restored: Vec<usize>,
}

impl Run<'_> {
    /// Does a step, or puts it into the queue.
    fn step(&mut self, i: usize, op: &Op, keep: &dyn Fn(&Flow) -> bool) -> Result<(), KernelError> {
        match op {
            Op::Nft(changes) => {
                self.send();
                self.kernel.nft.commit(changes).map_err(|e| KernelError::Filter { source: Arc::new(e) })
            }
            Op::SetSysctl { key, value, journal } => {
                self.send();
                if *journal {
                    self.journalled(key)?;
                }
                sysctl::write(key, value, &op.to_string())
            }
            Op::RestoreSysctl { key, value } => {
                self.send();
                sysctl::write(key, value, &op.to_string())?;
                self.restored.push(i);
                Ok(())
            }
            Op::AddLink { name, link, alias, mac, mtu } => self.add_link(i, name, link, alias, *mac, *mtu),
            Op::SetLink { name, change } => self.set_link(i, name, change),
            Op::DeleteLinks(names) => {
                self.send();
                self.delete_links(names, op)
            }
            Op::AddAddress { address: Address { link, address }, scope, protocol } => {
                // On our devices, and for what we say is ours, nobody is asked.
                let dad = if *protocol == PROTOCOL { Dad::Skip } else { Dad::Ask };
                let index = self.existing(&Place::Host, link, op)?;
                self.put(i, Place::Host, address::add(index, *address, *scope, *protocol, dad), NOTHING);
                Ok(())
            }
            Op::DeleteAddress(Address { link, address }) => {
                if let Some(index) = self.index(&Place::Host, link, op)? {
                    self.delete_address(i, link, address::delete(index, *address), *address)?;
                }
                Ok(())
            }
            Op::AddRoute(route) => {
                let index = self.route_device(route, op)?;
                self.put(i, Place::Host, route::add(route, index.unwrap_or(0)), NOTHING);
                Ok(())
            }
            Op::DeleteRoute(route) => {
                // A route goes with its device.
                let index = match self.route_device(route, op) {
                    Err(KernelError::NoDevice { .. }) => return Ok(()),
                    index => index?,
                };
                self.put(i, Place::Host, route::delete(route, index.unwrap_or(0)), GONE);
                Ok(())
            }
            Op::AddProxy(proxy) => {
                let index = self.existing(&Place::Host, &proxy.link, op)?;
                self.put(i, Place::Host, neighbour::add_proxy(index, proxy.address), NOTHING);
                Ok(())
            }
            Op::DeleteProxy(proxy) => {
                if let Some(index) = self.index(&Place::Host, &proxy.link, op)? {
                    self.put(i, Place::Host, neighbour::delete_proxy(index, proxy.address), GONE);
                }
                Ok(())
            }
            Op::AddUnicast(link, mac) => {
                let index = self.existing(&Place::Host, link, op)?;
                self.put(i, Place::Host, neighbour::add_unicast(index, *mac), &[libc::EEXIST]);
                Ok(())
            }
            Op::DeleteUnicast(link, mac) => {
                if let Some(index) = self.index(&Place::Host, link, op)? {
                    self.put(i, Place::Host, neighbour::delete_unicast(index, *mac), GONE);
                }
                Ok(())
            }
            Op::Guest { netns, device, change, .. } => self.change_guest(i, netns, device, change),
            Op::EndFlows => {
                self.send();
                let ended = self.kernel.conntrack.end(keep, &op.to_string())?;
                tracing::debug!(ended, "flows ended");
                Ok(())
            }
            Op::Announce { link, address, mac } => {
                self.send();
                let Kernel { announcer, route, .. } = &mut *self.kernel;
                announcer.announce(route, link, *address, *mac, &op.to_string())
            }
        }
    }

    fn finish(&mut self) {
        self.send();
        let restored = std::mem::take(&mut self.restored);
        let keys = restored.iter().filter_map(|i| match self.ops.get(*i) {
            Some(Op::RestoreSysctl { key, .. }) => Some(key),
            _ => None,
        });
        if restored.is_empty() {
            return;
        }
        if let Err(error) = self.kernel.journal.forget(keys) {
            for i in restored {
                self.fail(i, error.clone());
            }
        }
    }

    fn put(&mut self, op: usize, place: Place, request: Request, fine: &'static [i32]) {
        if self.queue.is_elsewhere(&place) {
            self.send();
        }
        self.queue.put(place, Step { op, request, fine, undo: None });
    }

    /// Sends what waits.
    fn send(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        let Kernel { route, sockets, .. } = &mut *self.kernel;
        match self.queue.send(route, sockets) {
            Err((error, ops)) => ops.into_iter().for_each(|i| self.fail(i, error.clone())),
            Ok(refused) => {
                for outcome in refused {
                    // Of a step's several refusals the first counts: the others follow from it.
                    if self.failed.contains_key(&outcome.op) {
                        continue;
                    }
                    if let Some(index) = outcome.undo {
                        let _ = self.kernel.route.batch(&[link::delete(index)]);
                    }
                    if let Err(error) = self.judge(outcome.op, outcome.refusal) {
                        self.fail(outcome.op, error);
                    }
                }
            }
        }
    }

    fn fail(&mut self, op: usize, error: KernelError) {
        tracing::debug!(op, %error, "step failed");
        self.failed.entry(op).or_insert(error);
    }

    /// What the kernel's refusal of a step means: where something stands in the way, it is looked at.
    fn judge(&mut self, i: usize, refusal: Refusal) -> Result<(), KernelError> {
        let Some(op) = self.ops.get(i) else { return Ok(()) };
        let what = op.to_string();
        if refusal.errno != libc::EEXIST {
            return Err(KernelError::refused(what, refusal));
        }
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "these are the steps that can find something in their way"
        )]
        match op {
            Op::AddLink { name, link, .. } => Err(self.name_taken(name, link, what, refusal)),
            Op::AddAddress { address: Address { link, address }, .. } => {
                self.address_exists(&Place::Host, link, *address, what, refusal)
            }
            Op::Guest { netns, device, change: GuestChange::AddAddress { address, .. }, .. } => {
                self.address_exists(&Place::Guest(netns.clone()), device, *address, what, refusal)
            }
            Op::AddRoute(route) => self.route_exists(route, what, refusal),
            _ => Err(KernelError::refused(what, refusal)),
        }
    }

    fn name_taken(&mut self, name: &IfName, link: &NewLink, what: String, refusal: Refusal) -> KernelError {
        if let Ok(Some(found)) = link::by_name(&mut self.kernel.route, name) {
            return KernelError::NameTaken { what, name: name.clone(), holder: link::describe(&found) };
        }
        // Not here, then at the far end.
        if let NewLink::Veth { netns, peer, .. } = link {
            let holder = format!("a device in {netns}");
            return KernelError::NameTaken { what, name: peer.clone(), holder };
        }
        KernelError::refused(what, refusal)
    }

    fn address_exists(
        &mut self,
        place: &Place,
        link: &IfName,
        address: IpNet,
        what: String,
        refusal: Refusal,
    ) -> Result<(), KernelError> {
        let index = self.device(place, link, &what)?.unwrap_or(0);
        let Kernel { route, sockets, .. } = &mut *self.kernel;
        let found = match place {
            Place::Host => address::list(route, index),
            Place::Guest(path) => sockets.with(path, |socket| address::list(socket, index))?,
        };
        let found = found.map_err(|refusal| KernelError::refused(&what, refusal))?;
        if found.contains_key(&(index, address)) {
            return Ok(());
        }
        match found.into_keys().find(|(_, other)| other.addr() == address.addr()) {
            Some((_, other)) => Err(KernelError::Differs { what, found: format!("{other} on {link}") }),
            None => Err(KernelError::refused(what, refusal)),
        }
    }

    fn route_exists(&mut self, wanted: &Route, what: String, refusal: Refusal) -> Result<(), KernelError> {
        let links = self.kernel.links()?;
        let name = |index| links.iter().find(|(_, link)| link.index == index).map(|(name, _)| name.clone());
        let found = route::list(&mut self.kernel.route, name)
            .map_err(|refusal| KernelError::refused(&what, refusal))?;
        if found.iter().any(|found| route::is_same(found, wanted)) {
            return Ok(());
        }
        match found.into_iter().find(|found| route::is_rival(found, wanted)) {
            Some(found) => {
                Err(KernelError::Differs { what, found: format!("{found} (protocol {})", found.protocol) })
            }
            None => Err(KernelError::refused(what, refusal)),
        }
    }

    /// The ifindex of a device, after the queue was sent if it is to make it.
    fn device(&mut self, place: &Place, name: &IfName, what: &str) -> Result<Option<u32>, KernelError> {
        if self.queue.is_making(name) || self.queue.is_elsewhere(place) {
            self.send();
        }
        let Kernel { route, sockets, .. } = &mut *self.kernel;
        let index = match place {
            Place::Host => link::index_of(route, name),
            Place::Guest(path) => sockets.with(path, |socket| link::index_of(socket, name))?,
        };
        index.map_err(|e| KernelError::system(what, e))
    }

    fn index(&mut self, place: &Place, name: &IfName, op: &Op) -> Result<Option<u32>, KernelError> {
        self.device(place, name, &op.to_string())
    }

    fn existing(&mut self, place: &Place, name: &IfName, op: &Op) -> Result<u32, KernelError> {
        self.index(place, name, op)?
            .ok_or_else(|| KernelError::NoDevice { what: op.to_string(), name: name.clone() })
    }

    fn route_device(&mut self, route: &Route, op: &Op) -> Result<Option<u32>, KernelError> {
        let lo = match route.kind {
            RouteKind::Local => "lo".parse().ok(),
            RouteKind::Unicast | RouteKind::Unreachable => None,
        };
        match route.link.as_ref().or(lo.as_ref()) {
            Some(link) => self.existing(&Place::Host, link, op).map(Some),
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

    fn add_link(
        &mut self,
        i: usize,
        name: &IfName,
        link: &NewLink,
        alias: &str,
        mac: Option<MacAddr>,
        mtu: Option<u32>,
    ) -> Result<(), KernelError> {
        let ours = Settings { alias: Some(alias.to_owned()), ..Settings::default() };
        let silent = Settings { addrgen_none: Some(true), ..Settings::default() };
        if let NewLink::Tap { owner } = link {
            self.send();
            let ours = Settings { mac, mtu, group: Some(GROUP), ..ours };
            return self.add_tap(i, name, *owner, &ours, &silent);
        }
        if self.queue.is_elsewhere(&Place::Host) {
            self.send();
        }
        let index = link::free_index(&self.kernel.route, &mut self.kernel.next_index);
        let (make, netns) = match link {
            NewLink::Veth { netns, peer, peer_mac } => {
                let netns = Netns::open(netns)?;
                let fd = netns.file().as_raw_fd();
                (
                    link::make(index, name, &Make::Veth { netns: fd, peer, peer_mac: *peer_mac }, mac, mtu),
                    Some(netns),
                )
            }
            NewLink::Bridge | NewLink::Tap { .. } => (link::make(index, name, &Make::Bridge, mac, mtu), None),
        };
        self.queue.make(name.clone(), netns);
        self.put(i, Place::Host, make, NOTHING);
        let which = Which::Index(index);
        for (request, fine) in [(link::set(which, &ours), NOTHING), (link::set(which, &silent), NO_IPV6)] {
            self.queue.put(Place::Host, Step { op: i, request, fine, undo: Some(index) });
        }
        Ok(())
    }

    /// The alias comes before persistence: killed between the two, the tap goes with this process.
    fn add_tap(
        &mut self,
        i: usize,
        name: &IfName,
        owner: Option<u32>,
        ours: &Settings,
        silent: &Settings,
    ) -> Result<(), KernelError> {
        let what = || self.ops.get(i).map(ToString::to_string).unwrap_or_default();
        let tap = match tap::make(name) {
            Ok(tap) => tap,
            Err(e) => {
                let what = what();
                return Err(match link::by_name(&mut self.kernel.route, name) {
                    Ok(Some(found)) => {
                        KernelError::NameTaken { what, name: name.clone(), holder: link::describe(&found) }
                    }
                    Ok(None) | Err(_) => KernelError::system(what, e),
                });
            }
        };
        let which = Which::Name(name);
        let answers = self.kernel.route.batch(&[link::set(which, ours), link::set(which, silent)]);
        for (answer, fine) in answers.into_iter().zip([NOTHING, NO_IPV6]) {
            match answer {
                Err(refusal) if !fine.contains(&refusal.errno) => {
                    return Err(KernelError::refused(what(), refusal));
                }
                Ok(()) | Err(_) => {}
            }
        }
        tap.keep(owner).map_err(|e| KernelError::system(what(), e))
    }

    fn set_link(&mut self, i: usize, name: &IfName, change: &LinkChange) -> Result<(), KernelError> {
        let mut fine = NOTHING;
        let mut settings = Settings::default();
        match change {
            LinkChange::Up(up) => settings.up = Some(*up),
            LinkChange::Mtu(mtu) => settings.mtu = Some(*mtu),
            LinkChange::Mac(mac) => settings.mac = Some(*mac),
            LinkChange::Master(None) => settings.master = Some(0),
            LinkChange::Master(Some(master)) => {
                let what = self.ops.get(i).map(ToString::to_string).unwrap_or_default();
                let index = self.device(&Place::Host, master, &what)?;
                settings.master =
                    Some(index.ok_or_else(|| KernelError::NoDevice { what, name: master.clone() })?);
            }
            LinkChange::Isolated(isolated) => {
                self.put(i, Place::Host, link::isolate(name, *isolated), NOTHING);
                return Ok(());
            }
            LinkChange::Alias(alias) => settings.alias = Some(alias.clone()),
            LinkChange::Group(group) => settings.group = Some(*group),
            LinkChange::AddrgenNone(none) => {
                settings.addrgen_none = Some(*none);
                fine = if *none { NO_IPV6 } else { NOTHING };
            }
        }
        self.put(i, Place::Host, link::set(Which::Name(name), &settings), fine);
        Ok(())
    }

    /// All into a group of their own, and the group away, in one system call: killed before it nothing happened,
    /// after it everything. Those that had gone are passed over.
    fn delete_links(&mut self, names: &[IfName], op: &Op) -> Result<(), KernelError> {
        let Kernel { route, next_index, .. } = &mut *self.kernel;
        // A number that no other deletion had: links that an earlier one left in its group are not this one's.
        let group = link::free_index(route, next_index);
        let doom = Settings { group: Some(group), ..Settings::default() };
        let mut requests: Vec<_> =
            names.iter().map(|name| link::set_quietly(Which::Name(name), &doom)).collect();
        requests.push(link::delete_group(group));
        for answer in route.batch(&requests) {
            match answer {
                Err(refusal) if refusal.errno != libc::ENODEV => {
                    return Err(KernelError::refused(op.to_string(), refusal));
                }
                Ok(()) | Err(_) => {}
            }
        }
        let left: BTreeSet<_> = names
            .iter()
            .filter(|name| link::index_of(route, name).is_ok_and(|index| index.is_some()))
            .collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(KernelError::NotDeleted { names: left.into_iter().cloned().collect() })
        }
    }

    /// By default, the kernel takes with an IPv4 address all others of its subnet on the device, as secondary to it
    /// (`__inet_del_ifa`), whoever put them there; with promote_secondaries it does not.
    fn delete_address(
        &mut self,
        i: usize,
        link: &IfName,
        request: Request,
        address: IpNet,
    ) -> Result<(), KernelError> {
        let promote = Sysctl::ipv4(link, "promote_secondaries");
        let is_off = |key: &Sysctl| sysctl::read(key).map(|value| value.as_deref() == Some("0"));
        let guard = address.addr().is_ipv4()
            && is_off(&promote)?
            && is_off(&Sysctl::all("ipv4", "promote_secondaries"))?;
        if !guard {
            self.put(i, Place::Host, request, GONE);
            return Ok(());
        }
        self.send();
        let what = "keeping a device's other addresses while one goes";
        sysctl::write(&promote, "1", what)?;
        self.put(i, Place::Host, request, GONE);
        self.send();
        sysctl::write(&promote, "0", what)
    }

    fn change_guest(
        &mut self,
        i: usize,
        netns: &str,
        device: &IfName,
        change: &GuestChange,
    ) -> Result<(), KernelError> {
        let place = Place::Guest(netns.to_owned());
        let set = |settings| (link::set(Which::Name(device), &settings), NOTHING);
        let (request, fine) = match change {
            GuestChange::LoopbackUp => {
                let up = Settings { up: Some(true), ..Settings::default() };
                // The loopback device is always the first (`register_pernet_device` in drivers/net/loopback.c).
                (link::set(Which::Index(1), &up), NOTHING)
            }
            GuestChange::Mtu(mtu) => set(Settings { mtu: Some(*mtu), ..Settings::default() }),
            GuestChange::Mac(mac) => set(Settings { mac: Some(*mac), ..Settings::default() }),
            GuestChange::Up => set(Settings { up: Some(true), ..Settings::default() }),
            GuestChange::AddAddress { .. }
            | GuestChange::DeleteAddress(_)
            | GuestChange::AddRoute(_)
            | GuestChange::DeleteRoute(_) => {
                let what = self.ops.get(i).map(ToString::to_string).unwrap_or_default();
                let Some(index) = self.device(&place, device, &what)? else {
                    return Err(KernelError::NoDevice { what, name: device.clone() });
                };
                match change {
                    GuestChange::AddAddress { address, dad } => {
                        let dad = if *dad { Dad::Ask } else { Dad::Skip };
                        (address::add(index, *address, 0, PROTOCOL, dad), NOTHING)
                    }
                    GuestChange::DeleteAddress(address) => (address::delete(index, *address), GONE),
                    GuestChange::AddRoute(route) => (route::add_guest(route, index), NOTHING),
                    GuestChange::DeleteRoute(route) => (route::delete_guest(route, index), GONE),
                    GuestChange::LoopbackUp | GuestChange::Mtu(_) | GuestChange::Mac(_) | GuestChange::Up => {
                        return Ok(());
                    }
                }
            }
        };
        self.put(i, place, request, fine);
        Ok(())
    }
}
