//! When a machine starts: closed before it has a network, and made when it has one.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{fs, time::Duration};

use support::{CONFIG, GOOD, STATE, World, host};

/// Two machines beside the host, which are no business of ours, and which it forwards for.
fn bystanders(world: &World) {
    for (number, name) in ["a", "b"].iter().enumerate() {
        world.sh(&format!(
            "ip netns add {name} && ip link add v{name} type veth peer name eth0 netns {name} && \
             ip address add 10.9.{number}.1/24 dev v{name} && ip link set v{name} up && \
             ip -n {name} address add 10.9.{number}.2/24 dev eth0 && ip -n {name} link set eth0 up && \
             ip -n {name} route add default via 10.9.{number}.1"
        ));
    }
    world.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
}

/// Whether a packet comes through the host, from one bystander to the other.
fn passes(world: &World) -> bool {
    world.sh("ip netns exec a ping -c 3 -i 0.1 -W 1 10.9.1.2 || true").contains("bytes from")
}

#[test]
fn nothing_passes_from_the_start_until_the_rest_is_made() {
    host(|world| {
        world.good("apply");
        world.attach("ldap");
        world.reboot();
        world.sh("ip link del eth0; ip netns del outside");
        bystanders(world);
        assert!(passes(world), "this host forwards");
        let ran = world.good("boot");
        assert!(ran.out.contains("Nothing passes through this host"), "{ran:?}");
        assert!(!passes(world), "something passes");
        world.sh("ip netns exec a ping -c 1 -W 5 10.9.0.1");
        // The filter is the whole one already.
        let filter = world.sh("nft list table inet viaduct");
        assert!(filter.contains("chain through") && filter.contains("br-services"), "{filter}");

        // No uplink, nothing made; and still nothing passes.
        let daemon = world.daemon();
        world
            .soon("it says what it lacks", || world.good("status --json").out.contains("has no device eth0"));
        assert!(!passes(world), "something passes without an uplink");
        assert!(!world.sh("ip link").contains("br-services"));

        // What the guest was attached as is gone, and it is not missed.
        world.plug_in();
        world.soon("the host is made", || world.sh("ip link").contains("br-services"));
        world.settled();
        assert!(passes(world), "what is none of our business is still closed");
        let filter = world.sh("nft list table inet viaduct");
        assert!(!filter.contains("until_made"), "{filter}");
        world.soon("no attachment is left", || {
            world.read(format!("{}/attachments.json", support::RUN)).trim() == "{}"
        });
        world.attach("ldap");
        world.sh("ip netns exec ldap ping -c 1 -W 5 192.168.1.1");
        daemon.end();
    });
}

#[test]
fn a_host_that_is_made_is_not_closed() {
    host(|world| {
        world.good("apply");
        let (kernel, memory) = (world.kernel(), world.memory());
        let ran = world.good("boot");
        assert!(ran.out.contains("in place already"), "{ran:?}");
        world.unchanged(&kernel, &memory, "boot");
    });
}

#[test]
fn a_host_that_was_given_nothing_stays_open() {
    host(|world| {
        let kernel = world.kernel();
        let ran = world.good("boot --json");
        assert_eq!(ran.json(), serde_json::json!({ "applied": false, "returned": false, "done": [] }));
        assert_eq!(world.kernel(), kernel);
    });
}

#[test]
fn what_nobody_confirmed_does_not_outlive_a_restart() {
    host(|world| {
        world.good("apply");
        world.write(CONFIG, GOOD.replace("203.0.113.2:389:389/tcp", "203.0.113.2:636:389/tcp"));
        world.good("apply --confirm 1h");
        // Not while the machine runs.
        world.good("boot");
        assert!(world.read(format!("{STATE}/applied.json")).contains("203.0.113.2:636"));
        restart(world);
        let ran = world.good("boot");
        assert!(ran.err.contains("it was taken back"), "{ran:?}");
        let filter = world.sh("nft list table inet viaduct");
        assert!(filter.contains("389") && !filter.contains("636"), "{filter}");
        assert!(!fs::exists(format!("{STATE}/unconfirmed.json")).unwrap());
        let history = world.good("history").out;
        assert!(history.lines().last().unwrap().contains("return, unconfirmed"), "{history}");
        let _daemon = world.daemon();
        world.soon("the host is made", || world.sh("ip link").contains("br-services"));
        assert!(world.read(format!("{STATE}/applied.json")).contains("203.0.113.2:389"));
    });
}

/// The machine is another boot's; what waits for a return on it is gone.
fn restart(world: &World) {
    world.reboot();
    let path = format!("{STATE}/unconfirmed.json");
    let boot = world.read("/proc/sys/kernel/random/boot_id");
    let waiting = world.read(&path);
    assert!(waiting.contains(boot.trim()));
    world.write(&path, waiting.replace(boot.trim(), "00000000-0000-0000-0000-000000000000"));
}

#[test]
fn a_first_change_that_nobody_confirmed_leaves_an_open_host() {
    host(|world| {
        world.good("apply --confirm 1h");
        restart(world);
        let ran = world.good("boot");
        assert!(ran.out.contains("Nothing is applied"), "{ran:?}");
        assert!(!world.sh("nft list tables").contains("viaduct"));
    });
}

#[test]
fn a_damaged_memory_closes_the_host_and_says_so() {
    host(|world| {
        world.good("apply");
        world.reboot();
        bystanders(world);
        world.write(&format!("{STATE}/applied.json"), "{ \"sources\": [");
        world.viaduct("boot").refused(1, &["is damaged", "nothing passes", "viaduct apply"]);
        assert!(!passes(world), "something passes");
        world.viaduct("boot --json").refused(1, &["is damaged"]);
        // The way out that it names.
        world.good("apply");
        std::thread::sleep(Duration::from_millis(100));
        world.settled();
        assert!(passes(world), "still closed");
    });
}

/// What was applied is of an earlier version, which took what this one does not.
fn applied_by_an_earlier_version(world: &World) {
    let path = format!("{STATE}/applied.json");
    let applied = world.read(&path);
    assert!(applied.contains("mode = \\\"nat\\\""), "{applied}");
    world.write(&path, applied.replace("mode = \\\"nat\\\"", "mode = \\\"nat-of-old\\\""));
}

#[test]
fn what_an_earlier_version_applied_and_this_one_refuses_closes_a_host_that_starts() {
    host(|world| {
        world.good("apply");
        world.reboot();
        bystanders(world);
        assert!(passes(world), "this host forwards");
        applied_by_an_earlier_version(world);
        let ran = world.viaduct("boot");
        ran.refused(1, &["finds fault", "nat-of-old", "nothing passes", "viaduct apply"]);
        assert!(!ran.err.contains("in place already"), "{ran:?}");
        assert!(!passes(world), "something passes");
        // It stays so, also with a daemon, and says so.
        let daemon = world.begin_daemon(&mut world.command(&["daemon"]));
        world.soon("it says what the matter is", || world.log().contains("nat-of-old"));
        world.viaduct("status").refused(1, &["finds fault", "nat-of-old", "viaduct apply"]);
        assert!(!passes(world), "something passes");
        assert!(!world.sh("ip link").contains("br-services"), "something is made");
        world.good("plan");
        // The way out that it names.
        world.good("apply");
        world.settled();
        assert!(passes(world), "still closed");
        assert!(world.sh("ip link").contains("br-services"));
        world.good("status");
        daemon.end();
    });
}

#[test]
fn what_an_earlier_version_applied_and_this_one_refuses_goes_on_while_the_machine_runs() {
    host(|world| {
        world.good("apply");
        world.attach("ldap");
        applied_by_an_earlier_version(world);
        let kernel = world.kernel();
        let goes_on = |what: &str| {
            assert_eq!(world.kernel(), kernel, "{what}");
            world.sh("ip netns exec ldap ping -c 1 -W 5 192.168.1.1");
        };
        let ran = world.viaduct("boot");
        ran.refused(1, &["finds fault", "nat-of-old", "in place already stays", "viaduct apply"]);
        assert!(!ran.err.contains("nothing passes"), "{ran:?}");
        goes_on("boot");
        // As after an upgrade.
        let daemon = world.begin_daemon(&mut world.command(&["daemon"]));
        world.soon("it says what the matter is", || world.log().contains("nat-of-old"));
        world.viaduct("status").refused(1, &["finds fault", "nat-of-old", "viaduct apply"]);
        goes_on("daemon");
        world.good("apply");
        world.settled();
        assert!(world.good("status").out.contains("as it was made"));
        world.sh("ip netns exec ldap ping -c 1 -W 5 192.168.1.1");
        daemon.end();
    });
}
