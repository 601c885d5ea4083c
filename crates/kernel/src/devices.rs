//! Devices of the host that are in shared namespaces: what they were like before, so that they can be given back.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use viaduct_plan::{AddressInfo, Link, MOVED, ObservedNamespace, PROTOCOL, Route, RouteKind, Whereabouts};
use viaduct_types::{IfName, IpNet, MacAddr, NamespaceName};

use crate::{
    Kernel, address,
    error::{KernelError, Refusal},
    link, namespaces, route,
    socket::Socket,
    sysctl::replace,
};

/// rtm_protocol of routes that the kernel makes of addresses.
const OF_KERNEL: u8 = 2;
/// Of those that a router advertised.
const OF_ROUTER: u8 = 9;

/// A device as it was on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Former {
    /// Where it moves to.
    pub(crate) namespace: NamespaceName,
    pub(crate) alias: String,
    pub(crate) group: u32,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) addresses: Vec<FormerAddress>,
    pub(crate) routes: Vec<FormerRoute>,
}

/// An address that somebody gave it for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FormerAddress {
    pub(crate) address: IpNet,
    pub(crate) scope: u8,
    pub(crate) protocol: u8,
}

/// A route through it, in table main.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FormerRoute {
    destination: IpNet,
    via: Option<IpAddr>,
    onlink: bool,
    source: Option<IpAddr>,
    metric: u32,
    protocol: u8,
}

impl FormerRoute {
    fn of(route: Route) -> Self {
        let Route { destination, via, onlink, source, metric, protocol, .. } = route;
        Self { destination, via, onlink, source, metric, protocol }
    }

    pub(crate) fn through(&self, link: &IfName) -> Route {
        let Self { destination, via, onlink, source, metric, protocol } = self.clone();
        let link = Some(link.clone());
        Route { destination, kind: RouteKind::Unicast, link, via, onlink, source, metric, protocol }
    }
}

/// What is known of them: one JSON file beside the journal of sysctls, replaced whole and durably each time.
pub(crate) struct Devices {
    path: PathBuf,
}

impl Devices {
    pub(crate) fn open(run_dir: &Path) -> Self {
        Self { path: run_dir.join("moved-devices.json") }
    }

    pub(crate) fn read(&self) -> Result<BTreeMap<IfName, Former>, KernelError> {
        let corrupt = |reason: String| KernelError::MovedDevices { path: self.path.clone(), reason };
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(e) => return Err(corrupt(e.to_string())),
        };
        serde_json::from_slice(&bytes).map_err(|e| corrupt(e.to_string()))
    }

    /// Those that are not where they were.
    pub(crate) fn away(&self) -> Result<BTreeMap<IfName, Whereabouts>, KernelError> {
        let all = self.read()?.into_iter();
        Ok(all.map(|(device, former)| (device, Whereabouts::Between(former.namespace))).collect())
    }

    pub(crate) fn remember(&self, device: &IfName, former: Former) -> Result<(), KernelError> {
        let mut all = self.read()?;
        all.insert(device.clone(), former);
        self.write(&all)
    }

    /// Says whether another one is in the same namespace.
    pub(crate) fn forget(&self, device: &IfName, namespace: &NamespaceName) -> Result<bool, KernelError> {
        let mut all = self.read()?;
        if all.remove(device).is_some() {
            self.write(&all)?;
        }
        Ok(all.values().any(|former| former.namespace == *namespace))
    }

    fn write(&self, all: &BTreeMap<IfName, Former>) -> Result<(), KernelError> {
        replace(&self.path, all)
            .map_err(|e| KernelError::system(format!("writing {}", self.path.display()), e))
    }
}

/// A device as it is on the host.
pub(crate) fn former(
    socket: &mut Socket,
    name: &IfName,
    link: &Link,
    namespace: &NamespaceName,
) -> Result<Former, Refusal> {
    let permanent = |(_, info): &(_, AddressInfo)| !info.dynamic;
    let addresses = address::list(socket, link.index)?.into_iter().filter(permanent);
    let addresses = addresses.map(|((_, address), info)| FormerAddress {
        address,
        scope: info.scope,
        protocol: info.protocol,
    });
    let of_device = |index| (index == link.index).then(|| name.clone());
    let theirs = |route: &Route| {
        route.link.as_ref() == Some(name)
            && route.kind == RouteKind::Unicast
            && ![PROTOCOL, OF_KERNEL, OF_ROUTER].contains(&route.protocol)
    };
    let routes = route::list(socket, of_device)?.into_iter().filter(theirs).map(FormerRoute::of);
    Ok(Former {
        namespace: namespace.clone(),
        alias: link.alias.clone(),
        group: link.group,
        mac: link.mac,
        mtu: link.mtu,
        up: link.up,
        addresses: addresses.collect(),
        routes: routes.collect(),
    })
}

/// The alias of a device while it is away.
pub(crate) fn alias(device: &IfName) -> String {
    format!("{MOVED}{device}")
}

/// The name on the host of a device with this alias.
fn of_alias(alias: &str) -> Option<IfName> {
    alias.strip_prefix(MOVED)?.parse().ok()
}

impl Kernel {
    /// Where the host's devices are that moved.
    pub(crate) fn moved(
        &mut self,
        links: &BTreeMap<IfName, Link>,
        namespaces: &BTreeMap<NamespaceName, ObservedNamespace>,
    ) -> Result<BTreeMap<IfName, Whereabouts>, KernelError> {
        let known = self.devices.read()?;
        let mut moved = BTreeMap::new();
        for (namespace, seen) in namespaces {
            for (name, device) in &seen.devices {
                if let Some(on_host) = of_alias(&device.alias) {
                    let place = Whereabouts::Inside { namespace: namespace.clone(), name: name.clone() };
                    moved.insert(on_host, place);
                }
            }
        }
        for on_host in links.values().filter_map(|link| of_alias(&link.alias)) {
            // Without what was written down, nobody knows where it was.
            let namespace = known.get(&on_host).map(|former| former.namespace.clone());
            let namespace = namespace.or_else(|| on_host.as_str().parse().ok());
            if let Some(namespace) = namespace {
                moved.entry(on_host).or_insert(Whereabouts::Between(namespace));
            }
        }
        for (device, former) in known {
            if moved.contains_key(&device) {
                continue;
            }
            let namespace = former.namespace;
            let is_near = links.contains_key(&device) || self.in_held(&namespace, &device)?.is_some();
            let place = if is_near { Whereabouts::Between(namespace) } else { Whereabouts::Gone(namespace) };
            moved.insert(device, place);
        }
        Ok(moved)
    }

    /// The index of a device of the host's in the namespace that we keep, whatever stands under its name.
    pub(crate) fn in_held(
        &mut self,
        namespace: &NamespaceName,
        device: &IfName,
    ) -> Result<Option<u32>, KernelError> {
        self.away_at(&self.namespaces.held(namespace), device)
    }

    /// The index of a device of the host's in the namespace at a path.
    pub(crate) fn away_at(&mut self, path: &str, device: &IfName) -> Result<Option<u32>, KernelError> {
        let alias = alias(device);
        match self.sockets.with(path, link::list) {
            Ok(Ok(links)) => Ok(links.values().find(|link| link.alias == alias).map(|link| link.index)),
            Ok(Err(refusal)) => Err(KernelError::refused(format!("looking into {path}"), refusal)),
            Err(KernelError::Netns { reason, .. }) if reason.is_none() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The paths of the namespace, by its name and as we keep it.
    pub(crate) fn places_of(&self, namespace: &NamespaceName) -> [String; 2] {
        [namespaces::path(namespace), self.namespaces.held(namespace)]
    }
}
