use std::process::Command;

use viaduct_kernel::{Netns, NetnsRef};
use viaduct_plan::{NewLink, Op, Proxy, nft};

use crate::world::{Guest, World, address, bridge, isolated, mac, name, set, veth};

#[test]
fn a_missing_namespace_says_what_to_do() {
    isolated(|| {
        let mut world = World::new();
        let op = |netns: &str| Op::AddLink {
            name: name("v0"),
            link: NewLink::Veth { netns: netns.to_owned(), peer: name("eth0"), peer_mac: mac(1) },
            alias: "viaduct:x".to_owned(),
            mac: None,
            mtu: None,
        };
        let text = world.refuse(op("/run/netns/nobody-has-this"));
        assert_eq!(
            text,
            "network namespace /run/netns/nobody-has-this: does not exist; make it with `ip netns add nobody-has-this`, \
             or attach with --pid or a path"
        );
        let text = world.refuse(op("/nowhere/at/all"));
        assert!(text.contains("/nowhere/at/all: does not exist; has the guest ended?"), "{text}");
        for not_one in ["/etc/passwd", "/proc/self/ns/mnt", "/dev/null"] {
            let text = world.refuse(op(not_one));
            assert!(text.contains("is not a network namespace"), "{text}");
        }
        assert!(!world.observe().links.contains_key("v0"));

        // A process that has ended and was not waited for.
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        while !std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z ") {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let error = Netns::find(&NetnsRef::Process(pid)).unwrap_err().to_string();
        assert!(error.contains(&format!("there is no process {pid}")), "{error}");
        child.wait().unwrap();
        let error = Netns::find(&NetnsRef::Process(pid)).unwrap_err().to_string();
        assert!(error.contains(&format!("there is no process {pid}")), "{error}");
    });
}

#[test]
fn a_name_taken_at_the_far_end_is_told() {
    isolated(|| {
        let (mut world, guest) = (World::new(), Guest::new());
        world.apply(&[veth("v0", &guest)]);
        let text = world.refuse(veth("v1", &guest));
        assert!(text.contains("the name eth0 is taken by a device in /proc/"), "{text}");
    });
}

#[test]
fn a_missing_device_is_named() {
    isolated(|| {
        let mut world = World::new();
        let text = world.refuse(address("gone", "192.0.2.1/24"));
        assert_eq!(text, "+ address 192.0.2.1/24 on gone: there is no device gone");
        let text =
            world.refuse(Op::AddProxy(Proxy { link: name("gone"), address: "192.0.2.1".parse().unwrap() }));
        assert!(text.ends_with("there is no device gone"), "{text}");
    });
}

#[test]
fn one_failure_does_not_stop_the_rest() {
    isolated(|| {
        let mut world = World::new();
        let mut seen = Vec::new();
        let ops = [
            bridge("br0"),
            address("gone", "192.0.2.1/24"),
            bridge("br0"),
            bridge("br1"),
            address("br1", "192.0.2.1/24"),
        ];
        let results =
            viaduct_plan::Apply::apply(&mut world.kernel, &ops, &|_, _| true, &mut |n| seen.push(n));
        assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, false, true, true]);
        assert_eq!(seen.last(), Some(&5));
        assert!(seen.is_sorted());
        assert_eq!(world.addresses("br1").len(), 1);
    });
}

#[test]
fn the_kernels_own_words_are_told() {
    isolated(|| {
        let mut world = World::new();
        world.apply(&[bridge("br0")]);
        let text = world.refuse(set("br0", viaduct_plan::LinkChange::Mtu(1)));
        assert!(text.starts_with("~ link br0 mtu 1: Invalid argument (os error 22): mtu"), "{text}");
    });
}

#[test]
fn without_privileges_it_is_told_what_is_missing() {
    isolated(|| {
        let mut world = World::new();
        // One thread alone, so that this one can clean up. Netlink asks for the caller's capabilities, not only for
        // those of the socket's opener.
        let refused = std::thread::scope(|scope| {
            let unprivileged = scope.spawn(|| {
                rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).unwrap();
                world.refuse(bridge("br0"))
            });
            unprivileged.join()
        });
        let text = refused.unwrap();
        assert!(text.starts_with("+ bridge br0 mac 02:00:00:00:07:ee: Operation not permitted"), "{text}");
        assert!(text.contains("run it as root, or with CAP_NET_ADMIN"), "{text}");
    });
}

#[test]
fn nothing_is_done_after_a_failed_filter() {
    isolated(|| {
        let mut world = World::new();
        // There is no such table.
        let (family, name, chain) = (nft::Family::Inet, "c".to_owned(), nft::Chain::default());
        let filter = Op::Nft(vec![nft::Change::ReplaceRules { family, name, chain }]);
        let results =
            world.try_apply(&[bridge("br0"), filter, bridge("br1"), Op::EndFlows { then: Vec::new() }]);
        let texts: Vec<_> = results.into_iter().map(|r| r.map_err(|e| e.to_string())).collect();
        assert_eq!(texts[0], Ok(()));
        let failed = texts[1].as_ref().unwrap_err();
        assert!(failed.starts_with("packet filter: "), "{failed}");
        for later in &texts[2..] {
            let later = later.as_ref().unwrap_err();
            assert!(
                later.starts_with("not done, because the packet filter could not be changed: "),
                "{later}"
            );
        }
        let links = world.observe().links;
        assert!(links.contains_key("br0") && !links.contains_key("br1"));
    });
}
