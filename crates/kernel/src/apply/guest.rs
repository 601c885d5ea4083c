//! The steps inside a guest's namespace.

use viaduct_plan::{GuestChange, PROTOCOL};
use viaduct_types::IfName;

use super::{Doing, GONE, NOTHING, Run};
use crate::{
    address::{self, Dad},
    error::KernelError,
    link::{self, Settings, Which},
    queue::Place,
    route,
};

impl Run<'_> {
    pub(super) fn change_guest(
        &mut self,
        doing: Doing<'_>,
        netns: &str,
        device: &IfName,
        change: &GuestChange,
    ) -> Result<(), KernelError> {
        let place = Place::Guest(netns.to_owned());
        if self.queue.is_elsewhere(&place) {
            self.send();
            self.check_made(doing)?;
        }
        let up = Settings { up: Some(true), ..Settings::default() };
        let set = |settings| link::set(Which::Name(device), &settings);
        let (request, fine) = match change {
            GuestChange::LoopbackUp => (link::set(link::LOOPBACK, &up), NOTHING),
            GuestChange::Up => (set(up), NOTHING),
            GuestChange::Mtu(mtu) => (set(Settings { mtu: Some(*mtu), ..Settings::default() }), NOTHING),
            GuestChange::Mac(mac) => (set(Settings { mac: Some(*mac), ..Settings::default() }), NOTHING),
            GuestChange::AddAddress { address, dad } => {
                let dad = if *dad { Dad::Ask } else { Dad::Skip };
                (address::add(self.existing(doing, &place, device)?, *address, 0, PROTOCOL, dad), NOTHING)
            }
            GuestChange::AddRoute(route) => {
                (route::add_guest(route, self.existing(doing, &place, device)?), NOTHING)
            }
            GuestChange::DeleteAddress(address) => match self.device(doing, &place, device)? {
                Some(index) => (address::delete(index, *address), GONE),
                None => return Ok(()),
            },
            GuestChange::DeleteRoute(route) => match self.device(doing, &place, device)? {
                Some(index) => (route::delete_guest(route, index), GONE),
                None => return Ok(()),
            },
        };
        self.put(doing, place, request, fine);
        Ok(())
    }
}
