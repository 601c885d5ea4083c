//! How long it takes with 10,000 guests. Run with `--release --ignored --nocapture --test-threads=1`.

use std::time::{Duration, Instant};

use viaduct_kernel::nft::Nft;
use viaduct_plan::nft::{
    Chain, ChainKind, Const, Family, Hook, Key, NatKind, NfProto, Ruleset, Selector, Set, SetDef, Statement,
    Table, Type, Value, ValueType, Verdict, diff,
};
use viaduct_types::MacAddr;

use crate::support::{base, chain, in_netns, member, name, rule, ruleset, set, table, value};

const GUESTS: u32 = 10_000;

fn v4(network: u8, n: u32) -> std::net::IpAddr {
    std::net::Ipv4Addr::from(u32::from(network) << 24 | n).into()
}

fn v6(n: u32) -> std::net::IpAddr {
    std::net::Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(n) << 64 | 1).into()
}

fn device(n: u32) -> Key {
    Key::new().name(&name(&format!("vd{n}")))
}

fn mac(n: u32) -> MacAddr {
    let [_, a, b, c] = n.to_be_bytes();
    MacAddr([2, 0, 0, a, b, c])
}

/// Which keys the maps of published ports have.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Keys {
    Exact,
    ExactAmongRanges,
    Ranges,
}

fn forwards(v6_family: bool, keys: Keys) -> Set {
    let address = if v6_family { Type::Ipv6 } else { Type::Ipv4 };
    let def = SetDef::map(&[address, Type::Proto, Type::Port], ValueType::Fields(vec![address, Type::Port]));
    let def = if keys == Keys::Exact { def } else { def.ranges() };
    let elements = (0..GUESTS).map(|n| {
        let (public, own) = if v6_family { (v6(n), v6(n + 0x100_0000)) } else { (v4(100, n), v4(10, n)) };
        let key = Key::new().ip(public).protocol(6);
        let key = match keys {
            Keys::Exact | Keys::ExactAmongRanges => key.port(80),
            Keys::Ranges => key.ports("8000-8099".parse().unwrap()),
        };
        (key, value(Key::new().ip(own).port(80)))
    });
    set(def, elements)
}

/// What a guest may send from, a prefix each.
fn sources(v6_family: bool) -> Set {
    let address = if v6_family { Type::Ipv6 } else { Type::Ipv4 };
    let elements = (0..GUESTS).map(|n| {
        let prefix = if v6_family { format!("{}/64", v6(n)) } else { format!("{}/30", v4(10, n * 4)) };
        let prefix: viaduct_types::IpNet = prefix.parse().unwrap();
        member(device(n).prefix(prefix))
    });
    set(SetDef::set(&[Type::IfName, address]).ranges(), elements)
}

fn exact_sources() -> Set {
    let def = SetDef::set(&[Type::IfName, Type::Ether, Type::Ipv4]);
    set(def, (0..GUESTS).map(|n| member(device(n).mac(mac(n)).ip(v4(10, n)))))
}

fn exact_sources6() -> Set {
    let def = SetDef::set(&[Type::IfName, Type::Ether, Type::Ipv6]);
    set(def, (0..GUESTS).map(|n| member(device(n).mac(mac(n)).ip(v6(n)))))
}

fn verdicts() -> Set {
    let jump = || Value::Verdict(Verdict::Jump("c_guest".to_owned()));
    set(SetDef::map(&[Type::IfName], ValueType::Verdict), (0..GUESTS).map(|n| (device(n), jump())))
}

fn macs() -> Set {
    let def = SetDef::map(&[Type::Ipv4], ValueType::Fields(vec![Type::Ether]));
    set(def, (0..GUESTS).map(|n| (Key::new().ip(v4(10, n)), value(Key::new().mac(mac(n))))))
}

fn host(range_keys: Keys) -> Ruleset {
    let dnat = |family, address, map| {
        let key = vec![address, Selector::L4Proto, Selector::ThDport];
        rule([Statement::Translate { kind: NatKind::Dnat, family, key, map, port: true }])
    };
    let sets = [
        ("v_ports", verdicts()),
        ("s_exact4", exact_sources()),
        ("s_exact6", exact_sources6()),
        ("m_mac4", macs()),
        ("m_forward4", forwards(false, range_keys)),
        ("m_forward6", forwards(true, range_keys)),
    ];
    let v4 = Statement::Is(Selector::NfProto, Const::u8(2, "ipv4"));
    let exact = vec![Selector::IifName, Selector::EtherSaddr, Selector::IpSaddr];
    let chains = [
        (
            "c_guest",
            chain(None, [rule([v4, Statement::In(exact, "s_exact4"), Statement::Verdict(Verdict::Accept)])]),
        ),
        (
            "c_pre",
            chain(
                base(ChainKind::Filter, Hook::Prerouting, 0),
                [rule([Statement::VerdictMap(vec![Selector::IifName], "v_ports")])],
            ),
        ),
        (
            "c_dnat",
            chain(
                base(ChainKind::Nat, Hook::Prerouting, -100),
                [
                    dnat(NfProto::V4, Selector::IpDaddr, "m_forward4"),
                    dnat(NfProto::V6, Selector::Ip6Daddr, "m_forward6"),
                ],
            ),
        ),
    ];
    ruleset([(Family::Inet, table(sets, chains))])
}

fn timed<T>(run: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = run();
    (start.elapsed(), value)
}

fn ms(duration: Duration) -> String {
    format!("{:7.1} ms", duration.as_secs_f64() * 1000.0)
}

#[test]
#[ignore = "prints times"]
fn ten_thousand_guests() {
    for keys in [Keys::Exact, Keys::ExactAmongRanges, Keys::Ranges] {
        in_netns(move || {
            let mut nft = Nft::open().unwrap();
            let desired = host(keys);
            let changes = diff(&Ruleset::default(), &desired);
            let (first, ()) = timed(|| nft.commit(&changes).unwrap());
            let (read, observed) = timed(|| nft.read().unwrap());
            assert!(observed == desired);
            let (compare, nothing) = timed(|| diff(&observed, &desired));
            assert_eq!(nothing, []);
            let (again, ()) = timed(|| nft.commit(&changes).unwrap());
            println!(
                "6 sets x {GUESTS}, published ports {keys:?}: commit {}, read {}, diff {}, replace {}",
                ms(first),
                ms(read),
                ms(compare),
                ms(again)
            );
            let (adding, removing) = one_guest_more(&mut nft, &desired);
            println!("    one guest more {}, and away {}", ms(adding), ms(removing));
        });
    }
}

/// What an attached guest costs when 10,000 are there.
fn one_guest_more(nft: &mut Nft, host: &Ruleset) -> (Duration, Duration) {
    let mut more = host.clone();
    let inet = more.tables.get_mut(&Family::Inet).unwrap();
    let n = GUESTS + 1;
    inet.sets
        .get_mut("v_ports")
        .unwrap()
        .elements
        .insert(device(n), Value::Verdict(Verdict::Jump("c_guest".to_owned())));
    inet.sets.get_mut("s_exact4").unwrap().elements.insert(device(n).mac(mac(n)).ip(v4(10, n)), Value::None);
    let key = Key::new().ip(v4(100, n)).protocol(6).port(80);
    inet.sets.get_mut("m_forward4").unwrap().elements.insert(key, value(Key::new().ip(v4(10, n)).port(80)));
    let (add, remove) = (diff(host, &more), diff(&more, host));
    let (adding, ()) = timed(|| nft.commit(&add).unwrap());
    let (removing, ()) = timed(|| nft.commit(&remove).unwrap());
    (adding, removing)
}

#[test]
#[ignore = "prints times"]
fn each_kind_of_set() {
    let sets = [
        ("verdict map by name", verdicts()),
        ("name . mac . v4", exact_sources()),
        ("name . mac . v6", exact_sources6()),
        ("v4 . proto . port, a hash", forwards(false, Keys::Exact)),
        ("v6 . proto . port, a hash", forwards(true, Keys::Exact)),
        ("v4 . proto . port, single keys in pipapo", forwards(false, Keys::ExactAmongRanges)),
        ("v6 . proto . port, single keys in pipapo", forwards(true, Keys::ExactAmongRanges)),
        ("v4 . proto . ports, pipapo", forwards(false, Keys::Ranges)),
        ("v6 . proto . ports, pipapo", forwards(true, Keys::Ranges)),
        ("name . v4 prefix, pipapo", sources(false)),
        ("name . v6 prefix, pipapo", sources(true)),
    ];
    for (what, wanted) in sets {
        in_netns(move || {
            let mut nft = Nft::open().unwrap();
            let mut empty = wanted.clone();
            empty.elements.clear();
            let with = |set: Set| {
                let jumped: Table = table([("x", set)], [("c_guest", Chain::default())]);
                ruleset([(Family::Inet, jumped)])
            };
            let (empty, full) = (with(empty), with(wanted.clone()));
            nft.commit(&diff(&Ruleset::default(), &empty)).unwrap();
            let changes = diff(&empty, &full);
            let (add, ()) = timed(|| nft.commit(&changes).unwrap());
            let (read, observed) = timed(|| nft.read().unwrap());
            assert!(observed == full);
            // The last one alone, while the others are there.
            let mut fewer = full.clone();
            fewer.tables.get_mut(&Family::Inet).unwrap().sets.get_mut("x").unwrap().elements.pop_last();
            let (less, more) = (diff(&full, &fewer), diff(&fewer, &full));
            let (remove_one, ()) = timed(|| nft.commit(&less).unwrap());
            let (add_one, ()) = timed(|| nft.commit(&more).unwrap());
            let (empty_again, ()) = timed(|| nft.commit(&diff(&full, &empty)).unwrap());
            println!(
                "{what:42} {} elements: add {}, read {}, one away {}, one more {}, all away {}",
                wanted.elements.len(),
                ms(add),
                ms(read),
                ms(remove_one),
                ms(add_one),
                ms(empty_again),
            );
        });
    }
}
