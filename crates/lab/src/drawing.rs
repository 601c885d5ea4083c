//! A lab as people draw it: segments, what is plugged into them, hosts' networks and their guests; and who reaches whom.

use std::{collections::BTreeMap, fmt::Display};

use viaduct_model::{Config, Mode, Network};
use viaduct_types::NetworkName;

use crate::{
    file::{Lab, Machine, Name, Role},
    report::{Report, Verdict},
    sentence::Sentence,
};

/// The topology as a tree of text for each switch.
pub fn drawing(lab: &Lab) -> String {
    let mut out = String::new();
    let mut drawn = Vec::new();
    for switch in lab.switches.keys() {
        let mut node = Node::new(switch);
        for (name, machine) in lab.machines.iter().filter(|(name, _)| lab.is_on(name, switch)) {
            node.children.push(on_switch(lab, switch, name, machine, &mut drawn));
        }
        node.draw("", "", &mut out);
    }
    for (host, config) in lab.configs.iter().filter(|(host, _)| !drawn.contains(host)) {
        host_node(lab, host, host.to_string(), config).draw("", "", &mut out);
    }
    out
}

/// Who reaches whom, as far as sentences say and have been checked: a table with those who ask on the left.
pub fn matrix(lab: &Lab, report: &Report) -> String {
    let mut cells: BTreeMap<(&Name, &Name), Vec<(bool, Verdict)>> = BTreeMap::new();
    for expectation in lab.steps.iter().flat_map(|step| &step.expectations) {
        let outcome =
            report.outcomes.iter().find(|o| o.line == expectation.line && o.sentence == expectation.text);
        if let (Sentence::Reach(reach), Some(outcome)) = (&expectation.sentence, outcome)
            && let Some(to) = &reach.to
        {
            cells.entry((&reach.from, to)).or_default().push((reach.reaches, outcome.result));
        }
    }
    let rows: Vec<&Name> =
        lab.machines.keys().filter(|name| cells.keys().any(|(from, _)| from == name)).collect();
    let columns: Vec<&Name> =
        lab.machines.keys().filter(|name| cells.keys().any(|(_, to)| to == name)).collect();
    if rows.is_empty() {
        return String::new();
    }
    let left = rows.iter().map(|name| name.as_str().len()).max().unwrap_or(0);
    let width = |name: &Name| name.as_str().len().max(4);
    let mut out = format!("{:left$}", "");
    for name in &columns {
        out += &format!("  {name:<0$}", width(name));
    }
    for row in rows {
        out = format!("{}\n{row:left$}", out.trim_end());
        for &column in &columns {
            let word = cells.get(&(row, column)).map_or("·", |outcomes| word(outcomes));
            out += &format!("  {word:<0$}", width(column));
        }
    }
    format!("{}\n", out.trim_end())
}

fn word(outcomes: &[(bool, Verdict)]) -> &'static str {
    let all = |wanted| outcomes.iter().all(|&(reaches, _)| reaches == wanted);
    if outcomes.iter().any(|&(_, verdict)| verdict != Verdict::Holds) {
        "FAIL"
    } else if all(true) {
        "yes"
    } else if all(false) {
        "no"
    } else {
        "some"
    }
}

struct Node {
    label: String,
    children: Vec<Self>,
}

impl Node {
    fn new(label: impl Display) -> Self {
        Self { label: label.to_string(), children: Vec::new() }
    }

    fn draw(&self, first: &str, rest: &str, out: &mut String) {
        *out += &format!("{first}{}\n", self.label);
        for (index, child) in self.children.iter().enumerate() {
            let (branch, below) = if index + 1 == self.children.len() {
                ("└── ", "    ")
            } else {
                ("├── ", "│   ")
            };
            child.draw(&format!("{rest}{branch}"), &format!("{rest}{below}"), out);
        }
    }
}

fn on_switch<'l>(
    lab: &'l Lab,
    switch: &Name,
    name: &'l Name,
    machine: &Machine,
    drawn: &mut Vec<&'l Name>,
) -> Node {
    let here = machine.interfaces.iter().filter(|(_, card)| card.switch == *switch);
    let cards: Vec<String> = here.map(|(card, i)| format!("{card} {}", list(&i.addresses))).collect();
    let label = format!("{name}  {}", cards.join("; ").trim_end());
    match lab.configs.get(name) {
        Some(config) if !drawn.contains(&name) => {
            drawn.push(name);
            host_node(lab, name, label, config)
        }
        Some(_) | None => {
            let mut others: Vec<&Name> = machine.interfaces.values().map(|card| &card.switch).collect();
            others.retain(|other| *other != switch);
            Node::new(if others.is_empty() { label } else { format!("{label}  (also on {})", list(&others)) })
        }
    }
}

fn host_node(lab: &Lab, host: &Name, label: String, config: &Config) -> Node {
    let mut node = Node::new(label);
    for (name, network) in &config.networks {
        let mut network_node = Node::new(format!("{name}  {}", description(network)));
        for (guest, machine) in &lab.machines {
            if let Role::Guest { host: on, guest: called, .. } = &machine.role
                && on == host
            {
                network_node
                    .children
                    .extend(nics(config, called, name).map(|nic| Node::new(format!("{guest}  {nic}"))));
            }
        }
        node.children.push(network_node);
    }
    node
}

/// The guest's NICs in that network, each by its name and addresses.
fn nics<'c>(
    config: &'c Config,
    guest: &viaduct_types::GuestName,
    network: &'c NetworkName,
) -> impl Iterator<Item = String> {
    let nics = config.guests.get(guest).into_iter().flat_map(|guest| &guest.nics);
    nics.filter(move |nic| nic.network == *network).map(|nic| {
        let addresses: Vec<_> = nic.addresses.iter().map(|address| address.addr()).collect();
        format!("{} {}", nic.name, list(&addresses)).trim_end().to_owned()
    })
}

fn description(network: &Network) -> String {
    let (word, prefixes) = match &network.mode {
        Mode::Nat { subnets, .. } | Mode::Isolated { subnets, .. } => {
            (network.mode.word(), subnets.iter().map(|subnet| subnet.prefix).collect())
        }
        Mode::Routed { pool, .. } => (network.mode.word(), pool.clone()),
        Mode::Vnet { subnets, .. } => (network.mode.word(), subnets.clone()),
        Mode::Bridged { .. } => (network.mode.word(), Vec::new()),
    };
    format!("{word} {}", list(&prefixes)).trim_end().to_owned()
}

fn list<T: Display>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::report::Outcome;

    fn small() -> Lab {
        Lab::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/labs/small")).unwrap()
    }

    #[test]
    fn the_drawing_shows_everything() {
        let expected = "\
segment
├── client  eth0 203.0.113.7/24, 203.0.113.8/24, 2001:db8::7/64
├── other  eth0 203.0.113.9/24
└── ve0  eth0 203.0.113.2/24, 2001:db8::2/64
    └── lan  nat 192.168.1.0/24, fd00:1::/64
        ├── idle  eth0 192.168.1.5
        ├── mallory  eth0 192.168.1.4, fd00:1::4
        └── web  eth0 192.168.1.3, fd00:1::3
";
        assert_eq!(drawing(&small()), expected);
    }

    #[test]
    fn the_matrix_sums_up() {
        let lab = small();
        let outcomes = lab.steps[0].expectations.iter().map(|expectation| Outcome {
            because: String::new(),
            sentence: expectation.text.clone(),
            line: expectation.line,
            result: if expectation.text.starts_with("web") { Verdict::Fails } else { Verdict::Holds },
            detail: String::new(),
            milliseconds: 0,
        });
        let report = Report { lab: "small".to_owned(), outcomes: outcomes.collect(), milliseconds: 0 };
        let expected = concat!(
            "        client  mallory  web\n",
            "client  ·       no       yes\n",
            "web     FAIL    ·        ·\n",
        );
        assert_eq!(matrix(&lab, &report), expected);
    }
}
