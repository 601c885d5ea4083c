//! Other programs' filters that lose packets of our guests. That our own filter lets a packet through cannot help it
//! there: every base chain of a hook has to, and one drop is the end.

use std::{collections::BTreeSet, fmt};

use crate::{
    Facts, Finding, Gravity, Patient, Remedy, Step,
    filter::{Engine, Family, Fate, Hook, Packet, Point, Table},
    host::HostWay,
    host_firewall, host_rules,
    patient::{BETWEEN, BRIDGE_NF, Place, Way, bridge, prefixes},
    remedy::{self, Part},
};

/// Whose filter it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
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

/// Who has chains in a table, by their names; at the hooks of the host itself only those count that packets come to.
fn owners(table: &Table, base: &str, point: Point) -> Vec<Owner> {
    let reached = table.reached(base);
    let chains =
        || table.chains.keys().filter(|chain| point == Point::Forward || reached.contains(chain.as_str()));
    let has = |begin: &str| chains().any(|chain| chain.starts_with(begin));
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
    let host = [Point::Input, Point::Output].map(|point| (point, patient.host_ways(point, facts)));
    let mut findings = Vec::new();
    for table in &facts.tables {
        let mut losing = Vec::new();
        for (base, hook) in table.bases() {
            let owners = owners(table, base, hook.point);
            let base = Base { patient, facts, table, base, hook, owners, parts: BTreeSet::new() };
            let host = host.iter().find(|(point, _)| *point == hook.point);
            let lost = match host {
                Some((_, ways)) => Lost::Host(base.lost(ways, |way| &way.packet)),
                None => Lost::Forwarded(base.lost(&ways, |way| &way.packet)),
            };
            losing.extend((!lost.is_nothing()).then_some((base, lost)));
        }
        let parts: BTreeSet<Point> = losing.iter().map(|(base, _)| base.hook.point).collect();
        for (base, lost) in losing {
            let base = Base { parts: parts.clone(), ..base };
            findings.push(match lost {
                Lost::Forwarded(lost) => base.finding(&lost),
                Lost::Host(lost) => host_firewall::finding(&base, &lost),
            });
        }
    }
    findings.extend(mixed(patient, facts));
    findings
}

/// What a base chain loses.
enum Lost<'a, 'b> {
    Forwarded(Vec<(&'b Way<'a>, Fate)>),
    Host(Vec<(&'b HostWay<'a>, Fate)>),
}

impl Lost<'_, '_> {
    fn is_nothing(&self) -> bool {
        match self {
            Self::Forwarded(lost) => lost.is_empty(),
            Self::Host(lost) => lost.is_empty(),
        }
    }
}

/// A base chain of somebody's.
pub(crate) struct Base<'a> {
    pub(crate) patient: &'a Patient<'a>,
    pub(crate) facts: &'a Facts,
    pub(crate) table: &'a Table,
    pub(crate) base: &'a str,
    pub(crate) hook: Hook,
    pub(crate) owners: Vec<Owner>,
    /// The hooks at which the table loses something.
    parts: BTreeSet<Point>,
}

impl Base<'_> {
    fn lost<'b, W>(&self, ways: &'b [W], packet: impl Fn(&W) -> &Packet) -> Vec<(&'b W, Fate)> {
        let fates = ways.iter().map(|way| (way, self.table.fate(self.base, packet(way))));
        fates.filter(|(_, fate)| *fate != Fate::Passes).collect()
    }

    /// The filter of whom it is.
    pub(crate) fn by(&self) -> String {
        match &self.owners[..] {
            [] => Owner::Unknown.to_string(),
            owners => owners.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "),
        }
    }

    /// How it is that a packet gets lost.
    pub(crate) fn how(&self) -> String {
        let how = if self.hook.drops { "the policy drop" } else { "a rule that drops" };
        format!("Its chain {} has {how} and no rule that lets them through", self.base)
    }

    fn finding(&self, lost: &[(&Way<'_>, Fate)]) -> Finding {
        let surely = lost.iter().any(|(_, fate)| *fate == Fate::Lost);
        let places: BTreeSet<Place<'_>> = lost.iter().map(|(way, _)| way.place).collect();
        let kinds: BTreeSet<&str> = lost.iter().map(|(way, _)| way.what).collect();
        let bridged = kinds.len() == 1 && kinds.contains(BETWEEN);
        let packet = lost.first().map(|(way, _)| &way.packet);
        let example = packet.and_then(|packet| {
            let (source, destination) = (packet.source?, packet.destination?);
            let (input, output) = (packet.input.as_ref()?, packet.output.as_ref()?);
            Some(format!(" One from {source} to {destination} by {input} and {output} ends there."))
        });
        let mut why = format!(
            "{}: {}.{} Our own filter cannot undo that, for a packet has to pass every filter.",
            self.how(),
            kinds.into_iter().collect::<Vec<_>>().join(", "),
            example.unwrap_or_default(),
        );
        let switches = switches(lost);
        if !switches.is_empty() {
            let names: Vec<String> = switches.iter().map(|path| path.replace('/', ".")).collect();
            why.push_str(&format!(
                " Frames that a bridge only passes on meet it as well, for {} {} on (br_netfilter).",
                names.join(" and "),
                if names.len() == 1 { "is" } else { "are" },
            ));
        }
        if !surely {
            why.push_str(NOT_UNDERSTOOD);
        }
        Finding {
            kind: if bridged { "bridge-netfilter" } else { "foreign-filter" },
            gravity: if surely { Gravity::Broken } else { Gravity::Risk },
            namespace: None,
            title: format!("table {} loses guests' packets; it is the filter of {}", self.name(), self.by()),
            sufferers: self.patient.sufferers(places),
            why,
            remedy: self.remedy(lost, bridged),
        }
    }

    pub(crate) fn name(&self) -> String {
        let by = if self.table.engine == Engine::Legacy { " (iptables-legacy)" } else { "" };
        format!(
            "{} {}{by}, chain {}, priority {},",
            self.table.family.word(),
            self.table.name,
            self.base,
            self.hook.priority
        )
    }

    fn remedy(&self, lost: &[(&Way<'_>, Fate)], bridged: bool) -> Option<Remedy> {
        if self.is_of_iptables() {
            return self.in_iptables(lost);
        }
        if self.owners.contains(&Owner::Firewalld) {
            return Some(in_firewalld(self.zone_of_guests()));
        }
        let mut steps: Vec<Step> =
            remedy::nft_commands(self.patient, self.table, self.base).into_iter().map(Step::Run).collect();
        if bridged {
            steps = switches(lost)
                .into_iter()
                .map(|path| Step::Run(format!("echo 0 >/proc/sys/{path}")))
                .collect();
        }
        Some(Remedy { safe: false, steps, remark: ELSEWHERE.to_owned() })
    }

    /// Whether iptables has it, in its table filter.
    pub(crate) fn is_of_iptables(&self) -> bool {
        let name = match self.hook.point {
            Point::Input => "INPUT",
            Point::Forward => "FORWARD",
            Point::Output => "OUTPUT",
        };
        self.table.name == "filter" && self.base == name && self.table.family != Family::Inet
    }

    /// ufw: rules in its own chain for that, and in the file that it reads. None when that does not help.
    pub(crate) fn in_ufw<'b>(&self, packets: impl Iterator<Item = &'b Packet>) -> Option<Remedy> {
        let ipv4 = self.table.family == Family::Ip;
        let part = host_rules::part(self.patient, self.hook.point, ipv4);
        if !self.owners.contains(&Owner::Ufw) || !self.mends(part.chain, &part, packets) {
            return None;
        }
        let path = if ipv4 { "/etc/ufw/before.rules" } else { "/etc/ufw/before6.rules" };
        // Whatever of ours it has or is going to have stands together.
        let edit = self.facts.file(path).and_then(|file| {
            let all = [Point::Forward, Point::Input, Point::Output].into_iter();
            let all = all.map(|point| (point, host_rules::part(self.patient, point, ipv4)));
            let has = |part: &Part| file.text.lines().any(|line| line == part.call());
            let needed = all.filter(|(point, part)| self.parts.contains(point) || has(part));
            let needed: Vec<Part> = needed.map(|(_, part)| part).collect();
            let (text, part) = remedy::edited(&file.text, &needed)?;
            Some(Step::Edit { path: path.to_owned(), part, text })
        });
        let remark = if edit.is_some() {
            format!("{path} is what ufw reads whenever it starts or reloads: it lasts.")
        } else {
            format!("There is no {path} to write it into, so it is gone when ufw reloads.")
        };
        let steps = edit.into_iter().chain(self.live(part.chain, &part)).collect();
        Some(Remedy { safe: true, steps, remark })
    }

    /// Whether our rules, called first in a chain, let packets through.
    pub(crate) fn mends<'b>(
        &self,
        chain: &str,
        part: &Part,
        packets: impl Iterator<Item = &'b Packet>,
    ) -> bool {
        let mended = remedy::with_rules(self.table, chain, part);
        self.table.chains.contains_key(chain) && remedy::all_pass(&mended, self.base, packets)
    }

    /// Rules of ours called in a chain of the running filter.
    pub(crate) fn live(&self, chain: &str, part: &Part) -> [Step; 2] {
        let program = remedy::program(self.facts, self.table.engine, self.table.family == Family::Ip);
        remedy::commands(&program, chain, part).map(Step::Run)
    }

    /// Docker, ufw and whoever else uses iptables: rules at the place that its owner leaves to others.
    fn in_iptables(&self, lost: &[(&Way<'_>, Fate)]) -> Option<Remedy> {
        let packets = || lost.iter().map(|(way, _)| &way.packet);
        let part = host_rules::part(self.patient, Point::Forward, self.table.family == Family::Ip);
        let mends = |chain: &str| self.mends(chain, &part, packets());
        let live = |chain| self.live(chain, &part).to_vec();
        if let Some(remedy) = self.in_ufw(packets()) {
            return Some(remedy);
        }
        if mends("DOCKER-USER") {
            let remark = "DOCKER-USER is the chain that Docker leaves to others: the rules stay when Docker restarts, \
                          until the machine does. For longer, set \"ip-forward-no-drop\": true in \
                          /etc/docker/daemon.json (Docker 28 or newer), or let `viaduct doctor --fix` run after \
                          docker.service."
                .to_owned();
            return Some(Remedy { safe: true, steps: live("DOCKER-USER"), remark });
        }
        mends(self.base).then(|| Remedy { safe: false, steps: live(self.base), remark: NOBODY_S.to_owned() })
    }

    /// firewalld: a zone of its own for guests, whose packets are left to our own filter.
    pub(crate) fn zone_of_guests(&self) -> Vec<String> {
        let mut lines = vec![
            "firewall-cmd --permanent --get-zones | grep -qw viaduct || firewall-cmd --permanent --new-zone=viaduct"
                .to_owned(),
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
        lines.push(
            "firewall-cmd --permanent --get-policies | grep -qw viaduct-in || \
             firewall-cmd --permanent --new-policy=viaduct-in"
                .to_owned(),
        );
        lines.extend(
            [
                "--policy=viaduct-in --add-ingress-zone=ANY",
                "--policy=viaduct-in --add-egress-zone=viaduct",
                "--policy=viaduct-in --set-target=ACCEPT",
            ]
            .map(|words| format!("firewall-cmd --permanent {words}")),
        );
        lines
    }
}

/// What is to be done in firewalld, loaded at the end.
pub(crate) fn in_firewalld(mut lines: Vec<String>) -> Remedy {
    lines.push("firewall-cmd --reload".to_owned());
    Remedy {
        safe: false,
        steps: lines.into_iter().map(Step::Run).collect(),
        remark:
            "It is permanent. Guests' packets are then left to our own filter. It is not done by itself, as \
                 firewalld reloads everything for it."
                .to_owned(),
    }
}

/// Of rules that are to be put into a table that is not iptables'.
pub(crate) const ELSEWHERE: &str = "These are rules of somebody else's; put the same into the file that makes them, often \
                                    /etc/nftables.conf, or they are gone when it is loaded anew.";

/// Of rules that are to be put into a chain of iptables'.
pub(crate) const NOBODY_S: &str = "Nobody says that this chain is for others, so look at it first. What made it may take the \
                                   rules away when it starts anew.";

/// Where rules may let something through, and may not.
pub(crate) const NOT_UNDERSTOOD: &str =
    " It has rules that are not understood here and may let some of them through.";

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
            words(owners(nft, "FORWARD", Point::Forward)),
            words(owners(legacy, "FORWARD", Point::Forward)),
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
