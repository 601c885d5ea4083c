//! Settings of the kernel and of devices.

use std::collections::BTreeSet;

use viaduct_model::{Mode, Network, Security, Vnet};
use viaduct_plan::{RouteKind, Severity};
use viaduct_types::{IfName, NetworkName, UplinkName, VnetName};

use crate::{
    Facts, Finding, Gravity, Patient, Remedy, Step,
    finding::CONNTRACK,
    patient::{BRIDGE_NF, Place, bridge, rp_filter},
};

/// Makers of machines whose networks take frames of registered MACs only, as they say in their documentation.
const LOCKING: [&str; 2] = ["Hetzner", "OVH"];

pub(crate) fn findings(patient: &Patient<'_>, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(notices(patient));
    findings.extend(forwarding(patient, facts));
    findings.extend(reverse_path(patient, facts));
    findings.extend(mtu(patient));
    findings.extend(connections(patient, facts));
    findings.extend(foreign_macs(patient, facts));
    findings.extend(slow_vnets(patient, facts));
    findings
}

/// What a host that is applied to is told anyway: missing features of the kernel, overlapping subnets.
fn notices<'a>(patient: &'a Patient<'_>) -> impl Iterator<Item = Finding> + 'a {
    patient.notices.iter().map(|notice| Finding {
        kind: "configuration",
        gravity: match notice.severity {
            Severity::Error => Gravity::Broken,
            Severity::Warning => Gravity::Note,
        },
        namespace: None,
        title: notice.text.clone(),
        sufferers: Vec::new(),
        why: notice.origin.as_ref().map(|origin| format!("It is asked for in {origin}.")).unwrap_or_default(),
        remedy: None,
    })
}

/// The networks of which something is true.
fn networks<'a>(patient: &Patient<'a>, is: impl Fn(&Network) -> bool) -> BTreeSet<Place<'a>> {
    let networks = patient.config.networks.iter().filter(|(_, network)| is(network));
    networks.map(|(name, _)| Place::Network(name)).collect()
}

fn set(path: &str, value: &str) -> Step {
    Step::Run(format!("echo {value} >/proc/sys/{path}"))
}

fn forwarding(patient: &Patient<'_>, facts: &Facts) -> Option<Finding> {
    let wanted = patient.desired.sysctls.iter().filter(|(key, _)| key.path().ends_with("/forwarding"));
    let off: Vec<&str> = wanted
        .filter(|(key, setting)| {
            patient.observed.sysctls.get(*key).is_some_and(|value| *value != setting.value)
        })
        .map(|(key, _)| key.path())
        .collect();
    if off.is_empty() {
        return None;
    }
    let culprits: Vec<&str> = facts
        .files
        .iter()
        .filter(|file| file.path.starts_with("/etc/sysctl") && switches_off(&file.text))
        .map(|file| file.path.as_str())
        .collect();
    let mut why = format!(
        "{} {} 0, so the kernel forwards nothing there.",
        off.join(", "),
        if off.len() == 1 { "is" } else { "are" }
    );
    if !culprits.is_empty() {
        why.push_str(&format!(" {} switches it off whenever it is loaded: correct it.", culprits.join(", ")));
    }
    Some(Finding {
        kind: "forwarding",
        gravity: Gravity::Broken,
        namespace: None,
        title: "forwarding is off".to_owned(),
        sufferers: patient
            .sufferers(networks(patient, |n| matches!(n.mode, Mode::Nat { .. } | Mode::Routed { .. }))),
        why,
        remedy: Some(Remedy {
            safe: true,
            steps: off.into_iter().map(|path| set(path, "1")).collect(),
            remark: "`viaduct daemon` puts it right by itself, whoever switches it off.".to_owned(),
        }),
    })
}

fn switches_off(text: &str) -> bool {
    text.lines().filter_map(|line| line.split_once('=')).any(|(key, value)| {
        let key = key.trim().trim_start_matches('-').replace('/', ".");
        value.trim() == "0" && (key == "net.ipv4.ip_forward" || key.ends_with(".all.forwarding"))
    })
}

/// An uplink that is not the way back to those who send by it, with a filter that wants it to be (RFC 3704 strict).
fn reverse_path(patient: &Patient<'_>, facts: &Facts) -> Vec<Finding> {
    let strict = |device: &IfName| {
        let of_all = facts.number("net/ipv4/conf/all/rp_filter").unwrap_or(0);
        // The kernel takes the higher one (IN_DEV_RPFILTER).
        facts.number(&rp_filter(device)).is_some_and(|own| own.max(of_all) == 1)
    };
    let default = patient
        .observed
        .routes
        .iter()
        .filter(|r| {
            r.destination.prefix_len() == 0 && r.destination.addr().is_ipv4() && r.kind == RouteKind::Unicast
        })
        .min_by_key(|r| r.metric)
        .and_then(|route| route.link.as_ref());
    let one = |(name, uplink): (&UplinkName, &viaduct_model::Uplink)| {
        let device = patient.layer3(uplink);
        let carries = |n: &Network| {
            n.uplink.as_ref() == Some(name) && matches!(n.mode, Mode::Nat { .. } | Mode::Routed { .. })
        };
        let networks = networks(patient, carries);
        if !strict(device) || default == Some(device) || networks.is_empty() {
            return None;
        }
        let path = rp_filter(device);
        let lasting = Step::Write {
            path: format!("/etc/sysctl.d/80-viaduct-rp-filter-{device}.conf"),
            text: format!(
                "# Written by `viaduct doctor --fix`: guests' packets come in by it.\n{path} = 2\n"
            ),
        };
        // Nobody loads files for a namespace.
        let (lasting, remark) = match patient.namespace {
            None => (Some(lasting), "It lasts.".to_owned()),
            Some(namespace) => (
                None,
                format!(
                    "It lasts as long as the namespace; `\"{}\" = \"2\"` under [namespaces.{namespace}.sysctls] makes \
                     it so in the next one, too.",
                    path.replace('/', ".")
                ),
            ),
        };
        let elsewhere = default.map_or_else(
            || "there is no default route".to_owned(),
            |other| format!("the default route leads out of {other}"),
        );
        Some(Finding {
            kind: "rp-filter",
            gravity: Gravity::Broken,
            namespace: None,
            title: format!("{device} drops what comes from the world (strict reverse path filter)"),
            sufferers: patient.sufferers(networks),
            why: format!(
                "rp_filter is 1 for {device}, so it takes packets only from where it would send the answer, and \
                 {elsewhere}. What comes in for guests by {device} is lost without a trace."
            ),
            remedy: Some(Remedy {
                safe: true,
                steps: [set(&path, "2")].into_iter().chain(lasting).collect(),
                remark: format!(
                    "2 is the loose check: an address has to be reachable, by whichever device. {remark}"
                ),
            }),
        })
    };
    patient.uplinks().filter_map(one).collect()
}

/// A bridge whose ports are looked at.
struct Segment<'a> {
    bridge: &'a IfName,
    /// Its network; none of a vnet that no network lies on.
    network: Option<&'a NetworkName>,
    /// Of a vnet: its name, and by which device it goes on outside.
    vnet: Option<(&'a VnetName, Option<&'a IfName>)>,
}

fn segments<'a>(patient: &Patient<'a>) -> Vec<Segment<'a>> {
    let config = patient.config;
    let of_vnet = |(name, vnet): (&'a VnetName, &'a Vnet)| {
        let outside = vnet.port.as_ref().map(|port| port.device());
        Segment { bridge: &vnet.bridge, network: patient.network_on(name), vnet: Some((name, outside)) }
    };
    let of_network = |(name, network): (&'a NetworkName, &'a Network)| {
        Some(Segment { bridge: bridge(network)?, network: Some(name), vnet: None })
    };
    let others = config.networks.iter().filter(|(_, network)| !matches!(network.mode, Mode::Vnet { .. }));
    others.filter_map(of_network).chain(config.vnets.iter().map(of_vnet)).collect()
}

/// Ports of a bridge that take less than the bridge: longer frames are dropped there without an answer.
fn mtu(patient: &Patient<'_>) -> Vec<Finding> {
    segments(patient).iter().flat_map(|segment| shorter_ports(patient, segment)).collect()
}

fn shorter_ports(patient: &Patient<'_>, segment: &Segment<'_>) -> Vec<Finding> {
    let bridge = segment.bridge;
    let Some(device) = patient.observed.links.get(bridge) else { return Vec::new() };
    let ports = || patient.observed.links.iter().filter(|(_, link)| link.master.as_ref() == Some(bridge));
    // The bridge's own MTU matters only where the host routes; what guests send is told by theirs. In a vnet nobody is to send
    // more than the bridge has: what leads to other hosts takes more so that it can be answered, and what is outside may.
    let longest = match segment.vnet {
        Some(_) => device.mtu,
        None => ports().map(|(_, link)| link.mtu).chain([device.mtu]).max().unwrap_or(device.mtu),
    };
    let title = |port: &IfName, mtu| match segment.vnet {
        Some(_) => format!("{port} takes {mtu} bytes, and vnet bridge {bridge} {longest}"),
        None => format!("{port} takes {mtu} bytes, other ports of {bridge} {longest}"),
    };
    let mut findings = Vec::new();
    for (port, link) in ports().filter(|(_, link)| link.mtu < longest) {
        let uplink = patient.config.uplinks.values().any(|uplink| uplink.interface == *port);
        let outside = uplink || segment.vnet.is_some_and(|(_, outside)| outside == Some(port));
        let mut nics = segment.network.into_iter().flat_map(|name| patient.nics(name));
        let guest = nics.find(|(id, nic)| patient.device(id, nic) == port);
        let sufferers = match (&guest, segment.network, segment.vnet) {
            (Some((id, _)), Some(name), _) => vec![format!("network {name}: {id}")],
            (_, Some(name), _) => patient.sufferers([Place::Network(name)]),
            (_, None, Some((name, _))) => patient.sufferers([Place::Vnet(name)]),
            (_, None, None) => Vec::new(),
        };
        let steps = vec![Step::Run(format!("ip link set dev {port} mtu {longest}"))];
        let remark = match segment.network {
            Some(name) if outside => format!(
                "Or, if the segment behind {port} carries no more, write `mtu = {}` into [networks.{name}].",
                link.mtu
            ),
            Some(_) | None => "It lasts as long as the device.".to_owned(),
        };
        let wanted = patient.desired.links.get(port).and_then(|link| link.mtu);
        findings.push(Finding {
            kind: "mtu",
            // A smaller one that the file asks for harms only those who do not go by it.
            gravity: if wanted == Some(link.mtu) { Gravity::Risk } else { Gravity::Broken },
            namespace: None,
            title: title(port, link.mtu),
            sufferers,
            why: format!(
                "A bridge drops what is too long for a port, and nobody is told: connections open, then hang at the \
                 first packet of more than {} bytes.",
                link.mtu
            ),
            remedy: Some(Remedy {
                // A port that says otherwise in the file would be changed back.
                safe: !outside && wanted.is_none_or(|mtu| mtu == longest),
                steps,
                remark,
            }),
        });
    }
    findings
}

/// A table of connections that is nearly full: then new ones are lost.
fn connections(patient: &Patient<'_>, facts: &Facts) -> Option<Finding> {
    const PATH: &str = "net/netfilter/nf_conntrack_max";
    let (count, most) = (facts.number("net/netfilter/nf_conntrack_count")?, facts.number(PATH)?);
    // None: no limit.
    if most == 0 || count.saturating_mul(10) < most.saturating_mul(9) {
        return None;
    }
    let more = most.saturating_mul(2);
    Some(Finding {
        kind: CONNTRACK,
        gravity: Gravity::Broken,
        namespace: None,
        title: format!("{count} of at most {most} connections are tracked"),
        sufferers: patient.sufferers(networks(patient, |n| n.uplink.is_some())),
        why: "When the table is full, the first packet of every new connection is dropped.".to_owned(),
        remedy: Some(Remedy {
            safe: false,
            steps: vec![
                set(PATH, &more.to_string()),
                Step::Write {
                    path: "/etc/sysctl.d/80-viaduct-conntrack.conf".to_owned(),
                    text: format!("{PATH} = {more}\n"),
                },
            ],
            remark: "Each takes about 320 bytes of the kernel's memory. Look first whether a guest is being flooded or \
                     floods others."
                .to_owned(),
        }),
    })
}

/// Guests' own MACs on the segment of a provider that may know only the host's.
fn foreign_macs(patient: &Patient<'_>, facts: &Facts) -> Vec<Finding> {
    let shows = |n: &Network| matches!(n.mode, Mode::Bridged { .. });
    let known = LOCKING.iter().find(|maker| facts.machine.contains(*maker));
    let Some(provider) = known else { return Vec::new() };
    let one = |(name, network): (&NetworkName, &Network)| {
        let out = network.uplink.as_ref()?;
        Some(Finding {
            kind: "mac-filter",
            gravity: Gravity::Note,
            namespace: None,
            title: format!("guests of network {name} show their own MACs on uplink {out}"),
            sufferers: patient.sufferers([Place::Network(name)]),
            why: format!(
                "This machine is {provider}'s by its firmware, and {provider} takes frames of registered MACs only and \
                 may lock a server that sends others. Which ones are registered cannot be seen from here."
            ),
            remedy: Some(Remedy {
                safe: false,
                steps: Vec::new(),
                remark: "Give each NIC the virtual MAC that the provider registered for its address (`mac = …`), or use \
                         a routed network, with `uplink-mac = true` where the provider wants the virtual MAC."
                    .to_owned(),
            }),
        })
    };
    patient.config.networks.iter().filter(|(_, n)| shows(n)).filter_map(one).collect()
}

/// Frames that only cross a vnet's bridge and are shown to the IP filter on their way. Nothing that can be configured needs it: what
/// guests of one bridge may not do to each other is judged without (see [`viaduct_plan`]).
fn slow_vnets(patient: &Patient<'_>, facts: &Facts) -> Option<Finding> {
    let on: Vec<&str> = BRIDGE_NF.into_iter().filter(|path| facts.number(path) == Some(1)).collect();
    let carried = |name: &VnetName| patient.config.vnets[name].security != Security::None;
    let slowed = segments(patient).into_iter().filter_map(|segment| {
        let (name, _) = segment.vnet.filter(|(name, _)| carried(name))?;
        let place = segment.network.map_or(Place::Vnet(name), Place::Network);
        Some(patient.sufferers([place]))
    });
    let sufferers: Vec<String> = slowed.flatten().collect();
    if on.is_empty() || sufferers.is_empty() {
        return None;
    }
    Some(Finding {
        kind: "bridge-netfilter-vnets",
        gravity: Gravity::Note,
        namespace: None,
        title: "frames of vnets are shown to the IP filter, which makes them slower".to_owned(),
        sufferers,
        why: format!(
            "{} {} on (br_netfilter), so frames that only cross a vnet's bridge meet the tables of IP and are tracked as \
             connections: it costs about a tenth of what one connection by TCP carries. Nothing of Viaduct's needs it.",
            on.join(" and "),
            if on.len() == 1 { "is" } else { "are" },
        ),
        remedy: Some(Remedy {
            safe: false,
            steps: on.into_iter().map(|path| set(path, "0")).collect(),
            remark: "Leave it on where other software needs it for bridges of its own: Docker, Kubernetes and libvirt may \
                     filter between their guests by it, and switch it on again when they start. One bridge keeps it with \
                     `ip link set dev BRIDGE type bridge nf_call_iptables 1 nf_call_ip6tables 1`. It holds until the \
                     machine restarts or br_netfilter is loaded anew."
                .to_owned(),
        }),
    })
}
