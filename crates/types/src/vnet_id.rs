use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The 128-bit id of a vnet. Written as one to four hex digits, or as eight colon-separated groups of them; 0 and 1
/// are not to be used (Xen user manual, `vnet` configuration).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct VnetId(u128);

impl VnetId {
    /// The id in network byte order.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Without what is zero in front, like `97` or `1:0002`.
    pub fn short(self) -> String {
        self.to_string().trim_start_matches(['0', ':']).to_owned()
    }
}

impl fmt::Display for VnetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for i in (0..8).rev() {
            write!(f, "{:04x}", (self.0 >> (16 * i)) & 0xffff)?;
            if i > 0 {
                f.write_str(":")?;
            }
        }
        Ok(())
    }
}

/// Why a text is no vnet id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseVnetIdError {
    /// Neither form.
    #[error("a vnet id is one to four hex digits, like 97, or eight groups of them with colons")]
    Form,
    /// 0 or 1.
    #[error("the vnet ids 0 and 1 are reserved")]
    Reserved,
}

impl FromStr for VnetId {
    type Err = ParseVnetIdError;

    fn from_str(s: &str) -> Result<Self, ParseVnetIdError> {
        let groups: Vec<&str> = s.split(':').collect();
        if groups.len() != 1 && groups.len() != 8 {
            return Err(ParseVnetIdError::Form);
        }
        let mut id = 0;
        for group in groups {
            if group.is_empty() || group.len() > 4 || !group.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(ParseVnetIdError::Form);
            }
            id = id << 16 | u128::from_str_radix(group, 16).map_err(|_| ParseVnetIdError::Form)?;
        }
        if id < 2 { Err(ParseVnetIdError::Reserved) } else { Ok(Self(id)) }
    }
}

impl From<VnetId> for String {
    fn from(id: VnetId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for VnetId {
    type Error = ParseVnetIdError;

    fn try_from(s: String) -> Result<Self, ParseVnetIdError> {
        s.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms() {
        let id: VnetId = "97".parse().unwrap();
        assert_eq!(id.to_string(), "0000:0000:0000:0000:0000:0000:0000:0097");
        assert_eq!(id.to_string().parse::<VnetId>().unwrap(), id);
        assert_eq!(id.short(), "97");
        assert_eq!("0:0:0:0:0:0:10:20".parse::<VnetId>().unwrap().short(), "10:0020");
        for bad in ["", "0", "1", "00001", "97:98", "0:0:0:0:0:0:0:0", "xyz", "97:"] {
            assert!(bad.parse::<VnetId>().is_err(), "{bad}");
        }
    }
}
