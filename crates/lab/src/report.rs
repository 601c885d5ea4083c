//! What came of a lab's expectations.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What came of all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The lab's name.
    pub lab: String,
    /// In the order of the file.
    pub outcomes: Vec<Outcome>,
    /// From the first namespace made to the last expectation checked.
    pub milliseconds: u64,
}

/// What came of one expectation, or of a command between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// What the step shows, in prose.
    pub because: String,
    /// The expectation or the command as it was written.
    pub sentence: String,
    /// Where, in `lab.toml`, counted from 1.
    pub line: usize,
    /// Whether it is so.
    pub result: Verdict,
    /// What was seen.
    pub detail: String,
    /// How long it took to find out.
    pub milliseconds: u64,
}

/// Whether a sentence holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is so.
    Holds,
    /// It is not so.
    Fails,
    /// It could not be found out.
    Unclear,
}

impl Report {
    /// Whether every expectation holds.
    pub fn holds(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.result == Verdict::Holds)
    }

    /// Those that do not hold.
    pub fn failures(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| outcome.result != Verdict::Holds)
    }
}

impl fmt::Display for Report {
    /// Each sentence under the prose that it belongs to, the matrix, then a line that counts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.outcomes.iter().map(|outcome| outcome.sentence.chars().count()).max().unwrap_or(0);
        let mut because = None;
        for outcome in &self.outcomes {
            if because != Some(&outcome.because) {
                because = Some(&outcome.because);
                writeln!(f, "\n{}", outcome.because)?;
            }
            outcome.write(f, width)?;
        }
        let (all, good) = (self.outcomes.len(), self.outcomes.len() - self.failures().count());
        #[expect(clippy::cast_precision_loss, reason = "tenths of a second are shown")]
        let seconds = self.milliseconds as f64 / 1000.0;
        writeln!(f, "\n{}: {good} of {all} hold, {seconds:.1} s", self.lab)
    }
}

impl Outcome {
    fn write(&self, f: &mut fmt::Formatter<'_>, width: usize) -> fmt::Result {
        let mark = match self.result {
            Verdict::Holds => "ok  ",
            Verdict::Fails => "FAIL",
            Verdict::Unclear => "??  ",
        };
        let Self { sentence, detail, milliseconds, line, .. } = self;
        write!(f, "  {mark} {sentence:width$} {milliseconds:>6} ms")?;
        if self.result == Verdict::Holds {
            let first = detail.lines().next().unwrap_or_default();
            return if first.is_empty() { writeln!(f) } else { writeln!(f, "  {first}") };
        }
        writeln!(f, "  (line {line})")?;
        detail.lines().try_for_each(|text| writeln!(f, "         {text}"))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}
