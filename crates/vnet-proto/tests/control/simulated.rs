//! Whatever happens to hosts and connections: once it is quiet and everybody is connected, all know the same, and it is
//! what a list of the NICs says that knows nothing of messages.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;
use viaduct_types::{HostKey, MacAddr};
use viaduct_vnet_proto::control::Owner;

use super::world::{World, key, vnet};

const HOSTS: usize = 4;
const IDS: [&str; 2] = ["97", "0:1:2:3:4:5:6:7"];

#[derive(Clone, Debug)]
enum Step {
    Dial(usize, usize),
    Cut(usize, usize),
    Deliver(usize, usize),
    Attach(usize, usize, u8),
    Detach(usize, usize, u8),
    Move(usize, usize, usize, u8),
    List(usize, usize, u8),
    Restart(usize),
    Pass(u64),
    PathMtu(usize, usize, u16),
    Listen(usize, usize, Option<BTreeSet<u8>>),
}

fn step() -> impl Strategy<Value = Step> {
    let host = || 0..HOSTS;
    let id = || 0..IDS.len();
    prop_oneof![
        4 => (host(), host()).prop_map(|(a, b)| Step::Dial(a, b)),
        1 => (host(), host()).prop_map(|(a, b)| Step::Cut(a, b)),
        12 => (any::<usize>(), 1..6usize).prop_map(|(which, most)| Step::Deliver(which, most)),
        4 => (host(), id(), 1..5u8).prop_map(|(host, id, nic)| Step::Attach(host, id, nic)),
        2 => (host(), id(), 1..5u8).prop_map(|(host, id, nic)| Step::Detach(host, id, nic)),
        3 => (host(), host(), id(), 1..5u8).prop_map(|(from, to, id, nic)| Step::Move(from, to, id, nic)),
        1 => (host(), id(), any::<u8>()).prop_map(|(host, id, peers)| Step::List(host, id, peers)),
        1 => host().prop_map(Step::Restart),
        2 => (0..40_000u64).prop_map(Step::Pass),
        2 => (host(), id(), prop::option::of(prop::collection::btree_set(0..6u8, 0..5)))
            .prop_map(|(host, id, groups)| Step::Listen(host, id, groups)),
        1 => (host(), host(), 1000..2000u16).prop_map(|(a, b, mtu)| Step::PathMtu(a, b, mtu)),
    ]
}

fn take(world: &mut World, step: Step) {
    match step {
        Step::Dial(a, b) if a != b => world.dial(a, b),
        Step::Cut(a, b) if a != b => world.cut(a, b),
        Step::Dial(..) | Step::Cut(..) => {}
        Step::Deliver(which, most) => {
            world.deliver(which, most);
        }
        Step::Attach(host, id, nic) => world.attach(host, IDS[id], nic),
        Step::Detach(host, id, nic) => world.detach(host, IDS[id], nic),
        Step::Move(from, to, id, nic) => {
            world.attach(to, IDS[id], nic);
            if from != to {
                world.detach(from, IDS[id], nic);
            }
        }
        Step::List(host, id, peers) => {
            let peers: Vec<usize> = (0..HOSTS).filter(|peer| peers >> peer & 1 == 1).collect();
            world.have(host, IDS[id], &peers);
        }
        Step::Listen(host, id, groups) => {
            let groups = groups.map(|groups| groups.into_iter().map(group).collect());
            world.listen(host, IDS[id], groups);
        }
        Step::Restart(host) => world.restart(host),
        Step::Pass(milliseconds) => world.pass(Duration::from_millis(milliseconds)),
        Step::PathMtu(a, b, mtu) => {
            world.hosts[a].node.handle_path_mtu(key(b), mtu, false);
            world.configure(a, |_| ());
        }
    }
}

fn group(number: u8) -> MacAddr {
    MacAddr([1, 0, 0x5e, 1, 1, number])
}

/// Who has a MAC for a host: the highest sequence among those that it and they list as each other's.
fn expected(world: &World, host: usize, id: &str) -> BTreeMap<MacAddr, Owner> {
    let id = vnet(id);
    let lists = |one: usize, other: usize| {
        world.hosts[one].settings.vnets.get(&id).is_some_and(|vnet| vnet.peers.contains(&key(other)))
    };
    let mut best = BTreeMap::<MacAddr, (u64, HostKey, Owner)>::new();
    for other in 0..HOSTS {
        if other != host && !(lists(host, other) && lists(other, host)) {
            continue;
        }
        let owner = if other == host { Owner::Here } else { Owner::Peer(key(other)) };
        for ((of, mac), sequence) in world.hosts[other].node.sequences() {
            let claim = (sequence, key(other), owner);
            if of == id && best.get(&mac).is_none_or(|best| (best.0, best.1) < (sequence, key(other))) {
                best.insert(mac, claim);
            }
        }
    }
    best.into_iter().map(|(mac, (_, _, owner))| (mac, owner)).collect()
}

fn check(world: &mut World) -> Result<(), TestCaseError> {
    world.settle();
    for one in 0..HOSTS {
        for other in one + 1..HOSTS {
            // Not at the same time as another attempt.
            world.pass(Duration::from_secs(3));
            world.dial(one, other);
        }
    }
    world.settle();
    // Who does not come back into a vnet is given some time.
    world.pass(Duration::from_secs(31));
    world.settle();
    for (index, host) in world.hosts.iter().enumerate() {
        for id in IDS {
            let routes: BTreeMap<MacAddr, Owner> = host
                .routes
                .iter()
                .filter(|((of, _), _)| *of == vnet(id))
                .map(|((_, mac), owner)| (*mac, *owner))
                .collect();
            prop_assert_eq!(routes, expected(world, index, id), "host {} of vnet {}", index, id);
        }
        for ((id, peer), out) in &host.outbound {
            let at = (0..HOSTS).find(|at| key(*at) == *peer).unwrap();
            for (worker, spi) in (0..).zip(&out.spis) {
                let inbound = world.hosts[at].inbound.get(spi);
                prop_assert!(inbound.is_some(), "host {} seals what host {} does not take", index, at);
                let inbound = inbound.unwrap();
                prop_assert_eq!(inbound.context(worker), out.context(worker));
                prop_assert_eq!(inbound.vnet, *id);
            }
        }
        for (id, peer) in &host.members {
            let at = (0..HOSTS).find(|at| key(*at) == *peer).unwrap();
            let (known, wanted) = (host.listening.get(&(*id, *peer)), world.hosts[at].wanted.get(id));
            prop_assert_eq!(known, wanted, "what host {} knows of the groups of host {}", index, at);
            prop_assert!(host.outbound.contains_key(&(*id, *peer)), "a member without keys");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn all_come_to_know_the_same(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new(HOSTS);
        for host in 0..HOSTS {
            IDS.iter().for_each(|id| world.have(host, id, &[0, 1, 2, 3]));
        }
        steps.into_iter().for_each(|step| take(&mut world, step));
        check(&mut world)?;
    }
}
