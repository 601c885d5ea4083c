use std::{error::Error, fmt, io, path::PathBuf, sync::Arc};

use viaduct_types::{IfName, NamespaceName};

/// Why the kernel could not be looked at or changed. Says what was tried, on what, what the kernel said, and where
/// it is known, what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The kernel refused a request.
    #[error("{what}: {refusal}{}", advice(refusal.errno))]
    Refused {
        /// What was tried: the step's text, or what was to be read.
        what: String,
        /// What it said.
        refusal: Refusal,
    },
    /// The name of a link to be made is another link's.
    #[error(
        "{what}: the name {name} is taken by {holder}; rename or remove that device, or choose another name"
    )]
    NameTaken {
        /// The step's text.
        what: String,
        /// The name.
        name: IfName,
        /// What has it.
        holder: String,
    },
    /// An address or route stands already, but not as wanted.
    #[error("{what}: there is already {found}; remove it, or make it part of the configuration")]
    Differs {
        /// The step's text.
        what: String,
        /// What is there.
        found: String,
    },
    /// A setting that no namespace has, or this one does not.
    #[error(
        "{what}: the namespace has no such setting; what it has is shown by `sysctl -a` in it, and much of net.core and \
         net.netfilter is the whole machine's alone"
    )]
    NoSetting {
        /// The step's text.
        what: String,
    },
    /// A namespace that still holds a device of the host's, which would go with it.
    #[error("{what}: the host's device {device} is still in it, and could not be given back")]
    InTheWay {
        /// The step's text.
        what: String,
        /// Its name there.
        device: IfName,
    },
    /// A device that a step is about does not exist.
    #[error("{what}: there is no device {name}")]
    NoDevice {
        /// The step's text.
        what: String,
        /// Its name.
        name: IfName,
    },
    /// The links that are still there after they were deleted.
    #[error("{} still there after deletion; is another program making them anew?", Names(names))]
    NotDeleted {
        /// Their names.
        names: Vec<IfName>,
    },
    /// A system call failed.
    #[error("{what}: {source}{}", advice_for_files(source.raw_os_error().unwrap_or(0)))]
    System {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: Arc<io::Error>,
    },
    /// A network namespace cannot be used.
    #[error("network namespace {path}: {reason}")]
    Netns {
        /// Its path.
        path: String,
        /// What is wrong, and what to do.
        reason: NetnsReason,
    },
    /// The journal of sysctls cannot be read. Nothing is guessed: without it nobody knows what to restore.
    #[error(
        "the sysctl journal {} cannot be read: {reason}; restore it from a backup, or move it away: then settings \
         changed before stay as they are for ever, as if they were the owner's: what could forward may forward for others",
        path.display()
    )]
    Journal {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// What the host's devices were like that are in namespaces cannot be read. Nothing is guessed.
    #[error(
        "what the host's devices were like that moved into namespaces cannot be read from {}: {reason}; restore it from a \
         backup, or move it away: then they are given back by their names alone, without addresses",
        path.display()
    )]
    MovedDevices {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The packet filter could not be read or changed.
    #[error("packet filter: {source}")]
    Filter {
        /// Why.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The stack of a namespace could not be looked at.
    #[error("in namespace {namespace}: {cause}")]
    Stack {
        /// Whose.
        namespace: NamespaceName,
        /// Why.
        cause: Arc<Self>,
    },
    /// A step that was not done because the packet filter before it could not be put in.
    #[error("not done, because the packet filter could not be changed: {source}")]
    NotDone {
        /// Why.
        source: Arc<dyn Error + Send + Sync>,
    },
}

impl KernelError {
    pub(crate) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), source: Arc::new(source.into()) }
    }

    pub(crate) fn refused(what: impl Into<String>, refusal: Refusal) -> Self {
        Self::Refused { what: what.into(), refusal }
    }

    pub(crate) fn netns(path: impl Into<String>, reason: NetnsReason) -> Self {
        Self::Netns { path: path.into(), reason }
    }

    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal.errno),
            Self::System { source, .. } => source.raw_os_error(),
            Self::NameTaken { .. } | Self::Differs { .. } => Some(libc::EEXIST),
            Self::NoDevice { .. } => Some(libc::ENODEV),
            Self::Stack { cause, .. } => cause.errno(),
            Self::NotDeleted { .. }
            | Self::InTheWay { .. }
            | Self::NoSetting { .. }
            | Self::Netns { .. }
            | Self::Journal { .. }
            | Self::MovedDevices { .. }
            | Self::Filter { .. }
            | Self::NotDone { .. } => None,
        }
    }
}

/// A netlink request's negative answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// The error number, positive.
    pub errno: i32,
    /// The kernel's words, if it had any (extended ack).
    pub message: Option<String>,
}

impl Refusal {
    pub(crate) fn new(errno: i32) -> Self {
        Self { errno, message: None }
    }

    /// For answers that never came.
    pub(crate) fn lost(error: &io::Error) -> Self {
        Self {
            errno: error.raw_os_error().unwrap_or(libc::EIO),
            message: Some("the kernel's answer was lost".to_owned()),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        match &self.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}

/// What is wrong with a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetnsReason {
    /// Nothing there by this name.
    MissingName(String),
    /// Nothing there.
    MissingPath,
    /// No such process, or it ended.
    MissingProcess(u32),
    /// Something else stands there.
    NotNetns,
    /// It is the one that we are in.
    Own,
    /// It is the one that has another name, too, which is to have a stack of its own.
    SameAs(String),
    /// It cannot be opened or entered.
    Refused(i32),
}

impl NetnsReason {
    /// Whether there is nothing where the namespace should be.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::MissingName(_) | Self::MissingPath | Self::MissingProcess(_) => true,
            Self::NotNetns | Self::Own | Self::SameAs(_) | Self::Refused(_) => false,
        }
    }

    /// Whether there is no namespace besides the host's own.
    pub fn is_none(&self) -> bool {
        self.is_missing() || matches!(self, Self::NotNetns | Self::Own)
    }
}

impl fmt::Display for NetnsReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingName(name) => {
                write!(f, "does not exist; make it with `ip netns add {name}`, or attach with --pid or a path")
            }
            Self::MissingPath => f.write_str("does not exist; has the guest ended? attach it again when it runs"),
            Self::MissingProcess(pid) => write!(f, "there is no process {pid}; attach again with the guest's present one"),
            Self::NotNetns => f.write_str(
                "is not a network namespace; if it was left behind under /run/netns, delete it with `ip netns delete`",
            ),
            Self::Own => f.write_str(
                "is this host's own network namespace: is the guest running, with a network namespace of its own? A name \
                 that was given by mistake is taken away with `ip netns delete`",
            ),
            Self::SameAs(other) => write!(
                f,
                "is the same namespace as {other}, and each has to have a stack of its own: take the name away that was \
                 given by mistake, with `ip netns delete`"
            ),
            Self::Refused(errno) => write!(f, "{}{}", io::Error::from_raw_os_error(*errno), advice_for_files(*errno)),
        }
    }
}

fn advice(errno: i32) -> &'static str {
    match errno {
        libc::EPERM => "; run it as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN",
        libc::EPROTONOSUPPORT => "; load the modules nf_tables and nf_conntrack_netlink",
        libc::EMFILE => "; raise the limit of open files (ulimit -n)",
        _ => "",
    }
}

/// Netlink says EACCES for other reasons: of a device without IPv6, for one.
fn advice_for_files(errno: i32) -> &'static str {
    advice(if errno == libc::EACCES { libc::EPERM } else { errno })
}

struct Names<'a>(&'a [IfName]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        for (i, name) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{name}", if i > 0 { ", " } else { "" })?;
        }
        match self.0.len() {
            0 | 1 => f.write_str(" is"),
            n if n > SHOWN => write!(f, " and {} more are", n - SHOWN),
            _ => f.write_str(" are"),
        }
    }
}
