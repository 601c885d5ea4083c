//! Expressions of the kernel, the way back of [`crate::nft::encode`].

use viaduct_plan::nft::{
    BitOp, CmpOp, CtDirection, CtKey, DynsetOp, Expr, ExthdrOp, FibResult, LookupTo, MetaKey, NatKind,
    NfProto, PayloadBase, PayloadChecksum, Reg, Verdict,
};

use super::Result;
use crate::nft::{
    attr::{Malformed, attrs, be32, be64, byte, find, text},
    uapi::{
        REG_VERDICT, REG32_00, bitwise, bitwise_op, checksum, cmp, ct, data, dynset, expr, exthdr,
        exthdr_value, fib, immediate, limit, limit_value, lookup, lookup_flag, meta, nat, nat_range, payload,
        verdict, verdict_code,
    },
};

/// The expressions of a rule.
pub(super) fn exprs(list: &[u8]) -> Result<Vec<Expr>> {
    attrs(list).map(|attr| attr.and_then(|(_, nest)| one(nest))).collect()
}

/// A constant, or a verdict when we have it.
pub(in crate::nft) enum Data<'a> {
    Value(&'a [u8]),
    Verdict(Option<Verdict>),
}

/// What stands in NFTA_*_DATA.
pub(in crate::nft) fn data(nest: &[u8]) -> Result<Data<'_>> {
    let (kind, payload) = attrs(nest).next().ok_or(Malformed)??;
    match kind {
        data::VALUE => Ok(Data::Value(payload)),
        data::VERDICT => Ok(Data::Verdict(decision(payload)?)),
        _ => Err(Malformed),
    }
}

fn decision(nest: &[u8]) -> Result<Option<Verdict>> {
    let code = be32(find(nest, verdict::CODE)?.ok_or(Malformed)?)?.cast_signed();
    let chain = || -> Result<String> { Ok(text(find(nest, verdict::CHAIN)?.ok_or(Malformed)?)?.to_owned()) };
    Ok(Some(match code {
        verdict_code::ACCEPT => Verdict::Accept,
        verdict_code::DROP => Verdict::Drop,
        verdict_code::RETURN => Verdict::Return,
        verdict_code::CONTINUE => Verdict::Continue,
        verdict_code::JUMP => Verdict::Jump(chain()?),
        verdict_code::GOTO => Verdict::Goto(chain()?),
        _ => return Ok(None),
    }))
}

/// The name of an expression, and its attributes.
pub(in crate::nft) fn named(nest: &[u8]) -> Result<(&str, &[u8])> {
    let name = text(find(nest, expr::NAME)?.ok_or(Malformed)?)?;
    Ok((name, find(nest, expr::DATA)?.unwrap_or_default()))
}

fn one(nest: &[u8]) -> Result<Expr> {
    let (name, attributes) = named(nest)?;
    let a = Attributes::of(attributes)?;
    let known = match name {
        "meta" => a.meta()?,
        "payload" => a.payload()?,
        "exthdr" => a.exthdr()?,
        "ct" => a.ct()?,
        "fib" => a.fib()?,
        "bitwise" => a.bitwise()?,
        "cmp" => a.cmp()?,
        "immediate" => a.immediate()?,
        "lookup" => a.lookup()?,
        "dynset" => a.dynset()?,
        "nat" => a.nat()?,
        // Port ranges and flags of masquerade are not ours.
        "masq" => a.is_empty().then_some(Expr::Masquerade),
        "notrack" => Some(Expr::NoTrack),
        "counter" => Some(Expr::Counter),
        "limit" => a.limit()?,
        _ => None,
    };
    Ok(known.unwrap_or_else(|| Expr::Other(name.to_owned())))
}

/// The attributes of one expression, by number.
struct Attributes<'a>([Option<&'a [u8]>; 16]);

/// Each method gives nothing for what we never write.
impl<'a> Attributes<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self> {
        let mut all = [None; 16];
        for attr in attrs(bytes) {
            let (kind, payload) = attr?;
            if let Some(place) = all.get_mut(usize::from(kind)) {
                *place = Some(payload);
            }
        }
        Ok(Self(all))
    }

    fn raw(&self, kind: u16) -> Option<&'a [u8]> {
        self.0.get(usize::from(kind)).copied().flatten()
    }

    fn has(&self, kind: u16) -> bool {
        self.raw(kind).is_some()
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// A number that must be there.
    fn number(&self, kind: u16) -> Result<u32> {
        be32(self.raw(kind).ok_or(Malformed)?)
    }

    /// A number, zero when absent.
    fn flags(&self, kind: u16) -> Result<u32> {
        self.raw(kind).map_or(Ok(0), be32)
    }

    fn register(&self, kind: u16) -> Result<Reg> {
        register(self.number(kind)?)
    }

    fn optional_register(&self, kind: u16) -> Result<Option<Reg>> {
        self.raw(kind).map(|payload| register(be32(payload)?)).transpose()
    }

    fn name(&self, kind: u16) -> Result<String> {
        Ok(text(self.raw(kind).ok_or(Malformed)?)?.to_owned())
    }

    /// A constant that must be there, and be no verdict.
    fn constant(&self, kind: u16) -> Result<Vec<u8>> {
        match data(self.raw(kind).ok_or(Malformed)?)? {
            Data::Value(bytes) => Ok(bytes.to_vec()),
            Data::Verdict(_) => Err(Malformed),
        }
    }

    fn meta(&self) -> Result<Option<Expr>> {
        use MetaKey::{
            IifGroup, IifKind, IifName, L4Proto, Mark, NfProto, OifGroup, OifName, PktType, Protocol,
        };
        let number = self.number(meta::KEY)?;
        let keys = [Protocol, Mark, IifName, OifName, NfProto, L4Proto, PktType, IifGroup, OifGroup, IifKind];
        let Some(key) = keys.into_iter().find(|&key| key as u32 == number) else { return Ok(None) };
        Ok(Some(match self.optional_register(meta::SREG)? {
            Some(from) => Expr::MetaSet { key, from },
            None => Expr::Meta { key, to: self.register(meta::DREG)? },
        }))
    }

    fn payload(&self) -> Result<Option<Expr>> {
        use PayloadBase::{Link, Network, Transport};
        let number = self.number(payload::BASE)?;
        let Some(base) = [Link, Network, Transport].into_iter().find(|&base| base as u32 == number) else {
            return Ok(None);
        };
        let (offset, len) = (self.number(payload::OFFSET)?, self.number(payload::LEN)?);
        let Some(from) = self.optional_register(payload::SREG)? else {
            return Ok(Some(Expr::Payload { base, offset, len, to: self.register(payload::DREG)? }));
        };
        let checksum = match (self.flags(payload::CSUM_TYPE)?, self.flags(payload::CSUM_FLAGS)?) {
            (checksum::NONE, 0) => None,
            (checksum::INTERNET, 0) => {
                Some(PayloadChecksum::Here { offset: self.flags(payload::CSUM_OFFSET)? })
            }
            (checksum::NONE, checksum::PSEUDO_HEADER) => Some(PayloadChecksum::Transport),
            _ => return Ok(None),
        };
        Ok(Some(Expr::PayloadSet { base, offset, len, from, checksum }))
    }

    fn exthdr(&self) -> Result<Option<Expr>> {
        let header = byte(self.raw(exthdr::TYPE).ok_or(Malformed)?)?;
        let (offset, len) = (self.number(exthdr::OFFSET)?, self.number(exthdr::LEN)?);
        let from = self.optional_register(exthdr::SREG)?;
        let op = match (self.flags(exthdr::OP)?, self.flags(exthdr::FLAGS)?) {
            (exthdr_value::OP_TCPOPT, 0) => {
                return Ok(from.map(|from| Expr::TcpOptionSet { kind: header, offset, len, from }));
            }
            _ if from.is_some() => return Ok(None),
            (exthdr_value::OP_IPV6, 0) => ExthdrOp::Ipv6,
            (exthdr_value::OP_IPV6, exthdr_value::FLAG_PRESENT) => ExthdrOp::Ipv6Present,
            _ => return Ok(None),
        };
        Ok(Some(Expr::Exthdr { op, header, offset, len, to: self.register(exthdr::DREG)? }))
    }

    fn ct(&self) -> Result<Option<Expr>> {
        use CtKey::{Labels, Mark, State, Status};
        let number = self.number(ct::KEY)?;
        let key = [State, Status, Mark, Labels].into_iter().find(|&key| key as u32 == number);
        let Some(key) = key else { return Ok(None) };
        let from = self.optional_register(ct::SREG)?;
        let direction = match self.raw(ct::DIRECTION).map(byte).transpose()? {
            None => None,
            Some(0) => Some(CtDirection::Original),
            Some(1) => Some(CtDirection::Reply),
            Some(_) => return Ok(None),
        };
        Ok(match (from, direction) {
            (Some(from), None) => Some(Expr::CtSet { key, from }),
            (Some(_), Some(_)) => None,
            (None, direction) => Some(Expr::Ct { key, direction, to: self.register(ct::DREG)? }),
        })
    }

    fn fib(&self) -> Result<Option<Expr>> {
        if self.number(fib::RESULT)? != FibResult::AddressType as u32 {
            return Ok(None);
        }
        let result = FibResult::AddressType;
        Ok(Some(Expr::Fib { result, flags: self.flags(fib::FLAGS)?, to: self.register(fib::DREG)? }))
    }

    fn bitwise(&self) -> Result<Option<Expr>> {
        let other = self.flags(bitwise::OP)? != bitwise_op::MASK_XOR;
        if other || !self.has(bitwise::MASK) || !self.has(bitwise::XOR) {
            return Ok(None);
        }
        Ok(Some(Expr::Bitwise {
            from: self.register(bitwise::SREG)?,
            to: self.register(bitwise::DREG)?,
            op: BitOp::MaskXor { mask: self.constant(bitwise::MASK)?, xor: self.constant(bitwise::XOR)? },
        }))
    }

    fn cmp(&self) -> Result<Option<Expr>> {
        use CmpOp::{Eq, Gt, Gte, Lt, Lte, Neq};
        let number = self.number(cmp::OP)?;
        let Some(op) = [Eq, Neq, Lt, Lte, Gt, Gte].into_iter().find(|&op| op as u32 == number) else {
            return Ok(None);
        };
        Ok(Some(Expr::Cmp { from: self.register(cmp::SREG)?, op, data: self.constant(cmp::DATA)? }))
    }

    fn immediate(&self) -> Result<Option<Expr>> {
        Ok(match data(self.raw(immediate::DATA).ok_or(Malformed)?)? {
            Data::Value(bytes) => {
                Some(Expr::Immediate { to: self.register(immediate::DREG)?, data: bytes.to_vec() })
            }
            Data::Verdict(verdict) => verdict.map(Expr::Verdict),
        })
    }

    fn lookup(&self) -> Result<Option<Expr>> {
        let to = match self.raw(lookup::DREG).map(be32).transpose()? {
            None => LookupTo::Nowhere,
            Some(REG_VERDICT) => LookupTo::Verdict,
            Some(number) => LookupTo::Register(register(number)?),
        };
        Ok(Some(Expr::Lookup {
            set: self.name(lookup::SET)?,
            from: self.register(lookup::SREG)?,
            to,
            invert: self.flags(lookup::FLAGS)? & lookup_flag::INVERT != 0,
        }))
    }

    fn dynset(&self) -> Result<Option<Expr>> {
        let op = match self.number(dynset::OP)? {
            0 => DynsetOp::Add,
            1 => DynsetOp::Update,
            _ => return Ok(None),
        };
        let counts = match self.raw(dynset::EXPR) {
            Some(nest) => named(nest)?.0 == "counter",
            None => false,
        };
        let timeout = self.raw(dynset::TIMEOUT).map_or(Ok(0), be64)?;
        let more = self.has(dynset::SREG_DATA) || self.has(dynset::EXPRESSIONS) || timeout != 0;
        if !counts || more || self.flags(dynset::FLAGS)? != 0 {
            return Ok(None);
        }
        Ok(Some(Expr::Dynset { set: self.name(dynset::SET)?, from: self.register(dynset::SREG_KEY)?, op }))
    }

    fn limit(&self) -> Result<Option<Expr>> {
        let long = |kind| self.raw(kind).map_or(Ok(0), be64);
        let (rate, unit) = (u32::try_from(long(limit::RATE)?), long(limit::UNIT)?);
        let is_ours = unit == 1
            && self.flags(limit::TYPE)? == limit_value::PACKETS
            && self.flags(limit::FLAGS)? == limit_value::INVERT;
        let burst = self.flags(limit::BURST)?;
        Ok(rate.ok().filter(|_| is_ours).map(|rate| Expr::Over { rate, burst }))
    }

    fn nat(&self) -> Result<Option<Expr>> {
        let kind = match self.number(nat::TYPE)? {
            0 => NatKind::Snat,
            1 => NatKind::Dnat,
            _ => return Ok(None),
        };
        let number = self.number(nat::FAMILY)?;
        let family = [NfProto::V4, NfProto::V6].into_iter().find(|&family| family as u32 == number);
        let address = self.optional_register(nat::ADDR_MIN)?;
        let port = self.optional_register(nat::PROTO_MIN)?;
        // The kernel repeats the smallest as the largest when it was told no largest.
        let address_max = self.optional_register(nat::ADDR_MAX)?.or(address);
        let port_max = self.optional_register(nat::PROTO_MAX)?.or(port);
        let (Some(family), true) = (family, address == address_max && port == port_max) else {
            return Ok(None);
        };
        let implied = nat_range::MAP_IPS | nat_range::PROTO_SPECIFIED;
        Ok(Some(Expr::Nat { kind, family, address, port, flags: self.flags(nat::FLAGS)? & !implied }))
    }
}

/// The kernel names the registers that begin one of 16 bytes by their old numbers, 1 to 4
/// (`nft_dump_register` in net/netfilter/nf_tables_api.c).
fn register(number: u32) -> Result<Reg> {
    let first = match number {
        1..=4 => (number - 1) * 4,
        REG32_00..=23 => number - REG32_00,
        _ => return Err(Malformed),
    };
    u8::try_from(first).map(Reg).map_err(|_| Malformed)
}
