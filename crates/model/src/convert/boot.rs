use std::collections::BTreeMap;

use viaduct_types::BootClient;

use super::{network::Ground, one_per_family};
use crate::{
    Boot, BootFile, Family, Mode, raw,
    report::{At, Report, Span},
    shape,
};

/// How long all parameters together may be, in bytes, so that they fit the one packet of an answer.
const PARAMETERS: usize = 512;

/// Whose boot table it is, with the place of the key.
pub(crate) struct Place<'a> {
    pub(crate) key: Span,
    /// Whether the network answers DHCP.
    pub(crate) dhcp: bool,
    pub(crate) ground: &'a Ground,
    pub(crate) mode: &'a Mode,
}

/// What is loaded by machines that boot by the network.
pub(crate) fn boot(raw: &raw::Boot, place: &Place<'_>, report: &mut Report<'_>) -> Boot {
    if !place.dhcp {
        report
            .error(place.key, "what to boot is told by DHCP, which this network does not answer")
            .help("write dhcp = true in the network, too");
    }
    for at in raw.server.each() {
        let family = Family::of(at.value);
        if !has_family(place, family) {
            report
                .error(
                    at.span,
                    format!("{} is {family}, and guests here have no {family} addresses", at.value),
                )
                .help("write a server that they can reach, or leave it out");
        }
    }
    let servers = one_per_family(raw.server.each().copied(), "server", report);
    let mut files = BTreeMap::new();
    for (client, (_, written)) in raw.files.get().into_iter().flatten() {
        let Some(written) = written else { continue };
        let of_client = written.0.iter().filter_map(|at| file(*client, at, raw, report)).collect();
        one_for_each(&written.0, report);
        files.insert(*client, of_client);
    }
    let parameters: Vec<String> = raw.parameters.items().map(|at| at.value.0.clone()).collect();
    // Each has two more bytes for its length.
    let length: usize = parameters.iter().map(|parameter| parameter.len() + 2).sum();
    if let Some(key) = raw.parameters.key.filter(|_| length > PARAMETERS) {
        report
            .error(key, format!("they make {length} bytes, and an answer has room for {PARAMETERS}"))
            .help("write shorter ones, or put them into what is loaded");
    }
    Boot { servers, files, parameters }
}

/// Where it is not known which addresses guests have, they may be of either family.
fn has_family(place: &Place<'_>, family: Family) -> bool {
    let ground = place.ground;
    let install = match place.mode {
        Mode::Routed { install_pool, .. } => install_pool.as_slice(),
        Mode::Nat { .. } | Mode::Bridged { .. } | Mode::Isolated { .. } | Mode::Vnet { .. } => &[],
    };
    let mut known = ground.prefixes.iter().map(|at| at.value).chain(install.iter().copied()).peekable();
    !ground.is_whole || known.peek().is_none() || known.any(|prefix| Family::of(prefix.addr()) == family)
}

fn file(
    client: BootClient,
    at: &At<shape::BootFile>,
    raw: &raw::Boot,
    report: &mut Report<'_>,
) -> Option<BootFile> {
    let shape::BootFile { text, url } = &at.value;
    if client.is_http() && url.is_none_or(|url| !url.is_http) {
        report
            .error(at.span, format!("`{client}` loads by HTTP only"))
            .help("write a URL, like http://192.0.2.1/shimx64.efi");
        return None;
    }
    if url.is_none() && raw.server.key.is_none() {
        report
            .error(at.span, format!("nothing says from where {text} is loaded"))
            .help("write the machine that has it, like server = \"192.0.2.1\", or a whole URL, like tftp://192.0.2.1/…");
        return None;
    }
    Some(match url {
        None => BootFile::Name(text.clone()),
        Some(url) => BootFile::Url { url: text.clone(), family: url.family },
    })
}

/// Of several, each is for a family that no other is for.
fn one_for_each(files: &[At<shape::BootFile>], report: &mut Report<'_>) {
    let family = |at: &At<shape::BootFile>| at.value.url.and_then(|url| url.family);
    for (index, at) in files.iter().enumerate() {
        let Some(first) = files[..index].iter().find(|first| {
            let (first, second) = (family(first), family(at));
            first.is_none() || second.is_none() || first == second
        }) else {
            continue;
        };
        report
            .error(at.span, "a second file for the same machines")
            .related(first.span, "the first one")
            .help("two are for URLs of which one has an IPv4 address, the other one an IPv6 address");
    }
}
