//! What the original printed, as s-expressions. What has no counterpart any more stands there as nothing: what is known of MACs is
//! told by the hosts that have them, so that it has no life time, and no frame waits for it.

use viaduct_types::MacAddr;

use crate::operations::{Mac, PeerView, VnetView, VnetsReport};

/// As xend kept it, and `xm` printed it.
pub(super) fn config(vnet: &VnetView) -> String {
    format!(
        "(vnet\n    (id {})\n    (bridge {})\n    (vnetif {})\n    (security {})\n)",
        vnet.id, vnet.bridge, vnet.interface, vnet.security
    )
}

/// As the kernel module printed it; the header is what it costs.
pub(super) fn vnet(vnet: &VnetView) -> String {
    let header = match vnet.security.as_str() {
        "none" => 50,
        "auth" => 76,
        _ => 68,
    };
    format!(
        "(vnet (id {}) (vnetif {}) (security {}) (header {header}))",
        vnet.id, vnet.interface, vnet.security
    )
}

/// What stands before the MACs of this host.
pub(super) const VIF_TABLE: &str = "(viftable (table_ttl 0) (entry_ttl 0) (sweeps 0))";

/// The MACs of a vnet that are on this host, a line each.
pub(super) fn vifs(vnet: &VnetView) -> Vec<String> {
    let here = vnet.macs.iter().filter(|(_, view)| view.peer.is_none());
    let line =
        |(mac, view): (&MacAddr, &Mac)| format!("(vif (vnet {}) (vmac {mac}) (age {}))", vnet.id, age(view));
    here.map(line).collect()
}

/// For how long it has been known there, in hundredths of a second: what the kernel tells of its jiffies (USER_HZ, proc(5)).
fn age(mac: &Mac) -> u64 {
    mac.seconds.saturating_mul(100)
}

/// What stands before the MACs of other hosts.
pub(super) fn varp(port: u16) -> String {
    format!("(varp (port {port}) (encapsulation esp_in_udp) (entry_ttl 0))")
}

/// Where the MACs of a vnet are that other hosts have, a line each.
pub(super) fn ventries(report: &VnetsReport, vnet: &VnetView) -> Vec<String> {
    let elsewhere = vnet.macs.iter().filter_map(|(mac, view)| Some((mac, view, view.peer.as_ref()?)));
    let entries = elsewhere.map(|(mac, view, name)| {
        let peer = report.peers.get(name);
        let at = peer.and_then(|peer| peer.address).map(|at| at.ip().to_string());
        let addr = at.unwrap_or_else(|| name.to_string());
        let state = if peer.is_some_and(|peer| peer.connected) { "reachable" } else { "failed" };
        format!(
            "(ventry (ref 1) (state {state}) (flags -) (addr {addr}) (queue 0) (age {}) (vmac {mac}) (vnet {}))",
            age(view),
            vnet.id
        )
    });
    entries.collect()
}

/// Another host. One that is not connected has the address at which it is looked for, if any.
pub(super) fn peer(name: &str, peer: &PeerView, default_port: u16) -> String {
    let count = |key| peer.counters.get(key).copied().unwrap_or(0);
    let written = || peer.endpoints.first().and_then(|endpoint| endpoint.rsplit_once(':'));
    let (addr, port) = match (peer.address, written()) {
        (Some(address), _) => (address.ip().to_string(), address.port().to_string()),
        (None, Some((host, port))) => (host.to_owned(), port.to_owned()),
        (None, None) => (name.to_owned(), default_port.to_string()),
    };
    format!(
        "(vnet_peer (addr {addr}) (port {port}) (tx_packets {}) (rx_packets {}))",
        count("datagrams_out"),
        count("datagrams_in")
    )
}
