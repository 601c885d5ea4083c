//! A host's network state in memory, for tests: it takes the same steps as the kernel and refuses what the kernel
//! would refuse (things that exist already, references to what does not exist).

mod addresses;
mod namespaces;
mod stacks;

use std::collections::{BTreeMap, BTreeSet};

use viaduct_types::{IfName, NamespaceName, VlanSet};

use crate::{
    nft::{self, Change, Family},
    op::{GuestChange, LinkChange, NewLink, Op},
    part::AskPart,
    port::{Apply, Keep, Observe, ObservePart},
    state::{
        Address, AddressInfo, Ask, Features, Flow, GROUP, GuestLink, GuestRoute, Kind, Link, Observed,
        ObservedGuest, PROTOCOL, PortVlans, Route, Sysctl,
    },
    unmade::Unmade,
};

/// A simulated host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its state, as a look would find it.
    pub state: Observed,
    /// The flows that are tracked.
    pub flows: Vec<Flow>,
    /// Settings of every device that exists or will: what a look finds when asked.
    sysctls: BTreeMap<Sysctl, String>,
    /// Namespaces by path, each with the devices inside.
    namespaces: BTreeMap<String, BTreeMap<IfName, ObservedGuest>>,
    /// What devices were like that moved into namespaces.
    away: BTreeMap<IfName, Away>,
    /// The stacks of namespaces.
    pub stacks: BTreeMap<NamespaceName, Self>,
    /// Of a stack, its namespace's interfaces.
    given: BTreeSet<IfName>,
    next_index: u32,
    /// Fails the step with this number, counted from now on.
    pub fail_at: Option<usize>,
}

/// A device as it was on the host.
#[derive(Clone, Debug)]
struct Away {
    link: Link,
    addresses: BTreeMap<Address, AddressInfo>,
}

/// What the simulated kernel says to a step it refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {reason}")]
pub struct Refused {
    /// The step.
    pub step: String,
    /// Why.
    pub reason: &'static str,
}

impl Default for Host {
    fn default() -> Self {
        let features = Features {
            nft_egress: true,
            nft_bridge: true,
            nft_arp: true,
            nft_limit: true,
            ct_labels: true,
            bridge: true,
            veth: true,
            tun: true,
            vlan: true,
            vxlan: true,
            macvlan: true,
            ipvlan: true,
        };
        let state = Observed {
            links: BTreeMap::new(),
            addresses: BTreeMap::new(),
            routes: Default::default(),
            proxies: BTreeMap::new(),
            unicast: Default::default(),
            sysctls: BTreeMap::new(),
            journal: BTreeMap::new(),
            nft: nft::Ruleset::default(),
            guests: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            moved: BTreeMap::new(),
            stacks: BTreeMap::new(),
            features,
        };
        let mut host = Self {
            state,
            flows: Vec::new(),
            sysctls: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            away: BTreeMap::new(),
            stacks: BTreeMap::new(),
            given: BTreeSet::new(),
            next_index: 1,
            fail_at: None,
        };
        host.sysctls.insert(Sysctl::all("ipv4", "forwarding"), "0".to_owned());
        host.sysctls.insert(Sysctl::all("ipv6", "forwarding"), "0".to_owned());
        if let Ok(lo) = "lo".parse() {
            host.hardware(&lo, None);
        }
        host
    }
}

impl Host {
    /// Adds a device that is not ours, up.
    pub fn hardware(&mut self, name: &IfName, mac: Option<viaduct_types::MacAddr>) {
        let index = self.index();
        let link = Link { mac, ..Link::plain(index) };
        self.state.links.insert(name.clone(), link);
        self.device_sysctls(name);
    }

    /// Adds an address of the system.
    pub fn address(&mut self, link: &IfName, address: viaduct_types::IpNet) {
        addresses::add(&mut self.state.addresses, Address { link: link.clone(), address }, 0, 0);
    }

    /// Adds a namespace.
    pub fn namespace(&mut self, path: &str) {
        self.namespaces.entry(path.to_owned()).or_default();
    }

    /// Takes a namespace away, with what is in it.
    pub fn remove_namespace(&mut self, path: &str) {
        for (_, guest) in self.namespaces.remove(path).into_iter().flatten() {
            if let Some(link) = guest.link {
                let name =
                    self.state.links.iter().find(|(_, l)| l.index == link.peer_index).map(|(n, _)| n.clone());
                name.into_iter().for_each(|name| self.remove_link(&name));
            }
        }
    }

    fn look_into(&self, ask: &Ask) -> BTreeMap<viaduct_types::NicId, ObservedGuest> {
        let look = |(nic, asked): (&viaduct_types::NicId, &crate::state::Inside)| {
            let inside = self.namespaces.get(&asked.path)?;
            Some((nic.clone(), inside.get(&asked.device).cloned().unwrap_or_default()))
        };
        ask.guests.iter().filter_map(look).collect()
    }

    fn index(&mut self) -> u32 {
        self.next_index += 1;
        self.next_index
    }

    /// IPv6 forwarding of all devices, those to come included, is switched at once.
    fn forward_everywhere(&mut self, key: &Sysctl, value: &str) {
        if *key == Sysctl::all("ipv6", "forwarding") {
            for name in self.state.links.keys() {
                self.sysctls.insert(Sysctl::ipv6(name, "forwarding"), value.to_owned());
            }
        }
    }

    fn device_sysctls(&mut self, name: &IfName) {
        for (key, value) in [
            ("forwarding", "0"),
            ("proxy_arp", "0"),
            ("send_redirects", "1"),
            ("accept_redirects", "1"),
            ("rp_filter", "2"),
            ("route_localnet", "0"),
            ("arp_ignore", "0"),
        ] {
            self.sysctls.insert(Sysctl::ipv4(name, key), value.to_owned());
        }
        let forwarding = self.sysctls.get(&Sysctl::all("ipv6", "forwarding")).cloned();
        let forwarding = forwarding.as_deref().unwrap_or("0");
        for (key, value) in [
            ("forwarding", forwarding),
            ("disable_ipv6", "0"),
            ("accept_ra", "1"),
            ("accept_redirects", "1"),
            ("proxy_ndp", "0"),
        ] {
            self.sysctls.insert(Sysctl::ipv6(name, key), value.to_owned());
        }
        for family in ["ipv4", "ipv6"] {
            self.sysctls.insert(Sysctl::neigh(family, name, "proxy_delay"), "80".to_owned());
        }
    }

    /// Gone with a device: its addresses, routes, neighbours, settings, the other end, its place as a bridge.
    fn remove_link(&mut self, name: &IfName) {
        let Some(link) = self.state.links.remove(name) else { return };
        self.state.addresses.retain(|a, _| a.link != *name);
        self.state.routes.retain(|r| r.link.as_ref() != Some(name));
        self.state.proxies.retain(|p, _| p.link != *name);
        self.state.unicast.retain(|(l, _)| l != name);
        self.sysctls.retain(|key, _| key.link() != Some(name.as_str()));
        for other in self.state.links.values_mut().filter(|l| l.master.as_ref() == Some(name)) {
            other.master = None;
            (other.isolated, other.hairpin) = (false, false);
        }
        let standing = format!(" of {name}");
        for namespace in self.state.namespaces.values_mut() {
            namespace.devices.retain(|_, device| !device.alias.ends_with(&standing));
        }
        for inside in self.namespaces.values_mut() {
            inside.retain(|_, guest| guest.link.as_ref().is_none_or(|l| l.peer_index != link.index));
        }
    }

    fn step(&mut self, op: &Op, keep: &Keep<'_>) -> Result<(), &'static str> {
        match op {
            Op::Nft(changes) => self.filter(changes)?,
            Op::SetSysctl { key, value, journal } => {
                let now = self.sysctls.get_mut(key).ok_or("no such setting")?;
                if *journal {
                    self.state.journal.entry(key.clone()).or_insert_with(|| now.clone());
                }
                now.clone_from(value);
                self.forward_everywhere(key, value);
            }
            Op::RestoreSysctl { key, value } => {
                if let Some(now) = self.sysctls.get_mut(key) {
                    now.clone_from(value);
                    self.forward_everywhere(key, value);
                }
                self.state.journal.remove(key);
            }
            Op::AddLink { name, link, alias, mac, mtu } => {
                if self.state.links.contains_key(name) {
                    return Err("exists");
                }
                let (index, peer_index) = (self.index(), self.index());
                if let NewLink::Veth { netns, peer, peer_mac } = link {
                    let inside = self.namespaces.get_mut(netns).ok_or("no such namespace")?;
                    if inside.contains_key(peer) {
                        return Err("the name is taken in the namespace");
                    }
                    let link = GuestLink {
                        index: peer_index,
                        peer_index: index,
                        mac: Some(*peer_mac),
                        mtu: 1500,
                        up: false,
                    };
                    inside
                        .insert(peer.clone(), ObservedGuest { link: Some(link), ..ObservedGuest::default() });
                }
                let link = Link {
                    index,
                    kind: link.kind(),
                    mac: *mac,
                    mtu: mtu.unwrap_or(1500),
                    up: false,
                    master: None,
                    alias: alias.clone(),
                    group: GROUP,
                    isolated: false,
                    hairpin: false,
                    addrgen_none: true,
                    filters_vlans: false,
                    vlans: PortVlans::default(),
                    vlan: match link {
                        NewLink::Vlan { parent, id, .. } => {
                            let parent = self.state.links.get(parent).ok_or("no such parent")?;
                            let same = Some((parent.index, *id));
                            if self.state.links.values().any(|link| link.vlan == same) {
                                return Err("the VLAN is taken");
                            }
                            same
                        }
                        NewLink::Bridge
                        | NewLink::Veth { .. }
                        | NewLink::Tap { .. }
                        | NewLink::Vxlan { .. }
                        | NewLink::VnetTap => None,
                    },
                    peer_index: if matches!(link, NewLink::Veth { .. }) { peer_index } else { 0 },
                };
                self.state.links.insert(name.clone(), link);
                self.device_sysctls(name);
            }
            Op::SetLink { name, change } => self.set_link(name, change)?,
            Op::DeleteLinks(names) => names.iter().for_each(|name| self.remove_link(name)),
            Op::AddAddress { address, scope, protocol } => {
                if !self.state.links.contains_key(&address.link) {
                    return Err("no such device");
                }
                addresses::add(&mut self.state.addresses, address.clone(), *scope, *protocol);
            }
            Op::DeleteAddress(address) => {
                addresses::remove(&mut self.state.addresses, address);
            }
            Op::AddRoute(route) => {
                if route.link.as_ref().is_some_and(|l| self.state.links.get(l).is_none_or(|l| !l.up)) {
                    return Err("the device is missing or down");
                }
                self.state.routes.insert(route.clone());
            }
            Op::DeleteRoute(route) => {
                self.state.routes.remove(route);
            }
            Op::AddProxy(proxy) => {
                if !self.state.links.contains_key(&proxy.link) {
                    return Err("no such device");
                }
                self.state.proxies.insert(proxy.clone(), PROTOCOL);
            }
            Op::DeleteProxy(proxy) => {
                self.state.proxies.remove(proxy);
            }
            Op::AddUnicast(link, mac) => {
                self.state.unicast.insert((link.clone(), *mac));
            }
            Op::DeleteUnicast(link, mac) => {
                self.state.unicast.remove(&(link.clone(), *mac));
            }
            Op::Guest { netns, device, change, .. } => {
                let inside = self.namespaces.get_mut(netns).ok_or("no such namespace")?;
                change_guest(inside.get_mut(device).ok_or("no such device in the namespace")?, change)?;
            }
            Op::Namespace { name, change } => self.change_namespace(name, change)?,
            Op::EndFlows { then } => {
                self.flows.retain(|flow| keep(None, flow));
                self.filter(then)?;
            }
            Op::Announce { .. } => {}
            Op::Within { namespace, op } => self.step_within(namespace, op, keep)?,
        }
        Ok(())
    }

    fn set_link(&mut self, name: &IfName, change: &LinkChange) -> Result<(), &'static str> {
        if let LinkChange::Master(Some(master)) = change {
            let bridge = self.state.links.get(master).ok_or("no such bridge")?;
            if bridge.kind != Kind::Bridge {
                return Err("not a bridge");
            }
        }
        let filters = |link: &Link| link.filters_vlans;
        let filtering = self.state.links.get(name).is_some_and(|link| {
            filters(link)
                || link.master.as_ref().is_some_and(|m| self.state.links.get(m).is_some_and(filters))
        });
        let link = self.state.links.get_mut(name).ok_or("no such device")?;
        match change {
            LinkChange::Up(up) => link.up = *up,
            LinkChange::Mtu(mtu) => link.mtu = *mtu,
            LinkChange::Mac(mac) => link.mac = Some(*mac),
            LinkChange::Master(master) => {
                link.master.clone_from(master);
                (link.isolated, link.hairpin) = (false, false);
                link.vlans = PortVlans::default();
            }
            LinkChange::FiltersVlans(filters) if link.kind == Kind::Bridge => link.filters_vlans = *filters,
            LinkChange::Vlans(_) if !filtering => {
                return Err("VLANs are not looked at there");
            }
            LinkChange::Vlans(PortVlans { untagged, tagged, .. }) => {
                let vlans = &mut link.vlans;
                let former = untagged.and(vlans.untagged).filter(|former| Some(*former) != *untagged);
                let is_set = |vlan: &u16| Some(*vlan) == *untagged || tagged.contains(*vlan);
                vlans.other = vlans.other.iter().chain(former).filter(|vlan| !is_set(vlan)).collect();
                let stays = vlans.untagged.filter(|vlan| !tagged.contains(*vlan));
                vlans.untagged = untagged.or(stays);
                let kept = vlans.tagged.iter().filter(|vlan| Some(*vlan) != *untagged);
                vlans.tagged = kept.chain(tagged.iter()).collect();
            }
            LinkChange::VlansGone(gone) => {
                let vlans = &mut link.vlans;
                let without = |set: &VlanSet| set.iter().filter(|vlan| !gone.contains(*vlan)).collect();
                (vlans.tagged, vlans.other) = (without(&vlans.tagged), without(&vlans.other));
                vlans.untagged = vlans.untagged.filter(|vlan| !gone.contains(*vlan));
            }
            LinkChange::Isolated(isolated) if link.master.is_some() => link.isolated = *isolated,
            LinkChange::Hairpin(hairpin) if link.master.is_some() => link.hairpin = *hairpin,
            LinkChange::Isolated(_) | LinkChange::Hairpin(_) => return Err("not a port"),
            LinkChange::FiltersVlans(_) => return Err("not a bridge"),
            LinkChange::Alias(alias) => link.alias.clone_from(alias),
            LinkChange::Group(group) => link.group = *group,
            LinkChange::AddrgenNone(none) => link.addrgen_none = *none,
        }
        Ok(())
    }

    fn filter(&mut self, changes: &[Change]) -> Result<(), &'static str> {
        // All or nothing.
        let mut filter = self.state.nft.clone();
        for change in changes {
            match change {
                Change::AddTable(family, table) => {
                    if filter.tables.insert(*family, table.clone()).is_some() {
                        return Err("the table exists");
                    }
                }
                Change::DeleteTable(family) => {
                    filter.tables.remove(family).ok_or("no such table")?;
                }
                Change::AddParts(family, parts) => {
                    let table = filter.tables.get_mut(family).ok_or("no such table")?;
                    for (name, set) in &parts.sets {
                        if table.sets.insert(name.clone(), set.clone()).is_some() {
                            return Err("the set exists");
                        }
                    }
                    for (name, chain) in &parts.chains {
                        if table.chains.insert(name.clone(), chain.clone()).is_some() {
                            return Err("the chain exists");
                        }
                    }
                }
                Change::DeleteParts(family, parts) => {
                    let table = filter.tables.get_mut(family).ok_or("no such table")?;
                    for name in parts.sets.keys() {
                        table.sets.remove(name).ok_or("no such set")?;
                    }
                    for name in parts.chains.keys() {
                        table.chains.remove(name).ok_or("no such chain")?;
                    }
                }
                Change::ReplaceRules { family, name, chain } => {
                    let chains = &mut filter.tables.get_mut(family).ok_or("no such table")?.chains;
                    chains.get_mut(name).ok_or("no such chain")?.rules.clone_from(&chain.rules);
                }
                Change::DeleteElements { family, name, set } => {
                    let elements = elements(&mut filter, *family, name)?;
                    for key in set.elements.keys() {
                        elements.remove(key).ok_or("no such element")?;
                    }
                }
                Change::AddElements { family, name, set } => {
                    let elements = elements(&mut filter, *family, name)?;
                    for (key, value) in &set.elements {
                        if elements.insert(key.clone(), value.clone()).is_some() {
                            return Err("the element exists");
                        }
                    }
                }
            }
        }
        self.state.nft = filter;
        Ok(())
    }
}

fn elements<'a>(
    filter: &'a mut nft::Ruleset,
    family: Family,
    name: &str,
) -> Result<&'a mut nft::Elements, &'static str> {
    let table = filter.tables.get_mut(&family).ok_or("no such table")?;
    Ok(&mut table.sets.get_mut(name).ok_or("no such set")?.elements)
}

fn change_guest(guest: &mut ObservedGuest, change: &GuestChange) -> Result<(), &'static str> {
    let link = guest.link.as_mut().ok_or("no such device in the namespace")?;
    match change {
        GuestChange::LoopbackUp => guest.lo_up = true,
        GuestChange::Mtu(mtu) => link.mtu = *mtu,
        GuestChange::Mac(mac) => link.mac = Some(*mac),
        GuestChange::Up => link.up = true,
        GuestChange::AddAddress { address, .. } => {
            guest.addresses.insert(*address);
        }
        GuestChange::DeleteAddress(address) => {
            guest.addresses.remove(address);
        }
        GuestChange::AddRoute(route) => {
            if !link.up {
                return Err("the device is down");
            }
            guest.routes.retain(|r: &GuestRoute| r.destination != route.destination);
            guest.routes.insert(route.clone());
        }
        GuestChange::DeleteRoute(route) => {
            guest.routes.remove(route);
        }
    }
    Ok(())
}

impl Observe for Host {
    type Error = Refused;

    fn observe(&mut self, ask: &Ask) -> Result<Observed, Refused> {
        let mut observed = self.state.clone();
        let of_links = ask
            .link_sysctls
            .iter()
            .flat_map(|pattern| self.state.links.keys().map(move |link| pattern.replace('*', link.as_str())));
        let of_links: Vec<String> = of_links.collect();
        observed.sysctls = self
            .sysctls
            .iter()
            .filter(|(key, _)| ask.sysctls.contains(*key) || of_links.iter().any(|p| p == key.path()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        observed.guests = self.look_into(ask);
        self.observe_stacks(ask, &mut observed);
        Ok(observed)
    }
}

impl ObservePart for Host {
    fn observe_part(&mut self, stack: Option<&NamespaceName>, ask: &AskPart) -> Result<Observed, Refused> {
        if let Some(name) = stack {
            return self.part_within(name, ask);
        }
        let guests = ask.guests.clone();
        let whole = Ask { sysctls: ask.sysctls.clone(), guests, ..Ask::default() };
        let mut observed = self.observe(&whole)?;
        observed.nft = nft::Ruleset::default();
        observed.namespaces.clear();
        observed.stacks.clear();
        observed.links.retain(|name, _| ask.links.contains(name));
        observed.addresses.retain(|address, _| {
            let link = &address.link;
            ask.all_addresses
                || ask.links.contains(link)
                || ask.addresses_of.contains(link)
                || ask.addresses.contains(address)
        });
        observed.routes.retain(|route| {
            let same = |asked: &Route| asked.destination == route.destination && asked.link == route.link;
            route.protocol == PROTOCOL && ask.routes.iter().any(same)
        });
        observed.proxies.retain(|proxy, _| ask.proxies.contains(proxy));
        observed.unicast.retain(|entry| ask.unicast.contains(entry));
        observed.journal.retain(|key, _| ask.journal.contains(key));
        Ok(observed)
    }

    /// Nobody else is here.
    fn filter_state(&mut self, _: Option<&NamespaceName>) -> Result<Option<u32>, Refused> {
        Ok(Some(0))
    }
}

impl Apply for Host {
    type Error = Refused;

    fn apply(
        &mut self,
        ops: &[Op],
        keep: &Keep<'_>,
        progress: &mut dyn FnMut(usize),
    ) -> Vec<Result<(), Refused>> {
        let (mut filter_failed, mut unmade) = (BTreeSet::new(), BTreeMap::<_, Unmade>::new());
        let mut results = Vec::with_capacity(ops.len());
        for (number, op) in ops.iter().enumerate() {
            let refused = |reason| Refused { step: op.to_string(), reason };
            let injected = match self.fail_at {
                Some(0) => {
                    self.fail_at = None;
                    true
                }
                Some(n) => {
                    self.fail_at = Some(n - 1);
                    false
                }
                None => false,
            };
            let (place, step) = op.place();
            let unmade = unmade.entry(place).or_default();
            let result = if filter_failed.contains(&None) || filter_failed.contains(&place) {
                Err(refused("the filter is not in place"))
            } else if unmade.needed(step).is_some() {
                Err(refused("its link could not be made"))
            } else if injected {
                Err(refused("injected"))
            } else {
                self.step(op, keep).map_err(refused)
            };
            if result.is_err() && matches!(step, Op::Nft(_)) {
                filter_failed.insert(place);
            }
            if result.is_err() {
                unmade.failed(step);
            }
            results.push(result);
            progress(number + 1);
        }
        results
    }
}
