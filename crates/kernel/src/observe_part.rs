//! Looking at a part of a host: questions about names, not lists. What others have on the host does not make it slower.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_route::AddressFamily;
use rustix::net::netdevice;
use viaduct_plan::{Address, ObservePart, Observed, PROTOCOL, RouteKind, nft::Ruleset, part::AskPart};
use viaduct_types::{IfName, NamespaceName};

use crate::{
    Kernel, address,
    error::KernelError,
    link::{self, Which},
    neighbour,
    observe::{extra_unicast, features},
    route::{self, TABLE_LOCAL, TABLE_MAIN},
    sysctl, vlan,
};

impl ObservePart for Kernel {
    fn observe_part(
        &mut self,
        stack: Option<&NamespaceName>,
        ask: &AskPart,
    ) -> Result<Observed, KernelError> {
        if let Some(name) = stack {
            return self.within(name, |kernel| kernel.observe_part(None, ask))?;
        }
        let refused = |what: &'static str| move |refusal| KernelError::refused(what, refusal);
        let mut links = BTreeMap::new();
        for name in &ask.links {
            let found =
                link::found(&mut self.route, Which::Name(name)).map_err(refused("looking at a link"))?;
            let Some(found) = found else { continue };
            let (mut link, master) = (found.link, found.master);
            if master != 0 {
                let name = netdevice::index_to_name_inlined(&self.route, master);
                link.master = name.ok().and_then(|name| name.as_str().parse().ok());
            }
            if ask.vlans {
                let vlans = vlan::list(&mut self.route, link.index).map_err(refused("listing VLANs"))?;
                link.vlans = vlans.into_values().next().unwrap_or_default();
            }
            links.insert(name.clone(), link);
        }
        let mut observed = Observed {
            links,
            addresses: BTreeMap::new(),
            routes: BTreeSet::new(),
            proxies: BTreeMap::new(),
            unicast: BTreeSet::new(),
            sysctls: BTreeMap::new(),
            journal: BTreeMap::new(),
            nft: Ruleset::default(),
            guests: self.look_into(&ask.guests)?,
            namespaces: BTreeMap::new(),
            // That they are away is all that matters.
            moved: self.devices.away()?,
            stacks: BTreeMap::new(),
            features: features()?,
        };
        self.addresses(ask, &mut observed)?;
        self.routes(ask, &mut observed)?;
        for proxy in &ask.proxies {
            let Some(index) = self.index(&proxy.link)? else { continue };
            let found = neighbour::proxy_of(&mut self.route, index, proxy.address);
            let found = found.map_err(refused("looking at a proxy entry"))?;
            observed.proxies.extend(found.map(|protocol| (proxy.clone(), protocol)));
        }
        if !ask.unicast.is_empty() {
            self.unicast(ask, &mut observed)?;
        }
        for key in &ask.sysctls {
            observed.sysctls.extend(sysctl::read(key)?.map(|value| (key.clone(), value)));
        }
        if !ask.journal.is_empty() {
            observed.journal = self.journal.read()?;
            observed.journal.retain(|key, _| ask.journal.contains(key));
        }
        Ok(observed)
    }

    fn filter_state(&mut self, stack: Option<&NamespaceName>) -> Result<Option<u32>, KernelError> {
        if let Some(name) = stack {
            return self.within(name, |kernel| kernel.filter_state(None))?;
        }
        self.nft.seen().map_err(|e| KernelError::Filter { source: std::sync::Arc::new(e) })
    }
}

impl Kernel {
    fn index(&self, name: &IfName) -> Result<Option<u32>, KernelError> {
        link::index_of(&self.route, name).map_err(|e| KernelError::system(format!("looking for {name}"), e))
    }

    fn addresses(&mut self, ask: &AskPart, observed: &mut Observed) -> Result<(), KernelError> {
        let refused = |refusal| KernelError::refused("listing addresses", refusal);
        if ask.all_addresses {
            let names = &mut BTreeMap::new();
            for ((index, address), info) in address::list(&mut self.route, 0).map_err(refused)? {
                let name = names.entry(index).or_insert_with(|| {
                    let name = netdevice::index_to_name_inlined(&self.route, index).ok()?;
                    name.as_str().parse::<IfName>().ok()
                });
                if let Some(link) = name.clone() {
                    observed.addresses.insert(Address { link, address }, info);
                }
            }
            return Ok(());
        }
        let whole: BTreeSet<&IfName> = ask.links.iter().chain(&ask.addresses_of).collect();
        let asked: BTreeSet<&IfName> =
            whole.iter().copied().chain(ask.addresses.iter().map(|a| &a.link)).collect();
        for name in asked {
            let Some(index) = self.index(name)? else { continue };
            for ((_, address), info) in address::list(&mut self.route, index).map_err(refused)? {
                let address = Address { link: name.clone(), address };
                if whole.contains(name) || ask.addresses.contains(&address) {
                    observed.addresses.insert(address, info);
                }
            }
        }
        Ok(())
    }

    /// The kernel leaves out what is of other devices or not ours.
    fn routes(&mut self, ask: &AskPart, observed: &mut Observed) -> Result<(), KernelError> {
        let kinds: BTreeSet<(Option<&IfName>, bool, bool)> = ask
            .routes
            .iter()
            .map(|r| (r.link.as_ref(), r.destination.addr().is_ipv6(), r.kind == RouteKind::Local))
            .collect();
        for (link, v6, local) in kinds {
            let index = match link {
                Some(name) => self.index(name)?,
                None => Some(0),
            };
            let Some(index) = index else { continue };
            let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
            let table = if local { TABLE_LOCAL } else { TABLE_MAIN };
            let found = route::dump(&mut self.route, family, table, Some(PROTOCOL), index)
                .map_err(|refusal| KernelError::refused("listing routes", refusal))?;
            let routes = found.into_iter().filter_map(|f| f.into_route(|_| link.cloned()));
            observed.routes.extend(routes.filter(|route| {
                ask.routes.iter().any(|a| a.destination == route.destination && a.link == route.link)
            }));
        }
        Ok(())
    }

    /// There is no asking for a single one of every device, so all of these devices are listed; few guests have such.
    fn unicast(&mut self, ask: &AskPart, observed: &mut Observed) -> Result<(), KernelError> {
        let names: BTreeSet<&IfName> = ask.unicast.iter().map(|(name, _)| name).collect();
        for name in names {
            let link = link::one(&mut self.route, Which::Name(name));
            let Some(link) = link.map_err(|r| KernelError::refused("looking at a link", r))? else {
                continue;
            };
            let permanent = neighbour::permanent(&mut self.route, link.index)
                .map_err(|refusal| KernelError::refused("listing forwarding entries", refusal))?;
            let entries = permanent.iter().filter_map(|entry| extra_unicast(&link, name.clone(), entry));
            observed.unicast.extend(entries.filter(|entry| ask.unicast.contains(entry)));
        }
        Ok(())
    }
}
