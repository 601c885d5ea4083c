//! Values of `lab.toml` that have a form of their own.

use std::{fs, io, net::IpAddr, path::Path, time::Duration};

use viaduct_model::Source;
use viaduct_types::{IpNet, PortRange, Proto};

use super::Route;

/// A host's configuration unless it says otherwise.
pub(super) const CONFIG: &str = "viaduct.toml";

/// The files of a configuration, as the program reads them: one, or those of a directory.
pub(super) fn sources(path: &Path) -> io::Result<Vec<Source>> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        files = vec![path.join(CONFIG)];
        let mut parts = match fs::read_dir(path.join("conf.d")) {
            Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?,
            Err(_) => Vec::new(),
        };
        parts.retain(|part| part.extension().is_some_and(|extension| extension == "toml"));
        parts.sort();
        files.append(&mut parts);
    }
    files
        .into_iter()
        .map(|file| {
            Ok(Source { text: fs::read_to_string(&file)?, name: file.to_string_lossy().into_owned() })
        })
        .collect()
}

/// `PREFIX via ADDRESS dev INTERFACE`, or one of both.
pub(super) fn route(text: &str) -> Option<Route> {
    let mut words = text.split_whitespace();
    let to = words.next()?;
    let to = to.parse().or_else(|_| to.parse::<IpAddr>().map(IpNet::from)).ok()?;
    let mut route = Route { to, via: None, dev: None };
    while let Some(word) = words.next() {
        match word {
            "via" => route.via = Some(words.next()?.parse().ok()?),
            "dev" => route.dev = Some(words.next()?.parse().ok()?),
            _ => return None,
        }
    }
    (route.via.is_some() || route.dev.is_some()).then_some(route)
}

/// `PORTS/PROTOCOL`
pub(super) fn listen(text: &str) -> Result<impl Iterator<Item = (u16, Proto)>, String> {
    let (ports, proto) = text.split_once('/').ok_or_else(|| format!("`{text}` names no protocol"))?;
    let ports: PortRange = ports.parse().map_err(|e| format!("{e}"))?;
    match proto.parse().map_err(|e| format!("{e}"))? {
        Proto::Sctp => Err("a lab cannot speak SCTP".to_owned()),
        proto @ (Proto::Tcp | Proto::Udp) => {
            Ok((ports.first()..=ports.last()).map(move |port| (port, proto)))
        }
    }
}

/// `20ms`
pub(super) fn delay(text: &str) -> Option<Duration> {
    text.strip_suffix("ms")?.trim().parse().ok().map(Duration::from_millis)
}
