//! The forms of text: each with its parser, its pattern for the JSON Schema, and what to say when it does not match.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use viaduct_types::{
    GuestName, IfName, IpNet, MacAddr, NameError, NamespaceName, NetworkName, PeerName, PortRange, Proto,
    Publish, UplinkName, VnetId, VnetName,
};

use crate::{
    Endpoint, Service, ipam,
    report::Report,
    shape::Read,
    suggest::quote,
    tree::{Node, Value},
};

/// A form of text.
pub(crate) trait Text: Sized {
    /// With its article, for messages.
    const WHAT: &'static str;
    /// As a JSON Schema (ECMA 262) pattern for the whole text. Accepts all that `parse` does.
    const PATTERN: &'static str;

    fn parse(text: &str) -> Result<Self, Wrong>;
}

/// Why a text does not have a form.
#[derive(Debug)]
pub(crate) struct Wrong {
    /// Completes "… cannot be …: ".
    pub(crate) problem: String,
    /// What to write instead.
    pub(crate) help: String,
}

fn wrong<T>(problem: impl Into<String>, help: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { problem: problem.into(), help: help.into() })
}

fn read<T: Text>(node: &Node<'_>, report: &mut Report<'_>) -> Option<T> {
    let Value::Text(text) = &node.value else {
        let found = node.value.kind();
        report
            .error(node.span, format!("expected {}, found {found}", T::WHAT))
            .help(format!("write {} as text, in quotes", T::WHAT));
        return None;
    };
    match T::parse(text) {
        Ok(value) => Some(value),
        Err(wrong) => {
            report
                .error(node.span, format!("{} cannot be {}: {}", quote(text), T::WHAT, wrong.problem))
                .help(wrong.help);
            None
        }
    }
}

macro_rules! text {
    ($type:ty, $what:literal, $pattern:expr, $parse:expr) => {
        impl Text for $type {
            const WHAT: &'static str = $what;
            const PATTERN: &'static str = $pattern;

            fn parse(text: &str) -> Result<Self, Wrong> {
                let parse: fn(&str) -> Result<Self, Wrong> = $parse;
                parse(text)
            }
        }

        impl Read for $type {
            fn read(node: &Node<'_>, report: &mut Report<'_>) -> Option<Self> {
                read(node, report)
            }

            fn schema() -> Json {
                json!({ "type": "string", "pattern": concat!("^(?:", $pattern, ")$") })
            }
        }
    };
}

// Pieces of patterns; macros, since `concat!` takes nothing else.
#[rustfmt::skip]
macro_rules! label { () => { "[A-Za-z0-9][A-Za-z0-9_.-]{0,62}" }; }
macro_rules! v4 {
    () => {
        "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(?:\\.(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])){3}"
    };
}
#[rustfmt::skip]
macro_rules! v6 { () => { "(?=[^:/]*:[^:/]*:)[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){1,7}(?::|\\.[0-9.]+)?" }; }
#[rustfmt::skip]
macro_rules! ip { () => { concat!("(?:", v4!(), "|", v6!(), ")") }; }
macro_rules! net {
    () => {
        concat!("(?:", v4!(), "/(?:3[0-2]|[12]?[0-9])|", v6!(), "/(?:12[0-8]|1[01][0-9]|[1-9]?[0-9]))")
    };
}
macro_rules! port {
    () => {
        "0*(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
    };
}
#[rustfmt::skip]
macro_rules! ports { () => { concat!(port!(), "(?:-", port!(), ")?") }; }

mod boot;
mod inner;

pub(crate) use boot::{BootFile, BootParameter};
pub(crate) use inner::{PriorityPair, RuleSpec, StaticRoute, SysctlName};

macro_rules! names {
    ($($type:ty, $what:literal;)+) => {
        $( text!($type, $what, label!(), |text| text.parse().map_err(label_wrong)); )+
    };
}

names! {
    GuestName, "a guest's name";
    NetworkName, "a network's name";
    UplinkName, "an uplink's name";
    NamespaceName, "a namespace's name";
    PeerName, "a host's name";
    VnetName, "a vnet's name";
}

fn label_wrong(error: NameError) -> Wrong {
    Wrong {
        problem: error.to_string(),
        help: "names are made of letters, digits, `-`, `_` and `.`, begin with a letter or digit, and have at most 63 \
               characters"
            .into(),
    }
}

text!(
    IfName,
    "a device's name",
    r"(?!(?:\.|\.\.|all|default)$)[!#$&()+,.0-9;<=>?@A-Z\[\]^_`a-z{|}~\-]{1,15}",
    |text| text.parse().map_err(|error: NameError| Wrong {
        problem: error.to_string(),
        help: "device names have 1 to 15 characters without spaces, `/`, `:`, `%`, quotes, `*` and `\\`"
            .into(),
    })
);

text!(MacAddr, "a MAC address", "[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}", |text| {
    const HELP: &str = "write six pairs of hex digits with colons, like 02:00:00:00:64:00";
    match text.parse::<MacAddr>() {
        Err(_) => wrong("it does not have that form", HELP),
        Ok(mac) if mac.is_zero() => wrong("all zeroes is no address", HELP),
        Ok(mac) if mac.is_multicast() => wrong(
            "it is a multicast address, which nobody can have as their own",
            "the first pair has to be even, like 02",
        ),
        Ok(mac) => Ok(mac),
    }
});

text!(VnetId, "a vnet's id", "[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){7}|[0-9A-Fa-f]{1,4}", |text| {
    text.parse().map_err(|error: viaduct_types::ParseVnetIdError| Wrong {
        problem: error.to_string(),
        help: "write one to four hex digits, like 97, or eight groups of them with colons".into(),
    })
});

text!(IpAddr, "an IP address", ip!(), |text| match text.parse() {
    Ok(ip) => own(ip),
    Err(_) if text.contains('/') && text.parse::<IpNet>().is_ok() => {
        wrong("it has a prefix length", format!("write {}", text.split('/').next().unwrap_or_default()))
    }
    Err(_) => not_an_address(text),
});

/// A multicast group's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group(pub(crate) IpAddr);

text!(Group, "a multicast group", ip!(), |text| match text.parse::<IpAddr>() {
    Ok(group) if group.is_multicast() => Ok(Self(group)),
    Ok(_) => wrong("it is an address of one machine", "groups are of 224.0.0.0/4 and ff00::/8"),
    Err(_) => not_an_address(text),
});

/// An address that a machine can have, as a NIC's is written: `IP` or `IP/LENGTH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Its prefix length, if that is written.
    pub length: Option<u8>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ip)?;
        self.length.map_or(Ok(()), |length| write!(f, "/{length}"))
    }
}

/// Not what it should be, as it would be in a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text} cannot be {what}: {problem}; {help}")]
pub struct ParseTextError {
    text: String,
    what: &'static str,
    problem: String,
    help: String,
}

fn parse<T: Text>(text: &str) -> Result<T, ParseTextError> {
    let error = |Wrong { problem, help }| ParseTextError { text: quote(text), what: T::WHAT, problem, help };
    T::parse(text).map_err(error)
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for Address {
    type Error = ParseTextError;

    fn try_from(text: String) -> Result<Self, ParseTextError> {
        text.parse()
    }
}

impl FromStr for Address {
    type Err = ParseTextError;

    fn from_str(text: &str) -> Result<Self, ParseTextError> {
        parse(text)
    }
}

text!(Address, "an address", concat!(ip!(), "|", net!()), |text| {
    match text.split_once('/') {
        None => IpAddr::parse(text).map(|ip| Self { ip, length: None }),
        Some(_) => {
            HostNet::parse(text).map(|HostNet(net)| Self { ip: net.addr(), length: Some(net.prefix_len()) })
        }
    }
});

/// An address with the length of its prefix, like 203.0.113.7/24.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostNet(pub(crate) IpNet);

text!(HostNet, "an address with prefix length", net!(), |text| {
    let net = any_net(text)?;
    own(net.addr()).map(|_| Self(net))
});

/// A prefix with zero host bits that guests' addresses come from; an address stands for itself alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolPrefix(pub(crate) IpNet);

text!(PoolPrefix, "a prefix", concat!(ip!(), "|", net!()), |text| {
    let net = prefix(text)?;
    match ipam::no_guest_prefix(net) {
        Some(what) => wrong(format!("that is {what}"), "write the prefix that guests' addresses come from"),
        None => Ok(Self(net)),
    }
});

/// A prefix with zero host bits for a shared segment: with room for a gateway and a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SubnetPrefix(pub(crate) IpNet);

text!(SubnetPrefix, "a subnet", net!(), |text| {
    let net = any_net(text)?;
    if net != net.trunc() {
        return wrong("it has bits set beyond its prefix length", format!("write {}", net.trunc()));
    }
    let PoolPrefix(net) = PoolPrefix::parse(text)?;
    if net.prefix_len() == net.max_prefix_len() {
        return wrong("it has no room for a gateway and a guest", "write a shorter prefix length");
    }
    Ok(Self(net))
});

/// The other end of a permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AllowEnd {
    Any,
    Prefix(IpNet),
    Guest(GuestName),
    Network(NetworkName),
}

text!(
    AllowEnd,
    "the other end",
    concat!("any|guest:", label!(), "|network:", label!(), "|", ip!(), "|", net!()),
    |text| match text.split_once(':') {
        _ if text == "any" => Ok(Self::Any),
        Some(("guest", name)) => GuestName::parse(name).map(Self::Guest),
        Some(("network", name)) => NetworkName::parse(name).map(Self::Network),
        _ => match prefix(text) {
            Ok(prefix) => Ok(Self::Prefix(prefix)),
            Err(wrong) if text.contains(['/', '.']) || text.matches(':').count() > 1 => Err(wrong),
            Err(_) => wrong(
                "it is neither `any`, an address, a prefix, `guest:NAME` nor `network:NAME`",
                format!("to mean a guest write \"guest:{}\"", text.rsplit(':').next().unwrap_or_default()),
            ),
        },
    }
);

/// Ports with their protocol, tcp unless written; or `icmp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortSpec(pub(crate) Service);

text!(PortSpec, "a port", concat!("icmp|", ports!(), "(?:/(?:tcp|udp|sctp))?"), |text| {
    if text == "icmp" {
        return Ok(Self(Service::Icmp));
    }
    let (ports, proto) = text.split_once('/').unwrap_or((text, "tcp"));
    let parsed = proto.parse::<Proto>().and_then(|proto| Ok((proto, ports.parse::<PortRange>()?)));
    match parsed {
        Ok((proto, ports)) => Ok(Self(Service::Ports(proto, ports))),
        Err(error) => {
            wrong(error.to_string(), "write a port or range with its protocol, like 443/tcp or 8000-8100/udp")
        }
    }
});

/// A whole IP protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProtocolSpec(pub(crate) Service);

text!(
    ProtocolSpec,
    "a protocol",
    "icmp|icmpv6|tcp|udp|sctp|gre|esp|ah|ipip|igmp|ospf|vrrp|25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]",
    |text| {
        // IANA protocol numbers.
        let service = match text {
            // One word for both: they are the same need.
            "icmp" | "icmpv6" => Service::Icmp,
            "igmp" => Service::Protocol(2),
            "ipip" => Service::Protocol(4),
            "tcp" => Service::Protocol(6),
            "udp" => Service::Protocol(17),
            "gre" => Service::Protocol(47),
            "esp" => Service::Protocol(50),
            "ah" => Service::Protocol(51),
            "ospf" => Service::Protocol(89),
            "vrrp" => Service::Protocol(112),
            "sctp" => Service::Protocol(132),
            number => match number.parse() {
                Ok(n) if number.bytes().all(|b| b.is_ascii_digit()) => Service::Protocol(n),
                _ => {
                    return wrong(
                        "it is no IP protocol",
                        "write tcp, udp, sctp, icmp, gre, esp, ah, ipip, igmp, ospf, vrrp, or a number from 0 to 255",
                    );
                }
            },
        };
        Ok(Self(service))
    }
);

text!(
    Publish,
    "a published port",
    concat!("(?:(?:", v4!(), "|\\[", v6!(), "\\]):)?", ports!(), ":", ports!(), "(?:/(?:tcp|udp|sctp))?"),
    |text| {
        const HELP: &str = "write [ADDRESS:]HOST-PORT:GUEST-PORT[/PROTO], like 203.0.113.10:8443:443/tcp";
        let publish: Self = match text.parse() {
            Ok(publish) => publish,
            Err(viaduct_types::ParsePublishError::Form) => return wrong("it does not have that form", HELP),
            Err(error) => return wrong(error.to_string(), HELP),
        };
        match publish.address.map(own) {
            Some(Err(wrong)) => Err(wrong),
            Some(Ok(_)) | None => Ok(publish),
        }
    }
);

impl FromStr for Endpoint {
    type Err = ParseTextError;

    fn from_str(text: &str) -> Result<Self, ParseTextError> {
        parse(text)
    }
}

text!(
    Endpoint,
    "a peer's endpoint",
    concat!(
        "(?:",
        v4!(),
        "|\\[",
        v6!(),
        "\\]|(?![0-9.]+:)[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9.])?):",
        port!()
    ),
    |text| {
        const HELP: &str = "write HOST:PORT, like 192.0.2.1:1798, [2001:db8::1]:1798 or hostb.example:1798";
        const NO_LINK: &str =
            "write a global address, or let hosts on one link find each other by [discovery]";
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match (own(address.ip()), address.port()) {
                (Err(wrong), _) => Err(wrong),
                (Ok(IpAddr::V6(ip)), _) if ip.is_unicast_link_local() => {
                    wrong("a link-local address says nothing without its link", NO_LINK)
                }
                (Ok(_), 0) => wrong("port 0 cannot be used", HELP),
                (Ok(_), _) => Ok(Self::Address(address)),
            };
        }
        match text.rsplit_once(':') {
            Some(_) if text.ends_with(']') => wrong("the port is missing", HELP),
            Some((host, _)) if format!("{host}:1").parse::<SocketAddr>().is_ok() => {
                wrong("the port has to be a number from 1 to 65535", HELP)
            }
            Some((host, _)) if host.contains('%') => wrong("no link can be written with an address", NO_LINK),
            Some((host, _)) if host.contains(':') => wrong("an IPv6 address stands in brackets", HELP),
            Some((host, port)) if is_host_name(host) => match port.parse::<PortRange>() {
                Ok(range) if !port.contains('-') => Ok(Self::Name(host.to_owned(), range.first())),
                _ => wrong("the port has to be a number from 1 to 65535", HELP),
            },
            Some(_) => wrong("it has neither an address nor a host name", HELP),
            None => wrong("the port is missing", HELP),
        }
    }
);

text!(PeerKey, "a public key", r"\S+", |text| {
    if text.is_empty() {
        return wrong("it is empty", "write what `viaduct identity` prints on that host");
    }
    if text.contains(char::is_whitespace) || text.contains(char::is_control) {
        return wrong("a key has no white space", "write what `viaduct identity` prints on that host");
    }
    Ok(Self(text.to_owned()))
});

/// Checked when it is used.
#[derive(Clone, Debug)]
pub(crate) struct PeerKey(pub(crate) String);

/// A domain that guests are told.
#[derive(Clone, Debug)]
pub(crate) struct DomainName(pub(crate) String);

text!(
    DomainName,
    "a domain",
    r"(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?",
    |text| {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        if text.len() > 253 || !name.split('.').all(label) {
            return wrong("it is no DNS name", "write labels of letters, digits and `-`, like lan.example");
        }
        Ok(Self(name.to_owned()))
    }
);

/// A program.
#[derive(Clone, Debug)]
pub(crate) struct HookPath(pub(crate) PathBuf);

text!(HookPath, "a program", r"/[^\u0000]+", |text| {
    if !text.starts_with('/') || text.len() == 1 || text.contains('\0') {
        return wrong("it is no full path", "write the path from the root, like /etc/viaduct/hooks/log");
    }
    Ok(Self(PathBuf::from(text)))
});

/// A device, or the uplink whose device is meant.
#[derive(Clone, Debug)]
pub(crate) struct Parent(pub(crate) String);

text!(
    Parent,
    "an uplink or a device",
    concat!(label!(), "|", r"[!#$&()+,.0-9;<=>?@A-Z\[\]^_`a-z{|}~\-]{1,15}"),
    |text| {
        match (text.parse::<UplinkName>(), IfName::parse(text)) {
            (Ok(_), _) | (_, Ok(_)) => Ok(Self(text.to_owned())),
            (Err(_), Err(wrong)) => Err(wrong),
        }
    }
);

fn own(ip: IpAddr) -> Result<IpAddr, Wrong> {
    match (ipam::no_host_address(ip), ip) {
        (None, _) => Ok(ip),
        (Some(what), IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            let v4 = v6.to_ipv4_mapped().map(|v4| v4.to_string()).unwrap_or_default();
            wrong(format!("it is {what}"), format!("write {v4}"))
        }
        (Some(what), _) => wrong(format!("it is {what}"), "write an address that one machine can have"),
    }
}

fn any_net(text: &str) -> Result<IpNet, Wrong> {
    if let Ok(net) = text.parse::<IpNet>() {
        return Ok(net);
    }
    let Some((address, length)) = text.split_once('/') else {
        return match text.parse::<IpAddr>() {
            Ok(ip) => wrong(
                "the prefix length is missing",
                format!("write it after the address, like {ip}/{}", if ip.is_ipv4() { 24 } else { 64 }),
            ),
            Err(_) => not_an_address(text),
        };
    };
    match address.parse::<IpAddr>() {
        Ok(ip) => {
            let (family, most) = if ip.is_ipv4() { ("IPv4", 32) } else { ("IPv6", 128) };
            wrong(
                format!("{} is no prefix length", quote(length)),
                format!("{family} prefix lengths are 0 to {most}"),
            )
        }
        Err(_) => not_an_address(address),
    }
}

/// A prefix whose host bits are zero; an address stands for itself alone.
fn prefix(text: &str) -> Result<IpNet, Wrong> {
    let net = match text.parse::<IpAddr>() {
        Ok(ip) => ipam::host(own(ip)?),
        Err(_) => any_net(text)?,
    };
    let right = net.trunc();
    if right != net {
        return wrong(
            "it has bits set beyond its prefix length",
            format!("write {right} for the whole prefix, or {} for the one address", net.addr()),
        );
    }
    Ok(net)
}

fn not_an_address<T>(text: &str) -> Result<T, Wrong> {
    let help = "write IPv4 like 203.0.113.7 or IPv6 like 2001:db8::7";
    if text.split('.').count() == 4 && text.split('.').any(|part| part.len() > 1 && part.starts_with('0')) {
        return wrong("a number in it begins with 0, which some read as octal", "leave out leading zeroes");
    }
    wrong("it is neither an IPv4 nor an IPv6 address", help)
}

fn is_host_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !text.ends_with('-')
        // All digits and dots would be a mistyped address.
        && !text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}
