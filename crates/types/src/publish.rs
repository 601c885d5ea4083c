use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{ParsePortError, PortRange, Proto};

/// A guest's port made reachable: `[ADDRESS:]HOST-PORT:GUEST-PORT[/PROTO]`, Docker's syntax. IPv6 addresses stand in
/// brackets, ranges have the same length on both sides, the protocol is tcp unless written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Publish {
    /// The host's address; none means all of the host's addresses, of both families.
    pub address: Option<IpAddr>,
    /// Ports on the host's side.
    pub host: PortRange,
    /// Ports on the guest's side; as many as `host` has.
    pub guest: PortRange,
    /// Transport protocol.
    pub proto: Proto,
}

impl Publish {
    /// Whether one packet could match both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let addresses = match (self.address, other.address) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        addresses && self.proto == other.proto && self.host.overlaps(other.host)
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V4(a)) => write!(f, "{a}:")?,
            Some(IpAddr::V6(a)) => write!(f, "[{a}]:")?,
            None => {}
        }
        write!(f, "{}:{}/{}", self.host, self.guest, self.proto)
    }
}

/// Why a text publishes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePublishError {
    /// Not the form at all.
    #[error(
        "write [ADDRESS:]HOST-PORT:GUEST-PORT[/PROTO], like 203.0.113.10:8443:443/tcp or [2001:db8::10]:53:53/udp"
    )]
    Form,
    /// The address part.
    #[error("{0:?} is no IP address (IPv6 stands in brackets)")]
    Address(String),
    /// A port or the protocol.
    #[error(transparent)]
    Port(#[from] ParsePortError),
    /// Ranges of different length.
    #[error("{host} are {} ports on the host's side and {guest} are {} on the guest's: both need the same count", host.count(), guest.count())]
    Count {
        /// As written.
        host: PortRange,
        /// As written.
        guest: PortRange,
    },
}

impl FromStr for Publish {
    type Err = ParsePublishError;

    fn from_str(s: &str) -> Result<Self, ParsePublishError> {
        let (rest, proto) = match s.rsplit_once('/') {
            Some((rest, proto)) => (rest, proto.parse()?),
            None => (s, Proto::Tcp),
        };
        let (address, ports) = if let Some(bracketed) = rest.strip_prefix('[') {
            let (address, ports) = bracketed.split_once("]:").ok_or(ParsePublishError::Form)?;
            let v6: std::net::Ipv6Addr =
                address.parse().map_err(|_| ParsePublishError::Address(address.to_owned()))?;
            (Some(IpAddr::V6(v6)), ports)
        } else {
            match rest.splitn(3, ':').collect::<Vec<_>>()[..] {
                [_, _] => (None, rest),
                [address, _, _] => {
                    let v4: std::net::Ipv4Addr =
                        address.parse().map_err(|_| ParsePublishError::Address(address.to_owned()))?;
                    (Some(IpAddr::V4(v4)), &rest[address.len() + 1..])
                }
                _ => return Err(ParsePublishError::Form),
            }
        };
        let (host, guest) = ports.split_once(':').ok_or(ParsePublishError::Form)?;
        let (host, guest): (PortRange, PortRange) = (host.parse()?, guest.parse()?);
        if host.count() != guest.count() {
            return Err(ParsePublishError::Count { host, guest });
        }
        // The unspecified address is the usual way to say "all" to other tools; one family of it, though.
        let address = address.filter(|a| !a.is_unspecified());
        Ok(Self { address, host, guest, proto })
    }
}

impl From<Publish> for String {
    fn from(publish: Publish) -> Self {
        publish.to_string()
    }
}

impl TryFrom<String> for Publish {
    type Error = ParsePublishError;

    fn try_from(s: String) -> Result<Self, ParsePublishError> {
        s.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_syntax() {
        for (text, printed) in [
            ("203.0.113.10:389:389/tcp", "203.0.113.10:389:389/tcp"),
            ("8080:80", "8080:80/tcp"),
            ("0.0.0.0:8080:80", "8080:80/tcp"),
            ("[2001:db8::1]:53:53/udp", "[2001:db8::1]:53:53/udp"),
            ("10.0.0.1:1812-1813:1812-1813/udp", "10.0.0.1:1812-1813:1812-1813/udp"),
            ("36412:36412/sctp", "36412:36412/sctp"),
        ] {
            assert_eq!(text.parse::<Publish>().unwrap().to_string(), printed);
        }
        for bad in [
            "",
            "80",
            "x:80:80",
            "300.0.0.1:80:80",
            "2001:db8::1:80:80",
            "80:80/icmp",
            "80-81:80/tcp",
            "[::1:80:80",
            "1.2.3.4:80",
        ] {
            assert!(bad.parse::<Publish>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wildcard_overlaps_every_address() {
        let p = |s: &str| s.parse::<Publish>().unwrap();
        assert!(p("80:80").overlaps(&p("10.0.0.1:80:8080")));
        assert!(!p("10.0.0.2:80:80").overlaps(&p("10.0.0.1:80:80")));
        assert!(!p("80:80/udp").overlaps(&p("80:80/tcp")));
        assert!(p("80-90:80-90").overlaps(&p("90:1")));
    }
}
