//! What machines load that boot by the network.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use viaduct_types::BootClient;

use crate::Family;

/// What machines are told that boot by the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    /// Where files are loaded from that are no URLs; at most one per family.
    pub servers: Vec<IpAddr>,
    /// What is loaded, by who asks; more than one where that depends on the family.
    pub files: BTreeMap<BootClient, Vec<BootFile>>,
    /// What is told to what is loaded, in IPv6.
    pub parameters: Vec<String>,
}

/// What is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootFile {
    /// A file of the server, by TFTP.
    Name(String),
    /// From anywhere.
    Url {
        /// As written.
        url: String,
        /// Of the address in it; none: by name.
        family: Option<Family>,
    },
}

impl Boot {
    /// The server for IPv4.
    pub fn server(&self) -> Option<Ipv4Addr> {
        self.servers.iter().find_map(|server| match server {
            IpAddr::V4(server) => Some(*server),
            IpAddr::V6(_) => None,
        })
    }

    /// The server for IPv6.
    pub fn server6(&self) -> Option<Ipv6Addr> {
        self.servers.iter().find_map(|server| match server {
            IpAddr::V6(server) => Some(*server),
            IpAddr::V4(_) => None,
        })
    }

    /// What each is told in IPv4: the name of a file of the server, if there is one, or a URL.
    pub fn files4(&self) -> BTreeMap<BootClient, String> {
        let told = |file: &BootFile| match file {
            BootFile::Name(name) => self.server().map(|_| name.clone()),
            BootFile::Url { url, family } => (*family != Some(Family::V6)).then(|| url.clone()),
        };
        self.told(told)
    }

    /// What each is told in IPv6: a URL.
    pub fn files6(&self) -> BTreeMap<BootClient, String> {
        let told = |file: &BootFile| match file {
            BootFile::Name(name) => {
                self.server6().map(|server| format!("tftp://[{server}]/{}", name.trim_start_matches('/')))
            }
            BootFile::Url { url, family } => (*family != Some(Family::V4)).then(|| url.clone()),
        };
        self.told(told)
    }

    fn told(&self, told: impl Fn(&BootFile) -> Option<String>) -> BTreeMap<BootClient, String> {
        let first = |files: &[BootFile]| files.iter().find_map(&told);
        self.files.iter().filter_map(|(client, files)| Some((*client, first(files)?))).collect()
    }
}
