//! A plan, as programs and people see it.

use std::collections::BTreeMap;

use crate::op::Op;

/// What to do, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// First to last.
    pub ops: Vec<Op>,
}

impl Plan {
    /// Whether nothing is to do.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The plan for programs: each step by itself.
    pub fn steps(&self) -> Vec<String> {
        let lines = |op: &Op| op.to_string().lines().map(str::to_owned).collect::<Vec<_>>();
        self.ops.iter().flat_map(lines).collect()
    }

    /// The plan for people, a line each: of each namespace's stack under a heading. The settings of a device that we make
    /// take one line together.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for run in self.ops.chunk_by(|one, other| one.place().0 == other.place().0) {
            let of_run = lines_of(run.iter().map(|op| op.place().1));
            match run.first().and_then(|op| op.place().0) {
                Some(namespace) if !of_run.is_empty() => {
                    lines.push(format!("in namespace {namespace}:"));
                    lines.extend(of_run.into_iter().map(|line| format!("  {line}")));
                }
                Some(_) | None => lines.extend(of_run),
            }
        }
        lines
    }
}

fn lines_of<'a>(ops: impl Iterator<Item = &'a Op>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut settings: BTreeMap<&str, usize> = BTreeMap::new();
    for op in ops {
        if let Op::SetSysctl { key, journal: false, .. } = op
            && let Some(link) = key.link()
        {
            *settings.entry(link).or_default() += 1;
            continue;
        }
        lines.extend(settings_lines(&mut settings));
        lines.extend(op.to_string().lines().map(str::to_owned));
    }
    lines.extend(settings_lines(&mut settings));
    lines
}

fn settings_lines(settings: &mut BTreeMap<&str, usize>) -> Vec<String> {
    std::mem::take(settings).into_iter().map(|(link, n)| format!("~ {n} sysctls of {link}")).collect()
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.lines().iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
