//! Findings as people read them: what is wrong, who suffers, why, and the lines that mend it, ready to be copied.

use std::process::ExitCode;

use super::{ask, do_here};
use crate::{
    cli::Global,
    failure::Failure,
    operations::{Ailment, Diagnosis, Doctor, Measure, Mend, Treated},
    show::{self, count, say},
};

pub(super) fn run(global: &Global, fix: bool) -> Result<ExitCode, Failure> {
    let diagnosis = if fix { do_here(global, Mend {})? } else { ask(global, Doctor {})? };
    if global.json {
        show::say_json(&diagnosis);
    } else {
        print(&diagnosis, fix);
    }
    let is_well = diagnosis.treated.iter().all(|treated| treated.error.is_none())
        && !diagnosis.findings.iter().any(Ailment::is_grave);
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(diagnosis: &Diagnosis, fix: bool) {
    if !diagnosis.applied {
        say!("No configuration is applied on this host, so no guests can suffer.");
        return;
    }
    treated(&diagnosis.treated);
    for finding in &diagnosis.findings {
        ailment(finding, fix);
    }
    let found = diagnosis.findings.iter().filter(|finding| finding.is_grave()).count();
    let can_be_mended = |finding: &Ailment| finding.remedy.as_ref().is_some_and(|remedy| remedy.safe);
    match (found, diagnosis.findings.iter().filter(|f| can_be_mended(f)).count()) {
        (0, _) => say!("Nothing is found that breaks guests on this host."),
        (found, safe) if safe > 0 && !fix => {
            say!("{}; `viaduct doctor --fix` mends {safe} of them.", count(found, "finding"));
        }
        (found, _) => say!("{} left.", count(found, "finding")),
    }
}

fn treated(all: &[Treated]) {
    let mut about = None;
    for treated in all {
        if about != Some(&treated.title) {
            say!("{}:", treated.title);
            about = Some(&treated.title);
        }
        lines(&treated.measure);
        if let Some(error) = &treated.error {
            say!("    failed: {error}");
        }
    }
    if !all.is_empty() {
        say!("");
    }
}

fn ailment(finding: &Ailment, fix: bool) {
    say!("{}: {}", finding.gravity, finding.title);
    for who in &finding.suffers {
        say!("  {who}");
    }
    if !finding.why.is_empty() {
        say!("  {}", finding.why);
    }
    if let Some(remedy) = &finding.remedy {
        match (remedy.measures.is_empty(), remedy.safe, fix) {
            (true, ..) => {}
            (false, true, false) => say!("  This mends it; `viaduct doctor --fix` does it:"),
            (false, true, true) => say!("  This should have mended it:"),
            (false, false, _) => say!("  This mends it; it is left to you:"),
        }
        remedy.measures.iter().for_each(lines);
        say!("  {}", remedy.remark);
    }
    say!("");
}

/// What is done, in lines that can be copied.
fn lines(measure: &Measure) {
    let (head, text) = match measure {
        Measure::Run(command) => (None, command),
        Measure::Write { path, text } => (Some(format!("{path} becomes:")), text),
        Measure::Edit { path, part } => (Some(format!("into {path}, before COMMIT of *filter:")), part),
    };
    if let Some(head) = &head {
        say!("    {head}");
    }
    for line in text.lines() {
        say!("{}{line}", if head.is_some() { "      " } else { "    " });
    }
}
