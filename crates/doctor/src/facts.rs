//! What has to be known of a host beyond its network devices and our own tables.

use std::collections::{BTreeMap, BTreeSet};

use crate::filter::Table;

/// A file of another program, as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFile {
    /// Its absolute path.
    pub path: String,
    /// What is in it.
    pub text: String,
}

/// What was found on a host.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Everybody else's tables with a chain that packets meet which are forwarded, come to this host, or come from it: from
    /// nf_tables and from the older kernel interface (iptables-legacy).
    pub tables: Vec<Table>,
    /// Settings by their path under /proc/sys: those of [`crate::Patient::sysctls`] that exist.
    pub sysctls: BTreeMap<String, String>,
    /// Programs of [`Facts::PROGRAMS`] that are installed.
    pub programs: BTreeSet<String>,
    /// Files of [`Facts::FILES`] that exist, and everything with the ending in the directories of
    /// [`Facts::DIRECTORIES`].
    pub files: Vec<ConfigFile>,
    /// Those of [`Facts::MARKS`] that exist: a program of that kind runs.
    pub marks: BTreeSet<String>,
    /// How many processors there are to work on.
    pub processors: usize,
    /// The machine's maker and product, by its firmware; empty when it does not say.
    pub machine: String,
    /// Whether the daemon runs.
    pub daemon_runs: bool,
    /// Whether a process carries vnets' frames; it outlives the daemon.
    pub vnets_are_carried: bool,
}

impl Facts {
    /// Programs that remedies call.
    pub const PROGRAMS: [&str; 9] = [
        "iptables",
        "iptables-nft",
        "iptables-legacy",
        "ip6tables",
        "ip6tables-nft",
        "ip6tables-legacy",
        "nft",
        "ufw",
        "firewall-cmd",
    ];
    /// Files that say how others behave.
    pub const FILES: [&str; 5] = [
        "/etc/sysctl.conf",
        "/etc/ufw/before.rules",
        "/etc/ufw/before6.rules",
        "/etc/systemd/networkd.conf",
        "/etc/NetworkManager/NetworkManager.conf",
    ];
    /// Directories with such files, and the files' ending.
    pub const DIRECTORIES: [(&str, &str); 11] = [
        ("/etc/sysctl.d", "conf"),
        ("/etc/systemd/networkd.conf.d", "conf"),
        ("/run/systemd/networkd.conf.d", "conf"),
        ("/usr/lib/systemd/networkd.conf.d", "conf"),
        ("/etc/systemd/network", "network"),
        ("/run/systemd/network", "network"),
        ("/usr/lib/systemd/network", "network"),
        ("/lib/systemd/network", "network"),
        ("/etc/NetworkManager/conf.d", "conf"),
        ("/run/NetworkManager/conf.d", "conf"),
        ("/usr/lib/NetworkManager/conf.d", "conf"),
    ];
    /// systemd-networkd's and NetworkManager's directories, which they make when they start.
    pub const MARKS: [&str; 2] = ["/run/systemd/netif/links", "/run/NetworkManager"];

    /// What of it holds in a namespace: files and programs' services are the host's, and nobody loads them for others.
    pub fn of_namespace(self) -> Self {
        Self { files: Vec::new(), marks: BTreeSet::new(), ..self }
    }

    pub(crate) fn setting(&self, path: &str) -> Option<&str> {
        self.sysctls.get(path).map(String::as_str)
    }

    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        self.setting(path)?.parse().ok()
    }

    pub(crate) fn file(&self, path: &str) -> Option<&ConfigFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The files of some directories; of those with the same name the first directory's, sorted by name, as systemd
    /// reads drop-ins.
    pub(crate) fn drop_ins<'a>(&'a self, directories: &[&str]) -> Vec<&'a ConfigFile> {
        let mut by_name = BTreeMap::new();
        for directory in directories {
            for file in &self.files {
                if let Some((place, name)) = file.path.rsplit_once('/')
                    && place == *directory
                {
                    by_name.entry(name).or_insert(file);
                }
            }
        }
        by_name.into_values().collect()
    }
}
