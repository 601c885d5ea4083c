//! What it costs to have so many guests configured: rules, elements, time, memory. A few of the guests are real.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    Options,
    guests::{Guest, Guests, HOST, OUTSIDE, guest_rules},
    sandbox::{Machine, Sandbox, output},
    table::{Page, Sample, count},
};

const ROUNDS: u32 = 5;
const QUICK_ROUNDS: u32 = 3;
/// More calls of iptables than this take minutes.
const SCRIPTED: u32 = 1_000;

const RULES: &str = "rules in the kernel";
const ELEMENTS: &str = "elements of sets and maps";
const PLAN_EMPTY: &str = "`viaduct plan`, nothing applied, ms";
const APPLY: &str = "`viaduct apply`, ms";
const TRANSACTION: &str = "its nft transaction alone, ms";
const PLAN_APPLIED: &str = "`viaduct plan`, all applied, ms";
const ATTACH: &str = "`viaduct attach` of one guest, ms";
const ATTACH_TRANSACTION: &str = "its nft transaction alone, ms";
const DOWN: &str = "`viaduct down`, ms";
const PEAK_APPLY: &str = "memory of `apply` at its peak, MiB";
const PEAK_PLAN: &str = "memory of `plan` at its peak, MiB";

const SCRIPT: &str = "a script with one `iptables` call per rule, ms";
const RESTORE: &str = "`iptables-restore`, ms";
const ONE_MORE: &str = "`iptables` calls for one more guest, ms";
const NFT: &str = "`nft -f` of maps and sets, ms";

/// By the row's place and name.
type Rows = BTreeMap<(u32, &'static str), Sample>;

pub(super) fn measure(sandbox: &Sandbox, options: &Options, page: &mut Page) -> Result<(), String> {
    let rounds = if options.quick { QUICK_ROUNDS } else { ROUNDS };
    let mut columns = Vec::new();
    for &size in options.sizes() {
        eprintln!("cost: {} guests", count(size));
        columns.push((size, Column::measure(sandbox, Guests(size), rounds)?));
    }
    page.section(
        "What guests cost",
        "Half of the guests are routed, with an IPv4 and an IPv6 address; half stand behind the host's address on a \
         bridge. Each has a list of who may come in, and a published port. Three of them are attached. Times are those \
         of whole processes; what is kept on disk is in memory here.",
    );
    let own = [
        RULES,
        ELEMENTS,
        PLAN_EMPTY,
        APPLY,
        TRANSACTION,
        PLAN_APPLIED,
        ATTACH,
        ATTACH_TRANSACTION,
        DOWN,
        PEAK_APPLY,
        PEAK_PLAN,
    ];
    page.table(&table("Viaduct, guests:", &own, 0, &columns));
    page.paragraph(
        "By hand, in the same run: for each guest a DNAT rule and two rules in FORWARD, and one MASQUERADE rule for all; \
         for `nft -f`, the same as a map and a set. All of it is less than what Viaduct has in the kernel: it leaves out \
         IPv6, who may come in, and whether a guest is who it says. The script is not run with more than 1,000 guests, \
         where its time grows with the square of their number.",
    );
    page.table(&table("by hand, guests:", &[SCRIPT, RESTORE, ONE_MORE, NFT], 100, &columns));
    let rules = |column: &Column| column.rows.get(&(0, RULES)).map(Sample::median);
    let different = columns.windows(2).any(|pair| rules(&pair[0].1) != rules(&pair[1].1));
    if different { Err("the number of rules grows with the guests".to_owned()) } else { Ok(()) }
}

fn table(title: &str, names: &[&'static str], first: u32, columns: &[(u32, Column)]) -> Vec<Vec<String>> {
    let head = columns.iter().map(|(size, _)| count(*size));
    let mut rows = vec![std::iter::once(title.to_owned()).chain(head).collect::<Vec<_>>()];
    for (place, name) in (first..).zip(names) {
        let cells = columns.iter().map(|(_, column)| {
            column.rows.get(&(place, *name)).map_or_else(|| "not run".to_owned(), Sample::cell)
        });
        rows.push(std::iter::once((*name).to_owned()).chain(cells).collect());
    }
    rows
}

/// What is measured with one number of guests.
#[derive(Debug, Default)]
struct Column {
    rows: Rows,
}

impl Column {
    fn measure(sandbox: &Sandbox, guests: Guests, rounds: u32) -> Result<Self, String> {
        let mut column = Self::default();
        let bench = Bench::new(sandbox, guests)?;
        for round in 0..rounds {
            column.by_viaduct(&bench, round == 0)?;
            column.by_hand(&bench)?;
        }
        if guests.0 <= SCRIPTED {
            column.script(&bench)?;
        }
        Ok(column)
    }

    fn add(&mut self, place: u32, name: &'static str, value: f64) {
        self.rows.entry((place, name)).or_default().add(value);
    }

    /// From nothing to all of it, and back.
    fn by_viaduct(&mut self, bench: &Bench<'_>, first: bool) -> Result<(), String> {
        let real = bench.guests.real();
        self.add(2, PLAN_EMPTY, timed(&mut bench.viaduct(&["plan"]))?.0);
        if first {
            self.add(10, PEAK_PLAN, peak(&mut bench.viaduct(&["plan"]))?);
            self.add(9, PEAK_APPLY, peak(&mut bench.viaduct(&["apply"]))?);
            timed(&mut bench.viaduct(&["down"]))?;
        }
        let (time, transaction) = timed(&mut bench.viaduct(&["-vv", "apply"]))?;
        self.add(3, APPLY, time);
        self.add(4, TRANSACTION, transaction.ok_or("apply did not say how long its transaction took")?);
        for guest in real {
            let name = guest.name();
            let (time, transaction) = timed(&mut bench.viaduct(&["-vv", "attach", &name, "--netns", &name]))?;
            self.add(6, ATTACH, time);
            let transaction = transaction.ok_or("attach did not say how long its transaction took")?;
            self.add(7, ATTACH_TRANSACTION, transaction);
        }
        self.add(5, PLAN_APPLIED, timed(&mut bench.viaduct(&["plan"]))?.0);
        if first {
            let (rules, elements) = bench.count()?;
            self.add(0, RULES, rules);
            self.add(1, ELEMENTS, elements);
        }
        self.add(8, DOWN, timed(&mut bench.viaduct(&["down"]))?.0);
        Ok(())
    }

    fn by_hand(&mut self, bench: &Bench<'_>) -> Result<(), String> {
        let mut restore = bench.hand.command("iptables-restore");
        self.add(101, RESTORE, timed(restore.arg(&bench.restore))?.0);
        let one_more = Guest { number: bench.guests.0 };
        let start = Instant::now();
        for rule in guest_rules(one_more) {
            iptables(&bench.hand, rule.table, &rule.text)?;
        }
        self.add(102, ONE_MORE, ms(start.elapsed()));
        bench.forget()?;
        let mut nft = bench.hand.command("nft");
        self.add(103, NFT, timed(nft.arg("-f").arg(&bench.maps))?.0);
        bench.hand.run("nft flush ruleset")?;
        Ok(())
    }

    fn script(&mut self, bench: &Bench<'_>) -> Result<(), String> {
        let start = Instant::now();
        for rule in bench.guests.rules() {
            iptables(&bench.hand, rule.table, &rule.text)?;
        }
        self.add(100, SCRIPT, ms(start.elapsed()));
        bench.forget()
    }
}

fn iptables(machine: &Machine, table: &str, rule: &str) -> Result<(), String> {
    // As a script does it: in the namespace already.
    machine.run(&format!("iptables -t {table} -A {rule}")).map(|_| ())
}

/// One host for Viaduct and one for the hand work.
struct Bench<'a> {
    sandbox: &'a Sandbox,
    guests: Guests,
    host: Machine,
    hand: Machine,
    _others: Vec<Machine>,
    configuration: PathBuf,
    restore: PathBuf,
    maps: PathBuf,
}

impl<'a> Bench<'a> {
    fn new(sandbox: &'a Sandbox, guests: Guests) -> Result<Self, String> {
        let outside = sandbox.machine("outside")?;
        let (host, hand) = (sandbox.machine("host")?, sandbox.machine("hand")?);
        for machine in [&host, &hand] {
            outside.run(&format!(
                "ip link add {name} type veth peer name eth0 netns {name}",
                name = machine.name
            ))?;
            outside.run(&format!("ip link set {} up", machine.name))?;
            machine.run(&format!("ip address add {HOST}/24 dev eth0"))?;
            machine.run("ip link set eth0 up")?;
            machine.run(&format!("ip route add default via {OUTSIDE}"))?;
        }
        let mut others = vec![outside];
        for guest in guests.real() {
            others.push(sandbox.machine(&guest.name())?);
        }
        Ok(Self {
            sandbox,
            guests,
            host,
            hand,
            _others: others,
            configuration: sandbox.file("viaduct.toml", &guests.configuration())?,
            restore: sandbox.file("iptables.rules", &guests.restore())?,
            maps: sandbox.file("maps.nft", &guests.maps())?,
        })
    }

    fn viaduct(&self, arguments: &[&str]) -> Command {
        viaduct(self.sandbox, &self.host, &self.configuration, arguments)
    }

    /// How many rules and elements there are.
    fn count(&self) -> Result<(f64, f64), String> {
        let text = self.host.run("nft -j list ruleset")?;
        let list: Value = serde_json::from_str(&text).map_err(|e| format!("nft's JSON: {e}"))?;
        let objects = list["nftables"].as_array().ok_or("nft's JSON has no list")?;
        let rules = objects.iter().filter(|object| object["rule"].is_object()).count();
        let sets = objects.iter().flat_map(|object| [&object["set"], &object["map"]]);
        let elements: usize = sets.filter_map(|set| set["elem"].as_array()).map(Vec::len).sum();
        Ok((whole(rules), whole(elements)))
    }

    /// Takes the rules by hand away.
    fn forget(&self) -> Result<(), String> {
        self.hand.feed("iptables-restore", "*nat\nCOMMIT\n*filter\nCOMMIT\n")
    }
}

/// The program on one of the machines, with directories of its own.
pub(super) fn viaduct(
    sandbox: &Sandbox,
    host: &Machine,
    configuration: &Path,
    arguments: &[&str],
) -> Command {
    let mut command = host.command(&sandbox.program);
    let kept = sandbox.path(&format!("{}-state", host.name));
    command.arg("--config").arg(configuration).arg("--state-dir").arg(&kept).arg("--run-dir").arg(&kept);
    command.args(arguments);
    command
}

/// Milliseconds of a whole process, and of the filter's transaction in it, when the process tells.
fn timed(command: &mut Command) -> Result<(f64, Option<f64>), String> {
    let start = Instant::now();
    let done = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    let time = ms(start.elapsed());
    let log = String::from_utf8_lossy(&done.stderr);
    if !done.status.success() {
        return Err(format!("{command:?} failed ({}): {}", done.status, log.trim()));
    }
    let transaction = log.split_once("elapsed_us=").and_then(|(_, rest)| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse::<f64>().ok()
    });
    Ok((time, transaction.map(|microseconds| microseconds / 1_000.0)))
}

/// The most memory that a process had at once, in MiB; looked at while it runs.
fn peak(command: &mut Command) -> Result<f64, String> {
    let mut child: Child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("{command:?}: {error}"))?;
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0.0_f64;
    loop {
        let status = fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        peak = peak.max(kibibytes.unwrap_or(0.0) / 1024.0);
        match child.try_wait() {
            Ok(None) => thread::sleep(Duration::from_micros(500)),
            Ok(Some(status)) if status.success() => return Ok(peak),
            Ok(Some(status)) => return Err(format!("{command:?} failed ({status})")),
            Err(error) => return Err(format!("{command:?}: {error}")),
        }
    }
}

/// Runs the program, whose times do not count.
pub(super) fn run(command: &mut Command) -> Result<(), String> {
    output(command).map(|_| ())
}

pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
fn whole(count: usize) -> f64 {
    count as f64
}
