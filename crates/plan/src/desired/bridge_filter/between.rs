//! Which frames of ports are turned to the host, and what passes from port to port.

use super::{
    super::{
        context::Context,
        elements::{Builder, words::*},
        links,
    },
    ARP, FORWARD, IP, IP6, TAGS, free, of_type,
    outside::{into_held, outside},
    rule,
};
use crate::nft::{Const, Hook, Selector as S, Statement as St};

/// Whether there is a network whose frames may have to be turned. What guests publish, and who may reach whom, does not change it, so
/// that the table stays and its counters with it.
pub(super) fn turns(context: &Context<'_>) -> bool {
    context.config.networks.values().any(links::turns)
}

/// A port's frames that have passed its guard: for the bridge, or turned to the host.
pub(super) fn add(context: &Context<'_>, table: &mut Builder) {
    if turns(context) {
        add_turn(table);
    } else {
        table.chain("redirect_frames", vec![vec![accept()]]);
    }
    let mut between = Vec::new();
    if outside(context).next().is_some() {
        between.push(vec![St::In(vec![S::OifName], "outside"), free()]);
    }
    between.extend(into_held(context));
    if turns(context) {
        // Where a port may send back, only what br_netfilter turned round goes back.
        between.push(vec![St::In(vec![S::IifName, S::OifName], "same_port"), goto("back_to_port")]);
        table.chain("back_to_port", vec![vec![for_host(), accept()], vec![drop()]]);
        let ports = vec![St::In(vec![S::IifName], "redirected"), St::In(vec![S::OifName], "redirected")];
        between.push(rule(ports, [goto("between_redirected")]));
    }
    // A tag's type has the first of these bits and not the second; those of IP and ARP do not, so that nothing is looked up.
    let maybe_tag = St::Masked(S::EtherType, Const::be16(0x8400, "0x8400"), Const::be16(0x8000, "0x8000"));
    between.push(vec![maybe_tag, St::In(vec![S::OifName], "untagged"), goto("to_untagged")]);
    table.base("between_ports", Hook::Forward, FORWARD, between);
    // What an uplink has of other segments is none of this one's guests' business.
    table.chain("to_untagged", TAGS.map(|tag| vec![of_type(tag), drop()]).into());
}

/// A frame for the host, and not for another MAC.
fn for_host() -> St {
    St::Is(S::PktType, Const::u8(0, "0"))
}

fn add_turn(table: &mut Builder) {
    let solicitation = |number, word| vec![of_type(IP6), icmpv6(), icmpv6_type(number, word), accept()];
    let redirected = |kind| {
        vec![
            of_type(kind),
            St::WriteMapped(S::EtherDaddr, vec![S::IifName], "to_bridge"),
            // PACKET_HOST, or the IP stack would not take it.
            St::Write(S::PktType, Const::u8(0, "0")),
            accept(),
        ]
    };
    table.chain(
        "redirect_frames",
        vec![
            // Only PACKET_OTHERHOST, unicast to a MAC that is not the bridge's.
            vec![St::Not(S::PktType, Const::u8(3, "other")), goto("answered_by_host")],
            solicitation(135, "nd-neighbor-solicit"),
            solicitation(136, "nd-neighbor-advert"),
            redirected(IP),
            redirected(IP6),
            vec![accept()],
        ],
    );
    // Who asks for an address asks everybody, of whom only the host may answer: it is not asked of a thousand ports.
    let asked = |port| {
        vec![udp(), dport(port), St::WriteMapped(S::EtherDaddr, vec![S::IifName], "to_bridge"), accept()]
    };
    table.chain("answered_by_host", vec![asked(67), asked(547), vec![accept()]]);
    table.chain(
        "between_redirected",
        vec![
            vec![of_type(ARP), accept()],
            solicitation(135, "nd-neighbor-solicit"),
            solicitation(136, "nd-neighbor-advert"),
            // A frame for the host is forwarded only when br_netfilter has led it to a published port on the same
            // bridge; table inet judges it next.
            vec![for_host(), accept()],
            vec![drop()],
        ],
    );
}
