//! Bytes that are not what they should be: an error or nonsense, never a panic.

use proptest::{collection::vec, prelude::*, sample::Index};
use viaduct_plan::nft::{
    Base, BitOp, Chain, ChainKind, Change, CmpOp, DynsetOp, Expr, Family, Hook, Key, LookupTo, MetaKey,
    NatKind, NfProto, PayloadBase, PayloadChecksum, Reg, Rule, Set, SetDef, Table, Type, Value, ValueType,
    Verdict,
};

use super::{
    attr::{Malformed, messages},
    decode,
    encode::Batch,
    uapi::message,
};

/// A batch with most of what there is; requests and answers have the same attributes.
fn batch() -> Vec<u8> {
    let reg = Reg(1);
    let exprs = vec![
        Expr::Meta { key: MetaKey::IifName, to: reg },
        Expr::MetaSet { key: MetaKey::Mark, from: reg },
        Expr::Payload { base: PayloadBase::Network, offset: 12, len: 4, to: reg },
        Expr::PayloadSet {
            base: PayloadBase::Transport,
            offset: 26,
            len: 6,
            from: reg,
            checksum: Some(PayloadChecksum::Here { offset: 2 }),
        },
        Expr::Bitwise { from: reg, to: reg, op: BitOp::MaskXor { mask: vec![1; 4], xor: vec![0; 4] } },
        Expr::Cmp { from: reg, op: CmpOp::Eq, data: vec![7; 16] },
        Expr::Immediate { to: reg, data: vec![1, 2] },
        Expr::Lookup { set: "v".to_owned(), from: reg, to: LookupTo::Verdict, invert: false },
        Expr::Dynset { set: "d".to_owned(), from: reg, op: DynsetOp::Update },
        Expr::Nat {
            kind: NatKind::Dnat,
            family: NfProto::V4,
            address: Some(reg),
            port: Some(Reg(2)),
            flags: 0,
        },
        Expr::Masquerade,
        Expr::NoTrack,
        Expr::Counter,
        Expr::Over { rate: 500, burst: 7 },
        Expr::Verdict(Verdict::Jump("c".to_owned())),
        Expr::Verdict(Verdict::Drop),
    ];
    let hooked = Base {
        kind: ChainKind::Filter,
        hook: Hook::Ingress,
        priority: -1,
        device: Some("eth0".parse().unwrap()),
    };
    let ranges = SetDef::map(&[Type::Ipv4, Type::Port], ValueType::Fields(vec![Type::Ipv4])).ranges();
    let range = Key::new().prefix("10.0.0.0/8".parse().unwrap()).port(80);
    let name = Key::new().name(&"eth0".parse().unwrap());
    let set = |def, elements: Vec<_>| Set { def, elements: elements.into_iter().collect() };
    let table = Table {
        sets: [
            (
                "v",
                set(
                    SetDef::map(&[Type::IfName], ValueType::Verdict),
                    vec![(name, Value::Verdict(Verdict::Goto("c".to_owned())))],
                ),
            ),
            ("r", set(ranges, vec![(range, Value::Fields(vec![1; 4]))])),
            ("d", set(SetDef { dynamic: Some(9), ..SetDef::set(&[Type::Ether]) }, vec![])),
        ]
        .map(|(name, set)| (name.to_owned(), set))
        .into(),
        chains: [(
            "c".to_owned(),
            Chain { base: Some(hooked), rules: vec![Rule { exprs, text: String::new() }] },
        )]
        .into(),
    };
    Batch::new(&[Change::AddTable(Family::Netdev, table)], 1).bytes().to_vec()
}

/// Reads as if the kernel had sent it; how many objects were understood.
fn read_all(datagram: &[u8]) -> Result<usize, Malformed> {
    let mut understood = 0;
    for message in messages(datagram) {
        let message = message?;
        let (_, body) = message.body()?;
        let def = SetDef::map(&[Type::Ipv4, Type::Port], ValueType::Fields(vec![Type::Ipv4])).ranges();
        let ok = match message.kind {
            message::NEW_TABLE => decode::table(body).is_ok(),
            message::NEW_CHAIN => Family::ALL.into_iter().all(|family| decode::chain(family, body).is_ok()),
            message::NEW_SET => decode::set(body).is_ok(),
            message::NEW_RULE => decode::rule(body).is_ok(),
            message::NEW_SET_ELEM => {
                decode::counted_elements(body, &mut Vec::new()).is_ok()
                    && decode::elements(body, &def, &mut Vec::new()).is_ok()
            }
            _ => decode::generation(body).is_ok(),
        };
        understood += usize::from(ok);
    }
    Ok(understood)
}

#[test]
fn what_we_write_we_can_read() {
    let batch = batch();
    // Two for the table before its replacement, the table, three sets, a chain, a rule, two lists of elements; but
    // not the two messages that frame them and the table's removal, which have other attributes.
    assert_eq!(read_all(&batch), Ok(9));
}

proptest! {
    #[test]
    fn changed_bytes_do_not_panic(changes in vec((any::<Index>(), any::<u8>()), 1..20)) {
        let mut batch = batch();
        for (index, byte) in changes {
            let at = index.index(batch.len());
            batch[at] = byte;
        }
        let _ = read_all(&batch);
    }

    #[test]
    fn truncated_bytes_do_not_panic(end in any::<Index>()) {
        let batch = batch();
        let _ = read_all(&batch[..end.index(batch.len())]);
    }

    /// The lengths of messages are right, what is in them is cut.
    #[test]
    fn truncated_attributes_do_not_panic(nth in any::<Index>(), end in any::<Index>(), change in any::<u8>()) {
        let batch = batch();
        let all: Vec<_> = messages(&batch).map(Result::unwrap).collect();
        let message = all[nth.index(all.len())];
        let end = 4 + end.index(message.payload.len() - 3);
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&u32::try_from(16 + end).unwrap().to_ne_bytes());
        bytes.extend_from_slice(&message.kind.to_ne_bytes());
        bytes.extend_from_slice(&[0; 10]);
        bytes.extend_from_slice(&message.payload[..end]);
        if let Some(last) = bytes.get_mut(20 + usize::from(change)) {
            *last = change;
        }
        let _ = read_all(&bytes);
    }

    #[test]
    fn any_bytes_do_not_panic(kind in 0..30u16, body in vec(any::<u8>(), 0..300)) {
        let mut bytes = u32::try_from(20 + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend_from_slice(&(message::NEW_TABLE + kind).to_ne_bytes());
        bytes.extend_from_slice(&[0; 14]);
        bytes.extend_from_slice(&body);
        let _ = read_all(&bytes);
        let _ = read_all(&body);
    }
}
