use std::process::ExitCode;

use serde_json::Value;

use crate::{
    cli::Global,
    client,
    daemon::Event,
    failure::Failure,
    operations::Drops,
    show::{self, say},
};

pub(super) fn run(global: &Global) -> Result<ExitCode, Failure> {
    let heard = if global.json {
        client::listen(&global.run_dir, &mut |event: Value| say!("{event}"))?
    } else {
        client::listen(&global.run_dir, &mut |event: Event| print(&event))?
    };
    if !heard {
        return Err(Failure::failed("no daemon runs on this host: start it with `systemctl start viaduct`"));
    }
    show::finish();
    Ok(ExitCode::SUCCESS)
}

fn print(event: &Event) {
    match event {
        Event::Changed { action, by } => say!("{action} by {by}"),
        Event::Repaired(repair) => {
            repair.changed.iter().for_each(|line| say!("{line}"));
            repair.done.iter().for_each(|line| say!("put right: {line}"));
        }
        Event::Disputed { object, seconds } => {
            say!("another program keeps changing {object}; it is left as it is for {seconds} s");
        }
        Event::Failed { error } => say!("failed: {error}"),
        Event::Detached { nic } => say!("{nic} is no longer attached: its namespace or device is gone"),
        Event::Dropped { device, namespace: None, drops } => say!("{device} dropped {}", reasons(drops)),
        Event::Dropped { device, namespace: Some(namespace), drops } => {
            say!("{device} in namespace {namespace} dropped {}", reasons(drops));
        }
        Event::Lost { events } => say!("{events} events were lost"),
    }
}

/// Like `address 3, mac 1`.
fn reasons(drops: &Drops) -> String {
    drops.iter().map(|(reason, count)| format!("{reason} {}", count.packets)).collect::<Vec<_>>().join(", ")
}
