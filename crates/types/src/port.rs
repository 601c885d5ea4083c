use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The transport protocols that have ports and can be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl Proto {
    /// Every one of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The number in the IP header (IANA protocol numbers).
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl FromStr for Proto {
    type Err = ParsePortError;

    fn from_str(s: &str) -> Result<Self, ParsePortError> {
        Self::ALL
            .into_iter()
            .find(|p| p.to_string() == s)
            .ok_or_else(|| ParsePortError::Protocol(s.to_owned()))
    }
}

/// Ports from `first` to `last`, both included; never empty, never port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// # Errors
    /// When the range is empty or holds port 0.
    pub fn new(first: u16, last: u16) -> Result<Self, ParsePortError> {
        if first == 0 {
            Err(ParsePortError::Zero)
        } else if last < first {
            Err(ParsePortError::Empty { first, last })
        } else {
            Ok(Self { first, last })
        }
    }

    /// The lowest port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// How many ports, 1 to 65,535.
    pub const fn count(self) -> u16 {
        self.last - self.first + 1
    }

    /// Whether one port is in both.
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Whether the port is in it.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Why a text is no port, range of ports or protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePortError {
    /// Not a number from 1 to 65535.
    #[error("{0:?} is no port: a number from 1 to 65535, or a range like 8000-8010")]
    Number(String),
    /// Port 0 is nobody's.
    #[error("port 0 cannot be used")]
    Zero,
    /// Last before first.
    #[error("the range {first}-{last} is empty: write {last}-{first}")]
    Empty {
        /// As written.
        first: u16,
        /// As written.
        last: u16,
    },
    /// Not tcp, udp or sctp.
    #[error("{0:?} is no protocol with ports: tcp, udp or sctp")]
    Protocol(String),
}

impl FromStr for PortRange {
    type Err = ParsePortError;

    fn from_str(s: &str) -> Result<Self, ParsePortError> {
        let number = |t: &str| {
            if !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()) {
                t.parse().map_err(|_| ParsePortError::Number(t.to_owned()))
            } else {
                Err(ParsePortError::Number(t.to_owned()))
            }
        };
        match s.split_once('-') {
            Some((first, last)) => Self::new(number(first)?, number(last)?),
            None => number(s).and_then(|port| Self::new(port, port)),
        }
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

impl TryFrom<String> for PortRange {
    type Error = ParsePortError;

    fn try_from(s: String) -> Result<Self, ParsePortError> {
        s.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let r: PortRange = "8000-8010".parse().unwrap();
        assert_eq!((r.first(), r.last(), r.count()), (8000, 8010, 11));
        assert_eq!("1-65535".parse::<PortRange>().unwrap().count(), 65535);
        assert!(r.overlaps("8010".parse().unwrap()) && !r.overlaps("8011".parse().unwrap()));
        for bad in ["", "0", "0-1", "65536", "2-1", "a", "1-", "-1", "+5", "1-2-3"] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad}");
        }
    }
}
