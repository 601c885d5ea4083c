use std::{ffi::OsString, io::IsTerminal, path::Path, process::ExitCode};

use serde_json::json;
use viaduct_lab::{Event, LabError, Options, Verdict, drawing, matrix};

use crate::{
    cli::{Global, Lab},
    failure::Failure,
    show::{say, tell},
};

pub(super) fn run(global: &Global, command: &Lab) -> Result<ExitCode, Failure> {
    match command {
        Lab::Run { directory, only, keep, all } => check(global, directory, only.clone(), *keep, *all),
        Lab::Up { directory } => up(global, directory),
        Lab::Down { name } => {
            let name = viaduct_lab::down(name.as_deref())?;
            say!("The lab {name} has ended.");
            Ok(ExitCode::SUCCESS)
        }
        Lab::List => list(global),
        Lab::Exec { lab, machine, command } => exec(lab.as_deref(), machine, command),
    }
}

fn check(
    global: &Global,
    directory: &Path,
    only: Option<String>,
    keep: bool,
    all: bool,
) -> Result<ExitCode, Failure> {
    let lab = viaduct_lab::Lab::load(directory)?;
    if !global.json {
        say!("{}", drawing(&lab));
    }
    let mut progress = progress(global);
    let mut options = Options { binary: own_path()?, only, keep, progress: &mut progress };
    let report = viaduct_lab::run(directory, &mut options)?;
    if global.json {
        say!("{}", json!(report));
    } else if all {
        say!("{}\n{report}", matrix(&lab, &report));
    } else {
        say!("{}", matrix(&lab, &report));
        for outcome in report.failures() {
            say!(
                "FAIL {}:{} {}\n     {}",
                directory.join("lab.toml").display(),
                outcome.line,
                outcome.sentence,
                outcome.detail
            );
        }
        let good = report.outcomes.len() - report.failures().count();
        say!("{}: {good} of {} expectations hold", report.lab, report.outcomes.len());
        say!("The configuration to play with: {}", directory.display());
    }
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn up(global: &Global, directory: &Path) -> Result<ExitCode, Failure> {
    let mut progress = progress(global);
    let mut options = Options { binary: own_path()?, only: None, keep: true, progress: &mut progress };
    let lab = viaduct_lab::up(directory, &mut options)?;
    if global.json {
        say!("{}", json!({ "lab": lab.name }));
    } else {
        say!("{}", drawing(&lab));
        say!(
            "The lab {name} is up. Look around with `viaduct lab exec MACHINE -- CMD`, end it with `viaduct lab down {name}`.",
            name = lab.name
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn list(global: &Global) -> Result<ExitCode, Failure> {
    let labs = viaduct_lab::list();
    if global.json {
        say!(
            "{}",
            json!(
                labs.iter().map(|(name, dir)| json!({ "lab": name, "directory": dir })).collect::<Vec<_>>()
            )
        );
    } else if labs.is_empty() {
        say!("No lab is up.");
    } else {
        labs.iter().for_each(|(name, dir)| say!("{name}\t{}", dir.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn exec(lab: Option<&str>, machine: &str, command: &[OsString]) -> Result<ExitCode, Failure> {
    let status = viaduct_lab::exec(lab, machine, command)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}

fn own_path() -> Result<std::path::PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::failed(format!("cannot find this program's own file: {error}")))
}

/// What happens, on standard error, while a person watches or asked for it.
fn progress(global: &Global) -> impl FnMut(&Event) {
    let (watched, verbose) = (std::io::stderr().is_terminal() && !global.json, global.verbose > 0);
    move |event| {
        if let Event::Stage(stage) = event
            && (watched || verbose)
        {
            tell!("… {stage}");
        }
        if let (Event::Ran { machine, command, output, .. }, true) = (event, verbose) {
            tell!("{machine}# {command}\n{output}");
        }
        if let Event::Checked(outcome) = event
            && (verbose || (watched && outcome.result != Verdict::Holds))
        {
            tell!("{:?} {}", outcome.result, outcome.sentence);
        }
    }
}

impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        if matches!(error, LabError::Wrong(_) | LabError::NothingSelected(_) | LabError::Read { .. }) {
            Self::usage(error.to_string())
        } else {
            Self::failed(error.to_string())
        }
    }
}
