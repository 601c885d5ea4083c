//! The filters that the plan makes of the examples: the kernel takes and keeps them as they are, and nft agrees.

use viaduct_model::Source;
use viaduct_plan::{
    Attachments, Observe, Target, ask, desired,
    nft::{CmpOp, Expr, MetaKey, PayloadBase, Ruleset},
    sim::Host,
};

use crate::{
    differential::{by_nft, by_us, without_additions},
    support::assert_equal,
};

/// With every guest attached, on a host with one uplink.
pub(crate) fn filter_of(text: &str) -> Ruleset {
    let source = Source { name: "viaduct.toml".to_owned(), text: text.to_owned() };
    let loaded = viaduct_model::load(&[source]);
    let config = loaded.unwrap_or_else(|errors| panic!("{}", errors.render(false))).config;
    let mut host = Host::default();
    let eth0 = "eth0".parse().unwrap();
    host.hardware(&eth0, Some("52:54:00:12:34:56".parse().unwrap()));
    host.address(&eth0, "203.0.113.2/24".parse().unwrap());
    let attachments: Attachments = config
        .nics()
        .map(|(id, _)| {
            let path = format!("/run/netns/{}", id.guest);
            host.namespace(&path);
            (id, Target::Netns { path, inode: 1 })
        })
        .collect();
    let observed = host.observe(&ask(&config, &attachments)).unwrap();
    desired(&config, &attachments, &observed).0.nft
}

fn check(text: &str) {
    let desired = filter_of(text);
    assert!(!desired.tables.is_empty());
    let (ours, ..) = by_us(&desired);
    assert_equal(&ours, &desired);

    // nft 1.0.6 has no word for the target of neighbour discovery (`icmpv6 taddr` came later), and takes the bytes at
    // its place for a number, which is no address. `nft_shows_what_it_could_not_have_loaded` has such rules.
    let mut sayable = desired;
    for chain in sayable.tables.values_mut().flat_map(|t| t.chains.values_mut()) {
        chain.rules.retain(|rule| !rule.text.contains("@th,64,128"));
    }
    let mut theirs = without_additions(by_nft(&sayable));
    without_dependencies(&mut theirs, &sayable);
    assert_equal(&theirs, &sayable);
}

/// Takes away what nft puts before a header's field when the rule itself does not say of which protocol the packet is,
/// and our chain is entered by such packets only.
fn without_dependencies(theirs: &mut Ruleset, ours: &Ruleset) {
    for (family, table) in &mut theirs.tables {
        for (name, chain) in &mut table.chains {
            let rules = &ours.tables[family].chains[name].rules;
            for (theirs, ours) in chain.rules.iter_mut().zip(rules) {
                let mut at = 0;
                while let Some(pair) = theirs.exprs.get(at..at + 2) {
                    if ours.exprs.get(at) != theirs.exprs.get(at) && is_dependency(pair) {
                        theirs.exprs.drain(at..at + 2);
                    } else {
                        at += 1;
                    }
                }
            }
        }
    }
}

fn is_dependency(pair: &[Expr]) -> bool {
    use MetaKey::{L4Proto, NfProto, Protocol};
    let [load, Expr::Cmp { op: CmpOp::Eq, .. }] = pair else { return false };
    matches!(
        load,
        Expr::Meta { key: NfProto | Protocol | L4Proto, .. }
            | Expr::Payload { base: PayloadBase::Link, offset: 12, len: 2, .. }
    )
}

#[test]
fn openvz() {
    check(include_str!("../../../../examples/openvz/viaduct.toml"));
}

#[test]
fn hetzner() {
    check(include_str!("../../../../examples/hetzner/viaduct.toml"));
}

#[test]
fn dedicated_xen() {
    check(include_str!("../../../../examples/dedicated-xen/viaduct.toml"));
}
