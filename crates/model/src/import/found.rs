//! What the files say, before it is put into our words.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use viaduct_types::{IpNet, MacAddr};

use super::LeftOut;
use crate::{Source, sxp::SxpVnet};

#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) left_out: Vec<LeftOut>,
    /// Interfaces that are no bridges, by name.
    pub(super) interfaces: BTreeMap<String, Interface>,
    pub(super) bridges: BTreeMap<String, Interface>,
    /// The interface to the outside, as filters name it.
    pub(super) outside: Option<String>,
    /// Sources that are translated, and to what if that is said.
    pub(super) translated: BTreeMap<IpNet, Option<IpAddr>>,
    pub(super) published: Vec<Published>,
    /// Prefixes that may be reached from outside.
    pub(super) open: BTreeSet<IpNet>,
    /// Guests may reach each other.
    pub(super) between_guests: bool,
    pub(super) dhcp: bool,
    pub(super) dns: Vec<IpAddr>,
    pub(super) domain: Option<String>,
    /// Routes to single addresses, with their device, and what is said when nobody is there.
    pub(super) host_routes: BTreeMap<IpAddr, (String, LeftOut)>,
    pub(super) guests: BTreeMap<String, Guest>,
    pub(super) namespaces: BTreeMap<String, Namespace>,
    /// The bridge of domains that name none.
    pub(super) default_bridge: Option<String>,
    pub(super) vnets: Vec<SxpVnet>,
    /// Where it is said that there are vnets, should no file say which.
    pub(super) vnet_script: Option<LeftOut>,
}

/// An interface of the host.
#[derive(Debug, Default)]
pub(super) struct Interface {
    pub(super) addresses: Vec<IpNet>,
    pub(super) gateways: Vec<IpAddr>,
    pub(super) mtu: Option<u32>,
    pub(super) ports: Vec<String>,
}

/// A port of the host that leads to a guest.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) address: Option<IpAddr>,
    pub(super) ports: (u16, u16),
    pub(super) to: IpAddr,
    pub(super) to_ports: (u16, u16),
    pub(super) protocol: &'static str,
}

#[derive(Debug, Default)]
pub(super) struct Guest {
    pub(super) id: Option<u32>,
    /// What it was called where it comes from.
    pub(super) comment: String,
    pub(super) namespace: Option<String>,
    pub(super) nics: Vec<Nic>,
}

#[derive(Debug, Default)]
pub(super) struct Nic {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) mac: Option<MacAddr>,
    /// A link of its own, not a bridge.
    pub(super) routed: bool,
    pub(super) bridge: Option<String>,
    pub(super) name: Option<String>,
    pub(super) device: Option<String>,
    /// Of its addresses, where it was written.
    pub(super) length: Option<u8>,
    /// Where its device was named, should nobody say what that is.
    pub(super) place: Option<LeftOut>,
    /// The provider knows its address by its MAC.
    pub(super) uplink_mac: bool,
}

#[derive(Debug, Default)]
pub(super) struct Namespace {
    pub(super) id: Option<u32>,
    pub(super) devices: BTreeMap<String, Device>,
}

#[derive(Debug, Default)]
pub(super) struct Device {
    /// `vlan` or `macvlan`; empty when no file says what it is.
    pub(super) kind: &'static str,
    pub(super) parent: String,
    pub(super) vlan: Option<u16>,
    pub(super) mode: Option<String>,
    pub(super) mac: Option<MacAddr>,
    pub(super) addresses: Vec<IpNet>,
    /// Where it was first spoken of.
    pub(super) place: Option<LeftOut>,
}

impl LeftOut {
    pub(super) fn at(source: &Source, line: usize, text: &str, why: impl Into<String>) -> Self {
        let text = text.trim().chars().filter(|c| !c.is_control()).take(120).collect();
        Self { file: source.name.clone(), line, last: line, text, why: why.into() }
    }
}

impl Found {
    /// Lists a line that is not carried over.
    pub(super) fn leave(&mut self, source: &Source, line: usize, text: &str, why: impl Into<String>) {
        let why = why.into();
        if let Some(before) = self.left_out.last_mut()
            && before.file == source.name
            && before.why == why
            && before.last + 1 >= line
            && before.line <= line
        {
            before.last = line;
            return;
        }
        self.left_out.push(LeftOut::at(source, line, text, why));
    }
}

/// The lines that say something, with their numbers.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    })
}

/// An address with or without prefix length.
pub(super) fn net(text: &str) -> Option<IpNet> {
    match text.split_once('/') {
        None => text.parse::<IpAddr>().ok().map(IpNet::from),
        Some((address, length)) => {
            let address: IpAddr = address.parse().ok()?;
            let length = length.parse::<u8>().ok().or_else(|| netmask(length))?;
            IpNet::new(address, length).ok()
        }
    }
}

/// The length of a mask like 255.255.255.0.
pub(super) fn netmask(text: &str) -> Option<u8> {
    let bits = u32::from(text.parse::<std::net::Ipv4Addr>().ok()?);
    let length = bits.leading_ones();
    (bits.checked_shl(length).unwrap_or(0) == 0).then(|| u8::try_from(length).ok()).flatten()
}

/// A name that we take: letters, digits and hyphens.
pub(super) fn name(text: &str) -> String {
    let mut name: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c.to_ascii_lowercase() } else { '-' })
        .take(40)
        .collect();
    name = name.trim_matches('-').to_owned();
    if name.is_empty() { "guest".to_owned() } else { name }
}
