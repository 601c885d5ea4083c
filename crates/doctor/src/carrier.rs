//! The process that carries frames of vnets, where it does not run.

use std::collections::BTreeSet;

use crate::{Facts, Finding, Gravity, Patient, Remedy, Step, patient::Place};

/// The daemon starts it and starts it anew; everything else that guests need goes on without a process.
pub(crate) fn findings(patient: &Patient<'_>, facts: &Facts) -> Option<Finding> {
    if facts.vnets_are_carried {
        return None;
    }
    let shared = patient.config.vnets.iter().filter(|(_, vnet)| !vnet.peers.is_empty());
    let places: BTreeSet<Place<'_>> =
        shared.map(|(name, _)| patient.network_on(name).map_or(Place::Vnet(name), Place::Network)).collect();
    if places.is_empty() {
        return None;
    }
    let (why, step) = if facts.daemon_runs {
        (
            "The daemon runs, and starts it again and again, unless it cannot: its log says why.",
            "journalctl -u viaduct",
        )
    } else {
        ("The daemon starts it, and does not run.", "systemctl start viaduct")
    };
    Some(Finding {
        kind: "vnets-not-carried",
        gravity: Gravity::Broken,
        namespace: None,
        title: "no process carries frames of vnets to other hosts".to_owned(),
        sufferers: patient.sufferers(places),
        why: why.to_owned(),
        remedy: Some(Remedy {
            safe: false,
            steps: vec![Step::Run(step.to_owned())],
            remark: "Without systemd, it is `viaduct daemon` that has to run; its log is its standard error."
                .to_owned(),
        }),
    })
}
