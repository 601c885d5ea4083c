//! One screen: what is configured, what is attached, what is dropped, what has drifted.

mod screen;

use std::{collections::BTreeMap, process::ExitCode};

use serde::Serialize;
use serde_json::{Value, json};
use viaduct_kernel::nft::DynamicCounter;
use viaduct_model::{Config, Mode, Source};
use viaduct_plan::{Attachments, Target};
use viaduct_reconcile::{Outlook, Store, Wish, look};
use viaduct_types::{GuestName, IfName, IpNet, NicId};

use super::target;
use crate::{
    cli::Global,
    failure::Failure,
    files,
    host::{Applied, applied, kernel, require_root},
    show::{self, say},
};

#[derive(Clone, Copy, Default, Serialize)]
struct Count {
    packets: u64,
    bytes: u64,
}

/// Dropped packets by device and reason.
type Drops = BTreeMap<IfName, BTreeMap<String, Count>>;

pub(super) fn run(global: &Global) -> Result<ExitCode, Failure> {
    require_root()?;
    let store = Store::read_only(&global.state_dir, &global.run_dir);
    let attachments = store.attachments()?;
    let Some(Applied { sources, config }) = applied(&store)? else {
        not_applied(global, &attachments);
        return Ok(ExitCode::SUCCESS);
    };
    let mut kernel = kernel(global)?;
    let outlook = look(&mut kernel, Wish::Be(&config, &attachments))?;
    let drops = drops(&kernel.nft().counters()?);
    let view = View {
        sources: &sources,
        config: &config,
        attachments: &attachments,
        outlook: &outlook,
        drops: &drops,
        edited: files::read(&global.config).is_ok_and(|now| now != sources),
    };
    if global.json {
        say!("{}", view.json());
    } else {
        view.print();
    }
    Ok(ExitCode::SUCCESS)
}

fn not_applied(global: &Global, attachments: &Attachments) {
    if global.json {
        let waiting: BTreeMap<_, _> = attachments.iter().collect();
        say!("{}", json!({ "applied": false, "daemon": { "pid": null }, "waiting": waiting }));
        return;
    }
    say!("No configuration is applied on this host.");
    for (id, target) in attachments {
        say!("{id} waits for it: {}.", target::words(target));
    }
}

fn drops(counters: &[DynamicCounter]) -> Drops {
    let mut drops = Drops::new();
    for counter in counters {
        let name = counter.key.split(|&b| b == 0).next().and_then(|n| std::str::from_utf8(n).ok());
        let (Some(Ok(device)), Some(reason)) = (name.map(str::parse), counter.set.strip_prefix("drop_"))
        else {
            continue;
        };
        let count = drops.entry(device).or_default().entry(reason.to_owned()).or_default();
        count.packets += counter.packets;
        count.bytes += counter.bytes;
    }
    drops
}

struct View<'a> {
    sources: &'a [Source],
    config: &'a Config,
    attachments: &'a Attachments,
    outlook: &'a Outlook,
    drops: &'a Drops,
    /// Whether the files say something else by now.
    edited: bool,
}

impl View<'_> {
    fn device(&self, id: &NicId) -> Option<&IfName> {
        Some(match self.attachments.get(id)? {
            Target::Netns { .. } => &self.config.nic(id)?.device,
            Target::Tap { name, .. } | Target::Device { name } => name,
        })
    }

    /// What of a NIC's attachment is true right now.
    fn state(&self, id: &NicId) -> &'static str {
        let Some(device) = self.device(id) else { return "detached" };
        match self.outlook.observed.links.get(device) {
            Some(link) if link.up => "up",
            Some(_) => "down",
            None => "gone",
        }
    }

    fn drops_of(&self, device: Option<&IfName>) -> BTreeMap<String, Count> {
        device.and_then(|d| self.drops.get(d)).cloned().unwrap_or_default()
    }

    /// The addresses of an uplink, which are its bridge's when it has one.
    fn addresses_of(&self, uplink: &IfName) -> Vec<IpNet> {
        let device = self.outlook.desired.moves.get(uplink).unwrap_or(uplink);
        let addresses = self.outlook.observed.addresses.keys().filter(|a| a.link == *device);
        addresses.map(|a| a.address).filter(|a| !is_link_local(*a)).collect()
    }

    /// Attachments of NICs that the configuration does not have.
    fn unknown(&self) -> BTreeMap<&NicId, &Target> {
        self.attachments.iter().filter(|(id, _)| self.config.nic(id).is_none()).collect()
    }

    fn json(&self) -> Value {
        let networks: BTreeMap<_, _> = self
            .config
            .networks
            .iter()
            .map(|(name, network)| {
                let (bridge, prefixes) = bridge_and_prefixes(&network.mode);
                (
                    name,
                    json!({
                        "mode": network.mode.word(),
                        "uplink": network.uplink,
                        "bridge": bridge,
                        "prefixes": prefixes,
                        "drops": self.drops_of(bridge),
                    }),
                )
            })
            .collect();
        let guests: BTreeMap<_, _> =
            self.config.guests.keys().map(|name| (name, self.guest_json(name))).collect();
        let uplinks: BTreeMap<_, _> = self
            .config
            .uplinks
            .iter()
            .map(|(name, uplink)| {
                let link = self.outlook.observed.links.get(&uplink.interface);
                (
                    name,
                    json!({
                        "interface": uplink.interface,
                        "up": link.map(|l| l.up),
                        "mac": link.and_then(|l| l.mac),
                        "bridge": link.and_then(|l| l.master.clone()),
                        "addresses": self.addresses_of(&uplink.interface),
                        "leaks": self.drops_of(Some(&uplink.interface)),
                    }),
                )
            })
            .collect();
        json!({
            "applied": true,
            "host": self.config.host,
            "files": self.sources.iter().map(|s| &s.name).collect::<Vec<_>>(),
            "edited": self.edited,
            "daemon": { "pid": null },
            "uplinks": uplinks,
            "networks": networks,
            "guests": guests,
            "unknown": self.unknown(),
            "drift": self.outlook.plan,
            "notices": show::notices_json(&self.outlook.notices),
        })
    }

    fn guest_json(&self, name: &GuestName) -> Value {
        let guest = &self.config.guests[name];
        let nics: Vec<Value> = guest
            .nics
            .iter()
            .zip(0u8..)
            .map(|(nic, index)| {
                let id = NicId { guest: name.clone(), index };
                json!({
                    "nic": id,
                    "name": nic.name,
                    "network": nic.network,
                    "mac": nic.mac,
                    "addresses": nic.addresses,
                    "attachment": self.attachments.get(&id),
                    "device": self.device(&id),
                    "state": self.state(&id),
                    "drops": self.drops_of(self.device(&id)),
                })
            })
            .collect();
        let publish: Vec<String> = guest.publish.iter().map(|p| p.publish.to_string()).collect();
        json!({ "nics": nics, "publish": publish })
    }
}

fn is_link_local(address: IpNet) -> bool {
    matches!(address, IpNet::V6(v6) if v6.addr().is_unicast_link_local())
}

fn bridge_and_prefixes(mode: &Mode) -> (Option<&IfName>, Vec<String>) {
    match mode {
        Mode::Nat { bridge, subnets, .. } | Mode::Isolated { bridge, subnets } => {
            (Some(bridge), subnets.iter().map(|s| s.prefix.to_string()).collect())
        }
        Mode::Routed { pool, .. } => (None, pool.iter().map(ToString::to_string).collect()),
        Mode::Bridged { bridge, .. } => (Some(bridge), Vec::new()),
        Mode::Vnet { subnets, .. } => (None, subnets.iter().map(ToString::to_string).collect()),
    }
}
