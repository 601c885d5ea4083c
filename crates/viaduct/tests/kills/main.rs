//! Crash safety, proved: a host whose configuration changes all the time, by a program that is killed at any moment.
//! Real packets try everything throughout. Whatever should be closed is never open, the host is always reached from
//! outside, and the next run arrives.
//!
//! `VIADUCT_KILLS` is how often each of the hosts here is killed, `VIADUCT_SEED` where its randomness begins.
#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

#[path = "../support/mod.rs"]
mod support;

mod packet;
mod policy;
mod prober;
mod random;
mod run;
mod steady;

use run::Host;
use support::host;

/// How often each host is killed.
const KILLS: usize = 75;

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn killed(offset: usize) {
    let kills = number("VIADUCT_KILLS").unwrap_or(KILLS);
    let seed = number("VIADUCT_SEED").unwrap_or(1) * 1000 + offset;
    host(move |world| Host::new(world, seed).live(kills));
}

#[test]
fn one_host() {
    killed(1);
}

#[test]
fn another_host() {
    killed(2);
}

#[test]
fn a_third_host() {
    killed(3);
}

#[test]
fn a_fourth_host() {
    killed(4);
}
