//! Findings as people read them: what is wrong, who suffers, why, and the lines that mend it, ready to be copied.

use std::process::ExitCode;

use super::{ask, do_here};
use crate::{
    cli::Global,
    failure::Failure,
    operations::{Ailment, Diagnosis, Doctor, Measure, Mend, Treated, quoted},
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

/// What is done, ready to be copied.
fn lines(measure: &Measure) {
    show::say_text(&for_a_shell(measure));
}

/// What has several lines stands at the left edge, where a shell's here-document and a file need it.
fn for_a_shell(measure: &Measure) -> String {
    match measure {
        Measure::Run(command) if command.contains('\n') => format!("{command}\n"),
        Measure::Run(command) => format!("    {command}\n"),
        Measure::Write { path, text } => {
            let directory = path.rsplit_once('/').map_or(".", |(directory, _)| directory);
            let (path, directory) = (quoted(path), quoted(directory));
            let end = end_of(text);
            let text =
                if text.is_empty() || text.ends_with('\n') { text.clone() } else { format!("{text}\n") };
            format!("    mkdir -p {directory}\ncat >{path} <<'{end}'\n{text}{end}\n")
        }
        Measure::Edit { path, part } => format!("    into {path}, before COMMIT of *filter:\n{part}"),
    }
}

/// A word that is no line of the text.
fn end_of(text: &str) -> String {
    let mut end = "END".to_owned();
    while text.lines().any(|line| line == end) {
        end.push('D');
    }
    end
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_shown_of_a_file_writes_it_when_it_is_pasted() {
        let directory = std::env::temp_dir().join(format!("viaduct-pasted-{}", std::process::id()));
        for (name, text) in [
            ("plain.conf", "[Match]\nName=br-*\n\n\tKeep this=$HOME `id` \\ it's\n"),
            ("it's $1.conf", "END\nENDD\n"),
            ("empty", ""),
        ] {
            let path = directory.join("a directory").join(name);
            let measure = Measure::Write { path: path.to_str().unwrap().to_owned(), text: text.to_owned() };
            let pasted = Command::new("sh").arg("-c").arg(for_a_shell(&measure)).output().unwrap();
            assert!(pasted.status.success() && pasted.stderr.is_empty(), "{pasted:?}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn commands_with_texts_in_them_can_be_pasted() {
        let command = "cat <<'END'\n*filter\nCOMMIT\nEND";
        let pasted = Command::new("sh")
            .arg("-c")
            .arg(for_a_shell(&Measure::Run(command.to_owned())))
            .output()
            .unwrap();
        assert_eq!((&pasted.stdout[..], &pasted.stderr[..]), (&b"*filter\nCOMMIT\n"[..], &b""[..]));
        assert_eq!(for_a_shell(&Measure::Run("sysctl -w x=1".to_owned())), "    sysctl -w x=1\n");
    }
}
