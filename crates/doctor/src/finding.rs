//! Findings, and what mends them.

use viaduct_types::NamespaceName;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gravity {
    /// Packets of guests are lost.
    Broken,
    /// They are lost under circumstances: for some packets, or when another program starts anew.
    Risk,
    /// Nothing shows that anything is lost: it cannot be seen from here, or is only slower than it could be.
    Note,
}

/// Something that is wrong on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of finding it is, the same in every version: `foreign-filter`, `rp-filter`, …
    pub kind: &'static str,
    /// How bad.
    pub gravity: Gravity,
    /// In the stack of which namespace; none: in the host's own.
    pub namespace: Option<NamespaceName>,
    /// What is wrong, in a line.
    pub title: String,
    /// Which networks and guests suffer.
    pub sufferers: Vec<String>,
    /// Why, in sentences.
    pub why: String,
    /// What mends it; none when nothing can be done from here.
    pub remedy: Option<Remedy>,
}

/// What mends a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// Whether it may be done without asking anybody: it can be repeated and taken back, and changes nothing for
    /// others.
    pub safe: bool,
    /// What is to be done, in this order.
    pub steps: Vec<Step>,
    /// How long it holds, what takes it back, what else could be done.
    pub remark: String,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A command for a shell.
    Run(String),
    /// One for a shell in a namespace.
    RunWithin(NamespaceName, String),
    /// A file with its whole text, for a directory of drop-ins.
    Write {
        /// Its absolute path.
        path: String,
        /// Its text.
        text: String,
    },
    /// Another program's file with a part of ours in it.
    Edit {
        /// Its absolute path.
        path: String,
        /// What is put in, with the line before which it stands.
        part: String,
        /// The whole text as it becomes.
        text: String,
    },
}

/// Of a table that the host has, though each stack counts by itself.
pub(crate) const CONNTRACK: &str = "conntrack";

impl Finding {
    /// In the stack of a namespace, where it is mended, too.
    pub(crate) fn within(self, namespace: &NamespaceName) -> Self {
        let inside = |step| match step {
            Step::Run(command) if self.kind != CONNTRACK => Step::RunWithin(namespace.clone(), command),
            step @ (Step::Run(_) | Step::RunWithin(..) | Step::Write { .. } | Step::Edit { .. }) => step,
        };
        Self {
            title: format!("in namespace {namespace}: {}", self.title),
            namespace: Some(namespace.clone()),
            remedy: self
                .remedy
                .map(|remedy| Remedy { steps: remedy.steps.into_iter().map(inside).collect(), ..remedy }),
            ..self
        }
    }
}
