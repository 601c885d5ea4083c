//! Guests that ask for their configuration: a thousand that boot at the same moment, and as many questions as are
//! answered, beside dnsmasq.

mod hosts;
mod load;

use std::{io::Write, process::Stdio};

use serde_json::Value;

use super::{
    Options,
    sandbox::Sandbox,
    table::{Page, Sample, count, number},
};
use hosts::{Dnsmasq, GUESTS, Ours, mac};
use load::{Family, Load, Measured};

const ROUNDS: u32 = 5;
const QUICK_ROUNDS: u32 = 2;
/// Exchanges that are begun in a second.
const RATES: [u32; 4] = [1_000, 5_000, 10_000, 20_000];
const QUICK_RATES: [u32; 2] = [1_000, 5_000];

/// They stand beside the test that all of them are configured and nothing is lost.
const CLIENTS: &str = include_str!("../../../../crates/viaduct/tests/support/clients.py");
/// Seconds that all of a boot may take, and after which a client asks again (RFC 2131, section 4.1).
const LIMIT: &str = "60";
const AGAIN: &str = "4";

pub(super) fn measure(sandbox: &Sandbox, options: &Options, page: &mut Page) -> Result<(), String> {
    let (rounds, rates): (u32, &[u32]) =
        if options.quick { (QUICK_ROUNDS, &QUICK_RATES) } else { (ROUNDS, &RATES) };
    page.section(
        "What guests are told",
        "A guest that is configured has done DISCOVER, OFFER, REQUEST and ACK by DHCP, has heard a router, and has done \
         SOLICIT, ADVERTISE, REQUEST and REPLY by DHCPv6 because that says so.",
    );
    let ours = Ours::new(sandbox)?;
    boots(&ours, rounds, page)?;
    let Some(perfdhcp) = load::program() else {
        page.paragraph("perfdhcp (Debian's kea-admin) is not there, so nothing more was measured.");
        return Ok(());
    };
    let mut rows = vec![head(rates)];
    for family in [Family::V4, Family::V6] {
        for name in ["Viaduct", "dnsmasq"] {
            eprintln!("services: {name}, {}", family.name());
            let measured = if name == "Viaduct" {
                Load::new(sandbox, ours.host(), "br-private", &perfdhcp)?.measure(
                    family,
                    ours.process()?,
                    rates,
                )?
            } else {
                let dnsmasq = Dnsmasq::new(sandbox)?;
                Load::new(sandbox, dnsmasq.host(), "br0", &perfdhcp)?.measure(
                    family,
                    dnsmasq.process(),
                    rates,
                )?
            };
            rows.push(row(&format!("{name}, {}", family.name()), &measured));
        }
    }
    page.paragraph(&format!(
        "Kea's perfdhcp as load: whole exchanges that were completed in a second, and in how many percent of those begun an \
         answer was lost or late by more than a second, while so many were begun; then the server's own processor time for \
         an exchange, of all these together, and its memory before and after. The server has one processor, perfdhcp the \
         other. perfdhcp stands for {} clients at one port of the bridge that is no NIC of ours; its frames get the MACs of \
         the clients by a rule of nft on its side, for a guest is known by its MAC, and go to the \
         bridge alone, as guests' questions do here. dnsmasq has the same addresses for the \
         same clients (`dhcp-host`), writes no log, and looks for nobody's address first.",
        count(hosts::clients_of_the_file().count().try_into().unwrap_or(u32::MAX)),
    ));
    page.table(&rows);
    Ok(())
}

fn boots(ours: &Ours<'_>, rounds: u32, page: &mut Page) -> Result<(), String> {
    let (mut first, mut later, mut resent) = (Sample::default(), Sample::default(), 0);
    for round in 0..rounds {
        eprintln!("services: {} guests boot", count(GUESTS));
        ours.restart()?;
        for seconds in [&mut first, &mut later] {
            let told = boot(ours)?;
            if told["configured"].as_u64() != Some(GUESTS.into()) {
                // With a thousand guests it is long.
                let told: String = told.to_string().chars().take(500).collect();
                return Err(format!("in round {round} not all guests were configured: {told}…"));
            }
            seconds.add(told["seconds"].as_f64().unwrap_or(f64::NAN));
            resent += told["resent"].as_array().map_or(0, Vec::len);
        }
    }
    page.paragraph(&format!(
        "{} guests boot at the same moment: half of them on links of their own, half on one bridge, where half of those are \
         lent an address, for which it is asked first whether anybody has it (0.4 s). All ask from one namespace.",
        count(GUESTS),
    ));
    page.table(&[
        vec!["seconds until the last of them is configured:".to_owned(), String::new()],
        vec!["the first time".to_owned(), first.cell()],
        vec!["again".to_owned(), later.cell()],
        vec!["guests that had to ask again, of all rounds".to_owned(), resent.to_string()],
    ]);
    Ok(())
}

fn boot(ours: &Ours<'_>) -> Result<Value, String> {
    let failed = |error| format!("the clients: {error}");
    let mut clients = ours
        .guests()
        .command("python3")
        .args(["-c", CLIENTS, LIMIT, AGAIN])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let lines: String = (0..GUESTS).map(|guest| format!("c{guest} {}\n", mac(guest))).collect();
    let written = clients.stdin.take().map_or(Ok(()), |mut input| input.write_all(lines.as_bytes()));
    let output = clients.wait_with_output().map_err(failed)?;
    written.map_err(failed)?;
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("the clients said something else: {error}"))
}

fn head(rates: &[u32]) -> Vec<String> {
    let mut head = vec!["exchanges begun in a second:".to_owned()];
    head.extend(rates.iter().map(|rate| count(*rate)));
    head.extend(["processor, µs each".to_owned(), "memory before, MiB".to_owned(), "after".to_owned()]);
    head
}

fn row(name: &str, measured: &Measured) -> Vec<String> {
    let completed = measured.completed.iter().map(|(rate, lost)| match *lost {
        lost if lost < 0.005 => number(*rate),
        lost => format!("{} ({lost:.2} %)", number(*rate)),
    });
    let mut row = vec![name.to_owned()];
    row.extend(completed);
    row.push(number(measured.processor_us));
    row.extend(measured.resident_mib.map(number));
    row
}
