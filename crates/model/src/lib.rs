//! From TOML to a validated [`Config`], with every mistake reported at its place. Pure: file contents come in as
//! text, diagnostics go out as values.
#![forbid(unsafe_code)]

mod config;

pub use config::*;
