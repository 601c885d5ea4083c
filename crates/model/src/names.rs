//! What is derived from names: the same for ever, whatever else the configuration holds.

use viaduct_types::{IfName, stable_hash};

use crate::GuestId;

/// A guest's (or namespace's) number when none is written: its name's hash, folded to 16 bits, never 0.
pub(crate) fn id(name: &str) -> GuestId {
    let bytes = stable_hash(name.as_bytes()).to_be_bytes();
    let folded = bytes.chunks_exact(2).fold(0, |fold, pair| fold ^ u16::from_be_bytes([pair[0], pair[1]]));
    GuestId::Derived(folded.max(1))
}

/// `br-NAME`, shortened where it does not fit.
pub(crate) fn bridge(name: &str) -> Option<IfName> {
    fit("br-", name, "")
}

/// The device that takes a VLAN out of another one.
pub(crate) fn vlan(device: &IfName, id: u16) -> Option<IfName> {
    fit("", device.as_str(), &format!(".{id}"))
}

/// The device that leads to the other hosts of a vnet.
pub(crate) fn vnet(name: &str) -> Option<IfName> {
    fit("vnet-", name, "")
}

/// A device of a vnet that is named by its id alone, whose groups colons part.
pub(crate) fn numbered(start: &str, id: &str) -> Option<IfName> {
    fit(start, &id.replace(':', "-"), "")
}

/// The device that leads to the other hosts of a vnet over IPv6, where there is one for each family.
pub(crate) fn second(device: &IfName) -> Option<IfName> {
    fit("", device.as_str(), "-6")
}

/// The host side of a guest's NIC.
pub(crate) fn device(guest: &str, id: GuestId, index: u8) -> Option<IfName> {
    match id {
        // Nine digits leave room for one digit of index.
        GuestId::Given(id) => format!("veth{id}.{index}").parse().ok(),
        GuestId::Derived(_) => None,
    }
    .or_else(|| fit("v-", guest, &format!(".{index}")))
}

/// The name with what stands around it if that is a device name; else its start and a hash of all of it.
fn fit(before: &str, name: &str, after: &str) -> Option<IfName> {
    const FITS: usize = 15;
    const HASH: usize = 6;
    if let Ok(device) = format!("{before}{name}{after}").parse() {
        return Some(device);
    }
    let room = FITS - before.len() - after.len() - HASH;
    let start: String = name.chars().take(room).collect();
    let hash = stable_hash(name.as_bytes());
    let hash: String = (0..HASH).map(|digit| base32(hash >> (5 * digit))).collect();
    format!("{before}{start}{hash}{after}").parse().ok()
}

/// The lowest five bits as one letter or digit.
fn base32(bits: u64) -> char {
    char::from(b"abcdefghijklmnopqrstuvwxyz234567"[(bits & 31) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_fit_and_tell_guests_apart() {
        let derived = |name: &str, index| device(name, id(name), index).unwrap().to_string();
        assert_eq!(derived("shop", 0), "v-shop.0");
        assert_eq!(device("x", GuestId::Given(1000), 0).unwrap().as_str(), "veth1000.0");
        assert_eq!(device("x", GuestId::Given(999_999_999), 255).unwrap().as_str(), "v-x.255");
        assert_eq!(derived("elevenchars", 1), "v-elevenchars.1");
        let (a, b) = (derived("a-rather-long-name-1", 0), derived("a-rather-long-name-2", 0));
        assert!(a.starts_with("v-a-rat") && a.ends_with(".0") && a.len() == 15 && a != b, "{a} {b}");
        assert_eq!(derived(&"x".repeat(63), 255).len(), 15);
        assert_eq!(bridge("lan").unwrap().as_str(), "br-lan");
        assert_eq!(bridge("a-rather-long-network").unwrap().as_str().len(), 15);
        let on = |device: &str| vlan(&device.parse().unwrap(), 4094).unwrap().to_string();
        assert_eq!(on("eth0"), "eth0.4094");
        let (a, b) = (on("enp129s0f0np0"), on("enp129s0f0np1"));
        assert!(a.len() == 15 && a.ends_with(".4094") && a != b, "{a} {b}");
    }
}
