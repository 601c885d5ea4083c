//! Namespaces that guests share: made before any guest starts, shared, kept, and gone without a trace; and the hooks of
//! a guest's life. With real packets, as far as this kernel has the devices.
#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

mod support;

use std::{fs, os::unix::fs::PermissionsExt, process::Stdio, thread, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use support::{CONFIG, World, host};

/// Two second network cards on the uplink's segment, in namespaces of their own.
const SHARED: &str = r#"
[host]
name = "iron"

[uplinks.trunk]
interface = "eth0"

[namespaces.dmz]
id = 42
[[namespaces.dmz.interfaces]]
name = "mac0"
type = "macvlan"
parent = "trunk"
addresses = ["203.0.113.9/24", "2001:db8:28::9/64"]
gateways = ["203.0.113.1", "2001:db8:28::1"]

[namespaces.office]
[[namespaces.office.interfaces]]
name = "mac0"
type = "macvlan"
parent = "trunk"
mtu = 1400
addresses = ["203.0.113.10/24"]

[guests.mail]
namespace = "dmz"

[guests.www]
namespace = "dmz"

[guests.files]
namespace = "office"

[guests.mail.hooks]
prepare = "/run/hooks/log"
started = "/run/hooks/log"
stopping = "/run/hooks/log"
stopped = "/run/hooks/log"
"#;

const LOG: &str = "/run/hooks/said";

fn outside(world: &World) {
    for line in [
        "ip -n outside address add 203.0.113.1/24 dev eth0",
        "ip -n outside address add 2001:db8:28::1/64 dev eth0 nodad",
    ] {
        world.sh(line);
    }
}

fn hook(world: &World, text: &str) {
    world.write("/run/hooks/log", text);
    fs::set_permissions("/run/hooks/log", fs::Permissions::from_mode(0o755)).unwrap();
}

fn logging(world: &World) {
    hook(
        world,
        "#!/bin/sh\nread -r devices\necho \"$VIADUCT_PHASE $VIADUCT_GUEST $VIADUCT_NAMESPACE $devices\" >> /run/hooks/said\n",
    );
}

#[test]
fn groups_have_their_own_stacks_and_leave_nothing_behind() {
    host(|world| {
        outside(world);
        let before = world.kernel();
        world.write(CONFIG, SHARED);
        world.good("apply");
        world.settled();
        // As `ip netns` sees it, up and running, with the derived MAC.
        let inside = world.sh("ip -n dmz -oneline link show mac0");
        assert!(inside.contains("02:00:00:00:2a:00") && inside.contains("UP,LOWER_UP"), "{inside}");
        assert!(world.sh("ip -n office link show mac0").contains("mtu 1400"));
        // Both guests of the group see it; the other group does not, and nor does the host.
        for guest in ["mail", "www", "dmz"] {
            let seen = world.good(&format!("exec {guest} -- ip -oneline address"));
            assert!(
                seen.out.contains("203.0.113.9/24") && seen.out.contains("2001:db8:28::9/64"),
                "{seen:?}"
            );
        }
        let seen = world.good("exec files -- ip -oneline address");
        assert!(seen.out.contains("203.0.113.10/24") && !seen.out.contains("203.0.113.9"), "{seen:?}");
        assert!(!world.sh("ip -oneline address").contains("203.0.113.9/"));
        // From outside, and by the gateways.
        for ping in [
            "ip netns exec outside ping -c1 -W5 203.0.113.9",
            "ip netns exec outside ping -c1 -W5 2001:db8:28::9",
            "ip netns exec outside ping -c1 -W5 203.0.113.10",
            "ip netns exec dmz ping -c1 -W5 203.0.113.1",
            "ip netns exec dmz ping -c1 -W5 2001:db8:28::1",
        ] {
            world.sh(ping);
        }
        assert!(world.sh("ip -n dmz route show default").contains("via 203.0.113.1 dev mac0"));
        assert!(world.sh("ip -6 -n dmz route show default").contains("via 2001:db8:28::1 dev mac0"));

        let status = world.good("status --json").json();
        assert_eq!(status["namespaces"]["dmz"]["guests"], serde_json::json!(["mail", "www"]));
        assert_eq!(status["namespaces"]["dmz"]["interfaces"][0]["state"], "up");
        assert_eq!(status["drift"], serde_json::json!([]));
        assert!(world.good("status").out.contains("macvlan of eth0"));

        world.good("down");
        assert_eq!(world.sh("ip netns list | sed 's/ .*//'"), "outside\n");
        assert_eq!(world.kernel(), before);
    });
}

#[test]
fn only_the_macs_of_the_file_leave() {
    host(|world| {
        outside(world);
        world.write(CONFIG, SHARED);
        world.good("apply");
        world.sh("ip netns exec dmz ping -c1 -W5 203.0.113.1");
        world.sh("ip -n dmz link set mac0 down; ip -n dmz link set mac0 address 02:aa:aa:aa:aa:aa up");
        let ping =
            "ip netns exec dmz ping -c2 -i0.2 -W1 203.0.113.1 >/dev/null && echo out || echo held back";
        assert_eq!(world.sh(ping), "held back\n");
        let leaks = &world.good("status --json").json()["uplinks"]["trunk"]["leaks"]["leak"]["packets"];
        assert!(leaks.as_u64().unwrap() > 0, "{leaks}");
        world.good("apply");
        world.sh("ip netns exec dmz ping -c1 -W5 203.0.113.1");
    });
}

#[test]
fn what_changes_is_changed_and_what_drifts_comes_back() {
    host(|world| {
        outside(world);
        world.write(CONFIG, SHARED);
        world.good("apply");
        for drift in [
            "ip -n dmz address del 203.0.113.9/24 dev mac0",
            "ip -n dmz link set mac0 down",
            "ip -n dmz link del mac0",
            "ip -n dmz link set lo down",
            "ip -n office link set mac0 mtu 1300",
            "ip netns del dmz",
        ] {
            world.sh(drift);
            let ran = world.viaduct("plan --exit-code");
            assert_eq!(ran.code(), 3, "{drift}: {ran:?}");
            world.good("apply");
            world.settled();
        }
        // Other addresses, another namespace less.
        let text = SHARED
            .replace("203.0.113.9/24", "203.0.113.19/24")
            .replace("namespaces.office", "namespaces.desks");
        world.write(CONFIG, text.replace("\"office\"", "\"desks\""));
        world.good("apply");
        world.settled();
        world.sh("ip netns exec outside ping -c1 -W5 203.0.113.19");
        let names = world.sh("ip netns list");
        assert!(names.contains("desks") && !names.contains("office"), "{names}");
        assert!(!world.sh("ip -n dmz -oneline address").contains("203.0.113.9/"));
    });
}

#[test]
fn one_that_was_there_is_adopted_and_stays() {
    host(|world| {
        outside(world);
        world.sh("ip netns add dmz; ip -n dmz link add own type veth peer name other; ip -n dmz address add 10.9.9.9/24 dev own");
        world.write(CONFIG, SHARED);
        world.good("apply");
        world.settled();
        assert_eq!(world.good("status --json").json()["namespaces"]["dmz"]["adopted"], true);
        world.sh("ip netns exec outside ping -c1 -W5 203.0.113.9");
        world.good("down");
        let left = world.sh("ip -n dmz -oneline address");
        assert!(left.contains("10.9.9.9/24") && !left.contains("mac0"), "{left}");

        // A device of somebody else's has the name.
        world.sh("ip -n dmz link set own name mac0");
        let ran = world.viaduct("apply");
        ran.refused(2, &["dmz", "mac0", "not Viaduct's"]);
        assert!(!world.sh("ip netns list").contains("office"), "half of it was made");
    });
}

#[test]
fn what_is_not_there_is_said_with_its_line() {
    host(|world| {
        world.write(CONFIG, SHARED.replace("interface = \"eth0\"", "interface = \"eth7\""));
        world.viaduct("apply").refused(2, &["eth7", "viaduct.toml"]);
        let vlan = SHARED.replacen("type = \"macvlan\"", "type = \"vlan\"\nvlan = 2", 1);
        world.write(CONFIG, vlan);
        let ran = world.viaduct("apply");
        // Where the kernel has VLANs, it works.
        if !ran.status.success() {
            ran.refused(2, &["802.1Q", "mac0", "viaduct.toml"]);
        }
    });
}

#[test]
fn a_guest_lives_between_its_hooks() {
    host(|world| {
        outside(world);
        logging(world);
        world.write(CONFIG, SHARED);
        world.viaduct("start mail -- true").refused(2, &["viaduct apply"]);
        world.good("apply");
        // Up and running before the guest starts; what it says and how it ends is passed on.
        let start = [
            "start",
            "mail",
            "--",
            "sh",
            "-c",
            "cat /sys/class/net/mac0/carrier; echo >> /run/hooks/said guest; exit 7",
        ];
        let ran = world.ran("start mail", &mut world.command(&start));
        assert_eq!((ran.code(), ran.out.as_str()), (7, "1\n"), "{ran:?}");
        let said = world.read(LOG);
        let words: Vec<&str> = said.lines().filter_map(|line| line.split(' ').next()).collect();
        // The guest runs while `started` is told.
        let mut sorted = words.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, ["guest", "prepare", "started", "stopped", "stopping"], "{said}");
        assert_eq!((words[0], &words[3..]), ("prepare", &["stopping", "stopped"][..]), "{said}");
        assert!(said.contains("prepare mail dmz") && said.contains("203.0.113.9/24"), "{said}");

        // Asked to end, it hears of it after its hook.
        fs::remove_file(LOG).unwrap();
        let trap =
            "trap 'echo ended >> /run/hooks/said; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
        let mut command = world.command(&["start", "mail", "--", "sh", "-c", trap]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        thread::sleep(Duration::from_millis(300));
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(3));
        let said = world.read(LOG);
        let words: Vec<&str> = said.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(words, ["prepare", "started", "stopping", "ended", "stopped"], "{said}");

        // One that fails at the beginning stops it, with its words.
        hook(world, "#!/bin/sh\necho no room >&2\nexit 1\n");
        let ran = world.viaduct("start mail -- touch /run/hooks/ran");
        ran.refused(1, &["prepare", "no room", "not started"]);
        assert!(!fs::exists("/run/hooks/ran").unwrap());
        // As does one that takes too long.
        hook(world, "#!/bin/sh\nexec sleep 60\n");
        world.write(CONFIG, SHARED.replace("stopped = ", "timeout = 1\nstopped = "));
        world.good("apply");
        world.viaduct("start mail -- true").refused(1, &["prepare", "longer"]);
        // A guest without hooks has none.
        assert_eq!(world.viaduct("start www -- sh -c true").code(), 0);
    });
}

#[test]
fn a_hook_may_ask_the_daemon() {
    host(|world| {
        outside(world);
        world.write(CONFIG, SHARED);
        world.good("apply");
        let daemon = world.daemon();
        hook(
            world,
            "#!/bin/sh\nexec /run/bin/viaduct --state-dir /run/state --run-dir /run/viaduct status --json\n",
        );
        assert_eq!(world.viaduct("start mail -- true").code(), 0);
        // A namespace that goes is made again, with what was in it.
        world.sh("ip netns del dmz");
        world.soon("the namespace is back", || {
            world.viaduct("exec dmz -- ping -c1 -W1 203.0.113.1").status.success()
        });
        daemon.end();
        world.good("down");
    });
}

#[test]
fn devices_of_one_parent_reach_each_other_as_their_mode_says() {
    host(|world| {
        outside(world);
        let reach = "ip netns exec dmz ping -c1 -W1 203.0.113.10 > /dev/null && echo yes || echo no";
        let mode = |mode: &str| {
            SHARED.replace("type = \"macvlan\"", &format!("type = \"macvlan\"\nmode = \"{mode}\""))
        };
        for (word, reached) in [("bridge", "yes\n"), ("private", "no\n")] {
            world.write(CONFIG, mode(word));
            world.good("apply");
            world.settled();
            assert!(world.sh("ip -n dmz -d link show mac0").contains(&format!("mode {word}")));
            world.sh("ip netns exec outside ping -c1 -W5 203.0.113.9");
            assert_eq!(world.sh(reach), reached, "{word}");
        }
        // One that wants its parent for itself.
        world.write(CONFIG, mode("passthru"));
        world.viaduct("check").refused(2, &["passthru", "another parent"]);
    });
}

#[test]
fn routes_of_the_file_are_kept() {
    host(|world| {
        outside(world);
        let routes = "gateways = [\"203.0.113.1\", \"2001:db8:28::1\"]\n\
            routes = [\"198.51.100.0/24 via 203.0.113.7\", \"2001:db8:9::/48 via 2001:db8:28::7\"]";
        let text = SHARED.replace("gateways = [\"203.0.113.1\", \"2001:db8:28::1\"]", routes);
        assert_ne!(text, SHARED);
        world.write(CONFIG, &text);
        world.good("apply");
        world.settled();
        let far = "ip -n dmz route get 198.51.100.9; ip -n dmz -6 route get 2001:db8:9::9";
        let shown = world.sh(far);
        assert!(shown.contains("via 203.0.113.7") && shown.contains("via 2001:db8:28::7"), "{shown}");
        world.sh("ip -n dmz route del 198.51.100.0/24");
        assert_eq!(world.viaduct("plan --exit-code").code(), 3);
        world.good("apply");
        assert_eq!(world.sh(far), shown);
        world.write(CONFIG, SHARED);
        world.good("apply");
        assert!(world.sh("ip -n dmz route get 198.51.100.9").contains("via 203.0.113.1"));
    });
}

/// A card that is down carries something; when that is taken away, it is as it was found.
#[test]
fn a_card_that_was_down_is_down_again_when_nothing_stands_on_it() {
    host(|world| {
        world.sh("ip link add annex type veth peer name far && ip link set far up");
        let with = SHARED
            .replace("[uplinks.trunk]", "[uplinks.annex]\ninterface = \"annex\"\n\n[uplinks.trunk]")
            .replacen("parent = \"trunk\"", "parent = \"annex\"", 1);
        world.write(CONFIG, &with);
        let is_up = || world.sh("ip link show annex").contains(",UP");
        let is_marked = || world.sh("ip link show annex").contains("alias viaduct:carrier:down");
        for gone in ["down", "apply", "up", "address"] {
            assert!(gone == "address" || !is_up());
            world.write(CONFIG, &with);
            world.good("apply");
            world.settled();
            assert!(is_up());
            if gone == "up" {
                // With a daemon, which looks again and again.
                let daemon = world.daemon();
                world.settled();
                daemon.end();
            }
            if gone == "address" {
                world.sh("ip address add 198.51.100.7/24 dev annex");
            }
            assert!(is_marked());
            if gone == "apply" {
                world.write(CONFIG, SHARED);
                world.good("apply");
                world.settled();
            } else {
                world.good("down");
            }
            assert!(!is_marked(), "{gone}");
            assert_eq!(is_up(), gone == "address", "{gone}");
        }
    });
}
