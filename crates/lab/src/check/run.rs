use std::{io, time::Duration};

use super::{Finding, Scene};
use crate::sentence::{Run, Then};

const TIMEOUT: Duration = Duration::from_secs(30);

impl Scene<'_> {
    pub(super) fn run(self, run: &Run) -> io::Result<Finding> {
        let finished = self.world.shell(&run.machine, &run.command, TIMEOUT)?;
        let Some(status) = finished.status else {
            return Ok(Finding::fails(format!(
                "still running after {} s\n{}",
                TIMEOUT.as_secs(),
                finished.output
            )));
        };
        let holds = match &run.then {
            Then::Succeeds => status.success(),
            Then::Fails => !status.success(),
            Then::Sees(text) => status.success() && finished.output.contains(text.as_str()),
            Then::DoesNotSee(text) => status.success() && !finished.output.contains(text.as_str()),
        };
        let output = if holds { String::new() } else { format!("{status}\n{}", finished.output) };
        Ok(Finding { holds, detail: output.trim_end().to_owned() })
    }
}
