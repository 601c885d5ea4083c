//! Output: for people, and as JSON for programs.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use viaduct_plan::{Notice, Severity};

/// Whether messages on standard error may be coloured.
pub(crate) fn color_on_stderr() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Lets the process end by SIGPIPE instead of a panic when its reader is gone.
pub(crate) fn end_quietly_on_closed_pipe() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        if text.contains("Broken pipe") {
            std::process::exit(0);
        }
        eprintln!("{text}");
    }));
}

pub(crate) fn notice_json(notice: &Notice) -> Value {
    json!({
        "severity": match notice.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        "message": notice.text,
        "file": notice.origin.as_ref().map(|o| o.file.to_string()),
        "line": notice.origin.as_ref().map(|o| o.line),
    })
}

/// A bar for work that takes long enough to wonder; nothing where nobody watches.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Fewer steps than this are done before anybody could read.
    const WORTH_SHOWING: usize = 200;

    pub(crate) fn new() -> Self {
        Self { bar: None }
    }

    pub(crate) fn at(&mut self, done: usize, total: usize) {
        if total < Self::WORTH_SHOWING || !std::io::stderr().is_terminal() {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{bar:40} {pos}/{len} steps {elapsed}");
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
