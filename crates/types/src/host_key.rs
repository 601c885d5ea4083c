use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A host's public key (Ed25519, RFC 8032). Written in base64 (RFC 4648, section 4), 44 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct HostKey(pub [u8; 32]);

/// Why it is no host's key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseHostKeyError {
    /// Not 32 bytes in base64.
    #[error("a host's key is 44 characters of base64, as `viaduct identity` prints it on that host")]
    Form,
    /// A point of small order.
    #[error(
        "no host has this key, and anybody could say that it is theirs; it is what `viaduct identity` prints on that host"
    )]
    Anybodys,
}

/// The points of small order of edwards25519 (RFC 8032, section 5.1), by their y in all of its forms, in little-endian order; the highest
/// bit is the sign of x. Who knows no secret makes signatures that are right by such a key: by 1 for whatever there is, by the others for
/// one of some.
const SMALL_ORDER: [[u8; 32]; 7] = [
    ends(0, 0, 0),
    ends(1, 0, 0),
    ends(0xec, 0xff, 0x7f),
    ends(0xed, 0xff, 0x7f),
    ends(0xee, 0xff, 0x7f),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

const fn ends(first: u8, between: u8, last: u8) -> [u8; 32] {
    let mut bytes = [between; 32];
    (bytes[0], bytes[31]) = (first, last);
    bytes
}

impl HostKey {
    /// Whether it is no secret's: anybody can sign as if they had it.
    pub fn is_anybodys(self) -> bool {
        let mut y = self.0;
        y[31] &= 0x7f;
        SMALL_ORDER.contains(&y)
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const LENGTH: usize = 44;

/// 32 bytes in base64.
pub fn to_base64(bytes: &[u8; 32]) -> String {
    let mut text = String::with_capacity(LENGTH);
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * place)) as usize & 63]));
        }
    }
    text.push('=');
    text
}

/// And back; none when it is anything else, or not in the one form that there is.
pub fn from_base64(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_suffix('=').filter(|digits| digits.len() == LENGTH - 1)?;
    let mut bytes = [0; 32];
    let (mut bits, mut count, mut filled) = (0u32, 0u32, 0);
    for digit in digits.bytes() {
        let value = ALPHABET.iter().position(|&known| known == digit)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            let [.., byte] = (bits >> count).to_be_bytes();
            *bytes.get_mut(filled)? = byte;
            filled += 1;
        }
    }
    // 43 digits are 258 bits.
    (bits & ((1 << count) - 1) == 0).then_some(bytes)
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&to_base64(&self.0))
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for HostKey {
    type Err = ParseHostKeyError;

    fn from_str(text: &str) -> Result<Self, ParseHostKeyError> {
        let key = from_base64(text).map(Self).ok_or(ParseHostKeyError::Form)?;
        if key.is_anybodys() { Err(ParseHostKeyError::Anybodys) } else { Ok(key) }
    }
}

impl From<HostKey> for String {
    fn from(key: HostKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for HostKey {
    type Error = ParseHostKeyError;

    fn try_from(text: String) -> Result<Self, ParseHostKeyError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_written() {
        for seed in 0..=255u8 {
            let mut value = seed;
            let mut next = || {
                value = value.wrapping_mul(31).wrapping_add(seed | 1);
                value
            };
            let key = HostKey(std::array::from_fn(|_| next()));
            let text = key.to_string();
            assert_eq!(text.len(), LENGTH);
            assert_eq!(text.parse(), Ok(key), "{text}");
        }
        assert_eq!(HostKey([0; 32]).to_string(), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        assert_eq!(HostKey([255; 32]).to_string(), "//////////////////////////////////////////8=");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let fine = HostKey([7; 32]).to_string();
        for bad in
            ["", "=", "REPLACED-BY-hosta-viaduct-identity", &fine[1..], &fine[..43], "й".repeat(22).as_str()]
        {
            assert_eq!(bad.parse::<HostKey>(), Err(ParseHostKeyError::Form), "{bad}");
        }
        // What stands for a key that is not known yet, and others by which anybody signs.
        for first in [0, 1] {
            let nobodys = HostKey(ends(first, 0, 0));
            assert_eq!(nobodys.to_string().parse::<HostKey>(), Err(ParseHostKeyError::Anybodys));
        }
        for [first, between, last] in
            [[0, 0, 0x80], [0xec, 0xff, 0xff], [0xed, 0xff, 0x7f], [0xee, 0xff, 0xff]]
        {
            assert!(HostKey(ends(first, between, last)).is_anybodys(), "{first} {last}");
        }
        // The last digit has two bits that stand for nothing.
        assert!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=".parse::<HostKey>().is_err());
    }
}
