//! `dhcpd.conf` of ISC's server (dhcpd.conf(5)).

use super::found::{Found, lines};
use crate::Source;

pub(super) fn read(source: &Source, found: &mut Found) {
    for (number, line) in lines(&source.text) {
        let text = line.split(" #").next().unwrap_or_default().split("<--").next().unwrap_or_default();
        let text = text.trim().trim_end_matches(';');
        let words: Vec<&str> = text.split([' ', '\t', ',']).filter(|word| !word.is_empty()).collect();
        match words[..] {
            ["option", "domain-name-servers", ref servers @ ..] => {
                found.dhcp = true;
                for server in servers {
                    match server.trim_end_matches(';').parse() {
                        Ok(server) => found.dns.push(server),
                        Err(_) => found.leave(source, number, line, format!("`{server}` is no address")),
                    }
                }
            }
            ["option", "domain-name", domain] => found.domain = Some(domain.trim_matches('"').to_owned()),
            // The guests' addresses and gateways are their networks'.
            ["subnet", ..]
            | ["}"]
            | ["authoritative"]
            | ["option", "routers" | "subnet-mask", ..]
            | ["range", ..] => {
                found.dhcp = true;
            }
            _ => found.leave(source, number, line, "Viaduct's answers have no such setting"),
        }
    }
}
