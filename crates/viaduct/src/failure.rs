//! Errors as the user sees them: what was tried, what the matter is, what to do; and the exit status. They travel from
//! the daemon to its clients as they are.

use std::{fmt::Write as _, process::ExitCode};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use viaduct_model::Diagnostics;
use viaduct_reconcile::{Aftermath, ChangeError, ConvergeError, StoreError, chain};

use crate::{
    operations::Remark,
    show::{self, tell},
};

/// Why a command did not do what it was asked.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Failure {
    /// What kind of failure it is.
    pub(crate) kind: Kind,
    /// What went wrong, in a sentence.
    pub(crate) error: String,
    /// Details, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) details: Vec<String>,
    /// Why a configuration does not fit this host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) notices: Vec<Remark>,
    /// What is wrong in the configuration, with places.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<serde_json::Value>>")]
    pub(crate) diagnostics: Option<Box<Diagnostics>>,
    /// The same as a text for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) text: String,
}

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// The command line or the request does not fit together, or names what is not there.
    Usage,
    /// Files of the configuration cannot be read.
    Unreadable,
    /// The configuration is wrong.
    Configuration,
    /// The configuration is right by itself, but not on this host.
    Unfit,
    /// Whoever asks may not.
    Forbidden,
    /// Everything else.
    Failed,
}

impl Failure {
    fn new(kind: Kind, error: impl Into<String>) -> Self {
        let error = error.into();
        Self { kind, error, details: Vec::new(), notices: Vec::new(), diagnostics: None, text: String::new() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Files that cannot be read, a line each.
    pub(crate) fn unreadable(lines: Vec<String>) -> Self {
        Self { details: lines, ..Self::new(Kind::Unreadable, "the configuration cannot be read") }
    }

    pub(crate) fn unfit(notices: Vec<Remark>) -> Self {
        Self { notices, ..Self::new(Kind::Unfit, "the configuration does not fit this host") }
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Kind::Forbidden, message)
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// Adds a detail.
    pub(crate) fn with(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }

    pub(crate) fn code(&self) -> ExitCode {
        match self.kind {
            Kind::Usage | Kind::Unreadable | Kind::Configuration | Kind::Unfit => ExitCode::from(2),
            Kind::Forbidden | Kind::Failed => ExitCode::from(1),
        }
    }

    /// On standard error for people; on standard output as an object with `error` for programs.
    pub(crate) fn show(&self, json: bool) {
        if json {
            show::say_json(self);
            return;
        }
        match self.kind {
            Kind::Configuration => show::tell_text(&self.report()),
            Kind::Unreadable => self.details.iter().for_each(|line| tell!("error: {line}")),
            Kind::Unfit => self.notices.iter().for_each(|notice| tell!("{notice}")),
            Kind::Usage | Kind::Forbidden | Kind::Failed => tell!("error: {}", self.error),
        }
        if self.kind != Kind::Unreadable {
            self.details.iter().for_each(|detail| tell!("  {detail}"));
        }
    }

    /// What is wrong in the configuration: in colours, if possible. What came from elsewhere has lost them.
    fn report(&self) -> String {
        let here = self.diagnostics.as_ref().filter(|_| self.text.is_empty());
        here.map_or_else(|| self.text.clone(), |diagnostics| diagnostics.render(show::color_on_stderr()))
    }

    /// Ready to travel: what can be rendered only here is.
    pub(crate) fn packed(mut self) -> Self {
        if let Some(diagnostics) = &self.diagnostics {
            self.text = diagnostics.render(false);
        }
        self
    }

    /// It in a line, for a log.
    pub(crate) fn line(&self) -> String {
        let mut line = self.error.clone();
        for detail in self.details.iter().cloned().chain(self.notices.iter().map(ToString::to_string)) {
            let _ = write!(line, "; {detail}");
        }
        line
    }
}

impl From<Diagnostics> for Failure {
    fn from(diagnostics: Diagnostics) -> Self {
        let diagnostics = Some(Box::new(diagnostics));
        Self { diagnostics, ..Self::new(Kind::Configuration, "the configuration is wrong") }
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
            return Self::unfit(notices.iter().map(Remark::from).collect());
        }
        Self { details: details(&error), ..Self::failed(headline(&error)) }
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
        ConvergeError::Unstable { remaining, .. } => remaining.clone(),
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
