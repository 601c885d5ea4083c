use std::process::ExitCode;

use viaduct_types::{HostKey, PeerName};

use super::{ask, say_changed, status::new_table, vnet::unused};
use crate::{
    cli::{Global, Peer},
    failure::Failure,
    operations::{Changed, PeerAdd, PeerDelete, Vnets, VnetsReport},
    show::{self, say},
};

pub(super) fn run(global: &Global, command: &Peer) -> Result<ExitCode, Failure> {
    match command {
        Peer::Add { name, endpoint, key } => {
            say_changed(global, &add(global, name.clone(), endpoint.clone(), *key)?);
        }
        Peer::Delete { name } => say_changed(global, &delete(global, name.clone())?),
        Peer::List => {
            let report = ask(global, Vnets { all_macs: false })?;
            if global.json {
                show::say_json(&report.peers);
            } else {
                list(&report);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn add(
    global: &Global,
    name: PeerName,
    endpoints: Vec<String>,
    key: HostKey,
) -> Result<Changed, Failure> {
    ask(global, PeerAdd { name, endpoints, key })
}

pub(super) fn delete(global: &Global, name: PeerName) -> Result<Changed, Failure> {
    ask(global, PeerDelete { name })
}

fn list(report: &VnetsReport) {
    report.unused_peers.iter().for_each(|name| unused("peer", name, "key"));
    if report.peers.is_empty() {
        say!("No peers.");
        return;
    }
    let mut table = new_table(["peer", "state", "at", "ports", "path", "key"]);
    for (name, peer) in &report.peers {
        table.add_row([
            name.to_string(),
            state(peer),
            place(peer).unwrap_or_else(|| peer.endpoints.join("\n")),
            ports(peer),
            peer.path_mtu.map(|mtu| mtu.to_string()).unwrap_or_default(),
            peer.key.clone(),
        ]);
    }
    say!("{}", table.trim_fmt());
    for stranger in &report.strangers {
        say!("Refused: {} with the key {} ({} times)", stranger.address, stranger.key, stranger.refused);
    }
    beside_peers(report);
}

/// What is no single peer's: what does not work, what this host does for peers that cannot reach each other, what was lost.
pub(super) fn beside_peers(report: &VnetsReport) {
    for trouble in report.beacon_troubles.iter().chain(&report.fallbacks) {
        say!("{trouble}");
    }
    for relayed in &report.relayed {
        let lost = [(relayed.over_rate, "were more than may be"), (relayed.send_failed, "could not be sent")];
        let lost = lost.into_iter().filter(|(count, _)| *count > 0);
        let lost: String = lost.map(|(count, why)| format!(", and {count} {why}")).collect();
        let (from, to) = (&relayed.from, &relayed.to);
        let (datagrams, bytes) = (relayed.datagrams, relayed.bytes);
        say!("Passed on from {from} to {to}: {datagrams} datagrams, {bytes} bytes{lost}");
        relayed.fallbacks.iter().for_each(|fallback| say!("  {fallback}"));
    }
    if !report.drops.is_empty() {
        let drops = report.drops.iter().map(|(why, count)| format!("{} {count}", why.replace('_', " ")));
        say!("Dropped of what came for vnets: {}", drops.collect::<Vec<_>>().join(", "));
    }
}

/// Where it is, or by way of whom it is reached.
pub(super) fn place(peer: &crate::operations::PeerView) -> Option<String> {
    match (&peer.via, peer.address) {
        (Some(relay), _) => Some(format!("via {relay}")),
        (None, address) => Some(address?.to_string()),
    }
}

/// To how many of its threads' ports frames go, or why one port carries everything.
pub(super) fn ports(peer: &crate::operations::PeerView) -> String {
    match &peer.ports.one {
        Some(why) => format!("1: {why}"),
        None if peer.ports.to.is_empty() => String::new(),
        None => peer.ports.to.len().to_string(),
    }
}

/// In a few words.
pub(super) fn state(peer: &crate::operations::PeerView) -> String {
    if peer.connected {
        return "connected".to_owned();
    }
    match (&peer.seen_key, &peer.error) {
        (Some(key), _) => format!("wrong key {key} ({} times)", peer.refused),
        (None, _) if peer.unneeded => "not dialled: no vnet here has it".to_owned(),
        (None, Some(error)) => format!("not reached: {error}"),
        (None, None) if peer.endpoints.is_empty() && peer.found.is_empty() => "has to dial".to_owned(),
        (None, None) => "not reached".to_owned(),
    }
}
