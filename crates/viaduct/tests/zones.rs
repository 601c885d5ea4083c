//! Networks in namespaces: stacks of their own on one host, which are made, kept and taken away as the host's own is.
#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

mod support;

use std::{fs, net::UdpSocket, os::fd::AsFd, thread, time::Duration};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use support::{
    CONFIG, RUN, World, host,
    zones::{GUESTS, ZONES, all_get_out, made},
};

/// What is in the namespaces, too.
fn everything(world: &World) -> String {
    let names = world.sh("ls /run/netns");
    let host = world.kernel();
    format!("{names}\n{host}")
}

#[test]
fn stacks_come_and_go_and_leave_nothing() {
    host(|world| {
        world.connect_outside();
        let before = everything(world);
        world.write(CONFIG, ZONES);
        let plan = world.good("plan").out;
        assert!(plan.contains("in namespace red:\n"), "{plan}");
        world.good("apply");
        GUESTS.iter().for_each(|guest| world.attach(guest));
        world.settled();
        all_get_out(world);
        // The host's own table has its own guest, and nobody else's devices.
        let ports = |namespace: &str| world.sh(&format!("{namespace} ip -o link show type veth | wc -l"));
        assert_eq!(ports("ip netns exec red"), "1\n");
        let status = world.good("status --json").json();
        assert_eq!(status["networks"]["red"]["namespace"], "red");
        for guest in GUESTS {
            assert_eq!(status["guests"][guest]["nics"][0]["state"], "up", "{status}");
        }
        assert_eq!(status["drift"].as_array().unwrap().len(), 0);

        world.good("detach two");
        assert!(!world.echoes("two", "203.0.113.1"));
        world.settled();
        world.good("attach two --netns two");
        all_get_out(world);

        world.good("down");
        GUESTS.iter().for_each(|guest| drop(world.sh(&format!("ip netns del {guest}"))));
        world.soon("nothing is left", || everything(world) == before);
        assert_eq!(world.sh(&format!("ls {RUN}/stacks")), "");
    });
}

/// Only what differs.
fn difference(before: &str, after: &str) -> String {
    let lines = |text: &str, other: &str| -> Vec<String> {
        text.lines().filter(|line| !other.lines().any(|other| other == *line)).map(str::to_owned).collect()
    };
    format!("{:#?} became {:#?}", lines(before, after), lines(after, before))
}

/// A stack in a namespace that was there before is taken out of it, and what else is there stays.
#[test]
fn what_was_there_before_stays() {
    host(|world| {
        world.connect_outside();
        for line in [
            "ip netns add red",
            "ip netns exec red sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0",
            "ip -n red link add theirs type dummy || ip -n red link add theirs type bridge",
            "ip -n red link set lo up; ip -n red link set theirs addrgenmode none up; ip -n red address add 192.0.2.1/24 dev theirs",
            "ip netns exec red nft add table ip theirs",
            "ip netns exec red sysctl -qw net.ipv6.conf.all.forwarding=0",
        ] {
            world.sh(line);
        }
        let inside = || {
            world.sh(
                "ip -n red -o link; ip -n red -o address; ip -n red route show table all; \
                 ip -n red -6 route show table all; ip netns exec red nft list ruleset; \
                 ip netns exec red cat /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/ipv4/conf/all/forwarding",
            )
        };
        let before = inside();
        world.write(CONFIG, ZONES);
        world.good("apply");
        world.attach("one");
        world.settled();
        assert!(inside().contains("table inet viaduct"));
        // The networks go, the namespace stays in the file.
        world.write(CONFIG, "[namespaces.red]\n");
        world.good("apply");
        world.settled();
        let now = inside();
        assert!(now == before, "{}", difference(&before, &now));
        world.good("down");
        assert_eq!(inside(), before);
    });
}

/// A daemon hears at once what is done to a stack, and puts it right.
#[test]
fn a_daemon_keeps_stacks() {
    host(|world| {
        made(world);
        let daemon = world.daemon();
        for (harm, object) in [
            ("ip netns exec red nft flush ruleset", "the filter"),
            ("ip -n blue link del br-blue", "a bridge"),
            ("ip -n red address del 10.0.0.1/24 dev br-red", "an address"),
            ("ip -n red link set out down", "an interface"),
        ] {
            let repairs = world.repairs().len();
            world.sh(harm);
            // Without hearing of it, the daemon would look within a minute.
            world.soon(&format!("{object} is repaired"), || world.repairs().len() > repairs);
            world.soon("nothing is left to do", || world.viaduct("plan --exit-code").code() == 0);
        }
        all_get_out(world);
        let repairs = world.repairs();
        let first = repairs[0]["changed"].to_string();
        assert!(first.contains("table inet viaduct in namespace red was removed by nft"), "{first}");
        // A namespace that is taken away altogether, with all that was in it.
        world.sh("ip netns del blue");
        world.soon("the namespace is made anew", || {
            world.viaduct("plan --exit-code").code() == 0 && world.echoes("two", "203.0.113.1")
        });
        daemon.end();
    });
}

/// A daemon that knows its host looks at nothing but the guest that comes or goes, whichever stack that is in.
#[test]
fn a_guest_of_a_stack_comes_and_goes_by_itself() {
    host(|world| {
        world.connect_outside();
        world.write(CONFIG, ZONES);
        world.good("apply");
        world.own_places();
        let daemon = world.daemon_by(world.command(&["daemon"]).env("VIADUCT_LOG", "debug"));
        let in_part = || world.log().matches("changed in part").count();
        let whole = || world.log().matches("the whole host is looked at").count();
        GUESTS.iter().for_each(|guest| world.attach(guest));
        assert_eq!((in_part(), whole()), (3, 0), "{}", world.log());
        all_get_out(world);
        // Those who are told something have it told at once.
        world.attach("lent");
        world.soon("it has an address", || {
            world.sh("ip netns exec lent timeout 10 dhclient -1 -v eth0 2>&1 || true");
            world.sh("ip -n lent -4 -o address show dev eth0").contains("10.0.0.")
        });
        let name =
            "ip netns exec one timeout 5 dig +short +time=1 +tries=1 @10.0.0.1 lent.red.internal || true";
        world.soon("its name is known", || world.sh(name).starts_with("10.0.0."));
        world.good("set one --unpublish 5000:5000/udp --save");
        world.good("detach two");
        assert!(!world.echoes("two", "203.0.113.1"));
        assert_eq!((in_part(), whole()), (6, 0), "{}", world.log());
        world.good("attach two --netns two");
        assert!(world.echoes("two", "203.0.113.1"));
        // Whoever changes the filter of a stack has the next change in there look at everything.
        // The daemon may have heard of it and looked before the command came.
        let looks = || world.log().matches("planned pass=0").count();
        let before = looks();
        world.sh("ip netns exec red nft add table ip theirs");
        world.good("detach one");
        assert!(whole() == 1 || looks() > before, "{}", world.log());
        world.settled();
        daemon.end();
    });
}

/// Guests are answered in their own stack: by DHCP for those without an address, and for names.
#[test]
fn guests_are_answered_in_their_stack() {
    host(|world| {
        made(world);
        world.own_places();
        let daemon = world.daemon();
        world.attach("lent");
        world.soon("it has an address", || {
            world.sh("ip netns exec lent timeout 10 dhclient -1 -v eth0 2>&1 || true");
            world.sh("ip -n lent -4 -o address show dev eth0").contains("10.0.0.")
        });
        world.soon("it gets out", || world.echoes("lent", "203.0.113.1"));
        let name =
            "ip netns exec lent timeout 5 dig +short +time=1 +tries=1 @10.0.0.1 one.red.internal || true";
        world.soon("names are answered", || world.sh(name) == "10.0.0.5\n");
        // A stack that goes takes the process with it that answers there.
        world.good("down");
        world.soon("nobody answers", || world.sh("ip netns pids red 2>/dev/null | wc -l") == "0\n");
        daemon.end();
    });
}

/// Killed at any time, the next run goes on; what was never whole is closed.
#[test]
fn a_killed_run_is_gone_on_from() {
    host(|world| {
        made(world);
        for round in 0..8_u64 {
            world.good("down");
            let mut child = world.command(&["apply"]).spawn().unwrap();
            thread::sleep(Duration::from_millis(30 + 40 * round));
            let _ = child.kill();
            child.wait().unwrap();
            // Where there is a bridge of a stack, there is its filter.
            for zone in ["red", "blue"] {
                let bridges =
                    format!("ip -n {zone} -o link show type bridge 2>/dev/null | grep -c br-{zone} || true");
                if world.sh(&bridges) == "1\n" {
                    world.sh(&format!("ip netns exec {zone} nft list table inet viaduct"));
                }
            }
            world.good("apply");
            GUESTS.iter().for_each(|guest| drop(world.good(&format!("attach {guest} --netns {guest}"))));
            world.settled();
        }
        all_get_out(world);
    });
}

/// Does something in a namespace.
fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    let file = fs::File::open(format!("/run/netns/{name}")).unwrap();
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        inside.join().unwrap()
    })
}

/// A socket that waits no longer than a moment.
fn socket(namespace: &str, address: &str) -> UdpSocket {
    let socket = within(namespace, || UdpSocket::bind(address).unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket
}

/// Flows that a change forbids end, in the stack that it is about and nowhere else.
#[test]
fn flows_end_in_their_own_stack() {
    host(|world| {
        made(world);
        all_get_out(world);
        let mut buffer = [0; 64];
        let (server, client) = (socket("one", "10.0.0.5:5000"), socket("outside", "203.0.113.1:0"));
        client.send_to(b"in", "203.0.113.10:5000").unwrap();
        let (_, peer) = server.recv_from(&mut buffer).unwrap();
        server.send_to(b"back", peer).unwrap();
        assert_eq!(client.recv_from(&mut buffer).unwrap().1, "203.0.113.10:5000".parse().unwrap());
        let (asks, answers) = (socket("two", "10.0.0.5:0"), socket("outside", "203.0.113.1:6000"));
        asks.send_to(b"out", "203.0.113.1:6000").unwrap();
        let (_, peer_of_other) = answers.recv_from(&mut buffer).unwrap();
        assert_eq!(peer_of_other.ip().to_string(), "203.0.113.11");

        world.write(CONFIG, ZONES.replace("publish = [\"5000:5000/udp\"]", ""));
        world.good("apply");
        client.send_to(b"again", "203.0.113.10:5000").unwrap();
        assert!(server.recv_from(&mut buffer).is_err(), "the flow lives on");
        answers.send_to(b"back", peer_of_other).unwrap();
        assert!(asks.recv_from(&mut buffer).is_ok(), "a flow of another stack ended");
    });
}

/// A guest's frames leave a stack by a bridge with the namespace's interface in it, whose addresses the bridge has then.
#[test]
fn a_bridged_network_in_a_namespace() {
    host(|world| {
        world.connect_outside();
        for line in [
            "ip link add card1 type veth peer name card1 netns outside",
            "ip link set card1 up; ip -n outside link set card1 up",
            "ip -n outside address add 198.51.100.1/24 dev card1",
            "ip -n outside address add 2001:db8:51::1/64 dev card1 nodad",
        ] {
            world.sh(line);
        }
        let before = world.kernel();
        world.write(
            CONFIG,
            r#"
[uplinks.seg]
interface = "seg0"
namespace = "seg"
[[namespaces.seg.interfaces]]
name = "seg0"
type = "device"
device = "card1"
addresses = ["198.51.100.2/24", "2001:db8:51::2/64"]
gateways = ["198.51.100.1"]
[networks.seg]
namespace = "seg"
mode = "bridged"
uplink = "seg"
[guests.one]
[[guests.one.nics]]
network = "seg"
addresses = ["198.51.100.5/24", "2001:db8:51::5/64"]
"#,
        );
        world.good("apply");
        world.attach("one");
        world.settled();
        for to in ["198.51.100.1", "2001:db8:51::1", "198.51.100.2"] {
            world.soon(&format!("one reaches {to}"), || world.echoes("one", to));
        }
        assert!(world.echoes("outside", "198.51.100.2"));
        assert!(!world.sh("ip -n seg -o -4 address show dev seg0").contains("198.51.100.2"));
        world.good("down");
        world.sh("ip netns del one");
        let now = world.kernel();
        assert!(now == before, "{}", difference(&before, &now));
    });
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_done() {
    host(|world| {
        let refused = |from: &str, to: &str, said: &[&str]| {
            let text = ZONES.replacen(from, to, 1);
            assert_ne!(text, ZONES);
            world.write(CONFIG, text);
            world.viaduct("check").refused(2, said);
        };
        refused(
            "uplink = \"red\"",
            "uplink = \"wan\"",
            &["the uplink `wan` is on the host", "namespace = \"red\""],
        );
        refused("interface = \"out\"", "interface = \"in\"", &["the namespace `red` has no interface `in`"]);
        refused(
            "network = \"lan\"\n",
            "network = \"lan\"\n[[guests.three.nics]]\nnetwork = \"red\"\n",
            &["guest `three` is on networks of several stacks: the host, namespace red"],
        );
        refused(
            "[guests.two]\n",
            "[guests.two]\nallow-in = [{ from = \"guest:one\" }]\n",
            &["guest `two` is to talk to guest `one`", "write the prefix"],
        );
        refused(
            "mode = \"nat\"\nuplink = \"blue\"\nsubnets = [\"10.0.0.0/24\", \"fd00::/64\"]\ndhcp = true",
            "mode = \"bridged\"\nuplink = \"blue\"",
            &["lets no frames out but its own"],
        );
        refused(
            "[networks.lan]\n",
            "[vnets.v]\nid = 5\n[networks.v]\nmode = \"vnet\"\nvnet = \"v\"\nnamespace = \"red\"\n[networks.lan]\n",
            &["its network cannot be in a namespace"],
        );
        refused(
            "addresses = [\"203.0.113.10/24\", \"2001:db8:28::10/64\"]",
            "addresses = [\"203.0.113.10/24\"]\n[[namespaces.red.interfaces]]\nname = \"self\"\ntype = \"veth\"\nnetwork = \"red\"\naddresses = [\"10.0.0.9\"]",
            &["a network that is in itself"],
        );
        world.write(CONFIG, ZONES);
        world.good("apply");
        world.sh("ip link add tap9 type veth peer name tap9x");
        world.viaduct("attach one --device tap9").refused(2, &["namespace red", "--netns"]);
    });
}
