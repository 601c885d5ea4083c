//! What happens when the kernel refuses: nothing, and the error says what it was.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use viaduct_kernel::nft::{Nft, NftError};
use viaduct_plan::nft::{
    Chain, ChainKind, Change, Const, Elements, Family, Hook, Key, Ruleset, Selector, Set, SetDef, Statement,
    Type, Value, ValueType, Verdict, diff,
};

use crate::support::{addr, base, chain, converge, in_netns, member, name, nft, rule, ruleset, set, table};

fn names() -> SetDef {
    SetDef::map(&[Type::IfName], ValueType::Verdict)
}

fn ranges() -> SetDef {
    SetDef::set(&[Type::Ipv4, Type::Port]).ranges()
}

fn before() -> Ruleset {
    let counted = rule([Statement::Counter]);
    let sets = [
        ("v_names", set(names(), [(Key::new().name(&name("a")), Value::Verdict(Verdict::Drop))])),
        (
            "s_ranges",
            set(
                ranges(),
                [member(Key::new().prefix("10.0.0.0/24".parse().unwrap()).ports("80-90".parse().unwrap()))],
            ),
        ),
        ("s_plain", set(SetDef::set(&[Type::Ipv4]), [])),
    ];
    let chains = [("c_fwd", chain(base(ChainKind::Filter, Hook::Forward, 0), [counted]))];
    ruleset([(Family::Inet, table(sets, chains))])
}

fn add(name: &str, set: Set) -> Change {
    Change::AddElements { family: Family::Inet, name: name.to_owned(), set }
}

fn delete(name: &str, set: Set) -> Change {
    Change::DeleteElements { family: Family::Inet, name: name.to_owned(), set }
}

/// Something that would work by itself.
fn harmless() -> Change {
    add("s_plain", set(SetDef::set(&[Type::Ipv4]), [member(Key::new().ip(addr("192.0.2.1")))]))
}

/// Commits changes of which one is refused; the error's words.
#[track_caller]
fn refused(changes: Vec<Change>) -> String {
    in_netns(move || {
        let mut nft = Nft::open().unwrap();
        let before = converge(&mut nft, &before());
        let error = nft.commit(&changes).expect_err("is refused");
        assert!(error.source().is_some());
        assert_eq!(nft.read().unwrap(), before, "a refused transaction changed something");
        // The socket is as good as before.
        nft.commit(&[harmless()]).unwrap();
        error.to_string()
    })
}

#[test]
fn an_overlapping_range_is_named() {
    let other = member(Key::new().prefix("10.1.0.0/24".parse().unwrap()).ports("80-90".parse().unwrap()));
    let bad = member(Key::new().prefix("10.0.0.128/25".parse().unwrap()).ports("85-95".parse().unwrap()));
    assert_eq!(
        refused(vec![harmless(), add("s_ranges", set(ranges(), [other, bad]))]),
        "cannot add to set inet viaduct s_ranges: element 10.0.0.128-10.0.0.255 . 85-95: \
         it overlaps or contradicts what is there already"
    );
}

#[test]
fn a_jump_to_nowhere_is_named() {
    let jump = |to: &str| Value::Verdict(Verdict::Jump(to.to_owned()));
    let elements = [
        (Key::new().name(&name("b")), Value::Verdict(Verdict::Accept)),
        (Key::new().name(&name("c")), jump("c_x")),
    ];
    assert_eq!(
        refused(vec![harmless(), add("v_names", set(names(), elements))]),
        "cannot add to set inet viaduct v_names: element \"c\" : jump c_x: something that it names does not exist"
    );
    // Into a chain that packets come into by themselves.
    assert_eq!(
        refused(vec![
            harmless(),
            add("v_names", set(names(), [(Key::new().name(&name("d")), jump("c_fwd"))]))
        ]),
        "cannot add to set inet viaduct v_names: element \"d\" : jump c_fwd: the kernel does not support this here"
    );
}

#[test]
fn another_value_for_a_key_is_named() {
    let other = (Key::new().name(&name("a")), Value::Verdict(Verdict::Accept));
    assert_eq!(
        refused(vec![harmless(), add("v_names", set(names(), [other]))]),
        "cannot add to set inet viaduct v_names: element \"a\" : accept: \
         it overlaps or contradicts what is there already"
    );
}

#[test]
fn a_missing_element_or_set_or_chain_is_named() {
    let missing = set(SetDef::set(&[Type::Ipv4]), [member(Key::new().ip(addr("192.0.2.9")))]);
    assert_eq!(
        refused(vec![harmless(), delete("s_plain", missing.clone())]),
        "cannot delete from set inet viaduct s_plain: element 192.0.2.9: something that it names does not exist"
    );
    assert_eq!(
        refused(vec![harmless(), add("s_missing", missing)]),
        "cannot add to set inet viaduct s_missing: element 192.0.2.9: something that it names does not exist"
    );
    let replace = |name: &str, rules| Change::ReplaceRules {
        family: Family::Inet,
        name: name.to_owned(),
        chain: Chain { base: None, rules },
    };
    assert_eq!(
        refused(vec![harmless(), replace("c_missing", vec![])]),
        "cannot empty chain inet viaduct c_missing: something that it names does not exist"
    );
    let lookup =
        rule([Statement::In(vec![Selector::IifName], "s_missing"), Statement::Verdict(Verdict::Drop)]);
    assert_eq!(
        refused(vec![harmless(), replace("c_fwd", vec![rule([Statement::Counter]), lookup])]),
        "cannot add to chain inet viaduct c_fwd: iifname @s_missing drop: something that it names does not exist"
    );
}

#[test]
fn a_rule_in_the_wrong_place_is_named() {
    let replace = Change::ReplaceRules {
        family: Family::Inet,
        name: "c_fwd".to_owned(),
        chain: Chain {
            base: None,
            rules: vec![
                rule([Statement::Is(Selector::Mark, Const::u32(1, "0x1"))]),
                rule([Statement::Masquerade]),
                rule([Statement::Counter]),
            ],
        },
    };
    assert_eq!(
        refused(vec![harmless(), replace]),
        "cannot add to chain inet viaduct c_fwd: masquerade: the kernel does not support this here"
    );
}

/// One element of many messages.
#[test]
fn the_wrong_one_of_a_hundred_thousand_is_named() {
    let many = (0..100_000u32).map(|n| {
        let address = std::net::Ipv4Addr::from(0x0b00_0000 + n);
        let to = if n == 77_777 { "c_x" } else { "c_a" };
        (Key::new().ip(address.into()), Value::Verdict(Verdict::Jump(to.to_owned())))
    });
    let map = SetDef::map(&[Type::Ipv4], ValueType::Verdict);
    let wanted = table([("v_many", set(map, many))], [("c_a", Chain::default())]);
    assert_eq!(
        refused(vec![harmless(), Change::AddTable(Family::Bridge, wanted)]),
        "cannot add to set bridge viaduct v_many: element 11.1.47.209 : jump c_x: \
         something that it names does not exist"
    );
}

/// An error for each of 20,000 rules does not hide the first.
#[test]
fn the_first_of_many_errors_is_told() {
    let lookup =
        || rule([Statement::In(vec![Selector::IifName], "s_missing"), Statement::Verdict(Verdict::Drop)]);
    let rules = std::iter::once(rule([Statement::Counter])).chain((0..20_000).map(|_| lookup()));
    let chain = Chain { base: None, rules: rules.collect() };
    let error = refused(vec![Change::ReplaceRules { family: Family::Inet, name: "c_fwd".to_owned(), chain }]);
    assert_eq!(
        error,
        "cannot add to chain inet viaduct c_fwd: iifname @s_missing drop: something that it names does not exist"
    );
}

#[test]
fn without_the_capability_it_is_said() {
    in_netns(|| {
        let none = CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, none).expect("a thread may give its capabilities away");
        let mut nft = Nft::open().unwrap();
        let error = nft.read().unwrap_err();
        assert_eq!(error.source().unwrap().to_string(), "Operation not permitted (os error 1)");
        let error = nft.commit(&diff(&Ruleset::default(), &before())).unwrap_err();
        assert!(error.to_string().ends_with("this takes CAP_NET_ADMIN in this network namespace"), "{error}");
    });
}

/// While another program writes, a read gives one state or another, never a mixture, and never nothing.
#[test]
fn a_read_is_of_one_moment() {
    in_netns(|| {
        let state = |n: u32| {
            let elements =
                (0..500u32).map(|i| member(Key::new().ip(std::net::Ipv4Addr::from(n << 24 | i).into())));
            let elements: Elements = elements.collect();
            let def = SetDef::set(&[Type::Ipv4]);
            let sets = ["s_a", "s_b", "s_c"]
                .map(|name| (name, Set { def: def.clone(), elements: elements.clone() }));
            let mark = rule([Statement::Is(Selector::Mark, Const::u32(n, "a number"))]);
            let chains = [("c_fwd", chain(base(ChainKind::Filter, Hook::Forward, 0), [mark]))];
            ruleset([(Family::Inet, table(sets, chains.clone())), (Family::Bridge, table([], chains))])
        };
        let states = [state(10), state(11)];
        let mut ours = Nft::open().unwrap();
        converge(&mut ours, &states[0]);
        let stop = Arc::new(AtomicBool::new(false));
        let writer = thread::spawn({
            let (states, stop) = (states.clone(), stop.clone());
            // In the same namespace, as threads begin where they are made.
            let mut nft = Nft::open().unwrap();
            move || {
                let mut written = 0;
                while !stop.load(Ordering::Relaxed) {
                    // The first two are the difference, the third makes the tables anew.
                    for (from, to) in [(0, 1), (1, 0)] {
                        nft.commit(&diff(&states[from], &states[to])).unwrap();
                        thread::sleep(Duration::from_millis(4));
                    }
                    nft.commit(&diff(&Ruleset::default(), &states[0])).unwrap();
                    thread::sleep(Duration::from_millis(4));
                    written += 3;
                }
                written
            }
        });
        let mut settled = 0;
        for _ in 0..100 {
            match ours.read() {
                Ok(observed) => {
                    assert!(states.contains(&observed), "a mixture was read");
                    settled += 1;
                }
                Err(NftError::Unsettled { .. }) => {}
                Err(e) => panic!("{e}: {e:?}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 3 && settled > 0);
    });
}

/// Our transactions pass through others' without a scratch.
#[test]
fn others_write_meanwhile() {
    in_netns(|| {
        let stop = Arc::new(AtomicBool::new(false));
        let other = thread::spawn({
            let stop = stop.clone();
            move || {
                while !stop.load(Ordering::Relaxed) {
                    nft(&["-f", "-"], "table ip other { chain c { counter; }; }; delete table ip other;");
                }
            }
        });
        let mut ours = Nft::open().unwrap();
        let (none, some) = (Ruleset::default(), before());
        for _ in 0..100 {
            ours.commit(&diff(&none, &some)).unwrap();
            ours.commit(&diff(&some, &none)).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        other.join().unwrap();
    });
}
