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

/// How many bytes stand before each datagram, whosever they are: with GMAC, where all of it is additional data, a part of that is
/// there for a moment.
pub(super) const ROOM: usize = 4;

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

    /// Makes a datagram of a frame. `place` is [room](ROOM), whose content stays, and exactly the length for the datagram.
    pub(super) fn seal(&self, number: u64, frame: &[u8], place: &mut [u8]) -> Result<(), Unspecified> {
        self.seal_as(NEXT_HEADER_ETHERNET, number, frame, place)
    }

    /// Makes a datagram of something that is no frame.
    pub(super) fn seal_dummy(
        &self,
        number: u64,
        content: &[u8],
        place: &mut [u8],
    ) -> Result<(), Unspecified> {
        self.seal_as(NEXT_HEADER_NONE, number, content, place)
    }

    #[unsafe(link_section = "frame_path")]
    fn seal_as(
        &self,
        next_header: u8,
        number: u64,
        frame: &[u8],
        place: &mut [u8],
    ) -> Result<(), Unspecified> {
        let (header, body) = place[ROOM..].split_at_mut(HEADER);
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
            let (iv, rest) = body.split_at_mut(EXPLICIT_IV);
            iv.copy_from_slice(&number);
            let (text, rest) = rest.split_at_mut(frame.len());
            text.copy_from_slice(frame);
            rest[..end.len()].copy_from_slice(end);
            let (plain, check) = place.split_at_mut(place.len() - CHECK_VALUE);
            let tag = self.authenticated(number, plain, |additional| {
                self.key.seal_in_place_separate_tag(self.nonce(number), Aad::from(additional), &mut [])
            })?;
            check.copy_from_slice(tag.as_ref());
            Ok(())
        }
    }

    /// Opens a datagram in place and gives the frame in it: from where to where in the datagram. `place` is [room](ROOM), whose
    /// content stays, and the datagram, which is at least [`least`](Self::least) long.
    #[unsafe(link_section = "frame_path")]
    pub(super) fn open(&self, number: u64, place: &mut [u8]) -> Result<(usize, usize), NotOpened> {
        let number = number.to_be_bytes();
        let begin = HEADER + self.cipher.iv_length();
        let (head, tag) = place.split_at_mut(place.len() - CHECK_VALUE);
        if self.cipher.encrypts() {
            let additional = Aad::from(self.additional(number));
            let text = &mut head[ROOM + HEADER..];
            self.key
                .open_in_place_separate_tag(self.nonce(number), additional, tag, text)
                .map_err(|_| NotOpened::Forged)?;
        } else {
            let mut nonce = [0; 12];
            nonce[..4].copy_from_slice(&self.salt);
            nonce[4..].copy_from_slice(&head[ROOM + HEADER..ROOM + HEADER + EXPLICIT_IV]);
            let nonce = Nonce::assume_unique_for_key(nonce);
            let opened = self.authenticated(number, head, |additional| {
                self.key.open_in_place_separate_tag(nonce, Aad::from(additional), tag, &mut []).map(|_| ())
            });
            opened.map_err(|_| NotOpened::Forged)?;
        }
        let plain = &head[ROOM + begin..];
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

    /// RFC 4543, section 3.3: the same, followed by IV, frame, padding and trailer. It is in one piece while it is looked at: the
    /// high half of the number is where the SPI is sent, and the SPI in the room before that.
    fn authenticated<T>(&self, number: [u8; 8], plain: &mut [u8], look: impl FnOnce(&[u8]) -> T) -> T {
        let mut before = [0; ROOM + 4];
        before.copy_from_slice(&plain[..ROOM + 4]);
        plain[..12].copy_from_slice(&self.additional(number));
        let seen = look(plain);
        plain[..ROOM + 4].copy_from_slice(&before);
        seen
    }
}

#[cfg(test)]
mod tests {
    use viaduct_vnet_proto::data::esp::datagram_length;

    use super::*;

    /// Datagrams lie side by side: before each stands the end of another.
    #[test]
    fn what_stands_before_a_datagram_stays() {
        for cipher in Cipher::ALL {
            let material =
                KeyMaterial::new(cipher, &[7; 36][..cipher.key_length() + KeyMaterial::SALT]).unwrap();
            let keys = Keys::new(Spi::new(0x1000).unwrap(), cipher, &material).unwrap();
            let frame = [9; 61];
            let mut all = vec![0xa5; ROOM];
            let mut begins = Vec::new();
            for number in [1, 1 << 33] {
                begins.push(all.len());
                all.resize(all.len() + datagram_length(cipher, frame.len()), 0);
                keys.seal(number, &frame, &mut all[begins[begins.len() - 1] - ROOM..]).unwrap();
            }
            let ends = [begins[1], all.len()];
            let sealed = all.clone();
            for (number, (begin, end)) in [1, 1 << 33].into_iter().zip(begins.into_iter().zip(ends)) {
                let (first, after) = keys.open(number, &mut all[begin - ROOM..end]).unwrap();
                assert_eq!(all[begin + first..begin + after], frame, "{cipher:?}");
                assert_eq!(all[begin - ROOM..begin + HEADER], sealed[begin - ROOM..begin + HEADER]);
                assert_eq!(all[end - CHECK_VALUE..end], sealed[end - CHECK_VALUE..end]);
                // Neither when it is another one's number.
                let mut forged = sealed.clone();
                let opened = keys.open(number + (1 << 32), &mut forged[begin - ROOM..end]);
                assert_eq!(opened, Err(NotOpened::Forged), "{cipher:?}");
                assert_eq!(forged[..begin + HEADER], sealed[..begin + HEADER]);
            }
        }
    }
}
