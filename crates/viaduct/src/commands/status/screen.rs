//! What people see of it: as narrow as a terminal, a line per thing where there is room.

use std::collections::BTreeMap;

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};

use super::{Count, View, bridge_and_prefixes, target};
use crate::show::{self, count, say};

/// So many lines of drift are shown; nobody reads more before doing something about it.
const DRIFT: usize = 12;

impl View<'_> {
    pub(super) fn print(&self) {
        let files: Vec<&str> = self.sources.iter().map(|source| source.name.as_str()).collect();
        say!("{}, as applied from {}", self.config.host, files.join(", "));
        if self.edited {
            say!("The files say something else by now; `viaduct plan` shows what.");
        }
        print(self.uplinks());
        print(self.networks());
        print(self.nics());
        print(self.published());
        for (id, target) in self.unknown() {
            say!("\n{id} is {}, but not in the configuration.", target::words(target));
        }
        for notice in &self.outlook.notices {
            say!("\n{notice}");
        }
        self.drift();
    }

    fn uplinks(&self) -> Table {
        let mut table = new_table(["uplink", "device", "state", "addresses", "held back"]);
        for (name, uplink) in &self.config.uplinks {
            let link = self.outlook.observed.links.get(&uplink.interface);
            let state = link.map_or("gone", |link| if link.up { "up" } else { "down" });
            let bridge = link.and_then(|link| link.master.as_ref());
            table.add_row([
                name.to_string(),
                bridge
                    .map_or_else(|| uplink.interface.to_string(), |b| format!("{} in {b}", uplink.interface)),
                state.to_owned(),
                lines(self.addresses_of(&uplink.interface)),
                drops_text(&self.drops_of(Some(&uplink.interface))),
            ]);
        }
        table
    }

    fn networks(&self) -> Table {
        let mut table = new_table(["network", "mode", "uplink", "bridge", "prefixes", "dropped"]);
        for (name, network) in &self.config.networks {
            let (bridge, prefixes) = bridge_and_prefixes(&network.mode);
            table.add_row([
                name.to_string(),
                network.mode.word().to_owned(),
                network.uplink.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string),
                bridge.map_or_else(|| "none".to_owned(), ToString::to_string),
                lines(prefixes),
                drops_text(&self.drops_of(bridge)),
            ]);
        }
        table
    }

    fn nics(&self) -> Table {
        let mut table = new_table(["nic", "network", "state", "attached", "device", "addresses", "dropped"]);
        for (id, nic) in self.config.nics() {
            let device = self.device(&id);
            table.add_row([
                id.to_string(),
                nic.network.to_string(),
                self.state(&id).to_owned(),
                self.attachments.get(&id).map(target::short).unwrap_or_default(),
                device.map(ToString::to_string).unwrap_or_default(),
                lines(nic.addresses.iter().map(|a| a.addr())),
                drops_text(&self.drops_of(device)),
            ]);
        }
        table
    }

    fn published(&self) -> Table {
        let mut table = new_table(["guest", "published"]);
        for (name, guest) in self.config.guests.iter().filter(|(_, guest)| !guest.publish.is_empty()) {
            let ports: Vec<String> = guest.publish.iter().map(|p| p.publish.to_string()).collect();
            table.add_row([name.to_string(), ports.join(" ")]);
        }
        table
    }

    fn drift(&self) {
        let lines = self.outlook.plan.lines();
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

fn new_table<const N: usize>(header: [&str; N]) -> Table {
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

fn drops_text(drops: &BTreeMap<String, Count>) -> String {
    drops.iter().map(|(reason, count)| format!("{reason} {}", count.packets)).collect::<Vec<_>>().join(", ")
}
