//! ESP's framing: where things stand in a datagram, and what it costs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// SPI and the low half of the sequence number.
pub const HEADER: usize = 8;
/// Pad length and next header.
pub const TRAILER: usize = 2;
/// The check value of every cipher here.
pub const CHECK_VALUE: usize = 16;
/// What GMAC says explicitly (RFC 4543, section 3.1); the other ciphers derive it from the sequence number (RFC 8750).
pub const EXPLICIT_IV: usize = 8;
/// IANA's protocol number for Ethernet (RFC 8986, section 10.1).
pub const NEXT_HEADER_ETHERNET: u8 = 143;
/// No next header: a dummy packet, which whoever opens it drops (RFC 4303, section 2.6).
pub const NEXT_HEADER_NONE: u8 = 59;
/// ESP aligns its trailer to this.
const ALIGNMENT: usize = 4;

/// Names an association at its receiver, who chose it.
///
/// QUIC shares the port and has bit 0x40 of the first byte set (RFC 9000, section 17), so an SPI never has; 0 to 255 are
/// reserved (RFC 4303, section 2.1; 0 is also what says "no ESP" in RFC 3948).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spi(u32);

impl Spi {
    /// The bit that tells a datagram of QUIC.
    const QUIC: u32 = 0x4000_0000;

    /// None when it is reserved or would look like QUIC.
    pub const fn new(value: u32) -> Option<Self> {
        if value > 255 && value & Self::QUIC == 0 { Some(Self(value)) } else { None }
    }

    /// As it stands in the datagram, read big-endian.
    pub const fn value(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08x}", self.0)
    }
}

impl fmt::Debug for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How an association protects its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Cipher {
    /// `conf`: AES-GCM with a 128-bit key and implicit IV (RFC 8750, ENCR_AES_GCM_16_IIV).
    #[serde(rename = "aes-128-gcm")]
    Aes128Gcm,
    /// `conf`: the same with a 256-bit key.
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// `conf`: ChaCha20-Poly1305 with implicit IV (RFC 8750, ENCR_CHACHA20_POLY1305_IIV).
    #[serde(rename = "chacha20-poly1305")]
    ChaCha20Poly1305,
    /// `auth`: readable, but nobody else's: AES-GMAC with a 128-bit key (RFC 4543, ENCR_NULL_AUTH_AES_GMAC).
    #[serde(rename = "aes-128-gmac")]
    Aes128Gmac,
    /// `auth`: the same with a 256-bit key.
    #[serde(rename = "aes-256-gmac")]
    Aes256Gmac,
}

impl Cipher {
    /// All of them, the names that people see beside.
    pub const ALL: [Self; 5] =
        [Self::Aes128Gcm, Self::Aes256Gcm, Self::ChaCha20Poly1305, Self::Aes128Gmac, Self::Aes256Gmac];

    /// Bytes of the key, without the salt.
    pub const fn key_length(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes128Gmac => 16,
            Self::Aes256Gcm | Self::Aes256Gmac | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// Bytes between ESP's header and the frame.
    pub const fn iv_length(self) -> usize {
        if self.encrypts() { 0 } else { EXPLICIT_IV }
    }

    /// Whether the frames cannot be read on the way.
    pub const fn encrypts(self) -> bool {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm | Self::ChaCha20Poly1305 => true,
            Self::Aes128Gmac | Self::Aes256Gmac => false,
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes128Gcm => "aes-128-gcm",
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
            Self::Aes128Gmac => "aes-128-gmac",
            Self::Aes256Gmac => "aes-256-gmac",
        })
    }
}

/// What a dummy packet carries that is to show whether it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Which of the sender's workers sent it.
    pub worker: u8,
    /// By which it is told from others.
    pub number: u32,
}

impl Probe {
    /// Its bytes.
    pub const LENGTH: usize = 8;

    /// As it stands in the packet.
    pub const fn write(self) -> [u8; Self::LENGTH] {
        let [a, b, c, d] = self.number.to_be_bytes();
        [0, 0, 0, self.worker, a, b, c, d]
    }

    /// None when something else stands there.
    pub const fn read(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [0, 0, 0, worker, a, b, c, d] => Some(Self { worker, number: u32::from_be_bytes([a, b, c, d]) }),
            _ => None,
        }
    }
}

/// One of the two parts of a frame that is longer than the path is known to take, in a dummy packet. The second has the number
/// after the first's, so that they find each other; IP outside has nothing to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// The frame's beginning.
    First,
    /// Its rest.
    Second,
}

impl Half {
    /// None is longer.
    pub const LONGEST: usize = 4_608;

    /// What stands before it in the packet, which is never how a [`Probe`] begins.
    pub const HEADER: usize = 4;

    /// What that is.
    pub const fn header(self) -> [u8; Self::HEADER] {
        [1, 0, 0, self as u8]
    }

    /// Which it is, and its bytes; none when something else stands there.
    pub const fn read(content: &[u8]) -> Option<(Self, &[u8])> {
        match content {
            [1, 0, 0, 0, rest @ ..] => Some((Self::First, rest)),
            [1, 0, 0, 1, rest @ ..] => Some((Self::Second, rest)),
            _ => None,
        }
    }

    /// How long the first is.
    pub const fn split(frame: usize) -> usize {
        frame.div_ceil(2)
    }

    /// The longest frame that goes in two, where one of so many bytes goes whole.
    pub const fn most(whole: usize) -> usize {
        let one = whole.saturating_sub(Self::HEADER);
        2 * if one < Self::LONGEST { one } else { Self::LONGEST }
    }

    /// The number that the other one has.
    pub const fn number_of_other(self, number: u64) -> u64 {
        match self {
            Self::First => number.wrapping_add(1),
            Self::Second => number.wrapping_sub(1),
        }
    }
}

/// How many bytes of padding a frame needs: ESP's trailer ends at a multiple of four (RFC 4303, section 2.4).
pub const fn padding(frame: usize) -> usize {
    (frame + TRAILER).next_multiple_of(ALIGNMENT) - frame - TRAILER
}

/// The length of the datagram (what UDP carries) for a frame.
pub const fn datagram_length(cipher: Cipher, frame: usize) -> usize {
    HEADER + cipher.iv_length() + frame + padding(frame) + TRAILER + CHECK_VALUE
}

/// The longest frame that fits into a datagram; none when not even an empty one does.
pub const fn largest_frame(cipher: Cipher, datagram: usize) -> Option<usize> {
    let Some(room) = datagram.checked_sub(HEADER + cipher.iv_length() + CHECK_VALUE) else { return None };
    (room - room % ALIGNMENT).checked_sub(TRAILER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn overhead_over_ipv4_is_68_bytes() {
        // An IP packet of 1432 bytes in its frame fills a path of 1500.
        assert_eq!(20 + 8 + datagram_length(Cipher::Aes128Gcm, 14 + 1432), 1500);
        assert_eq!(largest_frame(Cipher::Aes128Gcm, 1472), Some(14 + 1432));
        assert_eq!(largest_frame(Cipher::Aes128Gmac, 1472), Some(14 + 1424));
        assert_eq!(largest_frame(Cipher::Aes128Gcm, 25), None);
    }

    #[test]
    fn probes_are_read_as_they_are_written() {
        let probe = Probe { worker: 7, number: 0x0102_0304 };
        assert_eq!(Probe::read(&probe.write()), Some(probe));
        assert_eq!(Probe::read(&[0; 7]), None);
        assert_eq!(Probe::read(&[1; 8]), None);
        assert_eq!(Probe::read(&[]), None);
    }

    #[test]
    fn spis_are_neither_reserved_nor_quic() {
        for bad in [0, 1, 255, 0x4000_0000, 0x7fff_ffff, 0xffff_ffff] {
            assert_eq!(Spi::new(bad), None, "{bad:#x}");
        }
        assert_eq!(Spi::new(0x8000_0001).unwrap().to_string(), "0x80000001");
    }

    proptest! {
        #[test]
        fn the_largest_frame_fits_and_the_next_does_not(datagram in 26usize..65_508, which in 0usize..5) {
            let cipher = Cipher::ALL[which];
            let Some(frame) = largest_frame(cipher, datagram) else { return Ok(()) };
            prop_assert!(datagram_length(cipher, frame) <= datagram);
            prop_assert!(datagram_length(cipher, frame + 1) > datagram);
        }
    }
}
