//! What is configured, what is attached, what is dropped, what has drifted.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use viaduct_kernel::nft::DynamicCounter;
use viaduct_model::{CableEnd, Config, Guest, InterfaceKind, Mode, NamespaceInterface, Nic};
use viaduct_plan::{Attachments, Observed, Target};
use viaduct_reconcile::{Outlook, look};
use viaduct_types::{GuestName, IfName, IpNet, MacAddr, NamespaceName, NetworkName, NicId, UplinkName};

use super::{Caller, Operation, Remark, VnetsReport, attach::device, confirm, vnets};
use crate::{failure::Failure, files, host::Host, situation::Applied};

/// Looks at the host.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Status {}

/// How the host is.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct StatusReport {
    /// Whether a configuration is applied; if not, what follows of it is not there.
    pub(crate) applied: bool,
    /// Who keeps the host as it is.
    pub(crate) daemon: Daemon,
    /// Seconds until the last change is taken back, unless it is confirmed.
    pub(crate) unconfirmed: Option<u64>,
    /// Attachments of NICs that the configuration does not have.
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub(crate) unknown: BTreeMap<NicId, Target>,
    #[serde(flatten)]
    pub(crate) made: Option<Made>,
}

/// The daemon of this host.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Daemon {
    /// Its process; none when none runs.
    pub(crate) pid: Option<u32>,
    /// What it put right lately, oldest first.
    #[serde(default)]
    pub(crate) repairs: Vec<Repair>,
    /// What another program keeps changing, so that it is left alone for a while.
    #[serde(default)]
    pub(crate) disputed: Vec<String>,
    /// Why it cannot make the host as it should be.
    #[serde(default)]
    pub(crate) trouble: Option<String>,
}

/// Something that the daemon put right.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Repair {
    /// When, UTC.
    pub(crate) time: String,
    /// What others had changed, with who it was where that is known.
    pub(crate) changed: Vec<String>,
    /// What was done about it, a line each.
    pub(crate) done: Vec<String>,
}

/// What the host was made.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Made {
    /// The host's name.
    pub(crate) host: String,
    /// The files as they were applied.
    pub(crate) files: Vec<String>,
    /// Whether the files say something else by now.
    pub(crate) edited: bool,
    #[schemars(with = "BTreeMap<String, UplinkStatus>")]
    pub(crate) uplinks: BTreeMap<UplinkName, UplinkStatus>,
    #[schemars(with = "BTreeMap<String, NetworkStatus>")]
    pub(crate) networks: BTreeMap<NetworkName, NetworkStatus>,
    /// Namespaces that guests share.
    #[schemars(with = "BTreeMap<String, NamespaceStatus>")]
    pub(crate) namespaces: BTreeMap<NamespaceName, NamespaceStatus>,
    #[schemars(with = "BTreeMap<String, GuestStatus>")]
    pub(crate) guests: BTreeMap<GuestName, GuestStatus>,
    /// Vnets and the hosts that share them.
    pub(crate) vnets: VnetsReport,
    /// What it takes to put the kernel right, step by step.
    pub(crate) drift: Vec<String>,
    /// The same for people: what belongs together in a line.
    pub(crate) drift_lines: Vec<String>,
    /// What is to be said about the configuration on this host.
    pub(crate) notices: Vec<Remark>,
}

/// Dropped packets by reason.
pub(crate) type Drops = BTreeMap<String, Count>;

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Count {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Count {
    /// What was added since; all of it, when counting began anew.
    pub(crate) fn since(self, before: Self) -> Self {
        if self.packets < before.packets {
            return self;
        }
        Self { packets: self.packets - before.packets, bytes: self.bytes.saturating_sub(before.bytes) }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct UplinkStatus {
    #[schemars(with = "String")]
    pub(crate) interface: IfName,
    /// The namespace whose interface it is, if not the host's.
    #[schemars(with = "Option<String>")]
    pub(crate) namespace: Option<NamespaceName>,
    /// None when the device is not there.
    pub(crate) up: Option<bool>,
    #[schemars(with = "Option<String>")]
    pub(crate) mac: Option<MacAddr>,
    #[schemars(with = "Option<String>")]
    pub(crate) bridge: Option<IfName>,
    /// The addresses of its bridge when it has one.
    #[schemars(with = "Vec<String>")]
    pub(crate) addresses: Vec<IpNet>,
    /// Frames that were not let out.
    pub(crate) leaks: Drops,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct NetworkStatus {
    pub(crate) mode: String,
    /// The namespace that it is in, if not on the host.
    #[schemars(with = "Option<String>")]
    pub(crate) namespace: Option<NamespaceName>,
    #[schemars(with = "Option<String>")]
    pub(crate) uplink: Option<UplinkName>,
    #[schemars(with = "Option<String>")]
    pub(crate) bridge: Option<IfName>,
    /// The VLAN of the uplink that it is on.
    pub(crate) vlan: Option<u16>,
    /// The VLANs that its NICs may be on, like `2, 10-20`.
    pub(crate) vlans: Option<String>,
    pub(crate) prefixes: Vec<String>,
    pub(crate) drops: Drops,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct NamespaceStatus {
    /// `up`, or `gone`.
    pub(crate) state: String,
    /// Whether it was there before, so that it stays when it is no longer wanted.
    pub(crate) adopted: bool,
    /// The guests that share it.
    #[schemars(with = "Vec<String>")]
    pub(crate) guests: Vec<GuestName>,
    pub(crate) interfaces: Vec<InterfaceStatus>,
    /// The routing rules that are there of those that are wanted.
    pub(crate) rules: Vec<String>,
    /// What the settings are that the configuration sets.
    pub(crate) sysctls: BTreeMap<String, String>,
}

/// A device in a shared namespace.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct InterfaceStatus {
    #[schemars(with = "String")]
    pub(crate) name: IfName,
    /// Like `vlan 2 of eth0`.
    pub(crate) kind: String,
    #[schemars(with = "String")]
    pub(crate) mac: Option<MacAddr>,
    #[schemars(with = "Vec<String>")]
    pub(crate) addresses: Vec<IpNet>,
    /// `up`, `down` or `gone`.
    pub(crate) state: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct GuestStatus {
    /// The shared namespace that it lives in.
    #[schemars(with = "Option<String>")]
    pub(crate) namespace: Option<NamespaceName>,
    pub(crate) nics: Vec<NicStatus>,
    /// Published ports.
    pub(crate) publish: Vec<String>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct NicStatus {
    #[schemars(with = "String")]
    pub(crate) nic: NicId,
    /// Its name for the guest.
    #[schemars(with = "String")]
    pub(crate) name: IfName,
    #[schemars(with = "String")]
    pub(crate) network: NetworkName,
    #[schemars(with = "String")]
    pub(crate) mac: MacAddr,
    #[schemars(with = "Vec<String>")]
    pub(crate) addresses: Vec<IpNet>,
    /// The VLAN that it is on without tags, of a network with VLANs.
    pub(crate) vlan: Option<u16>,
    /// Those that it is on with tags, like `2, 10-20`.
    pub(crate) trunk: Option<String>,
    #[schemars(with = "Option<serde_json::Value>")]
    pub(crate) attachment: Option<Target>,
    /// The host's device for it, when it is attached.
    #[schemars(with = "Option<String>")]
    pub(crate) device: Option<IfName>,
    /// `up`, `down`, `gone` or `detached`; on a vnet also `prepared`, silent until its guest arrives, or `elsewhere`, silent
    /// because it has arrived at another host since.
    pub(crate) state: String,
    pub(crate) drops: Drops,
}

impl Operation for Status {
    const NAME: &'static str = "status";
    const WRITES: bool = false;
    const QUERY: bool = true;
    type Report = StatusReport;

    fn perform(self, host: &mut Host, _: &mut Caller<'_>) -> Result<StatusReport, Failure> {
        let situation = host.situation()?;
        let known = |id: &NicId| situation.config().is_some_and(|config| config.nic(id).is_some());
        let mut report = StatusReport {
            applied: situation.applied.is_some(),
            daemon: host.daemon.clone(),
            unconfirmed: confirm::left(host)?,
            unknown: situation
                .attachments
                .iter()
                .filter(|(id, _)| !known(id))
                .map(|(id, t)| (id.clone(), t.clone()))
                .collect(),
            made: None,
        };
        if let (Some(applied), Some(config)) = (&situation.applied, situation.config()) {
            let outlook = look(&mut host.kernel, situation.wish())?;
            let drops = drops(host, config)?;
            let view = View {
                applied,
                config,
                attachments: situation.attached(),
                outlook: &outlook,
                drops: &drops,
                vnets: vnets::report(host, &situation, &drops, vnets::MOST_MACS),
            };
            let edited = files::read(&host.config).is_ok_and(|now| now != applied.sources);
            report.made = Some(view.made(edited));
        }
        Ok(report)
    }
}

/// Dropped packets by device, with the namespace in whose stack it is, and reason.
pub(crate) type AllDrops = BTreeMap<(Option<NamespaceName>, IfName), Drops>;

/// Dropped packets, in all stacks.
pub(crate) fn drops(host: &mut Host, config: &Config) -> Result<AllDrops, Failure> {
    let mut drops = AllDrops::new();
    count(None, &host.kernel.nft().counters()?, &mut drops);
    for name in config.stacks() {
        // One that is gone has dropped nothing; that it is gone is told elsewhere.
        if let Ok(counters) = host.kernel.within(name, |kernel| kernel.nft().counters()) {
            count(Some(name), &counters?, &mut drops);
        }
    }
    Ok(drops)
}

fn count(namespace: Option<&NamespaceName>, counters: &[DynamicCounter], drops: &mut AllDrops) {
    for counter in counters {
        let name = counter.key.split(|&b| b == 0).next().and_then(|n| std::str::from_utf8(n).ok());
        let (Some(Ok(device)), Some(reason)) = (name.map(str::parse), counter.set.strip_prefix("drop_"))
        else {
            continue;
        };
        let of_device = drops.entry((namespace.cloned(), device)).or_default();
        let count = of_device.entry(reason.to_owned()).or_default();
        count.packets += counter.packets;
        count.bytes += counter.bytes;
    }
}

struct View<'a> {
    applied: &'a Applied,
    /// With the addresses that are lent.
    config: &'a Config,
    attachments: &'a Attachments,
    outlook: &'a Outlook,
    drops: &'a AllDrops,
    vnets: VnetsReport,
}

impl View<'_> {
    fn made(&self, edited: bool) -> Made {
        let config = self.config();
        Made {
            host: config.host.to_string(),
            files: self.applied.sources.iter().map(|source| source.name.clone()).collect(),
            edited,
            uplinks: config.uplinks.keys().map(|name| (name.clone(), self.uplink(name))).collect(),
            networks: config.networks.keys().map(|name| (name.clone(), self.network(name))).collect(),
            namespaces: config.namespaces.keys().map(|name| (name.clone(), self.namespace(name))).collect(),
            guests: config.guests.iter().map(|(name, g)| (name.clone(), self.guest(name, g))).collect(),
            vnets: self.vnets.clone(),
            drift: self.outlook.plan.steps(),
            drift_lines: self.outlook.plan.lines(),
            notices: Remark::all(&self.outlook.notices),
        }
    }

    fn config(&self) -> &Config {
        self.config
    }

    fn uplink(&self, name: &UplinkName) -> UplinkStatus {
        let uplink = &self.config().uplinks[name];
        let (interface, stack) = (&uplink.interface, uplink.namespace.as_ref());
        let link = self.observed(stack).and_then(|there| there.links.get(interface));
        UplinkStatus {
            interface: interface.clone(),
            namespace: stack.cloned(),
            up: link.map(|link| link.up),
            mac: link.and_then(|link| link.mac),
            bridge: link.and_then(|link| link.master.clone()),
            addresses: self.addresses_of(stack, interface),
            leaks: self.drops_of(stack, Some(interface)),
        }
    }

    /// The addresses of an uplink, which are its bridge's when it has one.
    fn addresses_of(&self, stack: Option<&NamespaceName>, uplink: &IfName) -> Vec<IpNet> {
        let desired = &self.outlook.desired;
        let desired = stack.map_or(Some(desired), |stack| desired.stack(stack));
        let device = desired.and_then(|desired| desired.moves.get(uplink)).unwrap_or(uplink);
        let addresses = self.observed(stack).into_iter().flat_map(|there| there.addresses.keys());
        let addresses = addresses.filter(|a| a.link == *device);
        addresses.map(|a| a.address).filter(|a| !is_link_local(*a)).collect()
    }

    fn network(&self, name: &NetworkName) -> NetworkStatus {
        let network = &self.config().networks[name];
        let (bridge, prefixes) = bridge_and_prefixes(&network.mode);
        let (vlan, vlans) = match &network.mode {
            Mode::Bridged { vlan, vlans, .. } => (vlan.as_ref(), vlans.as_ref()),
            Mode::Nat { .. } | Mode::Routed { .. } | Mode::Isolated { .. } | Mode::Vnet { .. } => {
                (None, None)
            }
        };
        let (vlan, vlans) = (vlan.map(|vlan| vlan.id), vlans.map(ToString::to_string));
        NetworkStatus {
            mode: network.mode.word().to_owned(),
            namespace: network.namespace.clone(),
            uplink: network.uplink.clone(),
            bridge: bridge.cloned(),
            vlan,
            vlans,
            prefixes,
            drops: self.drops_of(network.namespace.as_ref(), bridge),
        }
    }

    fn namespace(&self, name: &NamespaceName) -> NamespaceStatus {
        let seen = self.outlook.observed.namespaces.get(name);
        let lives_here =
            |(_, guest): &(&GuestName, &Guest)| guest.namespace.as_ref() == Some(name) && !guest.is_namespace;
        let written = self.config().namespaces.get(name).into_iter().flat_map(|n| &n.interfaces);
        let wanted = self.outlook.desired.namespaces.get(name);
        let kind = |interface: &NamespaceInterface| match &interface.kind {
            InterfaceKind::Veth { device, end } => match end {
                CableEnd::Network(network) => format!("veth to network {network} ({device})"),
                CableEnd::Bridge(bridge) => format!("veth to bridge {bridge} ({device})"),
            },
            InterfaceKind::Vlan { .. }
            | InterfaceKind::Macvlan { .. }
            | InterfaceKind::Ipvlan { .. }
            | InterfaceKind::Device { .. } => {
                let made = wanted.and_then(|wanted| wanted.devices.get(&interface.name));
                made.map(|made| made.kind.to_string()).unwrap_or_default()
            }
        };
        let interfaces = written.map(|interface| {
            let device = seen.and_then(|seen| seen.devices.get(&interface.name));
            InterfaceStatus {
                name: interface.name.clone(),
                kind: kind(interface),
                mac: interface.mac.or_else(|| device.and_then(|device| device.mac)),
                addresses: interface.addresses.clone(),
                state: up(device.map(|device| device.up)).to_owned(),
            }
        });
        NamespaceStatus {
            state: if seen.is_some() { "up" } else { "gone" }.to_owned(),
            adopted: seen.is_some_and(|seen| !seen.ours),
            guests: self.config().guests.iter().filter(lives_here).map(|(name, _)| name.clone()).collect(),
            interfaces: interfaces.collect(),
            rules: seen.into_iter().flat_map(|seen| &seen.rules).map(ToString::to_string).collect(),
            sysctls: seen
                .into_iter()
                .flat_map(|seen| &seen.sysctls)
                .map(|(key, value)| (key.to_string(), value.clone()))
                .collect(),
        }
    }

    fn guest(&self, name: &GuestName, guest: &Guest) -> GuestStatus {
        let nics = guest.nics.iter().zip(0u8..).map(|(nic, index)| {
            let id = NicId { guest: name.clone(), index };
            let attachment = self.attachments.get(&id);
            let device = attachment.map(|target| device(nic, target));
            let stack = self.config().stack_of_nic(nic);
            NicStatus {
                name: nic.name.clone(),
                network: nic.network.clone(),
                mac: nic.mac,
                addresses: nic.addresses.clone(),
                vlan: nic.vlan,
                trunk: (!nic.trunk.is_empty()).then(|| nic.trunk.to_string()),
                attachment: attachment.cloned(),
                device: device.cloned(),
                state: self.state_of(nic, stack, device).to_owned(),
                drops: self.drops_of(stack, device),
                nic: id,
            }
        });
        GuestStatus {
            namespace: guest.namespace.clone(),
            nics: nics.collect(),
            publish: guest.publish.iter().map(|publish| publish.publish.to_string()).collect(),
        }
    }

    /// How a NIC is.
    fn state_of(&self, nic: &Nic, stack: Option<&NamespaceName>, device: Option<&IfName>) -> &'static str {
        let network = self.config.networks.get(&nic.network);
        let vnet = network.and_then(|network| match &network.mode {
            Mode::Vnet { vnet, .. } => self.config.vnets.get(vnet),
            Mode::Nat { .. } | Mode::Routed { .. } | Mode::Bridged { .. } | Mode::Isolated { .. } => None,
        });
        match (self.state(stack, device), vnet) {
            ("up", Some(vnet)) if vnet.prepared.contains(&nic.mac) => "prepared",
            ("up", Some(vnet)) if vnet.lost.contains(&nic.mac) => "elsewhere",
            (state, _) => state,
        }
    }

    /// What of a NIC's attachment is true right now.
    fn state(&self, stack: Option<&NamespaceName>, device: Option<&IfName>) -> &'static str {
        let Some(device) = device else { return "detached" };
        up(self.observed(stack).and_then(|there| there.links.get(device)).map(|link| link.up))
    }

    /// What the stack of a namespace has, or the host's.
    fn observed(&self, stack: Option<&NamespaceName>) -> Option<&Observed> {
        let observed = &self.outlook.observed;
        stack.map_or(Some(observed), |stack| observed.stacks.get(stack))
    }

    fn drops_of(&self, stack: Option<&NamespaceName>, device: Option<&IfName>) -> Drops {
        let drops = device.and_then(|device| self.drops.get(&(stack.cloned(), device.clone())));
        drops.cloned().unwrap_or_default()
    }
}

/// Of a device that may not be there.
fn up(is_up: Option<bool>) -> &'static str {
    is_up.map_or("gone", |up| if up { "up" } else { "down" })
}

fn is_link_local(address: IpNet) -> bool {
    matches!(address, IpNet::V6(v6) if v6.addr().is_unicast_link_local())
}

fn bridge_and_prefixes(mode: &Mode) -> (Option<&IfName>, Vec<String>) {
    match mode {
        Mode::Vnet { bridge, subnets, .. } => {
            (Some(bridge), subnets.iter().map(ToString::to_string).collect())
        }
        Mode::Nat { bridge, subnets, .. } | Mode::Isolated { bridge, subnets } => {
            (Some(bridge), subnets.iter().map(|s| s.prefix.to_string()).collect())
        }
        Mode::Routed { pool, .. } => (None, pool.iter().map(ToString::to_string).collect()),
        Mode::Bridged { bridge, .. } => (Some(bridge), Vec::new()),
    }
}
