//! The tables.

use std::time::Duration;

use super::{
    super::table::{Page, Sample, count, number},
    ALONE, API, API_ROUTED, APPLY, BATCH, BEYOND, CLIENT, CONFIGURED, Column, DOWN, EACH_AWAY, GROUP_AWAY,
    ONE_BY_ONE, Rest, SERVED, SERVED_ROUTED, Times,
    others::{NETAVARK, NWFILTER, PLUGINS},
};

const OURS: [&str; 6] = [API_ROUTED, API, SERVED_ROUTED, SERVED, CLIENT, ALONE];
const OTHERS: [&str; 3] = [NETAVARK, PLUGINS, NWFILTER];

pub(super) fn put(
    page: &mut Page,
    columns: &[(u32, Column)],
    rest: &Rest,
    (attached, time): (u32, Duration),
    missing: &[String],
) {
    page.section(
        "Many guests come and go",
        "All guests here are real: each has a network namespace, which exists already when it is attached, a filter \
         and a published port. Times are what the caller waits: of whole processes, or of a request to the daemon by a \
         program that stays connected to its socket. Each way works on a host of its own.\n\n\
         - **netavark** (Debian's, as Podman uses it): a process for each guest, `netavark setup` and `teardown` with \
         JSON on standard input; a bridge, masquerading, one published port. It filters nothing that a guest sends.\n\
         - **CNI plugins** (Debian's containernetworking-plugins, as container runtimes use them): `bridge` with \
         `host-local`, then `portmap`, then `firewall`, a process each with CNI's environment and the result of the one \
         before; for the end, in the opposite order. They filter nothing that a guest sends.\n\
         - **nwfilter** (libvirt's filter): libvirtd with this driver alone, without systemd; `virsh \
         nwfilter-binding-create` and `-delete` for a device that is there already. Its filter has `clean-traffic` and \
         who may come in; it neither makes links nor publishes ports.\n\n\
         \"Not run\" is what would take one of them more than ten minutes.",
    );
    for why in missing {
        page.paragraph(&format!("Not here: {why}"));
    }
    page.paragraph("One guest more, ms, when so many are there:");
    page.table(&one(columns, |column| &column.attach));
    page.paragraph("One guest less, ms, when so many others are there:");
    page.table(&one(columns, |column| &column.detach));
    ports(page, columns);
    let several: Vec<&(u32, Column)> = columns.iter().filter(|(size, _)| *size > 0).collect();
    page.paragraph(
        "All from nothing, ms. Viaduct's guests are routed here, with an IPv4 and an IPv6 address; the batch is what the \
         kernel alone needs for the same veths, addresses and routes, in batches of netlink messages, without a filter \
         and without a look at what is there. `apply` makes everything at once, as after a restart of the network; with \
         the API, guests come one after the other, as they are started. The others know only that.",
    );
    let make = [BATCH, APPLY, BEYOND, ONE_BY_ONE, OTHERS[0], OTHERS[1], OTHERS[2]];
    page.table(&rows("guests:", &make, &several, |column| &column.make));
    page.paragraph("All of them away, ms:");
    let away = [EACH_AWAY, GROUP_AWAY, DOWN, ONE_BY_ONE, OTHERS[0], OTHERS[1], OTHERS[2]];
    page.table(&rows("guests:", &away, &several, |column| &column.away));

    let (attached, seconds) = (count(attached), time.as_secs());
    page.paragraph(&format!(
        "At rest, with {} guests configured and {attached} of them attached; the daemon has attached a guest before, and \
         has nothing to do for {seconds} s:",
        count(CONFIGURED)
    ));
    let line = |name: &str, value: f64| vec![name.to_owned(), number(value)];
    page.table(&[
        vec!["at rest".to_owned(), String::new()],
        line(
            "kernel's memory for a guest: its link, addresses and routes by a bare batch, KiB",
            rest.links_kib,
        ),
        line("the same by Viaduct, with filter and settings, KiB", rest.guests_kib),
        line("the daemon's memory (RSS), MiB", rest.resident_mib),
        line("the same at its peak, MiB", rest.peak_mib),
        line(&format!("the processors' time that it took in {seconds} s, ms"), rest.processor_ms),
    ]);
}

/// Only what changes of one guest cost.
pub(super) fn changes(page: &mut Page, columns: &[(u32, Column)]) {
    page.section(
        "One guest comes, is changed, and goes",
        "What the caller waits: of whole processes, or of a request to the daemon by a program that stays connected to \
         its socket.",
    );
    let all: Vec<&(u32, Column)> = columns.iter().collect();
    page.paragraph("One guest more, ms, when so many are there:");
    page.table(&rows("guests present:", &OURS, &all, |column| &column.attach));
    page.paragraph("One guest less, ms, when so many others are there:");
    page.table(&rows("guests present:", &OURS, &all, |column| &column.detach));
    ports(page, columns);
}

/// What `set` costs.
fn ports(page: &mut Page, columns: &[(u32, Column)]) {
    let columns: Vec<&(u32, Column)> = columns.iter().collect();
    page.paragraph("One published port more, of a guest that is attached (`set --publish`), ms:");
    page.table(&rows("guests present:", &OURS, &columns, |column| &column.publish));
    page.paragraph("The same port less (`set --unpublish`), ms:");
    page.table(&rows("guests present:", &OURS, &columns, |column| &column.unpublish));
}

/// A table of one guest more or less, with what the others take for it.
fn one(columns: &[(u32, Column)], of: fn(&Column) -> &Times) -> Vec<Vec<String>> {
    let columns: Vec<&(u32, Column)> = columns.iter().collect();
    let ways: Vec<&str> = OURS.into_iter().chain(OTHERS).collect();
    let mut table = rows("guests present:", &ways, &columns, of);
    for other in &OTHERS[..2] {
        let ratios = columns.iter().map(|(_, column)| {
            let times = of(column);
            let ratio = times.get(CLIENT).zip(times.get(*other)).map(|(ours, theirs)| ours.over(theirs));
            ratio.map_or_else(|| "–".to_owned(), |ratio| ratio.cell())
        });
        table.push(std::iter::once(format!("**{CLIENT} ÷ {other}**")).chain(ratios).collect());
    }
    table
}

pub(super) fn rows(
    head: &str,
    ways: &[&str],
    columns: &[&(u32, Column)],
    of: fn(&Column) -> &Times,
) -> Vec<Vec<String>> {
    let sizes = columns.iter().map(|(size, _)| if *size == 0 { "none".to_owned() } else { count(*size) });
    let mut table = vec![std::iter::once(head.to_owned()).chain(sizes).collect::<Vec<_>>()];
    for way in ways {
        let cells: Vec<String> = columns
            .iter()
            .map(|(_, column)| of(column).get(*way).map_or_else(|| "not run".to_owned(), Sample::cell))
            .collect();
        table.push(std::iter::once((*way).to_owned()).chain(cells).collect());
    }
    table
}
