//! The kernel crate against a real kernel, in network namespaces that each test makes for itself on threads of its
//! own; they go with those threads. The machine's namespace is never touched. Needs root.

#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

mod addresses;
mod announcements;
mod errors;
mod flows;
mod guests;
mod links;
mod sysctls;
mod timing;
mod watch;
mod world;
