//! Other programs' filters that lose packets of our guests. That our own filter lets a packet through cannot help it
//! there: every base chain of a hook has to, and one drop is the end.

use std::{collections::BTreeSet, fmt};

use crate::{
    Facts, Finding, Gravity, Patient, Remedy, Step,
    filter::{Engine, Family, Fate, Hook, Point, Table},
    patient::{BETWEEN, BRIDGE_NF, Place, Way, bridge, prefixes},
    remedy,
};

/// Whose filter it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Docker,
    Ufw,
    Firewalld,
    Libvirt,
    Podman,
    Kubernetes,
    Unknown,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "Docker",
            Self::Ufw => "ufw",
            Self::Firewalld => "firewalld",
            Self::Libvirt => "libvirt",
            Self::Podman => "Podman or a CNI plugin",
            Self::Kubernetes => "Kubernetes",
            Self::Unknown => "a program that leaves no mark, or rules made by hand",
        })
    }
}

/// Who has chains in a table, by their names.
fn owners(table: &Table) -> Vec<Owner> {
    let has = |begin: &str| table.chains.keys().any(|chain| chain.starts_with(begin));
    let named = |begin: &str| table.name.starts_with(begin);
    let all = [
        (Owner::Docker, has("DOCKER") || named("docker-")),
        (Owner::Ufw, has("ufw-") || has("ufw6-")),
        (Owner::Firewalld, named("firewalld")),
        (Owner::Libvirt, has("LIBVIRT_") || named("libvirt")),
        (Owner::Podman, has("NETAVARK") || has("CNI-") || named("netavark")),
        (Owner::Kubernetes, has("KUBE-") || has("cali-")),
    ];
    all.into_iter().filter(|(_, is)| *is).map(|(owner, _)| owner).collect()
}

pub(crate) fn findings(patient: &Patient<'_>, facts: &Facts) -> Vec<Finding> {
    let ways = patient.ways(facts);
    let mut findings = Vec::new();
    for table in &facts.tables {
        for (base, hook) in table.bases().filter(|(_, hook)| hook.point == Point::Forward) {
            let base = Base { patient, facts, table, base, hook };
            findings.extend(base.finding(&ways));
        }
    }
    findings.extend(mixed(patient, facts));
    findings
}

struct Base<'a> {
    patient: &'a Patient<'a>,
    facts: &'a Facts,
    table: &'a Table,
    base: &'a str,
    hook: Hook,
}

impl Base<'_> {
    fn finding(&self, ways: &[Way<'_>]) -> Option<Finding> {
        let fates = ways.iter().map(|way| (way, self.table.fate(self.base, &way.packet)));
        let lost: Vec<(&Way<'_>, Fate)> = fates.filter(|(_, fate)| *fate != Fate::Passes).collect();
        let (first, _) = lost.first()?;
        let surely = lost.iter().any(|(_, fate)| *fate == Fate::Lost);
        let places: BTreeSet<Place<'_>> = lost.iter().map(|(way, _)| way.place).collect();
        let kinds: BTreeSet<&str> = lost.iter().map(|(way, _)| way.what).collect();
        let bridged = kinds.len() == 1 && kinds.contains(BETWEEN);
        let owners = owners(self.table);
        let packet = &first.packet;
        let example = || {
            let (source, destination) = (packet.source?, packet.destination?);
            let (input, output) = (packet.input.as_ref()?, packet.output.as_ref()?);
            Some(format!(" One from {source} to {destination} by {input} and {output} ends there."))
        };
        let by = match &owners[..] {
            [] => Owner::Unknown.to_string(),
            owners => owners.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "),
        };
        let mut why = format!(
            "Its chain {} has {} and no rule that lets them through: {}.{} Our own \
             filter cannot undo that, for a packet has to pass every filter.",
            self.base,
            if self.hook.drops { "the policy drop" } else { "a rule that drops" },
            kinds.into_iter().collect::<Vec<_>>().join(", "),
            example().unwrap_or_default(),
        );
        let switches = switches(&lost);
        if !switches.is_empty() {
            let names: Vec<String> = switches.iter().map(|path| path.replace('/', ".")).collect();
            why.push_str(&format!(
                " Frames that a bridge only passes on meet it as well, for {} {} on (br_netfilter).",
                names.join(" and "),
                if names.len() == 1 { "is" } else { "are" },
            ));
        }
        if !surely {
            why.push_str(" It has rules that are not understood here and may let some of them through.");
        }
        Some(Finding {
            kind: if bridged { "bridge-netfilter" } else { "foreign-filter" },
            gravity: if surely { Gravity::Broken } else { Gravity::Risk },
            namespace: None,
            title: format!("table {} loses guests' packets; it is the filter of {by}", self.name()),
            sufferers: self.patient.sufferers(places),
            why,
            remedy: self.remedy(&owners, &lost, bridged),
        })
    }

    fn name(&self) -> String {
        let by = if self.table.engine == Engine::Legacy { " (iptables-legacy)" } else { "" };
        format!(
            "{} {}{by}, chain {}, priority {},",
            self.table.family.word(),
            self.table.name,
            self.base,
            self.hook.priority
        )
    }

    fn remedy(&self, owners: &[Owner], lost: &[(&Way<'_>, Fate)], bridged: bool) -> Option<Remedy> {
        if self.table.name == "filter" && self.base == "FORWARD" && self.table.family != Family::Inet {
            return self.in_iptables(owners, lost);
        }
        if owners.contains(&Owner::Firewalld) {
            return Some(self.in_firewalld());
        }
        let mut steps: Vec<Step> =
            remedy::nft_commands(self.patient, self.table, self.base).into_iter().map(Step::Run).collect();
        if bridged {
            steps = switches(lost)
                .into_iter()
                .map(|path| Step::Run(format!("echo 0 >/proc/sys/{path}")))
                .collect();
        }
        let remark = "These are rules of somebody else's; put the same into the file that makes them, often \
                      /etc/nftables.conf, or they are gone when it is loaded anew."
            .to_owned();
        Some(Remedy { safe: false, steps, remark })
    }

    /// Docker, ufw and whoever else uses iptables: rules at the place that its owner leaves to others.
    fn in_iptables(&self, owners: &[Owner], lost: &[(&Way<'_>, Fate)]) -> Option<Remedy> {
        let ipv4 = self.table.family == Family::Ip;
        let rules = remedy::rules(self.patient, ipv4);
        let mends = |chain: &str| {
            let mended = remedy::with_rules(self.table, chain, &rules);
            self.table.chains.contains_key(chain)
                && remedy::all_pass(&mended, self.base, lost.iter().map(|(way, _)| &way.packet))
        };
        let program = remedy::program(self.facts, self.table.engine, ipv4);
        let live = |chain| remedy::commands(&program, chain, &rules).map(Step::Run).to_vec();
        let ufw = if ipv4 { "ufw-before-forward" } else { "ufw6-before-forward" };
        if owners.contains(&Owner::Ufw) && mends(ufw) {
            let path = if ipv4 { "/etc/ufw/before.rules" } else { "/etc/ufw/before6.rules" };
            let file = self.facts.file(path);
            let edit = file
                .and_then(|file| remedy::edited(&file.text, ufw, &rules))
                .map(|(text, part)| Step::Edit { path: path.to_owned(), part, text });
            let remark = if edit.is_some() {
                format!("{path} is what ufw reads whenever it starts or reloads: it lasts.")
            } else {
                format!("There is no {path} to write it into, so it is gone when ufw reloads.")
            };
            return Some(Remedy { safe: true, steps: edit.into_iter().chain(live(ufw)).collect(), remark });
        }
        if mends("DOCKER-USER") {
            let remark = "DOCKER-USER is the chain that Docker leaves to others: the rules stay when Docker restarts, \
                          until the machine does. For longer, set \"ip-forward-no-drop\": true in \
                          /etc/docker/daemon.json (Docker 28 or newer), or let `viaduct doctor --fix` run after \
                          docker.service."
                .to_owned();
            return Some(Remedy { safe: true, steps: live("DOCKER-USER"), remark });
        }
        let remark = if mends(self.base) {
            "Nobody says that this chain is for others, so look at it first. What made it may take the rules away when it \
             starts anew."
        } else {
            return None;
        };
        Some(Remedy { safe: false, steps: live(self.base), remark: remark.to_owned() })
    }

    fn in_firewalld(&self) -> Remedy {
        let mut lines = vec![
            "firewall-cmd --permanent --new-zone=viaduct".to_owned(),
            "firewall-cmd --permanent --zone=viaduct --set-target=ACCEPT".to_owned(),
        ];
        for bridge in self.patient.bridges() {
            lines.push(format!("firewall-cmd --permanent --zone=viaduct --add-interface={bridge}"));
        }
        for network in self.patient.config.networks.values().filter(|network| bridge(network).is_none()) {
            for net in [true, false].into_iter().flat_map(|ipv4| prefixes(network, ipv4)) {
                lines.push(format!("firewall-cmd --permanent --zone=viaduct --add-source={net}"));
            }
        }
        lines.extend(
            [
                "--new-policy=viaduct-in",
                "--policy=viaduct-in --add-ingress-zone=ANY",
                "--policy=viaduct-in --add-egress-zone=viaduct",
                "--policy=viaduct-in --set-target=ACCEPT",
            ]
            .map(|words| format!("firewall-cmd --permanent {words}")),
        );
        lines.push("firewall-cmd --reload".to_owned());
        Remedy {
            safe: false,
            steps: lines.into_iter().map(Step::Run).collect(),
            remark: "It is permanent. Guests' packets are then left to our own filter. It is not done by itself, as \
                     firewalld reloads everything for it."
                .to_owned(),
        }
    }
}

/// By which settings frames that a bridge only passes on come to be lost, if they do.
fn switches(lost: &[(&Way<'_>, Fate)]) -> BTreeSet<&'static str> {
    let bridged = lost.iter().filter(|(way, _)| way.what == BETWEEN);
    bridged.map(|(way, _)| BRIDGE_NF[usize::from(!way.packet.ipv4)]).collect()
}

/// Filters of iptables-nft and of iptables-legacy at once: each tool shows only its own half.
fn mixed(patient: &Patient<'_>, facts: &Facts) -> Option<Finding> {
    let of = |engine| {
        let is = move |table: &&Table| {
            table.engine == engine && table.name == "filter" && table.family != Family::Inet
        };
        let has_rules = |table: &&Table| {
            let mut bases = table.bases().filter(|(_, hook)| hook.point == Point::Forward);
            bases.any(|(base, hook)| hook.drops || !table.chains[base].rules.is_empty())
        };
        facts.tables.iter().filter(is).find(has_rules)
    };
    let (nft, legacy) = (of(Engine::Nft)?, of(Engine::Legacy)?);
    let words = |owners: Vec<Owner>| {
        owners.first().map_or_else(|| "an unknown program".to_owned(), ToString::to_string)
    };
    let networks = patient.config.networks.iter().filter(|(_, n)| n.uplink.is_some());
    Some(Finding {
        kind: "mixed-iptables",
        gravity: Gravity::Risk,
        namespace: None,
        title: "iptables-legacy and iptables-nft are both in use".to_owned(),
        sufferers: patient.sufferers(networks.map(|(name, _)| Place::Network(name))),
        why: format!(
            "Forwarded packets have to pass both ({} made the rules of iptables-nft, {} those of iptables-legacy), but \
             each tool shows its own half only, and an accept in one does not undo a drop in the other.",
            words(owners(nft)),
            words(owners(legacy)),
        ),
        remedy: Some(Remedy {
            safe: false,
            steps: vec![
                Step::Run("update-alternatives --set iptables /usr/sbin/iptables-nft".to_owned()),
                Step::Run("update-alternatives --set ip6tables /usr/sbin/ip6tables-nft".to_owned()),
            ],
            remark: "Then restart the programs that made the rules of iptables-legacy, and reboot when `iptables-legacy -S` \
                     still shows some."
                .to_owned(),
        }),
    })
}
