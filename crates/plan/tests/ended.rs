//! Which flows live after a change that was stopped, and what passes while it is made.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{collections::BTreeSet, net::IpAddr};

use common::{
    attach_all, config, converge, host, look,
    shape::{GuestShape, Shape, guest, shape},
};
use proptest::{collection::vec, prelude::*, sample::Index};
use viaduct_model::Config;
use viaduct_plan::{
    Apply, Attachments, Flow, Flows, Op, Tuple, lets_through,
    nft::{Change, Family, Key, Ruleset},
    sim::{Host, Refused},
};

/// One of two configurations, with some of its guests attached.
struct Side {
    config: Config,
    attachments: Attachments,
}

impl Side {
    fn new(host: &mut Host, shape: &Shape, attached: &[bool]) -> Self {
        let config = config(&shape.toml());
        let all = attach_all(host, &config);
        let some = all.into_iter().zip(attached.iter().cycle()).filter(|(_, attached)| **attached);
        Self { config, attachments: some.map(|(entry, _)| entry).collect() }
    }

    fn filter(&self, host: &mut Host) -> Ruleset {
        look(host, &self.config, &self.attachments).1.nft
    }
}

/// States of one host with the same networks and guests, who may do more or less, and are here or not.
fn course(states: usize) -> impl Strategy<Value = Vec<(Shape, Vec<bool>)>> {
    let state = (vec(guest(), 6), vec(any::<bool>(), 4), vec(prop::bool::weighted(0.8), 1..9));
    (shape(), vec(state, states)).prop_map(|(base, states)| {
        let state = |(guests, open, attached): (Vec<_>, Vec<bool>, _)| {
            let mut shape = base.clone();
            for (guest, other) in shape.guests.iter_mut().zip(guests) {
                let (network, second_nic) = (guest.network, guest.second_nic);
                *guest = GuestShape { network, second_nic, ..other };
            }
            for ((_, _, between), open) in shape.networks.iter_mut().zip(open) {
                *between = open;
            }
            (shape, attached)
        };
        states.into_iter().map(state).collect()
    })
}

/// The ends of a flow by their numbers, whether it goes to a published port, and the port.
type Ends = (Index, Index, bool, u16);

fn ends() -> impl Strategy<Value = Vec<Ends>> {
    vec((any::<Index>(), any::<Index>(), any::<bool>(), 0u16..9), 150)
}

fn flows(sides: [&Side; 2], ends: &[Ends]) -> Vec<Flow> {
    let nics = || sides.into_iter().flat_map(|side| side.config.nics().flat_map(|(_, nic)| &nic.addresses));
    let mut addresses: Vec<IpAddr> = nics().map(|net| net.addr()).collect();
    addresses.extend(["192.0.2.7", "203.0.113.2", "2001:db8:ffff::7"].map(|a| a.parse::<IpAddr>().unwrap()));
    let flow = |(from, to, published, port): &Ends| {
        let (source, to) = (*from.get(&addresses), *to.get(&addresses));
        let service = [22, 80, 99, 443, 53, 25, 8000, 8001, 8002][usize::from(*port)];
        let (destination, destination_port, source_port) = if *published && to.is_ipv4() {
            ("203.0.113.2".parse().unwrap(), 8000 + port % 7, 80)
        } else {
            (to, service, service)
        };
        (source.is_ipv4() == to.is_ipv4()).then_some(Flow {
            protocol: 6,
            original: Tuple { source, destination, source_port: 1, destination_port },
            reply: Tuple { source: to, destination: source, source_port, destination_port: 1 },
        })
    };
    ends.iter().filter_map(flow).collect()
}

/// One pass: as far as it comes before it is stopped.
fn pass(host: &mut Host, side: &Side, most: usize) -> Vec<Result<(), Refused>> {
    let (observed, desired, _, plan) = look(host, &side.config, &side.attachments);
    let flows = Flows::new(&observed.nft, &desired.nft);
    let ops = &plan.ops[..most.min(plan.ops.len())];
    host.apply(ops, &|_, flow| flows.keeps(flow), &mut |_| ())
}

/// Runs until nothing is left to do.
fn arrive(host: &mut Host, side: &Side) {
    for _ in 0..4 {
        if look(host, &side.config, &side.attachments).3.is_empty() {
            return;
        }
        pass(host, side, usize::MAX);
    }
    panic!("it does not arrive");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stopped_or_failed_anywhere_the_same_flows_end(
        states in prop_oneof![course(2), vec((shape(), vec(any::<bool>(), 1..9)), 2)],
        ends in ends(),
    ) {
        let mut start = host();
        let [before, after] = [0, 1].map(|n: usize| Side::new(&mut start, &states[n].0, &states[n].1));
        converge(&mut start, &before.config, &before.attachments);
        start.flows = flows([&before, &after], &ends);
        let mut straight = start.clone();
        arrive(&mut straight, &after);
        let steps = look(&mut start, &after.config, &after.attachments).3.ops;
        // Nothing else has to do with flows.
        let filter = |op: &Op| matches!(op, Op::Nft(_) | Op::EndFlows { .. });
        for (number, step) in steps.iter().enumerate().filter(|(_, op)| filter(op)) {
            let mut stopped = start.clone();
            pass(&mut stopped, &after, number + 1);
            arrive(&mut stopped, &after);
            prop_assert_eq!(&stopped.flows, &straight.flows, "stopped after {}", step);

            let mut failed = start.clone();
            failed.fail_at = Some(number);
            let results = pass(&mut failed, &after, usize::MAX);
            prop_assert!(results[number].is_err());
            arrive(&mut failed, &after);
            prop_assert_eq!(&failed.flows, &straight.flows, "refused: {}", step);
        }
    }

    /// Also when another way is taken after the stop: then nothing lives that the last filter forbids.
    #[test]
    fn stopped_and_led_elsewhere_no_flow_lives_that_is_forbidden(
        states in course(4),
        stops in vec(any::<Index>(), 3),
        ends in ends(),
    ) {
        let mut host = host();
        let sides: Vec<Side> =
            states.iter().map(|(shape, attached)| Side::new(&mut host, shape, attached)).collect();
        converge(&mut host, &sides[0].config, &sides[0].attachments);
        host.flows = flows([&sides[0], &sides[3]], &ends);
        let filter = sides[0].filter(&mut host);
        host.flows.retain(|flow| lets_through(&filter, flow) == Some(true));
        for (side, stop) in sides[1..3].iter().zip(&stops) {
            let steps = look(&mut host, &side.config, &side.attachments).3.ops.len();
            pass(&mut host, side, stop.index(steps.max(1)));
        }
        arrive(&mut host, &sides[3]);
        let filter = sides[3].filter(&mut host);
        for flow in &host.flows {
            prop_assert_ne!(lets_through(&filter, flow), Some(false), "{:?}", flow);
        }
    }

    /// The kernel lets lookups in ranges find the old ones until late in a transaction.
    #[test]
    fn on_the_way_nothing_is_let_through_that_neither_end_lets_through(
        states in prop_oneof![course(2), vec((shape(), vec(any::<bool>(), 1..9)), 2)],
        ends in ends(),
    ) {
        let mut host = host();
        let [before, after] = [0, 1].map(|n: usize| Side::new(&mut host, &states[n].0, &states[n].1));
        converge(&mut host, &before.config, &before.attachments);
        let flows = flows([&before, &after], &ends);
        let guests: BTreeSet<IpAddr> =
            [&before, &after].into_iter().flat_map(|side| side.config.nics()).flat_map(|(_, nic)| &nic.addresses).map(|net| net.addr()).collect();
        let [old, new] = [before.filter(&mut host), after.filter(&mut host)];
        let steps = look(&mut host, &after.config, &after.attachments).3.ops;
        for step in &steps {
            let was = host.state.nft.clone();
            host.apply(std::slice::from_ref(step), &|_, _| true, &mut |_| ()).pop().unwrap().unwrap();
            let Op::Nft(changes) = step else { continue };
            let now = &host.state.nft;
            for moment in [&mixture(&was, changes, now), now] {
                // To or from a guest that is not here, nothing is let through by this host.
                let is_here = |address: &IpAddr| !guests.contains(address) || is_attached(moment, *address);
                let is_possible =
                    |flow: &&Flow| [flow.original.source, flow.reply.source].iter().all(is_here);
                for flow in flows.iter().filter(is_possible) {
                    let open = |filter| lets_through(filter, flow) == Some(true);
                    prop_assert!(!open(moment) || open(&old) || open(&new), "{:?} after {}", flow, step);
                }
            }
        }
    }
}

/// Whether the filter knows of a guest with this address that is here.
fn is_attached(filter: &Ruleset, address: IpAddr) -> bool {
    let set = if address.is_ipv6() { "attached6" } else { "attached4" };
    let table = filter.tables.get(&Family::Inet);
    table.and_then(|table| table.sets.get(set)?.lookup(&Key::new().ip(address))).is_some()
}

/// A filter with the ranges of the one before it; a table or a set that is new or replaced has none until then.
fn mixture(before: &Ruleset, changes: &[Change], after: &Ruleset) -> Ruleset {
    let mut mixed = after.clone();
    for (family, table) in &mut mixed.tables {
        let is_new = changes.iter().any(|c| matches!(c, Change::AddTable(of, _) if of == family));
        let before = before.tables.get(family).filter(|_| !is_new);
        for (name, set) in table.sets.iter_mut().filter(|(_, set)| set.def.interval) {
            let old = before.and_then(|table| table.sets.get(name));
            set.elements = old.map(|old| old.elements.clone()).unwrap_or_default();
        }
    }
    mixed
}
