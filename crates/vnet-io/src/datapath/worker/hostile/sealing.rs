//! Datagrams as whoever has the keys may seal them: with any text, honest or not. Not by what the worker seals with, so that
//! each is the other's reader.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use viaduct_vnet_proto::data::esp::{Cipher, NEXT_HEADER_ETHERNET, NEXT_HEADER_NONE};

/// Which bytes a datagram has between the header and the check value.
pub(super) fn text(content: &[u8], next_header: u8) -> Vec<u8> {
    let padding = (4 - (content.len() + 2) % 4) % 4;
    let mut text = content.to_vec();
    text.extend((1..=3).take(padding));
    text.extend([u8::try_from(padding).unwrap(), next_header]);
    text
}

/// What is in such a text: whether it is a frame (or a dummy), and its bytes; none when no padding leaves room for any or it is
/// another thing.
pub(super) fn content(text: &[u8]) -> Option<(bool, &[u8])> {
    let (&next_header, rest) = text.split_last()?;
    let (&padding, rest) = rest.split_last()?;
    let content = &rest[..rest.len().checked_sub(padding.into())?];
    match next_header {
        NEXT_HEADER_ETHERNET => Some((true, content)),
        NEXT_HEADER_NONE => Some((false, content)),
        _ => None,
    }
}

/// A key with its salt, as many bytes as the longest needs.
#[derive(Clone, Copy)]
pub(super) struct Material {
    pub(super) cipher: Cipher,
    bytes: [u8; 36],
}

impl Material {
    /// Each number has another one.
    pub(super) fn of(cipher: Cipher, number: u32) -> Self {
        let mut bytes = [0x5c; 36];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        Self { cipher, bytes }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.cipher.key_length() + 4]
    }

    fn key(&self) -> (LessSafeKey, &[u8]) {
        let algorithm = match self.cipher {
            Cipher::Aes128Gcm | Cipher::Aes128Gmac => &AES_128_GCM,
            Cipher::Aes256Gcm | Cipher::Aes256Gmac => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let (key, salt) = self.bytes().split_at(algorithm.key_len());
        (LessSafeKey::new(UnboundKey::new(algorithm, key).unwrap()), salt)
    }

    /// A datagram with this text.
    pub(super) fn seal(&self, spi: u32, number: u64, text: &[u8]) -> Vec<u8> {
        let (key, salt) = self.key();
        let number = number.to_be_bytes();
        let nonce = || Nonce::try_assume_unique_for_key(&[salt, &number].concat()).unwrap();
        let header = [&spi.to_be_bytes()[..], &number[4..]].concat();
        let additional = [&spi.to_be_bytes()[..], &number].concat();
        if self.cipher.encrypts() {
            let mut text = text.to_vec();
            let tag = key.seal_in_place_separate_tag(nonce(), Aad::from(additional), &mut text).unwrap();
            [&header[..], &text, tag.as_ref()].concat()
        } else {
            let whole = [&additional[..], &number, text].concat();
            let tag = key.seal_in_place_separate_tag(nonce(), Aad::from(whole), &mut []).unwrap();
            [&header[..], &number, text, tag.as_ref()].concat()
        }
    }

    /// The text of a datagram with this number, if it is one.
    pub(super) fn open(&self, number: u64, datagram: &[u8]) -> Option<Vec<u8>> {
        let (key, salt) = self.key();
        let number = number.to_be_bytes();
        let nonce = Nonce::try_assume_unique_for_key(&[salt, &number].concat()).unwrap();
        let (header, rest) = datagram.split_at_checked(8)?;
        let additional = [&header[..4], &number].concat();
        if self.cipher.encrypts() {
            let mut text = rest.to_vec();
            let length = key.open_in_place(nonce, Aad::from(additional), &mut text).ok()?.len();
            text.truncate(length);
            Some(text)
        } else {
            let (iv, rest) = rest.split_at_checked(8)?;
            let (text, tag) = rest.split_at_checked(rest.len().checked_sub(16)?)?;
            let whole = [&additional[..], iv, text].concat();
            let opened = key.open_in_place_separate_tag(nonce, Aad::from(whole), tag, &mut []);
            (iv == number && opened.is_ok()).then(|| text.to_vec())
        }
    }
}
