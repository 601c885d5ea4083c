//! Packets as filters see them, and sets of values that they may have.

use std::net::IpAddr;

/// IANA protocol numbers.
pub const ICMP: u8 = 1;
/// See [`ICMP`].
pub const TCP: u8 = 6;
/// See [`ICMP`].
pub const UDP: u8 = 17;
/// See [`ICMP`].
pub const ICMPV6: u8 = 58;

/// Values that fields of a packet may have, together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Which fields.
    pub fields: Vec<Field>,
    /// Each has a range for each of the fields.
    pub elements: Vec<Vec<Range>>,
}

/// From one value of a field to another, both included, as bytes in the order in which they are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub first: Vec<u8>,
    /// The last.
    pub last: Vec<u8>,
}

/// What a packet has a value of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// The name of the device that it came in by, filled with zeros to 16 bytes (IFNAMSIZ).
    In,
    /// That of the device that it leaves by.
    Out,
    /// Where from: 4 or 16 bytes.
    Source,
    /// Where to.
    Destination,
    /// NFPROTO_*, one byte.
    Family,
    /// The protocol's number, one byte.
    Protocol,
    /// The sender's port, two bytes; nobody knows it.
    SourcePort,
    /// The destination's port, two bytes.
    Port,
    /// The type of ICMP or ICMPv6, one byte.
    Message,
    /// The bit of [`Test::State`], four bytes in the host's order.
    State,
    /// RTN_* of the destination ([`Cast`]), four bytes in the host's order.
    Cast,
    /// The hop limit, one byte.
    HopLimit,
}

impl Set {
    /// The destination's port is in one of these ranges.
    pub fn ports(ranges: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let range = |(first, last): (u16, u16)| Range::new(&first.to_be_bytes(), &last.to_be_bytes());
        Self::one(Field::Port, ranges.into_iter().map(range))
    }

    /// A field of one byte is in one of these ranges.
    pub fn bytes(field: Field, ranges: impl IntoIterator<Item = (u8, u8)>) -> Self {
        Self::one(field, ranges.into_iter().map(|(first, last)| Range::new(&[first], &[last])))
    }

    /// A field is in one of these ranges.
    pub fn one(field: Field, ranges: impl IntoIterator<Item = Range>) -> Self {
        Self { fields: vec![field], elements: ranges.into_iter().map(|range| vec![range]).collect() }
    }

    /// None when it cannot be known.
    pub(super) fn has(&self, packet: &Packet) -> Option<bool> {
        let values: Vec<Option<Vec<u8>>> = self.fields.iter().map(|field| packet.value(*field)).collect();
        let mut nobody_knows = false;
        for element in &self.elements {
            let mut is_it = Some(true);
            for (value, range) in values.iter().zip(element) {
                match value.as_ref().map(|value| range.has(value)) {
                    Some(true) => {}
                    Some(false) => {
                        is_it = Some(false);
                        break;
                    }
                    None if range.is_everything() => {}
                    None => is_it = None,
                }
            }
            match is_it {
                Some(true) => return Some(true),
                Some(false) => {}
                None => nobody_knows = true,
            }
        }
        if nobody_knows { None } else { Some(false) }
    }
}

impl Range {
    /// Both ends, of the same length.
    pub fn new(first: &[u8], last: &[u8]) -> Self {
        Self { first: first.to_vec(), last: last.to_vec() }
    }

    fn has(&self, value: &[u8]) -> bool {
        self.first.len() == value.len() && *self.first <= *value && *value <= *self.last
    }

    fn is_everything(&self) -> bool {
        self.first.iter().all(|&byte| byte == 0) && self.last.iter().all(|&byte| byte == u8::MAX)
    }
}

/// A packet at one of the hooks. What is not known of it may be anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The device it came in by; empty: by none, it is this host's own.
    pub input: Option<String>,
    /// The device it leaves by; empty: by none, it is for this host.
    pub output: Option<String>,
    /// Whether it is one of IPv4, otherwise of IPv6.
    pub ipv4: bool,
    /// Where from.
    pub source: Option<IpAddr>,
    /// Where to, after translation.
    pub destination: Option<IpAddr>,
    /// Whom the destination stands for.
    pub cast: Cast,
    /// What is in it.
    pub load: Load,
    /// The connection that it belongs to.
    pub state: State,
    /// Whether the connection's destination was translated.
    pub translated: bool,
}

/// Whom a destination stands for, by the host's routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// Somebody else.
    Unicast,
    /// This host.
    Local,
    /// A group.
    Multicast,
}

/// What is in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// A datagram or segment.
    To {
        /// Of which protocol.
        protocol: u8,
        /// To which port; none: to whichever.
        port: Option<u16>,
    },
    /// A message of ICMP or ICMPv6, by its type and with code 0; one of neighbour discovery has the hop limit that it must
    /// have (RFC 4861, section 7.1).
    Message(u8),
}

/// A connection as the connection tracking knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is the first of it.
    New,
    /// Known.
    Established,
    /// None is made of such packets.
    Untracked,
}

impl Packet {
    /// The number of its protocol.
    pub(crate) fn protocol(&self) -> u8 {
        match self.load {
            Load::To { protocol, .. } => protocol,
            Load::Message(_) => {
                if self.ipv4 {
                    ICMP
                } else {
                    ICMPV6
                }
            }
        }
    }

    fn value(&self, field: Field) -> Option<Vec<u8>> {
        let name = |name: &Option<String>| {
            let mut bytes = name.clone()?.into_bytes();
            bytes.resize(16, 0);
            Some(bytes)
        };
        let address = |address: Option<IpAddr>| match address? {
            IpAddr::V4(address) => Some(address.octets().to_vec()),
            IpAddr::V6(address) => Some(address.octets().to_vec()),
        };
        match (field, self.load) {
            (Field::In, _) => name(&self.input),
            (Field::Out, _) => name(&self.output),
            (Field::Source, _) => address(self.source),
            (Field::Destination, _) => address(self.destination),
            (Field::Family, _) => Some(vec![if self.ipv4 { 2 } else { 10 }]),
            (Field::Protocol, _) => Some(vec![self.protocol()]),
            (Field::Port, Load::To { port, .. }) => Some(port?.to_be_bytes().to_vec()),
            (Field::Message, Load::Message(kind)) => Some(vec![kind]),
            (Field::State, _) => Some(self.state.bit().to_ne_bytes().to_vec()),
            (Field::Cast, _) => Some(self.cast.number().to_ne_bytes().to_vec()),
            (Field::HopLimit, Load::Message(133..=137)) if !self.ipv4 => Some(vec![u8::MAX]),
            (Field::SourcePort | Field::Port | Field::Message | Field::HopLimit, _) => None,
        }
    }
}

impl Cast {
    /// RTN_* (include/uapi/linux/rtnetlink.h).
    pub fn number(self) -> u32 {
        match self {
            Self::Unicast => 1,
            Self::Local => 2,
            Self::Multicast => 5,
        }
    }
}

impl State {
    pub(super) fn bit(self) -> u32 {
        match self {
            Self::Established => 2,
            Self::New => 8,
            Self::Untracked => 64,
        }
    }
}
