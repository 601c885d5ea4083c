use std::{net::IpAddr, process::ExitCode};

use super::ask;
use crate::{
    cli::Global,
    failure::Failure,
    operations::Announce,
    show::{self, say},
};

pub(super) fn run(global: &Global, address: IpAddr) -> Result<ExitCode, Failure> {
    let report = ask(global, Announce { address })?;
    if global.json {
        show::say_json(&report);
    } else {
        say!("Told the neighbours on {} that {address} is here.", report.link);
    }
    Ok(ExitCode::SUCCESS)
}
