//! What a host is like after kills, full disks, reboots and failed steps; and that two at once do no harm.
#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

mod support;

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use support::{CONFIG, GOOD, RUN, STATE, World, host};

/// An uplink in a bridge: its addresses and routes move there and back.
const BRIDGED: &str = include_str!("../../../examples/openvz/viaduct.toml");

fn configurations() -> [String; 3] {
    let other = GOOD
        .replace("192.168.1.", "192.168.7.")
        .replace("mode = \"nat\"", "mode = \"nat\"\nbridge = \"br-other\"")
        .replace("389:389", "636:636");
    [GOOD.to_owned(), BRIDGED.to_owned(), other]
}

/// Starts an apply, and ends it by a signal after a while. Whether it was still there.
fn end_apply(world: &World, after: Duration, signal: Signal) -> bool {
    let mut command = world.command(&["apply"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    thread::sleep(after);
    let pid = Pid::from_child(&child);
    // Not waited for yet, the number is its own still.
    kill_process(pid, signal).unwrap();
    child.wait().unwrap().signal() == Some(signal.as_raw())
}

/// What comes from guests is filtered at any time.
#[track_caller]
fn closed(world: &World) {
    let ours = world.sh("ip -oneline link show group 1447641412 up");
    let tables = world.sh("nft list tables");
    assert!(ours.is_empty() || tables.contains("table inet viaduct"), "open:\n{ours}{tables}");
}

#[test]
fn killed_at_any_moment_the_host_stays_reachable_and_the_next_apply_arrives() {
    host(|world| {
        let configurations = configurations();
        world.good("apply");
        for guest in ["ldap", "deb6", "web"] {
            world.attach(guest);
        }
        world.write(CONFIG, &configurations[1]);
        let start = Instant::now();
        world.good("apply");
        let whole = start.elapsed();
        let (mut random, mut killed) = (0x2545_f491_u32, 0);
        for round in 0..200 {
            if killed == 40 {
                break;
            }
            world.write(CONFIG, &configurations[round % configurations.len()]);
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let after = whole.mul_f64(f64::from(random >> 16) / 65536.0);
            killed += u32::from(end_apply(world, after, Signal::KILL));
            closed(world);
            world.reachable();
            // Every other time it is killed on a host that was not put right in between.
            if round % 2 == 0 {
                world.good("apply");
                world.settled();
                world.reachable();
            }
        }
        assert_eq!(killed, 40, "it was done too soon to be killed so often");
        world.write(CONFIG, GOOD);
        world.good("apply");
        world.settled();
        world.reachable();
        assert!(!world.sh("ip link").contains("br-lan"), "something was left behind");
    });
}

#[test]
fn interrupted_by_hand_the_next_apply_arrives() {
    host(|world| {
        world.good("apply");
        world.write(CONFIG, BRIDGED);
        let mut interrupted = false;
        for millis in (2..60).step_by(4) {
            interrupted |= end_apply(world, Duration::from_millis(millis), Signal::INT);
            closed(world);
            world.reachable();
        }
        assert!(interrupted);
        world.good("apply");
        world.settled();
    });
}

#[test]
fn two_at_once_wait_for_each_other() {
    host(|world| {
        let [one, _, other] = configurations();
        world.write("/run/one.toml", one);
        world.write("/run/other.toml", other);
        for _ in 0..3 {
            let start = |config: &str| {
                let mut command = world.command(&["--config", config, "apply"]);
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            };
            let applies = ["/run/one.toml", "/run/other.toml"].map(start);
            for child in applies {
                let output = child.wait_with_output().unwrap();
                assert!(output.status.success(), "{output:?}");
            }
            // The host is what the one who was last wanted, wholly.
            let status = world.good("status --json").json();
            assert_eq!(status["drift"], serde_json::json!([]), "{status}");
        }
    });
}

#[test]
fn who_waits_is_told() {
    host(|world| {
        world.good("apply");
        let lock = fs::File::options().write(true).open(format!("{RUN}/lock")).unwrap();
        lock.lock().unwrap();
        let mut child =
            world.command(&["apply"]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        thread::sleep(Duration::from_millis(300));
        assert!(child.try_wait().unwrap().is_none());
        // What only looks does not wait.
        world.good("status");
        world.good("plan");
        drop(lock);
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).contains("Another viaduct is changing this host");
        assert!(output.status.success() && told, "{output:?}");
    });
}

#[test]
fn a_full_disk_leaves_everything_as_it_was() {
    host(|world| {
        for directory in [STATE, RUN] {
            world.sh(&format!("mkdir -p {directory} && mount -t tmpfs -o size=64k none {directory}"));
        }
        world.good("apply");
        world.attach("ldap");
        let [_, bridged, _] = configurations();
        for directory in [STATE, RUN] {
            let old = world.read(CONFIG);
            world.sh(&format!("cat /dev/zero > {directory}/full || true"));
            let full = format!("{directory}/full");
            let (kernel, memory) = (world.kernel(), world.memory());
            world.write(CONFIG, &bridged);
            for line in ["apply", "apply --json", "set ldap --publish 80:80", "attach web --tap"] {
                let ran = world.viaduct(line);
                // Only what has to be written there fails.
                if ran.code() == 0 {
                    assert!(directory == STATE && line.starts_with("attach"), "{ran:?}");
                    world.good("detach web");
                    continue;
                }
                ran.refused(
                    1,
                    &["cannot write", directory, "No space left on device", "Nothing was changed."],
                );
                world.unchanged(&kernel, &memory, line);
            }
            fs::remove_file(full).unwrap();
            world.write(CONFIG, old);
            world.settled();
        }
    });
}

/// What is remembered of many is added to, and may find room where nothing else does.
#[test]
fn a_full_disk_leaves_many_attachments_as_they_were() {
    host(|world| {
        world.sh(&format!("mkdir -p {RUN} && mount -t tmpfs -o size=64k none {RUN}"));
        world.good("apply");
        let other =
            |number| format!("\"other{number}.0\": {{ \"device\": {{ \"name\": \"other{number}\" }} }}");
        let others: Vec<String> = (0..100).map(other).collect();
        fs::write(format!("{RUN}/attachments.json"), format!("{{ {} }}\n", others.join(", "))).unwrap();
        world.attach("web");
        world.sh(&format!("ip netns add ldap; cat /dev/zero > {RUN}/full || true"));
        let kernel = world.kernel();
        let state =
            |guest: &str| world.good("status --json").json()["guests"][guest]["nics"][0]["state"].clone();
        let [ldap, web] = ["ldap", "web"].map(state);
        for line in ["attach ldap --netns ldap", "detach web"] {
            let said = ["cannot write", RUN, "No space left on device", "Nothing was changed."];
            world.viaduct(line).refused(1, &said);
            assert!(world.kernel() == kernel && state("ldap") == ldap && state("web") == web, "{line}");
        }
        fs::remove_file(format!("{RUN}/full")).unwrap();
        world.good("detach web");
        world.good("attach ldap --netns ldap");
        assert!(state("ldap") == web && state("web") == ldap);
    });
}

#[test]
fn after_a_reboot_the_next_apply_makes_it_all_again() {
    host(|world| {
        world.good("apply");
        world.attach("ldap");
        world.good("set web --publish 8080:80");
        fs::remove_dir_all(RUN).unwrap();
        world.reboot();
        let ran = world.good("status");
        assert!(ran.out.contains("has drifted") && ran.out.contains("detached"), "{ran:?}");
        world.good("apply");
        world.settled();
        world.sh("ip netns add again");
        world.good("attach ldap --netns again");
        world.settled();
        // Also when only the directory was lost: then the guests have to be attached anew.
        fs::remove_dir_all(RUN).unwrap();
        world.good("apply");
        world.settled();
        assert!(!world.sh("ip link").contains("v-ldap.0"));
        world.good("attach ldap --netns again");
        world.settled();
    });
}

#[test]
fn a_failed_step_takes_the_whole_change_back() {
    host(|world| {
        world.good("apply");
        world.attach("ldap");
        // Something stands in a guest's namespace where its NIC should be.
        world.sh("ip netns add other && ip -n other link add eth0 type bridge");
        let (kernel, memory) = (world.kernel(), world.memory());
        world.viaduct("attach web --netns other").refused(
            1,
            &["the name eth0 is taken by a device in /run/netns/other", "Everything is as it was before."],
        );
        world.unchanged(&kernel, &memory, "attach to a namespace in use");
        // A device that cannot be a port.
        world.sh("ip link add br-x type bridge && ip link set br-x up");
        let (kernel, memory) = (world.kernel(), world.memory());
        world.viaduct("--json attach web --device br-x").refused(1, &["bridge", "as it was before"]);
        world.unchanged(&kernel, &memory, "attach of a bridge");
        // Taps have a smaller largest MTU than bridges.
        world.good("attach web --tap");
        let (kernel, memory) = (world.kernel(), world.memory());
        world.write(CONFIG, GOOD.replace("[networks.services]", "[networks.services]\nmtu = 65535"));
        for line in ["apply", "apply --json"] {
            world.viaduct(line).refused(1, &["v-web.0 mtu 65535", "Everything is as it was before."]);
            world.unchanged(&kernel, &memory, "apply of an MTU too large");
        }
    });
}

#[test]
fn an_uplink_that_cannot_be_in_a_bridge_keeps_its_addresses() {
    host(|world| {
        // The uplink is a bridge itself, as on many hosts.
        world.sh(
            "ip link add br-old address 02:00:00:00:00:77 type bridge && ip link set br-old up && \
             ip address add 203.0.113.3/24 dev br-old && ip route add 198.51.100.0/24 via 203.0.113.9 dev br-old",
        );
        let kernel = world.kernel();
        world.write(CONFIG, BRIDGED.replace("\"eth0\"                      #", "\"br-old\" #"));
        world.viaduct("apply").refused(1, &["br-old", "bridge", "Everything is as it was before."]);
        world.unchanged(&kernel, &world.memory(), "apply");
    });
}
