//! What breaks guests on a host though it was made as it should be: other programs' firewalls, settings and habits, and a process
//! that does not run. Facts go in, findings with their remedies come out. Pure.
#![forbid(unsafe_code)]

mod carrier;
mod facts;
pub mod filter;
mod finding;
mod firewall;
mod host;
mod host_firewall;
mod host_rules;
mod legacy;
mod managers;
mod patient;
mod remedy;
mod settings;

pub use facts::{ConfigFile, Facts};
pub use finding::{Finding, Gravity, Remedy, Step};
pub use legacy::tables as legacy_tables;
pub use patient::Patient;

/// Everything that is wrong in a stack, the gravest first.
pub fn examine(patient: &Patient<'_>, facts: &Facts) -> Vec<Finding> {
    let mut findings = firewall::findings(patient, facts);
    findings.extend(settings::findings(patient, facts));
    if patient.namespace.is_none() {
        findings.extend(managers::findings(patient, facts));
        findings.extend(carrier::findings(patient, facts));
    }
    if let Some(namespace) = patient.namespace {
        findings = findings.into_iter().map(|finding| finding.within(namespace)).collect();
    }
    findings.sort_by_key(|finding| finding.gravity);
    findings
}
