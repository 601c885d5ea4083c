//! Every command, used rightly, on hosts of the tests' own.
#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

mod support;

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown, symlink},
        process::ExitStatusExt,
    },
    path::Path,
    process::Stdio,
};

use support::{CONFIG, GOOD, RUN, STATE, World, host};

/// The hosts of the documentation, with an uplink and addresses that they fit.
const EXAMPLES: &[&str] = &[
    include_str!("../../../examples/openvz/viaduct.toml"),
    include_str!("../../../examples/hetzner/viaduct.toml"),
    include_str!("../../../examples/dedicated-xen/viaduct.toml"),
];

fn guests(config: &str) -> Vec<String> {
    let config: toml::Table = config.parse().unwrap();
    config["guests"].as_table().unwrap().keys().cloned().collect()
}

#[test]
fn the_second_apply_does_nothing_and_says_so() {
    host(|world| {
        for example in EXAMPLES {
            world.write(CONFIG, example);
            world.good("check");
            assert_eq!(world.viaduct("plan --exit-code").code(), 3);
            assert_eq!(world.viaduct("plan").code(), 0);
            assert!(world.good("apply").out.lines().count() > 10);
            let (kernel, memory) = (world.kernel(), world.memory());
            assert_eq!(world.good("apply").out, "Nothing to do.\n");
            assert_eq!(world.good("apply --json").json()["done"], serde_json::json!([]));
            world.unchanged(&kernel, &memory, "the second apply");
            world.settled();
            world.reachable();
        }
    });
}

#[test]
fn plan_shows_the_very_lines_that_apply_does() {
    host(|world| {
        let plan = world.good("plan");
        assert_eq!(world.good("apply").out, plan.out);
        let json = world.good("plan --json").json();
        assert!(json["changes"].as_array().is_some_and(Vec::is_empty), "{json}");
    });
}

#[test]
fn down_leaves_no_trace() {
    host(|world| {
        let kernel = world.kernel();
        world.good("apply");
        world.attach("ldap");
        world.attach("deb6");
        world.good("attach web --tap");
        world.good("down");
        world.sh("ip netns del ldap; ip netns del deb6");
        world.unchanged(&kernel, &world.memory(), "down");
        assert_eq!(world.good("down").out, "Nothing to do.\n");
        assert_eq!(world.good("status").out, "No configuration is applied on this host.\n");
        assert_eq!(world.good("down --json").json()["done"], serde_json::json!([]));
    });
}

#[test]
fn check_reads_several_files_as_one_configuration() {
    host(|world| {
        world.write("/run/a/viaduct.toml", GOOD);
        world.write("/run/b.toml", "[guests.more]\nid = 5\n");
        let ran = world.good("check /run/a /run/b.toml");
        assert!(
            ran.out.contains("1 uplink, 2 networks, 5 guests in /run/a/viaduct.toml, /run/b.toml"),
            "{ran:?}"
        );
        let json = world.good("check --json /run/a /run/b.toml").json();
        assert_eq!((&json["guests"], &json["files"][1]), (&5.into(), &"/run/b.toml".into()));
        // The same as a directory, merged in the order of names.
        world.write("/run/a/conf.d/20-x.toml", "[guests.x]\nid = 6\n");
        world.write("/run/a/conf.d/10-y.toml", "[guests.y]\nid = 7\n");
        world.write("/run/a/conf.d/.hidden.toml", "nonsense");
        world.write("/run/a/conf.d/readme", "nonsense");
        let ran = world.good("check /run/a");
        assert!(
            ran.out.contains("viaduct.toml, /run/a/conf.d/10-y.toml, /run/a/conf.d/20-x.toml"),
            "{ran:?}"
        );
    });
}

#[test]
fn an_attachment_before_apply_is_carried_out_by_it() {
    host(|world| {
        world.sh("ip netns add ldap");
        let ran = world.good("attach ldap --netns ldap");
        assert!(ran.out.contains("not applied yet") && ran.out.contains("netns ldap"), "{ran:?}");
        assert!(world.good("status").out.contains("ldap.0 waits for it"));
        assert_eq!(world.good("attach web --tap --json").json()["pending"], true);
        world.good("apply");
        assert!(world.sh("ip -n ldap address").contains("192.168.1.3/24"));
        assert!(world.sh("ip link").contains("v-web.0"));
        world.settled();
    });
}

#[test]
fn who_names_a_guest_with_several_nics_is_told_of_the_others() {
    host(|world| {
        world.write(
            CONFIG,
            format!("{GOOD}\n[guests.two]\n{}", "[[guests.two.nics]]\nnetwork = \"services\"\n".repeat(2)),
        );
        world.good("apply");
        world.sh("ip netns add two");
        let ran = world.good("attach two --netns two");
        assert!(
            ran.err.contains("Not attached: two.1. Each of a guest's NICs is attached by itself."),
            "{ran:?}"
        );
        assert_eq!(
            world.good("attach two --netns two --json").json()["others"],
            serde_json::json!(["two.1"])
        );
        assert_eq!(world.good("attach two.0 --netns two").err, "", "who names NICs knows of them");
        assert_eq!(world.good("attach two.1 --netns two").err, "");
        let ran = world.good("detach two");
        assert!(
            ran.err.contains("Still attached: two.1. Each of a guest's NICs is detached by itself."),
            "{ran:?}"
        );
        assert!(world.good("detach two").err.contains("Still attached: two.1."));
        assert_eq!(world.good("detach two.1").err, "");
        assert_eq!(world.good("detach two").err, "");
    });
}

#[test]
fn attach_says_in_a_line_what_it_did() {
    host(|world| {
        world.good("apply");
        world.sh("ip netns add one && ip netns add two");
        let ran = world.good("attach web --netns one");
        assert_eq!(ran.out.lines().count(), 1, "{ran:?}");
        for word in ["web.0", "netns one", "eth0", "192.168.1.4, fd00:1::4", "02:", "v-web.0"] {
            assert!(ran.out.contains(word), "{word}: {ran:?}");
        }
        let ran = world.good("attach web.0 --netns one");
        assert_eq!(ran.out, "web.0 is attached already. Nothing to do.\n");
        // It moves, and nothing is left behind.
        let ran = world.good("attach web --netns two");
        assert!(ran.out.starts_with("web.0 is no longer attached to netns one.\n"), "{ran:?}");
        assert!(!world.sh("ip -n one link").contains("eth0") && world.sh("ip -n two link").contains("eth0"));
        let json = world.good("attach web --netns /run/netns/one --json").json();
        assert_eq!((&json["attached"], &json["device"]), (&true.into(), &"v-web.0".into()));
        assert_eq!(world.good("detach web").out, "web.0 is no longer attached to netns one.\n");
        assert_eq!(world.good("detach web").out, "web.0 is not attached. Nothing to do.\n");
        world.good("detach web --json").json();
        world.settled();
    });
}

#[test]
fn a_process_and_a_device_can_be_attached() {
    host(|world| {
        world.good("apply");
        let mut guest = std::process::Command::new("unshare").args(["--net", "sleep", "60"]).spawn().unwrap();
        let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let path = format!("/proc/{}/ns/net", guest.id());
        while fs::read_link(&path).unwrap() == own {
            std::thread::yield_now();
        }
        let ran = world.good(&format!("attach ldap --pid {}", guest.id()));
        assert!(ran.out.contains(&format!("process {}", guest.id())), "{ran:?}");
        world.sh("ip link add vif1.0 type veth peer name far");
        let ran = world.good("attach web --device vif1.0");
        assert!(ran.out.contains("attached as device vif1.0. To be set up inside: 192.168.1.4"), "{ran:?}");
        world.settled();
        guest.kill().unwrap();
        guest.wait().unwrap();
    });
}

#[test]
fn a_tap_comes_with_what_hypervisors_are_told() {
    host(|world| {
        world.write(CONFIG, GOOD.replace("[networks.services]", "[networks.services]\nmtu = 1400"));
        world.good("apply");
        for line in ["attach web --tap", "attach web --tap"] {
            let ran = world.good(line);
            for word in [
                "-netdev tap,id=net0,ifname=v-web.0,script=no,downscript=no",
                "-device virtio-net-pci,netdev=net0,mac=02:00:00:",
                ",host_mtu=1400",
                "<interface type='ethernet'>",
                "<target dev='v-web.0' managed='no'/>",
                "<mtu size='1400'/>",
            ] {
                assert!(ran.out.contains(word), "{word}: {ran:?}");
            }
        }
        let json = world.good("attach ldap --tap tap7 --owner 65534 --json").json();
        assert_eq!(json["target"]["tap"], serde_json::json!({ "name": "tap7", "owner": 65534 }));
        assert!(json["qemu"].as_str().is_some_and(|line| line.contains("ifname=tap7")), "{json}");
        assert!(world.sh("ip -details link show tap7").contains("user nobody"));
        world.settled();
    });
}

#[test]
fn set_is_live_and_lasts_until_apply() {
    host(|world| {
        world.good("apply");
        world.attach("ldap");
        let ran = world
            .good("set ldap --address-add 192.168.1.9 --publish 8080:80 --unpublish 203.0.113.2:389:389");
        assert!(
            ran.out.contains("192.168.1.9/24") && ran.out.contains("until the next `viaduct apply`"),
            "{ran:?}"
        );
        assert!(world.sh("ip -n ldap address").contains("192.168.1.9/24"));
        assert_eq!(world.read(CONFIG), GOOD);
        let status = world.good("status");
        assert!(status.out.contains("8080:80/tcp") && !status.out.contains(":389:389"), "{status:?}");
        assert!(status.out.contains("The files say something else by now"), "{status:?}");
        assert!(status.out.contains("The kernel is as it was made."), "{status:?}");
        for line in
            ["set ldap --address-add 192.168.1.9", "set ldap --publish 8080:80 --address-del 192.168.1.77"]
        {
            let ran = world.good(line);
            assert!(ran.out.contains("there") && ran.out.ends_with("Nothing to do.\n"), "{ran:?}");
        }
        let json = world.good("set ldap --address-add 192.168.1.9 --json").json();
        assert_eq!(json["unchanged"], serde_json::json!(["192.168.1.9 of ldap.0 is there already."]));
        world.good("apply");
        assert!(!world.sh("ip -n ldap address").contains("192.168.1.9"));
        world.settled();
    });
}

#[test]
fn set_saves_what_it_was_told_and_nothing_else() {
    host(|world| {
        // A link to a file of somebody else's, with permissions of its own.
        world.write("/run/real/host.toml", GOOD);
        fs::set_permissions("/run/real/host.toml", fs::Permissions::from_mode(0o440)).unwrap();
        chown("/run/real/host.toml", Some(7), Some(8)).unwrap();
        fs::remove_file(CONFIG).unwrap();
        symlink("/run/real/host.toml", CONFIG).unwrap();
        world.good("apply");
        let ran = world.good("set ldap --publish 8080:80 --address-add 192.168.1.9 --save");
        assert!(ran.out.contains("Saved in /run/real/host.toml."), "{ran:?}");
        let wanted = GOOD
            .replace("389:389/tcp\"]", "389:389/tcp\", \"8080:80/tcp\"]")
            .replace("\"192.168.1.3\", # as ever\n", "\"192.168.1.3\", # as ever\n  \"192.168.1.9\",\n");
        assert_eq!(world.read(CONFIG), wanted);
        assert!(fs::symlink_metadata(CONFIG).unwrap().is_symlink());
        let real = fs::metadata("/run/real/host.toml").unwrap();
        assert_eq!((real.mode() & 0o777, real.uid(), real.gid()), (0o440, 7, 8));
        world.settled();
        let json = world.good("set ldap --unpublish 8080:80 --address-del 192.168.1.9 --save --json").json();
        assert_eq!(json["saved"], serde_json::json!(["/run/real/host.toml"]));
        assert_eq!(world.read(CONFIG), GOOD);
        // Where it cannot be saved, it is not done either.
        world.sh("mount --bind /run/real /run/real && mount -o remount,ro,bind /run/real");
        let (kernel, memory) = (world.kernel(), world.memory());
        for line in ["set ldap --publish 81:81 --save", "set ldap --publish 81:81 --save --json"] {
            world.viaduct(line).refused(1, &["Read-only file system", "Nothing was changed"]);
        }
        world.unchanged(&kernel, &memory, "what could not be saved");
        assert_eq!(fs::read_dir("/run/real").unwrap().count(), 1);
    });
}

#[test]
fn set_saves_in_the_file_that_has_the_guest() {
    host(|world| {
        fs::remove_file(CONFIG).unwrap();
        let more = "# more\n[[guests.more.nics]]\nnetwork = \"services\"\n";
        world.write(&format!("{CONFIG}/viaduct.toml"), GOOD);
        world.write(&format!("{CONFIG}/conf.d/more.toml"), more);
        world.good("apply");
        world.good("set more --address-add 192.168.1.50 --save");
        assert_eq!(world.read(format!("{CONFIG}/viaduct.toml")), GOOD);
        let now = world.read(format!("{CONFIG}/conf.d/more.toml"));
        assert_eq!(now, format!("{more}addresses = [\"192.168.1.50\"]\n"));
        world.settled();
    });
}

#[test]
fn exec_becomes_the_command() {
    host(|world| {
        world.good("apply");
        world.attach("ldap");
        assert!(world.good("exec ldap -- ip address").out.contains("192.168.1.3/24"));
        assert_eq!(world.viaduct("exec ldap.0 ip address show nonsense").code(), 1);
        let shell =
            |script: &str| world.ran(script, &mut world.command(&["exec", "ldap", "--", "sh", "-c", script]));
        assert_eq!(shell("exit 7").code(), 7);
        assert_eq!(shell("kill -TERM $$").status.signal(), Some(15));
        assert_eq!(shell("yes | head -1").out, "y\n");
        let limit = |hard: &str| world.sh(&format!("ulimit -n {hard}; ulimit -n"));
        assert_eq!(shell("ulimit -n").out, limit("$(ulimit -n)"));
        world
            .viaduct("exec ldap -- no-such-program")
            .refused(1, &["cannot run no-such-program", "No such file"]);
        world.good("attach web --tap");
        world.viaduct("exec web -- true").refused(2, &["v-web.0", "virtual machine"]);
    });
}

#[test]
fn announce_tells_neighbours_where_an_address_is() {
    host(|world| {
        world.good("apply");
        world.attach("deb6");
        for address in ["203.0.113.100", "2001:db8:28:1::100", "203.0.113.2", "2001:db8:28::2"] {
            let ran = world.good(&format!("announce {address}"));
            assert!(ran.out.contains(&format!("eth0 that {address} is here")), "{ran:?}");
            assert_eq!(world.good(&format!("--json announce {address}")).json()["link"], "eth0");
        }
    });
}

#[test]
fn status_is_one_readable_screen() {
    host(|world| {
        for example in EXAMPLES {
            world.write(CONFIG, example);
            world.good("apply");
            for guest in guests(example) {
                world.attach(&guest);
            }
            for width in [80, 120] {
                let ran = world.ran("status", world.command(&["status"]).env("COLUMNS", width.to_string()));
                for line in ran.out.lines().filter(|line| !line.starts_with("warning: ")) {
                    assert!(line.chars().count() <= width, "{} columns: {line:?}", line.chars().count());
                }
                let names = example
                    .split('"')
                    .filter(|word| word.contains("/tcp") || word.parse::<std::net::IpAddr>().is_ok());
                let published = names.filter(|name| name.contains("/tcp") && name.matches(':').count() > 1);
                for name in guests(example).iter().map(String::as_str).chain(published) {
                    assert!(ran.out.contains(name), "{name} is missing:\n{}", ran.out);
                }
                assert!(ran.out.contains("The kernel is as it was made."), "{}", ran.out);
            }
            let json = world.good("status --json").json();
            assert!(json["daemon"].as_object().is_some_and(|daemon| daemon["pid"].is_null()), "{json}");
            for guest in guests(example) {
                assert_eq!(json["guests"][&guest]["nics"][0]["state"], "up", "{json}");
                world.good(&format!("detach {guest}"));
                world.sh(&format!("ip netns del {guest}"));
            }
        }
    });
}

#[test]
fn status_shows_what_is_not_as_it_was_made() {
    host(|world| {
        world.good("apply");
        world.attach("ldap");
        world.sh("ip link set v-ldap.0 down; ip link add v-x type veth peer name v-y");
        let ran = world.good("status");
        assert!(ran.out.contains("has drifted") && ran.out.contains("~ link v-ldap.0 up"), "{ran:?}");
        let row = ran.out.lines().find(|line| line.starts_with("ldap.0")).unwrap();
        assert!(row.contains(" down ") && row.contains("netns ldap"), "{row}");
        world.sh("ip link del v-ldap.0");
        let ran = world.good("status");
        assert!(ran.out.lines().any(|line| line.starts_with("ldap.0") && line.contains(" gone ")), "{ran:?}");
        assert!(world.good("status --json").json()["drift"].as_array().is_some_and(|d| d.len() > 3));
        world.good("apply");
        world.settled();
        // A guest that ends is told, too, and that it is not in the file any more.
        world.sh("ip netns del ldap");
        let ran = world.good("status");
        assert!(ran.out.contains("warning: ") && ran.out.contains("/run/netns/ldap"), "{ran:?}");
        world.write(CONFIG, GOOD.replace("guests.ldap", "guests.dir"));
        world.good("apply");
        let ran = world.good("status");
        assert!(
            ran.out.contains("ldap.0 is attached to netns ldap, but not in the configuration."),
            "{ran:?}"
        );
        assert!(world.good("detach ldap").out.contains("no longer"));
    });
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    host(|world| {
        world.good("apply");
        for line in ["status", "schema", "status --json", "plan", "completions bash"] {
            let mut child = world
                .command(&line.split(' ').collect::<Vec<_>>())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            drop(child.stdout.take());
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success() && output.stderr.is_empty(), "{line}: {output:?}");
        }
    });
}

#[test]
fn a_low_limit_of_open_files_is_no_limit() {
    host(|world| {
        world.good("apply");
        for guest in ["ldap", "web", "deb6"] {
            world.attach(guest);
        }
        let line = format!(
            "ulimit -S -n 12; exec /run/bin/viaduct --config {CONFIG} --state-dir {STATE} --run-dir {RUN} apply"
        );
        assert_eq!(world.sh(&line), "Nothing to do.\n");
    });
}

#[test]
fn completions_and_man_pages_have_every_command() {
    host(|world: &World| {
        let help = world.good("--help").out;
        let commands =
            help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        let commands: Vec<&str> = commands
            .filter_map(|line| {
                line.strip_prefix("  ").filter(|rest| !rest.starts_with(' '))?.split(' ').next()
            })
            .filter(|command| *command != "help")
            .collect();
        assert!(commands.len() > 12, "{help}");
        for shell in ["bash", "zsh", "fish"] {
            let script = world.good(&format!("completions {shell}")).out;
            for command in commands.iter().chain(&["--netns", "--publish", "--exit-code"]) {
                // fish writes long options without their dashes.
                assert!(script.contains(command.trim_start_matches('-')), "{shell} knows no {command}");
            }
            for hidden in ["answer-guests", "carry-vnets", "return-unconfirmed"] {
                assert!(!script.contains(hidden), "{shell} offers {hidden}");
            }
        }
        world.good("man /run/man/deep");
        for command in &commands {
            let page = world.read(Path::new("/run/man/deep").join(format!("viaduct-{command}.1")));
            assert!(page.contains(".SH SYNOPSIS") && page.contains("json"), "{command}");
        }
        assert!(world.read("/run/man/deep/viaduct.1").contains("Exit status"));
        for command in commands {
            assert!(world.good(&format!("{command} --help")).out.contains("Usage:"), "{command}");
        }
    });
}

#[test]
fn the_schema_accepts_the_examples_and_refuses_slips() {
    host(|world| {
        let schema = world.good("schema --json").json();
        let validator = jsonschema::validator_for(&schema).unwrap();
        for example in EXAMPLES.iter().chain(&[GOOD]) {
            let good: serde_json::Value = toml::from_str(example).unwrap();
            assert!(validator.is_valid(&good));
            let slip: serde_json::Value = toml::from_str(&example.replace("interface", "interfaec")).unwrap();
            assert!(!validator.is_valid(&slip));
        }
    });
}
