//! Linux-VServer: `/etc/vservers/NAME/…` of util-vserver.

use super::LeftOut;
use super::found::{Found, lines, name, net, netmask};
use crate::Source;

pub(super) fn read(source: &Source, found: &mut Found) {
    let Some((_, path)) = source.name.rsplit_once("/vservers/") else { return };
    let mut parts = path.split('/');
    let guest = name(parts.next().unwrap_or_default());
    let rest: Vec<&str> = parts.collect();
    let known = found.guests.entry(guest.clone()).or_default();
    known.comment = format!("vserver {guest}");
    let first = lines(&source.text).next();
    let value = first.map(|(_, line)| line.trim()).unwrap_or_default();
    match rest[..] {
        ["context"] => match value.parse::<u32>() {
            Ok(id) if id > 0 => known.id = Some(id),
            _ => found.leave(source, 1, value, "it is no context"),
        },
        ["spaces", "net"] => {
            let space = name(value);
            known.namespace = Some(space.clone());
            found.namespaces.entry(space).or_default();
        }
        ["interfaces", card, "ip" | "prefix" | "mask" | "dev" | "mac" | "name"] => {
            setting(&guest, card, rest[2], value, source, found);
        }
        _ if source.text.contains("link add") => script(&guest, source, found),
        _ => {
            for (number, line) in lines(&source.text) {
                found.leave(source, number, line, "it is not about the network");
            }
        }
    }
}

/// What a file under `interfaces/N` says is kept with the guest until all is known.
fn setting(guest: &str, card: &str, key: &str, value: &str, source: &Source, found: &mut Found) {
    let number = card.parse::<usize>().unwrap_or(0).min(255);
    let Some(guest) = found.guests.get_mut(guest) else { return };
    while guest.nics.len() <= number {
        guest.nics.push(super::found::Nic::default());
    }
    let nic = &mut guest.nics[number];
    let fine = match key {
        "ip" => net(value).map(|net| nic.addresses.push(net.addr())).is_some(),
        "prefix" => value.parse::<u8>().map(|length| nic.length = Some(length)).is_ok(),
        "mask" => netmask(value).map(|length| nic.length = Some(length)).is_some(),
        "mac" => value.parse().map(|mac| nic.mac = Some(mac)).is_ok(),
        "dev" => {
            nic.device = Some(value.to_owned());
            let unknown = "no file says what this device is made of: it is taken for a macvlan of the uplink";
            nic.place = Some(LeftOut::at(source, 1, value, unknown));
            !value.is_empty()
        }
        // An alias of an address.
        _ => true,
    };
    if !fine {
        found.leave(source, 1, value, format!("`{value}` is no {key}"));
    }
}

/// A script that makes the devices of a namespace.
fn script(guest: &str, source: &Source, found: &mut Found) {
    let space = found.guests.get(guest).and_then(|guest| guest.namespace.clone());
    let space = space.unwrap_or_else(|| guest.to_owned());
    for (number, line) in lines(&source.text) {
        let words: Vec<&str> = line.split([' ', '\t', ';']).filter(|word| !word.is_empty()).collect();
        let mut made = false;
        for (at, word) in words.iter().enumerate() {
            let tail = &words[at..];
            if *word != "link" || tail.get(1) != Some(&"add") {
                continue;
            }
            let after = |key: &str| {
                let place = tail.iter().position(|word| *word == key)?;
                tail.get(place + 1).copied()
            };
            let (Some(parent), Some(device), Some(kind)) = (
                after("link").filter(|_| tail.get(2) == Some(&"link")).and(tail.get(3)),
                after("name"),
                after("type"),
            ) else {
                continue;
            };
            let kind = match kind {
                "vlan" => "vlan",
                "macvlan" => "macvlan",
                _ => continue,
            };
            let devices = &mut found.namespaces.entry(space.clone()).or_default().devices;
            let entry = devices.entry(device.to_owned()).or_default();
            entry.kind = kind;
            entry.parent = (*parent).to_owned();
            entry.vlan = after("id").and_then(|id| id.parse().ok());
            entry.mode = after("mode").map(str::to_owned);
            made = true;
        }
        if !made {
            found.leave(
                source,
                number,
                line,
                "Viaduct makes namespaces and devices by itself; if this does something else, make it a hook",
            );
        }
    }
}
