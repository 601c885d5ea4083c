//! Our nf_tables codec against the kernel, and against nft. Needs root: each test makes network namespaces of its
//! own, without names, which go with the thread that made them.
#![expect(clippy::unwrap_used, reason = "in tests; the lint's own exception does not reach their helpers")]

mod differential;
mod examples;
mod failures;
mod measure;
mod mixed;
mod parts;
mod round_trip;
mod support;
