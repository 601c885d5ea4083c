//! Two hosts with a guest each, and a tunnel between their bridges: ours, and what else there is.

mod chart;
mod measure;
mod ways;

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use super::{
    Options,
    sandbox::Sandbox,
    table::{Page, Sample, number},
};
use measure::{Hosts, Metric};
use number as table_number;
use ways::Way;

const ROUNDS: u32 = 3;
const QUICK_ROUNDS: u32 = 1;
/// Round trips are measured in turns, so many of each tunnel in a round: which processor wakes which differs from one run to the
/// next, and how fast the machine is from one minute to another, both by more than tunnels do.
const TURNS: u32 = 8;
const QUICK_TURNS: u32 = 3;
const PINGS: u32 = 60;
/// Where the picture is kept.
const CHART: &str = "docs/vnets-speed.svg";

/// What a tunnel is judged by, each in its own column.
type Samples = BTreeMap<(Way, Metric), Sample>;

pub(super) fn measure(sandbox: &Sandbox, options: &Options, page: &mut Page) -> Result<(), String> {
    let (rounds, turns) = if options.quick { (QUICK_ROUNDS, QUICK_TURNS) } else { (ROUNDS, TURNS) };
    let mut samples = Samples::new();
    let mut missing = Vec::new();
    for _ in 0..rounds {
        for way in Way::ALL {
            if !way.is_installed() {
                if !missing.contains(&way) {
                    missing.push(way);
                }
                continue;
            }
            eprintln!("{} …", way.name());
            match Hosts::make(sandbox, way).and_then(|hosts| hosts.measure(options.quick)) {
                Ok(values) => {
                    for (metric, value) in values {
                        samples.entry((way, metric)).or_default().add(value);
                    }
                }
                // Others' programs may fail; ours may not.
                Err(problem) if way.encrypts() && way != Way::Viaduct => {
                    eprintln!("{}: {problem}", way.name());
                    if !samples.keys().any(|(other, _)| *other == way) && !missing.contains(&way) {
                        missing.push(way);
                    }
                }
                Err(problem) => return Err(problem),
            }
        }
        let ways = Way::ALL.into_iter().filter(|way| !missing.contains(way));
        take_turns(sandbox, ways, turns, &mut samples)?;
    }
    report(&samples, &missing, page);
    if options.write {
        let path = xtask::root().join(CHART);
        fs::write(&path, chart::bars(&samples)).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Round trips by all tunnels, which stand side by side.
fn take_turns(
    sandbox: &Sandbox,
    ways: impl Iterator<Item = Way>,
    turns: u32,
    samples: &mut Samples,
) -> Result<(), String> {
    eprintln!("round trips, in turns …");
    let all: Vec<(Way, Hosts)> =
        ways.map(|way| Ok((way, Hosts::make(sandbox, way)?))).collect::<Result<_, String>>()?;
    for _ in 0..turns {
        for (way, hosts) in &all {
            samples.entry((*way, Metric::Idle)).or_default().add(hosts.round_trip(PINGS)?);
        }
    }
    Ok(())
}

fn report(samples: &Samples, missing: &[Way], page: &mut Page) {
    let text = format!(
        "Guest, bridge, tunnel, underlay of 1500 bytes, tunnel, bridge, guest; all ends share the machine's processors. \
         \"Wire\": the underlay's own segmentation and receive offloads are off. Frames in a second are UDP datagrams of \
         one sender, as many as get through with at most one in a hundred lost in one of two tries. CPU is that of the \
         tunnels' own processes at both ends, which includes what the kernel does in their name, while one TCP stream flows. Round \
         trips are measured in turns by tunnels that stand side by side, in three rounds. Ours is the whole of it, with its daemons, its filter of \
         what guests send, and AES-128-GCM. br_netfilter is off on all hosts. A system call takes {} ns here: who makes several for each \
         frame is slower where they cost more.",
        system_call().as_nanos()
    );
    page.section("Frames between hosts", &text);
    let mut head = vec!["tunnel".to_owned()];
    head.extend(Metric::ALL.map(|metric| metric.name().to_owned()));
    let mut rows = vec![head];
    for way in Way::ALL {
        if missing.contains(&way) {
            continue;
        }
        let mut row = vec![way.name().to_owned()];
        row.extend(
            Metric::ALL.map(|metric| samples.get(&(way, metric)).map_or("–".to_owned(), Sample::cell)),
        );
        rows.push(row);
    }
    page.table(&rows);
    page.table(&comparison(samples));
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(|way| way.name()).collect();
        page.paragraph(&format!(
            "Not installed or not to be started, so not measured: {}.",
            names.join(", ")
        ));
    }
    page.paragraph(
        "![One TCP stream through each tunnel, with the underlay's offloads and without](vnets-speed.svg)",
    );
}

/// How long one takes that does nothing.
fn system_call() -> Duration {
    const TIMES: u32 = 1_000_000;
    let begin = Instant::now();
    for _ in 0..TIMES {
        std::hint::black_box(rustix::process::getppid());
    }
    begin.elapsed() / TIMES
}

/// What a goal is measured by.
#[derive(Clone, Copy)]
enum Beside {
    /// The best of the encrypted ones.
    Best,
    Way(Way),
    Nothing,
}

/// What is wanted of ours: at least so much where more is better, else at most.
const GOALS: [(Metric, Beside, f64); 9] = [
    (Metric::Tcp, Beside::Best, 10.0),
    (Metric::Tcp, Beside::Way(Way::Vxlan), 0.5),
    (Metric::TcpWire, Beside::Best, 5.0),
    (Metric::TcpWire, Beside::Way(Way::Vxlan), 0.65),
    (Metric::Full, Beside::Best, 1.5),
    (Metric::Small, Beside::Best, 1.5),
    (Metric::Idle, Beside::Best, 1.0),
    (Metric::Loaded, Beside::Nothing, 2.0),
    (Metric::Cpu, Beside::Nothing, 2.0),
];

/// Ours beside what is wanted of it.
fn comparison(samples: &Samples) -> Vec<Vec<String>> {
    let head = ["Viaduct", "is", "wanted", ""].map(str::to_owned).to_vec();
    let median = |way, metric| Some(samples.get(&(way, metric))?.median());
    let rows = GOALS.into_iter().filter_map(|(metric, beside, wanted)| {
        let ours = median(Way::Viaduct, metric)?;
        let more = metric.more_is_better();
        let (is, of) = match beside {
            Beside::Nothing => (ours, String::new()),
            Beside::Way(way) => (ours / median(way, metric)?, format!(" times {}", way.name())),
            Beside::Best => {
                let others = Way::ALL.into_iter().filter(|way| way.encrypts() && *way != Way::Viaduct);
                let medians = others.filter_map(|way| Some((way, median(way, metric)?)));
                let by_speed = |a: &(Way, f64), b: &(Way, f64)| a.1.total_cmp(&b.1);
                let (way, best) = if more { medians.max_by(by_speed) } else { medians.min_by(by_speed) }?;
                (ours / best, format!(" times {}, the best encrypted one", way.name()))
            }
        };
        let bound = if more { "at least" } else { "at most" };
        let is_reached = if more { is >= wanted } else { is <= wanted };
        let said = if is_reached { "reached" } else { "**not reached**" };
        Some(vec![
            metric.name().to_owned(),
            format!("{}{of}", number(is)),
            format!("{bound} {}", number(wanted)),
            said.to_owned(),
        ])
    });
    std::iter::once(head).chain(rows).collect()
}
