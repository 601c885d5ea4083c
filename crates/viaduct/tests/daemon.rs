//! The daemon: keeps the host as it was made, and does what the command line asks.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    fs,
    io::{self, BufRead, BufReader, Read},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use serde_json::Value;
use support::{CONFIG, GOOD, RUN, STATE, World, host};

/// A host that was made, with a guest of each kind, and a daemon that keeps it.
fn kept(world: &World) -> support::Daemon {
    world.good("apply");
    for guest in ["ldap", "web", "deb6"] {
        world.attach(guest);
    }
    world.daemon()
}

/// Nothing is left to do for long enough that nobody is about to change anything.
#[track_caller]
fn repaired(world: &World, after: &str) {
    world.soon(&format!("repaired after {after}"), || world.viaduct("plan --exit-code").code() == 0);
}

#[test]
fn commands_do_the_same_with_it() {
    let script = |world: &World| {
        let mut said = Vec::new();
        world.sh("ip netns add ldap; ip netns add web; ip netns add deb6");
        for line in [
            "plan --json",
            "attach web --netns web",
            "apply",
            "apply --json",
            "attach ldap --netns ldap --json",
            "attach ldap --netns ldap",
            "attach deb6 --netns /run/netns/deb6",
            "attach nobody --netns web",
            "attach spare --device eth7 --json",
            "attach spare --tap --owner nobody",
            "set web --publish 203.0.113.2:81:80 --address-add 192.168.1.40",
            "set web --publish 203.0.113.2:389:80",
            "set web --unpublish 203.0.113.2:81:80 --save --json",
            "announce 203.0.113.100",
            "announce 203.0.113.250 --json",
            "apply --confirm 1h",
            "set web --publish 203.0.113.2:82:80",
            "confirm",
            "history 1 --json",
            "history 77",
            "rollback 77",
            "detach spare",
            "detach spare",
            "exec ldap -- true",
            "down",
            "status",
        ] {
            let ran = world.viaduct(line);
            // Times and processes differ.
            let text = |text: &str| {
                let lines = text.lines().filter(|line| !line.contains("inode") && !line.contains("UTC"));
                lines.map(str::to_owned).collect::<Vec<_>>()
            };
            let out = if line.starts_with("history") { Vec::new() } else { text(&ran.out) };
            said.push((line, ran.status.code(), out, text(&ran.err)));
        }
        said
    };
    let (sender, receiver) = mpsc::channel();
    for with in [false, true] {
        let sender = sender.clone();
        host(move |world| {
            let daemon = with.then(|| world.daemon());
            sender.send(script(world)).unwrap();
            if let Some(daemon) = daemon {
                daemon.end();
            }
        });
    }
    let (without, with) = (receiver.recv().unwrap(), receiver.recv().unwrap());
    for (without, with) in without.iter().zip(&with) {
        assert_eq!(without, with);
    }
}

#[test]
fn whatever_others_change_is_put_right() {
    host(|world| {
        let daemon = kept(world);
        let link = world.good("status --json").json()["guests"]["deb6"]["nics"][0]["device"].clone();
        let link = link.as_str().unwrap();
        for (change, said) in [
            ("nft flush ruleset".to_owned(), "table inet viaduct was removed by nft"),
            ("nft delete table inet viaduct".to_owned(), "table inet viaduct was removed by nft"),
            ("nft flush chain inet viaduct through".to_owned(), "by nft"),
            (format!("nft add element inet viaduct open_host {{ {link} }}"), "by nft"),
            (format!("ip route del 203.0.113.100 dev {link}"), "203.0.113.100"),
            (format!("ip -6 route del 2001:db8:28:1::100 dev {link}"), "2001:db8:28:1::100"),
            ("ip address del 192.168.1.1/24 dev br-services".to_owned(), "192.168.1.1/24"),
            ("ip -6 address del fd00:1::1/64 dev br-services".to_owned(), "fd00:1::1/64"),
            (format!("ip link set {link} down"), "link"),
            ("ip link set br-services mtu 1400".to_owned(), "link br-services"),
            ("for v in 1 0; do echo $v > /proc/sys/net/ipv4/ip_forward; done".to_owned(), "sysctl net/ipv4/"),
            (
                "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding".to_owned(),
                "sysctl net/ipv6/conf/all/forwarding",
            ),
            (format!("echo 0 > /proc/sys/net/ipv4/conf/{link}/proxy_arp"), "proxy_arp"),
        ] {
            let number = world.repairs().len();
            world.sh(&change);
            world.soon(&format!("repaired within a second: {change}"), || world.repairs().len() > number);
            repaired(world, &change);
            let last = world.repairs().last().unwrap().clone();
            let changed = last["changed"].to_string();
            assert!(changed.contains(said), "{change}: {last:#}");
        }
        for change in [format!("ip link del {link}"), "ip link del br-services".to_owned()] {
            world.sh(&change);
            repaired(world, &change);
        }
        world.reachable();
        daemon.end();
    });
}

#[test]
fn what_is_not_ours_is_left_alone() {
    host(|world| {
        let daemon = kept(world);
        let number = world.repairs().len();
        for change in [
            "nft add table inet mine",
            "nft add chain inet mine forward { type filter hook forward priority 0 \\; policy drop \\; }",
            "ip link add mine type veth peer name theirs",
            "ip address add 10.9.9.9/24 dev mine && ip link set mine up",
            "ip route add 10.8.8.0/24 dev mine",
            "ip neighbour add proxy 10.7.7.7 dev mine",
            "echo 1 > /proc/sys/net/ipv4/conf/mine/proxy_arp",
        ] {
            world.sh(change);
        }
        let kernel = world.kernel();
        thread::sleep(Duration::from_millis(1500));
        assert!(kernel == world.kernel());
        assert_eq!(world.repairs().len(), number);
        daemon.end();
    });
}

#[test]
fn a_program_that_insists_is_not_fought_for_long() {
    host(|world| {
        let daemon = kept(world);
        // Takes the address away whenever it comes.
        let mut foe = std::process::Command::new("sh")
            .args(["-c", "while :; do ip address del 192.168.1.1/24 dev br-services; sleep 0.05; done"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let disputed = || world.good("status --json").json()["daemon"]["disputed"].to_string();
        world.soon("the daemon gives in", || disputed().contains("address 192.168.1.1/24 on br-services"));
        assert!(
            world.log().contains("another program keeps changing address 192.168.1.1/24"),
            "{}",
            world.log()
        );
        let number = world.repairs().len();
        assert!(number <= 4, "{:#?}", world.repairs());
        // Everything else is kept all the same.
        world.sh("nft flush ruleset");
        world.soon("the filter is back", || world.sh("nft list tables").contains("inet viaduct"));
        assert!(!world.sh("ip address show dev br-services").contains("192.168.1.1/24"));
        let _ = foe.kill();
        foe.wait().unwrap();
        world.soon("peace", || world.viaduct("plan --exit-code").code() == 0);
        daemon.end();
    });
}

#[test]
fn only_root_changes_and_the_group_looks() {
    host(|world| {
        let daemon = kept(world);
        world.as_nobody("status").refused(1, &["root", "group viaduct"]);
        // Like a member of the group: it may connect.
        world.sh(&format!("chmod 666 {RUN}/api.sock"));
        assert!(world.as_nobody("status").status.success());
        assert!(world.as_nobody("history").status.success());
        world.as_nobody("apply").refused(1, &["only root"]);
        world.as_nobody("down --json").refused(1, &["only root"]);
        world.as_nobody("detach web").refused(1, &["only root"]);
        world.settled();
        daemon.end();
    });
}

#[test]
fn two_daemons_do_not_keep_one_host() {
    host(|world| {
        let daemon = world.daemon();
        world.viaduct("daemon").refused(1, &["a daemon runs already"]);
        daemon.end();
        assert!(!fs::exists(format!("{RUN}/api.sock")).unwrap());
        world.daemon().end();
    });
}

#[test]
fn a_killed_daemon_is_not_missed_and_the_next_one_goes_on() {
    host(|world| {
        let daemon = kept(world);
        let kernel = world.kernel();
        drop(daemon);
        assert!(kernel == world.kernel());
        // Its socket is still there; nobody answers.
        world.good("status");
        world.settled();
        world.sh("ip address del 192.168.1.1/24 dev br-services");
        let daemon = world.daemon();
        repaired(world, "what happened meanwhile");
        let nics = world.good("status --json").json()["guests"]["web"]["nics"].clone();
        assert_eq!(nics[0]["state"], "up", "attachments survive");
        daemon.end();
    });
}

#[test]
fn nothing_of_its_starter_stays_open_in_it_or_its_processes() {
    host(|world| {
        let vnet = "[vnets.blue]\nid = \"5\"\n[networks.blue]\nmode = \"vnet\"\nvnet = \"blue\"\n";
        let served = GOOD.replace("[networks.services]", "[networks.services]\ndhcp = true");
        world.write(CONFIG, format!("{served}\n{vnet}"));
        world.good("apply");
        world.attach("ldap");
        // Also one that does not begin anew for the allocator's sake.
        for purge in [None, Some("0")] {
            let mut daemon = world.command(&["daemon"]);
            purge.map(|purge| daemon.env("MIMALLOC_PURGE_DELAY", purge));
            let daemon = world.daemon_by(&mut support::with_lock("/run/starter.lock", &daemon));
            for process in ["answer-guests", "carry-vnets"] {
                world.soon(process, || !support::processes(process).is_empty());
            }
            if purge.is_none() {
                world.sh("flock --nonblock /run/starter.lock true");
            }
            daemon.kill();
            // What it started goes on, or ends later than it.
            world.sh("flock --nonblock /run/starter.lock true");
        }
    });
}

#[test]
fn a_guest_that_is_gone_is_forgotten() {
    host(|world| {
        let daemon = kept(world);
        world.sh("ip netns del web");
        let attached = || world.read(format!("{RUN}/attachments.json")).contains("web");
        assert!(attached(), "a guest that restarts is away for a moment");
        world.soon("forgotten", || !attached());
        world.settled();
        daemon.end();
    });
}

#[test]
fn it_returns_what_nobody_confirms() {
    host(|world| {
        let daemon = kept(world);
        let before = world.kernel();
        world.write(CONFIG, GOOD.replace(":389:389", ":636:389"));
        world.good("apply --confirm 1s");
        assert!(before != world.kernel());
        world.soon("returned", || before == world.kernel());
        world.viaduct("confirm").refused(1, &["too late"]);
        // A daemon that is killed meanwhile is replaced by who waits besides.
        world.good("apply --confirm 1s");
        drop(daemon);
        world.soon("returned", || before == world.kernel());
    });
}

#[test]
fn events_tell_what_happens() {
    host(|world| {
        let daemon = kept(world);
        let mut listener = world.command(&["events", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(listener.stdout.take().unwrap()).lines();
        let (sender, events) = mpsc::channel::<Value>();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        thread::sleep(Duration::from_millis(300));
        let expect = |kind: &str| loop {
            let event = events.recv_timeout(Duration::from_secs(10)).unwrap_or_else(|_| panic!("no {kind}"));
            if event["event"] == kind {
                return event;
            }
        };
        world.good("set web --publish 203.0.113.2:81:80");
        assert_eq!(expect("changed")["action"], "set");
        world.sh("nft delete table inet viaduct");
        assert!(expect("repaired")["changed"].to_string().contains("by nft"));
        // A spoofed source.
        world.sh("ip -n web address add 192.168.1.99/24 dev eth0 && \
             ! ip netns exec web ping -q -c 1 -W 1 -I 192.168.1.99 192.168.1.1");
        assert!(expect("dropped")["drops"]["arp"]["packets"].as_u64().unwrap() > 0);
        world.sh("ip netns del deb6");
        assert_eq!(expect("detached")["nic"], "deb6.0");
        daemon.end();
        listener.wait().unwrap();
    });
    host(|world| {
        world.viaduct("events").refused(1, &["no daemon runs"]);
    });
}

#[test]
fn damaged_memory_is_told_and_the_network_goes_on() {
    host(|world| {
        let daemon = kept(world);
        let kernel = world.kernel();
        world.write(&format!("{STATE}/applied.json"), "{ \"sources\": [");
        world.viaduct("status").refused(1, &["applied.json is damaged", "Run `viaduct apply`"]);
        thread::sleep(Duration::from_millis(300));
        assert!(kernel == world.kernel());
        daemon.end();
        // A new one keeps what there is, and says why it does no more.
        let log = fs::File::create("/run/daemon.log").unwrap();
        let mut child = world.command(&["daemon"]).stderr(log).spawn().unwrap();
        world.soon("it says so", || world.log().contains("applied.json is damaged"));
        assert!(kernel == world.kernel());
        world.good("apply");
        world.settled();
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn at_rest_it_does_nothing() {
    host(|world| {
        let daemon = kept(world);
        let ticks = || {
            let stat = world.read(format!("/proc/{}/stat", daemon.id()));
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        };
        thread::sleep(Duration::from_secs(2));
        let before = ticks();
        thread::sleep(Duration::from_secs(3));
        let worked = ticks() - before;
        // Other tests' writes under /proc/sys wake it.
        assert!(worked <= 5, "it worked for {worked} of 300 ticks");
        daemon.end();
    });
}

/// Half of what a look needed, and more, is for the look alone.
#[test]
fn memory_that_a_look_needed_is_given_back() {
    host(|world| {
        let mut text = GOOD.to_owned();
        for number in 0..3000 {
            let (high, low) = (number / 250, number % 250);
            text += &format!(
                "[guests.many{number}]\nid = {}\n[[guests.many{number}.nics]]\nnetwork = \"public\"\n\
                 addresses = [\"2001:db8:28:1::{high:x}:{low:x}\"]\n",
                1000 + number
            );
        }
        world.write(CONFIG, text);
        world.good("apply");
        let daemon = world.daemon();
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u32>().unwrap()
        };
        // Without the program itself.
        let (peak, resident) = (kib("VmHWM:") - kib("RssFile:"), kib("RssAnon:"));
        assert!(resident < peak / 3 * 2, "{resident} KiB of {peak} KiB");
    });
}

/// Stands before the daemon's socket, passes on what is said there, and counts who comes.
fn counted() -> Arc<AtomicUsize> {
    let (socket, daemons) = (format!("{RUN}/api.sock"), format!("{RUN}/daemons.sock"));
    fs::rename(&socket, &daemons).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counting = count.clone();
    let copy = |mut from: UnixStream, mut to: UnixStream| {
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    };
    thread::spawn(move || {
        for caller in listener.incoming() {
            counting.fetch_add(1, Ordering::SeqCst);
            let (caller, daemon) = (caller.unwrap(), UnixStream::connect(&daemons).unwrap());
            copy(caller.try_clone().unwrap(), daemon.try_clone().unwrap());
            copy(daemon, caller);
        }
    });
    count
}

/// It may end, or begin, in between: who was asked is who has done it.
#[test]
fn the_daemon_that_takes_all_down_is_looked_for_once() {
    host(|world| {
        let daemon = kept(world);
        let calls = counted();
        world.good("down");
        // One more, before whom all others were counted.
        let mut last = UnixStream::connect(format!("{RUN}/api.sock")).unwrap();
        last.shutdown(Shutdown::Write).unwrap();
        last.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(calls.load(Ordering::SeqCst), 1 + 1);
        assert!(!world.sh("ip link").contains("br-services"), "it is down");
        daemon.end();
    });
}
