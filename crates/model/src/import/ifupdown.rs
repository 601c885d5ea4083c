//! `/etc/network/interfaces` (interfaces(5)).

use std::net::IpAddr;

use viaduct_types::IpNet;

use super::{
    found::{Found, Interface, lines, net, netmask},
    script,
};
use crate::Source;

pub(super) fn read(source: &Source, found: &mut Found) {
    let mut current: Option<Stanza> = None;
    for (number, line) in lines(&source.text) {
        let text = line.split(" #").next().unwrap_or_default();
        let mut words: Vec<&str> = text.split_whitespace().collect();
        // Written so now and then.
        if words.get(1) == Some(&"iface") && words.len() > 2 {
            words.swap(0, 1);
        }
        match words[..] {
            ["auto" | "allow-hotplug" | "allow-auto", ..] => finish(&mut current, found),
            ["iface", name, family, method, ..] => {
                finish(&mut current, found);
                current = Some(Stanza { name: name.to_owned(), ..Stanza::default() });
                let known = matches!(method, "static" | "manual" | "loopback");
                if !known || !matches!(family, "inet" | "inet6") {
                    let why =
                        format!("{name}: the system goes on doing this; Viaduct leaves its addresses alone");
                    found.leave(source, number, line, why);
                }
            }
            ["source" | "source-directory", ..] => {
                found.leave(source, number, line, "name those files, too: they are not looked for");
            }
            [key, ref values @ ..] => match &mut current {
                Some(stanza) => {
                    if let Err(why) = stanza.option(key, values, source, number, found) {
                        found.leave(source, number, line, why);
                    }
                }
                None => found.leave(source, number, line, "it belongs to no interface"),
            },
            [] => {}
        }
    }
    finish(&mut current, found);
}

#[derive(Default)]
struct Stanza {
    name: String,
    address: Option<IpNet>,
    /// Whether the address was written with its length.
    whole: bool,
    interface: Interface,
    is_bridge: bool,
}

impl Stanza {
    fn option(
        &mut self,
        key: &str,
        values: &[&str],
        source: &Source,
        number: usize,
        found: &mut Found,
    ) -> Result<(), String> {
        let value = values.first().copied().unwrap_or_default();
        match key {
            "address" => {
                self.address = Some(net(value).ok_or_else(|| format!("`{value}` is no address"))?);
                self.whole = value.contains('/');
            }
            "netmask" => {
                let length = value.parse::<u8>().ok().or_else(|| netmask(value));
                let length = length.ok_or_else(|| format!("`{value}` is no netmask"))?;
                if let Some(address) = self.address.filter(|_| !self.whole) {
                    self.address = Some(IpNet::new(address.addr(), length).map_err(|e| e.to_string())?);
                }
            }
            "gateway" => {
                let gateway: IpAddr = value.parse().map_err(|_| format!("`{value}` is no address"))?;
                self.interface.gateways.push(gateway);
            }
            "mtu" => self.interface.mtu = Some(value.parse().map_err(|_| format!("`{value}` is no MTU"))?),
            // Gateways may lie outside of every prefix; the rest follows from the address.
            "pointopoint" | "network" | "broadcast" => {}
            "bridge_ports" | "bridge-ports" => {
                self.is_bridge = true;
                self.interface.ports =
                    values.iter().filter(|v| **v != "none").map(|v| (*v).to_owned()).collect();
            }
            // As our bridges are.
            "bridge_stp" | "bridge-stp" if value == "off" => {}
            "bridge_fd" | "bridge-fd" if value == "0" => {}
            "pre-up" | "up" | "post-up" | "down" | "pre-down" | "post-down" => match values {
                ["brctl", "addbr", bridge] if *bridge == self.name => self.is_bridge = true,
                ["brctl", "delbr", bridge] if *bridge == self.name => {}
                _ => {
                    let line = values.join(" ");
                    // What is undone at the end, Viaduct undoes by itself.
                    if !key.contains("down") {
                        script::line(source, number, &line, found);
                    }
                }
            },
            _ => return Err(format!("`{key}` has no counterpart")),
        }
        Ok(())
    }
}

fn finish(current: &mut Option<Stanza>, found: &mut Found) {
    let Some(mut stanza) = current.take() else { return };
    if stanza.name == "lo" {
        return;
    }
    stanza.interface.addresses.extend(stanza.address);
    let all = if stanza.is_bridge { &mut found.bridges } else { &mut found.interfaces };
    let known = all.entry(stanza.name).or_default();
    known.addresses.append(&mut stanza.interface.addresses);
    known.gateways.append(&mut stanza.interface.gateways);
    known.ports.append(&mut stanza.interface.ports);
    known.mtu = known.mtu.or(stanza.interface.mtu);
}
