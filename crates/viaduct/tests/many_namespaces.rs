//! Many namespaces at once: what they need is asked, kept and waited for together.
#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

mod support;

use std::fmt::Write as _;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use support::{CONFIG, RUN, World, host};

const MANY: usize = 24;

fn configuration(forwarding: u8) -> String {
    let mut text = "[uplinks.wan]\ninterface = \"eth0\"\n".to_owned();
    for number in 0..MANY {
        let _ = write!(
            text,
            "[namespaces.many{number}]\nsysctls = {{ \"net.ipv4.ip_forward\" = \"{forwarding}\", \
             \"net.ipv4.conf.in.rp_filter\" = \"2\" }}\n\
             [[namespaces.many{number}.interfaces]]\nname = \"in\"\ntype = \"macvlan\"\nparent = \"wan\"\n\
             addresses = [\"203.0.113.{}/24\"]\n",
            100 + number
        );
    }
    text
}

/// How often the journal of settings in namespaces is written meanwhile.
fn writes(world: &World, line: &str) -> usize {
    world.sh(&format!("mkdir -p {RUN}"));
    let news = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&news, RUN, WatchFlags::MOVED_TO).unwrap();
    world.good(line);
    let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 1 << 14];
    let mut reader = inotify::Reader::new(&news, &mut buffer);
    let mut count = 0;
    while let Ok(event) = reader.next() {
        assert!(!event.events().contains(ReadFlags::QUEUE_OVERFLOW));
        count += usize::from(event.file_name() == Some(c"namespaces-sysctl-journal.json"));
    }
    count
}

#[test]
fn what_settings_were_is_kept_at_once_for_all() {
    host(|world| {
        world.connect_outside();
        let before = world.kernel();
        world.write(CONFIG, configuration(1));
        assert_eq!(writes(world, "apply"), 1);
        world.settled();
        for number in [0, MANY - 1] {
            let name = format!("many{number}");
            assert_eq!(world.sh(&format!("ip netns exec {name} cat /proc/sys/net/ipv4/ip_forward")), "1\n");
            assert!(world.echoes(&name, "203.0.113.1"));
        }
        // Other values: what they were is known already.
        world.write(CONFIG, configuration(0));
        assert_eq!(writes(world, "apply"), 0);
        // None is asked for any more, and all are given back.
        let all = configuration(0);
        let without: Vec<&str> = all.lines().filter(|line| !line.starts_with("sysctls")).collect();
        world.write(CONFIG, without.join("\n"));
        assert_eq!(writes(world, "apply"), 1);
        assert_eq!(world.sh("ip netns exec many3 cat /proc/sys/net/ipv4/conf/in/rp_filter"), "0\n");
        world.write(CONFIG, configuration(1));
        world.good("apply");
        assert_eq!(writes(world, "down"), 1);
        assert_eq!(world.sh("ls /run/netns"), "outside\n");
        world.soon("nothing is left", || world.kernel() == before);
    });
}

/// A process that stays in a namespace keeps no device of it.
#[test]
fn devices_go_at_once_whoever_stays() {
    host(|world| {
        world.connect_outside();
        world.write(CONFIG, configuration(1));
        world.good("apply");
        world.sh("ip netns exec many5 sleep 300 >/dev/null 2>&1 & echo $! >/run/stays");
        let devices = || world.sh("nsenter -t $(cat /run/stays) -n ip -o link | wc -l");
        world.soon("the process is there", || devices() == "2\n");
        world.good("down");
        assert_eq!(devices(), "1\n");
        world.good("apply");
        world.settled();
        assert!(world.echoes("many5", "203.0.113.1"));
        world.sh("kill $(cat /run/stays)");
    });
}

const ZONES: usize = 20;

/// Zones with a network and a guest each, which all have the same addresses inside.
fn zones() -> String {
    let mut text = "[uplinks.wan]\ninterface = \"eth0\"\n".to_owned();
    for number in 0..ZONES {
        let own = 100 + number;
        let _ = write!(
            text,
            "[[namespaces.zone{number}.interfaces]]\nname = \"out\"\ntype = \"macvlan\"\nparent = \"wan\"\n\
             addresses = [\"203.0.113.{own}/24\", \"2001:db8:28::{own}/64\"]\n\
             gateways = [\"203.0.113.1\", \"2001:db8:28::1\"]\n\
             [uplinks.out{number}]\ninterface = \"out\"\nnamespace = \"zone{number}\"\n\
             [networks.net{number}]\nmode = \"nat\"\nnamespace = \"zone{number}\"\nuplink = \"out{number}\"\n\
             subnets = [\"10.0.0.0/24\", \"fd00::/64\"]\n\
             [guests.guest{number}]\n[[guests.guest{number}.nics]]\nnetwork = \"net{number}\"\n\
             addresses = [\"10.0.0.5\", \"fd00::5\"]\n"
        );
    }
    text
}

/// Stacks are made, and taken away, several at a time; each is whole, and what one cannot do is said with its name.
#[test]
fn many_stacks_are_made_side_by_side() {
    host(|world| {
        world.connect_outside();
        let before = world.kernel();
        world.write(CONFIG, zones());
        // In one of the namespaces, somebody's device has the name of the bridge.
        world.sh("ip netns add zone7 && ip -n zone7 link add br-net7 type bridge");
        let ran = world.viaduct("apply");
        assert_ne!(ran.code(), 0, "{ran:?}");
        assert!(ran.err.contains("br-net7") && ran.err.contains("zone7"), "{ran:?}");
        for number in (0..ZONES).filter(|number| *number != 7) {
            assert!(!ran.err.contains(&format!("zone{number}:")), "{ran:?}");
        }
        world.sh("ip -n zone7 link del br-net7 && ip netns del zone7");
        world.good("apply");
        world.settled();
        let attached = (0..ZONES).map(|number| format!("guest{number}"));
        for guest in attached.clone().step_by(6) {
            world.attach(&guest);
        }
        world.settled();
        for guest in attached.step_by(6) {
            for outside in ["203.0.113.1", "2001:db8:28::1"] {
                world.soon(&format!("{guest} reaches {outside}"), || world.echoes(&guest, outside));
            }
        }
        // Made anew with the guests in one go, and stopped in the middle: where there is a bridge, there is its filter.
        for delay in [60, 150, 300, 600] {
            world.good("down");
            let mut child = world.command(&["apply"]).stdout(std::process::Stdio::null()).spawn().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(delay));
            let _ = child.kill();
            child.wait().unwrap();
            for number in 0..ZONES {
                let links = format!("ip -n zone{number} -o link 2>/dev/null | grep -c br-net || true");
                if world.sh(&links) == "1\n" {
                    world.sh(&format!("ip netns exec zone{number} nft list table inet viaduct"));
                }
            }
        }
        world.good("apply");
        world.settled();
        assert!(world.echoes("zone3", "203.0.113.1"));
        world.good("down");
        world.sh("for guest in $(ls /run/netns | grep guest); do ip netns del $guest; done");
        assert_eq!(world.sh("ls /run/netns"), "outside\n");
        world.soon("nothing is left", || world.kernel() == before);
    });
}
