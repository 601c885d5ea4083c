//! What can go wrong with a machine.

use std::{io, path::PathBuf, time::Duration};

/// Why there is no machine, or no answer from it.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// A program that is needed does not run.
    #[error(
        "cannot run {program}, which Debian's package {package} has (scripts/prepare.sh test installs it)"
    )]
    Program {
        /// Its name.
        program: String,
        /// Where it is from.
        package: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program that is needed failed.
    #[error("{command} failed: {output}")]
    Command {
        /// Its command line.
        command: String,
        /// What it said.
        output: String,
    },
    /// Debian has no such package here.
    #[error(
        "apt knows no kernel of the name {package}; machines are made of Debian's kernel for amd64: \
         try `apt-get update`, or look whether this is Debian on amd64"
    )]
    NoKernel {
        /// The package.
        package: &'static str,
    },
    /// The kernel has no such module.
    #[error("Linux {release} has no module {module}")]
    NoModule {
        /// The kernel.
        release: String,
        /// The module.
        module: String,
    },
    /// A file could not be read or written.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The machine has ended, or its connection has.
    #[error("the machine has ended before it answered; QEMU said: {qemu}\nits console: {console}")]
    Ended {
        /// QEMU's words.
        qemu: String,
        /// The last lines of the console.
        console: String,
    },
    /// The machine does not answer.
    #[error("the machine does not answer within {} s; its console: {console}", limit.as_secs())]
    Silent {
        /// How long was waited.
        limit: Duration,
        /// The last lines of the console.
        console: String,
    },
}

impl VmError {
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}
