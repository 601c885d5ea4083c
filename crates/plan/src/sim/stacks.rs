//! The stacks of namespaces: a simulated host in each.

use viaduct_types::{IfName, NamespaceName};

use super::{Host, Refused};
use crate::{
    op::Op,
    part::AskPart,
    port::{Keep, Observe, ObservePart},
    state::{Address, AddressInfo, Ask, Link, Observed, PROTOCOL},
};

impl Host {
    /// Does a step in the stack of a namespace.
    pub(super) fn step_within(
        &mut self,
        name: &NamespaceName,
        op: &Op,
        keep: &Keep<'_>,
    ) -> Result<(), &'static str> {
        if !self.state.namespaces.contains_key(name) {
            return Err("no such namespace");
        }
        self.within(name, |stack| stack.step(op, &|_, flow| keep(Some(name), flow)))
    }

    /// What the stacks are like that are asked for or have something of ours.
    pub(super) fn observe_stacks(&mut self, ask: &Ask, observed: &mut Observed) {
        let known: Vec<NamespaceName> = self.stacks.keys().cloned().collect();
        for name in ask.stacks.keys().chain(&known) {
            let asked = ask.stacks.get(name).cloned().unwrap_or_default();
            if !self.state.namespaces.contains_key(name) {
                self.stacks.remove(name);
                let guests = self.look_into(&asked);
                let nothing = Observed::nothing(self.state.features);
                observed.stacks.insert(name.clone(), Observed { guests, ..nothing });
                continue;
            }
            if let Ok(stack) = self.within(name, |stack| stack.observe(&asked)) {
                observed.stacks.insert(name.clone(), stack);
            }
        }
    }

    /// A look at a part of one.
    pub(super) fn part_within(&mut self, name: &NamespaceName, ask: &AskPart) -> Result<Observed, Refused> {
        if !self.state.namespaces.contains_key(name) {
            let step = format!("looking into {name}");
            return Err(Refused { step, reason: "no such namespace" });
        }
        self.within(name, |stack| stack.observe_part(None, ask))
    }

    /// There, with the guests' namespaces and the interfaces as they are.
    fn within<T>(&mut self, name: &NamespaceName, act: impl FnOnce(&mut Self) -> T) -> T {
        let mut stack = self.stacks.remove(name).unwrap_or_default();
        std::mem::swap(&mut stack.namespaces, &mut self.namespaces);
        stack.next_index = stack.next_index.max(self.next_index);
        let of_namespace = self.state.namespaces.get(name).into_iter().flat_map(|n| &n.devices);
        let mut given: Vec<(IfName, Link, Vec<viaduct_types::IpNet>)> = of_namespace
            .map(|(name, device)| {
                let (mac, mtu, up) = (device.mac, device.mtu, device.up);
                let link = Link { mac, mtu, up, alias: device.alias.clone(), ..Link::plain(device.index) };
                (name.clone(), link, device.addresses.iter().copied().collect())
            })
            .collect();
        let cables = stack.namespaces.get(&format!("/run/netns/{name}")).into_iter().flatten();
        given.extend(cables.filter_map(|(name, inside)| {
            let cable = inside.link.as_ref()?;
            let link = Link { mac: cable.mac, mtu: cable.mtu, up: cable.up, ..Link::plain(cable.index) };
            Some((name.clone(), link, inside.addresses.iter().copied().collect()))
        }));
        let is_given = |name: &IfName| given.iter().any(|(given, ..)| given == name);
        let gone: Vec<IfName> = stack.given.iter().filter(|name| !is_given(name)).cloned().collect();
        gone.iter().for_each(|name| stack.remove_link(name));
        stack.given = given.iter().map(|(name, ..)| name.clone()).collect();
        for (name, link, addresses) in given {
            let master = stack.state.links.get(&name).and_then(|link| link.master.clone());
            if !stack.state.links.contains_key(&name) {
                stack.device_sysctls(&name);
            }
            stack.state.links.insert(name.clone(), Link { master, ..link });
            stack.state.addresses.retain(|address, info| address.link != name || info.protocol != PROTOCOL);
            let info = AddressInfo { protocol: PROTOCOL, scope: 0, dynamic: false, place: 0 };
            let addresses =
                addresses.into_iter().map(|address| (Address { link: name.clone(), address }, info));
            stack.state.addresses.extend(addresses);
        }
        let result = act(&mut stack);
        std::mem::swap(&mut stack.namespaces, &mut self.namespaces);
        self.next_index = stack.next_index;
        self.stacks.insert(name.clone(), stack);
        result
    }
}
