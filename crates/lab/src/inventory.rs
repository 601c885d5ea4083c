//! What interfaces, addresses and neighbours the machines have, as the kernel says.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsFd, BorrowedFd},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, de::DeserializeOwned};
use viaduct_types::{IpNet, MacAddr};

use crate::{
    file::{Lab, Name},
    scenery::bridge_name,
    world::{World, enter, finish},
};

/// All machines' interfaces at one moment.
#[derive(Debug)]
pub(crate) struct Inventory {
    cards: BTreeMap<Name, Vec<Card>>,
    switches: BTreeMap<Name, u32>,
}

/// An Ethernet interface that is up.
#[derive(Clone, Debug)]
pub(crate) struct Card {
    pub(crate) index: u32,
    pub(crate) mac: MacAddr,
    /// Whether it is a bridge's own interface.
    pub(crate) bridge: bool,
    /// Global ones first, in the kernel's order, each with its prefix length.
    pub(crate) addresses: Vec<(IpAddr, u8)>,
}

impl Inventory {
    /// Asks every machine, and waits a moment for addresses that are still being checked for duplicates.
    pub(crate) fn take(lab: &Lab, world: &World) -> io::Result<Self> {
        let devices: Vec<Link> = ask(world.scenery.as_fd(), &["link", "show", "up"])?;
        let index =
            |switch| devices.iter().find(|link| link.ifname == bridge_name(lab, switch)).map(|l| l.ifindex);
        let switches =
            lab.switches.keys().filter_map(|switch| Some((switch.clone(), index(switch)?))).collect();
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            let mut tentative = false;
            let mut cards = BTreeMap::new();
            for (name, place) in &world.machines {
                let links: Vec<Link> = ask(place.net.as_fd(), &["-details", "addr", "show", "up"])?;
                tentative |= links.iter().flat_map(|link| &link.addr_info).any(|a| a.tentative);
                cards.insert(name.clone(), links.into_iter().filter_map(Card::new).collect());
            }
            if !tentative || Instant::now() > deadline {
                return Ok(Self { cards, switches });
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The index of the switch's device.
    pub(crate) fn switch_index(&self, switch: &Name) -> io::Result<u32> {
        let index = self.switches.get(switch).copied();
        index.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("the switch {switch} is not there"))
        })
    }

    pub(crate) fn cards(&self, machine: &Name) -> &[Card] {
        self.cards.get(machine).map_or(&[], Vec::as_slice)
    }

    /// The machine's addresses that others can use, of all interfaces.
    pub(crate) fn addresses(&self, machine: &Name) -> impl Iterator<Item = IpAddr> {
        self.cards(machine)
            .iter()
            .flat_map(|card| &card.addresses)
            .map(|&(a, _)| a)
            .filter(|&a| !is_link_local(a))
    }

    pub(crate) fn first_address(&self, machine: &Name, v4: bool) -> Option<IpAddr> {
        self.addresses(machine).find(|a| a.is_ipv4() == v4)
    }
}

impl Card {
    fn new(link: Link) -> Option<Self> {
        let mac = link.address.filter(|_| link.link_type == "ether")?.parse().ok()?;
        let mut addresses: Vec<_> = link.addr_info.into_iter().map(|a| (a.local, a.prefixlen)).collect();
        addresses.sort_by_key(|&(a, _)| is_link_local(a));
        let bridge = link.linkinfo.is_some_and(|info| info.info_kind == "bridge");
        Some(Self { index: link.ifindex, mac, bridge, addresses })
    }

    /// The own address to speak to that one from: of its subnet, or the first of its family.
    pub(crate) fn source_for(&self, to: IpAddr) -> Option<IpAddr> {
        let family = || self.addresses.iter().filter(|(a, _)| a.is_ipv4() == to.is_ipv4());
        let near =
            family().find(|&&(a, length)| IpNet::new(a, length).is_ok_and(|subnet| subnet.contains(&to)));
        near.or_else(|| family().next()).map(|&(a, _)| a)
    }

    /// The prefixes that it takes for its own segment's, but for the link-local ones, which all have.
    pub(crate) fn subnets(&self) -> impl Iterator<Item = IpNet> {
        let global = self.addresses.iter().filter(|(a, _)| !is_link_local(*a));
        global.filter_map(|&(a, length)| IpNet::new(a, length).ok()).map(|net| net.trunc())
    }

    pub(crate) fn link_local(&self) -> Option<Ipv6Addr> {
        self.addresses.iter().find_map(|&(a, _)| match a {
            IpAddr::V6(v6) if is_link_local(a) => Some(v6),
            IpAddr::V6(_) | IpAddr::V4(_) => None,
        })
    }
}

/// The neighbours that the machine knows, with their MAC addresses.
pub(crate) fn neighbours(net: BorrowedFd<'_>) -> io::Result<Vec<(IpAddr, MacAddr)>> {
    let entries: Vec<Neighbour> = ask(net, &["neigh", "show"])?;
    Ok(entries.into_iter().filter_map(|n| Some((n.dst, n.lladdr?.parse().ok()?))).collect())
}

/// The machine's default gateways.
pub(crate) fn gateways(net: BorrowedFd<'_>) -> io::Result<Vec<IpAddr>> {
    let mut routes: Vec<DefaultRoute> = ask(net, &["-4", "route", "show", "default"])?;
    routes.extend(ask::<Vec<DefaultRoute>>(net, &["-6", "route", "show", "default"])?);
    Ok(routes.into_iter().filter_map(|route| route.gateway.or_else(|| Some(route.via?.host))).collect())
}

fn ask<T: DeserializeOwned + Default>(net: BorrowedFd<'_>, question: &[&str]) -> io::Result<T> {
    let mut command = Command::new("ip");
    command.arg("-j").args(question);
    let finished = finish(enter(&mut command, net), "", Duration::from_secs(10))?;
    if finished.output.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_str(&finished.output)
        .map_err(|e| io::Error::other(format!("ip {}: {e}: {}", question.join(" "), finished.output)))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

#[derive(Debug, Deserialize)]
struct Link {
    #[serde(default)]
    ifindex: u32,
    #[serde(default)]
    ifname: String,
    #[serde(default)]
    link_type: String,
    address: Option<String>,
    linkinfo: Option<LinkInfo>,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Debug, Deserialize)]
struct LinkInfo {
    #[serde(default)]
    info_kind: String,
}

#[derive(Debug, Deserialize)]
struct Address {
    local: IpAddr,
    prefixlen: u8,
    #[serde(default)]
    tentative: bool,
}

#[derive(Debug, Deserialize)]
struct Neighbour {
    dst: IpAddr,
    lladdr: Option<String>,
}

#[derive(Debug, Deserialize)]
struct DefaultRoute {
    gateway: Option<IpAddr>,
    via: Option<Via>,
}

#[derive(Debug, Deserialize)]
struct Via {
    host: IpAddr,
}
