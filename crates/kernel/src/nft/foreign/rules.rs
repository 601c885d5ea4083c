//! Rules of nf_tables, expression by expression.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use viaduct_doctor::filter::{self, Condition, Range, Rule, Test, Verdict};

use super::{
    Names, Result, compat,
    sets::{Element, Known, Sets},
};
use crate::nft::{
    attr::{attrs, be32, find, text},
    decode::{self, Data},
    uapi::{
        REG_VERDICT, REG32_00, bitwise, byteorder, cmp, ct, data, fib, fib_value, immediate, list, lookup,
        meta, payload, range, xt,
    },
};

/// What a register holds.
#[derive(Clone)]
struct Loaded {
    field: Field,
    mask: Option<Vec<u8>>,
    /// In bytes.
    len: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    In,
    Out,
    InIndex,
    OutIndex,
    Family,
    EtherType,
    Protocol,
    State,
    Status,
    Source {
        ipv4: bool,
    },
    Destination {
        ipv4: bool,
    },
    SourcePort,
    Port,
    /// nft looks at both at once.
    Ports,
    /// Likewise.
    Addresses,
    Message,
    Cast,
    HopLimit,
}

impl Loaded {
    /// What of a packet it is, whole, with values in the order of their bytes.
    fn whole(&self) -> Option<filter::Field> {
        let address = |ipv4| self.len == if ipv4 { 4 } else { 16 };
        let field = match self.field {
            Field::In | Field::InIndex => filter::Field::In,
            Field::Out | Field::OutIndex => filter::Field::Out,
            Field::Family => filter::Field::Family,
            Field::Protocol => filter::Field::Protocol,
            Field::State => filter::Field::State,
            Field::Source { ipv4 } if address(ipv4) => filter::Field::Source,
            Field::Destination { ipv4 } if address(ipv4) => filter::Field::Destination,
            Field::SourcePort => filter::Field::SourcePort,
            Field::Port => filter::Field::Port,
            Field::Message => filter::Field::Message,
            Field::Cast => filter::Field::Cast,
            Field::HopLimit => filter::Field::HopLimit,
            Field::Source { .. }
            | Field::Destination { .. }
            | Field::Ports
            | Field::Addresses
            | Field::Status
            | Field::EtherType => {
                return None;
            }
        };
        self.mask.is_none().then_some(field)
    }

    /// Whether one of its values can be more than another.
    fn has_an_order(&self) -> bool {
        match self.field {
            Field::Source { .. }
            | Field::Destination { .. }
            | Field::Protocol
            | Field::SourcePort
            | Field::Port
            | Field::Message
            | Field::HopLimit => true,
            Field::In
            | Field::Out
            | Field::InIndex
            | Field::OutIndex
            | Field::Family
            | Field::EtherType
            | Field::Ports
            | Field::Addresses
            | Field::State
            | Field::Status
            | Field::Cast => false,
        }
    }

    /// Two fields that stand side by side, each with its half of a value.
    fn both(&self, fields: [filter::Field; 2], value: &[u8]) -> Option<Test> {
        let halves = value.split_at_checked(self.len / 2).filter(|_| self.mask.is_none())?;
        let elements = vec![vec![Range::new(halves.0, halves.0), Range::new(halves.1, halves.1)]];
        Some(Test::Among(filter::Set { fields: fields.into(), elements }))
    }

    /// From one value to another, where they are told apart.
    fn among(&self, first: Vec<u8>, last: Vec<u8>) -> Option<Test> {
        let field = self.whole().filter(|_| self.has_an_order() && first.len() == self.len)?;
        Some(Test::Among(filter::Set::one(field, [Range { first, last }])))
    }
}

/// What the registers hold, by their number as one of four bytes.
#[derive(Default)]
struct Registers(BTreeMap<u32, Loaded>);

impl Registers {
    /// Registers of 16 bytes have numbers of their own (enum nft_registers).
    fn slot(register: u32) -> u32 {
        if (1..=4).contains(&register) { REG32_00 + (register - 1) * 4 } else { register }
    }

    fn get(&self, register: u32) -> Option<&Loaded> {
        self.0.get(&Self::slot(register))
    }

    /// What is not understood, takes the place of what was there as well.
    fn put(&mut self, register: u32, len: usize, loaded: Option<Loaded>) {
        let slot = Self::slot(register);
        let taken = slot..slot + words(len).max(1);
        self.0.retain(|at, _| !taken.contains(at));
        if let Some(loaded) = loaded {
            self.0.insert(slot, loaded);
        }
    }

    /// Those that make a key of this length.
    fn key(&self, register: u32, len: usize) -> Option<Vec<&Loaded>> {
        let (mut slot, mut rest, mut key) = (Self::slot(register), len, Vec::new());
        while rest > 0 {
            let loaded = self.0.get(&slot)?;
            slot += words(loaded.len);
            // Every field but a single one is filled to a multiple of four bytes.
            rest = rest.saturating_sub(loaded.len.next_multiple_of(4));
            key.push(loaded);
        }
        Some(key)
    }
}

fn words(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(4)).unwrap_or(u32::MAX)
}

/// The names of the sets in which a rule looks.
pub(super) fn sets_of(exprs: &[u8], names: &mut BTreeSet<String>) -> Result<()> {
    for expr in attrs(exprs) {
        let (kind, nest) = expr?;
        if kind != list::ELEM {
            continue;
        }
        if let ("lookup", body) = decode::named(nest)? {
            names.insert(text(find(body, lookup::SET)?.unwrap_or_default())?.to_owned());
        }
    }
    Ok(())
}

/// A rule; one for each element of the map of verdicts in which it looks.
pub(super) fn read(exprs: &[u8], names: &Names, sets: &Sets) -> Result<Vec<Rule>> {
    let mut registers = Registers::default();
    let mut rule = Rule { conditions: Vec::new(), verdict: Verdict::Continue };
    for expr in attrs(exprs) {
        let (kind, nest) = expr?;
        if kind != list::ELEM {
            continue;
        }
        let (name, body) = decode::named(nest)?;
        let reg = |kind| -> Result<u32> { Ok(find(body, kind)?.map(be32).transpose()?.unwrap_or(0)) };
        let unknown = || Condition { test: Test::Unknown, negated: false };
        match name {
            "counter" | "log" | "notrack" | "last" | "objref" | "dynset" | "dup" => {}
            // They load something that is not understood; what compares it is unknown then.
            "rt" | "exthdr" | "socket" | "numgen" | "hash" | "osf" | "tunnel" | "xfrm" => {
                registers = Registers::default();
            }
            "byteorder" => {
                // nft asks for it of single bytes, too.
                let from = registers.get(reg(byteorder::SREG)?).filter(|from| from.len == 1).cloned();
                let len = usize::try_from(reg(byteorder::LEN)?).unwrap_or(16).min(16);
                registers.put(reg(byteorder::DREG)?, len, from);
            }
            "meta" | "ct" | "payload" | "fib" => {
                // Without one it sets something.
                if let Some((to, len, field)) = load(name, body)? {
                    registers.put(to, len, field.map(|field| Loaded { field, mask: None, len }));
                }
            }
            "bitwise" => {
                let mask = find(body, bitwise::MASK)?.and_then(|nest| find(nest, data::VALUE).ok().flatten());
                let from = registers.get(reg(bitwise::SREG)?).cloned();
                let len = from.as_ref().map_or(16, |from| from.len);
                let masked = from.zip(mask);
                let masked = masked.map(|(from, mask)| Loaded { mask: Some(mask.to_vec()), ..from });
                registers.put(reg(bitwise::DREG)?, len, masked);
            }
            "cmp" => {
                let value = find(body, cmp::DATA)?.map(decode::data).transpose()?;
                let condition = match (registers.get(reg(cmp::SREG)?), value) {
                    (Some(loaded), Some(Data::Value(value))) => compare(loaded, reg(cmp::OP)?, value, names),
                    _ => unknown(),
                };
                rule.conditions.push(condition);
            }
            "range" => {
                let end = |kind| find(body, kind)?.map(decode::data).transpose();
                let ends = (end(range::FROM_DATA)?, end(range::TO_DATA)?);
                let test = match (registers.get(reg(range::SREG)?), ends) {
                    (Some(loaded), (Some(Data::Value(first)), Some(Data::Value(last)))) => {
                        loaded.among(first.to_vec(), last.to_vec())
                    }
                    _ => None,
                };
                let negated = reg(range::OP)? != 0;
                rule.conditions.push(Condition { test: test.unwrap_or(Test::Unknown), negated });
            }
            "lookup" => {
                let set = sets.get(text(find(body, lookup::SET)?.unwrap_or_default())?);
                let key = set.and_then(|set| registers.key(reg(lookup::SREG).ok()?, set.key_len));
                let to = find(body, lookup::DREG)?.map(be32).transpose()?;
                let inverted = reg(lookup::FLAGS)? & 1 != 0;
                let known = set.zip(key).and_then(|(set, key)| Lookup::of(set, &key, names));
                match (to, known) {
                    (Some(REG_VERDICT), Some(lookup)) => return Ok(lookup.rules(&rule)),
                    (Some(REG_VERDICT), None) => {
                        rule.verdict = Verdict::Unknown;
                        rule.conditions.push(unknown());
                    }
                    // A value is found by it, which is not known; without one, the rule ends.
                    (Some(to), lookup) => {
                        registers.put(to, 16, None);
                        rule.conditions.push(lookup.map_or_else(unknown, |lookup| lookup.condition(false)));
                    }
                    (None, Some(lookup)) => rule.conditions.push(lookup.condition(inverted)),
                    (None, None) => {
                        rule.conditions.push(Condition { test: Test::Unknown, negated: inverted });
                    }
                }
            }
            "immediate" => {
                if reg(immediate::DREG)? == REG_VERDICT
                    && let Some(nest) = find(body, immediate::DATA)?
                    && let Data::Verdict(verdict) = decode::data(nest)?
                {
                    rule.verdict = own(verdict);
                }
            }
            "reject" | "synproxy" => rule.verdict = Verdict::Drop,
            "queue" | "fwd" | "tproxy" => rule.verdict = Verdict::Unknown,
            "match" => rule.conditions.extend(compat::conditions(body)?),
            "target" => match text(find(body, xt::NAME)?.unwrap_or_default())? {
                "REJECT" | "DROP" => rule.verdict = Verdict::Drop,
                "NFQUEUE" => rule.verdict = Verdict::Unknown,
                _ => {}
            },
            _ => rule.conditions.push(unknown()),
        }
    }
    Ok(vec![rule])
}

/// A look into a set whose keys are understood.
struct Lookup<'a> {
    fields: Vec<filter::Field>,
    elements: Vec<(Vec<Range>, &'a Option<Verdict>)>,
    /// For everything else.
    otherwise: Option<&'a Option<Verdict>>,
}

impl<'a> Lookup<'a> {
    fn of(set: &'a Known, key: &[&Loaded], names: &Names) -> Option<Self> {
        let fields = key.iter().map(|loaded| loaded.whole()).collect::<Option<Vec<_>>>()?;
        let elements = set.elements.iter().filter_map(|element| {
            let ranges = ranges(element, key, names)?;
            Some((ranges, &element.verdict))
        });
        Some(Self { fields, elements: elements.collect(), otherwise: set.otherwise.as_ref() })
    }

    fn set(&self, elements: impl IntoIterator<Item = Vec<Range>>) -> Test {
        Test::Among(filter::Set { fields: self.fields.clone(), elements: elements.into_iter().collect() })
    }

    fn all(&self) -> Test {
        self.set(self.elements.iter().map(|(ranges, _)| ranges.clone()))
    }

    fn condition(&self, inverted: bool) -> Condition {
        if self.otherwise.is_some() {
            // Everything is in it.
            let everything = filter::Set { fields: Vec::new(), elements: vec![Vec::new()] };
            return Condition { test: Test::Among(everything), negated: inverted };
        }
        Condition { test: self.all(), negated: inverted }
    }

    fn rules(&self, rule: &Rule) -> Vec<Rule> {
        let with = |test, negated, verdict: &Option<Verdict>| {
            let mut rule = rule.clone();
            rule.conditions.push(Condition { test, negated });
            rule.verdict = verdict.clone().unwrap_or(Verdict::Unknown);
            rule
        };
        let each =
            self.elements.iter().map(|(ranges, verdict)| with(self.set([ranges.clone()]), false, verdict));
        each.chain(self.otherwise.map(|verdict| with(self.all(), true, verdict))).collect()
    }
}

/// An element's ranges, field by field; none when nothing can be it, as its device does not exist.
fn ranges(element: &Element, key: &[&Loaded], names: &Names) -> Option<Vec<Range>> {
    let mut at = 0;
    let mut ranges = Vec::new();
    for loaded in key {
        let of = |bytes: &[u8]| Some(bytes.get(at..at + loaded.len)?.to_vec());
        let mut range = Range { first: of(&element.first)?, last: of(&element.last)? };
        if matches!(loaded.field, Field::InIndex | Field::OutIndex) {
            let mut name = names.get(&number(&range.first))?.clone().into_bytes();
            name.resize(16, 0);
            range = Range { first: name.clone(), last: name };
        }
        ranges.push(range);
        at += loaded.len.next_multiple_of(4);
    }
    Some(ranges)
}

/// A verdict as the doctor has it.
pub(super) fn own(verdict: Option<viaduct_plan::nft::Verdict>) -> Verdict {
    use viaduct_plan::nft::Verdict as Nft;
    match verdict {
        Some(Nft::Accept) => Verdict::Accept,
        Some(Nft::Drop) => Verdict::Drop,
        Some(Nft::Return) => Verdict::Return,
        Some(Nft::Continue) => Verdict::Continue,
        Some(Nft::Jump(to)) => Verdict::Jump(to),
        Some(Nft::Goto(to)) => Verdict::Goto(to),
        None => Verdict::Unknown,
    }
}

/// The register that an expression loads, so many bytes, and with what; none when it sets something.
fn load(name: &str, body: &[u8]) -> Result<Option<(u32, usize, Option<Field>)>> {
    // The register has the same number in all of them.
    let Some(to) = find(body, meta::DREG)? else { return Ok(None) };
    let word = |kind| -> Result<u32> { Ok(find(body, kind)?.map(be32).transpose()?.unwrap_or(u32::MAX)) };
    let (len, field) = match name {
        // nft_meta_keys
        "meta" => match word(meta::KEY)? {
            1 => (2, Some(Field::EtherType)),
            4 => (4, Some(Field::InIndex)),
            5 => (4, Some(Field::OutIndex)),
            6 => (16, Some(Field::In)),
            7 => (16, Some(Field::Out)),
            15 => (1, Some(Field::Family)),
            16 => (1, Some(Field::Protocol)),
            _ => (16, None),
        },
        // nft_ct_keys
        "ct" => match word(ct::KEY)? {
            0 => (4, Some(Field::State)),
            2 => (4, Some(Field::Status)),
            _ => (16, None),
        },
        "fib" => match (word(fib::RESULT)?, word(fib::FLAGS)?) {
            (fib_value::ADDRTYPE, fib_value::DADDR) => (4, Some(Field::Cast)),
            _ => (16, None),
        },
        _ => {
            let len = word(payload::LEN)?;
            let field = match (word(payload::BASE)?, word(payload::OFFSET)?, len) {
                // Of the network header; the offsets are those of IPv4 and IPv6.
                (1, 9, 1) | (1, 6, 1) => Some(Field::Protocol),
                (1, 12, 1..=4) => Some(Field::Source { ipv4: true }),
                (1, 16, 1..=4) => Some(Field::Destination { ipv4: true }),
                (1, 12, 8) => Some(Field::Addresses),
                (1, 7, 1) => Some(Field::HopLimit),
                (1, 8, 2..=16) => Some(Field::Source { ipv4: false }),
                (1, 24, 1..=16) => Some(Field::Destination { ipv4: false }),
                // Of the transport header.
                (2, 0, 1) => Some(Field::Message),
                (2, 0, 2) => Some(Field::SourcePort),
                (2, 2, 2) => Some(Field::Port),
                (2, 0, 4) => Some(Field::Ports),
                _ => None,
            };
            (usize::try_from(len).unwrap_or(usize::MAX).min(64), field)
        }
    };
    Ok(Some((be32(to)?, len, field)))
}

/// By one of nft_cmp_ops.
fn compare(loaded: &Loaded, op: u32, value: &[u8], names: &Names) -> Condition {
    let (zero, full) = (|| vec![0; value.len()], || vec![u8::MAX; value.len()]);
    let (test, negated) = match op {
        0 => return equal(loaded, value, false, names),
        1 => return equal(loaded, value, true, names),
        2 => (loaded.among(value.to_vec(), full()), true),
        3 => (loaded.among(zero(), value.to_vec()), false),
        4 => (loaded.among(zero(), value.to_vec()), true),
        5 => (loaded.among(value.to_vec(), full()), false),
        _ => (None, false),
    };
    Condition { test: test.unwrap_or(Test::Unknown), negated }
}

fn equal(loaded: &Loaded, value: &[u8], negated: bool, names: &Names) -> Condition {
    let named = || {
        let end = value.iter().position(|&b| b == 0);
        let name = String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned();
        // Without its NUL it is a beginning.
        if end.is_some() { name } else { format!("{name}*") }
    };
    let indexed = || names.get(&number(value)).cloned();
    let is_zero = value.iter().all(|&b| b == 0);
    let flagged = |mask: &Option<Vec<u8>>| mask.as_ref().map_or_else(|| number(value), |mask| number(mask));
    // `state & mask != 0` is the usual form.
    let flip = loaded.mask.is_some() && is_zero;
    let negated_flag = negated != flip;
    let (test, negated) = match loaded.field {
        Field::In => (Some(Test::In(named())), negated),
        Field::Out => (Some(Test::Out(named())), negated),
        Field::InIndex => (indexed().map(Test::In), negated),
        Field::OutIndex => (indexed().map(Test::Out), negated),
        Field::Family => match value.first() {
            Some(2) => (Some(Test::Ipv4), negated),
            Some(10) => (Some(Test::Ipv4), !negated),
            _ => (None, negated),
        },
        Field::EtherType => match value {
            [0x08, 0x00] => (Some(Test::Ipv4), negated),
            [0x86, 0xdd] => (Some(Test::Ipv4), !negated),
            _ => (None, negated),
        },
        Field::Ports => (loaded.both([filter::Field::SourcePort, filter::Field::Port], value), negated),
        Field::Addresses => {
            (loaded.both([filter::Field::Source, filter::Field::Destination], value), negated)
        }
        Field::SourcePort | Field::Port | Field::Message | Field::HopLimit => {
            (loaded.among(value.to_vec(), value.to_vec()), negated)
        }
        Field::Cast if loaded.mask.is_none() => {
            let range = Range { first: value.to_vec(), last: value.to_vec() };
            (Some(Test::Among(filter::Set::one(filter::Field::Cast, [range]))), negated)
        }
        Field::Cast => (None, negated),
        Field::Protocol => (value.first().map(|&number| Test::Protocol(number)), negated),
        Field::State => (Some(Test::State(flagged(&loaded.mask))), negated_flag),
        // IPS_DST_NAT
        Field::Status if flagged(&loaded.mask) == 0x20 => (Some(Test::Translated), negated_flag),
        Field::Status => (None, negated),
        Field::Source { ipv4 } => (net(value, loaded.mask.as_deref(), ipv4).map(Test::Source), negated),
        Field::Destination { ipv4 } => {
            (net(value, loaded.mask.as_deref(), ipv4).map(Test::Destination), negated)
        }
    };
    Condition { test: test.unwrap_or(Test::Unknown), negated }
}

/// A number in the host's byte order.
fn number(value: &[u8]) -> u32 {
    value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

fn net(value: &[u8], mask: Option<&[u8]>, ipv4: bool) -> Option<IpNet> {
    let len = match mask {
        Some(mask) => mask.iter().map(|byte| byte.count_ones()).sum::<u32>(),
        None => u32::try_from(value.len()).ok()? * 8,
    };
    let fill = |bytes: &mut [u8]| {
        let into = bytes.get_mut(..value.len())?;
        into.copy_from_slice(value);
        Some(())
    };
    let address: IpAddr = if ipv4 {
        let mut bytes = [0; 4];
        fill(&mut bytes)?;
        Ipv4Addr::from(bytes).into()
    } else {
        let mut bytes = [0; 16];
        fill(&mut bytes)?;
        Ipv6Addr::from(bytes).into()
    };
    IpNet::new(address, u8::try_from(len).ok()?).ok()
}
