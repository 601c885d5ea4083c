//! From observed to desired: the ordered steps.
//!
//! The order keeps a host closed at any point where it may stop: the filter goes in before the first link comes up,
//! forwarding is switched on last; taken away, forwarding goes first and the filter last.

use std::collections::{BTreeMap, BTreeSet};

use viaduct_types::{IfName, IpNet, MacAddr, NicId, VlanSet};

use crate::{
    desired::{
        ADOPTED, CABLE, CARRIER, Desired, DesiredGuest, DesiredLink, MOVED, NIC, PORT, UPLINK, VLAN, When,
        namespace_of,
    },
    inner,
    lent::{given_back, has_longer_port, kept_mtu},
    nft::{self, Family},
    op::{GuestChange, LinkChange, NewLink, Op},
    order::{age, by_age},
    shown::Plan,
    stacks,
    state::{
        Address, GROUP, Link, OPEN_GROUP, Observed, ObservedGuest, PROTOCOL, PortVlans, Route, RouteKind,
    },
    transactions::Transactions,
};

/// The MACs that we made devices listen to, as the filter remembers.
pub fn listened(filter: &nft::Ruleset) -> BTreeSet<(IfName, MacAddr)> {
    let set = filter.tables.get(&Family::Netdev).and_then(|table| table.sets.get("listening"));
    set.into_iter().flat_map(|set| set.elements.keys()).filter_map(nft::Key::name_and_mac).collect()
}

/// The steps from `observed` to `desired`.
pub fn plan(observed: &Observed, desired: &Desired) -> Plan {
    let mut ops = stacks::leave(observed, desired);
    ops.extend(one(observed, desired));
    ops.extend(stacks::make(observed, desired));
    Plan { ops }
}

/// Those of one stack.
pub(crate) fn one(observed: &Observed, desired: &Desired) -> Vec<Op> {
    let mut plan = Planner {
        observed,
        desired,
        fresh: fresh(observed, desired),
        parted: BTreeSet::new(),
        withdrawn: BTreeSet::new(),
        given_up: BTreeSet::new(),
        ops: Vec::new(),
    };
    let filter = Transactions::new(&observed.nft, &desired.nft);
    if filter.early.iter().any(|op| matches!(op, Op::Nft(_))) {
        plan.part();
    }
    plan.ops.extend(filter.early);
    plan.restore_sysctls();
    plan.sysctls(When::First);
    plan.take_away();
    plan.ops.extend(inner::make(observed, desired));
    plan.links();
    plan.sysctls(When::WithLink);
    plan.addresses();
    plan.up();
    plan.ops.extend(inner::fill(observed, desired, &plan.fresh));
    plan.guests();
    plan.routes();
    plan.announce_and_listen();
    plan.sysctls(When::Last);
    plan.ops.extend(filter.late);
    plan.ops
}

struct Planner<'a> {
    observed: &'a Observed,
    desired: &'a Desired,
    /// The links that this plan makes, or makes anew: what was observed of them does not count.
    fresh: BTreeSet<IfName>,
    /// The devices of guests that left before the filter changed.
    parted: BTreeSet<IfName>,
    /// The routes that went before it.
    withdrawn: BTreeSet<Route>,
    /// The addresses inside of guests that went before it.
    given_up: BTreeSet<(NicId, IpNet)>,
    ops: Vec<Op>,
}

/// The links we make that are missing, or there but not as they must be from their making on.
fn fresh(observed: &Observed, desired: &Desired) -> BTreeSet<IfName> {
    let nics: BTreeMap<&IfName, &NicId> =
        desired.guests.iter().map(|(nic, g)| (&g.host_device, nic)).collect();
    let is_fresh = |name: &IfName, link: &DesiredLink| {
        let (Some(make), Some(alias)) = (&link.make, &link.alias) else { return false };
        let Some(now) = observed.links.get(name) else { return true };
        if now.kind != make.kind() || now.alias != *alias {
            return true;
        }
        // The far end of a pair has to be where the guest is.
        match (make, nics.get(name)) {
            (NewLink::Veth { .. }, Some(nic)) => {
                let inside = observed.guests.get(*nic).and_then(|g| g.link.as_ref());
                inside.is_none_or(|inside| inside.peer_index != now.index || inside.index != now.peer_index)
            }
            _ => false,
        }
    };
    desired.links.iter().filter(|(name, link)| is_fresh(name, link)).map(|(name, _)| name.clone()).collect()
}

/// The device group that a link of ours belongs in: what comes from outside, by an uplink's bridge, a VLAN of it or a port of
/// a vnet, is no guest's, nor is what others' bridges are told.
fn group(alias: &str) -> u32 {
    if [UPLINK, VLAN, CABLE, PORT].iter().any(|prefix| alias.starts_with(prefix)) { 0 } else { GROUP }
}

/// Whether it is in that group; whether frames go through a vnet's port is for who carries it to say.
fn is_in_group(now: &Link, alias: &str) -> bool {
    now.group == group(alias) || group(alias) == 0 && now.group == OPEN_GROUP && now.alias == alias
}

/// Whether it is a guest's, not a bridge.
fn is_port(link: &Link) -> bool {
    link.alias.starts_with(NIC) || link.alias.starts_with(ADOPTED)
}

/// Whether we made the link, rather than adopted it or had it away.
fn is_made(link: &Link) -> bool {
    link.is_ours() && ![ADOPTED, MOVED, PORT].iter().any(|prefix| link.alias.starts_with(prefix))
}

/// What brings a port of a bridge that filters by VLAN, or the bridge itself, from those that it is on to those that it is
/// to be on: first it leaves.
fn vlans(link: &DesiredLink, now: &PortVlans) -> Vec<LinkChange> {
    // Where nobody looks at them any more, none is left for when somebody does again.
    let none = PortVlans::default();
    let wanted = link.vlans.as_ref().unwrap_or(&none);
    let all = wanted.all();
    let gone: VlanSet = now.all().iter().filter(|vlan| !all.contains(*vlan)).collect();
    let missing = PortVlans {
        untagged: wanted.untagged.filter(|vlan| now.untagged != Some(*vlan)),
        tagged: wanted.tagged.iter().filter(|vlan| !now.tagged.contains(*vlan)).collect(),
        other: VlanSet::default(),
    };
    let mut changes = Vec::new();
    changes.extend((!gone.is_empty()).then_some(LinkChange::VlansGone(gone)));
    changes.extend((missing != PortVlans::default()).then_some(LinkChange::Vlans(missing)));
    changes
}

/// A change inside of a guest's namespace.
fn inside(nic: &NicId, guest: &DesiredGuest, change: GuestChange) -> Op {
    Op::Guest { nic: nic.clone(), netns: guest.netns.clone(), device: guest.device.clone(), change }
}

/// Whether a guest is in a namespace that is made when it is not there.
fn is_made_here(desired: &Desired, guest: &DesiredGuest) -> bool {
    namespace_of(&guest.netns).is_some_and(|name| desired.namespaces.contains_key(name))
}

impl Planner<'_> {
    /// Guests leave, and give their addresses up, before the filter forgets them: without lists of their own, what their
    /// networks let through would reach them.
    fn part(&mut self) {
        let (observed, desired) = (self.observed, self.desired);
        let ports = || observed.links.iter().filter(|(_, link)| is_port(link));
        let leaves = |name: &IfName| self.fresh.contains(name) || !desired.links.contains_key(name);
        let made = ports().filter(|(name, link)| is_made(link) && leaves(name));
        let names: Vec<IfName> = made.map(|(name, _)| name.clone()).collect();
        let leads = |route: &&Route| {
            let port = route.link.as_ref().filter(|link| observed.links.get(*link).is_some_and(is_port));
            // Those of a device go with it.
            route.protocol == PROTOCOL && port.is_some_and(|link| !names.contains(link))
        };
        self.withdrawn = observed.routes.difference(&desired.routes).filter(leads).cloned().collect();
        self.ops.extend(self.withdrawn.iter().cloned().map(Op::DeleteRoute));
        for (name, link) in ports().filter(|(name, link)| link.master.is_some() && !names.contains(*name)) {
            let master = desired.links.get(name).and_then(|link| link.master.as_ref());
            if link.master.as_ref() != master {
                self.ops.push(Op::SetLink { name: name.clone(), change: LinkChange::Master(None) });
            }
        }
        for (nic, guest) in desired.guests.iter().filter(|(_, guest)| !guest.by_itself) {
            let Some(seen) = observed.guests.get(nic).filter(|_| !self.fresh.contains(&guest.host_device))
            else {
                continue;
            };
            for address in seen.addresses.iter().filter(|address| !guest.addresses.contains(*address)) {
                self.given_up.insert((nic.clone(), *address));
                self.ops.push(inside(nic, guest, GuestChange::DeleteAddress(*address)));
            }
        }
        self.parted.extend(ports().map(|(name, _)| name.clone()).filter(|name| leaves(name)));
        if !names.is_empty() {
            self.ops.push(Op::DeleteLinks(names));
        }
    }

    fn restore_sysctls(&mut self) {
        let unwanted = self.observed.journal.iter().filter(|(key, _)| {
            // Kept when wanted, even where nothing is to be set: it is us who hold it.
            !self.desired.sysctls.contains_key(*key)
        });
        // Forwarding before what was set so that it could be switched on.
        let (mut forwarding, mut others) = (Vec::new(), Vec::new());
        for (key, value) in unwanted {
            let list = if key.path().ends_with("/forwarding") { &mut forwarding } else { &mut others };
            list.push(Op::RestoreSysctl { key: key.clone(), value: value.clone() });
        }
        self.ops.append(&mut forwarding);
        self.ops.append(&mut others);
    }

    fn sysctls(&mut self, when: When) {
        for (key, setting) in self.desired.sysctls.iter().filter(|(_, s)| s.when == when) {
            let new_link = key.link().is_some_and(|l| self.fresh.contains(l));
            let now = self.observed.sysctls.get(key).filter(|_| !new_link);
            if now != Some(&setting.value) {
                self.ops.push(Op::SetSysctl {
                    key: key.clone(),
                    value: setting.value.clone(),
                    journal: setting.journal,
                });
            }
        }
    }

    /// Everything of ours that is not wanted, except the filter.
    fn take_away(&mut self) {
        let (observed, desired) = (self.observed, self.desired);
        self.ops.extend(inner::take_away(observed, desired));
        self.move_back();
        for proxy in observed.proxies.iter().filter(|(_, p)| **p == PROTOCOL).map(|(proxy, _)| proxy) {
            if !desired.proxies.contains(proxy) {
                self.ops.push(Op::DeleteProxy(proxy.clone()));
            }
        }
        for (link, mac) in listened(&observed.nft).difference(&desired.unicast) {
            if observed.unicast.contains(&(link.clone(), *mac)) {
                self.ops.push(Op::DeleteUnicast(link.clone(), *mac));
            }
        }
        let gone: BTreeSet<&IfName> = observed
            .links
            .iter()
            .filter(|(name, link)| is_made(link) && !self.stays(name))
            .map(|(name, _)| name)
            .collect();
        let vanishing = |name: &IfName| gone.contains(name);
        let stale_routes: Vec<&Route> = observed
            .routes
            .iter()
            .filter(|r| r.protocol == PROTOCOL && !desired.routes.contains(*r))
            .filter(|r| !self.withdrawn.contains(*r) && !r.link.as_ref().is_some_and(vanishing))
            .collect();
        let mut ops: Vec<Op> = stale_routes.into_iter().map(|r| Op::DeleteRoute(r.clone())).collect();
        for (address, info) in &observed.addresses {
            let link = observed.links.get(&address.link);
            // On the bridge of an uplink live the system's addresses, too.
            let keeps = desired.links.get(&address.link).is_some_and(|link| link.keeps_addresses);
            let wholly_ours = link.is_some_and(|l| is_made(l) && !l.alias.starts_with(UPLINK)) && !keeps;
            let ours = info.protocol == PROTOCOL || wholly_ours;
            if ours && !desired.addresses.contains_key(address) && !vanishing(&address.link) {
                ops.push(Op::DeleteAddress(address.clone()));
            }
        }
        let left: Vec<IfName> =
            gone.iter().filter(|name| !self.parted.contains(**name)).map(|name| (*name).clone()).collect();
        self.ops.append(&mut ops);
        for (name, link) in &observed.links {
            if !self.stays(name) {
                let needed = self.desired.links.get(name).is_some_and(|wanted| wanted.up);
                self.ops.extend(given_back(name, link, observed, self.parted.contains(name), needed));
            }
        }
        if !left.is_empty() {
            self.ops.push(Op::DeleteLinks(left));
        }
    }

    fn stays(&self, name: &IfName) -> bool {
        let Some(alias) = self.desired.links.get(name).and_then(|link| link.alias.as_ref()) else {
            return false;
        };
        // What only carries something is a port of ours no longer.
        let is_given_back = || alias == CARRIER && self.observed.links.get(name).is_some_and(Link::is_ours);
        !self.fresh.contains(name) && !is_given_back()
    }

    fn links(&mut self) {
        let desired = self.desired;
        // Bridges before their ports.
        let made = || desired.links.iter().filter(|(_, l)| l.make.is_some());
        let (bridges, ports): (Vec<_>, Vec<_>) =
            made().partition(|(_, l)| matches!(l.make, Some(NewLink::Bridge)));
        for (name, link) in bridges {
            self.link(name, link);
        }
        self.move_uplinks();
        let is_vlan = |link: &DesiredLink| matches!(link.make, Some(NewLink::Vlan { .. }));
        let (vlans, ports): (Vec<_>, Vec<_>) = ports.into_iter().partition(|(_, link)| is_vlan(link));
        for (name, link) in ports {
            self.link(name, link);
        }
        for (name, link) in
            desired.links.iter().filter(|(n, l)| l.make.is_none() && !desired.moves.contains_key(*n))
        {
            self.link(name, link);
        }
        // They take no larger frames than what they stand on, which has its MTU by now.
        for (name, link) in vlans {
            self.link(name, link);
        }
        let unmoved = desired.links.iter().filter(|(name, _)| !self.fresh.contains(*name));
        let kept: Vec<Op> = unmoved.filter_map(|(name, _)| kept_mtu(name, desired, &self.ops)).collect();
        self.ops.extend(kept);
    }

    fn link(&mut self, name: &IfName, link: &DesiredLink) {
        let set = |change| Op::SetLink { name: name.clone(), change };
        if let (true, Some(make), Some(alias)) = (self.fresh.contains(name), &link.make, &link.alias) {
            let later = link.mtu.filter(|mtu| has_longer_port(name, *mtu, self.desired));
            self.ops.push(Op::AddLink {
                name: name.clone(),
                link: make.clone(),
                alias: alias.clone(),
                mac: link.mac,
                mtu: link.mtu.filter(|_| later.is_none()),
            });
            // Only one that is set stays, see [`kept_mtu`].
            self.ops.extend(later.map(|mtu| set(LinkChange::Mtu(mtu))));
            if link.addrgen_none == Some(false) {
                self.ops.push(set(LinkChange::AddrgenNone(false)));
            }
            if group(alias) != GROUP {
                self.ops.push(set(LinkChange::Group(group(alias))));
            }
            if link.filters_vlans {
                self.ops.push(set(LinkChange::FiltersVlans(true)));
            }
            if link.master.is_some() {
                self.ops.push(set(LinkChange::Master(link.master.clone())));
            }
            self.ops.extend(vlans(link, &PortVlans::default()).into_iter().map(set));
            if link.master.is_some() {
                self.ops.extend(link.isolated.then(|| set(LinkChange::Isolated(true))));
                self.ops.extend(link.hairpin.then(|| set(LinkChange::Hairpin(true))));
            }
            return;
        }
        let Some(now) = self.observed.links.get(name) else { return };
        let mut changes = Vec::new();
        if let Some(alias) = &link.alias {
            if now.alias != *alias {
                changes.push(LinkChange::Alias(alias.clone()));
            }
            if alias != CARRIER && !is_in_group(now, alias) {
                changes.push(LinkChange::Group(group(alias)));
            }
        }
        changes.extend(link.mac.filter(|mac| now.mac != Some(*mac)).map(LinkChange::Mac));
        changes.extend(link.mtu.filter(|mtu| now.mtu != *mtu).map(LinkChange::Mtu));
        changes
            .extend(link.addrgen_none.filter(|none| now.addrgen_none != *none).map(LinkChange::AddrgenNone));
        if matches!(link.make, Some(NewLink::Bridge)) && now.filters_vlans != link.filters_vlans {
            changes.push(LinkChange::FiltersVlans(link.filters_vlans));
        }
        let uplink = link.alias.as_ref().is_none_or(|alias| alias == CARRIER);
        // The filter takes what comes by a link of this group for a guest's.
        if uplink && now.group == GROUP && !now.is_ours() {
            changes.push(LinkChange::Group(0));
        }
        // A bridge that is made anew has lost its ports.
        let moves = now.master != link.master || link.master.as_ref().is_some_and(|m| self.fresh.contains(m));
        if moves && !(uplink && link.master.is_none()) {
            changes.push(LinkChange::Master(link.master.clone()));
        }
        let none = PortVlans::default();
        changes.extend(vlans(link, if moves { &none } else { &now.vlans }));
        if link.master.is_some() && !uplink {
            // A port that comes anew has none of these set.
            if link.isolated != (now.isolated && !moves) {
                changes.push(LinkChange::Isolated(link.isolated));
            }
            if link.hairpin != (now.hairpin && !moves) {
                changes.push(LinkChange::Hairpin(link.hairpin));
            }
        }
        self.ops.extend(changes.into_iter().map(set));
    }

    /// An uplink becomes the port of a bridge, and the bridge takes over its addresses and routes. The copies are made
    /// first, so that the host is reachable throughout.
    fn move_uplinks(&mut self) {
        for (interface, bridge) in &self.desired.moves {
            let Some(now) = self.observed.links.get(interface) else { continue };
            if let Some(mtu) =
                self.desired.links.get(interface).and_then(|l| l.mtu).filter(|mtu| now.mtu != *mtu)
            {
                self.ops.push(Op::SetLink { name: interface.clone(), change: LinkChange::Mtu(mtu) });
            }
            if self.fresh.contains(bridge) || !self.observed.links.get(bridge).is_some_and(|b| b.up) {
                self.ops.push(Op::SetLink { name: bridge.clone(), change: LinkChange::Up(true) });
            }
            let comes = now.master.as_ref() != Some(bridge) || self.fresh.contains(bridge);
            let none = PortVlans::default();
            let wanted = self.desired.links.get(interface);
            let on = wanted.map(|link| vlans(link, if comes { &none } else { &now.vlans }));
            let enslave = comes.then(|| LinkChange::Master(Some(bridge.clone())));
            let changes = enslave.into_iter().chain(on.into_iter().flatten());
            let switch = changes.map(|change| Op::SetLink { name: interface.clone(), change }).collect();
            self.carry(interface, bridge, switch);
        }
    }

    /// Where a bridge of ours held an uplink and is no longer to, its addresses and routes return to the uplink.
    fn move_back(&mut self) {
        let observed = self.observed;
        for (bridge, held) in observed.links.iter().filter(|(_, l)| l.alias.starts_with(UPLINK)) {
            let foreign = || observed.links.iter().filter(|(_, l)| !l.is_ours());
            // The bridge has its MAC from the uplink, which is known by it: others may have put devices of theirs into
            // the bridge, and an uplink that was released before a stop is no port any more.
            let has_mac = |link: &Link| link.mac.is_some() && link.mac == held.mac;
            let is_port = |link: &Link| link.master.as_ref() == Some(bridge);
            let stays = self.stays(bridge);
            let wanted = |name: &IfName| self.desired.moves.get(name) == Some(bridge);
            if stays && foreign().any(|(name, l)| wanted(name) && (is_port(l) || has_mac(l))) {
                continue;
            }
            let candidates = foreign().filter(|(_, l)| has_mac(l) || is_port(l) && !stays);
            let uplink = candidates.min_by_key(|(_, l)| (!has_mac(l), !is_port(l), l.index));
            let Some((interface, link)) = uplink else { continue };
            let release = is_port(link)
                .then(|| Op::SetLink { name: interface.clone(), change: LinkChange::Master(None) });
            let release = release.into_iter().collect();
            self.carry(bridge, interface, release);
        }
    }

    /// Addresses and routes that are not ours go from one device to another, ours follow by themselves. The host
    /// answers to its addresses throughout: they are on both devices while `switch` moves the cable.
    fn carry(&mut self, from: &IfName, to: &IfName, switch: Vec<Op>) {
        let observed = self.observed;
        let theirs = observed
            .addresses
            .iter()
            .filter(|(a, info)| a.link == *from && info.protocol != PROTOCOL && info.scope == 0);
        // What the host spoke from, it goes on to speak from.
        let mut theirs: Vec<_> = theirs.collect();
        theirs.sort_by_key(|(a, info)| age(a.address, info.place));
        for (address, info) in &theirs {
            let address = Address { link: to.clone(), address: address.address };
            if !observed.addresses.contains_key(&address) {
                self.ops.push(Op::AddAddress { address, scope: info.scope, protocol: info.protocol });
            }
        }
        self.ops.extend(switch);
        let routes: Vec<&Route> = observed
            .routes
            .iter()
            // 2 is the kernel's own, which comes with the address.
            .filter(|r| r.link.as_ref() == Some(from) && r.protocol != PROTOCOL && r.protocol != 2)
            .collect();
        // The kernel's own go with their addresses, but for those of prefixes that a router advertised: they would
        // lead past the bridge.
        for route in observed.routes.iter().filter(|r| {
            let global = matches!(r.destination, IpNet::V6(net) if !net.addr().is_unicast_link_local());
            r.link.as_ref() == Some(from) && r.protocol == 2 && global
        }) {
            self.ops.push(Op::DeleteRoute(route.clone()));
        }
        // On-link routes first: gateways are reached by them.
        let (on_link, via): (Vec<&Route>, Vec<&Route>) = routes.into_iter().partition(|r| r.via.is_none());
        for route in on_link.iter().chain(&via) {
            // The kernel refuses a route that differs in the device only, so the old one goes first.
            self.ops.push(Op::DeleteRoute((*route).clone()));
            self.ops.push(Op::AddRoute(Route { link: Some(to.clone()), ..(*route).clone() }));
        }
        // With the last address of a family the kernel takes all routes from a device: killed then, nobody knew them.
        // Backwards, as others of its prefix may go with the first one of IPv4.
        for (address, _) in theirs.iter().rev() {
            self.ops.push(Op::DeleteAddress((*address).clone()));
        }
    }

    fn addresses(&mut self) {
        let mut addresses: Vec<_> = self.desired.addresses.iter().collect();
        addresses.sort_by_key(|(a, own)| (&a.link, age(a.address, own.place)));
        for (address, own) in addresses {
            if self.fresh.contains(&address.link) || !self.observed.addresses.contains_key(address) {
                self.ops.push(Op::AddAddress {
                    address: address.clone(),
                    scope: own.scope,
                    protocol: PROTOCOL,
                });
            }
        }
    }

    fn up(&mut self) {
        for (name, link) in self.desired.links.iter().filter(|(_, l)| l.up) {
            // The bridge of an uplink is up since it took over.
            let moved = link.alias.as_ref().is_some_and(|alias| alias.starts_with(UPLINK));
            let up = self.observed.links.get(name).is_some_and(|l| l.up) && !self.fresh.contains(name);
            if !up && !moved {
                self.ops.push(Op::SetLink { name: name.clone(), change: LinkChange::Up(true) });
            }
        }
    }

    fn guests(&mut self) {
        let desired = self.desired;
        for (nic, guest) in &desired.guests {
            let fresh = self.fresh.contains(&guest.host_device);
            let unseen = ObservedGuest { lo_up: true, ..ObservedGuest::default() };
            let seen = match self.observed.guests.get(nic) {
                Some(seen) => seen,
                None if is_made_here(desired, guest) => &unseen,
                // A namespace that is gone takes the plan nowhere; the attachment is stale.
                None => continue,
            };
            let mut changes = Vec::new();
            if !seen.lo_up {
                changes.push(GuestChange::LoopbackUp);
            }
            let link = seen.link.as_ref().filter(|_| !fresh);
            if link.map_or(guest.mtu != 1500, |l| l.mtu != guest.mtu) {
                changes.push(GuestChange::Mtu(guest.mtu));
            }
            if link.is_some_and(|l| l.mac != Some(guest.mac)) {
                changes.push(GuestChange::Mac(guest.mac));
            }
            if link.is_none_or(|l| !l.up) {
                changes.push(GuestChange::Up);
            }
            let none = (BTreeSet::new(), BTreeSet::new());
            let (addresses, routes) =
                if fresh { (&none.0, &none.1) } else { (&seen.addresses, &seen.routes) };
            if !guest.by_itself {
                changes.extend(routes.difference(&guest.routes).cloned().map(GuestChange::DeleteRoute));
                let has = |address: &&IpNet| !self.given_up.contains(&(nic.clone(), **address));
                let unwanted = addresses.iter().filter(|address| !guest.addresses.contains(*address));
                let gone = unwanted.filter(has);
                changes.extend(gone.copied().map(GuestChange::DeleteAddress));
            }
            // A guest that has asked has it for a time, with the prefix length of its choice.
            let is_told = |address: &&IpNet| {
                let same = |told: &IpNet| {
                    told == *address || (address.addr().is_ipv6() && told.addr() == address.addr())
                };
                !fresh && seen.told.iter().any(same)
            };
            let new = guest.addresses.iter().filter(|address| !addresses.contains(*address));
            let add = |address| GuestChange::AddAddress { address, dad: guest.dad };
            changes.extend(by_age(new.filter(|address| !is_told(address))).map(add));
            changes.extend(guest.routes.difference(routes).cloned().map(GuestChange::AddRoute));
            self.ops.extend(changes.into_iter().map(|change| inside(nic, guest, change)));
        }
    }

    fn routes(&mut self) {
        for route in &self.desired.routes {
            let new_link = route.link.as_ref().is_some_and(|l| self.fresh.contains(l));
            let there = self.observed.routes.contains(route) && !new_link;
            // A default route that the system made by the same gateway does as well.
            let same_way = route.via.is_some()
                && self.observed.routes.iter().any(|r| {
                    r.destination == route.destination && r.via == route.via && r.link == route.link
                });
            if !there && !same_way {
                self.ops.push(Op::AddRoute(route.clone()));
            }
        }
    }

    fn announce_and_listen(&mut self) {
        for (link, mac) in &self.desired.unicast {
            if !self.observed.unicast.contains(&(link.clone(), *mac)) {
                self.ops.push(Op::AddUnicast(link.clone(), *mac));
            }
        }
        for proxy in &self.desired.proxies {
            if self.observed.proxies.get(proxy) != Some(&PROTOCOL) || self.fresh.contains(&proxy.link) {
                self.ops.push(Op::AddProxy(proxy.clone()));
            }
        }
        let claimed: BTreeSet<_> = self
            .observed
            .routes
            .iter()
            .filter(|r| r.protocol == PROTOCOL && r.kind == RouteKind::Local)
            .map(|r| r.destination.addr())
            .collect();
        for (proxy, mac) in &self.desired.announced {
            if !self.observed.proxies.contains_key(proxy) && !claimed.contains(&proxy.address) {
                self.ops.push(Op::Announce { link: proxy.link.clone(), address: proxy.address, mac: *mac });
            }
        }
    }
}
