//! Status as people see it: one screen, as narrow as a terminal, a line per thing where there is room.

use std::process::ExitCode;

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};

use viaduct_types::NamespaceName;

use super::ask;
use crate::{
    cli::Global,
    failure::Failure,
    operations::{Drops, Mac, Made, NicStatus, Status, StatusReport, VnetsReport, target},
    show::{self, count, say},
};

/// So many lines of drift are shown; nobody reads more before doing something about it.
const DRIFT: usize = 12;
/// So many MACs of a vnet that several hosts claim, and so many addresses of several MACs.
const CONFLICTS: usize = 8;

pub(super) fn run(global: &Global) -> Result<ExitCode, Failure> {
    let report = ask(global, Status {})?;
    if global.json {
        show::say_json(&report);
    } else {
        print_all(&report);
    }
    Ok(ExitCode::SUCCESS)
}

fn print_all(report: &StatusReport) {
    let Some(made) = &report.made else {
        say!("No configuration is applied on this host.");
        for (id, target) in &report.unknown {
            say!("{id} waits for it: {}.", target::words(target));
        }
        return;
    };
    say!("{}, as applied from {}", made.host, made.files.join(", "));
    if made.edited {
        say!("The files say something else by now; `viaduct plan` shows what.");
    }
    if let Some(left) = report.unconfirmed {
        say!("The last change is taken back in {left} s, unless `viaduct confirm` keeps it.");
    }
    print(uplinks(made));
    print(networks(made));
    print(namespaces(made));
    print(routing(made));
    print(nics(made));
    print(published(made));
    print(vnets(&made.vnets));
    print(peers(&made.vnets));
    for stranger in &made.vnets.strangers {
        say!("\nRefused: {} with the key {} ({} times)", stranger.address, stranger.key, stranger.refused);
    }
    super::peer::beside_peers(&made.vnets);
    for (id, target) in &report.unknown {
        say!("\n{id} is {}, but not in the configuration.", target::words(target));
    }
    for notice in &made.notices {
        say!("\n{notice}");
    }
    drift(&made.drift_lines);
}

fn uplinks(made: &Made) -> Table {
    let mut table = new_table(["uplink", "device", "state", "addresses", "held back"]);
    for (name, uplink) in &made.uplinks {
        let device = &uplink.interface;
        table.add_row([
            name.to_string(),
            format!(
                "{}{}",
                uplink.bridge.as_ref().map_or_else(|| device.to_string(), |b| format!("{device} in {b}")),
                within(uplink.namespace.as_ref()),
            ),
            uplink.up.map_or("gone", |up| if up { "up" } else { "down" }).to_owned(),
            lines(&uplink.addresses),
            drops_text(&uplink.leaks),
        ]);
    }
    table
}

fn networks(made: &Made) -> Table {
    let none = || "none".to_owned();
    let mut table = new_table(["network", "mode", "uplink", "bridge", "prefixes", "dropped"]);
    for (name, network) in &made.networks {
        table.add_row([
            name.to_string(),
            format!("{}{}", network.mode, within(network.namespace.as_ref())),
            network.uplink.as_ref().map_or_else(none, |uplink| {
                let vlan = network.vlan.map(|vlan| format!(", VLAN {vlan}"));
                let vlans = network.vlans.as_ref().map(|vlans| format!(", VLANs {vlans}"));
                format!("{uplink}{}{}", vlan.unwrap_or_default(), vlans.unwrap_or_default())
            }),
            network.bridge.as_ref().map_or_else(none, ToString::to_string),
            lines(&network.prefixes),
            drops_text(&network.drops),
        ]);
    }
    table
}

/// Where something is that is not on the host.
fn within(namespace: Option<&NamespaceName>) -> String {
    namespace.map(|namespace| format!(", in {namespace}")).unwrap_or_default()
}

/// A NIC's network, with the VLANs of it that the NIC is on.
fn network_of(nic: &NicStatus) -> String {
    let untagged = nic.vlan.map(|vlan| format!(", VLAN {vlan}"));
    let tagged = nic.trunk.as_ref().map(|vlans| format!(", trunk {vlans}"));
    format!("{}{}{}", nic.network, untagged.unwrap_or_default(), tagged.unwrap_or_default())
}

fn namespaces(made: &Made) -> Table {
    let mut table = new_table(["namespace", "guests", "device", "state", "what", "addresses"]);
    for (name, namespace) in &made.namespaces {
        let adopted = if namespace.adopted { " (adopted)" } else { "" };
        let (title, guests) = (format!("{name}{adopted}"), lines(&namespace.guests));
        if namespace.interfaces.is_empty() {
            table.add_row([title.as_str(), &guests, "", &namespace.state, "", ""]);
        }
        for (number, interface) in namespace.interfaces.iter().enumerate() {
            let (title, guests) = if number == 0 { (title.as_str(), guests.as_str()) } else { ("", "") };
            let addresses = lines(&interface.addresses);
            table.add_row([
                title,
                guests,
                interface.name.as_str(),
                &interface.state,
                &interface.kind,
                &addresses,
            ]);
        }
    }
    table
}

fn routing(made: &Made) -> Table {
    let mut table = new_table(["namespace", "rules", "settings"]);
    for (name, namespace) in &made.namespaces {
        if namespace.rules.is_empty() && namespace.sysctls.is_empty() {
            continue;
        }
        let settings = namespace.sysctls.iter().map(|(key, value)| format!("{key} = {value}"));
        table.add_row([name.to_string(), lines(&namespace.rules), lines(settings)]);
    }
    table
}

fn nics(made: &Made) -> Table {
    let mut table = new_table(["nic", "network", "state", "attached", "device", "addresses", "dropped"]);
    for nic in made.guests.values().flat_map(|guest| &guest.nics) {
        table.add_row([
            nic.nic.to_string(),
            network_of(nic),
            nic.state.clone(),
            nic.attachment.as_ref().map(target::short).unwrap_or_default(),
            nic.device.as_ref().map(ToString::to_string).unwrap_or_default(),
            lines(nic.addresses.iter().map(|address| address.addr())),
            drops_text(&nic.drops),
        ]);
    }
    table
}

fn published(made: &Made) -> Table {
    let mut table = new_table(["guest", "published"]);
    for (name, guest) in made.guests.iter().filter(|(_, guest)| !guest.publish.is_empty()) {
        table.add_row([name.to_string(), guest.publish.join(" ")]);
    }
    table
}

fn vnets(report: &VnetsReport) -> Table {
    let mut table = new_table(["vnet", "id", "security", "mtu", "hosts", "macs", "trouble"]);
    for (name, vnet) in &report.vnets {
        let hosts = vnet.peers.iter().map(|(name, member)| format!("{name}: {}", member.state));
        let conflicts = vnet.macs.iter().filter(|(_, mac)| !mac.also_claimed_by.is_empty());
        let further = conflicts.clone().count().saturating_sub(CONFLICTS);
        let further =
            (further > 0).then(|| format!("and {further} more; `viaduct vnet macs {name}` has them all"));
        let at = |mac: &Mac| {
            let others = mac.also_claimed_by.iter().map(super::vnet::place);
            std::iter::once(super::vnet::place(&mac.peer)).chain(others).collect::<Vec<_>>().join(", ")
        };
        // Where its frames go to comes first.
        let conflicts = conflicts
            .take(CONFLICTS)
            .map(|(mac, view)| format!("{mac} is at several hosts: {}", at(view)))
            .chain(further);
        let more = vnet.shared_addresses.len().saturating_sub(CONFLICTS);
        let more = (more > 0).then(|| format!("and {more} more; `viaduct vnet show {name}` has them all"));
        let shared = super::vnet::shared(vnet).take(CONFLICTS).chain(more);
        table.add_row([
            name.to_string(),
            vnet.id.short(),
            vnet.security.clone(),
            vnet.mtu.map(|mtu| mtu.to_string()).unwrap_or_default(),
            lines(hosts),
            vnet.mac_count.to_string(),
            lines(
                vnet.trouble
                    .iter()
                    .cloned()
                    .chain(conflicts)
                    .chain(shared)
                    .chain(vnet.fallbacks.iter().cloned()),
            ),
        ]);
    }
    table
}

fn peers(report: &VnetsReport) -> Table {
    let mut table = new_table(["peer", "state", "at", "ports", "path mtu"]);
    for (name, peer) in &report.peers {
        let fallbacks = peer.fallbacks.iter().cloned();
        table.add_row([
            name.to_string(),
            lines(std::iter::once(super::peer::state(peer)).chain(fallbacks)),
            super::peer::place(peer).unwrap_or_else(|| lines(&peer.endpoints)),
            super::peer::ports(peer),
            peer.path_mtu.map(|mtu| mtu.to_string()).unwrap_or_default(),
        ]);
    }
    table
}

fn drift(lines: &[String]) {
    if lines.is_empty() {
        say!("\nThe kernel is as it was made.");
        return;
    }
    say!("\nThe kernel has drifted. What it takes to put it right ({}):", count(lines.len(), "line"));
    lines.iter().take(DRIFT).for_each(|line| say!("{line}"));
    if lines.len() > DRIFT {
        say!("… and {} more; `viaduct status --json` has them all", lines.len() - DRIFT);
    }
}

/// A table with an empty line before it; none when it has no rows.
fn print(mut table: Table) {
    if table.row_count() == 0 {
        return;
    }
    let names = table.header().into_iter().flat_map(|row| row.cell_iter().map(|cell| cell.content()));
    let constraints: Vec<ColumnConstraint> =
        names.enumerate().map(|(index, name)| constraint(&table, index, &name)).collect();
    for (column, constraint) in table.column_iter_mut().zip(constraints) {
        column.set_padding((0, 2)).set_constraint(constraint);
    }
    say!("\n{}", table.trim_fmt());
}

/// Names and addresses are for copying; what else there is can be broken between words, or left out.
fn constraint(table: &Table, index: usize, name: &str) -> ColumnConstraint {
    let least = |columns| ColumnConstraint::LowerBoundary(Width::Fixed(columns));
    let is_empty = || table.column_cells_iter(index).flatten().all(|cell| cell.content().is_empty());
    match name {
        "DROPPED" | "HELD BACK" if is_empty() => ColumnConstraint::Hidden,
        "ATTACHED" | "DROPPED" | "HELD BACK" => least(12),
        "PUBLISHED" => least(30),
        _ => ColumnConstraint::ContentWidth,
    }
}

pub(super) fn new_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(show::width())
        .set_header(header.iter().map(|h| h.to_uppercase()));
    table
}

fn lines(values: impl IntoIterator<Item = impl ToString>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join("\n")
}

fn drops_text(drops: &Drops) -> String {
    drops.iter().map(|(reason, count)| format!("{reason} {}", count.packets)).collect::<Vec<_>>().join(", ")
}
