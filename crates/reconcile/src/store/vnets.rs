//! What belongs to vnets and is in no configuration: what was found out about their paths, which ends with a reboot, and
//! the vnets and peers that were made by a command, which stay until another one takes them away.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use viaduct_types::{HostKey, IfName, MacAddr, NicId, PeerName, VnetId, VnetName};

use super::{Store, StoreError, read, write};

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// What gets through, in bytes of IP packets inside.
    pub mtus: BTreeMap<VnetId, u32>,
    /// NICs of this host that have arrived at another one later.
    pub lost: BTreeMap<VnetId, BTreeSet<MacAddr>>,
    /// Where those are who are in vnets that nothing protects.
    #[serde(default)]
    pub reached: BTreeMap<VnetId, BTreeSet<IpAddr>>,
    /// NICs that are attached and wait, silent, for their guest to arrive.
    #[serde(default)]
    pub prepared: BTreeSet<NicId>,
}

/// What commands made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Created {
    /// Vnets.
    pub vnets: BTreeMap<VnetName, CreatedVnet>,
    /// Other hosts.
    pub peers: BTreeMap<PeerName, CreatedPeer>,
}

/// A vnet that a command made. Every peer that is known may belong to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreatedVnet {
    /// Its identity everywhere.
    pub id: VnetId,
    /// Its bridge.
    pub bridge: IfName,
    /// The device that leads to the other hosts.
    pub interface: IfName,
    /// `none`, `auth` or `conf`.
    pub security: String,
}

/// A host that a command made known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreatedPeer {
    /// ADDRESS:PORT or NAME:PORT.
    pub endpoints: Vec<String>,
    /// Who it is.
    pub key: HostKey,
}

impl Store {
    /// What was found out; what cannot be read is found out anew.
    pub fn found(&self) -> Found {
        read(&self.found_path(), "").ok().flatten().unwrap_or_default()
    }

    /// Remembers what was found out.
    ///
    /// # Errors
    /// When the file cannot be written; then the old one is still there.
    pub fn set_found(&self, found: &Found) -> Result<(), StoreError> {
        write(&self.found_path(), found)
    }

    /// What commands made.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn created(&self) -> Result<Created, StoreError> {
        let way_out =
            "Remove it, and make the vnets and peers again that `viaduct vnet create` and `peer add` made";
        Ok(read(&self.created_path(), way_out)?.unwrap_or_default())
    }

    /// Remembers what commands made.
    ///
    /// # Errors
    /// When the file cannot be written; then the old one is still there.
    pub fn set_created(&self, created: &Created) -> Result<(), StoreError> {
        write(&self.created_path(), created)
    }

    /// Where it is remembered what commands made.
    pub fn created_path(&self) -> PathBuf {
        self.state.join("vnets.json")
    }

    fn found_path(&self) -> PathBuf {
        self.run.join("vnets-found.json")
    }
}
