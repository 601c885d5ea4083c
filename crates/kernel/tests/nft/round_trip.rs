//! What we commit is what we read, for all that the plan can say.

use viaduct_kernel::nft::Nft;
use viaduct_plan::nft::{
    BitOp, Chain, ChainKind, Change, CmpOp, CtKey, DynsetOp, Expr, ExthdrOp, Family, FibResult, Hook, Key,
    LookupTo, MetaKey, NatKind, NfProto, PayloadBase, PayloadChecksum, Reg, Ruleset, SetDef, Table, Type,
    Value, ValueType, Verdict, diff,
};

use crate::support::{
    addr, assert_equal, base, chain, converge, dynamic, exprs, in_netns, mac, member, name, nft, on_device,
    ruleset, set, table, value,
};

/// Every kind of set, element, chain and expression.
fn everything() -> Ruleset {
    ruleset([
        (Family::Inet, inet()),
        (Family::Arp, arp()),
        (Family::Bridge, bridge()),
        (Family::Netdev, netdev()),
    ])
}

fn inet() -> Table {
    use Type::{Ether, IfName, Ipv4, Ipv6, Port, Proto};
    let tcp = 6;
    let verdicts = SetDef::map(&[IfName], ValueType::Verdict);
    let forwards4 = SetDef::map(&[Ipv4, Proto, Port], ValueType::Fields(vec![Ipv4, Port]));
    let forwards6 = SetDef::map(&[Ipv6, Proto, Port], ValueType::Fields(vec![Ipv6, Port]));
    let sets = [
        (
            "v_jump",
            set(
                verdicts,
                [
                    (Key::new().name(&name("eth0")), Value::Verdict(Verdict::Jump("c_a".to_owned()))),
                    (Key::new().name(&name("eth1")), Value::Verdict(Verdict::Goto("c_a".to_owned()))),
                    (Key::new().name(&name("eth2")), Value::Verdict(Verdict::Accept)),
                    (Key::new().name(&name("eth3")), Value::Verdict(Verdict::Drop)),
                    (Key::new().name(&name("eth4")), Value::Verdict(Verdict::Return)),
                    (Key::new().name(&name("eth5")), Value::Verdict(Verdict::Continue)),
                ],
            ),
        ),
        ("s_names", set(SetDef::set(&[IfName]), [member(Key::new().name(&name("fifteen-letters")))])),
        (
            "s_ether",
            set(SetDef::set(&[Ether]), [member(Key::new().mac(mac(1))), member(Key::new().mac(mac(2)))]),
        ),
        ("s_v4", set(SetDef::set(&[Ipv4]), [member(Key::new().ip(addr("192.0.2.1")))])),
        ("s_v6", set(SetDef::set(&[Ipv6]), [member(Key::new().ip(addr("2001:db8::1")))])),
        (
            "s_proto",
            set(SetDef::set(&[Proto]), [member(Key::new().protocol(tcp)), member(Key::new().protocol(17))]),
        ),
        ("s_port", set(SetDef::set(&[Port]), [member(Key::new().port(80)), member(Key::new().port(8080))])),
        ("s_empty", set(SetDef::set(&[IfName, Ipv4]), [])),
        ("s_tight", set(SetDef::set(&[IfName, Ipv4]).ranges(), [])),
        (
            "s_exact",
            set(
                SetDef::set(&[IfName, Ether, Ipv4]),
                [member(Key::new().name(&name("a")).mac(mac(3)).ip(addr("10.0.0.3")))],
            ),
        ),
        (
            "s_ranges",
            set(
                SetDef::set(&[IfName, Ipv6]).ranges(),
                [
                    member(Key::new().name(&name("a")).prefix("2001:db8::/64".parse().unwrap())),
                    member(Key::new().name(&name("a")).prefix("2001:db8:0:1::/64".parse().unwrap())),
                    member(Key::new().name(&name("b")).ip(addr("2001:db8::7"))),
                ],
            ),
        ),
        (
            "m_v4",
            set(
                SetDef::map(&[Ipv4], ValueType::Fields(vec![Ipv4])),
                [(Key::new().ip(addr("10.0.0.5")), value(Key::new().ip(addr("192.0.2.5"))))],
            ),
        ),
        (
            "m_mac",
            set(
                SetDef::map(&[IfName], ValueType::Fields(vec![Ether])),
                [(Key::new().name(&name("a")), value(Key::new().mac(mac(9))))],
            ),
        ),
        (
            "m_forwards4",
            set(
                forwards4.clone(),
                [
                    (
                        Key::new().ip(addr("192.0.2.1")).protocol(tcp).port(80),
                        value(Key::new().ip(addr("10.0.0.1")).port(8080)),
                    ),
                    (
                        Key::new().ip(addr("192.0.2.1")).protocol(tcp).port(443),
                        value(Key::new().ip(addr("10.0.0.1")).port(8443)),
                    ),
                ],
            ),
        ),
        (
            "m_ranges4",
            set(
                forwards4.ranges(),
                [(
                    Key::new()
                        .prefix("192.0.2.0/24".parse().unwrap())
                        .protocol(tcp)
                        .ports("1000-1999".parse().unwrap()),
                    value(Key::new().ip(addr("10.0.0.1")).port(0)),
                )],
            ),
        ),
        (
            "m_ranges6",
            set(
                forwards6.ranges(),
                [(
                    Key::new()
                        .prefix("2001:db8::/64".parse().unwrap())
                        .protocol(tcp)
                        .ports("1000-1999".parse().unwrap()),
                    value(Key::new().ip(addr("2001:db8::1")).port(80)),
                )],
            ),
        ),
        ("d_names", dynamic(SetDef::set(&[IfName]), 1000)),
        ("d_pairs", dynamic(SetDef::set(&[IfName, Ipv4]), 4096)),
    ];
    let chains = [
        ("c_a", Chain::default()),
        (
            "c_pre",
            chain(base(ChainKind::Filter, Hook::Prerouting, -300), loads().into_iter().map(|e| exprs([e]))),
        ),
        (
            "c_in",
            chain(
                base(ChainKind::Filter, Hook::Input, 0),
                compares().into_iter().map(|e| exprs([loaded(), e])),
            ),
        ),
        ("c_fwd", chain(base(ChainKind::Filter, Hook::Forward, 7), lookups())),
        ("c_out", chain(base(ChainKind::Filter, Hook::Output, 0), verdicts_rules())),
        ("c_raw", chain(base(ChainKind::Filter, Hook::Output, -300), [exprs([Expr::NoTrack])])),
        (
            "c_post",
            chain(
                base(ChainKind::Filter, Hook::Postrouting, i32::MAX),
                [exprs([Expr::Counter]), exprs([Expr::Over { rate: 500, burst: 7 }])],
            ),
        ),
        ("c_dnat", chain(base(ChainKind::Nat, Hook::Prerouting, -100), nats(NatKind::Dnat))),
        (
            "c_snat",
            chain(base(ChainKind::Nat, Hook::Postrouting, 100), {
                let mut rules = nats(NatKind::Snat);
                rules.push(exprs([Expr::Masquerade]));
                rules
            }),
        ),
    ];
    table(sets, chains)
}

fn loads() -> Vec<Expr> {
    use MetaKey::{IifGroup, IifKind, IifName, L4Proto, Mark, NfProto, OifGroup, OifName, PktType, Protocol};
    let mut loads: Vec<Expr> =
        [Protocol, Mark, IifName, OifName, NfProto, L4Proto, PktType, IifGroup, OifGroup, IifKind]
            .into_iter()
            .map(|key| Expr::Meta { key, to: Reg(0) })
            .collect();
    // Every register, as far as four bytes fit.
    loads.extend((0..16).map(|n| Expr::Meta { key: Mark, to: Reg(n) }));
    loads.push(Expr::Payload { base: PayloadBase::Link, offset: 6, len: 6, to: Reg(4) });
    loads.push(Expr::Payload { base: PayloadBase::Network, offset: 8, len: 16, to: Reg(5) });
    loads.push(Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to: Reg(15) });
    for op in [ExthdrOp::Ipv6, ExthdrOp::Ipv6Present] {
        let len = if op == ExthdrOp::Ipv6 { 2 } else { 1 };
        loads.push(Expr::Exthdr { op, header: 44, offset: 2, len, to: Reg(1) });
    }
    for key in [CtKey::State, CtKey::Status, CtKey::Mark, CtKey::Labels] {
        loads.push(Expr::Ct { key, direction: None, to: Reg(2) });
    }
    loads.push(Expr::Fib { result: FibResult::AddressType, flags: 2, to: Reg(3) });
    loads.push(Expr::Immediate { to: Reg(0), data: vec![1, 2, 3, 4] });
    loads.push(Expr::Immediate { to: Reg(6), data: vec![1, 2, 3, 4, 5, 6] });
    loads
}

/// The kernel insists that a register is written before it is read.
fn loaded() -> Expr {
    Expr::Immediate { to: Reg(0), data: vec![0; 16] }
}

fn compares() -> Vec<Expr> {
    let mut compares: Vec<Expr> = [CmpOp::Eq, CmpOp::Neq, CmpOp::Lt, CmpOp::Lte, CmpOp::Gt, CmpOp::Gte]
        .into_iter()
        .flat_map(|op| {
            [1, 2, 4, 6, 8, 16].map(|len| Expr::Cmp { from: Reg(0), op, data: (1..=len).collect() })
        })
        .collect();
    for len in [2u8, 4, 16] {
        let xor = if len == 2 { vec![0, 1] } else { vec![0; usize::from(len)] };
        let op = BitOp::MaskXor { mask: (1..=len).collect(), xor };
        compares.push(Expr::Bitwise { from: Reg(0), to: Reg(4), op });
    }
    compares.push(Expr::TcpOptionSet { kind: 2, offset: 2, len: 2, from: Reg(0) });
    compares
}

fn lookups() -> Vec<viaduct_plan::nft::Rule> {
    let device = || Expr::Meta { key: MetaKey::IifName, to: Reg(0) };
    let lookup = |set: &str, to, invert| Expr::Lookup { set: set.to_owned(), from: Reg(0), to, invert };
    vec![
        exprs([device(), lookup("s_names", LookupTo::Nowhere, false), Expr::Counter]),
        exprs([device(), lookup("s_names", LookupTo::Nowhere, true), Expr::Verdict(Verdict::Drop)]),
        exprs([device(), lookup("v_jump", LookupTo::Verdict, false)]),
        exprs([
            device(),
            lookup("m_mac", LookupTo::Register(Reg(4)), false),
            Expr::PayloadSet { base: PayloadBase::Link, offset: 6, len: 6, from: Reg(4), checksum: None },
            Expr::PayloadSet {
                base: PayloadBase::Transport,
                offset: 26,
                len: 6,
                from: Reg(4),
                checksum: Some(PayloadChecksum::Here { offset: 2 }),
            },
        ]),
        exprs([device(), Expr::Dynset { set: "d_names".to_owned(), from: Reg(0), op: DynsetOp::Update }]),
        exprs([device(), Expr::Dynset { set: "d_names".to_owned(), from: Reg(0), op: DynsetOp::Add }]),
        exprs([
            Expr::Immediate { to: Reg(0), data: vec![0, 0, 0, 9] },
            Expr::MetaSet { key: MetaKey::Mark, from: Reg(0) },
        ]),
        exprs([
            Expr::Immediate { to: Reg(0), data: (0..16).map(|n| n / 15).collect() },
            Expr::CtSet { key: CtKey::Labels, from: Reg(0) },
        ]),
    ]
}

fn verdicts_rules() -> Vec<viaduct_plan::nft::Rule> {
    let c_a = || "c_a".to_owned();
    [
        Verdict::Accept,
        Verdict::Drop,
        Verdict::Return,
        Verdict::Continue,
        Verdict::Jump(c_a()),
        Verdict::Goto(c_a()),
    ]
    .map(|verdict| exprs([Expr::Verdict(verdict)]))
    .into()
}

fn nats(kind: NatKind) -> Vec<viaduct_plan::nft::Rule> {
    let mut rules = Vec::new();
    for (family, map, port) in [(NfProto::V4, "m_ranges4", Reg(1)), (NfProto::V6, "m_ranges6", Reg(4))] {
        for port in [None, Some(port)] {
            // NF_NAT_RANGE_PROTO_RANDOM
            for flags in [0, 4] {
                let (address, proto) = match family {
                    NfProto::V4 => (4, Reg(1)),
                    NfProto::V6 => (16, Reg(4)),
                };
                rules.push(exprs([
                    Expr::Payload { base: PayloadBase::Network, offset: 24, len: address, to: Reg(0) },
                    Expr::Meta { key: MetaKey::L4Proto, to: proto },
                    Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to: Reg(proto.0 + 1) },
                    Expr::Lookup {
                        set: map.to_owned(),
                        from: Reg(0),
                        to: LookupTo::Register(Reg(0)),
                        invert: false,
                    },
                    Expr::Nat { kind, family, address: Some(Reg(0)), port, flags },
                ]));
            }
        }
    }
    rules
}

fn arp() -> Table {
    let pairs = SetDef::set(&[Type::IfName, Type::Ether, Type::Ipv4]);
    let sets =
        [("s_pairs", set(pairs, [member(Key::new().name(&name("a")).mac(mac(1)).ip(addr("10.0.0.1")))]))];
    let look = || {
        exprs([
            Expr::Meta { key: MetaKey::IifName, to: Reg(0) },
            Expr::Payload { base: PayloadBase::Network, offset: 8, len: 6, to: Reg(4) },
            Expr::Payload { base: PayloadBase::Network, offset: 14, len: 4, to: Reg(6) },
            Expr::Lookup { set: "s_pairs".to_owned(), from: Reg(0), to: LookupTo::Nowhere, invert: true },
            Expr::Verdict(Verdict::Drop),
        ])
    };
    let chains = [
        ("c_in", chain(base(ChainKind::Filter, Hook::Input, 0), [look()])),
        ("c_out", chain(base(ChainKind::Filter, Hook::Output, -5), [look(), look()])),
    ];
    table(sets, chains)
}

fn bridge() -> Table {
    let host = || {
        exprs([
            Expr::Immediate { to: Reg(0), data: vec![0] },
            Expr::MetaSet { key: MetaKey::PktType, from: Reg(0) },
        ])
    };
    let chains = [
        ("c_pre", chain(base(ChainKind::Filter, Hook::Prerouting, -200), [host()])),
        ("c_in", chain(base(ChainKind::Filter, Hook::Input, 0), [])),
        ("c_fwd", chain(base(ChainKind::Filter, Hook::Forward, 0), [])),
        ("c_out", chain(base(ChainKind::Filter, Hook::Output, 0), [])),
        ("c_post", chain(base(ChainKind::Filter, Hook::Postrouting, 0), [])),
    ];
    table([], chains)
}

fn netdev() -> Table {
    let count = || exprs([Expr::Counter]);
    let chains = [
        ("c_in", chain(on_device(Hook::Ingress, "lo"), [count()])),
        ("c_eg", chain(on_device(Hook::Egress, "lo"), [count()])),
    ];
    table([], chains)
}

#[test]
fn what_is_committed_is_read() {
    in_netns(|| {
        let mut nft = Nft::open().unwrap();
        assert_eq!(nft.read().unwrap(), Ruleset::default());
        let desired = everything();
        let observed = converge(&mut nft, &desired);
        assert_equal(&observed, &desired);
        assert_eq!(diff(&observed, &desired), []);
        // Nothing to do is done without a word to the kernel.
        let generation = nft.generation().unwrap();
        assert_equal(&converge(&mut nft, &desired), &desired);
        assert_eq!(nft.generation().unwrap(), generation);
    });
}

#[test]
fn elements_rules_and_tables_change_and_go() {
    in_netns(|| {
        let mut nft = Nft::open().unwrap();
        let mut desired = everything();
        converge(&mut nft, &desired);

        let inet = desired.tables.get_mut(&Family::Inet).unwrap();
        for (n, set) in inet.sets.values_mut().filter(|s| s.def.dynamic.is_none()).enumerate() {
            // Some lose an element, some get others.
            if n % 2 == 0 {
                set.elements.pop_first();
            }
        }
        let names = &mut inet.sets.get_mut("v_jump").unwrap().elements;
        names.insert(Key::new().name(&name("eth3")), Value::Verdict(Verdict::Jump("c_a".to_owned())));
        names.insert(Key::new().name(&name("eth9")), Value::Verdict(Verdict::Drop));
        let ranges = &mut inet.sets.get_mut("s_ranges").unwrap().elements;
        ranges.insert(Key::new().name(&name("c")).prefix("2001:db8:8::/48".parse().unwrap()), Value::None);
        inet.chains.get_mut("c_fwd").unwrap().rules.reverse();
        inet.chains.get_mut("c_out").unwrap().rules.clear();
        inet.chains
            .get_mut("c_a")
            .unwrap()
            .rules
            .push(exprs([Expr::Counter, Expr::Verdict(Verdict::Return)]));
        let changes = diff(&nft.read().unwrap(), &desired);
        assert!(
            !changes.iter().any(|c| matches!(c, Change::AddTable(..) | Change::DeleteTable(_))),
            "{changes:?}"
        );
        assert_equal(&converge(&mut nft, &desired), &desired);

        // One family goes.
        desired.tables.remove(&Family::Arp);
        assert_equal(&converge(&mut nft, &desired), &desired);

        assert_equal(&converge(&mut nft, &Ruleset::default()), &Ruleset::default());
    });
}

#[test]
fn tables_that_come_or_go_meanwhile_do_not_matter() {
    in_netns(|| {
        let mut nft = Nft::open().unwrap();
        let desired = ruleset([(Family::Bridge, bridge())]);
        let add = diff(&Ruleset::default(), &desired);
        nft.commit(&add).unwrap();
        nft.commit(&add).unwrap();
        assert_equal(&nft.read().unwrap(), &desired);
        let delete = diff(&desired, &Ruleset::default());
        nft.commit(&delete).unwrap();
        nft.commit(&delete).unwrap();
        assert_equal(&nft.read().unwrap(), &Ruleset::default());
    });
}

#[test]
fn others_tables_are_neither_seen_nor_touched() {
    in_netns(|| {
        let theirs = "table inet other {\n\tset s {\n\t\ttype ipv4_addr\n\t\telements = { 10.0.0.1 }\n\t}\n\n\t\
                      chain viaduct {\n\t\tip saddr @s accept\n\t}\n}\ntable ip viaduct {\n\tchain c {\n\t}\n}\n";
        nft(&["-f", "-"], theirs);
        let mut ours = Nft::open().unwrap();
        assert_equal(&ours.read().unwrap(), &Ruleset::default());
        let desired = everything();
        assert_equal(&converge(&mut ours, &desired), &desired);
        assert_equal(&converge(&mut ours, &Ruleset::default()), &Ruleset::default());
        assert_eq!(nft(&["list", "ruleset"], ""), theirs);
    });
}

/// What somebody did to our tables that we can not express is seen as a difference, and undone.
#[test]
fn tampering_is_seen_and_undone() {
    let tamperings = [
        "add table inet viaduct { flags dormant; }",
        "add chain inet viaduct c_in { policy drop; }",
        "add rule inet viaduct c_a limit rate 1/second accept",
        "insert rule inet viaduct c_in accept",
        "add set inet viaduct s_more { type ipv4_addr; flags timeout; }",
        "add chain inet viaduct c_more { type filter hook forward priority -1; policy drop; }",
        "add element inet viaduct s_v4 { * }",
        "add element inet viaduct s_v4 { 10.9.9.9 }",
        "delete element inet viaduct s_v4 { 192.0.2.1 }",
        "flush chain inet viaduct c_fwd",
        "delete set inet viaduct s_v6\nadd set inet viaduct s_v6 { type ipv6_addr; size 9; elements = { 2001:db8::1 } }",
        "delete set inet viaduct s_v6\n\
         add set inet viaduct s_v6 { type ipv6_addr; flags timeout; elements = { 2001:db8::1 } }",
        "delete set inet viaduct s_v6\n\
         add set inet viaduct s_v6 { type ipv6_addr; flags interval; elements = { 2001:db8::1 } }",
        "delete set inet viaduct s_tight\n\
         add set inet viaduct s_tight { type ifname . ipv4_addr; flags interval,timeout; }",
        "add chain inet viaduct c_more\nadd rule inet viaduct c_a jump c_more",
        "add chain inet viaduct c_more\n\
         add map inet viaduct m_more { type ifname : verdict; elements = { a : jump c_more }; }\n\
         add rule inet viaduct c_a iifname vmap @m_more",
        "add rule inet viaduct c_a iifname { a, b } accept",
        "add rule inet viaduct c_a iifname vmap { a : accept, b : drop }",
        "add rule inet viaduct c_a jump { counter; }",
        "delete chain inet viaduct c_out",
        "delete set inet viaduct s_tight",
        "delete table inet viaduct",
        "flush ruleset",
    ];
    for tampering in tamperings {
        in_netns(move || {
            let mut ours = Nft::open().unwrap();
            let desired = everything();
            converge(&mut ours, &desired);
            nft(&["-f", "-"], tampering);
            assert_ne!(diff(&ours.read().unwrap(), &desired), [], "{tampering} is not seen");
            assert_equal(&converge(&mut ours, &desired), &desired);
            let listing = nft(&["list", "ruleset"], "");
            assert!(
                !listing.contains("dormant") && !listing.contains("policy drop"),
                "{tampering}: {listing}"
            );
        });
    }
}

/// Packets make elements, which neither count as a difference nor get lost when rules change.
#[test]
fn dynamic_sets_count_and_are_left_alone() {
    in_netns(|| {
        crate::support::ip("link set lo up");
        let mut nft = Nft::open().unwrap();
        let count = |set: &str, key: &[Expr]| {
            let mut all = key.to_vec();
            all.push(Expr::Dynset { set: set.to_owned(), from: Reg(0), op: DynsetOp::Update });
            exprs(all)
        };
        let device = Expr::Meta { key: MetaKey::IifName, to: Reg(0) };
        let source = Expr::Payload { base: PayloadBase::Network, offset: 12, len: 4, to: Reg(4) };
        let rules = [count("d_names", std::slice::from_ref(&device)), count("d_pairs", &[device, source])];
        let mut desired = ruleset([(
            Family::Inet,
            table(
                [
                    ("d_names", dynamic(SetDef::set(&[Type::IfName]), 10)),
                    ("d_pairs", dynamic(SetDef::set(&[Type::IfName, Type::Ipv4]), 10)),
                ],
                [("c_in", chain(base(ChainKind::Filter, Hook::Input, 0), rules))],
            ),
        )]);
        converge(&mut nft, &desired);
        assert_eq!(nft.counters().unwrap(), []);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..3 {
            socket.send_to(&[0; 72], socket.local_addr().unwrap()).unwrap();
        }
        let check = |nft: &mut Nft| {
            let counters = nft.counters().unwrap();
            let lo = Key::new().name(&name("lo"));
            assert_eq!(counters.len(), 2, "{counters:?}");
            for (counter, (set, key)) in
                counters.iter().zip([("d_names", lo.clone()), ("d_pairs", lo.ip(addr("127.0.0.1")))])
            {
                assert_eq!((counter.family, counter.set.as_str()), (Family::Inet, set));
                assert_eq!(counter.key, key.first);
                assert_eq!((counter.packets, counter.bytes), (3, 300));
            }
        };
        check(&mut nft);
        assert_equal(&nft.read().unwrap(), &desired);
        let rules = &mut desired.tables.get_mut(&Family::Inet).unwrap().chains.get_mut("c_in").unwrap().rules;
        rules.insert(0, exprs([Expr::Verdict(Verdict::Accept)]));
        converge(&mut nft, &desired);
        check(&mut nft);
    });
}

/// Hash tables grow in the background after the transaction; a list told meanwhile must not lack elements. So many
/// elements are a few more than make the table grow once more.
#[test]
fn many_elements_are_read_whole_at_once() {
    in_netns(|| {
        let mut nft = Nft::open().unwrap();
        let def = || SetDef::set(&[Type::IfName, Type::Ipv4]);
        let empty = ruleset([(Family::Inet, table([("s_many", set(def(), []))], []))]);
        let elements = (0..13_000u32).map(|n| {
            member(Key::new().name(&name(&format!("vd{n}"))).ip(std::net::Ipv4Addr::from(n).into()))
        });
        let full = ruleset([(Family::Inet, table([("s_many", set(def(), elements))], []))]);
        let add = diff(&empty, &full);
        for _ in 0..10 {
            nft.commit(&diff(&Ruleset::default(), &empty)).unwrap();
            nft.commit(&add).unwrap();
            assert!(nft.read().unwrap() == full);
        }
    });
}
