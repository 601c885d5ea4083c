//! Errors as the user sees them: what was tried, what the matter is, what to do; and the exit status.

use std::{error::Error, fmt::Write as _, process::ExitCode};

use serde_json::json;
use viaduct_model::Diagnostics;
use viaduct_plan::Notice;
use viaduct_reconcile::{Aftermath, ChangeError, ConvergeError, StoreError};

use crate::show::{self, tell};

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line does not fit together, or names what is not there.
    Usage(String),
    /// Files of the configuration that cannot be read, a line each.
    Unreadable(Vec<String>),
    /// The configuration is wrong.
    Configuration(Box<Diagnostics>),
    /// The configuration is right by itself, but not on this host.
    Unfit(Vec<Notice>),
    /// Everything else.
    Failed {
        /// What went wrong.
        message: String,
        /// Details, a line each.
        details: Vec<String>,
    },
}

impl Failure {
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), details: Vec::new() }
    }

    /// Adds a detail where there is room for it.
    pub(crate) fn with(mut self, detail: impl Into<String>) -> Self {
        if let Self::Failed { details, .. } = &mut self {
            details.push(detail.into());
        }
        self
    }

    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::Usage(_) | Self::Unreadable(_) | Self::Configuration(_) | Self::Unfit(_) => {
                ExitCode::from(2)
            }
            Self::Failed { .. } => ExitCode::from(1),
        }
    }

    /// On standard error for people; on standard output as an object with `error` for programs.
    pub(crate) fn show(&self, json: bool) {
        if json {
            show::say!("{}", self.json());
            return;
        }
        match self {
            Self::Configuration(diagnostics) => {
                show::tell_text(&diagnostics.render(show::color_on_stderr()));
            }
            Self::Unreadable(lines) => lines.iter().for_each(|line| tell!("error: {line}")),
            Self::Unfit(notices) => notices.iter().for_each(|notice| tell!("{notice}")),
            Self::Usage(message) => tell!("error: {message}"),
            Self::Failed { message, details } => {
                tell!("error: {message}");
                details.iter().for_each(|detail| tell!("  {detail}"));
            }
        }
    }

    fn json(&self) -> serde_json::Value {
        match self {
            Self::Configuration(diagnostics) => {
                json!({ "error": "the configuration is wrong", "diagnostics": diagnostics })
            }
            Self::Unreadable(lines) => {
                json!({ "error": "the configuration cannot be read", "details": lines })
            }
            Self::Unfit(notices) => json!({
                "error": "the configuration does not fit this host",
                "notices": show::notices_json(notices),
            }),
            Self::Usage(message) => json!({ "error": message }),
            Self::Failed { message, details } => json!({ "error": message, "details": details }),
        }
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

impl From<Diagnostics> for Failure {
    fn from(diagnostics: Diagnostics) -> Self {
        Self::Configuration(Box::new(diagnostics))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::failed(chain(&error))
    }
}

impl From<viaduct_kernel::KernelError> for Failure {
    fn from(error: viaduct_kernel::KernelError) -> Self {
        Self::failed(chain(&error))
    }
}

impl From<viaduct_kernel::nft::NftError> for Failure {
    fn from(error: viaduct_kernel::nft::NftError) -> Self {
        Self::failed(chain(&error))
    }
}

impl From<ConvergeError> for Failure {
    fn from(error: ConvergeError) -> Self {
        if let ConvergeError::Unfit(notices) = error {
            return Self::Unfit(notices);
        }
        Self::Failed { message: headline(&error), details: details(&error) }
    }
}

fn headline(error: &ConvergeError) -> String {
    match error {
        ConvergeError::Observe(_) => chain(error),
        ConvergeError::Unfit(_)
        | ConvergeError::Interrupted { .. }
        | ConvergeError::Failed { .. }
        | ConvergeError::Unstable { .. } => error.to_string(),
    }
}

fn details(error: &ConvergeError) -> Vec<String> {
    match error {
        ConvergeError::Observe(_) => Vec::new(),
        ConvergeError::Unfit(notices) => notices.iter().map(ToString::to_string).collect(),
        ConvergeError::Interrupted { cause, .. } if matches!(**cause, ConvergeError::Observe(_)) => {
            vec![chain(cause)]
        }
        ConvergeError::Interrupted { cause, .. } => details(cause),
        // What the kernel says of a step mostly begins with the step.
        ConvergeError::Failed { failures, .. } => failures
            .iter()
            .map(|f| {
                if f.cause.starts_with(&f.step) {
                    f.cause.clone()
                } else {
                    format!("{}: {}", f.step, f.cause)
                }
            })
            .collect(),
        ConvergeError::Unstable { remaining } => remaining.clone(),
    }
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Self {
        let failure = Self::from(error.cause);
        match error.aftermath {
            Aftermath::Untouched => failure,
            Aftermath::Undone => failure.with("Everything is as it was before."),
            Aftermath::Partial => failure.with(
                "What was applied before is not known, so that nothing was undone: `viaduct plan` shows what is left \
                 to do.",
            ),
            Aftermath::Stuck(stuck) => {
                let because = details(&stuck);
                let failure = failure.with(
                    "Going back to what was before failed, too; `viaduct status` shows what is left to do:",
                );
                because.into_iter().fold(failure, Self::with)
            }
        }
    }
}
