//! Errors as the user sees them: what was tried, what the matter is, what to do; and the exit status.

use std::{error::Error, fmt::Write as _, process::ExitCode};

use serde_json::json;
use viaduct_model::Diagnostics;
use viaduct_plan::Notice;
use viaduct_reconcile::{ConvergeError, StoreError};

use crate::show;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line does not fit together, or names what is not there.
    Usage(String),
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

    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::Usage(_) | Self::Configuration(_) | Self::Unfit(_) => ExitCode::from(2),
            Self::Failed { .. } => ExitCode::from(1),
        }
    }

    /// On standard error for people; on standard output as an object with `error` for programs.
    pub(crate) fn show(&self, json: bool) {
        if json {
            println!("{}", self.json());
            return;
        }
        match self {
            Self::Configuration(diagnostics) => eprint!("{}", diagnostics.render(show::color_on_stderr())),
            Self::Unfit(notices) => notices.iter().for_each(|notice| eprintln!("{notice}")),
            Self::Usage(message) => eprintln!("error: {message}"),
            Self::Failed { message, details } => {
                eprintln!("error: {message}");
                details.iter().for_each(|detail| eprintln!("  {detail}"));
            }
        }
    }

    fn json(&self) -> serde_json::Value {
        match self {
            Self::Configuration(diagnostics) => {
                json!({ "error": "the configuration is wrong", "diagnostics": diagnostics })
            }
            Self::Unfit(notices) => json!({
                "error": "the configuration does not fit this host",
                "notices": notices.iter().map(show::notice_json).collect::<Vec<_>>(),
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
        match error {
            ConvergeError::Unfit(notices) => Self::Unfit(notices),
            ConvergeError::Failed { ref failures, .. } => Self::Failed {
                message: error.to_string(),
                details: failures.iter().map(|f| format!("{}: {}", f.step, f.cause)).collect(),
            },
            ConvergeError::Unstable { ref remaining } => {
                Self::Failed { message: error.to_string(), details: remaining.clone() }
            }
            ConvergeError::Observe(_) => Self::failed(chain(&error)),
        }
    }
}
