use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A host's public key (Ed25519, RFC 8032). Written in base64 (RFC 4648, section 4), 44 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct HostKey(pub [u8; 32]);

/// Not 32 bytes in base64.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a host's key is 44 characters of base64, as `viaduct identity` prints it on that host")]
pub struct ParseHostKeyError;

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
        from_base64(text).map(Self).ok_or(ParseHostKeyError)
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
            assert_eq!(bad.parse::<HostKey>(), Err(ParseHostKeyError), "{bad}");
        }
        // The last digit has two bits that stand for nothing.
        assert!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=".parse::<HostKey>().is_err());
    }
}
