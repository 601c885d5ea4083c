//! Bad input, at every command: the exit status, every mistake named, JSON where JSON was asked for, and kernel and
//! memory untouched.
mod support;

use std::{fs, os::unix::fs::symlink};

use support::{CONFIG, GOOD, Memory, RUN, STATE, World, forbid, host};

/// Each command that looks at or changes the host, used rightly.
const ON_A_HOST: &[&str] = &[
    "plan",
    "plan --exit-code",
    "apply",
    "status",
    "attach web --netns outside",
    "detach ldap",
    "set ldap --publish 80:80",
    "announce 203.0.113.2",
    "exec ldap -- true",
    "down",
];

/// What reads the configuration's files.
const READERS: &[&str] =
    &["check", "plan", "apply", "attach new --netns outside", "set ldap --publish 81:81 --save"];

/// A host with a configuration and a guest, and what it has.
fn applied(world: &World) -> (String, Memory) {
    world.good("apply");
    world.attach("ldap");
    (world.kernel(), world.memory())
}

/// Each of the lines is refused with that status and says that, for people and for programs; nothing changes.
#[track_caller]
fn refused_everywhere(world: &World, lines: &[&str], code: i32, said: &[&str]) {
    let (kernel, memory) = (world.kernel(), world.memory());
    for line in lines {
        world.viaduct(line).refused(code, said);
        world.viaduct(&format!("--json {line}")).refused(code, said);
        world.unchanged(&kernel, &memory, line);
    }
}

#[test]
fn every_mistake_of_a_configuration_is_named() {
    host(|world| {
        applied(world);
        world.write(
            CONFIG,
            "[uplinks.wan]\ninterfaec = \"eth0\"\n[networks.a]\nmode = \"natt\"\n[guests.b]\npublish = [\"80\"]\n\
             [[guests.b.nics]]\nnetwork = \"nowhere\"\naddresses = [\"300.0.0.1\"]\n",
        );
        let said = ["interfaec", "natt", "HOST-PORT:GUEST-PORT", "nowhere", "300.0.0.1", "viaduct.toml"];
        refused_everywhere(world, READERS, 2, &said);
    });
}

/// Nobody is its own peer; but hosts may share a file, so that it is said and nothing more.
#[test]
fn a_peer_that_is_the_host_itself_is_told() {
    host(|world| {
        let peer = |key: &str| {
            format!(
                "{GOOD}\n[peers.me]\nendpoint = \"203.0.113.1:1798\"\nkey = \"{key}\"\n\n[vnets.red]\nid = \"97\"\npeers = [\"me\"]\n"
            )
        };
        let own = world.good("identity").out;
        let other = world.sh("/run/bin/viaduct --state-dir /run/other identity");
        world.write(CONFIG, peer(own.trim()));
        let line = peer(own.trim()).lines().position(|line| line.starts_with("key = ")).unwrap() + 1;
        for command in ["check", "plan", "apply"] {
            let said = world.good(command).err;
            assert!(said.contains("this is the key of this host itself"), "{command}: {said}");
            assert!(said.contains(&format!(":{line}:")), "{command}: {said}");
        }
        world.write(CONFIG, peer(other.split_whitespace().last().unwrap()));
        assert!(!world.good("check").err.contains("warning"));
    });
}

#[test]
fn files_that_cannot_be_read_are_named() {
    host(|world| {
        applied(world);
        let all = |said: &[&str]| refused_everywhere(world, READERS, 2, said);
        fs::remove_file(CONFIG).unwrap();
        all(&[CONFIG, "No such file", "--config"]);
        world.write(CONFIG, b"[host]\nname = \"\xff\"\n");
        all(&["viaduct.toml:2", "UTF-8"]);
        fs::remove_file(CONFIG).unwrap();
        symlink(CONFIG, CONFIG).unwrap();
        all(&["symbolic links"]);
        fs::remove_file(CONFIG).unwrap();
        symlink("/dev/zero", CONFIG).unwrap();
        all(&["larger than 64 MiB"]);
        fs::remove_file(CONFIG).unwrap();
        fs::create_dir(CONFIG).unwrap();
        all(&["there is no configuration", "viaduct.toml"]);
        // In a directory, all of those that cannot be read.
        world.write(&format!("{CONFIG}/conf.d/a.toml"), b"\xff");
        symlink("nowhere", format!("{CONFIG}/viaduct.toml")).unwrap();
        world.write(&format!("{CONFIG}/conf.d/b.toml"), b"ok = 1\n\xfe");
        all(&["viaduct.toml/viaduct.toml", "a.toml:1", "b.toml:2"]);
    });
}

#[test]
fn a_key_defined_twice_shows_both_places() {
    host(|world| {
        applied(world);
        fs::remove_file(CONFIG).unwrap();
        world.write(&format!("{CONFIG}/viaduct.toml"), GOOD);
        world.write(&format!("{CONFIG}/conf.d/10-more.toml"), "[guests.more]\nid = 5\n");
        world.good("check");
        world.write(
            &format!("{CONFIG}/conf.d/20-again.toml"),
            "[guests.ldap]\npublish = []\n[guests.more]\nid = 6\n",
        );
        let said = ["20-again.toml", "viaduct.toml", "10-more.toml", "publish", "id"];
        refused_everywhere(world, READERS, 2, &said);
    });
}

#[test]
fn hostile_files_are_refused_soon() {
    host(|world| {
        applied(world);
        for text in [
            "[".repeat(200_000),
            format!("a = {}", "[".repeat(200_000)),
            format!("a = {}", "{ a = ".repeat(100_000)),
            format!("{}a = 1", "a.".repeat(200_000)),
            "x = 1\n".repeat(200_000),
            "\0".repeat(1_000_000),
            format!("[guests.{}]\n", "x".repeat(1_000_000)),
        ] {
            world.write(CONFIG, text);
            refused_everywhere(world, &["check", "apply"], 2, &[]);
        }
    });
}

#[test]
fn wrong_usage_is_explained() {
    host(|world| {
        applied(world);
        let long = "x".repeat(5000);
        for (line, said) in [
            ("", "Usage"),
            ("nonsense", "nonsense"),
            ("aply", "apply"),
            ("apply now", "now"),
            ("plan --exit", "--exit-code"),
            ("check --nope", "--nope"),
            ("status extra", "extra"),
            ("attach", "GUEST"),
            ("attach web", "--netns"),
            ("attach web --netns a --tap", "cannot be used with"),
            ("attach web --pid x", "--pid"),
            ("attach web --pid 0", "/proc/0"),
            ("attach web --device much-too-long-a-name", "15"),
            ("attach web --owner root --netns a", "--tap"),
            ("attach web --tap --owner no-such-user", "no-such-user"),
            ("attach web.9 --netns outside", "one NIC, web.0"),
            ("attach wbe --netns outside", "did you mean web?"),
            ("attach web --netns nowhere", "ip netns add nowhere"),
            ("attach web --netns /etc/passwd", "not a network namespace"),
            ("attach web --netns /proc/self/ns/net", "host's own"),
            ("attach web --device nothing0", "it has eth0"),
            ("attach web --device eth0", "uplink wan"),
            ("attach web --device lo", "loopback"),
            ("attach web --device br-services", "bridge of network services"),
            ("attach web --tap eth0", "uplink wan"),
            ("attach web --tap v-ldap.0", "ldap.0"),
            ("attach web --netns ldap", "called eth0"),
            ("detach wbe", "did you mean web?"),
            ("detach", "GUEST"),
            ("detach web.300", "web.300"),
            ("set ldap", "--publish"),
            ("set ldpa --publish 80:80", "did you mean ldap?"),
            ("set ldap.1 --publish 80:80", "ldap.1"),
            ("set ldap --publish 80", "HOST-PORT:GUEST-PORT"),
            ("set ldap --publish 80-90:80-91", "same count"),
            ("set ldap --publish 203.0.113.2:389:1", "published"),
            ("set ldap --address-add 300.1.1.1", "300.1.1.1"),
            ("set ldap --address-add 10.9.9.9", "outside the subnets"),
            ("set ldap --address-add 192.168.1.1", "192.168.1.1"),
            ("set ldap --address-add 192.168.1.4", "used twice"),
            ("announce", "ADDRESS"),
            ("announce here", "here"),
            ("announce 192.0.2.1", "nobody to tell"),
            ("exec", "GUEST"),
            ("exec ldap", "CMD"),
            ("exec ladp -- true", "did you mean ldap?"),
            ("exec web -- true", "viaduct attach web.0"),
            ("down --now", "--now"),
            ("schema x", "x"),
            ("completions", "SHELL"),
            ("completions tcsh", "bash"),
            ("man", "DIRECTORY"),
            (&format!("attach {long} --tap"), "does not name a NIC"),
            (&format!("announce {long}"), "invalid"),
        ] {
            refused_everywhere(world, &[line], 2, &[]);
            let ran = world.viaduct(line);
            let text = ran.err.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(text.contains(said), "`viaduct {line}` says nothing about {said:?}:\n{}", ran.err);
        }
    });
}

#[test]
fn without_root_a_clear_sentence() {
    host(|world| {
        let (kernel, memory) = applied(world);
        for line in ON_A_HOST {
            for line in [(*line).to_owned(), format!("--json {line}")] {
                world.as_nobody(&line).refused(1, &["this needs root", "sudo"]);
            }
        }
        // What needs no root works without.
        world.sh("mkdir -m 777 /run/anyone");
        for line in ["check", "--json check", "schema", "completions fish", "man /run/anyone/man"] {
            let ran = world.as_nobody(line);
            assert!(ran.status.success(), "{ran:?}");
        }
        world
            .as_nobody("man /run/man")
            .refused(1, &["cannot write man pages to /run/man", "Permission denied"]);
        // A mistake is told before it is told that it takes root to apply it.
        forbid(CONFIG);
        for line in ["check", "plan", "apply", "--json apply"] {
            world.as_nobody(line).refused(2, &[CONFIG, "Permission denied", "may not read"]);
        }
        world.unchanged(&kernel, &memory, "somebody without privileges");
    });
}

#[test]
fn before_anything_is_applied() {
    host(|world| {
        let kernel = world.kernel();
        assert_eq!(world.good("status").out, "No configuration is applied on this host.\n");
        let json = world.good("status --json").json();
        assert!(json["applied"] == false && json["daemon"]["pid"].is_null(), "{json}");
        refused_everywhere(
            world,
            &["set ldap --publish 80:80", "announce 203.0.113.2"],
            1,
            &["viaduct apply"],
        );
        refused_everywhere(world, &["detach ldap", "exec ldap -- true"], 2, &["ldap.0 is not attached"]);
        assert_eq!(world.good("down").out, "Nothing to do.\n");
        assert_eq!(world.kernel(), kernel);
    });
}

#[test]
fn what_a_kernel_lacks_is_named_with_the_line_that_needs_it() {
    host(|world| {
        world.good("apply");
        world.sh("mount -t tmpfs none /dev/net");
        let line = GOOD.lines().position(|line| line == "[[guests.web.nics]]").unwrap() + 1;
        let said = format!("{CONFIG}:{line}: this kernel has no taps (/dev/net/tun, CONFIG_TUN)");
        refused_everywhere(world, &["attach web --tap"], 2, &[]);
        world.viaduct("attach web --tap").refused(2, &[&said]);
    });
}

#[test]
fn a_host_that_does_not_fit_is_left_alone() {
    host(|world| {
        applied(world);
        world.sh("ip route add 203.0.112.0/25 via 203.0.113.1");
        for (from, to, said) in [
            ("\"eth0\"", "\"eth7\"", "this host has no device eth7; it has eth0"),
            ("192.168.1.", "203.0.112.", "overlaps what this host reaches otherwise"),
        ] {
            world.write(CONFIG, GOOD.replace(from, to));
            world.good("check");
            refused_everywhere(world, &["plan", "apply"], 2, &[said, CONFIG]);
        }
        world.sh("ip link add br-other type bridge");
        world.write(CONFIG, GOOD.replace("mode = \"nat\"", "mode = \"nat\"\nbridge = \"br-other\""));
        refused_everywhere(
            world,
            &["plan", "apply"],
            2,
            &["br-other exists and is not Viaduct's", "`bridge`"],
        );
    });
}

#[test]
fn damaged_memory_is_told_with_a_way_out() {
    host(|world| {
        let files: [(String, &[&str], &str); 3] = [
            (
                format!("{STATE}/applied.json"),
                &[
                    "status",
                    "attach web --netns outside",
                    "detach ldap",
                    "set ldap --publish 80:80",
                    "announce 203.0.113.2",
                ],
                "Run `viaduct apply`, which writes it anew",
            ),
            (
                format!("{RUN}/attachments.json"),
                &[
                    "plan",
                    "apply",
                    "status",
                    "attach web --netns outside",
                    "detach ldap",
                    "exec ldap -- true",
                ],
                "attach the guests again",
            ),
            (format!("{RUN}/sysctl-journal.json"), &["plan", "apply", "status", "down"], "move it away"),
        ];
        applied(world);
        for (path, lines, way_out) in files {
            let good = fs::read(&path).unwrap();
            for damage in ["", "{", "[1]", "\"text\"", "\0\0\0\0"] {
                fs::write(&path, damage).unwrap();
                refused_everywhere(world, lines, 1, &[&path, way_out]);
            }
            fs::write(&path, good).unwrap();
            world.settled();
        }
    });
}

#[test]
fn damaged_applied_configurations_are_written_anew() {
    host(|world| {
        let (kernel, memory) = applied(world);
        let path = format!("{STATE}/applied.json");
        for damage in ["{", r#"{"sources":[]}"#, r#"{"sources":[{"name":"x","text":"nonsense"}]}"#] {
            fs::write(&path, damage).unwrap();
            let ran = world.viaduct("status");
            assert!(ran.code() == 1 && ran.err.contains("viaduct apply"), "{damage}: {ran:?}");
            let ran = world.good("apply");
            assert!(ran.err.contains("not known") && ran.out == "Nothing to do.\n", "{damage}: {ran:?}");
            world.unchanged(&kernel, &memory, "apply");
            world.settled();
        }
        // When it cannot be applied, nothing is taken away for want of knowledge.
        fs::write(&path, "{").unwrap();
        world.sh("ip netns add web && ip -n web link add eth0 type bridge");
        fs::write(
            format!("{RUN}/attachments.json"),
            world.read(format!("{RUN}/attachments.json")).replacen(
                '{',
                &format!(
                    "{{ \"web.0\": {{ \"netns\": {{ \"path\": \"/run/netns/web\", \"inode\": {} }} }},",
                    world.sh("stat -c %i /run/netns/web").trim()
                ),
                1,
            ),
        )
        .unwrap();
        world.viaduct("apply").refused(1, &["the name eth0 is taken", "nothing was undone"]);
        assert!(world.sh("ip link").contains("v-ldap.0"));
    });
}

#[test]
fn results_that_cannot_be_written_are_an_error() {
    host(|world| {
        world.good("apply");
        let full = || fs::File::options().write(true).open("/dev/full").unwrap();
        for line in ["status", "schema", "check --json"] {
            let words: Vec<&str> = line.split(' ').collect();
            let ran = world.ran("", world.command(&words).stdout(full()));
            assert!(ran.code() == 1 && ran.err.contains("No space left"), "{line}: {ran:?}");
        }
    });
}

/// A host has one key: two names for it would be two peers, of whom one never answers.
#[test]
fn a_key_is_that_of_one_peer() {
    host(|world| {
        let [one, other] = ["/run/one", "/run/other"].map(|place| {
            let said = world.sh(&format!("/run/bin/viaduct --state-dir {place} identity"));
            said.split_whitespace().last().unwrap().to_owned()
        });
        let peer = |name: &str, key: &str| {
            format!("[peers.{name}]\nendpoint = \"203.0.113.1:1798\"\nkey = \"{key}\"\n\n")
        };
        let red = "[vnets.red]\nid = \"97\"\npeers = [\"b\"]\n";
        world.write(CONFIG, format!("{GOOD}\n{}{}{red}", peer("b", &one), peer("c", &one)));
        world.viaduct("check").refused(2, &["two peers have the key"]);
        world.write(CONFIG, format!("{GOOD}\n{}{red}", peer("b", &one)));
        world.good("apply");
        let add = |name: &str, key: &str| format!("peer add {name} --endpoint 203.0.113.2:1798 --key {key}");
        world.viaduct(&add("c", &one)).refused(2, &["the peer b has this key"]);
        world.good(&add("c", &other));
        world.viaduct(&add("d", &other)).refused(2, &["the peer c has this key"]);
        // The same name is the same peer; and what a file says counts.
        world.good(&add("c", &other));
        world.write(CONFIG, format!("{GOOD}\n{}{}{red}", peer("b", &one), peer("e", &other)));
        world.good("apply");
        let listed = world.good("--json peer list").out;
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let names: Vec<_> = listed.as_object().unwrap().keys().collect();
        assert_eq!(names, ["b", "e"], "{listed}");
    });
}
