//! The steps about namespaces that guests share.

use std::{
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use viaduct_plan::{InnerKind, MOVED, NamespaceChange};
use viaduct_types::{IfName, MacAddr, NamespaceName};

use super::{Doing, GONE, NOTHING, Run};
use crate::{
    Kernel,
    error::{KernelError, Refusal},
    link::{self, Make, Settings, Which},
    namespaces,
    netns::Netns,
    queue::Place,
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
                namespaces::make(name, &doing.what())
            }
            NamespaceChange::Delete => {
                self.send();
                self.delete_namespace(doing, name)
            }
            NamespaceChange::AddDevice { device, kind, alias, mac, mtu } => {
                self.kernel.namespaces.remember(name)?;
                self.add_device(doing, name, (device, kind), alias, *mac, *mtu)
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

    /// Its devices first: a process that is still in it would keep them, and a VLAN can be made only once.
    fn delete_namespace(&mut self, doing: Doing<'_>, name: &NamespaceName) -> Result<(), KernelError> {
        let path = namespaces::path(name);
        let Kernel { sockets, namespaces: index, .. } = &mut *self.kernel;
        let mut guest = None;
        let emptied = sockets.with(&path, |socket| {
            let devices = namespaces::look(socket)?.devices;
            let mut moved = devices.iter().filter(|(_, device)| device.alias.starts_with(MOVED));
            guest = moved.next().map(|(name, _)| name.clone());
            if guest.is_some() {
                return Ok(());
            }
            let indexes = devices.iter().filter(|(_, device)| device.alias.starts_with(namespaces::INNER));
            let requests: Vec<_> = indexes
                .filter_map(|(name, _)| link::index_of(socket, name).ok().flatten())
                .map(link::delete)
                .collect();
            socket.batch(&requests).into_iter().find_map(Result::err).map_or(Ok(()), Err)
        });
        if let Some(device) = guest {
            return Err(KernelError::InTheWay { what: doing.what(), device });
        }
        match emptied {
            Ok(Err(refusal)) if !GONE.contains(&refusal.errno) => {
                return Err(KernelError::refused(doing.what(), refusal));
            }
            Err(KernelError::Netns { reason, path }) if !reason.is_missing() => {
                return Err(KernelError::Netns { reason, path });
            }
            Ok(_) | Err(_) => {}
        }
        namespaces::delete(name, &doing.what())?;
        // An open socket would keep the namespace alive.
        sockets.close(&path);
        sockets.close(&index.held(name));
        index.release(name);
        index.forget(name);
        Ok(())
    }
}
