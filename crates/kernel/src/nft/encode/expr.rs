//! Expressions for the kernel, each as net/netfilter/nft_*.c parses it.

use viaduct_plan::nft::{BitOp, Expr, ExthdrOp, LookupTo, PayloadChecksum, Reg, Verdict};

use crate::nft::{
    attr::Writer,
    uapi::{
        REG_VERDICT, REG32_00, bitwise, bitwise_op, checksum, cmp, ct, data, dynset, expr, exthdr,
        exthdr_value, fib, immediate, limit, limit_value, list, lookup, lookup_flag, meta, nat, nat_range,
        payload, verdict, verdict_code,
    },
};

/// A rule's list of expressions.
pub(super) fn write_exprs(w: &mut Writer, kind: u16, exprs: &[Expr]) {
    w.nest(kind, |w| {
        for e in exprs {
            w.nest(list::ELEM, |w| write_expr(w, e));
        }
    });
}

/// Constants, verdicts among them, as NFTA_*_DATA and elements have them.
pub(super) fn write_data(w: &mut Writer, kind: u16, bytes: &[u8]) {
    w.nest(kind, |w| w.attr(data::VALUE, bytes));
}

/// See [`write_data`].
pub(super) fn write_verdict(w: &mut Writer, kind: u16, decision: &Verdict) {
    let (code, chain) = match decision {
        Verdict::Accept => (verdict_code::ACCEPT, None),
        Verdict::Drop => (verdict_code::DROP, None),
        Verdict::Return => (verdict_code::RETURN, None),
        Verdict::Continue => (verdict_code::CONTINUE, None),
        Verdict::Jump(chain) => (verdict_code::JUMP, Some(chain)),
        Verdict::Goto(chain) => (verdict_code::GOTO, Some(chain)),
    };
    w.nest(kind, |w| {
        w.nest(data::VERDICT, |w| {
            w.be32(verdict::CODE, code.cast_unsigned());
            if let Some(chain) = chain {
                w.text(verdict::CHAIN, chain);
            }
        });
    });
}

fn write_expr(w: &mut Writer, e: &Expr) {
    let name = match e {
        Expr::Meta { .. } | Expr::MetaSet { .. } => "meta",
        Expr::Payload { .. } | Expr::PayloadSet { .. } => "payload",
        Expr::Exthdr { .. } | Expr::TcpOptionSet { .. } => "exthdr",
        Expr::Ct { .. } | Expr::CtSet { .. } => "ct",
        Expr::Fib { .. } => "fib",
        Expr::Bitwise { .. } => "bitwise",
        Expr::Cmp { .. } => "cmp",
        Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
        Expr::Lookup { .. } => "lookup",
        Expr::Dynset { .. } => "dynset",
        Expr::Nat { .. } => "nat",
        Expr::Masquerade => "masq",
        Expr::NoTrack => "notrack",
        Expr::Counter => "counter",
        Expr::Over { .. } => "limit",
        // Never in a desired ruleset; the kernel would refuse it for want of its attributes.
        Expr::Other(name) => name,
    };
    w.text(expr::NAME, name);
    w.nest(expr::DATA, |w| write_attributes(w, e));
}

fn write_attributes(w: &mut Writer, e: &Expr) {
    match e {
        Expr::Meta { key, to } => {
            w.be32(meta::KEY, *key as u32);
            w.be32(meta::DREG, register(*to));
        }
        Expr::MetaSet { key, from } => {
            w.be32(meta::KEY, *key as u32);
            w.be32(meta::SREG, register(*from));
        }
        Expr::Payload { base, offset, len, to } => {
            w.be32(payload::DREG, register(*to));
            w.be32(payload::BASE, *base as u32);
            w.be32(payload::OFFSET, *offset);
            w.be32(payload::LEN, *len);
        }
        Expr::PayloadSet { base, offset, len, from, checksum } => {
            w.be32(payload::SREG, register(*from));
            w.be32(payload::BASE, *base as u32);
            w.be32(payload::OFFSET, *offset);
            w.be32(payload::LEN, *len);
            let (kind, at, flags) = match *checksum {
                None => (checksum::NONE, 0, 0),
                Some(PayloadChecksum::Here { offset }) => (checksum::INTERNET, offset, 0),
                Some(PayloadChecksum::Transport) => (checksum::NONE, 0, checksum::PSEUDO_HEADER),
            };
            w.be32(payload::CSUM_TYPE, kind);
            w.be32(payload::CSUM_OFFSET, at);
            w.be32(payload::CSUM_FLAGS, flags);
        }
        Expr::Exthdr { op, header, offset, len, to } => {
            w.be32(exthdr::DREG, register(*to));
            w.u8(exthdr::TYPE, *header);
            w.be32(exthdr::OFFSET, *offset);
            w.be32(exthdr::LEN, *len);
            w.be32(exthdr::OP, exthdr_value::OP_IPV6);
            match op {
                ExthdrOp::Ipv6 => {}
                ExthdrOp::Ipv6Present => w.be32(exthdr::FLAGS, exthdr_value::FLAG_PRESENT),
            }
        }
        Expr::TcpOptionSet { kind, offset, len, from } => {
            w.be32(exthdr::SREG, register(*from));
            w.u8(exthdr::TYPE, *kind);
            w.be32(exthdr::OFFSET, *offset);
            w.be32(exthdr::LEN, *len);
            w.be32(exthdr::OP, exthdr_value::OP_TCPOPT);
        }
        Expr::CtSet { key, from } => {
            w.be32(ct::KEY, *key as u32);
            w.be32(ct::SREG, register(*from));
        }
        Expr::Ct { key, direction, to } => {
            w.be32(ct::KEY, *key as u32);
            if let Some(direction) = direction {
                w.u8(ct::DIRECTION, *direction as u8);
            }
            w.be32(ct::DREG, register(*to));
        }
        Expr::Fib { result, flags, to } => {
            w.be32(fib::DREG, register(*to));
            w.be32(fib::RESULT, *result as u32);
            w.be32(fib::FLAGS, *flags);
        }
        Expr::Bitwise { from, to, op: BitOp::MaskXor { mask, xor } } => {
            w.be32(bitwise::SREG, register(*from));
            w.be32(bitwise::DREG, register(*to));
            w.be32(bitwise::LEN, u32::try_from(mask.len()).unwrap_or(u32::MAX));
            w.be32(bitwise::OP, bitwise_op::MASK_XOR);
            write_data(w, bitwise::MASK, mask);
            write_data(w, bitwise::XOR, xor);
        }
        Expr::Cmp { from, op, data } => {
            w.be32(cmp::SREG, register(*from));
            w.be32(cmp::OP, *op as u32);
            write_data(w, cmp::DATA, data);
        }
        Expr::Immediate { to, data } => {
            w.be32(immediate::DREG, register(*to));
            write_data(w, immediate::DATA, data);
        }
        Expr::Verdict(decision) => {
            w.be32(immediate::DREG, REG_VERDICT);
            write_verdict(w, immediate::DATA, decision);
        }
        Expr::Lookup { set, from, to, invert } => {
            w.text(lookup::SET, set);
            w.be32(lookup::SREG, register(*from));
            match to {
                LookupTo::Nowhere => {}
                LookupTo::Verdict => w.be32(lookup::DREG, REG_VERDICT),
                LookupTo::Register(to) => w.be32(lookup::DREG, register(*to)),
            }
            if *invert {
                w.be32(lookup::FLAGS, lookup_flag::INVERT);
            }
        }
        Expr::Dynset { set, from, op } => {
            w.text(dynset::SET, set);
            w.be32(dynset::OP, *op as u32);
            w.be32(dynset::SREG_KEY, register(*from));
            w.nest(dynset::EXPR, |w| write_expr(w, &Expr::Counter));
        }
        Expr::Nat { kind, family, address, port, flags } => {
            w.be32(nat::TYPE, *kind as u32);
            w.be32(nat::FAMILY, *family as u32);
            if let Some(address) = address {
                w.be32(nat::ADDR_MIN, register(*address));
            }
            if let Some(port) = port {
                w.be32(nat::PROTO_MIN, register(*port));
            }
            let flags = flags & !(nat_range::MAP_IPS | nat_range::PROTO_SPECIFIED);
            if flags != 0 {
                w.be32(nat::FLAGS, flags);
            }
        }
        Expr::Over { rate, burst } => {
            w.be64(limit::RATE, u64::from(*rate));
            // Of seconds.
            w.be64(limit::UNIT, 1);
            w.be32(limit::BURST, *burst);
            w.be32(limit::TYPE, limit_value::PACKETS);
            w.be32(limit::FLAGS, limit_value::INVERT);
        }
        Expr::Masquerade | Expr::NoTrack | Expr::Counter | Expr::Other(_) => {}
    }
}

/// A register's number as nft writes it: the four that are 16 bytes wide by their old numbers, so that old versions
/// of nft show such rules, too.
fn register(Reg(n): Reg) -> u32 {
    match n % 4 {
        0 => 1 + u32::from(n / 4),
        _ => REG32_00 + u32::from(n),
    }
}
