//! The life of a namespace: it begins with the first of its guests and ends with the last one, whatever else happens; and
//! containers that somebody else starts in a namespace of the file, or whose own becomes one.
#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

mod support;

use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use support::{CONFIG, World, host};

const SHARED: &str = r#"
[host]
name = "iron"

[uplinks.trunk]
interface = "eth0"

[namespaces.dmz]
[[namespaces.dmz.interfaces]]
name = "mac0"
type = "macvlan"
parent = "trunk"
addresses = ["203.0.113.9/24"]

[namespaces.dmz.hooks]
prepare = "/run/hooks/log"
started = "/run/hooks/log"
stopping = "/run/hooks/log"
stopped = "/run/hooks/log"
timeout = 5

[guests.mail]
namespace = "dmz"

[guests.www]
namespace = "dmz"

[guests.mail.hooks]
prepare = "/run/hooks/log"
started = "/run/hooks/log"
stopping = "/run/hooks/log"
stopped = "/run/hooks/log"
"#;

const LOG: &str = "/run/hooks/said";
const VIADUCT: &str =
    "/run/bin/viaduct --config /run/etc/viaduct.toml --state-dir /run/state --run-dir /run/viaduct";

/// Every hook is this program.
fn hook(world: &World, text: &str) {
    world.write("/run/hooks/log", format!("#!/bin/sh\nread -r input\n{text}\n"));
    fs::set_permissions("/run/hooks/log", fs::Permissions::from_mode(0o755)).unwrap();
}

const SAY: &str = "echo \"$VIADUCT_HOOK $VIADUCT_PHASE\" >> /run/hooks/said";

fn said() -> Vec<String> {
    fs::read_to_string(LOG).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn forget() {
    let _ = fs::remove_file(LOG);
}

/// Starts a guest that runs until it is asked to end.
fn start(world: &World, guest: &str) -> Child {
    let script = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let mut command = world.command(&["start", guest, "--", "sh", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    child
}

fn stop(mut child: Child) {
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn it_begins_with_the_first_guest_and_ends_with_the_last() {
    host(|world| {
        world.connect_outside();
        hook(world, SAY);
        world.write(CONFIG, SHARED);
        world.good("apply");
        let mail = start(world, "mail");
        world.soon("it has started", || said().len() == 4);
        assert_eq!(said(), ["namespace prepare", "guest prepare", "namespace started", "guest started"]);
        forget();
        // A second one neither begins nor ends anything.
        let www = start(world, "www");
        stop(www);
        assert_eq!(said(), [""; 0]);
        let www = start(world, "www");
        stop(mail);
        assert_eq!(said(), ["guest stopping", "guest stopped"]);
        forget();
        stop(www);
        assert_eq!(said(), ["namespace stopping", "namespace stopped"]);
        forget();
        // It outlives them all.
        assert!(world.echoes("outside", "203.0.113.9"));
        assert_eq!(world.viaduct("start mail -- false").code(), 1);
        assert_eq!(
            said(),
            [
                "namespace prepare",
                "guest prepare",
                "namespace started",
                "guest started",
                "guest stopping",
                "namespace stopping",
                "guest stopped",
                "namespace stopped",
            ]
        );
    });
}

#[test]
fn many_that_start_at_once_begin_it_once() {
    host(|world| {
        hook(world, &format!("{SAY}; sleep 0.2"));
        let text = SHARED.split("[guests.mail.hooks]").next().unwrap().to_owned();
        world.write(CONFIG, text);
        world.good("apply");
        let all: Vec<Child> = (0..6)
            .map(|n| if n % 2 == 0 { "mail" } else { "www" })
            .map(|guest| {
                let mut command = world.command(&[
                    "start",
                    guest,
                    "--",
                    "sh",
                    "-c",
                    "echo up >> /run/hooks/said; sleep 1.5",
                ]);
                command.stderr(Stdio::null()).spawn().unwrap()
            })
            .collect();
        for mut child in all {
            assert_eq!(child.wait().unwrap().code(), Some(0));
        }
        let said = said();
        assert_eq!(said[0], "namespace prepare");
        let times = |word: &str| said.iter().filter(|line| *line == word).count();
        assert_eq!(
            (times("up"), times("namespace prepare"), times("namespace stopped")),
            (6, 1, 1),
            "{said:?}"
        );
        assert_eq!(said.last().unwrap(), "namespace stopped");
    });
}

#[test]
fn what_fails_at_the_beginning_leaves_no_half() {
    host(|world| {
        world.write(CONFIG, SHARED);
        let only = |owner: &str, text: &str| {
            format!("{SAY}; [ \"$VIADUCT_HOOK $VIADUCT_PHASE\" = '{owner} prepare' ] && {text}; exit 0")
        };
        hook(world, &only("namespace", "{ echo no room >&2; exit 1; }"));
        world.good("apply");
        let begin = "start mail -- touch /run/hooks/ran";
        world.viaduct(begin).refused(1, &["prepare", "namespace dmz", "no room", "not started"]);
        assert_eq!(said(), ["namespace prepare"]);
        forget();
        hook(world, &only("guest", "exit 1"));
        world.viaduct(begin).refused(1, &["prepare", "guest mail", "not started"]);
        assert_eq!(said(), ["namespace prepare", "guest prepare", "namespace stopped"]);
        forget();
        hook(world, &only("namespace", "exec sleep 60"));
        world.write(CONFIG, SHARED.replace("timeout = 5", "timeout = 1"));
        world.good("apply");
        world.viaduct(begin).refused(1, &["prepare", "namespace dmz", "longer"]);
        forget();
        assert!(!fs::exists("/run/hooks/ran").unwrap());
        // A program that is not there, of a guest that is the first.
        hook(world, SAY);
        assert_ne!(world.viaduct("start mail -- /no/such/program").code(), 0);
        assert_eq!(said().last().unwrap(), "namespace stopped");
        forget();
        // Killed in the middle, the next one begins anew.
        let mut mail = start(world, "mail");
        // What its hooks have not said yet would be said among the next one's.
        world.soon("it has started", || said().len() == 4);
        mail.kill().unwrap();
        mail.wait().unwrap();
        forget();
        let www = start(world, "www");
        assert_eq!(said()[0], "namespace prepare");
        stop(www);
    });
}

/// A hook that takes too long ends with all that it started; one that talks without end, or reads nothing, just ends.
#[test]
fn a_hook_is_held_to_its_time_and_to_nothing_else() {
    host(|world| {
        let many: Vec<String> = (0..3000).map(|number| format!("\"fd00::{:x}/64\"", number + 1)).collect();
        let file = SHARED
            .replace("timeout = 5", "timeout = 2")
            .replace("[\"203.0.113.9/24\"]", &format!("[{}]", many.join(", ")));
        world.write(CONFIG, file);
        let program = |text: &str| {
            world.write("/run/hooks/log", format!("#!/bin/sh\n{text}\n"));
            fs::set_permissions("/run/hooks/log", fs::Permissions::from_mode(0o755)).unwrap();
        };
        program("exit 0");
        world.good("apply");
        let begin = "start mail -- touch /run/hooks/ran";
        // What it is given is more than a pipe holds.
        program("(sleep 301 & setsid sleep 301 & sleep 301); exit 0");
        world.viaduct(begin).refused(1, &["prepare", "namespace dmz", "longer"]);
        let left = "grep -lz '^VIADUCT_HOOK_RUN=' /proc/[0-9]*/environ 2>/dev/null | while read -r file; do \
                    [ \"$(readlink ${file%environ}ns/mnt)\" = \"$(readlink /proc/self/ns/mnt)\" ] && echo $file; done; true";
        assert_eq!(world.sh(left), "");
        program(
            "head -c 300000 /dev/zero | tr '\\0' x; echo; echo \"$VIADUCT_HOOK $VIADUCT_PHASE\" >> /run/hooks/said",
        );
        world.good(begin);
        assert!(fs::exists("/run/hooks/ran").unwrap());
        assert_eq!(said().len(), 8, "{:?}", said());
    });
}

#[test]
fn hooks_call_the_program_itself() {
    host(|world| {
        world.connect_outside();
        hook(
            world,
            &format!(
                "{VIADUCT} apply && {VIADUCT} status --json >/dev/null && {VIADUCT} exec dmz -- true && {SAY}"
            ),
        );
        world.write(CONFIG, SHARED);
        world.good("apply");
        for with_daemon in [false, true] {
            let daemon = with_daemon.then(|| world.daemon());
            assert_eq!(world.viaduct("start mail -- true").code(), 0);
            assert_eq!(said().len(), 8, "{:?}", said());
            forget();
            daemon.into_iter().for_each(support::Daemon::end);
        }
        // What it would wait for is itself.
        hook(world, &format!("[ $VIADUCT_HOOK = namespace ] || exit 0; {VIADUCT} start www -- true"));
        world.viaduct("start mail -- true").refused(1, &["cannot start a guest in it"]);
        // A guest's own hook may start another one.
        hook(
            world,
            &format!(
                "[ \"$VIADUCT_HOOK $VIADUCT_PHASE\" = 'guest prepare' ] || exit 0; {VIADUCT} start www -- touch /run/hooks/ran"
            ),
        );
        assert_eq!(world.viaduct("start mail -- true").code(), 0);
        assert!(fs::exists("/run/hooks/ran").unwrap());
    });
}

#[test]
fn containers_of_others_join() {
    host(|world| {
        world.connect_outside();
        hook(world, SAY);
        // One that is there before: its own namespace becomes the file's.
        let mut container = world_process("unshare --net sleep 100");
        thread::sleep(Duration::from_millis(300));
        world.sh(&format!("ip netns attach dmz {}", container.id()));
        world.write(CONFIG, SHARED);
        world.good("apply");
        world.settled();
        assert_eq!(world.good("status --json").json()["namespaces"]["dmz"]["adopted"], true);
        let inside = |command: &str, id: u32| world.sh(&format!("nsenter --net=/proc/{id}/ns/net {command}"));
        assert!(inside("ip -oneline address", container.id()).contains("203.0.113.9/24"));
        world.soon("it is reached", || world.echoes("outside", "203.0.113.9"));
        // One that joins by path.
        let mut second = world_process("nsenter --net=/run/netns/dmz sleep 100");
        thread::sleep(Duration::from_millis(300));
        assert!(inside("ip -oneline address", second.id()).contains("203.0.113.9/24"));
        world.good("down");
        // They have what was theirs.
        assert!(!inside("ip -oneline link", container.id()).contains("mac0"));
        for child in [&mut container, &mut second] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // One that a program starts which makes no namespace of its own, as systemd-nspawn and LXC without a network.
        world.sh("ip netns del dmz");
        world.good("apply");
        let ran = world.viaduct("start www -- unshare --mount --pid --fork ip -oneline address show mac0");
        assert!(ran.out.contains("203.0.113.9/24"), "{ran:?}");
    });
}

fn world_process(line: &str) -> Child {
    let words: Vec<&str> = line.split(' ').collect();
    std::process::Command::new(words[0]).args(&words[1..]).spawn().unwrap()
}
