//! OpenVZ: `/etc/vz/vz.conf` and the containers' `CTID.conf` (ctid.conf(5)).

use super::found::{Found, Guest, Nic, lines, name, net};
use crate::Source;

/// The container 0 is the host.
pub(super) fn read(source: &Source, found: &mut Found) {
    let file = source.name.rsplit('/').next().unwrap_or_default();
    let id = file.strip_suffix(".conf").and_then(|id| id.parse::<u32>().ok()).filter(|id| *id > 0);
    let mut guest = Guest { id, comment: format!("container {file}"), ..Guest::default() };
    let mut called = id.map(|id| format!("ct{id}")).unwrap_or_default();
    for (number, line) in lines(&source.text) {
        let Some((key, value)) = line.split_once('=') else {
            found.leave(source, number, line, "it is no setting");
            continue;
        };
        let value = value.split(" #").next().unwrap_or_default().trim().trim_matches(['"', '\'']);
        match (key.trim(), id) {
            ("IP_ADDRESS", Some(_)) => {
                let mut nic = Nic { routed: true, ..Nic::default() };
                for word in value.split_whitespace() {
                    match net(word) {
                        Some(net) => nic.addresses.push(net.addr()),
                        None => found.leave(source, number, line, format!("`{word}` is no address")),
                    }
                }
                if !nic.addresses.is_empty() {
                    // venet0 before any of layer 2.
                    guest.nics.insert(0, nic);
                }
            }
            ("NETIF", Some(id)) => {
                for (index, card) in value.split(';').filter(|card| !card.is_empty()).enumerate() {
                    guest.nics.push(netif(card, id, index, source, number, found));
                }
            }
            ("HOSTNAME", Some(_)) => called = name(value.split('.').next().unwrap_or_default()),
            ("NAMESERVER", Some(_)) => {
                found.leave(source, number, line, "write it as dns-servers of the guest's network");
            }
            ("VE_ROUTE_SRC_DEV", None) => found.outside = Some(value.to_owned()),
            // Always there.
            ("IPV6" | "NEIGHBOUR_DEVS", _) => {}
            ("IPTABLES" | "IP6TABLES", _) => {
                found.leave(source, number, line, "filters inside of guests need no permission here");
            }
            _ => found.leave(source, number, line, "it is not about the network"),
        }
    }
    if id.is_some() {
        found.guests.insert(called, guest);
    }
}

/// `ifname=eth0,mac=…,host_ifname=veth1000.0,host_mac=…,bridge=…`
fn netif(card: &str, id: u32, index: usize, source: &Source, number: usize, found: &mut Found) -> Nic {
    let mut nic = Nic { device: Some(format!("veth{id}.{index}")), ..Nic::default() };
    for setting in card.split(',') {
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        match key {
            "ifname" => nic.name = Some(value.to_owned()),
            "mac" => match value.parse() {
                Ok(mac) => nic.mac = Some(mac),
                Err(_) => found.leave(source, number, setting, format!("`{value}` is no MAC address")),
            },
            "host_ifname" => nic.device = Some(value.to_owned()),
            "bridge" if !value.is_empty() => nic.bridge = Some(value.to_owned()),
            "bridge" => {}
            "host_mac" => {
                found.leave(source, number, setting, "the host's end has a MAC of Viaduct's choice")
            }
            _ => found.leave(source, number, setting, format!("`{key}` has no counterpart")),
        }
    }
    nic.routed = nic.bridge.is_none();
    nic
}
