//! Looking at a host.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt,
    sync::{Arc, OnceLock},
};

use netlink_sys::protocols::NETLINK_ROUTE;
use viaduct_plan::{
    Address, Ask, Features, GuestLink, Inside, Kind, Link, Observe, Observed, ObservedGuest,
    ObservedNamespace, Proxy, Sysctl, Underlay, nft,
};
use viaduct_types::{
    IfName, IpNet, IpvlanMode, MacAddr, MacvlanMode, NamespaceName, Priorities, VlanProtocol, Vni,
};

use crate::{
    Kernel, address,
    error::{KernelError, NetnsReason, Refusal},
    inner_sysctl, link, namespaces, neighbour,
    nft::Nft,
    route,
    socket::Socket,
    sysctl, tap, vlan,
};

impl Observe for Kernel {
    type Error = KernelError;

    fn observe(&mut self, ask: &Ask) -> Result<Observed, KernelError> {
        let mut links = self.links()?;
        vlan::fill(&mut self.route, &mut links)
            .map_err(|refusal| KernelError::refused("listing bridges' VLANs", refusal))?;
        let names: BTreeMap<u32, &IfName> = links.iter().map(|(name, link)| (link.index, name)).collect();
        // What is on a device that was made after the links were listed is left for the next look.
        let name = |index: u32| names.get(&index).map(|name| (*name).clone());

        let refused = |what: &'static str| move |refusal| KernelError::refused(what, refusal);
        let addresses = address::list(&mut self.route, 0).map_err(refused("listing addresses"))?;
        let addresses = addresses
            .into_iter()
            .filter_map(|((index, address), info)| Some((Address { link: name(index)?, address }, info)))
            .collect();
        let routes =
            route::list(&mut self.route, name).map_err(refused("listing routes"))?.into_iter().collect();
        let proxies = neighbour::proxies(&mut self.route).map_err(refused("listing proxy entries"))?;
        let proxies = proxies
            .into_iter()
            .filter_map(|((index, address), protocol)| {
                Some((Proxy { link: name(index)?, address }, protocol))
            })
            .collect();
        let nft = self.nft.read().map_err(|e| KernelError::Filter { source: Arc::new(e) })?;
        let unicast = self.listening(ask, &links, &nft)?;
        let mut sysctls = BTreeMap::new();
        let of_links = ask.link_sysctls.iter().flat_map(|pattern| {
            links.keys().map(move |link| Sysctl::from_path(pattern.replace('*', link.as_str())))
        });
        for key in ask.sysctls.iter().cloned().chain(of_links) {
            sysctls.extend(sysctl::read(&key)?.map(|value| (key, value)));
        }
        let namespaces = self.shared_namespaces(ask)?;
        let moved = self.moved(&links, &namespaces)?;
        let features = features()?;
        let stacks = self.observe_stacks(ask, features)?;
        Ok(Observed {
            addresses,
            routes,
            proxies,
            unicast,
            sysctls,
            journal: self.journal.read()?,
            nft,
            namespaces,
            moved,
            guests: self.guests(ask)?,
            stacks,
            features,
            links,
        })
    }
}

impl Kernel {
    /// What those devices listen to, beside their own MAC, of which that matters.
    fn listening(
        &mut self,
        ask: &Ask,
        links: &BTreeMap<IfName, Link>,
        nft: &nft::Ruleset,
    ) -> Result<BTreeSet<(IfName, MacAddr)>, KernelError> {
        let listened = viaduct_plan::listened(nft).into_iter().map(|(name, _)| name);
        let asked: BTreeSet<IfName> = listened.chain(ask.listening.iter().cloned()).collect();
        let mut unicast = BTreeSet::new();
        for name in asked {
            let Some(link) = links.get(&name) else { continue };
            let permanent = neighbour::permanent(&mut self.route, link.index)
                .map_err(|refusal| KernelError::refused("listing forwarding entries", refusal))?;
            unicast.extend(permanent.iter().filter_map(|entry| extra_unicast(link, name.clone(), entry)));
        }
        Ok(unicast)
    }

    fn guests(&mut self, ask: &Ask) -> Result<BTreeMap<viaduct_types::NicId, ObservedGuest>, KernelError> {
        let shared = ask.namespaces.keys().map(namespaces::path);
        let wanted: BTreeSet<String> =
            ask.guests.values().map(|inside| inside.path.clone()).chain(shared).collect();
        self.sockets.retain(|path| wanted.contains(path));
        self.look_into(&ask.guests)
    }

    /// Into the namespaces of these guests.
    pub(crate) fn look_into(
        &mut self,
        asked: &BTreeMap<viaduct_types::NicId, Inside>,
    ) -> Result<BTreeMap<viaduct_types::NicId, ObservedGuest>, KernelError> {
        let mut guests = BTreeMap::new();
        for (nic, Inside { path, inode, device }) in asked {
            let there = || std::fs::metadata(path).map(|metadata| metadata.ino()).ok();
            if inode.is_some_and(|inode| there() != Some(inode)) {
                continue;
            }
            match self.sockets.with(path, |socket| look_into(socket, device)) {
                Ok(Ok(guest)) => {
                    guests.insert(nic.clone(), guest);
                }
                Ok(Err(refusal)) => {
                    return Err(KernelError::refused(format!("looking into {path}"), refusal));
                }
                // The guest has ended.
                Err(KernelError::Netns { reason, .. }) if reason.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(guests)
    }
}

impl Kernel {
    fn shared_namespaces(
        &mut self,
        ask: &Ask,
    ) -> Result<BTreeMap<NamespaceName, ObservedNamespace>, KernelError> {
        let known = self.namespaces.names();
        let journal = self.inner_journal.known()?;
        let mut found = BTreeMap::new();
        for name in namespaces::distinct(ask.namespaces.keys(), &known)? {
            let path = namespaces::path(name);
            match self.sockets.with(&path, namespaces::look) {
                Ok(Ok(mut namespace)) => {
                    if let Some(keys) = ask.namespaces.get(name) {
                        namespace.sysctls = inner_sysctl::look(name, keys)?;
                    }
                    let inode = std::fs::metadata(&path).map(|data| data.ino()).unwrap_or(0);
                    namespace.journal.clone_from(journal.of(name, inode));
                    found.insert(name.clone(), namespace);
                }
                Ok(Err(refusal)) => {
                    return Err(KernelError::refused(format!("looking into {path}"), refusal));
                }
                // That is to have a stack of its own.
                Err(error @ KernelError::Netns { reason: NetnsReason::Own, .. })
                    if ask.namespaces.contains_key(name) =>
                {
                    return Err(error);
                }
                // A file without a namespace is what a stopped run left.
                Err(KernelError::Netns { reason, .. }) if reason.is_none() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

pub(crate) fn extra_unicast(
    link: &Link,
    name: IfName,
    entry: &neighbour::Permanent,
) -> Option<(IfName, MacAddr)> {
    // In a bridge's table, what the bridge itself listens to stands under its own ifindex.
    let listens = entry.own || link.kind == Kind::Bridge;
    (listens && link.mac != Some(entry.mac)).then_some((name, entry.mac))
}

fn look_into(socket: &mut Socket, device: &IfName) -> Result<ObservedGuest, Refusal> {
    let lo_up = link::one(socket, link::LOOPBACK)?.is_some_and(|lo| lo.up);
    let Some(link) = link::one(socket, link::Which::Name(device))? else {
        return Ok(ObservedGuest { lo_up, ..ObservedGuest::default() });
    };
    let all = address::list(socket, link.index)?;
    let all = all.into_iter().filter(|((_, address), _)| !is_link_local(address));
    // What DHCP or a router gave the guest is the guest's business.
    let (told, addresses): (Vec<_>, Vec<_>) = all.partition(|(_, info)| info.dynamic);
    let only = |list: Vec<((u32, IpNet), _)>| list.into_iter().map(|((_, address), _)| address).collect();
    Ok(ObservedGuest {
        addresses: only(addresses),
        told: only(told),
        routes: route::list_guest(socket, link.index)?.into_iter().collect(),
        link: Some(GuestLink {
            index: link.index,
            peer_index: link.peer_index,
            mac: link.mac,
            mtu: link.mtu,
            up: link.up,
        }),
        lo_up,
    })
}

/// fe80::/10 only: an IPv4 link-local address is not made by the kernel.
pub(crate) fn is_link_local(address: &IpNet) -> bool {
    match address {
        IpNet::V4(_) => false,
        IpNet::V6(address) => address.addr().is_unicast_link_local(),
    }
}

/// What the kernel can do is asked once per process: it takes a namespace and some milliseconds.
pub(crate) fn features() -> Result<Features, KernelError> {
    static FEATURES: OnceLock<Features> = OnceLock::new();
    if let Some(features) = FEATURES.get() {
        return Ok(*features);
    }
    let probed = std::thread::Builder::new().name("probe".to_owned()).spawn(probe).and_then(|thread| {
        thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the probe panicked")))
    });
    let features = probed
        .map_err(|e| KernelError::system("trying what the kernel can do, in a namespace of its own", e))?;
    Ok(*FEATURES.get_or_init(|| features))
}

/// Tries everything in a namespace that goes with its thread.
fn probe() -> std::io::Result<Features> {
    // SAFETY: only this thread's network namespace changes, and it shares none of it with other threads.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?;
    let mut socket = Socket::open(NETLINK_ROUTE)?;
    let own = std::fs::File::open("/proc/thread-self/ns/net")?;
    let device = |text: &str| text.parse::<IfName>().map_err(std::io::Error::other);
    let (bridge, near, far) = (device("b")?, device("v0")?, device("v1")?);
    let (vlan, macvlan, ipvlan) = (device("v0.2")?, device("m0")?, device("i0")?);
    let (x4, x6) = (device("x4")?, device("x6")?);
    let mut make = |index, name, what: &link::Make<'_>| {
        socket.batch(&[link::make(index, name, what, None, None)]).iter().all(Result::is_ok)
    };
    let netns = std::os::fd::AsRawFd::as_raw_fd(&own);
    let pair = link::Make::Veth { netns, peer: &far, peer_mac: MacAddr::derived(0, 0, 0) };
    let (bridge, veth) = (make(100, &bridge, &link::Make::Bridge), make(200, &near, &pair));
    let priorities = Priorities::default();
    let vni = Vni::new(1).ok_or_else(|| std::io::Error::other("a number"))?;
    let tagged =
        link::Make::Vlan { lower: 200, id: 2, protocol: VlanProtocol::Customer, priorities: &priorities };
    let vlan = veth && make(300, &vlan, &tagged);
    let [v4, v6] = [Underlay::V4, Underlay::V6].map(|underlay| link::Make::Vxlan { vni, port: 1, underlay });
    let vxlan = make(301, &x4, &v4) && make(302, &x6, &v6);
    let macvlan = veth && make(400, &macvlan, &link::Make::Macvlan { lower: 200, mode: MacvlanMode::Bridge });
    // The other end: a device is shared in one way only.
    let far_index = link::index_of(&socket, &far)?.unwrap_or(0);
    let mut make = |index, name, what: &link::Make<'_>| {
        socket.batch(&[link::make(index, name, what, None, None)]).iter().all(Result::is_ok)
    };
    let ipvlan = veth && make(500, &ipvlan, &link::Make::Ipvlan { lower: far_index, mode: IpvlanMode::L2 });

    let mut nft = Nft::open().map_err(std::io::Error::other)?;
    let label = nft::Statement::Write(nft::Selector::CtLabel, nft::Const::label(0));
    let limit = nft::Statement::Over { rate: 1, burst: 1 };
    let mut holds = |family, hook, device, rules| {
        let base = nft::Base { kind: nft::ChainKind::Filter, hook, priority: 0, device };
        let chain = nft::Chain { base: Some(base), rules };
        let table = nft::Table { chains: [("probe".to_owned(), chain)].into(), ..nft::Table::default() };
        nft.commit(&[nft::Change::AddTable(family, table)]).is_ok()
    };
    Ok(Features {
        nft_egress: veth && holds(nft::Family::Netdev, nft::Hook::Egress, Some(near), Vec::new()),
        nft_bridge: holds(nft::Family::Bridge, nft::Hook::Prerouting, None, Vec::new()),
        nft_arp: holds(nft::Family::Arp, nft::Hook::Input, None, Vec::new()),
        nft_limit: holds(nft::Family::Bridge, nft::Hook::Forward, None, vec![nft::Rule::new([limit])]),
        ct_labels: holds(nft::Family::Inet, nft::Hook::Forward, None, vec![nft::Rule::new([label])]),
        bridge,
        veth,
        tun: tap::open().is_ok(),
        vlan,
        vxlan,
        macvlan,
        ipvlan,
    })
}
