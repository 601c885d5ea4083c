//! Vnets and peers that commands make and take away.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use viaduct_model::{Config, Endpoint};
use viaduct_reconcile::{Created, CreatedPeer, CreatedVnet, Store};
use viaduct_types::{HostKey, IfName, PeerName, VnetId, VnetName};
use viaduct_vnet_io::control::Identity;

use super::{Caller, Changed, Operation, Remark};
use crate::{
    failure::Failure,
    host::Host,
    situation::{Applied, Situation},
    vnets::named,
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
        change(host, caller, |situation, _, created| {
            let (applied, config) = applied(situation)?;
            for asked in self.vnets {
                let name: VnetName = name_of(asked.id)?;
                if created.vnets.contains_key(&name) && !situation.known.created.vnets.contains_key(&name) {
                    return Err(Failure::usage(format!("the vnet {} is asked for twice", asked.id.short())));
                }
                if let Some((known, vnet)) =
                    config.vnets.iter().find(|(known, vnet)| vnet.id == asked.id || **known == name)
                {
                    let what = if vnet.id == asked.id { "id" } else { "name" };
                    let way_out = if applied.config.vnets.contains_key(known) {
                        "it is of the configuration: take it out of the file, and apply that".to_owned()
                    } else {
                        format!("`viaduct vnet delete {known}` takes it away")
                    };
                    return Err(Failure::usage(format!(
                        "there is the vnet {known} of that {what} already; {way_out}"
                    )));
                }
                if !["conf", "auth", "none"].contains(&asked.security.as_str()) {
                    return Err(Failure::usage(format!("`{}` is no level of security", asked.security)));
                }
                let VnetAsked { id, bridge, interface, security } = asked;
                created.vnets.insert(name, CreatedVnet { id, bridge, interface, security });
            }
            Ok(())
        })
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
        change(host, caller, |situation, _, created| {
            let id = viaduct_model::sxp::vnet_id(&self.vnet).ok();
            let is_it = |name: &VnetName, its: VnetId| name.as_str() == self.vnet || Some(its) == id;
            let found = created.vnets.iter().find(|(name, vnet)| is_it(name, vnet.id));
            if let Some(name) = found.map(|(name, _)| name.clone()) {
                created.vnets.remove(&name);
                return Ok(());
            }
            let mut of_files = situation.config().into_iter().flat_map(|config| &config.vnets);
            Err(Failure::usage(if of_files.any(|(name, vnet)| is_it(name, vnet.id)) {
                format!(
                    "the vnet {} is of the configuration: take it out of the file, and apply that",
                    self.vnet
                )
            } else {
                // Nothing that somebody calls one is to reach a terminal as it stands.
                format!("there is no vnet {}", self.vnet.escape_debug())
            }))
        })
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
        change(host, caller, |situation, store, created| {
            let (applied, config) = applied(situation)?;
            if applied.config.peers.contains_key(&self.name) {
                return Err(Failure::usage(format!("the configuration has a peer {} already", self.name)));
            }
            if Identity::known(store.state_dir()).as_ref() == Some(&self.key) {
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
            for text in &self.endpoints {
                text.parse::<Endpoint>().map_err(|error| Failure::usage(error.to_string()))?;
            }
            created.peers.insert(self.name, CreatedPeer { endpoints: self.endpoints, key: self.key });
            Ok(())
        })
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
        change(host, caller, |_, _, created| match created.peers.remove(&self.name) {
            Some(_) => Ok(()),
            None => Err(Failure::usage(format!(
                "there is no peer {} that `peer add` made known; those of the configuration go with it",
                self.name
            ))),
        })
    }
}

/// What is applied, by the files alone and with all that there is beside them.
fn applied(situation: &Situation) -> Result<(&Applied, &Config), Failure> {
    situation.applied.as_deref().zip(situation.config()).ok_or_else(|| {
        Failure::failed(
            "no configuration is applied on this host yet: run `viaduct apply` first; an uplink is enough",
        )
    })
}

/// Changes what commands made, and makes the host what it is with that. `edit` is told what there is now.
fn change(
    host: &mut Host,
    caller: &mut Caller<'_>,
    edit: impl FnOnce(&Situation, &Store, &mut Created) -> Result<(), Failure>,
) -> Result<Changed, Failure> {
    let before = host.situation()?;
    let mut created = before.known.created.clone();
    edit(&before, &host.store, &mut created)?;
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
            Err(match host.store.set_created(&before.known.created) {
                Ok(()) => failure,
                Err(error) => {
                    failure.with(format!("That it was not made could not be written down: {error}"))
                }
            })
        }
    }
}
