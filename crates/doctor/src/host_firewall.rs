//! Other programs' filters that lose what this host needs for its guests: what comes to it, and what it sends.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    Finding, Gravity, Remedy, Step,
    filter::{Engine, Fate, Load, Packet, Point, TCP},
    firewall::{Base, ELSEWHERE, NOBODY_S, NOT_UNDERSTOOD, Owner, in_firewalld},
    host::{HostWay, Need},
    host_rules,
    patient::Place,
};

/// About a base chain that loses some of these.
pub(crate) fn finding(base: &Base<'_>, lost: &[(&HostWay<'_>, Fate)]) -> Finding {
    let places: BTreeSet<Place<'_>> = lost.iter().flat_map(|(way, _)| way.places.iter().copied()).collect();
    let what: BTreeSet<&str> = lost.iter().map(|(way, _)| way.what.as_str()).collect();
    // What may be let through is lost under circumstances at most.
    let gravity = |(way, fate): &(&HostWay<'_>, Fate)| match fate {
        Fate::Lost => way.if_lost,
        Fate::LostMostly | Fate::Passes => way.if_lost.max(Gravity::Risk),
    };
    let output = base.hook.point == Point::Output;
    let mut why = format!("{}: {}.", base.how(), what.into_iter().collect::<Vec<_>>().join("; "));
    if let Some((way, _)) = lost.iter().min_by_key(|lost| gravity(lost)) {
        why.push_str(&format!(" {} ends there.", example(&way.packet, output)));
    }
    why.push_str(" Our own filter cannot undo that, for a packet has to pass every filter.");
    let of_vnets = |gravity| lost.iter().any(|(way, _)| way.need == Need::Vnets && way.if_lost == gravity);
    if of_vnets(Gravity::Risk) && !output {
        why.push_str(
            " Answers to what this host begins get through: a peer is reached as long as this host dials it.",
        );
    }
    if of_vnets(Gravity::Note) {
        why.push_str(" Without the ports of threads everything goes by one port, which is slower.");
    }
    if !lost.iter().any(|(_, fate)| *fate == Fate::Lost) {
        why.push_str(NOT_UNDERSTOOD);
    }
    let does = if output { "this host sends for its guests" } else { "comes to this host for its guests" };
    Finding {
        kind: if output { "foreign-output" } else { "foreign-input" },
        gravity: lost.iter().map(gravity).min().unwrap_or(Gravity::Note),
        namespace: None,
        title: format!("table {} loses what {does}; it is the filter of {}", base.name(), base.by()),
        sufferers: base.patient.sufferers(places),
        why,
        remedy: remedy(base, lost),
    }
}

/// A packet, for people.
fn example(packet: &Packet, output: bool) -> String {
    let somebody = "another host".to_owned();
    let address = |address: Option<IpAddr>| address.map(|address| address.to_string());
    let load = match packet.load {
        Load::To { protocol, port } => {
            let word = if protocol == TCP { "TCP" } else { "UDP" };
            port.map_or_else(|| word.to_owned(), |port| format!("{word} port {port}"))
        }
        Load::Message(kind) if packet.ipv4 => format!("ICMP type {kind}"),
        Load::Message(kind) => format!("ICMPv6 type {kind}"),
    };
    let (other, device) = if output {
        (format!("to {}", address(packet.destination).unwrap_or(somebody)), &packet.output)
    } else {
        (format!("from {}", address(packet.source).unwrap_or(somebody)), &packet.input)
    };
    let by = device.as_ref().map_or_else(String::new, |device| format!(" by {device}"));
    format!("One of {load} {other}{by}")
}

fn remedy(base: &Base<'_>, lost: &[(&HostWay<'_>, Fate)]) -> Option<Remedy> {
    let packets = || lost.iter().map(|(way, _)| &way.packet);
    if base.is_of_iptables() {
        if let Some(remedy) = base.in_ufw(packets()) {
            return Some(remedy);
        }
        let ipv4 = lost.first().is_some_and(|(way, _)| way.packet.ipv4);
        let part = host_rules::part(base.patient, base.hook.point, ipv4);
        return base.mends(base.base, &part, packets()).then(|| Remedy {
            safe: false,
            steps: base.live(base.base, &part).into(),
            remark: NOBODY_S.to_owned(),
        });
    }
    if base.table.engine == Engine::Legacy {
        // A table that is not for filters.
        return None;
    }
    let needs: BTreeSet<Need> = lost.iter().map(|(way, _)| way.need).collect();
    if base.owners.contains(&Owner::Firewalld) && base.hook.point == Point::Input {
        let is_link = |way: &HostWay<'_>| matches!(way.packet.source, Some(IpAddr::V6(source)) if source.is_unicast_link_local());
        let of_guests = || lost.iter().map(|(way, _)| *way).filter(|way| way.need == Need::Guests);
        let mut guests = if of_guests().all(is_link) { Vec::new() } else { base.zone_of_guests() };
        if of_guests().any(is_link) {
            guests.extend(host_rules::firewalld_links(base.patient));
        }
        let vnets = if needs.contains(&Need::Vnets) { zones_of_vnets(base, lost) } else { Vec::new() };
        return Some(in_firewalld(guests.into_iter().chain(vnets).collect()));
    }
    let lines = host_rules::nft_commands(base.patient, base.table, (base.base, base.hook.point), &needs);
    let steps = lines.into_iter().map(Step::Run).collect();
    Some(Remedy { safe: false, steps, remark: ELSEWHERE.to_owned() })
}

/// The ports of vnets in the zones of the devices by which other hosts are reached.
fn zones_of_vnets(base: &Base<'_>, lost: &[(&HostWay<'_>, Fate)]) -> Vec<String> {
    let vnets = lost.iter().filter(|(way, _)| way.need == Need::Vnets);
    let devices: BTreeSet<Option<&String>> = vnets.map(|(way, _)| way.packet.input.as_ref()).collect();
    let mut lines = Vec::new();
    for device in devices {
        let zone = device.map_or_else(String::new, |device| {
            format!(
                " --zone=\"$(firewall-cmd --get-zone-of-interface={device} || firewall-cmd --get-default-zone)\""
            )
        });
        for port in host_rules::firewalld_ports(base.patient) {
            lines.push(format!("firewall-cmd --permanent{zone} --add-port={port}"));
        }
    }
    lines
}
