//! Rules that let our guests' packets through other programs' filters, and nothing else: whether they may go where they
//! want is decided by our own filter, which sees them, too.

use viaduct_model::Mode;

use crate::{
    Facts, Patient,
    filter::{Condition, Engine, Family, Fate, Packet, Rule, Table, Verdict},
    legacy,
    patient::prefixes,
};

/// Our chain for forwarded packets in tables of iptables.
pub(crate) const CHAIN: &str = "VIADUCT";
const BEGIN: &str = "# BEGIN viaduct (`viaduct doctor --fix` wrote this)";
const END: &str = "# END viaduct";

/// The declarations and rules of our chains, as iptables-restore reads them. They grow with networks, not with guests.
pub(crate) fn rules(patient: &Patient<'_>, ipv4: bool) -> Vec<String> {
    let (mut first, mut from, mut to) = (Vec::new(), Vec::new(), Vec::new());
    for (_, uplink) in patient.uplinks() {
        let device = patient.layer3(uplink);
        first.push(format!("-A {CHAIN} -i {device} -j {CHAIN}-TO"));
        from.push(format!("-A {CHAIN}-FROM -o {device} -j ACCEPT"));
    }
    for bridge in patient.bridges() {
        first.push(format!("-A {CHAIN} -i {bridge} -o {bridge} -j ACCEPT"));
    }
    for network in patient.config.networks.values() {
        let nets = prefixes(network, ipv4);
        match &network.mode {
            Mode::Nat { bridge, .. } if !nets.is_empty() => {
                first.push(format!("-A {CHAIN} -i {bridge} -j {CHAIN}-FROM"));
                to.push(format!("-A {CHAIN}-TO -o {bridge} -j ACCEPT"));
            }
            Mode::Routed { .. } => {
                for net in nets {
                    first.push(format!("-A {CHAIN} -s {net} -j {CHAIN}-FROM"));
                    to.push(format!("-A {CHAIN}-TO -d {net} -j ACCEPT"));
                }
            }
            Mode::Nat { .. } | Mode::Bridged { .. } | Mode::Isolated { .. } | Mode::Vnet { .. } => {}
        }
    }
    from.push(format!("-A {CHAIN}-FROM -j {CHAIN}-TO"));
    let declarations = ["", "-FROM", "-TO"].map(|chain| format!(":{CHAIN}{chain} - [0:0]"));
    declarations.into_iter().chain(first).chain(from).chain(to).collect()
}

/// Chains of ours with their rules, and by which other chain which of them is called.
pub(crate) struct Part {
    pub(crate) chain: &'static str,
    pub(crate) ours: &'static str,
    pub(crate) rules: Vec<String>,
}

impl Part {
    /// The line by which ours is called.
    pub(crate) fn call(&self) -> String {
        format!("-A {} -j {}", self.chain, self.ours)
    }
}

/// What a table would be with chains of ours, of which one is called first in one of its own.
pub(crate) fn with_rules(table: &Table, chain: &str, part: &Part) -> Table {
    let mut mended = table.clone();
    let text = format!("*{}\n{}\n", table.name, part.rules.join("\n"));
    for table in legacy::tables(table.family, &text) {
        mended.chains.extend(table.chains);
    }
    if let Some(chain) = mended.chains.get_mut(chain) {
        chain.rules.insert(
            0,
            Rule { conditions: Vec::<Condition>::new(), verdict: Verdict::Jump(part.ours.to_owned()) },
        );
    }
    mended
}

/// Whether all packets pass a base chain.
pub(crate) fn all_pass<'a>(table: &Table, base: &str, packets: impl IntoIterator<Item = &'a Packet>) -> bool {
    packets.into_iter().all(|packet| table.fate(base, packet) == Fate::Passes)
}

/// The program of iptables that changes a table, and its restore.
pub(crate) fn program(facts: &Facts, engine: Engine, ipv4: bool) -> String {
    let plain = if ipv4 { "iptables" } else { "ip6tables" };
    let exact = format!("{plain}-{}", if engine == Engine::Nft { "nft" } else { "legacy" });
    if facts.programs.contains(&exact) { exact } else { plain.to_owned() }
}

/// Commands that make chains of ours and call one of them from another: the same however often they are done.
pub(crate) fn commands(program: &str, chain: &str, Part { ours, rules, .. }: &Part) -> [String; 2] {
    [
        format!("{program}-restore -w --noflush <<'END'\n*filter\n{}\nCOMMIT\nEND", rules.join("\n")),
        format!("{program} -w -C {chain} -j {ours} 2>/dev/null || {program} -w -I {chain} -j {ours}",),
    ]
}

/// A file that iptables-restore reads with our chains in its table filter, and what was put in; none when it has no such
/// table.
pub(crate) fn edited(text: &str, parts: &[Part]) -> Option<(String, String)> {
    let lines = parts.iter().map(|part| format!("{}\n{}\n", part.rules.join("\n"), part.call()));
    let part = format!("{BEGIN}\n{}{END}\n", lines.collect::<String>());
    let (mut out, mut ours, mut table, mut done) = (String::new(), false, false, false);
    for line in text.lines() {
        if line.starts_with("# BEGIN viaduct") {
            ours = true;
        }
        if !ours {
            table = if line.starts_with('*') { line.trim_end() == "*filter" } else { table };
            if table && !done && line.trim_end() == "COMMIT" {
                out.push_str(&part);
                done = true;
            }
            out.push_str(line);
            out.push('\n');
        }
        if line.starts_with(END) {
            ours = false;
        }
    }
    done.then_some((out, part))
}

/// The same for a base chain of a program that uses nft itself.
pub(crate) fn nft_commands(patient: &Patient<'_>, table: &Table, base: &str) -> Vec<String> {
    let insert =
        |rule: String| format!("nft insert rule {} {} {base} {rule} accept", table.family.word(), table.name);
    let mut lines = Vec::new();
    for bridge in patient.bridges() {
        lines.push(insert(format!("iifname {bridge} oifname {bridge}")));
    }
    for network in patient.config.networks.values() {
        let Some(out) = patient.way_out(network) else { continue };
        match &network.mode {
            Mode::Nat { bridge, .. } => {
                lines.push(insert(format!("iifname {bridge} oifname {out}")));
                lines.push(insert(format!("iifname {out} oifname {bridge}")));
            }
            Mode::Routed { .. } => {
                for ipv4 in [true, false] {
                    let ip = if ipv4 { "ip" } else { "ip6" };
                    if table.family != Family::Inet && (table.family == Family::Ip) != ipv4 {
                        continue;
                    }
                    for net in prefixes(network, ipv4) {
                        lines.push(insert(format!("{ip} saddr {net} oifname {out}")));
                        lines.push(insert(format!("iifname {out} {ip} daddr {net}")));
                    }
                }
            }
            Mode::Bridged { .. } | Mode::Isolated { .. } | Mode::Vnet { .. } => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_file_is_put_in_once() {
        let text = "*nat\nCOMMIT\n*filter\n:ufw-before-forward - [0:0]\n# keep\nCOMMIT\n";
        let rules = vec![":VIADUCT - [0:0]".to_owned()];
        let parts = [Part { chain: "ufw-before-forward", ours: CHAIN, rules }];
        let (once, part) = edited(text, &parts).unwrap();
        assert_eq!(once.matches("BEGIN viaduct").count(), 1);
        assert!(
            once.ends_with(&format!("# keep\n{part}COMMIT\n")) && once.starts_with("*nat\nCOMMIT\n"),
            "{once}"
        );
        let (twice, _) = edited(&once, &parts).unwrap();
        assert_eq!(twice, once);
        assert_eq!(edited("*nat\nCOMMIT\n", &parts), None);
    }
}
