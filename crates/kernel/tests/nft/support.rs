//! Namespaces, nft, and shorthands for rulesets.

use std::{
    collections::BTreeMap,
    io::Write,
    net::IpAddr,
    panic::resume_unwind,
    process::{Command, Stdio},
    thread,
};

use rustix::thread::{UnshareFlags, unshare_unsafe};
use viaduct_kernel::nft::Nft;
use viaduct_plan::nft::{
    Base, Chain, ChainKind, Elements, Expr, Family, Hook, Key, Rule, Ruleset, Set, SetDef, Statement, Table,
    Value, diff,
};
use viaduct_types::{IfName, MacAddr};

/// Runs in a thread with a new network namespace.
pub(crate) fn in_netns<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test makes network namespaces: run it as root (sudo, or `unshare -r`)"
    );
    let thread = thread::spawn(move || {
        // SAFETY: only the network namespace of this thread changes; no file descriptor or memory is unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("a network namespace");
        run()
    });
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs nft in the namespace of this thread; gives its output.
pub(crate) fn nft(arguments: &[&str], input: &str) -> String {
    let (status, output, errors) = try_nft(arguments, input);
    assert!(status, "nft {arguments:?} failed:\n{errors}\nwith the input:\n{input}");
    output
}

/// Whether nft succeeded, its output, its errors.
pub(crate) fn try_nft(arguments: &[&str], input: &str) -> (bool, String, String) {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nft of the package nftables");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("nft reads");
    let output = child.wait_with_output().expect("nft ends");
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// Runs ip in the namespace of this thread.
pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("ip of the package iproute2");
    assert!(status.success(), "ip {arguments} failed");
}

/// Commits what is missing and reads back.
pub(crate) fn converge(nft: &mut Nft, desired: &Ruleset) -> Ruleset {
    let observed = nft.read().expect("our tables");
    let changes = diff(&observed, desired);
    nft.commit(&changes).unwrap_or_else(|e| panic!("{e}: {e:?}"));
    nft.read().expect("our tables")
}

/// Equality that says what differs.
#[track_caller]
pub(crate) fn assert_equal(observed: &Ruleset, desired: &Ruleset) {
    for family in Family::ALL {
        let (observed, desired) = (observed.tables.get(&family), desired.tables.get(&family));
        let (Some(observed), Some(desired)) = (observed, desired) else {
            assert_eq!(observed, desired);
            continue;
        };
        let word = family.word();
        assert_eq!(observed.sets.keys().collect::<Vec<_>>(), desired.sets.keys().collect::<Vec<_>>());
        assert_eq!(observed.chains.keys().collect::<Vec<_>>(), desired.chains.keys().collect::<Vec<_>>());
        for (name, set) in &desired.sets {
            assert_eq!(&observed.sets[name], set, "{word} set {name}");
        }
        for (name, chain) in &desired.chains {
            assert_eq!(observed.chains[name].base, chain.base, "{word} chain {name}");
            for (observed, desired) in observed.chains[name].rules.iter().zip(&chain.rules) {
                assert_eq!(observed, desired, "{word} chain {name}: {}", desired.text);
            }
        }
        assert_eq!(observed, desired);
    }
}

pub(crate) fn ruleset(tables: impl IntoIterator<Item = (Family, Table)>) -> Ruleset {
    Ruleset { tables: tables.into_iter().collect() }
}

pub(crate) fn table<'a>(
    sets: impl IntoIterator<Item = (&'a str, Set)>,
    chains: impl IntoIterator<Item = (&'a str, Chain)>,
) -> Table {
    Table {
        sets: sets.into_iter().map(|(name, set)| (name.to_owned(), set)).collect(),
        chains: chains.into_iter().map(|(name, chain)| (name.to_owned(), chain)).collect(),
    }
}

pub(crate) fn set(def: SetDef, elements: impl IntoIterator<Item = (Key, Value)>) -> Set {
    Set { def, elements: elements.into_iter().collect::<Elements>() }
}

pub(crate) fn dynamic(def: SetDef, size: u32) -> Set {
    Set { def: SetDef { dynamic: Some(size), ..def }, elements: BTreeMap::new() }
}

pub(crate) fn member(key: Key) -> (Key, Value) {
    (key, Value::None)
}

/// The value of a map: the fields of a single key.
pub(crate) fn value(fields: Key) -> Value {
    Value::Fields(fields.first)
}

pub(crate) fn base(kind: ChainKind, hook: Hook, priority: i32) -> Option<Base> {
    Some(Base { kind, hook, priority, device: None })
}

pub(crate) fn on_device(hook: Hook, device: &str) -> Option<Base> {
    Some(Base { kind: ChainKind::Filter, hook, priority: 0, device: Some(name(device)) })
}

pub(crate) fn chain(base: Option<Base>, rules: impl IntoIterator<Item = Rule>) -> Chain {
    Chain { base, rules: rules.into_iter().collect() }
}

pub(crate) fn rule<const N: usize>(statements: [Statement; N]) -> Rule {
    Rule::new(statements)
}

pub(crate) fn exprs(exprs: impl IntoIterator<Item = Expr>) -> Rule {
    Rule { exprs: exprs.into_iter().collect(), text: "a rule without text".to_owned() }
}

pub(crate) fn name(text: &str) -> IfName {
    text.parse().expect("a device's name")
}

pub(crate) fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}
