//! From TOML to a validated [`Config`], with every mistake reported at its place. Pure: file contents come in as
//! text, diagnostics go out as values.
//!
//! The way of a configuration: `tree` parses the files into one tree with places, `raw` says what can be written and
//! reads it by means of `shape`, `convert` fills in defaults and checks that it fits together. All of them put what is
//! wrong into one `report`, and go on.
#![forbid(unsafe_code)]

mod claims;
mod config;
mod convert;
mod diagnostics;
pub mod edit;
pub mod import;
pub mod ipam;
mod lease;
mod names;
mod raw;
mod report;
mod schema;
mod shape;
mod stacks;
mod suggest;
pub mod sxp;
mod tree;

pub use config::*;
pub use diagnostics::*;
pub use ipam::Family;
pub use lease::{AVOIDED, Lease, Leases, lends, written_addresses};
pub use schema::schema;
pub use shape::{Address, ParseTextError};
pub use suggest::nearest;

use std::collections::BTreeMap;

use report::{Report, Span};
use shape::Read;
use viaduct_types::{HostKey, IfName, PeerName, VnetId, VnetName};

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As it is shown in messages; usually its path.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// A configuration that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What the files say.
    pub config: Config,
    /// What they probably do not mean.
    pub warnings: Diagnostics,
}

/// A vnet of this host that a command made: its devices are there, and nothing is in the files of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeVnet {
    /// Its identity everywhere.
    pub id: VnetId,
    /// Its bridge.
    pub bridge: IfName,
    /// The device that leads to the other hosts.
    pub interface: IfName,
    /// What protects its frames: where nothing does, there is a second device.
    pub security: Security,
}

/// What of a host does not stand in its files, and matters for what may stand there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// The vnets that commands made: the files cannot use their devices for something else. A vnet of the files takes the
    /// place of one with its id or its name.
    pub vnets: BTreeMap<VnetName, MadeVnet>,
    /// The keys of peers that commands made known. A peer of the files takes the place of one with its key or its name.
    pub peers: BTreeMap<PeerName, HostKey>,
    /// The host's own key, where it has one: nobody is its own peer.
    pub key: Option<HostKey>,
}

/// Reads a configuration from its files. Their tables add to each other; a key that two of them define is an error.
///
/// # Errors
/// Everything that is wrong in any of the files, warnings included.
pub fn load(sources: &[Source]) -> Result<Loaded, Diagnostics> {
    load_beside(sources, &Beside::default())
}

/// The same for a host of which more is known.
///
/// # Errors
/// Everything that is wrong in any of the files, warnings included.
pub fn load_beside(sources: &[Source], beside: &Beside) -> Result<Loaded, Diagnostics> {
    let mut report = Report::new(sources);
    let tree = tree::read(sources, &mut report);
    let root = tree::Node { value: tree::Value::Table(tree), span: Span::new(0, 0..0) };
    let config = raw::Root::read(&root, &mut report).map(|root| convert::convert(&root, beside, &mut report));
    match config {
        Some(mut config) if !report.has_errors() => {
            config.shrink_to_fit();
            Ok(Loaded { config, warnings: report.finish() })
        }
        Some(_) | None => Err(report.finish()),
    }
}
