//! What machines load that boot by the network.

use std::net::{IpAddr, Ipv6Addr};

use serde_json::{Value as Json, json};
use viaduct_types::{BootClient, ParseBootClientError, PortRange};

use super::{Text, Wrong, is_host_name, own, read, wrong};
use crate::{
    Family,
    report::Report,
    shape::Read,
    suggest::{nearest, one_of, quote},
    tree::Node,
};

text!(
    BootClient,
    "an architecture that boots",
    "ipxe|other|(?:http-)?(?:bios|efi-(?:x86|x86_64|arm|arm64|riscv64|loongarch64))|uboot-arm|uboot-arm64|power-opal",
    |text| {
        text.parse().map_err(|error: ParseBootClientError| {
            let known = || Self::ALL.into_iter().map(|(word, ..)| word);
            // What UEFI's own files are called by (UEFI Specification, section 3.5.1.1): bootx64.efi.
            let text = text.replace("x64", "x86_64").replace("aa64", "arm64").replace("ia32", "x86");
            Wrong {
                problem: error.to_string(),
                help: match nearest(&text, known()) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("write {}", one_of(known())),
                },
            }
        })
    }
);

/// The longest text that DHCP for IPv4 has room for in one option.
const LONGEST: usize = 255;
/// How files are fetched; the ways that firmware and boot loaders know.
const SCHEMES: [&str; 5] = ["http", "https", "tftp", "ftp", "nfs"];

/// A file to boot: the name that it has on a server, or a whole URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BootFile {
    pub(crate) text: String,
    /// None: the name of a file.
    pub(crate) url: Option<Url>,
}

/// What is known of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    /// Whether it is http or https.
    pub(crate) is_http: bool,
    /// The family of the address in it; none when it has a name, which may have addresses of both.
    pub(crate) family: Option<Family>,
}

text!(BootFile, "a file to boot", r"[\x21-\x7e]{1,255}", |text| {
    if text.is_empty() {
        return wrong("it is empty", "write the name of a file, or a URL, or leave the key out");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return wrong(
            "firmware takes only letters, digits and signs of ASCII, without spaces",
            "in a URL, write other characters as %XX",
        );
    }
    if text.len() > LONGEST {
        return wrong(
            format!("it has {} characters, and DHCP has room for {LONGEST}", text.len()),
            "write a shorter one",
        );
    }
    Ok(Self { text: text.to_owned(), url: url(text)? })
});

/// What follows the name of a scheme, if one is there.
fn url(text: &str) -> Result<Option<Url>, Wrong> {
    const LIKE: &str = "write it like http://192.0.2.1/boot.ipxe, or tftp://[2001:db8::1]/ipxe.efi";
    let Some((scheme, rest)) = text.split_once(':') else { return Ok(None) };
    let is_known = SCHEMES.contains(&scheme.to_ascii_lowercase().as_str());
    let Some(rest) = rest.strip_prefix("//") else {
        return if is_known { wrong("the two slashes of a URL are missing", LIKE) } else { Ok(None) };
    };
    if !is_known {
        let known = one_of(SCHEMES);
        return wrong(
            format!("there is no way {} to fetch a file", quote(scheme)),
            match nearest(scheme, SCHEMES) {
                Some(meant) => format!("did you mean `{meant}`? It is one of {known}"),
                None => format!("write a URL with {known}"),
            },
        );
    }
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // Who logs in stands before the host.
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let (family, port) = match host.strip_prefix('[') {
        Some(bracketed) => {
            let Some((address, port)) = bracketed.split_once(']') else {
                return wrong("the bracket of its address is not closed", LIKE);
            };
            let Ok(address) = address.parse::<Ipv6Addr>() else {
                return wrong(format!("{} is no IPv6 address", quote(address)), LIKE);
            };
            // Link-local ones are of use: the host is fe80::1 on guests' links.
            if !address.is_unicast_link_local() {
                own(address.into())?;
            }
            (Some(Family::V6), port)
        }
        None => {
            let (name, port) = match host.find(':') {
                Some(at) => host.split_at(at),
                None => (host, ""),
            };
            if port.matches(':').count() > 1 {
                return wrong("an IPv6 address stands in brackets", LIKE);
            }
            let is_address = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            let family = match name.parse::<IpAddr>() {
                Ok(address) => {
                    own(address)?;
                    Some(Family::V4)
                }
                Err(_) if name.is_empty() => return wrong("it names no machine", LIKE),
                Err(_) if is_address || !is_host_name(name) => {
                    return wrong(format!("{} is neither an address nor a host's name", quote(name)), LIKE);
                }
                Err(_) => None,
            };
            (family, port)
        }
    };
    let port_is_right = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(port) => !port.contains('-') && port.parse::<PortRange>().is_ok(),
    };
    if !port_is_right {
        return wrong("the port has to be a number from 1 to 65535, after a colon", LIKE);
    }
    Ok(Some(Url { is_http: scheme.to_ascii_lowercase().starts_with("http"), family }))
}

/// A word for what is booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BootParameter(pub(crate) String);

text!(BootParameter, "a boot parameter", r"[^\u0000]{1,255}", |text| {
    if text.is_empty() || text.len() > LONGEST || text.contains('\0') {
        return wrong(
            "it has to have 1 to 255 bytes",
            "write each parameter by itself, like parameters = [\"auto=true\", \"priority=critical\"]",
        );
    }
    Ok(Self(text.to_owned()))
});
