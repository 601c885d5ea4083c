use std::{borrow::Borrow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text cannot be a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("the name is empty")]
    Empty,
    /// More bytes than fit; for devices the kernel's IFNAMSIZ - 1.
    #[error("the name has {len} bytes, at most {max} fit")]
    TooLong {
        /// Bytes given.
        len: usize,
        /// Bytes that fit.
        max: usize,
    },
    /// A character that may not stand there.
    #[error("the character {0:?} cannot stand in this name")]
    Character(char),
    /// `.`, `..` or another word with a meaning of its own.
    #[error("{0:?} has a meaning of its own and cannot be a name")]
    Reserved(String),
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// The text of the name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(s: &str) -> Result<Self, NameError> {
                $check(s)?;
                Ok(Self(s.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(s: String) -> Result<Self, NameError> {
                $check(&s)?;
                Ok(Self(s))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// A network device's name as the kernel takes it (`dev_valid_name` in net/core/dev.c): 1 to 15 bytes, no
    /// white space, `/` or `:`, neither `.` nor `..`. We also refuse control characters, `%`, quotes and `*`, which
    /// the kernel or nftables give a meaning of their own, and anything beyond ASCII.
    IfName, check_device
);
name!(
    /// A guest's name: letters, digits, `-`, `_` and, inside, `.`; at most 63 bytes. Its DNS label, too.
    GuestName, check_label
);
name!(
    /// A network's name; letters and digits as in [`GuestName`].
    NetworkName, check_label
);
name!(
    /// An uplink's name; letters and digits as in [`GuestName`].
    UplinkName, check_label
);
name!(
    /// A shared namespace's name; a file of this name stands under /run/netns.
    NamespaceName, check_label
);
name!(
    /// Another host's name in our vnets.
    PeerName, check_label
);
name!(
    /// A vnet's name in the file; on the wire only its id counts.
    VnetName, check_label
);

fn check_device(s: &str) -> Result<(), NameError> {
    check_length(s, 15)?;
    if s == "." || s == ".." || s == "all" || s == "default" {
        // `all` and `default` name the sysctls of every device.
        return Err(NameError::Reserved(s.to_owned()));
    }
    match s.chars().find(|&c| !c.is_ascii_graphic() || "/:%\"'*\\".contains(c)) {
        Some(c) => Err(NameError::Character(c)),
        None => Ok(()),
    }
}

fn check_label(s: &str) -> Result<(), NameError> {
    check_length(s, 63)?;
    if let Some(c) = s.chars().find(|&c| !(c.is_ascii_alphanumeric() || "-_.".contains(c))) {
        return Err(NameError::Character(c));
    }
    match s.chars().next() {
        Some(c) if c.is_ascii_alphanumeric() => Ok(()),
        Some(c) => Err(NameError::Character(c)),
        None => Err(NameError::Empty),
    }
}

fn check_length(s: &str, max: usize) -> Result<(), NameError> {
    match s.len() {
        0 => Err(NameError::Empty),
        len if len > max => Err(NameError::TooLong { len, max }),
        _ => Ok(()),
    }
}

/// One NIC of one guest, written `shop.1`; `shop` alone is its first, `shop.0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct NicId {
    /// The guest.
    pub guest: GuestName,
    /// Counted from 0 in the order of the file.
    pub index: u8,
}

impl fmt::Display for NicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.guest, self.index)
    }
}

/// Not GUEST or GUEST.N.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} does not name a NIC: write GUEST for its first one, or GUEST.N")]
pub struct ParseNicIdError {
    text: String,
    #[source]
    source: NameError,
}

impl FromStr for NicId {
    type Err = ParseNicIdError;

    fn from_str(s: &str) -> Result<Self, ParseNicIdError> {
        let (guest, index) = match s.rsplit_once('.').map(|(guest, n)| (guest, n.parse())) {
            Some((guest, Ok(index))) => (guest, index),
            _ => (s, 0),
        };
        let guest = guest.parse().map_err(|source| ParseNicIdError { text: s.to_owned(), source })?;
        Ok(Self { guest, index })
    }
}

impl From<NicId> for String {
    fn from(id: NicId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for NicId {
    type Error = ParseNicIdError;

    fn try_from(s: String) -> Result<Self, ParseNicIdError> {
        s.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_are_the_kernels() {
        for good in ["eth0", "veth1000.0", "br-lan", "abcdefghijklmno"] {
            assert!(good.parse::<IfName>().is_ok(), "{good}");
        }
        for bad in ["", "abcdefghijklmnop", "a b", "a/b", "a:b", ".", "..", "all", "veth%d", "é"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn nic_ids_read_as_they_print() {
        let id: NicId = "shop".parse().unwrap();
        assert_eq!((id.guest.as_str(), id.index), ("shop", 0));
        assert_eq!(id.to_string().parse::<NicId>().unwrap(), id);
        let id: NicId = "web.example.2".parse().unwrap();
        assert_eq!((id.guest.as_str(), id.index), ("web.example", 2));
        assert!("../x".parse::<NicId>().is_err());
    }
}
