//! Xen: `xend-config.sxp`, and the files of domains (xl.cfg(5)) and of vnets.

use super::{
    LeftOut,
    found::{Found, Guest, Nic, lines, name, net},
};
use crate::{
    Source,
    sxp::{self, Node},
};

/// `xend-config.sxp`.
pub(super) fn read_daemon(source: &Source, found: &mut Found) {
    for (number, line) in lines(&source.text) {
        let text = line.trim().trim_start_matches('(').trim_end_matches(')');
        let (key, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let words: Vec<&str> = value.trim().trim_matches(['\'', '"']).split_whitespace().collect();
        match (key, &words[..]) {
            // Which networks are translated, the rules and the subnets say.
            ("network-script", ["network-nat" | "network-route" | "network-dummy"]) => {}
            ("network-script", ["network-vnet"]) => {
                let why =
                    "no file that a vnet was made of (`xm vnet-create FILE`) is among those that were read";
                found.vnet_script = Some(LeftOut::at(source, number, line, why));
            }
            ("vif-script", ["vif-bridge", settings @ ..]) => {
                let bridge = settings.iter().find_map(|setting| setting.strip_prefix("bridge="));
                found.default_bridge = Some(bridge.unwrap_or("xenbr0").to_owned());
            }
            ("vif-script", ["vif-route" | "vif-nat"]) => found.default_bridge = None,
            ("network-script", _) => {
                found.leave(source, number, line, "what this script does, write as a network of its own");
            }
            _ => found.leave(source, number, line, "it is not about guests' networks"),
        }
    }
}

/// A file that `xm vnet-create` made vnets of.
pub(super) fn read_vnet(source: &Source, found: &mut Found) {
    match sxp::read(&source.text) {
        Ok(file) => {
            for (number, hint) in file.hints {
                found.leave(source, number, line_of(source, number), hint);
            }
            found.vnets.extend(file.vnets);
        }
        Err(error) => found.leave(source, error.line, line_of(source, error.line), error.message),
    }
}

/// A domain as xend wrote it down itself: `(vm (name x) (device (vif (mac aa:00:00:01:02:03) (bridge vnet97))))`.
pub(super) fn read_domain_sxp(source: &Source, found: &mut Found) {
    let nodes = match sxp::nodes(&source.text) {
        Ok(nodes) => nodes,
        Err(error) => return found.leave(source, error.line, line_of(source, error.line), error.message),
    };
    let file = source.name.rsplit('/').next().unwrap_or_default();
    let mut guest = Guest { comment: format!("domain {file}"), ..Guest::default() };
    let mut called = name(file.split('.').next().unwrap_or_default());
    nodes.iter().for_each(|node| domain_part(node, (&mut called, &mut guest), source, found));
    found.guests.insert(called, guest);
}

fn domain_part(node: &Node, (called, guest): (&mut String, &mut Guest), source: &Source, found: &mut Found) {
    if let Node::List(line, nodes) = node
        && let Some((Node::Atom(_, word), rest)) = nodes.split_first()
    {
        match (word.as_str(), rest) {
            ("vm" | "device" | "dev", parts) => {
                return parts.iter().for_each(|part| domain_part(part, (called, guest), source, found));
            }
            ("name", [Node::Atom(_, value)]) => return *called = name(value),
            ("vif", settings) => {
                let settings: Vec<String> = settings.iter().map(setting).collect();
                return guest.nics.push(card(&settings.join(","), source, *line, found));
            }
            _ => {}
        }
    }
    found.leave(source, node.line(), line_of(source, node.line()), "it is not about the network");
}

/// `(ip 10.0.0.1 10.0.0.2)` as the files of domains have it: `ip=10.0.0.1 10.0.0.2`.
fn setting(node: &Node) -> String {
    match node {
        Node::Atom(_, word) => word.clone(),
        Node::List(_, nodes) => {
            let mut words = nodes.iter().map(setting);
            format!("{}={}", words.next().unwrap_or_default(), words.collect::<Vec<_>>().join(" "))
        }
    }
}

fn line_of(source: &Source, number: usize) -> &str {
    source.text.lines().nth(number.saturating_sub(1)).unwrap_or_default()
}

/// A domain's file.
pub(super) fn read_domain(source: &Source, found: &mut Found) {
    let file = source.name.rsplit('/').next().unwrap_or_default();
    let mut guest = Guest { comment: format!("domain {file}"), ..Guest::default() };
    let mut called = name(file.split('.').next().unwrap_or_default());
    // A list may go on in the next lines.
    let mut open: Option<(usize, String)> = None;
    for (number, line) in lines(&source.text) {
        let (start, text) = match open.take() {
            Some((start, before)) => (start, before + " " + line.trim()),
            None => (number, line.trim().to_owned()),
        };
        let Some((key, value)) = text.split_once('=') else {
            found.leave(source, start, &text, "it is no setting");
            continue;
        };
        if value.trim_start().starts_with('[') && !value.contains(']') && text.len() < 1 << 16 {
            open = Some((start, text));
            continue;
        }
        match key.trim() {
            "name" => called = name(value.trim().trim_matches(['"', '\''])),
            "vif" => {
                for vif in strings(value) {
                    let nic = card(vif, source, start, found);
                    guest.nics.push(nic);
                }
            }
            _ => found.leave(source, start, &text, "it is not about the network"),
        }
    }
    if let Some((start, text)) = open {
        found.leave(source, start, &text, "the list has no end");
    }
    found.guests.insert(called, guest);
}

/// The quoted texts of a list.
fn strings(list: &str) -> impl Iterator<Item = &str> {
    list.split(['\'', '"']).skip(1).step_by(2)
}

fn card(vif: &str, source: &Source, number: usize, found: &mut Found) -> Nic {
    let mut nic = Nic { bridge: found.default_bridge.clone(), ..Nic::default() };
    for setting in vif.split(',').map(str::trim).filter(|setting| !setting.is_empty()) {
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        match (key, value) {
            ("mac", _) => match value.parse() {
                Ok(mac) => nic.mac = Some(mac),
                Err(_) => found.leave(source, number, setting, format!("`{value}` is no MAC address")),
            },
            ("ip", _) => {
                for word in value.split_whitespace() {
                    match net(word) {
                        Some(net) => nic.addresses.push(net.addr()),
                        None => found.leave(source, number, setting, format!("`{word}` is no address")),
                    }
                }
            }
            ("bridge", _) => nic.bridge = Some(value.to_owned()),
            ("script", script) if script.ends_with("vif-route") => nic.routed = true,
            ("script", script) if script.ends_with("vif-bridge") || script.ends_with("vif-nat") => {}
            // Every kind of device is adopted as it comes.
            ("type" | "model" | "vifname", _) => {}
            _ => found.leave(source, number, setting, format!("`{key}` of a vif has no counterpart")),
        }
    }
    if nic.routed {
        nic.bridge = None;
        nic.uplink_mac = nic.mac.is_some();
    }
    nic
}
