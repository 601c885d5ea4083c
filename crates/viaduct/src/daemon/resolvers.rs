//! The name servers that the host itself asks: those of `/etc/resolv.conf` (resolv.conf(5)).

use std::{
    fs,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    os::unix::fs::MetadataExt,
    path::PathBuf,
};

use viaduct_services::dns::PORT;
use viaduct_types::NamespaceName;

const FILE: &str = "/etc/resolv.conf";
/// So many count (MAXNS in resolv.h).
const MOST: usize = 3;

/// The file, as it was last.
pub(super) struct Resolvers {
    /// In a namespace, its own where it has one (ip-netns(8)).
    files: Vec<PathBuf>,
    is_known: bool,
    /// Its number, its size, and when it was changed.
    identity: Option<(u64, u64, i64, i64)>,
}

impl Resolvers {
    pub(super) fn new(namespace: Option<&NamespaceName>) -> Self {
        let own = namespace.map(|name| PathBuf::from(format!("/etc/netns/{name}/resolv.conf")));
        let files = own.into_iter().chain([PathBuf::from(FILE)]).collect();
        Self { files, is_known: false, identity: None }
    }

    /// The servers, when they may be others than before.
    pub(super) fn look(&mut self) -> Option<Vec<SocketAddr>> {
        let is_first = !std::mem::replace(&mut self.is_known, true);
        let identity = self
            .files
            .iter()
            .find_map(|file| fs::metadata(file).ok())
            .map(|data| (data.ino(), data.size(), data.ctime(), data.ctime_nsec()));
        if identity == self.identity && !is_first {
            return None;
        }
        self.identity = identity;
        let text = self.files.iter().find_map(|file| fs::read(file).ok()).unwrap_or_default();
        Some(servers(&String::from_utf8_lossy(&text), |device| {
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
                .and_then(|socket| rustix::net::netdevice::name_to_index(socket, device))
                .ok()
        }))
    }
}

/// What stands in the file; a link-local address has its device behind it.
fn servers(text: &str, index_of: impl Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    let words = text.lines().map(|line| line.split_whitespace());
    let named =
        words.filter_map(|mut words| (words.next() == Some("nameserver")).then(|| words.next()).flatten());
    let address = |word: &str| match word.split_once('%') {
        None => word.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, PORT)),
        Some((address, device)) => {
            let index = device.parse().ok().or_else(|| index_of(device))?;
            Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, index).into())
        }
    };
    named.filter_map(address).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_as_the_c_library_does() {
        let text = "# by somebody\nnameserver 127.0.0.53\nsearch lan\n nameserver  2001:db8::53 # why not\n\
                    nameserver fe80::1%eth0\nnameserver nowhere\noptions edns0\nnameserver 192.0.2.1\n";
        let servers = servers(text, |device| (device == "eth0").then_some(7));
        let expected: Vec<SocketAddr> = ["127.0.0.53:53", "[2001:db8::53]:53", "[fe80::1%7]:53"]
            .map(|server| server.parse().unwrap())
            .to_vec();
        assert_eq!(servers, expected);
    }
}
