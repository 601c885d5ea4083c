//! What the kernel's refusal of a step means: where something stands in the way, it is looked at.

use viaduct_plan::{Address, GuestChange, NamespaceChange, NewLink, Op, Route};
use viaduct_types::{IfName, IpNet};

use super::{Doing, Run};
use crate::{
    address,
    error::{KernelError, Refusal},
    link, namespaces,
    queue::Place,
    route,
};

impl Run<'_> {
    /// Success, when what was to be made is there just as it was wanted.
    pub(super) fn judge(&mut self, doing: Doing<'_>, refusal: Refusal) -> Result<(), KernelError> {
        if let Op::Namespace { name, change: NamespaceChange::Device { device, change: GuestChange::Up } } =
            doing.op
        {
            return self.up_again(doing, name, device, refusal);
        }
        if refusal.errno != libc::EEXIST {
            return Err(KernelError::refused(doing.what(), refusal));
        }
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "these are the steps that can find something in their way"
        )]
        match doing.op {
            Op::AddLink { name, link, .. } => Err(self.name_taken(doing, name, link, refusal)),
            Op::AddAddress { address: Address { link, address }, .. } => {
                self.address_exists(doing, &Place::Host, link, *address, refusal)
            }
            Op::Guest { netns, device, change: GuestChange::AddAddress { address, .. }, .. } => {
                self.address_exists(doing, &Place::Guest(netns.clone()), device, *address, refusal)
            }
            Op::Namespace {
                name,
                change: NamespaceChange::Device { device, change: GuestChange::AddAddress { address, .. } },
            } => {
                let place = Place::Guest(namespaces::path(name));
                self.address_exists(doing, &place, device, *address, refusal)
            }
            Op::AddRoute(route) => self.route_exists(doing, route, refusal),
            _ => Err(KernelError::refused(doing.what(), refusal)),
        }
    }

    /// Why a link's name, or its far end's, cannot be had.
    pub(super) fn name_taken(
        &mut self,
        doing: Doing<'_>,
        name: &IfName,
        link: &NewLink,
        refusal: Refusal,
    ) -> KernelError {
        let what = doing.what();
        if let Ok(Some(found)) = link::one(&mut self.kernel.route, link::Which::Name(name)) {
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
        doing: Doing<'_>,
        place: &Place,
        link: &IfName,
        address: IpNet,
        refusal: Refusal,
    ) -> Result<(), KernelError> {
        let index = self.existing(doing, place, link)?;
        let crate::Kernel { route, sockets, .. } = &mut *self.kernel;
        let found = match place {
            Place::Host => address::list(route, index),
            Place::Guest(path) => sockets.with(path, |socket| address::list(socket, index))?,
        };
        let found = found.map_err(|refusal| KernelError::refused(doing.what(), refusal))?;
        if found.contains_key(&(index, address)) {
            return Ok(());
        }
        // IPv6 has an address once, whatever its prefix length.
        match found.into_keys().find(|(_, other)| other.addr() == address.addr()) {
            Some((_, other)) => {
                Err(KernelError::Differs { what: doing.what(), found: format!("{other} on {link}") })
            }
            None => Err(KernelError::refused(doing.what(), refusal)),
        }
    }

    fn route_exists(
        &mut self,
        doing: Doing<'_>,
        wanted: &Route,
        refusal: Refusal,
    ) -> Result<(), KernelError> {
        let links = self.kernel.links()?;
        let name = |index| links.iter().find(|(_, link)| link.index == index).map(|(name, _)| name.clone());
        let found = route::list(&mut self.kernel.route, name)
            .map_err(|refusal| KernelError::refused(doing.what(), refusal))?;
        if found.iter().any(|found| route::is_same(found, wanted)) {
            return Ok(());
        }
        match found.into_iter().find(|found| route::is_rival(found, wanted)) {
            Some(found) => {
                let found = format!("{found} (protocol {})", found.protocol);
                Err(KernelError::Differs { what: doing.what(), found })
            }
            None => Err(KernelError::refused(doing.what(), refusal)),
        }
    }
}
