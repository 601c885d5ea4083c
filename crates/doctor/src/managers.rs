//! Programs that manage networks and may take ours for theirs: systemd-networkd and NetworkManager.

use std::collections::BTreeSet;

use viaduct_types::IfName;

use crate::{ConfigFile, Facts, Finding, Gravity, Patient, Remedy, Step};

const NETWORKD: [&str; 3] =
    ["/etc/systemd/networkd.conf.d", "/run/systemd/networkd.conf.d", "/usr/lib/systemd/networkd.conf.d"];
const NETWORKS: [&str; 4] =
    ["/etc/systemd/network", "/run/systemd/network", "/usr/lib/systemd/network", "/lib/systemd/network"];
const NETWORK_MANAGER: [&str; 3] =
    ["/etc/NetworkManager/conf.d", "/run/NetworkManager/conf.d", "/usr/lib/NetworkManager/conf.d"];

pub(crate) fn findings(patient: &Patient<'_>, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if facts.marks.contains(Facts::MARKS[0]) {
        findings.extend(foreign_routes(patient, facts));
        findings.extend(networkd_links(patient, facts));
    }
    if facts.marks.contains(Facts::MARKS[1]) {
        findings.extend(network_manager(patient, facts));
    }
    findings
}

/// Everything suffers when all our routes or links go.
fn everybody(patient: &Patient<'_>) -> Vec<String> {
    patient.sufferers(patient.everything())
}

/// The value of a key in a section of an INI file; the last one counts.
fn value<'a>(text: &'a str, section: &str, key: &str) -> Option<&'a str> {
    let (mut inside, mut found) = (false, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside = name == section;
        } else if inside
            && let Some((name, value)) = line.split_once('=')
            && name.trim() == key
        {
            found = Some(value.trim());
        }
    }
    found
}

fn foreign_routes(patient: &Patient<'_>, facts: &Facts) -> Option<Finding> {
    let mut files: Vec<&ConfigFile> = facts.file("/etc/systemd/networkd.conf").into_iter().collect();
    files.extend(facts.drop_ins(&NETWORKD));
    let is_off = |key: &str| {
        let last = files.iter().filter_map(|file| value(&file.text, "Network", key)).next_back();
        last.is_some_and(|value| ["no", "false", "off", "0"].contains(&value.to_lowercase().as_str()))
    };
    let keys = ["ManageForeignRoutes", "ManageForeignRoutingPolicyRules"];
    let on: Vec<&str> = keys.into_iter().filter(|key| !is_off(key)).collect();
    if on.is_empty() {
        return None;
    }
    let text = format!(
        "# Written by `viaduct doctor --fix`.\n[Network]\n{}",
        on.iter().map(|key| format!("{key}=no\n")).collect::<String>()
    );
    Some(Finding {
        kind: "networkd-foreign-routes",
        gravity: Gravity::Risk,
        namespace: None,
        title: "systemd-networkd takes routes away that it did not make, when it starts".to_owned(),
        sufferers: everybody(patient),
        why: format!(
            "{} {} not off, so that it deletes guests' routes on links that it manages whenever it is restarted or \
             updated.",
            on.join(" and "),
            if on.len() == 1 { "is" } else { "are" },
        ),
        remedy: Some(Remedy {
            safe: true,
            steps: vec![Step::Write {
                path: "/etc/systemd/networkd.conf.d/80-viaduct.conf".to_owned(),
                text,
            }],
            remark: "networkd reads it when it starts the next time, which is when it is needed. It lasts."
                .to_owned(),
        }),
    })
}

/// The devices that are ours on the host.
fn our_devices<'a>(patient: &'a Patient<'_>) -> BTreeSet<&'a IfName> {
    patient.desired.links.iter().filter(|(_, link)| link.make.is_some()).map(|(name, _)| name).collect()
}

/// Files of networkd that match devices of ours, and do not leave them alone.
fn networkd_links(patient: &Patient<'_>, facts: &Facts) -> Option<Finding> {
    let files = facts.drop_ins(&NETWORKS);
    let mut taken: Vec<(&IfName, &str)> = Vec::new();
    for device in our_devices(patient) {
        // The first file that matches is the one that counts.
        let matching = files.iter().find(|file| {
            let names = value(&file.text, "Match", "Name").unwrap_or_default();
            let others = ["MACAddress", "Path", "Driver", "Type", "Kind", "Property", "PermanentMACAddress"];
            let more = others.iter().any(|key| value(&file.text, "Match", key).is_some());
            !more && names.split_whitespace().any(|pattern| matches_glob(pattern, device.as_str()))
        });
        if let Some(file) = matching
            && !value(&file.text, "Link", "Unmanaged")
                .is_some_and(|v| ["yes", "true", "1", "on"].contains(&v))
        {
            taken.push((device, &file.path));
        }
    }
    let (first, path) = *taken.first()?;
    let names: Vec<&str> = taken.iter().map(|(device, _)| device.as_str()).collect();
    Some(Finding {
        kind: "networkd-links",
        gravity: Gravity::Risk,
        namespace: None,
        title: format!("systemd-networkd manages devices of ours: {}", names.join(" ")),
        sufferers: everybody(patient),
        why: format!(
            "{path} matches {first}, so that networkd may take addresses and the bridge away from it."
        ),
        remedy: Some(Remedy {
            safe: true,
            steps: vec![
                Step::Write {
                    path: "/etc/systemd/network/05-viaduct.network".to_owned(),
                    text: format!(
                        "# Written by `viaduct doctor --fix`.\n[Match]\nName={}\n\n[Link]\nUnmanaged=yes\n",
                        names.join(" ")
                    ),
                },
                Step::Run("networkctl reload".to_owned()),
            ],
            remark: "It lasts. Devices of guests that come later are not in it, so look again then."
                .to_owned(),
        }),
    })
}

/// A shell's pattern with `*`, `?` and a leading `!`, as networkd's Match has them.
fn matches_glob(pattern: &str, name: &str) -> bool {
    fn matches(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), None) => matches(rest, name),
            (Some((b'*', rest)), Some((_, tail))) => matches(rest, name) || matches(pattern, tail),
            (Some((b'?', rest)), Some((_, tail))) => matches(rest, tail),
            (Some((a, rest)), Some((b, tail))) => a == b && matches(rest, tail),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
    match pattern.strip_prefix('!') {
        Some(pattern) => !matches(pattern.as_bytes(), name.as_bytes()),
        None => matches(pattern.as_bytes(), name.as_bytes()),
    }
}

/// NetworkManager leaves veths alone by a rule of udev, but makes connections of its own for bridges and taps that it
/// finds, and may bring them down with those.
fn network_manager(patient: &Patient<'_>, facts: &Facts) -> Option<Finding> {
    let mut files: Vec<&ConfigFile> =
        facts.file("/etc/NetworkManager/NetworkManager.conf").into_iter().collect();
    files.extend(facts.drop_ins(&NETWORK_MANAGER));
    let left_alone = |device: &IfName| {
        files.iter().any(|file| {
            let lines = file.text.lines().map(str::trim);
            let mut lists = lines.filter_map(|line| {
                let (key, list) = line.split_once('=')?;
                ["unmanaged-devices", "match-device"].contains(&key.trim()).then_some(list.trim())
            });
            let is_off = value(&file.text, "device-viaduct", "managed") == Some("0")
                || file.text.contains("unmanaged-devices");
            is_off
                && lists.any(|list| {
                    list.split([';', ',']).any(|spec| {
                        let pattern = spec.trim().strip_prefix("interface-name:").unwrap_or(spec.trim());
                        matches_glob(pattern, device.as_str())
                    })
                })
        })
    };
    let devices: Vec<&str> =
        our_devices(patient).into_iter().filter(|device| !left_alone(device)).map(IfName::as_str).collect();
    if devices.is_empty() {
        return None;
    }
    let all: Vec<String> =
        our_devices(patient).iter().map(|device| format!("interface-name:{device}")).collect();
    Some(Finding {
        kind: "network-manager",
        gravity: Gravity::Risk,
        namespace: None,
        title: format!("NetworkManager is not told to leave our devices alone: {}", devices.join(" ")),
        sufferers: everybody(patient),
        why: "It makes connections of its own for bridges and taps that it finds, and may take them down or away with \
              those."
            .to_owned(),
        remedy: Some(Remedy {
            safe: true,
            steps: vec![
                Step::Write {
                    path: "/etc/NetworkManager/conf.d/80-viaduct.conf".to_owned(),
                    text: format!(
                        "# Written by `viaduct doctor --fix`.\n[device-viaduct]\nmatch-device={}\nmanaged=0\n",
                        all.join(",")
                    ),
                },
                Step::Run("nmcli general reload conf".to_owned()),
            ],
            remark: "It lasts. Devices of guests that come later are not in it, so look again then.".to_owned(),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_a_shell_s() {
        for (pattern, name, is) in [
            ("*", "br-a", true),
            ("br-*", "br-a", true),
            ("e?h0", "eth0", true),
            ("!eth*", "eth0", false),
            ("a", "ab", false),
        ] {
            assert_eq!(matches_glob(pattern, name), is, "{pattern} {name}");
        }
    }

    #[test]
    fn the_last_value_of_a_section_counts() {
        let text = "[DHCP]\nA=1\n[Network]\n#A=0\nA = 2\nA=3\n";
        assert_eq!(value(text, "Network", "A"), Some("3"));
        assert_eq!(value(text, "Network", "B"), None);
    }
}
