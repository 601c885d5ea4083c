//! What the original printed, as s-expressions. What has no counterpart any more stands there as nothing: what is known of MACs is
//! told by the hosts that have them, so that it has no life time, and no frame waits for it.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr},
};

use viaduct_types::{MacAddr, VnetId};

use crate::operations::{DiscoveryView, Mac, PeerView, VnetView, VnetsReport};

/// So wide `vn vnets` printed.
pub(super) const NARROW: usize = 50;
/// So wide everything else was printed.
pub(super) const WIDE: usize = 80;

/// A word, or what stands in parentheses.
pub(super) enum Form {
    Word(String),
    List(Vec<Self>),
}

impl Form {
    /// `(NAME …)`
    fn of(name: &str, fields: impl IntoIterator<Item = Self>) -> Self {
        Self::List([Self::Word(name.to_owned())].into_iter().chain(fields).collect())
    }

    /// `(NAME VALUE)`
    fn field(name: &str, value: impl Display) -> Self {
        Self::of(name, [Self::Word(value.to_string())])
    }

    /// In one line, if it fits into so many columns; otherwise with each part of it in a line of its own, and so on within.
    pub(super) fn pretty(&self, width: usize) -> String {
        let mut text = String::new();
        self.put(0, width, &mut text);
        text
    }

    fn flat(&self) -> String {
        match self {
            Self::Word(word) => word.clone(),
            Self::List(parts) => format!("({})", parts.iter().map(Self::flat).collect::<Vec<_>>().join(" ")),
        }
    }

    fn put(&self, column: usize, width: usize, text: &mut String) {
        let flat = self.flat();
        let parts = match self {
            Self::List(parts) if column + flat.len() > width => parts,
            Self::List(_) | Self::Word(_) => return text.push_str(&flat),
        };
        let line = |column| format!("\n{}", " ".repeat(column));
        text.push('(');
        for (index, part) in parts.iter().enumerate() {
            if index == 0 {
                part.put(column + 1, width, text);
            } else {
                text.push_str(&line(column + 4));
                part.put(column + 4, width, text);
            }
        }
        text.push_str(&line(column));
        text.push(')');
    }
}

/// An id as short as it was written as a rule: xend printed ids as they stood in the file.
pub(super) fn id(id: VnetId) -> String {
    match id.to_bytes() {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low] => {
            format!("{:x}", u16::from_be_bytes([high, low]))
        }
        _ => id.to_string(),
    }
}

/// As xend kept it, and `xm` printed it.
pub(super) fn config(vnet: &VnetView) -> Form {
    Form::of(
        "vnet",
        [
            Form::field("id", id(vnet.id)),
            Form::field("bridge", &vnet.bridge),
            Form::field("vnetif", &vnet.interface),
            Form::field("security", &vnet.security),
        ],
    )
}

/// As the kernel module printed it; the header is what it costs.
pub(super) fn vnet(vnet: &VnetView) -> Form {
    let header = match vnet.security.as_str() {
        "none" => 50,
        "auth" => 76,
        _ => 68,
    };
    Form::of(
        "vnet",
        [
            Form::field("id", vnet.id),
            Form::field("vnetif", &vnet.interface),
            Form::field("security", &vnet.security),
            Form::field("header", header),
        ],
    )
}

/// What stands before the MACs of this host.
pub(super) fn vif_table() -> Form {
    Form::of("viftable", ["table_ttl", "entry_ttl", "sweeps"].map(|name| Form::field(name, 0)))
}

/// The MACs of a vnet that are on this host.
pub(super) fn vifs(vnet: &VnetView) -> impl Iterator<Item = Form> {
    let here = vnet.macs.iter().filter(|(_, view)| view.peer.is_none());
    here.map(|(mac, view): (&MacAddr, &Mac)| {
        Form::of(
            "vif",
            [Form::field("vnet", vnet.id), Form::field("vmac", mac), Form::field("age", age(view))],
        )
    })
}

/// For how long it has been known there, in hundredths of a second: what the kernel tells of its jiffies (USER_HZ, proc(5)).
fn age(mac: &Mac) -> u64 {
    mac.seconds.saturating_mul(100)
}

/// What stands before the MACs of other hosts: where hosts find each other, and the address of that device. Where they do
/// not, there is no group, and the socket is at no certain address.
pub(super) fn varp(discovery: Option<&DiscoveryView>, own: &[IpAddr], port: u16) -> Form {
    let nothing = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let device = discovery.and_then(|discovery| discovery.interfaces.first());
    let groups = discovery.map_or(&[][..], |discovery| &discovery.groups);
    // The original knew IPv4 alone.
    let first =
        |all: &[IpAddr]| all.iter().find(|at| at.is_ipv4()).or(all.first()).copied().unwrap_or(nothing);
    Form::of(
        "varp",
        [
            Form::field("device", device.map_or("-", |device| device.as_str())),
            Form::field("mcast_addr", first(groups)),
            Form::field("ucast_addr", first(own)),
            Form::field("port", port),
            Form::field("encapsulation", "esp_in_udp"),
            Form::field("entry_ttl", 0),
        ],
    )
}

/// Where the MACs of a vnet are that other hosts have.
pub(super) fn ventries(report: &VnetsReport, vnet: &VnetView) -> impl Iterator<Item = Form> {
    let elsewhere = vnet.macs.iter().filter_map(|(mac, view)| Some((mac, view, view.peer.as_ref()?)));
    elsewhere.map(|(mac, view, name)| {
        let peer = report.peers.get(name);
        let at = peer.and_then(|peer| peer.address).map(|at| at.ip().to_string());
        let state = if peer.is_some_and(|peer| peer.connected) { "reachable" } else { "failed" };
        Form::of(
            "ventry",
            [
                Form::field("ref", 1),
                Form::field("state", state),
                Form::field("flags", "-"),
                Form::field("addr", at.unwrap_or_else(|| name.to_string())),
                Form::field("queue", 0),
                Form::field("age", age(view)),
                Form::field("vmac", mac),
                Form::field("vnet", vnet.id),
            ],
        )
    })
}

/// Another host. One that is not connected has the address at which it is looked for, if any.
pub(super) fn peer(name: &str, peer: &PeerView, default_port: u16) -> Form {
    let count = |key| peer.counters.get(key).copied().unwrap_or(0);
    let written = || peer.endpoints.first().and_then(|endpoint| endpoint.rsplit_once(':'));
    let (addr, port) = match (peer.address, written()) {
        (Some(address), _) => (address.ip().to_string(), address.port().to_string()),
        (None, Some((host, port))) => (host.to_owned(), port.to_owned()),
        (None, None) => (name.to_owned(), default_port.to_string()),
    };
    Form::of(
        "vnet_peer",
        [
            Form::field("addr", addr),
            Form::field("port", port),
            Form::field("tx_packets", count("datagrams_out")),
            Form::field("rx_packets", count("datagrams_in")),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0000:0000:0000:0000:0000:0000:0000:0097";

    fn form(name: &str, fields: &[(&str, &str)]) -> Form {
        Form::of(name, fields.iter().map(|(name, value)| Form::field(name, value)))
    }

    /// Each as the original's printer broke its lines, which it did when a form did not fit.
    #[test]
    fn lines_are_broken_as_they_were() {
        let config = [("id", "97"), ("bridge", "vnet97"), ("vnetif", "vnif97"), ("security", "none")];
        let one_line = "(vnet (id 97) (bridge vnet97) (vnetif vnif97) (security none))";
        assert_eq!(form("vnet", &config).pretty(WIDE), one_line);
        assert_eq!(form("vnet", &config).pretty(one_line.len()), one_line);
        let broken = "(vnet\n    (id 97)\n    (bridge vnet97)\n    (vnetif vnif97)\n    (security none)\n)";
        assert_eq!(form("vnet", &config).pretty(one_line.len() - 1), broken);
        let listed =
            form("vnet", &[("id", ID), ("vnetif", "vnif97"), ("security", "none"), ("header", "64")]);
        assert_eq!(
            listed.pretty(NARROW),
            format!("(vnet\n    (id {ID})\n    (vnetif vnif97)\n    (security none)\n    (header 64)\n)")
        );
        // What does not fit even so is broken within.
        assert_eq!(
            form("vif", &[("vnet", ID)]).pretty(20),
            format!("(vif\n    (vnet\n        {ID}\n    )\n)")
        );
    }

    /// The original printed the one in the place of the other.
    #[test]
    fn what_was_sent_and_what_came_are_not_mixed_up() {
        let view = serde_json::json!({
            "key": "", "endpoints": ["192.0.2.1:1798"], "created": true, "connected": false, "found": [], "refused": 0,
            "unneeded": false, "fallbacks": [], "ports": {"to": [], "received": []},
            "counters": {"datagrams_out": 1, "datagrams_in": 2},
        });
        let printed = peer("b", &serde_json::from_value(view).unwrap(), 1798).pretty(WIDE);
        assert_eq!(printed, "(vnet_peer (addr 192.0.2.1) (port 1798) (tx_packets 1) (rx_packets 2))");
    }

    #[test]
    fn ids_are_as_short_as_in_the_manual() {
        assert_eq!(id(ID.parse().unwrap()), "97");
        assert_eq!(id("4".parse().unwrap()), "4");
        let long = "0001:0000:0000:0000:0000:0000:0000:0097";
        assert_eq!(id(long.parse().unwrap()), long);
    }
}
