//! The VLANs that ports of a bridge are on, and the host by the bridge itself (include/uapi/linux/if_bridge.h).

use std::collections::BTreeMap;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use viaduct_plan::{Link, PortVlans};
use viaduct_types::{IfName, VlanSet};

use crate::{
    attr::{self, Attributes, find},
    error::Refusal,
    socket::{Request, Socket},
};

const RTM_NEWVLAN: u16 = 112;
const RTM_DELVLAN: u16 = 113;
const RTM_GETVLAN: u16 = 114;
const AF_BRIDGE: u8 = 7;
/// struct br_vlan_msg: family, three bytes of nothing, ifindex.
const HEADER: usize = 8;
const BRIDGE_VLANDB_ENTRY: u16 = 1;
const BRIDGE_VLANDB_ENTRY_INFO: u16 = 1;
const BRIDGE_VLANDB_ENTRY_RANGE: u16 = 2;
const NLA_F_NESTED: u16 = 1 << 15;
const PVID: u16 = 1 << 1;
const UNTAGGED: u16 = 1 << 2;

/// Puts a port, or a bridge itself, on VLANs.
pub(crate) fn add(index: u32, vlans: &PortVlans) -> Request {
    let mut body = header(index);
    for range in vlans.tagged.ranges() {
        entry(&mut body, 0, range);
    }
    if let Some(vlan) = vlans.untagged {
        entry(&mut body, PVID | UNTAGGED, (vlan, vlan));
    }
    Request::new(RTM_NEWVLAN, NLM_F_ACK, body)
}

/// Takes it off VLANs.
pub(crate) fn delete(index: u32, vlans: &VlanSet) -> Request {
    let mut body = header(index);
    for range in vlans.ranges() {
        entry(&mut body, 0, range);
    }
    Request::new(RTM_DELVLAN, NLM_F_ACK, body)
}

/// Of every port of every bridge, or of one by its ifindex.
pub(crate) fn list(socket: &mut Socket, index: u32) -> Result<BTreeMap<u32, PortVlans>, Refusal> {
    let mut all = BTreeMap::<u32, PortVlans>::new();
    for (index, found) in socket.ask(&Request::new(RTM_GETVLAN, NLM_F_DUMP, header(index)), read)? {
        let port = all.entry(index).or_default();
        port.untagged = port.untagged.or(found.untagged);
        port.tagged = port.tagged.iter().chain(found.tagged.iter()).collect();
        port.other = port.other.iter().chain(found.other.iter()).collect();
    }
    Ok(all)
}

/// Fills in what links are on, where a bridge looks at it.
pub(crate) fn fill(socket: &mut Socket, links: &mut BTreeMap<IfName, Link>) -> Result<(), Refusal> {
    if !links.values().any(|link| link.filters_vlans) {
        return Ok(());
    }
    let mut all = list(socket, 0)?;
    let filtering: Vec<IfName> =
        links.iter().filter(|(_, link)| link.filters_vlans).map(|(name, _)| name.clone()).collect();
    for link in links.values_mut() {
        if link.filters_vlans || link.master.as_ref().is_some_and(|master| filtering.contains(master)) {
            link.vlans = all.remove(&link.index).unwrap_or_default();
        }
    }
    Ok(())
}

fn header(index: u32) -> Vec<u8> {
    let mut body = vec![AF_BRIDGE, 0, 0, 0];
    body.extend(index.to_ne_bytes());
    body
}

fn entry(body: &mut Vec<u8>, flags: u16, (first, last): (u16, u16)) {
    let mut entry = Vec::new();
    attr::put(&mut entry, BRIDGE_VLANDB_ENTRY_INFO, &[flags.to_ne_bytes(), first.to_ne_bytes()].concat());
    if last > first {
        attr::put(&mut entry, BRIDGE_VLANDB_ENTRY_RANGE, &last.to_ne_bytes());
    }
    attr::put(body, BRIDGE_VLANDB_ENTRY | NLA_F_NESTED, &entry);
}

fn read(_kind: u16, body: &[u8]) -> Option<(u32, PortVlans)> {
    let index = attr::u32(body.get(4..HEADER)?)?;
    let (mut untagged, mut tagged, mut other) = (None, Vec::new(), Vec::new());
    let entries = Attributes(body.get(HEADER..)?).filter(|(kind, _)| *kind == BRIDGE_VLANDB_ENTRY);
    for (_, entry) in entries {
        let Some(info) = find(entry, BRIDGE_VLANDB_ENTRY_INFO) else { continue };
        let (Some(flags), Some(first)) = (attr::u16(info), info.get(2..).and_then(attr::u16)) else {
            continue;
        };
        let last = find(entry, BRIDGE_VLANDB_ENTRY_RANGE).and_then(attr::u16).unwrap_or(first);
        match flags & (PVID | UNTAGGED) {
            0 => tagged.extend(first..=last),
            both if both == PVID | UNTAGGED => untagged = Some(first),
            _ => other.extend(first..=last),
        }
    }
    let set = |vlans: Vec<u16>| vlans.into_iter().filter(|vlan| (1..=4094).contains(vlan)).collect();
    Some((index, PortVlans { untagged, tagged: set(tagged), other: set(other) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_again() {
        let vlans = PortVlans {
            untagged: Some(2),
            tagged: [3, 10, 11, 12].into_iter().collect(),
            other: VlanSet::default(),
        };
        let mut body = header(7);
        for range in vlans.tagged.ranges() {
            entry(&mut body, 0, range);
        }
        entry(&mut body, PVID | UNTAGGED, (2, 2));
        assert_eq!(read(RTM_NEWVLAN, &body), Some((7, vlans)));
        let mut odd = header(7);
        entry(&mut odd, UNTAGGED, (4, 4));
        assert_eq!(read(RTM_NEWVLAN, &odd).unwrap().1.other, [4].into_iter().collect());
    }

    #[test]
    fn odd_bytes_are_no_panic() {
        for fill in [0_u8, 1, 2, 4, 0x80, 0xff] {
            for length in 0..80 {
                let _ = read(RTM_NEWVLAN, &vec![fill; length]);
            }
        }
    }
}
