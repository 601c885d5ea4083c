use std::collections::BTreeMap;

use viaduct_kernel::{Netns, NetnsRef};
use viaduct_plan::{Ask, GuestChange, GuestRoute, Inside, Observe, ObservedGuest, Op};
use viaduct_types::NicId;

use crate::world::{Guest, World, isolated, mac, name, net, up, veth};

fn nic() -> NicId {
    "shop.0".parse().unwrap()
}

fn change(guest: &Guest, change: GuestChange) -> Op {
    Op::Guest { nic: nic(), netns: guest.path(), device: name("eth0"), change }
}

fn look(world: &mut World, guest: &Guest) -> Option<ObservedGuest> {
    let ask = Ask {
        guests: BTreeMap::from([(nic(), Inside { path: guest.path(), inode: None, device: name("eth0") })]),
        ..Ask::default()
    };
    world.kernel.observe(&ask).unwrap().guests.remove(&nic())
}

fn route(destination: &str, via: Option<&str>) -> GuestRoute {
    GuestRoute { table: 254, destination: net(destination), via: via.map(|via| via.parse().unwrap()) }
}

#[test]
fn everything_inside_a_guest() {
    isolated(|| {
        let (mut world, guest) = (World::new(), Guest::new());
        assert_eq!(look(&mut world, &guest), Some(ObservedGuest::default()));
        let addresses = ["192.0.2.7/32", "2001:db8::7/128", "198.51.100.7/24"];
        let routes = [
            route("0.0.0.0/0", Some("169.254.1.1")),
            route("::/0", Some("fe80::1")),
            route("203.0.113.0/24", None),
        ];
        let mut ops = vec![
            veth("v0", &guest),
            up("v0"),
            change(&guest, GuestChange::LoopbackUp),
            change(&guest, GuestChange::Mtu(1400)),
            change(&guest, GuestChange::Mac(mac(8))),
            change(&guest, GuestChange::Up),
        ];
        ops.extend(
            addresses.map(|a| change(&guest, GuestChange::AddAddress { address: net(a), dad: false })),
        );
        ops.extend(routes.iter().cloned().map(|r| change(&guest, GuestChange::AddRoute(r))));
        world.apply(&ops);

        let seen = look(&mut world, &guest).unwrap();
        let link = seen.link.unwrap();
        assert_eq!((link.mac, link.mtu, link.up), (Some(mac(8)), 1400, true));
        assert_eq!(link.peer_index, world.observe().links["v0"].index);
        assert_eq!(world.observe().links["v0"].peer_index, link.index);
        assert_eq!(seen.addresses, addresses.map(net).into());
        assert_eq!(seen.routes, routes.clone().into());
        assert!(seen.lo_up);

        // All of it again changes nothing; a route is replaced.
        world.apply(ops.get(2..).unwrap());
        world.apply(&[change(&guest, GuestChange::AddRoute(route("0.0.0.0/0", Some("169.254.1.2"))))]);
        let seen = look(&mut world, &guest).unwrap();
        assert!(seen.routes.contains(&route("0.0.0.0/0", Some("169.254.1.2"))));
        assert_eq!(seen.routes.len(), 3);

        let mut ops: Vec<_> = addresses.map(|a| change(&guest, GuestChange::DeleteAddress(net(a)))).into();
        ops.extend(seen.routes.into_iter().map(|r| change(&guest, GuestChange::DeleteRoute(r))));
        world.apply(&ops);
        let seen = look(&mut world, &guest).unwrap();
        assert!(seen.addresses.is_empty() && seen.routes.is_empty());
        world.apply(&ops);
    });
}

#[test]
fn a_guest_that_ended_is_let_go() {
    isolated(|| {
        let (mut world, mut guest) = (World::new(), Guest::new());
        world.apply(&[veth("v0", &guest)]);
        assert!(look(&mut world, &guest).is_some());
        let path = guest.path();
        guest.end();
        // The test's own handle would keep the namespace, too.
        let other = Guest::new();
        drop(std::mem::replace(&mut guest.netns, Netns::open(&other.path()).unwrap()));
        let ask = Ask {
            guests: [(nic(), Inside { path, inode: None, device: name("eth0") })].into(),
            ..Ask::default()
        };
        assert!(world.kernel.observe(&ask).unwrap().guests.is_empty());
        // No socket keeps it: the kernel takes the pair away, in its own time.
        let gone = (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            !world.observe().links.contains_key("v0")
        });
        assert!(gone, "the namespace is still held");
    });
}

#[test]
fn a_namespace_is_found_and_entered() {
    isolated(|| {
        let (mut world, guest) = (World::new(), Guest::new());
        world.apply(&[veth("v0", &guest)]);
        let found = Netns::find(&NetnsRef::Path(guest.path())).unwrap();
        assert_eq!(found.inode(), guest.netns.inode());
        let cat = || std::process::Command::new("cat").arg("/proc/net/dev").output().unwrap();
        let output = found.run(cat).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("eth0:") && !text.contains("v0:"), "{text}");
        let own = Netns::find(&NetnsRef::Process(std::process::id())).unwrap();
        assert_ne!(own.inode(), guest.netns.inode());
    });
}

#[test]
fn another_namespace_at_the_path_is_told_apart_where_it_matters() {
    isolated(|| {
        let mut world = World::new();
        let guest = Guest::new();
        world.apply(&[veth("v0", &guest)]);
        let mut seen = |inode| {
            let inside = Inside { path: guest.path(), inode, device: name("eth0") };
            let ask = Ask { guests: [(nic(), inside)].into(), ..Ask::default() };
            world.kernel.observe(&ask).unwrap().guests.contains_key(&nic())
        };
        assert!(seen(None) && seen(Some(guest.netns.inode())));
        assert!(!seen(Some(guest.netns.inode() + 1)));
    });
}
