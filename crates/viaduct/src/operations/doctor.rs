//! What other programs and settings of the host break for guests, and mending what can safely be mended.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use viaduct_doctor::{Facts, Finding, Gravity, Patient, Remedy, Step, examine};
use viaduct_reconcile::look;

use super::{Caller, Operation};
use crate::{client, failure::Failure, host::Host, vnets};

/// Looks for what breaks guests on this host.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Doctor {}

/// Mends what can safely be mended of what breaks guests on this host.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Mend {}

/// What was found.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Diagnosis {
    /// Whether a configuration is applied; if not, there is nothing to look for.
    pub(crate) applied: bool,
    /// What was done first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) treated: Vec<Treated>,
    /// What is wrong, the gravest first; after mending, what is left.
    pub(crate) findings: Vec<Ailment>,
}

/// Something that was done.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Treated {
    /// About what.
    pub(crate) title: String,
    /// What.
    pub(crate) measure: Measure,
    /// Why it could not be done.
    pub(crate) error: Option<String>,
}

/// Something that is wrong.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Ailment {
    /// What kind it is, the same in every version: `foreign-filter`, `rp-filter`, …
    pub(crate) kind: String,
    /// `broken`: packets of guests are lost. `risk`: under circumstances. `note`: it cannot be known from here, or nothing
    /// is lost, but slower than it could be.
    pub(crate) gravity: String,
    /// In the stack of which namespace; not there: in the host's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    /// What it is, in a line.
    pub(crate) title: String,
    /// Which networks and guests suffer.
    pub(crate) suffers: Vec<String>,
    /// Why.
    pub(crate) why: String,
    /// What mends it.
    pub(crate) remedy: Option<Treatment>,
}

/// What mends it.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Treatment {
    /// Whether `viaduct doctor --fix` does it.
    pub(crate) safe: bool,
    /// In this order.
    pub(crate) measures: Vec<Measure>,
    /// How long it holds, what else could be done.
    pub(crate) remark: String,
}

/// One thing to do.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Measure {
    /// A command for a shell.
    Run(String),
    /// A file to be written.
    Write {
        /// Where.
        path: String,
        /// Its text.
        text: String,
    },
    /// A part to be put into another program's file, before the end of its table filter.
    Edit {
        /// Which file.
        path: String,
        /// The part.
        part: String,
    },
}

impl From<&Step> for Measure {
    fn from(step: &Step) -> Self {
        match step.clone() {
            Step::Run(command) => Self::Run(command),
            Step::RunWithin(namespace, command) => {
                Self::Run(format!("ip netns exec {namespace} sh -c {}", quoted(&command)))
            }
            Step::Write { path, text } => Self::Write { path, text },
            Step::Edit { path, part, .. } => Self::Edit { path, part },
        }
    }
}

/// For a shell, where it needs that.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

impl From<Finding> for Ailment {
    fn from(finding: Finding) -> Self {
        let treatment = |remedy: Remedy| Treatment {
            safe: remedy.safe,
            measures: remedy.steps.iter().map(Measure::from).collect(),
            remark: remedy.remark,
        };
        Self {
            kind: finding.kind.to_owned(),
            gravity: match finding.gravity {
                Gravity::Broken => "broken",
                Gravity::Risk => "risk",
                Gravity::Note => "note",
            }
            .to_owned(),
            namespace: finding.namespace.map(|name| name.to_string()),
            title: finding.title,
            suffers: finding.sufferers,
            why: finding.why,
            remedy: finding.remedy.map(treatment),
        }
    }
}

impl Ailment {
    /// Whether something is lost or may be.
    pub(crate) fn is_grave(&self) -> bool {
        self.gravity != "note"
    }
}

impl Operation for Doctor {
    const NAME: &'static str = "doctor";
    const WRITES: bool = false;
    const QUERY: bool = true;
    type Report = Diagnosis;

    fn perform(self, host: &mut Host, _: &mut Caller<'_>) -> Result<Diagnosis, Failure> {
        let findings = findings(host)?;
        Ok(Diagnosis {
            applied: findings.is_some(),
            treated: Vec::new(),
            findings: findings.into_iter().flatten().map(Ailment::from).collect(),
        })
    }
}

impl Operation for Mend {
    const NAME: &'static str = "mend";
    const WRITES: bool = true;
    type Report = Diagnosis;

    fn perform(self, host: &mut Host, caller: &mut Caller<'_>) -> Result<Diagnosis, Failure> {
        let mut treated = Vec::new();
        for finding in findings(host)?.into_iter().flatten() {
            let Some(remedy) = finding.remedy.filter(|remedy| remedy.safe) else { continue };
            for step in &remedy.steps {
                let error = carry_out(host, step).err();
                let failed = error.is_some();
                treated.push(Treated { title: finding.title.clone(), measure: step.into(), error });
                if failed {
                    break;
                }
            }
        }
        Ok(Diagnosis { treated, ..Doctor {}.perform(host, caller)? })
    }
}

/// None when nothing is applied.
fn findings(host: &mut Host) -> Result<Option<Vec<Finding>>, Failure> {
    let situation = host.situation()?;
    let Some(config) = situation.config() else { return Ok(None) };
    let outlook = look(&mut host.kernel, situation.wish())?;
    let attachments = situation.attached();
    let patient = Patient {
        namespace: None,
        config: &config.of_host(),
        attachments,
        observed: &outlook.observed,
        desired: &outlook.desired,
        // Those of all stacks.
        notices: &outlook.notices,
    };
    let run_dir = host.store.run_dir();
    let facts = Facts {
        daemon_runs: host.daemon.pid.is_some() || client::is_there(run_dir),
        vnets_are_carried: vnets::report(run_dir, 0).is_some(),
        ..host.kernel.facts(patient.sysctls())?
    };
    let mut findings = examine(&patient, &facts);
    for name in config.stacks() {
        // Of one that is not there, `viaduct plan` says what is missing.
        let there = outlook.observed.namespaces.get(name).and_then(|_| outlook.observed.stacks.get(name));
        let (Some(observed), Some(desired)) = (there, outlook.desired.stack(name)) else { continue };
        let config = config.of_stack(name);
        let patient =
            Patient { namespace: Some(name), config: &config, attachments, observed, desired, notices: &[] };
        let asked = patient.sysctls();
        let facts = host.kernel.within(name, |kernel| kernel.facts(asked))??;
        findings.extend(examine(&patient, &facts.of_namespace()));
    }
    findings.sort_by_key(|finding| finding.gravity);
    Ok(Some(findings))
}

fn carry_out(host: &mut Host, step: &Step) -> Result<(), String> {
    match step {
        Step::Run(command) => run(command),
        // A process is where the thread that starts it is.
        Step::RunWithin(namespace, command) => {
            host.kernel.within(namespace, |_| run(command)).map_err(|error| error.to_string())?
        }
        Step::Write { path, text } | Step::Edit { path, text, .. } => {
            write(Path::new(path), text).map_err(|error| format!("{path} cannot be written: {error}"))
        }
    }
}

fn run(command: &str) -> Result<(), String> {
    let output = Command::new("/bin/sh").args(["-c", command]).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("/bin/sh cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {}", output.status, said.trim()))
}

/// Whole or not at all, with the permissions that it had.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("viaduct-new");
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let before = match fs::metadata(path) {
        Ok(data) => Some(data.permissions()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    fs::write(&beside, text)?;
    if let Some(permissions) = before {
        fs::set_permissions(&beside, permissions)?;
    }
    fs::File::open(&beside)?.sync_all()?;
    fs::rename(&beside, path)
}
