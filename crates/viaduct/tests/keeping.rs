//! What a daemon keeps, seen by packets: repairs and who made them necessary, programs that reload, a program that
//! insists, full disks, damaged memory, and the end of everything at once.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::net::UnixDatagram,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use support::{Again, CONFIG, GOOD, RUN, STATE, World, host};

/// Guests of each kind with somebody outside, and a daemon.
fn kept(world: &World) -> support::Daemon {
    world.made();
    world.daemon()
}

#[test]
fn packets_pass_again_after_whatever_others_did() {
    host(|world| {
        let daemon = kept(world);
        world.all_ways(true, "before");
        let link = world.good("status --json").json()["guests"]["deb6"]["nics"][0]["device"].clone();
        let link = link.as_str().unwrap();
        for change in [
            "nft flush ruleset".to_owned(),
            format!("ip link del {link}"),
            "ip link del v-web.0".to_owned(),
            "ip link del br-services".to_owned(),
            "ip link set br-services down".to_owned(),
            "ip link set v-web.0 nomaster".to_owned(),
            format!("ip route del 203.0.113.100 dev {link}; ip -6 route del 2001:db8:28:1::100 dev {link}"),
            "ip address flush dev br-services; ip -6 address flush dev br-services".to_owned(),
            "for v in 1 0; do echo $v >/proc/sys/net/ipv4/ip_forward; done; \
             echo 0 >/proc/sys/net/ipv6/conf/all/forwarding"
                .to_owned(),
            format!("echo 0 >/proc/sys/net/ipv4/conf/{link}/proxy_arp"),
            "ip neighbour flush proxy; ip -6 neighbour flush proxy; \
             nft flush chain inet viaduct through"
                .to_owned(),
        ] {
            let number = world.repairs().len();
            world.sh(&change);
            world.soon(&format!("repaired after {change}"), || {
                world.repairs().len() > number && world.viaduct("plan --exit-code").code() == 0
            });
            world.all_ways(true, &change);
        }
        daemon.end();
    });
}

#[test]
fn a_foreign_drop_is_nobody_s_to_take_away() {
    host(|world| {
        let daemon = kept(world);
        let number = world.repairs().len();
        world.sh("nft add table inet mine && \
             nft 'add chain inet mine forward { type filter hook forward priority 10; policy drop; }'");
        world.all_ways(false, "with a policy of somebody else's");
        assert_eq!(world.viaduct("plan --exit-code").code(), 0);
        let report = world.viaduct("doctor --json").json();
        assert!(report["findings"][0]["title"].as_str().unwrap().contains("inet mine"), "{report}");
        assert_eq!(world.repairs().len(), number, "what is not ours is never fought over");
        world.sh("nft delete table inet mine");
        world.all_ways(true, "without it");
        daemon.end();
    });
}

/// How firewalld 1.3 loads its rules: its tables away and there again, in one transaction; then what is interested in
/// the world's state is told.
const FIREWALLD: &str = "add table inet firewalld
delete table inet firewalld
table inet firewalld {
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname \"lo\" accept
        jump filter_FORWARD_POLICIES
        ct state invalid drop
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD_POLICIES {
        iifname { \"br-services\", \"vif*\", \"veth*\", \"eth0\" } accept
    }
    chain nat_POSTROUTING {
        type nat hook postrouting priority srcnat + 10; policy accept;
    }
}
";

/// What Docker does when it starts: its chains emptied and filled anew, by iptables.
const DOCKER: &str = "
for tool in iptables-nft ip6tables-nft; do
    $tool -w -N DOCKER-USER; $tool -w -N DOCKER; $tool -w -N DOCKER-FORWARD
    $tool -w -t nat -N DOCKER
    $tool -w -F DOCKER-FORWARD; $tool -w -t nat -F DOCKER
    $tool -w -D FORWARD -j DOCKER-USER; $tool -w -D FORWARD -j DOCKER-FORWARD
    $tool -w -I FORWARD -j DOCKER-FORWARD; $tool -w -I FORWARD -j DOCKER-USER
    $tool -w -A DOCKER-FORWARD -i docker0 -j ACCEPT
    $tool -w -t nat -A DOCKER -i docker0 -j RETURN
done
for setting in ipv4/ip_forward ipv6/conf/all/forwarding; do echo 1 >/proc/sys/net/$setting; done
true";

#[test]
fn programs_that_reload_their_own_rules_are_not_minded() {
    host(|world| {
        world.write("/run/firewalld.nft", FIREWALLD);
        world.write("/run/docker.sh", DOCKER);
        world.made();
        // It was there before, and has switched forwarding on.
        world.sh("sh /run/docker.sh 2>/dev/null");
        let daemon = world.daemon();
        world.all_ways(true, "before");
        let number = world.repairs().len();
        for _ in 0..6 {
            world.sh("nft -f /run/firewalld.nft");
            world.sh("sh /run/docker.sh 2>/dev/null");
        }
        world.all_ways(true, "after six reloads of each");
        assert_eq!(world.repairs().len(), number, "{:#?}", world.repairs());
        assert_eq!(world.good("status --json").json()["daemon"]["disputed"], serde_json::json!([]));
        daemon.end();
    });
}

/// nftables.service, and firewalld with `FlushAllOnReload` of old, take everybody's rules away before they load theirs.
#[test]
fn a_reload_that_takes_ours_away_is_told_with_its_maker_and_repaired_each_time() {
    host(|world| {
        world.write("/run/all.nft", format!("flush ruleset\n{FIREWALLD}"));
        let daemon = kept(world);
        for round in 1..=8 {
            world.sh("nft -f /run/all.nft");
            let begin = Instant::now();
            while !world.sh("nft list tables").contains("inet viaduct") {
                // Whatever else the machine does: it is not left for the ten seconds that a dispute takes.
                assert!(
                    begin.elapsed() < Duration::from_secs(5),
                    "not repaired in round {round}: {}",
                    world.log()
                );
                thread::sleep(Duration::from_millis(10));
            }
        }
        world.soon("all is well", || world.viaduct("plan --exit-code").code() == 0);
        world.all_ways(true, "after eight reloads");
        let last = world.repairs().last().unwrap().clone();
        assert!(
            last["changed"].to_string().contains("table inet viaduct was removed by nft (process"),
            "{last:#}"
        );
        assert!(last["done"].to_string().contains("+ nft table inet viaduct"), "{last:#}");
        let log = world.log();
        assert!(log.contains("table inet viaduct was removed by nft (process"), "{log}");
        assert!(log.contains("put right: "), "{log}");
        assert!(world.sh("nft list tables").contains("inet firewalld"), "theirs stays");
        daemon.end();
    });
}

/// The foe never rests; the daemon gives in after the third repair, looks twice a second while it lasts, and keeps
/// everything else.
#[test]
fn a_dispute_costs_few_looks() {
    host(|world| {
        world.made();
        let daemon = world.daemon_by(world.command(&["daemon"]).env("VIADUCT_LOG", "debug"));
        let number = world.repairs().len();
        let looks = || world.log().lines().filter(|line| line.contains("planned pass=0")).count();
        let ticks = || {
            let stat = world.read(format!("/proc/{}/stat", daemon.id()));
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        };
        let (before, begin, spent) = (looks(), Instant::now(), ticks());
        let foe =
            Again::and_again("ip link set br-services mtu 1401; ip link set br-services mtu 1402", "0.02");
        let disputed = || world.good("status --json").json()["daemon"]["disputed"].to_string();
        world.soon("the daemon gives in", || disputed().contains("link br-services"));
        assert!(world.log().contains("another program keeps changing link br-services"), "{}", world.log());
        thread::sleep(Duration::from_secs(6));
        let (looked, elapsed) = (looks() - before, begin.elapsed().as_secs_f64());
        // Three repairs have a look each, some find it done halfway; from then on two a second.
        let most = 16.0 + 2.2 * elapsed;
        println!("{looked} looks and {} ticks of the processor in {elapsed:.1} s", ticks() - spent);
        assert!((looked as f64) < most, "{looked} looks in {elapsed} s");
        assert!(world.repairs().len() <= number + 4, "{:#?}", world.repairs());
        // Others' deeds are repaired all the while.
        world.sh("nft flush ruleset");
        world.soon("the filter is back", || world.sh("nft list tables").contains("inet viaduct"));
        drop(foe);
        world.soon("peace", || world.viaduct("plan --exit-code").code() == 0);
        world.all_ways(true, "in peace");
        daemon.end();
    });
}

/// A slip that cuts the way to the host, by a daemon asked from a session; then all of them are gone at once, with
/// whoever waits for the return.
#[test]
fn what_cut_the_host_off_returns_though_everything_was_killed() {
    let with = |address: &str, gateway: &str| {
        let given = format!("\"eth0\"\naddresses = [\"{address}\"]\ngateways = [\"{gateway}\"]");
        GOOD.replace("\"eth0\"", &given)
    };
    host(move |world| {
        world.sh("ip route flush default && ip address flush dev eth0 scope global");
        world.sh("ip -n outside address add 203.0.113.1/24 dev eth0");
        world.write(CONFIG, with("203.0.113.2/24", "203.0.113.1"));
        world.good("apply");
        let before = world.kernel();
        for late in [true, false] {
            let daemon = world.daemon();
            assert!(world.echoes("outside", "203.0.113.2"));
            world.write(CONFIG, with("203.0.131.2/24", "203.0.131.1"));
            let session = format!(
                "/run/bin/viaduct --config {CONFIG} --state-dir {STATE} --run-dir {RUN} apply --confirm 4s; sleep 60"
            );
            let mut session = Command::new("setsid").args(["--wait", "sh", "-c", &session]).spawn().unwrap();
            world.soon("the host is cut off", || !world.sh("ip address").contains("203.0.113.2/24"));
            world.soon("it is made", || world.good("status --json").json()["unconfirmed"].is_u64());
            drop(daemon);
            world.kill_all();
            session.wait().unwrap();
            assert!(!world.echoes("outside", "203.0.113.2"), "nobody is left who returns");
            if late {
                thread::sleep(Duration::from_secs(4));
                assert!(!world.sh("ip address").contains("203.0.113.2/24"), "somebody was left");
            }
            // Whoever starts next.
            let daemon = world.daemon();
            world.soon("it returned", || world.sh("ip address").contains("203.0.113.2/24"));
            world.soon("it is as before", || world.kernel() == before);
            assert!(world.echoes("outside", "203.0.113.2"));
            world.viaduct("confirm").refused(1, &["too late"]);
            daemon.end();
        }
    });
}

#[test]
fn two_at_once_by_the_daemon_and_past_it() {
    host(|world| {
        let daemon = kept(world);
        let children: Vec<Child> = (0..6)
            .map(|number| {
                let line = match number % 3 {
                    0 => "apply".to_owned(),
                    1 => format!("set web --publish {}:80", 8000 + number),
                    _ => format!("set ldap --publish {}:389", 9000 + number),
                };
                let words: Vec<&str> = line.split(' ').collect();
                world.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        // And one that works by itself, as the daemon's socket is out of its sight.
        world.sh(&format!("mv {RUN}/api.sock {RUN}/elsewhere"));
        world.good("set web --publish 8100:80");
        world.sh(&format!("mv {RUN}/elsewhere {RUN}/api.sock"));
        world.soon("all is as the last one wanted", || {
            world.viaduct("plan --exit-code --json").code() == 0 || {
                let status = world.good("status --json").json();
                status["drift"] == serde_json::json!([])
            }
        });
        world.good("set web --unpublish 8100:80");
        world.good("apply");
        world.settled();
        world.all_ways(true, "after all of them");
        daemon.end();
    });
}

#[test]
fn a_full_disk_stops_changes_and_no_repair() {
    host(|world| {
        world.sh(&format!("mkdir -p {STATE} && mount -t tmpfs -o size=64k none {STATE}"));
        let daemon = kept(world);
        world.sh(&format!("cat /dev/zero > {STATE}/full || true"));
        let (kernel, memory) = (world.kernel(), world.memory());
        for line in ["set web --publish 81:80", "apply --confirm 1h", "rollback"] {
            let ran = world.viaduct(line);
            assert_eq!(ran.code(), 1, "{ran:?}");
            assert!(line == "rollback" || ran.err.contains("No space left on device"), "{ran:?}");
            world.unchanged(&kernel, &memory, line);
        }
        world.sh("nft flush ruleset && ip address del 192.168.1.1/24 dev br-services");
        world.soon("repaired", || world.viaduct("plan --exit-code").code() == 0);
        world.all_ways(true, "repaired on a full disk");
        fs::remove_file(format!("{STATE}/full")).unwrap();
        world.good("set web --publish 81:80");
        daemon.end();
    });
}

/// That the way out is back is worth more than that it can be written down.
#[test]
fn a_full_disk_keeps_no_unconfirmed_change() {
    host(|world| {
        world.sh(&format!("mkdir -p {STATE} && mount -t tmpfs -o size=64k none {STATE}"));
        world.good("apply");
        world.attach("ldap");
        let applied = format!("{STATE}/applied.json");
        let (before, memory) = (world.kernel(), world.read(&applied));
        for by_a_daemon in [false, true] {
            let daemon = by_a_daemon.then(|| world.daemon());
            world.write(CONFIG, GOOD.replace("203.0.113.2:389:389/tcp", "203.0.113.2:636:389/tcp"));
            world.good("apply --confirm 3s");
            world.sh(&format!("cat /dev/zero > {STATE}/full || true"));
            assert!(world.kernel() != before);
            world.soon("it returned", || world.kernel() == before);
            if by_a_daemon {
                // Nor does the daemon make it again.
                world.sh("nft flush ruleset");
                world.soon("repaired", || world.kernel() == before);
            }
            world.viaduct("confirm").refused(1, &["too late"]);
            assert!(world.kernel() == before);
            fs::remove_file(format!("{STATE}/full")).unwrap();
            world.soon("it is written down", || world.read(&applied) == memory);
            world.write(CONFIG, GOOD);
            world.settled();
            if let Some(daemon) = daemon {
                daemon.end();
            }
        }
    });
}

/// What may become of a file.
fn damages(good: &str) -> Vec<(&'static str, String)> {
    let half = good.len() / 2;
    vec![
        ("truncated", good.get(..half).unwrap().to_owned()),
        ("garbage", "\u{1}\u{2}garbage\u{0}\u{7f}".to_owned()),
        ("of another version", good.replacen('{', "{ \"version\": 2,", 1)),
        ("empty", String::new()),
    ]
}

/// Each kind of file that is kept, and what the way out is that is named.
#[test]
fn each_kind_of_damaged_memory_has_a_way_out_that_works() {
    host(|world| {
        world.made();
        world.good("set web --publish 81:80");
        world.good("set web --unpublish 81:80");
        world.write(CONFIG, GOOD.replace(":389:389", ":636:389"));
        world.good("apply --confirm 1h");
        let kernel = world.kernel();
        let unconfirmed = format!("{STATE}/unconfirmed.json");
        let last = world.sh(&format!("ls {STATE}/history | sort -n | tail -1"));
        let history = format!("{STATE}/history/{}", last.trim());

        for (damage, text) in damages(&world.read(&unconfirmed)) {
            let good = world.read(&unconfirmed);
            fs::write(&unconfirmed, text).unwrap();
            for line in ["confirm", "apply", "status"] {
                world.viaduct(line).refused(1, &["unconfirmed.json is damaged", "Remove it to keep"]);
            }
            world.unchanged(&kernel, &world.memory(), damage);
            fs::remove_file(&unconfirmed).unwrap();
            assert_eq!(world.good("confirm").out, "Nothing waits to be confirmed.\n");
            world.settled();
            fs::write(&unconfirmed, good).unwrap();
        }
        world.good("confirm");

        for (damage, text) in damages(&world.read(&history)) {
            let good = world.read(&history);
            fs::write(&history, text).unwrap();
            let name = format!("{} is damaged", last.trim());
            let way_out = "Remove it: only this revision is lost";
            let shown = world.good("history");
            assert!(shown.err.contains(&name) && shown.err.contains(way_out), "{shown:?}");
            assert_eq!(shown.out.lines().count(), 3, "the others: {shown:?}");
            // It may be what is applied, or what was before that.
            world.viaduct("rollback").refused(1, &[&name, way_out, "rollback N"]);
            let number = last.trim().trim_end_matches(".json");
            for line in ["history", "rollback"] {
                world.viaduct(&format!("{line} {number}")).refused(1, &[&name, way_out]);
            }
            world.settled();
            world.unchanged(&kernel, &world.memory(), damage);
            fs::remove_file(&history).unwrap();
            world.good("history");
            fs::write(&history, good).unwrap();
        }

        for (damage, text) in damages("{ \"held\": {}, \"avoided\": {} }") {
            fs::write(format!("{STATE}/leases.json"), text).unwrap();
            let ran = world.good("apply");
            assert!(ran.err.contains("leases.json is damaged"), "{damage}: {ran:?}");
            world.unchanged(&kernel, &world.memory(), damage);
            world.settled();
        }

        for (damage, text) in damages(&world.read(format!("{RUN}/sysctl-journal.json"))) {
            let path = format!("{RUN}/sysctl-journal.json");
            let good = world.read(&path);
            fs::write(&path, &text).unwrap();
            let ran = world.viaduct("apply");
            // A setting more is what a journal may have, by whatever name.
            if ran.code() != 0 {
                ran.refused(1, &["sysctl-journal.json", "move it away"]);
            }
            world.unchanged(&kernel, &world.memory(), damage);
            fs::rename(&path, "/run/moved-away").unwrap();
            world.good("apply");
            world.settled();
            world.all_ways(true, "with settings that are taken for the owner's");
            fs::write(&path, good).unwrap();
            world.good("apply");
        }

        for (damage, text) in damages(&world.read(format!("{STATE}/applied.json"))) {
            fs::write(format!("{STATE}/applied.json"), text).unwrap();
            world.viaduct("status").refused(1, &["applied.json is damaged", "Run `viaduct apply`"]);
            world.unchanged(&kernel, &world.memory(), damage);
            world.good("apply");
            world.settled();
            world.unchanged(&kernel, &world.memory(), damage);
        }

        for (damage, text) in damages(&world.read(format!("{RUN}/attachments.json"))) {
            // Links that were made anew have other numbers.
            let kernel = world.kernel();
            let path = format!("{RUN}/attachments.json");
            fs::write(&path, text).unwrap();
            for line in ["plan", "apply", "status"] {
                world.viaduct(line).refused(1, &["attachments.json is damaged", "attach the guests again"]);
            }
            world.unchanged(&kernel, &world.memory(), damage);
            // A daemon that starts now keeps all as it is, too.
            let log = fs::File::create("/run/other.log").unwrap();
            let mut daemon = world.command(&["daemon"]).stderr(log).spawn().unwrap();
            world.soon("it says so", || world.read("/run/other.log").contains("attachments.json is damaged"));
            world.unchanged(&kernel, &world.memory(), damage);
            daemon.kill().unwrap();
            daemon.wait().unwrap();
            fs::rename(&path, "/run/moved-away").unwrap();
            for guest in ["ldap", "web", "deb6"] {
                world.good(&format!("attach {guest} --netns {guest}"));
            }
            world.settled();
            world.all_ways(true, damage);
        }
    });
}

/// One bad file must not keep anybody from going back to a good one.
#[test]
fn a_damaged_revision_is_in_nobody_s_way() {
    host(|world| {
        world.good("apply");
        world.good("set web --publish 81:80");
        let published = world.kernel();
        world.good("set web --publish 82:80");
        world.good("apply");
        let bare = world.kernel();
        fs::write(format!("{STATE}/history/3.json"), "{ \"time\": ").unwrap();
        let back = world.good("rollback 2 --json").json();
        assert_eq!(back["revision"], 5, "{back}");
        assert!(world.kernel() == published);
        world.good("rollback 4");
        assert!(world.kernel() == bare);
        // What nobody confirmed goes back with the last one damaged, too, and says that it did.
        world.good("rollback 2 --confirm 1h");
        fs::write(format!("{STATE}/history/7.json"), "").unwrap();
        let back = world.good("rollback --json").json();
        assert_eq!(back["revision"], 8, "{back}");
        assert!(world.kernel() == bare);
        world.settled();
        fs::write(format!("{STATE}/history/8.json"), "").unwrap();
        world.good("down");
        let shown = world.good("history --json").json();
        let numbers: Vec<_> = shown["revisions"].as_array().unwrap().iter().map(|r| &r["number"]).collect();
        assert_eq!(numbers, [1, 2, 4, 5, 6, 9]);
        assert_eq!(shown["notices"].as_array().unwrap().len(), 3, "{shown}");
    });
}

/// A host that is made step by step for longer than the service manager waits for a sign of life.
#[test]
fn signs_of_life_come_in_the_course_of_long_work() {
    host(|world| {
        let mut text = GOOD.to_owned();
        for number in 0..80 {
            text += &format!("[guests.many{number}]\n[[guests.many{number}.nics]]\nnetwork = \"services\"\n");
        }
        world.write(CONFIG, text);
        for number in 0..80 {
            world.good(&format!("attach many{number} --tap"));
        }
        let manager = UnixDatagram::bind("/run/notify").unwrap();
        // How many links there are when a sign of life is heard. It is read at once, whatever else goes on, as the service manager
        // does: who tells waits for it.
        let heard = Arc::new(Mutex::new(BTreeSet::new()));
        let signs = Arc::clone(&heard);
        thread::spawn(move || {
            rustix::process::setpriority_process(None, -15).unwrap();
            let mut buffer = [0; 256];
            while let Ok(length) = manager.recv(&mut buffer) {
                let links =
                    fs::read_to_string("/proc/thread-self/net/dev").unwrap().matches("v-many").count();
                if buffer[..length].starts_with(b"WATCHDOG=1") {
                    signs.lock().unwrap().insert(links);
                }
            }
        });
        let mut command = world.command(&["daemon"]);
        let daemon =
            world.daemon_by(command.env("NOTIFY_SOCKET", "/run/notify").env("WATCHDOG_USEC", "6000"));
        world.good("apply");
        // The thread that tells does nothing but this: what is told is told in the course of it.
        let heard: Vec<usize> = heard.lock().unwrap().range(1..80).copied().collect();
        assert!(heard.len() >= 3, "signs of life while 80 links were made: when there were {heard:?}");
        daemon.end();
    });
}
