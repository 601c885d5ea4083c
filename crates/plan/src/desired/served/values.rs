//! What is served, as values: by device, there by NIC, so that one NIC comes or goes without a word about the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};
use viaduct_types::{
    BootClient, GuestName, IfName, Ipv4Net, Ipv6Net, MacAddr, NamespaceName, NetworkName, NicId,
};

use super::super::named::{Answers, ZoneHead};

/// A NIC that is given its configuration when it asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// Which.
    pub nic: NicId,
    /// What it is known by.
    pub mac: MacAddr,
    /// Its address with the prefix length that it is told.
    pub address: Ipv4Net,
    /// Whether the address was chosen for it, so that nobody knows that it is free.
    pub lent: bool,
    /// Whether others share its link, so that one of them could have the address.
    pub shared: bool,
    /// What the server calls itself: an address that the guest can ask again.
    pub server: Ipv4Addr,
    /// Its gateway, when it has one by this NIC.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Its domain.
    pub domain: Option<String>,
    /// In bytes.
    pub mtu: u16,
    /// What it loads when it boots by the network.
    pub boot: Option<Boot>,
}

/// What a NIC is told that boots by the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// Whose files those are that are no URLs.
    pub server: Option<Ipv4Addr>,
    /// What is loaded, by who asks.
    pub files: BTreeMap<BootClient, String>,
}

/// The same in IPv6.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot6 {
    /// The URL of what is loaded, by who asks.
    pub files: BTreeMap<BootClient, String>,
    /// What is told to it.
    pub parameters: Vec<String>,
}

/// A NIC that is given its IPv6 configuration when it asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client6 {
    /// Which.
    pub nic: NicId,
    /// What it is known by.
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<Ipv6Addr>,
    /// The prefix of what is behind it.
    pub delegated: Option<Ipv6Net>,
    /// Whether they were chosen for it, until the file gives it some.
    pub lent: bool,
    /// What it loads when it boots by the network.
    pub boot: Option<Boot6>,
}

/// What a router says to all of a link (RFC 4861).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    /// Its link-local address.
    pub address: Ipv6Addr,
    /// Whether it leads everywhere.
    pub default: bool,
    /// In bytes.
    pub mtu: u32,
    /// The link's prefixes.
    pub prefixes: Vec<LinkPrefix>,
    /// What it leads to, where that is not everything.
    pub routes: Vec<Ipv6Net>,
    /// Name servers.
    pub dns: Vec<Ipv6Addr>,
    /// Domains to search names in.
    pub search: Vec<String>,
    /// Whom alone it is for, where others are on the link that other routers are there for.
    pub only: Option<BTreeSet<MacAddr>>,
}

impl Router {
    /// Whether another one says the same, whomever to.
    pub fn says_the_same(&self, other: &Self) -> bool {
        *self == Self { only: self.only.clone(), ..other.clone() }
    }
}

/// A prefix of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkPrefix {
    /// Which.
    pub prefix: Ipv6Net,
    /// Whether its addresses are neighbours.
    pub on_link: bool,
    /// Whether guests may make their addresses of it and their MACs: when that is what each of them has.
    pub autonomous: bool,
}

/// What a router has to say on a link, whoever is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkRouter {
    /// Its link-local address.
    pub address: Ipv6Addr,
    /// Whether it leads everywhere.
    pub default: bool,
    /// In bytes.
    pub mtu: u32,
    /// The prefixes that there are addresses of.
    pub prefixes: Vec<Ipv6Net>,
    /// Whether several guests share the link, so that these addresses are neighbours.
    pub shared: bool,
    /// Whether the link goes on to other hosts, each of which is the router of its own guests.
    pub stretched: bool,
    /// What it leads to, where that is not everything.
    pub routes: Vec<Ipv6Net>,
}

/// What the host answers neighbour solicitations for on a link, beside single addresses, for which the kernel does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbours {
    /// The host's link-local address there.
    pub address: Ipv6Addr,
    /// Those of the prefix,
    pub prefix: Ipv6Net,
    /// but for these.
    pub except: BTreeSet<Ipv6Net>,
    /// Whether who is about to take one of them hears, too, that it is taken (RFC 4862, section 5.4).
    pub defended: bool,
}

/// What is so for all of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkHead {
    /// What is advertised to those that are given their configuration.
    pub router: Option<LinkRouter>,
    /// Name servers for IPv6.
    pub dns6: Vec<Ipv6Addr>,
    /// Domains to search names in.
    pub search: Vec<String>,
    /// Who is answered names, and where.
    pub names: Option<Answers>,
}

/// What a NIC is served on a link, beside what is so for all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServedNic {
    /// How it is answered by DHCP.
    pub client: Option<Client>,
    /// How it is answered by DHCPv6.
    pub client6: Option<Client6>,
    /// What is answered for because of it.
    pub neighbours: Option<Neighbours>,
}

/// What is served on one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServedLink {
    /// What is so for all of it.
    pub head: LinkHead,
    /// To whom.
    pub nics: BTreeMap<NicId, ServedNic>,
}

impl ServedLink {
    /// Whether anything is served. Where there is nobody, nothing is, but names where guests of other hosts ask for them.
    pub fn is_served(&self) -> bool {
        !self.nics.is_empty() || self.head.names.as_ref().is_some_and(|names| names.stretched)
    }

    /// Who is answered by DHCP.
    pub fn clients(&self) -> impl Iterator<Item = &Client> {
        self.nics.values().filter_map(|nic| nic.client.as_ref())
    }

    /// Who is answered by DHCPv6.
    pub fn clients6(&self) -> impl Iterator<Item = &Client6> {
        self.nics.values().filter_map(|nic| nic.client6.as_ref())
    }

    /// The MACs of all who are answered.
    fn macs(&self) -> impl Iterator<Item = MacAddr> {
        self.clients().map(|client| client.mac).chain(self.clients6().map(|client| client.mac))
    }

    /// What is advertised. What may be said of a prefix depends on everybody's addresses.
    pub fn router(&self) -> Option<Router> {
        let router = self.head.router.as_ref()?;
        let has_any = self.clients6().next().is_some() || router.shared && self.clients().next().is_some();
        if !has_any {
            return None;
        }
        let prefixes = router.prefixes.iter().map(|prefix| LinkPrefix {
            prefix: *prefix,
            on_link: router.shared,
            autonomous: self.is_made_of_macs(*prefix),
        });
        // Where nobody else is on the link, a prefix is only told for what can be made of it.
        let prefixes = prefixes.filter(|prefix| prefix.on_link || prefix.autonomous).collect();
        Some(Router {
            address: router.address,
            default: router.default,
            mtu: router.mtu,
            prefixes,
            routes: router.routes.clone(),
            dns: self.head.dns6.clone(),
            search: self.head.search.clone(),
            only: router.stretched.then(|| self.macs().collect()),
        })
    }

    /// Whether each address of a prefix that somebody on the link has is the one that SLAAC makes of its MAC (RFC 4291,
    /// appendix A). Any other one that a guest made for itself would be taken for a forged one.
    fn is_made_of_macs(&self, prefix: Ipv6Net) -> bool {
        let all = self.clients6().flat_map(|client| client.addresses.iter().map(|a| (client.mac, *a)));
        let mut of_prefix = all.filter(|(_, address)| prefix.contains(address)).peekable();
        prefix.prefix_len() == 64
            && of_prefix.peek().is_some()
            && of_prefix.all(|(mac, address)| mac.slaac(prefix) == Some(address))
    }
}

/// The names of a network's guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// What they have in common.
    pub head: ZoneHead,
    /// Their addresses.
    pub guests: BTreeMap<GuestName, BTreeSet<IpAddr>>,
}

/// What guests are told when they ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// By the device that they ask on.
    pub links: BTreeMap<IfName, ServedLink>,
    /// The names of guests, by network.
    pub zones: BTreeMap<NetworkName, Zone>,
    /// What guests in the stacks of namespaces are told.
    pub stacks: BTreeMap<NamespaceName, Self>,
}
