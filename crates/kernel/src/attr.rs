//! Netlink attributes as bytes. Messages are built with netlink-packet-route's types, but read here: one attribute
//! that a newer kernel makes longer than that crate expects must not cost us the whole link or route.

use std::net::IpAddr;

use netlink_packet_core::NLA_TYPE_MASK;
use viaduct_types::MacAddr;

const HEADER: usize = 4;

/// The attributes in `bytes`, one after another: their type without flags, and their value. Ends at the first one
/// that does not fit.
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[a, b, c, d], _) = self.0.split_first_chunk::<HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(HEADER)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & NLA_TYPE_MASK, value))
    }
}

/// The value of the first attribute of this type.
pub(crate) fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    Attributes(attributes).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

/// A number in the host's byte order.
pub(crate) fn u32(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

/// A short number in the host's byte order, at the beginning of the value.
pub(crate) fn u16(value: &[u8]) -> Option<u16> {
    value.first_chunk().copied().map(u16::from_ne_bytes)
}

/// A byte.
pub(crate) fn u8(value: &[u8]) -> Option<u8> {
    value.first().copied()
}

/// A number in network byte order.
pub(crate) fn be16(value: &[u8]) -> Option<u16> {
    value.try_into().ok().map(u16::from_be_bytes)
}

/// Text up to the first NUL; what is not UTF-8 is replaced.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

/// An IPv4 or IPv6 address, by its length.
pub(crate) fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}

/// An Ethernet address.
pub(crate) fn mac(value: &[u8]) -> Option<MacAddr> {
    value.try_into().ok().map(MacAddr)
}

/// Appends an attribute. The value must be shorter than 64 KiB; ours are a few bytes.
pub(crate) fn put(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(HEADER + value.len()).unwrap_or(u16::MAX);
    to.extend_from_slice(&length.to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(value);
    to.resize(to.len().next_multiple_of(HEADER), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_read() {
        let mut bytes = Vec::new();
        put(&mut bytes, 3, b"eth0\0");
        put(&mut bytes, 1, &[1, 2, 3, 4, 5, 6]);
        assert_eq!(bytes.len(), 12 + 12);
        assert_eq!(find(&bytes, 3).map(text), Some("eth0".to_owned()));
        assert_eq!(find(&bytes, 1).and_then(mac), Some(MacAddr([1, 2, 3, 4, 5, 6])));
        assert_eq!(find(&bytes, 2), None);
    }

    #[test]
    fn odd_bytes_end_the_list() {
        for bad in [&[][..], &[8, 0, 1], &[3, 0, 1, 0], &[0, 0, 0, 0], &[9, 0, 1, 0, 1, 2, 3, 4]] {
            assert_eq!(Attributes(bad).count(), 0, "{bad:?}");
        }
        // The last one may lack its padding.
        assert_eq!(Attributes(&[5, 0, 1, 0, 7]).collect::<Vec<_>>(), [(1, &[7][..])]);
    }
}
