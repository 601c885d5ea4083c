//! What can go wrong between us and nf_tables.

use std::io;

/// Why tables could not be read or changed. When a change fails, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// No socket; usually the kernel has no nf_tables.
    #[error("cannot open a netlink socket to nf_tables")]
    Open(#[source] io::Error),
    /// A request could not be handed over.
    #[error("cannot send {bytes} bytes to nf_tables")]
    Send {
        /// How long it was.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// An answer could not be taken.
    #[error("cannot read {what} from nf_tables")]
    Receive {
        /// Of what.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// An answer is not what the kernel's header files say.
    #[error("the kernel's list of nftables {what} cannot be understood")]
    Malformed {
        /// Of what.
        what: &'static str,
    },
    /// Others changed tables each time while ours were read.
    #[error(
        "nftables changed {attempts} times while they were read: another program rewrites its tables without pause"
    )]
    Unsettled {
        /// How often it was tried.
        attempts: u32,
    },
    /// The kernel refused a step, and with it the whole transaction.
    #[error("cannot {step}: {}{}", meaning(.source), detail(.message))]
    Refused {
        /// What it was to do: verb, object, element or rule.
        step: String,
        /// The kernel's own words, when it had any.
        message: Option<String>,
        /// The kernel's error.
        source: io::Error,
    },
    /// The transaction's fate was not told.
    #[error("nf_tables did not say whether it took {messages} messages: read its tables again")]
    Unanswered {
        /// How many were sent.
        messages: u32,
    },
    /// A rule or an element that no message can hold.
    #[error("a rule or an element is longer than a netlink attribute")]
    Overlong,
}

/// What an error number means for nf_tables (net/netfilter/nf_tables_api.c), where its common text would mislead.
fn meaning(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "something that it names does not exist",
        Some(libc::EEXIST | libc::ENOTEMPTY) => "it overlaps or contradicts what is there already",
        Some(libc::EBUSY) => "it contradicts what is there already, or is still in use",
        Some(libc::EOPNOTSUPP) => "the kernel does not support this here",
        Some(libc::EINVAL) => "the kernel takes it for malformed",
        Some(libc::ENODATA) => "it reads a register that nothing was written to",
        Some(libc::ENFILE) => "the set is full",
        Some(libc::ELOOP | libc::EMLINK) => "chains would jump in a circle or too deep",
        Some(libc::EPERM | libc::EACCES) => "this takes CAP_NET_ADMIN in this network namespace",
        Some(libc::ENOMEM | libc::ENOBUFS) => "the kernel has no memory for it",
        Some(libc::EAFNOSUPPORT) => "the kernel has no nf_tables for this family",
        _ => "the kernel refused",
    }
}

fn detail(message: &Option<String>) -> String {
    message.as_ref().map(|text| format!(" ({text})")).unwrap_or_default()
}
