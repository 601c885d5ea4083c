//! The steps about network devices.

use std::{collections::BTreeSet, os::fd::AsRawFd};

use netlink_packet_route::link::InfoBridgePort;
use viaduct_plan::{GROUP, LinkChange, NewLink};
use viaduct_types::{IfName, MacAddr, Priorities};

use super::{Doing, NOTHING, Run};
use crate::{
    Kernel,
    error::{KernelError, Refusal},
    link::{self, Make, Settings, Which},
    netns::Netns,
    queue::{Place, Step},
    reaper::Reaped,
    tap::{self, Queues},
    vlan,
};

/// With more links than these, waiting for the kernel costs little for each.
const FEW: usize = 16;
/// The device, or the kernel, has no IPv6: it makes no address anyway.
const NO_IPV6: &[i32] = &[libc::EAFNOSUPPORT];
/// It is on one of these no longer.
const NO_VLAN: &[i32] = &[libc::ENOENT];

impl Run<'_> {
    pub(super) fn add_link(
        &mut self,
        doing: Doing<'_>,
        name: &IfName,
        link: &NewLink,
        alias: &str,
        mac: Option<MacAddr>,
        mtu: Option<u32>,
    ) -> Result<(), KernelError> {
        // The kernel takes neither in the message that makes a link; the second is refused where there is no IPv6.
        let ours = Settings { alias: Some(alias.to_owned()), ..Settings::default() };
        let silent = Settings { addrgen_none: Some(true), ..Settings::default() };
        let tap = match link {
            NewLink::Tap { owner } => Some((Queues::One, *owner)),
            // Of root, so that its process needs no privilege to open it.
            NewLink::VnetTap => Some((Queues::Several, Some(0))),
            NewLink::Bridge | NewLink::Veth { .. } | NewLink::Vlan { .. } | NewLink::Vxlan { .. } => None,
        };
        if let Some((queues, owner)) = tap {
            self.send();
            let ours = Settings { mac, mtu, group: Some(GROUP), ..ours };
            return self.add_tap(doing, name, link, (queues, owner), &[(ours, NOTHING), (silent, NO_IPV6)]);
        }
        if self.queue.is_elsewhere(&Place::Host) {
            self.send();
        }
        let index = link::free_index(&self.kernel.route, &mut self.kernel.next_index);
        let (make, netns) = match link {
            NewLink::Veth { netns, peer, peer_mac } => {
                let netns = Netns::open(netns)?;
                let far = Make::Veth { netns: netns.file().as_raw_fd(), peer, peer_mac: *peer_mac };
                (link::make(index, name, &far, mac, mtu), Some(netns))
            }
            NewLink::Vlan { parent, id, protocol } => {
                let lower = self.existing(doing, &Place::Host, parent)?;
                let priorities = &Priorities::default();
                let vlan = Make::Vlan { lower, id: *id, protocol: *protocol, priorities };
                (link::make(index, name, &vlan, mac, mtu), None)
            }
            NewLink::Vxlan { vni, port, underlay } => {
                let vxlan = Make::Vxlan { vni: *vni, port: *port, underlay: *underlay };
                (link::make(index, name, &vxlan, mac, mtu), None)
            }
            NewLink::Bridge | NewLink::Tap { .. } | NewLink::VnetTap => {
                (link::make(index, name, &Make::Bridge, mac, mtu), None)
            }
        };
        self.put(doing, Place::Host, make, NOTHING);
        self.queue.make(name.clone(), netns);
        self.made.insert(name.clone(), index);
        for (settings, fine) in [(ours, NOTHING), (silent, NO_IPV6)] {
            let request = link::set(Which::Index(index), &settings);
            self.queue.put(Place::Host, Step { op: doing.number, request, fine, undo: Some(index) });
        }
        Ok(())
    }

    /// A link that this run makes goes by its number: if it could not be made, somebody else's may have its name.
    fn which<'n>(&self, name: &'n IfName) -> Which<'n> {
        self.made.get(name).map_or(Which::Name(name), |index| Which::Index(*index))
    }

    fn index(&mut self, doing: Doing<'_>, name: &IfName) -> Result<u32, KernelError> {
        match self.made.get(name) {
            Some(index) => Ok(*index),
            None => self.existing(doing, &Place::Host, name),
        }
    }

    /// The alias comes before persistence: killed between the two, the tap goes with this process.
    fn add_tap(
        &mut self,
        doing: Doing<'_>,
        name: &IfName,
        link: &NewLink,
        (queues, owner): (Queues, Option<u32>),
        settings: &[(Settings, &[i32])],
    ) -> Result<(), KernelError> {
        let file = tap::open().map_err(|e| {
            KernelError::system(
                format!("{}: opening {} (is the module tun there?)", doing.what(), tap::DEVICE),
                e,
            )
        })?;
        let tap = match tap::make(file, name, queues) {
            Ok(tap) => tap,
            // EBUSY: a tap has the name; EINVAL: another device has it.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EBUSY | libc::EINVAL | libc::EEXIST)) => {
                let refusal = Refusal::new(e.raw_os_error().unwrap_or(libc::EEXIST));
                return Err(self.name_taken(doing, name, link, refusal));
            }
            Err(e) => return Err(KernelError::system(doing.what(), e)),
        };
        let requests: Vec<_> =
            settings.iter().map(|(settings, _)| link::set(Which::Name(name), settings)).collect();
        for (answer, (_, fine)) in self.kernel.route.batch(&requests).into_iter().zip(settings) {
            match answer {
                Err(refusal) if !fine.contains(&refusal.errno) => {
                    return Err(KernelError::refused(doing.what(), refusal));
                }
                Ok(()) | Err(_) => {}
            }
        }
        tap.keep(owner).map_err(|e| KernelError::system(doing.what(), e))
    }

    pub(super) fn set_link(
        &mut self,
        doing: Doing<'_>,
        name: &IfName,
        change: &LinkChange,
    ) -> Result<(), KernelError> {
        let (mut fine, mut settings) = (NOTHING, Settings::default());
        match change {
            LinkChange::Up(up) => settings.up = Some(*up),
            LinkChange::Mtu(mtu) => settings.mtu = Some(*mtu),
            LinkChange::Mac(mac) => settings.mac = Some(*mac),
            LinkChange::Master(None) => settings.master = Some(0),
            LinkChange::Master(Some(master)) => {
                settings.master = Some(self.existing(doing, &Place::Host, master)?);
            }
            LinkChange::Isolated(isolated) => {
                let setting = InfoBridgePort::Isolated(*isolated);
                self.put(doing, Place::Host, link::set_port(self.which(name), setting), NOTHING);
                return Ok(());
            }
            LinkChange::Hairpin(hairpin) => {
                let setting = InfoBridgePort::HairpinMode(*hairpin);
                self.put(doing, Place::Host, link::set_port(self.which(name), setting), NOTHING);
                return Ok(());
            }
            LinkChange::FiltersVlans(filters) => {
                let request = link::set_filters_vlans(self.which(name), *filters);
                self.put(doing, Place::Host, request, NOTHING);
                return Ok(());
            }
            LinkChange::Vlans(vlans) => {
                let index = self.index(doing, name)?;
                self.put(doing, Place::Host, vlan::add(index, vlans), NOTHING);
                return Ok(());
            }
            LinkChange::VlansGone(vlans) => {
                let index = self.index(doing, name)?;
                self.put(doing, Place::Host, vlan::delete(index, vlans), NO_VLAN);
                return Ok(());
            }
            LinkChange::Alias(alias) => settings.alias = Some(alias.clone()),
            LinkChange::Group(group) => settings.group = Some(*group),
            LinkChange::AddrgenNone(none) => {
                settings.addrgen_none = Some(*none);
                fine = if *none { NO_IPV6 } else { NOTHING };
            }
        }
        self.put(doing, Place::Host, link::set(self.which(name), &settings), fine);
        Ok(())
    }

    /// All into a group of their own, and the group away, in one system call: killed before it nothing happened,
    /// after it everything. Those that had gone are passed over.
    pub(super) fn delete_links(&mut self, doing: Doing<'_>, names: &[IfName]) -> Result<(), KernelError> {
        let Kernel { route, next_index, reaper, .. } = &mut *self.kernel;
        let group = link::fresh_group(route, next_index);
        let doomed = Settings { group: Some(group), ..Settings::default() };
        let mut requests: Vec<_> =
            names.iter().map(|name| link::set_quietly(Which::Name(name), &doomed)).collect();
        requests.push(link::delete_group(group));
        let index = |name| link::index_of(route, name).ok().flatten();
        let indexes: BTreeSet<u32> =
            if names.len() <= FEW { names.iter().filter_map(index).collect() } else { BTreeSet::new() };
        let answers = if indexes.is_empty() {
            route.batch(&requests)
        } else {
            match reaper.delete(requests, indexes)? {
                Reaped::Gone => Vec::new(),
                Reaped::Answered(answers) => answers,
            }
        };
        for answer in answers {
            match answer {
                // A name that nobody has; or of all of them none was left.
                Err(Refusal { errno: libc::ENODEV, .. }) | Ok(()) => {}
                Err(refusal) => return Err(KernelError::refused(doing.what(), refusal)),
            }
        }
        let is_left = |name: &&IfName| link::index_of(route, name).is_ok_and(|index| index.is_some());
        let left: Vec<_> = names.iter().filter(is_left).cloned().collect();
        if left.is_empty() { Ok(()) } else { Err(KernelError::NotDeleted { names: left }) }
    }
}
