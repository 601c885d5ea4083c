//! Changes that undo themselves, and the way back to earlier ones.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use support::{CONFIG, GOOD, RUN, STATE, World, host};

/// The good configuration with another published port.
fn other() -> String {
    GOOD.replace("203.0.113.2:389:389/tcp", "203.0.113.2:636:389/tcp")
}

/// A configuration that puts the uplink into a bridge, and its addresses and ways out on that.
fn bridged() -> String {
    format!("{GOOD}\n[networks.lan]\nmode = \"bridged\"\nuplink = \"wan\"\nbridge = \"br-lan\"\n")
}

/// The kernel's state once it is `wanted`; fails when it does not become so.
#[track_caller]
fn becomes(world: &World, wanted: &str, within: Duration) {
    let begin = Instant::now();
    // What is remembered is written right after it.
    while (world.kernel() != wanted || !guards().is_empty()) && begin.elapsed() < within {
        thread::sleep(Duration::from_millis(100));
    }
    same(world, wanted);
}

/// Nothing differs; what does is shown.
#[track_caller]
fn same(world: &World, wanted: &str) {
    world.unchanged(wanted, &world.memory(), "going there and back");
}

/// The processes that wait for a return on this host.
fn guards() -> Vec<Pid> {
    support::processes("return-unconfirmed")
}

#[test]
fn what_nobody_confirms_is_taken_back_whole() {
    host(|world| {
        world.attach("ldap");
        world.good("apply");
        let (before, memory) = (world.kernel(), world.read(format!("{STATE}/applied.json")));
        world.write(CONFIG, bridged());
        let ran = world.good("apply --confirm 2s");
        assert!(ran.out.contains("Unless `viaduct confirm` comes within 2s"), "{ran:?}");
        world.sh("ip address show dev br-lan | grep -q 203.0.113.2/24");
        let status = world.good("status --json").json();
        assert!((1..=2).contains(&status["unconfirmed"].as_u64().unwrap()), "{status}");
        becomes(world, &before, Duration::from_secs(10));
        world.reachable();
        assert_eq!(world.read(format!("{STATE}/applied.json")), memory);
        assert!(world.good("status --json").json()["unconfirmed"].is_null());
        world.viaduct("confirm").refused(1, &["too late", "viaduct rollback N"]);
        let history = world.good("history").out;
        assert!(history.lines().last().unwrap().contains("return, unconfirmed by viaduct"), "{history}");
    });
}

#[test]
fn who_waits_for_a_return_keeps_nothing_of_its_starter() {
    host(|world| {
        world.write(CONFIG, other());
        let apply = world.command(&["apply", "--confirm", "1h"]);
        // A script that must not run twice.
        let mut script = support::with_lock("/run/script.lock", &apply);
        assert!(script.output().unwrap().status.success());
        assert_eq!(guards().len(), 1);
        world.sh("flock --nonblock /run/script.lock true");
        world.good("confirm");
    });
}

#[test]
fn a_change_that_cuts_the_host_off_is_taken_back() {
    let with = |address: &str, gateway: &str| {
        let given = format!("\"eth0\"\naddresses = [\"{address}\"]\ngateways = [\"{gateway}\"]");
        GOOD.replace("\"eth0\"", &given)
    };
    host(move |world| {
        world.sh("ip route flush default && ip address flush dev eth0 scope global");
        world.sh("ip -n outside address add 203.0.113.1/24 dev eth0");
        world.write(CONFIG, with("203.0.113.2/24", "203.0.113.1"));
        world.good("apply");
        let outside_reaches = "ip netns exec outside ping -q -c 1 -W 1 203.0.113.2";
        world.sh(outside_reaches);
        let before = world.kernel();
        // A slip in a digit.
        world.write(CONFIG, with("203.0.131.2/24", "203.0.131.1").replace(":389:389", ":389:390"));
        world.good("apply --confirm 1s");
        world.sh(&format!("! {outside_reaches}"));
        becomes(world, &before, Duration::from_secs(10));
        world.sh(outside_reaches);
    });
}

#[test]
fn what_is_confirmed_stays() {
    host(|world| {
        world.good("apply");
        world.write(CONFIG, other());
        world.good("apply --confirm 2s");
        assert_eq!(world.good("confirm").out, "Confirmed: it stays.\n");
        let after = world.kernel();
        thread::sleep(Duration::from_millis(2700));
        same(world, &after);
        assert!(guards().is_empty(), "somebody still waits");
        assert_eq!(world.good("confirm").out, "Nothing waits to be confirmed.\n");
        assert!(!world.good("confirm --json").json()["confirmed"].as_bool().unwrap());
    });
}

#[test]
fn a_first_configuration_is_taken_back_to_nothing() {
    host(|world| {
        let before = world.kernel();
        world.good("apply --confirm 1s");
        assert!(world.kernel() != before);
        becomes(world, &before, Duration::from_secs(10));
        assert!(!world.good("status --json").json()["applied"].as_bool().unwrap());
    });
}

#[test]
fn whoever_comes_next_finishes_the_return() {
    host(|world| {
        world.good("apply");
        let before = world.kernel();
        world.write(CONFIG, bridged());
        world.good("apply --confirm 1s");
        let guards = guards();
        assert_eq!(guards.len(), 1);
        kill_process(guards[0], Signal::KILL).unwrap();
        thread::sleep(Duration::from_millis(1200));
        assert!(world.kernel() != before, "nobody is left to return by itself");
        // Whatever changes the host; here something that is not about the configuration at all.
        world.sh("ip netns add ldap");
        world.good("attach ldap --netns ldap");
        world.good("detach ldap");
        same(world, &before);
        world.viaduct("confirm").refused(1, &["too late"]);
    });
}

#[test]
fn the_return_comes_also_when_the_change_was_killed_half_way() {
    host(|world| {
        world.good("apply");
        let before = world.kernel();
        world.write(CONFIG, bridged());
        for delay in [4, 8, 12, 16, 24, 40] {
            let mut child = world
                .command(&["apply", "--confirm", "1s"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            thread::sleep(Duration::from_millis(delay));
            let _ = child.kill();
            child.wait().unwrap();
            becomes(world, &before, Duration::from_secs(15));
            // When it was killed before it had started who returns, nothing was changed, and this clears up.
            thread::sleep(Duration::from_millis(1100));
            world.viaduct("confirm");
        }
        world.reachable();
    });
}

#[test]
fn the_end_of_the_terminal_ends_no_return() {
    host(|world| {
        world.good("apply");
        let before = world.kernel();
        world.write(CONFIG, bridged());
        let line = format!(
            "/run/bin/viaduct --config {CONFIG} --state-dir {STATE} --run-dir {RUN} apply --confirm 1s; kill -9 0"
        );
        let status =
            Command::new("setsid").args(["--wait", "sh", "-c", &line]).stdout(Stdio::null()).status();
        assert!(!status.unwrap().success(), "the session and all that was in it was killed");
        becomes(world, &before, Duration::from_secs(10));
    });
}

#[test]
fn after_a_reboot_what_was_not_confirmed_does_not_come_back() {
    host(|world| {
        world.good("apply");
        world.write(CONFIG, other());
        world.good("apply --confirm 1h");
        for guard in guards() {
            kill_process(guard, Signal::KILL).unwrap();
        }
        // The same file from another boot.
        let path = format!("{STATE}/unconfirmed.json");
        let boot = world.read("/proc/sys/kernel/random/boot_id");
        world.write(&path, world.read(&path).replace(boot.trim(), "another"));
        world.reboot();
        world.write(CONFIG, GOOD);
        world.good("apply");
        assert!(world.sh("nft list ruleset").contains("389"));
        assert!(!world.sh("nft list ruleset").contains("636"));
    });
}

#[test]
fn an_unconfirmed_change_does_not_mix_with_others() {
    host(|world| {
        world.good("apply");
        let before = world.kernel();
        world.write(CONFIG, other());
        world.good("apply --confirm 1h");
        world
            .viaduct("apply")
            .refused(1, &["waits to be confirmed", "`viaduct confirm`", "`viaduct rollback`"]);
        world.viaduct("set web --publish 81:80").refused(1, &["waits to be confirmed"]);
        // Another unconfirmed one goes on from here, and returns to the same.
        world.write(CONFIG, bridged());
        world.good("apply --confirm 1h");
        // One that fails changes nothing of that.
        let kernel = world.kernel();
        world.write(CONFIG, GOOD.replace("\"eth0\"", "\"eth7\""));
        world.viaduct("apply --confirm 1s").refused(2, &["eth7"]);
        same(world, &kernel);
        world.good("rollback");
        same(world, &before);
        thread::sleep(Duration::from_millis(700));
        assert!(guards().is_empty(), "somebody still waits");
    });
}

#[test]
fn times_that_nobody_means_are_refused() {
    host(|world| {
        for time in ["0", "0s", "10ms", "48h", "-5s", "soon"] {
            let ran = world.viaduct(&format!("apply --confirm={time}"));
            ran.refused(2, &["write a time"]);
        }
        assert_eq!(world.memory(), []);
    });
}

#[test]
fn history_leads_back_to_any_revision() {
    host(|world| {
        assert_eq!(world.good("history").out, "Nothing was applied yet.\n");
        world.viaduct("rollback").refused(1, &["no earlier revision"]);
        world.good("apply");
        let first = world.kernel();
        world.good("apply");
        world.good("set web --publish 203.0.113.2:81:80");
        let second = world.kernel();
        world.write(CONFIG, other());
        world.good("apply");
        let third = world.kernel();
        let history = world.good("history --json").json();
        let actions: Vec<&str> =
            history["revisions"].as_array().unwrap().iter().map(|r| r["action"].as_str().unwrap()).collect();
        assert_eq!(actions, ["apply", "set web.0", "apply"]);
        let shown = world.good("history 3").out;
        assert!(shown.lines().any(|line| line.starts_with('+') && line.contains("636")), "{shown}");
        assert!(shown.lines().any(|line| line.starts_with('-') && line.contains("81")), "{shown}");
        world.good("rollback");
        same(world, &second);
        world.good("rollback 1");
        same(world, &first);
        world.good("rollback 3 --confirm 1h");
        same(world, &third);
        world.good("rollback");
        same(world, &first);
        world.viaduct("rollback 99").refused(2, &["no revision 99", "kept are 1 to"]);
        world.viaduct("history 99").refused(2, &["no revision 99"]);
        world.good("down");
        world.good("rollback");
        world.write(CONFIG, GOOD);
        world.settled();
    });
}

#[test]
fn the_last_twenty_revisions_are_kept() {
    host(|world| {
        for port in 1000..1022 {
            world.write(CONFIG, GOOD.replace(":389:", &format!(":{port}:")));
            world.good("apply");
        }
        let history = world.good("history --json").json();
        let numbers: Vec<u64> =
            history["revisions"].as_array().unwrap().iter().map(|r| r["number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (3..=22).collect::<Vec<_>>());
    });
}
