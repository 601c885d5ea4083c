//! Namespaces that guests share, and what is in them.

use viaduct_types::{IfName, NamespaceName};

use super::{Away, Host};
use crate::{
    desired::MOVED,
    op::{GuestChange, InnerKind, NamespaceChange},
    state::{Address, InnerDevice, ObservedNamespace, Whereabouts},
};

impl Host {
    pub(super) fn change_namespace(
        &mut self,
        name: &NamespaceName,
        change: &NamespaceChange,
    ) -> Result<(), &'static str> {
        let path = format!("/run/netns/{name}");
        match change {
            NamespaceChange::Make => {
                let made = ObservedNamespace { ours: true, lo_up: true, ..ObservedNamespace::default() };
                if self.state.namespaces.insert(name.clone(), made).is_some() {
                    return Err("exists");
                }
                self.namespace(&path);
                return Ok(());
            }
            NamespaceChange::Delete => {
                let gone = self.state.namespaces.remove(name).ok_or("no such namespace")?;
                if gone.devices.values().any(|device| device.alias.starts_with(MOVED)) {
                    return Err("a device of the host is in it");
                }
                self.remove_namespace(&path);
                return Ok(());
            }
            NamespaceChange::AddDevice {
                device, kind: InnerKind::Device { device: on_host }, alias, ..
            } => {
                return self.move_in(name, device, on_host, alias);
            }
            NamespaceChange::GiveBack(device) => return self.give_back(device),
            NamespaceChange::AddDevice { .. }
            | NamespaceChange::DeleteDevice(_)
            | NamespaceChange::AddRule(_)
            | NamespaceChange::DeleteRule(_)
            | NamespaceChange::SetSysctl { .. }
            | NamespaceChange::RestoreSysctl { .. }
            | NamespaceChange::Device { .. } => {}
        }
        let index = self.index();
        let namespace = self.state.namespaces.get_mut(name).ok_or("no such namespace")?;
        match change {
            NamespaceChange::AddDevice { device, kind, alias, mac, mtu } => {
                let parent = kind.parent().and_then(|parent| self.state.links.get(parent));
                let parent = parent.ok_or("no such parent")?;
                let made = InnerDevice {
                    index,
                    alias: alias.clone(),
                    mac: mac.or(parent.mac),
                    mtu: mtu.unwrap_or(parent.mtu),
                    up: false,
                    addresses: Default::default(),
                    routes: Default::default(),
                };
                if namespace.devices.insert(device.clone(), made).is_some() {
                    return Err("the name is taken in the namespace");
                }
            }
            NamespaceChange::DeleteDevice(device) => {
                namespace.devices.remove(device).ok_or("no such device in the namespace")?;
            }
            NamespaceChange::AddRule(rule) => {
                if !namespace.rules.insert(*rule) {
                    return Err("exists");
                }
            }
            NamespaceChange::DeleteRule(rule) => {
                if !namespace.rules.remove(rule) {
                    return Err("no such rule");
                }
            }
            NamespaceChange::SetSysctl { key, value } => {
                let was = namespace.sysctls.insert(key.clone(), value.clone());
                namespace.journal.entry(key.clone()).or_insert_with(|| was.unwrap_or_else(|| "0".to_owned()));
            }
            NamespaceChange::RestoreSysctl { key, .. } => {
                namespace.sysctls.remove(key);
                namespace.journal.remove(key);
            }
            NamespaceChange::Device { change: GuestChange::LoopbackUp, .. } => namespace.lo_up = true,
            NamespaceChange::Device { device, change } => {
                let device = namespace.devices.get_mut(device).ok_or("no such device in the namespace")?;
                change_inner(device, change)?;
            }
            NamespaceChange::Make | NamespaceChange::Delete | NamespaceChange::GiveBack(_) => {}
        }
        Ok(())
    }

    fn move_in(
        &mut self,
        name: &NamespaceName,
        inside: &IfName,
        device: &IfName,
        alias: &str,
    ) -> Result<(), &'static str> {
        let namespace = self.state.namespaces.get_mut(name).ok_or("no such namespace")?;
        if namespace.devices.contains_key(inside) {
            return Err("the name is taken in the namespace");
        }
        let link = self.state.links.remove(device).ok_or("no such device")?;
        let there = InnerDevice {
            index: link.index,
            alias: alias.to_owned(),
            mac: link.mac,
            mtu: link.mtu,
            up: false,
            addresses: Default::default(),
            routes: Default::default(),
        };
        namespace.devices.insert(inside.clone(), there);
        let of_device = |address: &Address| address.link == *device;
        let addresses = &self.state.addresses;
        let addresses =
            addresses.iter().filter(|(a, _)| of_device(a)).map(|(a, i)| (a.clone(), *i)).collect();
        self.away.insert(device.clone(), Away { link, addresses });
        self.remove_link(device);
        let place = Whereabouts::Inside { namespace: name.clone(), name: inside.clone() };
        self.state.moved.insert(device.clone(), place);
        Ok(())
    }

    fn give_back(&mut self, device: &IfName) -> Result<(), &'static str> {
        let place = self.state.moved.remove(device);
        if let Some(Whereabouts::Inside { namespace, name }) = place {
            let namespace = self.state.namespaces.get_mut(&namespace).ok_or("no such namespace")?;
            namespace.devices.remove(&name).ok_or("no such device in the namespace")?;
            let Away { link, addresses } = self.away.remove(device).ok_or("nobody knows it")?;
            self.state.links.insert(device.clone(), link);
            self.state.addresses.extend(addresses);
            self.device_sysctls(device);
        }
        Ok(())
    }
}

fn change_inner(device: &mut InnerDevice, change: &GuestChange) -> Result<(), &'static str> {
    match change {
        GuestChange::LoopbackUp => {}
        GuestChange::Mtu(mtu) => device.mtu = *mtu,
        GuestChange::Mac(mac) => device.mac = Some(*mac),
        GuestChange::Up => device.up = true,
        GuestChange::AddAddress { address, .. } => {
            device.addresses.insert(*address);
        }
        GuestChange::DeleteAddress(address) => {
            device.addresses.remove(address);
        }
        GuestChange::AddRoute(_) if !device.up => return Err("the device is down"),
        GuestChange::AddRoute(route) => {
            device.routes.insert(route.clone());
        }
        GuestChange::DeleteRoute(route) => {
            device.routes.remove(route);
        }
    }
    Ok(())
}
