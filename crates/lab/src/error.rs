use std::{io, path::PathBuf};

use crate::file::Problems;

/// Why a lab could not be run. Expectations that do not hold are no error; the report has them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A file of the lab cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// `lab.toml` is wrong.
    #[error(transparent)]
    Wrong(Problems),
    /// No sentence contains the text that was asked for.
    #[error("no expectation of this lab contains {0:?}")]
    NothingSelected(String),
    /// The caller has threads already.
    #[error("a lab is started with a fork, which needs a process with one thread; this one has {0}")]
    Threads(usize),
    /// The kernel would not make the lab's own namespaces.
    #[error("cannot {what}{}", if source.kind() == io::ErrorKind::PermissionDenied { ": a lab needs root" } else { "" })]
    Sandbox {
        /// What was tried.
        what: &'static str,
        /// The kernel's word.
        source: io::Error,
    },
    /// Something inside the lab could not be set up.
    #[error("{what}{}{output}", if output.is_empty() { "" } else { "\n" })]
    Inside {
        /// What was tried, and where.
        what: String,
        /// What the program that failed said.
        output: String,
    },
    /// The lab's process ended before its work did.
    #[error("the lab ended by itself; was it killed?")]
    Ended,
    /// A lab of that name is up.
    #[error("the lab {name} is up already; `viaduct lab down {name}` ends it")]
    AlreadyUp {
        /// The lab's name.
        name: String,
    },
    /// No lab of that name is up.
    #[error("no lab {name} is up{}", if up.is_empty() { String::new() } else { format!("; up: {}", up.join(", ")) })]
    NotUp {
        /// The name asked for, or empty.
        name: String,
        /// Those that are.
        up: Vec<String>,
    },
    /// Several are up and none was named.
    #[error("several labs are up, name one: {}", .0.join(", "))]
    Several(Vec<String>),
    /// The lab has no machine of that name.
    #[error("the lab {lab} has no machine {machine:?}; it has {}", known.join(", "))]
    NoMachine {
        /// The lab's name.
        lab: String,
        /// The name asked for.
        machine: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// The record of a lab that is up cannot be read or written.
    #[error("cannot use the record {}", path.display())]
    Record {
        /// Its file.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
}
