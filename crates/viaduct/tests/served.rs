//! Guests come to and go from networks that answer them, one by one while the daemon runs: what it tells the process
//! that answers is about those alone.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::process::{Child, Command, Stdio};

use support::{CONFIG, World, host};

const FILE: &str = r#"
[host]
name = "ve0"

[uplinks.wan]
interface = "eth0"

[networks.inside]
mode = "nat"
uplink = "wan"
subnets = ["10.0.0.0/24", "fd00:10::/64"]
dhcp = true
dns = true
domain = "lan"

[networks.public]
mode = "routed"
uplink = "wan"
pool = ["198.51.100.112/29", "2001:db8:48:1::/64"]
dhcp = true
dns = true
domain = "example.com"

[guests.web]
[[guests.web.nics]]
network = "inside"
addresses = ["10.0.0.2", "fd00:10::2"]

[guests.db]
[[guests.db.nics]]
network = "inside"
addresses = ["10.0.0.3", "fd00:10::3"]

[guests.fresh]
[[guests.fresh.nics]]
network = "inside"

[guests.shop]
[[guests.shop.nics]]
network = "public"
addresses = ["198.51.100.112", "2001:db8:48:1::112"]

[guests.mail]
[[guests.mail.nics]]
network = "public"
addresses = ["198.51.100.113", "2001:db8:48:1::113"]
"#;

/// How often a change was made without a look at the whole host.
fn parts(world: &World) -> usize {
    world.log().matches("changed in part").count()
}

/// Takes away what Viaduct set inside of a guest, and lets a real client find out what it has.
#[track_caller]
fn configures_itself(world: &World, guest: &str, address: &str) {
    world.sh(&format!("ip -n {guest} -4 address flush dev eth0; ip -n {guest} link set eth0 up"));
    world.sh(&format!("ip netns exec {guest} udhcpc -i eth0 -n -q -T 1 -t 15 -O staticroutes"));
    let has = world.sh(&format!("ip -n {guest} -o -4 address show dev eth0"));
    assert!(has.contains(address), "{guest}: {has}");
}

#[track_caller]
fn resolves(world: &World, guest: &str, question: &str, answer: &str) {
    let said = world.sh(&format!("ip netns exec {guest} dig +short +tries=1 +time=6 {question} || true"));
    assert_eq!(said.trim(), answer, "{guest}: {question}: {}", world.log());
}

/// A guest that asks all the time, and writes down what it hears.
struct Asking(Child);

const HEARD: &str = "/run/heard";

impl Asking {
    fn begin(guest: &str, question: &str) -> Self {
        let script = format!(
            "while :; do dig +short +tries=1 +time=2 {question} || echo none; sleep 0.02; done >{HEARD} 2>&1"
        );
        let child = Command::new("ip")
            .args(["netns", "exec", guest, "sh", "-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn one_guest_comes_and_goes_without_a_word_to_the_others() {
    host(|world| {
        world.own_places();
        world.write(CONFIG, FILE);
        world.good("apply");
        let _daemon =
            world.daemon_by(world.command(&["daemon"]).env("VIADUCT_LOG", "viaduct_reconcile=debug"));
        for guest in ["web", "db", "fresh", "shop", "mail"] {
            world.attach(guest);
        }
        assert_eq!(parts(world), 5, "{}", world.log());
        configures_itself(world, "web", "10.0.0.2/24");
        configures_itself(world, "shop", "198.51.100.112/32");
        configures_itself(world, "fresh", "10.0.0.");
        resolves(world, "web", "@10.0.0.1 db.lan", "10.0.0.3");
        resolves(world, "shop", "@169.254.1.1 AAAA mail.example.com", "2001:db8:48:1::113");
        let lent = world.sh("ip -n fresh -o -4 address show dev eth0 | sed -E 's,.*inet ([0-9.]+)/.*,\\1,'");
        resolves(world, "web", "@10.0.0.1 fresh.lan", lent.trim());

        // Others' answers go on meanwhile, and so does what they have from the server.
        let asking = Asking::begin("web", "@10.0.0.1 db.lan");
        let asking_from_outside_the_bridge =
            world.sh("ip netns exec shop dig +short @169.254.1.1 shop.example.com");
        assert_eq!(asking_from_outside_the_bridge.trim(), "198.51.100.112");
        let mut expected = 5;
        for guest in ["db", "fresh", "mail"] {
            for _ in 0..8 {
                world.good(&format!("detach {guest}"));
                world.good(&format!("attach {guest} --netns {guest}"));
                expected += 2;
            }
        }
        world.good("set db --address-add 10.0.0.33 --save");
        expected += 1;
        resolves(world, "shop", "@169.254.1.1 mail.example.com", "198.51.100.113");
        world.soon("the new address is told", || {
            world.sh("ip netns exec web dig +short @10.0.0.1 db.lan").lines().count() == 2
        });
        drop(asking);
        let heard = world.read(HEARD);
        let wrong: Vec<&str> =
            heard.lines().filter(|line| !["10.0.0.3", "10.0.0.33"].contains(line)).collect();
        assert!(wrong.is_empty() && heard.lines().count() > 10, "{heard}");
        assert_eq!(parts(world), expected, "{}", world.log());

        // Who has come again is answered again; who is gone is not.
        configures_itself(world, "db", "10.0.0.3/24");
        configures_itself(world, "mail", "198.51.100.113/32");
        resolves(world, "mail", "@169.254.1.1 shop.example.com", "198.51.100.112");
        // What the clients took away inside is set again.
        world.good("apply");
        world.settled();
    });
}

const MADE: &str = r#"
[host]
name = "ve0"
[uplinks.wan]
interface = "eth0"
[networks.inside]
mode = "nat"
uplink = "wan"
subnets = ["10.0.0.0/24", "fd00:10::/64"]
dhcp = true
[guests.made]
[[guests.made.nics]]
network = "inside"
mac = "02:00:00:00:00:07"
addresses = ["10.0.0.2", "fd00:10::ff:fe00:7"]
[guests.chosen]
[[guests.chosen.nics]]
network = "inside"
addresses = ["10.0.0.3", "fd00:10::3"]
"#;

/// Whether a prefix may be used for addresses that are made of MACs depends on everybody in it.
#[test]
fn what_is_said_of_a_prefix_follows_who_is_there() {
    host(|world| {
        world.own_places();
        world.write(CONFIG, MADE);
        world.good("apply");
        let _daemon =
            world.daemon_by(world.command(&["daemon"]).env("VIADUCT_LOG", "viaduct_reconcile=debug"));
        let autonomous = |world: &World, expected: &str| {
            world.soon(&format!("autonomous: {expected}"), || {
                let said = world.sh("ip netns exec made rdisc6 -1 -r 2 -w 4000 eth0 || true");
                let lines = said.lines().filter(|line| line.contains("Autonomous address conf."));
                let lines: Vec<&str> = lines.collect();
                lines.len() == 1 && lines[0].ends_with(expected)
            });
        };
        world.attach("made");
        autonomous(world, "Yes");
        world.attach("chosen");
        autonomous(world, "No");
        world.good("detach chosen");
        autonomous(world, "Yes");
        assert_eq!(parts(world), 3, "{}", world.log());
        world.settled();
    });
}

/// What the process may do that answers guests, as the kernel knows it.
#[test]
fn who_answers_guests_can_do_nothing_else() {
    host(|world| {
        world.own_places();
        world.write(CONFIG, FILE);
        world.good("apply");
        let daemon = world.daemon();
        world.attach("web");
        configures_itself(world, "web", "10.0.0.2/24");
        resolves(world, "web", "@10.0.0.1 db.lan", "10.0.0.3");
        let process = world.sh(&format!("pgrep --parent {} --full answer-guests", daemon.id()));
        let status = world.sh(&format!("cat /proc/{}/status", process.trim()));
        // Of capabilities, CAP_NET_BIND_SERVICE and CAP_NET_RAW.
        for line in [
            "Seccomp:\t2",
            "NoNewPrivs:\t1",
            "CapEff:\t0000000000002400",
            "CapPrm:\t0000000000002400",
            "Threads:\t1",
        ] {
            assert!(status.lines().any(|has| has == line), "{line}: {status}");
        }
        assert!(!world.log().contains("system calls are not limited"), "{}", world.log());
    });
}
