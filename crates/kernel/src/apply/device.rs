//! Devices of the host that move into namespaces, and back.
//!
//! What a device was like is written down before it moves, its alias says whose it is from then on, and the namespace
//! is kept under a second name, so that at any stop, and whatever happens to the namespace, the next run finds it.

use std::{fs::File, os::fd::AsRawFd};

use viaduct_types::{IfName, MacAddr, NamespaceName};

use super::{Doing, NOTHING, Run};
use crate::{
    Kernel,
    address::{self, Dad},
    devices::{self, Former},
    error::{KernelError, Refusal},
    link::{self, Settings, Which},
    namespaces,
    netns::Netns,
    queue::Place,
    route,
    socket::Request,
};

/// What is there already needs no making.
const EXISTS: &[i32] = &[libc::EEXIST];

impl Run<'_> {
    /// Moves a device of the host into a namespace.
    pub(super) fn take_in(
        &mut self,
        doing: Doing<'_>,
        name: &NamespaceName,
        (inside, device): (&IfName, &IfName),
        alias: &str,
        mac: Option<MacAddr>,
        mtu: Option<u32>,
    ) -> Result<(), KernelError> {
        let refused = |refusal| KernelError::refused(doing.what(), refusal);
        let Kernel { route, sockets, namespaces: index, devices, .. } = &mut *self.kernel;
        let found = link::one(route, Which::Name(device)).map_err(refused)?;
        let found = found.ok_or_else(|| doing.no_device(device))?;
        let path = namespaces::path(name);
        let taken = sockets.with(&path, |socket| link::one(socket, Which::Name(inside)))?;
        if let Some(taken) = taken.map_err(refused)? {
            let holder = link::describe(&taken);
            return Err(KernelError::NameTaken { what: doing.what(), name: inside.clone(), holder });
        }
        devices.remember(device, devices::former(route, device, &found, name).map_err(refused)?)?;
        index.hold(name)?;
        let netns = Netns::open(&path)?;
        let ours = Settings { up: Some(false), alias: Some(alias.to_owned()), ..Settings::default() };
        let requests = [
            link::set(Which::Index(found.index), &ours),
            link::move_to(found.index, netns.file().as_raw_fd(), inside),
        ];
        if let Some(refusal) = route.batch(&requests).into_iter().find_map(Result::err) {
            let error = refused(refusal);
            // It is given back before anything else is tried.
            let _ = self.give_back(doing, name, device);
            return Err(error);
        }
        let settings = Settings { mac, mtu, ..Settings::default() };
        if mac.is_some() || mtu.is_some() {
            self.put(doing, Place::Guest(path), link::set(Which::Name(inside), &settings), NOTHING);
        }
        Ok(())
    }

    /// Gives the host a device back, wherever it is.
    pub(super) fn give_back(
        &mut self,
        doing: Doing<'_>,
        name: &NamespaceName,
        device: &IfName,
    ) -> Result<(), KernelError> {
        let former = self.kernel.devices.read()?.remove(device);
        for path in self.kernel.places_of(name) {
            if let Some(index) = self.kernel.away_at(&path, device)? {
                self.fetch(doing, &path, index, device)?;
                break;
            }
        }
        self.restore(doing, device, former.as_ref())?;
        let Kernel { sockets, namespaces: index, devices, .. } = &mut *self.kernel;
        if !devices.forget(device, name)? {
            sockets.close(&index.held(name));
            index.release(name);
        }
        Ok(())
    }

    /// Moves it to the host, by the name that it had.
    fn fetch(
        &mut self,
        doing: Doing<'_>,
        path: &str,
        index: u32,
        device: &IfName,
    ) -> Result<(), KernelError> {
        let Kernel { route, sockets, .. } = &mut *self.kernel;
        let refused = |refusal| KernelError::refused(doing.what(), refusal);
        if let Some(other) = link::one(route, Which::Name(device)).map_err(refused)? {
            let holder = link::describe(&other);
            return Err(KernelError::NameTaken { what: doing.what(), name: device.clone(), holder });
        }
        let host = File::open("/proc/thread-self/ns/net")
            .map_err(|e| KernelError::system("opening the host's network namespace", e))?;
        let down = Settings { up: Some(false), ..Settings::default() };
        let requests =
            [link::set(Which::Index(index), &down), link::move_to(index, host.as_raw_fd(), device)];
        let answers = sockets.with(path, |socket| socket.batch(&requests))?;
        answers.into_iter().find_map(Result::err).map_or(Ok(()), |refusal| Err(refused(refusal)))
    }

    /// Makes a device on the host what it was. Its alias goes last: until then it is known that there is something to do.
    fn restore(
        &mut self,
        doing: Doing<'_>,
        device: &IfName,
        former: Option<&Former>,
    ) -> Result<(), KernelError> {
        let refused = |refusal| KernelError::refused(doing.what(), refusal);
        let links = self.kernel.links()?;
        let alias = devices::alias(device);
        let marked = links.iter().find(|(_, link)| link.alias == alias);
        let found = marked.or_else(|| links.get_key_value(device));
        // Somebody took it away for good; or nobody knows what it was like.
        let Some((now, link)) = found.filter(|_| marked.is_some() || former.is_some()) else { return Ok(()) };
        let which = Which::Index(link.index);
        let set = |settings: Settings| link::set(which, &settings);
        let mut requests: Vec<(Request, &[i32])> = Vec::new();
        if now != device {
            // The kernel gave it to the host by the name that it had inside.
            requests.push((set(Settings { up: Some(false), ..Settings::default() }), NOTHING));
            requests.push((link::rename(link.index, device), NOTHING));
        }
        if let Some(former) = former {
            let mac = former.mac.filter(|mac| link.mac != Some(*mac));
            requests.push((
                set(Settings {
                    mac,
                    mtu: Some(former.mtu),
                    group: Some(former.group),
                    ..Settings::default()
                }),
                NOTHING,
            ));
            for one in &former.addresses {
                let add = address::add(link.index, one.address, one.scope, one.protocol, Dad::Ask);
                requests.push((add, EXISTS));
            }
            if former.up {
                requests.push((set(Settings { up: Some(true), ..Settings::default() }), NOTHING));
                // On-link routes first: gateways are reached by them.
                let routes = || former.routes.iter().map(|route| route.through(device));
                let (on_link, via): (Vec<_>, Vec<_>) = routes().partition(|route| route.via.is_none());
                let routes = on_link.iter().chain(&via);
                requests.extend(routes.map(|wanted| (route::add(wanted, link.index), EXISTS)));
            }
        }
        let alias = Some(former.map(|former| former.alias.clone()).unwrap_or_default());
        requests.push((set(Settings { alias, ..Settings::default() }), NOTHING));
        let (requests, fine): (Vec<Request>, Vec<&[i32]>) = requests.into_iter().unzip();
        let answers = self.kernel.route.batch(&requests).into_iter().zip(fine);
        let fails = |(answer, fine): (Result<(), Refusal>, &[i32])| {
            answer.err().filter(|refusal| !fine.contains(&refusal.errno))
        };
        answers.filter_map(fails).next().map_or(Ok(()), |refusal| Err(refused(refusal)))
    }
}
