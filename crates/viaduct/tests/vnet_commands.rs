//! The commands of vnets and peers in clumsy and in hostile hands: what is wrong is refused with a word about what to do, and leaves
//! nothing behind; what is interrupted can be done again.
#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

mod support;

use std::{process::Stdio, thread, time::Duration};

use rustix::{
    mount::{MountFlags, mount_bind, mount_remount},
    process::{Pid, Signal, kill_process},
};
use support::{CONFIG, GOOD, STATE, World, host};

/// Public keys of nobody.
const KEYS: [&str; 2] =
    ["AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=", "AgIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="];

fn add(name: &str, key: &str) -> String {
    format!("peer add {name} --endpoint 203.0.113.9:1798 --key {key}")
}

fn peer(name: &str, key: &str) -> String {
    format!("\n[peers.{name}]\nkey = \"{key}\"\n")
}

/// Each line is refused with that status and says that, for people and for programs; nothing changes.
#[track_caller]
fn refused(world: &World, lines: &[(&str, &[&str])], code: i32) {
    let (kernel, memory) = (world.kernel(), world.memory());
    for (line, said) in lines {
        world.viaduct(line).refused(code, said);
        world.viaduct(&format!("--json {line}")).refused(code, said);
        world.unchanged(&kernel, &memory, line);
    }
}

/// What a command made and a file has as well, by its name or by what it is known by everywhere.
#[test]
fn what_does_not_count_any_more_is_said() {
    host(|world| {
        world.good("apply");
        world.good(&add("c", KEYS[0]));
        world.good("vnet create --id 8");
        let applied = |text: &str| {
            world.write(CONFIG, format!("{GOOD}{text}"));
            [world.good("check").err, world.good("plan").err, world.good("apply").err].concat()
        };
        let says = |said: &str, words: &str| {
            assert_eq!(said.matches(words).count(), 3, "{words:?} is to be said each time: {said}");
        };
        let of_peer = |identity: &str| format!("the peer `c`, which a command made, has this {identity}");
        // Somebody else of its name; the same one by another name.
        for (text, identity) in [(peer("c", KEYS[1]), "name"), (peer("d", KEYS[0]), "key")] {
            let said = applied(&text);
            says(&said, &of_peer(identity));
            says(&said, "`viaduct peer delete c` forgets the other one");
            let listed = world.good("peer list");
            assert!(listed.err.contains("the peer c, which a command made, does not count"), "{listed:?}");
            let listed = world.good("--json peer list").json();
            assert!(listed.as_object().unwrap().values().all(|peer| peer["created"] == false), "{listed}");
        }
        says(
            &applied("\n[vnets.red]\nid = \"8\"\nbridge = \"vnet8\"\n"),
            "the vnet `vnet8`, which a command made, has this id",
        );
        let listed = world.good("vnet list");
        assert!(listed.err.contains("the vnet vnet8, which a command made, does not count"), "{listed:?}");
        // Of a name that a file has, none is made known again behind its back.
        applied(&peer("c", KEYS[1]));
        refused(world, &[(&add("c", KEYS[0]), &["the configuration has a peer c already"])], 2);
        world.good("peer delete c");
        world.good("vnet delete vnet8");
        assert!(!applied(&peer("c", KEYS[1])).contains("which a command made"));
        let listed = world.good("peer list");
        assert!(!listed.err.contains("does not count"), "{listed:?}");
    });
}

#[test]
fn something_has_to_be_applied_before() {
    host(|world| {
        refused(
            world,
            &[
                ("vnet create --id 8", &["no configuration is applied", "viaduct apply"]),
                (&add("c", KEYS[0]), &["no configuration is applied", "viaduct apply"]),
            ],
            1,
        );
        refused(
            world,
            &[
                ("vnet delete 8", &["there is no vnet 8"]),
                ("peer delete c", &["there is no peer c"]),
                ("vnet show 8", &["there is no vnet 8"]),
                ("vnet macs 8", &["there is no vnet 8"]),
            ],
            2,
        );
    });
}

#[test]
fn endpoints_are_what_files_take() {
    host(|world| {
        world.good("apply");
        let line = |endpoint: &str| format!("peer add c --endpoint {endpoint} --key {}", KEYS[0]);
        for (endpoint, said) in [
            ("2001:db8::1:1798", "an IPv6 address stands in brackets"),
            ("[fe80::1]:1798", "a link-local address says nothing"),
            ("[fe80::1%eth0]:1798", "no link can be written"),
            ("203.0.113.9", "the port is missing"),
            ("[2001:db8::1]", "the port is missing"),
            ("203.0.113.9:0", "port 0 cannot be used"),
            ("203.0.113.9:65536", "the port has to be a number"),
            ("[2001:db8::1]:65536", "the port has to be a number"),
            ("hostb:0", "the port has to be a number"),
            ("hostb:65536", "the port has to be a number"),
            ("127.0.0.1:1798", "loopback"),
            (":1798", "neither an address nor a host name"),
            ("a/b:1798", "neither an address nor a host name"),
        ] {
            refused(world, &[(&line(endpoint), &[said, "a peer's endpoint"])], 2);
        }
        for endpoint in ["203.0.113.9:1798", "[2001:db8::1]:1798", "hostb.example:1798"] {
            world.good(&line(endpoint));
        }
    });
}

#[test]
fn what_is_no_name_does_not_reach_a_terminal_as_it_stands() {
    host(|world| {
        world.good("apply");
        for line in ["vnet delete", "vnet show", "vnet macs", "vnet list"] {
            let ran = world.viaduct(&format!("{line} \x1b[2Jred"));
            ran.refused(2, &["there is no vnet \\u{1b}[2Jred"]);
            assert!(!ran.err.contains('\x1b'), "{ran:?}");
        }
    });
}

/// Each device is one thing.
#[test]
fn a_vnet_takes_nobodys_devices() {
    host(|world| {
        world.write(CONFIG, format!("{GOOD}\n[vnets.red]\nid = \"97\"\n"));
        world.good("apply");
        world.attach("web");
        world.good("attach deb6 --tap t-deb6");
        world.good("vnet create --id 8");
        world.sh("ip link add other type bridge");
        world.write("/run/two.sxp", "(vnet (id 5) (bridge same)) (vnet (id 6) (bridge same))");
        world.write("/run/cross.sxp", "(vnet (id 5) (bridge b5) (vnetif b6)) (vnet (id 6) (bridge b6))");
        refused(
            world,
            &[
                // Of the file's networks, vnets, uplinks, and of attached guests.
                ("vnet create --id 5 --bridge br-services", &["br-services"]),
                ("vnet create --id 5 --interface br-services", &["br-services"]),
                ("vnet create --id 5 --bridge vnet-red", &["vnet-red"]),
                ("vnet create --id 5 --bridge eth0", &["eth0"]),
                ("vnet create --id 5 --bridge t-deb6", &["t-deb6"]),
                // Of another vnet that a command made, and of itself.
                ("vnet create --id 5 --bridge vnet8", &["vnet8"]),
                ("vnet create --id 5 --bridge vnif8", &["vnif8"]),
                ("vnet create --id 5 --interface vnif8", &["vnif8"]),
                ("vnet create --id 5 --bridge same --interface same", &["same"]),
                ("vnet create --id 5 --bridge vnif5-6 --security none", &["vnif5-6"]),
                ("vnet create /run/two.sxp", &["same"]),
                ("vnet create /run/cross.sxp", &["b6"]),
                // And no guest takes a vnet's.
                ("attach spare --tap vnet-red", &["vnet-red is a device of vnet red and of spare.0"]),
                ("attach spare --tap vnet8", &["vnet8 is a device of vnet vnet8 and of spare.0"]),
                // Of somebody else, and nobody's; and a file that never ends.
                ("vnet create /dev/zero", &["cannot read /dev/zero", "larger"]),
                ("vnet create --id 5 --bridge other", &["other exists and is not Viaduct's"]),
                ("vnet create --id 5 --bridge lo", &["lo exists and is not Viaduct's"]),
            ],
            2,
        );
        world.good("vnet create --id 5 --bridge other5");
        world.settled();
    });
}

/// What commands made outlives `down`, and can be forgotten without anything applied.
#[test]
fn what_is_made_can_be_forgotten_whatever_is_applied() {
    host(|world| {
        world.good("apply");
        world.good("vnet create --id 8");
        world.good(&add("c", KEYS[0]));
        world.good("down");
        world.good("vnet delete 8");
        world.good("peer delete c");
        world.good("apply");
        assert!(world.good("vnet list").out.contains("No vnets"));
        assert!(world.good("peer list").out.contains("No peers"));
    });
}

#[test]
fn what_cannot_be_written_down_is_not_done() {
    host(|world| {
        world.good("apply");
        world.good("vnet create --id 8");
        world.good(&add("c", KEYS[0]));
        mount_bind(STATE, STATE).unwrap();
        mount_remount(STATE, MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
        refused(
            world,
            &[
                ("vnet create --id 5", &[STATE]),
                ("vnet delete 8", &[STATE]),
                (&add("d", KEYS[1]), &[STATE]),
                ("peer delete c", &[STATE]),
            ],
            1,
        );
        for line in ["vnet list", "peer list", "vnet show 8", "vnet macs 8"] {
            world.good(line);
        }
    });
}

/// Ends a command after a while, by a signal that it does not hear.
fn killed(world: &World, line: &str, after: Duration) {
    let words: Vec<&str> = line.split(' ').collect();
    let mut child = world.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    thread::sleep(after);
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
}

/// Killed at any moment, it is there or it is not, and whoever does it again, or applies, makes it so.
#[test]
fn what_is_killed_can_be_done_again() {
    host(|world| {
        world.good("apply");
        let before = world.kernel();
        for round in 0..24 {
            let after = Duration::from_millis(3 * round);
            killed(world, "vnet create --id 8 --bridge vnet8", after);
            let is_known = world.good("vnet list").out.contains("vnet8");
            if is_known {
                world.good("apply");
            } else {
                world.good("vnet create --id 8 --bridge vnet8");
            }
            world.settled();
            assert!(world.sh("ip link show master vnet8").contains("vnif8"));
            killed(world, "vnet delete 8", after);
            if world.good("vnet list").out.contains("vnet8") {
                world.good("vnet delete 8");
            } else {
                world.good("apply");
            }
            world.settled();
            assert_eq!(world.kernel(), before, "after {after:?}");
        }
    });
}

/// One after the other, whoever is first.
#[test]
fn several_at_once_all_count() {
    host(|world| {
        world.good("apply");
        let lines: Vec<String> = (2..=7).map(|id| format!("vnet create --id {id}")).collect();
        let start = |line: &String| {
            let words: Vec<&str> = line.split(' ').collect();
            world.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        for mut child in lines.iter().map(start).collect::<Vec<_>>() {
            assert!(child.wait().unwrap().success());
        }
        let listed = world.good("--json vnet list").json();
        assert_eq!(listed.as_object().unwrap().len(), 6, "{listed}");
        world.settled();
        // Of those who want the same, one has it.
        let same = vec!["vnet create --id 9".to_owned(); 4];
        let done = same.iter().map(start).collect::<Vec<_>>();
        let done: Vec<bool> = done.into_iter().map(|mut child| child.wait().unwrap().success()).collect();
        assert_eq!(done.iter().filter(|done| **done).count(), 1, "{done:?}");
        world.settled();
    });
}
