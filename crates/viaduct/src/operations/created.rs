//! Vnets and peers that commands make and take away.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use viaduct_reconcile::{Created, CreatedPeer, CreatedVnet};
use viaduct_types::{HostKey, IfName, PeerName, VnetId, VnetName};
use viaduct_vnet_io::control::Identity;

use super::{Caller, Changed, Operation, Remark};
use crate::{
    failure::Failure,
    host::Host,
    vnets::{endpoint, named},
};

/// A vnet that is asked for.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct VnetAsked {
    /// Up to four hex digits, or eight groups of them.
    #[schemars(with = "String")]
    pub(crate) id: VnetId,
    /// The bridge.
    #[schemars(with = "String")]
    pub(crate) bridge: IfName,
    /// The device that leads to the other hosts.
    #[schemars(with = "String")]
    pub(crate) interface: IfName,
    /// `conf`, `auth` or `none`.
    pub(crate) security: String,
}

/// Makes vnets that stay until they are taken away.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct VnetCreate {
    /// Which.
    pub(crate) vnets: Vec<VnetAsked>,
}

impl Operation for VnetCreate {
    const NAME: &'static str = "vnet-create";
    const WRITES: bool = true;
    type Report = Changed;

    fn perform(self, host: &mut Host, caller: &mut Caller<'_>) -> Result<Changed, Failure> {
        let situation = host.situation()?;
        let config = situation.config().ok_or_else(nothing_applied)?;
        let mut created = host.store.created()?;
        let mut ids = BTreeSet::new();
        for asked in self.vnets {
            if !ids.insert(asked.id) {
                return Err(Failure::usage(format!("the vnet {} is asked for twice", asked.id.short())));
            }
            let name: VnetName = name_of(asked.id)?;
            if let Some((known, _)) =
                config.vnets.iter().find(|(known, vnet)| vnet.id == asked.id || **known == name)
            {
                return Err(Failure::usage(format!(
                    "there is the vnet {known} of that id already; `viaduct vnet delete` takes it away, if no file has it"
                )));
            }
            if !["conf", "auth", "none"].contains(&asked.security.as_str()) {
                return Err(Failure::usage(format!("`{}` is no level of security", asked.security)));
            }
            let VnetAsked { id, bridge, interface, security } = asked;
            created.vnets.insert(name, CreatedVnet { id, bridge, interface, security });
        }
        make(host, created, caller)
    }
}

/// What a vnet is called that has only an id.
fn name_of(id: VnetId) -> Result<VnetName, Failure> {
    format!("vnet{}", id.short().replace(':', "-"))
        .parse()
        .map_err(|error| Failure::failed(format!("there is no name for the vnet {id}: {error}")))
}

/// Takes a vnet away that a command made.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct VnetDelete {
    /// Its id, or its name.
    pub(crate) vnet: String,
}

impl Operation for VnetDelete {
    const NAME: &'static str = "vnet-delete";
    const WRITES: bool = true;
    type Report = Changed;

    fn perform(self, host: &mut Host, caller: &mut Caller<'_>) -> Result<Changed, Failure> {
        let situation = host.situation()?;
        let config = situation.config().ok_or_else(nothing_applied)?;
        let mut created = host.store.created()?;
        let id = viaduct_model::sxp::vnet_id(&self.vnet).ok();
        let found =
            created.vnets.iter().find(|(name, vnet)| name.as_str() == self.vnet || Some(vnet.id) == id);
        let Some(name) = found.map(|(name, _)| name.clone()) else {
            let of_file =
                config.vnets.iter().any(|(name, vnet)| name.as_str() == self.vnet || Some(vnet.id) == id);
            return Err(Failure::usage(if of_file {
                format!(
                    "the vnet {} is of the configuration: take it out of the file, and apply that",
                    self.vnet
                )
            } else {
                format!("there is no vnet {}", self.vnet)
            }));
        };
        created.vnets.remove(&name);
        make(host, created, caller)
    }
}

/// Makes another host known.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct PeerAdd {
    /// Its name.
    #[schemars(with = "String")]
    pub(crate) name: PeerName,
    /// ADDRESS:PORT or NAME:PORT; none: it dials.
    #[serde(default)]
    pub(crate) endpoints: Vec<String>,
    /// As `viaduct identity` prints it there.
    #[schemars(with = "String")]
    pub(crate) key: HostKey,
}

impl Operation for PeerAdd {
    const NAME: &'static str = "peer-add";
    const WRITES: bool = true;
    type Report = Changed;

    fn perform(self, host: &mut Host, caller: &mut Caller<'_>) -> Result<Changed, Failure> {
        let situation = host.situation()?;
        let config = situation.config().ok_or_else(nothing_applied)?;
        let mut created = host.store.created()?;
        if config.peers.contains_key(&self.name) && !created.peers.contains_key(&self.name) {
            return Err(Failure::usage(format!("the configuration has a peer {} already", self.name)));
        }
        if Identity::known(host.store.state_dir()).as_ref() == Some(&self.key) {
            return Err(Failure::usage(
                "this is the key of this host itself, which is not its own peer: give --key what `viaduct identity` says on the other host",
            ));
        }
        if let Some(other) = named(config, &self.key).filter(|other| **other != self.name) {
            return Err(Failure::usage(format!(
                "the peer {other} has this key, and a host is one peer: give --key what `viaduct identity` says on that host, or \
                 run `viaduct peer add {other}` with all its endpoints"
            )));
        }
        if let Some(bad) = self.endpoints.iter().find(|text| endpoint(text).is_none()) {
            return Err(Failure::usage(format!("`{bad}` is no endpoint: write ADDRESS:PORT or NAME:PORT")));
        }
        created.peers.insert(self.name, CreatedPeer { endpoints: self.endpoints, key: self.key });
        make(host, created, caller)
    }
}

/// Forgets a host that a command made known.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct PeerDelete {
    /// Its name.
    #[schemars(with = "String")]
    pub(crate) name: PeerName,
}

impl Operation for PeerDelete {
    const NAME: &'static str = "peer-delete";
    const WRITES: bool = true;
    type Report = Changed;

    fn perform(self, host: &mut Host, caller: &mut Caller<'_>) -> Result<Changed, Failure> {
        let mut created = host.store.created()?;
        if created.peers.remove(&self.name).is_none() {
            return Err(Failure::usage(format!(
                "there is no peer {} that `peer add` made known; those of the configuration go with it",
                self.name
            )));
        }
        make(host, created, caller)
    }
}

fn nothing_applied() -> Failure {
    Failure::failed(
        "no configuration is applied on this host yet: run `viaduct apply` first; an uplink is enough",
    )
}

/// Makes the host what it is with these.
fn make(host: &mut Host, created: Created, caller: &mut Caller<'_>) -> Result<Changed, Failure> {
    let before = host.situation()?;
    let known = host.store.created()?;
    host.store.set_created(&created)?;
    let after = host.situation()?;
    match host.turn(Some(&before), &after, caller) {
        Ok(outcome) => Ok(Changed {
            done: outcome.done,
            notices: Remark::of_change(&outcome.notices, &before, &after),
            diagnostics: viaduct_model::Diagnostics::default(),
        }),
        Err(not_made) => {
            let failure = Failure::from(not_made);
            Err(match host.store.set_created(&known) {
                Ok(()) => failure,
                Err(error) => {
                    failure.with(format!("That it was not made could not be written down: {error}"))
                }
            })
        }
    }
}
