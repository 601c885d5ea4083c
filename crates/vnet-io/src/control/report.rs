//! How things are, for people and programs.

use std::collections::BTreeMap;

use viaduct_types::{HostKey, PeerName, VnetId};
use viaduct_vnet_proto::{
    control::{self, Owner},
    data::{Spi, esp},
};

use super::{
    MacReport, MemberReport, PeerReport, RelayedReport, Report, VnetReport,
    engine::{Engine, Vnet},
    peers::{DETOUR, headers},
};
use crate::datapath::Counters;

/// Whether datagrams of so many bytes are too short for what IPv6 counts on (RFC 8200, section 5).
fn is_too_short(datagram: u16) -> bool {
    let frame = esp::largest_frame(esp::Cipher::Aes128Gcm, usize::from(datagram));
    frame.is_none_or(|frame| frame < 14 + 1280)
}

impl Engine {
    pub(super) fn report(&self, most_macs: usize) -> Report {
        let counters = self.handle.counters();
        let nonzero = |(name, count): (&str, u64)| (count > 0).then(|| (name.to_owned(), count));
        Report {
            pid: std::process::id(),
            key: self.identity.public(),
            port: self.port,
            peers: self
                .peers
                .values()
                .map(|peer| (peer.name.clone(), self.peer_report(peer, &counters)))
                .collect(),
            strangers: self.strangers.list(),
            vnets: self
                .vnets
                .iter()
                .map(|(id, vnet)| (*id, self.vnet_report(*id, vnet, &counters, most_macs)))
                .collect(),
            drops: counters.host.drops().chain(self.gate.named()).filter_map(nonzero).collect(),
            counters: counters
                .host
                .work()
                .chain([("configured", self.configured.0)])
                .filter_map(nonzero)
                .collect(),
            unjoined: !self.handle.joins(),
            relayed: self.relayed(&counters),
            beacons: self.discovery.counters.iter().map(|(what, n)| ((*what).to_owned(), *n)).collect(),
            beacon_troubles: self.discovery.troubles.values().cloned().collect(),
        }
    }

    fn peer_report(&self, peer: &super::peers::Peer, counters: &Counters) -> PeerReport {
        let mut report = peer.report();
        let link = peer.session.and_then(|session| self.links.get(&session));
        let remote = link.map(super::link::Link::remote);
        let via = remote.and_then(|remote| self.ways.via(remote));
        let relay = link.and_then(super::link::Link::via);
        report.via = relay
            .and_then(|relay| self.peers.values().find(|peer| peer.id == relay))
            .map(|relay| relay.name.clone());
        // Where it itself is, nobody here knows then.
        report.address = remote.filter(|_| relay.is_none());
        report.seconds = link.map(|link| self.now().saturating_sub(link.since).as_secs());
        let path = peer.path.as_ref().filter(|_| link.is_some());
        report.path_mtu = path.map(|path| {
            let remote = via.map_or(path.remote, |via| via.relay);
            let before = if via.is_some() { DETOUR } else { 0 };
            path.hoped.saturating_add(headers(remote.is_ipv6()) + before)
        });
        report.in_two = path.is_some_and(|path| is_too_short(path.hoped));
        report.ports = self.ports_report(peer, counters);
        if let Some(of_peer) = counters.peers.get(&peer.id) {
            report.unsegmented = of_peer.unsegmented > 0;
            report.counters = of_peer.named().map(|(name, count)| (name.to_owned(), count)).collect();
        }
        report
    }

    fn relayed(&self, counters: &Counters) -> Vec<RelayedReport> {
        let name = |key: &HostKey| self.peers.get(key).map(|peer| peer.name.clone());
        let report = |(spi, (from, to)): (&Spi, &(HostKey, HostKey))| {
            let carried = counters.relays.get(spi).copied().unwrap_or_default();
            Some(RelayedReport {
                from: name(from)?,
                to: name(to)?,
                datagrams: carried.datagrams,
                bytes: carried.bytes,
                over_rate: carried.over_rate,
                send_failed: carried.send_failed,
                unsegmented: carried.unsegmented > 0,
            })
        };
        self.reach.passes.iter().filter_map(report).collect()
    }

    /// What the kernel carries does not go in two.
    fn loses_ipv6(&self, id: VnetId, vnet: &Vnet) -> Option<String> {
        vnet.plain.as_ref()?;
        let agreed = self.node.report(id, 0)?;
        let short = agreed.members.iter().filter_map(|(key, member)| Some((key, member.mtu?)));
        let (key, mtu) = short.filter(|(_, mtu)| *mtu < 1280).min_by_key(|(_, mtu)| *mtu)?;
        let name = &self.peers.get(key)?.name;
        Some(format!(
            "the path to {name} carries packets of {mtu} bytes inside, and IPv6 needs 1280: longer ones of it are lost; the links \
             on the way need an MTU of 1330 bytes (1350 over IPv6), or the vnet another security than none"
        ))
    }

    /// Which machine is heard here and stays at another host all the same.
    fn goes_by_turns(&self, vnet: &Vnet) -> Option<String> {
        let mut staying = vnet.flips.staying().filter_map(|mac| Some((mac, vnet.tables.peer_of(mac)?)));
        let (mac, at) = staying.next()?;
        let name = &self.peers.values().find(|peer| peer.id == at)?.name;
        let more = match staying.count() {
            0 => String::new(),
            more => format!(", as are {more} more"),
        };
        Some(format!(
            "{mac} is heard here and behind {name} by turns{more}, and stays there for a while: two machines have it, or frames go \
             round"
        ))
    }

    fn vnet_report(&self, id: VnetId, vnet: &Vnet, counters: &Counters, most_macs: usize) -> VnetReport {
        let name = |key: &HostKey| self.peers.get(key).map(|peer| peer.name.clone());
        let agreed = self.node.report(id, most_macs);
        let members = agreed.iter().flat_map(|agreed| &agreed.members).filter_map(|(key, member)| {
            let control::MemberReport { connected, speaks, mtu, cipher } = *member;
            Some((name(key)?, MemberReport { connected, speaks, mtu, cipher }))
        });
        let mismatched = agreed.iter().flat_map(|agreed| &agreed.mismatched);
        let owner = |owner: Owner| -> Option<PeerName> {
            match owner {
                Owner::Here => None,
                Owner::Peer(key) => name(&key),
            }
        };
        let macs = agreed.iter().flat_map(|agreed| &agreed.macs).filter_map(|(mac, claimants)| {
            let (first, others) = claimants.split_first()?;
            let report = MacReport {
                peer: owner(first.0),
                sequence: first.1.sequence,
                seconds: vnet
                    .tables
                    .since(*mac)
                    .map_or(0, |since| self.now().saturating_sub(since).as_secs()),
                addresses: first.1.addresses.clone(),
                also_claimed_by: others.iter().map(|(other, _)| owner(*other)).collect(),
            };
            Some((*mac, report))
        });
        let carried: BTreeMap<String, u64> = counters
            .vnets
            .get(&id)
            .into_iter()
            .flat_map(|of_vnet| {
                of_vnet.named().map(|(name, count)| (name.to_owned(), count)).collect::<Vec<_>>()
            })
            .collect();
        VnetReport {
            name: vnet.name.clone(),
            security: vnet.security,
            mtu: self.findings.mtus.get(&id).copied(),
            members: members.collect(),
            mismatched: mismatched.filter_map(|(key, theirs)| Some((name(key)?, *theirs))).collect(),
            macs: macs.collect(),
            mac_count: agreed.as_ref().map_or(0, |agreed| agreed.mac_count),
            shared_addresses: agreed.iter().flat_map(|agreed| agreed.shared_addresses.clone()).collect(),
            uncut_udp: self.handle.cuts_udp(id) == Some(false),
            counters: carried,
            trouble: vnet
                .trouble
                .clone()
                .or_else(|| vnet.bridging.notice(|key| self.orders.name_of(key)))
                .or_else(|| self.goes_by_turns(vnet))
                .or_else(|| self.loses_ipv6(id, vnet))
                .or_else(|| self.unreached(vnet)),
        }
    }
}
