//! What others do to the namespaces of a file: names that stand for something else, processes that stay, stacks that are
//! taken away under a running change.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{process::Stdio, thread, time::Duration};

use support::{
    Again, CONFIG, host,
    zones::{GUESTS, ZONES, all_get_out, made},
};

/// A name that stands for the host's own stack, or for another namespace of the file, is no namespace of its own: one
/// stack would be made twice over.
#[test]
fn a_name_of_another_stack_is_refused() {
    host(|world| {
        world.connect_outside();
        world.write(CONFIG, ZONES);
        world.sh("ip netns attach red $$");
        let before = world.kernel();
        for line in ["apply", "apply --confirm 5s", "plan"] {
            world.viaduct(line).refused(1, &["/run/netns/red", "this host's own", "`ip netns delete`"]);
            assert!(world.kernel() == before, "{line}");
        }
        world.sh("ip netns del red");

        world.sh("ip netns add blue && touch /run/netns/red && mount --bind /run/netns/blue /run/netns/red");
        let before = world.kernel();
        for line in ["apply", "plan"] {
            world.viaduct(line).refused(1, &["/run/netns/red", "/run/netns/blue", "the same namespace"]);
            assert!(world.kernel() == before, "{line}");
        }
        world.sh("ip netns del red");

        world.good("apply");
        GUESTS.iter().for_each(|guest| world.attach(guest));
        world.settled();
        all_get_out(world);
        // It becomes so later, while somebody keeps the host.
        let daemon = world.daemon();
        world.sh("ip netns del red && ip netns attach red $$");
        world.soon("the daemon says so", || world.log().contains("host's own"));
        assert!(world.echoes("two", "203.0.113.1") && world.echoes("three", "203.0.113.1"));
        world.sh("ip netns del red");
        world.soon("it is made anew", || world.echoes("one", "203.0.113.1"));
        world.soon("nothing is left to do", || world.viaduct("plan --exit-code").code() == 0);
        daemon.end();
    });
}

/// Where the name leads is no namespace at all.
#[test]
fn a_name_that_is_a_file_a_pipe_or_a_link_to_nowhere() {
    host(|world| {
        world.connect_outside();
        world.write(CONFIG, ZONES);
        let before = world.kernel();
        for (made, said) in [
            ("mkdir /run/netns/red", "Is a directory"),
            ("mkfifo /run/netns/red", "No such device or address"),
            ("mkfifo /run/netns/red; sleep 5 3<>/run/netns/red >/dev/null 2>&1 &", "exists"),
            ("ln -s /nowhere /run/netns/red", "symbolic links"),
            ("touch /run/netns/red; mount --bind /proc/$$/ns/uts /run/netns/red", "red"),
        ] {
            world.sh(made);
            let ran = world.viaduct("apply");
            assert!(
                ran.code() == 1 && ran.err.contains("/run/netns/red") && ran.err.contains(said),
                "{made}: {ran:?}"
            );
            world.sh("umount /run/netns/red 2>/dev/null; rm -r /run/netns/red");
            // `ip link` waits at pipes.
            assert!(world.kernel() == before, "{made}: {ran:?}");
        }
        world.good("apply");
        world.settled();
    });
}

/// Somebody's process stays in a stack that is taken away, and makes a table and a device there again and again; when the
/// stack is made anew, it is another one, and the old one has nothing of ours.
#[test]
fn a_process_that_stays_keeps_nothing_of_ours() {
    host(|world| {
        made(world);
        world.sh(
            "ip netns exec red sh -c 'while :; do nft add table ip theirs; ip link add theirs type bridge; sleep 0.02; done' \
             >/dev/null 2>&1 & echo $! >/run/stays",
        );
        let inside = |line: &str| world.sh(&format!("nsenter -t $(cat /run/stays) -n {line}"));
        world.soon("it has begun", || inside("ip -o link").contains("theirs"));
        world.good("down");
        let left = inside("ip -o link");
        assert!(!left.contains("out@") && !left.contains("br-red") && !left.contains("v-"), "{left}");
        assert!(!inside("nft list tables").contains("viaduct"));
        world.good("apply");
        GUESTS.iter().for_each(|guest| drop(world.good(&format!("attach {guest} --netns {guest}"))));
        world.settled();
        all_get_out(world);
        assert!(!inside("ip -o link").contains("out@"));
        world.sh("kill $(cat /run/stays)");
        world.good("down");
    });
}

/// A stack is deleted by name again and again while it is made, changed and kept.
#[test]
fn a_stack_that_is_deleted_all_the_time() {
    host(|world| {
        made(world);
        let daemon = world.daemon();
        let foe = Again::and_again("ip netns del red", "0.05");
        for round in 0..6 {
            let ports = if round % 2 == 0 { "6000:5000/udp" } else { "5000:5000/udp" };
            world.write(CONFIG, ZONES.replace("5000:5000/udp", ports));
            let ran = world.viaduct("apply");
            assert!(matches!(ran.code(), 0 | 1), "{ran:?}");
            // Whoever is elsewhere hears nothing of it.
            assert!(world.echoes("two", "203.0.113.1") && world.echoes("three", "203.0.113.1"), "{ran:?}");
        }
        drop(foe);
        world.write(CONFIG, ZONES);
        world.soon("it can be applied", || world.viaduct("apply").code() == 0);
        world.soon("nothing is left to do", || world.viaduct("plan --exit-code").code() == 0);
        all_get_out(world);
        daemon.end();
        world.good("down");
        world.soon("all namespaces of the file are gone", || {
            let names = world.sh("ls /run/netns");
            !names.contains("red") && !names.contains("blue")
        });
    });
}

/// Many commands about guests of different stacks at once, some of them killed: each guest is there or not, as the last word
/// about it was.
#[test]
fn commands_about_several_stacks_at_once() {
    for by_a_daemon in [false, true] {
        host(move |world| {
            made(world);
            let daemon = by_a_daemon.then(|| world.daemon());
            for round in 0..4_u64 {
                let words =
                    ["detach one", "attach two --netns two", "detach three", "set one --publish 7000:7000"];
                let mut children: Vec<_> = words
                    .iter()
                    .map(|line| {
                        let words: Vec<&str> = line.split(' ').collect();
                        let mut command = world.command(&words);
                        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
                    })
                    .collect();
                thread::sleep(Duration::from_millis(20 * round));
                let _ = children[0].kill();
                for child in &mut children {
                    child.wait().unwrap();
                }
                for line in
                    ["attach one --netns one", "attach three --netns three", "set one --unpublish 7000:7000"]
                {
                    world.good(line);
                }
                world.settled();
                all_get_out(world);
            }
            if let Some(daemon) = daemon {
                daemon.end();
            }
        });
    }
}
