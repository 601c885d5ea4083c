//! What works against a host in more than one way at once: disks that are full while everything dies, guests that went
//! before the configuration returned, and programs that undo each change while one waits to be confirmed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{fs, time::Duration};

use support::{Again, CONFIG, GOOD, RUN, STATE, World, host, processes};

/// The good configuration with guests that are answered, and one in a vnet that another host is in.
fn served(world: &World) -> String {
    let key = world.sh("/run/bin/viaduct --state-dir /run/other identity");
    let good = GOOD.replace("[networks.services]", "[networks.services]\ndhcp = true");
    format!(
        r#"{good}
[peers.other]
endpoint = "203.0.113.1:1798"
key = "{}"

[vnets.blue]
id = "97"
peers = ["other"]

[networks.blue]
mode = "vnet"
vnet = "blue"
subnets = ["10.97.0.0/24"]

[guests.one]
[[guests.one.nics]]
network = "blue"
addresses = ["10.97.0.1"]
"#,
        key.split_whitespace().last().unwrap()
    )
}

/// The daemon, the process that answers guests and the one that carries vnets end in the same moment, and nobody can
/// write anything down, neither here nor there.
#[test]
fn all_that_dies_on_full_disks_comes_back_as_it_was() {
    host(|world| {
        for directory in [STATE, RUN] {
            world.sh(&format!("mkdir -p {directory} && mount -t tmpfs -o size=256k none {directory}"));
        }
        world.write(CONFIG, served(world));
        world.made();
        world.attach("one");
        let helpers = || ["answer-guests", "carry-vnets"].map(|name| processes(name).len());
        let _daemon = world.daemon();
        world.soon("guests are answered, and vnets carried", || helpers() == [1, 1]);
        let identity = world.good("identity").out;
        for directory in [STATE, RUN] {
            world.sh(&format!("cat /dev/zero > {directory}/full || true"));
        }
        let files = ["state/applied.json", "viaduct/attachments.json", "viaduct/sysctl-journal.json"];
        let memory = || files.map(|file| world.read(format!("/run/{file}")));
        let before = memory();
        // What cannot be written down is not done, by the daemon either.
        world.sh("ip netns add spare");
        for line in ["detach web", "attach spare --netns spare"] {
            world.viaduct(line).refused(1, &["No space left on device", "Nothing was changed."]);
            assert_eq!(memory(), before, "{line}");
            world.settled();
        }
        world.all_ways(true, "on full disks");
        world.kill_all();
        assert_eq!(helpers(), [0, 0]);
        world.sh("nft flush ruleset && ip link del v-web.0 && ip address del 192.168.1.1/24 dev br-services");

        let daemon = world.daemon();
        world.soon("all of it is back", || helpers() == [1, 1]);
        world.settled();
        world.all_ways(true, "made anew on full disks");
        assert_eq!(world.good("identity").out, identity);
        let vnets = world.good("status --json").json();
        assert!(vnets.to_string().contains("203.0.113.1:1798"), "the vnet is carried: {vnets:#}");
        assert_eq!(memory(), before);

        for directory in [STATE, RUN] {
            fs::remove_file(format!("{directory}/full")).unwrap();
        }
        world.good("detach web");
        world.good("attach web --netns web");
        world.good("set web --publish 81:80");
        world.good("set web --unpublish 81:80");
        world.all_ways(true, "with room again");
        daemon.end();
    });
}

/// The configuration returns to guests whose namespaces and devices went meanwhile: the rest is made, and they are when
/// they are there again.
#[test]
fn a_rollback_to_guests_that_are_gone_makes_the_rest() {
    for by_a_daemon in [false, true] {
        host(move |world| {
            world.made();
            world.sh("ip link add vif1.0 type veth peer name far && ip link set vif1.0 up");
            world.good("attach spare --device vif1.0");
            let daemon = by_a_daemon.then(|| world.daemon());
            let without = GOOD.split("[guests.deb6]").next().unwrap();
            world.write(CONFIG, without.replace("203.0.113.2:389:389/tcp", "203.0.113.2:636:389/tcp"));
            world.good("apply");
            // The numbers of namespaces that are gone are given anew at once.
            world.sh("ip netns del deb6 && ip link del vif1.0 && ip netns del ldap");
            let back = world.good("rollback 1");
            for gone in ["deb6", "ldap", "vif1.0"] {
                assert!(back.err.contains(gone) && back.err.contains("is gone"), "{back:?}");
            }
            world.write(CONFIG, GOOD);
            world.soon("nothing is left to do", || world.viaduct("plan --exit-code").code() == 0);
            assert!(world.echoes("web", "203.0.113.1"));
            let rules = world.sh("nft list ruleset");
            assert!(rules.contains("389") && !rules.contains("636"), "{rules}");
            // Nothing is let in to who is not there.
            assert!(!world.sh("nft list set inet viaduct attached4").contains("203.0.113.100"));
            for guest in ["ldap", "deb6"] {
                world.attach(guest);
            }
            world.sh("ip link add vif1.0 type veth peer name far && ip link set vif1.0 up");
            world.good("attach spare --device vif1.0");
            world.settled();
            world.all_ways(true, "there again");
            if let Some(daemon) = daemon {
                daemon.end();
            }
        });
    }
}

/// A daemon that keeps the host, one more that would, somebody who takes all filters away fifty times a second, and a
/// change that nobody confirms.
#[test]
fn a_change_is_made_and_taken_back_while_filters_are_flushed_all_the_time() {
    host(|world| {
        world.made();
        let daemon = world.daemon();
        let before = world.kernel();
        let foe = Again::and_again("nft flush ruleset", "0.02");
        world.viaduct("daemon").refused(1, &["a daemon runs already"]);
        for _ in 0..2 {
            world.write(CONFIG, GOOD.replace("203.0.113.2:389:389/tcp", "203.0.113.2:636:389/tcp"));
            // The foe may be in the way of each step; then nothing waits, and it is as before.
            let ran = world.viaduct("apply --confirm 2s");
            let waits = ran.status.success();
            assert!(waits || ran.code() == 1, "{ran:?}");
            world.soon("nothing waits any more", || {
                world.good("status --json").json()["unconfirmed"].is_null()
            });
            if waits {
                world.viaduct("confirm").refused(1, &["too late"]);
            }
            world.write(CONFIG, GOOD);
        }
        world.soon("the daemon says so", || {
            world.log().contains("another program keeps changing the packet filter")
        });
        drop(foe);
        world.soon("it is as before", || world.kernel() == before);
        world.settled();
        world.all_ways(true, "in peace");
        daemon.end();
    });
}

/// Both families' forwarding, and that of one device, are switched off fifty times a second.
#[test]
fn settings_that_are_flipped_all_the_time_are_left_for_a_while_and_said_to_be() {
    host(|world| {
        world.made();
        let daemon = world.daemon();
        let (v4, v6) = ("net/ipv4/conf/eth0/forwarding", "net/ipv6/conf/all/forwarding");
        let foe = Again::and_again(&format!("echo 0 > /proc/sys/{v4}; echo 0 > /proc/sys/{v6}"), "0.02");
        for setting in [v4, v6] {
            let said = format!("another program keeps changing sysctl {setting}");
            world.soon("the daemon gives in", || world.log().contains(&said));
            let disputed = || world.good("status --json").json()["daemon"]["disputed"].to_string();
            world.soon("status says so", || disputed().contains(setting));
        }
        // With the first repair that is not undone before it is looked at.
        world.within(Duration::from_secs(40), "it is said who", || {
            world.log().contains("was changed by sh (process")
        });
        // All else is kept meanwhile.
        world.sh("nft flush ruleset");
        world.soon("the filter is back", || world.sh("nft list tables").contains("inet viaduct"));
        drop(foe);
        world.within(Duration::from_secs(60), "peace", || world.viaduct("plan --exit-code").code() == 0);
        world.all_ways(true, "in peace");
        daemon.end();
    });
}
