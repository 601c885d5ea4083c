use std::{fmt, net::Ipv6Addr, str::FromStr};

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};

/// An Ethernet (MAC-48) address, in transmission order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The individual/group bit: a multicast address can be nobody's own.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// All zeroes: no address at all.
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }

    /// `02:VV:VV:CC:CC:II`: VLAN id (0 when none), guest id (its low 16 bits), NIC index.
    pub const fn derived(vlan: u16, guest: u16, nic: u8) -> Self {
        let (v, g) = (vlan.to_be_bytes(), guest.to_be_bytes());
        Self([0x02, v[0], v[1], g[0], g[1], nic])
    }

    /// The link-local address that a host with this MAC makes for itself (RFC 4291, appendix A: modified EUI-64).
    pub const fn link_local(self) -> Ipv6Addr {
        let m = self.0;
        Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            u16::from_be_bytes([m[0] ^ 2, m[1]]),
            u16::from_be_bytes([m[2], 0xff]),
            u16::from_be_bytes([0xfe, m[3]]),
            u16::from_be_bytes([m[4], m[5]]),
        )
    }

    /// The address that a host with this MAC makes for itself of a prefix (RFC 4862, section 5.5.3, with modified
    /// EUI-64); none when the prefix leaves no 64 bits for it.
    pub fn slaac(self, prefix: Ipv6Net) -> Option<Ipv6Addr> {
        let identifier = u128::from(self.link_local()) & u128::from(u64::MAX);
        (prefix.prefix_len() == 64).then(|| Ipv6Addr::from(u128::from(prefix.network()) | identifier))
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Not six colon-separated pairs of hex digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a MAC address is six pairs of hex digits with colons, like 02:00:00:00:64:00")]
pub struct ParseMacError;

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(s: &str) -> Result<Self, ParseMacError> {
        let mut bytes = [0; 6];
        let mut parts = s.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(ParseMacError)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(ParseMacError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| ParseMacError)?;
        }
        if parts.next().is_some() { Err(ParseMacError) } else { Ok(Self(bytes)) }
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for MacAddr {
    type Error = ParseMacError;

    fn try_from(s: String) -> Result<Self, ParseMacError> {
        s.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_is_vlan_guest_nic() {
        assert_eq!(MacAddr::derived(2, 42, 0).to_string(), "02:00:02:00:2a:00");
        assert_eq!(MacAddr::derived(0, 1000, 1).to_string(), "02:00:00:03:e8:01");
    }

    #[test]
    fn link_local_is_modified_eui64() {
        let mac: MacAddr = "00:16:3e:00:00:28".parse().unwrap();
        assert_eq!(mac.link_local().to_string(), "fe80::216:3eff:fe00:28");
        let slaac = |prefix: &str| mac.slaac(prefix.parse().unwrap());
        assert_eq!(slaac("2001:db8:0:1::/64"), Some("2001:db8:0:1:216:3eff:fe00:28".parse().unwrap()));
        assert_eq!(slaac("2001:db8:0:1::/80"), None);
    }

    #[test]
    fn only_the_colon_form_parses() {
        for bad in [
            "",
            "00:16:3e:00:00",
            "00:16:3e:00:00:28:01",
            "0:16:3e:0:0:28",
            "00-16-3e-00-00-28",
            "+1:16:3e:00:00:28",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
        assert_eq!("AA:bb:CC:dd:EE:ff".parse::<MacAddr>().unwrap().to_string(), "aa:bb:cc:dd:ee:ff");
    }
}
