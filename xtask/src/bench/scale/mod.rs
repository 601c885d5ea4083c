//! Hosts with many real guests: one more and one less, all from nothing and all away, and what they take at rest;
//! beside what others do for theirs, and what the kernel alone needs.

mod bare;
mod others;
mod report;
mod shared;
mod usage;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use self::{bare::Away, others::Way};
use super::{
    Options,
    cost::ms,
    guests::{Guest, Guests, HOST, OUTSIDE, configuration},
    sandbox::{Machine, Sandbox},
    table::{Page, Sample, count},
    viaduct::{Client, Viaduct},
};

const ROUNDS: u32 = 9;
const QUICK_ROUNDS: u32 = 3;
/// Of what takes seconds.
const LONG_ROUNDS: u32 = 3;
/// Ways that would take longer than this to have so many guests are not asked for them.
const LONGEST_MS: f64 = 600_000.0;
/// How many are configured for the daemon's memory and rest.
const CONFIGURED: u32 = 10_000;
/// How long a daemon is watched that has nothing to do.
const REST: Duration = Duration::from_secs(10);
const QUICK_REST: Duration = Duration::from_secs(2);
/// Until a daemon has looked whether its last change holds, and has nothing to do.
const CALM: Duration = Duration::from_secs(4);

const API_ROUTED: &str = "Viaduct's API, routed";
const API: &str = "Viaduct's API, on a bridge";
const SERVED_ROUTED: &str = "Viaduct's API, routed, with DHCP and names";
const SERVED: &str = "Viaduct's API, on a bridge, with DHCP and names";
const CLIENT: &str = "`viaduct`, the daemon's client";
const ALONE: &str = "`viaduct` without a daemon";
const ONE_BY_ONE: &str = "Viaduct's API, one after the other";

const BATCH: &str = "bare netlink batch";
const EACH_AWAY: &str = "bare netlink, a message each";
const GROUP_AWAY: &str = "bare netlink, one for their group";
const APPLY: &str = "`viaduct apply`";
const BEYOND: &str = "**`viaduct apply` − batch**";
const DOWN: &str = "`viaduct down`";

/// Milliseconds, by the way.
type Times = BTreeMap<String, Sample>;

/// What is measured with so many guests present.
#[derive(Default)]
struct Column {
    attach: Times,
    detach: Times,
    /// A port more and a port less of a guest that is attached.
    publish: Times,
    unpublish: Times,
    /// All from nothing, and all away.
    make: Times,
    away: Times,
}

/// What guests take at rest.
#[derive(Default)]
struct Rest {
    links_kib: f64,
    guests_kib: f64,
    resident_mib: f64,
    peak_mib: f64,
    processor_ms: f64,
}

pub(super) fn measure(sandbox: &Sandbox, options: &Options, page: &mut Page) -> Result<(), String> {
    let (sizes, rounds) = sizes(options);
    let rest = if options.quick { QUICK_REST } else { REST };
    let largest = sizes.last().copied().unwrap_or(0);
    let bench = Bench::new(sandbox, largest)?;
    let mut columns: Vec<(u32, Column)> = Vec::new();
    let mut attachments = Vec::new();
    for &size in sizes {
        eprintln!("scale: {} guests", count(size));
        let mut column = Column::default();
        bench.one_more(size, rounds, &mut column)?;
        bench.one_more_served(size, rounds, &mut column)?;
        if size > 0 {
            attachments = bench.all(size, &mut column)?;
        }
        columns.push((size, column));
    }
    let missing = bench.others(rounds, &mut columns);
    let at_rest = bench.rest(largest, &attachments, rest)?;
    report::put(page, &columns, &at_rest, (largest, rest), &missing);
    shared::measure(sandbox, &bench.host, options.quick, page)
}

/// Only what it costs that one guest comes, is changed, and goes.
pub(super) fn measure_changes(sandbox: &Sandbox, options: &Options, page: &mut Page) -> Result<(), String> {
    let (sizes, rounds) = sizes(options);
    let bench = Bench::new(sandbox, sizes.last().copied().unwrap_or(0))?;
    let mut columns: Vec<(u32, Column)> = Vec::new();
    for &size in sizes {
        eprintln!("changes: {} guests", count(size));
        let mut column = Column::default();
        bench.one_more(size, rounds, &mut column)?;
        bench.one_more_served(size, rounds, &mut column)?;
        columns.push((size, column));
    }
    report::changes(page, &columns);
    Ok(())
}

/// Namespaces that guests share, with VLANs.
pub(super) fn measure_vlans(sandbox: &Sandbox, options: &Options, page: &mut Page) -> Result<(), String> {
    let outside = sandbox.machine("outside")?;
    let host = connected(sandbox, &outside, "host")?;
    shared::measure_vlans(sandbox, &host, options.quick, page)
}

/// How many guests are there, and how often each is measured.
fn sizes(options: &Options) -> (&'static [u32], u32) {
    if options.quick { (&[0, 20], QUICK_ROUNDS) } else { (&[0, 100, 1_000], ROUNDS) }
}

/// A host and the guests' namespaces.
struct Bench<'a> {
    sandbox: &'a Sandbox,
    outside: Machine,
    host: Machine,
    guests: Vec<Machine>,
}

impl<'a> Bench<'a> {
    /// Namespaces for so many guests of both kinds and one more of each.
    fn new(sandbox: &'a Sandbox, largest: u32) -> Result<Self, String> {
        let outside = sandbox.machine("outside")?;
        let host = connected(sandbox, &outside, "host")?;
        let mut bench = Self { sandbox, outside, host, guests: Vec::new() };
        let mixed = Guests(largest + 2);
        for guest in mixed.all().chain(routed(largest).into_iter().filter(|g| g.number >= mixed.0)) {
            bench.guests.push(sandbox.machine(&guest.name())?);
        }
        Ok(bench)
    }

    /// One guest more and less, where so many are.
    fn one_more(&self, present: u32, rounds: u32, column: &mut Column) -> Result<(), String> {
        let guests = Guests(present + 2);
        let viaduct = Viaduct::new(self.sandbox, &self.host, &guests.configuration())?;
        viaduct.run(&["apply"])?;
        let daemon = viaduct.daemon()?;
        let mut client = daemon.client()?;
        for guest in guests.all().take_while(|guest| guest.number < present) {
            client.attach(guest)?;
        }
        let (first, second) = (Guest { number: present }, Guest { number: present + 1 });
        for _ in 0..rounds {
            asked(&mut client, first, API_ROUTED, column)?;
            asked(&mut client, second, API, column)?;
            commanded(&viaduct, second, CLIENT, column)?;
        }
        drop((client, daemon));
        for _ in 0..rounds {
            commanded(&viaduct, second, ALONE, column)?;
        }
        viaduct.forget()
    }

    /// The same where guests are answered DHCP and names.
    fn one_more_served(&self, present: u32, rounds: u32, column: &mut Column) -> Result<(), String> {
        let guests = Guests(present + 2);
        let viaduct = Viaduct::new(self.sandbox, &self.host, &guests.served_configuration())?;
        viaduct.run(&["apply"])?;
        let daemon = viaduct.daemon()?;
        let mut client = daemon.client()?;
        for guest in guests.all().take_while(|guest| guest.number < present) {
            client.attach(guest)?;
        }
        for _ in 0..rounds {
            asked(&mut client, Guest { number: present }, SERVED_ROUTED, column)?;
            asked(&mut client, Guest { number: present + 1 }, SERVED, column)?;
        }
        drop((client, daemon));
        viaduct.forget()
    }

    /// So many routed guests from nothing, and all of them away, in turns with the bare kernel. Gives what is to be
    /// remembered of them as attached.
    fn all(&self, size: u32, column: &mut Column) -> Result<Vec<u8>, String> {
        let guests = routed(size);
        let viaduct = Viaduct::new(self.sandbox, &self.host, &configuration(guests.iter().copied(), None))?;
        viaduct.run(&["apply"])?;
        let daemon = viaduct.daemon()?;
        let mut client = daemon.client()?;
        let each = |work: &mut dyn FnMut(Guest) -> Result<(), String>| {
            timed(|| guests.iter().try_for_each(|guest| work(*guest)))
        };
        add(&mut column.make, ONE_BY_ONE, each(&mut |guest| client.attach(guest))?);
        let attachments = viaduct.remembered()?;
        add(&mut column.away, ONE_BY_ONE, each(&mut |guest| client.detach(guest))?);
        drop((client, daemon));
        viaduct.run(&["down"])?;

        for _ in 0..LONG_ROUNDS {
            let batch = ms(bare::make(&self.host.name, &guests)?);
            add(&mut column.make, BATCH, batch);
            add(&mut column.away, EACH_AWAY, ms(bare::away(&self.host.name, &guests, Away::One)?));
            bare::make(&self.host.name, &guests)?;
            add(&mut column.away, GROUP_AWAY, ms(bare::away(&self.host.name, &guests, Away::Group)?));
            viaduct.remember(&attachments)?;
            let apply = timed(|| viaduct.run(&["apply"]))?;
            add(&mut column.make, APPLY, apply);
            add(&mut column.make, BEYOND, apply - batch);
            add(&mut column.away, DOWN, timed(|| viaduct.run(&["down"]))?);
        }
        viaduct.forget()?;
        Ok(attachments)
    }

    /// What others do, each on a host of its own; says who could not be had here, and why.
    fn others(&self, rounds: u32, columns: &mut [(u32, Column)]) -> Vec<String> {
        let mut missing = Vec::new();
        for (name, start) in others::ALL {
            eprintln!("scale: {name}");
            // Each under another name: what went with a namespace goes when the kernel finds time.
            let host = name.replace(' ', "-").to_lowercase();
            let measured = connected(self.sandbox, &self.outside, &host)
                .and_then(|host| self.other(start(self.sandbox, &host)?.as_mut(), rounds, columns));
            if let Err(why) = measured {
                eprintln!("scale: {name} is missing: {why}");
                missing.push(format!("{name}: {why}"));
            }
        }
        missing
    }

    fn other(&self, way: &mut dyn Way, rounds: u32, columns: &mut [(u32, Column)]) -> Result<(), String> {
        let name = way.name();
        let (mut present, mut all, mut each) = (0, 0.0, 0.0);
        for (size, column) in columns.iter_mut() {
            if each * f64::from(*size - present) > LONGEST_MS {
                break;
            }
            while present < *size {
                let guest = Guest { number: present };
                way.prepare(guest)?;
                all += timed(|| way.attach(guest))?;
                present += 1;
            }
            if present > 0 {
                add(&mut column.make, name, all);
            }
            let more = Guest { number: *size + 1 };
            way.prepare(more)?;
            for _ in 0..rounds {
                each = timed(|| way.attach(more))?;
                add(&mut column.attach, name, each);
                add(&mut column.detach, name, timed(|| way.detach(more))?);
            }
        }
        let mut all = 0.0;
        for number in (0..present).rev() {
            all += timed(|| way.detach(Guest { number }))?;
        }
        if let Some((_, column)) = columns.iter_mut().find(|(size, _)| *size == present) {
            add(&mut column.away, name, all);
        }
        Ok(())
    }

    /// What so many guests take of memory, and what a daemon takes that has nothing to do.
    fn rest(&self, attached: u32, attachments: &[u8], rest: Duration) -> Result<Rest, String> {
        eprintln!("scale: at rest");
        let guests = routed(attached);
        let before = usage::kernel_kib()?;
        bare::make(&self.host.name, &guests)?;
        let links = usage::kernel_kib()? - before;
        bare::away(&self.host.name, &guests, Away::Group)?;

        let configured = routed(CONFIGURED);
        let viaduct =
            Viaduct::new(self.sandbox, &self.host, &configuration(configured.iter().copied(), None))?;
        viaduct.run(&["apply"])?;
        viaduct.remember(attachments)?;
        let before = usage::kernel_kib()?;
        viaduct.run(&["apply"])?;
        let all = usage::kernel_kib()? - before;
        let daemon = viaduct.daemon()?;
        let mut client = daemon.client()?;
        let last = guests.last().copied().unwrap_or(Guest { number: 0 });
        // It has worked, too.
        client.detach(last)?;
        client.attach(last)?;
        std::thread::sleep(CALM);
        let processor_ms = usage::processor_ms(daemon.process(), rest)?;
        let (resident_mib, peak_mib) = usage::resident_mib(daemon.process())?;
        drop((client, daemon));
        viaduct.forget()?;
        let each = |kib: f64| kib / f64::from(attached);
        Ok(Rest { links_kib: each(links), guests_kib: each(all), resident_mib, peak_mib, processor_ms })
    }
}

/// A host that the outside is connected to.
fn connected(sandbox: &Sandbox, outside: &Machine, name: &str) -> Result<Machine, String> {
    let host = sandbox.machine(name)?;
    outside.run(&format!("ip link add {name} type veth peer name eth0 netns {name}"))?;
    outside.run(&format!("ip link set {name} up"))?;
    host.run(&format!("ip address add {HOST}/24 dev eth0"))?;
    host.run("ip link set eth0 up")?;
    host.run(&format!("ip route add default via {OUTSIDE}"))?;
    host.forward()?;
    Ok(host)
}

/// So many guests that are routed: those with even numbers.
fn routed(count: u32) -> Vec<Guest> {
    (0..count).map(|number| Guest { number: 2 * number }).collect()
}

fn asked(client: &mut Client, guest: Guest, name: &str, column: &mut Column) -> Result<(), String> {
    add(&mut column.attach, name, timed(|| client.attach(guest))?);
    add(&mut column.publish, name, timed(|| client.set(guest, "publish"))?);
    add(&mut column.unpublish, name, timed(|| client.set(guest, "unpublish"))?);
    add(&mut column.detach, name, timed(|| client.detach(guest))?);
    Ok(())
}

fn commanded(viaduct: &Viaduct<'_>, guest: Guest, name: &str, column: &mut Column) -> Result<(), String> {
    let port = guest.further_port();
    let guest = guest.name();
    add(&mut column.attach, name, timed(|| viaduct.run(&["attach", &guest, "--netns", &guest]))?);
    add(&mut column.publish, name, timed(|| viaduct.run(&["set", &guest, "--publish", &port]))?);
    add(&mut column.unpublish, name, timed(|| viaduct.run(&["set", &guest, "--unpublish", &port]))?);
    add(&mut column.detach, name, timed(|| viaduct.run(&["detach", &guest]))?);
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<(), String>) -> Result<f64, String> {
    let start = Instant::now();
    work()?;
    Ok(ms(start.elapsed()))
}

fn add(times: &mut Times, name: &str, value: f64) {
    times.entry(name.to_owned()).or_default().add(value);
}
