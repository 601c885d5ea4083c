//! How much one host has of another, whatever it says and however much changes at once.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use viaduct_types::MacAddr;
use viaduct_vnet_proto::control::Message;

use super::{rules::together, world::vnet};

#[test]
fn however_much_changes_at_once_each_connection_is_given_one_piece() {
    let mut world = together(3);
    let settings = &mut world.hosts[0].settings;
    let nics: BTreeMap<MacAddr, Vec<IpAddr>> = (0..3_000_u16)
        .map(|nic| {
            let [high, low] = nic.to_be_bytes();
            (MacAddr([2, 0, 0, 1, high, low]), vec![IpAddr::from([10, 1, high, low])])
        })
        .collect();
    settings.vnets.get_mut(&vnet("97")).unwrap().nics = nics.clone();
    let settings = settings.clone();
    let node = &mut world.hosts[0].node;
    node.configure(Duration::ZERO, 1, settings);
    let mut said = Vec::new();
    while let Some((session, bytes)) = node.poll_transmit() {
        said.push((session, bytes));
    }
    let sessions: Vec<_> = said.iter().map(|(session, _)| *session).collect();
    assert_eq!(sessions.len(), 2, "not one for each of the two others");
    assert_ne!(sessions[0], sessions[1]);
    // Each hears of all of them.
    for (_, bytes) in said {
        let (mut rest, mut claimed) = (&bytes[..], Vec::new());
        while let Some((message, length)) = Message::read(rest).unwrap() {
            if let Some(Message::Claim { mac, .. }) = message {
                claimed.push(mac);
            }
            rest = &rest[length..];
        }
        assert_eq!(claimed, nics.keys().copied().collect::<Vec<_>>());
    }
}
