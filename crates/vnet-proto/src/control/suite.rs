//! What seals frames between two hosts, and how it is called in messages.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Security;
use crate::data::esp::Cipher;

/// How a host wants a vnet's frames protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// How much.
    pub security: Security,
    /// By this cipher, which gives that level, and no other; none: by what both ends do best.
    pub cipher: Option<Cipher>,
}

/// How ciphers are called in messages: the numbers of ESP's transforms where they have some (IANA, IKEv2 parameters).
const CIPHERS: [(u8, Cipher); 5] = [
    (30, Cipher::Aes128Gcm),
    (130, Cipher::Aes256Gcm),
    (31, Cipher::ChaCha20Poly1305),
    (21, Cipher::Aes128Gmac),
    (121, Cipher::Aes256Gmac),
];

pub(super) fn number(cipher: Cipher) -> u8 {
    CIPHERS.iter().find(|(_, known)| *known == cipher).map_or(0, |(number, _)| *number)
}

pub(super) fn cipher(number: u8) -> Option<Cipher> {
    CIPHERS.iter().find(|(known, _)| *known == number).map(|(_, cipher)| *cipher)
}

/// The level that a cipher gives.
pub(super) fn level(cipher: Cipher) -> Security {
    if cipher.encrypts() { Security::Conf } else { Security::Auth }
}

/// What both ends do best, for a level that has a cipher.
fn best(security: Security, here_fast_aes: bool, there_fast_aes: bool) -> Option<Cipher> {
    match security {
        Security::None => None,
        Security::Auth => Some(Cipher::Aes128Gmac),
        Security::Conf if here_fast_aes && there_fast_aes => Some(Cipher::Aes128Gcm),
        Security::Conf => Some(Cipher::ChaCha20Poly1305),
    }
}

impl Protection {
    /// As it stands in an offer: a level, or a cipher, by which the level is known.
    pub(super) fn number(self) -> u8 {
        self.cipher.map_or(
            match self.security {
                Security::None => 0,
                Security::Auth => 1,
                Security::Conf => 2,
            },
            number,
        )
    }

    pub(super) fn of(number: u8) -> Option<Self> {
        let security = match number {
            0 => Security::None,
            1 => Security::Auth,
            2 => Security::Conf,
            other => {
                return cipher(other).map(|cipher| Self { security: level(cipher), cipher: Some(cipher) });
            }
        };
        Some(Self { security, cipher: None })
    }

    /// Whether both ends can have it as they want: whoever names no cipher takes that of the other.
    pub(super) fn agrees_with(self, other: Self) -> bool {
        let ciphers = (self.cipher, other.cipher);
        self.security == other.security && !matches!(ciphers, (Some(own), Some(theirs)) if own != theirs)
    }

    /// What seals between ends that agree; none when nothing does.
    pub(super) fn cipher_with(
        self,
        other: Self,
        here_fast_aes: bool,
        there_fast_aes: bool,
    ) -> Option<Cipher> {
        self.cipher.or(other.cipher).or_else(|| best(self.security, here_fast_aes, there_fast_aes))
    }
}

/// As it is written: the cipher is beside the level.
impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "security {}", self.security)?;
        self.cipher.map_or(Ok(()), |cipher| write!(f, " and cipher {cipher}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(cipher: Cipher) -> Protection {
        Protection { security: level(cipher), cipher: Some(cipher) }
    }

    const CONF: Protection = Protection { security: Security::Conf, cipher: None };
    const AUTH: Protection = Protection { security: Security::Auth, cipher: None };

    #[test]
    fn every_wish_has_a_number_of_its_own() {
        let none = Protection { security: Security::None, cipher: None };
        let all: Vec<Protection> = Cipher::ALL.into_iter().map(wanted).chain([none, AUTH, CONF]).collect();
        for protection in &all {
            assert_eq!(Protection::of(protection.number()), Some(*protection));
        }
        let numbers: std::collections::BTreeSet<u8> = all.iter().map(|wish| wish.number()).collect();
        assert_eq!(numbers.len(), all.len());
        assert_eq!(Protection::of(3), None);
    }

    #[test]
    fn a_wish_holds_for_both_and_two_that_differ_for_nobody() {
        for cipher in Cipher::ALL {
            let plain = Protection { cipher: None, ..wanted(cipher) };
            for (here, there) in
                [(plain, wanted(cipher)), (wanted(cipher), plain), (wanted(cipher), wanted(cipher))]
            {
                assert!(here.agrees_with(there));
                assert_eq!(here.cipher_with(there, true, false), Some(cipher));
            }
            for other in Cipher::ALL.into_iter().filter(|other| *other != cipher) {
                assert!(!wanted(cipher).agrees_with(wanted(other)));
            }
        }
        assert!(!CONF.agrees_with(AUTH) && !AUTH.agrees_with(wanted(Cipher::Aes128Gcm)));
    }

    #[test]
    fn without_a_wish_it_is_what_both_do_best() {
        assert_eq!(CONF.cipher_with(CONF, true, true), Some(Cipher::Aes128Gcm));
        assert_eq!(CONF.cipher_with(CONF, true, false), Some(Cipher::ChaCha20Poly1305));
        assert_eq!(CONF.cipher_with(CONF, false, true), Some(Cipher::ChaCha20Poly1305));
        assert_eq!(AUTH.cipher_with(AUTH, false, false), Some(Cipher::Aes128Gmac));
        let none = Protection { security: Security::None, cipher: None };
        assert_eq!(none.cipher_with(none, true, true), None);
    }
}
