//! A fleet of hosts that share vnets, as state machines on a simulated network: what each of them hears and remembers.

use std::process::Command;

use super::{
    Options,
    sandbox::{Sandbox, output},
    table::{Page, count, number},
};

/// So many NICs each host has.
const NICS: u32 = 100;
/// So many vnets each host is in.
const VNETS: u32 = 10;
/// In how many seconds each NIC moves once, on average.
const PERIOD: u32 = 1_000;
/// So long moves are simulated.
const SECONDS: u32 = 20;

/// The figures, by the names that the simulation prints, with what they are.
const FIGURES: [(&str, &str); 11] = [
    ("moves", "NICs that move in a second, of all hosts together"),
    ("connections", "connections"),
    ("known-nics", "NICs that it knows"),
    ("memory-kib", "memory, KiB"),
    ("memory-after-kib", "memory after the moves, KiB"),
    ("start-messages", "messages until everybody knows everything"),
    ("start-bytes", "their bytes"),
    ("move-messages", "messages per second"),
    ("move-bytes", "their bytes per second"),
    ("microseconds", "µs of a processor per message"),
    ("configure-microseconds", "µs when a NIC comes or goes here"),
];

/// Hosts, and how many of them share a vnet.
fn fleets(options: &Options) -> &'static [(u32, u32)] {
    if options.quick { &[(10, 10), (100, 10)] } else { &[(10, 10), (100, 10), (1_000, 10), (1_000, 40)] }
}

pub(super) fn measure(sandbox: &Sandbox, options: &Options, page: &mut Page) -> Result<(), String> {
    page.section(
        "Fleets of hosts",
        &format!(
            "What is said between hosts about vnets, with time and network simulated: 2 ms on the way, and one packet in a \
             hundred lost and sent again. Each host has {NICS} NICs, with an IPv4 and an IPv6 address each, and is in \
             {VNETS} vnets; each NIC moves once in {PERIOD} seconds, so that of 100,000 NICs 100 move in a second. Figures \
             are otherwise those of one host; bytes are those of messages, without QUIC's own. In the end, what every host knows is \
             compared with where the NICs are."
        ),
    );
    let release = sandbox.xtask.parent().ok_or("this program stands nowhere")?;
    let mut columns = Vec::new();
    for (hosts, size) in fleets(options) {
        let moves = (hosts * NICS).div_ceil(PERIOD);
        let arguments = [*hosts, VNETS, *size, NICS, moves, SECONDS].map(|argument| argument.to_string());
        let text = output(Command::new(release.join("examples/mesh")).args(arguments))?;
        columns.push((*hosts, *size, text));
    }
    let mut rows = vec![vec!["hosts".to_owned()], vec!["of them in each vnet".to_owned()]];
    for (hosts, size, _) in &columns {
        rows[0].push(count(*hosts));
        rows[1].push(count(*size));
    }
    for (name, about) in FIGURES {
        let figure = |text: &String| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            let value: Option<f64> = line.and_then(|value| value.parse().ok());
            value.map(number).ok_or_else(|| format!("the simulation says no {name}: {text}"))
        };
        let cells = columns.iter().map(|(.., text)| figure(text)).collect::<Result<Vec<_>, _>>()?;
        rows.push([vec![about.to_owned()], cells].concat());
    }
    page.table(&rows);
    Ok(())
}
