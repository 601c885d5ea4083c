//! The stacks that a configuration is about, each as a configuration by itself: the host's, and that of each namespace
//! with networks in it.

use std::borrow::Cow;

use viaduct_types::{NamespaceName, NicId};

use crate::{Config, Guest, Mode, Namespace, NamespaceInterface, Nic, Uplink};

impl Config {
    /// The namespaces that networks are in. Those that another one's networks lead out of come before it.
    pub fn stacks(&self) -> Vec<&NamespaceName> {
        let mut stacks: Vec<&NamespaceName> = Vec::new();
        for name in self.networks.values().filter_map(|network| network.namespace.as_ref()) {
            let mut way_out = vec![name];
            // The configuration has no circles; whatever it had, this ends.
            while let Some(next) = way_out.last().and_then(|name| self.stands_in(name)) {
                if way_out.contains(&next) {
                    break;
                }
                way_out.push(next);
            }
            let new: Vec<_> = way_out.into_iter().rev().filter(|name| !stacks.contains(name)).collect();
            stacks.extend(new);
        }
        stacks
    }

    /// The namespace that a namespace has cables to networks of.
    fn stands_in(&self, name: &NamespaceName) -> Option<&NamespaceName> {
        self.stack_of(self.guests.get(name.as_str()).filter(|guest| guest.is_namespace)?)
    }

    /// The namespace that a guest's networks are in; none: the host. They are all in the same.
    pub fn stack_of(&self, guest: &Guest) -> Option<&NamespaceName> {
        self.nics_of(guest).first().and_then(|nic| self.stack_of_nic(nic))
    }

    /// The namespace that a NIC's network is in; none: the host.
    pub fn stack_of_nic(&self, nic: &Nic) -> Option<&NamespaceName> {
        self.networks.get(&nic.network)?.namespace.as_ref()
    }

    /// The same by the NIC's id.
    pub fn stack_of_id(&self, id: &NicId) -> Option<&NamespaceName> {
        self.stack_of_nic(self.nic(id)?)
    }

    /// What of it is about the host's own stack.
    pub fn of_host(&self) -> Cow<'_, Self> {
        let is_whole = self.networks.values().all(|network| network.namespace.is_none())
            && self.uplinks.values().all(|uplink| uplink.namespace.is_none());
        if is_whole {
            return Cow::Borrowed(self);
        }
        let mut part = self.part(None);
        part.peers.clone_from(&self.peers);
        part.vnets.clone_from(&self.vnets);
        part.namespaces.clone_from(&self.namespaces);
        for (name, namespace) in &mut part.namespaces {
            for interface in &mut namespace.interfaces {
                // A bridge in there takes them over.
                if self.bridged_uplink(name, interface) {
                    interface.addresses.clear();
                    interface.gateways.clear();
                }
            }
        }
        Cow::Owned(part)
    }

    /// What of it is about the stack of a namespace. The namespace itself, with its interfaces, is the host's to make.
    pub fn of_stack(&self, name: &NamespaceName) -> Self {
        let mut part = self.part(Some(name));
        let of_guests: Vec<&NamespaceName> =
            part.guests.values().filter_map(|guest| guest.namespace.as_ref()).collect();
        let of_guests = of_guests.into_iter().filter_map(|name| self.namespaces.get_key_value(name));
        part.namespaces = of_guests.map(|(name, namespace)| (name.clone(), namespace.clone())).collect();
        let own: Option<&Namespace> = self.namespaces.get(name);
        for uplink in part.uplinks.values_mut() {
            let interface = own.and_then(|own| own.interfaces.iter().find(|i| i.name == uplink.interface));
            if let Some(interface) = interface.filter(|interface| self.bridged_uplink(name, interface)) {
                uplink.addresses.clone_from(&interface.addresses);
                uplink.gateways.clone_from(&interface.gateways);
            }
        }
        part
    }

    fn part(&self, stack: Option<&NamespaceName>) -> Self {
        let uplinks = self.uplinks.iter().filter(|(_, uplink)| uplink.namespace.as_ref() == stack);
        let networks = self.networks.iter().filter(|(_, network)| network.namespace.as_ref() == stack);
        let guests = self.guests.iter().filter(|(_, guest)| self.stack_of(guest) == stack);
        Self {
            host: self.host.clone(),
            stack: stack.cloned(),
            uplinks: uplinks.map(|(name, uplink)| (name.clone(), uplink.clone())).collect(),
            networks: networks.map(|(name, network)| (name.clone(), network.clone())).collect(),
            guests: guests.map(|(name, guest)| (name.clone(), guest.clone())).collect(),
            ..Self::default()
        }
    }

    /// Whether an interface of a namespace is in the bridge of a network there.
    fn bridged_uplink(&self, namespace: &NamespaceName, interface: &NamespaceInterface) -> bool {
        let is_it = |uplink: &Uplink| {
            uplink.namespace.as_ref() == Some(namespace) && uplink.interface == interface.name
        };
        self.networks.values().any(|network| {
            matches!(network.mode, Mode::Bridged { vlan: None, .. })
                && network.uplink.as_ref().and_then(|name| self.uplinks.get(name)).is_some_and(is_it)
        })
    }

    /// The NICs whose frames leave a stack by an interface of a namespace as they are.
    pub fn nics_behind<'a>(
        &'a self,
        namespace: &'a NamespaceName,
        interface: &'a NamespaceInterface,
    ) -> impl Iterator<Item = &'a Nic> {
        let leaves_by = move |nic: &&Nic| {
            let Some(network) = self.networks.get(&nic.network) else { return false };
            let uplink = network.uplink.as_ref().and_then(|name| self.uplinks.get(name));
            let by_it = uplink.is_some_and(|uplink| {
                uplink.namespace.as_ref() == Some(namespace) && uplink.interface == interface.name
            });
            by_it && (nic.uplink_mac || matches!(network.mode, Mode::Bridged { .. }))
        };
        self.guests.values().flat_map(|guest| &guest.nics).filter(leaves_by)
    }
}
