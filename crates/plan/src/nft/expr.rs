//! The kernel's expressions, as far as our rules are made of them (include/uapi/linux/netfilter/nf_tables.h).

use super::Verdict;

/// One of the sixteen 32-bit registers (NFT_REG32_00 + n). A longer value takes the following ones, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg(pub u8);

/// One expression of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Load packet metadata.
    Meta {
        /// Which.
        key: MetaKey,
        /// To.
        to: Reg,
    },
    /// Write packet metadata.
    MetaSet {
        /// Which.
        key: MetaKey,
        /// From.
        from: Reg,
    },
    /// Load bytes of the packet.
    Payload {
        /// Counted from.
        base: PayloadBase,
        /// In bytes.
        offset: u32,
        /// In bytes.
        len: u32,
        /// To.
        to: Reg,
    },
    /// Write bytes of the packet.
    PayloadSet {
        /// Counted from.
        base: PayloadBase,
        /// In bytes.
        offset: u32,
        /// In bytes.
        len: u32,
        /// From.
        from: Reg,
        /// A checksum that covers the bytes.
        checksum: Option<PayloadChecksum>,
    },
    /// Load from an IPv6 extension header.
    Exthdr {
        /// What of it.
        op: ExthdrOp,
        /// The extension header's number, 44 for fragments.
        header: u8,
        /// In bytes.
        offset: u32,
        /// In bytes.
        len: u32,
        /// To.
        to: Reg,
    },
    /// Write bytes of an option of TCP, with the checksum; go on in any case. What is written of the largest segment never makes it
    /// larger (net/netfilter/nft_exthdr.c).
    TcpOptionSet {
        /// The option's kind.
        kind: u8,
        /// In bytes from where its kind stands.
        offset: u32,
        /// In bytes.
        len: u32,
        /// From.
        from: Reg,
    },
    /// Load from the packet's connection.
    Ct {
        /// What.
        key: CtKey,
        /// Of which direction, for keys that have two.
        direction: Option<CtDirection>,
        /// To.
        to: Reg,
    },
    /// Store into the packet's connection.
    CtSet {
        /// Where.
        key: CtKey,
        /// From.
        from: Reg,
    },
    /// Ask the routing table.
    Fib {
        /// What for.
        result: FibResult,
        /// NFTA_FIB_F_*.
        flags: u32,
        /// To.
        to: Reg,
    },
    /// `to = from op`, bytewise.
    Bitwise {
        /// From.
        from: Reg,
        /// To.
        to: Reg,
        /// What.
        op: BitOp,
    },
    /// Go on only when the register compares so.
    Cmp {
        /// What.
        from: Reg,
        /// How.
        op: CmpOp,
        /// With.
        data: Vec<u8>,
    },
    /// Load a constant.
    Immediate {
        /// To.
        to: Reg,
        /// The constant.
        data: Vec<u8>,
    },
    /// Decide.
    Verdict(Verdict),
    /// Look up in a set or map; go on only when found (or not found, inverted).
    Lookup {
        /// The set's name.
        set: String,
        /// Key.
        from: Reg,
        /// Where a map's value goes.
        to: LookupTo,
        /// Go on when not found.
        invert: bool,
    },
    /// Add or refresh an element with a counter, and count in it.
    Dynset {
        /// The set's name.
        set: String,
        /// Key.
        from: Reg,
        /// How.
        op: DynsetOp,
    },
    /// Translate the connection's address, and port.
    Nat {
        /// Which end.
        kind: NatKind,
        /// Of which protocol the address is.
        family: NfProto,
        /// New address, smallest and largest.
        address: Option<Reg>,
        /// New port.
        port: Option<Reg>,
        /// NF_NAT_RANGE_*, without the bits that the registers above imply.
        flags: u32,
    },
    /// Translate the source to the address of the way out.
    Masquerade,
    /// Let the connection be nobody's.
    NoTrack,
    /// Count.
    Counter,
    /// Go on only with packets that are more than so many.
    Over {
        /// A second.
        rate: u32,
        /// At once, after a pause.
        burst: u32,
    },
    /// Something we never write; the name of the kernel's expression.
    Other(String),
}

/// nft_meta_keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaKey {
    /// Ethertype in network byte order, 2 bytes.
    Protocol = 1,
    /// 4 bytes, host byte order.
    Mark = 3,
    /// 16 bytes, zero-padded.
    IifName = 6,
    /// 16 bytes, zero-padded.
    OifName = 7,
    /// NFPROTO_*, 1 byte.
    NfProto = 15,
    /// Protocol above IP, extension headers skipped, 1 byte.
    L4Proto = 16,
    /// PACKET_*, 1 byte.
    PktType = 19,
    /// Device group, 4 bytes, host byte order.
    IifGroup = 21,
    /// Device group, 4 bytes, host byte order.
    OifGroup = 22,
    /// What made the device, as `ip link` calls it (rtnl_link_ops), 16 bytes, zero-padded; hardware has none.
    IifKind = 26,
}

/// nft_payload_bases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadBase {
    /// Ethernet.
    Link = 0,
    /// IP, ARP.
    Network = 1,
    /// TCP, UDP, ICMP.
    Transport = 2,
}

/// The Internet checksum (RFC 1071) that has to follow a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadChecksum {
    /// It stands in the same header.
    Here {
        /// In bytes from the header's start.
        offset: u32,
    },
    /// It stands in the transport header, which counts addresses in (RFC 8200, 8.1; NFT_PAYLOAD_L4CSUM_PSEUDOHDR).
    Transport,
}

/// What to load from an extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExthdrOp {
    /// Bytes of it.
    Ipv6,
    /// One byte: 1 when the packet has it, else 0 (NFT_EXTHDR_F_PRESENT).
    Ipv6Present,
}

/// nft_ct_keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtKey {
    /// NF_CT_STATE_BIT, 4 bytes, host byte order.
    State = 0,
    /// IPS_*, 4 bytes, host byte order.
    Status = 2,
    /// 4 bytes, host byte order.
    Mark = 3,
    /// A bit for each label, 16 bytes, host byte order. Storing adds labels, and takes none away.
    Labels = 13,
}

/// Which direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtDirection {
    /// As it was opened.
    Original = 0,
    /// The answers.
    Reply = 1,
}

/// nft_fib_result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FibResult {
    /// RTN_*, 4 bytes, host byte order.
    AddressType = 3,
}

/// nft_bitwise_ops, as far as used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BitOp {
    /// `(value & mask) ^ xor`; both as long as the value.
    MaskXor {
        /// Bits that stay.
        mask: Vec<u8>,
        /// Bits turned over after that.
        xor: Vec<u8>,
    },
}

/// nft_cmp_ops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CmpOp {
    /// ==
    Eq = 0,
    /// !=
    Neq = 1,
    /// <
    Lt = 2,
    /// <=
    Lte = 3,
    /// >
    Gt = 4,
    /// >=
    Gte = 5,
}

/// Where the value of a map goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupTo {
    /// A set has none.
    Nowhere,
    /// It is obeyed.
    Verdict,
    /// Into a register.
    Register(Reg),
}

/// nft_dynset_ops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DynsetOp {
    /// Leave an existing element alone.
    Add = 0,
    /// Refresh an existing element.
    Update = 1,
}

/// nft_nat_types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    /// Source.
    Snat = 0,
    /// Destination.
    Dnat = 1,
}

/// The two internet protocols (NFPROTO_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NfProto {
    /// NFPROTO_IPV4
    V4 = 2,
    /// NFPROTO_IPV6
    V6 = 10,
}
