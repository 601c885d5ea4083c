//! One screen: what is configured, what is attached, what is dropped, what has drifted.

use std::{collections::BTreeMap, process::ExitCode};

use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::{Value, json};
use viaduct_kernel::{Kernel, nft::DynamicCounter};
use viaduct_model::{Config, Mode};
use viaduct_plan::{Attachments, Severity, Target};
use viaduct_reconcile::{Outlook, Store, Wish, look};
use viaduct_types::{IfName, NicId};

use crate::{
    cli::Global,
    failure::Failure,
    host::{applied, require_root},
    show,
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
    let Some((sources, config)) = applied(&store)? else {
        if global.json {
            println!("{}", json!({ "applied": false, "daemon": { "pid": null } }));
        } else {
            println!("No configuration is applied on this host.");
        }
        return Ok(ExitCode::SUCCESS);
    };
    let attachments = store.attachments()?;
    let mut kernel = Kernel::new(&global.run_dir)?;
    let outlook = look(&mut kernel, Wish::Be(&config, &attachments))?;
    let drops = drops(&kernel.nft().counters()?);
    let view = View { config: &config, attachments: &attachments, outlook: &outlook, drops: &drops };
    if global.json {
        let files: Vec<&str> = sources.iter().map(|s| s.name.as_str()).collect();
        println!("{}", view.json(&files));
    } else {
        view.print();
    }
    Ok(ExitCode::SUCCESS)
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
    config: &'a Config,
    attachments: &'a Attachments,
    outlook: &'a Outlook,
    drops: &'a Drops,
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

    fn json(&self, files: &[&str]) -> Value {
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
                        "leaks": self.drops_of(Some(&uplink.interface)),
                    }),
                )
            })
            .collect();
        json!({
            "applied": true,
            "host": self.config.host,
            "files": files,
            "daemon": { "pid": null },
            "uplinks": uplinks,
            "networks": networks,
            "guests": guests,
            "drift": self.outlook.plan,
            "notices": self.outlook.notices.iter().map(show::notice_json).collect::<Vec<_>>(),
        })
    }

    fn guest_json(&self, name: &viaduct_types::GuestName) -> Value {
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

    fn print(&self) {
        println!("{}", self.config.host);
        let mut table = new_table(&["network", "mode", "uplink", "device", "prefixes", "dropped"]);
        for (name, network) in &self.config.networks {
            let (bridge, prefixes) = bridge_and_prefixes(&network.mode);
            table.add_row([
                name.to_string(),
                network.mode.word().to_owned(),
                network.uplink.as_ref().map(ToString::to_string).unwrap_or_default(),
                bridge.map_or_else(|| "a link per NIC".to_owned(), ToString::to_string),
                prefixes.join(" "),
                drops_text(&self.drops_of(bridge)),
            ]);
        }
        println!("{table}\n");
        let mut table = new_table(&["NIC", "state", "device", "addresses", "published", "dropped"]);
        for (id, nic) in self.config.nics() {
            let guest = &self.config.guests[&id.guest];
            let published = if id.index == 0 { guest.publish.as_slice() } else { &[] };
            table.add_row([
                id.to_string(),
                self.state(&id).to_owned(),
                self.device(&id).map(ToString::to_string).unwrap_or_default(),
                nic.addresses.iter().map(|a| a.addr().to_string()).collect::<Vec<_>>().join(" "),
                published.iter().map(|p| p.publish.to_string()).collect::<Vec<_>>().join(" "),
                drops_text(&self.drops_of(self.device(&id))),
            ]);
        }
        println!("{table}");
        for (name, uplink) in &self.config.uplinks {
            let leaks = self.drops_of(Some(&uplink.interface));
            if !leaks.is_empty() {
                println!("\nuplink {name}: held back foreign MACs: {}", drops_text(&leaks));
            }
        }
        for notice in self.outlook.notices.iter().filter(|n| n.severity == Severity::Warning) {
            println!("\n{notice}");
        }
        if self.outlook.plan.is_empty() {
            println!("\nThe kernel is as configured.");
        } else {
            println!("\nThe kernel has drifted; `viaduct apply` would do:");
            print!("{}", self.outlook.plan);
        }
    }
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().map(|h| h.to_uppercase()));
    table
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

fn drops_text(drops: &BTreeMap<String, Count>) -> String {
    drops.iter().map(|(reason, count)| format!("{reason} {}", count.packets)).collect::<Vec<_>>().join(", ")
}
