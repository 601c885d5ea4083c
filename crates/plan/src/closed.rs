//! The filter of a host that is not made yet: nothing passes through it.

use crate::{
    nft::{Base, Chain, ChainKind, Family, Hook, Rule, Ruleset, Statement, Verdict},
    state::Observed,
};

/// The chain that lets nothing pass.
const CHAIN: &str = "until_made";
/// Before the filter's own chains, whose counters need not see what is dropped anyway.
const PRIORITY: i32 = -10;

/// A filter, and besides that nothing is forwarded, whoever switched forwarding on: guests' devices that come before
/// they are attached are in none of the filter's sets. What comes to the host itself goes on coming. Making the host
/// replaces it with the filter alone, in one transaction.
pub fn closed(filter: &Ruleset) -> Ruleset {
    let mut closed = filter.clone();
    let base = Base { kind: ChainKind::Filter, hook: Hook::Forward, priority: PRIORITY, device: None };
    let chain = Chain { base: Some(base), rules: vec![Rule::new(vec![Statement::Verdict(Verdict::Drop)])] };
    closed.tables.entry(Family::Inet).or_default().chains.insert(CHAIN.to_owned(), chain);
    closed
}

/// Whether a host has a filter of ours already: it was made before, or closed.
pub fn has_filter(observed: &Observed) -> bool {
    observed.nft.tables.contains_key(&Family::Inet)
}
