//! Where a guest is, for what runs there.

use serde_json::{Value, json};
use viaduct_kernel::{Netns, NetnsRef};
use viaduct_model::{Config, Hooks};
use viaduct_plan::{Attachments, Target};
use viaduct_reconcile::Store;
use viaduct_types::{NamespaceName, NicId};

use crate::{
    cli::Global,
    failure::Failure,
    operations::unknown,
    situation::{Applied, loaded},
};

/// Where a guest is.
pub(super) struct Inside {
    pub(super) netns: Netns,
    /// The namespace's name, if it has one under /run/netns.
    pub(super) name: Option<String>,
    /// Of the guest.
    pub(super) hooks: Hooks,
    /// Of the shared namespace that it lives in.
    pub(super) shared: Option<(NamespaceName, Hooks)>,
    /// Its devices, for hooks.
    pub(super) devices: Value,
}

/// Finds the namespace of a guest, or the shared one of that name.
pub(super) fn find(global: &Global, nic: &NicId) -> Result<Inside, Failure> {
    let store = Store::read_only(&global.state_dir, &global.run_dir);
    let attachments = store.attachments()?;
    // Without a configuration an attachment still says where a guest is.
    let applied = store.applied().ok().flatten().and_then(|sources| loaded(sources).ok());
    let config = applied.as_ref().map(|Applied { config, .. }| config);
    let guest = config.and_then(|config| config.guests.get(&nic.guest));
    let hooks = guest.map(|guest| guest.hooks.clone()).unwrap_or_default();
    let shared =
        guest.and_then(|guest| guest.namespace.clone()).or_else(|| shared(config, nic, &attachments));
    if let Some(name) = shared {
        let netns = Netns::find(&NetnsRef::Name(name.clone())).map_err(|error| {
            Failure::from(error).with("`viaduct apply` makes the namespaces of the configuration.")
        })?;
        let devices = config.map_or(Value::Null, |config| devices_of(config, &name));
        let of_namespace = config.and_then(|config| config.namespaces.get(&name));
        let of_namespace = of_namespace.map(|namespace| namespace.hooks.clone()).unwrap_or_default();
        let shared = guest.is_some().then(|| (name.clone(), of_namespace));
        return Ok(Inside { netns, name: Some(name.to_string()), hooks, shared, devices });
    }
    let path = match attachments.get(nic) {
        Some(Target::Netns { path, .. }) => path,
        Some(Target::Tap { name, .. } | Target::Device { name }) => {
            return Err(Failure::usage(format!(
                "{nic} is attached as the device {name}, so its network is inside a virtual machine: log in there"
            )));
        }
        None => {
            if config.is_none() {
                return Err(Failure::usage(format!(
                    "{nic} is not attached, and no configuration is applied yet: run `viaduct apply` first"
                )));
            }
            if let Some(config) = config.filter(|config| config.nic(nic).is_none()) {
                return Err(unknown(nic, config));
            }
            return Err(Failure::usage(format!(
                "{nic} is not attached, so it has no namespace: `viaduct attach {nic} --netns NAME` first"
            )));
        }
    };
    let nics = guest.map(|guest| &guest.nics).into_iter().flatten();
    let devices =
        nics.map(|nic| json!({ "name": nic.name, "mac": nic.mac, "addresses": nic.addresses })).collect();
    let name = path.strip_prefix("/run/netns/").map(str::to_owned);
    Ok(Inside { netns: Netns::open(path)?, name, hooks, shared: None, devices })
}

/// The shared namespace of that name; a guest that has it goes before.
fn shared(config: Option<&Config>, nic: &NicId, attachments: &Attachments) -> Option<NamespaceName> {
    let config = config.filter(|config| !config.guests.contains_key(&nic.guest))?;
    let (name, _) = config.namespaces.get_key_value(nic.guest.as_str())?;
    (!attachments.contains_key(nic)).then(|| name.clone())
}

fn devices_of(config: &Config, name: &NamespaceName) -> Value {
    let interfaces = config.namespaces.get(name).map(|namespace| &namespace.interfaces);
    interfaces
        .into_iter()
        .flatten()
        .map(|i| json!({ "name": i.name, "mac": i.mac, "addresses": i.addresses, "gateways": i.gateways }))
        .collect()
}
