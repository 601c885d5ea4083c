use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use viaduct_types::{IfName, IpNet, MacAddr, PortRange, Proto};

use super::Verdict;

/// A set or map with its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// What it is.
    pub def: SetDef,
    /// What is in it. Those of a dynamic set come from packets and are not compared.
    pub elements: Elements,
}

/// Key to value; the value of a plain set's element is [`Value::None`].
pub type Elements = BTreeMap<Key, Value>;

/// What a set is, without its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetDef {
    /// The fields of the key; several make a concatenation.
    pub key: Vec<Type>,
    /// For maps.
    pub value: Option<ValueType>,
    /// Keys are ranges in each field; only for concatenations.
    pub interval: bool,
    /// Packets add elements, each with a counter; at most so many.
    pub dynamic: Option<u32>,
}

impl SetDef {
    /// A set of single keys.
    pub fn set(key: &[Type]) -> Self {
        Self { key: key.to_vec(), value: None, interval: false, dynamic: None }
    }

    /// A map of single keys.
    pub fn map(key: &[Type], value: ValueType) -> Self {
        Self { value: Some(value), ..Self::set(key) }
    }

    /// The same with ranges for keys.
    #[must_use]
    pub fn ranges(self) -> Self {
        debug_assert!(self.key.len() > 1, "ranges need a concatenation");
        Self { interval: true, ..self }
    }

    /// Bytes of a key, each field padded to four.
    pub fn key_len(&self) -> usize {
        self.key.iter().map(|t| t.padded_len()).sum()
    }
}

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A device's name, 16 bytes, zero-padded.
    IfName,
    /// 6 bytes.
    Ether,
    /// 4 bytes.
    Ipv4,
    /// 16 bytes.
    Ipv6,
    /// IP protocol number, 1 byte.
    Proto,
    /// 2 bytes, network byte order.
    Port,
}

impl Type {
    /// nft's word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::IfName => "ifname",
            Self::Ether => "ether_addr",
            Self::Ipv4 => "ipv4_addr",
            Self::Ipv6 => "ipv6_addr",
            Self::Proto => "inet_proto",
            Self::Port => "inet_service",
        }
    }

    /// nft's number for it, by which nft shows our sets as it shows its own (its include/datatype.h).
    pub const fn number(self) -> u32 {
        match self {
            Self::IfName => 41,
            Self::Ether => 9,
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Proto => 12,
            Self::Port => 13,
        }
    }

    /// In bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::IfName | Self::Ipv6 => 16,
            Self::Ether => 6,
            Self::Ipv4 => 4,
            Self::Proto => 1,
            Self::Port => 2,
        }
    }

    /// In bytes, up to whole registers.
    pub const fn padded_len(self) -> usize {
        self.size().next_multiple_of(4)
    }
}

/// What a map gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// To be obeyed.
    Verdict,
    /// To be used.
    Fields(Vec<Type>),
}

/// A value in a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of a plain set.
    None,
    /// Of a verdict map.
    Verdict(Verdict),
    /// Of another map: bytes as in [`Key`].
    Fields(Vec<u8>),
}

/// The key of an element: first and last bytes of the range; equal for a single key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// As in the registers.
    pub first: Vec<u8>,
    /// As in the registers; the same length.
    pub last: Vec<u8>,
}

impl Key {
    /// To be filled field by field.
    pub fn new() -> Self {
        Self::default()
    }

    fn push(mut self, first: &[u8], last: &[u8]) -> Self {
        for (bytes, field) in [(&mut self.first, first), (&mut self.last, last)] {
            bytes.extend_from_slice(field);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        self
    }

    /// A device's name.
    #[must_use]
    pub fn name(self, name: &IfName) -> Self {
        let mut bytes = [0; 16];
        bytes[..name.as_str().len()].copy_from_slice(name.as_str().as_bytes());
        self.push(&bytes, &bytes)
    }

    /// A MAC address.
    #[must_use]
    pub fn mac(self, mac: MacAddr) -> Self {
        self.push(&mac.0, &mac.0)
    }

    /// An address of either family.
    #[must_use]
    pub fn ip(self, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(a) => self.push(&a.octets(), &a.octets()),
            IpAddr::V6(a) => self.push(&a.octets(), &a.octets()),
        }
    }

    /// All addresses of a prefix.
    #[must_use]
    pub fn prefix(self, prefix: IpNet) -> Self {
        match prefix {
            IpNet::V4(p) => self.push(&p.network().octets(), &p.broadcast().octets()),
            IpNet::V6(p) => self.push(&p.network().octets(), &p.broadcast().octets()),
        }
    }

    /// A transport protocol.
    #[must_use]
    pub fn proto(self, proto: Proto) -> Self {
        self.protocol(proto.number())
    }

    /// A protocol by its number.
    #[must_use]
    pub fn protocol(self, number: u8) -> Self {
        self.push(&[number], &[number])
    }

    /// Protocols by their numbers, both included.
    #[must_use]
    pub fn protocols(self, first: u8, last: u8) -> Self {
        self.push(&[first], &[last])
    }

    /// One port.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        self.push(&port.to_be_bytes(), &port.to_be_bytes())
    }

    /// All ports of a range.
    #[must_use]
    pub fn ports(self, ports: PortRange) -> Self {
        self.push(&ports.first().to_be_bytes(), &ports.last().to_be_bytes())
    }

    /// Reads back a key of a device's name and a MAC.
    pub fn name_and_mac(&self) -> Option<(IfName, MacAddr)> {
        let (name, mac) = self.first.split_at_checked(16)?;
        let name = name.split(|&b| b == 0).next()?;
        let mac: [u8; 6] = mac.get(..6)?.try_into().ok()?;
        Some((std::str::from_utf8(name).ok()?.parse().ok()?, MacAddr(mac)))
    }

    /// Whether it is a single key.
    pub fn is_single(&self) -> bool {
        self.first == self.last
    }

    /// Whether a single key lies in the range, field by field.
    pub fn covers(&self, def: &SetDef, single: &Self) -> bool {
        let mut at = 0;
        def.key.iter().all(|t| {
            let field = at..at + t.size();
            at += t.padded_len();
            match (self.first.get(field.clone()), self.last.get(field.clone()), single.first.get(field)) {
                (Some(first), Some(last), Some(value)) => first <= value && value <= last,
                _ => false,
            }
        })
    }
}

impl Set {
    /// The value that a single key finds, as the kernel would.
    pub fn lookup(&self, single: &Key) -> Option<&Value> {
        if self.def.interval {
            self.elements.iter().find(|(key, _)| key.covers(&self.def, single)).map(|(_, value)| value)
        } else {
            self.elements.get(single)
        }
    }
}

/// A field's bytes as nft writes them.
pub(super) fn field_text(t: Type, bytes: &[u8]) -> String {
    match (t, bytes) {
        (Type::IfName, name) => {
            let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
            format!("{:?}", String::from_utf8_lossy(&name[..end]))
        }
        (Type::Ether, &[a, b, c, d, e, f, ..]) => MacAddr([a, b, c, d, e, f]).to_string(),
        (Type::Ipv4, &[a, b, c, d, ..]) => Ipv4Addr::new(a, b, c, d).to_string(),
        (Type::Ipv6, bytes) => match <[u8; 16]>::try_from(bytes) {
            Ok(octets) => Ipv6Addr::from(octets).to_string(),
            Err(_) => "?".to_owned(),
        },
        (Type::Proto, &[number, ..]) => match number {
            1 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            58 => "ipv6-icmp".to_owned(),
            132 => "sctp".to_owned(),
            n => n.to_string(),
        },
        (Type::Port, &[a, b, ..]) => u16::from_be_bytes([a, b]).to_string(),
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_padded_to_registers() {
        let key = Key::new().mac(MacAddr([1, 2, 3, 4, 5, 6])).protocol(6).port(0x1234);
        assert_eq!(key.first, [1, 2, 3, 4, 5, 6, 0, 0, 6, 0, 0, 0, 0x12, 0x34, 0, 0]);
    }

    #[test]
    fn ranges_cover_field_by_field() {
        let def = SetDef::set(&[Type::Ipv4, Type::Proto, Type::Port]).ranges();
        let range = Key::new()
            .prefix("10.0.0.0/24".parse().unwrap())
            .proto(Proto::Tcp)
            .ports("80-90".parse().unwrap());
        let single = |ip: &str, port| Key::new().ip(ip.parse().unwrap()).proto(Proto::Tcp).port(port);
        assert!(range.covers(&def, &single("10.0.0.255", 90)));
        assert!(!range.covers(&def, &single("10.0.1.0", 85)));
        assert!(!range.covers(&def, &single("10.0.0.1", 91)));
    }
}
