//! Rules in the terms of nft's language, and their translation to the kernel's expressions.

use super::{
    BitOp, CmpOp, CtKey, DynsetOp, Expr, ExthdrOp, FibResult, LookupTo, MetaKey, NatKind, NfProto,
    PayloadBase, PayloadChecksum, Reg, Verdict,
};

/// One rule: the expressions that the kernel has, and nft's text of it for people. Only the expressions count when
/// rules are compared; one read back from the kernel has no text.
#[derive(Clone, Debug, Eq)]
pub struct Rule {
    /// First to last.
    pub exprs: Vec<Expr>,
    /// Empty when read from the kernel.
    pub text: String,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.exprs == other.exprs
    }
}

impl Rule {
    /// Translates statements.
    pub fn new(statements: impl IntoIterator<Item = Statement>) -> Self {
        let mut rule = Self { exprs: Vec::new(), text: String::new() };
        for statement in statements {
            if !rule.text.is_empty() {
                rule.text.push(' ');
            }
            rule.text.push_str(&statement.to_string());
            statement.lower(&mut rule.exprs);
        }
        rule
    }
}

/// Something of a packet that can be matched, looked up or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The device it came in on.
    IifName,
    /// The device it goes out on.
    OifName,
    /// The group of the device it came in on.
    IifGroup,
    /// The group of the device it goes out on.
    OifGroup,
    /// What kind of device it came in on.
    IifKind,
    /// The packet mark.
    Mark,
    /// Whom the frame is for.
    PktType,
    /// The ethertype after VLAN tags that the device took off.
    Protocol,
    /// IPv4 or IPv6.
    NfProto,
    /// The protocol above IP.
    L4Proto,
    /// Source MAC.
    EtherSaddr,
    /// Destination MAC.
    EtherDaddr,
    /// The ethertype as on the wire: that of a VLAN tag when there is one.
    EtherType,
    /// The tag of a frame whose [`Self::EtherType`] is a VLAN's: priority, and in the lower 12 bits the VLAN.
    VlanTag,
    /// What is behind that tag: an ethertype, or that of another tag.
    VlanType,
    /// How long the packet is, with IPv4's header.
    IpLength,
    /// Flags and offset of a packet of IPv4 (RFC 791, section 3.1).
    IpFragOff,
    /// IPv4 source.
    IpSaddr,
    /// IPv4 destination.
    IpDaddr,
    /// IPv6 source.
    Ip6Saddr,
    /// IPv6 destination.
    Ip6Daddr,
    /// ARP operation.
    ArpOperation,
    /// ARP sender MAC.
    ArpSaddrEther,
    /// ARP sender address.
    ArpSaddrIp,
    /// ARP target address.
    ArpDaddrIp,
    /// Source and destination port.
    ThPorts,
    /// Source port.
    ThSport,
    /// Destination port.
    ThDport,
    /// Flags of TCP.
    TcpFlags,
    /// The largest segment, as whoever opens a connection by TCP says it (RFC 9293, section 3.7.1); to be lowered only.
    TcpMaxSegment,
    /// ICMP type.
    IcmpType,
    /// ICMPv6 type.
    Icmpv6Type,
    /// Target address of a neighbour solicitation, advertisement or redirect (RFC 4861, 4.3 to 4.5).
    NdTarget,
    /// Type and length of the first option of a neighbour advertisement (RFC 4861, 4.4 and 4.6.1).
    NaOption,
    /// The link-layer address in that option.
    NaTargetLinkLayer,
    /// 1 when the packet has an IPv6 fragment header.
    FragExists,
    /// Offset and flags of the IPv6 fragment header (RFC 8200, 4.5).
    FragOffset,
    /// State of the connection.
    CtState,
    /// Status of the connection.
    CtStatus,
    /// Labels of the connection.
    CtLabel,
    /// What kind of address the destination is to this host.
    FibDaddrType,
}

impl Selector {
    fn text(self) -> &'static str {
        match self {
            Self::IifName => "iifname",
            Self::OifName => "oifname",
            Self::IifGroup => "iifgroup",
            Self::OifGroup => "oifgroup",
            Self::IifKind => "meta iifkind",
            Self::Mark => "meta mark",
            Self::PktType => "meta pkttype",
            Self::Protocol => "meta protocol",
            Self::NfProto => "meta nfproto",
            Self::L4Proto => "meta l4proto",
            Self::EtherSaddr => "ether saddr",
            Self::EtherDaddr => "ether daddr",
            Self::EtherType => "ether type",
            Self::VlanTag => "@ll,112,16",
            Self::VlanType => "vlan type",
            Self::IpLength => "ip length",
            Self::IpFragOff => "ip frag-off",
            Self::IpSaddr => "ip saddr",
            Self::IpDaddr => "ip daddr",
            Self::Ip6Saddr => "ip6 saddr",
            Self::Ip6Daddr => "ip6 daddr",
            Self::ArpOperation => "arp operation",
            Self::ArpSaddrEther => "arp saddr ether",
            Self::ArpSaddrIp => "arp saddr ip",
            Self::ArpDaddrIp => "arp daddr ip",
            Self::ThPorts => "@th,0,32",
            Self::ThSport => "th sport",
            Self::ThDport => "th dport",
            Self::TcpFlags => "tcp flags",
            Self::TcpMaxSegment => "tcp option maxseg size",
            Self::IcmpType => "icmp type",
            Self::Icmpv6Type => "icmpv6 type",
            Self::NdTarget => "@th,64,128",
            Self::NaOption => "@th,192,16",
            Self::NaTargetLinkLayer => "@th,208,48",
            Self::FragExists => "exthdr frag",
            Self::FragOffset => "frag frag-off",
            Self::CtState => "ct state",
            Self::CtStatus => "ct status",
            Self::CtLabel => "ct label",
            Self::FibDaddrType => "fib daddr type",
        }
    }

    /// Bytes, before padding.
    const fn len(self) -> usize {
        match self {
            Self::IifName
            | Self::OifName
            | Self::Ip6Saddr
            | Self::Ip6Daddr
            | Self::NdTarget
            | Self::IifKind
            | Self::CtLabel => 16,
            Self::EtherSaddr | Self::EtherDaddr | Self::ArpSaddrEther | Self::NaTargetLinkLayer => 6,
            Self::IifGroup
            | Self::OifGroup
            | Self::Mark
            | Self::ThPorts
            | Self::IpSaddr
            | Self::IpDaddr
            | Self::ArpSaddrIp
            | Self::ArpDaddrIp
            | Self::CtState
            | Self::CtStatus
            | Self::FibDaddrType => 4,
            Self::Protocol
            | Self::NaOption
            | Self::EtherType
            | Self::VlanTag
            | Self::VlanType
            | Self::IpLength
            | Self::IpFragOff
            | Self::ArpOperation
            | Self::ThSport
            | Self::ThDport
            | Self::TcpMaxSegment
            | Self::FragOffset => 2,
            Self::PktType
            | Self::NfProto
            | Self::L4Proto
            | Self::TcpFlags
            | Self::IcmpType
            | Self::Icmpv6Type
            | Self::FragExists => 1,
        }
    }

    fn place(self) -> Place {
        use PayloadBase::{Link, Network, Transport};
        match self {
            Self::IifName => Place::Meta(MetaKey::IifName),
            Self::OifName => Place::Meta(MetaKey::OifName),
            Self::IifGroup => Place::Meta(MetaKey::IifGroup),
            Self::OifGroup => Place::Meta(MetaKey::OifGroup),
            Self::IifKind => Place::Meta(MetaKey::IifKind),
            Self::Mark => Place::Meta(MetaKey::Mark),
            Self::PktType => Place::Meta(MetaKey::PktType),
            Self::Protocol => Place::Meta(MetaKey::Protocol),
            Self::NfProto => Place::Meta(MetaKey::NfProto),
            Self::L4Proto => Place::Meta(MetaKey::L4Proto),
            Self::EtherDaddr => Place::Payload(Link, 0),
            Self::EtherSaddr => Place::Payload(Link, 6),
            Self::EtherType => Place::Payload(Link, 12),
            Self::VlanTag => Place::Payload(Link, 14),
            Self::VlanType => Place::Payload(Link, 16),
            Self::IpLength => Place::Payload(Network, 2),
            Self::IpFragOff => Place::Payload(Network, 6),
            Self::IpSaddr => Place::Payload(Network, 12),
            Self::IpDaddr => Place::Payload(Network, 16),
            Self::Ip6Saddr => Place::Payload(Network, 8),
            Self::Ip6Daddr => Place::Payload(Network, 24),
            Self::ArpOperation => Place::Payload(Network, 6),
            Self::ArpSaddrEther => Place::Payload(Network, 8),
            Self::ArpSaddrIp => Place::Payload(Network, 14),
            Self::ArpDaddrIp => Place::Payload(Network, 24),
            Self::ThPorts | Self::ThSport | Self::IcmpType | Self::Icmpv6Type => Place::Payload(Transport, 0),
            Self::ThDport => Place::Payload(Transport, 2),
            Self::TcpFlags => Place::Payload(Transport, 13),
            Self::TcpMaxSegment => Place::TcpOption(2, 2),
            Self::NdTarget => Place::Payload(Transport, 8),
            Self::NaOption => Place::Payload(Transport, 24),
            Self::NaTargetLinkLayer => Place::Payload(Transport, 26),
            Self::FragExists => Place::Fragment(ExthdrOp::Ipv6Present, 0),
            Self::FragOffset => Place::Fragment(ExthdrOp::Ipv6, 2),
            Self::CtState => Place::Ct(CtKey::State),
            Self::CtStatus => Place::Ct(CtKey::Status),
            Self::CtLabel => Place::Ct(CtKey::Labels),
            Self::FibDaddrType => Place::FibDaddrType,
        }
    }

    fn load(self, to: Reg) -> Expr {
        #[expect(clippy::cast_possible_truncation, reason = "at most 16")]
        let len = self.len() as u32;
        match self.place() {
            Place::Meta(key) => Expr::Meta { key, to },
            Place::Payload(base, offset) => Expr::Payload { base, offset, len, to },
            Place::Fragment(op, offset) => Expr::Exthdr { op, header: 44, offset, len, to },
            Place::Ct(key) => Expr::Ct { key, direction: None, to },
            // NFTA_FIB_F_DADDR
            Place::FibDaddrType => Expr::Fib { result: FibResult::AddressType, flags: 2, to },
            Place::TcpOption(..) => unreachable!("{} is never read", self.text()),
        }
    }

    fn store(self, from: Reg) -> Expr {
        #[expect(clippy::cast_possible_truncation, reason = "at most 16")]
        let len = self.len() as u32;
        match self.place() {
            Place::Payload(base, offset) => {
                // ICMPv6 carries its checksum at byte 2 and counts its options in, IPv4 that of its header at byte 10; the header
                // after IPv6 counts its addresses in; Ethernet and ARP have none.
                let checksum = if matches!(self, Self::NaTargetLinkLayer) {
                    Some(PayloadChecksum::Here { offset: 2 })
                } else if matches!(self, Self::IpFragOff) {
                    Some(PayloadChecksum::Here { offset: 10 })
                } else {
                    matches!(self, Self::Ip6Saddr).then_some(PayloadChecksum::Transport)
                };
                Expr::PayloadSet { base, offset, len, from, checksum }
            }
            Place::Meta(key) => Expr::MetaSet { key, from },
            Place::TcpOption(kind, offset) => Expr::TcpOptionSet { kind, offset, len, from },
            Place::Ct(key) => Expr::CtSet { key, from },
            Place::Fragment(..) | Place::FibDaddrType => {
                unreachable!("{} is never written", self.text())
            }
        }
    }
}

enum Place {
    Meta(MetaKey),
    Payload(PayloadBase, u32),
    Fragment(ExthdrOp, u32),
    /// The option's kind, and where in it.
    TcpOption(u8, u32),
    Ct(CtKey),
    FibDaddrType,
}

/// A constant: its bytes in the register, and nft's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Const {
    bytes: Vec<u8>,
    text: String,
}

impl Const {
    /// One byte.
    pub fn u8(value: u8, text: &str) -> Self {
        Self { bytes: vec![value], text: text.to_owned() }
    }

    /// Two bytes in network byte order.
    pub fn be16(value: u16, text: &str) -> Self {
        Self { bytes: value.to_be_bytes().to_vec(), text: text.to_owned() }
    }

    /// Four bytes in network byte order.
    pub fn be32(value: u32, text: &str) -> Self {
        Self { bytes: value.to_be_bytes().to_vec(), text: text.to_owned() }
    }

    /// Four bytes in the host's byte order.
    pub fn u32(value: u32, text: &str) -> Self {
        Self { bytes: value.to_ne_bytes().to_vec(), text: text.to_owned() }
    }

    /// A label of a connection, by its number, at most 127.
    pub fn label(number: u8) -> Self {
        let bits = 1_u128 << number;
        #[expect(clippy::cast_possible_truncation, reason = "the halves")]
        let halves = [bits as u64, (bits >> 64) as u64];
        Self { bytes: halves.map(u64::to_ne_bytes).concat(), text: number.to_string() }
    }

    /// A device's name.
    pub fn name(name: &str) -> Self {
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(16, 0);
        Self { bytes, text: format!("{name:?}") }
    }

    /// An IPv4 address.
    pub fn v4(address: std::net::Ipv4Addr) -> Self {
        Self { bytes: address.octets().to_vec(), text: address.to_string() }
    }

    /// An IPv6 address.
    pub fn v6(address: std::net::Ipv6Addr) -> Self {
        Self { bytes: address.octets().to_vec(), text: address.to_string() }
    }

    /// A MAC address.
    pub fn mac(mac: viaduct_types::MacAddr) -> Self {
        Self { bytes: mac.0.to_vec(), text: mac.to_string() }
    }
}

/// One statement of a rule; all that a rule needs before (`meta nfproto`, `meta l4proto`) is written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// Equal to.
    Is(Selector, Const),
    /// Not equal to.
    Not(Selector, Const),
    /// The masked bits are so: IPv4 and IPv6 prefixes, fragment offsets.
    Masked(Selector, Const, Const),
    /// The bits of the first constant are not those of the second.
    NotMasked(Selector, Const, Const),
    /// At least one of the bits is set; for connection state and status.
    Any(Selector, Const),
    /// In a set.
    In(Vec<Selector>, &'static str),
    /// Not in a set.
    NotIn(Vec<Selector>, &'static str),
    /// Obey a verdict map; go on when not in it.
    VerdictMap(Vec<Selector>, &'static str),
    /// Write a constant.
    Write(Selector, Const),
    /// Write what a map gives; go on to the next rule when it gives nothing.
    WriteMapped(Selector, Vec<Selector>, &'static str),
    /// Write what another field of the packet has.
    Copy(Selector, Selector),
    /// Count in the element of a dynamic set, made when new.
    CountIn(&'static str, Vec<Selector>),
    /// Translate the destination (or source) to what a map gives, [`Type::Ipv4`]/[`Type::Ipv6`] alone or with a port.
    Translate {
        /// Which end.
        kind: NatKind,
        /// The address's protocol.
        family: NfProto,
        /// Looked up.
        key: Vec<Selector>,
        /// Where.
        map: &'static str,
        /// Whether the map gives a port, too.
        port: bool,
    },
    /// Translate the source to the address of the way out.
    Masquerade,
    /// Let no connection be made of the packet.
    NoTrack,
    /// Count.
    Counter,
    /// Packets that are more than so many a second, and so many at once; counted by the rule.
    Over {
        /// A second.
        rate: u32,
        /// At once, after a pause.
        burst: u32,
    },
    /// Decide.
    Verdict(Verdict),
}

impl Statement {
    fn lower(&self, out: &mut Vec<Expr>) {
        let reg = Reg(0);
        match self {
            Self::Is(selector, constant) => {
                out.push(selector.load(reg));
                out.push(Expr::Cmp { from: reg, op: CmpOp::Eq, data: constant.bytes.clone() });
            }
            Self::Not(selector, constant) => {
                out.push(selector.load(reg));
                out.push(Expr::Cmp { from: reg, op: CmpOp::Neq, data: constant.bytes.clone() });
            }
            Self::Masked(selector, mask, constant) | Self::NotMasked(selector, mask, constant) => {
                let op = if matches!(self, Self::Masked(..)) { CmpOp::Eq } else { CmpOp::Neq };
                out.push(selector.load(reg));
                out.push(mask_expr(reg, &mask.bytes));
                out.push(Expr::Cmp { from: reg, op, data: constant.bytes.clone() });
            }
            Self::Any(selector, bits) => {
                out.push(selector.load(reg));
                out.push(mask_expr(reg, &bits.bytes));
                out.push(Expr::Cmp { from: reg, op: CmpOp::Neq, data: vec![0; bits.bytes.len()] });
            }
            Self::In(key, set) => {
                load_key(key, out);
                out.push(Expr::Lookup {
                    set: (*set).to_owned(),
                    from: reg,
                    to: LookupTo::Nowhere,
                    invert: false,
                });
            }
            Self::NotIn(key, set) => {
                load_key(key, out);
                out.push(Expr::Lookup {
                    set: (*set).to_owned(),
                    from: reg,
                    to: LookupTo::Nowhere,
                    invert: true,
                });
            }
            Self::VerdictMap(key, map) => {
                load_key(key, out);
                out.push(Expr::Lookup {
                    set: (*map).to_owned(),
                    from: reg,
                    to: LookupTo::Verdict,
                    invert: false,
                });
            }
            Self::Write(selector, constant) => {
                out.push(Expr::Immediate { to: reg, data: constant.bytes.clone() });
                out.push(selector.store(reg));
            }
            Self::WriteMapped(selector, key, map) => {
                load_key(key, out);
                let to = LookupTo::Register(reg);
                out.push(Expr::Lookup { set: (*map).to_owned(), from: reg, to, invert: false });
                out.push(selector.store(reg));
            }
            Self::Copy(to, from) => {
                out.push(from.load(reg));
                out.push(to.store(reg));
            }
            Self::CountIn(set, key) => {
                load_key(key, out);
                out.push(Expr::Dynset { set: (*set).to_owned(), from: reg, op: DynsetOp::Update });
            }
            Self::Translate { kind, family, key, map, port } => {
                load_key(key, out);
                let to = LookupTo::Register(reg);
                out.push(Expr::Lookup { set: (*map).to_owned(), from: reg, to, invert: false });
                let address_registers = match family {
                    NfProto::V4 => 1,
                    NfProto::V6 => 4,
                };
                out.push(Expr::Nat {
                    kind: *kind,
                    family: *family,
                    address: Some(reg),
                    port: port.then_some(Reg(address_registers)),
                    flags: 0,
                });
            }
            Self::Masquerade => out.push(Expr::Masquerade),
            Self::NoTrack => out.push(Expr::NoTrack),
            Self::Counter => out.push(Expr::Counter),
            Self::Over { rate, burst } => out.push(Expr::Over { rate: *rate, burst: *burst }),
            Self::Verdict(verdict) => out.push(Expr::Verdict(verdict.clone())),
        }
    }
}

fn mask_expr(reg: Reg, mask: &[u8]) -> Expr {
    Expr::Bitwise { from: reg, to: reg, op: BitOp::MaskXor { mask: mask.to_vec(), xor: vec![0; mask.len()] } }
}

/// Loads the fields of a key one after the other, each from a register's start.
fn load_key(key: &[Selector], out: &mut Vec<Expr>) {
    let mut at = 0u8;
    for selector in key {
        out.push(selector.load(Reg(at)));
        #[expect(clippy::cast_possible_truncation, reason = "at most 16 bytes are 4 registers")]
        let registers = selector.len().div_ceil(4) as u8;
        at += registers;
    }
}

impl std::fmt::Display for Statement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let join = |key: &[Selector]| key.iter().map(|s| s.text()).collect::<Vec<_>>().join(" . ");
        match self {
            Self::Is(Selector::FragExists, c) if c.bytes == [1] => f.write_str("exthdr frag exists"),
            Self::Is(selector, c) => write!(f, "{} {}", selector.text(), c.text),
            Self::Not(selector, c) => write!(f, "{} != {}", selector.text(), c.text),
            // nft's frag-off is without the flags.
            Self::Masked(Selector::FragOffset, mask, c) if mask.bytes == [0xff, 0xf8] => {
                write!(f, "frag frag-off {}", c.text)
            }
            Self::Masked(selector, mask, c) => write!(f, "{} & {} == {}", selector.text(), mask.text, c.text),
            Self::NotMasked(selector, mask, c) => {
                write!(f, "{} & {} != {}", selector.text(), mask.text, c.text)
            }
            Self::Any(selector @ (Selector::CtState | Selector::CtStatus | Selector::CtLabel), bits) => {
                write!(f, "{} {}", selector.text(), bits.text)
            }
            Self::Any(selector, bits) => write!(f, "{} & {} != 0", selector.text(), bits.text),
            Self::In(key, set) => write!(f, "{} @{set}", join(key)),
            Self::NotIn(key, set) => write!(f, "{} != @{set}", join(key)),
            Self::VerdictMap(key, map) => write!(f, "{} vmap @{map}", join(key)),
            Self::Write(selector, c) => write!(f, "{} set {}", selector.text(), c.text),
            Self::WriteMapped(selector, key, map) => {
                write!(f, "{} set {} map @{map}", selector.text(), join(key))
            }
            Self::Copy(to, from) => write!(f, "{} set {}", to.text(), from.text()),
            Self::CountIn(set, key) => write!(f, "update @{set} {{ {} counter }}", join(key)),
            Self::Translate { kind, family, key, map, .. } => {
                let kind = match kind {
                    NatKind::Snat => "snat",
                    NatKind::Dnat => "dnat",
                };
                let family = match family {
                    NfProto::V4 => "ip",
                    NfProto::V6 => "ip6",
                };
                write!(f, "{kind} {family} to {} map @{map}", join(key))
            }
            Self::Masquerade => f.write_str("masquerade"),
            Self::NoTrack => f.write_str("notrack"),
            Self::Counter => f.write_str("counter"),
            Self::Over { rate, burst } => write!(f, "limit rate over {rate}/second burst {burst} packets"),
            Self::Verdict(verdict) => verdict.fmt(f),
        }
    }
}
