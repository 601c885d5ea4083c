//! What was found, as a configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
};

use viaduct_types::IpNet;

use super::{
    LeftOut,
    found::{Device, Found, Guest, Interface, Nic, Published, name},
};
use crate::{ipam, sxp::SxpSecurity};

/// The configuration, without what was left out.
pub(super) fn configuration(found: &mut Found) -> String {
    let mut writer = Writer { text: String::new(), networks: BTreeMap::new() };
    let vms = bridges_of_one(found);
    writer.uplink(found);
    writer.networks(found, &vms);
    writer.namespaces(found);
    writer.guests(found);
    writer.text
}

/// The configuration with the list of what it does not say.
pub(super) fn with_left_out(toml: &str, left_out: &[LeftOut]) -> String {
    let mut text =
        String::from("# Made of other systems' files by `viaduct import`: read it before it is used.\n");
    if !left_out.is_empty() {
        text.push_str("#\n# Not carried over:\n");
        for left in left_out {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "#   {}", left.to_string().replace(char::is_control, " "));
        }
    }
    text + "\n" + toml
}

/// A bridge with one address routed to it is a virtual machine's: it becomes a guest, and its address and its own prefix
/// are known by the networks.
fn bridges_of_one(found: &mut Found) -> BTreeSet<IpNet> {
    let mut prefixes = BTreeSet::new();
    let mut routed: BTreeMap<String, (Vec<IpAddr>, Vec<LeftOut>)> = BTreeMap::new();
    for (address, (device, nobody)) in &found.host_routes {
        let (addresses, unknown) = routed.entry(device.clone()).or_default();
        addresses.push(*address);
        unknown.push(nobody.clone());
    }
    for (device, (addresses, unknown)) in routed {
        if let Some(bridge) = found.bridges.get(&device) {
            prefixes.extend(bridge.addresses.iter().map(IpNet::trunc));
            let nic = Nic { addresses, routed: true, ..Nic::default() };
            let guest =
                Guest { comment: format!("the machine on {device}"), nics: vec![nic], ..Guest::default() };
            found.guests.insert(name(&device), guest);
            continue;
        }
        // The far end of a link that a guest is at.
        let mut nics = found.guests.values_mut().flat_map(|guest| &mut guest.nics);
        match nics.find(|nic| nic.device.as_deref() == Some(&device)) {
            Some(nic) => nic.addresses.extend(addresses),
            None => found.left_out.extend(unknown),
        }
    }
    prefixes
}

struct Writer {
    text: String,
    /// The name of the network of a prefix, and whether guests have links of their own there.
    networks: BTreeMap<IpNet, (String, bool)>,
}

impl Writer {
    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn uplink(&mut self, found: &Found) {
        let parents = found.namespaces.values().flat_map(|space| space.devices.values());
        let parent = parents.map(|device| device.parent.clone()).find(|parent| !parent.is_empty());
        let with_gateway = found.interfaces.iter().find(|(_, interface)| !interface.gateways.is_empty());
        let named = found.outside.clone().or(parent).or(with_gateway.map(|(name, _)| name.clone()));
        let guessed = named.is_none();
        let device = named.or(found.interfaces.keys().next().cloned()).unwrap_or_else(|| "eth0".to_owned());
        self.line("[uplinks.wan]");
        let note = if guessed { " # no file says which" } else { "" };
        self.line(&format!("interface = {}{note}", quoted(&device)));
        let own = Interface::default();
        let interface = found.interfaces.get(&device).unwrap_or(&own);
        self.list("addresses", &interface.addresses);
        self.list("gateways", &interface.gateways);
        if let Some(mtu) = interface.mtu {
            self.line(&format!("mtu = {mtu}"));
        }
    }

    fn list<T: std::fmt::Display>(&mut self, key: &str, values: &[T]) {
        if !values.is_empty() {
            let values: Vec<String> = values.iter().map(|value| quoted(&value.to_string())).collect();
            self.line(&format!("{key} = [{}]", values.join(", ")));
        }
    }

    fn networks(&mut self, found: &mut Found, machines: &BTreeSet<IpNet>) {
        let mut install = Vec::new();
        let mut number = 0;
        for (prefix, source) in found.translated.clone() {
            if machines.iter().any(|of_one| prefix.contains(of_one)) {
                install.push(prefix);
                continue;
            }
            number += 1;
            let called = if number == 1 { "nat".to_owned() } else { format!("nat{number}") };
            self.nat(&called, prefix, source, found);
        }
        // Where guests are that ports lead to.
        for published in &found.published {
            if let Some(guest) = missing(published, found) {
                let nic = Nic { addresses: vec![published.to], ..Nic::default() };
                let comment = format!("whoever has {}", published.to);
                found.guests.insert(guest, Guest { comment, nics: vec![nic], ..Guest::default() });
            }
        }
        self.routed(&install, found);
        self.vnets(found);
        let bridges: BTreeSet<String> = found
            .guests
            .values()
            .flat_map(|guest| &guest.nics)
            .filter_map(|nic| nic.bridge.clone())
            .collect();
        for bridge in bridges {
            if self.text.contains(&format!("bridge = {}", quoted(&bridge))) {
                continue;
            }
            self.line(&format!("\n[networks.{}]", name(&bridge)));
            self.line("mode = \"bridged\"\nuplink = \"wan\"");
            self.line(&format!("bridge = {}", quoted(&bridge)));
        }
    }

    fn nat(&mut self, called: &str, prefix: IpNet, source: Option<IpAddr>, found: &Found) {
        self.networks.insert(prefix, (called.to_owned(), false));
        self.line(&format!("\n[networks.{called}]"));
        self.line("mode = \"nat\"\nuplink = \"wan\"");
        self.list("subnets", &[prefix]);
        if let Some(source) = source {
            self.line(&format!("source-address = {}", quoted(&source.to_string())));
        }
        let inside = |interface: &&Interface| interface.addresses.iter().any(|net| prefix.contains(net));
        let bridge = found.bridges.iter().find(|(_, interface)| inside(interface));
        let used: BTreeSet<IpAddr> = found
            .guests
            .values()
            .flat_map(|guest| &guest.nics)
            .flat_map(|nic| nic.addresses.iter().copied())
            .chain(found.published.iter().map(|published| published.to))
            .collect();
        match bridge {
            Some((name, interface)) => {
                self.line(&format!("bridge = {}", quoted(name)));
                let own: Vec<IpAddr> = interface
                    .addresses
                    .iter()
                    .filter(|net| prefix.contains(*net))
                    .map(IpNet::addr)
                    .take(1)
                    .collect();
                self.list("gateways", &own);
            }
            None => {
                if let Some(bridge) = &found.default_bridge {
                    self.line(&format!("bridge = {}", quoted(bridge)));
                }
                if used.contains(&ipam::first_usable(prefix)) {
                    let free = prefix.hosts().take(1 << 16).filter(|address| !used.contains(address)).last();
                    if let Some(free) = free {
                        self.line(&format!(
                            "gateways = [{}] # the first is a guest's: write the one that guests know",
                            quoted(&free.to_string())
                        ));
                    }
                }
            }
        }
        self.served(found);
    }

    /// Who the other hosts are, no file of Xen's says: they found each other.
    fn vnets(&mut self, found: &mut Found) {
        for vnet in &found.vnets {
            let bridge =
                vnet.bridge.as_ref().map_or_else(|| format!("vnet{}", vnet.id_text), ToString::to_string);
            let called = name(&bridge);
            self.line(&format!("\n[vnets.{called}]"));
            self.line(&format!("id = {}", quoted(&vnet.id_text)));
            self.line(&format!("bridge = {}", quoted(&bridge)));
            let security = vnet.security.map_or("conf", SxpSecurity::word);
            let note =
                if security == "none" { " # \"conf\" encrypts, and costs no more to set up" } else { "" };
            self.line(&format!("security = {}{note}", quoted(security)));
            self.line("peers = [] # the other hosts: each by its [peers.NAME], with `endpoint` and `key` (`viaduct identity`)");
            self.line(&format!("\n[networks.{called}]"));
            self.line(&format!("mode = \"vnet\"\nvnet = {}", quoted(&called)));
        }
        if found.vnets.is_empty() {
            found.left_out.extend(found.vnet_script.take());
        }
    }

    fn served(&mut self, found: &Found) {
        if found.dhcp {
            self.line("dhcp = true");
            self.list("dns-servers", &found.dns);
            if let Some(domain) = &found.domain {
                self.line(&format!("domain = {}", quoted(domain)));
            }
        }
    }

    fn routed(&mut self, install: &[IpNet], found: &Found) {
        let translated = |address: &IpAddr| self.networks.keys().any(|prefix| prefix.contains(address));
        let addresses = found.guests.values().flat_map(|guest| &guest.nics).filter(|nic| nic.routed);
        let mut pool: BTreeSet<IpNet> = found.open.clone();
        for address in addresses.flat_map(|nic| &nic.addresses) {
            if !translated(address) && !pool.iter().any(|net| net.contains(address)) {
                pool.insert(IpNet::from(*address));
            }
        }
        if pool.is_empty() {
            return;
        }
        self.line("\n[networks.public]");
        self.line("mode = \"routed\"\nuplink = \"wan\"");
        let pool: Vec<IpNet> = pool.into_iter().collect();
        self.list("pool", &pool);
        if install.is_empty() {
            self.line("proxy = true # if the provider routes these addresses to this host, leave it out");
        }
        self.list("install-pool", install);
        if found.between_guests {
            self.line("between-guests = \"allow\"");
        }
        self.served(found);
        for net in pool {
            self.networks.insert(net, ("public".to_owned(), true));
        }
    }

    fn namespaces(&mut self, found: &mut Found) {
        // A namespace is the group of the guest that has its name, or is its own.
        let members: Vec<(String, String)> = found
            .guests
            .iter()
            .filter_map(|(guest, of)| Some((guest.clone(), of.namespace.clone()?)))
            .collect();
        for (guest, space) in members {
            let Some(of) = found.guests.get_mut(&guest) else { continue };
            let (id, cards) = (of.id, std::mem::take(&mut of.nics));
            let Some(known) = found.namespaces.get_mut(&space) else { continue };
            if guest == space || known.id.is_none() {
                known.id = id;
            }
            for card in cards {
                let device = known
                    .devices
                    .entry(card.device.clone().unwrap_or_else(|| "eth0".to_owned()))
                    .or_default();
                device.mac = device.mac.or(card.mac);
                device.place = device.place.take().or(card.place);
                let whole = |address: IpAddr| {
                    let length = card.length.unwrap_or(if address.is_ipv4() { 24 } else { 64 });
                    IpNet::new(address, length).ok()
                };
                device.addresses.extend(card.addresses.iter().filter_map(|address| whole(*address)));
            }
        }
        for (space, known) in &found.namespaces {
            self.line(&format!("\n[namespaces.{space}]"));
            if let Some(id) = known.id {
                self.line(&format!("id = {id}"));
            }
            for (device, of) in &known.devices {
                self.device(device, of);
            }
        }
        let unknown = found.namespaces.values().flat_map(|space| space.devices.values());
        let unknown: Vec<LeftOut> = unknown
            .filter(|device| device.kind.is_empty())
            .filter_map(|device| device.place.clone())
            .collect();
        found.left_out.extend(unknown);
    }

    fn device(&mut self, called: &str, of: &Device) {
        let mut fields = vec![format!("name = {}", quoted(called))];
        let kind = if of.kind.is_empty() { "macvlan" } else { of.kind };
        fields.push(format!("type = {}", quoted(kind)));
        fields.push("parent = \"wan\"".to_owned());
        fields.extend(of.vlan.filter(|_| kind == "vlan").map(|vlan| format!("vlan = {vlan}")));
        fields.extend(of.mac.map(|mac| format!("mac = {}", quoted(&mac.to_string()))));
        self.line("[[namespaces.SPACE.interfaces]]".replace("SPACE", self.space().as_str()).as_str());
        for field in fields {
            self.line(&field);
        }
        self.list("addresses", &of.addresses);
    }

    /// The namespace whose table stands last.
    fn space(&self) -> String {
        let head = self.text.rsplit("\n[namespaces.").next().unwrap_or_default();
        head.split(']').next().unwrap_or_default().to_owned()
    }

    fn guests(&mut self, found: &mut Found) {
        for (called, guest) in &found.guests {
            self.line(&format!("\n[guests.{called}] # {}", guest.comment.replace(char::is_control, " ")));
            if let Some(space) = &guest.namespace {
                self.line(&format!("namespace = {}", quoted(space)));
                continue;
            }
            if let Some(id) = guest.id {
                self.line(&format!("id = {id}"));
            }
            let has =
                |published: &&Published| guest.nics.iter().any(|nic| nic.addresses.contains(&published.to));
            let ports: Vec<String> = found.published.iter().filter(has).map(port).collect();
            self.list("publish", &ports);
            for nic in &guest.nics {
                self.nic(called, nic);
            }
        }
    }

    fn nic(&mut self, guest: &str, nic: &Nic) {
        let by_address = nic.addresses.first().and_then(|address| {
            self.networks
                .iter()
                .find(|(prefix, _)| prefix.contains(address))
                .map(|(_, (network, _))| network.clone())
        });
        let by_bridge = nic.bridge.as_ref().and_then(|bridge| self.network_of(bridge));
        let first = || self.networks.values().next().map(|(network, _)| network.clone());
        let network = by_address.or(by_bridge).or_else(first).unwrap_or_else(|| "public".to_owned());
        self.line(&format!("[[guests.{guest}.nics]]\nnetwork = {}", quoted(&network)));
        for (key, value) in [("name", &nic.name), ("device", &nic.device)] {
            if let Some(value) = value {
                self.line(&format!("{key} = {}", quoted(value)));
            }
        }
        if let Some(mac) = nic.mac {
            self.line(&format!("mac = {}", quoted(&mac.to_string())));
        }
        if nic.uplink_mac && network == "public" {
            self.line("uplink-mac = true # if the provider knows the address by this MAC; else leave it out");
        }
        if nic.addresses.is_empty() {
            self.line("# its addresses are set inside of the guest: write them here");
        }
        self.list("addresses", &nic.addresses);
    }

    /// The network that has the bridge.
    fn network_of(&self, bridge: &str) -> Option<String> {
        let of_vnet = format!("\n[networks.{}]\nmode = \"vnet\"", name(bridge));
        if self.text.contains(&of_vnet) {
            return Some(name(bridge));
        }
        let (before, _) = self.text.split_once(&format!("bridge = {}", quoted(bridge)))?;
        let head = before.rsplit("\n[networks.").next()?;
        Some(head.split(']').next()?.to_owned())
    }
}

/// The name of the guest that a port leads to, when none has the address.
fn missing(published: &Published, found: &Found) -> Option<String> {
    let mut nics = found.guests.values().flat_map(|guest| &guest.nics);
    if nics.any(|nic| nic.addresses.contains(&published.to)) {
        return None;
    }
    Some(name(&format!("guest-{}", published.to)))
}

fn port(published: &Published) -> String {
    let range =
        |(first, last): (u16, u16)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    let address = published.address.map_or_else(String::new, |address| match address {
        IpAddr::V4(address) => format!("{address}:"),
        IpAddr::V6(address) => format!("[{address}]:"),
    });
    format!("{address}{}:{}/{}", range(published.ports), range(published.to_ports), published.protocol)
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace(char::is_control, " "))
}
