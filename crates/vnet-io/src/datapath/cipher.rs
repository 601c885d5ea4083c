//! Sealing and opening datagrams.

use aws_lc_rs::{
    aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    error::Unspecified,
};
use viaduct_vnet_proto::data::{
    Spi,
    esp::{
        CHECK_VALUE, Cipher, EXPLICIT_IV, HEADER, NEXT_HEADER_ETHERNET, NEXT_HEADER_NONE, TRAILER, padding,
    },
};

use super::api::KeyMaterial;

/// Room in which additional data is put together for GMAC, whose every byte is that.
pub(super) type Scratch = Vec<u8>;

/// A key that is ready for use.
#[derive(Debug)]
pub(super) struct Keys {
    key: LessSafeKey,
    salt: [u8; KeyMaterial::SALT],
    spi: [u8; 4],
    cipher: Cipher,
}

/// It is not what the key's owner sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotOpened {
    /// Not authentic.
    Forged,
    /// Authentic, but no Ethernet frame is in it.
    NotAFrame,
    /// Authentic, and no next header: what is in it, from where to where, is for who sends it to see that it arrives.
    Dummy(usize, usize),
}

impl Keys {
    pub(super) fn new(spi: Spi, cipher: Cipher, material: &KeyMaterial) -> Result<Self, Unspecified> {
        let algorithm: &Algorithm = match cipher {
            Cipher::Aes128Gcm | Cipher::Aes128Gmac => &AES_128_GCM,
            Cipher::Aes256Gcm | Cipher::Aes256Gmac => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, &material.key)?);
        Ok(Self { key, salt: material.salt, spi: spi.value().to_be_bytes(), cipher })
    }

    pub(super) fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Makes a datagram of a frame. `datagram` has exactly the length for it.
    pub(super) fn seal(
        &self,
        number: u64,
        frame: &[u8],
        datagram: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<(), Unspecified> {
        self.seal_as(NEXT_HEADER_ETHERNET, number, frame, datagram, scratch)
    }

    /// Makes a datagram of something that is no frame.
    pub(super) fn seal_dummy(
        &self,
        number: u64,
        content: &[u8],
        datagram: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<(), Unspecified> {
        self.seal_as(NEXT_HEADER_NONE, number, content, datagram, scratch)
    }

    fn seal_as(
        &self,
        next_header: u8,
        number: u64,
        frame: &[u8],
        datagram: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<(), Unspecified> {
        let (header, body) = datagram.split_at_mut(HEADER);
        header[..4].copy_from_slice(&self.spi);
        let number = number.to_be_bytes();
        header[4..].copy_from_slice(&number[4..]);
        // RFC 4303, section 2.4: the padding counts 1, 2, 3.
        let padding = padding(frame.len());
        let mut end = [1, 2, 3, 0, 0];
        end[padding] = u8::try_from(padding).unwrap_or_default();
        end[padding + 1] = next_header;
        let end = &end[..padding + TRAILER];
        if self.cipher.encrypts() {
            let (text, rest) = body.split_at_mut(frame.len());
            let additional = Aad::from(self.additional(number));
            self.key.seal_out_of_place_scatter(self.nonce(number), additional, frame, text, end, rest)
        } else {
            let (plain, check) = body.split_at_mut(EXPLICIT_IV + frame.len() + end.len());
            plain[..EXPLICIT_IV].copy_from_slice(&number);
            plain[EXPLICIT_IV..EXPLICIT_IV + frame.len()].copy_from_slice(frame);
            plain[EXPLICIT_IV + frame.len()..].copy_from_slice(end);
            self.authenticated(number, plain, scratch);
            let tag =
                self.key.seal_in_place_separate_tag(self.nonce(number), Aad::from(&scratch[..]), &mut [])?;
            check.copy_from_slice(tag.as_ref());
            Ok(())
        }
    }

    /// Opens a datagram in place and gives the frame in it: from where to where. The datagram is at least
    /// [`least`](Self::least) long.
    pub(super) fn open(
        &self,
        number: u64,
        datagram: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<(usize, usize), NotOpened> {
        let number = number.to_be_bytes();
        let text = datagram.len() - CHECK_VALUE;
        let begin = HEADER + self.cipher.iv_length();
        if self.cipher.encrypts() {
            let (head, tag) = datagram.split_at_mut(text);
            let additional = Aad::from(self.additional(number));
            self.key
                .open_in_place_separate_tag(self.nonce(number), additional, tag, &mut head[HEADER..])
                .map_err(|_| NotOpened::Forged)?;
        } else {
            let (head, tag) = datagram.split_at_mut(text);
            let plain = &head[HEADER..];
            self.authenticated(number, plain, scratch);
            let mut nonce = [0; 12];
            nonce[..4].copy_from_slice(&self.salt);
            nonce[4..].copy_from_slice(&plain[..EXPLICIT_IV]);
            let nonce = Nonce::assume_unique_for_key(nonce);
            self.key
                .open_in_place_separate_tag(nonce, Aad::from(&scratch[..]), tag, &mut [])
                .map_err(|_| NotOpened::Forged)?;
        }
        let plain = &datagram[begin..text];
        let [.., pad_length, next_header] = plain else { return Err(NotOpened::NotAFrame) };
        let frame = (plain.len() - TRAILER).checked_sub(usize::from(*pad_length));
        match frame {
            Some(frame) if *next_header == NEXT_HEADER_ETHERNET => Ok((begin, begin + frame)),
            Some(content) if *next_header == NEXT_HEADER_NONE => {
                Err(NotOpened::Dummy(begin, begin + content))
            }
            Some(_) | None => Err(NotOpened::NotAFrame),
        }
    }

    /// The shortest datagram that can be one of this cipher's.
    pub(super) fn least(&self) -> usize {
        HEADER + self.cipher.iv_length() + TRAILER + CHECK_VALUE
    }

    /// RFC 8750, section 4: the salt, and the sequence number as IV. For GMAC, whose IV is explicit, it is the same.
    fn nonce(&self, number: [u8; 8]) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.salt);
        nonce[4..].copy_from_slice(&number);
        Nonce::assume_unique_for_key(nonce)
    }

    /// RFC 4106, section 5, with extended sequence numbers: the high half is authenticated though it is not sent.
    fn additional(&self, number: [u8; 8]) -> [u8; 12] {
        let mut additional = [0; 12];
        additional[..4].copy_from_slice(&self.spi);
        additional[4..].copy_from_slice(&number);
        additional
    }

    /// RFC 4543, section 3.3: the same, followed by IV, frame, padding and trailer.
    fn authenticated(&self, number: [u8; 8], plain: &[u8], scratch: &mut Scratch) {
        scratch.clear();
        scratch.extend_from_slice(&self.additional(number));
        scratch.extend_from_slice(plain);
    }
}
