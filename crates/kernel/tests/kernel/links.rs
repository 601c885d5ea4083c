use std::{
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    process::Command,
    time::{Duration, Instant},
};

use viaduct_plan::{GROUP, Kind, LinkChange, NewLink, Op};

use crate::world::{Guest, World, bridge, is_kind, isolated, mac, name, set, up, veth};

#[test]
fn a_bridge_is_made_silent_and_ours() {
    isolated(|| {
        let mut world = World::new();
        world.apply(&[bridge("br0")]);
        let link = world.observe().links["br0"].clone();
        assert_eq!((link.kind.clone(), link.mac, link.up), (Kind::Bridge, Some(mac(0xee)), false));
        assert_eq!(
            (link.alias.as_str(), link.group, link.addrgen_none),
            ("viaduct:network:br0", GROUP, true)
        );
        let setting =
            |key: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/br0/{key}")).unwrap();
        assert_eq!(setting("addr_gen_mode").trim(), "1");

        world.apply(&[up("br0")]);
        let observed = world.observe();
        assert!(observed.links["br0"].up);
        assert!(
            !observed.addresses.keys().any(|a| a.link.as_str() == "br0"),
            "it made itself a link-local address"
        );
    });
}

#[test]
fn a_bridge_learns_so_many_macs_and_no_more() {
    isolated(|| {
        let (mut world, guest) = (World::new(), Guest::new());
        world.apply(&[bridge("br0"), up("br0"), veth("v0", &guest)]);
        world.apply(&[set("v0", LinkChange::Master(Some(name("br0")))), up("v0")]);
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().unwrap();
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        guest.run(|| run("ip", &["link", "set", "eth0", "up"]));
        guest.run(send_with_ever_new_macs);
        let learned = run("bridge", &["fdb", "show", "br", "br0"]).matches("02:ef:").count();
        let (major, minor) = linux();
        // The guest's own MAC may be one of them.
        let most = if (major, minor) >= (6, 7) { 16_383..=16_384 } else { 20_000..=20_000 };
        assert!(most.contains(&learned), "{learned}");
        // And those are not gone through for what a host listens to.
        assert!(world.observe().unicast.is_empty());
    });
}

/// 20,000 frames by `eth0`, each from another MAC that begins with 02:ef.
fn send_with_ever_new_macs() {
    // SAFETY: the descriptor is new, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)) };
    // SAFETY: sockaddr_ll is plain data, for which all zeroes are valid.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
    // SAFETY: the name ends with a zero.
    to.sll_ifindex = i32::try_from(unsafe { libc::if_nametoindex(c"eth0".as_ptr()) }).unwrap();
    for number in 0..20_000_u32 {
        let mut frame = [0; 60];
        frame[..8].copy_from_slice(&[2, 0xed, 0, 0, 0, 1, 2, 0xef]);
        frame[8..12].copy_from_slice(&number.to_be_bytes());
        frame[12..14].copy_from_slice(&[0x88, 0xb6]);
        let length = libc::socklen_t::try_from(size_of_val(&to)).unwrap();
        // SAFETY: frame and address live until the call returns, and the lengths are theirs.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                length,
            )
        };
        assert_eq!(usize::try_from(sent), Ok(frame.len()));
    }
}

/// The version of the kernel.
fn linux() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn a_pair_reaches_into_a_namespace() {
    isolated(|| {
        let (mut world, guest) = (World::new(), Guest::new());
        world.apply(&[Op::AddLink {
            name: name("veth7.0"),
            link: NewLink::Veth { netns: guest.path(), peer: name("eth0"), peer_mac: mac(1) },
            alias: "viaduct:nic:shop.0".to_owned(),
            mac: Some(mac(2)),
            mtu: Some(1400),
        }]);
        let link = world.observe().links["veth7.0"].clone();
        assert_eq!((link.kind, link.mac, link.mtu, link.up), (Kind::Veth, Some(mac(2)), 1400, false));
        assert_eq!((link.alias.as_str(), link.group, link.addrgen_none), ("viaduct:nic:shop.0", GROUP, true));
        assert!(link.index >= 1 << 20, "the ifindex was not chosen");

        let (far, link) = guest.run(move || {
            let mut there = World::new();
            (there.observe().links["eth0"].clone(), link.index)
        });
        assert_eq!((far.mac, far.mtu, far.up, far.peer_index), (Some(mac(1)), 1400, false, link));
    });
}

#[test]
fn a_tap_stays_when_its_maker_is_done() {
    isolated(|| {
        let mut world = World::new();
        world.apply(&[Op::AddLink {
            name: name("tap7.0"),
            link: NewLink::Tap { owner: Some(1000) },
            alias: "viaduct:nic:vm.0".to_owned(),
            mac: Some(mac(3)),
            mtu: Some(1432),
        }]);
        let observed = world.observe();
        let link = &observed.links["tap7.0"];
        assert_eq!((link.kind.clone(), link.mac, link.mtu, link.up), (Kind::Tap, Some(mac(3)), 1432, false));
        assert_eq!((link.alias.as_str(), link.group, link.addrgen_none), ("viaduct:nic:vm.0", GROUP, true));
        let owner = std::fs::read_to_string("/sys/class/net/tap7.0/owner");
        // /sys shows the namespace it was mounted in; where it is another's, the file is not there.
        assert!(owner.is_err() || owner.is_ok_and(|o| o.trim() == "1000"));
        world.apply(&[Op::DeleteLinks(vec![name("tap7.0")])]);
        assert!(!world.observe().links.contains_key("tap7.0"));
    });
}

#[test]
fn every_change_of_a_link_is_seen() {
    isolated(|| {
        let (mut world, guest) = (World::new(), Guest::new());
        world.apply(&[
            bridge("br0"),
            veth("v0", &guest),
            set("v0", LinkChange::Master(Some(name("br0")))),
            set("v0", LinkChange::Isolated(true)),
            set("v0", LinkChange::Mtu(1300)),
            set("v0", LinkChange::Mac(mac(9))),
            set("v0", LinkChange::Alias("viaduct:other".to_owned())),
            set("v0", LinkChange::Group(7)),
            set("v0", LinkChange::AddrgenNone(false)),
            set("v0", LinkChange::Up(true)),
        ]);
        let link = world.observe().links["v0"].clone();
        assert_eq!((link.master, link.isolated, link.mtu), (Some(name("br0")), true, 1300));
        assert_eq!((link.mac, link.alias.as_str(), link.group), (Some(mac(9)), "viaduct:other", 7));
        assert!(link.up && !link.addrgen_none);

        world.apply(&[
            set("v0", LinkChange::Isolated(false)),
            set("v0", LinkChange::Alias(String::new())),
            set("v0", LinkChange::AddrgenNone(true)),
            set("v0", LinkChange::Up(false)),
        ]);
        let link = world.observe().links["v0"].clone();
        assert!(!link.isolated && link.alias.is_empty() && link.addrgen_none && !link.up);
        assert_eq!(link.master, Some(name("br0")));
        world.apply(&[set("v0", LinkChange::Master(None))]);
        assert_eq!(world.observe().links["v0"].master, None);
    });
}

#[test]
fn a_change_of_a_link_that_is_gone_touches_no_other() {
    isolated(|| {
        let mut world = World::new();
        world.apply(&[bridge("br0")]);
        let before = world.observe().links;
        for change in [
            LinkChange::Group(GROUP),
            LinkChange::Up(true),
            LinkChange::Isolated(true),
            LinkChange::Mtu(1000),
        ] {
            let text = world.refuse(set("gone", change));
            assert!(text.contains("No such device"), "{text}");
        }
        assert_eq!(world.observe().links, before);
    });
}

#[test]
fn a_strangers_link_is_left_as_it_is() {
    isolated(|| {
        let mut world = World::new();
        world.apply(&[
            bridge("br0"),
            set("br0", LinkChange::Alias("mine".to_owned())),
            set("br0", LinkChange::Group(3)),
        ]);
        let before = world.observe().links;
        let guest = Guest::new();
        let tap = Op::AddLink {
            name: name("br0"),
            link: NewLink::Tap { owner: None },
            alias: "viaduct:x".to_owned(),
            mac: None,
            mtu: None,
        };
        for op in [bridge("br0"), veth("br0", &guest), tap] {
            let text = world.refuse(op);
            assert!(text.contains("the name br0 is taken by a bridge with alias \"mine\""), "{text}");
        }
        assert_eq!(world.observe().links, before);
    });
}

#[test]
fn what_cannot_be_made_whole_is_not_made() {
    isolated(|| {
        let mut world = World::new();
        let mut op = bridge("br0");
        if let Op::AddLink { alias, .. } = &mut op {
            // IFALIASZ is 256.
            *alias = "x".repeat(300);
        }
        let text = world.refuse(op);
        assert!(text.starts_with("+ bridge br0"), "{text}");
        assert!(!world.observe().links.contains_key("br0"));
    });
}

#[test]
fn hundreds_of_links_go_at_once() {
    isolated(|| {
        let (mut world, guest) = (World::new(), Guest::new());
        let names: Vec<_> = (0..300).map(|i| name(&format!("v{i}"))).collect();
        let make = |(i, name): (usize, &viaduct_types::IfName)| Op::AddLink {
            name: name.clone(),
            link: NewLink::Veth {
                netns: guest.path(),
                peer: format!("eth{i}").parse().unwrap(),
                peer_mac: mac(1),
            },
            alias: format!("viaduct:nic:{name}"),
            mac: None,
            mtu: None,
        };
        let mut ops = vec![bridge("stays")];
        ops.extend(names.iter().enumerate().map(make));
        world.apply(&ops);
        assert_eq!(world.observe().links.len(), 302);

        let mut doomed = names.clone();
        doomed.push(name("never-was"));
        let start = Instant::now();
        world.apply(&[Op::DeleteLinks(doomed)]);
        let took = start.elapsed();
        println!("300 links taken away in {took:?}");
        assert!(took < Duration::from_millis(900), "{took:?}");
        let observed = world.observe();
        assert_eq!(observed.links.len(), 2);
        assert!(is_kind(&observed, "stays", &Kind::Bridge));
        world.apply(&[Op::DeleteLinks(names)]);
    });
}

#[test]
fn what_the_kernel_cannot_delete_is_told() {
    isolated(|| {
        let mut world = World::new();
        let text = world.refuse(Op::DeleteLinks(vec![name("lo")]));
        assert!(text.contains("- link lo"), "{text}");
        assert!(world.observe().links.contains_key("lo"));
    });
}

#[test]
fn what_the_kernel_can_do_is_found_by_trying() {
    isolated(|| {
        let mut world = World::new();
        let features = world.observe().features;
        assert!(features.bridge && features.veth, "{features:?}");
        assert_eq!(features.tun, std::path::Path::new("/dev/net/tun").exists());
        let rules = "table bridge t { chain c { type filter hook forward priority 0; }; }";
        let status =
            std::process::Command::new("nft").arg(rules).stderr(std::process::Stdio::null()).status();
        assert_eq!(features.nft_bridge, status.unwrap().success());
        println!("{features:?}");
        assert_eq!(world.observe().links.len(), 1, "trying left something behind");
    });
}

#[test]
fn a_host_that_is_busy_can_be_observed() {
    isolated(|| {
        let mut world = World::new();
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), own);
                let mut other = World::new();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let names: Vec<_> = (0..50).map(|i| format!("b{i}")).collect();
                    other.apply(&names.iter().map(|n| bridge(n)).collect::<Vec<_>>());
                    other.apply(&[Op::DeleteLinks(names.iter().map(|n| name(n)).collect())]);
                }
            });
            let start = Instant::now();
            let mut looks = 0;
            while start.elapsed() < Duration::from_millis(600) {
                let observed = world.observe();
                assert!(observed.links.contains_key("lo"));
                looks += 1;
            }
            println!("looked {looks} times");
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    });
}

#[test]
fn a_kernel_may_be_given_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<viaduct_kernel::Kernel>();
}
