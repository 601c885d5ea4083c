//! Whatever happens to hosts and connections: once it is quiet and everybody is connected, all know the same, and it is
//! what a list of the NICs says that knows nothing of messages. So it is with what protects frames and with nothing, with
//! machines that are only heard behind a host, and by way of others.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;
use viaduct_types::{HostKey, MacAddr};
use viaduct_vnet_proto::control::{Association, Owner, Security, SessionId, inner_mtu};
use viaduct_vnet_proto::data::{Lane, Spi, esp::Cipher};

use super::world::{Host, World, key, vnet};

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
    PathMtu(usize, usize, u16, bool),
    Ports(usize, u8),
    Heed(usize),
    Listen(usize, usize, Option<BTreeSet<u8>>),
    Secure(usize, usize, (Security, Option<Cipher>)),
    SecureAll(usize, (Security, Option<Cipher>)),
    Learn(usize, usize, bool),
    Overhear(usize, usize, u8),
    Relay(usize, u8),
    Want(usize, usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let host = || 0..HOSTS;
    let id = || 0..IDS.len();
    let security = || {
        let of = |cipher: Cipher| if cipher.encrypts() { Security::Conf } else { Security::Auth };
        let wish = prop::sample::select(&Cipher::ALL[..]).prop_map(move |cipher| (of(cipher), Some(cipher)));
        let level = prop_oneof![Just(Security::None), Just(Security::Auth), Just(Security::Conf)];
        prop_oneof![level.prop_map(|level| (level, None)), wish]
    };
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
        4 => (host(), host(), 1000..2000u16, any::<bool>())
            .prop_map(|(a, b, mtu, outer_v6)| Step::PathMtu(a, b, mtu, outer_v6)),
        1 => (host(), 0..4u8).prop_map(|(host, ports)| Step::Ports(host, ports)),
        1 => host().prop_map(Step::Heed),
        1 => (host(), id(), security()).prop_map(|(host, id, security)| Step::Secure(host, id, security)),
        1 => (id(), security()).prop_map(|(id, security)| Step::SecureAll(id, security)),
        2 => (host(), id(), any::<bool>()).prop_map(|(host, id, learning)| Step::Learn(host, id, learning)),
        3 => (host(), id(), 1..5u8).prop_map(|(host, id, nic)| Step::Overhear(host, id, nic)),
        2 => (host(), any::<u8>()).prop_map(|(host, between)| Step::Relay(host, between)),
        2 => (host(), host(), any::<bool>()).prop_map(|(a, b, wanted)| Step::Want(a, b, wanted)),
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
        Step::Secure(host, id, security) => world.secure(host, IDS[id], security.0, security.1),
        Step::SecureAll(id, security) => {
            (0..HOSTS).for_each(|host| world.secure(host, IDS[id], security.0, security.1));
        }
        Step::Learn(host, id, learning) => world.learn(host, IDS[id], learning),
        Step::Overhear(host, id, nic) => world.overhear(host, IDS[id], nic),
        Step::Relay(host, between) => {
            let between = (0..HOSTS).filter(|peer| *peer != host && between >> peer & 1 == 1).map(key);
            world.configure(host, |settings| settings.relay = between.collect());
        }
        Step::Want(a, b, wanted) if a != b => world.want(a, b, wanted),
        Step::Want(..) => {}
        Step::Restart(host) => world.restart(host),
        Step::Pass(milliseconds) => world.pass(Duration::from_millis(milliseconds)),
        // Who is not connected measures nothing.
        Step::PathMtu(a, b, mtu, outer_v6) if world.is_connected(a, b) => world.measure(a, b, mtu, outer_v6),
        Step::PathMtu(..) => {}
        Step::Ports(host, which) => world.configure(host, |settings| {
            let first = 1800 + 10 * u16::from(which);
            let workers = if which == 0 { 0 } else { u16::from(settings.workers) };
            settings.ports = (first..first + workers).collect();
        }),
        Step::Heed(host) => {
            world.ask_to_heed(host, 1);
        }
    }
}

fn group(number: u8) -> MacAddr {
    MacAddr([1, 0, 0x5e, 1, 1, number])
}

fn lists(world: &World, one: usize, other: usize, id: &str) -> bool {
    let vnet_of = |host: usize| world.hosts[host].settings.vnets.get(&vnet(id));
    let (Some(here), Some(there)) = (vnet_of(one), vnet_of(other)) else { return false };
    here.peers.contains(&key(other)) && there.peers.contains(&key(one))
}

/// Whether two hosts are in a vnet together: each lists the other, and both have it with the same security, and not with
/// different ciphers.
fn agree(world: &World, one: usize, other: usize, id: &str) -> bool {
    let vnet_of = |host: usize| world.hosts[host].settings.vnets.get(&vnet(id));
    let (Some(here), Some(there)) = (vnet_of(one), vnet_of(other)) else { return false };
    let differ = here.cipher.is_some() && there.cipher.is_some() && here.cipher != there.cipher;
    lists(world, one, other, id) && here.security == there.security && !differ
}

/// Who has a MAC for a host: one with addresses before one that is merely heard, and then the highest sequence, among those that
/// are in the vnet with it.
fn expected(world: &World, host: usize, id: &str) -> BTreeMap<MacAddr, Owner> {
    let mut best = BTreeMap::<MacAddr, ((bool, u64, HostKey), Owner)>::new();
    for other in (0..HOSTS).filter(|other| *other == host || agree(world, host, *other, id)) {
        let owner = if other == host { Owner::Here } else { Owner::Peer(key(other)) };
        let nics = world.hosts[other].settings.vnets.get(&vnet(id)).map(|vnet| &vnet.nics);
        for ((of, mac), sequence) in world.hosts[other].node.sequences() {
            let is_attached = nics.and_then(|nics| nics.get(&mac)).is_some_and(|nic| !nic.is_empty());
            let rank = (is_attached, sequence, key(other));
            if of == vnet(id) && best.get(&mac).is_none_or(|(best, _)| *best < rank) {
                best.insert(mac, (rank, owner));
            }
        }
    }
    best.into_iter().map(|(mac, (_, owner))| (mac, owner)).collect()
}

fn index(of: HostKey) -> usize {
    (0..HOSTS).find(|at| key(*at) == of).unwrap()
}

/// Whether what one host sends another in a vnet is taken there as of this vnet and of nobody else.
fn carries(world: &World, from: usize, to: usize, id: &str) -> bool {
    let (here, there) = (&world.hosts[from], &world.hosts[to]);
    let place = (vnet(id), key(to));
    match (here.outbound.get(&place), here.plain.get(&place)) {
        (Some(out), None) => (0..).zip(&out.spis).all(|(worker, spi)| {
            let inbound = there.inbound.get(spi);
            inbound.is_some_and(|inbound| {
                let wish = |host: &Host| host.settings.vnets[&vnet(id)].cipher;
                let wanted = wish(here).or(wish(there)).unwrap_or(out.cipher);
                (inbound.vnet, inbound.peer, inbound.cipher) == (vnet(id), key(from), out.cipher)
                    && out.cipher == wanted
                    && inbound.context(worker) == out.context(worker)
            })
        }),
        (None, Some(vni)) => {
            let vnet = &there.settings.vnets[&vnet(id)];
            vnet.security == Security::None && vnet.vni == Some(*vni)
        }
        (None, None) => false,
        (Some(_), Some(_)) => panic!("with security, and without"),
    }
}

/// The hosts at which a frame arrives that one sends to a MAC.
fn delivered(world: &World, from: usize, id: &str, mac: MacAddr) -> BTreeSet<usize> {
    let arrives = |to: &usize| carries(world, from, *to, id);
    match world.hosts[from].routes.get(&(vnet(id), mac)) {
        Some(Owner::Here) => BTreeSet::from([from]),
        Some(Owner::Peer(peer)) => {
            let at = index(*peer);
            let is_here = world.hosts[at].routes.get(&(vnet(id), mac)) == Some(&Owner::Here);
            Some(at).filter(arrives).filter(|_| is_here).into_iter().collect()
        }
        None => {
            let members = world.hosts[from].learning.iter().filter(|(of, _)| *of == vnet(id));
            members.map(|(_, peer)| index(*peer)).filter(arrives).collect()
        }
    }
}

/// The same by the list: to who has it, and what nobody has to everybody behind whom it may be.
fn deserved(world: &World, from: usize, id: &str, mac: MacAddr) -> BTreeSet<usize> {
    match expected(world, from, id).get(&mac) {
        Some(Owner::Here) => BTreeSet::from([from]),
        Some(Owner::Peer(peer)) => {
            let at = index(*peer);
            // Where two do not know of each other, who has it for a third has lost it to somebody else.
            let is_here = expected(world, at, id).get(&mac) == Some(&Owner::Here);
            Some(at).filter(|_| is_here).into_iter().collect()
        }
        None => {
            let learns = |to: &usize| world.hosts[*to].settings.vnets[&vnet(id)].learning;
            (0..HOSTS).filter(|to| *to != from && agree(world, from, *to, id) && learns(to)).collect()
        }
    }
}

/// What goes by way of others arrives at whom it is for, as from who sent it, and by those only who pass on for both.
fn check_relays(world: &World) -> Result<(), TestCaseError> {
    let allows = |relay: usize, one: usize, other: usize| {
        let relay = &world.hosts[relay].settings.relay;
        relay.contains(&key(one)) && relay.contains(&key(other))
    };
    for from in 0..HOSTS {
        let detours: Vec<_> = world.hosts[from].node.detours().collect();
        for detour in &detours {
            let (to, by) = (index(detour.peer), index(detour.relay));
            let Some(spi) = detour.outbound else { continue };
            prop_assert!(allows(by, from, to), "{} does not pass on from {} to {}", by, from, to);
            let mut passes = world.hosts[by].node.passes();
            let pass = passes.find(|pass| (pass.from, pass.spi) == (key(from), spi));
            prop_assert!(pass.is_some_and(|pass| pass.to == key(to)), "{} by {} to {}", from, by, to);
            let taken = world.hosts[to].node.detours().find(|taken| taken.inbound == pass.unwrap().onward);
            prop_assert_eq!(taken.map(|taken| (taken.peer, taken.relay)), Some((key(from), key(by))));
        }
        // Where both want it, there is every way that somebody offers.
        for to in (0..HOSTS).filter(|to| world.hosts[from].wants.contains(to)) {
            for by in (0..HOSTS).filter(|by| ![from, to].contains(by) && allows(*by, from, to)) {
                let there_too = world.hosts[to].wants.contains(&from);
                let stands = |detour: &viaduct_vnet_proto::control::Detour| {
                    (detour.peer, detour.relay) == (key(to), key(by)) && detour.outbound.is_some()
                };
                prop_assert!(!there_too || detours.iter().any(stands), "{} by {} to {}", from, by, to);
            }
        }
        for pass in world.hosts[from].node.passes() {
            prop_assert!(allows(from, index(pass.from), index(pass.to)));
        }
    }
    Ok(())
}

/// What gets through between two hosts, inside: less than both have measured, each its own way, does nobody send.
fn between(world: &World, host: usize, other: usize, id: &str) -> u16 {
    let (there, outer_v6) = world.hosts[host].paths[&other];
    let (back, _) = world.hosts[other].paths[&host];
    inner_mtu(there.min(back), outer_v6, world.hosts[host].settings.vnets[&vnet(id)].security)
}

/// What gets through between a host and all that are in the vnet with it; none when nobody is.
fn own_mtu(world: &World, host: usize, id: &str) -> Option<u16> {
    let members = (0..HOSTS).filter(|other| *other != host && agree(world, host, *other, id));
    members.map(|other| between(world, host, other, id)).min()
}

/// What is too long for one member, its own others send to nobody: guests of all of them see one segment.
fn check_mtus(world: &World) -> Result<(), TestCaseError> {
    for (host, id) in (0..HOSTS).flat_map(|host| IDS.map(|id| (host, id))) {
        // As long as nobody is there, what was known holds.
        let Some(own) = own_mtu(world, host, id) else { continue };
        let members: Vec<usize> =
            (0..HOSTS).filter(|other| *other != host && agree(world, host, *other, id)).collect();
        let theirs = members.iter().filter_map(|member| own_mtu(world, *member, id));
        let wanted = theirs.fold(own, u16::min);
        let report = world.hosts[host].node.report(vnet(id), 0).unwrap();
        prop_assert_eq!(
            world.hosts[host].mtus.get(&vnet(id)),
            Some(&Some(wanted)),
            "host {} in {}",
            host,
            id
        );
        prop_assert_eq!(report.mtu, Some(wanted));
        for member in members {
            let mtu = between(world, host, member, id);
            prop_assert_eq!(report.members[&key(member)].mtu, Some(mtu), "{} to {}", host, member);
        }
    }
    Ok(())
}

/// Each knows the others' further ports, and where both have some there are keys for each worker, which the other takes.
fn check_ports(world: &World) -> Result<(), TestCaseError> {
    for (host, other) in (0..HOSTS).flat_map(|host| (0..HOSTS).map(move |other| (host, other))) {
        if host == other {
            continue;
        }
        let (here, there) = (&world.hosts[host], &world.hosts[other]);
        prop_assert_eq!(here.node.told_ports(key(other)), &there.settings.ports, "{} of {}", host, other);
        let has_ports = !here.settings.ports.is_empty() && !there.settings.ports.is_empty();
        for id in IDS.into_iter().filter(|id| has_ports && agree(world, host, other, id)) {
            if here.settings.vnets[&vnet(id)].security == Security::None {
                continue;
            }
            let own = here.own.get(&(vnet(id), key(other)));
            let is_taken = |(worker, spi): (u8, Spi)| {
                let taken = there.inbound.get(&spi);
                let of = |own: &Association| (own.lane, own.cipher, own.context(worker));
                taken.map(of) == own.map(of) && taken.is_some_and(|taken| taken.peer == key(host))
            };
            let count = own.map_or(0, |own| own.spis.len());
            prop_assert_eq!(count, usize::from(here.settings.workers), "{} to {} in {}", host, other, id);
            prop_assert!(own.is_some_and(|own| own.lane == Lane::Own && own.workers().all(is_taken)));
        }
    }
    Ok(())
}

/// Who shares a vnet says that it has done what it was told, if its version knows of that; nobody else is asked.
fn check_heeded(world: &mut World) -> Result<(), TestCaseError> {
    const NUMBER: u32 = 2;
    for host in 0..HOSTS {
        let knows = |other: &usize| !world.older.contains(&host) && !world.older.contains(other);
        let shares = |other: &usize| IDS.iter().any(|id| agree(world, host, *other, id));
        let others = (0..HOSTS).filter(|other| *other != host && knows(other) && shares(other));
        let wanted: BTreeSet<SessionId> = others.map(|other| world.session(host, other)).collect();
        prop_assert_eq!(&world.ask_to_heed(host, NUMBER), &wanted, "asked by {}", host);
        world.settle();
        let heeded = &world.hosts[host].heeded;
        prop_assert!(wanted.iter().all(|session| heeded.contains(&(*session, NUMBER))), "by {}", host);
    }
    Ok(())
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
    // What has not been measured is, by now.
    for (one, other) in (0..HOSTS).flat_map(|one| (0..HOSTS).map(move |other| (one, other))) {
        if one != other && !world.hosts[one].paths.contains_key(&other) {
            world.measure(one, other, 1500, false);
        }
    }
    world.settle();
    // Who does not come back into a vnet is given some time, and so is who was given too many keys at once.
    for _ in 0..2 {
        world.pass(Duration::from_secs(31));
        world.settle();
    }
    check_relays(world)?;
    check_mtus(world)?;
    check_ports(world)?;
    check_heeded(world)?;
    for (index, host) in world.hosts.iter().enumerate() {
        for id in IDS {
            for nic in 0..6 {
                let mac = super::world::mac(nic);
                let arrives = delivered(world, index, id, mac);
                prop_assert_eq!(arrives, deserved(world, index, id, mac), "{} from {} in {}", mac, index, id);
            }
            let report = host.node.report(vnet(id), usize::MAX).unwrap();
            for other in (0..HOSTS).filter(|other| *other != index) {
                let has_it_otherwise = lists(world, index, other, id) && !agree(world, index, other, id);
                let told = report.mismatched.contains_key(&key(other));
                prop_assert_eq!(told, has_it_otherwise, "{} of {}", index, other);
                let is_member = host.members.contains(&(vnet(id), key(other)));
                prop_assert_eq!(is_member, agree(world, index, other, id), "{} and {}", index, other);
                prop_assert_eq!(carries(world, index, other, id), is_member, "{} to {}", index, other);
            }
            let routes: BTreeMap<MacAddr, Owner> = host
                .routes
                .iter()
                .filter(|((of, _), _)| *of == vnet(id))
                .map(|((_, mac), owner)| (*mac, *owner))
                .collect();
            prop_assert_eq!(routes, expected(world, index, id), "host {} of vnet {}", index, id);
        }
        for (id, peer) in &host.members {
            let at = self::index(*peer);
            let (known, wanted) = (host.listening.get(&(*id, *peer)), world.hosts[at].wanted.get(id));
            prop_assert_eq!(known, wanted, "what host {} knows of the groups of host {}", index, at);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn all_come_to_know_the_same(
        steps in prop::collection::vec(step(), 0..120),
        older in prop::collection::btree_set(0..HOSTS, 0..2),
        last in (0..HOSTS, 0..IDS.len(), any::<u8>(), 0..4u8),
    ) {
        let mut world = World::new(HOSTS);
        world.older = older;
        for host in 0..HOSTS {
            IDS.iter().for_each(|id| world.have(host, id, &[0, 1, 2, 3]));
        }
        steps.into_iter().for_each(|step| take(&mut world, step));
        check(&mut world)?;
        // Whoever goes leaves the others with what gets through between them.
        let (host, id, peers, ports) = last;
        take(&mut world, Step::List(host, id, peers));
        take(&mut world, Step::Ports(host, ports));
        world.settle();
        check_mtus(&world)?;
        check_ports(&world)?;
    }
}
