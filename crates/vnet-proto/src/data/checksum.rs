//! The Internet checksum (RFC 1071), and its partial form.
//!
//! A TCP or UDP checksum is *partial* when its field holds the sum of the pseudo-header only, not complemented: what a
//! kernel leaves for a network card to complete. Between the hosts of a vnet such checksums stay partial, because ESP
//! protects every bit on the way; they are completed where a frame leaves for a link that needs it. Nothing on the wire
//! says which form a field has, it is recognized by its value. A complete checksum looks partial once in 65,536 times;
//! completing it then gives the same value for a good frame, and hides an error of a bad one as rarely as the
//! checksum itself does.

use super::layout::put_word;

/// Adds up 16-bit big-endian words; a last odd byte is the high one. Not folded.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    // Words of the machine's order may be added, and swapped afterwards (RFC 1071, section 2B). Four sums that do not
    // wait for each other.
    let mut sums = [0_u64; 4];
    let (blocks, rest) = bytes.as_chunks::<16>();
    for block in blocks {
        for (sum, word) in sums.iter_mut().zip(block.as_chunks::<4>().0) {
            *sum += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total: u64 = sums.iter().sum();
    let (words, rest) = rest.as_chunks::<2>();
    for word in words {
        total += u64::from(u16::from_ne_bytes(*word));
    }
    if let [last] = rest {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    u64::from(u16::from_be_bytes(fold(total).to_ne_bytes()))
}

/// The 16 bits of a sum, carries added.
pub(crate) fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    u16::try_from(sum & 0xffff).unwrap_or_default()
}

/// The checksum of an IPv4 header whose checksum field is zero, or of one whose field is right: then it is zero.
pub(crate) fn complement(sum: u64) -> u16 {
    !fold(sum)
}

/// The sum of a pseudo-header: addresses as they stand in the packet, protocol, length of what follows.
pub(crate) fn pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> u64 {
    sum(addresses) + u64::from(protocol) + (length as u64 & 0xffff_ffff)
}

/// Puts the checksum of these bytes among them, where zeroes stand; `before` is the sum of what counts beside them.
pub(crate) fn put(bytes: &mut [u8], at: usize, before: u64) {
    let sum = complement(before + sum(bytes));
    put_word(bytes, at, sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 1071, section 3.
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    proptest! {
        #[test]
        fn it_is_the_sum_of_words(bytes: Vec<u8>) {
            let naive: u64 = bytes
                .chunks(2)
                .map(|word| u64::from(word[0]) << 8 | u64::from(word.get(1).copied().unwrap_or(0)))
                .sum();
            let naive = fold(naive);
            // 0 and 0xffff are the same number.
            let is_zero = |sum: u16| sum == 0 || sum == 0xffff;
            let same = fold(sum(&bytes)) == naive || (is_zero(naive) && is_zero(fold(sum(&bytes))));
            prop_assert!(same, "{naive:#x}");
        }
    }
}
